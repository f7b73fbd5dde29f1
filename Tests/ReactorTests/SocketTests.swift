import BlockTypes
import Environment
import Glibc
import Testing

@testable import Reactor

@Suite("Sockets") struct SocketTests {
    @Test(
        "what is sent comes back, over TCP v4, v6, by name and over Unix sockets",
        arguments: ["127.0.0.1", "::1", "localhost", "unix"])
    func echo(host: String) throws {
        try withFolder { folder in
            try onLoop { reactor in
                let wanted: SocketAddress =
                    host == "unix" ? .unix(path: "\(folder)/echo") : .tcp(host: host, port: 0)
                let listener = try reactor.listen(on: wanted) { $0.handler = EchoHandler($0) }
                reactor.dial(listener.address) { connection in
                    let handler = Recorder()
                    handler.received = { new in
                        handler.bytes.append(contentsOf: new)
                        if handler.bytes.count == 11 { connection.close() }
                    }
                    handler.closed = { reason in
                        #expect(handler.bytes == Array("hello world".utf8))
                        #expect(reason == .closedHere)
                        reactor.stop()
                    }
                    connection.handler = handler
                    connection.send([
                        .bytes(Array("hello ".utf8)), .payload(Payload(copying: Array("world".utf8))),
                        .bytes([]),
                    ])
                    #expect(connection.queuedSendBytes == 11)
                }
            }
        }
    }

    @Test(
        "what is under way to this very host is bounded, at both ends",
        arguments: ["127.0.0.1", "::1"])
    func boundedOnThisHost(host: String) throws {
        try onLoop { reactor in
            var bounds: [Int32] = []
            func look(_ connection: any Connection) {
                var (bytes, length) = (Int32(0), socklen_t(MemoryLayout<Int32>.size))
                guard let descriptor = (connection as? SocketConnection)?.descriptor,
                    getsockopt(descriptor, SOL_SOCKET, SO_SNDBUF, &bytes, &length) == 0
                else {
                    Issue.record("a connection without a socket")
                    return
                }
                bounds.append(bytes)
                guard bounds.count == 2 else { return }
                // The kernel's own bound of what a program may ask for may be lower.
                #expect(bounds.allSatisfy { $0 > 0 && $0 <= sendBufferBytesMaxOnThisHost })
                #expect(bounds[0] == bounds[1])
                reactor.stop()
            }
            let listener = try reactor.listen(on: .tcp(host: host, port: 0)) {
                $0.handler = EchoHandler($0)
                look($0)
            }
            reactor.dial(listener.address) { connection in
                connection.handler = Recorder()
                look(connection)
            }
        }
    }
    @Test("addresses of one host are told from those of two")
    func hosts() throws {
        func name(_ host: String) throws -> SocketName {
            try #require(NameLookup.numeric(host: host, port: 3260)?.first)
        }
        for (one, other, isSame) in [
            ("127.0.0.1", "127.0.0.1", true), ("127.0.0.1", "127.0.0.2", true), ("::1", "::1", true),
            ("192.0.2.1", "192.0.2.1", true), ("192.0.2.1", "192.0.2.2", false),
            ("192.0.2.1", "127.0.0.1", false),
            ("2001:db8::1", "2001:db8::1", true), ("2001:db8::1", "2001:db8::2", false),
            ("::1", "127.0.0.1", false),
        ] {
            #expect(try name(one).isOnHost(of: name(other)) == isSame, "\(one) and \(other)")
        }
        let unix = try #require(SocketName(unixPath: "/run/a"))
        #expect(!unix.isOnHost(of: unix))
    }

    @Test(
        "megabytes go both ways at once and arrive as sent, whatever the pieces, windows and system calls",
        arguments: UInt64(0)..<12)
    func bothWays(seed: UInt64) throws {
        try onLoop { reactor in
            var random = SeededRandom(seed: seed)
            if seed % 2 == 1 {
                reactor.faults = CallFaults { call in
                    switch call {
                    case .send, .receive:
                        switch Int.random(in: 0..<8, using: &random) {
                        case 0: .fail(EINTR)
                        case 1: .short(Int.random(in: 1..<5000, using: &random))
                        default: nil
                        }
                    default: nil
                    }
                }
            }
            let bytes = 3 << 20
            var finished = 0
            func done() {
                finished += 1
                if finished == 2 { reactor.stop() }
            }
            var ends: [Exchange] = []
            let listener = try reactor.listen(on: anyPort) {
                ends.append(Exchange($0, sends: seed, expects: seed + 1000, bytes: bytes, done: done))
            }
            reactor.dial(listener.address) {
                ends.append(Exchange($0, sends: seed + 1000, expects: seed, bytes: bytes, done: done))
            }
        }
    }

    @Test("a small window gets its bytes, and what follows them comes separately")
    func cutWindows() throws {
        try onLoop { reactor in
            let message = noise(10_000, seed: 1)
            let listener = try reactor.listen(on: anyPort) {
                $0.send([.bytes(message)]); keep($0)
            }
            reactor.dial(listener.address) { connection in
                let handler = Recorder()
                var random = SeededRandom(seed: 2)
                let memory = UnsafeMutableRawBufferPointer.allocate(byteCount: 700, alignment: 16)
                var asked: UnsafeMutableRawBufferPointer?
                handler.window = {
                    let size = Int.random(in: 0...700, using: &random)
                    asked = size == 0 ? nil : UnsafeMutableRawBufferPointer(rebasing: memory[..<size])
                    return asked
                }
                handler.received = { new in
                    if let asked {
                        #expect(new.baseAddress == UnsafeRawPointer(asked.baseAddress))
                        #expect(new.count <= asked.count)
                    }
                    handler.bytes.append(contentsOf: new)
                    if handler.bytes.count == message.count { reactor.stop() }
                }
                handler.closed = { _ in
                    #expect(handler.bytes == message)
                    memory.deallocate()
                }
                connection.handler = handler
            }
        }
    }

    @Test("a peer that closes is reported once, after everything it sent")
    func closedByPeer() throws {
        try onLoop { reactor in
            let listener = try reactor.listen(on: anyPort) { accepted in
                keep(accepted)
                accepted.send([.bytes(noise(50_000, seed: 3))])
                accepted.close()
            }
            reactor.dial(listener.address) { connection in
                let handler = Recorder()
                handler.closed = { reason in
                    #expect(reason == .closedByPeer)
                    #expect(handler.bytes == noise(50_000, seed: 3))
                    reactor.after(.milliseconds(10)) {
                        #expect(handler.reasons.count == 1)
                        reactor.stop()
                    }
                }
                connection.handler = handler
            }
        }
    }

    @Test("a peer that only stopped sending still gets the answer that was queued")
    func halfClosed() throws {
        try onLoop { reactor in
            let answer = noise(300_000, seed: 4)
            let listener = try reactor.listen(on: anyPort) { accepted in
                let handler = Recorder()
                handler.received = { _ in accepted.send([.bytes(answer)]) }
                handler.closed = { #expect($0 == .closedByPeer) }
                accepted.handler = handler
            }
            let peer = try BlockingPeer(listener.address)
            try peer.write([1])
            peer.stopSending()
            let handle = reactor.handle
            try peer.readAllOnThread { got in
                #expect(got == answer)
                handle.stop()
            }
        }
    }

    /// One piece a turn, so that each is tried at once, while the loop has nothing else to wake up for.
    @Test(
        "what a full socket does not take at once follows when there is room, whole and once",
        arguments: ["127.0.0.1", "unix"])
    func fullSocket(host: String) throws {
        let message = noise(8 << 20, seed: 13)
        try withFolder { folder in
            try onLoop { reactor in
                let wanted: SocketAddress =
                    host == "unix" ? .unix(path: "\(folder)/full") : .tcp(host: host, port: 0)
                let listener = try reactor.listen(on: wanted) { accepted in
                    keep(accepted)
                    func next(_ start: Int) {
                        guard start < message.count else { return accepted.close() }
                        let end = min(start + 100_000, message.count)
                        accepted.send([.bytes(Array(message[start..<end]))])
                        reactor.after(.microseconds(300)) { next(end) }
                    }
                    next(0)
                }
                let peer = try BlockingPeer(listener.address)
                let handle = reactor.handle
                reactor.after(.milliseconds(20)) {
                    #expect(throws: Never.self) {
                        try peer.readAllOnThread { got in
                            #expect(got == message)
                            handle.stop()
                        }
                    }
                }
            }
        }
    }

    @Test("what a socket took is soon known to be sent, also when nothing else happens")
    func quickSend() throws {
        try onLoop { reactor in
            let listener = try reactor.listen(on: anyPort) { keep($0) }
            reactor.dial(listener.address) { connection in
                keep(connection)
                connection.send([.bytes([1, 2, 3]), .payload(noisePayload(4096, seed: 14))])
                #expect(connection.queuedSendBytes == 4099)
                reactor.after(.milliseconds(20)) {
                    #expect(connection.queuedSendBytes == 0 && reactor.ring.inFlight < 10)
                    reactor.stop()
                }
            }
        }
    }

    @Test("a reset in the middle of a message closes with .reset and nothing else happens")
    func reset() throws {
        try onLoop { reactor in
            var peer: BlockingPeer?
            let listener = try reactor.listen(on: anyPort) { accepted in
                let handler = Recorder()
                handler.received = { _ in peer?.reset() }
                handler.closed = { reason in
                    #expect(reason == .reset)
                    accepted.send([.bytes([1, 2, 3])])
                    accepted.close()
                    accepted.resumeReceiving()
                    reactor.after(.milliseconds(5)) {
                        #expect(handler.reasons == [.reset])
                        reactor.stop()
                    }
                }
                accepted.handler = handler
                accepted.send([.payload(noisePayload(8 << 20, seed: 5))])
            }
            peer = try BlockingPeer(listener.address)
            try peer?.write([1, 2, 3, 4])
        }
    }

    @Test("a paused connection takes in little, and loses nothing")
    func pause() throws {
        try onLoop { reactor in
            let message = noise(6 << 20, seed: 6)
            var sender: (any Connection)?
            let listener = try reactor.listen(on: anyPort) { accepted in
                sender = accepted
                keep(accepted)
                for start in stride(from: 0, to: message.count, by: 1 << 16) {
                    accepted.send([.bytes(Array(message[start..<min(start + (1 << 16), message.count)]))])
                }
            }
            reactor.dial(listener.address) { connection in
                let handler = Recorder()
                handler.received = { new in
                    handler.bytes.append(contentsOf: new)
                    if handler.bytes.count == message.count {
                        #expect(handler.bytes == message)
                        return reactor.stop()
                    }
                    if handler.bytes.count < 4 * StagingBuffers.bufferBytes {
                        connection.pauseReceiving()
                        let before = handler.bytes.count
                        reactor.after(.milliseconds(20)) {
                            #expect(handler.bytes.count == before, "nothing is delivered during a pause")
                            #expect((sender?.queuedSendBytes ?? 0) > 0, "the sender feels the pause")
                            connection.resumeReceiving()
                        }
                    }
                }
                connection.handler = handler
            }
        }
    }

    @Test("the owner hears when a full queue has drained, and not from inside send")
    func drained() throws {
        try onLoop { reactor in
            let listener = try reactor.listen(on: anyPort) { keep($0) }
            reactor.dial(listener.address) { connection in
                let handler = Recorder()
                var isInsideSend = false
                handler.drained = {
                    #expect(!isInsideSend)
                    #expect(connection.queuedSendBytes < connection.sendQueueBytesSoftMax / 2)
                    reactor.stop()
                }
                connection.handler = handler
                isInsideSend = true
                for _ in 0..<40 { connection.send([.payload(noisePayload(256 << 10, seed: 7))]) }
                isInsideSend = false
                #expect(connection.queuedSendBytes == 40 * (256 << 10))
            }
        }
    }

    @Test("an owner that ignores the soft limit loses the connection, not the process")
    func hardLimit() throws {
        var limits = ReactorLimits()
        limits.sendQueueBytesMax = 1 << 20
        try onLoop(limits: limits) { reactor in
            let listener = try reactor.listen(on: anyPort) { _ in }
            reactor.logSink = { _ in }
            reactor.dial(listener.address) { connection in
                let handler = Recorder()
                handler.closed = { reason in
                    #expect(reason == .system(nil, errno: ENOBUFS, call: "send"))
                    reactor.stop()
                }
                connection.handler = handler
                let payload = noisePayload(512 << 10, seed: 8)
                connection.send([.payload(payload), .payload(payload), .payload(payload)])
                #expect(handler.reasons.isEmpty, "nothing is called from inside send")
            }
        }
    }

    @Test("close() sends what is queued, and is answered after it returned")
    func closeFlushes() throws {
        try onLoop { reactor in
            let message = noise(2 << 20, seed: 9)
            let receiver = Recorder()
            let listener = try reactor.listen(on: anyPort) { $0.handler = receiver }
            receiver.closed = { reason in
                #expect(reason == .closedByPeer)
                #expect(receiver.bytes == message)
                reactor.stop()
            }
            reactor.dial(listener.address) { connection in
                let handler = Recorder()
                connection.handler = handler
                connection.send([.bytes(message)])
                connection.close()
                connection.close()
                connection.send([.bytes([0])])
                #expect(handler.reasons.isEmpty)
                handler.closed = { #expect($0 == .closedHere) }
            }
        }
    }

    @Test("unread bytes of the peer do not turn our last answer into a reset")
    func closeWithUnreadBytes() throws {
        try onLoop { reactor in
            let listener = try reactor.listen(on: anyPort) { accepted in
                let handler = Recorder()
                handler.received = { _ in
                    accepted.send([.bytes(Array("refused".utf8))])
                    accepted.close()
                }
                accepted.handler = handler
            }
            let peer = try BlockingPeer(listener.address)
            let handle = reactor.handle
            try peer.readAllOnThread(afterWriting: noise(200_000, seed: 10)) { got in
                #expect(got == Array("refused".utf8))
                handle.stop()
            }
        }
    }

    @Test("a close towards a peer that never reads ends after the linger time")
    func lingerIsBounded() throws {
        var limits = ReactorLimits()
        limits.lingerMax = .milliseconds(50)
        try onLoop(limits: limits) { reactor in
            let listener = try reactor.listen(on: anyPort) { accepted in
                let handler = Recorder()
                accepted.handler = handler
                for _ in 0..<16 { accepted.send([.payload(noisePayload(1 << 20, seed: 11))]) }
                accepted.close()
                handler.closed = { reason in
                    #expect(reason == .closedHere)
                    reactor.stop()
                }
            }
            _ = try BlockingPeer(listener.address, leaked: true)
        }
    }

    @Test("stop tells every connection, connect and listener owner, once")
    func stopTells() throws {
        let (one, other) = (Recorder(), Recorder())
        var pending: [NetworkError] = []
        try onLoop { reactor in
            let listener = try reactor.listen(on: anyPort) {
                $0.handler = one
                reactor.connect(to: .tcp(host: "192.0.2.1", port: 9), timeout: .seconds(30)) { result in
                    if case .failure(let error) = result { pending.append(error) }
                }
                reactor.stop()
            }
            reactor.dial(listener.address) { $0.handler = other }
        }
        #expect(one.reasons.count == 1 && other.reasons.count == 1)
        #expect(pending.count == 1)
    }
}

/// A connection without a handler lives on; this one reads and ignores.
private func keep(_ connection: any Connection) {
    let handler = Recorder()
    handler.received = { _ in }
    connection.handler = handler
}

/// One end of a test that sends and checks at the same time.
private final class Exchange: ConnectionHandler {
    private let connection: any Connection
    private let outgoing: [UInt8]
    private let expected: [UInt8]
    private var sent = 0
    private var checked = 0
    private var random: SeededRandom
    private let memory = UnsafeMutableRawBufferPointer.allocate(byteCount: 300_000, alignment: 4096)
    private let done: () -> Void

    init(_ connection: any Connection, sends: UInt64, expects: UInt64, bytes: Int, done: @escaping () -> Void)
    {
        self.connection = connection
        outgoing = noise(bytes, seed: sends)
        expected = noise(bytes, seed: expects)
        random = SeededRandom(seed: sends)
        self.done = done
        connection.handler = self
        sendMore()
    }
    deinit { memory.deallocate() }

    private func sendMore() {
        while sent < outgoing.count, connection.queuedSendBytes <= connection.sendQueueBytesSoftMax {
            var pieces: [SendPiece] = []
            for _ in 0..<Int.random(in: 1...100, using: &random) where sent < outgoing.count {
                let isLarge = random.oneIn(3)
                let count = min(
                    outgoing.count - sent, Int.random(in: 1...(isLarge ? 100_000 : 300), using: &random))
                let run = Array(outgoing[sent..<(sent + count)])
                if isLarge || random.oneIn(2) {
                    let buffer = BlockBuffer(byteCount: count)
                    run.withUnsafeBytes { buffer.bytes.copyMemory(from: $0) }
                    pieces.append(.payload(Payload(buffer, byteCount: count)))
                } else {
                    pieces.append(.bytes(run))
                }
                sent += count
            }
            connection.send(pieces)
        }
    }
    func connectionReceiveWindow() -> UnsafeMutableRawBufferPointer? {
        switch Int.random(in: 0..<3, using: &random) {
        case 0: nil
        case 1: UnsafeMutableRawBufferPointer(rebasing: memory[..<Int.random(in: 1...9000, using: &random)])
        default: memory
        }
    }
    func connectionReceived(_ bytes: UnsafeRawBufferPointer) {
        let isEqual = expected.withUnsafeBytes { all in
            checked + bytes.count <= all.count
                && UnsafeRawBufferPointer(rebasing: all[checked..<(checked + bytes.count)]).isSame(as: bytes)
        }
        if !isEqual { Issue.record("wrong bytes from \(checked)") }
        checked += bytes.count
        if random.oneIn(10) {
            connection.pauseReceiving()
            connection.resumeReceiving()
        }
        if checked == expected.count { done() }
    }
    func connectionDrained() { sendMore() }
    func connectionClosed(_ reason: NetworkError) {}
}
