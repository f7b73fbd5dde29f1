import BlockTypes
import ISCSIInitiator
import Testing

@testable import ISCSIProtocol

/// Task management.
@Suite struct ManagementTests {
    static let wire = Wire()
    static func ready(_ keys: [String] = []) -> Harness {
        let harness = Harness.loggedIn(keys)
        _ = harness.heard()
        return harness
    }
    static func code(_ harness: Harness, _ id: UInt64 = 1) -> UInt8? {
        harness.heard(id).last { $0.opcode == 0x22 }?.header[2]
    }

    @Test("ABORT TASK: the command is taken back, and only then is the function answered")
    func abortTask() {
        let harness = Self.ready()
        harness.say(Self.wire.command(tag: 1, cdb: [0], lun: 7, cmdSN: 100))
        harness.say(Self.wire.management(1, tag: 9, referenced: 1, lun: 7, cmdSN: 101, refCmdSN: 100))
        #expect(harness.aborts == [harness.executed[0].id] && harness.heard().isEmpty)
        harness.abort(harness.executed[0].id)
        let heard = harness.heard()
        #expect(heard.count == 1 && heard[0].opcode == 0x22 && heard[0].header[2] == 0 && heard[0].tag == 9)
        #expect(heard[0].maxCmdSN == 228)
        // A command that was done after all is answered first, and the function says that it came too late.
        harness.say(Self.wire.command(tag: 2, cdb: [0], lun: 7, cmdSN: 101))
        harness.say(
            Self.wire.management(
                1, tag: 9, referenced: 2, lun: 7, cmdSN: 102, refCmdSN: 101, immediate: false))
        harness.answer(harness.executed[1].id)
        let late = harness.heard()
        #expect(late.map(\.opcode) == [0x21, 0x22] && late[1].header[2] == 1)
    }
    @Test("ABORT TASK of commands that gather, wait, are done, are missing or never were")
    func abortCases() {
        let harness = Self.ready(["InitialR2T=Yes"])
        harness.say(Self.wire.command(tag: 1, cdb: write10(0, 1), length: 512, cmdSN: 100, write: true))
        let asked = harness.heard()
        harness.say(Self.wire.management(1, tag: 9, referenced: 1, cmdSN: 101, refCmdSN: 100))
        #expect(Self.code(harness) == 0 && harness.executed.isEmpty)
        harness.say(
            Self.wire.dataOut(
                tag: 1, transfer: asked[0].transfer, number: 0, offset: 0, final: true,
                data: [UInt8](repeating: 1, count: 512)))
        #expect(harness.heard().isEmpty && harness.executed.isEmpty)
        harness.say(Self.wire.management(1, tag: 9, referenced: 1, cmdSN: 101, refCmdSN: 100))
        #expect(Self.code(harness) == 1)
        harness.say(Self.wire.command(tag: 3, cdb: [0, 3], cmdSN: 102))
        harness.say(Self.wire.command(tag: 4, cdb: [0, 4], cmdSN: 103))
        harness.say(Self.wire.management(1, tag: 9, referenced: 4, cmdSN: 104, refCmdSN: 103))
        #expect(Self.code(harness) == 0)
        harness.say(Self.wire.management(1, tag: 9, referenced: 3, lun: 5, cmdSN: 104, refCmdSN: 99))
        #expect(Self.code(harness) == 1)
        harness.say(Self.wire.management(1, tag: 9, referenced: 2, cmdSN: 104, refCmdSN: 120))
        #expect(Self.code(harness) == 1)
        // The missing number is given up: what waited behind it goes on, without what was aborted.
        harness.say(Self.wire.management(1, tag: 9, referenced: 2, cmdSN: 104, refCmdSN: 101))
        #expect(Self.code(harness) == 0 && harness.executed.map { $0.command.cdb[1] } == [3])
        harness.say(Self.wire.command(tag: 5, cdb: [0, 5], cmdSN: 104))
        #expect(harness.executed.count == 2)
    }
    @Test("a command whose data is still under way is aborted, and its number counts")
    func abortArriving() {
        let harness = SessionTests.pair()
        let bytes = Self.wire.command(
            tag: 1, cdb: write10(0, 1), length: 512, cmdSN: 100, write: true,
            data: [UInt8](repeating: 1, count: 512))
        harness.say(Array(bytes[..<200]), on: 1)
        harness.say(Self.wire.management(1, tag: 9, referenced: 1, cmdSN: 101, refCmdSN: 100), on: 2)
        harness.say(Array(bytes[200...]), on: 1, throughWindow: true)
        harness.say(Self.wire.command(tag: 2, cdb: [0], cmdSN: 101), on: 2)
        #expect(harness.executed.map { $0.command.cdb[0] } == [0])
    }
    @Test("functions that are about several tasks: whose, and in which order")
    func sets() {
        let table: [(UInt8, [UInt32])] = [
            (2, [1, 2]), (4, [1, 2]), (5, [1, 2, 11]), (6, [1, 2, 3, 11, 12]), (7, [1, 2, 3, 11, 12]),
            (11, [1, 2, 3]),
        ]
        for (function, affected) in table {
            let harness = Self.ready(["iSCSIProtocolLevel=2"])
            harness.logIn(2, isid: 0x4000_0000_0002)
            harness.logIn(3, isid: 0x4000_0000_0003, target: "iqn.2026-11.io.curve:t2")
            let sent: [(UInt64, UInt32, UInt64, UInt32)] = [
                (1, 1, 0, 100), (1, 2, 0, 101), (1, 3, 5, 102), (2, 11, 0, 100), (2, 12, 5, 101),
                (3, 21, 0, 100),
            ]
            for (id, tag, lun, number) in sent {
                harness.say(
                    Self.wire.command(tag: tag, cdb: [0, UInt8(tag)], lun: lun, cmdSN: number), on: id)
            }
            harness.say(Self.wire.management(function, tag: 9, lun: 0, cmdSN: 103))
            // A command behind the function is not touched.
            harness.say(Self.wire.command(tag: 4, cdb: [0, 4], cmdSN: 103))
            let aborted = harness.aborts.compactMap { id in
                harness.executed.first { $0.id == id }?.command.cdb[1]
            }
            #expect(aborted == affected.map { UInt8($0) }, "\(function)")
            for id in harness.aborts { harness.abort(id) }
            #expect(harness.manages.map(\.function.rawValue) == [function] && Self.code(harness) == nil)
            harness.manage(harness.manages[0].id)
            #expect(Self.code(harness) == 0)
            #expect(harness.closed.keys.sorted() == (function == 7 ? [1, 2] : []))
        }
    }
    @Test("another gateway's reset ends a unit's commands of all sessions, given out or not, unanswered")
    func endedFromElsewhere() {
        let harness = Self.ready()
        harness.logIn(2, isid: 0x4000_0000_0002)
        harness.logIn(3, isid: 0x4000_0000_0003, target: "iqn.2026-11.io.curve:t2")
        let sent: [(UInt64, UInt32, UInt64, UInt32)] = [
            (1, 1, 0, 100), (1, 2, 5, 101), (2, 11, 0, 100), (3, 21, 0, 100),
        ]
        for (id, tag, lun, number) in sent {
            harness.say(
                Self.wire.command(tag: tag, cdb: [0, UInt8(tag)], lun: lun, cmdSN: number), on: id)
        }
        // Its data are still to come.
        harness.say(
            Self.wire.command(tag: 12, cdb: write10(0, 8), length: 4096, cmdSN: 101, write: true), on: 2)
        for id: UInt64 in 1...3 { _ = harness.heard(id) }
        let end = { (number: UInt64) in
            harness.act {
                harness.group.endTasks(
                    ofTarget: targetName, ending: TaskEndingID(rawValue: number),
                    where: { $0.rawValue == 0 }, effects: &$0)
            }
        }
        end(7)
        let aborted = harness.aborts.compactMap { id in
            harness.executed.first { $0.id == id }?.command.cdb[1]
        }
        #expect(aborted == [1, 11] && harness.endedTasks.isEmpty && harness.executed.count == 4)
        harness.abort(harness.aborts[0])
        end(8)
        #expect(harness.endedTasks.isEmpty && harness.aborts.count == 2)
        harness.abort(harness.aborts[1])
        #expect(harness.endedTasks == [7, 8])
        // A ping that wants no answer tells of the room that they left.
        for id: UInt64 in 1...2 {
            let heard = harness.heard(id)
            #expect(heard.map(\.opcode) == [0x20] && heard[0].transfer == 0xffff_ffff)
        }
        #expect(harness.closed.isEmpty)
        end(9)
        #expect(harness.endedTasks == [7, 8, 9])
    }
    @Test("a function waits for commands that were sent before it, but a reset of the target does not")
    func waitsForCommands() {
        var harness = SessionTests.pair()
        harness.say(Self.wire.management(5, tag: 9, cmdSN: 102), on: 2)
        #expect(harness.manages.isEmpty)
        harness.say(Self.wire.command(tag: 2, cdb: [0, 2], cmdSN: 101), on: 1)
        #expect(harness.executed.isEmpty)
        harness.say(Self.wire.command(tag: 1, cdb: [0, 1], cmdSN: 100), on: 1)
        #expect(harness.aborts.count == 2 && harness.manages.isEmpty)
        for id in harness.aborts { harness.abort(id) }
        #expect(harness.manages.count == 1)
        harness = SessionTests.pair()
        harness.say(Self.wire.command(tag: 2, cdb: [0, 2], cmdSN: 101), on: 1)
        harness.say(Self.wire.management(6, tag: 9, cmdSN: 102), on: 2)
        #expect(harness.manages.count == 1 && harness.executed.isEmpty)
        harness.say(Self.wire.command(tag: 1, cdb: [0, 1], cmdSN: 100), on: 1)
        harness.say(Self.wire.command(tag: 3, cdb: [0, 3], cmdSN: 102), on: 1)
        #expect(harness.executed.map { $0.command.cdb[1] } == [3])
    }
    @Test("an immediate command that came behind a function is not touched, though it has the same number")
    func behindFunction() {
        let harness = SessionTests.pair()
        harness.say(Self.wire.command(tag: 1, cdb: [0, 1], cmdSN: 102, immediate: true), on: 2)
        harness.say(Self.wire.management(2, tag: 9, cmdSN: 102), on: 2)
        harness.say(Self.wire.command(tag: 2, cdb: [0, 2], cmdSN: 102, immediate: true), on: 2)
        harness.say(Self.wire.nopOut(tag: 3, cmdSN: 100, immediate: false), on: 1)
        harness.say(Self.wire.nopOut(tag: 4, cmdSN: 101, immediate: false), on: 1)
        #expect(harness.executed.count == 2 && harness.aborts == [harness.executed[0].id])
    }
    @Test("what is not supported says so", arguments: [3, 8, 9, 10, 11, 12, 13, 64, 0, 127] as [UInt8])
    func unsupported(function: UInt8) {
        let harness = Self.ready()
        harness.say(Self.wire.management(function, tag: 9, cmdSN: 100))
        #expect(Self.code(harness) == (function == 8 ? 4 : 5) && harness.manages.isEmpty)
    }
    @Test("what the logical unit hears to be answered is what is answered", arguments: [1, 2])
    func answered(level: Int) {
        for function in 1...UInt8(13) {
            let harness = Self.ready(["iSCSIProtocolLevel=\(level)"])
            harness.say(Self.wire.management(function, tag: 9, cmdSN: 100))
            if let id = harness.manages.last?.id { harness.manage(id) }
            let code = Self.code(harness)
            let isTold = ManagementFunction(rawValue: function).map { harness.functions.contains($0) }
            #expect((code != 4 && code != 5) == (isTold ?? false), "function \(function)")
            #expect(harness.functions.count == (level == 2 ? 10 : 6))
        }
    }
    @Test("queries, for who agreed on protocol level 2")
    func queries() {
        let harness = Self.ready(["iSCSIProtocolLevel=2"])
        harness.say(Self.wire.command(tag: 1, cdb: [0], lun: 7, cmdSN: 100))
        let table: [(UInt8, UInt32, UInt64, UInt8)] = [
            (9, 1, 7, 7), (9, 1, 6, 0), (9, 2, 7, 0), (10, 0, 7, 7), (10, 0, 6, 0),
        ]
        for (function, referenced, lun, code) in table {
            harness.say(Self.wire.management(function, tag: 9, referenced: referenced, lun: lun, cmdSN: 101))
            #expect(Self.code(harness) == code)
        }
        harness.say(Self.wire.management(12, tag: 9, lun: 7, cmdSN: 101))
        harness.manage(harness.manages[0].id, .succeeded(information: 0x26_2909))
        let heard = harness.heard()
        #expect(heard.count == 1 && heard[0].header[2] == 7)
        #expect(heard[0].header[8..<16] == [0x26, 0x29, 0x09, 0, 0, 0, 0, 0])
    }
    @Test("every outcome has its code")
    func outcomes() {
        let table: [(ManagementOutcome, UInt8)] = [
            (.complete, 0), (.succeeded(information: 0x12_3456), 7), (.noSuchLUN, 2), (.notAuthorized, 6),
            (.notSupported, 5), (.rejected, 255),
        ]
        for (outcome, code) in table {
            let harness = Self.ready()
            harness.say(Self.wire.management(5, tag: 9, lun: 3, cmdSN: 100))
            #expect(harness.manages[0].lun.rawValue == 3)
            harness.manage(harness.manages[0].id, outcome)
            let heard = harness.heard()
            // Who did not agree on the newer fields finds zeroes there.
            #expect(heard.count == 1 && heard[0].header[2] == code && heard[0].word(8) == 0)
        }
    }
    @Test("a function whose connection is lost goes on, and is answered to nobody")
    func lostFunction() {
        let harness = Self.ready()
        harness.say(Self.wire.command(tag: 1, cdb: [0], cmdSN: 100))
        harness.say(Self.wire.management(5, tag: 9, cmdSN: 101))
        harness.lose(1)
        harness.abort(harness.executed[0].id)
        #expect(harness.nexusLog.last == "-1" && harness.manages.count == 1)
        harness.manage(harness.manages[0].id)
        #expect(harness.broken.isEmpty)
    }
    @Test(
        "a function with a number beyond the window is refused, whatever it wants",
        arguments: [1, 5, 6, 7] as [UInt8])
    func beyondWindow(function: UInt8) {
        for (ahead, isRefused) in [(UInt32(128), false), (129, true), (0x7000_0000, true)] {
            let harness = Self.ready()
            harness.say(Self.wire.management(function, tag: 9, cmdSN: 100 &+ ahead))
            let heard = harness.heard()
            #expect((heard.last?.opcode == 0x3f && heard.last?.header[2] == 9) == isRefused)
            #expect(harness.manages.isEmpty == (isRefused || function < 6))
        }
    }
    @Test("a session that ends before a function's turn has come leaves nothing behind")
    func nothingLeft() {
        let harness = SessionTests.pair()
        harness.say(Self.wire.management(5, tag: 9, cmdSN: 103), on: 2)
        harness.say(Self.wire.command(tag: 1, cdb: [0], cmdSN: 102), on: 1)
        weak let session = harness.group.sessions.first
        #expect(session?.managements.count == 1)
        harness.lose(1)
        harness.lose(2)
        #expect(session == nil && harness.manages.isEmpty && harness.group.managements.isEmpty)
    }
    @Test("on several connections, answers before a function's arrive before it and those behind it after")
    func fence() {
        let harness = SessionTests.pair()
        for (number, id) in [(UInt32(100), UInt64(1)), (101, 2), (102, 2)] {
            harness.say(
                Self.wire.command(
                    tag: number, cdb: [0], lun: number == 102 ? 5 : 0, cmdSN: number, expStatSN: 2), on: id)
        }
        harness.answer(harness.executed[1].id)
        #expect(harness.heard(2).map(\.tag) == [101])
        harness.say(Self.wire.management(5, tag: 9, cmdSN: 103, expStatSN: 2), on: 1)
        harness.abort(harness.executed[0].id)
        harness.manage(harness.manages[0].id)
        // The answer on connection 2 has to arrive first: it is asked for.
        #expect(harness.heard(1).isEmpty)
        let asked = harness.heard(2)
        #expect(asked.map(\.opcode) == [0x20] && asked[0].statSN == 3)
        harness.answer(harness.executed[2].id)
        #expect(harness.heard(2).isEmpty)
        harness.say(Self.wire.nopOut(transfer: asked[0].transfer, cmdSN: 103, expStatSN: 3), on: 2)
        let own = harness.heard(1)
        #expect(own.map(\.opcode) == [0x22, 0x20] && harness.heard(2).isEmpty)
        harness.say(Self.wire.nopOut(transfer: own[1].transfer, cmdSN: 103, expStatSN: 3), on: 1)
        #expect(harness.heard(2).map(\.tag) == [102])
        // A connection that is lost holds nobody up.
        harness.say(Self.wire.management(5, tag: 10, cmdSN: 103, expStatSN: 3), on: 1)
        harness.manage(harness.manages[1].id)
        #expect(harness.heard(1).isEmpty)
        harness.lose(2)
        #expect(harness.heard(1).map(\.opcode) == [0x22, 0x20])
    }
}
