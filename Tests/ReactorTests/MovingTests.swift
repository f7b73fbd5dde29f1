import BlockTypes
import Environment
import Glibc
import Testing

@testable import Reactor

@Suite("Connections that move between loops") struct MovingTests {
    /// A peer that writes all the while, alone and in crowds, with windows, pauses and faults in the calls:
    /// what it hears back is what it sent, though the connection was on the move again and again.
    @Test(
        "what arrives before, while and after a move arrives once and in order, and so do the answers",
        arguments: ["127.0.0.1", "unix"], UInt64(0)..<8)
    func manyMoves(host: String, seed: UInt64) throws {
        let converses = seed % 2 == 0
        let stream = noise(converses ? 150_000 : 6 << 20, seed: seed)
        let traveller = Traveller(expects: stream, seed: seed)
        try withFolder { folder in
            let journey = try Journey(traveller, host: host, folder: folder, faults: seed % 4 > 1)
            let peer = try BlockingPeer(journey.address)
            let heard: [UInt8]
            if converses {
                heard = try peer.converse(stream, seed: seed)
                peer.stopSending()
            } else {
                try BlockingPeer.onThread {
                    try? peer.write(stream, pieceBytesMax: 100_000, seed: seed)
                    peer.stopSending()
                }
                heard = []
            }
            let rest = try peer.read()
            journey.end()
            #expect(heard + rest == stream, "\((heard + rest).count) of \(stream.count) bytes")
        }
        #expect(traveller.isWhole && traveller.reasons == [.closedByPeer])
        #expect(traveller.moves > 5 && traveller.given <= 1, "\(traveller.moves) moves")
        #expect(!converses || traveller.streamingMoves > 0, "\(traveller.streamingMoves) out of a stream")
    }

    @Test(
        "a peer that ends, resets or closes while the connection moves is heard of once, after its last byte",
        arguments: ["end", "reset"], UInt64(0)..<8)
    func peerLeaves(how: String, seed: UInt64) throws {
        let stream = noise(100_000, seed: seed)
        let traveller = Traveller(expects: stream, seed: seed, answers: false, hurries: true)
        try withFolder { folder in
            let host = how == "end" && seed % 2 == 0 ? "unix" : "127.0.0.1"
            let journey = try Journey(traveller, host: host, folder: folder, faults: false)
            let peer = try BlockingPeer(journey.address)
            try peer.write(stream, pieceBytesMax: 10_000, seed: seed)
            if how == "end" { peer.stopSending() } else { peer.reset() }
            journey.isOver.wait { $0 }
            journey.end()
        }
        #expect(traveller.reasons == [how == "end" ? .closedByPeer : .reset])
        #expect(how == "reset" || traveller.isWhole)
        #expect(traveller.given <= 1, "the end may meet a release")
    }

    @Test("bytes that the handler was not given reach the next one first, through its windows")
    func unread() throws {
        let message = noise(10_000, seed: 1)
        let memory = UnsafeMutableRawBufferPointer.allocate(byteCount: 9000, alignment: 16)
        defer { memory.deallocate() }
        let (first, second) = (Recorder(), Recorder())
        try onLoop { reactor in
            let listener = try reactor.listen(on: anyPort) { accepted in
                let peerText = accepted.peer
                first.window = { UnsafeMutableRawBufferPointer(rebasing: memory[..<100]) }
                first.received = { new in
                    first.bytes.append(contentsOf: new)
                    guard first.bytes.count == 100 else { return }
                    release(accepted) { moved in
                        guard let moved, let adopted = reactor.adopt(moved) else {
                            Issue.record("not adopted")
                            return reactor.stop()
                        }
                        #expect(adopted !== accepted && adopted.peer == peerText)
                        #expect(reactor.acceptedCount == 1 && reactor.connections.count == 1)
                        adopted.handler = second
                    }
                }
                second.window = { memory }
                second.received = { new in
                    #expect(new.baseAddress == UnsafeRawPointer(memory.baseAddress))
                    second.bytes.append(contentsOf: new)
                    if second.bytes.count == 9900 { reactor.stop() }
                }
                accepted.handler = first
            }
            let peer = try BlockingPeer(listener.address, leaked: true)
            try peer.write(message)
        }
        #expect(first.bytes + second.bytes == message && first.reasons.isEmpty)
    }

    /// Bytes for two connections come in one turn; whoever hears first releases the other one, whose receive
    /// is over by then.
    @Test(
        "bytes that a release comes too late for go along, out of a window, staging and a receive that goes on",
        arguments: ["window", "staging", "stream"])
    func raced(how: String) throws {
        let message = noise(5000, seed: 4)
        let memory = [0, 1].map { _ in UnsafeMutableRawBufferPointer.allocate(byteCount: 9000, alignment: 16)
        }
        defer { for window in memory { window.deallocate() } }
        let (handlers, next) = ([Recorder(), Recorder()], Recorder())
        try onLoop { reactor in
            var (links, peers, receives, isReady): ([any Connection], [BlockingPeer], Int, Bool) = (
                [], [], 0, false
            )
            reactor.faults = CallFaults { call in
                if call == .receive { receives += 1 }
                return nil
            }
            func wait() {
                let streaming = links.count { ($0 as? SocketConnection)?.isStreaming == true }
                isReady = links.count == 2 && (how != "stream" || streaming == 2)
                for peer in peers { try? peer.write(isReady ? message : [0]) }
                if !isReady { reactor.after(.microseconds(200)) { wait() } }
            }
            next.received = { new in
                #expect(receives == 0, "it had come before the move")
                next.bytes.append(contentsOf: new)
                reactor.stop()
            }
            let listener = try reactor.listen(on: anyPort) { accepted in
                let mine = links.count
                links.append(accepted)
                if how == "window" { handlers[mine].window = { memory[mine] } }
                handlers[mine].received = { new in
                    guard isReady else { return }
                    handlers[mine].bytes.append(contentsOf: new)
                    links[mine].pauseReceiving()
                    release(links[1 - mine]) { moved in
                        receives = 0
                        if let moved { reactor.adopt(moved)?.handler = next }
                    }
                }
                accepted.handler = handlers[mine]
            }
            peers = try (0..<2).map { _ in try BlockingPeer(listener.address) }
            if how == "stream" { wait() } else { reactor.after(.milliseconds(20)) { wait() } }
        }
        #expect(handlers.map(\.bytes.count).sorted() == [0, 5000], "only one heard")
        #expect(next.bytes == message)
    }

    @Test("only the first adopts, only what a loop has released; the connection stays with the first")
    func adoptedTwice() throws {
        final class Foreign: MovedConnection { let peer = "elsewhere" }
        try onLoop { reactor in
            #expect(reactor.adopt(Foreign()) == nil)
            let listener = try reactor.listen(on: anyPort) { accepted in
                release(accepted) { moved in
                    guard let moved else { return reactor.stop() }
                    let adopted = reactor.adopt(moved)
                    #expect(adopted != nil && reactor.adopt(moved) == nil)
                    if let adopted { adopted.handler = EchoHandler(adopted) }
                    // What is gone takes nothing and says nothing.
                    accepted.send([.bytes([9])])
                    accepted.close()
                    #expect(!accepted.hasPeerLeft && accepted.queuedSendBytes == 0)
                    release(accepted) { #expect($0 == nil) }
                }
            }
            let handle = reactor.handle
            let peer = try BlockingPeer(listener.address)
            try BlockingPeer.onThread {
                try? peer.write([1, 2, 3])
                #expect((try? peer.read(3)) == [1, 2, 3])
                handle.stop()
            }
        }
    }

    /// More than a socket holds is queued, so that the release waits for the peer.
    @Test("what was queued leaves first; what is dropped then is closed, and nothing of it stays")
    func dropped() throws {
        let message = noise(8 << 20, seed: 2)
        weak var old: SocketConnection?
        try onLoop { reactor in
            let listener = try reactor.listen(on: anyPort) { accepted in
                old = accepted as? SocketConnection
                accepted.handler = Recorder()
                accepted.send([.payload(Payload(copying: message))])
                release(accepted) { moved in
                    #expect(moved?.peer.hasPrefix("127.0.0.1:") == true)
                    #expect(reactor.connections.count == 0 && reactor.acceptedCount == 0)
                }
                accepted.send([.bytes([9])])
            }
            let handle = reactor.handle
            let peer = try BlockingPeer(listener.address)
            try BlockingPeer.onThread {
                #expect((try? peer.read()) == message)
                handle.stop()
            }
        }
        #expect(old == nil)
    }

    @Test(
        "a close, and the end of the loop, during a release end the connection as ever",
        arguments: ["close", "stop", "stop of the other", "closed before"])
    func ended(how: String) throws {
        let message = noise(8 << 20, seed: 3)
        var events: [String] = []
        let peers = Shared<[BlockingPeer]>([])
        try onLoop { reactor in
            let listener = try reactor.listen(on: anyPort) { accepted in
                let handler = Recorder()
                handler.closed = { events.append("\($0)") }
                accepted.handler = handler
                accepted.send([.payload(Payload(copying: message))])
                if how == "closed before" { accepted.close() }
                release(accepted) { moved in
                    events.append(moved == nil ? "none" : "released")
                    guard let moved else { return }
                    reactor.stop()
                    #expect(reactor.adopt(moved) == nil)
                }
                if how == "close" { accepted.close() }
                if how == "stop" { reactor.stop() }
                #expect(events.isEmpty)
            }
            let peer = try BlockingPeer(listener.address)
            let handle = reactor.handle
            try BlockingPeer.onThread {
                if how != "stop" {
                    #expect((try? peer.read()) == message)
                    handle.stop()
                } else {
                    peers.change { $0.append(peer) }  // It reads nothing and stays.
                }
            }
        }
        #expect(events == (how == "stop of the other" ? ["released"] : ["closed by this side", "none"]))
    }

    /// Both peers come before anybody is accepted.
    @Test(
        "a connection counts where it is: the old loop accepts again, the new one takes no more than it may")
    func counts() throws {
        var limits = ReactorLimits()
        limits.acceptedConnectionsMax = 1
        let adopted = Shared<[Bool]>([])
        let second = try ReactorThread(name: "second", limits: limits)
        let peers = Shared<[BlockingPeer]>([])
        try onLoop(limits: limits) { reactor in
            let handle = reactor.handle
            let listener = try reactor.listen(on: anyPort) { accepted in
                #expect(reactor.acceptedCount == 1)
                accepted.handler = Recorder()
                release(accepted) { moved in
                    guard let moved else { return reactor.stop() }
                    let isPosted = second.post { there in
                        let link = there.adopt(moved)
                        link?.handler = Recorder()
                        adopted.change { $0.append(link != nil) }
                        #expect(there.acceptedCount == 1)
                        if link == nil { handle.stop() }
                    }
                    #expect(isPosted)
                }
            }
            for _ in 0..<2 {
                let peer = try BlockingPeer(listener.address)
                peers.change { $0.append(peer) }
            }
        }
        #expect(adopted.value == [true, false])
        #expect(try peers.value[1].read().isEmpty)
        second.stop()
        second.join()
        #expect(try peers.value[0].read().isEmpty)
    }

    /// The quick send of one connection begins just before another one's handler wants its end, and nothing
    /// else happens that would wake the loop.
    @Test(
        "nobody sleeps over a send whose end a close or a release waits for", arguments: ["close", "release"])
    func wakes(how: String) throws {
        var limits = ReactorLimits()
        limits.lingerMax = .seconds(3600)
        try onLoop(limits: limits) { reactor in
            var links: [any Connection] = []
            let trigger = Recorder()
            let listener = try reactor.listen(on: anyPort) { accepted in
                links.append(accepted)
                let handler = Recorder()
                handler.closed = { _ in reactor.stop() }
                accepted.handler = links.count == 1 ? handler : trigger
                if links.count == 1 { accepted.pauseReceiving() }
            }
            let byte = UnsafeMutableRawBufferPointer.allocate(byteCount: 1, alignment: 1)
            trigger.window = { byte }
            trigger.received = { new in
                trigger.bytes.append(contentsOf: new)
                if trigger.bytes.count == 1 {
                    links[1].pauseReceiving()
                    reactor.after(.milliseconds(5)) {
                        links[0].send([.bytes([1])])
                        links[1].resumeReceiving()
                    }
                } else if how == "close" {
                    links[0].close()
                } else {
                    release(links[0]) { _ in reactor.stop() }
                }
            }
            trigger.closed = { _ in byte.deallocate() }
            _ = try BlockingPeer(listener.address, leaked: true)
            try BlockingPeer(listener.address, leaked: true).write([1, 2])
        }
    }
}

private func release(_ connection: any Connection, completed: @escaping ((any MovedConnection)?) -> Void) {
    guard let movable = connection as? any MovableConnection else {
        Issue.record("\(connection) does not move")
        return completed(nil)
    }
    var isInside = true
    movable.release { moved in
        if isInside { Issue.record("told from inside the call") }
        completed(moved)
    }
    isInside = false
}

private func callFaults(seed: UInt64) -> CallFaults {
    var random = SeededRandom(seed: seed)
    return CallFaults { call in
        guard call == .receive || call == .send, random.oneIn(10) else { return nil }
        return switch Int.random(in: 0..<4, using: &random) {
        case 0: .fail(EINTR)
        case 1: .fail(EAGAIN)
        case 2 where call == .receive: .fail(ENOBUFS)
        // Not of sends: the loop may sleep over a quick one, and no kernel leaves a part of it unsaid.
        default: call == .receive ? .short(Int.random(in: 1...3000, using: &random)) : nil
        }
    }
}

/// Two loops, the first of which accepts one traveller.
private final class Journey {
    let isOver = Shared(false)
    private(set) var address = anyPort
    private let first: ReactorThread
    private let second: ReactorThread

    init(_ traveller: Traveller, host: String, folder: String, faults: Bool) throws {
        let wanted: SocketAddress = host == "unix" ? .unix(path: "\(folder)/s") : .tcp(host: host, port: 0)
        let isOver = isOver
        let found = Shared<SocketAddress?>(nil)
        let second = try ReactorThread(name: "second") { reactor in
            if faults { reactor.faults = callFaults(seed: 2) }
        }
        let there = second.handle
        first = try ReactorThread(name: "first") { reactor in
            if faults { reactor.faults = callFaults(seed: 1) }
            traveller.begin([reactor.handle, there]) { isOver.change { $0 = true } }
            let listener = try? reactor.listen(on: wanted) { traveller.arrive($0, reactor) }
            found.change { $0 = listener?.address ?? .inherited(descriptor: -1) }
        }
        self.second = second
        found.wait { $0 != nil }
        address = found.value ?? anyPort
    }
    /// What the traveller knows may be looked at afterwards.
    func end() {
        for thread in [first, second] {
            thread.stop()
            thread.join()
        }
    }
}

/// Checks what arrives, sends it back, and moves on at random moments.
private final class Traveller: ConnectionHandler, @unchecked Sendable {
    // SAFETY: used on the loop that has the connection alone, whose actions come one after the other; what is
    // left to a loop that it has left is nothing.
    private let expected: [UInt8]
    private let answers: Bool
    private let hurries: Bool
    private let memory = UnsafeMutableRawBufferPointer.allocate(byteCount: 50_000, alignment: 4096)
    private var random: SeededRandom
    private var loops: [ReactorHandle] = []
    private var over: () -> Void = {}
    private var connection: (any Connection)?
    private var reactor: Reactor?
    private var timer: TimerID?
    private var checked = 0
    private var wrong = 0
    private var isLeaving = false
    private(set) var moves = 0
    /// Moves while a receive that goes on was under way.
    private(set) var streamingMoves = 0
    /// Releases that ended without a connection to hand out.
    private(set) var given = 0
    private(set) var reasons: [NetworkError] = []
    private var isStreaming: Bool { (connection as? SocketConnection)?.isStreaming == true }
    var isWhole: Bool { wrong == 0 && checked == expected.count }

    /// - Parameter hurries: moves on by the clock, not by what arrives.
    init(expects expected: [UInt8], seed: UInt64, answers: Bool = true, hurries: Bool = false) {
        (self.expected, self.answers, self.hurries) = (expected, answers, hurries)
        random = SeededRandom(seed: seed)
    }
    deinit { memory.deallocate() }

    func begin(_ loops: [ReactorHandle], over: @escaping () -> Void) {
        (self.loops, self.over) = (loops, over)
    }
    func arrive(_ connection: any Connection, _ reactor: Reactor) {
        (self.connection, self.reactor, isLeaving) = (connection, reactor, false)
        connection.handler = self
        if hurries || random.oneIn(20) { leaveSoon() }
    }
    private func leaveSoon() {
        guard timer == nil else { return }
        timer = reactor?.after(.microseconds(Int.random(in: 0...200, using: &random))) { [self] in
            timer = nil
            leave()
        }
    }
    private func leave() {
        guard !isLeaving, let connection, let reactor else { return }
        isLeaving = true
        if let timer { reactor.cancel(timer) }
        timer = nil
        if isStreaming { streamingMoves += 1 }
        release(connection) { [self] moved in
            guard let moved else { return given += 1 }
            moves += 1
            (self.connection, self.reactor) = (nil, nil)
            // Mostly to the other loop, now and then to the same one.
            let isPosted = loops[random.oneIn(10) ? moves % 2 : (moves + 1) % 2].post { [self] reactor in
                if let link = reactor.adopt(moved) {
                    arrive(link, reactor)
                } else {
                    Issue.record("not adopted")
                }
            }
            if !isPosted { Issue.record("not posted") }
        }
    }
    func connectionReceiveWindow() -> UnsafeMutableRawBufferPointer? {
        switch Int.random(in: 0..<30, using: &random) {
        case 0: UnsafeMutableRawBufferPointer(rebasing: memory[..<Int.random(in: 1...9000, using: &random)])
        case 1: memory
        default: nil
        }
    }
    func connectionReceived(_ bytes: UnsafeRawBufferPointer) {
        if isLeaving { Issue.record("heard of bytes after the release") }
        let isSame = expected.withUnsafeBytes { all in
            checked + bytes.count <= all.count
                && UnsafeRawBufferPointer(rebasing: all[checked..<(checked + bytes.count)]).isSame(as: bytes)
        }
        if !isSame { wrong += 1 }
        checked += bytes.count
        if answers { connection?.send([.bytes(Array(bytes))]) }
        if isStreaming, random.oneIn(10) { return leave() }
        switch Int.random(in: 0..<(expected.count > 1 << 20 ? 10 : 160), using: &random) {
        case 0: leave()
        case 1: leaveSoon()
        case 2:
            connection?.pauseReceiving()
            random.oneIn(2) ? leave() : leaveSoon()
        case 3:
            connection?.pauseReceiving()
            connection?.resumeReceiving()
        default: break
        }
    }
    func connectionDrained() { if isLeaving { Issue.record("heard of drained sends after the release") } }
    func connectionClosed(_ reason: NetworkError) {
        if let timer { reactor?.cancel(timer) }
        timer = nil
        reasons.append(reason)
        (connection, reactor) = (nil, nil)
        over()
    }
}
