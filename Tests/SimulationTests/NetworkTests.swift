import BlockTypes
import Environment
import Simulation
import Testing

@Suite("the simulated network") struct NetworkTests {
    @Test("a stream arrives whole and in order, however it is cut, slowed and windowed", arguments: 0..<60)
    func order(seed: UInt64) {
        var random = SeededRandom(seed: seed)
        var faults = SimFaults.swarm(&random)
        faults.network.resetOneIn = 0
        let pair = Pair(seed: seed, faults: faults)
        defer { pair.world.end() }
        if random.oneIn(2) { pair.far.window = BlockBuffer(byteCount: 4096) }
        var sent: [UInt8] = []
        for number in 0..<50 {
            let header = pattern(Int.random(in: 0...100, using: &random), number)
            let body = pattern(Int.random(in: 0...20_000, using: &random), number * 7)
            pair.nearEnd.send([.bytes(header), .payload(Payload(copying: body))])
            sent += header + body
            if random.oneIn(3) { pair.world.run(for: .milliseconds(1)) }
        }
        #expect(pair.world.run(within: .seconds(600)) { pair.far.bytes.count == sent.count }, "seed \(seed)")
        #expect(pair.far.bytes == sent)
        #expect(pair.nearEnd.queuedSendBytes == 0)
        pair.nearEnd.close()
        pair.world.run(for: .seconds(60))
        #expect(pair.near.closed == .closedHere && pair.near.closings == 1)
        #expect(pair.far.closed == .closedByPeer && pair.far.closings == 1)
    }
    @Test("what was sent before closing arrives before the end of the stream")
    func closeFlushes() {
        let pair = Pair(seed: 1)
        defer { pair.world.end() }
        pair.nearEnd.send([.payload(Payload(copying: pattern(3 << 20)))])
        pair.nearEnd.close()
        #expect(pair.near.closed == nil)
        pair.world.run(for: .seconds(2))
        #expect(pair.far.bytes.count == 3 << 20 && pair.far.closed == .closedByPeer)
        #expect(pair.near.closed == .closedHere)
    }
    @Test("a reset cuts the stream anywhere and both ends learn of it once", arguments: 0..<40)
    func reset(seed: UInt64) {
        var faults = SimFaults.none
        faults.network.resetOneIn = 3
        let pair = Pair(seed: seed, faults: faults)
        defer { pair.world.end() }
        for _ in 0..<40 {
            pair.nearEnd.send([.bytes(pattern(1000))])
            pair.world.run(for: .milliseconds(1))
        }
        #expect(pair.near.closed == .reset && pair.far.closed == .reset)
        #expect(pair.near.closings == 1 && pair.far.closings == 1)
        #expect(pair.far.bytes.count < 40_000)
    }
    @Test("a handler that is set only after the end hears of it, once")
    func lateHandler() throws {
        var faults = SimFaults.none
        faults.network.resetOneIn = 1
        let world = SimWorld(seed: 5, faults: faults)
        defer { world.end() }
        let (a, b) = (world.startHost(on: "a"), world.startHost(on: "b"))
        let (near, far) = (Collector(), Collector())
        _ = try b.listen(on: .tcp(host: "b", port: 7)) { $0.handler = far }
        var end: (any Connection)?
        a.connect(to: .tcp(host: "b", port: 7), timeout: .seconds(60)) { result in
            if case .success(let connection) = result { end = connection }
        }
        world.run(for: .seconds(1))
        end?.send([.bytes(pattern(10))])
        world.run(for: .seconds(1))
        #expect(far.closed == .reset)
        end?.handler = near
        #expect(near.closings == 0, "not from inside the assignment")
        world.run(for: .seconds(1))
        #expect(near.closed == .reset && near.closings == 1)
    }
    @Test("a sender learns that nobody is there any more, however long the answer to it is lost")
    func lostReset() {
        let pair = Pair(seed: 6)
        defer { pair.world.end() }
        pair.world.block(from: "b", to: "a")
        pair.b.crash()
        pair.nearEnd.send([.payload(Payload(copying: pattern(3 << 20)))])
        pair.world.run(for: .seconds(10))
        #expect(pair.near.closed == nil)
        pair.world.unblock(from: "b", to: "a")
        pair.world.run(for: .seconds(5))
        #expect(pair.near.closed == .reset)
    }
    @Test("nobody listening is refused, a cut-off machine is silent until the time is up")
    func refusedOrSilent() {
        let world = SimWorld(seed: 3)
        defer { world.end() }
        let a = world.startHost(on: "a")
        _ = world.startHost(on: "b")
        let address = SocketAddress.tcp(host: "b", port: 9)
        var results: [NetworkError] = []
        func dial() {
            a.connect(to: address, timeout: .seconds(5)) { result in
                if case .failure(let error) = result { results.append(error) }
            }
        }
        dial()
        world.run(for: .seconds(1))
        #expect(results == [.refused(address)])
        world.isolate("b")
        dial()
        world.run(for: .seconds(4))
        #expect(results.count == 1)
        world.run(for: .seconds(2))
        #expect(results == [.refused(address), .timedOut(address)])
        world.healNetwork()
        a.connect(to: .tcp(host: "nowhere", port: 1), timeout: .seconds(1)) { result in
            if case .failure(let error) = result { results.append(error) }
        }
        world.run(for: .seconds(1))
        #expect(results.count == 3)
    }
    @Test("after power loss the peer hears nothing until it sends to the restarted machine")
    func halfOpen() {
        let pair = Pair(seed: 4)
        defer { pair.world.end() }
        pair.b.crash(downFor: .seconds(10))
        pair.world.run(for: .seconds(30))
        #expect(pair.near.closed == nil)
        pair.nearEnd.send([.bytes([1])])
        pair.world.run(for: .seconds(1))
        #expect(pair.near.closed == .reset)
        #expect(pair.far.closed == nil && pair.far.closings == 0)
    }
    @Test("a sender to a machine that stays dark is told after the longest wait")
    func dark() {
        let pair = Pair(seed: 5)
        defer { pair.world.end() }
        pair.world.isolate("b")
        pair.nearEnd.send([.bytes([1])])
        pair.world.run(for: .seconds(15))
        #expect(pair.near.closed == nil)
        pair.world.run(for: .seconds(15))
        #expect(pair.near.closed == .system(nil, errno: 110, call: "send"))
    }
    @Test("a blocked direction holds the stream back and loses nothing; the other direction goes on")
    func oneWay() {
        let pair = Pair(seed: 6)
        defer { pair.world.end() }
        pair.world.block(from: "a", to: "b")
        pair.nearEnd.send([.bytes([1, 2])])
        pair.farEnd.send([.bytes([3])])
        pair.world.run(for: .seconds(5))
        #expect(pair.far.bytes.isEmpty && pair.near.bytes == [3])
        pair.world.unblock(from: "a", to: "b")
        pair.world.run(for: .seconds(5))
        #expect(pair.far.bytes == [1, 2])
    }
    @Test("a killed process closes its connections; its machine refuses new ones")
    func killed() {
        let pair = Pair(seed: 7)
        defer { pair.world.end() }
        pair.farEnd.send([.bytes([9])])
        pair.b.kill()
        pair.world.run(for: .seconds(1))
        #expect(pair.near.bytes == [9] && pair.near.closed == .closedByPeer)
        var refused = false
        pair.a.connect(to: .tcp(host: "b", port: 7), timeout: .seconds(1)) { result in
            if case .failure(.refused) = result { refused = true }
        }
        pair.world.run(for: .seconds(1))
        #expect(refused)
    }
    @Test("a paused process does nothing; what came meanwhile is handled when it goes on, up to the window")
    func paused() {
        let pair = Pair(seed: 8)
        defer { pair.world.end() }
        var fired = false
        pair.b.after(.seconds(1)) { fired = true }
        pair.b.pause(for: .seconds(10))
        pair.nearEnd.send([.payload(Payload(copying: pattern(5 << 20)))])
        pair.world.run(for: .seconds(9))
        #expect(pair.far.bytes.isEmpty && !fired)
        #expect(pair.nearEnd.queuedSendBytes == 4 << 20)
        pair.world.run(for: .seconds(2))
        #expect(fired && pair.far.bytes.count == 5 << 20)
    }
    @Test("a reader that stops reading fills the sender's queue, and the sender hears when it empties")
    func backPressure() {
        let pair = Pair(seed: 9)
        defer { pair.world.end() }
        pair.farEnd.pauseReceiving()
        for _ in 0..<12 { pair.nearEnd.send([.payload(Payload(copying: pattern(1 << 20)))]) }
        pair.world.run(for: .seconds(1))
        #expect(pair.nearEnd.queuedSendBytes == 11 << 20 && pair.near.drained == 0)
        pair.farEnd.resumeReceiving()
        pair.world.run(for: .seconds(1))
        #expect(pair.nearEnd.queuedSendBytes == 0 && pair.near.drained == 1)
        #expect(pair.far.bytes.count == 12 << 20)
    }
    @Test("a flipped bit changes one bit and no more", arguments: 0..<10)
    func flippedBit(seed: UInt64) {
        var faults = SimFaults.none
        faults.network.flippedBitOneIn = 1
        let pair = Pair(seed: seed, faults: faults)
        defer { pair.world.end() }
        let sent = pattern(5000)
        pair.nearEnd.send([.bytes(sent)])
        pair.world.run(for: .seconds(1))
        let bits = zip(sent, pair.far.bytes).reduce(0) { $0 + ($1.0 ^ $1.1).nonzeroBitCount }
        #expect(pair.far.bytes.count == 5000 && bits == 1)
    }
    @Test("an address is taken until its listener closes or dies; port 0 gets a port")
    func addresses() throws {
        let world = SimWorld(seed: 10)
        defer { world.end() }
        let a = world.startHost(on: "a")
        let address = SocketAddress.tcp(host: "a", port: 5)
        let listener = try a.listen(on: address) { _ in }
        #expect(throws: NetworkError.addressInUse(address)) { try a.listen(on: address) { _ in } }
        listener.close()
        _ = try a.listen(on: address) { _ in }
        a.kill()
        let again = world.startHost(on: "a")
        _ = try again.listen(on: address) { _ in }
        let chosen = try again.listen(on: .tcp(host: "a", port: 0)) { _ in }.address
        #expect(chosen != .tcp(host: "a", port: 0))
    }
}
