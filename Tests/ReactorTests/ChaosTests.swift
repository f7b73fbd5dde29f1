import BlockTypes
import Environment
import Glibc
import Testing

@testable import Reactor

@Suite("Chaos") struct ChaosTests {
    /// Connections come, talk, pause, resume, close and break at random, with faults in the calls. However it
    /// goes, each owner hears the end exactly once, nothing after it, and nothing is left over.
    @Test("every connection ends exactly once, whatever happens", arguments: UInt64(0)..<20)
    func ends(seed: UInt64) throws {
        var limits = ReactorLimits()
        limits.lingerMax = .milliseconds(20)
        limits.stagingBuffersCount = 4
        limits.acceptedConnectionsMax = 12
        var chaos: Chaos?
        try onLoop(limits: limits) { reactor in
            let made = Chaos(reactor, seed: seed)
            chaos = made
            try made.start()
        }
        let all = try #require(chaos)
        #expect(all.peers.count > 10)
        #expect(all.peers.allSatisfy { $0.reasons.count == ($0.isHandling ? 1 : 0) }, "seed \(seed)")
        #expect(all.peers.count { !$0.isHandling } < 5, "only those that the stop cut short")
        #expect(all.reactor.connections.count == 0 && all.reactor.ring.inFlight == 0)
        #expect(all.answers == all.dials, "each connect is answered once")
        all.peers.removeAll()
    }
}

private final class Chaos {
    let reactor: Reactor
    var peers: [Peer] = []
    var dials = 0
    var answers = 0
    var random: SeededRandom
    private var listener: (any Listener)?
    private var steps = 0
    private let payload = noisePayload(100_000, seed: 1)
    private let window = UnsafeMutableRawBufferPointer.allocate(byteCount: 20_000, alignment: 16)

    init(_ reactor: Reactor, seed: UInt64) {
        self.reactor = reactor
        random = SeededRandom(seed: seed)
    }
    deinit { window.deallocate() }

    func start() throws {
        listener = try reactor.listen(on: anyPort) { [unowned self] in adopt($0) }
        if random.oneIn(2) {
            reactor.faults = CallFaults { [unowned self] call in fault(call) }
        }
        step()
    }
    private func fault(_ call: SystemCall) -> CallFault? {
        guard random.oneIn(10) else { return nil }
        switch call {
        case .accept: return .fail([EMFILE, ECONNABORTED, EINTR].randomElement(using: &random) ?? EINTR)
        case .connect: return .fail([ECONNREFUSED, EHOSTUNREACH].randomElement(using: &random) ?? EIO)
        case .receive:
            return .fail([EINTR, ENOBUFS, EAGAIN, ECONNRESET].randomElement(using: &random) ?? EINTR)
        case .send: return random.oneIn(5) ? .fail(EPIPE) : .short(Int.random(in: 1...5000, using: &random))
        default: return nil
        }
    }
    private func adopt(_ connection: any Connection) {
        let peer = Peer(connection, self)
        peers.append(peer)
        if random.oneIn(8) {
            reactor.after(.microseconds(Int.random(in: 0...500, using: &random))) {
                peer.handle()
            }
        } else {
            peer.handle()
        }
        act(peer)
    }
    private func step() {
        steps += 1
        guard steps < 300 else { return reactor.stop() }
        if random.oneIn(5), let listener {
            dials += 1
            reactor.connect(to: listener.address, timeout: .milliseconds(random.oneIn(6) ? 0 : 50)) {
                [self] in
                answers += 1
                if case .success(let connection) = $0 { adopt(connection) }
            }
        }
        if let peer = peers.randomElement(using: &random) { act(peer) }
        reactor.after(.microseconds(Int.random(in: 0...200, using: &random))) { [self] in step() }
    }
    func act(_ peer: Peer) {
        switch Int.random(in: 0..<12, using: &random) {
        case 0: peer.connection.close()
        case 1: (peer.connection as? SocketConnection)?.abort(.reset)
        case 2, 3: peer.connection.pauseReceiving()
        case 4, 5, 6: peer.connection.resumeReceiving()
        case 7: peer.connection.send([.bytes(noise(Int.random(in: 0...4000, using: &random), seed: 2))])
        case 8: for _ in 0..<20 { peer.connection.send([.payload(payload), .bytes([1, 2, 3])]) }
        case 9:
            peer.connection.send([.payload(payload.slice(0, Int.random(in: 0...100_000, using: &random)))])
        default: break
        }
    }
    func windowForReceive() -> UnsafeMutableRawBufferPointer? {
        random.oneIn(2)
            ? nil
            : UnsafeMutableRawBufferPointer(rebasing: window[..<Int.random(in: 0...20_000, using: &random)])
    }
}

private final class Peer: ConnectionHandler {
    let connection: any Connection
    unowned let chaos: Chaos
    var reasons: [NetworkError] = []
    init(_ connection: any Connection, _ chaos: Chaos) { (self.connection, self.chaos) = (connection, chaos) }

    private(set) var isHandling = false
    func handle() {
        isHandling = true
        connection.handler = self
    }
    private func mustBeOpen() { if !reasons.isEmpty { Issue.record("called after the end") } }
    func connectionReceiveWindow() -> UnsafeMutableRawBufferPointer? {
        mustBeOpen()
        return chaos.windowForReceive()
    }
    func connectionReceived(_ bytes: UnsafeRawBufferPointer) {
        mustBeOpen()
        if bytes.isEmpty { Issue.record("received nothing") }
        chaos.act(self)
    }
    func connectionDrained() {
        mustBeOpen()
        chaos.act(self)
    }
    func connectionClosed(_ reason: NetworkError) {
        reasons.append(reason)
        chaos.act(self)
    }
}
