import ISCSIInitiator
import Testing

@testable import ISCSIProtocol

/// Targets that another loop of the process serves.
@Suite struct MovingTests {
    static let elsewhere = "iqn.2026-11.io.curve:t3"
    static let names = ["InitiatorName=\(initiatorName)", "TargetName=\(elsewhere)"]

    /// The group with the portals, and one that serves ``elsewhere`` alone.
    static func pair(_ description: TargetDescription = TargetDescription(name: elsewhere)) -> (
        front: Harness, lane: Harness
    ) {
        var (front, lane) = (makeConfiguration(), makeConfiguration())
        front.targetsElsewhere = [description]
        lane.targets = [description]
        return (Harness(front), Harness(lane))
    }

    @Test("a login that names a target of another loop goes there, and comes out as if it had begun there")
    func moves() throws {
        let (front, lane) = Self.pair()
        front.open(1)
        front.say(
            Wire.login(Self.names + ["SessionType=Normal", "AuthMethod=None"], next: 1), pieceBytes: 11)
        #expect(front.moves == ["1 \(Self.elsewhere)"] && front.heard().isEmpty && front.closed.isEmpty)
        #expect(front.paused == [1] && front.group.isLoggingIn(ConnectionID(rawValue: 1)))
        lane.open(5, movedWith: try #require(front.moved()))
        #expect(!front.group.isLoggingIn(ConnectionID(rawValue: 1)) && front.nexusLog.isEmpty)
        var heard = lane.heard(5)
        #expect(heard.count == 1 && heard[0].flags == 0x81 && heard[0].statSN == 1)
        #expect(heard[0].text == ["TargetPortalGroupTag=1", "AuthMethod=None"])
        lane.say(Wire.login([], stage: 1, next: 3, expStatSN: 2), on: 5)
        heard = lane.heard(5)
        #expect(heard.count == 1 && heard[0].flags == 0x87 && heard[0].half(36) == 0)
        #expect(lane.nexusLog == ["+1 \(initiatorName),i,0x400000000001"] && lane.paused.isEmpty)
        // The number of the connection is free again.
        front.logIn(1)
        #expect(front.handle() == 1 && front.moves.count == 1)
    }
    @Test("a first step in several pieces is answered here until its last, and goes on there by the numbers")
    func pieces() throws {
        let (front, lane) = Self.pair()
        front.open(1)
        front.say(Wire.login(["InitiatorName=\(initiatorName)"], continues: true))
        let first = front.heard()
        #expect(first.count == 1 && first[0].flags == 0 && first[0].statSN == 1 && first[0].half(36) == 0)
        front.say(Wire.login(["TargetName=\(Self.elsewhere)", "AuthMethod=None"], next: 1, expStatSN: 2))
        #expect(front.moves.count == 1 && front.heard().isEmpty)
        lane.open(1, movedWith: try #require(front.moved()))
        let answer = lane.heard()
        #expect(answer.count == 1 && answer[0].flags == 0x81 && answer[0].statSN == 2)
        #expect(answer[0].text == ["TargetPortalGroupTag=1", "AuthMethod=None"])
    }
    @Test("what was read behind the login comes with it, in order and once", arguments: [1, 7, 48, 4096])
    func pipelined(pieceBytes: Int) throws {
        let (front, lane) = Self.pair()
        front.open(1)
        let wire = Wire()
        front.say(
            Wire.login(Self.names, stage: 1, next: 3)
                + wire.nopOut(tag: 9, cmdSN: 100, data: [1, 2, 3]) + wire.nopOut(tag: 10, cmdSN: 101),
            pieceBytes: pieceBytes)
        #expect(front.heard().isEmpty)
        lane.open(1, movedWith: try #require(front.moved()))
        #expect(lane.heard().map(\.tag) == [7, 9, 10])
        #expect(lane.nexusLog.count == 1 && lane.paused.isEmpty && lane.broken.isEmpty)
    }
    @Test("who may log in, and to what there is, says the loop that serves the target")
    func refused() throws {
        var description = TargetDescription(name: Self.elsewhere)
        description.initiators = [InitiatorRule(initiatorName: "iqn.2000-01.com.example:other")]
        let (front, lane) = Self.pair(description)
        front.logIn(1, target: Self.elsewhere)
        lane.open(1, movedWith: try #require(front.moved()))
        #expect(lane.heard().last?.half(36) == 0x0202 && lane.closed.count == 1)
        // One that went away meanwhile.
        lane.group.configuration.targets = []
        front.logIn(2, target: Self.elsewhere)
        lane.open(2, movedWith: try #require(front.moved(2)))
        #expect(lane.heard(2).last?.half(36) == 0x0203)
        // A group to which a login moved never sends it on.
        #expect(lane.moves.isEmpty)
    }
    @Test("a second connection of a session moves to the first one")
    func joins() throws {
        let (front, lane) = Self.pair()
        for id in 1...2 as ClosedRange<UInt64> {
            front.logIn(
                id, id == 1 ? ["MaxConnections=4"] : [], cid: UInt16(id), tsih: id == 1 ? 0 : 1,
                target: Self.elsewhere)
            lane.open(id, movedWith: try #require(front.moved(id)))
            #expect(lane.handle(id) == 1)
        }
        #expect(lane.nexusLog.count == 1)
    }
    @Test("a connection that breaks on its way is gone, and so is one that takes too long")
    func lost() {
        let (front, lane) = Self.pair()
        front.logIn(1, target: Self.elsewhere)
        front.lose(1)
        #expect(front.moved() == nil && front.moved() == nil && front.closed.isEmpty)
        front.logIn(2, target: Self.elsewhere)
        front.act { front.group.loginTimeReached(ConnectionID(rawValue: 2), effects: &$0) }
        #expect(front.closed == [2: .loginTooLong] && front.moved(2) == nil && lane.nexusLog.isEmpty)
    }
    @Test("discovery names the targets of all loops; a session there hears of its own")
    func discovery() throws {
        let (front, lane) = Self.pair()
        front.open(1)
        front.say(
            Wire.login(["InitiatorName=\(initiatorName)", "SessionType=Discovery"], stage: 1, next: 3))
        _ = front.heard()
        front.say(Wire().text(["SendTargets=All"], tag: 3, cmdSN: 100))
        let all = front.heard().last?.text.filter { $0.hasPrefix("TargetName=") }
        #expect(
            all == [targetName, "iqn.2026-11.io.curve:t2", Self.elsewhere].map { "TargetName=\($0)" })
        front.logIn(2, target: Self.elsewhere)
        lane.open(2, movedWith: try #require(front.moved(2)))
        _ = lane.heard(2)
        lane.say(Wire().text(["SendTargets="], tag: 3, cmdSN: 100), on: 2)
        #expect(
            lane.heard(2).last?.text == [
                "TargetName=\(Self.elsewhere)", "TargetAddress=10.0.0.1:3260,1",
                "TargetAddress=[fd00::1]:3260,1",
            ])
    }
    @Test("a discovery session may name any target, and moves nowhere")
    func discoveryNames() {
        let (front, _) = Self.pair()
        front.open(1)
        front.say(Wire.login(Self.names + ["SessionType=Discovery"], stage: 1, next: 3))
        #expect(front.moves.isEmpty && front.heard().last?.half(36) == 0)
    }
}
