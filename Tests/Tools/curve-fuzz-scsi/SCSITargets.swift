import BlockTypes
import Fuzzing
import SCSIBoundary

@testable import SCSICommands

/// SCSI alone: a program of its own, so that its branches cost the other targets nothing.
@c(curve_fuzz_scsi_main) public func fuzzMain(_ count: CInt, _ arguments: UnsafeMutableRawPointer?) -> CInt {
    runFuzzer([FuzzTarget(name: "scsi-commands", feed: feedCommands)], count, arguments)
}

/// Two units over volumes that have nothing stored, a keeper of reservations, two initiators.
private final class UnitGate {
    var target: Target
    var held: [(token: VolumeToken, request: VolumeRequest)] = []
    var open: Set<TaskID> = []
    var tables: [UnitNumber: ReservationTable] = [:]
    var sent: UInt64 = 0

    init(steering: Int) {
        var configuration = TargetConfiguration(name: "t", groups: [PortGroup(tag: 1), PortGroup(tag: 2)])
        (configuration.limits.stepBytesMax, configuration.limits.tasksMax) = (64 << 10, 32)
        target = Target(configuration)
        for number in 0..<2 {
            let lun = UInt16(number)
            var unit = UnitConfiguration(
                lun: lun, blockBytes: steering & 1 == 0 ? 512 : 4096,
                identifier: [0x60] + [UInt8](repeating: 0, count: 14) + [UInt8(lun)], serial: "s")
            (unit.isThin, unit.isRemovable) = (steering & 2 == 0, steering & 4 == 0)
            (unit.atomicBytes, unit.hasWriteCache) = (steering & 8 == 0 ? 65_536 : 0, steering & 16 == 0)
            step(
                .unitAdded(
                    UnitNumber(rawValue: number), unit, ByteCount(bytes: 1 << 20), ReservationTable()))
        }
        for number: UInt64 in 1...2 {
            step(
                .nexusBegan(
                    NexusID(rawValue: number),
                    Nexus(
                        initiatorName: "i\(number)", sessionIdentifier: number, targetName: "t",
                        portalGroupTag: 1)))
        }
    }
    func step(_ event: Target.Event) {
        var effects: [Target.Effect] = []
        target.step(event, effects: &effects)
        for effect in effects {
            switch effect {
            case .submit(let token, let request):
                require(isInside(request), "a request outside of the volume")
                held.append((token, request))
            case .answer(let task, let answer):
                require(open.remove(task) != nil, "an answer to a command that has one")
                require(answer.sense.count <= 252, "sense data of \(answer.sense.count) bytes")
            case .aborted(let task): require(open.remove(task) != nil, "an abort of a command that has ended")
            case .managed, .unitGone, .nexusReleased, .reservationsSettled, .endSessions: break
            case .endTasks(let unit, let version): step(.tasksEnded(unit, version: version))
            case .storeReservations(let unit, let version, let table):
                require((tables[unit] ?? ReservationTable()).version == version, "an outdated table")
                require(
                    (try? ReservationTable(decoding: table.encoded)) == table, "a table that cannot be read")
                tables[unit] = table
                step(.reservationsStored(unit, .stored))
            case .setGroups(let task, _): step(.groupsSet(task, isDone: true))
            }
        }
    }
    private func isInside(_ request: VolumeRequest) -> Bool {
        switch request {
        case .read(let start, let count): start.bytes + UInt64(count) <= 1 << 20
        case .write(let start, let payloads), .compareAndWrite(let start, _, let payloads):
            start.bytes + UInt64(payloads.reduce(0) { $0 + $1.byteCount }) <= 1 << 20
        case .trim(let start, let length), .writeZeroes(let start, let length),
            .blockStatus(let start, let length):
            start.bytes + length.bytes <= 1 << 20 && length.bytes > 0
        case .flush: true
        }
    }
    func send(_ cdb: [UInt8], _ data: [UInt8], nexus: Int, lun: UInt64) {
        sent += 1
        let task = TaskID(slot: Int(sent), generation: sent)
        let address = LUN(rawValue: lun << 48)
        let wanted = target.transferSizes(address, cdb: cdb).outBytes
        let kept = Array(data.prefix(wanted))
        open.insert(task)
        step(
            .execute(
                task,
                SCSICommand(
                    nexus: NexusID(rawValue: UInt64(nexus) + 1), lun: address, cdb: cdb, attribute: .simple,
                    expectedInBytes: 4096, expectedOutBytes: data.count,
                    dataOut: kept.isEmpty ? [] : [Payload(copying: kept)])))
    }
    func completeOne(_ index: Int) {
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
}

/// Commands one after the other: where to, sixteen bytes, and data that are as long as two bytes say; some
/// data are blocks of one byte, since libFuzzer would not make so many.
private func feedCommands(_ input: [UInt8]) {
    var bytes = input
    let gate = UnitGate(steering: bytes.takeByte())
    var rest = bytes[...]
    while rest.count >= 19 {
        let steering = Int(rest.removeFirst())
        let cdb = Array(rest.prefix(16))
        rest = rest.dropFirst(16)
        let length = Int(rest.removeFirst()) << 8 | Int(rest.removeFirst())
        var data = Array(rest.prefix(min(length, rest.count)))
        if steering & 32 == 0 {
            rest = rest.dropFirst(data.count)
        } else {
            data = [UInt8](repeating: 1, count: length)
        }
        gate.send(cdb, data, nexus: steering & 1, lun: UInt64(steering >> 1 & 3) % 3)
        if steering & 8 == 0 { gate.completeOne(steering) }
        if steering & 16 == 16, let task = gate.open.min(by: { $0.generation < $1.generation }) {
            gate.step(.abort(task))
        }
        if steering & 64 == 64 {
            let function = ManagementFunction(rawValue: UInt8(steering >> 1 & 7) + 2) ?? .abortTask
            gate.step(
                .manage(
                    ManagementID(rawValue: gate.sent), function, NexusID(rawValue: 1), LUN(rawValue: 0)))
        }
    }
    // A long command takes a step for each.
    for turn in 0..<100_000 where !gate.held.isEmpty { gate.completeOne(turn % 5) }
    require(gate.open.isEmpty, "a command without an answer")
    require(gate.target.units.allSatisfy { $0.taskCount == 0 && $0.locks.isEmpty }, "something is left")
}
