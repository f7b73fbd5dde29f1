import BlockTypes
import SCSIBoundary
import Testing

@testable import SCSICommands

/// LUNs, ports, EXTENDED COPY: what is about more than one unit.
@Suite struct TargetTests {
    static func reportLUNs(_ select: UInt8, bytes: Int = 4096) -> [UInt8] {
        [0xa0, 0, select, 0, 0, 0, 0, 0, UInt8(bytes >> 8), UInt8(bytes & 0xff), 0, 0]
    }
    static func list(_ reply: Reply) -> [UInt64] {
        stride(from: 8, to: reply.data.count, by: 8).map { reply.data.long(at: $0) }
    }

    @Test("REPORT LUNS: all, well-known, both; from units, from nowhere, from the well-known one")
    func reportLUNs() {
        let bench = Bench(units: 3)
        let three: [UInt64] = [0, 1 << 48, 2 << 48]
        let wellKnown: UInt64 = 0xc101 << 48
        for lun: UInt64 in [0, 1 << 48, 7 << 48, wellKnown, 0x4002 << 48] {
            #expect(Self.list(bench.run(Self.reportLUNs(0), lunBytes: lun)) == three)
            #expect(Self.list(bench.run(Self.reportLUNs(1), lunBytes: lun)) == [wellKnown])
            #expect(Self.list(bench.run(Self.reportLUNs(2), lunBytes: lun)) == three + [wellKnown])
            #expect(Self.list(bench.run(Self.reportLUNs(0x10), lunBytes: lun)) == [])
            #expect(bench.run(Self.reportLUNs(3), lunBytes: lun).code == 0x05_2400)
        }
        let cut = bench.run(Self.reportLUNs(0, bytes: 16))
        #expect(cut.data.count == 16 && cut.data.word(at: 0) == 24)
    }
    @Test("a LUN that is not there: INQUIRY says so, REQUEST SENSE tells, the rest is refused")
    func missing() {
        let bench = Bench()
        for lun: UInt64 in [1 << 48, 0x0101 << 48, 1, 0x8000 << 48, 0xc102 << 48, UInt64.max] {
            #expect(bench.run(Make.inquiry(), lunBytes: lun).data[0] == 0x7f)
            #expect(bench.run(UnitTests.ready, lunBytes: lun).code == 0x05_2500)
            #expect(bench.run(Make.ten(0x2a, 0, 1), out: [1], lunBytes: lun).code == 0x05_2500)
            let sense = bench.run([0x03, 0, 0, 0, 252, 0], lunBytes: lun)
            #expect(sense.status == 0 && sense.data[12] == 0x25)
        }
        #expect(bench.manage(.logicalUnitReset, lun: 5) == .noSuchLUN)
        let wellKnown: UInt64 = 0xc101 << 48
        #expect(bench.run(Make.inquiry(), lunBytes: wellKnown).data[0] == 0x1e)
        #expect(bench.run(UnitTests.ready, lunBytes: wellKnown).status == 0)
        #expect(bench.run(Make.ten(0x28, 0, 1), lunBytes: wellKnown).code == 0x05_2000)
    }
    @Test("units come and go: the others say so until the list was read; what was begun ends")
    func inventory() {
        let bench = Bench(units: 2)
        bench.holds = true
        let read = bench.send(Make.ten(0x28, 0, 1), lun: 1)
        bench.step(.unitRemoved(UnitNumber(rawValue: 1)))
        #expect(bench.run(UnitTests.ready, lun: 1).code == 0x05_2500)
        #expect(bench.run(Self.reportLUNs(0)).status == 0)
        #expect(bench.run(UnitTests.ready).status == 0)
        #expect(bench.run(UnitTests.ready, Bench.two).code == 0x06_3f0e)
        bench.holds = false
        #expect(bench.goneUnits.isEmpty)
        bench.completeHeld()
        #expect(bench.reply(read)?.status == 0)
        #expect(bench.goneUnits == [UnitNumber(rawValue: 1)])
    }
    @Test("a unit for some initiators is nowhere for the others")
    func masking() {
        let bench = Bench {
            $0.access = UnitAccess(named: [.init("iqn.2026-01.test:i1", .writes)], others: .hidden)
        }
        #expect(bench.run(UnitTests.ready).status == 0)
        #expect(bench.run(UnitTests.ready, Bench.two).code == 0x05_2500)
        #expect(Self.list(bench.run(Self.reportLUNs(0), Bench.two)) == [])
        #expect(Self.list(bench.run(Self.reportLUNs(0))) == [0])
    }

    // MARK: Ports

    @Test("REPORT TARGET PORT GROUPS, with both headers")
    func portGroups() {
        let bench = Bench()
        let data = bench.run([0xa3, 0x0a, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0]).data
        #expect(data.word(at: 0) == 24 && data.count == 28)
        #expect(Array(data[4..<16]) == [0, 0x8f, 0, 1, 0, 2, 0, 1, 0, 0, 0, 1])
        let long = bench.run([0xa3, 0x2a, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0]).data
        #expect(long.count == 32 && long[4] == 0x10)
        #expect(bench.run([0xa3, 0x4a, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0]).code == 0x05_2400)
    }
    @Test("SET TARGET PORT GROUPS: the others are told, and a port that stands by does little")
    func setGroups() {
        let bench = Bench()
        let set: [UInt8] = [0xa4, 0x0a, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0]
        #expect(bench.run(set, out: [0, 0, 0, 0, 2, 0, 0, 9]).code == 0x05_2600)
        #expect(bench.run(set, out: [0, 0, 0, 0, 15, 0, 0, 1]).code == 0x05_2600)
        #expect(bench.run(set, out: [0, 0, 0]).code == 0x05_1a00)
        #expect(bench.run(set, out: [0, 0, 0, 0, 2, 0, 0, 1]).status == 0)
        #expect(bench.run(UnitTests.ready).code == 0x06_2a06)
        #expect(bench.run(UnitTests.ready).code == 0x02_040b)
        #expect(bench.run(Make.ten(0x28, 0, 1)).code == 0x02_040b)
        #expect(bench.run(Make.inquiry()).status == 0)
        #expect(bench.run([0xa3, 0x0a, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0]).data[4] == 2)
        #expect(bench.run(set, out: [0, 0, 0, 0, 0, 0, 0, 1]).status == 0)
        _ = bench.run(UnitTests.ready)
        #expect(bench.run(Make.ten(0x28, 0, 1)).status == 0)
    }

    // MARK: EXTENDED COPY

    static func target(_ lun: UInt8, type: UInt8 = 0xe4) -> [UInt8] {
        [type, 0, 0, 0, 1, 3, 0, 16] + Bench.configuration(lun: UInt16(lun)).identifier
            + [0, 0, 0, 0, 0, 0, 2, 0]
    }
    static func segment(_ from: Int, _ to: Int, _ count: Int, _ source: Int, _ start: Int, code: UInt8 = 2)
        -> [UInt8]
    {
        var bytes: [UInt8] = [code, 0, 0, 24, 0, UInt8(from), 0, UInt8(to), 0, 0]
        bytes.append(bigEndian: UInt16(count))
        bytes.append(bigEndian: UInt64(source))
        bytes.append(bigEndian: UInt64(start))
        return bytes
    }
    static func copy(_ targets: [[UInt8]], _ segments: [[UInt8]], id: UInt8 = 1, usage: UInt8 = 0) -> (
        cdb: [UInt8], list: [UInt8]
    ) {
        var list: [UInt8] = [id, usage << 3]
        list.append(bigEndian: UInt16(targets.joined().count))
        list += [0, 0, 0, 0]
        list.append(bigEndian: UInt32(segments.joined().count))
        list += [0, 0, 0, 0] + targets.joined() + segments.joined()
        var cdb: [UInt8] = [0x83, 0, 0, 0, 0, 0, 0, 0, 0, 0]
        cdb.append(bigEndian: UInt32(list.count))
        return (cdb + [0, 0], list)
    }
    static func results(_ action: UInt8, id: UInt8) -> [UInt8] {
        [0x84, action, id, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0]
    }

    @Test("a copy within a unit and to another, in steps, with its status told once")
    func copies() {
        var limits = SCSILimits()
        limits.stepBytesMax = 16 << 10
        let bench = Bench(units: 2, limits: limits)
        let data = (0..<(200 * 512)).map { UInt8(truncatingIfNeeded: $0 &* 13 >> 4) }
        #expect(bench.run(Make.ten(0x2a, 8, 200), out: data).status == 0)
        #expect(bench.run(Self.results(0, id: 1)).code == 0x05_2400)
        let (cdb, list) = Self.copy(
            [Self.target(0), Self.target(1)],
            [
                Self.segment(0, 0, 200, 8, 1000), Self.segment(0, 1, 200, 8, 3), Self.segment(0, 1, 0, 0, 0),
                Self.segment(1, 1, 64, 600, 700),
            ])
        #expect(bench.run(cdb, out: list).status == 0)
        #expect(bench.run(Make.ten(0x28, 1000, 200)).data == data)
        #expect(bench.run(Make.ten(0x28, 3, 200), lun: 1).data == data)
        let told = bench.run(Self.results(0, id: 1)).data
        #expect(told[4] == 1 && told.half(at: 5) == 4 && told[7] == 1 && told.word(at: 8) == 232)
        #expect(bench.run(Self.results(0, id: 1)).code == 0x05_2400)
        #expect(bench.run([0x83, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]).status == 0)
    }
    @Test("EXTENDED COPY refuses lists that lie, name too much, or what is not there")
    func copyRefused() {
        let bench = Bench(units: 2)
        let (one, two) = (Self.target(0), Self.target(1))
        let good = Self.segment(0, 0, 1, 0, 9)
        func run(_ targets: [[UInt8]], _ segments: [[UInt8]]) -> Int {
            let (cdb, list) = Self.copy(targets, segments)
            return bench.run(cdb, out: list).code
        }
        #expect(run([one], [good]) == 0)
        #expect(run([[UInt8]](repeating: one, count: 17), [good]) == 0x05_2606)
        #expect(run([one], [[UInt8]](repeating: good, count: 65)) == 0x05_2608)
        #expect(run([Self.target(0, type: 0xe9)], [good]) == 0x05_2607)
        #expect(run([one], [Self.segment(0, 0, 1, 0, 9, code: 0x0b)]) == 0x05_2609)
        #expect(run([one], [Self.segment(0, 1, 1, 0, 9)]) == 0x0a_0804)
        #expect(run([one, Self.target(7)], [Self.segment(0, 1, 1, 0, 9)]) == 0x0a_0804)
        #expect(run([one, two], [Self.segment(0, 1, 64, 0, bench.blocks - 1)]) == 0x0a_0000)
        var bad = one
        bad[1] = 0x40
        #expect(run([bad], [good]) == 0)
        bad[1] = 0x05
        #expect(run([bad], [good]) == 0x05_2600)
        bad = one
        bad[30] = 0x10
        #expect(run([bad], [good]) == 0x05_2600)
        let (cdb, list) = Self.copy([one], [good])
        for count in [1, 15, 16, 40, list.count - 1] {
            #expect(bench.run(cdb, out: Array(list.prefix(count))).code == 0x05_1a00)
        }
        #expect(bench.run(Self.results(4, id: 1)).code == 0x05_2400)
        let bounds = bench.run(Self.results(3, id: 0)).data
        #expect(
            bounds.half(at: 8) == 16 && bounds.half(at: 10) == 64
                && Int(bounds.word(at: 0)) == bounds.count - 4)
    }
    @Test("a copy obeys reservations, write protection and who may see a unit")
    func copyRights() {
        let bench = Bench(units: 2)
        let (cdb, list) = Self.copy([Self.target(0), Self.target(1)], [Self.segment(0, 1, 8, 0, 0)])
        #expect(
            bench.run(
                Make.reserveOut(0, actionKey: 5).cdb, Bench.two, out: Make.reserveOut(0, actionKey: 5).list,
                lun: 1
            ).status == 0)
        let (reserve, reserveList) = Make.reserveOut(1, type: 1, key: 5)
        #expect(bench.run(reserve, Bench.two, out: reserveList, lun: 1).status == 0)
        #expect(bench.run(cdb, out: list).code == 0x0a_0d01)
        #expect(bench.run(cdb, Bench.two, out: list).status == 0)
        #expect(bench.run(Self.results(0, id: 1)).data[4] == 2)
        let protected = Bench(units: 2) { $0.isReadOnly = $0.lun == 1 }
        #expect(protected.run(cdb, out: list).code == 0x0a_0d01)
        let hidden = Bench(units: 2) {
            let other = UnitAccess.Rule("iqn.2026-01.test:i2", .writes)
            $0.access = $0.lun == 1 ? UnitAccess(named: [other], others: .hidden) : nil
        }
        #expect(hidden.run(cdb, out: list).code == 0x0a_0804)
        #expect(hidden.run(cdb, Bench.two, out: list).status == 0)
    }
    @Test("a copy that is aborted ends with its step; one that fails says how far it came")
    func copyEnds() {
        var limits = SCSILimits()
        limits.stepBytesMax = 4096
        let bench = Bench(units: 2, limits: limits)
        #expect(bench.run(Make.ten(0x2a, 0, 64), out: bench.pattern(3, blocks: 64)).status == 0)
        let (cdb, list) = Self.copy([Self.target(0), Self.target(1)], [Self.segment(0, 1, 64, 0, 0)])
        bench.holds = true
        let task = bench.send(cdb, out: list)
        for _ in 0..<3 { bench.completeHeld() }
        #expect(bench.run(Self.results(0, id: 1)).data[4] == 0)
        #expect(bench.run(cdb, out: list).code == 0x05_0016)
        bench.step(.abort(task))
        #expect(bench.aborted.isEmpty)
        while !bench.held.isEmpty { bench.completeHeld() }
        #expect(bench.aborted == [task])
        bench.holds = false
        bench.volumes[UnitNumber(rawValue: 1)]?.failure = .noSpace
        #expect(bench.run(cdb, out: list).code == 0x0a_0d01)
        #expect(bench.run(Self.results(0, id: 1)).data[4] == 2)
    }
}
