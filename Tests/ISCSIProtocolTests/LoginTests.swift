import BlockTypes
import ISCSIInitiator
import Testing

@testable import ISCSIProtocol

@Suite struct LoginTests {
    static let names = ["InitiatorName=\(initiatorName)", "TargetName=\(targetName)"]

    static func harness(_ authentication: Authentication = .none) -> Harness {
        var configuration = makeConfiguration()
        configuration.targets[0].authentication = authentication
        configuration.discoveryAuthentication = authentication
        return Harness(configuration)
    }
    /// One login request on a fresh connection; the response's status and text.
    static func one(_ text: [String], stage: UInt8 = 1, next: UInt8? = 3, _ harness: Harness = harness()) -> (
        UInt16, [String]
    ) {
        harness.open(1)
        harness.say(Wire.login(text, stage: stage, next: next))
        guard let last = harness.heard().last else { return (0xffff, []) }
        #expect(last.opcode == 0x23)
        return (last.half(36), last.text)
    }

    @Test("open-iscsi: security stage, operational stage, full feature phase")
    func openISCSI() throws {
        let harness = Self.harness()
        harness.open(1)
        harness.say(
            Wire.login(
                Self.names + ["InitiatorAlias=host", "SessionType=Normal", "AuthMethod=None"], next: 1),
            pieceBytes: 11)
        var heard = harness.heard()
        #expect(
            heard.count == 1 && heard[0].flags == 0x81 && heard[0].half(36) == 0 && heard[0].half(14) == 0)
        #expect(heard[0].text == ["TargetPortalGroupTag=1", "AuthMethod=None"])
        #expect(
            heard[0].statSN == 1 && heard[0].expCmdSN == 100 && heard[0].maxCmdSN == 227 && heard[0].tag == 7)
        harness.say(
            Wire.login(
                [
                    "HeaderDigest=None", "DataDigest=None", "DefaultTime2Wait=2", "DefaultTime2Retain=0",
                    "IFMarker=No",
                    "OFMarker=No", "ErrorRecoveryLevel=0", "InitialR2T=No", "ImmediateData=Yes",
                    "MaxBurstLength=16776192",
                    "FirstBurstLength=262144", "MaxOutstandingR2T=1", "MaxConnections=1",
                    "DataPDUInOrder=Yes",
                    "DataSequenceInOrder=Yes", "MaxRecvDataSegmentLength=262144",
                ], stage: 1, next: 3, expStatSN: 2))
        heard = harness.heard()
        #expect(heard.count == 1 && heard[0].flags == 0x87 && heard[0].statSN == 2 && heard[0].half(14) == 1)
        #expect(
            heard[0].text == [
                "MaxRecvDataSegmentLength=262144", "HeaderDigest=None", "DataDigest=None",
                "DefaultTime2Wait=2",
                "DefaultTime2Retain=0", "IFMarker=No", "OFMarker=No", "ErrorRecoveryLevel=0", "InitialR2T=No",
                "ImmediateData=Yes", "MaxBurstLength=1048576", "FirstBurstLength=262144",
                "MaxOutstandingR2T=1",
                "MaxConnections=1", "DataPDUInOrder=Yes", "DataSequenceInOrder=Yes",
            ])
        #expect(harness.nexusLog == ["+1 \(initiatorName),i,0x400000000001"])
    }
    @Test("libiscsi: straight to the operational stage, with digests, repeating its names")
    func libISCSI() {
        let harness = Self.harness()
        harness.open(1)
        harness.say(Wire.login(Self.names + ["SessionType=Normal", "AuthMethod=CHAP,None"], next: 1))
        #expect(harness.heard().last?.text.contains("AuthMethod=None") == true)
        harness.say(
            Wire.login(Self.names + ["HeaderDigest=CRC32C,None", "DataDigest=CRC32C"], stage: 1, next: 3))
        #expect(harness.heard().last?.flags == 0x87)
        harness.listeners[1]?.wire = Wire(headerDigest: true, dataDigest: true)
        harness.say(
            Wire(headerDigest: true, dataDigest: true).nopOut(tag: 9, cmdSN: 100, data: [1, 2, 3]))
        let echo = harness.heard()
        #expect(
            echo.count == 1 && echo[0].opcode == 0x20 && echo[0].data == [1, 2, 3] && harness.broken.isEmpty)
    }
    @Test("ESXi and Windows: empty steps, keys over several PDUs, T only when done")
    func stepwise() {
        let harness = Self.harness()
        harness.open(1)
        harness.say(Wire.login(["InitiatorName=\(initiatorName)"], continues: true))
        var heard = harness.heard()
        #expect(heard.count == 1 && heard[0].flags == 0 && heard[0].data.isEmpty && heard[0].half(36) == 0)
        harness.say(Wire.login(["TargetName=\(targetName)", "SessionType=Normal", "AuthMethod=None,CHAP"]))
        heard = harness.heard()
        #expect(heard.last?.flags == 0 && heard.last?.text == ["TargetPortalGroupTag=1", "AuthMethod=None"])
        harness.say(Wire.login([], next: 1))
        #expect(harness.heard().last?.flags == 0x81)
        harness.say(Wire.login(["ImmediateData=Yes", "MaxRecvDataSegmentLength=65536"], stage: 1))
        heard = harness.heard()
        #expect(
            heard.last?.flags == 0x04
                && heard.last?.text == ["MaxRecvDataSegmentLength=262144", "ImmediateData=Yes"])
        harness.say(Wire.login([], stage: 1, next: 3))
        heard = harness.heard()
        #expect(heard.last?.flags == 0x87 && heard.last?.text.isEmpty == true && heard.last?.half(14) == 1)
    }
    @Test("from the security stage straight to full feature phase")
    func straight() {
        let (status, text) = Self.one(Self.names + ["AuthMethod=None"], stage: 0, next: 3)
        #expect(status == 0 && text == ["TargetPortalGroupTag=1", "AuthMethod=None"])
    }

    @Test("refusals have the status of their reason")
    func refusals() {
        let long = "X-" + String(repeating: "k", count: 62)
        let table: [([String], UInt8, UInt8?, UInt16)] = [
            ([Self.names[1]], 1, 3, 0x0207), ([Self.names[0]], 1, 3, 0x0207),
            ([Self.names[0], "TargetName=iqn.2026-11.io.curve:none"], 1, 3, 0x0203),
            (Self.names + ["SessionType=Other"], 1, 3, 0x0209),
            (Self.names + ["InitiatorName=x"], 1, 3, 0x0200),
            (Self.names + ["MaxBurstLength=1024", "MaxBurstLength=1024"], 1, 3, 0x0200),
            (Self.names + ["MaxRecvDataSegmentLength=1"], 1, 3, 0x0200),
            (Self.names + ["\(long)=1"], 1, 3, 0x0200),
            (Self.names, 3, nil, 0x0200), (Self.names, 2, 3, 0x0200), (Self.names, 1, 1, 0x0200),
            (Self.names, 1, 0, 0x0200), (Self.names, 1, 2, 0x0200),
            (Self.names + ["AuthMethod=KRB5"], 0, 1, 0x0201),
            (["InitiatorName=", Self.names[1]], 1, 3, 0x0200),
            (["InitiatorName=\(String(repeating: "i", count: 224))", Self.names[1]], 1, 3, 0x0200),
            (Self.names + ["CHAP_A=5"], 0, 1, 0x0201),
        ]
        for (text, stage, next, status) in table {
            let harness = Self.harness()
            #expect(Self.one(text, stage: stage, next: next, harness).0 == status, "\(text)")
            #expect(harness.closed[1] == .loginRefused(status))
        }
    }
    @Test("keys of the wrong stage are refused, and the login goes on")
    func wrongStage() {
        let (status, text) = Self.one(
            Self.names + ["MaxBurstLength=512", "SendTargets=All", "X-a=1"], stage: 0, next: 1)
        #expect(status == 0)
        #expect(
            text == [
                "TargetPortalGroupTag=1", "MaxBurstLength=Reject", "SendTargets=Reject", "X-a=NotUnderstood",
            ])
        let (later, answers) = Self.one(
            Self.names + ["AuthMethod=None", "CHAP_A=7", "TargetAlias=NotUnderstood", "TargetAddress=x"])
        #expect(later == 0)
        #expect(
            answers == [
                "TargetPortalGroupTag=1", "MaxRecvDataSegmentLength=262144", "AuthMethod=Reject",
                "CHAP_A=Reject",
                "TargetAddress=Reject",
            ])
    }
    @Test("a login that contradicts itself is refused")
    func contradictions() {
        let second: [(String, [UInt8], UInt16)] = [
            ("isid", Wire.login([], next: 1, isid: 5), 0x020b),
            ("tsih", Wire.login([], next: 1, tsih: 5), 0x020b),
            ("tag", Wire.login([], next: 1, tag: 8), 0x020b),
            ("cid", Wire.login([], next: 1, cid: 2), 0x020b),
            ("stage", Wire.login([], stage: 1, next: 3), 0x020b),
            ("version", Wire.login([], next: 1, versionMin: 1), 0x0205),
            ("immediate", Wire.login([], next: 1, opcode: 0x03), 0x0200),
            ("name", Wire.login(["InitiatorName=other"], next: 1), 0x0200),
            ("method twice", Wire.login(["AuthMethod=None"], next: 1), 0x0200),
        ]
        for (what, request, status) in second {
            let harness = Self.harness()
            harness.open(1)
            harness.say(Wire.login(Self.names + ["AuthMethod=None"]))
            #expect(harness.heard().last?.half(36) == 0)
            harness.say(request)
            #expect(harness.heard().last?.half(36) == status, "\(what)")
        }
    }
    @Test("anything but a login, a header that is too long, and text without end, end the connection")
    func notALogin() {
        let wire = Wire()
        let login = Wire.login(Self.names)
        var withSegments = login
        withSegments[4] = 1
        let first: [[UInt8]] = [
            wire.command(tag: 1, cdb: read10(0, 1), cmdSN: 1), wire.nopOut(tag: 1, cmdSN: 1),
            wire.logout(0, tag: 1, cmdSN: 1),
            withSegments + [0, 0, 0, 0], wire.pdu(0xc3), Wire.login([String(repeating: "k", count: 8200)]),
        ]
        for bytes in first {
            let harness = Self.harness()
            harness.open(1)
            harness.say(bytes)
            #expect(harness.closed[1] != nil)
        }
        let endless = Self.harness()
        endless.open(1)
        for _ in 0..<100 {
            endless.say(Wire.login(["k=" + String(repeating: "v", count: 200)], continues: true))
        }
        #expect(endless.closed[1] == .loginRefused(0x0200))
        let slow = Self.harness()
        slow.open(1)
        slow.act { slow.group.loginTimeReached(ConnectionID(rawValue: 1), effects: &$0) }
        #expect(slow.closed[1] == .loginTooLong)
    }
    @Test("answers that are too long for one PDU come in several")
    func longAnswers() {
        let harness = Self.harness()
        harness.open(1)
        let keys = (0..<120).map { "X-" + String(repeating: "k", count: 56) + String(1000 + $0) + "=1" }
        harness.say(Wire.login(Self.names + Array(keys[..<60]), stage: 1, continues: true))
        harness.say(Wire.login(Array(keys[60...]), stage: 1, next: 3))
        var all: [String] = []
        var heard = harness.heard().last
        #expect(heard?.flags == 0x44 && heard?.data.count == 8192)
        var bytes = heard?.data ?? []
        harness.say(Wire.login([], stage: 1, next: 3))
        heard = harness.heard().last
        #expect(heard?.flags == 0x87)
        bytes += heard?.data ?? []
        all = bytes.split(separator: 0).map { String(decoding: $0, as: UTF8.self) }
        #expect(all.count == 122 && all.last == keys[119].dropLast(1) + "NotUnderstood")
    }
    @Test("redirection, closed targets and lists of initiators")
    func admission() {
        var configuration = makeConfiguration()
        configuration.targets[0].redirection = Redirection(address: "10.0.0.2:3260", isPermanent: false)
        #expect(Self.one(Self.names, Harness(configuration)) == (0x0101, ["TargetAddress=10.0.0.2:3260"]))
        configuration.targets[0].redirection = Redirection(address: "[fd00::2]:3260", isPermanent: true)
        #expect(Self.one(Self.names, Harness(configuration)) == (0x0102, ["TargetAddress=[fd00::2]:3260"]))
        configuration.targets[0].redirection = nil
        configuration.targets[0].isAvailable = false
        #expect(Self.one(Self.names, Harness(configuration)).0 == 0x0301)
        configuration.targets[0].isAvailable = true
        // A portal group that is closed sends elsewhere only if it is told to, and if there is such a place.
        (configuration.isAvailable, configuration.redirectsWhenUnavailable) = (false, true)
        #expect(Self.one(Self.names, Harness(configuration)).0 == 0x0301)
        let name = configuration.targets[0].name
        configuration.otherAddresses[name] = ["10.0.0.3:3260,2"]
        #expect(Self.one(Self.names, Harness(configuration)) == (0x0101, ["TargetAddress=10.0.0.3:3260"]))
        configuration.targets[0].isAvailable = false
        #expect(Self.one(Self.names, Harness(configuration)).0 == 0x0301)
        configuration.targets[0].isAvailable = true
        configuration.redirectsWhenUnavailable = false
        #expect(Self.one(Self.names, Harness(configuration)).0 == 0x0301)
        configuration.isAvailable = true
        let rules: [([InitiatorRule], UInt16)] = [
            ([], 0x0202), ([InitiatorRule(initiatorName: "other")], 0x0202),
            ([InitiatorRule(initiatorName: initiatorName.uppercased())], 0),
            (
                [
                    InitiatorRule(
                        initiatorName: nil, networks: [AddressPrefix(bytes: [10, 0, 0, 0], bitCount: 29)])
                ], 0x0202
            ),
            (
                [
                    InitiatorRule(
                        initiatorName: nil, networks: [AddressPrefix(bytes: [10, 0, 0, 0], bitCount: 28)])
                ], 0
            ),
            (
                [
                    InitiatorRule(
                        initiatorName: nil, networks: [AddressPrefix(bytes: [0, 0, 0, 0], bitCount: 0)])
                ], 0
            ),
            (
                [
                    InitiatorRule(
                        initiatorName: nil,
                        networks: [AddressPrefix(bytes: [UInt8](repeating: 0, count: 16), bitCount: 0)])
                ], 0x0202
            ),
        ]
        for (rule, status) in rules {
            configuration.targets[0].initiators = rule
            #expect(Self.one(Self.names, Harness(configuration)).0 == status)
        }
    }
    @Test("discovery: all targets that the initiator may see, with all portals")
    func discovery() {
        var configuration = makeConfiguration()
        configuration.targets.append(TargetDescription(name: "iqn.2026-11.io.curve:hidden"))
        configuration.targets[2].initiators = []
        let harness = Harness(configuration)
        let (status, text) = Self.one([Self.names[0], "SessionType=Discovery", "MaxConnections=4"], harness)
        #expect(status == 0 && text == ["MaxRecvDataSegmentLength=262144", "MaxConnections=Irrelevant"])
        let wire = Wire()
        harness.say(wire.text(["SendTargets=All"], tag: 1, cmdSN: 100, immediate: false))
        var heard = harness.heard()
        let portals = ["TargetAddress=10.0.0.1:3260,1", "TargetAddress=[fd00::1]:3260,1"]
        #expect(
            heard.last?.text == ["TargetName=\(targetName)"] + portals + [
                "TargetName=iqn.2026-11.io.curve:t2"
            ] + portals)
        #expect(
            heard.last?.flags == 0x80 && heard.last?.transfer == 0xffff_ffff && heard.last?.expCmdSN == 101)
        harness.say(wire.text(["SendTargets=iqn.2026-11.io.curve:T2"], tag: 2, cmdSN: 101))
        #expect(harness.heard().last?.text == ["TargetName=iqn.2026-11.io.curve:t2"] + portals)
        harness.say(wire.text(["SendTargets=iqn.2026-11.io.curve:hidden"], tag: 3, cmdSN: 101))
        #expect(harness.heard().last?.text == [])
        harness.say(wire.text(["SendTargets="], tag: 3, cmdSN: 101))
        heard = harness.heard()
        #expect(heard.last?.opcode == 0x3f && heard.last?.header[2] == 4)
        harness.say(wire.command(tag: 4, cdb: read10(0, 1), length: 512, cmdSN: 101, read: true))
        #expect(harness.heard().last?.opcode == 0x3f && harness.executed.isEmpty && harness.nexusLog.isEmpty)
        harness.say(wire.logout(0, tag: 5, cmdSN: 101))
        #expect(harness.heard().last?.opcode == 0x26 && harness.closed[1] == .loggedOut)
    }
    @Test("discovery: other gateways' portals beside its own, or instead of them while nobody is let in")
    func discoveryOfOthers() {
        let wire = Wire()
        let asks = { (change: (inout PortalGroupConfiguration) -> Void) -> [String]? in
            var configuration = makeConfiguration()
            configuration.otherAddresses[targetName] = ["10.0.0.2:3260,2"]
            change(&configuration)
            let harness = Harness(configuration)
            _ = Self.one([Self.names[0], "SessionType=Discovery"], harness)
            harness.say(wire.text(["SendTargets=\(targetName)"], tag: 1, cmdSN: 100, immediate: false))
            return harness.heard().last?.text
        }
        let name = "TargetName=\(targetName)"
        let own = ["TargetAddress=10.0.0.1:3260,1", "TargetAddress=[fd00::1]:3260,1"]
        #expect(asks { _ in } == [name] + own + ["TargetAddress=10.0.0.2:3260,2"])
        #expect(asks { $0.isAvailable = false } == [name, "TargetAddress=10.0.0.2:3260,2"])
        // Without an address of its own the one that was asked is meant.
        #expect(asks { $0.portals = [] } == [name])
        var configuration = makeConfiguration()
        configuration.isAvailable = false
        #expect(Self.one(Self.names, Harness(configuration)).0 == 0x0301)
    }
}

@Suite struct CHAPTests {
    static let alice = CHAPCredential(name: "alice", secret: Array("correct horse battery".utf8))
    static let target = CHAPCredential(name: "gate", secret: Array("staple of the target".utf8))

    /// A login up to the challenge; the challenge and its identifier.
    static func challenged(_ harness: Harness, algorithms: String = "5,6,7,8", discovery: Bool = false) -> (
        UInt8, [UInt8]
    )? {
        harness.open(1)
        let what = discovery ? "SessionType=Discovery" : "TargetName=\(targetName)"
        harness.say(Wire.login(["InitiatorName=\(initiatorName)", what, "AuthMethod=CHAP,None"], next: 1))
        let first = harness.heard().last
        #expect(first?.flags == 0x00 && first?.text.last == "AuthMethod=CHAP")
        harness.say(Wire.login(["CHAP_A=\(algorithms)"]))
        guard let second = harness.heard().last, second.half(36) == 0, second.text.count == 3 else {
            return nil
        }
        #expect(second.text[2].hasPrefix("CHAP_C=0x"))
        guard let identifier = UInt8(second.text[1].dropFirst(7)),
            let challenge = TextPairs.binary(String(second.text[2].dropFirst(7)), bytesMax: 1024)
        else { return nil }
        return (identifier, challenge)
    }
    static func response(
        _ secret: [UInt8], _ identifier: UInt8, _ challenge: [UInt8], _ algorithm: CHAPAlgorithm = .sha1
    )
        -> String
    {
        TextPairs.hexadecimal(fakeDigest(algorithm, [identifier] + secret + challenge))
    }

    @Test("the right secret opens the door, by every algorithm that is allowed, in the initiator's order")
    func oneWay() throws {
        let orders: [(String, CHAPAlgorithm)] = [
            ("5,6,7,8", .sha1), ("8", .sha3), ("7,6", .sha256), ("99,300,0x8", .sha3),
        ]
        for discovery in [false, true] {
            for (offered, algorithm) in orders {
                let harness = LoginTests.harness(.chap(users: [Self.alice], mutual: nil))
                let (identifier, challenge) = try #require(
                    Self.challenged(harness, algorithms: offered, discovery: discovery))
                #expect(challenge.count == 32)
                let proof = Self.response(Self.alice.secret, identifier, challenge, algorithm)
                harness.say(Wire.login(["CHAP_N=alice", "CHAP_R=\(proof)"], next: 3))
                #expect(harness.heard().last?.flags == 0x83)
            }
        }
    }
    @Test("the target proves itself when asked, and only when it can")
    func mutual() throws {
        for canProve in [true, false] {
            let harness = LoginTests.harness(.chap(users: [Self.alice], mutual: canProve ? Self.target : nil))
            let (identifier, challenge) = try #require(Self.challenged(harness))
            let proof = Self.response(Self.alice.secret, identifier, challenge)
            harness.say(
                Wire.login(["CHAP_N=alice", "CHAP_R=\(proof)", "CHAP_I=0x9", "CHAP_C=0bAQIDBA=="], next: 1))
            let heard = try #require(harness.heard().last)
            if canProve {
                #expect(heard.flags == 0x81)
                #expect(
                    heard.text == [
                        "CHAP_N=gate", "CHAP_R=\(Self.response(Self.target.secret, 9, [1, 2, 3, 4]))",
                    ])
            } else {
                #expect(heard.half(36) == 0x0201)
            }
        }
    }
    @Test("everything else is an authentication failure that says no more")
    func failures() throws {
        typealias Text = (UInt8, [UInt8]) -> [String]
        let right: (UInt8, [UInt8]) -> String = { Self.response(Self.alice.secret, $0, $1) }
        let table: [(String, Text)] = [
            ("wrong secret", { ["CHAP_N=alice", "CHAP_R=\(Self.response([1], $0, $1))"] }),
            ("unknown name", { ["CHAP_N=bob", "CHAP_R=\(right($0, $1))"] }),
            ("no name", { ["CHAP_R=\(right($0, $1))"] }), ("no response", { _, _ in ["CHAP_N=alice"] }),
            ("short", { ["CHAP_N=alice", "CHAP_R=\(right($0, $1).dropLast(2))"] }),
            ("long", { ["CHAP_N=alice", "CHAP_R=\(right($0, $1))00"] }),
            ("oversize", { _, _ in ["CHAP_N=alice", "CHAP_R=0x" + String(repeating: "0", count: 8000)] }),
            (
                "base64 oversize",
                { _, _ in ["CHAP_N=alice", "CHAP_R=0b" + String(repeating: "A", count: 8000)] }
            ),
            ("no binary", { _, _ in ["CHAP_N=alice", "CHAP_R=zzz"] }),
            ("algorithm again", { ["CHAP_N=alice", "CHAP_R=\(right($0, $1))", "CHAP_A=7"] }),
            (
                "reflected challenge",
                {
                    [
                        "CHAP_N=alice", "CHAP_R=\(right($0, $1))", "CHAP_I=1",
                        "CHAP_C=\(TextPairs.hexadecimal($1))",
                    ]
                }
            ),
            ("half a question", { ["CHAP_N=alice", "CHAP_R=\(right($0, $1))", "CHAP_I=1"] }),
            (
                "identifier too large",
                { ["CHAP_N=alice", "CHAP_R=\(right($0, $1))", "CHAP_I=256", "CHAP_C=0x01"] }
            ),
            ("empty challenge", { ["CHAP_N=alice", "CHAP_R=\(right($0, $1))", "CHAP_I=1", "CHAP_C=0x"] }),
        ]
        for (what, text) in table {
            let harness = LoginTests.harness(.chap(users: [Self.alice], mutual: Self.target))
            let (identifier, challenge) = try #require(Self.challenged(harness))
            harness.say(Wire.login(text(identifier, challenge), next: 1))
            let heard = try #require(harness.heard().last)
            #expect(heard.half(36) == 0x0201 && heard.text.isEmpty, "\(what)")
            #expect(harness.closed[1] == .loginRefused(0x0201))
        }
    }
    @Test("there is no way around the proof")
    func bypasses() {
        let policy = Authentication.chap(users: [Self.alice], mutual: nil)
        let attempts: [(String, [[UInt8]])] = [
            ("operational at once", [Wire.login(LoginTests.names, stage: 1, next: 3)]),
            ("none only", [Wire.login(LoginTests.names + ["AuthMethod=None"], next: 1)]),
            (
                "response before algorithm",
                [
                    Wire.login(LoginTests.names + ["AuthMethod=CHAP"]),
                    Wire.login(["CHAP_N=alice", "CHAP_R=0x00"]),
                ]
            ),
            (
                "md5, which is off",
                [Wire.login(LoginTests.names + ["AuthMethod=CHAP"]), Wire.login(["CHAP_A=5"])]
            ),
            (
                "algorithm twice",
                [
                    Wire.login(LoginTests.names + ["AuthMethod=CHAP"]), Wire.login(["CHAP_A=7"]),
                    Wire.login(["CHAP_A=7"]),
                ]
            ),
        ]
        for (what, requests) in attempts {
            let harness = LoginTests.harness(policy)
            harness.open(1)
            for request in requests { harness.say(request) }
            #expect(harness.closed[1] == .loginRefused(0x0201), "\(what)")
            #expect(harness.nexusLog.isEmpty)
        }
        // Asking to move on without a proof is answered by staying.
        let patient = LoginTests.harness(policy)
        patient.open(1)
        patient.say(Wire.login(LoginTests.names + ["AuthMethod=CHAP"], next: 3))
        #expect(patient.heard().last?.flags == 0x00)
        patient.say(Wire.login([], next: 3))
        #expect(patient.heard().last?.flags == 0x00 && patient.nexusLog.isEmpty)
    }
    @Test("one secret for both ways is refused, and so is a secret that is like another up to its length")
    func equality() {
        #expect(CHAPExchange.areEqual([1, 2], [1, 2]) && !CHAPExchange.areEqual([1, 2], [1, 3]))
        #expect(!CHAPExchange.areEqual([1, 2], [1, 2, 0]) && CHAPExchange.areEqual([], []))
        // Also where the initiator does not ask back: its answer is what we would have said ourselves.
        for asks in [["CHAP_I=1", "CHAP_C=0x0102"], []] {
            let harness = LoginTests.harness(
                .chap(users: [Self.alice], mutual: CHAPCredential(name: "gate", secret: Self.alice.secret)))
            guard let (identifier, challenge) = Self.challenged(harness) else { return }
            let proof = Self.response(Self.alice.secret, identifier, challenge)
            harness.say(Wire.login(["CHAP_N=alice", "CHAP_R=\(proof)"] + asks, next: 1))
            #expect(harness.heard().last?.half(36) == 0x0201)
        }
    }
}
