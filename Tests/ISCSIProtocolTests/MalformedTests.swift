import BlockTypes
import ISCSIInitiator
import Testing

@testable import ISCSIProtocol

/// Input that no good initiator sends: recorded conversations with every bit flipped, and cut off everywhere.
@Suite struct MalformedTests {
    static let wire = Wire()
    static let login = Wire.login(
        LoginTests.names + [
            "InitialR2T=No", "ImmediateData=Yes", "FirstBurstLength=1024", "MaxConnections=2",
            "HeaderDigest=None",
            "MaxRecvDataSegmentLength=4096", "iSCSIProtocolLevel=2",
        ], stage: 1, next: 3)
    /// One request of every kind, in an order in which each of them does something.
    static let requests: [[UInt8]] = [
        wire.nopOut(tag: 1, cmdSN: 100, data: [1, 2, 3]),
        wire.command(tag: 2, cdb: read10(0, 2), length: 1024, cmdSN: 100, read: true),
        wire.command(
            tag: 3, cdb: write10(0, 4), length: 2048, cmdSN: 101, write: true, final: false,
            data: FlowTests.pattern(300)),
        wire.dataOut(tag: 3, number: 0, offset: 300, final: true, data: FlowTests.pattern(724)),
        wire.dataOut(
            tag: 3, transfer: 1, number: 0, offset: 1024, final: true, data: FlowTests.pattern(1024)),
        wire.command(
            tag: 4, cdb: write10(0, 1), length: 512, cmdSN: 102, read: true, write: true,
            ahs: [0, 5, 2, 0, 0, 0, 4, 0], data: FlowTests.pattern(512)),
        wire.command(tag: 5, cdb: [0], cmdSN: 104, attribute: 2),
        wire.command(tag: 6, cdb: [0], cmdSN: 103, immediate: true),
        wire.management(1, tag: 7, referenced: 2, cmdSN: 103, refCmdSN: 100),
        wire.text(["SendTargets="], tag: 8, cmdSN: 103),
        wire.management(5, tag: 9, cmdSN: 105), wire.nopOut(tag: 10, cmdSN: 103, immediate: false),
        wire.pdu(0x10),
        wire.logout(1, tag: 11, cid: 1, cmdSN: 106),
    ]

    /// Whatever comes, all that was given out is answered, and nothing is left when the connection goes.
    static func survive(_ bytes: [UInt8], loggedIn: Bool = true, pieceBytes: Int = Int.max) -> String? {
        let harness = Harness()
        harness.open(1)
        if loggedIn { harness.say(login) }
        harness.say(bytes, pieceBytes: pieceBytes)
        let group = harness.group
        let limits = group.limits
        for session in group.sessions {
            if session.tasks.count > limits.commandsMax + limits.immediateCommandsMax {
                return "too many tasks"
            }
            if session.inFlightBytes > limits.inFlightBytesMax { return "too many bytes in flight" }
            if session.expectedCommandNumber &- session.maxCommandNumber > 1,
                precedes(session.maxCommandNumber &+ 1, session.expectedCommandNumber)
            {
                return "the window is less than closed"
            }
        }
        for (_, command) in harness.executed
        where command.dataOut.reduce(0, { $0 + $1.byteCount }) > limits.transferBytesMax {
            return "a command with too much data"
        }
        // In turn, so that commands that wait for room or data of others come up too.
        harness.answerAll()
        for index in harness.manages.indices { harness.manage(harness.manages[index].id) }
        harness.lose(1)
        harness.answerAll()
        if !harness.broken.isEmpty { return harness.broken[0] }
        return group.connections.isEmpty ? nil : "a connection is left"
    }

    @Test("every flipped bit of every request")
    func flips() {
        let stream = requestsStream
        for bit in 0..<(8 * stream.count) {
            // Of data, one bit in sixteen bytes will do.
            let isHeader = headerBytes.contains(bit / 8)
            guard isHeader || bit % 128 == 5 else { continue }
            var bent = stream
            bent[bit / 8] ^= 1 << UInt8(bit % 8)
            if let what = Self.survive(bent) { Issue.record("bit \(bit): \(what)") }
        }
    }
    @Test("every flipped bit of a login, and every byte of it made zero or all ones")
    func loginFlips() {
        for bit in 0..<(8 * Self.login.count) {
            var bent = Self.login
            bent[bit / 8] ^= 1 << UInt8(bit % 8)
            if let what = Self.survive(bent + Self.login, loggedIn: false) {
                Issue.record("bit \(bit): \(what)")
            }
        }
        for index in Self.login.indices {
            for value: UInt8 in [0, 0xff] {
                var bent = Self.login
                bent[index] = value
                if let what = Self.survive(bent + Self.login, loggedIn: false) {
                    Issue.record("byte \(index): \(what)")
                }
            }
        }
    }
    @Test("every request cut off anywhere, and followed by the next one")
    func truncations() {
        for (index, request) in Self.requests.enumerated() {
            let before = Self.requests[..<index].flatMap { $0 }
            let next = Self.requests[(index + 1) % Self.requests.count]
            for count in 0..<min(request.count, 120) {
                if let what = Self.survive(before + request[..<count]) {
                    Issue.record("\(index) at \(count): \(what)")
                }
                if let what = Self.survive(before + request[..<count] + next) {
                    Issue.record("\(index) at \(count): \(what)")
                }
            }
        }
    }
    @Test("random bytes behind a login", arguments: 0..<20)
    func noise(part: UInt64) {
        var random = SeededRandom(seed: part)
        for _ in 0..<50 {
            var bytes: [UInt8] = []
            for _ in 0..<Int.random(in: 1...8, using: &random) {
                var pdu = Self.requests[Int.random(in: 0..<Self.requests.count, using: &random)]
                for _ in 0..<Int.random(in: 0...6, using: &random) {
                    pdu[Int.random(in: 0..<48, using: &random)] = UInt8.random(in: 0...255, using: &random)
                }
                // Mostly short, so that what follows is looked at too.
                if random.oneIn(2) { (pdu[4], pdu[5]) = (0, 0) }
                bytes += pdu
            }
            let piece = Int.random(in: 1...200, using: &random)
            if let what = Self.survive(bytes, pieceBytes: piece) { Issue.record("part \(part): \(what)") }
        }
    }

    private var requestsStream: [UInt8] { Self.requests.flatMap { $0 } }
    private var headerBytes: Set<Int> {
        var (all, start): (Set<Int>, Int) = ([], 0)
        for request in Self.requests {
            all.formUnion(start..<(start + 56))
            start += request.count
        }
        return all
    }
}
