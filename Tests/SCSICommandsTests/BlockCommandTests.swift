import BlockTypes
import SCSIBoundary
import Testing

@testable import SCSICommands

/// Reading, writing, comparing, giving up.
@Suite struct BlockCommandTests {
    static let invalidField = 0x05_2400
    static let outOfRange = 0x05_2100
    static let miscompare = 0x0e_1d00

    /// Builders of the three long forms.
    static let forms: [(Int, @Sendable (UInt8, Int, Int, UInt8) -> [UInt8])] = [
        (10, { Make.ten($0, $1, $2, flags: $3) }), (12, { Make.twelve($0, $1, $2, flags: $3) }),
        (16, { Make.sixteen($0, $1, $2, flags: $3) }),
    ]
    static let reads: [UInt8] = [0x28, 0xa8, 0x88]
    static let writes: [UInt8] = [0x2a, 0xaa, 0x8a]
    static let verifies: [UInt8] = [0x2f, 0xaf, 0x8f]
    static let writeVerifies: [UInt8] = [0x2e, 0xae, 0x8e]

    @Test("what is written is read, in each form, at both ends", arguments: 0..<3, [512, 4096])
    func roundTrip(form: Int, blockBytes: Int) {
        let bench = Bench { $0.blockBytes = blockBytes }
        let make = Self.forms[form].1
        for count in [1, 2, 7, 16] {
            for start in [0, bench.blocks - count] {
                let data = (0..<(count * blockBytes)).map { UInt8(truncatingIfNeeded: $0 &* 7 &+ count) }
                #expect(bench.run(make(Self.writes[form], start, count, 0), out: data).status == 0)
                #expect(bench.run(make(Self.reads[form], start, count, 0)).data == data)
            }
        }
    }
    @Test("the six-byte forms: 21 bits of address, and 0 means 256")
    func short() {
        let bench = Bench()
        let data = (0..<(256 * 512)).map { UInt8(truncatingIfNeeded: $0 >> 3) }
        #expect(bench.run([0x0a, 0, 0, 3, 0, 0], out: data).status == 0)
        #expect(bench.run([0x08, 0, 0, 3, 0, 0]).data == data)
        // A LUN in the old place does not count as address.
        #expect(bench.run([0x08, 0x20, 0, 3, 1, 0]).data == Array(data.prefix(512)))
        #expect(bench.run([0x08, 0x1f, 0xff, 0xff, 1, 0]).code == Self.outOfRange)
    }
    @Test("beyond the end, with zero blocks too", arguments: 0..<3)
    func range(form: Int) {
        let bench = Bench()
        let make = Self.forms[form].1
        for opcode in [Self.reads[form], Self.writes[form], Self.verifies[form], Self.writeVerifies[form]] {
            for (start, count) in [
                (bench.blocks, 1), (bench.blocks - 1, 2), (0x7fff_ffff, 1), (0x7fff_ffff, 0),
            ] {
                let reply = bench.run(
                    make(opcode, start, count, 0), out: bench.pattern(1, blocks: count))
                #expect(reply.code == Self.outOfRange, "opcode \(opcode) \(start)+\(count)")
                #expect(reply.information == start)
            }
            #expect(bench.run(make(opcode, bench.blocks, 0, 0)).status == 0)
            #expect(bench.run(make(opcode, 0, 0, 0)).status == 0)
        }
        #expect(bench.volume.requests.isEmpty)
    }
    @Test("addresses of 64 bits do not wrap")
    func wrap() {
        let bench = Bench()
        for start in [Int.min, -1, Int.max] {
            for opcode: UInt8 in [0x88, 0x8a, 0x8e, 0x8f, 0x8b, 0x90, 0x91, 0x93] {
                let reply = bench.run(Make.sixteen(opcode, start, 1), out: bench.pattern(1))
                #expect(reply.code == Self.outOfRange, "opcode \(opcode)")
            }
        }
    }
    @Test("protection information is refused", arguments: 1..<8)
    func protection(bits: UInt8) {
        let bench = Bench()
        for opcode: UInt8 in [0x28, 0x2a, 0x2e, 0x2f, 0x41] {
            let reply = bench.run(Make.ten(opcode, 0, 1, flags: bits << 5), out: bench.pattern(1))
            #expect(reply.code == Self.invalidField)
            // The field pointer: byte 1, bit 7.
            #expect(Array(reply.sense[15..<18]) == [0xcf, 0, 1])
        }
        for opcode: UInt8 in [0x88, 0x8a, 0x8b, 0x8e, 0x8f, 0x93] {
            let reply = bench.run(Make.sixteen(opcode, 0, 1, flags: bits << 5), out: bench.pattern(1))
            #expect(reply.code == Self.invalidField)
        }
    }
    @Test("DPO and FUA are taken; FUA flushes only where a cache may lose")
    func flags() {
        let bench = Bench()
        for flags: UInt8 in [0x10, 0x08, 0x18] {
            #expect(bench.run(Make.ten(0x2a, 0, 1, flags: flags), out: bench.pattern(1)).status == 0)
            #expect(bench.run(Make.ten(0x28, 0, 1, flags: flags)).status == 0)
        }
        #expect(!bench.volume.requests.contains("flush"))
        let cached = Bench { $0.hasWriteCache = true }
        #expect(cached.run(Make.ten(0x2a, 0, 1, flags: 0x08), out: cached.pattern(1)).status == 0)
        #expect(cached.volume.requests == ["write 0+512", "flush"])
    }
    @Test("fewer data than the CDB asks for: whole blocks of it are written, the residual tells")
    func shortData() {
        let bench = Bench()
        let reply = bench.run(Make.ten(0x2a, 0, 3), out: bench.pattern(9, blocks: 1) + [9, 9])
        #expect(reply.status == 0)
        #expect(reply.wantedOut == 3 * 512)
        #expect(bench.volume.requests == ["write 0+512"])
        #expect(bench.run(Make.ten(0x2a, 0, 1), out: []).status == 0)
        #expect(bench.volume.requests.count == 1)
    }
    @Test("a transfer beyond the bound is refused, and the bound is what VPD B0h says")
    func transferBound() {
        var limits = SCSILimits()
        limits.transferBytesMax = 64 << 10
        let bench = Bench(limits: limits)
        #expect(bench.run(Make.sixteen(0x88, 0, 128)).status == 0)
        #expect(bench.run(Make.sixteen(0x88, 0, 129)).code == Self.invalidField)
        #expect(bench.run(Make.inquiry(page: 0xb0)).data.word(at: 8) == 128)
    }

    @Test("VERIFY compares all, one for all, or nothing", arguments: 0..<3)
    func verify(form: Int) {
        let bench = Bench()
        let make = Self.forms[form].1
        let opcode = Self.verifies[form]
        #expect(bench.run(make(Self.writes[form], 4, 4, 0), out: bench.pattern(5, blocks: 4)).status == 0)
        #expect(bench.run(make(opcode, 4, 4, 0x02), out: bench.pattern(5, blocks: 4)).status == 0)
        var wrong = bench.pattern(5, blocks: 4)
        wrong[3 * 512 + 7] = 6
        let reply = bench.run(make(opcode, 4, 4, 0x02), out: wrong)
        #expect(reply.code == Self.miscompare)
        #expect(reply.information == 7)
        #expect(bench.run(make(opcode, 4, 4, 0x06), out: bench.pattern(5)).status == 0)
        #expect(bench.run(make(opcode, 3, 4, 0x06), out: bench.pattern(5)).code == Self.miscompare)
        // Without BYTCHK no data is asked for, and none is compared.
        #expect(bench.run(make(opcode, 4, 4, 0)).status == 0)
        #expect(bench.run(make(opcode, 4, 4, 0x04)).code == Self.invalidField)
        #expect(bench.run(make(opcode, 4, 2, 0x02), out: bench.pattern(5)).code == Self.invalidField)
    }
    @Test("a long VERIFY goes in steps and finds what differs in the last one")
    func longVerify() {
        var limits = SCSILimits()
        limits.stepBytesMax = 8192
        let bench = Bench(limits: limits)
        #expect(bench.run(Make.ten(0x2a, 0, 100), out: bench.pattern(3, blocks: 100)).status == 0)
        var data = bench.pattern(3, blocks: 100)
        #expect(bench.run(Make.ten(0x2f, 0, 100, flags: 2), out: data).status == 0)
        data[99 * 512] = 0
        let reply = bench.run(Make.ten(0x2f, 0, 100, flags: 2), out: data)
        #expect(reply.code == Self.miscompare)
        #expect(reply.information == 99)
    }
    @Test("WRITE AND VERIFY writes, reads again and compares", arguments: 0..<3)
    func writeAndVerify(form: Int) {
        let bench = Bench()
        let make = Self.forms[form].1
        #expect(
            bench.run(make(Self.writeVerifies[form], 2, 2, 0x02), out: bench.pattern(8, blocks: 2)).status
                == 0)
        #expect(bench.volume.requests == ["write 1024+1024", "read 1024+1024"])
        #expect(
            bench.run(make(Self.writeVerifies[form], 2, 2, 0x04), out: bench.pattern(8, blocks: 2)).code
                == Self.invalidField)
    }
    @Test("ORWRITE sets bits")
    func orWrite() {
        let bench = Bench()
        #expect(bench.run(Make.sixteen(0x8b, 7, 2), out: bench.pattern(0x0f, blocks: 2)).status == 0)
        #expect(bench.run(Make.sixteen(0x8b, 7, 1), out: bench.pattern(0xa0)).status == 0)
        #expect(bench.run(Make.sixteen(0x88, 7, 2)).data == bench.pattern(0xaf) + bench.pattern(0x0f))
    }

    @Test("COMPARE AND WRITE writes when equal and tells where not", arguments: [1, 2, 32, 255])
    func compareAndWrite(count: Int) {
        let bench = Bench()
        let (a, b) = (bench.pattern(65, blocks: count), bench.pattern(66, blocks: count))
        #expect(bench.run(Make.sixteen(0x8a, 0, count), out: a).status == 0)
        #expect(bench.run(Make.compare(0, count), out: a + b).status == 0)
        #expect(bench.run(Make.sixteen(0x88, 0, count)).data == b)
        var expected = b
        expected[count * 512 - 1] = 1
        let reply = bench.run(Make.compare(0, count), out: expected + a)
        #expect(reply.code == Self.miscompare)
        #expect(reply.information == count * 512 - 1)
        #expect(bench.run(Make.sixteen(0x88, 0, count)).data == b)
        #expect(bench.run(Make.compare(bench.blocks, count), out: b + a).code == Self.outOfRange)
    }
    @Test(
        "where the volume compares, COMPARE AND WRITE is one request, inside one of its units",
        arguments: [512, 4096])
    func compareInVolume(blockBytes: Int) {
        let bench = Bench {
            $0.compareUnitBytes = 65536
            $0.blockBytes = blockBytes
        }
        let inUnit = 65536 / blockBytes
        func pattern(_ byte: UInt8, blocks: Int = 2) -> [UInt8] {
            [UInt8](repeating: byte, count: blocks * blockBytes)
        }
        bench.volume.requests = []
        #expect(bench.run(Make.compare(inUnit, 2), out: pattern(0) + pattern(7)).status == 0)
        #expect(bench.volume.requests == ["compare and write 65536+\(2 * blockBytes)"])
        var expected = pattern(7)
        expected[blockBytes + 3] = 0
        let reply = bench.run(Make.compare(inUnit, 2), out: expected + pattern(8))
        #expect(reply.code == Self.miscompare && reply.information == blockBytes + 3)
        #expect(bench.run(Make.sixteen(0x88, inUnit, 2)).data == pattern(7))
        // FUA: durable before the answer.
        bench.volume.requests = []
        #expect(bench.run(Make.compare(inUnit, 2, flags: 8), out: pattern(7) + pattern(9)).status == 0)
        #expect(bench.volume.requests.count <= 2 && bench.volume.requests.first?.hasPrefix("compare") == true)
        #expect(
            bench.run(Make.compare(inUnit - 1, 2), out: pattern(0) + pattern(1)).code == Self.invalidField)
        let most = min(255, VolumeRequest.compareBytesMax / blockBytes, inUnit)
        #expect(bench.run(Make.inquiry(page: 0xb0)).data[5] == UInt8(most))
        let long = pattern(0, blocks: 2 * (most + 1))
        if most < 255 { #expect(bench.run(Make.compare(0, most + 1), out: long).code == Self.invalidField) }
    }
    @Test("COMPARE AND WRITE wants exactly twice its blocks, and no more blocks than VPD B0h says")
    func compareBounds() {
        var limits = SCSILimits()
        limits.compareBlocksMax = 4
        let bench = Bench(limits: limits)
        #expect(bench.run(Make.compare(0, 5), out: bench.pattern(0, blocks: 10)).code == Self.invalidField)
        #expect(bench.run(Make.inquiry(page: 0xb0)).data[5] == 4)
        for count in [1, 3] {
            #expect(
                bench.run(Make.compare(0, count), out: bench.pattern(0, blocks: 4)).code == Self.invalidField)
        }
        #expect(bench.run(Make.compare(0, 0), out: []).status == 0)
        // 512 blocks of data, for a count of 256 that does not fit its byte.
        #expect(bench.run(Make.compare(0, 0), out: bench.pattern(0, blocks: 512)).code == Self.invalidField)
        #expect(bench.volume.requests.isEmpty)
    }

    @Test("WRITE ATOMIC stays inside an aligned run, or is not there")
    func atomic() {
        #expect(Bench().run(Make.atomic(0, 1), out: [UInt8](repeating: 1, count: 512)).code == 0x05_2000)
        let bench = Bench { $0.atomicBytes = 64 << 10 }
        let page = bench.run(Make.inquiry(page: 0xb0)).data
        #expect(page.word(at: 44) == 128)
        #expect(page.word(at: 48) == 8 && page.word(at: 52) == 8)
        for (start, count) in [(0, 8), (0, 128), (bench.blocks - 128, 128), (bench.blocks - 8, 8)] {
            #expect(bench.run(Make.atomic(start, count), out: bench.pattern(4, blocks: count)).status == 0)
        }
        for (start, count) in [(0, 136), (120, 16), (1, 8), (0, 1), (8, 12)] {
            let reply = bench.run(Make.atomic(start, count), out: bench.pattern(4, blocks: count))
            #expect(reply.code == Self.invalidField)
        }
        let large = Bench { ($0.blockBytes, $0.atomicBytes) = (4096, 64 << 10) }
        #expect(large.run(Make.inquiry(page: 0xb0)).data.word(at: 48) == 0)
        #expect(large.run(Make.atomic(3, 1), out: large.pattern(4)).status == 0)
        #expect(
            bench.run(Make.atomic(0, 2, boundary: 1), out: bench.pattern(4, blocks: 2)).code
                == Self.invalidField)
        #expect(bench.run(Make.atomic(bench.blocks, 1), out: bench.pattern(4)).code == Self.outOfRange)
    }
    @Test("PRE-FETCH and SYNCHRONIZE CACHE look at their blocks")
    func prefetchAndSync() {
        let bench = Bench()
        for cdb in [Make.ten(0x34, 0, 1), Make.sixteen(0x90, 0, 1), Make.ten(0x34, 5, 0, flags: 2)] {
            #expect(bench.run(cdb).status == 0)
        }
        #expect(bench.run(Make.ten(0x34, bench.blocks, 1)).code == Self.outOfRange)
        for cdb in [Make.ten(0x35, 0, 0), Make.sixteen(0x91, 0, 8), Make.ten(0x35, 0, 0, flags: 2)] {
            #expect(bench.run(cdb).status == 0)
        }
        #expect(bench.volume.requests == ["flush", "flush", "flush"])
        #expect(bench.run(Make.sixteen(0x91, bench.blocks, 1)).code == Self.outOfRange)
    }

    @Test(
        "errors of the volume have their sense data",
        arguments: [
            (VolumeError.noSpace, 0x07_2707), (.readOnly, 0x07_2700), (.checksumMismatch, 0x03_1100),
            (.replicasUnavailable, 0x02_0403), (.fenced, 0x02_0401), (.outOfRange, 0x05_2100),
        ])
    func volumeErrors(error: VolumeError, code: Int) {
        let bench = Bench()
        bench.volume.failure = error
        #expect(bench.run(Make.ten(0x2a, 0, 1), out: bench.pattern(1)).code == code)
        #expect(bench.run(Make.ten(0x28, 0, 1)).code == code)
        bench.volume.failure = nil
        #expect(bench.run(Make.ten(0x28, 0, 1)).status == 0)
    }
    @Test("a command with NACA is refused")
    func naca() {
        let bench = Bench()
        #expect(bench.run([0, 0, 0, 0, 0, 0x04]).code == Self.invalidField)
        var cdb = Make.ten(0x28, 0, 1)
        cdb[9] = 4
        #expect(bench.run(cdb).code == Self.invalidField)
    }
}
