import ISCSIInitiator
import Testing

@testable import ISCSIProtocol

/// Who may log in by several rules, and which sessions may stay when the rules change.
@Suite struct RightsTests {
    private static let elsewhere = InitiatorRule(
        initiatorName: initiatorName, networks: [AddressPrefix(bytes: [192, 0, 2, 0], bitCount: 24)])

    @Test("a rule that names an initiator goes before those for everybody")
    func named() {
        var configuration = makeConfiguration()
        configuration.targets[0].initiators = [InitiatorRule(initiatorName: nil), Self.elsewhere]
        let harness = Harness(configuration)
        harness.logIn(1)
        #expect(harness.handle() == nil)
        harness.logIn(2, name: "iqn.2026-11.io.curve:another")
        #expect(harness.handle(2) != nil)
    }

    @Test("sessions are known by their ends, and end when the rules of today would not let them in")
    func dropped() {
        let harness = Harness.loggedIn()
        harness.logIn(2, isid: 0x4000_0000_0002, name: "iqn.2026-11.io.curve:another")
        let facts = harness.group.sessionFacts
        #expect(facts.map(\.names.initiatorName) == [initiatorName, "iqn.2026-11.io.curve:another"])
        #expect(facts.map(\.addresses) == [[[10, 0, 0, 9]], [[10, 0, 0, 9]]] && facts[0].userName == nil)
        #expect(facts.allSatisfy(harness.group.isEntitled))
        harness.group.configuration.targets[0].initiators = [
            InitiatorRule(initiatorName: nil), Self.elsewhere,
        ]
        #expect(facts.map(harness.group.isEntitled) == [false, true])
        harness.act { harness.group.drop([facts[0]], effects: &$0) }
        #expect(harness.group.sessionFacts == [facts[1]])
        // Proof is wanted from now on, and it has given none.
        harness.group.configuration.targets[0].authentication = .chap(
            users: [CHAPCredential(name: "alice", secret: Array("twelve bytes".utf8))], mutual: nil)
        #expect(!harness.group.isEntitled(facts[1]))
        harness.group.configuration.targets[0].authentication = .none
        harness.group.configuration.targets[0].isAvailable = false
        #expect(!harness.group.isEntitled(facts[1]))
    }
}
