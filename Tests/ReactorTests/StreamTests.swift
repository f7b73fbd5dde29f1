import BlockTypes
import Environment
import Glibc
import Testing

@testable import Reactor

@Suite("Receives that go on") struct StreamTests {
    /// Requests of a few bytes alone and in crowds, some with a long payload that goes into a window, to
    /// somebody who pauses now and then: the receive goes on, ends and goes on again, and not a byte is lost
    /// or out of place.
    @Test("small requests, long payloads and pauses take turns", arguments: UInt64(0)..<16)
    func turns(seed: UInt64) throws {
        let server = Judge(seed: seed)
        try onLoop { reactor in
            var random = SeededRandom(seed: seed + 100)
            if seed % 2 == 1 {
                reactor.faults = CallFaults { call in
                    guard call == .receive else { return nil }
                    return switch Int.random(in: 0..<30, using: &random) {
                    case 0: .fail(EINTR)
                    case 1: .fail(ENOBUFS)
                    case 2: .short(Int.random(in: 1..<300, using: &random))
                    default: nil
                    }
                }
            }
            let listener = try reactor.listen(on: anyPort) {
                server.connection = $0
                server.reactor = reactor
                $0.handler = server
            }
            reactor.dial(listener.address) {
                Asker($0, reactor, seed: seed, messages: Judge.messages).begin()
            }
        }
        #expect(server.whole == Judge.messages && server.wrong == 0)
        #expect(server.begun >= 3 && server.ended >= 3, "the receive went on \(server.begun) times")
    }

    /// Eight commands with 4 KiB each at a time, as a database with several connections sends them. Over a
    /// local socket what one call sends arrives at once.
    @Test("a receive goes on over arrivals that leave room in their buffers")
    func roomyArrivals() throws {
        let burst = [UInt8](repeating: 7, count: 40_000)
        let recorder = Recorder()
        var (received, arrivals, longest, wasStreaming) = (0, 0, 0, false)
        try withFolder { folder in
            try onLoop { reactor in
                var peer: BlockingPeer?
                let listener = try reactor.listen(on: .unix(path: "\(folder)/s")) { accepted in
                    recorder.received = { bytes in
                        wasStreaming = wasStreaming || (accepted as? SocketConnection)?.isStreaming == true
                        (received, arrivals) = (received + bytes.count, arrivals + 1)
                        longest = max(longest, bytes.count)
                        guard received % burst.count == 0 else { return }
                        if received == 40 * burst.count { return reactor.stop() }
                        do { try peer?.write(burst) } catch { reactor.stop() }
                    }
                    accepted.handler = recorder
                }
                let made = try BlockingPeer(listener.address)
                peer = made
                try made.write(burst)
            }
        }
        #expect(received == 40 * burst.count)
        #expect(longest > 16 << 10, "nothing that this is about: the longest had \(longest) bytes")
        #expect(wasStreaming, "\(arrivals) arrivals")
    }

    @Test(
        "the end of a peer, a reset and a close end a receive that goes on",
        arguments: ["end", "reset", "close"])
    func ends(how: String) throws {
        let recorder = Recorder()
        try onLoop { reactor in
            var peer: BlockingPeer?
            let handle = reactor.handle
            let listener = try reactor.listen(on: anyPort) { accepted in
                recorder.received = { _ in
                    guard (accepted as? SocketConnection)?.isStreaming == true else {
                        return accepted.send([.bytes([1])])
                    }
                    switch how {
                    case "end": peer?.stopSending()
                    case "reset": peer?.reset()
                    default: accepted.close()
                    }
                }
                recorder.closed = { _ in handle.stop() }
                accepted.handler = recorder
            }
            let made = try BlockingPeer(listener.address)
            peer = made
            try made.write([0])
            try made.echoOnThread()
        }
        #expect(recorder.reasons == [how == "end" ? .closedByPeer : how == "reset" ? .reset : .closedHere])
    }
}

/// Sends messages `length:4 | payload`: one alone and waits for its answer, or several at once.
private final class Asker: ConnectionHandler {
    private let connection: any Connection
    private let reactor: Reactor
    private var random: SeededRandom
    private var left: Int
    private var unanswered = 0
    private var number: UInt64 = 0

    init(_ connection: any Connection, _ reactor: Reactor, seed: UInt64, messages: Int) {
        (self.connection, self.reactor, random, left) = (
            connection, reactor, SeededRandom(seed: seed), messages
        )
    }
    func begin() {
        connection.handler = self
        ask()
    }
    private func ask() {
        guard left > 0 else { return reactor.stop() }
        let crowd = min(left, random.oneIn(6) ? Int.random(in: 2...40, using: &random) : 1)
        for _ in 0..<crowd {
            let isLong = random.oneIn(40)
            let count = Int.random(in: isLong ? 20_000...150_000 : 0...300, using: &random)
            var message: [UInt8] = []
            withUnsafeBytes(of: UInt32(count).littleEndian) { message.append(contentsOf: $0) }
            message += noise(count, seed: number)
            number += 1
            connection.send([.bytes(message)])
        }
        left -= crowd
        unanswered = crowd
    }
    func connectionReceiveWindow() -> UnsafeMutableRawBufferPointer? { nil }
    func connectionReceived(_ bytes: UnsafeRawBufferPointer) {
        unanswered -= bytes.count
        if unanswered == 0 { ask() }
    }
    func connectionDrained() {}
    func connectionClosed(_ reason: NetworkError) { reactor.stop() }
}

/// Takes the messages apart, checks each and answers it by a byte.
private final class Judge: ConnectionHandler {
    static let messages = 1500
    var connection: (any Connection)?
    var reactor: Reactor?
    private var random: SeededRandom
    private var header: [UInt8] = []
    private var payload = UnsafeMutableRawBufferPointer.allocate(byteCount: 200_000, alignment: 16)
    private var wanted = 0
    private var filled = 0
    private(set) var whole = 0
    private(set) var wrong = 0
    /// How often a receive that goes on was seen to begin and to end.
    private(set) var (begun, ended) = (0, 0)
    private var wasStreaming = false

    init(seed: UInt64) { random = SeededRandom(seed: seed + 50) }
    deinit { payload.deallocate() }

    func connectionReceiveWindow() -> UnsafeMutableRawBufferPointer? {
        guard header.count == 4, filled < wanted else { return nil }
        return UnsafeMutableRawBufferPointer(rebasing: payload[filled..<wanted])
    }
    func connectionReceived(_ bytes: UnsafeRawBufferPointer) {
        var rest = bytes[...]
        while !rest.isEmpty {
            if header.count < 4 {
                header.append(rest.removeFirst())
                wanted = header.reversed().reduce(0) { $0 << 8 | Int($1) }
            } else {
                let count = min(rest.count, wanted - filled)
                let target = UnsafeMutableRawBufferPointer(rebasing: payload[filled..<(filled + count)])
                let source = UnsafeRawBufferPointer(rebasing: rest[..<(rest.startIndex + count)])
                if source.baseAddress != UnsafeRawPointer(target.baseAddress) {
                    target.copyMemory(from: source)
                }
                filled += count
                rest = rest[(rest.startIndex + count)...]
            }
            if header.count == 4, filled == wanted { finish() }
        }
        note()
    }
    private func finish() {
        let isSame = noise(wanted, seed: UInt64(whole)).withUnsafeBytes {
            $0.isSame(as: UnsafeRawBufferPointer(rebasing: payload[..<wanted]))
        }
        if !isSame { wrong += 1 }
        whole += 1
        (header, filled) = ([], 0)
        connection?.send([.bytes([1])])
        guard random.oneIn(25) else { return }
        connection?.pauseReceiving()
        let pause = Int.random(in: 0...300, using: &random)
        reactor?.after(.microseconds(pause)) { [self] in connection?.resumeReceiving() }
    }
    private func note() {
        let isStreaming = (connection as? SocketConnection)?.isStreaming ?? false
        if isStreaming, !wasStreaming { begun += 1 }
        if !isStreaming, wasStreaming { ended += 1 }
        wasStreaming = isStreaming
    }
    func connectionDrained() {}
    func connectionClosed(_ reason: NetworkError) {}
}
