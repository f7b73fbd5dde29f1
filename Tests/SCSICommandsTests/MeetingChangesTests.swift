import SCSIBoundary
import Testing

@testable import SCSICommands

/// A change of another gateway's that comes while one of this gateway's stands with the keeper and waits.
@Suite struct MeetingChangesTests {
    static let unit = UnitNumber(rawValue: 0)
    private struct Meeting {
        let keeper = ModelKeeper()
        let a: Bench
        let b: Bench
        init() {
            a = Bench(tag: 1, keeper: keeper)
            b = Bench(tag: 2, keeper: keeper, volumes: a.volumes)
            a.holdsKeeper = true
        }
        /// What A offered is kept, B has heard of it, and A has no answer yet.
        func keep() throws {
            a.holdsKeeper = false
            let offer = try #require(a.heldTables.first)
            a.heldTables.removeFirst()
            #expect(keeper.store(offer.0, replacing: offer.1, offer.2) == .stored)
            b.step(.reservationsChanged(unit, offer.2))
        }
    }

    @Test("it is gone by at once; what the own change tells is told once, and not to its author")
    func told() throws {
        let meeting = Meeting()
        let (a, b) = (meeting.a, meeting.b)
        var list: [UInt8] = [0, 0, 0, 0] + a.run([0x1a, 8, 0x0a, 0, 255, 0]).data.dropFirst(4)
        list[8] |= 0x08
        let task = a.send([0x15, 0x10, 0, 0, UInt8(list.count), 0], out: list)
        try meeting.keep()
        #expect(b.run(UnitTests.ready, Bench.two).code == 0x06_2a01)
        let (cdb, keys) = Make.reserveOut(0, actionKey: 7)
        #expect(b.run(cdb, Bench.two, out: keys).status == 0)
        #expect(a.settled[Self.unit] == 2 && a.reply(task) == nil)
        #expect(a.target.units[0].reservations.registrations.count == 1)
        #expect(a.run(UnitTests.ready).status == 0)
        #expect(a.run(UnitTests.ready, Bench.two).code == 0x06_2a01)
        a.step(.reservationsStored(Self.unit, .stored))
        #expect(a.reply(task)?.status == 0)
        for nexus in [Bench.one, Bench.two] { #expect(a.run(UnitTests.ready, nexus).status == 0) }
    }
    @Test("a reset that waits is not told twice, and is known as done when the others are behind it")
    func reset() throws {
        let meeting = Meeting()
        let (a, b) = (meeting.a, meeting.b)
        #expect(a.manage(.logicalUnitReset) == nil)
        try meeting.keep()
        #expect(a.run(UnitTests.ready).code == 0x06_2903)
        let (cdb, keys) = Make.reserveOut(0, actionKey: 7)
        #expect(b.run(UnitTests.ready, Bench.two).code == 0x06_2903)
        #expect(b.run(cdb, Bench.two, out: keys).status == 0)
        #expect(a.settled[Self.unit] == 2 && a.outcomes.isEmpty)
        #expect(a.run(UnitTests.ready).status == 0)
        a.step(.reservationsStored(Self.unit, .stored))
        #expect(Array(a.outcomes.values) == [.complete])
    }
    @Test("a reset elsewhere ends the command whose change waits, and is settled when that has ended")
    func ended() throws {
        let meeting = Meeting()
        let (a, b) = (meeting.a, meeting.b)
        let (cdb, list) = Make.reserveOut(0, actionKey: 7)
        let task = a.send(cdb, out: list)
        try meeting.keep()
        #expect(b.manage(.logicalUnitReset) == .complete)
        #expect(a.settled[Self.unit] == 1 && a.reply(task) == nil)
        a.step(.reservationsStored(Self.unit, .stored))
        #expect(a.settled[Self.unit] == 2 && a.reply(task)?.status == 0x40)
        #expect(a.target.units[0].reservations.registrations.count == 1)
        #expect(a.run(UnitTests.ready).code == 0x06_2903)
    }
    @Test("how far a sanitize operation is all gateways tell, as of its last report")
    func sanitizeProgress() {
        let keeper = ModelKeeper()
        var limits = SCSILimits()
        limits.stepBytesMax = Bench.unitBytes / 16
        let a = Bench(tag: 1, keeper: keeper, limits: limits)
        let b = Bench(tag: 2, keeper: keeper, volumes: a.volumes, limits: limits)
        a.holds = true
        let list = TaskTests.overwrite([1])
        let task = a.send(TaskTests.sanitize(1, bytes: list.count), out: list)
        var told: [[UInt8]] = []
        while !a.held.isEmpty {
            for gateway in [a, b] {
                let sense = gateway.run(UnitTests.ready).sense
                #expect(sense[2] == 2 && sense[12...13] == [0x04, 0x1b])
                #expect(gateway.run([0x03, 0, 0, 0, 252, 0]).data[15...17] == sense[15...17])
                if gateway === b { told.append(Array(sense[15...17])) }
            }
            #expect(a.run(UnitTests.ready).sense[15...17] == b.run(UnitTests.ready).sense[15...17])
            // Another SANITIZE is told the same.
            #expect(b.run(TaskTests.sanitize(2)).sense[15...17] == told.last?[...])
            a.completeHeld()
        }
        #expect(told.count == 16 && Set(told).count == 16 && told.first == [0x80, 0, 0])
        #expect(a.reply(task)?.status == 0 && b.run(UnitTests.ready).status == 0)
        #expect(a.reports.last == 0 && a.reports.dropLast().allSatisfy { $0 > 0 })
    }
    @Test("when nobody knows how the own change ended, this gateway goes by what is there all the same")
    func doubt() throws {
        let meeting = Meeting()
        let (a, b) = (meeting.a, meeting.b)
        let (cdb, list) = Make.reserveOut(0, actionKey: 7)
        let task = a.send(cdb, out: list)
        try meeting.keep()
        let (second, keys) = Make.reserveOut(0, actionKey: 8)
        #expect(b.run(second, Bench.two, out: keys).status == 0)
        a.step(.reservationsStored(Self.unit, .failed))
        #expect(a.reply(task)?.code == 0x04_4400)
        #expect(a.target.units[0].reservations == meeting.keeper.tables[Self.unit])
        // The next change begins from there.
        #expect(a.run(second, Bench.three, out: keys).status == 0)
        #expect(b.target.units[0].reservations.registrations.count == 3)
    }
    @Test(
        "a gateway of before tells of a cleared task set: that stays in the table, and is about nobody here")
    func clearedElsewhere() throws {
        let bench = Bench()
        let party = ReservationParty(initiatorPort: "iqn.2026-01.test:i2,i,0x000000000002", targetPort: 2)
        var table = ReservationTable()
        table.version = 1
        table.notices = [.init(version: 1, party: party, kind: .taskSetCleared)]
        var bytes = table.encoded
        #expect(bytes.last == 8)
        #expect(try ReservationTable(decoding: bytes) == table)
        bytes[bytes.count - 1] = 11
        #expect(throws: ReservationTable.DecodeError.self) { try ReservationTable(decoding: bytes) }
        bench.holds = true
        let read = bench.send(Make.ten(0x28, 0, 1))
        bench.step(.reservationsChanged(Self.unit, table))
        bench.keeper.tables[Self.unit] = table
        #expect(bench.aborted.isEmpty && bench.settled[Self.unit] == 1)
        bench.completeHeld()
        #expect(bench.reply(read)?.status == 0)
        for nexus in [Bench.one, Bench.two, Bench.three] {
            #expect(bench.run(UnitTests.ready, nexus).status == 0)
        }
        let (register, list) = Make.reserveOut(0, actionKey: 5)
        #expect(bench.run(register, out: list).status == 0)
        #expect(bench.target.units[0].reservations.notices.first == table.notices.first)
    }
}
