import BlockTypes
import CurveWire
import Environment
import MemoryEnvironment
import Testing

@testable import ControlMessages

private let places = (1...3).map { SocketAddress.tcp(host: "mds\($0)", port: 6700) }

/// Up to three metadata servers, of which at most one leads, and one who asks.
private final class Row {
    let world = MemoryWorld()
    let channel: ControlChannel
    /// Which one leads, whom the others name, who says nothing.
    var leader: SocketAddress?
    var named: SocketAddress?
    var silent: Set<SocketAddress> = []
    private var servers: [SocketAddress: ControlServer] = [:]
    /// Who was asked, in order.
    private(set) var asked: [SocketAddress] = []
    private(set) var told: [String] = []

    init(_ addresses: [SocketAddress] = places) {
        channel = ControlChannel(
            environment: world.environment("tool"), addresses: addresses, hello: Hello(role: .tool),
            pool: BufferPool())
    }
    func open(_ address: SocketAddress) throws {
        let server = ControlServer(
            environment: world.environment("\(address)"), pool: BufferPool(), hello: Hello(role: .metadata))
        server.onRequest = { [unowned self] peer, id, _ in
            asked.append(address)
            if silent.contains(address) { return }
            if address == leader {
                return peer.respond(to: id, ControlResponse(.empty(ControlEmptyResponse())))
            }
            var failure = ControlFailure(.notLeading, "\(address) stands by")
            failure.leader = named?.description ?? ""
            peer.respond(to: id, ControlResponse(refusing: failure))
        }
        try server.listen(on: address)
        servers[address] = server
    }
    func close(_ address: SocketAddress) { servers.removeValue(forKey: address)?.stop() }
    func call(
        _ name: String, timeout: Duration = .seconds(30), isIdempotent: Bool = false,
        endsWhenRefused: Bool = false
    ) {
        channel.call(
            ControlRequest(.getStatus(.init())), timeout: timeout, isIdempotent: isIdempotent,
            endsWhenRefused: endsWhenRefused
        ) { [unowned self] result in
            switch result {
            case .success: told.append("\(name): done")
            case .failure(let error): told.append("\(name): \(error)")
            }
        }
        world.settle()
    }
}

@Suite struct LeaderSearchTests {
    @Test("whoever stands by is passed over, and the one that led answers first the next time")
    func passedOver() throws {
        let row = Row()
        for place in places { try row.open(place) }
        row.leader = places[2]
        row.call("a")
        #expect(row.told == ["a: done"] && row.asked == places)
        row.close(places[2])
        row.world.run(for: .seconds(1))
        try row.open(places[2])
        row.call("b")
        #expect(row.told == ["a: done", "b: done"] && row.asked == places + [places[2]])
    }

    @Test("the one that is named is asked next; what was asked of one that stands by was not done")
    func hint() throws {
        let row = Row()
        for place in places { try row.open(place) }
        (row.leader, row.named) = (places[2], places[2])
        row.call("once")
        #expect(row.told == ["once: done"] && row.asked == [places[0], places[2]])
    }

    @Test("the one that is named may be one that the list does not know")
    func hintBeyondTheList() throws {
        let row = Row([places[0]])
        for place in places { try row.open(place) }
        (row.leader, row.named) = (places[1], places[1])
        row.call("a")
        row.call("b")
        #expect(row.told == ["a: done", "b: done"] && row.asked == [places[0], places[1], places[1]])
        row.close(places[1])
        (row.leader, row.named) = (places[0], nil)
        row.world.run(for: .seconds(1))
        row.call("c")
        #expect(row.told.last == "c: done")
    }

    @Test("while none leads the channel goes round, with pauses that grow to their bound")
    func nobodyLeads() throws {
        let row = Row()
        for place in places { try row.open(place) }
        row.named = places[0]
        row.call("a", timeout: .seconds(20))
        row.world.run(for: .seconds(10))
        #expect(row.told.isEmpty)
        // Each round asks each server once; pauses of 50 ms to 2 s lie between.
        #expect(row.asked.count >= 3 * 6 && row.asked.count <= 3 * 20)
        row.leader = places[1]
        row.world.run(for: ControlChannel.pauseMax)
        #expect(row.told == ["a: done"])
        row.leader = nil
        row.call("b", timeout: .seconds(1))
        row.world.run(for: .seconds(1))
        for place in places { #expect(row.told.last?.contains("\(place) stands by") == true) }
    }

    @Test("two that name each other are asked once in each round")
    func circle() throws {
        let row = Row([places[0]])
        try row.open(places[0])
        row.named = places[0]
        row.call("a", timeout: .seconds(1))
        row.world.run(for: .seconds(1))
        #expect(row.asked.count < 15 && row.told.count == 1)
    }

    @Test("one that hangs is left for another, once; with nobody else to ask its answer is waited for")
    func hang() throws {
        let row = Row()
        for place in places { try row.open(place) }
        (row.leader, row.silent) = (places[1], [places[0]])
        row.call("again", isIdempotent: true)
        row.call("once")
        row.world.run(for: ControlChannel.hangMax + .milliseconds(100))
        #expect(row.told.count == 2)
        #expect(row.told.contains("again: done"))
        #expect(row.told.contains { $0.hasPrefix("once: ") && $0.contains("look whether") })
        let lonely = Row([places[0]])
        try lonely.open(places[0])
        lonely.silent = [places[0]]
        lonely.call("a", timeout: .seconds(20), isIdempotent: true)
        lonely.world.run(for: .seconds(19))
        #expect(lonely.told.isEmpty && lonely.asked.count == 1)
    }

    @Test("who only wants to say good-bye is told at once that nobody listens, also between two attempts")
    func endsWhenRefused() throws {
        let row = Row()
        row.call("a", endsWhenRefused: true)
        #expect(row.told.count == 1 && row.told[0].contains("nobody listens on \(places[2])"))
        row.call("patient", timeout: .seconds(60))
        row.world.run(for: .seconds(20))
        let now = row.world.now
        row.call("b", endsWhenRefused: true)
        #expect(row.told.count == 2 && row.world.now == now)
        // One that stands by may lead soon.
        try row.open(places[1])
        row.call("c", timeout: .seconds(2), endsWhenRefused: true)
        row.world.run(for: .seconds(1))
        #expect(row.told.count == 2)
        row.leader = places[1]
        row.world.run(for: .seconds(2))
        #expect(row.told.contains("patient: done"))
    }

    @Test("who wants to know how one server is hears that it stands by")
    func survey() throws {
        let row = Row([places[0]])
        try row.open(places[0])
        row.channel.looksForLeader = false
        row.call("a")
        #expect(row.told == ["a: mds1:6700 stands by"] && row.asked.count == 1)
    }

    @Test("a list names one to eight servers, each once")
    func lists() throws {
        #expect(try MetadataServerList("a:1").addresses == [.tcp(host: "a", port: 1)])
        let list = try MetadataServerList("a:1, b:2,unix:/run/mds")
        #expect(list.addresses.count == 3 && "\(list)" == "a:1,b:2,unix:/run/mds")
        #expect(throws: MetadataServerListError.empty) { try MetadataServerList("") }
        #expect(throws: MetadataServerListError.empty) { try MetadataServerList([]) }
        #expect(throws: MetadataServerListError.notAnAddress("")) { try MetadataServerList("a:1,,b:2") }
        #expect(throws: MetadataServerListError.notAnAddress("b")) { try MetadataServerList("a:1,b") }
        #expect(throws: MetadataServerListError.duplicate(.tcp(host: "a", port: 1))) {
            try MetadataServerList("a:1,b:1,a:1")
        }
        let many = (1...9).map { "h:\($0)" }
        #expect(throws: MetadataServerListError.tooMany(9)) { try MetadataServerList(texts: many) }
        #expect("\(MetadataServerListError.tooMany(9))".contains("at most 8"))
    }
}
