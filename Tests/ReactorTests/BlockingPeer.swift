import Environment
import Glibc

@testable import Reactor

/// The other end of a connection, by plain blocking calls: what the loop must get along with.
final class BlockingPeer: @unchecked Sendable {
    private let descriptor: Int32
    private let isLeaked: Bool

    /// - Parameter leaked: stays connected until the process ends.
    init(_ address: SocketAddress, leaked: Bool = false) throws {
        isLeaked = leaked
        let name: SocketName?
        switch address {
        case .tcp(let host, let port): name = NameLookup.numeric(host: host, port: port)?.first
        case .unix(let path): name = SocketName(unixPath: path)
        case .vsock(let cid, let port): name = SocketName(vsockCID: cid, port: port)
        case .inherited: name = nil
        }
        guard let name else { throw Failed("address \(address)") }
        descriptor = newStreamSocket(name.family)
        guard name.withSockaddr({ Glibc.connect(descriptor, $0, $1) }) == 0 else {
            throw Failed("connect: \(systemMessage(errno))")
        }
    }
    deinit { if !isLeaked { close(descriptor) } }

    func write(_ bytes: [UInt8]) throws {
        guard Glibc.write(descriptor, bytes, bytes.count) == bytes.count else {
            throw Failed("write: \(systemMessage(errno))")
        }
    }
    func stopSending() { shutdown(descriptor, Int32(SHUT_WR)) }
    /// Sends RST instead of FIN; the peer is good for nothing afterwards.
    func reset() {
        var linger = linger(l_onoff: 1, l_linger: 0)
        setsockopt(descriptor, SOL_SOCKET, SO_LINGER, &linger, socklen_t(MemoryLayout.size(ofValue: linger)))
        var unspecified = sockaddr()  // Disconnects with SO_LINGER's reset, and keeps the number.
        unspecified.sa_family = sa_family_t(AF_UNSPEC)
        Glibc.connect(descriptor, &unspecified, socklen_t(MemoryLayout<sockaddr>.size))
    }
    /// Answers each arrival by a byte until the end, on a thread of its own.
    func echoOnThread() throws {
        let thread = try startThread(name: "peer") { [self] in
            var some = [UInt8](repeating: 0, count: 64)
            while read(descriptor, &some, some.count) > 0 {
                if send(descriptor, some, 1, Int32(MSG_NOSIGNAL)) != 1 { break }
            }
        }.get()
        pthread_detach(thread)
    }
    /// Writes, then reads until the end, on a thread of its own.
    func readAllOnThread(afterWriting first: [UInt8] = [], _ done: @escaping @Sendable ([UInt8]) -> Void)
        throws
    {
        let thread = try startThread(name: "peer") { [self] in
            if !first.isEmpty { try? write(first) }
            var all: [UInt8] = []
            var some = [UInt8](repeating: 0, count: 1 << 16)
            while case let count = read(descriptor, &some, some.count), count > 0 {
                all.append(contentsOf: some[..<count])
            }
            done(all)
        }.get()
        pthread_detach(thread)
    }
}
