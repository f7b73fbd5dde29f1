import BlockTypes
import Glibc
import NBDProtocol

/// A connected socket past its NBD handshake, ready for the kernel. Closed with the last reference.
final class ServerSocket {
    let descriptor: Int32
    let info: NBDExportInfo

    /// Connects to a server on this machine and chooses an export. Blocks for at most ten seconds a step.
    /// - Throws: ``DeviceError``.
    init(path: String, exportName: String) throws(DeviceError) {
        let descriptor = try Self.connectedWhenReady(to: path)
        do throws(DeviceError) {
            info = try Self.shakeHands(descriptor, exportName)
        } catch {
            close(descriptor)
            throw error
        }
        self.descriptor = descriptor
    }
    deinit { close(descriptor) }

    /// A server on this machine answers at once; this only keeps a hung one from hanging us.
    private static let stepSeconds = 10

    private static let noSignal = Int32(MSG_NOSIGNAL)

    /// A server that is just starting gets two seconds to listen.
    private static let (connectTries, connectPauseMicroseconds) = (200, UInt32(10_000))

    private static func connectedWhenReady(to path: String) throws(DeviceError) -> Int32 {
        for _ in 1..<connectTries {
            do {
                return try connected(to: path)
            } catch .system(_, ENOENT), .system(_, ECONNREFUSED) {
                usleep(connectPauseMicroseconds)
            }
        }
        return try connected(to: path)
    }
    /// A socket that gives up a step that takes longer than `stepSeconds`.
    static func connected(
        to path: String, stepSeconds: Int = ServerSocket.stepSeconds, isStream: Bool = true
    ) throws(DeviceError) -> Int32 {
        let kind = isStream ? SOCK_STREAM : SOCK_SEQPACKET
        let descriptor = socket(AF_UNIX, Int32(kind.rawValue | SOCK_CLOEXEC.rawValue), 0)
        guard descriptor >= 0 else { throw .system(call: "socket", errno: errno) }
        var limit = timeval(tv_sec: stepSeconds, tv_usec: 0)
        let limitBytes = socklen_t(MemoryLayout<timeval>.size)
        unsafe setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &limit, limitBytes)
        unsafe setsockopt(descriptor, SOL_SOCKET, SO_SNDTIMEO, &limit, limitBytes)
        let result = unsafe withAddress(path) { unsafe connect(descriptor, $0, $1) }
        guard result == 0 else {
            let why = errno
            close(descriptor)
            throw .system(call: "connect \(path)", errno: why)
        }
        return descriptor
    }
    /// Calls `body` with the address of a path; -1 and ENAMETOOLONG when there is none.
    @unsafe static func withAddress(
        _ path: String, _ body: (UnsafePointer<sockaddr>, socklen_t) -> Int32
    ) -> Int32 {
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        let name = Array(path.utf8)
        guard name.count < MemoryLayout.size(ofValue: address.sun_path) else {
            errno = ENAMETOOLONG
            return -1
        }
        unsafe withUnsafeMutableBytes(of: &address.sun_path) { unsafe $0.copyBytes(from: name) }
        return unsafe withUnsafePointer(to: &address) { pointer in
            unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                unsafe body($0, socklen_t(MemoryLayout<sockaddr_un>.size))
            }
        }
    }
    private static func shakeHands(_ descriptor: Int32, _ name: String) throws(DeviceError) -> NBDExportInfo {
        var handshake = ClientHandshake(exportName: name)
        while true {
            let bytes = try read(descriptor, handshake.wantedBytes)
            let progress: ClientHandshake.Progress
            do throws(NBDClientError) {
                progress = try handshake.received(bytes)
            } catch {
                throw .server(error)
            }
            switch progress {
            case .send(let bytes): try write(descriptor, bytes)
            case .ready(let info):
                // The kernel sets its own time-outs.
                var none = timeval()
                let size = socklen_t(MemoryLayout<timeval>.size)
                unsafe setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &none, size)
                unsafe setsockopt(descriptor, SOL_SOCKET, SO_SNDTIMEO, &none, size)
                return info
            }
        }
    }
    private static func read(_ descriptor: Int32, _ byteCount: Int) throws(DeviceError) -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: byteCount)
        var done = 0
        while done < byteCount {
            let count = unsafe bytes.withUnsafeMutableBytes {
                unsafe recv(descriptor, $0.baseAddress?.advanced(by: done), byteCount - done, 0)
            }
            if count < 0, errno == EINTR { continue }
            guard count >= 0 else { throw .system(call: "NBD handshake", errno: errno) }
            guard count > 0 else { throw .server(.violation("it closed the connection in the handshake")) }
            done += count
        }
        return bytes
    }
    private static func write(_ descriptor: Int32, _ bytes: [UInt8]) throws(DeviceError) {
        var done = 0
        while done < bytes.count {
            let count = unsafe bytes.withUnsafeBytes {
                unsafe send(
                    descriptor, $0.baseAddress?.advanced(by: done), bytes.count - done, noSignal)
            }
            if count < 0, errno == EINTR { continue }
            guard count > 0 else { throw .system(call: "NBD handshake", errno: errno) }
            done += count
        }
    }
}
