import BlockTypes
import CLinux
import Environment
import Glibc

/// A listening socket on the loop.
final class SocketListener: RingTarget, Listener {
    let address: SocketAddress
    private unowned let reactor: Reactor
    private let descriptor: Int32
    private let accepted: (any Connection) -> Void
    /// Device and inode of the Unix socket's file: at the end only that very file is removed.
    private let socketFile: FileIdentity?
    private var slot = 0
    private var isAccepting = false
    private var isResting = false
    /// One line per shortage is enough.
    private var hasComplained = false
    private var isClosed = false

    /// Connections that wait in the kernel.
    static let backlog: Int32 = 1024
    /// How long to leave the backlog alone when the process or system is out of descriptors or memory.
    private static let rest: Duration = .milliseconds(100)

    init(
        _ reactor: Reactor, descriptor: Int32, address: SocketAddress, socketFile: FileIdentity?,
        accepted: @escaping (any Connection) -> Void
    ) {
        (self.reactor, self.descriptor, self.address) = (reactor, descriptor, address)
        (self.socketFile, self.accepted) = (socketFile, accepted)
        super.init()
        slot = reactor.listeners.insert(self)
        acceptAgain()
    }

    /// Accepts the next connection if that is allowed now.
    func acceptAgain() {
        guard !isAccepting, !isResting, !isClosed,
            reactor.acceptedCount < reactor.limits.acceptedConnectionsMax
        else { return }
        isAccepting = true
        unsafe reactor.submit(.accept, self, 0) { entry, _ in
            unsafe io_uring_prep_accept(entry, descriptor, nil, nil, Int32(SOCK_CLOEXEC.rawValue))
        }
    }
    func close() {
        guard !isClosed else { return }
        isClosed = true
        if case .unix(let path) = address, let socketFile, FileIdentity(path: path) == socketFile {
            unsafe unlink(path)
        }
        // Refuses newcomers from now on, although the accept in flight still holds the socket.
        shutdown(descriptor, Int32(SHUT_RDWR))
        reactor.listeners.remove(slot)
        if isAccepting { reactor.ring.cancel(self, 0) } else { _ = Glibc.close(descriptor) }
    }

    override func completed(_ kind: UInt8, result: Int32, flags: UInt32) {
        isAccepting = false
        guard !isClosed else {
            if result >= 0 { _ = Glibc.close(result) }
            _ = Glibc.close(descriptor)
            return
        }
        switch -result {
        case EMFILE, ENFILE, ENOBUFS, ENOMEM:
            if !hasComplained {
                reactor.log(.warning, "\(address): cannot accept: \(systemMessage(-result)); trying again")
            }
            hasComplained = true
            isResting = true
            reactor.after(Self.rest) { [self] in
                isResting = false
                acceptAgain()
            }
        case EINVAL, EBADF, ENOTSOCK, EOPNOTSUPP:
            reactor.log(.error, "\(address): accepts no more: \(systemMessage(-result))")
        case ..<1:
            hasComplained = false
            let peer = Self.introduce(result, on: address)
            accepted(SocketConnection(reactor, descriptor: result, peer: peer, isAccepted: true))
            acceptAgain()
        default: acceptAgain()  // That one connection broke before it was accepted.
        }
    }
    static func introduce(_ descriptor: Int32, on address: SocketAddress) -> String {
        let peer = SocketName(of: descriptor, peer: true)
        switch (address, peer?.family) {
        case (.unix, _), (.inherited, AF_UNIX):
            var (process, user) = (Int32(0), UInt32(0))
            let place = if case .unix = address { "\(address)" } else { "unix:(\(address))" }
            guard unsafe curve_peer_process(descriptor, &process, &user) == 0 else { return place }
            return "\(place) from process \(process) of user \(user)"
        case (.vsock, _), (.inherited, SocketName.vsockFamily):
            guard let (cid, port) = peer?.vsock else { return "vsock" }
            return SocketAddress.vsock(cid: cid, port: port).description
        case (.tcp, _), (.inherited, _):
            tuneTCP(descriptor)
            boundSendBufferOnThisHost(descriptor)
            guard let (host, port) = peer?.hostAndPort else { return "tcp" }
            return SocketAddress.tcp(host: host, port: port).description
        }
    }
}

/// Which file a path leads to.
struct FileIdentity: Equatable {
    let device: UInt64
    let inode: UInt64
    let isSocket: Bool

    /// - Returns: `nil` when there is no file.
    init?(path: String) {
        var about = stat()
        guard unsafe lstat(path, &about) == 0 else { return nil }
        (device, inode) = (UInt64(about.st_dev), UInt64(about.st_ino))
        isSocket = about.st_mode & S_IFMT == S_IFSOCK
    }
}

extension Reactor {
    /// Starts accepting connections. A host name is looked up at once and may take the resolver's time; an
    /// address of Unix sockets whose server is gone is taken over.
    public func listen(
        on address: SocketAddress, accepted: @escaping (any Connection) -> Void
    ) throws(NetworkError) -> any Listener {
        guard !isStopping else { throw .closedHere }
        return try Predecessor.outlive { () throws(NetworkError) -> any Listener in
            switch address {
            case .unix(let path): try listen(unixPath: path, accepted)
            case .vsock(let cid, let port): try listen(vsockCID: cid, port: port, accepted)
            case .inherited(let descriptor): try listen(inherited: descriptor, accepted)
            case .tcp(let host, let port): try listen(host: host, port: port, accepted)
            }
        } isTaken: {
            $0 == .addressInUse(address)
        }
    }

    private func listen(
        host: String, port: UInt16, _ accepted: @escaping (any Connection) -> Void
    ) throws(NetworkError) -> any Listener {
        let address = SocketAddress.tcp(host: host, port: port)
        let names: [SocketName]
        if let numeric = NameLookup.numeric(host: host, port: port) {
            names = numeric
        } else {
            names = try NameLookup.blocking(host: host, port: port, forListening: true).get()
        }
        guard let name = names.first else {
            throw .system(address, errno: EADDRNOTAVAIL, call: "name lookup")
        }
        let descriptor = try listen(name, for: address)
        let bound = SocketName(of: descriptor, peer: false)?.hostAndPort?.port ?? port
        return SocketListener(
            self, descriptor: descriptor, address: .tcp(host: host, port: bound), socketFile: nil,
            accepted: accepted)
    }
    private func listen(
        vsockCID cid: UInt32?, port: UInt32, _ accepted: @escaping (any Connection) -> Void
    ) throws(NetworkError) -> any Listener {
        let address = SocketAddress.vsock(cid: cid, port: port)
        let descriptor = try listen(SocketName(vsockCID: cid, port: port), for: address)
        let bound = SocketName(of: descriptor, peer: false)?.vsock?.port ?? port
        return SocketListener(
            self, descriptor: descriptor, address: .vsock(cid: cid, port: bound), socketFile: nil,
            accepted: accepted)
    }
    /// The socket is the listener's from now on, who closes it at the end.
    private func listen(
        inherited descriptor: Int32, _ accepted: @escaping (any Connection) -> Void
    ) throws(NetworkError) -> any Listener {
        let address = SocketAddress.inherited(descriptor: descriptor)
        let (type, listens) = (Self.option(descriptor, SO_TYPE), Self.option(descriptor, SO_ACCEPTCONN))
        guard let type, let listens else { throw .system(address, errno: errno, call: "getsockopt") }
        guard type == Int32(SOCK_STREAM.rawValue), listens != 0 else {
            throw .system(address, errno: EINVAL, call: "accept on a socket that does not listen")
        }
        Self.adopt(descriptor)
        return SocketListener(
            self, descriptor: descriptor, address: address, socketFile: nil, accepted: accepted)
    }
    /// Takes over a connected stream socket that this process was started with, as inetd and parents with one
    /// client do.
    public func adoptConnection(descriptor: Int32) throws(NetworkError) -> any Connection {
        let address = SocketAddress.inherited(descriptor: descriptor)
        guard let type = Self.option(descriptor, SO_TYPE) else {
            throw .system(address, errno: errno, call: "getsockopt")
        }
        guard type == Int32(SOCK_STREAM.rawValue), SocketName(of: descriptor, peer: true) != nil else {
            throw .system(address, errno: ENOTCONN, call: "getpeername")
        }
        Self.adopt(descriptor)
        return SocketConnection(
            self, descriptor: descriptor, peer: SocketListener.introduce(descriptor, on: address),
            isAccepted: false)
    }
    private static func option(_ descriptor: Int32, _ name: Int32) -> Int32? {
        var (value, length) = (Int32(0), socklen_t(MemoryLayout<Int32>.size))
        return unsafe getsockopt(descriptor, SOL_SOCKET, name, &value, &length) == 0 ? value : nil
    }
    /// Children do not get it, and the ring waits where it would otherwise be told to come again.
    private static func adopt(_ descriptor: Int32) {
        _ = fcntl(descriptor, F_SETFD, FD_CLOEXEC)
        let flags = fcntl(descriptor, F_GETFL)
        if flags >= 0, flags & O_NONBLOCK != 0 { _ = fcntl(descriptor, F_SETFL, flags & ~O_NONBLOCK) }
    }

    private func listen(
        unixPath path: String, _ accepted: @escaping (any Connection) -> Void
    ) throws(NetworkError) -> any Listener {
        let address = SocketAddress.unix(path: path)
        guard let name = SocketName(unixPath: path) else {
            throw .system(address, errno: ENAMETOOLONG, call: "bind")
        }
        let descriptor: Int32
        do {
            descriptor = try listen(name, for: address)
        } catch .addressInUse where isStale(path, name) {
            log(.notice, "\(path): nobody listens on this socket any more; taking it over")
            unsafe unlink(path)
            descriptor = try listen(name, for: address)
        }
        return SocketListener(
            self, descriptor: descriptor, address: address, socketFile: FileIdentity(path: path),
            accepted: accepted)
    }
    /// True when the path is a socket on which nobody listens. Anything else is not ours to remove.
    private func isStale(_ path: String, _ name: SocketName) -> Bool {
        guard FileIdentity(path: path)?.isSocket == true else { return false }
        let probe = newStreamSocket(AF_UNIX)
        guard probe >= 0 else { return false }
        defer { close(probe) }
        _ = fcntl(probe, F_SETFL, O_NONBLOCK)
        return unsafe name.withSockaddr { unsafe Glibc.connect(probe, $0, $1) } != 0 && errno == ECONNREFUSED
    }
    private func listen(_ name: SocketName, for address: SocketAddress) throws(NetworkError) -> Int32 {
        let descriptor = fault(.socket).map { -$0 } ?? newStreamSocket(name.family)
        guard descriptor >= 0 else { throw .system(address, errno: -descriptor, call: "socket") }
        _ = curve_set_option(descriptor, SOL_SOCKET, SO_REUSEADDR, 1)
        func check(_ call: SystemCall, _ words: String, _ code: Int32) throws(NetworkError) {
            guard let why = fault(call) ?? (code == 0 ? nil : errno) else { return }
            close(descriptor)
            throw why == EADDRINUSE ? .addressInUse(address) : .system(address, errno: why, call: words)
        }
        try check(.bind, "bind", unsafe name.withSockaddr { unsafe bind(descriptor, $0, $1) })
        try check(.listen, "listen", Glibc.listen(descriptor, SocketListener.backlog))
        return descriptor
    }
}
