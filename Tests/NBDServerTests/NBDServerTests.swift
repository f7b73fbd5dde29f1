import BlockTypes
import Environment
import TestVolumes
import Testing

@testable import NBDProtocol
@testable import NBDServer

/// Client flags and a GO for `name`.
func hello(_ name: String = "", structured: Bool = false) -> [UInt8] {
    var bytes: [UInt8] = [0, 0, 0, 3]
    func option(_ number: UInt32, _ data: [UInt8]) {
        bytes.append(bigEndian: Wire.optionMagic)
        bytes.append(bigEndian: number)
        bytes.append(bigEndian: UInt32(data.count))
        bytes += data
    }
    if structured { option(OptionNumber.structuredReply, []) }
    var data: [UInt8] = []
    data.append(bigEndian: UInt32(name.utf8.count))
    data += Array(name.utf8) + [0, 0]
    option(OptionNumber.go, data)
    return bytes
}
func request(_ command: UInt16, _ offset: UInt64 = 0, _ length: Int = 0, cookie: UInt64 = 1) -> [UInt8] {
    NBDRequestHeader(command: command, cookie: cookie, offset: offset, length: UInt64(length)).encoded
}
func simpleReply(_ errno: UInt32 = 0, cookie: UInt64 = 1) -> [UInt8] {
    var bytes: [UInt8] = []
    bytes.append(bigEndian: Wire.simpleReplyMagic)
    bytes.append(bigEndian: errno)
    bytes.append(bigEndian: cookie)
    return bytes
}

@Suite struct NBDServerTests {
    let world = FakeWorld()
    let volume: MemoryVolume
    let server: NBDServer

    init() throws {
        volume = MemoryVolume(environment: world, size: ByteCount(bytes: 64 << 20))
        var limits = NBDServerLimits()
        limits.connectionsMax = 8
        server = NBDServer(environment: world, limits: limits)
        try server.add(NBDExport(name: "vol", volume: volume))
        try server.listen(on: .unix(path: "/s"))
    }
    func servedClient() -> FakeLink {
        let link = world.client()
        link.say(hello())
        link.received = []
        return link
    }
    /// A client that does real I/O: proof that the server still serves.
    func expectService(sourceLocation: SourceLocation = #_sourceLocation) {
        let victim = world.client()
        victim.say(hello() + request(Command.write, 512, 512) + [UInt8](repeating: 0xAB, count: 512))
        world.run()
        victim.received = []
        victim.say(request(Command.read, 0, 1024))
        world.run()
        let expected =
            simpleReply() + [UInt8](repeating: 0, count: 512) + [UInt8](repeating: 0xAB, count: 512)
        #expect(victim.received == expected, sourceLocation: sourceLocation)
        victim.say(request(Command.disconnect))
        world.run()
        #expect(victim.isClosed, sourceLocation: sourceLocation)
    }

    @Test("what one client writes another reads, and a flush on one connection is answered after both")
    func shared() {
        let (a, b) = (servedClient(), servedClient())
        a.say(request(Command.write, 4096, 4096) + [UInt8](repeating: 7, count: 4096))
        world.run()
        #expect(a.takeReceived() == simpleReply())
        b.say(request(Command.flush) + request(Command.read, 4096, 4096, cookie: 2))
        world.run()
        #expect(b.received == simpleReply() + simpleReply(cookie: 2) + [UInt8](repeating: 7, count: 4096))
    }
    @Test("a large write lands in the receive window and is read back whole")
    func large() {
        let link = servedClient()
        let bytes = (0..<(3 << 20)).map { UInt8(truncatingIfNeeded: $0 &* 7 &+ $0 >> 12) }
        link.say(request(Command.write, 512, bytes.count) + bytes)
        world.run()
        link.received = []
        link.say(request(Command.read, 512, bytes.count))
        world.run()
        #expect(link.received.count == 16 + bytes.count && Array(link.received.dropFirst(16)) == bytes)
    }
    @Test("a client that chooses no export in time is closed, one that did stays")
    func handshakeTimeout() {
        let (idle, served) = (world.client(), servedClient())
        idle.say([0, 0, 0, 3])
        world.run(for: .seconds(11))
        #expect(idle.isClosed && !served.isClosed && server.status.connections == 1)
        expectService()
    }
    @Test("with all places taken by idlers a newcomer takes the oldest idler's place")
    func newcomer() {
        let idlers = (0..<8).map { _ in world.client() }
        expectService()
        #expect(idlers.map(\.isClosed) == [true] + [Bool](repeating: false, count: 7))
    }
    @Test("with all places taken by clients that are served a newcomer is refused")
    func full() {
        let served = (0..<8).map { _ in servedClient() }
        #expect(world.client().isClosed && !served.contains(where: \.isClosed))
        served[3].reset()
        expectService()
    }
    @Test("a crowd of idlers from one address makes room by itself; who came alone keeps its place")
    func crowd() {
        let alone = world.client(from: "10.0.0.1")
        let crowd = (0..<7).map { _ in world.client(from: "10.0.0.2") }
        expectService()
        #expect(!alone.isClosed && crowd.map(\.isClosed) == [true] + [Bool](repeating: false, count: 6))
    }
    @Test("one address has its bound of connections; others find room beside it")
    func perPeer() throws {
        var limits = NBDServerLimits()
        (limits.connectionsMax, limits.connectionsPerPeerMax, limits.handshakesMax) = (8, 3, 4)
        let bounded = NBDServer(environment: world, limits: limits)
        try bounded.add(NBDExport(name: "vol", volume: volume))
        try bounded.listen(on: .unix(path: "/b"))
        func client(_ host: String, served: Bool = true) -> FakeLink {
            let link = world.client(at: .unix(path: "/b"), from: host)
            if served { link.say(hello()) }
            return link
        }
        let (one, two) = (client("a"), client("a"))
        let idle = client("a", served: false)
        let third = client("a")
        #expect(idle.isClosed && !third.isClosed)
        #expect(client("a").isClosed && ![one, two, third].contains(where: \.isClosed))
        // Four handshakes at most, whoever they are of.
        let waiting = ["b", "c", "c", "d", "e"].map { client($0, served: false) }
        #expect(waiting.map(\.isClosed) == [false, true, false, false, false])
        #expect(world.logged.filter { $0.contains("refused a") }.count == 1)
    }
    @Test(
        "a client that stops in the middle of a request is given up in the end; one that asks nothing is not")
    func stall() {
        let (header, payload, idle, slow) = (servedClient(), servedClient(), servedClient(), servedClient())
        header.say(Array(request(Command.flush).prefix(9)))
        payload.say(request(Command.write, 0, 4096) + [1, 2, 3])
        slow.say(request(Command.write, 1 << 20, 4096))
        for _ in 0..<9 {
            world.run(for: .seconds(100))
            slow.say([1])
        }
        #expect(header.isClosed && payload.isClosed && !idle.isClosed && !slow.isClosed)
        slow.say([UInt8](repeating: 1, count: 4096 - 9))
        world.run(for: .seconds(1000))
        #expect(!slow.isClosed && slow.received == simpleReply())
        expectService()
    }
    @Test("connecting and leaving at once logs nothing, however often")
    func comeAndGo() {
        for _ in 0..<100 { world.client().reset() }
        #expect(world.logged.isEmpty && server.status.connections == 0)
        expectService()
    }
    @Test("a reset with reads in flight, or in the middle of a payload, hurts nobody else")
    func resets() {
        volume.isHolding = true
        let (reader, writer) = (servedClient(), servedClient())
        for _ in 0..<20 { reader.say(request(Command.read, 0, 1 << 20)) }
        writer.say(request(Command.write, 0, 1 << 20) + [UInt8](repeating: 1, count: 5000))
        reader.reset()
        writer.reset()
        volume.isHolding = false
        volume.release()
        world.run()
        #expect(server.status.connections == 0 && server.status.inFlightRequests == 0)
        expectService()
    }
    @Test("reads that nobody collects stay within the bounds of one connection, and all arrive in the end")
    func neverCollects() {
        let link = servedClient()
        link.isDeaf = true
        for cookie in 0..<200 { link.say(request(Command.read, 0, 1 << 20, cookie: UInt64(cookie))) }
        world.run()
        #expect(link.queuedSendBytes <= 73 << 20)
        expectService()
        var replies = 0
        while link.queuedSendBytes > 0 {
            link.listenAgain()
            replies += link.takeReceived().count / (16 + 1 << 20)
            link.isDeaf = true
            world.run()
        }
        #expect(replies == 200)
    }
    @Test("while a volume is slow, requests beyond the bound wait in the socket")
    func slowVolume() {
        volume.isHolding = true
        let link = servedClient()
        for _ in 0..<10_000 { link.say(request(Command.flush)) }
        #expect(volume.heldCount == 128 && link.unsentBytes > 0)
        volume.isHolding = false
        for _ in 0..<10_000 {
            volume.release()
            world.run()
        }
        #expect(link.received.count == 10_000 * 16)
    }
    /// A kernel that gave a connection up repeats its requests on another one, and goes on from there: what
    /// the first one left in its socket would undo what came after.
    @Test("what a client that left has sent, and was not yet taken, is not carried out")
    func leftovers() {
        volume.isHolding = true
        let (old, new) = (servedClient(), servedClient())
        for _ in 0..<128 { old.say(request(Command.flush)) }
        let stale = request(Command.write, 0, 512) + [UInt8](repeating: 1, count: 512)
        for _ in 0..<2 { old.say(stale) }
        let idle = servedClient()
        old.hasPeerLeft = true
        new.say(request(Command.write, 0, 512) + [UInt8](repeating: 2, count: 512))
        // Left before it sent: what arrives late counts as little as what was held back.
        idle.hasPeerLeft = true
        volume.isHolding = false
        for _ in 0..<300 {
            volume.release()
            world.run()
        }
        idle.say(stale)
        world.run()
        #expect(old.isClosed && idle.isClosed && !new.isClosed)
        new.received = []
        new.say(request(Command.read, 0, 512))
        world.run()
        #expect(new.received == simpleReply() + [UInt8](repeating: 2, count: 512))
    }
    @Test("many connections share what may be in flight, and none is shut out")
    func shares() {
        var limits = NBDServerLimits()
        limits.inFlightRequestsMax = 100
        let shared = NBDServer(environment: world, limits: limits)
        volume.isHolding = true
        #expect(throws: Never.self) {
            try shared.add(NBDExport(name: "", volume: volume))
            try shared.listen(on: .unix(path: "/shared"))
        }
        let links = (0..<10).map { _ in world.client(at: .unix(path: "/shared")) }
        for link in links {
            link.say(hello())
            for _ in 0..<1000 { link.say(request(Command.flush)) }
        }
        #expect(volume.heldCount == 100)
        volume.isHolding = false
        while links.contains(where: { $0.unsentBytes > 0 }) || volume.heldCount > 0 {
            volume.release()
            world.run()
        }
        #expect(links.allSatisfy { $0.received.count >= 1000 * 16 })
    }
    @Test("answers go out in the order in which the volume answers")
    func outOfOrder() {
        volume.isHolding = true
        let link = servedClient()
        for cookie in 1...3 { link.say(request(Command.flush, cookie: UInt64(cookie))) }
        volume.release(reversed: true)
        #expect(link.received == [3, 2, 1].flatMap { simpleReply(cookie: $0) })
    }
    @Test("a volume's errors reach the client and are logged once per kind and connection")
    func errors() {
        let link = servedClient()
        volume.failures = [.noSpace, .noSpace, .replicasUnavailable]
        for _ in 0..<4 { link.say(request(Command.writeZeroes, 0, 4096)) }
        world.run()
        #expect(link.received == simpleReply(28) + simpleReply(28) + simpleReply(5) + simpleReply())
        #expect(world.logged.count == 2 && server.status.failedRequests == 3)
    }
    @Test(
        "a volume that was taken over ends its connections unanswered: whoever serves it now may be asked again"
    )
    func takenOver() throws {
        let mapped = MemoryVolume(environment: world, size: ByteCount(bytes: 1 << 20))
        try server.add(NBDExport(name: "mapped", volume: mapped, answersWhenFenced: true))
        (volume.failures, mapped.failures) = ([.fenced, .fenced], [.fenced])
        let (link, kernel) = (servedClient(), world.client())
        kernel.say(hello("mapped"))
        kernel.received = []
        link.say(request(Command.flush) + request(Command.flush, cookie: 2))
        kernel.say(request(Command.flush))
        world.run()
        #expect(link.isClosed && link.received.isEmpty && server.status.connections == 1)
        #expect(!kernel.isClosed && kernel.received == simpleReply(5))
    }
    @Test("a client that breaks the protocol is closed and logged with the cause")
    func violation() {
        let link = servedClient()
        link.say([UInt8](repeating: 0, count: 28))
        #expect(link.isClosed && server.status.violations == 1)
        #expect(world.logged.first?.contains("wrong magic") == true)
        expectService()
    }
    @Test("a volume that grows is served at once to old and new clients, and the owner is told")
    func grow() {
        var told: [String] = []
        server.exportResized = { told.append("\($0) \($1)") }
        let old = servedClient()
        volume.resize(to: ByteCount(bytes: 128 << 20))
        old.say(request(Command.flush) + request(Command.read, 127 << 20, 512, cookie: 2))
        world.run()
        #expect(old.received.prefix(32) == (simpleReply() + simpleReply(cookie: 2))[...])
        let new = world.client()
        new.say(hello())
        var size: [UInt8] = []
        size.append(bigEndian: UInt64(128 << 20))
        #expect(new.received.dropFirst(18 + 20 + 2).prefix(8) == size[...] && told == ["vol 128 MiB"])
    }
    @Test("stop answers what is in flight, closes, and then says so")
    func stop() {
        volume.isHolding = true
        let (busy, idle) = (servedClient(), world.client())
        busy.say(request(Command.flush) + request(Command.flush, cookie: 2))
        var isStopped = false
        server.stop { isStopped = true }
        #expect(idle.isClosed && !busy.isClosed && !isStopped && world.listeners.isEmpty)
        volume.release()
        #expect(busy.received == simpleReply() + simpleReply(cookie: 2) && busy.isClosed && isStopped)
    }
    @Test("stop does not wait for ever for a volume that does not answer")
    func stopIsBounded() {
        volume.isHolding = true
        let busy = servedClient()
        busy.say(request(Command.flush))
        var stops = 0
        server.stop(drainFor: .seconds(3)) { stops += 1 }
        world.run(for: .seconds(2))
        #expect(stops == 0)
        world.run(for: .seconds(2))
        volume.release()
        world.run(for: .seconds(20))
        #expect(stops == 1 && busy.isClosed && busy.received.isEmpty)
    }
    @Test("an export that is removed lets its clients go and is offered no longer")
    func remove() throws {
        let other = MemoryVolume(environment: world, size: ByteCount(bytes: 1 << 20), isReadOnly: true)
        try server.add(NBDExport(name: "other", volume: other))
        #expect(throws: NBDServerError.nameTaken("vol")) {
            try server.add(NBDExport(name: "vol", volume: other))
        }
        #expect(throws: NBDServerError.badName) { try server.add(NBDExport(name: "a\0", volume: other)) }
        let (a, b) = (world.client(), world.client())
        a.say(hello("vol"))
        b.say(hello("other"))
        server.remove("vol")
        #expect(a.isClosed && !b.isClosed)
        b.received = []
        b.say(request(Command.trim, 0, 512))
        #expect(b.received == simpleReply(1))
        let late = world.client()
        late.say(hello("vol"))
        #expect(!late.isClosed && server.status.connections == 2)
    }
}
