import BlockTypes
import CLinux
import Environment
import Glibc

/// An address in the kernel's form.
struct SocketName: Sendable {
    private var storage = sockaddr_storage()
    private(set) var length: socklen_t

    var family: Int32 { Int32(storage.ss_family) }

    /// True for a Unix socket.
    static func isLocal(_ descriptor: Int32) -> Bool {
        var (domain, length) = (Int32(0), socklen_t(MemoryLayout<Int32>.size))
        guard unsafe getsockopt(descriptor, SOL_SOCKET, SO_DOMAIN, &domain, &length) == 0 else {
            return false
        }
        return domain == AF_UNIX
    }
    /// A copy of `length` bytes.
    init?(_ address: UnsafePointer<sockaddr>?, length: socklen_t) {
        guard let address = unsafe address, length <= MemoryLayout<sockaddr_storage>.size else { return nil }
        self.length = length
        unsafe withUnsafeMutableBytes(of: &storage) {
            unsafe $0.copyMemory(from: UnsafeRawBufferPointer(start: address, count: Int(length)))
        }
    }
    /// - Returns: `nil` when the path does not fit.
    init?(unixPath path: String) {
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        let bytes = Array(path.utf8)
        guard !bytes.isEmpty, bytes.count < MemoryLayout.size(ofValue: address.sun_path) else { return nil }
        unsafe withUnsafeMutableBytes(of: &address.sun_path) { unsafe $0.copyBytes(from: bytes) }
        length = socklen_t(MemoryLayout<sockaddr_un>.size)
        unsafe withUnsafeMutableBytes(of: &storage) { to in
            unsafe withUnsafeBytes(of: &address) { unsafe to.copyMemory(from: $0) }
        }
    }
    /// - Parameter cid: `nil` for any machine.
    init(vsockCID cid: UInt32?, port: UInt32) {
        // `struct sockaddr_vm`: family, two bytes reserved, port, cid; four more bytes are zero.
        length = 16
        storage.ss_family = sa_family_t(SocketName.vsockFamily)
        unsafe withUnsafeMutableBytes(of: &storage) { bytes in
            unsafe bytes.storeBytes(of: port, toByteOffset: 4, as: UInt32.self)
            unsafe bytes.storeBytes(of: cid ?? .max, toByteOffset: 8, as: UInt32.self)
        }
    }
    /// AF_VSOCK, which is the same on all of Linux.
    static let vsockFamily: Int32 = 40
    /// Machine and port of a vsock address.
    var vsock: (cid: UInt32, port: UInt32)? {
        guard family == Self.vsockFamily else { return nil }
        return unsafe withUnsafeBytes(of: storage) { bytes in
            unsafe (
                bytes.loadUnaligned(fromByteOffset: 8, as: UInt32.self),
                bytes.loadUnaligned(fromByteOffset: 4, as: UInt32.self)
            )
        }
    }
    /// What `getsockname` or `getpeername` says.
    init?(of descriptor: Int32, peer: Bool) {
        length = socklen_t(MemoryLayout<sockaddr_storage>.size)
        let code = unsafe withUnsafeMutableBytes(of: &storage) { bytes -> Int32 in
            let address = unsafe bytes.baseAddress?.assumingMemoryBound(to: sockaddr.self)
            return unsafe peer
                ? getpeername(descriptor, address, &length) : getsockname(descriptor, address, &length)
        }
        guard code == 0 else { return nil }
    }
    func withSockaddr<R>(_ body: (UnsafePointer<sockaddr>, socklen_t) -> R) -> R {
        unsafe withUnsafePointer(to: storage) { pointer in
            unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { unsafe body($0, length) }
        }
    }
    /// Writes the address where the kernel will read it.
    func copy(to pointer: UnsafeMutablePointer<sockaddr_storage>) { unsafe pointer.pointee = storage }

    /// True for names of one host: the same IP address, or a loopback address of version 4 (127.0.0.0/8).
    func isOnHost(of other: SocketName) -> Bool {
        guard family == other.family, let address, address == other.address else {
            return isLoopback && other.isLoopback
        }
        return true
    }
    private var isLoopback: Bool { family == AF_INET && address?.first == 127 }
    /// The bytes of an IP address.
    private var address: [UInt8]? {
        let bytes: Range<Int>
        switch family {
        case AF_INET: bytes = 4..<8
        case AF_INET6: bytes = 8..<24
        default: return nil
        }
        return unsafe withUnsafeBytes(of: storage) { unsafe Array($0[bytes]) }
    }

    /// Numeric host and port of a TCP address.
    var hostAndPort: (host: String, port: UInt16)? {
        guard family == AF_INET || family == AF_INET6 else { return nil }
        var host = [CChar](repeating: 0, count: Int(NI_MAXHOST))
        var service = [CChar](repeating: 0, count: Int(NI_MAXSERV))
        let code = unsafe withSockaddr { address, length in
            unsafe getnameinfo(
                address, length, &host, socklen_t(host.count), &service, socklen_t(service.count),
                NI_NUMERICHOST | NI_NUMERICSERV)
        }
        guard code == 0, let port = UInt16(text(service)) else { return nil }
        return (text(host), port)
    }
    private func text(_ characters: [CChar]) -> String {
        String(decoding: characters.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }
}

/// Turns what people write into what the kernel takes.
enum NameLookup {
    /// More addresses of one name than this are not tried.
    static let namesMax = 16

    /// Never blocks.
    /// - Returns: `nil` when `host` is no numeric address.
    static func numeric(host: String, port: UInt16) -> [SocketName]? {
        guard case .success(let names) = lookUp(host: host, port: port, flags: AI_NUMERICHOST) else {
            return nil
        }
        return names
    }
    /// Asks the system's resolver; may block for seconds.
    static func blocking(host: String, port: UInt16, forListening: Bool) -> Result<[SocketName], NetworkError>
    {
        lookUp(host: host, port: port, flags: forListening ? AI_PASSIVE : AI_ADDRCONFIG)
    }
    private static func lookUp(
        host: String, port: UInt16, flags: Int32
    ) -> Result<[SocketName], NetworkError> {
        var hints = unsafe addrinfo()
        unsafe hints.ai_flags = flags | AI_NUMERICSERV
        unsafe hints.ai_family = AF_UNSPEC
        unsafe hints.ai_socktype = Int32(SOCK_STREAM.rawValue)
        var list: UnsafeMutablePointer<addrinfo>?
        let code = unsafe getaddrinfo(host, String(port), &hints, &list)
        guard code == 0 else {
            let words = unsafe gai_strerror(code).map { unsafe String(cString: $0) } ?? "error \(code)"
            return .failure(
                .system(
                    .tcp(host: host, port: port), errno: code == EAI_SYSTEM ? errno : EHOSTUNREACH,
                    call: "name lookup (\(words))"))
        }
        defer { unsafe freeaddrinfo(list) }
        var names: [SocketName] = []
        var next = unsafe list
        while let entry = unsafe next, names.count < namesMax {
            let info = unsafe entry.pointee
            if let name = unsafe SocketName(UnsafePointer(info.ai_addr), length: info.ai_addrlen) {
                names.append(name)
            }
            unsafe next = info.ai_next
        }
        return .success(names)
    }
}

/// A stream socket of `family` with what every socket of ours has set.
/// - Returns: the descriptor or -errno.
func newStreamSocket(_ family: Int32) -> Int32 {
    let descriptor = socket(family, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
    return descriptor >= 0 ? descriptor : -errno
}

/// Small messages leave at once, and a peer whose machine is gone is noticed within two minutes of silence.
func tuneTCP(_ descriptor: Int32) {
    // None of these can make a connection wrong, so their failures are ignored.
    _ = curve_set_option(descriptor, Int32(IPPROTO_TCP), TCP_NODELAY, 1)
    _ = curve_set_option(descriptor, SOL_SOCKET, SO_KEEPALIVE, 1)
    _ = curve_set_option(descriptor, Int32(IPPROTO_TCP), TCP_KEEPIDLE, 60)
    _ = curve_set_option(descriptor, Int32(IPPROTO_TCP), TCP_KEEPINTVL, 10)
    _ = curve_set_option(descriptor, Int32(IPPROTO_TCP), TCP_KEEPCNT, 6)
}

/// Ends a connection on which nothing was acknowledged for so long. TCP by itself waits twice as long after
/// each try: after twenty seconds without a network it would be silent for ten more.
///
/// For connections that were dialled, since whoever dials can dial again. A client of a gateway may know
/// no other way back than its old connection, so accepted ones live through such times.
func boundUnacknowledgedTime(_ descriptor: Int32) {
    _ = curve_set_option(
        descriptor, Int32(IPPROTO_TCP), TCP_USER_TIMEOUT, Int32(unacknowledgedMillisecondsMax))
}
let unacknowledgedMillisecondsMax = 5000

/// Keeps what a TCP connection to this very host has under way within the processor's caches.
///
/// Nothing is lost on the way here, so the kernel lets a sender run ahead by `net.ipv4.tcp_wmem`, mostly 4
/// MiB, and every byte is out of the cache when its reader comes: a megabyte then costs both sides half as
/// much again. Half of the bound is what one asks for, as the kernel doubles it for its bookkeeping; it
/// gives no more than `net.core.wmem_max`, and what that mostly is, 208 KiB, does as well. Connections to
/// other hosts go on as the kernel finds best: what they need is the network's affair.
func boundSendBufferOnThisHost(_ descriptor: Int32) {
    guard let here = SocketName(of: descriptor, peer: false),
        let there = SocketName(of: descriptor, peer: true),
        here.isOnHost(of: there)
    else { return }
    _ = curve_set_option(descriptor, SOL_SOCKET, SO_SNDBUF, Int32(sendBufferBytesMaxOnThisHost / 2))
}
let sendBufferBytesMaxOnThisHost = 1 << 20
