import BlockTypes
import Fuzzing
import SCSIBoundary

@testable import SCSICommands

/// SCSI alone: a program of its own, so that its branches cost the other targets nothing.
@c(curve_fuzz_scsi_main) public func fuzzMain(_ count: CInt, _ arguments: UnsafeMutableRawPointer?) -> CInt {
    let targets = [
        FuzzTarget(name: "scsi-cdbs", feed: feedCommand),
        FuzzTarget(name: "scsi-commands", feed: feedCommands),
    ]
    return runFuzzer(targets, count, arguments)
}

/// How units differ, and how many ways there are.
private let kinds = 32
/// Small, like the steps of long commands: bytes that are copied find nothing.
private let volumeBytes: UInt64 = 256 << 10

/// Two units of a kind over volumes that have nothing stored, and two initiators that have done nothing yet.
private func target(kind: Int) -> Target {
    var configuration = TargetConfiguration(name: "t", groups: [PortGroup(tag: 1), PortGroup(tag: 2)])
    (configuration.limits.stepBytesMax, configuration.limits.tasksMax) = (16 << 10, 32)
    var target = Target(configuration)
    var effects: [Target.Effect] = []
    for number in 0..<2 {
        let lun = UInt16(number)
        var unit = UnitConfiguration(
            lun: lun, blockBytes: kind & 1 == 0 ? 512 : 4096,
            identifier: [0x60] + [UInt8](repeating: 0, count: 14) + [UInt8(lun)], serial: "s")
        (unit.isThin, unit.isRemovable) = (kind & 2 == 0, kind & 4 == 0)
        (unit.atomicBytes, unit.hasWriteCache) = (kind & 8 == 0 ? 65_536 : 0, kind & 16 == 0)
        target.step(
            .unitAdded(UnitNumber(rawValue: number), unit, ByteCount(bytes: volumeBytes), ReservationTable()),
            effects: &effects)
    }
    for number: UInt64 in 1...2 {
        let names = Nexus(
            initiatorName: "i\(number)", sessionIdentifier: number, targetName: "t", portalGroupTag: 1)
        let functions: Set<ManagementFunction> = number == 1 ? [.abortTask] : [.abortTask, .queryTask]
        target.step(
            .nexusBegan(NexusID(rawValue: number), names, functions: functions), effects: &effects)
    }
    return target
}

/// One of each kind; every input gets a copy.
private let fresh = (0..<kinds).map { UnitGate(target(kind: $0)) }

/// A target with all that is around it: a keeper of reservations, volumes that answer when they are told to.
private struct UnitGate {
    var target: Target
    var held: [(token: VolumeToken, request: VolumeRequest)] = []
    /// In the order in which they came.
    var open: [TaskID] = []
    var tables: [UnitNumber: ReservationTable] = [:]
    var sent: UInt64 = 0
    /// What the first unit was called last while it had a volume.
    private var first = UnitNumber(rawValue: 0)
    private var spare: [[Target.Effect]] = []

    init(_ target: Target) { self.target = target }

    mutating func step(_ event: Target.Event) {
        var effects = spare.popLast() ?? []
        target.step(event, effects: &effects)
        for effect in effects {
            switch effect {
            case .submit(let token, let request):
                require(isInside(request), "a request outside of the volume")
                held.append((token, request))
            case .answer(let task, let answer):
                require(close(task), "an answer to a command that has one")
                require(answer.sense.count <= 252, "sense data of \(answer.sense.count) bytes")
            case .aborted(let task): require(close(task), "an abort of a command that has ended")
            case .managed, .unitGone, .nexusReleased, .reservationsSettled, .endSessions, .reportSanitize:
                break
            case .endTasks(let unit, let version): step(.tasksEnded(unit, version: version))
            case .storeReservations(let unit, let version, let table):
                require((tables[unit] ?? ReservationTable()).version == version, "an outdated table")
                tables[unit] = table
                step(.reservationsStored(unit, .stored))
            case .setGroups(let task, _): step(.groupsSet(task, isDone: true))
            }
        }
        effects.removeAll(keepingCapacity: true)
        spare.append(effects)
    }
    private mutating func close(_ task: TaskID) -> Bool {
        guard let index = open.firstIndex(of: task) else { return false }
        open.remove(at: index)
        return true
    }
    private func isInside(_ request: VolumeRequest) -> Bool {
        switch request {
        case .read(let start, let count): start.bytes + UInt64(count) <= volumeBytes
        case .write(let start, let payloads), .compareAndWrite(let start, _, let payloads):
            start.bytes + UInt64(payloads.reduce(0) { $0 + $1.byteCount }) <= volumeBytes
        case .trim(let start, let length), .writeZeroes(let start, let length),
            .blockStatus(let start, let length):
            start.bytes + length.bytes <= volumeBytes && length.bytes > 0
        case .flush: true
        }
    }
    mutating func send(_ cdb: [UInt8], _ data: Payload, nexus: Int, lun: UInt64) {
        sent += 1
        let task = TaskID(slot: Int(sent), generation: sent)
        let address = LUN(rawValue: lun << 48)
        let wanted = target.transferSizes(address, cdb: CDB(cdb)).outBytes
        open.append(task)
        step(
            .execute(
                task,
                SCSICommand(
                    nexus: NexusID(rawValue: UInt64(nexus) + 1), lun: address, cdb: CDB(cdb),
                    attribute: .simple, expectedInBytes: 4096, expectedOutBytes: data.byteCount,
                    dataOut: min(data.byteCount, wanted) == 0
                        ? [] : [data.slice(0, min(data.byteCount, wanted))])))
    }
    /// The volume of the first unit goes away, or comes back with the reservations that the keeper has.
    mutating func toggle() {
        let (unit, size) = (target.units[0], ByteCount(bytes: volumeBytes))
        let next = UnitNumber(rawValue: unit.number.rawValue + 2)
        guard unit.isSuspended else {
            first = unit.number
            return step(.unitSuspended(unit.number, as: next))
        }
        tables[next] = tables[first]
        step(.unitAdded(next, unit.configuration, size, tables[first] ?? ReservationTable()))
    }
    mutating func completeOne(_ index: Int) {
        guard !held.isEmpty else { return }
        let next = held.remove(at: index % held.count)
        let result: VolumeResult =
            switch next.request {
            case .read(_, let count): .success([.zeroes(count)])
            case .blockStatus(_, let length): .success([.zeroes(Int(length.bytes))])
            default: index % 7 == 6 ? .failure(.noSpace) : .success([])
            }
        step(.volumeCompleted(next.token, result))
    }
    /// All commands come to their end: a long one takes a step for each.
    mutating func end() {
        var turn = 0
        while !held.isEmpty, turn < 100_000 {
            completeOne(turn % 5)
            turn += 1
        }
        require(open.isEmpty, "a command without an answer")
        for unit in target.units {
            guard let table = tables[unit.number] else { continue }
            require(unit.reservations == table, "a unit goes by another table than the keeper's")
            require(
                (try? ReservationTable(decoding: table.encoded)) == table, "a table that cannot be read")
        }
        require(target.units.allSatisfy { $0.tasks.taskCount == 0 && $0.locks.isEmpty }, "something is left")
    }
}

/// Blocks of one byte, since libFuzzer would not make so many.
private let ones = Payload(copying: [UInt8](repeating: 1, count: 1 << 16))

/// Commands one after the other: where to, sixteen bytes, and data that are as long as two bytes say.
private func feedCommands(_ input: [UInt8]) {
    guard let first = input.first else { return }
    var gate = fresh[Int(first) % kinds]
    var start = 1
    while start + 19 <= input.count {
        let steering = Int(input[start])
        let cdb = Array(input[(start + 1)..<(start + 17)])
        let length = Int(input[start + 17]) << 8 | Int(input[start + 18])
        start += 19
        var data = ones.slice(0, length)
        if steering & 32 == 0 {
            let end = min(start + length, input.count)
            data = Payload(copying: Array(input[start..<end]))
            start = end
        }
        gate.send(cdb, data, nexus: steering & 1, lun: UInt64(steering >> 1 & 3) % 3)
        if steering & 8 == 0 { gate.completeOne(steering) }
        if steering & 16 == 16, let task = gate.open.first { gate.step(.abort(task)) }
        if steering & 64 == 64 {
            let function = ManagementFunction(rawValue: UInt8(steering >> 1 & 7) + 2) ?? .abortTask
            gate.step(
                .manage(
                    ManagementID(rawValue: gate.sent), function, NexusID(rawValue: 1), LUN(rawValue: 0)))
        }
        if steering & 128 == 128 { gate.toggle() }
    }
    gate.end()
}

/// The same where both initiators have been told that the target is new; then with their keys 1 and 2 known,
/// and with a reservation of the first and of the second.
private let prepared = fresh.map { gate in
    var gate = gate
    func reserve(_ action: UInt8, nexus: Int, key: UInt8, new: UInt8) {
        let list = [UInt8](repeating: 0, count: 7) + [key] + [UInt8](repeating: 0, count: 7) + [new]
        let cdb = [0x5f, action, 1, 0, 0, 0, 0, 0, 24, 0] + [UInt8](repeating: 0, count: 6)
        let data = Payload(copying: list + [UInt8](repeating: 0, count: 8))
        gate.send(cdb, data, nexus: nexus, lun: 0)
    }
    for nexus in 0..<2 {
        for lun: UInt64 in 0..<2 {
            for _ in 0..<4 {
                gate.send([UInt8](repeating: 0, count: 16), ones.slice(0, 0), nexus: nexus, lun: lun)
            }
        }
    }
    var states = [gate]
    for nexus in 0..<2 { reserve(0, nexus: nexus, key: 0, new: UInt8(nexus + 1)) }
    states.append(gate)
    for nexus in 0..<2 {
        let known = gate
        reserve(1, nexus: nexus, key: UInt8(nexus + 1), new: 0)
        require(gate.target.units[0].reservations.holding != nil, "a proper reservation fails")
        states.append(gate)
        gate = known
    }
    return states
}

/// One command to units in a known state: its CDB, and all that follows is its data. The length of a
/// parameter list is made right but for some.
private func feedCommand(_ input: [UInt8]) {
    guard input.count >= 18 else { return }
    let (kind, steering) = (Int(input[0]) % kinds, Int(input[1]))
    var cdb = Array(input[2..<18])
    let data = steering & 1 == 0 ? Payload(copying: Array(input[18...])) : ones
    if steering & 2 == 0, let row = CommandTable.row(CDB(cdb)),
        case .parameters(let at, let bytes) = row.transfer
    {
        for index in 0..<bytes {
            cdb[at + index] = UInt8(truncatingIfNeeded: data.byteCount >> (8 * (bytes - 1 - index)))
        }
    }
    var gate = prepared[kind][steering >> 2 & 3]
    gate.send(cdb, data, nexus: steering >> 4 & 1, lun: UInt64(steering >> 5 & 3) % 3)
    gate.end()
}
