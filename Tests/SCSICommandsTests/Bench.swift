import BlockTypes
import SCSIBoundary

@testable import SCSICommands

/// A volume in memory that knows which of its 4 KiB blocks are stored.
final class ModelVolume {
    var bytes: [UInt8]
    var stored: [Bool]
    var requests: [String] = []
    var failure: VolumeError?
    /// The failure strikes only requests that change something.
    var failsWritesOnly = false

    init(byteCount: Int) {
        bytes = [UInt8](repeating: 0, count: byteCount)
        stored = [Bool](repeating: false, count: byteCount / 4096)
    }
    func resize(_ byteCount: Int) {
        bytes += [UInt8](repeating: 0, count: max(0, byteCount - bytes.count))
        stored += [Bool](repeating: false, count: max(0, byteCount / 4096 - stored.count))
    }
    func perform(_ request: VolumeRequest) -> VolumeResult {
        switch request {
        case .read(let start, let count):
            requests.append("read \(start.bytes)+\(count)")
            if let failure, !failsWritesOnly { return .failure(failure) }
            return read(Int(start.bytes), count)
        case .write(let start, let payloads):
            let data = payloads.flatMap(\.array)
            requests.append("write \(start.bytes)+\(data.count)")
            if let failure { return .failure(failure) }
            guard Int(start.bytes) + data.count <= bytes.count else { return .failure(.outOfRange) }
            bytes.replaceSubrange(Int(start.bytes)..<(Int(start.bytes) + data.count), with: data)
            for block in blocks(Int(start.bytes), data.count) { stored[block] = true }
            return .success([])
        case .trim(let start, let length), .writeZeroes(let start, let length):
            let isTrim = if case .trim = request { true } else { false }
            requests.append("\(isTrim ? "trim" : "zero") \(start.bytes)+\(length.bytes)")
            if let failure { return .failure(failure) }
            return clear(Int(start.bytes), Int(length.bytes))
        case .flush:
            requests.append("flush")
            if let failure { return .failure(failure) }
            return .success([])
        case .compareAndWrite(let start, let expected, let new):
            let (wanted, data) = (expected.flatMap(\.array), new.flatMap(\.array))
            requests.append("compare and write \(start.bytes)+\(data.count)")
            if let failure { return .failure(failure) }
            let run = Int(start.bytes)..<(Int(start.bytes) + data.count)
            guard run.upperBound <= bytes.count else { return .failure(.outOfRange) }
            if let byte = zip(bytes[run], wanted).enumerated().first(where: { $1.0 != $1.1 })?.offset {
                return .failure(.miscompare(atByte: byte))
            }
            bytes.replaceSubrange(run, with: data)
            for block in blocks(Int(start.bytes), data.count) { stored[block] = true }
            return .success([])
        case .blockStatus(let start, let length):
            return .success(status(Int(start.bytes), Int(length.bytes)))
        }
    }
    private func blocks(_ start: Int, _ count: Int) -> Range<Int> {
        count == 0 ? 0..<0 : (start / 4096)..<((start + count - 1) / 4096 + 1)
    }
    private func read(_ start: Int, _ count: Int) -> VolumeResult {
        guard start + count <= bytes.count else { return .failure(.outOfRange) }
        var segments: [ReadSegment] = []
        var at = start
        while at < start + count {
            let end = min(start + count, (at / 4096 + 1) * 4096)
            segments.append(
                stored[at / 4096]
                    ? .data(Payload(copying: Array(bytes[at..<end]))) : .zeroes(end - at))
            at = end
        }
        return .success(segments)
    }
    private func clear(_ start: Int, _ count: Int) -> VolumeResult {
        guard start + count <= bytes.count else { return .failure(.outOfRange) }
        bytes.replaceSubrange(start..<(start + count), with: repeatElement(0, count: count))
        for block in blocks(start, count) where block * 4096 >= start && (block + 1) * 4096 <= start + count {
            stored[block] = false
        }
        return .success([])
    }
    private func status(_ start: Int, _ count: Int) -> [ReadSegment] {
        var segments: [ReadSegment] = []
        var at = start
        while at < start + count {
            let end = min(start + count, (at / 4096 + 1) * 4096)
            segments.append(stored[at / 4096] ? .stored(end - at) : .zeroes(end - at))
            at = end
        }
        return segments
    }
}

/// Keeps reservation tables for all gateways, as the cluster will.
final class ModelKeeper {
    var tables: [UnitNumber: ReservationTable] = [:]
    var gateways: [Bench] = []
    /// Lets every so many offers fail.
    var failsEvery = 0
    private var offers = 0

    func store(_ unit: UnitNumber, replacing: UInt64, _ table: ReservationTable) -> ReservationStoring {
        offers += 1
        if failsEvery > 0, offers % failsEvery == 0 { return .failed }
        let now = tables[unit] ?? ReservationTable()
        guard now.version == replacing else { return .outdated(now) }
        tables[unit] = table
        return .stored
    }
}

/// What a command came to.
struct Reply: Equatable {
    var status: UInt8
    var data: [UInt8] = []
    var sense: [UInt8] = []
    var wantedOut: Int?
    var qualifier: UInt16 = 0
    /// Key, code, qualifier, in one number: 0x052400 for an invalid field in the CDB.
    var code: Int {
        guard sense.count >= 4 else { return 0 }
        if sense[0] & 0x7f >= 0x72 { return Int(sense[1]) << 16 | Int(sense[2]) << 8 | Int(sense[3]) }
        return Int(sense[2] & 0xf) << 16 | Int(sense[12]) << 8 | Int(sense[13])
    }
    var information: Int? {
        guard sense.count >= 8, sense[0] & 0x80 != 0 else { return nil }
        return Int(sense.word(at: 3))
    }
}

/// One gateway with model volumes and initiators.
final class Bench {
    var target: Target
    let keeper: ModelKeeper
    var volumes: [UnitNumber: ModelVolume]
    var answers: [TaskID: SCSIAnswer] = [:]
    var aborted: Set<TaskID> = []
    var outcomes: [ManagementID: ManagementOutcome] = [:]
    var goneUnits: [UnitNumber] = []
    /// Commands without an answer, with their LUN, in the order in which they came.
    private var open: [(task: TaskID, lun: Int)] = []
    /// Units whose commands are being ended, with those that are left.
    private var endings: [(unit: UnitNumber, version: UInt64, left: [TaskID])] = []
    /// By unit, what was said to be settled last.
    var settled: [UnitNumber: UInt64] = [:]
    var released: [NexusID] = []
    /// How far it was with sanitizing.
    var reports: [UInt16] = []
    /// How often another gateway's reset ended all sessions.
    var endedSessions = 0
    /// Requests wait here instead of being done at once.
    var holds = false
    var held: [(token: VolumeToken, request: VolumeRequest)] = []
    var holdsKeeper = false
    var heldTables: [(UnitNumber, UInt64, ReservationTable)] = []
    private var taskCount: UInt64 = 0
    private var functionCount: UInt64 = 0
    let blockBytes: Int
    let tag: UInt16

    static let unitBytes = 1 << 20
    static let one = NexusID(rawValue: 1)
    static let two = NexusID(rawValue: 2)
    static let three = NexusID(rawValue: 3)

    init(
        tag: UInt16 = 1, keeper: ModelKeeper = ModelKeeper(), volumes: [UnitNumber: ModelVolume] = [:],
        units: Int = 1, limits: SCSILimits = SCSILimits(), clearsAttentions: Bool = true,
        _ change: (inout UnitConfiguration) -> Void = { _ in }
    ) {
        var configuration = TargetConfiguration(
            name: "iqn.2026-01.test:t1", groups: [PortGroup(tag: 1), PortGroup(tag: 2)])
        configuration.limits = limits
        target = Target(configuration)
        (self.keeper, self.tag) = (keeper, tag)
        self.volumes = volumes
        var probe = Self.configuration(lun: 0)
        change(&probe)
        blockBytes = probe.blockBytes
        keeper.gateways.append(self)
        for number in 0..<units {
            var unit = Self.configuration(lun: UInt16(number))
            change(&unit)
            let id = UnitNumber(rawValue: number)
            if self.volumes[id] == nil { self.volumes[id] = ModelVolume(byteCount: Self.unitBytes) }
            step(
                .unitAdded(
                    id, unit, ByteCount(bytes: UInt64(self.volumes[id]?.bytes.count ?? 0)),
                    ReservationTable()))
        }
        for nexus in [Self.one, Self.two, Self.three] {
            step(.nexusBegan(nexus, names(nexus), functions: Self.functions(nexus)))
            guard clearsAttentions else { continue }
            for lun in 0..<units { _ = run([0, 0, 0, 0, 0, 0], nexus, lun: lun) }
        }
    }
    static func configuration(lun: UInt16) -> UnitConfiguration {
        UnitConfiguration(
            lun: lun, identifier: [0x60] + [UInt8](repeating: 7, count: 14) + [UInt8(lun)],
            serial: "serial-\(lun)")
    }
    /// The third initiator speaks a transport without the newer functions.
    static func functions(_ nexus: NexusID) -> Set<ManagementFunction> {
        let basic: Set<ManagementFunction> = [
            .abortTask, .abortTaskSet, .clearTaskSet, .logicalUnitReset, .targetWarmReset, .targetColdReset,
        ]
        guard nexus != three else { return basic }
        return basic.union([.queryTask, .queryTaskSet, .queryAsynchronousEvent, .nexusReset])
    }
    func names(_ nexus: NexusID) -> Nexus {
        Nexus(
            initiatorName: "iqn.2026-01.test:i\(nexus.rawValue)", sessionIdentifier: nexus.rawValue,
            targetName: "iqn.2026-01.test:t1", portalGroupTag: tag)
    }
    var volume: ModelVolume { volumes[UnitNumber(rawValue: 0)] ?? ModelVolume(byteCount: 0) }
    var blocks: Int { volume.bytes.count / blockBytes }

    func step(_ event: Target.Event) {
        var effects: [Target.Effect] = []
        target.step(event, effects: &effects)
        for effect in effects { perform(effect) }
    }
    private func perform(_ effect: Target.Effect) {
        switch effect {
        case .submit(let token, let request):
            if holds { held.append((token, request)) } else { complete(token, request) }
        case .answer(let task, let answer):
            precondition(answers[task] == nil && !aborted.contains(task), "two answers")
            answers[task] = answer
            ended(task)
        case .aborted(let task):
            precondition(answers[task] == nil && !aborted.contains(task), "two answers")
            aborted.insert(task)
            ended(task)
        case .managed(let id, let outcome): outcomes[id] = outcome
        case .unitGone(let unit): goneUnits.append(unit)
        case .nexusReleased(let nexus): released.append(nexus)
        case .endSessions: endedSessions += 1
        case .reportSanitize(let unit, let progress):
            reports.append(progress)
            for other in keeper.gateways where other !== self {
                other.step(.sanitizeReported(unit, progress))
            }
        case .reservationsSettled(let unit, let version):
            precondition(version > settled[unit] ?? 0, "settled twice")
            settled[unit] = version
        case .endTasks(let unit, let version): endTasks(of: unit, version)
        case .storeReservations(let unit, let replacing, let table):
            if holdsKeeper {
                heldTables.append((unit, replacing, table))
            } else {
                store(unit, replacing, table)
            }
        case .setGroups(let task, let groups):
            var all = [PortGroup(tag: 1), PortGroup(tag: 2)]
            for group in groups { all[Int(group.tag) - 1] = group }
            step(.groupsChanged(all))
            step(.groupsSet(task, isDone: true))
        }
    }
    /// As the transport does it.
    private func endTasks(of unit: UnitNumber, _ version: UInt64) {
        let tasks = open.filter { $0.lun == unit.rawValue }.map(\.task)
        endings.append((unit, version, tasks))
        for task in tasks where open.contains(where: { $0.task == task }) { step(.abort(task)) }
        tellEnded()
    }
    private func ended(_ task: TaskID) {
        open.removeAll { $0.task == task }
        for index in endings.indices { endings[index].left.removeAll { $0 == task } }
        tellEnded()
    }
    private func tellEnded() {
        while let index = endings.firstIndex(where: { $0.left.isEmpty }) {
            let ending = endings.remove(at: index)
            step(.tasksEnded(ending.unit, version: ending.version))
        }
    }
    func store(_ unit: UnitNumber, _ replacing: UInt64, _ table: ReservationTable) {
        let outcome = keeper.store(unit, replacing: replacing, table)
        step(.reservationsStored(unit, outcome))
        guard outcome == .stored else { return }
        // One that does not know yet whether its own offer was taken hears of this with the answer.
        for other in keeper.gateways where other !== self && other.heldTables.isEmpty {
            other.step(.reservationsChanged(unit, table))
        }
    }
    func complete(_ token: VolumeToken, _ request: VolumeRequest) {
        guard let volume = volumes[token.unit] else { return }
        step(.volumeCompleted(token, volume.perform(request)))
    }
    func completeHeld(_ index: Int = 0) {
        let next = held.remove(at: index)
        complete(next.token, next.request)
    }

    /// Sends a command and says which one it was.
    func send(
        _ cdb: [UInt8], _ nexus: NexusID = Bench.one, out: [UInt8] = [], lun: Int = 0, offered: Int? = nil,
        lunBytes: UInt64? = nil
    ) -> TaskID {
        taskCount += 1
        let task = TaskID(slot: Int(taskCount % 64), generation: taskCount)
        let address = LUN(rawValue: lunBytes ?? UInt64(lun) << 48)
        let wanted = target.transferSizes(address, cdb: CDB(cdb))
        let kept = Array(out.prefix(wanted.outBytes))
        open.append((task, lun))
        step(
            .execute(
                task,
                SCSICommand(
                    nexus: nexus, lun: address, cdb: CDB(cdb), attribute: .simple, expectedInBytes: 1 << 20,
                    expectedOutBytes: offered ?? out.count, dataOut: kept.isEmpty ? [] : [Self.payload(kept)])
            ))
        return task
    }
    /// As `Payload(copying:)`, in one go: tests run unoptimized.
    private static func payload(_ bytes: [UInt8]) -> Payload {
        let buffer = BlockBuffer(byteCount: bytes.count)
        bytes.withUnsafeBytes { buffer.bytes.copyMemory(from: $0) }
        return Payload(buffer, byteCount: bytes.count)
    }
    func reply(_ task: TaskID) -> Reply? {
        guard let answer = answers[task] else { return nil }
        var data: [UInt8] = []
        for segment in answer.dataIn {
            switch segment {
            case .data(let payload): data += payload.array
            case .zeroes(let count), .stored(let count): data += [UInt8](repeating: 0, count: count)
            }
        }
        return Reply(
            status: answer.status, data: data, sense: answer.sense, wantedOut: answer.wantedOutBytes,
            qualifier: answer.statusQualifier)
    }
    /// Sends a command that ends at once.
    func run(
        _ cdb: [UInt8], _ nexus: NexusID = Bench.one, out: [UInt8] = [], lun: Int = 0, offered: Int? = nil,
        lunBytes: UInt64? = nil
    ) -> Reply {
        let task = send(cdb, nexus, out: out, lun: lun, offered: offered, lunBytes: lunBytes)
        return reply(task) ?? Reply(status: 0xff)
    }
    func manage(_ function: ManagementFunction, _ nexus: NexusID = Bench.one, lun: Int = 0)
        -> ManagementOutcome?
    {
        functionCount += 1
        let id = ManagementID(rawValue: functionCount)
        step(.manage(id, function, nexus, LUN(rawValue: UInt64(lun) << 48)))
        return outcomes[id]
    }
    func pattern(_ byte: UInt8, blocks: Int = 1) -> [UInt8] {
        [UInt8](repeating: byte, count: blocks * blockBytes)
    }
}

/// CDBs by their fields.
enum Make {
    static func ten(_ opcode: UInt8, _ block: Int, _ count: Int, flags: UInt8 = 0) -> [UInt8] {
        var cdb: [UInt8] = [opcode, flags]
        cdb.append(bigEndian: UInt32(truncatingIfNeeded: block))
        cdb.append(0)
        cdb.append(bigEndian: UInt16(truncatingIfNeeded: count))
        return cdb + [0]
    }
    static func twelve(_ opcode: UInt8, _ block: Int, _ count: Int, flags: UInt8 = 0) -> [UInt8] {
        var cdb: [UInt8] = [opcode, flags]
        cdb.append(bigEndian: UInt32(truncatingIfNeeded: block))
        cdb.append(bigEndian: UInt32(truncatingIfNeeded: count))
        return cdb + [0, 0]
    }
    static func sixteen(_ opcode: UInt8, _ block: Int, _ count: Int, flags: UInt8 = 0) -> [UInt8] {
        var cdb: [UInt8] = [opcode, flags]
        cdb.append(bigEndian: UInt64(bitPattern: Int64(block)))
        cdb.append(bigEndian: UInt32(truncatingIfNeeded: count))
        return cdb + [0, 0]
    }
    static func compare(_ block: Int, _ count: Int, flags: UInt8 = 0) -> [UInt8] {
        var cdb: [UInt8] = [0x89, flags]
        cdb.append(bigEndian: UInt64(block))
        return cdb + [0, 0, 0, UInt8(count), 0, 0]
    }
    static func atomic(_ block: Int, _ count: Int, boundary: Int = 0) -> [UInt8] {
        var cdb: [UInt8] = [0x9c, 0]
        cdb.append(bigEndian: UInt64(block))
        cdb.append(bigEndian: UInt16(boundary))
        cdb.append(bigEndian: UInt16(count))
        return cdb + [0, 0]
    }
    static func unmap(_ runs: [(Int, Int)], flags: UInt8 = 0) -> (cdb: [UInt8], list: [UInt8]) {
        var list: [UInt8] = []
        list.append(bigEndian: UInt16(truncatingIfNeeded: 6 + 16 * runs.count))
        list.append(bigEndian: UInt16(truncatingIfNeeded: 16 * runs.count))
        list += [0, 0, 0, 0]
        for (block, count) in runs {
            list.append(bigEndian: UInt64(block))
            list.append(bigEndian: UInt32(count))
            list += [0, 0, 0, 0]
        }
        var cdb: [UInt8] = [0x42, flags, 0, 0, 0, 0, 0]
        cdb.append(bigEndian: UInt16(list.count))
        return (cdb + [0], list)
    }
    static func inquiry(page: UInt8? = nil, bytes: Int = 255) -> [UInt8] {
        [0x12, page == nil ? 0 : 1, page ?? 0, UInt8(bytes >> 8), UInt8(bytes & 0xff), 0]
    }
    static func reserveOut(
        _ action: UInt8, type: UInt8 = 0, key: UInt64 = 0, actionKey: UInt64 = 0, flags: UInt8 = 0
    ) -> (cdb: [UInt8], list: [UInt8]) {
        var list: [UInt8] = []
        list.append(bigEndian: key)
        list.append(bigEndian: actionKey)
        list += [0, 0, 0, 0, flags, 0, 0, 0]
        return ([0x5f, action, type, 0, 0, 0, 0, 0, 24, 0], list)
    }
    static func reserveIn(_ action: UInt8) -> [UInt8] { [0x5e, action, 0, 0, 0, 0, 0, 1, 0, 0] }
    static func opcodes(_ option: UInt8, _ opcode: UInt8 = 0, _ action: Int = 0) -> [UInt8] {
        [0xa3, 0x0c, option, opcode, UInt8(action >> 8), UInt8(action & 0xff), 0, 0, 0x20, 0, 0, 0]
    }
}
