import BlockTypes
import Testing

@testable import ISCSIProtocol

/// A portal group, logical units of memory and initiators, over pipes that carry any number of bytes at a
/// time.
final class ModelWorld {
    static let blocksPerUnit = 96
    var random: SeededRandom
    let limits: ISCSILimits
    let group: PortalGroup
    var initiators: [ModelInitiator] = []
    /// Bytes on their way to initiators; a connection that is in it is alive or has bytes left.
    var toInitiator: [UInt64: [UInt8]] = [:]
    var closed: Set<UInt64> = []
    var paused: Set<UInt64> = []
    var running: [(id: TaskID, command: SCSICommand, nexus: NexusID)] = []
    var aborting: Set<TaskID> = []
    var manages: [ManagementID] = []
    var leavers: [NexusID] = []
    var ended: Set<NexusID> = []
    var units: [UInt64: [UInt8]] = [:]
    /// What a block must read as; `nil`: anything, since a write of it was lost.
    var truth: [UInt64: [UInt8?]] = [:]
    var busy: [UInt64: Set<Int>] = [:]
    var owners: [UInt32: (ModelCommand, ModelInitiator)] = [:]
    var nextConnection: UInt64 = 1
    var nextSerial: UInt32 = 1
    var problems: [String] = []
    var view = ""
    var chaos = true
    var allowsResets: Bool
    var allowsDrops: Bool

    init(seed: UInt64) {
        random = SeededRandom(seed: seed)
        var limits = ISCSILimits()
        limits.commandsMax = [4, 7, 32][Int.random(in: 0..<3, using: &random)]
        limits.inFlightBytesMax = [4096, 32_768, 1 << 20][Int.random(in: 0..<3, using: &random)]
        limits.queuedReplyBytesMax = [2000, 100_000][Int.random(in: 0..<2, using: &random)]
        limits.segmentBytesMax = [512, 4096, 20_000][Int.random(in: 0..<3, using: &random)]
        self.limits = limits
        group = PortalGroup(configuration: makeConfiguration(), limits: limits, pool: BufferPool())
        (allowsResets, allowsDrops) = (random.oneIn(2), random.oneIn(2))
        for lun: UInt64 in 0...1 {
            units[lun] = [UInt8](repeating: 0, count: 512 * Self.blocksPerUnit)
            truth[lun] = Array(repeating: 0, count: Self.blocksPerUnit)
            busy[lun] = []
        }
        for index in 0..<Int.random(in: 1...2, using: &random) {
            let initiator = ModelInitiator(isid: 0x4000_0000_0000 + UInt64(index), random: &random)
            initiator.onEnd = { [unowned self] command, isGood in self.finished(command, isGood: isGood) }
            initiators.append(initiator)
        }
    }

    // MARK: What commands do

    private func finished(_ command: ModelCommand, isGood: Bool) {
        let blocks = command.block..<(command.block + command.blocks)
        let moved = min(command.length, command.wantedBytes)
        if command.isWrite {
            for (index, block) in blocks.enumerated() where 512 * (index + 1) <= moved {
                truth[command.lun]?[block] = isGood ? command.data[512 * index] : nil
            }
        } else if isGood {
            for (index, byte) in command.received.enumerated() {
                if let known = truth[command.lun]?[command.block + index / 512], known != byte {
                    problems.append("block \(command.block + index / 512) reads \(byte), not \(known)")
                    break
                }
            }
        }
        // What a lost command still does is over when it is not under way any more.
        if command.fate != .lost || !running.contains(where: { serial($0.command) == command.serial }) {
            unlock(command)
        }
    }
    private func unlock(_ command: ModelCommand) {
        busy[command.lun]?.subtract(command.block..<(command.block + command.blocks))
    }
    private func serial(_ command: SCSICommand) -> UInt32 {
        UInt32(command.cdb.number(at: 10, bytes: 4))
    }

    private func execute(_ id: TaskID, _ command: SCSICommand) {
        running.append((id, command, command.nexus))
        if ended.contains(command.nexus) { problems.append("a command of a nexus that has ended") }
        guard let (own, initiator) = owners[serial(command)] else {
            return problems.append("a command that nobody sent")
        }
        if own.isExecuted { problems.append("command \(own.serial) was carried out twice") }
        own.isExecuted = true
        if own.fate != .pending {
            problems.append("command \(own.serial) is carried out after it was \(own.fate)")
        }
        let expected = own.isWrite ? Array(own.data.prefix(min(own.length, own.wantedBytes))) : []
        if command.dataOut.flatMap(\.array) != expected {
            problems.append("command \(own.serial) has other data")
        }
        if command.cdb != CDB(own.cdb) || command.lun.rawValue != own.lun
            || command.attribute.rawValue != own.attribute
            || command.expectedInBytes + command.expectedOutBytes != own.length
        {
            problems.append("command \(own.serial) is another one")
        }
        guard !own.isImmediate, own.attribute != 3 else { return }
        for other in initiator.commands.values
        where other.fate == .pending && !other.isImmediate && other.lun == own.lun
            && !closed.contains(other.connection)
        {
            let isDone = other.isExecuted && !running.contains { serial($0.command) == other.serial }
            let isBefore = Int32(truncatingIfNeeded: other.number &- own.number) < 0
            // A command that is already aborted at the target is known as pending until its initiator hears
            // it.
            if isBefore, !isDone, own.attribute == 2 || other.attribute == 2, other.attribute != 3,
                initiator.functions.isEmpty,
                !initiator.mayVanish
            {
                view =
                    targetsView
                    + " other on \(other.connection) tag \(other.tag) own on \(own.connection) tag \(own.tag)"
                problems.append(
                    "command \(own.serial) \(own.attribute) \(own.number) passes \(other.serial) \(other.attribute) \(other.number)"
                )
            }
        }
    }
    /// One command is done.
    func complete(_ index: Int) {
        let (id, command, _) = running.remove(at: index)
        let isWanted = !aborting.contains(id)
        let own = owners[serial(command)]
        if !isWanted, random.oneIn(2) {
            aborting.remove(id)
            act { group.aborted(id, effects: &$0) }
            if let (command, initiator) = own, command.fate == .pending,
                !initiator.functions.values.contains(where: { $0.affected.contains { $0 === command } })
            {
                initiator.mayVanish = true
            }
        } else {
            aborting.remove(id)
            let answer = carryOut(command)
            act { group.answered(id, answer, effects: &$0) }
        }
        if let (lost, _) = own, lost.fate == .lost { unlock(lost) }
    }
    private func carryOut(_ command: SCSICommand) -> SCSIAnswer {
        let start = 512 * Int(command.cdb.number(at: 2, bytes: 4))
        let count = 512 * Int(command.cdb.number(at: 7, bytes: 2))
        guard let unit = units[command.lun.rawValue] else { return SCSIAnswer(status: 2, sense: sense) }
        if random.oneIn(12) { return SCSIAnswer(status: 2, sense: sense) }
        guard command.cdb[0] == 0x2a else {
            let cut = Int.random(in: 0...count, using: &random)
            let (first, rest) = (
                Array(unit[start..<(start + cut)]), Array(unit[(start + cut)..<(start + count)])
            )
            return SCSIAnswer(dataIn: [.data(Payload(copying: first)), .data(Payload(copying: rest))])
        }
        let bytes = command.dataOut.flatMap(\.array)
        let whole = bytes.count / 512 * 512
        units[command.lun.rawValue]?.replaceSubrange(start..<(start + whole), with: bytes[..<whole])
        return SCSIAnswer(wantedOutBytes: count)
    }
    private let sense: [UInt8] = [0x70, 0, 5, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x24, 0, 0, 0, 0, 0]

    // MARK: Effects and bytes

    func act(_ body: (inout [PortalGroup.Effect]) -> Void) {
        var effects: [PortalGroup.Effect] = []
        body(&effects)
        for effect in effects {
            switch effect {
            case .send(let id, let bytes): toInitiator[id.rawValue]? += bytes
            case .sendPayload(let id, let payload): toInitiator[id.rawValue]? += payload.array
            case .pauseReceiving(let id): paused.insert(id.rawValue)
            case .resumeReceiving(let id): paused.remove(id.rawValue)
            case .close(let id, let reason):
                closed.insert(id.rawValue)
                if case .violation(let what) = reason {
                    problems.append("a good initiator was thrown out: \(what)")
                }
            case .nexusBegan(_, let names, _):
                let isid = names.sessionIdentifier
                if running.contains(where: { owners[serial($0.command)]?.1.isid == isid }) {
                    problems.append("a session began while commands of the one before were under way")
                }
            case .nexusEnded(let id):
                ended.insert(id)
                if running.contains(where: { $0.nexus == id }) {
                    problems.append("a nexus ended before its commands")
                }
            case .execute(let id, let command): execute(id, command)
            case .abort(let id): aborting.insert(id)
            case .manage(let id, _, _, _): manages.append(id)
            case .commandsCleared(let id, _):
                if ended.contains(id) { problems.append("a nexus was told of something after its end") }
            case .move: problems.append("a login moved, though nothing is elsewhere")
            case .nexusLeaves(let id): leavers.append(id)
            case .tasksEnded: problems.append("tasks ended that nobody wanted ended")
            }
        }
        let open = running.filter { !aborting.contains($0.id) }
        for nexus in Set(open.map(\.nexus)) {
            let commands = open.filter { $0.nexus == nexus }.map(\.command)
            let bytes = commands.reduce(0) {
                $0 + min($1.expectedInBytes + $1.expectedOutBytes, 512 * Int($1.cdb[8]))
            }
            if commands.count > 1, bytes > limits.inFlightBytesMax {
                problems.append("\(bytes) bytes in flight")
            }
            if commands.count > limits.commandsMax + limits.immediateCommandsMax {
                problems.append("too many in flight")
            }
        }
    }
    func deliver(to initiator: ModelInitiator, _ id: UInt64, all: Bool = false) {
        guard let bytes = toInitiator[id] else { return }
        let count = all ? bytes.count : min(bytes.count, Int.random(in: 1...3000, using: &random))
        toInitiator[id] = Array(bytes[count...])
        initiator.hearsTheClosed = closed.contains(id)
        initiator.hear(Array(bytes[..<count]), on: id, random: &random)
        if !closed.contains(id) {
            act {
                group.drained(ConnectionID(rawValue: id), queuedSendBytes: bytes.count - count, effects: &$0)
            }
        }
        if closed.contains(id), toInitiator[id]?.isEmpty == true { forgetLink(initiator, id) }
    }
    func deliverToTarget(_ initiator: ModelInitiator, _ link: Int) {
        let id = initiator.links[link].id
        guard !paused.contains(id), !closed.contains(id), !initiator.links[link].output.isEmpty else {
            return
        }
        let connection = ConnectionID(rawValue: id)
        var count = min(initiator.links[link].output.count, Int.random(in: 1...5000, using: &random))
        let queued = toInitiator[id]?.count ?? 0
        if random.oneIn(2), let window = group.receiveWindow(of: connection) {
            count = min(count, window.count)
            for index in 0..<count { window[index] = initiator.links[link].output[index] }
            initiator.links[link].output.removeFirst(count)
            act {
                group.received(
                    UnsafeRawBufferPointer(rebasing: window[..<count]), on: connection,
                    queuedSendBytes: queued, effects: &$0)
            }
        } else {
            let bytes = Array(initiator.links[link].output[..<count])
            initiator.links[link].output.removeFirst(count)
            bytes.withUnsafeBytes { piece in
                act { group.received(piece, on: connection, queuedSendBytes: queued, effects: &$0) }
            }
        }
    }
    func connect(_ initiator: ModelInitiator, cid: UInt16? = nil) {
        let id = nextConnection
        nextConnection += 1
        toInitiator[id] = []
        act {
            group.opened(
                ConnectionID(rawValue: id), from: [127, 0, 0, 1],
                randomness: [UInt8](repeating: 1, count: 33), effects: &$0)
        }
        initiator.nextCID += 1
        initiator.logIn(id, cid: cid ?? initiator.nextCID)
    }
    /// The network broke the connection.
    func drop(_ initiator: ModelInitiator, _ id: UInt64) {
        closed.insert(id)
        act { group.lost(ConnectionID(rawValue: id), effects: &$0) }
        forgetLink(initiator, id)
    }
    /// An initiator knows that a connection is gone: it gives the lost numbers up on another, or begins anew.
    private func forgetLink(_ initiator: ModelInitiator, _ id: UInt64) {
        toInitiator[id] = nil
        paused.remove(id)
        guard initiator.index(of: id) != nil else { return }
        initiator.lose(id)
        let open = initiator.readyLinks.first { !closed.contains(initiator.links[$0].id) }
        guard let link = open, !initiator.isLeaving, random.oneIn(2) else {
            for other in initiator.links.map(\.id) {
                closed.insert(other)
                act { group.lost(ConnectionID(rawValue: other), effects: &$0) }
                toInitiator[other] = nil
                paused.remove(other)
                initiator.lose(other)
            }
            return initiator.startOver()
        }
        // Those that an earlier function gave up may be missing still, if its connection was lost too.
        initiator.gaps.removeAll { Int32(truncatingIfNeeded: $0 &- initiator.expCmdSN) < 0 }
        for number in initiator.gaps { initiator.manage(1, on: link, lun: 0, gap: number) }
    }
}
