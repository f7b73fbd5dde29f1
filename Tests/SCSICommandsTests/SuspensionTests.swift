import BlockTypes
import SCSIBoundary
import Testing

@testable import SCSICommands

/// A unit whose volume is away, and comes back.
@Suite struct SuspensionTests {
    private static let (first, stands, back) = (
        UnitNumber(rawValue: 0), UnitNumber(rawValue: 10), UnitNumber(rawValue: 11)
    )
    private static let becomingReady = 0x02_0401
    private static let read = Make.ten(0x28, 0, 1)

    private static func suspended(units: Int = 1, clearsAttentions: Bool = true) -> Bench {
        let bench = Bench(units: units, clearsAttentions: clearsAttentions)
        bench.step(.unitSuspended(first, as: stands))
        return bench
    }
    /// The volume of LUN 0 is away, or is back, under numbers that were never used.
    static func toggle(_ bench: Bench) {
        let unit = bench.target.units[0]
        let next = UnitNumber(rawValue: 100 + unit.number.rawValue)
        guard unit.isSuspended else { return bench.step(.unitSuspended(unit.number, as: next)) }
        bench.volumes[next] = ModelVolume(byteCount: Bench.unitBytes)
        bench.step(
            .unitAdded(
                next, unit.configuration, ByteCount(bytes: UInt64(Bench.unitBytes)), ReservationTable()))
    }
    private static func bringBack(
        _ bench: Bench, bytes: Int = Bench.unitBytes, _ table: ReservationTable = ReservationTable(),
        _ change: (inout UnitConfiguration) -> Void = { _ in }
    ) {
        var unit = Bench.configuration(lun: 0)
        change(&unit)
        bench.volumes[back] = ModelVolume(byteCount: bytes)
        bench.step(.unitAdded(back, unit, ByteCount(bytes: UInt64(bytes)), table))
    }

    @Test("while its volume is away a unit is listed and says what it is, and all else is not ready")
    func answers() {
        let bench = Bench(units: 2)
        let pages: [[UInt8]] = [Make.inquiry()] + [0x00, 0x80, 0x83, 0xb0].map { Make.inquiry(page: $0) }
        let before = pages.map { bench.run($0).data }
        bench.step(.unitSuspended(Self.first, as: Self.stands))
        #expect(pages.map { bench.run($0).data } == before && before[0][0] == 0)
        #expect(TargetTests.list(bench.run(TargetTests.reportLUNs(0))) == [0, 1 << 48])
        #expect(bench.run([0xa3, 0x0a, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0]).data.word(at: 0) == 24)
        let sense = bench.run([0x03, 0, 0, 0, 252, 0])
        #expect(sense.status == 0 && Array(sense.data[12...13]) == [0x04, 0x01] && sense.data[2] == 2)
        let (register, list) = Make.reserveOut(0, actionKey: 5)
        for (cdb, out) in [
            (UnitTests.ready, []), (Self.read, []), (Make.ten(0x2a, 0, 1), bench.pattern(1)),
            (Make.ten(0x25, 0, 0), []), (Make.reserveIn(0), []), (register, list),
            ([0x16, 0, 0, 0, 0, 0], []),
            ([0x1a, 0x08, 0x3f, 0, 255, 0], []), (Make.opcodes(0), []), ([0x1b, 0, 0, 0, 1, 0], []),
            ([0xa4, 0x0a, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0], [0, 0, 0, 0, 0, 0, 0, 1]),
        ] as [([UInt8], [UInt8])] {
            #expect(bench.run(cdb, out: out).code == Self.becomingReady, "\(cdb)")
        }
        #expect(bench.volume.requests.isEmpty)
        // The other unit is as it was, and hears of nothing.
        #expect(bench.run(Self.read, lun: 1).status == 0)
    }
    @Test("what was begun ends as the volume says; nothing of it is said by what stands for the unit")
    func begun() {
        let bench = Bench()
        bench.holds = true
        let (write, read) = (
            bench.send(Make.ten(0x2a, 0, 1), out: bench.pattern(9)), bench.send(Self.read, Bench.two)
        )
        bench.step(.unitSuspended(Self.first, as: Self.stands))
        #expect(bench.run(Self.read).code == Self.becomingReady)
        #expect(bench.reply(write) == nil && bench.goneUnits.isEmpty)
        bench.volume.failure = .fenced
        bench.completeHeld()
        bench.completeHeld()
        // Whoever sent them sends them again when the volume is back.
        #expect([write, read].map { bench.reply($0)?.code } == [Self.becomingReady, Self.becomingReady])
        #expect(bench.goneUnits == [Self.first])
    }
    @Test("what may not be done twice is not asked for again: nobody knows whether it was done")
    func notRepeated() {
        let bench = Bench()
        bench.holds = true
        let compare = bench.send(
            Make.compare(0, 1), out: bench.pattern(1) + bench.pattern(2))
        bench.step(.unitSuspended(Self.first, as: Self.stands))
        bench.volume.failure = .fenced
        bench.completeHeld()
        #expect(bench.reply(compare)?.code == 0x02_0403)
    }
    @Test("when it is back everybody hears of a reset, nobody of another inventory")
    func comesBack() {
        let bench = Self.suspended(units: 2)
        bench.step(.nexusEnded(Bench.three))
        let late = NexusID(rawValue: 4)
        bench.step(.nexusBegan(late, bench.names(late), functions: []))
        #expect(bench.run(UnitTests.ready, late).code == 0x06_2900)
        #expect(bench.run(UnitTests.ready, late).code == Self.becomingReady)
        #expect(bench.run(UnitTests.ready, late, lun: 1).code == 0x06_2900)
        Self.bringBack(bench)
        for nexus in [Bench.one, Bench.two, late] {
            #expect(bench.run(Self.read, nexus).code == 0x06_2900)
            #expect(bench.run(Self.read, nexus).status == 0)
            #expect(bench.run(UnitTests.ready, nexus, lun: 1).status == 0)
        }
        #expect(TargetTests.list(bench.run(TargetTests.reportLUNs(0))) == [0, 1 << 48])
        #expect(bench.goneUnits == [Self.first])
    }
    @Test("what was not told before is told afterwards, behind the reset; another size is, too")
    func attentions() {
        let bench = Self.suspended()
        let groups = [PortGroup(tag: 1), PortGroup(tag: 2, state: .standby)]
        bench.step(.groupsChanged(groups))
        #expect(bench.run(UnitTests.ready, Bench.two).code == 0x06_2a06)
        Self.bringBack(bench, bytes: 2 * Bench.unitBytes)
        #expect((0..<4).map { _ in bench.run(Self.read).code } == [0x06_2900, 0x06_2a06, 0x06_2a09, 0])
        #expect((0..<3).map { _ in bench.run(Self.read, Bench.two).code } == [0x06_2900, 0x06_2a09, 0])
    }
    @Test("reservations are the cluster's when it is back, and are not answered from memory before")
    func reservations() {
        let bench = Bench()
        let (reserve, list) = Make.reserveOut(0, actionKey: 5)
        #expect(bench.run(reserve, out: list).status == 0)
        let (hold, holdList) = Make.reserveOut(1, type: 1, key: 5)
        #expect(bench.run(hold, out: holdList).status == 0)
        #expect(bench.run(Make.ten(0x2a, 0, 1), Bench.two, out: bench.pattern(1)).status == 0x18)
        bench.step(.unitSuspended(Self.first, as: Self.stands))
        #expect(bench.run(Make.ten(0x2a, 0, 1), Bench.two, out: bench.pattern(1)).code == Self.becomingReady)
        // Somebody has cleared it elsewhere.
        Self.bringBack(bench)
        _ = bench.run(UnitTests.ready, Bench.two)
        #expect(bench.run(Make.ten(0x2a, 0, 1), Bench.two, out: bench.pattern(1)).status == 0)
        _ = bench.run(UnitTests.ready)
        #expect(bench.run(Make.reserveIn(0)).data.word(at: 4) == 0)
    }
    @Test("functions: what concerns its own commands is done, a reset that others must hear of is rejected")
    func functions() {
        let bench = Self.suspended(units: 2)
        for function in [ManagementFunction.abortTask, .abortTaskSet, .queryTask, .nexusReset] {
            #expect(bench.manage(function) == .complete)
        }
        #expect(bench.manage(.logicalUnitReset) == .rejected)
        #expect(bench.manage(.targetWarmReset) == .rejected)
        #expect(bench.manage(.logicalUnitReset, lun: 1) == .complete)
        bench.step(.nexusLeaves(Bench.two))
        #expect(bench.released == [Bench.two])
    }
    @Test("a copy from or to it fails")
    func copies() {
        let bench = Self.suspended(units: 2)
        for (from, to) in [(0, 1), (1, 0)] {
            let (cdb, list) = TargetTests.copy(
                [TargetTests.target(0), TargetTests.target(1)], [TargetTests.segment(from, to, 8, 0, 0)])
            #expect(bench.run(cdb, out: list, lun: 1).code == 0x0a_0d01)
        }
    }
    @Test("who may not see it does not see it while it is away, either; who no more may is told")
    func rights() {
        let bench = Self.suspended(units: 2)
        let rules = UnitAccess(named: [.init("iqn.2026-01.test:i1", .hidden)], others: .writes)
        bench.step(.accessChanged(Self.stands, rules))
        #expect(bench.run(UnitTests.ready).code == 0x05_2500)
        #expect(bench.run(UnitTests.ready, lun: 1).code == 0x06_3f0e)
        #expect(bench.run(UnitTests.ready, Bench.two).code == Self.becomingReady)
        Self.bringBack(bench) { $0.access = rules }
        #expect(bench.run(UnitTests.ready).code == 0x05_2500)
        #expect(bench.run(UnitTests.ready, Bench.two).code == 0x06_2900)
    }
    @Test("one that is removed while it is away is gone for good")
    func removed() {
        let bench = Self.suspended(units: 2)
        bench.step(.unitRemoved(Self.stands))
        #expect(bench.run(UnitTests.ready).code == 0x05_2500)
        #expect(bench.run(UnitTests.ready, lun: 1).code == 0x06_3f0e)
        #expect(bench.goneUnits == [Self.first, Self.stands])
        Self.bringBack(bench)
        #expect(bench.run(UnitTests.ready, lun: 1).code == 0x06_3f0e)
        #expect(bench.run(UnitTests.ready).code == 0x06_2900)
    }
}
