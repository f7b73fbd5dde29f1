import BlockTypes
import CurveWire
import Environment
import FramedLink
import MemoryEnvironment
import Testing

@testable import ControlMessages

private let clusterID = UniqueID(high: 1, low: 2)

/// A channel and a server, in one world.
final class Office {
    let world: MemoryWorld
    let pool = BufferPool()
    let address = SocketAddress.tcp(host: "mds", port: 6700)
    var server: ControlServer?
    let channel: ControlChannel
    /// What the server was asked and has not answered.
    var asked: [(ControlServerConnection, UInt64, ControlRequest)] = []
    var told: [String] = []

    init(seed: UInt64 = 1, hello: Hello = Hello(role: .tool), addresses: [SocketAddress]? = nil) {
        world = MemoryWorld(seed: seed)
        channel = ControlChannel(
            environment: world.environment("tool"), addresses: addresses ?? [address], hello: hello,
            pool: pool)
    }
    func open(
        limits: ControlServer.Limits = .init(), role: PeerRole = .metadata, at address: SocketAddress? = nil
    ) throws {
        let server = ControlServer(
            environment: world.environment("mds"), pool: pool, hello: Hello(role: role, cluster: clusterID),
            limits: limits)
        server.onRequest = { [unowned self] in asked.append(($0, $1, $2)) }
        try server.listen(on: address ?? self.address)
        self.server = server
    }
    func call(_ path: String, timeout: Duration = .seconds(30), isIdempotent: Bool = false) {
        var request = ControlGetVolumeRequest()
        request.path = path
        channel.call(ControlRequest(.getVolume(request)), timeout: timeout, isIdempotent: isIdempotent) {
            [unowned self] result in
            switch result {
            case .success(let response): told.append("\(path): \(response.volume.volume.sizeBytes)")
            case .failure(let error): told.append("\(path): \(error)")
            }
        }
    }
    /// Answers the oldest request with `size`.
    func answer(size: UInt64) {
        let (peer, id, _) = asked.removeFirst()
        var volume = ControlVolumeResponse()
        volume.volume.sizeBytes = size
        peer.respond(to: id, ControlResponse(.volume(volume)))
    }
}

@Suite struct ControlChannelTests {
    @Test("a call connects, asks, and hears the answer; the next one uses the same connection")
    func call() throws {
        let office = Office()
        try office.open()
        office.call("/a")
        #expect(office.told.isEmpty)
        office.world.settle()
        #expect(office.asked.map(\.2.getVolume.path) == ["/a"] && office.asked[0].0.hello?.role == .tool)
        office.answer(size: 4096)
        office.call("/b")
        office.world.settle()
        office.answer(size: 8192)
        office.world.settle()
        #expect(office.told == ["/a: 4096", "/b: 8192"])
        #expect(office.server?.connectionCount == 1)
    }

    @Test("answers find their calls in any order")
    func order() throws {
        let office = Office()
        try office.open()
        for path in ["/a", "/b", "/c"] { office.call(path) }
        office.world.settle()
        office.asked.reverse()
        for size in 1...3 { office.answer(size: UInt64(size)) }
        office.world.settle()
        #expect(office.told == ["/c: 1", "/b: 2", "/a: 3"])
    }

    @Test("a refusal comes back as a failure with its message")
    func refusal() throws {
        let office = Office()
        try office.open()
        office.call("/a")
        office.world.settle()
        let (peer, id, _) = office.asked[0]
        peer.respond(to: id, ControlResponse(refusing: ControlFailure(.notFound, "there is no /a")))
        peer.respond(to: id, ControlResponse(refusing: ControlFailure(.notFound, "a second answer")))
        office.world.settle()
        #expect(office.told == ["/a: there is no /a"])
    }

    @Test(
        "with nobody there a call waits until its timeout and names the address; one who comes later serves")
    func nobody() throws {
        let office = Office()
        office.call("/short", timeout: .seconds(1), isIdempotent: true)
        office.call("/long", timeout: .seconds(20))
        office.world.run(for: .seconds(5))
        #expect(office.told.count == 1 && office.told[0].contains("mds:6700"))
        try office.open()
        office.world.run(for: ControlChannel.pauseMax)
        office.answer(size: 1)
        office.world.settle()
        #expect(office.told.last == "/long: 1")
    }

    @Test("an answer that takes too long fails the call; its late arrival harms nobody")
    func late() throws {
        let office = Office()
        try office.open()
        office.call("/a", timeout: .seconds(2))
        office.call("/b", timeout: .seconds(9))
        office.world.run(for: .seconds(3))
        #expect(office.told.count == 1 && office.told[0].contains("did not answer within"))
        office.answer(size: 1)
        office.answer(size: 2)
        office.world.settle()
        #expect(office.told.count == 2 && office.told[1] == "/b: 2")
    }

    @Test("after a broken connection an idempotent call is asked again, any other fails at once")
    func broken() throws {
        let office = Office()
        try office.open()
        office.call("/again", isIdempotent: true)
        office.call("/once")
        office.world.settle()
        office.asked[0].0.close()
        office.asked = []
        office.world.run(for: .seconds(3))
        #expect(office.told.count == 1 && office.told[0].hasPrefix("/once: mds:6700"))
        #expect(office.asked.map(\.2.getVolume.path) == ["/again"])
        office.answer(size: 5)
        office.world.settle()
        #expect(office.told.last == "/again: 5")
    }

    @Test("a server that went silent without a reset is left for a new connection")
    func silentServer() throws {
        let office = Office()
        try office.open()
        office.call("/lost", timeout: .seconds(4))
        office.call("/again", timeout: .seconds(20), isIdempotent: true)
        office.call("/once", timeout: .seconds(20))
        office.world.settle()
        office.asked = []  // The first server never answers; its address now leads to another.
        office.server?.stopListening()
        let first = office.server
        try office.open()
        office.world.run(for: .seconds(8))
        #expect(office.told.count == 2 && office.told[0].contains("did not answer within 4"))
        #expect(office.told[1].hasPrefix("/once: ") && office.told[1].contains("look whether"))
        #expect(office.asked.map(\.2.getVolume.path) == ["/again"] && first?.connectionCount == 0)
        office.answer(size: 3)
        office.world.settle()
        #expect(office.told.last == "/again: 3")
    }

    @Test("the addresses are tried in turn")
    func addresses() throws {
        let other = SocketAddress.unix(path: "/run/other")
        let office = Office(addresses: [other, .tcp(host: "mds", port: 6700)])
        try office.open()
        office.call("/a")
        office.world.settle()
        #expect(office.asked.count == 1)
    }

    @Test("another cluster is refused at once, with both names")
    func otherCluster() throws {
        let office = Office(
            hello: Hello(role: .chunkserver, cluster: UniqueID(high: 9, low: 9), server: ServerID(1)))
        try office.open()
        office.call("/a", isIdempotent: true)
        office.world.settle()
        #expect(office.told.count == 1 && office.told[0].contains("\(clusterID)"))
        #expect(office.asked.isEmpty)
    }

    @Test("a process that is no metadata server is not asked anything")
    func otherRole() throws {
        let office = Office()
        try office.open(role: .chunkserver)
        office.call("/a")
        office.world.settle()
        #expect(office.told.count == 1 && office.told[0].contains("a metadata server was expected"))
    }

    @Test("calls are bounded, and every one is answered once when the channel closes")
    func bounds() throws {
        let office = Office()
        for number in 0...ControlChannel.pendingMax { office.call("/\(number)") }
        office.world.settle()
        #expect(office.told.count == 1 && office.told[0].hasPrefix("/\(ControlChannel.pendingMax): "))
        office.channel.close()
        office.call("/late")
        office.world.run(for: .seconds(60))
        #expect(office.told.count == ControlChannel.pendingMax + 2)
        #expect(office.told.allSatisfy { $0.contains("closing") || $0.contains("waiting already") })
    }

    @Test("the pause between attempts grows to its bound and no further")
    func pauses() {
        let office = Office()
        var attempts: [Duration] = []
        office.channel.connectionState = { state in
            if case .connecting = state { attempts.append(office.world.now) }
        }
        office.call("/a", timeout: .seconds(30))
        office.world.run(for: .seconds(30))
        let gaps = zip(attempts.dropFirst(), attempts).map { $0 - $1 }
        #expect(gaps.allSatisfy { $0 >= ControlChannel.pauseMin / 2 && $0 <= ControlChannel.pauseMax })
        #expect(gaps[0] <= ControlChannel.pauseMin && gaps.count >= 14 && gaps.count < 40)
    }

    @Test("an answer that makes no sense fails its call, not the channel")
    func nonsense() throws {
        let world = MemoryWorld()
        let address = SocketAddress.unix(path: "/run/mds")
        var link: FramedLink?
        let environment = world.environment("mds")
        let listener = try environment.listen(on: address) { connection in
            link = FramedLink(
                connection: connection, environment: environment, pool: BufferPool(),
                mine: Hello(role: .metadata), check: { _ in nil })
            link?.onFrame = { frame in
                if case .control(let id, _) = frame {
                    link?.send(.controlReply(id: id, body: [0xFF, 0xFF]))
                    link?.send(.controlReply(id: id + 77, body: []))
                }
            }
        }
        let channel = ControlChannel(
            environment: world.environment("tool"), addresses: [address], hello: Hello(role: .tool),
            pool: BufferPool())
        var results: [String] = []
        channel.call(ControlRequest(.getStatus(.init())), timeout: .seconds(1)) { results.append("\($0)") }
        world.settle()
        #expect(results.count == 1 && results[0].contains("damaged"))
        if case .connected = channel.state {} else { Issue.record("not connected any more") }
        listener.close()
        link?.close()
        world.run(for: .seconds(1))
        link = nil
    }
}

@Suite struct ControlServerTests {
    @Test("a peer is not read beyond its bound of open requests, and read on as answers leave")
    func inFlight() throws {
        let office = Office()
        var limits = ControlServer.Limits()
        limits.inFlightPerConnectionMax = 4
        try office.open(limits: limits)
        for number in 0..<10 { office.call("/\(number)") }
        office.world.settle()
        #expect(office.asked.count == 4)
        office.answer(size: 1)
        office.world.settle()
        #expect(office.asked.count == 4 && office.told.count == 1)
        while !office.asked.isEmpty {
            office.answer(size: 1)
            office.world.settle()
        }
        #expect(office.told.count == 10)
    }

    @Test("a full server makes room by closing a silent stranger, else it refuses")
    func connections() throws {
        let office = Office()
        var limits = ControlServer.Limits()
        limits.connectionsMax = 2
        try office.open(limits: limits)
        var strangers: [any Connection] = []
        let environment = office.world.environment("stranger")
        for _ in 0..<2 {
            environment.connect(to: office.address, timeout: .seconds(1)) { result in
                if case .success(let connection) = result {
                    connection.handler = Deaf()
                    strangers.append(connection)
                }
            }
        }
        office.world.settle()
        office.call("/a")
        office.world.settle()
        #expect(office.asked.count == 1)
        let other = ControlChannel(
            environment: environment, addresses: [office.address], hello: Hello(role: .tool),
            pool: office.pool)
        var results: [String] = []
        let request = ControlRequest(.getStatus(.init()))
        other.call(request, timeout: .seconds(5)) { results.append("\($0)") }
        office.world.settle()
        #expect(office.asked.count == 2, "the second stranger had to go")
        let third = ControlChannel(
            environment: environment, addresses: [office.address], hello: Hello(role: .tool),
            pool: office.pool)
        third.call(request, timeout: .seconds(5)) { results.append("\($0)") }
        office.world.settle()
        #expect(results.count == 1 && results[0].contains("too many connections"))
        office.answer(size: 1)
        office.world.settle()
        #expect(office.told == ["/a: 1"])
    }

    @Test("when full, who has asked nothing for long makes room; who waits for an answer stays")
    func idlePeers() throws {
        let office = Office()
        var limits = ControlServer.Limits()
        limits.connectionsMax = 2
        try office.open(limits: limits)
        office.call("/waits", timeout: .seconds(300))
        let environment = office.world.environment("others")
        let request = ControlRequest(.getStatus(.init()))
        var answers = 0
        let others = (0..<2).map { _ in
            ControlChannel(
                environment: environment, addresses: [office.address], hello: Hello(role: .tool),
                pool: office.pool)
        }
        others[0].call(request, timeout: .seconds(5)) { _ in answers += 1 }
        office.world.settle()
        let waiting = office.asked.removeFirst()
        office.answer(size: 1)
        office.world.run(for: limits.idleMin)
        others[1].call(request, timeout: .seconds(5)) { _ in answers += 1 }
        office.world.settle()
        office.answer(size: 1)
        office.asked.append(waiting)
        office.answer(size: 7)
        office.world.settle()
        #expect(answers == 2 && office.told == ["/waits: 7"] && office.server?.connectionCount == 2)
    }

    @Test("an unknown request is answered with what to do")
    func unknown() throws {
        let office = Office()
        try office.open()
        var results: [String] = []
        office.channel.call(ControlRequest(), timeout: .seconds(1)) { results.append("\($0)") }
        office.world.settle()
        #expect(results.count == 1 && results[0].contains("same release"))
    }

    @Test("a peer that goes is noticed once, and answers to it lead nowhere")
    func gone() throws {
        let office = Office()
        try office.open()
        office.call("/a")
        office.world.settle()
        var gone = 0
        office.asked[0].0.onClosed = { gone += 1 }
        office.channel.close()
        office.world.settle()
        #expect(gone == 1 && office.server?.connectionCount == 0)
        office.answer(size: 1)
        office.world.settle()
        #expect(office.told.count == 1)
    }

    @Test("stopping closes every peer and frees the address")
    func stop() throws {
        let office = Office()
        try office.open()
        office.call("/a", timeout: .seconds(1))
        office.world.settle()
        office.server?.stop()
        office.world.run(for: .seconds(6))
        #expect(office.server?.connectionCount == 0)
        #expect(office.told.count == 1)
        try office.open()
    }

    @Test("16 bytes name a cluster both ways")
    func ids() {
        let id = UniqueID(high: 0x0102_0304_0506_0708, low: .max)
        #expect(UniqueID(controlBytes: id.controlBytes) == id)
        #expect(Array(id.controlBytes.prefix(3)) == [1, 2, 3])
        #expect(UniqueID(controlBytes: id.controlBytes.dropFirst()) == nil)
    }
}

final class Deaf: ConnectionHandler {
    func connectionReceiveWindow() -> UnsafeMutableRawBufferPointer? { nil }
    func connectionReceived(_ bytes: UnsafeRawBufferPointer) {}
    func connectionDrained() {}
    func connectionClosed(_ reason: NetworkError) {}
}
