import BlockTypes
import SCSIBoundary
import Testing

@testable import SCSICommands

/// UNMAP, WRITE SAME, GET LBA STATUS.
@Suite struct ProvisioningTests {
    private func status(_ bench: Bench, _ block: Int, bytes: Int = 4096) -> [(Int, Int, Int)] {
        let reply = bench.run([0x9e, 0x12] + Array(Make.sixteen(0, block, bytes)[2...]))
        guard reply.status == 0, reply.data.count >= 8 else { return [] }
        return stride(from: 8, to: reply.data.count - 15, by: 16).map {
            (Int(reply.data.long(at: $0)), Int(reply.data.word(at: $0 + 8)), Int(reply.data[$0 + 12]))
        }
    }

    @Test("the map is what was written and given up")
    func map() {
        let bench = Bench()
        #expect(status(bench, 0).map { [$0.0, $0.1, $0.2] } == [[0, 2048, 1]])
        #expect(bench.run(Make.ten(0x2a, 0, 256), out: bench.pattern(65, blocks: 256)).status == 0)
        for block in stride(from: 0, to: 248, by: 8) {
            let (cdb, list) = Make.unmap([(block, 8)])
            #expect(bench.run(cdb, out: list).status == 0)
            #expect(status(bench, block + 8).first.map { [$0.0, $0.2] } == [block + 8, 0])
            #expect(status(bench, block).first?.2 == 1)
        }
        let all = status(bench, 0)
        #expect(all.map { [$0.0, $0.1, $0.2] } == [[0, 248, 1], [248, 8, 0], [256, 1792, 1]])
        // Room for one descriptor.
        #expect(status(bench, 250, bytes: 24).map { [$0.0, $0.1, $0.2] } == [[250, 6, 0]])
        #expect(bench.run([0x9e, 0x12] + Array(Make.sixteen(0, bench.blocks, 24)[2...])).code == 0x05_2100)
        #expect(bench.run([0x9e, 0x12] + Array(Make.sixteen(0, 0, 4)[2...])).data.count == 4)
    }
    @Test("what is given up reads as zeroes, however it is given up", arguments: 0..<5)
    func giveUp(way: Int) {
        let bench = Bench()
        #expect(bench.run(Make.ten(0x2a, 0, 64), out: bench.pattern(1, blocks: 64)).status == 0)
        let zeroes = bench.pattern(0)
        let reply: Reply
        switch way {
        case 0:
            let (cdb, list) = Make.unmap([(8, 8), (20, 3), (0, 0)])
            reply = bench.run(cdb, out: list)
        case 1: reply = bench.run(Make.ten(0x41, 8, 16, flags: 0x08), out: zeroes)
        case 2: reply = bench.run(Make.sixteen(0x93, 8, 16, flags: 0x08), out: zeroes)
        case 3: reply = bench.run(Make.sixteen(0x93, 8, 16, flags: 0x09))
        default: reply = bench.run(Make.sixteen(0x93, 8, 16, flags: 0x01))
        }
        #expect(reply.status == 0)
        #expect(bench.run(Make.ten(0x28, 8, 8)).data == bench.pattern(0, blocks: 8))
        #expect(bench.run(Make.ten(0x28, 7, 1)).data == bench.pattern(1))
        #expect(bench.run(Make.ten(0x28, 24, 1)).data == bench.pattern(1))
        #expect(!bench.volume.stored[1])
    }
    @Test(
        "WRITE SAME writes its block everywhere, also with UNMAP when it is not zero",
        arguments: [UInt8(0), 8])
    func same(flags: UInt8) {
        var limits = SCSILimits()
        limits.stepBytesMax = 4096
        let bench = Bench(limits: limits)
        for (cdb, count) in [
            (Make.ten(0x41, 3, 50, flags: flags), 50), (Make.sixteen(0x93, 3, 50, flags: flags), 50),
        ] {
            #expect(bench.run(cdb, out: (0..<512).map { UInt8(truncatingIfNeeded: $0) }).status == 0)
            let read = bench.run(Make.ten(0x28, 3, count)).data
            #expect(read == (0..<(512 * count)).map { UInt8(truncatingIfNeeded: $0 % 512) })
        }
    }
    @Test("WRITE SAME: bounds, no data, anchors")
    func sameRefused() {
        var limits = SCSILimits()
        limits.sameBytesMax = 64 * 512
        let bench = Bench(limits: limits)
        let block = bench.pattern(1)
        let refused = BlockCommandTests.invalidField
        #expect(bench.run(Make.ten(0x41, 0, 0), out: block).code == refused)  // WSNZ.
        #expect(bench.run(Make.sixteen(0x93, 0, 65), out: block).code == refused)
        #expect(bench.run(Make.sixteen(0x93, 0, 1, flags: 0x18), out: block).code == refused)
        #expect(bench.run(Make.sixteen(0x93, 0, 1), out: []).code == refused)
        #expect(bench.run(Make.sixteen(0x93, 0, 1), out: [1, 2]).code == refused)
        #expect(
            bench.run(Make.ten(0x41, bench.blocks - 1, 2), out: block).code == BlockCommandTests.outOfRange)
        let page = bench.run(Make.inquiry(page: 0xb0)).data
        #expect(page[4] & 1 == 1)
        #expect(page.long(at: 36) == 64)
        let thick = Bench { $0.isThin = false }
        #expect(thick.run(Make.ten(0x41, 0, 1, flags: 8), out: block).code == refused)
        #expect(thick.run(Make.unmap([(0, 1)]).cdb, out: Make.unmap([(0, 1)]).list).code == 0x05_2000)
        #expect(thick.run(Make.inquiry(page: 0xb0)).data.word(at: 20) == 0)
    }
    @Test("UNMAP: no descriptors, lying lengths, too many, beyond the end")
    func unmapRefused() {
        var limits = SCSILimits()
        limits.unmapDescriptorsMax = 4
        let bench = Bench(limits: limits)
        #expect(bench.run([0x42, 0, 0, 0, 0, 0, 0, 0, 0, 0]).status == 0)
        let (none, empty) = Make.unmap([])
        #expect(bench.run(none, out: empty).status == 0)
        let (cdb, list) = Make.unmap([(0, 8), (8, 8)])
        for count in [0, 7, 8, 23, 39] {
            #expect(bench.run(cdb, out: Array(list.prefix(count))).code == 0x05_1a00, "\(count) bytes")
        }
        for count in [1, 7] {
            var short = cdb
            short[8] = UInt8(count)
            #expect(bench.run(short, out: list).code == 0x05_1a00)
        }
        let (many, manyList) = Make.unmap((0..<5).map { ($0, 1) })
        #expect(bench.run(many, out: manyList).code == 0x05_2600)
        let (far, farList) = Make.unmap([(0, 1), (bench.blocks, 1)])
        #expect(bench.run(far, out: farList).code == 0x05_2100)
        let (end, endList) = Make.unmap([(bench.blocks, 0)])
        #expect(bench.run(end, out: endList).status == 0)
        limits.unmapBlocksMax = 7
        let (large, largeList) = Make.unmap([(0, 4), (8, 4)])
        #expect(Bench(limits: limits).run(large, out: largeList).code == 0x05_2600)
        let (anchor, anchorList) = Make.unmap([(0, 1)], flags: 1)
        #expect(bench.run(anchor, out: anchorList).code == BlockCommandTests.invalidField)
        #expect(bench.volume.requests.isEmpty)
    }
    @Test("UNMAP: descriptors that are cut short, by the list or by the CDB, are left out")
    func unmapCut() {
        // Of two descriptors of eight blocks: the list's own length, the CDB's, and how many are left.
        for (listed, length, whole) in [
            (32, 40, 2), (31, 40, 1), (17, 40, 1), (16, 40, 1), (15, 40, 0), (32, 39, 1), (32, 24, 1),
            (32, 23, 0), (32, 8, 0), (48, 40, 2),
        ] {
            let bench = Bench()
            #expect(bench.run(Make.ten(0x2a, 0, 16), out: bench.pattern(7, blocks: 16)).status == 0)
            var (cdb, list) = Make.unmap([(0, 8), (8, 8)])
            list[3] = UInt8(listed)
            cdb[8] = UInt8(length)
            #expect(bench.run(cdb, out: Array(list.prefix(length))).status == 0)
            let read = bench.run(Make.ten(0x28, 0, 16)).data
            let left =
                [UInt8](repeating: 0, count: 8 * 512 * whole) + bench.pattern(7, blocks: 16 - 8 * whole)
            #expect(read == left, "\(listed) \(length)")
        }
    }
}
