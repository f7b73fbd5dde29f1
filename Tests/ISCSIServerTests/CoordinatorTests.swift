import BlockTypes
import Environment
import ISCSIServer
import MemoryEnvironment
import SCSICommands
import Testing

@Suite struct CoordinatorTests {
    let world = MemoryWorld()
    let coordinator: LocalCoordinator
    let unit = UnitKey(identifier: [0x60] + [UInt8](repeating: 7, count: 15))

    init() { coordinator = LocalCoordinator(environment: world.environment("gateway")) }

    func joined() -> ReservationTable? {
        var found: ReservationTable?
        coordinator.join(unit: unit) { found = $0 }
        #expect(found == nil)
        world.settle()
        return found
    }
    func store(_ table: ReservationTable, replacing version: UInt64) -> ReservationStoring? {
        var said: ReservationStoring?
        coordinator.store(table, of: unit, replacing: version) { said = $0 }
        #expect(said == nil)
        world.settle()
        return said
    }

    @Test("a table takes the place of the version that it names, and of no other")
    func versions() {
        var table = joined() ?? ReservationTable()
        #expect(table.version == 0)
        table.version = 1
        table.simpleHolder = ReservationParty(initiatorPort: "one", targetPort: 1)
        #expect(store(table, replacing: 0) == .stored)
        var late = ReservationTable()
        late.version = 1
        #expect(store(late, replacing: 0) == .outdated(table))
        late.version = 2
        #expect(store(late, replacing: 1) == .stored && joined() == late)
    }
    @Test("a unit that nobody offers any more keeps what APTPL keeps", arguments: [false, true])
    func left(persists: Bool) {
        _ = joined()
        var table = ReservationTable()
        (table.version, table.generation, table.persistsThroughPowerLoss) = (1, 5, persists)
        table.simpleHolder = ReservationParty(initiatorPort: "one", targetPort: 1)
        #expect(store(table, replacing: 0) == .stored)
        coordinator.leave(unit: unit)
        let kept = joined()
        #expect(kept?.simpleHolder == nil && kept?.generation == (persists ? 5 : 0))
    }
    @Test("states of port groups: all hear of them before who set them; a target that left has none")
    func groups() {
        var heard: [String] = []
        coordinator.groupsChanged = { heard.append("\($0) \($1.map(\.state.rawValue))") }
        coordinator.join(target: "t", own: PortGroup(tag: 3)) { heard.append("joined \($0?.count ?? 0)") }
        coordinator.set([PortGroup(tag: 3, state: .standby), PortGroup(tag: 9)], of: "t") {
            heard.append("set \($0)")
        }
        world.settle()
        #expect(heard == ["joined 1", "t [2]", "set true"])
        coordinator.leave(target: "t")
        coordinator.set([PortGroup(tag: 3)], of: "t") { heard.append("set \($0)") }
        world.settle()
        #expect(heard.last == "set false" && heard.count == 4)
    }
}
