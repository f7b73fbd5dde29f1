import BlockTypes
import Fuzzing

@testable import ISCSIProtocol

/// One for all inputs: a large write's memory is mapped once.
private let pool = BufferPool(keptBytesPerClassMax: 64 << 20)
private let connection = ConnectionID(rawValue: 1), second = ConnectionID(rawValue: 2)

/// Targets that serve all inputs, each of which ends what it began: without secrets, and with.
// One thread fuzzes.
private nonisolated(unsafe) let gates = [Gate(withSecrets: false), Gate(withSecrets: true)]
/// The same, behind a group that serves nothing and passes connections on.
private nonisolated(unsafe) let fronted = [
    Gate(withSecrets: false, isFronted: true), Gate(withSecrets: true, isFronted: true),
]

/// Two connections to a target whose logical units answer at once, or later, or only when asked back.
private final class Gate {
    let group: PortalGroup
    /// Where connections begin, if that is elsewhere.
    private let front: PortalGroup?
    private var isMoved = [false, false]
    /// What the first connection was told, while that is to be compared.
    private(set) var told: [UInt8] = []
    private(set) var ending: ISCSIEndReason?
    var collects = false
    var waiting: [TaskID] = []
    var isClosed = [false, false]
    var functions: [ManagementID] = []
    var leavers: [NexusID] = []
    var answersLate = false
    private var effects: [PortalGroup.Effect] = []
    private static let piecesMax = 96
    /// Few, so that a short input comes to the end of a window.
    private static let commandsMax = 8, immediateCommandsMax = 2

    init(withSecrets: Bool, isFronted: Bool = false) {
        var limits = ISCSILimits()
        (limits.commandsMax, limits.immediateCommandsMax) = (Self.commandsMax, Self.immediateCommandsMax)
        var configuration = portalGroup(withSecrets: withSecrets)
        group = PortalGroup(configuration: configuration, limits: limits, pool: pool)
        (configuration.targetsElsewhere, configuration.targets) = (configuration.targets, [])
        front = isFronted ? PortalGroup(configuration: configuration, limits: limits, pool: pool) : nil
        effects.reserveCapacity(64)
    }
    /// Nothing has happened yet, and all numbers begin anew: an input does the same whatever came before it.
    func begin(answersLate: Bool) {
        self.answersLate = answersLate
        (isClosed, isMoved, ending) = ([false, false], [false, false], nil)
        told.removeAll(keepingCapacity: true)
        for group in [group, front].compactMap({ $0 }) {
            (group.taskGeneration, group.nexusCount, group.managementCount, group.lastHandle) = (0, 0, 0, 0)
            group.taskSlots.removeAll(keepingCapacity: true)
            group.freeTaskSlots.removeAll(keepingCapacity: true)
        }
        for id in [connection, second] {
            act { home(id).opened(id, from: initiatorAddress, randomness: randomness, effects: &$0) }
        }
    }
    private func home(_ id: ConnectionID) -> PortalGroup {
        guard let front, !isMoved[Int(id.rawValue) - 1] else { return group }
        return front
    }
    private func move(_ id: ConnectionID) {
        guard let login = front?.moved(id) else {
            return require(false, "a login moved, though nothing is elsewhere")
        }
        isMoved[Int(id.rawValue) - 1] = true
        act {
            group.opened(
                id, from: initiatorAddress, randomness: randomness, movedWith: login, effects: &$0)
        }
    }
    /// In pieces of at least `pieceBytes`, and not too many: a few cuts do most of what cuts can do wrong.
    /// - Parameter pieceBytes: 0: all at once.
    func feed(_ bytes: ArraySlice<UInt8>, on id: ConnectionID = connection, pieceBytes: Int) {
        guard !bytes.isEmpty else { return }
        let pieceBytes = pieceBytes == 0 ? bytes.count : max(pieceBytes, bytes.count / Self.piecesMax)
        bytes.withUnsafeBytes { all in
            var start = 0
            while start < all.count, !isClosed(id) {
                let end = min(all.count, start + pieceBytes)
                let piece = UnsafeRawBufferPointer(rebasing: all[start..<end])
                act { home(id).received(piece, on: id, queuedSendBytes: 0, effects: &$0) }
                if !answersLate { answerAll() }
                start = end
            }
        }
    }
    private func isClosed(_ id: ConnectionID) -> Bool { isClosed[Int(id.rawValue) - 1] }
    func act(_ body: (inout [PortalGroup.Effect]) -> Void) {
        var effects: [PortalGroup.Effect] = []
        swap(&effects, &self.effects)
        body(&effects)
        for effect in effects {
            switch effect {
            case .send(let id, let bytes):
                require(!isClosed(id), "bytes behind a close")
                if collects, id == connection { told += bytes }
            case .sendPayload(let id, _): require(!isClosed(id), "bytes behind a close")
            case .close(let id, let reason):
                require(!isClosed(id), "closed twice")
                isClosed[Int(id.rawValue) - 1] = true
                if id == connection { ending = reason }
            case .execute(let id, let command):
                require(command.dataOut.reduce(0) { $0 + $1.byteCount } <= 255 * 512, "more data than wanted")
                waiting.append(id)
                require(
                    waiting.count <= 4 * (Self.commandsMax + Self.immediateCommandsMax),
                    "more commands than the windows allow")
            case .abort(let id):
                // It is found among those that wait, and answered with them.
                require(waiting.contains(id), "an abort of what was not given out")
            case .manage(let id, _, _, _): functions.append(id)
            case .move(let id, _): move(id)
            case .nexusLeaves(let id): leavers.append(id)
            case .tasksEnded: require(false, "tasks ended that nobody wanted ended")
            case .pauseReceiving, .resumeReceiving, .nexusBegan, .nexusEnded, .commandsCleared: break
            }
        }
        effects.removeAll(keepingCapacity: true)
        swap(&effects, &self.effects)
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
        for id in [connection, second] { act { home(id).lost(id, effects: &$0) } }
        answerAll()
        for group in [group, front].compactMap({ $0 }) {
            require(group.sessions.isEmpty && group.endingSessions.isEmpty, "a session is left")
            require(
                group.connections.isEmpty && group.taskSlots.allSatisfy { $0 == nil }, "something is left")
        }
    }
}

/// Login requests, their opcodes and lengths made right so that the text is reached.
func feedLogin(_ input: [UInt8]) {
    guard let steering = input.first.map({ Int($0) }) else { return }
    let gate = gates[steering & 1]
    gate.begin(answersLate: false)
    var stream: [UInt8] = []
    stream.reserveCapacity(input.count * 4)
    var header = [UInt8](repeating: 0, count: 48)
    header[0] = 0x43
    var start = 1
    while start + 4 <= input.count {
        let (flags, fields) = (input[start], input[start + 1])
        let said = Int(input[start + 2]) << 8 | Int(input[start + 3])
        start += 4
        let length = min(said, input.count - start)
        header[1] = flags
        (header[6], header[7]) = (UInt8(length >> 8), UInt8(length & 255))
        (header[13], header[15], header[21]) = (fields & 3, fields >> 2 & 3, fields >> 4 & 3)
        stream += header
        stream += input[start..<(start + length)]
        for _ in 0..<(-length & 3) { stream.append(0) }
        start += length
    }
    // A login that moves to another loop is answered as one that began there.
    let isCompared = steering & 0x80 != 0
    gate.collects = isCompared
    gate.feed(stream[...], pieceBytes: pieceBytes(steering >> 1))
    if isCompared {
        let other = fronted[steering & 1]
        other.begin(answersLate: false)
        other.collects = true
        other.feed(stream[...], pieceBytes: pieceBytes(steering >> 1))
        require(
            other.told == gate.told && other.ending == gate.ending, "a login that moved is answered otherwise"
        )
        other.end()
    }
    gate.end()
}

/// All of the input reaches full feature phase, on two connections of one session.
func feedSession(_ input: [UInt8]) {
    guard let steering = input.first.map({ Int($0) }) else { return }
    let gate = gates[0]
    gate.begin(answersLate: steering & 1 == 1)
    gate.logIn(connection, greetings[steering >> 1 & 1])
    gate.logIn(second, greetings[2])
    let piece = pieceBytes(steering >> 3)
    let cut = input.count / 2
    gate.feed(input[min(1, cut)..<cut], pieceBytes: piece)
    gate.feed(input[max(1, cut)...], on: steering & 4 == 4 ? second : connection, pieceBytes: piece)
    gate.end()
}

/// A login that has been agreed on.
private struct Greeting {
    let login: LoginExchange
    let request: PDUHeader
}
extension Gate {
    /// What is left of a login when all has been said.
    fileprivate func logIn(_ id: ConnectionID, _ greeting: Greeting) {
        guard let connection = group.connections[id] else { fatalError("a connection is not there") }
        connection.login = greeting.login
        connection.loginRequest = greeting.request
        connection.agreed = (
            greeting.login.agreed, LoginExchange.Reply(flags: 0x87, text: [], isComplete: true),
            greeting.request
        )
        act { effects in
            require((try? group.complete(connection, effects: &effects)) != nil, "a proper login fails")
        }
        require(connection.phase == .fullFeature, "a proper login waits")
    }
}
/// Proper logins, done once: a session's first connection without and with digests, and its second.
private let greetings: [Greeting] = {
    let gate = Gate(withSecrets: false)
    func greet(_ id: ConnectionID, _ keys: [String], handle: UInt8) -> Greeting {
        let text = keys.flatMap { (key: String) -> [UInt8] in Array(key.utf8) + [0] }
        var header = [UInt8](repeating: 0, count: 48)
        (header[0], header[1], header[7], header[15], header[21]) = (
            0x43, 0x87, UInt8(text.count), handle, UInt8(id.rawValue)
        )
        gate.feed((header + text + [UInt8](repeating: 0, count: -text.count & 3))[...], on: id, pieceBytes: 0)
        guard let connection = gate.group.connections[id], connection.phase == .fullFeature,
            let request = connection.loginRequest
        else { fatalError("a proper login fails") }
        return Greeting(login: connection.login, request: request)
    }
    let names = ["InitiatorName=i", "TargetName=t"]
    let leading = names + ["InitialR2T=No", "MaxConnections=2", "iSCSIProtocolLevel=2"]
    gate.begin(answersLate: false)
    let digested = greet(connection, leading + ["DataDigest=CRC32C"], handle: 0)
    gate.end()
    gate.begin(answersLate: false)
    let all = [greet(connection, leading, handle: 0), digested, greet(second, names, handle: 1)]
    gate.end()
    return all
}()
