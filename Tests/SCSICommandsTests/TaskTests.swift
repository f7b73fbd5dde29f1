import BlockTypes
import SCSIBoundary
import Testing

@testable import SCSICommands

/// Commands under way: order on the same blocks, aborts, sanitize, the table of commands, random input.
@Suite struct TaskTests {
    // MARK: Locks

    @Test("COMPARE AND WRITE counts exactly, however the volume answers", arguments: UInt64(0)..<40)
    func counter(seed: UInt64) {
        var random = SeededRandom(seed: seed)
        let bench = Bench()
        bench.holds = true
        var (total, values) = (0, [0, 0, 0])
        func block(_ value: Int) -> [UInt8] {
            [UInt8(value & 0xff), UInt8(value >> 8)] + [UInt8](repeating: 0, count: 510)
        }
        var running: [(TaskID, Int)?] = [nil, nil, nil]
        let nexuses = [Bench.one, Bench.two, Bench.three]
        while total < 60 {
            for index in 0..<3 where running[index] == nil {
                let now = values[index]
                running[index] = (
                    bench.send(Make.compare(5, 1), nexuses[index], out: block(now) + block(now + 1)), now
                )
            }
            bench.completeHeld(Int.random(in: 0..<bench.held.count, using: &random))
            for index in 0..<3 {
                guard let (task, now) = running[index], let reply = bench.reply(task) else { continue }
                running[index] = nil
                if reply.status == 0 {
                    total += 1
                    values[index] = now + 1
                } else {
                    #expect(reply.code == 0x0e_1d00)
                    values[index] =
                        Int(bench.volume.bytes[5 * 512]) | Int(bench.volume.bytes[5 * 512 + 1]) << 8
                }
            }
        }
        #expect(Int(bench.volume.bytes[5 * 512]) == total)
    }
    @Test("plain writes of the same blocks wait for COMPARE AND WRITE, those of others do not")
    func locks() {
        let bench = Bench()
        bench.holds = true
        let compare = bench.send(Make.compare(8, 2), out: bench.pattern(0, blocks: 4))
        let meets = bench.send(Make.ten(0x2a, 9, 1), out: bench.pattern(1))
        let passes = bench.send(Make.ten(0x2a, 10, 1), out: bench.pattern(1))
        #expect(bench.held.count == 2)
        bench.completeHeld(1)
        #expect(bench.reply(passes)?.status == 0)
        bench.completeHeld()
        bench.completeHeld()
        #expect(bench.reply(compare)?.status == 0)
        #expect(bench.reply(meets) == nil)
        bench.completeHeld()
        #expect(bench.reply(meets)?.status == 0)
        #expect(bench.target.units[0].locks.isEmpty)
    }
    @Test("plain commands on the same blocks pass each other")
    func plain() {
        let bench = Bench()
        bench.holds = true
        for _ in 0..<10 { _ = bench.send(Make.ten(0x2a, 0, 4), out: bench.pattern(1, blocks: 4)) }
        #expect(bench.held.count == 10)
    }

    // MARK: Aborts and bounds

    @Test("an abort: at once while it waits, else when its step has ended, or too late")
    func aborts() {
        let bench = Bench()
        bench.holds = true
        let compare = bench.send(Make.compare(0, 1), out: bench.pattern(0, blocks: 2))
        let waiting = bench.send(Make.ten(0x2a, 0, 1), out: bench.pattern(1))
        bench.step(.abort(waiting))
        #expect(bench.aborted == [waiting])
        bench.step(.abort(compare))
        bench.completeHeld()
        #expect(bench.aborted == [waiting, compare] && bench.held.isEmpty)
        let write = bench.send(Make.ten(0x2a, 0, 1), out: bench.pattern(1))
        bench.step(.abort(write))
        bench.completeHeld()
        #expect(bench.reply(write)?.status == 0)
        #expect(bench.volume.requests == ["read 0+512", "write 0+512"])
    }
    @Test("more commands than the bound: TASK SET FULL, BUSY for who has none there, and room again")
    func full() {
        var limits = SCSILimits()
        limits.tasksMax = 4
        let bench = Bench(limits: limits)
        bench.holds = true
        for _ in 0..<4 { _ = bench.send(Make.ten(0x28, 0, 1)) }
        let turnedAway = bench.run(Make.ten(0x28, 0, 1))
        #expect(turnedAway.status == 0x28 && turnedAway.qualifier == limits.retryTenths)
        let other = bench.run(Make.ten(0x28, 0, 1), Bench.two)
        #expect(other.status == 0x08 && other.qualifier == limits.retryTenths)
        // A nexus that nobody has told of: BUSY, with the same hint; a status for good has none.
        let stranger = bench.run(UnitTests.ready, NexusID(rawValue: 99))
        #expect(stranger.status == 0x08 && stranger.qualifier == limits.retryTenths)
        bench.completeHeld()
        let next = bench.send(Make.ten(0x28, 0, 1))
        #expect(bench.reply(next) == nil)
    }
    @Test("CLEAR TASK SET is about its own nexus; functions that are not there say so")
    func functions() {
        let bench = Bench()
        #expect(bench.manage(.clearTaskSet) == .complete)
        #expect(bench.run(UnitTests.ready).status == 0)
        #expect(bench.run(UnitTests.ready, Bench.two).status == 0)
        #expect(bench.manage(.taskReassign) == .notSupported)
        #expect(bench.manage(.abortTaskSet) == .complete)
        #expect(bench.run([0xa3, 0x0d, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0]).data == [0xdc, 7, 0, 0])
        let long = bench.run([0xa3, 0x0d, 0x80, 0, 0, 0, 0, 0, 1, 0, 0, 0]).data
        #expect(long.count == 16 && long[3] == 12)
        // Who cannot ask for the newer ones is not told of them.
        #expect(
            bench.run([0xa3, 0x0d, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0], Bench.three).data == [0xd8, 0, 0, 0])
    }

    // MARK: SANITIZE

    static func sanitize(_ action: UInt8, flags: UInt8 = 0, bytes: Int = 0) -> [UInt8] {
        [0x48, flags | action, 0, 0, 0, 0, 0, UInt8(bytes >> 8), UInt8(bytes & 0xff), 0]
    }
    static func overwrite(_ pattern: [UInt8], count: UInt8 = 1) -> [UInt8] {
        [count, 0, UInt8(pattern.count >> 8), UInt8(pattern.count & 0xff)] + pattern
    }
    @Test("OVERWRITE: a block's pattern, a part of it, often, inverted", arguments: [1, 2, 3])
    func overwrite(passes: UInt8) {
        let bench = Bench()
        for pattern in [
            [UInt8](repeating: 0xaa, count: 512), [UInt8](0..<250) + [1, 2, 3, 4, 5, 6], [1, 2, 3, 4],
        ] {
            for inverts: UInt8 in [0, 0x80] {
                let list = Self.overwrite(pattern, count: passes | inverts)
                #expect(bench.run(Self.sanitize(1, bytes: list.count), out: list).status == 0)
                for block in [0, bench.blocks - 1] {
                    let read = bench.run(Make.ten(0x28, block, 1)).data
                    #expect(read == (0..<512).map { pattern[$0 % pattern.count] })
                }
            }
        }
    }
    @Test("SANITIZE refuses wrong lists, reserved bits and what is not there")
    func sanitizeRefused() {
        let bench = Bench()
        let list = Self.overwrite([UInt8](repeating: 0, count: 512))
        for bytes in [0, 1, 2, 3, 4, 517] {
            #expect(bench.run(Self.sanitize(1, bytes: bytes), out: list + [0]).code == 0x05_2400)
        }
        for (at, value) in [(0, UInt8(0)), (2, 0), (2, 3)] {
            var bad = list
            bad[at] = value
            if value == 0 { bad[3] = 0 }
            #expect(bench.run(Self.sanitize(1, bytes: bad.count), out: bad).code == 0x05_2600)
        }
        #expect(bench.run(Self.sanitize(2, bytes: 8), out: [UInt8](repeating: 0, count: 8)).code == 0x05_2400)
        #expect(bench.run(Self.sanitize(3)).code == 0x05_2400)  // No encryption, no CRYPTOGRAPHIC ERASE.
        #expect(
            bench.run(Self.sanitize(0x1f, bytes: 8), out: [UInt8](repeating: 0, count: 8)).code == 0x05_2400)
        #expect(bench.run(Self.sanitize(0x1f)).status == 0)
        // ZNR is about zones, of which there are none.
        #expect(bench.run(Self.sanitize(2, flags: 0x40)).code == 0x05_2400)
        #expect(bench.run(Self.sanitize(1, flags: 0x40, bytes: list.count), out: list).code == 0x05_2400)
        for byte in 2...6 {
            var bad = Self.sanitize(2)
            bad[byte] = 1
            #expect(bench.run(bad).code == 0x05_2400)
        }
        #expect(bench.volume.requests.isEmpty)
        #expect(Bench { $0.isThin = false }.run(Self.sanitize(2)).code == 0x05_2400)
    }
    @Test("while it runs all else waits for its end, through resets and an abort", arguments: [false, true])
    func sanitizing(isImmediate: Bool) {
        var limits = SCSILimits()
        limits.discardStepBytesMax = 256 << 10
        let bench = Bench(limits: limits)
        #expect(bench.run(Make.ten(0x2a, 0, 8), out: bench.pattern(1, blocks: 8)).status == 0)
        bench.holds = true
        let earlier = bench.send(Make.ten(0x2a, 100, 1), out: bench.pattern(1))
        let task = bench.send(Self.sanitize(2, flags: isImmediate ? 0x80 : 0))
        #expect((bench.reply(task)?.status == 0) == isImmediate)
        #expect(bench.held.count == 1)  // It waits for what came before.
        bench.completeHeld()
        #expect(bench.reply(earlier)?.status == 0)
        #expect(bench.run(UnitTests.ready).code == 0x02_041b)
        #expect(bench.run(Make.ten(0x28, 0, 1)).code == 0x02_041b)
        #expect(bench.run(Self.sanitize(2)).code == 0x02_041b)
        #expect(bench.run(Make.inquiry()).status == 0)
        bench.completeHeld()
        let sense = bench.run([0x03, 0, 0, 0, 252, 0]).data
        #expect(sense[2] == 2 && sense[12] == 0x04 && sense[13] == 0x1b && sense[15] == 0x80)
        #expect(sense.half(at: 16) > 0x2000)
        if !isImmediate {
            bench.step(.abort(task))
            #expect(bench.aborted == [task])
        }
        #expect(bench.manage(.logicalUnitReset) == .complete)
        _ = bench.run(UnitTests.ready)
        #expect(bench.run(UnitTests.ready).code == 0x02_041b)
        while !bench.held.isEmpty { bench.completeHeld() }
        bench.holds = false
        #expect(bench.run(UnitTests.ready).status == 0)
        #expect(!bench.volume.stored.contains(true))
    }
    @Test(
        "one that fails leaves the unit so, until another ends well or it may be left",
        arguments: [false, true])
    func sanitizeFails(mayExit: Bool) {
        let bench = Bench()
        bench.volume.failure = .replicasUnavailable
        #expect(bench.run(Self.sanitize(2, flags: mayExit ? 0x20 : 0)).status == 2)
        bench.volume.failure = nil
        #expect(bench.run(UnitTests.ready).code == 0x03_3103)
        #expect(bench.run(Make.ten(0x28, 0, 1)).code == 0x03_3103)
        #expect(bench.run(Make.inquiry()).status == 0)
        #expect(bench.run(Self.sanitize(0x1f)).code == (mayExit ? 0 : 0x05_2400))
        if !mayExit {
            #expect(bench.run(Self.sanitize(2, flags: 0x20)).code == 0x05_2400)
            #expect(bench.run(UnitTests.ready).code == 0x03_3103)
            #expect(bench.run(Self.sanitize(2)).status == 0)
        }
        #expect(bench.run(UnitTests.ready).status == 0)
    }

    // MARK: The table

    @Test("each row is found by its own CDB, and its map is as long as its CDB")
    func rows() {
        var seen: Set<Int> = []
        for row in CommandTable.rows {
            #expect(row.usage[0] == row.opcode)
            #expect([6, 10, 12, 16].contains(row.cdbBytes))
            let expected = [0: 6, 1: 10, 2: 10, 4: 16, 5: 12][Int(row.opcode >> 5)]
            #expect(row.cdbBytes == expected, "\(row.name)")
            #expect(
                seen.insert(Int(row.opcode) << 8 | Int(row.serviceAction ?? 0xff)).inserted, "\(row.name)")
            #expect(CommandTable.row(CDB([row.opcode, row.serviceAction ?? 0]))?.name == row.name)
            #expect((CommandTable.row(CDB([row.opcode, 0x1e])) == nil) == (row.serviceAction != nil))
        }
    }
    @Test("fields of a CDB, wherever they lie; short ones are filled up")
    func fields() {
        let bytes = [UInt8](0xf1...0xff) + [0]
        let cdb = CDB(bytes + [1, 2, 3])
        for index in 0..<16 { #expect(cdb[index] == bytes[index]) }
        for start in 0..<16 {
            for count in 1...min(8, 16 - start) {
                #expect(cdb.number(at: start, bytes: count) == bytes.number(at: start, bytes: count))
            }
        }
        #expect(
            cdb.opcode == 0xf1 && cdb.serviceAction == 0x12 && cdb.has(0x02, at: 1) && !cdb.has(0x01, at: 1))
        #expect(CDB(first: 0xf1f2_f3f4_f5f6_f7f8, last: 0xf9fa_fbfc_fdfe_ff00) == cdb)
        #expect(CDB([0x12, 1]).number(at: 0, bytes: 8) == 0x1201_0000_0000_0000)
    }
    @Test("REPORT SUPPORTED OPERATION CODES: all, each alone, with timeouts, and what is not there")
    func opcodes() {
        let bench = Bench()
        let all = bench.run(Make.opcodes(0)).data
        #expect(Int(all.word(at: 0)) == all.count - 4)
        let long = bench.run(Make.opcodes(0x80)).data
        #expect((long.count - 4) / 20 == (all.count - 4) / 8)
        for at in stride(from: 4, to: all.count, by: 8) {
            let (opcode, action, hasActions) = (all[at], all.half(at: at + 2), all[at + 5] & 1 == 1)
            #expect((bench.run(Make.opcodes(1, opcode, action)).status == 0) != hasActions)
            #expect((bench.run(Make.opcodes(2, opcode, action)).status == 0) == hasActions)
            let one = bench.run(Make.opcodes(hasActions ? 2 : 1, opcode, action)).data
            #expect(one[1] == 3 && one.half(at: 2) == all.half(at: at + 6))
            #expect(one.count == 4 + one.half(at: 2) && one[4] == opcode)
            let timed = bench.run(Make.opcodes(hasActions ? 0x82 : 0x81, opcode, action)).data
            #expect(timed[1] == 0x83 && timed.count == one.count + 12 && timed.half(at: one.count) == 10)
            #expect(bench.run(Make.opcodes(3, opcode, action)).data == one)
            // What is listed is there.
            var cdb = [UInt8](repeating: 0, count: 16)
            (cdb[0], cdb[1]) = (opcode, hasActions ? UInt8(action) : 0)
            #expect(Bench().run(cdb).code != 0x05_2000)
        }
        #expect(bench.run(Make.opcodes(1, 0xfe)).data == [0, 1, 0, 0])
        #expect(bench.run(Make.opcodes(2, 0x9e, 0x1f)).data == [0, 1, 0, 0])
        #expect(bench.run(Make.opcodes(4)).code == 0x05_2400)
        #expect(bench.run(Make.opcodes(1, 0x9c)).data == [0, 1, 0, 0])
        #expect(bench.run(Make.opcodes(0)).data.prefix(4) == all.prefix(4))
    }
    @Test("what is not listed is refused as unknown, and moves nothing")
    func unknown() {
        let bench = Bench()
        let known = Set(CommandTable.rows.map(\.opcode))
        for opcode in UInt8.min...UInt8.max where !known.contains(opcode) {
            #expect(bench.run([opcode, 0, 0, 0, 0, 0]).code == 0x05_2000)
            let sizes = CommandTable.transferSizes(
                cdb: CDB([opcode] + [UInt8](repeating: 255, count: 15)), blockBytes: 512)
            #expect(sizes.inBytes == 0 && sizes.outBytes == 0)
        }
        #expect(bench.run([0x9e, 0x01, 0, 0, 0, 0]).code == 0x05_2400)
        #expect(CommandTable.transferSizes(cdb: CDB([0x28]), blockBytes: 512).inBytes == 0)
        #expect(CommandTable.transferSizes(cdb: CDB([0x08]), blockBytes: 512).inBytes == 256 * 512)
        #expect(
            CommandTable.transferSizes(cdb: CDB(Make.sixteen(0x8a, 0, -1)), blockBytes: 4096).outBytes == 4096
                * Int(UInt32.max))
    }

    // MARK: Random input

    @Test(
        "any CDB with any data, while a volume comes and goes: one answer each, nothing left behind",
        arguments: UInt64(0)..<60
    )
    func random(seed: UInt64) {
        var random = SeededRandom(seed: seed)
        var limits = SCSILimits()
        (limits.stepBytesMax, limits.discardStepBytesMax, limits.tasksMax) = (64 << 10, 128 << 10, 40)
        let bench = Bench(units: 2, limits: limits) {
            ($0.isRemovable, $0.atomicBytes) = (seed % 2 == 0, seed % 3 == 0 ? 65_536 : 0)
            ($0.blockBytes, $0.isThin) = (seed % 5 == 0 ? 4096 : 512, seed % 7 != 0)
        }
        bench.holds = true
        bench.keeper.failsEvery = seed % 4 == 0 ? 5 : 0
        var sent: [TaskID] = []
        let nexuses = [Bench.one, Bench.two, Bench.three]
        for _ in 0..<300 {
            let row = CommandTable.rows[Int.random(in: 0..<CommandTable.rows.count, using: &random)]
            var cdb = (0..<16).map { index -> UInt8 in
                let mask = index < row.usage.count ? row.usage[index] : 0
                // Small numbers mostly, or hardly any command would pass its checks.
                guard index == 1 || random.oneIn(6) || index >= row.cdbBytes - 3 else { return 0 }
                return UInt8.random(in: 0...255, using: &random) & (random.oneIn(20) ? 0xff : mask)
            }
            cdb[0] = random.oneIn(50) ? UInt8.random(in: 0...255, using: &random) : row.opcode
            if let action = row.serviceAction { cdb[1] = cdb[1] & 0xe0 | action }
            if !random.oneIn(10) { cdb[1] &= 0x1f }
            cdb[row.cdbBytes - 1] = 0
            if !random.oneIn(30), row.operation == .sanitize { continue }
            let wanted = bench.target.transferSizes(LUN(rawValue: 0), cdb: CDB(cdb)).outBytes
            let count = random.oneIn(4) ? Int.random(in: 0...64, using: &random) : min(wanted, 50_000)
            var data = [UInt8](repeating: UInt8.random(in: 0...2, using: &random), count: count)
            for index in 0..<min(count, 48) where random.oneIn(3) {
                data[index] = UInt8.random(in: 0...(random.oneIn(2) ? 3 : 255), using: &random)
            }
            let lun = Int.random(in: 0..<2, using: &random)
            sent.append(bench.send(cdb, nexuses[Int.random(in: 0..<3, using: &random)], out: data, lun: lun))
            while !bench.held.isEmpty, !random.oneIn(3) {
                bench.completeHeld(Int.random(in: 0..<bench.held.count, using: &random))
            }
            if random.oneIn(12), let task = sent.randomElement(using: &random), bench.answers[task] == nil,
                !bench.aborted.contains(task)
            {
                bench.step(.abort(task))
            }
            if random.oneIn(40) {
                let function = ManagementFunction(rawValue: UInt8.random(in: 1...12, using: &random))
                _ = bench.manage(function ?? .abortTask, lun: lun)
            }
            if seed % 2 == 1, random.oneIn(bench.target.units[0].isSuspended ? 8 : 40) {
                SuspensionTests.toggle(bench)
            }
        }
        while !bench.held.isEmpty { bench.completeHeld() }
        #expect(bench.target.leaving.isEmpty)
        for task in sent { #expect(bench.answers[task] != nil || bench.aborted.contains(task)) }
        for unit in bench.target.units {
            #expect(unit.tasks.taskCount == 0 && unit.locks.isEmpty)
            #expect(unit.tasks.allSatisfy { $0 == nil } && unit.endedTransfers.isEmpty)
        }
        // Some of it must have been sense.
        #expect(bench.answers.values.count { $0.status == 0 } > 40)
        #expect(bench.target.copies.isEmpty && bench.answers.values.allSatisfy { $0.sense.count <= 252 })
    }
}
