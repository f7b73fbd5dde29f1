import Testing

@testable import ISCSIProtocol

@Suite struct NegotiationTests {
    static func negotiation(
        isDiscovery: Bool = false, isLeading: Bool = true, header: DigestPolicy = .either,
        data: DigestPolicy = .either
    ) -> OperationalNegotiation {
        OperationalNegotiation(
            limits: ISCSILimits(), headerDigests: header, dataDigests: data, isDiscovery: isDiscovery,
            isLeading: isLeading, session: SessionParameters())
    }
    /// What is answered, in a normal session and in one for discovery; `nil`: nothing.
    static let table: [(key: String, value: String, normal: String?, discovery: String?)] = [
        ("HeaderDigest", "CRC32C,None", "CRC32C", "CRC32C"), ("HeaderDigest", "None,CRC32C", "None", "None"),
        ("HeaderDigest", "X-foo,CRC32C", "CRC32C", "CRC32C"), ("HeaderDigest", "X-foo", "Reject", "Reject"),
        ("DataDigest", "CRC32C", "CRC32C", "CRC32C"), ("DataDigest", "", "Reject", "Reject"),
        ("MaxConnections", "1", "1", "Irrelevant"), ("MaxConnections", "16", "8", "Irrelevant"),
        ("MaxConnections", "0", "Reject", "Irrelevant"), ("MaxConnections", "65536", "Reject", "Irrelevant"),
        ("InitialR2T", "Yes", "Yes", "Irrelevant"), ("InitialR2T", "No", "No", "Irrelevant"),
        ("InitialR2T", "no", "Reject", "Irrelevant"), ("ImmediateData", "Yes", "Yes", "Irrelevant"),
        ("ImmediateData", "No", "No", "Irrelevant"), ("MaxRecvDataSegmentLength", "262144", nil, nil),
        ("MaxRecvDataSegmentLength", "0x1000", nil, nil),
        ("MaxBurstLength", "16776192", "1048576", "Irrelevant"),
        ("MaxBurstLength", "512", "512", "Irrelevant"), ("MaxBurstLength", "511", "Reject", "Irrelevant"),
        ("FirstBurstLength", "262144", "262144", "Irrelevant"),
        ("FirstBurstLength", "1048576", "262144", "Irrelevant"),
        ("FirstBurstLength", "16777216", "Reject", "Irrelevant"), ("DefaultTime2Wait", "2", "2", "2"),
        ("DefaultTime2Wait", "0", "0", "0"), ("DefaultTime2Wait", "3601", "Reject", "Reject"),
        ("DefaultTime2Retain", "20", "0", "0"), ("DefaultTime2Retain", "-1", "Reject", "Reject"),
        ("MaxOutstandingR2T", "1", "1", "Irrelevant"), ("MaxOutstandingR2T", "64", "8", "Irrelevant"),
        ("MaxOutstandingR2T", "0", "Reject", "Irrelevant"), ("DataPDUInOrder", "No", "Yes", "Irrelevant"),
        ("DataSequenceInOrder", "No", "Yes", "Irrelevant"),
        ("DataSequenceInOrder", "Maybe", "Reject", "Irrelevant"),
        ("ErrorRecoveryLevel", "0", "0", "0"), ("ErrorRecoveryLevel", "2", "0", "0"),
        ("ErrorRecoveryLevel", "3", "Reject", "Reject"),
        ("TaskReporting", "RFC3720", "RFC3720", "Irrelevant"),
        ("TaskReporting", "FastAbort,RFC3720", "RFC3720", "Irrelevant"),
        ("TaskReporting", "FastAbort", "Reject", "Irrelevant"),
        ("TaskReporting", "ResponseFence", "Reject", "Irrelevant"),
        ("iSCSIProtocolLevel", "1", "1", "1"), ("iSCSIProtocolLevel", "31", "2", "2"),
        ("iSCSIProtocolLevel", "32", "Reject", "Reject"), ("IFMarker", "No", "No", "No"),
        ("OFMarker", "Yes", "No", "No"),
        ("IFMarkInt", "2048~8192", "Reject", "Reject"), ("OFMarkInt", "8192", "Reject", "Reject"),
        ("X-com.example.thing", "1", "NotUnderstood", "NotUnderstood"),
        ("X#NodeArchitecture", "arm", "NotUnderstood", "NotUnderstood"),
    ]

    @Test("every key has the answer of its kind")
    func answers() throws {
        for (key, value, normal, discovery) in Self.table {
            var one = Self.negotiation()
            #expect(try one.answer(key, value) == normal, "\(key)=\(value)")
            var other = Self.negotiation(isDiscovery: true)
            #expect(try other.answer(key, value) == discovery, "\(key)=\(value) in discovery")
        }
    }
    @Test(
        "a declaration that may not be is refused",
        arguments: ["511", "0", "16777216", "many", "", "0x", "1 "])
    func declarations(value: String) {
        var negotiation = Self.negotiation()
        #expect(throws: LoginStatus.initiatorError) {
            _ = try negotiation.answer("MaxRecvDataSegmentLength", value)
        }
    }
    @Test("what was agreed is what was answered, and refusals leave the default")
    func results() throws {
        var one = Self.negotiation()
        for (key, value) in [
            ("MaxConnections", "4"), ("InitialR2T", "No"), ("ImmediateData", "No"),
            ("MaxBurstLength", "8192"),
            ("FirstBurstLength", "4096"), ("DefaultTime2Wait", "5"), ("DefaultTime2Retain", "9"),
            ("MaxOutstandingR2T", "3"), ("HeaderDigest", "CRC32C"), ("MaxRecvDataSegmentLength", "4096"),
            ("iSCSIProtocolLevel", "2"),
        ] { _ = try one.answer(key, value) }
        let agreed = one.session
        #expect(agreed.maxConnections == 4 && !agreed.initialR2T && !agreed.immediateData)
        #expect(agreed.burstBytesMax == 8192 && agreed.firstBurstBytesMax == 4096)
        #expect(
            agreed.secondsToWait == 5 && agreed.secondsToRetain == 0 && agreed.outstandingRequestsMax == 3)
        #expect(one.connection.hasHeaderDigest && !one.connection.hasDataDigest && agreed.protocolLevel == 2)
        #expect(one.connection.initiatorSegmentBytesMax == 4096)
        var refused = Self.negotiation()
        for key in [
            "MaxBurstLength", "FirstBurstLength", "MaxOutstandingR2T", "InitialR2T", "MaxConnections",
        ] {
            #expect(try refused.answer(key, "x") == "Reject")
        }
        #expect(refused.session == SessionParameters())
    }
    @Test("a connection that joins a session changes nothing of it")
    func joining() throws {
        var joining = Self.negotiation(isLeading: false)
        for (key, value, _, _) in Self.table where key != "MaxRecvDataSegmentLength" {
            _ = try joining.answer(key, value)
        }
        #expect(joining.session == SessionParameters())
    }
    @Test("a connection that joins is told the session's values, or is refused what contradicts them")
    func joiningAnswers() throws {
        var joining = Self.negotiation(isLeading: false)
        joining.session.maxConnections = 4
        (joining.session.initialR2T, joining.session.immediateData) = (false, true)
        (joining.session.burstBytesMax, joining.session.firstBurstBytesMax) = (8192, 4096)
        (joining.session.secondsToWait, joining.session.secondsToRetain) = (5, 0)
        joining.session.outstandingRequestsMax = 3
        joining.session.protocolLevel = 2
        let table = [
            ("MaxConnections", "16", "4"), ("MaxConnections", "3", "Reject"), ("InitialR2T", "No", "No"),
            ("InitialR2T", "Yes", "Reject"), ("ImmediateData", "Yes", "Yes"),
            ("ImmediateData", "No", "Reject"), ("MaxBurstLength", "65536", "8192"),
            ("MaxBurstLength", "8192", "8192"), ("MaxBurstLength", "8191", "Reject"),
            ("FirstBurstLength", "65536", "4096"), ("FirstBurstLength", "512", "Reject"),
            ("DefaultTime2Wait", "2", "5"), ("DefaultTime2Wait", "6", "Reject"),
            ("MaxOutstandingR2T", "8", "3"), ("MaxOutstandingR2T", "1", "Reject"),
            ("iSCSIProtocolLevel", "2", "2"), ("iSCSIProtocolLevel", "1", "Reject"),
            ("ErrorRecoveryLevel", "2", "0"), ("DefaultTime2Retain", "20", "0"),
            ("DataPDUInOrder", "No", "Yes"), ("HeaderDigest", "CRC32C", "CRC32C"),
        ]
        for (key, value, answer) in table {
            #expect(try joining.answer(key, value) == answer, "\(key)=\(value)")
        }
    }
    @Test("digest policies are kept to")
    func policies() throws {
        var never = Self.negotiation(header: .never, data: .always)
        #expect(try never.answer("HeaderDigest", "CRC32C,None") == "None")
        #expect(try never.answer("HeaderDigest", "CRC32C") == "Reject")
        #expect(try never.answer("DataDigest", "None,CRC32C") == "CRC32C")
        #expect(try never.answer("DataDigest", "None") == "Reject")
    }

    // MARK: Text

    static func bytes(_ text: String) -> [UInt8] { Array(text.utf8) }

    @Test("pairs come apart as they were put together")
    func pairs() throws {
        let found = try TextPairs.decode(Self.bytes("A=1\0B=\0\0\0X-c.d=a=b\0SendTargets=All"))
        #expect(found.map { "\($0.key)|\($0.value)" } == ["A|1", "B|", "X-c.d|a=b", "SendTargets|All"])
        #expect(try TextPairs.decode(TextPairs.encode(found)) == found)
        #expect(try TextPairs.decode([]).isEmpty)
    }
    @Test(
        "what is no pair is refused",
        arguments: [
            "A", "=1", "A B=1", "A=1\0A=2", String(repeating: "k", count: 64) + "=1", "A=\u{7}", "k\u{e9}y=1",
            "A=" + String(repeating: "v", count: 256), "CHAP_R=" + String(repeating: "v", count: 8193),
            (0..<129).map { "k\($0)=v" }.joined(separator: "\0"),
        ])
    func badPairs(text: String) {
        #expect(throws: LoginStatus.initiatorError) { _ = try TextPairs.decode(Self.bytes(text)) }
    }
    @Test(
        "names of 63 bytes and values of 255 pass; so do long binary ones, and bytes that are no text do not")
    func longest() throws {
        _ = try TextPairs.decode(
            Self.bytes(String(repeating: "k", count: 63) + "=" + String(repeating: "v", count: 255)))
        _ = try TextPairs.decode(Self.bytes("CHAP_C=" + String(repeating: "v", count: 8192)))
        #expect(throws: LoginStatus.initiatorError) { _ = try TextPairs.decode([0x41, 0x3d, 0xff, 0xfe]) }
    }
    @Test("numbers are decimal or hexadecimal, and nothing else")
    func numbers() {
        let table: [(String, UInt64?)] = [
            ("0", 0), ("007", 7), ("0x1F", 31), ("0XfF", 255), ("18446744073709551615", .max),
            ("18446744073709551616", nil),
            ("", nil), ("-1", nil), ("+1", nil), ("0x", nil), ("0x+1", nil), ("1x", nil), (" 1", nil),
        ]
        for (text, number) in table { #expect(TextPairs.number(text) == number, "\(text)") }
    }
    @Test("binary values are hexadecimal or base64")
    func binaries() {
        let table: [(String, [UInt8]?)] = [
            ("0x", nil), ("0x1", [1]), ("0x123", [1, 0x23]), ("0XaBcD", [0xab, 0xcd]), ("0xg1", nil),
            ("1234", nil),
            ("0bAQID", [1, 2, 3]), ("0BAQI=", [1, 2]), ("0bAQ==", [1]), ("0bAQ=", nil), ("0b====", nil),
            ("0bA===", nil), ("0bA=ID", nil), ("0b", nil), ("0bAQID/+8=", [1, 2, 3, 0xff, 0xef]),
            ("0x" + String(repeating: "00", count: 1025), nil),
            ("0b" + String(repeating: "AAAA", count: 400), nil),
        ]
        for (text, bytes) in table { #expect(TextPairs.binary(text, bytesMax: 1024) == bytes, "\(text)") }
        let longest = [UInt8](repeating: 0xa5, count: 1024)
        #expect(TextPairs.binary(TextPairs.hexadecimal(longest), bytesMax: 1024) == longest)
    }
}
