import BlockTypes
import ISCSIInitiator
import Testing

@testable import ISCSIProtocol

/// What fields of PDUs mean, and what means nothing (RFC 7143, chapter 11).
@Suite struct FieldTests {
    static let wire = Wire()

    @Test("reserved bits are not looked at: beside the opcode, and beside the kind of an additional segment")
    func reservedBits() {
        let harness = RuleTests.ready()
        var ping = Self.wire.nopOut(tag: 1, cmdSN: 100)
        ping[0] |= 0x80
        harness.say(ping)
        var command = Self.wire.command(tag: 2, cdb: [0, 2], cmdSN: 100)
        command[0] |= 0x80
        command[1] |= 0x18
        harness.say(command)
        #expect(harness.heard().map(\.opcode) == [0x20] && harness.executed.count == 1)
        for kind: UInt8 in [0x02, 0x42, 0xc2] {
            harness.say(
                Self.wire.command(
                    tag: 3, cdb: [0, 3], cmdSN: 101, read: true, write: true, immediate: true,
                    ahs: [0, 5, kind, 0, 0, 0, 4, 0]))
            #expect(harness.executed.last?.command.expectedInBytes == 1024 && harness.heard().isEmpty)
            harness.answer(harness.executed[harness.executed.count - 1].id)
            _ = harness.heard()
        }
        // A login too.
        let other = LoginTests.harness()
        other.open(1)
        var login = Wire.login(LoginTests.names, stage: 1, next: 3)
        login[0] |= 0x80
        other.say(login)
        #expect(other.heard().last?.flags == 0x87)
    }
    @Test("a reject gives the whole header back, with its additional segments, as far as it may be sent")
    func wholeHeader() {
        for (count, sent) in [(0, 48), (8, 56), (1020, 512)] {
            let harness = RuleTests.ready(["MaxRecvDataSegmentLength=512"])
            let segments = (0..<count).map { UInt8(truncatingIfNeeded: $0) }
            let refused = Self.wire.command(tag: 5, cdb: [7], cmdSN: 100, attribute: 7, ahs: segments)
            harness.say(refused)
            let heard = harness.heard()
            #expect(heard.map(\.opcode) == [0x3f] && heard[0].data == Array(refused[..<sent]))
            // The next one's header is its own.
            let next = Self.wire.pdu(0x1f)
            harness.say(next)
            #expect(harness.heard().last?.data == next)
        }
    }
    @Test("a tag that names nothing is no tag of a function or a logout")
    func reservedTag() {
        for bytes in [
            Self.wire.management(5, tag: 0xffff_ffff, cmdSN: 100),
            Self.wire.logout(0, tag: 0xffff_ffff, cmdSN: 100),
        ] {
            let harness = RuleTests.ready()
            harness.say(bytes)
            let heard = harness.heard()
            #expect(heard.map(\.opcode) == [0x3f] && heard[0].header[2] == 9)
            #expect(harness.manages.isEmpty && harness.closed.isEmpty)
        }
    }
    @Test("data of a function or a logout is passed over, and what comes behind it is found")
    func needlessData() {
        for (bytes, opcode): ([UInt8], UInt8) in [
            (Self.wire.management(1, tag: 5, referenced: 3, cmdSN: 100, refCmdSN: 99), 0x22),
            (Self.wire.logout(1, tag: 5, cid: 7, cmdSN: 100), 0x26),
        ] {
            let harness = RuleTests.ready()
            var bytes = bytes + [1, 2, 3, 4, 5, 0, 0, 0]
            bytes[7] = 5
            harness.say(bytes + Self.wire.nopOut(tag: 6, cmdSN: 100))
            #expect(harness.heard().map(\.opcode) == [opcode, 0x20])
        }
    }
    @Test("the LUN of a ping or a text means nothing without a transfer tag, and is not repeated")
    func reservedLUN() {
        let harness = RuleTests.ready()
        for bytes in [
            Self.wire.nopOut(tag: 1, cmdSN: 100), Self.wire.text(["SendTargets="], tag: 2, cmdSN: 100),
        ] {
            var bytes = bytes
            bytes[9] = 7
            harness.say(bytes)
            let heard = harness.heard()
            #expect(heard.count == 1 && heard[0].transfer == 0xffff_ffff && heard[0].header[9] == 0)
        }
    }
    @Test("a logical unit is the same by each form of its number", arguments: [false, true])
    func lunForms(isFlat: Bool) {
        let peripheral: UInt64 = 0x0005 << 48
        let flat: UInt64 = 0x4005 << 48
        let (sent, said) = isFlat ? (flat, peripheral) : (peripheral, flat)
        for function: UInt8 in [1, 2, 4, 5, 9, 10] {
            let harness = RuleTests.ready(["iSCSIProtocolLevel=2"])
            harness.say(Self.wire.command(tag: 1, cdb: [0, 1], lun: sent, cmdSN: 100))
            harness.say(Self.wire.command(tag: 2, cdb: [0, 2], lun: 0x4006 << 48, cmdSN: 101))
            harness.say(
                Self.wire.management(
                    function, tag: 9, referenced: 1, lun: said, cmdSN: 102, refCmdSN: 100))
            if function < 9 {
                #expect(harness.aborts == [harness.executed[0].id], "function \(function)")
            } else {
                #expect(harness.heard().last?.header[2] == 7, "function \(function)")
            }
        }
        // What is larger than 255 has one form only, and others are forms of their own.
        #expect(!LUN(rawValue: 0x4105 << 48).isSame(as: LUN(rawValue: 0x0105 << 48)))
        #expect(!LUN(rawValue: 0x4005_0001 << 32).isSame(as: LUN(rawValue: peripheral)))
    }
    @Test("one connection's immediate requests take no room from another's")
    func immediateRoom() {
        var limits = ISCSILimits()
        (limits.immediateCommandsMax, limits.commandsMax) = (3, 4)
        let harness = Harness(limits: limits)
        harness.logIn(1, ["MaxConnections=4"])
        harness.logIn(2, cid: 2, tsih: harness.handle(1) ?? 0)
        _ = harness.heard(2)
        for tag: UInt32 in 1...4 {
            harness.say(Self.wire.command(tag: tag, cdb: [0], cmdSN: 100, immediate: true), on: 1)
        }
        #expect(harness.executed.count == 3 && harness.heard(1).map { $0.header[2] } == [6])
        for tag: UInt32 in 11...12 {
            harness.say(Self.wire.command(tag: tag, cdb: [0], cmdSN: 100, immediate: true), on: 2)
        }
        #expect(harness.executed.count == 4 && harness.heard(2).map { $0.header[2] } == [6])
        for tag: UInt32 in 21...28 {
            harness.say(Self.wire.management(5, tag: tag, lun: 9, cmdSN: 100), on: 1)
        }
        #expect(harness.manages.count == 7 && harness.heard(1).map { $0.header[2] } == [6])
        harness.say(Self.wire.management(5, tag: 31, lun: 9, cmdSN: 100), on: 2)
        harness.say(Self.wire.management(5, tag: 32, lun: 9, cmdSN: 100), on: 2)
        #expect(harness.manages.count == 8 && harness.heard(2).map { $0.header[2] } == [6])
    }
}

/// Discovery sessions among each other (RFC 7143, section 7.4).
@Suite struct DiscoveryTests {
    /// What a discovery login on its way to full feature phase says.
    private func discover(
        _ harness: Harness, _ id: UInt64, by portal: Int = 1, target: String? = nil,
        isid: UInt64 = 0x4000_0000_0001, name: String = initiatorName
    ) {
        harness.open(id, by: portal)
        harness.say(
            Wire.login(
                ["InitiatorName=\(name)", "SessionType=Discovery"]
                    + (target.map { ["TargetName=\($0)"] } ?? []),
                stage: 1, next: 3, isid: isid), on: id)
        #expect(harness.heard(id).last?.flags == 0x87)
    }

    @Test("a discovery session takes the place of its like: initiator port, target if named, else portal")
    func reinstatement() {
        let harness = Harness()
        let (one, two) = (targetName, "iqn.2026-11.io.curve:t2")
        harness.logIn(1)
        discover(harness, 2)
        discover(harness, 3, by: 2)
        discover(harness, 4, isid: 0x4000_0000_0002)
        discover(harness, 5, name: "iqn.other")
        discover(harness, 6, target: one)
        discover(harness, 7, target: two)
        #expect(harness.closed.isEmpty)
        discover(harness, 8)
        #expect(harness.closed == [2: .reinstated])
        discover(harness, 9, by: 2, target: one.uppercased())
        #expect(harness.closed == [2: .reinstated, 6: .reinstated])
        // The normal session of the same port is left alone, and leaves them alone.
        harness.logIn(10)
        #expect(harness.closed == [1: .reinstated, 2: .reinstated, 6: .reinstated])
    }
    @Test("nothing unasked is said in a discovery session: one whose portal is closed ends")
    func closedPortal() {
        let harness = Harness()
        discover(harness, 1)
        harness.act { harness.group.requestLogout(of: ConnectionID(rawValue: 1), seconds: 3, effects: &$0) }
        #expect(harness.heard().isEmpty && harness.closed == [1: .dropped])
    }
}
