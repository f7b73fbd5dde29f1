import SCSIBoundary
import Testing

@testable import SCSICommands

/// Who sees a unit and who writes to it, while initiators are there.
@Suite struct AccessTests {
    private static let first = "iqn.2026-01.test:i1"
    private static func rule(_ right: UnitAccess.Right, others: UnitAccess.Right = .writes) -> UnitAccess {
        UnitAccess(named: [.init(first, right)], others: others)
    }

    @Test("a unit that comes into sight, or goes out of it, is told to whom it concerns")
    func visibility() {
        let bench = Bench(units: 2)
        bench.step(.accessChanged(UnitNumber(rawValue: 1), Self.rule(.hidden)))
        #expect(bench.run(UnitTests.ready).code == 0x06_3f0e)
        #expect(bench.run(UnitTests.ready, Bench.two).status == 0)
        #expect(bench.run(UnitTests.ready, lun: 1).code == 0x05_2500)
        #expect(bench.run(UnitTests.ready, Bench.two, lun: 1).status == 0)
        bench.step(.accessChanged(UnitNumber(rawValue: 1), nil))
        #expect(bench.run(UnitTests.ready).code == 0x06_3f0e)
        #expect(bench.run(UnitTests.ready, lun: 1).code == 0x06_3f0e)
        #expect(bench.run(UnitTests.ready, lun: 1).status == 0)
        #expect(bench.run(UnitTests.ready, Bench.two).status == 0)
    }
    @Test("who may read only is told so, finds the unit protected, and writes nothing; others do")
    func readers() {
        let bench = Bench(units: 2)
        bench.step(.accessChanged(UnitNumber(rawValue: 0), Self.rule(.reads)))
        let (write, data) = (Make.ten(0x2a, 0, 1), bench.pattern(3, blocks: 1))
        #expect(bench.run(write, out: data).code == 0x06_2a01)
        #expect(bench.run(write, out: data).code == 0x07_2700)
        #expect(bench.run(Make.ten(0x28, 0, 1)).status == 0)
        #expect(bench.run(write, Bench.two, out: data).status == 0)
        let modes: [UInt8] = [0x1a, 0x08, 0x3f, 0, 255, 0]
        #expect(bench.run(modes).data[2] & 0x80 != 0)
        #expect(bench.run(modes, Bench.two).data[2] & 0x80 == 0)
        // Nor does a copy write for it.
        let (cdb, list) = TargetTests.copy(
            [TargetTests.target(1), TargetTests.target(0)], [TargetTests.segment(0, 1, 8, 0, 0)])
        #expect(bench.run(cdb, out: list, lun: 1).code == 0x0a_0d01)
        #expect(bench.run(cdb, Bench.two, out: list, lun: 1).status == 0)
    }
}
