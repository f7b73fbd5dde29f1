import BlockTypes
import SCSIBoundary
import Testing

@testable import SCSICommands

/// What a unit says of itself, its modes, its medium, its attentions.
@Suite struct UnitTests {
    static let ready: [UInt8] = [0, 0, 0, 0, 0, 0]

    // MARK: INQUIRY

    @Test("INQUIRY: the standard data, cut where the initiator wants")
    func inquiry() {
        let bench = Bench()
        let data = bench.run(Make.inquiry()).data
        #expect(data.count == 96 && data[0] == 0 && data[1] == 0 && data[4] == 91)
        #expect(data[5] == 0x38 && data[7] & 2 == 2)
        #expect(String(decoding: data[8..<32], as: UTF8.self) == "CURVE   VOLUME          ")
        for version in [0x00a0, 0x0460, 0x04c0, 0x0960] {
            #expect(stride(from: 58, to: 74, by: 2).contains { data.half(at: $0) == version })
        }
        for bytes in [0, 1, 5, 36, 95] {
            #expect(bench.run(Make.inquiry(bytes: bytes)).data == Array(data.prefix(bytes)))
        }
        #expect(bench.run([0x12, 0, 0x80, 0, 255, 0]).code == 0x05_2400)
        #expect(bench.run([0x12, 2, 0, 0, 255, 0]).code == 0x05_2400)
        #expect(Bench { $0.isRemovable = true }.run(Make.inquiry()).data[1] == 0x80)
    }
    @Test(
        "every page that is listed is there, in order, with its length; others are not",
        arguments: [512, 4096])
    func pages(blockBytes: Int) {
        let bench = Bench { $0.blockBytes = blockBytes }
        let listed = Array(bench.run(Make.inquiry(page: 0)).data[4...])
        #expect(listed == [0x00, 0x80, 0x83, 0x86, 0x8f, 0xb0, 0xb1, 0xb2])
        for page in UInt8.min...UInt8.max {
            let reply = bench.run(Make.inquiry(page: page, bytes: 1024))
            guard listed.contains(page) else {
                #expect(reply.code == 0x05_2400)
                continue
            }
            #expect(reply.data[1] == page && reply.data.half(at: 2) == reply.data.count - 4)
        }
        let limits = bench.run(Make.inquiry(page: 0xb0)).data
        #expect(limits.count == 64)
        #expect(Int(limits.word(at: 28)) == 4096 / blockBytes)
        #expect(limits.word(at: 20) <= 1 << 20 && limits.word(at: 24) == 256)
        #expect(bench.run(Make.inquiry(page: 0xb2)).data[5] == 0xe4)
        #expect(bench.run(Make.inquiry(page: 0xb1)).data[7] >> 6 == 1)
    }
    @Test("the identification page: NAA, T10, port, group, names")
    func identification() {
        let bench = Bench(tag: 2)
        let data = bench.run(Make.inquiry(page: 0x83, bytes: 1024)).data
        var (at, found) = (4, [[UInt8]]())
        while at < data.count {
            let count = Int(data[at + 3])
            found.append(Array(data[at..<(at + 4 + count)]))
            at += 4 + count
        }
        #expect(at == data.count)
        #expect(found.map { $0[1] } == [0x03, 0x01, 0x94, 0x95, 0x98, 0xa8])
        #expect(Array(found[0][4...]) == Bench.configuration(lun: 0).identifier)
        #expect(found[2].half(at: 6) == 2 && found[3].half(at: 6) == 2)
        let port = String(decoding: found[4][4...].prefix { $0 != 0 }, as: UTF8.self)
        #expect(port == "iqn.2026-01.test:t1,t,0x0002")
    }

    @Test("a serial number that is long or no ASCII is cut, and found again by EXTENDED COPY")
    func oddSerial() {
        let bench = Bench { $0.serial = String(repeating: "ü", count: 300) }
        #expect(bench.run(Make.inquiry(page: 0x80, bytes: 1024)).data.count == 4 + 252)
        #expect(bench.run(Make.inquiry(page: 0x83, bytes: 1024)).status == 0)
        let short = Bench { $0.serial = "ab" }
        let target: [UInt8] =
            [0xe4, 0, 0, 0, 2, 1, 0, 10] + Array("CURVE   ab".utf8) + [UInt8](repeating: 0, count: 14)
        let (cdb, list) = TargetTests.copy([target], [TargetTests.segment(0, 0, 1, 0, 5)])
        #expect(short.run(cdb, out: list).status == 0)
    }

    // MARK: Capacity

    @Test(
        "READ CAPACITY: last block, block size, what is given up reads as zeroes", arguments: [512, 4096],
        [true, false])
    func capacity(blockBytes: Int, isThin: Bool) {
        let bench = Bench {
            $0.blockBytes = blockBytes
            $0.isThin = isThin
        }
        let ten = bench.run(Make.ten(0x25, 0, 0)).data
        #expect(Int(ten.word(at: 0)) == bench.blocks - 1 && Int(ten.word(at: 4)) == blockBytes)
        let long = bench.run(Make.sixteen(0x9e, 0, 32, flags: 0x10)).data
        #expect(long.count == 32 && Int(long.long(at: 0)) == bench.blocks - 1)
        #expect(long[13] == (blockBytes == 512 ? 3 : 0) && long[14] == (isThin ? 0xc0 : 0))
        for bytes in [0, 1, 8, 12, 31] {
            #expect(bench.run(Make.sixteen(0x9e, 0, bytes, flags: 0x10)).data == Array(long.prefix(bytes)))
        }
        #expect(bench.run(Make.ten(0x25, 1, 0)).code == 0x05_2400)
        #expect(bench.run(Make.sixteen(0x9e, 0, 32, flags: 0x11)).code == 0x05_2400)
    }
    @Test("a volume beyond 2 TiB: READ CAPACITY(10) says that it cannot tell")
    func large() {
        let bench = Bench()
        bench.step(.resized(UnitNumber(rawValue: 0), ByteCount(bytes: 1 << 50)))
        #expect(bench.run(Self.ready).code == 0x06_2a09)
        #expect(bench.run(Make.ten(0x25, 0, 0)).data.word(at: 0) == UInt32.max)
        #expect(bench.run(Make.sixteen(0x9e, 0, 32, flags: 0x10)).data.long(at: 0) == (1 << 41) - 1)
        let far = bench.run(Make.sixteen(0x88, 1 << 41, 1))
        #expect(far.code == 0x05_2100 && far.sense[0] == 0x70)  // The address does not fit.
    }
    @Test("defects: none, in any known format")
    func defects() {
        let bench = Bench()
        for format: UInt8 in [0, 3, 4, 5, 6] {
            let short = bench.run([0x37, 0, 0x18 | format, 0, 0, 0, 0, 0, 32, 0])
            #expect(short.data == [0, 0x18 | format, 0, 0])
            let long = bench.run([0xb7, format, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0])
            #expect(long.data == [0, format, 0, 0, 0, 0, 0, 0])
        }
        #expect(bench.run([0x37, 0, 7, 0, 0, 0, 0, 0, 32, 0]).code == 0x05_2400)
    }

    // MARK: Modes

    @Test("MODE SENSE: each page alone and all together, both forms")
    func modeSense() {
        let bench = Bench()
        let all = bench.run([0x1a, 0x08, 0x3f, 0, 255, 0]).data
        #expect(Int(all[0]) == all.count - 1 && all[2] == 0x10)
        var (at, found) = (4, [UInt8]())
        while at < all.count {
            found.append(all[at] & 0x3f)
            at += 2 + Int(all[at + 1])
        }
        #expect(at == all.count && found == [0x01, 0x08, 0x0a, 0x1c])
        #expect(bench.run([0x1a, 0x08, 0x3f, 0xff, 255, 0]).data.count == all.count + 32)
        let ten = bench.run([0x5a, 0x08, 0x3f, 0, 0, 0, 0, 1, 0, 0]).data
        #expect(ten.half(at: 0) == ten.count - 2 && Array(ten[8...]) == Array(all[4...]))
        let described = bench.run([0x1a, 0, 0x0a, 0, 255, 0]).data
        #expect(
            described[3] == 8 && Int(described.word(at: 4)) == bench.blocks && described.half(at: 10) == 512)
        // A task set for each nexus, and GLTSD; nobody changes the one or the other.
        #expect(described[14] == 0x22 && bench.run([0x1a, 8, 0x4a, 0, 255, 0]).data[6] == 0x04)
        let long = bench.run([0x5a, 0x10, 0x0a, 0, 0, 0, 0, 1, 0, 0]).data
        #expect(long[4] == 1 && long.half(at: 6) == 16 && Int(long.long(at: 8)) == bench.blocks)
        #expect(bench.run([0x1a, 0, 0x05, 0, 255, 0]).code == 0x05_2400)
        #expect(bench.run([0x1a, 0, 0x0a, 7, 255, 0]).code == 0x05_2400)
        #expect(bench.run([0x1a, 0, 0xca, 0, 255, 0]).code == 0x05_3900)
        #expect(bench.run([0x1a, 0x08, 0x3f, 0, 3, 0]).data.count == 3)
        #expect(Bench { $0.isReadOnly = true }.run([0x1a, 8, 0x0a, 0, 255, 0]).data[2] == 0x90)
        #expect(Bench { $0.hasWriteCache = true }.run([0x1a, 8, 0x08, 0, 255, 0]).data[6] == 0x04)
    }
    @Test("the provisioning mode page: what the soft threshold is; another one is told, none is set by it")
    func poolThreshold() {
        let bench = Bench { $0.poolThreshold = PoolThreshold(usedPercent: 80, slackPercent: 2) }
        let header: [UInt8] = [0x5c, 0x02, 0, 20] + [UInt8](repeating: 0, count: 12)
        func page(_ control: UInt8, _ bench: Bench) -> [UInt8] {
            Array(bench.run([0x1a, 0x08, control << 6 | 0x1c, 2, 255, 0]).data.dropFirst(4))
        }
        // Of 21 percent in the middle of a range of 2: it is reached when 20 are left.
        for control: UInt8 in [0, 2] {
            #expect(page(control, bench) == header + [0x88, 3, 0, 0, 0, 0, 0, 21])
        }
        #expect(page(1, bench) == header + [0, 0, 0, 0, 0, 0, 0, 0])
        #expect(bench.run(Make.inquiry(page: 0xb2)).data[4...] == [0, 0xe4, 0x02, 20])
        #expect(bench.run([0x1a, 0x08, 0x1c, 0xff, 255, 0]).data.count == 4 + 12 + 24)
        let list: [UInt8] = [0, 0, 0, 0] + page(0, bench)
        func select(_ list: [UInt8]) -> Reply {
            bench.run([0x15, 0x10, 0, 0, UInt8(list.count), 0], out: list)
        }
        #expect(select(list).status == 0)
        for index in 8..<list.count {
            var other = list
            other[index] ^= 0x80
            #expect(select(other).code == 0x05_2600, "byte \(index)")
        }
        let none = PoolThreshold(usedPercent: 0, slackPercent: 2)
        for _ in 0..<2 { bench.step(.poolThresholdChanged(UnitNumber(rawValue: 0), none)) }
        for nexus in [Bench.one, Bench.two] {
            #expect(bench.run(Self.ready, nexus).code == 0x06_2a01)
            #expect(bench.run(Self.ready, nexus).status == 0)
        }
        #expect(page(0, bench) == header + [0x08, 3, 0, 0, 0, 0, 0, 0])
        #expect(bench.run(Make.inquiry(page: 0xb2)).data[7] == 20)
        // A unit that is not thin, or whose pool nobody watches, has no such page.
        let thick = Bench {
            $0.isThin = false
            $0.poolThreshold = PoolThreshold(usedPercent: 80, slackPercent: 2)
        }
        thick.step(.poolThresholdChanged(UnitNumber(rawValue: 0), none))
        for other in [thick, Bench()] {
            #expect(other.run([0x1a, 0x08, 0x1c, 2, 255, 0]).code == 0x05_2400)
            #expect(other.run([0x1a, 0x08, 0x1c, 0xff, 255, 0]).data.count == 4 + 12)
            #expect(other.run(Make.inquiry(page: 0xb2)).data[7] == 0)
        }
    }
    private func control(_ bench: Bench, _ change: (inout [UInt8]) -> Void) -> [UInt8] {
        var list = bench.run([0x1a, 0x08, 0x0a, 0, 255, 0]).data
        (list[0], list[2]) = (0, 0)
        change(&list)
        return list
    }
    @Test("MODE SELECT: software write protection, and the others are told")
    func writeProtect() {
        let bench = Bench()
        let list = control(bench) { $0[8] |= 0x08 }
        #expect(bench.run([0x15, 0x10, 0, 0, UInt8(list.count), 0], Bench.two, out: list).status == 0)
        #expect(bench.run(Self.ready).code == 0x06_2a01)
        #expect(bench.run(Self.ready, Bench.two).status == 0)
        for cdb in [Make.ten(0x2a, 0, 1), Make.ten(0x41, 0, 1), [0x48, 2, 0, 0, 0, 0, 0, 0, 0, 0]] {
            #expect(bench.run(cdb, out: bench.pattern(1)).code == 0x07_2702)
        }
        #expect(bench.run([0x1a, 8, 0x0a, 0, 255, 0]).data[2] == 0x90)
        #expect(bench.manage(.logicalUnitReset) == .complete)
        #expect(bench.run(Self.ready).code == 0x06_2903)
        #expect(bench.run(Make.ten(0x2a, 0, 1), out: bench.pattern(1)).status == 0)
    }
    @Test("MODE SELECT: sense data as descriptors")
    func descriptorSense() {
        let bench = Bench()
        let list = control(bench) { $0[6] |= 0x04 }
        #expect(bench.run([0x15, 0x10, 0, 0, UInt8(list.count), 0], out: list).status == 0)
        let reply = bench.run(Make.sixteen(0x88, 1 << 41, 1))
        #expect(reply.sense[0] == 0x72 && reply.code == 0x05_2100)
        #expect(Array(reply.sense[8..<12]) == [0, 10, 0x80, 0] && reply.sense.long(at: 12) == 1 << 41)
        let field = bench.run([0x12, 2, 0, 0, 255, 0])
        #expect(Array(field.sense[8...]) == [2, 6, 0, 0, 0xc9, 0, 1, 0])
    }
    @Test("MODE SELECT refuses what cannot be changed, and lists that lie")
    func modeSelectRefused() {
        let bench = Bench()
        let good = control(bench) { _ in }
        func select(_ list: [UInt8], flags: UInt8 = 0x10) -> Int {
            bench.run([0x15, flags, 0, 0, UInt8(list.count), 0], out: list).code
        }
        #expect(select(good) == 0)
        #expect(select([]) == 0)
        #expect(select(good, flags: 0) == 0x05_2400)
        #expect(select(good, flags: 0x11) == 0x05_2400)
        for index in 6..<good.count {
            let changed = control(bench) { $0[index] ^= 0x20 }
            #expect(select(changed) == 0x05_2600, "byte \(index)")
        }
        for count in [1, 3, 5, good.count - 1] { #expect(select(Array(good.prefix(count))) == 0x05_1a00) }
        #expect(select(control(bench) { $0[4] = 0x05 }) == 0x05_2600)
        #expect(select(control(bench) { $0[5] = 0xff }) == 0x05_1a00)
        #expect(select([0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 2, 0]) == 0)
        #expect(select([0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 4, 0]) == 0x05_2600)
        #expect(select([0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 4]) == 0x05_2600)
        #expect(bench.run([0x15, 0x10, 0, 0, 20, 0], out: [0]).code == 0x05_1a00)
    }

    // MARK: Profiles

    @Test("a read-only unit reads, and refuses all that writes")
    func readOnly() {
        let bench = Bench { $0.isReadOnly = true }
        let (cdb, list) = Make.unmap([(0, 8)])
        let data = bench.pattern(0, blocks: 2)
        for write in [
            [0x0a, 0, 0, 0, 1, 0], Make.ten(0x2a, 0, 1), Make.twelve(0xaa, 0, 1), Make.sixteen(0x8a, 0, 1),
            Make.ten(0x41, 0, 1), Make.ten(0x41, 0, 1, flags: 8), Make.sixteen(0x93, 0, 1),
            Make.ten(0x2e, 0, 1), Make.sixteen(0x8b, 0, 1), Make.compare(0, 1),
            [0x48, 2, 0, 0, 0, 0, 0, 0, 0, 0],
        ] { #expect(bench.run(write, out: data).code == 0x07_2700) }
        #expect(bench.run(cdb, out: list).code == 0x07_2700)
        #expect(bench.run(Make.ten(0x28, 0, 1)).status == 0)
        #expect(bench.run(Make.ten(0x2f, 0, 1)).status == 0)
    }
    static let media: [[UInt8]] = [
        ready, Make.ten(0x25, 0, 0), Make.sixteen(0x9e, 0, 32, flags: 0x10), Make.ten(0x28, 0, 1),
        Make.ten(0x2a, 0, 1), Make.ten(0x2f, 0, 1), Make.ten(0x34, 0, 1), Make.ten(0x35, 0, 0),
        Make.sixteen(0x91, 0, 0), Make.sixteen(0x9e, 0, 24, flags: 0x12), Make.ten(0x41, 0, 1),
        Make.sixteen(0x8b, 0, 1), Make.compare(0, 1), Make.unmap([(0, 1)]).cdb,
    ]
    @Test("without a medium all that needs it says so; a new one may be another")
    func noMedium() {
        let bench = Bench { $0.isRemovable = true }
        #expect(bench.run([0x1b, 1, 0, 0, 2, 0]).status == 0)
        for cdb in Self.media { #expect(bench.run(cdb, out: bench.pattern(0, blocks: 2)).code == 0x02_3a00) }
        #expect(bench.run(Make.inquiry()).status == 0)
        #expect(bench.run([0x03, 0, 0, 0, 252, 0]).data[2] == 0x02)
        #expect(bench.run([0x1b, 1, 0, 0, 3, 0]).status == 0)
        #expect(bench.run(Self.ready).status == 0)
        #expect(bench.run(Self.ready, Bench.two).code == 0x06_2800)
    }
    @Test("removal is prevented by anybody, until they allow it, leave or are reset", arguments: 0..<6)
    func prevent(way: Int) {
        let bench = Bench { $0.isRemovable = true }
        #expect(bench.run([0x1e, 0, 0, 0, 1, 0], Bench.two).status == 0)
        #expect(bench.run([0x1b, 0, 0, 0, 2, 0]).code == 0x05_5302)
        #expect(bench.run([0x1e, 0, 0, 0, 0, 0]).status == 0)  // Its own, which it never set.
        #expect(bench.run([0x1b, 0, 0, 0, 2, 0], Bench.two).code == 0x05_5302)
        #expect(bench.run(Self.ready).status == 0)
        switch way {
        case 0: #expect(bench.run([0x1e, 0, 0, 0, 0, 0], Bench.two).status == 0)
        case 1: bench.step(.nexusEnded(Bench.two))
        case 2: #expect(bench.manage(.logicalUnitReset) == .complete)
        case 3: #expect(bench.manage(.targetWarmReset) == .complete)
        case 4: #expect(bench.manage(.targetColdReset) == .complete)
        default: #expect(bench.manage(.nexusReset, Bench.two) == .complete)
        }
        _ = bench.run(Self.ready)
        #expect(bench.run([0x1b, 0, 0, 0, 2, 0]).status == 0)
        // What is locked is not loaded either.
        #expect(bench.run([0x1e, 0, 0, 0, 1, 0]).status == 0)
        #expect(bench.run([0x1b, 0, 0, 0, 3, 0]).code == 0x05_5302)
        #expect(bench.run([0x1e, 0, 0, 0, 0, 0]).status == 0)
        #expect(bench.run([0x1b, 0, 0, 0, 3, 0]).status == 0)
    }
    @Test("a unit that is not removable: nothing to eject, nothing to prevent, and it never stops")
    func fixed() {
        let bench = Bench()
        #expect(bench.run([0x1b, 0, 0, 0, 2, 0]).code == 0x05_2400)
        #expect(bench.run([0x1e, 0, 0, 0, 1, 0]).code == 0x05_2000)
        for flags: UInt8 in [0x00, 0x01, 0x10, 0x20, 0x30, 0x42, 0xf2] {
            #expect(bench.run([0x1b, 0, 0, 0, flags, 0]).status == 0)
            #expect(bench.run(Self.ready).status == 0)
        }
    }

    // MARK: Unit attentions

    @Test("attentions come one by one, a reset first; INQUIRY leaves them, REQUEST SENSE takes them")
    func attentions() {
        let bench = Bench(clearsAttentions: false)
        #expect(bench.run(Make.inquiry()).status == 0)
        bench.step(.resized(UnitNumber(rawValue: 0), ByteCount(bytes: 2 << 20)))
        bench.step(.softThresholdReached(UnitNumber(rawValue: 0)))
        bench.step(.softThresholdReached(UnitNumber(rawValue: 0)))
        // More than one, and which comes next; at last there is one only.
        #expect(bench.manage(.queryAsynchronousEvent) == .succeeded(information: 0x26_2900))
        #expect(bench.run(Make.ten(0x28, 0, 1)).code == 0x06_2900)
        #expect(bench.manage(.queryAsynchronousEvent) == .succeeded(information: 0x26_2a09))
        let sense = bench.run([0x03, 0, 0, 0, 252, 0])
        #expect(sense.status == 0 && sense.data[2] == 6 && sense.data[12] == 0x2a && sense.data[13] == 9)
        #expect(bench.manage(.targetWarmReset, Bench.two) == .complete)
        #expect(bench.run(Self.ready).code == 0x06_2902)
        #expect(bench.manage(.queryAsynchronousEvent) == .succeeded(information: 0x16_3807))
        #expect(bench.run([0xff, 0, 0, 0, 0, 0]).code == 0x06_3807)
        #expect(bench.run([0xff, 0, 0, 0, 0, 0]).code == 0x05_2000)
        #expect(bench.manage(.queryAsynchronousEvent) == .complete)
        #expect(bench.run([0x03, 0, 0, 0, 252, 0]).data[2] == 0)
        #expect(bench.run([0x03, 1, 0, 0, 252, 0]).data[0] == 0x72)
    }
    @Test("commands that the transport ended are told to their nexus alone, on their unit alone")
    func clearedByTransport() {
        let bench = Bench()
        bench.step(.commandsCleared(Bench.one, LUN(rawValue: 0)))
        bench.step(.commandsCleared(Bench.one, LUN(rawValue: 77 << 48)))
        #expect(bench.run(Self.ready, Bench.two).status == 0)
        #expect(bench.run(Self.ready).code == 0x06_477f)
        #expect(bench.run(Self.ready).status == 0)
    }
    @Test("a reset of a nexus tells it alone")
    func nexusReset() {
        let bench = Bench()
        #expect(bench.manage(.nexusReset) == .complete)
        #expect(bench.run(Self.ready, Bench.two).status == 0)
        #expect(bench.run(Self.ready).code == 0x06_2907)
    }
    @Test("resets: the greater hides the lesser, all else stays")
    func precedence() {
        var attentions = UnitAttentions()
        for attention: AdditionalSense in [
            .capacityChanged, .nexusLoss, .unitReset, .nexusLoss, .powerOn, .unitReset,
        ] {
            attentions.add(attention, max: 4)
        }
        #expect(attentions.takeFirst() == .powerOn)
        #expect(attentions.takeFirst() == .capacityChanged)
        #expect(attentions.isEmpty)
        for code in 0..<20 { attentions.add(AdditionalSense(0x2a, UInt8(code)), max: 4) }
        attentions.add(.unitReset, max: 4)
        #expect(attentions.summary == 0x26_2903)
        var count = 0
        while attentions.takeFirst() != nil { count += 1 }
        #expect(count == 4)
    }
}
