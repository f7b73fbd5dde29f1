import BlockTypes
import Fuzzing

@testable import ISCSIProtocol

let iscsiTargets = [
    FuzzTarget(name: "iscsi-login", feed: feedLogin),
    FuzzTarget(name: "iscsi-session", feed: feedSession),
]

/// One for all inputs: a large write's memory is mapped once.
private let pool = BufferPool(keptBytesPerClassMax: 64 << 20)
private let connection = ConnectionID(rawValue: 1)

/// Two connections to a target whose logical units answer at once, or later, or only when asked back.
private final class Gate {
    let group: PortalGroup
    var waiting: [TaskID] = []
    var closed: Set<ConnectionID> = []
    var functions: [ManagementID] = []
    var leavers: [NexusID] = []
    let answersLate: Bool
    private static let piecesMax = 96

    init(withSecrets: Bool, answersLate: Bool) {
        var configuration = PortalGroupConfiguration(
            chap: CHAPDigests { algorithm, bytes in
                [UInt8](repeating: bytes.reduce(0, ^), count: algorithm.digestBytes)
            },
            transferSizes: { _, _, cdb in
                TransferSizes(inBytes: Int(cdb[7]) * 512, outBytes: Int(cdb[8]) * 512)
            })
        var target = TargetDescription(name: "t")
        if withSecrets {
            let user = CHAPCredential(name: "u", secret: [1, 2, 3])
            target.authentication = .chap(users: [user], mutual: CHAPCredential(name: "t", secret: [4]))
        }
        configuration.targets = [target]
        configuration.portals = ["10.0.0.1:3260"]
        group = PortalGroup(configuration: configuration, pool: pool)
        self.answersLate = answersLate
        for id: UInt64 in 1...2 {
            act {
                group.opened(
                    ConnectionID(rawValue: id), from: [10, 0, 0, 1],
                    randomness: [UInt8](repeating: 7, count: 33),
                    effects: &$0)
            }
        }
    }
    /// In pieces of at least `pieceBytes`, and not too many: a few cuts do most of what cuts can do wrong.
    func feed(_ bytes: [UInt8], on id: ConnectionID = connection, pieceBytes: Int) {
        let pieceBytes = max(pieceBytes, bytes.count / Self.piecesMax)
        var start = 0
        while start < bytes.count, !closed.contains(id) {
            let end = min(bytes.count, start + pieceBytes)
            bytes[start..<end].withUnsafeBytes { piece in
                act { group.received(piece, on: id, queuedSendBytes: 0, effects: &$0) }
            }
            if !answersLate { answerAll() }
            start = end
        }
    }
    private func act(_ body: (inout [PortalGroup.Effect]) -> Void) {
        var effects: [PortalGroup.Effect] = []
        body(&effects)
        for effect in effects {
            switch effect {
            case .send(let id, _), .sendPayload(let id, _):
                require(!closed.contains(id), "bytes behind a close")
            case .close(let id, _): require(closed.insert(id).inserted, "closed twice")
            case .execute(let id, let command):
                require(command.dataOut.reduce(0) { $0 + $1.byteCount } <= 255 * 512, "more data than wanted")
                waiting.append(id)
                require(waiting.count <= 4 * 144, "more commands than the windows allow")
            case .abort(let id):
                // It is found among those that wait, and answered with them.
                require(waiting.contains(id), "an abort of what was not given out")
            case .manage(let id, _, _, _): functions.append(id)
            case .nexusLeaves(let id): leavers.append(id)
            case .tasksEnded: require(false, "tasks ended that nobody wanted ended")
            case .pauseReceiving, .resumeReceiving, .nexusBegan, .nexusEnded, .commandsCleared: break
            }
        }
    }
    func answerAll() {
        while let id = waiting.popLast() {
            act { group.answered(id, SCSIAnswer(dataIn: [.zeroes(1024)]), effects: &$0) }
        }
        while let id = functions.popLast() { act { group.managed(id, .complete, effects: &$0) } }
        while let id = leavers.popLast() { act { group.nexusReleased(id, effects: &$0) } }
    }
    /// Everything ends; connections, sessions and commands refer to each other until then.
    func end() {
        answerAll()
        for id: UInt64 in 1...2 { act { group.lost(ConnectionID(rawValue: id), effects: &$0) } }
        answerAll()
        require(group.sessions.isEmpty && group.endingSessions.isEmpty, "a session is left")
        require(group.connections.isEmpty && group.taskSlots.allSatisfy { $0 == nil }, "something is left")
    }
}

/// Login requests, their opcodes and lengths made right so that the text is reached.
private func feedLogin(_ input: [UInt8]) {
    var bytes = input
    let steering = bytes.takeByte()
    let gate = Gate(withSecrets: steering & 1 == 1, answersLate: false)
    var stream: [UInt8] = []
    var rest = bytes[...]
    while rest.count >= 4, stream.count < 1 << 16 {
        let flags = rest.removeFirst()
        let fields = rest.removeFirst()
        let length = min(Int(rest.removeFirst()) << 8 | Int(rest.removeFirst()), rest.count)
        var header = [UInt8](repeating: 0, count: 48)
        (header[0], header[1]) = (0x43, flags)
        (header[6], header[7]) = (UInt8(length >> 8), UInt8(length & 255))
        (header[13], header[15], header[21]) = (fields & 3, fields >> 2 & 3, fields >> 4 & 3)
        stream += header + rest.prefix(length) + [UInt8](repeating: 0, count: -length & 3)
        rest = rest.dropFirst(length)
    }
    gate.feed(stream, pieceBytes: 1 + steering * 16)
    gate.end()
}

/// All of the input reaches full feature phase, on two connections of one session.
private func feedSession(_ input: [UInt8]) {
    var bytes = input
    let steering = bytes.takeByte()
    let gate = Gate(withSecrets: false, answersLate: steering & 1 == 1)
    gate.feed(login(digests: steering & 2 == 2, handle: 0, connection: 1), pieceBytes: 4096)
    let second = ConnectionID(rawValue: 2)
    gate.feed(login(digests: false, handle: 1, connection: 2), on: second, pieceBytes: 4096)
    require(gate.group.sessions.count == 1 && gate.closed.isEmpty, "a proper login fails")
    let isEven = steering & 4 == 4
    let cut = bytes.count / 2
    gate.feed(Array(bytes[..<cut]), pieceBytes: 1 + steering * 4)
    gate.feed(Array(bytes[cut...]), on: isEven ? second : connection, pieceBytes: 1 + steering * 4)
    gate.end()
}
private func login(digests: Bool, handle: UInt8, connection: UInt8) -> [UInt8] {
    var keys = [
        "InitiatorName=i", "TargetName=t", "InitialR2T=No", "MaxConnections=2", "iSCSIProtocolLevel=2",
    ]
    if digests { keys.append("DataDigest=CRC32C") }
    let text = keys.flatMap { (key: String) -> [UInt8] in Array(key.utf8) + [0] }
    var header = [UInt8](repeating: 0, count: 48)
    (header[0], header[1], header[7], header[15], header[21]) = (
        0x43, 0x87, UInt8(text.count), handle, connection
    )
    return header + text + [UInt8](repeating: 0, count: -text.count & 3)
}
