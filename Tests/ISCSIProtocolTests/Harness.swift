import BlockTypes
import ISCSIInitiator
import Testing

@testable import ISCSIProtocol

/// A digest that is good enough to tell right from wrong; the real ones come from outside.
func fakeDigest(_ algorithm: CHAPAlgorithm, _ bytes: [UInt8]) -> [UInt8] {
    var random = SeededRandom(
        seed: bytes.reduce(UInt64(algorithm.rawValue)) { ($0 ^ UInt64($1)) &* 0x100_0000_01b3 })
    return (0..<algorithm.digestBytes).map { _ in UInt8(truncatingIfNeeded: random.next()) }
}

/// What READ(10) and WRITE(10) of 512-byte blocks want; everything else moves nothing.
func blockSizes(_ cdb: CDB) -> TransferSizes {
    let bytes = (Int(cdb[7]) << 8 | Int(cdb[8])) * 512
    switch cdb[0] {
    case 0x28: return TransferSizes(inBytes: bytes, outBytes: 0)
    case 0x2a: return TransferSizes(inBytes: 0, outBytes: bytes)
    default: return TransferSizes(inBytes: 0, outBytes: 0)
    }
}
func read10(_ block: UInt32, _ count: UInt16) -> [UInt8] {
    [0x28, 0] + be32(block) + [0] + be16(count) + [0]
}
func write10(_ block: UInt32, _ count: UInt16) -> [UInt8] {
    [0x2a, 0] + be32(block) + [0] + be16(count) + [0]
}

let targetName = "iqn.2026-11.io.curve:t1"
let initiatorName = "iqn.1993-08.org.debian:01:abc"

func makeConfiguration() -> PortalGroupConfiguration {
    var configuration = PortalGroupConfiguration(chap: CHAPDigests(digest: fakeDigest)) { _, _, cdb in
        blockSizes(cdb)
    }
    configuration.portals = ["10.0.0.1:3260", "[fd00::1]:3260"]
    configuration.targets = [
        TargetDescription(name: targetName), TargetDescription(name: "iqn.2026-11.io.curve:t2"),
    ]
    return configuration
}

/// A portal group whose effects are collected; the test plays initiators and logical units.
final class Harness {
    let group: PortalGroup
    var listeners: [UInt64: PDUListener] = [:]
    var closed: [UInt64: ISCSIEndReason] = [:]
    var paused: Set<UInt64> = []
    var executed: [(id: TaskID, command: SCSICommand)] = []
    var aborts: [TaskID] = []
    /// Given out and not reported yet.
    private var open: Set<TaskID> = []
    var manages: [(id: ManagementID, function: ManagementFunction, lun: LUN)] = []
    var nexusLog: [String] = []
    /// What the last session that began answers.
    var functions: Set<ManagementFunction> = []
    /// Nexus and LUN of what a connection took with it.
    var cleared: [String] = []
    /// Nexuses that leave; they are released at once unless the test holds them.
    var farewells: [NexusID] = []
    var holdsFarewells = false
    var endedTasks: [UInt64] = []
    /// True: what is sent stays in the socket's queue.
    var isDeaf = false
    var queued: [UInt64: Int] = [:]
    var broken: [String] = []
    /// Connections that are to go elsewhere, with the target's name.
    var moves: [String] = []

    init(_ configuration: PortalGroupConfiguration = makeConfiguration(), limits: ISCSILimits = ISCSILimits())
    {
        group = PortalGroup(configuration: configuration, limits: limits, pool: BufferPool())
    }
    deinit {
        // Sessions and connections refer to each other until they are closed.
        for id in listeners.keys.sorted() { lose(id) }
        answerAll()
    }
    func open(_ id: UInt64, from address: [UInt8] = [10, 0, 0, 9], by portal: Int? = nil) {
        listeners[id] = PDUListener()
        let randomness = randomness(id)
        act {
            group.opened(
                ConnectionID(rawValue: id), from: address, by: portal, randomness: randomness, effects: &$0)
        }
    }
    private func randomness(_ id: UInt64) -> [UInt8] {
        (0..<33).map { UInt8(truncatingIfNeeded: Int(id) + $0 * 7) }
    }
    /// Goes on with a connection that another group gave up.
    func open(_ id: UInt64, movedWith login: MovingLogin) {
        listeners[id] = PDUListener()
        let randomness = randomness(id)
        act {
            group.opened(
                ConnectionID(rawValue: id), from: [10, 0, 0, 9], randomness: randomness, movedWith: login,
                effects: &$0)
        }
    }
    func moved(_ id: UInt64 = 1) -> MovingLogin? { group.moved(ConnectionID(rawValue: id)) }
    /// Sends bytes to the target, in pieces.
    func say(_ bytes: [UInt8], on id: UInt64 = 1, pieceBytes: Int = Int.max, throughWindow: Bool = false) {
        var start = 0
        while start < bytes.count, closed[id] == nil {
            var count = min(pieceBytes, bytes.count - start)
            var effects: [PortalGroup.Effect] = []
            let connection = ConnectionID(rawValue: id)
            if throughWindow, let window = group.receiveWindow(of: connection) {
                count = min(count, window.count)
                for index in 0..<count { window[index] = bytes[start + index] }
                group.received(
                    UnsafeRawBufferPointer(rebasing: window[..<count]), on: connection,
                    queuedSendBytes: queued[id] ?? 0, effects: &effects)
            } else {
                bytes[start..<(start + count)].withUnsafeBytes {
                    group.received($0, on: connection, queuedSendBytes: queued[id] ?? 0, effects: &effects)
                }
            }
            note(effects)
            start += count
        }
    }
    /// All PDUs that the target sent since the last call.
    func heard(_ id: UInt64 = 1) -> [Heard] {
        var all: [Heard] = []
        while let next = listeners[id]?.next() { all.append(next) }
        if let what = listeners[id]?.broken { broken.append(what) }
        return all
    }
    func answer(_ id: TaskID, _ answer: SCSIAnswer = SCSIAnswer()) {
        open.remove(id)
        act { group.answered(id, answer, effects: &$0) }
    }
    func abort(_ id: TaskID) {
        guard aborts.contains(id) else { return answer(id) }
        open.remove(id)
        act { group.aborted(id, effects: &$0) }
    }
    /// Reports everything that was given out, and what is given out meanwhile.
    func answerAll() {
        var index = 0
        while index < executed.count {
            if open.contains(executed[index].id) { abort(executed[index].id) }
            index += 1
        }
    }
    func manage(_ id: ManagementID, _ outcome: ManagementOutcome = .complete) {
        act { group.managed(id, outcome, effects: &$0) }
    }
    func lose(_ id: UInt64) { act { group.lost(ConnectionID(rawValue: id), effects: &$0) } }
    func ping(_ id: UInt64 = 1) { act { group.pingTimeReached(ConnectionID(rawValue: id), effects: &$0) } }
    func drain(_ id: UInt64 = 1) {
        queued[id] = 0
        act { group.drained(ConnectionID(rawValue: id), queuedSendBytes: 0, effects: &$0) }
    }
    func act(_ body: (inout [PortalGroup.Effect]) -> Void) {
        var effects: [PortalGroup.Effect] = []
        body(&effects)
        note(effects)
    }
    func note(_ effects: [PortalGroup.Effect]) {
        for effect in effects {
            switch effect {
            case .send(let id, let bytes): hear(id.rawValue, bytes)
            case .sendPayload(let id, let payload): hear(id.rawValue, payload.array)
            case .pauseReceiving(let id): paused.insert(id.rawValue)
            case .resumeReceiving(let id): paused.remove(id.rawValue)
            case .close(let id, let reason):
                if closed[id.rawValue] != nil { broken.append("a connection was closed twice") }
                closed[id.rawValue] = reason
            case .move(let id, let name): moves.append("\(id.rawValue) \(name)")
            case .nexusBegan(let id, let nexus, let functions):
                nexusLog.append("+\(id.rawValue) \(nexus.initiatorPort)")
                self.functions = functions
            case .commandsCleared(let id, let lun): cleared.append("\(id.rawValue) \(lun.rawValue)")
            case .nexusEnded(let id): nexusLog.append("-\(id.rawValue)")
            case .nexusLeaves(let id):
                farewells.append(id)
                if !holdsFarewells { act { group.nexusReleased(id, effects: &$0) } }
            case .tasksEnded(let id): endedTasks.append(id.rawValue)
            case .execute(let id, let command):
                executed.append((id, command))
                open.insert(id)
            case .abort(let id): aborts.append(id)
            case .manage(let id, let function, _, let lun): manages.append((id, function, lun))
            }
        }
    }
    private func hear(_ id: UInt64, _ bytes: [UInt8]) {
        if closed[id] != nil { broken.append("bytes behind a close") }
        listeners[id]?.hear(bytes)
        if isDeaf { queued[id, default: 0] += bytes.count }
    }

    /// A harness with one connection in full feature phase; commands begin at CmdSN 100.
    static func loggedIn(
        _ keys: [String] = [], limits: ISCSILimits = ISCSILimits(),
        configuration: PortalGroupConfiguration = makeConfiguration()
    ) -> Harness {
        let harness = Harness(configuration, limits: limits)
        harness.logIn(1, keys)
        return harness
    }
    func logIn(
        _ id: UInt64, _ keys: [String] = [], cid: UInt16 = 1, tsih: UInt16 = 0,
        isid: UInt64 = 0x4000_0000_0001,
        cmdSN: UInt32 = 100, name: String = initiatorName, target: String = targetName
    ) {
        open(id)
        say(
            Wire.login(
                ["InitiatorName=\(name)", "TargetName=\(target)"] + keys, stage: 1, next: 3, isid: isid,
                tsih: tsih, cid: cid, cmdSN: cmdSN), on: id)
    }
    /// The handle of the session that the last login on `id` made or joined; `nil` when it was refused.
    func handle(_ id: UInt64 = 1) -> UInt16? {
        guard let last = heard(id).last, last.opcode == 0x23, last.word(36) >> 16 == 0,
            last.flags & 0x83 == 0x83
        else { return nil }
        return last.half(14)
    }
}
