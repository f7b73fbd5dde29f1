import BlockTypes
import ISCSIInitiator
import Testing

@testable import ISCSIProtocol

/// Several connections and sessions, goodbyes, and what a target says unasked.
@Suite struct SessionTests {
    static let wire = Wire()

    /// A session of two connections, 1 and 2; commands begin at CmdSN 100.
    static func pair(_ configuration: PortalGroupConfiguration = makeConfiguration()) -> Harness {
        let harness = Harness(configuration)
        harness.logIn(1, ["MaxConnections=4"])
        let handle = harness.handle(1) ?? 0
        harness.logIn(2, cid: 2, tsih: handle)
        #expect(harness.handle(2) == handle && handle != 0)
        return harness
    }

    @Test("commands are taken in the order of their numbers, whichever connection they come on")
    func order() {
        let harness = Self.pair()
        harness.say(Self.wire.command(tag: 2, cdb: [0, 2], cmdSN: 101), on: 2)
        harness.say(Self.wire.nopOut(tag: 9, cmdSN: 102, immediate: false), on: 2)
        #expect(harness.executed.isEmpty && harness.heard(2).isEmpty)
        harness.say(Self.wire.command(tag: 1, cdb: [0, 1], cmdSN: 100), on: 1)
        #expect(harness.executed.map { $0.command.cdb[1] } == [1, 2])
        #expect(
            harness.heard(2).last?.expCmdSN == 103
                && harness.executed[0].command.nexus == harness.executed[1].command.nexus)
        harness.answer(harness.executed[1].id)
        #expect(harness.heard(2).last?.opcode == 0x21 && harness.heard(1).isEmpty)
    }
    @Test("joining needs the session's handle, its initiator port and room")
    func joining() {
        let harness = Harness()
        harness.logIn(1, ["MaxConnections=2"])
        let handle = harness.handle(1) ?? 0
        let table: [(UInt64, UInt16, UInt64, String, String, UInt16)] = [
            (2, 77, 0x4000_0000_0001, initiatorName, targetName, 0x020a),
            (3, handle, 0x4000_0000_0002, initiatorName, targetName, 0x020a),
            (4, handle, 0x4000_0000_0001, "iqn.other", targetName, 0x020a),
            (5, handle, 0x4000_0000_0001, initiatorName, "iqn.2026-11.io.curve:t2", 0x020a),
        ]
        for (id, tsih, isid, name, target, status) in table {
            harness.logIn(id, cid: 9, tsih: tsih, isid: isid, name: name, target: target)
            #expect(harness.heard(id).last?.half(36) == status)
        }
        harness.logIn(6, cid: 2, tsih: handle)
        #expect(harness.handle(6) == handle)
        harness.logIn(7, cid: 3, tsih: handle)
        #expect(
            harness.heard(7).last?.half(36) == 0x0206 && harness.closed[1] == nil
                && harness.nexusLog.count == 1)
    }
    @Test("a second login of the same port takes the place of the first, after its commands have ended")
    func reinstatement() {
        let harness = Harness.loggedIn()
        harness.say(
            Self.wire.command(
                tag: 1, cdb: write10(0, 1), length: 512, cmdSN: 100, write: true,
                data: [UInt8](repeating: 1, count: 512)))
        harness.say(Self.wire.command(tag: 2, cdb: [0], cmdSN: 101))
        harness.logIn(2)
        #expect(harness.closed[1] == .reinstated && harness.aborts == harness.executed.map(\.id))
        #expect(
            harness.heard(2).isEmpty && harness.paused == [2]
                && harness.group.isLoggingIn(ConnectionID(rawValue: 2)))
        harness.abort(harness.executed[0].id)
        #expect(harness.nexusLog.count == 1)
        harness.answer(harness.executed[1].id)
        #expect(harness.handle(2) == 2 && harness.paused.isEmpty)
        #expect(harness.nexusLog.map { $0.prefix(2) } == ["+1", "-1", "+2"])
        // Another port, and another target, are none of its business.
        harness.logIn(3, isid: 0x4000_0000_0009)
        harness.logIn(4, target: "iqn.2026-11.io.curve:t2")
        #expect(harness.handle(3) == 3 && harness.handle(4) == 4 && harness.closed[2] == nil)
    }
    @Test("a session that nobody proved to own stays")
    func noReinstatementWithoutProof() {
        var configuration = makeConfiguration()
        configuration.targets[0].authentication = .chap(users: [CHAPTests.alice], mutual: nil)
        let harness = Harness(configuration)
        guard let (identifier, challenge) = CHAPTests.challenged(harness) else { return }
        harness.say(
            Wire.login(
                [
                    "CHAP_N=alice",
                    "CHAP_R=\(CHAPTests.response(CHAPTests.alice.secret, identifier, challenge))",
                ], next: 3))
        #expect(harness.nexusLog.count == 1)
        harness.open(2)
        harness.say(Wire.login(LoginTests.names + ["AuthMethod=CHAP"]), on: 2)
        harness.say(Wire.login(["CHAP_A=6"]), on: 2)
        harness.say(Wire.login(["CHAP_N=alice", "CHAP_R=0x1234"], next: 3), on: 2)
        #expect(harness.closed == [2: .loginRefused(0x0201)])
    }
    @Test("the same port sixty times: one session is left, and nothing of the others")
    func often() {
        let harness = Harness()
        for id: UInt64 in 1...60 {
            harness.logIn(id)
            harness.say(Self.wire.command(tag: 1, cdb: [0], cmdSN: 100), on: id)
            if id < 60 {
                let task = harness.executed.removeLast().id
                harness.logIn(id + 1000)
                harness.abort(task)
            }
        }
        #expect(harness.group.sessions.count == 1 && harness.group.endingSessions.isEmpty)
        #expect(harness.group.connections.count == 1 && harness.executed.count == 1 && harness.broken.isEmpty)
    }
    @Test("a connection takes the place of one with its number; the session stays")
    func connectionReinstatement() {
        for count in 1...2 {
            let harness = count == 2 ? Self.pair() : Harness.loggedIn(["MaxConnections=4"])
            let handle: UInt16 = 1
            harness.say(Self.wire.command(tag: 1, cdb: [0], cmdSN: 100))
            harness.logIn(3, cid: 1, tsih: handle)
            #expect(
                harness.closed == [1: .reinstated] && harness.aborts.count == 1 && harness.heard(3).isEmpty)
            harness.abort(harness.executed[0].id)
            #expect(harness.handle(3) == handle && harness.nexusLog.count == 1)
            harness.say(Self.wire.command(tag: 1, cdb: [0], cmdSN: 101), on: 3)
            #expect(harness.executed.count == 2)
        }
        let given = Harness.loggedIn(["MaxConnections=4"])
        given.say(Self.wire.command(tag: 1, cdb: [0], cmdSN: 100))
        given.logIn(3, cid: 1, tsih: 1)
        given.lose(3)
        given.abort(given.executed[0].id)
        #expect(
            given.nexusLog.last == "-1" && given.group.sessions.isEmpty && given.group.endingSessions.isEmpty)
    }
    @Test("a lost connection takes its commands with it, and the last one the session")
    func loss() {
        let harness = Self.pair()
        for (number, id) in [(UInt32(100), UInt64(1)), (101, 2), (102, 1)] {
            harness.say(Self.wire.command(tag: number, cdb: [0], cmdSN: number), on: id)
        }
        harness.lose(1)
        #expect(harness.aborts == [harness.executed[0].id, harness.executed[2].id])
        harness.answer(harness.executed[1].id)
        harness.abort(harness.executed[0].id)
        harness.answer(harness.executed[2].id)
        #expect(
            harness.heard(2).filter { $0.opcode == 0x21 }.map(\.tag) == [101] && harness.nexusLog.count == 1)
        harness.lose(2)
        #expect(harness.nexusLog.last == "-1" && harness.group.sessions.isEmpty)
    }
    @Test("what a lost connection had sent ahead of its turn does nothing, and its numbers count")
    func lossAhead() {
        let harness = Self.pair()
        harness.say(Self.wire.command(tag: 1, cdb: [0, 1], cmdSN: 101), on: 1)
        harness.say(Self.wire.command(tag: 2, cdb: [0, 2], cmdSN: 102), on: 2)
        harness.lose(1)
        harness.say(Self.wire.command(tag: 3, cdb: [0, 3], cmdSN: 100), on: 2)
        #expect(harness.executed.map { $0.command.cdb[1] } == [3, 2])
    }
    @Test("logout: of the session, of this connection, of another, of none, and for recovery")
    func logout() {
        var harness = Self.pair()
        harness.say(Self.wire.command(tag: 1, cdb: [0], cmdSN: 100), on: 2)
        harness.say(Self.wire.logout(0, tag: 5, cmdSN: 101, immediate: false))
        #expect(harness.heard(1).isEmpty && harness.aborts.count == 1)
        harness.say(Self.wire.command(tag: 2, cdb: [0], cmdSN: 102), on: 2)
        harness.abort(harness.executed[0].id)
        let last = harness.heard(1).last
        #expect(last?.opcode == 0x26 && last?.header[2] == 0 && last?.tag == 5 && last?.expCmdSN == 102)
        #expect(harness.closed == [1: .loggedOut, 2: .loggedOut] && harness.executed.count == 1)
        harness = Self.pair()
        harness.say(Self.wire.command(tag: 1, cdb: [0], cmdSN: 100), on: 1)
        harness.say(Self.wire.logout(1, tag: 5, cid: 2, cmdSN: 101))
        #expect(
            harness.closed == [2: .loggedOut] && harness.heard(1).last?.header[2] == 0
                && harness.aborts.isEmpty)
        harness.say(Self.wire.logout(1, tag: 6, cid: 7, cmdSN: 101))
        #expect(harness.heard(1).last?.header[2] == 1)
        harness.say(Self.wire.logout(2, tag: 7, cid: 1, cmdSN: 101))
        #expect(harness.heard(1).last?.header[2] == 2 && harness.closed.count == 1)
        harness.say(Self.wire.logout(1, tag: 8, cid: 1, cmdSN: 101))
        harness.answer(harness.executed[0].id)
        #expect(harness.heard(1).map(\.opcode) == [0x21, 0x26] && harness.nexusLog.last == "-1")
    }
    @Test("a logout that ends the session is answered when its nexus is released, others at once")
    func farewell() {
        let harness = Self.pair()
        harness.holdsFarewells = true
        harness.say(Self.wire.logout(1, tag: 6, cid: 2, cmdSN: 100))
        #expect(harness.heard(1).last?.opcode == 0x26 && harness.farewells.isEmpty)
        harness.say(Self.wire.command(tag: 1, cdb: [0], cmdSN: 100))
        harness.say(Self.wire.logout(0, tag: 5, cmdSN: 101))
        #expect(harness.farewells.isEmpty)
        harness.abort(harness.executed[0].id)
        #expect(harness.farewells.count == 1 && harness.heard(1).isEmpty && harness.nexusLog.count == 1)
        #expect(harness.group.waitsForRelease(of: harness.farewells[0]))
        for _ in 0..<2 { harness.act { harness.group.nexusReleased(harness.farewells[0], effects: &$0) } }
        #expect(harness.heard(1).map(\.opcode) == [0x26] && harness.nexusLog.last == "-1")
        #expect(harness.farewells.count == 1)
    }
    @Test("a session whose connections break while it is released ends, and a late word does no harm")
    func farewellLost() {
        let harness = Self.pair()
        harness.holdsFarewells = true
        harness.say(Self.wire.logout(0, tag: 5, cmdSN: 100))
        #expect(harness.farewells.count == 1)
        harness.lose(1)
        harness.lose(2)
        #expect(harness.nexusLog.last == "-1")
        harness.act { harness.group.nexusReleased(harness.farewells[0], effects: &$0) }
        #expect(harness.farewells.count == 1 && harness.group.sessions.isEmpty)
    }
    @Test("a session's logout goes on when the connection that asked is lost")
    func logoutLost() {
        let harness = Self.pair()
        harness.say(Self.wire.command(tag: 1, cdb: [0], cmdSN: 100), on: 2)
        harness.say(Self.wire.logout(0, tag: 5, cmdSN: 101))
        harness.lose(1)
        harness.abort(harness.executed[0].id)
        #expect(harness.closed == [2: .loggedOut] && harness.group.sessions.isEmpty)
    }
    @Test("pings: silence twice ends the connection, any word in between does not")
    func pings() {
        let harness = Harness.loggedIn()
        _ = harness.heard()
        harness.ping()
        #expect(harness.heard().isEmpty)
        harness.ping()
        var heard = harness.heard()
        #expect(
            heard.count == 1 && heard[0].opcode == 0x20 && heard[0].tag == 0xffff_ffff
                && heard[0].transfer != 0xffff_ffff)
        #expect(heard[0].statSN == 2)
        harness.say(Self.wire.nopOut(transfer: heard[0].transfer, cmdSN: 100, expStatSN: 2))
        #expect(harness.heard().isEmpty)
        harness.ping()
        harness.ping()
        heard = harness.heard()
        #expect(heard.count == 1 && heard[0].statSN == 2)
        harness.ping()
        #expect(harness.closed[1] == .silent && harness.nexusLog.last == "-1")
    }
    @Test("long texts come in pieces, both ways, and a new request ends an old one")
    func longText() {
        var configuration = makeConfiguration()
        for index in 0..<40 {
            configuration.targets.append(TargetDescription(name: "iqn.2026-11.io.curve:many\(index)"))
        }
        let harness = Harness(configuration)
        harness.open(1)
        harness.say(
            Wire.login(
                [LoginTests.names[0], "SessionType=Discovery", "MaxRecvDataSegmentLength=1000"], stage: 1,
                next: 3))
        _ = harness.heard()
        harness.say(Self.wire.text(["SendT"], tag: 1, cmdSN: 100, final: false, continues: true))
        harness.say(Self.wire.text(["SendTargets=All"], tag: 2, cmdSN: 100))
        var bytes: [UInt8] = []
        var pieces = 0
        while let heard = harness.heard().last {
            #expect(heard.opcode == 0x24 && heard.data.count <= 1000)
            bytes += heard.data
            pieces += 1
            if heard.flags & 0x80 != 0 { break }
            #expect(heard.flags == 0x40 && heard.transfer != 0xffff_ffff)
            harness.say(Self.wire.text([], tag: 2, transfer: heard.transfer, cmdSN: 100))
        }
        #expect(pieces == 9 && bytes.split(separator: 0).count == 42 * 3)
        let first = Wire().pdu(
            0x44, flags: 0x40, bytes: [(16, be32(3)), (20, be32(0xffff_ffff))], data: Array("SendTar".utf8))
        harness.say(first)
        let asked = harness.heard().last
        #expect(asked?.flags == 0 && asked?.data.isEmpty == true)
        harness.say(
            Wire().pdu(
                0x44, flags: 0x80, bytes: [(16, be32(3)), (20, be32(asked?.transfer ?? 0))],
                data: Array("gets=\(targetName)\0".utf8)))
        #expect(harness.heard().last?.text.count == 3)
        for _ in 0..<400 where harness.closed.isEmpty {
            let transfer = harness.heard().last?.transfer ?? 0xffff_ffff
            harness.say(
                Wire().pdu(
                    0x44, flags: 0x40, bytes: [(16, be32(4)), (20, be32(transfer))],
                    data: [UInt8](repeating: 0x6b, count: 1000)))
        }
        #expect(harness.closed.isEmpty)
    }
    @Test("texts of a normal session tell of its own target, and change what may still change")
    func normalText() {
        let harness = Harness.loggedIn()
        _ = harness.heard()
        let table: [(String, [String]?)] = [
            (
                "SendTargets=",
                [
                    "TargetName=\(targetName)", "TargetAddress=10.0.0.1:3260,1",
                    "TargetAddress=[fd00::1]:3260,1",
                ]
            ),
            ("SendTargets=All", nil), ("SendTargets=iqn.2026-11.io.curve:t2", nil),
            ("MaxBurstLength=512", ["MaxBurstLength=Reject"]),
            ("TargetName=x", ["TargetName=Reject"]), ("X-y=1", ["X-y=NotUnderstood"]),
            ("MaxRecvDataSegmentLength=0", nil),
            ("MaxRecvDataSegmentLength=512", []),
        ]
        for (text, answer) in table {
            harness.say(Self.wire.text([text], tag: 1, cmdSN: 100))
            let heard = harness.heard().last
            if let answer {
                #expect(heard?.opcode == 0x24 && heard?.text == answer)
            } else {
                #expect(heard?.opcode == 0x3f)
            }
        }
        harness.say(Self.wire.command(tag: 5, cdb: read10(0, 2), length: 1024, cmdSN: 100, read: true))
        harness.answer(harness.executed[0].id, SCSIAnswer(dataIn: [.zeroes(1024)]))
        #expect(harness.heard().map { $0.data.count } == [512, 512])
    }
    @Test("a target asks for logouts, drops sessions and reports events")
    func unasked() {
        let harness = Self.pair()
        harness.logIn(3, target: "iqn.2026-11.io.curve:t2")
        _ = (harness.heard(1), harness.heard(2), harness.heard(3))
        harness.act { harness.group.requestLogout(fromTarget: targetName, seconds: 30, effects: &$0) }
        for id: UInt64 in [1, 2] {
            let heard = harness.heard(id)
            #expect(
                heard.count == 1 && heard[0].opcode == 0x32 && heard[0].header[36] == 1
                    && heard[0].half(42) == 30)
        }
        harness.say(Self.wire.command(tag: 1, cdb: [0], cmdSN: 100))
        let nexus = harness.executed[0].command.nexus
        harness.act {
            harness.group.reportEvent(to: nexus, lun: LUN(rawValue: 9), sense: [1, 2, 3], effects: &$0)
        }
        #expect(harness.heard(1).last?.data == [0, 3, 1, 2, 3])
        harness.act { harness.group.dropSessions(ofTarget: targetName, seconds: 5, effects: &$0) }
        let last = harness.heard(1).last
        #expect(last?.header[36] == 3 && last?.half(40) == 5 && harness.closed == [1: .dropped, 2: .dropped])
        #expect(harness.heard(3).isEmpty)
        harness.abort(harness.executed[0].id)
        #expect(harness.nexusLog.last == "-1")
    }
    @Test("connections beyond the bound are closed at once")
    func crowd() {
        var limits = ISCSILimits()
        limits.connectionsMax = 3
        let harness = Harness(limits: limits)
        for id: UInt64 in 1...5 { harness.open(id) }
        #expect(harness.closed == [4: .crowded, 5: .crowded])
    }
}
