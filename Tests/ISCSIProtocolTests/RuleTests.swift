import BlockTypes
import ISCSIInitiator
import Testing

@testable import ISCSIProtocol

/// Rules of the RFC that no conversation meets by itself, by value: `Tests/Interop/ISCSI.md` names them.
@Suite struct RuleTests {
    static let wire = Wire()
    static func ready(_ keys: [String] = []) -> Harness {
        let harness = Harness.loggedIn(keys)
        #expect(harness.handle() != nil)
        return harness
    }
    static func pattern(_ count: Int) -> [UInt8] { FlowTests.pattern(count) }

    // MARK: Numbers (chapters 4 and 7)

    @Test(
        "a command whose immediate data was damaged never was: its number is a gap, for its initiator to fill"
    )
    func damagedImmediateData() {
        for unsolicited in [false, true] {
            let wire = Wire(dataDigest: true)
            let harness = Self.ready(["DataDigest=CRC32C", "InitialR2T=No"])
            harness.listeners[1]?.wire = wire
            let whole = wire.command(
                tag: 5, cdb: write10(0, 2), length: 1024, cmdSN: 100, write: true, final: !unsolicited,
                data: Self.pattern(512))
            var bent = whole
            bent[60] ^= 1
            harness.say(bent)
            let rest = wire.dataOut(tag: 5, number: 0, offset: 512, final: true, data: Self.pattern(512))
            if unsolicited { harness.say(rest) }
            harness.say(wire.nopOut(tag: 6, cmdSN: 101, immediate: false))
            var heard = harness.heard()
            #expect(heard.map(\.opcode) == [0x3f] && heard[0].header[2] == 2 && heard[0].expCmdSN == 100)
            #expect(heard[0].maxCmdSN == 227 && harness.executed.isEmpty)
            // The same tag and number are good again, and what waited goes on.
            harness.say(whole + (unsolicited ? rest : []))
            heard = harness.heard()
            #expect(heard.contains { $0.opcode == 0x20 && $0.tag == 6 && $0.expCmdSN == 102 })
            if !unsolicited {
                harness.say(
                    wire.dataOut(
                        tag: 5, transfer: heard[0].transfer, number: 0, offset: 512, final: true,
                        data: Self.pattern(512)))
            }
            #expect(harness.executed.count == 1 && harness.broken.isEmpty)
        }
        // Or by giving it up.
        let wire = Wire(dataDigest: true)
        let harness = Self.ready(["DataDigest=CRC32C"])
        var bent = wire.command(
            tag: 5, cdb: write10(0, 1), length: 512, cmdSN: 100, write: true, data: Self.pattern(512))
        bent[60] ^= 1
        harness.say(bent)
        harness.say(wire.management(1, tag: 9, referenced: 5, cmdSN: 101, refCmdSN: 100))
        harness.say(wire.command(tag: 6, cdb: [0], cmdSN: 101))
        #expect(harness.executed.count == 1)
        // An immediate command has no number: it is only refused.
        bent = wire.command(
            tag: 7, cdb: write10(0, 1), length: 512, cmdSN: 102, write: true, immediate: true,
            data: Self.pattern(512))
        bent[60] ^= 1
        harness.say(bent)
        #expect(harness.executed.count == 1 && harness.group.sessions[0].immediateTasks == 0)
    }
    @Test("a refused text, logout or function leaves a gap, whatever it was refused for")
    func refusedRequests() {
        let table: [([UInt8], UInt8)] = [
            (Self.wire.text(["a"], tag: 1, cmdSN: 100, immediate: false), 4),
            (Self.wire.text(["a=1"], tag: 1, transfer: 5, cmdSN: 100, immediate: false), 9),
            (Self.wire.logout(9, tag: 1, cmdSN: 100, immediate: false), 9),
        ]
        for (bytes, reason) in table {
            let harness = Self.ready()
            harness.say(Self.wire.command(tag: 3, cdb: [0], cmdSN: 101))
            harness.say(bytes)
            let heard = harness.heard()
            #expect(heard.count == 1 && heard[0].header[2] == reason && heard[0].expCmdSN == 100)
            #expect(harness.executed.isEmpty)
            harness.say(Self.wire.nopOut(tag: 2, cmdSN: 100, immediate: false))
            #expect(harness.executed.count == 1 && harness.heard().last?.expCmdSN == 101)
        }
    }
    @Test("of a text that is refused nothing takes effect, nor of one whose exchange is not over")
    func refusedDeclaration() {
        let harness = Self.ready()
        func segments() -> [Int] {
            harness.say(
                Self.wire.command(
                    tag: 5, cdb: read10(0, 2), length: 1024, cmdSN: 100, read: true, immediate: true))
            harness.answer(
                harness.executed[harness.executed.count - 1].id, SCSIAnswer(dataIn: [.zeroes(1024)]))
            return harness.heard().filter { $0.opcode == 0x25 }.map { $0.data.count }
        }
        harness.say(Self.wire.text(["MaxRecvDataSegmentLength=512", "SendTargets=All"], tag: 1, cmdSN: 100))
        #expect(harness.heard().last?.opcode == 0x3f && segments() == [1024])
        harness.say(Self.wire.text(["MaxRecvDataSegmentLength=512"], tag: 1, cmdSN: 100, final: false))
        let answer = harness.heard().last
        #expect(answer?.opcode == 0x24 && answer?.flags == 0 && segments() == [1024])
        harness.say(Self.wire.text([], tag: 1, transfer: answer?.transfer ?? 0, cmdSN: 100))
        #expect(harness.heard().last?.flags == 0x80 && segments() == [512, 512])
    }
    @Test("a window that opens without an answer is told of by a ping that wants none")
    func toldWindow() {
        // Commands on a lost connection of two.
        var harness = SessionTests.pair()
        harness.say(Self.wire.command(tag: 1, cdb: [0], cmdSN: 100), on: 1)
        harness.say(Self.wire.command(tag: 2, cdb: [0], cmdSN: 101), on: 1)
        harness.lose(1)
        harness.abort(harness.executed[0].id)
        #expect(harness.heard(2).isEmpty)
        harness.abort(harness.executed[1].id)
        var heard = harness.heard(2)
        #expect(heard.map(\.opcode) == [0x20] && heard[0].tag == 0xffff_ffff)
        #expect(heard[0].transfer == 0xffff_ffff && heard[0].maxCmdSN == 229 && heard[0].statSN == 2)
        // Commands that another session's reset ends.
        harness = Self.ready()
        harness.logIn(2, isid: 0x4000_0000_0002)
        _ = harness.heard(2)
        harness.say(Self.wire.command(tag: 1, cdb: [0], cmdSN: 100), on: 1)
        harness.say(Self.wire.management(5, tag: 9, cmdSN: 100), on: 2)
        harness.abort(harness.executed[0].id)
        heard = harness.heard(1)
        #expect(heard.map(\.opcode) == [0x20] && heard[0].maxCmdSN == 228)
        harness.manage(harness.manages[0].id)
        #expect(harness.heard(2).map(\.opcode) == [0x22] && harness.heard(1).isEmpty)
    }
    @Test("commands that end with their connection are told of to SCSI while the session goes on")
    func clearedCommands() {
        var harness = SessionTests.pair()
        for (tag, lun) in [(UInt32(100), UInt64(7)), (101, 7), (102, 8)] {
            harness.say(Self.wire.command(tag: tag, cdb: [0], lun: lun, cmdSN: tag), on: 1)
        }
        harness.say(Self.wire.command(tag: 103, cdb: [0], lun: 9, cmdSN: 103), on: 2)
        harness.lose(1)
        #expect(harness.cleared == ["1 7", "1 8"])
        harness.lose(2)
        #expect(harness.cleared.count == 2)
        // By a logout of the connection; not by one that had none.
        harness = SessionTests.pair()
        harness.say(Self.wire.command(tag: 1, cdb: [0], lun: 7, cmdSN: 100), on: 2)
        harness.say(Self.wire.logout(1, tag: 5, cid: 2, cmdSN: 101))
        harness.abort(harness.executed[0].id)
        #expect(harness.cleared == ["1 7"] && harness.closed[2] == .loggedOut)
        // By a connection that takes its place.
        harness = Harness.loggedIn(["MaxConnections=4"])
        harness.say(Self.wire.command(tag: 1, cdb: [0], lun: 7, cmdSN: 100))
        harness.logIn(3, cid: 1, tsih: 1)
        #expect(harness.cleared == ["1 7"])
    }

    // MARK: Login and discovery (chapters 4, 6 and 13)

    @Test("something else than a login request in the middle of a login is refused by 020Bh")
    func interruptedLogin() {
        for bytes in [
            Self.wire.command(tag: 9, cdb: [0], cmdSN: 100), Self.wire.nopOut(tag: 9, cmdSN: 100),
            Self.wire.text(["SendTargets=All"], tag: 9, cmdSN: 100),
        ] {
            let harness = LoginTests.harness()
            harness.open(1)
            harness.say(Wire.login(LoginTests.names))
            _ = harness.heard()
            harness.say(bytes)
            let heard = harness.heard()
            #expect(heard.count == 1 && heard[0].opcode == 0x23 && heard[0].half(36) == 0x020b)
            #expect(heard[0].tag == 7 && heard[0].word(8) == 0x4000_0000 && heard[0].half(12) == 1)
            #expect(harness.closed[1] == .loginRefused(0x020b))
        }
    }
    @Test("an operational key twice in a login is an error, also in two steps; names may be said again")
    func repeatedKeys() {
        for key in ["MaxBurstLength=1024", "MaxRecvDataSegmentLength=1024", "X-a=1", "HeaderDigest=None"] {
            let harness = LoginTests.harness()
            harness.open(1)
            harness.say(Wire.login(LoginTests.names + [key], stage: 1))
            #expect(harness.heard().last?.half(36) == 0)
            harness.say(Wire.login(LoginTests.names, stage: 1))
            #expect(harness.heard().last?.half(36) == 0)
            harness.say(Wire.login([key], stage: 1, next: 3))
            #expect(harness.heard().last?.half(36) == 0x0200 && harness.closed[1] == .loginRefused(0x0200))
        }
    }
    @Test("a discovery login may name a target, and say it again")
    func discoveryWithTarget() {
        let harness = LoginTests.harness()
        harness.open(1)
        let names = LoginTests.names + ["SessionType=Discovery"]
        harness.say(Wire.login(names + ["AuthMethod=None"], next: 1))
        harness.say(Wire.login(names, stage: 1, next: 3))
        #expect(harness.heard().last?.flags == 0x87 && harness.nexusLog.isEmpty)
        let other = LoginTests.harness()
        other.open(1)
        other.say(Wire.login(names))
        other.say(Wire.login(["TargetName=iqn.2026-11.io.curve:t2"]))
        #expect(other.heard().last?.half(36) == 0x0200)
    }
    @Test("a discovery session takes SendTargets and the logout of the session, and nothing else")
    func discoveryOnly() {
        let refused: [[UInt8]] = [
            Self.wire.nopOut(tag: 4, cmdSN: 100), Self.wire.text(["X-a=1"], tag: 1, cmdSN: 100),
            Self.wire.text(["MaxRecvDataSegmentLength=512"], tag: 1, cmdSN: 100),
            Self.wire.logout(1, tag: 1, cmdSN: 100), Self.wire.logout(2, tag: 1, cmdSN: 100),
            Self.wire.management(5, tag: 1, cmdSN: 100), Self.wire.command(tag: 1, cdb: [0], cmdSN: 100),
            Self.wire.dataOut(tag: 1, number: 0, offset: 0, final: true, data: [1]),
        ]
        let harness = LoginTests.harness()
        harness.open(1)
        harness.say(Wire.login([LoginTests.names[0], "SessionType=Discovery"], stage: 1, next: 3))
        _ = harness.heard()
        for bytes in refused {
            harness.say(bytes)
            let heard = harness.heard()
            #expect(heard.map(\.opcode) == [0x3f] && heard[0].header[2] == 4)
        }
        harness.say(Self.wire.text(["SendTargets=All"], tag: 1, cmdSN: 100))
        #expect(harness.heard().last?.opcode == 0x24)
        // Nobody asks whether it is there: it has said nothing for a whole period.
        harness.ping()
        #expect(harness.closed.isEmpty)
        harness.ping()
        #expect(harness.heard().isEmpty && harness.closed[1] == .silent)
    }
    @Test("FirstBurstLength is never agreed above MaxBurstLength, in whatever order they come")
    func firstBurst() {
        typealias Steps = [[String]]
        let table: [(Steps, [String], Int)] = [
            (
                [["MaxBurstLength=2048", "FirstBurstLength=4096"]],
                ["MaxBurstLength=2048", "FirstBurstLength=2048"], 2048
            ),
            (
                [["FirstBurstLength=4096", "MaxBurstLength=2048"]],
                ["FirstBurstLength=2048", "MaxBurstLength=2048"], 2048
            ),
            (
                [["FirstBurstLength=1024", "MaxBurstLength=2048"]],
                ["FirstBurstLength=1024", "MaxBurstLength=2048"], 1024
            ),
            ([["MaxBurstLength=512"]], ["MaxBurstLength=512"], 512),
            (
                [["MaxBurstLength=bad", "FirstBurstLength=4096"]],
                ["MaxBurstLength=Reject", "FirstBurstLength=4096"], 4096
            ),
            ([["FirstBurstLength=4096"], ["MaxBurstLength=2048"]], ["MaxBurstLength=2048"], 2048),
            ([["MaxBurstLength=2048"], ["FirstBurstLength=4096"]], ["FirstBurstLength=2048"], 2048),
        ]
        for (steps, answers, agreed) in table {
            let harness = LoginTests.harness()
            harness.open(1)
            for (index, keys) in steps.enumerated() {
                let isLast = index == steps.count - 1
                harness.say(
                    Wire.login((index == 0 ? LoginTests.names : []) + keys, stage: 1, next: isLast ? 3 : nil))
            }
            let said = harness.heard().last?.text.filter { $0.contains("BurstLength") }
            #expect(said == answers && harness.group.sessions.first?.parameters.firstBurstBytesMax == agreed)
        }
    }
    @Test("a target's alias is told in the login, if it may be said")
    func alias() {
        for (alias, isTold) in [("disks of the lab", true), ("", false), ("a\u{0}b", false)] {
            var configuration = makeConfiguration()
            configuration.targets[0].alias = alias
            let (status, text) = LoginTests.one(LoginTests.names, Harness(configuration))
            #expect(status == 0 && text.contains("TargetAlias=\(alias)") == isTold)
        }
    }
    @Test("a request to move on that has more text to come is an error")
    func otherRefusals() {
        let harness = LoginTests.harness()
        harness.open(1)
        harness.say(Wire.login(LoginTests.names, stage: 1, next: 3, continues: true))
        #expect(harness.heard().last?.half(36) == 0x0200)
    }

    // MARK: PDUs (chapter 11)

    @Test("empty Data-Out PDUs count and harm nobody: alone, in the middle, and to end a sequence")
    func emptyDataOut() {
        let data = Self.pattern(4096)
        func out(_ transfer: UInt32, _ number: UInt32, _ range: Range<Int>, _ final: Bool) -> [UInt8] {
            Self.wire.dataOut(
                tag: 5, transfer: transfer, number: number, offset: UInt32(range.lowerBound), final: final,
                data: Array(data[range]))
        }
        // Solicited, in two sequences; the first one's end is told by an empty PDU.
        var harness = Self.ready(["MaxBurstLength=2048"])
        harness.say(Self.wire.command(tag: 5, cdb: write10(0, 8), length: 4096, cmdSN: 100, write: true))
        var asked = harness.heard()
        harness.say(
            out(asked[0].transfer, 0, 0..<0, false) + out(asked[0].transfer, 1, 0..<1024, false)
                + out(asked[0].transfer, 2, 1024..<1024, false))
        harness.say(out(asked[0].transfer, 3, 1024..<2048, false))
        #expect(harness.heard().isEmpty)
        harness.say(out(asked[0].transfer, 4, 2048..<2048, true))
        asked = harness.heard()
        #expect(asked.map(\.opcode) == [0x31] && asked[0].word(40) == 2048)
        harness.say(out(asked[0].transfer, 0, 2048..<4096, false))
        #expect(harness.executed.isEmpty)
        harness.say(out(asked[0].transfer, 1, 4096..<4096, true))
        #expect(harness.heard().isEmpty && harness.executed[0].command.dataOut.flatMap(\.array) == data)
        // Unsolicited: behind all that may come unasked, and behind all there is.
        for length in [2048, 4096] {
            harness = Self.ready(["InitialR2T=No", "FirstBurstLength=2048"])
            harness.say(
                Self.wire.command(
                    tag: 5, cdb: write10(0, UInt16(length / 512)), length: UInt32(length), cmdSN: 101,
                    write: true, final: false, data: Array(data[..<1024])))
            harness.say(out(0xffff_ffff, 0, 1024..<1024, false) + out(0xffff_ffff, 1, 1024..<2048, false))
            harness.say(out(0xffff_ffff, 2, 2048..<2048, true))
            harness.say(Self.wire.command(tag: 4, cdb: [0], cmdSN: 100))
            asked = harness.heard()
            #expect(harness.executed.count == (length == 2048 ? 2 : 1))
            #expect(asked.map(\.opcode) == (length == 2048 ? [] : [0x31]))
        }
        // An end before all that was asked for is still a wrong amount.
        harness = Self.ready()
        harness.say(Self.wire.command(tag: 5, cdb: write10(0, 8), length: 4096, cmdSN: 100, write: true))
        asked = harness.heard()
        harness.say(out(asked[0].transfer, 0, 0..<2048, false) + out(asked[0].transfer, 1, 2048..<2048, true))
        #expect(harness.heard().last?.sense == [0x0b, 0x0c, 0x0d])
    }
    @Test("ABORT TASK of what is no SCSI command: requests that wait end, functions are not aborted")
    func abortOther() {
        let harness = Self.ready()
        // All of these wait for number 100.
        harness.say(Self.wire.nopOut(tag: 1, cmdSN: 101, immediate: false))
        harness.say(Self.wire.text(["SendTargets="], tag: 2, cmdSN: 102, immediate: false))
        harness.say(Self.wire.management(5, tag: 3, cmdSN: 103, immediate: false))
        harness.say(Self.wire.management(5, tag: 4, cmdSN: 104))
        for (tag, code) in [(UInt32(1), UInt8(0)), (2, 0), (3, 255), (4, 255)] {
            harness.say(Self.wire.management(1, tag: 9, referenced: tag, cmdSN: 104, refCmdSN: 99))
            let heard = harness.heard()
            #expect(heard.map(\.opcode) == [0x22] && heard[0].header[2] == code, "\(tag)")
        }
        harness.say(Self.wire.nopOut(tag: 5, cmdSN: 100, immediate: false))
        let heard = harness.heard()
        #expect(heard.map(\.tag) == [5] && heard[0].expCmdSN == 101)
        #expect(harness.manages.count == 2)
    }
    @Test("ABORT TASK ends a text whose exchange goes on")
    func abortText() {
        let harness = Self.ready()
        harness.say(Self.wire.text(["Send"], tag: 2, cmdSN: 100, final: false, continues: true))
        let asked = harness.heard().last
        harness.say(Self.wire.management(1, tag: 9, referenced: 2, cmdSN: 100, refCmdSN: 99))
        #expect(harness.heard().last?.header[2] == 0)
        harness.say(Self.wire.text(["Targets="], tag: 2, transfer: asked?.transfer ?? 0, cmdSN: 100))
        #expect(harness.heard().last?.opcode == 0x3f)
    }
    @Test("neither R nor W where data is expected, and both without the read's length, are refused")
    func directions() {
        let length: [UInt8] = [0, 5, 2, 0, 0, 0, 4, 0]
        let table: [([UInt8], Bool)] = [
            (Self.wire.command(tag: 5, cdb: [0], length: 4, cmdSN: 100), false),
            (Self.wire.command(tag: 5, cdb: [0], cmdSN: 100), true),
            (Self.wire.command(tag: 5, cdb: [0], cmdSN: 100, read: true, write: true), false),
            (Self.wire.command(tag: 5, cdb: [0], cmdSN: 100, read: true, ahs: length), false),
            (Self.wire.command(tag: 5, cdb: [0], cmdSN: 100, read: true, write: true, ahs: length), true),
        ]
        for (bytes, isTaken) in table {
            let harness = Self.ready()
            harness.say(bytes)
            #expect(harness.executed.count == (isTaken ? 1 : 0))
            #expect(harness.heard().map { $0.header[2] } == (isTaken ? [] : [9]))
        }
    }
    @Test("Data-Out on another connection than its command's is not taken")
    func strayConnection() {
        let harness = SessionTests.pair()
        harness.say(
            Self.wire.command(tag: 5, cdb: write10(0, 1), length: 512, cmdSN: 100, write: true), on: 1)
        guard let asked = harness.heard(1).last else { return }
        let data = Self.wire.dataOut(
            tag: 5, transfer: asked.transfer, number: 0, offset: 0, final: true, data: Self.pattern(512))
        harness.say(data, on: 2)
        #expect(harness.executed.isEmpty && harness.heard(2).isEmpty)
        harness.say(data, on: 1)
        #expect(harness.executed.count == 1)
    }
    @Test("a ping's data is cut to what the initiator takes; a logout tells the times")
    func smallAnswers() {
        let harness = Self.ready(["MaxRecvDataSegmentLength=512", "DefaultTime2Wait=7"])
        harness.say(Self.wire.nopOut(tag: 1, cmdSN: 100, data: Self.pattern(600)))
        #expect(harness.heard().last?.data == Array(Self.pattern(600)[..<512]))
        harness.say(Self.wire.logout(0, tag: 2, cmdSN: 100))
        let last = harness.heard().last
        #expect(last?.opcode == 0x26 && last?.half(40) == 7 && last?.half(42) == 0)
    }
    @Test("R2T and Data-In of one command share one sequence of numbers")
    func sharedNumbers() {
        let harness = Self.ready(["MaxBurstLength=512"])
        harness.say(
            Self.wire.command(
                tag: 5, cdb: write10(0, 2), length: 1024, cmdSN: 100, read: true, write: true,
                ahs: [0, 5, 2, 0, 0, 0, 4, 0]))
        for index in 0..<2 {
            guard let asked = harness.heard().last else { return }
            #expect(asked.opcode == 0x31 && asked.word(36) == UInt32(index))
            harness.say(
                Self.wire.dataOut(
                    tag: 5, transfer: asked.transfer, number: 0, offset: UInt32(512 * index), final: true,
                    data: Self.pattern(512)))
        }
        harness.answer(harness.executed[0].id, SCSIAnswer(dataIn: [.zeroes(1024)], wantedOutBytes: 1024))
        let heard = harness.heard()
        #expect(heard.map(\.opcode) == [0x25, 0x25, 0x21] && heard.map { $0.word(36) } == [2, 3, 4])
    }
    @Test("each connection has room for an immediate command of either kind")
    func immediateOnSeveral() {
        let harness = SessionTests.pair()
        for id: UInt64 in 1...2 {
            harness.say(Self.wire.command(tag: UInt32(id), cdb: [0], cmdSN: 100, immediate: true), on: id)
            harness.say(Self.wire.management(5, tag: 10 + UInt32(id), lun: 9, cmdSN: 100), on: id)
        }
        #expect(harness.executed.count == 2 && harness.manages.count == 2)
    }
}
