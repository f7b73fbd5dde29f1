import BlockTypes
import Environment
import ISCSIInitiator
import ISCSIProtocol
import MemoryEnvironment
import SCSICommands
import TestVolumes
import Testing

@testable import ISCSIServer

/// A server as one of several gateways.
@Suite struct SharedTargetTests {
    static func changed(
        _ request: ReservationRequest, _ table: ReservationTable = ReservationTable()
    ) throws -> ReservationTable {
        try table.applying(
            request, from: ReservationParty(initiatorPort: "elsewhere", targetPort: 2), registrationsMax: 9)
    }
    static let key = UnitKey(identifier: Site.unit(0).identifier)

    @Test("another gateway's reset ends commands here, and is told to who sent them")
    func resetElsewhere() throws {
        let site = try Site()
        let initiator = site.servedInitiator()
        site.volume.isHolding = true
        let first = initiator.send(TestInitiator.read10(8, 1), read: 512)
        // COMPARE AND WRITE: a read first, and no write any more.
        let compare: [UInt8] = [0x89, 0] + [UInt8](repeating: 0, count: 11) + [1, 0, 0]
        let second = initiator.send(compare, write: [UInt8](repeating: 0, count: 1024))
        site.world.settle()
        #expect(site.volume.heldCount == 2)
        site.coordinator.reservationsChanged?(Self.key, try Self.changed(.reset(.unit)))
        site.world.settle()
        #expect(site.server.endings.count == 1 && initiator.ended[first] == nil)
        (site.volume.isHolding, site.volume.keepsLog) = (false, true)
        site.volume.release()
        site.world.settle()
        #expect(site.server.endings.isEmpty && initiator.ended[second] == nil)
        #expect(site.volume.log.isEmpty && site.server.status.inFlightCommands == 0)
        #expect(initiator.run(TestInitiator.testUnitReady)?.sense == [6, 0x29, 3])
        #expect(initiator.run(TestInitiator.testUnitReady)?.status == 0)
    }
    @Test("another gateway's TARGET COLD RESET ends all sessions here, once")
    func coldResetElsewhere() throws {
        let site = try Site()
        let initiator = site.servedInitiator()
        let table = try Self.changed(.reset(.powerOn))
        site.coordinator.reservationsChanged?(Self.key, table)
        site.world.settle()
        #expect(initiator.takeHeard().last?.opcode == 0x32 && site.server.sessions.isEmpty)
        // Another unit tells of the same reset: who is back stays.
        let again = site.servedInitiator()
        site.coordinator.reservationsChanged?(Self.key, try Self.changed(.reset(.powerOn), table))
        site.world.settle()
        #expect(site.server.sessions.count == 1 && again.takeHeard().isEmpty)
        site.world.run(for: .seconds(6))
        let next = try Self.changed(.reset(.powerOn), try Self.changed(.reset(.powerOn), table))
        site.coordinator.reservationsChanged?(Self.key, next)
        site.world.settle()
        #expect(site.server.sessions.isEmpty && site.server.endings.isEmpty)
    }
    @Test("a drain asks for logouts, lets nobody in, serves who stays, and tells when the last has left")
    func drain() throws {
        let site = try Site()
        let (first, second) = (site.servedInitiator(), site.servedInitiator("10.0.0.8:1", isid: 2))
        var drained = 0
        site.server.drain { drained += 1 }
        site.world.settle()
        for initiator in [first, second] {
            let message = initiator.takeHeard().last
            #expect(message?.opcode == 0x32 && message?.header[36] == 1)
        }
        #expect(site.initiator("10.0.0.7:1").logIn(isid: 3)?.status == 0x0301)
        #expect(first.write(0, [UInt8](repeating: 1, count: 512))?.status == 0)
        first.logOut()
        #expect(drained == 0)
        second.link?.reset()
        site.world.settle()
        #expect(drained == 1)
        site.server.endDrain()
        site.expectService()
        site.server.drain(redirecting: true) { drained += 1 }
        site.world.settle()
        #expect(drained == 2)
        #expect(site.initiator("10.0.0.7:1").logIn(isid: 3)?.status == 0x0301)
        site.coordinator.addressesChanged?(targetName, ["10.0.0.2:3260,2"])
        #expect(site.initiator("10.0.0.7:1").logIn(isid: 3)?.status == 0x0101)
    }
    @Test("a portal that is closed asks its sessions to log out, and ends those that stay; others go on")
    func closedPortal() throws {
        let site = try Site()
        let second = SocketAddress.tcp(host: "10.0.0.2", port: 3260)
        try site.server.listen(on: second)
        let stays = site.servedInitiator()
        let asked = TestInitiator(site.world, at: second, from: "10.0.0.8:1")
        #expect(asked.logIn(isid: 2)?.status == 0)
        let idle = TestInitiator(site.world, at: second, from: "10.0.0.7:1")
        site.world.settle()
        site.server.stopListening(on: second)
        site.world.settle()
        let message = asked.takeHeard().last
        #expect(message?.opcode == 0x32 && message?.header[36] == 1)
        #expect(idle.closed != nil && asked.closed == nil && site.server.sessions.count == 2)
        #expect(asked.run(TestInitiator.testUnitReady)?.sense == [6, 0x29, 0])
        site.world.run(for: .seconds(3))
        #expect(asked.closed != nil && site.server.sessions.count == 1)
        #expect(stays.takeHeard().isEmpty && stays.run(TestInitiator.testUnitReady)?.status == 0)
        // Another portal in its place is another one.
        try site.server.listen(on: second)
        let again = TestInitiator(site.world, at: second, from: "10.0.0.8:2")
        #expect(again.logIn(isid: 2)?.status == 0)
    }
    @Test(
        "who looks for targets by one portal does not end who does by another; a closed portal ends its own")
    func discoveryByPortals() throws {
        let site = try Site()
        let second = SocketAddress.tcp(host: "10.0.0.2", port: 3260)
        try site.server.listen(on: second)
        func discover(_ address: SocketAddress, from host: String) -> TestInitiator {
            let initiator = TestInitiator(site.world, at: address, from: host)
            initiator.say(
                Wire.login(
                    ["InitiatorName=\(TestInitiator.name)", "SessionType=Discovery"], stage: 1, next: 3))
            site.world.settle()
            #expect(initiator.takeHeard().last?.flags == 0x87)
            return initiator
        }
        let first = discover(portal, from: "10.0.0.8:1")
        let other = discover(second, from: "10.0.0.8:2")
        #expect(first.closed == nil && other.closed == nil)
        let again = discover(portal, from: "10.0.0.8:3")
        #expect(first.closed != nil && other.closed == nil && again.closed == nil)
        site.server.stopListening(on: second)
        site.world.settle()
        #expect(other.closed != nil && other.takeHeard().isEmpty && again.closed == nil)
    }
    /// One unit of 4 MiB at a gateway whose keeper can be slow.
    private static func serve() throws -> (MemoryWorld, SlowKeeper, ISCSIServer) {
        let world = MemoryWorld()
        let environment = world.environment("gateway")
        let keeper = SlowKeeper(environment)
        let server = ISCSIServer(environment: environment, coordinator: keeper)
        try server.listen(on: portal)
        let volume = MemoryVolume(environment: environment, size: ByteCount(bytes: 4 << 20))
        server.addTarget(TargetDescription(name: targetName)) { _ in }
        world.settle()
        server.addUnit(Site.unit(0), over: volume, to: targetName) { _ in }
        world.settle()
        return (world, keeper, server)
    }
    @Test("a sanitize operation reports how far it is, and what another one's gateway reports is told")
    func sanitizeProgress() throws {
        let (world, keeper, server) = try Self.serve()
        defer { withExtendedLifetime(server) {} }
        let initiator = TestInitiator(world, at: portal)
        _ = initiator.logIn()
        _ = initiator.run(TestInitiator.testUnitReady)
        let list: [UInt8] = [1, 0, 0, 1, 0xaa]
        #expect(initiator.run([0x48, 1, 0, 0, 0, 0, 0, 0, 5, 0], write: list)?.status == 0)
        #expect(keeper.reports.count == 4 && keeper.reports.last == 0)
        #expect(Array(keeper.reports.dropLast()) == keeper.reports.dropLast().sorted())
        var table = ReservationTable()
        (table.version, table.sanitize) = (3, .running(port: 2, allowsExit: false))
        keeper.reservationsChanged?(Self.key, table)
        keeper.sanitizeReported?(Self.key, 0x1234)
        world.settle()
        #expect(initiator.run(TestInitiator.testUnitReady)?.sense == [2, 4, 0x1b])
        let sense = initiator.run([3, 0, 0, 0, 18, 0], read: 18)?.data
        #expect(sense?[15...17] == [0x80, 0x12, 0x34])
    }
    @Test("a logout waits for other gateways to hear of its RESERVE(6), and not for ever")
    func farewell() throws {
        let (world, keeper, server) = try Self.serve()
        for isDeaf in [false, true] {
            let initiator = TestInitiator(world, at: portal)
            _ = initiator.logIn()
            _ = initiator.run(TestInitiator.testUnitReady)
            #expect(initiator.run(TestInitiator.reserve6)?.status == 0)
            let count = keeper.waiting.count
            keeper.isSlow = true
            initiator.logOut()
            world.run(for: .seconds(4))
            #expect(initiator.closed == nil && keeper.waiting.count == count + 1)
            if !isDeaf { keeper.goOn() }
            world.run(for: .seconds(isDeaf ? 2 : 0))
            #expect(initiator.closed != nil && initiator.takeHeard().last?.opcode == 0x26)
            #expect(server.status.sessions == 0)
        }
    }
}

/// A keeper that may take its time.
private final class SlowKeeper: TargetCoordinator {
    var reservationsChanged: ((UnitKey, ReservationTable) -> Void)?
    var groupsChanged: ((_ target: String, [PortGroup]) -> Void)?
    var addressesChanged: ((_ target: String, [String]) -> Void)?
    var sanitizeReported: ((UnitKey, UInt16) -> Void)?
    /// How far this gateway was with sanitizing.
    var reports: [UInt16] = []
    var isSlow = false
    var waiting: [() -> Void] = []
    private let keeper: LocalCoordinator
    init(_ environment: any Environment) { keeper = LocalCoordinator(environment: environment) }

    func goOn() {
        isSlow = false
        let all = waiting
        waiting = []
        for one in all { one() }
    }
    func store(
        _ table: ReservationTable, of unit: UnitKey, replacing version: UInt64,
        completed: @escaping (ReservationStoring) -> Void
    ) {
        let store = { [keeper] in keeper.store(table, of: unit, replacing: version, completed: completed) }
        if isSlow { waiting.append(store) } else { store() }
    }
    func join(target: String, own: PortGroup, completed: @escaping ([PortGroup]?) -> Void) {
        keeper.join(target: target, own: own, completed: completed)
    }
    func leave(target: String) {}
    func join(unit: UnitKey, completed: @escaping (ReservationTable?) -> Void) {
        keeper.join(unit: unit, completed: completed)
    }
    func leave(unit: UnitKey) {}
    func settled(_ version: UInt64, of unit: UnitKey) {}
    func report(sanitized progress: UInt16, of unit: UnitKey) { reports.append(progress) }
    func set(_ groups: [PortGroup], of target: String, completed: @escaping (_ isDone: Bool) -> Void) {}
}
