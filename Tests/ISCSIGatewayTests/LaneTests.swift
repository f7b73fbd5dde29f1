import Environment
import ISCSIConfiguration
import ISCSIInitiator
import MemoryEnvironment
import Testing

@testable import ISCSIGateway

/// An initiator that logs in, asks and listens.
final class Guest: ConnectionHandler {
    private var link: (any Connection)?
    private var listener = PDUListener()
    private(set) var heard: [Heard] = []
    private(set) var closed: NetworkError?
    private var commands: UInt32 = 0
    private let site: Site

    /// - Parameter waits: it says the first word in its own time.
    init(_ site: Site, _ target: String?, by portal: SocketAddress, isid: UInt64 = 1, waits: Bool = false) {
        self.site = site
        site.world.environment("10.0.0.9:1").connect(to: portal, timeout: .seconds(1)) { [self] result in
            guard case .success(let connection) = result else { return }
            link = connection
            connection.handler = self
        }
        site.world.settle()
        let what = target.map { "TargetName=\($0)" } ?? "SessionType=Discovery"
        let login = Wire.login(
            ["InitiatorName=iqn.2000-01.com.example:guest", what], stage: 1, next: 3, isid: isid)
        if waits { link?.send([.bytes(login)]) } else { say(login) }
    }
    func say(_ bytes: [UInt8]) {
        link?.send([.bytes(bytes)])
        site.world.settle()
    }
    /// The sense of a command that moves nothing; empty when it ends well.
    func ask(_ cdb: [UInt8], lun: UInt64 = 0) -> [UInt8]? {
        commands += 1
        say(Wire().command(tag: 1000 + commands, cdb: cdb, lun: lun << 48, cmdSN: 99 + commands))
        guard let answer = heard.last, answer.opcode == 0x21, answer.tag == 1000 + commands else {
            return nil
        }
        return answer.status == 0 ? [] : answer.sense
    }
    var isLoggedIn: Bool { heard.first?.half(36) == 0 && closed == nil }
    func leave() { link?.close() }

    func connectionReceiveWindow() -> UnsafeMutableRawBufferPointer? { nil }
    func connectionReceived(_ bytes: UnsafeRawBufferPointer) {
        listener.hear(Array(bytes))
        while let pdu = listener.next() { heard.append(pdu) }
    }
    func connectionDrained() {}
    func connectionClosed(_ reason: NetworkError) { closed = reason }
}

@Suite struct LaneTests {
    static let names = (0..<4).map { "iqn.2026-11.example.com:t\($0)" }
    static let portals = [3260, 3261].map { SocketAddress.tcp(host: "10.0.0.1", port: $0) }

    private static func site(loops: Int, stuck: Int? = nil) throws -> (Site, Gateway) {
        let site = try Site()
        try site.change { all in
            for portal in portals { try all.create(PortalEntry(address: "\(portal)"), of: "a") }
            for name in names {
                try all.create(TargetEntry(name: name))
                try all.create(InitiatorEntry(initiator: "*"), of: name)
            }
        }
        return (site, site.gateway("a", loops: loops, stuck: stuck))
    }
    private static func report(_ site: Site, _ expected: UInt64) throws -> GatewayReport {
        var orders = GatewayOrders()
        for _ in 0...expected { _ = orders.add() }
        try site.order(1, orders, expected: expected)
        return try site.report(1)
    }

    @Test("targets are spread over the loops, the one with the portals last, and stay where they are")
    func spread() throws {
        let (site, process) = try Self.site(loops: 3)
        let places = process.gateway.lanes.map { $0.facts.offered.map(\.name) }
        #expect(places.map(\.count) == [1, 1, 2])
        try site.change { try $0.deleteTarget(places[2][0], force: true) }
        try site.change { all in
            try all.create(TargetEntry(name: "iqn.2026-11.example.com:new"))
            try all.change(target: Self.names[3]) { $0.alias = "other" }
        }
        let later = process.gateway.lanes.map { $0.facts.offered.map(\.name) }
        #expect(later.map(\.count).sorted() == [1, 1, 2])
        for (before, after) in zip(places, later) {
            for name in before where name != places[2][0] { #expect(after.contains(name)) }
        }
    }
    @Test("initiators find and reach every target by every portal", arguments: [1, 3])
    func reached(loops: Int) throws {
        let (site, process) = try Self.site(loops: loops)
        let looker = Guest(site, nil, by: Self.portals[0])
        looker.say(Wire().text(["SendTargets=All"], tag: 3, cmdSN: 100))
        let told = looker.heard.last?.text.filter { $0.hasPrefix("TargetName=") } ?? []
        #expect(told.sorted() == Self.names.map { "TargetName=\($0)" })
        looker.leave()
        var guests: [Guest] = []
        for (index, name) in Self.names.enumerated() {
            guests.append(Guest(site, name, by: Self.portals[index % 2], isid: UInt64(index)))
        }
        #expect(guests.allSatisfy { $0.isLoggedIn })
        let stranger = Guest(site, "iqn.2026-11.example.com:none", by: Self.portals[0])
        #expect(!stranger.isLoggedIn && stranger.heard.last?.half(36) == 0x0203)
        // All are in the report, each by a number of its own; one that is ended goes alone.
        let report = try Self.report(site, 0)
        #expect(report.sessionCount == 4 && Set(report.sessions.map(\.number)).count == 4)
        #expect(Set(report.sessions.map(\.target)) == Set(Self.names))
        let ended = try #require(report.sessions.first { $0.target == Self.names[1] })
        var orders = GatewayOrders()
        _ = orders.add()
        _ = orders.add(session: ended.number, start: report.start)
        try site.order(1, orders, expected: 1)
        #expect(guests.map { $0.closed != nil } == [false, true, false, false])
        #expect(try site.report(1).sessionCount == 3)
        #expect(process.failure == nil)
    }
    @Test("a portal that is closed ends what came by it, whatever loop that went to", arguments: [1, 3])
    func portalCloses(loops: Int) throws {
        let (site, process) = try Self.site(loops: loops)
        let guests = Self.names.enumerated().map { index, name in
            Guest(site, name, by: Self.portals[index % 2], isid: UInt64(index))
        }
        #expect(guests.allSatisfy { $0.isLoggedIn })
        try site.change { try $0.deletePortal("\(Self.portals[1])", of: "a") }
        site.world.run(for: .seconds(5))
        #expect(guests.map { $0.closed != nil } == [false, true, false, true])
        // Each was asked to log out before.
        #expect([1, 3].allSatisfy { guests[$0].heard.contains { $0.opcode == 0x32 } })
        #expect(process.failure == nil)
    }
    @Test("who loses the right is dropped on every loop; a target that goes takes its sessions along")
    func rights() throws {
        let (site, process) = try Self.site(loops: 3)
        let guests = Self.names.enumerated().map { index, name in
            Guest(site, name, by: Self.portals[0], isid: UInt64(index))
        }
        try site.change { all in
            for name in Self.names.prefix(2) { try all.deleteRule("*", of: name) }
            try all.deleteTarget(Self.names[2], force: true)
        }
        #expect(guests.map { $0.closed != nil } == [true, true, true, false])
        #expect(Set(process.targets) == Set([0, 1, 3].map { Self.names[$0] }))
    }
    @Test("a login to a target that goes while the connection moves is told so")
    func goneOnTheWay() throws {
        let (site, process) = try Self.site(loops: 2)
        let name = try #require(process.gateway.lanes[1].facts.offered.first?.name)
        process.loops[0].standsStill = true
        try site.change { try $0.deleteTarget(name, force: true) }
        let guest = Guest(site, name, by: Self.portals[0], waits: true)
        process.loops[0].standsStill = false
        site.world.settle()
        #expect(guest.heard.map { $0.half(36) } == [0x0203])
    }
    @Test("nobody can come before the targets of all loops are there, or one of them takes too long")
    func opens() throws {
        let (site, process) = try Self.site(loops: 2, stuck: 1)
        #expect(Guest(site, Self.names[0], by: Self.portals[0]).heard.isEmpty && process.ready == nil)
        process.loops[1].standsStill = false
        site.world.settle()
        #expect(process.ready == Self.portals)
        #expect(Self.names.allSatisfy { Guest(site, $0, by: Self.portals[0]).isLoggedIn })
        let (other, late) = try Self.site(loops: 2, stuck: 1)
        other.world.run(for: ConfiguredGateway.openingPatience)
        #expect(late.ready == nil)
        let served = try #require(late.gateway.lanes[0].facts.offered.first?.name)
        #expect(Guest(other, served, by: Self.portals[0]).isLoggedIn)
        late.loops[1].standsStill = false
        other.world.settle()
        #expect(late.ready == Self.portals)
    }
    @Test("a connection between two loops when the gateway ends is closed", arguments: [false, true])
    func endsBetween(givesWay: Bool) throws {
        let (site, process) = try Self.site(loops: 2)
        let name = try #require(process.gateway.lanes[1].facts.offered.first?.name)
        process.loops[1].standsStill = true
        let guest = Guest(site, name, by: Self.portals[0])
        if givesWay {
            _ = site.gateway("a", process: "other", loops: 2)
        } else {
            process.gateway.stop { process.hasStopped = true }
        }
        site.world.run(for: .seconds(1))
        #expect(guest.closed == nil)
        process.loops[1].standsStill = false
        site.world.run(for: .seconds(15))
        #expect(guest.closed != nil)
        #expect(givesWay ? process.failure != nil : process.hasStopped)
    }
    @Test("a loop that stands still holds so many connections, and the others serve")
    func standsStill() throws {
        let (site, process) = try Self.site(loops: 2)
        let places = process.gateway.lanes.compactMap { $0.facts.offered.first?.name }
        process.loops[1].standsStill = true
        let guests = (0..<LaneLink.passingMax + 3).map {
            Guest(site, places[1], by: Self.portals[0], isid: UInt64($0))
        }
        #expect(Guest(site, places[0], by: Self.portals[0]).isLoggedIn)
        site.world.run(for: .seconds(1))
        #expect(guests.allSatisfy { $0.heard.isEmpty } && guests.count { $0.closed != nil } == 3)
        #expect(site.world.log.count { $0.contains("its loop stands still") } == 1)
        process.loops[1].standsStill = false
        site.world.run(for: .seconds(1))
        #expect(guests.count { $0.isLoggedIn } == LaneLink.passingMax)
        #expect(Guest(site, places[1], by: Self.portals[0], isid: 999).isLoggedIn)
    }
    @Test("an order that comes while lanes are asked for a report counts as done in the next report")
    func orderAmongReports() throws {
        let (site, process) = try Self.site(loops: 2)
        let name = try #require(process.gateway.lanes[1].facts.offered.first?.name)
        let guest = Guest(site, name, by: Self.portals[0])
        let session = try #require(try Self.report(site, 0).sessions.first)
        var reports: [GatewayReport] = []
        site.values.watch(GatewayReport.valueName(tag: 1)) { _ in
        } changed: { value in
            if let report: GatewayReport = try? StoredConfiguration.value(value.bytes, "a report") {
                reports.append(report)
            }
        }
        // A reason for a report, whose question the loop hears before the order.
        process.loops[1].standsStill = true
        try site.change { try $0.create(TargetEntry(name: "iqn.2026-11.example.com:new")) }
        var orders = GatewayOrders()
        _ = orders.add()
        let number = orders.add(session: session.number, start: process.gateway.start)
        try site.order(1, orders, expected: 1)
        process.loops[1].standsStill = false
        site.world.run(for: .seconds(2))
        #expect(guest.closed != nil)
        let later = reports.filter { $0.ordersDone >= number }
        #expect(!later.isEmpty && later.allSatisfy { $0.sessionCount == 0 })
        #expect(reports.contains { $0.ordersDone < number && $0.sessionCount == 1 })
    }
    @Test("the end reaches all loops", arguments: [1, 3])
    func ends(loops: Int) throws {
        let (site, process) = try Self.site(loops: loops)
        let guests = Self.names.enumerated().map { index, name in
            Guest(site, name, by: Self.portals[0], isid: UInt64(index))
        }
        process.gateway.stop { process.hasStopped = true }
        site.world.run(for: .seconds(15))
        #expect(process.hasStopped && guests.allSatisfy { $0.closed != nil })
        #expect(try site.report(1).hasEnded)
    }
}
