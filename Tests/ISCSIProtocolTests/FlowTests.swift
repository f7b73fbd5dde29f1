import BlockTypes
import ISCSIInitiator
import Testing

@testable import ISCSIProtocol

/// Commands and their data, one connection.
@Suite struct FlowTests {
    static let unsolicited = ["InitialR2T=No", "ImmediateData=Yes"]
    static let wire = Wire()
    static func pattern(_ count: Int, _ seed: Int = 0) -> [UInt8] {
        (0..<count).map { UInt8(truncatingIfNeeded: $0 &* 31 &+ seed &+ $0 >> 8) }
    }
    static func ready(_ keys: [String] = [], limits: ISCSILimits = ISCSILimits()) -> Harness {
        let harness = Harness.loggedIn(keys, limits: limits)
        #expect(harness.handle() != nil)
        return harness
    }

    @Test("a read: data in PDUs of the initiator's size, sequences of the agreed length, status on the last")
    func read() {
        let harness = Self.ready(["MaxRecvDataSegmentLength=1024", "MaxBurstLength=2560"])
        harness.say(
            Self.wire.command(
                tag: 5, cdb: read10(0, 8), lun: 0x0001_0000_0000_0000, length: 4096, cmdSN: 100, read: true))
        #expect(harness.executed.count == 1 && harness.executed[0].command.expectedInBytes == 4096)
        #expect(harness.executed[0].command.lun.rawValue == 0x0001_0000_0000_0000)
        let data = Self.pattern(4096)
        let parts: [ReadSegment] = [
            .data(Payload(copying: Array(data[..<1000]))), .data(Payload(copying: Array(data[1000...]))),
        ]
        harness.answer(harness.executed[0].id, SCSIAnswer(dataIn: parts))
        let heard = harness.heard()
        #expect(heard.map { Int($0.word(40)) } == [0, 1024, 2048, 2560, 3584])
        #expect(heard.map { $0.data.count } == [1024, 1024, 512, 1024, 512])
        #expect(heard.map { $0.flags } == [0, 0, 0x80, 0, 0x81])
        #expect(
            heard.map { $0.word(36) } == [0, 1, 2, 3, 4]
                && heard.allSatisfy { $0.opcode == 0x25 && $0.tag == 5 })
        #expect(heard.flatMap { $0.data } == data && heard[4].statSN == 2 && heard[4].expCmdSN == 101)
        #expect(heard[3].maxCmdSN == 228 && heard[4].maxCmdSN == 228)
    }
    @Test("zeroes that are stored nowhere are sent as data, with digests over all of it")
    func zeroes() {
        let harness = Self.ready(["DataDigest=CRC32C", "HeaderDigest=CRC32C"])
        harness.listeners[1]?.wire = Wire(headerDigest: true, dataDigest: true)
        let wire = Wire(headerDigest: true, dataDigest: true)
        harness.say(wire.command(tag: 5, cdb: read10(0, 2), length: 1021, cmdSN: 100, read: true))
        harness.answer(
            harness.executed[0].id,
            SCSIAnswer(dataIn: [.zeroes(600), .data(Payload(copying: Self.pattern(424)))]))
        let heard = harness.heard()
        #expect(heard.count == 1 && heard[0].data == [UInt8](repeating: 0, count: 600) + Self.pattern(421))
        #expect(heard[0].flags == 0x85 && heard[0].residual == 3 && harness.broken.isEmpty)
    }
    @Test("residuals of both kinds, and sense data")
    func residuals() {
        struct Case {
            var length: UInt32
            var read = false
            var write = false
            var answer: SCSIAnswer
            var flags: UInt8
            var residual: Int
        }
        let bytes = ReadSegment.data(Payload(copying: Self.pattern(512)))
        let table = [
            Case(length: 512, read: true, answer: SCSIAnswer(dataIn: [bytes]), flags: 0x81, residual: 0),
            Case(length: 1024, read: true, answer: SCSIAnswer(dataIn: [bytes]), flags: 0x83, residual: 512),
            Case(length: 100, read: true, answer: SCSIAnswer(dataIn: [bytes]), flags: 0x85, residual: 412),
            Case(length: 0, answer: SCSIAnswer(dataIn: [bytes]), flags: 0x84, residual: 512),
            Case(length: 0, answer: SCSIAnswer(wantedOutBytes: 1024), flags: 0x84, residual: 1024),
            Case(
                length: 512, read: true, answer: SCSIAnswer(dataIn: [bytes], wantedInBytes: 2048),
                flags: 0x85, residual: 1536),
            Case(
                length: 512, read: true, answer: SCSIAnswer(status: 2, sense: [0x70, 0, 5]), flags: 0x82,
                residual: 512),
            Case(length: 0xffff_ffff, read: true, answer: SCSIAnswer(), flags: 0x82, residual: 0xffff_ffff),
            // That nothing is wanted from the initiator says nothing of what goes to it.
            Case(
                length: 10000, read: true, answer: SCSIAnswer(dataIn: [bytes], wantedOutBytes: 0),
                flags: 0x83, residual: 9488),
            Case(
                length: 255, read: true,
                answer: SCSIAnswer(status: 2, sense: [0x70, 0, 5], wantedOutBytes: 0),
                flags: 0x82, residual: 255),
            Case(length: 0, answer: SCSIAnswer(), flags: 0x80, residual: 0),
        ]
        for one in table {
            let harness = Self.ready()
            harness.say(
                Self.wire.command(
                    tag: 5, cdb: [0], length: one.length, cmdSN: 100, read: one.read, write: one.write))
            harness.answer(harness.executed[0].id, one.answer)
            let heard = harness.heard()
            #expect(heard.last?.flags == one.flags && heard.last?.residual == one.residual, "\(one) \(heard)")
            if !one.answer.sense.isEmpty {
                #expect(heard.last?.data == [0, 3, 0x70, 0, 5] && heard.last?.status == 2)
            }
        }
        let writes: [(UInt32, Int, UInt8, Int)] = [
            (1024, 512, 0x82, 512), (512, 1024, 0x84, 512), (512, 512, 0x80, 0),
        ]
        for (length, wanted, flags, residual) in writes {
            let harness = Self.ready()
            harness.say(
                Self.wire.command(
                    tag: 5, cdb: write10(0, UInt16(wanted / 512)), length: length, cmdSN: 100, write: true,
                    data: Self.pattern(Int(length))))
            let given = harness.executed[0].command.dataOut.flatMap(\.array)
            #expect(given == Array(Self.pattern(Int(length)).prefix(wanted)))
            harness.answer(harness.executed[0].id, SCSIAnswer(wantedOutBytes: wanted))
            #expect(harness.heard().last?.flags == flags)
            #expect(residual >= 0)
        }
    }
    @Test("a command that reads and writes has two lengths and two residuals")
    func bidirectional() {
        let harness = Self.ready()
        let segments: [UInt8] = [0, 5, 2, 0, 0, 0, 4, 0] + [0, 5, 1, 0, 0xaa, 0xbb, 0xcc, 0xdd]
        harness.say(
            Self.wire.command(
                tag: 5, cdb: write10(0, 1), length: 1024, cmdSN: 100, read: true, write: true, ahs: segments,
                data: Self.pattern(1024)))
        let command = harness.executed[0].command
        #expect(
            command.expectedInBytes == 1024 && command.expectedOutBytes == 1024
                && command.cdb == CDB(write10(0, 1)) && command.dataOut.flatMap(\.array).count == 512)
        harness.answer(
            harness.executed[0].id,
            SCSIAnswer(dataIn: [.data(Payload(copying: Self.pattern(2000)))], wantedOutBytes: 512))
        let heard = harness.heard()
        #expect(
            heard.count == 2 && heard[0].opcode == 0x25 && heard[0].flags == 0x80
                && heard[0].data.count == 1024)
        #expect(
            heard[1].opcode == 0x21 && heard[1].flags == 0x92 && heard[1].residual == 512
                && heard[1].word(40) == 976)
        #expect(heard[1].word(36) == 1)
    }
    @Test(
        "additional header segments that lie are refused, and the stream goes on",
        arguments: [
            [0, 5, 9, 0, 0, 0, 0, 0], [0, 0, 1, 0], [0, 200, 1, 0], [0, 1, 1, 0], [0, 5, 2, 0, 0, 0, 0, 0],
            [0xff, 0xff, 1, 0],
            [0, 5, 1, 0, 1, 2, 3, 4, 0, 5, 1, 0, 1, 2, 3, 4],
        ] as [[UInt8]])
    func badSegments(segments: [UInt8]) {
        let harness = Self.ready()
        harness.say(Self.wire.command(tag: 5, cdb: [0], cmdSN: 100, ahs: segments))
        let heard = harness.heard()
        #expect(
            heard.count == 1 && heard[0].opcode == 0x3f && heard[0].header[2] == 9
                && heard[0].tag == 0xffff_ffff)
        #expect(
            harness.executed.isEmpty && heard[0].expCmdSN == 100 && heard[0].data.count == 48 + segments.count
        )
        harness.say(Self.wire.command(tag: 6, cdb: [0], cmdSN: 100))
        #expect(harness.executed.count == 1)
    }
    @Test("a write by R2T: bursts of the agreed length, as many at a time as agreed")
    func solicited() {
        let harness = Self.ready([
            "MaxBurstLength=1024", "MaxOutstandingR2T=2", "InitialR2T=Yes", "ImmediateData=No",
        ])
        let data = Self.pattern(3072)
        harness.say(Self.wire.command(tag: 5, cdb: write10(0, 6), length: 3072, cmdSN: 100, write: true))
        var asked = harness.heard()
        #expect(asked.map(\.opcode) == [0x31, 0x31] && asked.map { $0.word(36) } == [0, 1])
        #expect(asked.map { $0.word(40) } == [0, 1024] && asked.map(\.residual) == [1024, 1024])
        #expect(asked[0].transfer != asked[1].transfer && asked[0].statSN == 2)
        harness.say(
            Self.wire.dataOut(
                tag: 5, transfer: asked[0].transfer, number: 0, offset: 0, final: false,
                data: Array(data[..<512]))
                + Self.wire.dataOut(
                    tag: 5, transfer: asked[0].transfer, number: 1, offset: 512, final: true,
                    data: Array(data[512..<1024])),
            pieceBytes: 100, throughWindow: true)
        #expect(harness.executed.isEmpty)
        asked.append(contentsOf: harness.heard())
        #expect(asked.count == 3 && asked[2].word(40) == 2048)
        for index in 1...2 {
            let part = Array(data[(1024 * index)..<(1024 * (index + 1))])
            harness.say(
                Self.wire.dataOut(
                    tag: 5, transfer: asked[index].transfer, number: 0, offset: UInt32(1024 * index),
                    final: true, data: part))
        }
        #expect(harness.executed.count == 1 && harness.executed[0].command.dataOut.flatMap(\.array) == data)
        harness.answer(harness.executed[0].id)
        let last = harness.heard()
        #expect(last.count == 1 && last[0].opcode == 0x21 && last[0].flags == 0x80 && last[0].word(36) == 0)
    }
    @Test("immediate and unsolicited data, then R2T for the rest")
    func mixed() {
        let harness = Self.ready(Self.unsolicited + ["FirstBurstLength=2048", "MaxBurstLength=1048576"])
        let data = Self.pattern(8192)
        harness.say(
            Self.wire.command(
                tag: 5, cdb: write10(0, 16), length: 8192, cmdSN: 100, write: true, final: false,
                data: Array(data[..<512])))
        #expect(harness.heard().isEmpty)
        harness.say(
            Self.wire.dataOut(tag: 5, number: 0, offset: 512, final: false, data: Array(data[512..<1000])))
        harness.say(
            Self.wire.dataOut(tag: 5, number: 1, offset: 1000, final: true, data: Array(data[1000..<2048])))
        let asked = harness.heard()
        #expect(asked.count == 1 && asked[0].word(40) == 2048 && asked[0].residual == 6144)
        harness.say(
            Self.wire.dataOut(
                tag: 5, transfer: asked[0].transfer, number: 0, offset: 2048, final: true,
                data: Array(data[2048...])),
            pieceBytes: 999, throughWindow: true)
        let given = harness.executed[0].command.dataOut
        #expect(given.count == 2 && given.flatMap(\.array) == data)
    }
    @Test("of what a CDB does not ask for, nothing is kept and nothing asked")
    func surplus() {
        let harness = Self.ready(Self.unsolicited + ["FirstBurstLength=2048"])
        harness.say(
            Self.wire.command(
                tag: 5, cdb: write10(0, 1), length: 0xffff_ffff, cmdSN: 100, write: true, final: false,
                data: Self.pattern(700)))
        harness.say(Self.wire.dataOut(tag: 5, number: 0, offset: 700, final: true, data: Self.pattern(1348)))
        #expect(
            harness.heard().isEmpty
                && harness.executed[0].command.dataOut.flatMap(\.array) == Array(Self.pattern(700)[..<512]))
    }

    /// What a Data-Out may be wrong in, after a command of 4096 bytes with an R2T for all of it.
    @Test("data that is wrong ends its command with the standard's sense, once its last PDU has come")
    func wrongData() {
        func out(_ transfer: UInt32, _ number: UInt32, _ offset: UInt32, _ final: Bool, _ count: Int)
            -> [UInt8]
        {
            Self.wire.dataOut(
                tag: 5, transfer: transfer, number: number, offset: offset, final: final,
                data: Self.pattern(count))
        }
        let lost: [UInt8] = [0x0b, 0x47, 0x05]
        let amount: [UInt8] = [0x0b, 0x0c, 0x0d]
        let unexpected: [UInt8] = [0x0b, 0x0c, 0x0c]
        let table: [(String, [UInt8], (UInt32) -> [UInt8])] = [
            ("DataSN 27", lost, { out($0, 27, 0, true, 4096) }),
            ("DataSN -1", lost, { out($0, 0xffff_ffff, 0, true, 4096) }),
            ("DataSN twice", lost, { out($0, 0, 0, false, 2048) + out($0, 0, 2048, true, 2048) }),
            ("DataSN reversed", lost, { out($0, 1, 0, false, 2048) + out($0, 0, 2048, true, 2048) }),
            ("a gap", lost, { out($0, 0, 512, true, 3584) }),
            ("backwards", lost, { out($0, 0, 0, false, 2048) + out($0, 1, 1024, true, 2048) }),
            ("too much", amount, { out($0, 0, 0, true, 4100) }),
            ("offset wraps", lost, { out($0, 0, 0xffff_fffc, true, 512) }),
            ("too little", amount, { out($0, 0, 0, true, 2048) }),
            ("nothing", amount, { out($0, 0, 0, true, 0) }),
            ("no end", amount, { out($0, 0, 0, false, 4096) + out($0, 1, 4096, true, 4) }),
            ("unasked", unexpected, { out(0xffff_ffff, 0, 0, true, 512) + out($0, 0, 0, true, 4096) }),
        ]
        for (what, sense, bytes) in table {
            let harness = Self.ready(["InitialR2T=Yes"])
            harness.say(Self.wire.command(tag: 5, cdb: write10(0, 8), length: 4096, cmdSN: 100, write: true))
            guard let asked = harness.heard().last else { continue }
            harness.say(bytes(asked.transfer))
            let heard = harness.heard()
            #expect(
                heard.count == 1 && heard[0].opcode == 0x21 && heard[0].status == 2
                    && heard[0].sense == sense, "\(what) \(heard)")
            #expect(harness.executed.isEmpty && heard.last?.maxCmdSN == 228)
        }
    }
    @Test("data for a wrong transfer tag or an unknown command harms nobody")
    func strayData() {
        let harness = Self.ready(["InitialR2T=Yes"])
        harness.say(Self.wire.command(tag: 5, cdb: write10(0, 1), length: 512, cmdSN: 100, write: true))
        let asked = harness.heard()
        harness.say(
            Self.wire.dataOut(
                tag: 5, transfer: asked[0].transfer + 1, number: 0, offset: 0, final: true,
                data: Self.pattern(512)))
        var heard = harness.heard()
        #expect(heard.count == 1 && heard[0].opcode == 0x3f && heard[0].header[2] == 9)
        harness.say(
            Self.wire.dataOut(
                tag: 77, transfer: 9, number: 0, offset: 0, final: true, data: Self.pattern(512)))
        #expect(harness.heard().isEmpty)
        harness.say(
            Self.wire.dataOut(
                tag: 5, transfer: asked[0].transfer, number: 0, offset: 0, final: true,
                data: Self.pattern(512)))
        #expect(harness.executed.count == 1)
        harness.say(
            Self.wire.dataOut(
                tag: 5, transfer: asked[0].transfer, number: 0, offset: 0, final: true,
                data: Self.pattern(512)))
        heard = harness.heard()
        #expect(heard.isEmpty)
    }
    @Test("immediate and unsolicited data that may not be")
    func unwelcomeData() {
        let unexpected: [UInt8] = [0x0b, 0x0c, 0x0c]
        let amount: [UInt8] = [0x0b, 0x0c, 0x0d]
        func command(_ length: UInt32, _ count: Int, write: Bool = true, final: Bool = true) -> [UInt8] {
            Self.wire.command(
                tag: 5, cdb: write10(0, 4), length: length, cmdSN: 100, read: !write, write: write,
                final: final,
                data: Self.pattern(count))
        }
        let table: [([String], [UInt8], [UInt8])] = [
            (["ImmediateData=No"], command(2048, 512), unexpected),
            ([], command(2048, 512, write: false), unexpected),
            ([], command(100, 512), amount), (["FirstBurstLength=512"], command(2048, 1024), amount),
            (
                ["InitialR2T=Yes"],
                command(2048, 0, final: false)
                    + Self.wire.dataOut(tag: 5, number: 0, offset: 0, final: true, data: Self.pattern(512)),
                unexpected
            ),
            (
                ["InitialR2T=No", "FirstBurstLength=1024"],
                command(2048, 0, final: false)
                    + Self.wire.dataOut(tag: 5, number: 0, offset: 0, final: true, data: Self.pattern(1028)),
                amount
            ),
        ]
        for (keys, bytes, sense) in table {
            let harness = Self.ready(keys)
            harness.say(bytes)
            let heard = harness.heard()
            #expect(heard.count == 1 && heard[0].sense == sense, "\(keys) \(heard)")
            #expect(harness.executed.isEmpty && heard.last?.expCmdSN == 101)
        }
    }
    @Test("a wrong data digest: the PDU is refused, and a command that it belonged to is answered")
    func dataDigests() {
        let wire = Wire(dataDigest: true)
        let harness = Self.ready(["DataDigest=CRC32C"])
        harness.listeners[1]?.wire = wire
        harness.say(wire.command(tag: 6, cdb: write10(0, 1), length: 512, cmdSN: 100, write: true))
        let asked = harness.heard()
        var bent = wire.dataOut(
            tag: 6, transfer: asked[0].transfer, number: 0, offset: 0, final: true, data: Self.pattern(512))
        bent[bent.count - 1] ^= 1
        harness.say(bent)
        var heard = harness.heard()
        #expect(heard.map(\.opcode) == [0x3f, 0x21] && heard[1].sense == [0x0b, 0x47, 0x05])
        bent = wire.nopOut(tag: 7, cmdSN: 101, immediate: false, data: [1, 2, 3, 4])
        bent[50] ^= 1
        harness.say(bent)
        heard = harness.heard()
        #expect(heard.map(\.opcode) == [0x3f] && heard[0].expCmdSN == 101 && harness.executed.isEmpty)
        harness.say(wire.nopOut(tag: 7, cmdSN: 101, immediate: false, data: [1, 2, 3, 4]))
        #expect(harness.heard().last?.data == [1, 2, 3, 4])
    }
    @Test("commands outside of the window, and repeated ones, are ignored in silence")
    func window() {
        var limits = ISCSILimits()
        limits.commandsMax = 4
        let harness = Self.ready(limits: limits)
        for number: UInt32 in [99, 104, 105, 0x8000_0000, 50] {
            harness.say(
                Self.wire.command(
                    tag: number, cdb: write10(0, 1), length: 512, cmdSN: number, write: true,
                    data: Self.pattern(512)))
        }
        #expect(harness.heard().isEmpty && harness.executed.isEmpty)
        for number: UInt32 in [103, 102, 103, 101] {
            harness.say(
                Self.wire.command(
                    tag: number + 1000 * UInt32(harness.executed.count), cdb: [0], cmdSN: number))
        }
        #expect(harness.executed.isEmpty)
        harness.say(Self.wire.command(tag: 100, cdb: [0], cmdSN: 100))
        #expect(harness.executed.count == 4)
        // All four are under way: the window is closed until one is answered.
        harness.say(Self.wire.command(tag: 104, cdb: [0], cmdSN: 104))
        #expect(harness.executed.count == 4)
        harness.answer(harness.executed[0].id)
        let heard = harness.heard()
        #expect(heard.last?.expCmdSN == 104 && heard.last?.maxCmdSN == 104)
        harness.say(Self.wire.command(tag: 104, cdb: [0], cmdSN: 104))
        #expect(harness.executed.count == 5)
    }
    @Test("immediate commands stand outside of the window, and have a bound of their own")
    func immediateCommands() {
        let harness = Self.ready()
        for tag: UInt32 in 0..<20 {
            harness.say(Self.wire.command(tag: tag, cdb: [0], cmdSN: 100, immediate: true))
        }
        #expect(harness.executed.count == 16)
        let heard = harness.heard()
        #expect(
            heard.count == 4
                && heard.allSatisfy { $0.opcode == 0x3f && $0.header[2] == 6 && $0.expCmdSN == 100 })
        harness.answer(harness.executed[0].id)
        harness.say(Self.wire.command(tag: 16, cdb: [0], cmdSN: 100, immediate: true))
        #expect(harness.executed.count == 17)
    }
    @Test(
        "a tag in use, reserved tags and attributes, unknown opcodes, SNACK: each is refused for its reason")
    func rejects() {
        let harness = Self.ready()
        harness.say(Self.wire.command(tag: 5, cdb: [0], cmdSN: 100))
        let table: [([UInt8], UInt8)] = [
            (Self.wire.command(tag: 5, cdb: [0], cmdSN: 101), 7),
            (Self.wire.command(tag: 0xffff_ffff, cdb: [0], cmdSN: 101), 9),
            (Self.wire.command(tag: 6, cdb: [0], cmdSN: 101, attribute: 5), 9),
            (Self.wire.command(tag: 6, cdb: [0], length: 5, cmdSN: 101, read: true, final: false), 9),
            (Self.wire.pdu(0x10), 3),
            (Self.wire.pdu(0x1c), 5), (Self.wire.pdu(0x21, data: [1, 2, 3]), 5), (Self.wire.pdu(0x9f), 5),
            (Self.wire.pdu(0x3f), 5),
            (Self.wire.pdu(0x40, bytes: [(16, be32(1))], ahs: [0, 1, 1, 0]), 9),
            (Self.wire.logout(9, tag: 1, cmdSN: 101), 9),
            (Self.wire.text(["a"], tag: 1, cmdSN: 101), 4),
            (Self.wire.text(["a=1"], tag: 1, transfer: 5, cmdSN: 101), 9),
        ]
        for (bytes, reason) in table {
            harness.say(bytes)
            let heard = harness.heard()
            #expect(
                heard.count == 1 && heard[0].opcode == 0x3f && heard[0].header[2] == reason,
                "\(reason) \(heard)")
            #expect(heard.last?.data == Array(bytes[..<(48 + 4 * Int(bytes[4]))]) && harness.closed.isEmpty)
        }
        harness.say(Self.wire.command(tag: 7, cdb: [0], cmdSN: 101))
        #expect(harness.executed.count == 2)
    }
    @Test("what cannot be trusted ends the session")
    func ends() {
        let wire = Wire(headerDigest: true)
        var bent = wire.nopOut(tag: 1, cmdSN: 100)
        bent[20] ^= 1
        let digested = Self.ready(["HeaderDigest=CRC32C"])
        digested.say(bent)
        #expect(digested.closed[1] == .violation("a header's digest is wrong"))
        for bytes in [
            Wire.login([], stage: 1, next: 3),
            Self.wire.pdu(0x40, data: [UInt8](repeating: 0, count: 262_145)),
        ] {
            let harness = Self.ready()
            harness.say(bytes)
            #expect(
                harness.closed[1] != nil && harness.heard().last?.opcode == 0x3f
                    && harness.nexusLog.last == "-1")
        }
    }
    @Test(
        "simple commands that wait for room go by their priority, where that was agreed on",
        arguments: [1, 2])
    func priority(level: Int) {
        var limits = ISCSILimits()
        limits.inFlightBytesMax = 512
        let harness = Self.ready(["iSCSIProtocolLevel=\(level)"], limits: limits)
        // The first has the room. Nothing passes what is ordered, or has no priority.
        let table: [(attribute: UInt8, priority: UInt8)] = [
            (1, 0), (1, 9), (1, 15), (1, 9), (0, 1), (2, 15), (1, 3), (1, 0), (1, 1), (1, 1),
        ]
        for (number, row) in table.enumerated() {
            harness.say(
                Self.wire.command(
                    tag: UInt32(number), cdb: read10(UInt32(number), 1), length: 512,
                    cmdSN: 100 + UInt32(number), read: true, attribute: row.attribute, priority: row.priority)
            )
        }
        #expect(harness.executed.count == 1)
        for number in table.indices where number < harness.executed.count {
            harness.answer(harness.executed[number].id)
        }
        let order = harness.executed.map { Int($0.command.cdb[5]) }
        #expect(order == (level == 2 ? [0, 4, 1, 3, 2, 5, 6, 7, 8, 9] : Array(0..<10)))
    }
    @Test("a status qualifier stands in the response where it was agreed on", arguments: [1, 2])
    func statusQualifier(level: Int) {
        let harness = Self.ready(["iSCSIProtocolLevel=\(level)"])
        harness.say(Self.wire.command(tag: 1, cdb: [0], lun: 0x0102 << 48, cmdSN: 100))
        harness.answer(harness.executed[0].id, SCSIAnswer(status: 0x28, statusQualifier: 0x1234))
        let heard = harness.heard()
        #expect(heard.count == 1 && heard[0].status == 0x28)
        #expect(heard[0].header[8..<16] == [level == 2 ? 0x12 : 0, level == 2 ? 0x34 : 0, 0, 0, 0, 0, 0, 0])
        // It cannot ride on data, which has no place for it.
        harness.say(Self.wire.command(tag: 2, cdb: read10(0, 1), length: 512, cmdSN: 101, read: true))
        let data = [ReadSegment.data(Payload(copying: Self.pattern(512)))]
        harness.answer(harness.executed[1].id, SCSIAnswer(statusQualifier: 1, dataIn: data))
        #expect(harness.heard().map(\.opcode) == [0x25, 0x21])
    }
    @Test("data in flight is bounded, and one command may be larger than the bound when it is alone")
    func budget() {
        var limits = ISCSILimits()
        limits.inFlightBytesMax = 4096
        let harness = Self.ready(limits: limits)
        for tag: UInt32 in 0..<5 {
            harness.say(
                Self.wire.command(
                    tag: tag, cdb: read10(tag, tag == 2 ? 16 : 4), length: 8192, cmdSN: 100 + tag, read: true)
            )
        }
        #expect(harness.executed.count == 2 && harness.group.waitsForDrain(ConnectionID(rawValue: 1)))
        harness.answer(harness.executed[0].id)
        #expect(harness.executed.count == 2)
        harness.answer(harness.executed[1].id)
        #expect(harness.executed.count == 3)
        harness.answer(harness.executed[2].id)
        // Replies that the socket has not taken count too.
        #expect(harness.executed.count == 4)
        harness.drain()
        #expect(harness.executed.count == 5)
    }
    @Test("an initiator that reads nothing is not read, and costs no more than its bound")
    func deaf() {
        var limits = ISCSILimits()
        limits.queuedReplyBytesMax = 10_000
        let harness = Self.ready(limits: limits)
        harness.isDeaf = true
        for tag: UInt32 in 0..<100 {
            harness.say(Self.wire.nopOut(tag: tag, cmdSN: 100, data: Self.pattern(1000)))
        }
        #expect(harness.paused == [1] && harness.queued[1] == 10 * 1048)
        harness.isDeaf = false
        harness.drain()
        while harness.paused.contains(1) { harness.drain() }
        let heard = harness.heard()
        #expect(heard.map(\.tag) == Array(0..<100) && heard.map(\.statSN) == Array(2..<102))
    }
    @Test(
        "the conversation is the same however the bytes are cut",
        arguments: [1, 2, 3, 7, 48, 49, 100, 511, 4096])
    func cutting(pieceBytes: Int) {
        func talk(_ pieceBytes: Int, _ window: Bool) -> [String] {
            let harness = Self.ready(Self.unsolicited + ["FirstBurstLength=1024"])
            let data = Self.pattern(4096)
            harness.say(
                Self.wire.nopOut(tag: 1, cmdSN: 100, data: [1, 2, 3])
                    + Self.wire.command(
                        tag: 2, cdb: write10(0, 8), length: 4096, cmdSN: 100, write: true, final: false,
                        data: Array(data[..<300]))
                    + Self.wire.dataOut(
                        tag: 2, number: 0, offset: 300, final: true, data: Array(data[300..<1024])),
                pieceBytes: pieceBytes, throughWindow: window)
            var heard = harness.heard()
            harness.say(
                Self.wire.dataOut(
                    tag: 2, transfer: heard.last?.transfer ?? 0, number: 0, offset: 1024, final: true,
                    data: Array(data[1024...]))
                    + Self.wire.text(["SendTargets="], tag: 3, cmdSN: 101), pieceBytes: pieceBytes,
                throughWindow: window)
            #expect(harness.executed.first?.command.dataOut.flatMap(\.array) == data)
            heard += harness.heard()
            return heard.map { "\($0.header) \($0.data)" }
        }
        #expect(talk(pieceBytes, false) == talk(1 << 20, false))
        #expect(talk(pieceBytes, true) == talk(1 << 20, false))
    }
}
