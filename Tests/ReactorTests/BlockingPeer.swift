import BlockTypes
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
    /// Writes in pieces of 1 to `pieceBytesMax` bytes, cut by the seed, without waiting for anything.
    func write(_ bytes: [UInt8], pieceBytesMax: Int, seed: UInt64) throws {
        var random = SeededRandom(seed: seed)
        var start = 0
        while start < bytes.count {
            let count = min(bytes.count - start, Int.random(in: 1...pieceBytesMax, using: &random))
            try send(bytes[start..<(start + count)])
            start += count
            // So that the loop also sleeps between arrivals; nothing depends on how long.
            if random.oneIn(8) { usleep(random.oneIn(4) ? 300 : 1) }
        }
    }
    private func send(_ bytes: ArraySlice<UInt8>) throws {
        try bytes.withUnsafeBytes { all in
            var rest = all[...]
            while !rest.isEmpty {
                let count = Glibc.send(
                    descriptor, UnsafeRawBufferPointer(rebasing: rest).baseAddress, rest.count,
                    Int32(MSG_NOSIGNAL))
                if count < 0, errno == EINTR { continue }
                guard count > 0 else { throw Failed("send: \(systemMessage(errno))") }
                rest = rest.dropFirst(count)
            }
        }
    }
    /// Reads until there are `count` bytes, or until the end.
    /// - Throws: when there is neither within half a minute.
    func read(_ count: Int = .max) throws -> [UInt8] {
        var patience = timeval(tv_sec: 30, tv_usec: 0)
        setsockopt(
            descriptor, SOL_SOCKET, SO_RCVTIMEO, &patience, socklen_t(MemoryLayout<timeval>.size))
        var all: [UInt8] = []
        var some = [UInt8](repeating: 0, count: 1 << 16)
        while all.count < count {
            let got = Glibc.read(descriptor, &some, min(some.count, count - all.count))
            // A read that has a time limit is not begun again by the kernel.
            if got < 0, errno == EINTR { continue }
            guard got >= 0 else { throw Failed("read: \(systemMessage(errno))") }
            if got == 0 { break }
            all.append(contentsOf: some[..<got])
        }
        return all
    }
    /// Small messages, a few of them under way at once; each comes back before the next but two goes.
    func converse(_ bytes: [UInt8], seed: UInt64) throws -> [UInt8] {
        var random = SeededRandom(seed: seed)
        var (start, back) = (0, [UInt8]())
        while start < bytes.count {
            let count = min(bytes.count - start, Int.random(in: 1...300, using: &random))
            try send(bytes[start..<(start + count)])
            start += count
            let unanswered = start - back.count
            if unanswered > 600 || random.oneIn(2) { back += try read(random.oneIn(3) ? unanswered : 1) }
        }
        return back
    }
    /// Does something blocking on a thread of its own.
    static func onThread(_ body: @escaping @Sendable () -> Void) throws {
        pthread_detach(try startThread(name: "peer", body).get())
    }
    /// Answers each arrival by a byte until the end, on a thread of its own.
    func echoOnThread() throws {
        let thread = try startThread(name: "peer") { [self] in
            var some = [UInt8](repeating: 0, count: 64)
            while Glibc.read(descriptor, &some, some.count) > 0 {
                if Glibc.send(descriptor, some, 1, Int32(MSG_NOSIGNAL)) != 1 { break }
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
            while case let count = Glibc.read(descriptor, &some, some.count), count > 0 {
                all.append(contentsOf: some[..<count])
            }
            done(all)
        }.get()
        pthread_detach(thread)
    }
}
