import BlockTypes
import SCSIBoundary

/// The logical units of one target at one gateway: SCSI between a transport and volumes.
///
/// Events in, effects out. Every `execute` is answered once, or aborted once after `abort` asked for it.
/// Between `submit` and `volumeCompleted` the volume has the request; it may answer in any order. What the
/// cluster must agree on (reservations, port groups) goes out as an effect and counts when it comes back.
public struct Target: Sendable {
    /// What happened.
    public enum Event: Sendable {
        /// A command with all its data.
        case execute(TaskID, SCSICommand)
        /// Take a command back if that is still possible.
        case abort(TaskID)
        /// A task management function whose tasks have ended. LUN 0 with a function of the whole target.
        case manage(ManagementID, ManagementFunction, NexusID, LUN)
        /// An initiator is here, whose transport answers these task management functions.
        case nexusBegan(NexusID, Nexus, functions: Set<ManagementFunction>)
        /// It is gone, and its commands have ended.
        case nexusEnded(NexusID)
        /// Commands of this initiator for this LUN were ended by its transport, and it is still here.
        case commandsCleared(NexusID, LUN)
        /// It is about to go, and waits for ``Effect/nexusReleased(_:)``.
        case nexusLeaves(NexusID)
        /// What ``Effect/endTasks(_:version:)`` asked for is done.
        case tasksEnded(UnitNumber, version: UInt64)
        /// A volume has answered.
        case volumeCompleted(VolumeToken, VolumeResult)
        /// There is a new logical unit, or a suspended one is back, with the reservations that the cluster
        /// knows.
        case unitAdded(UnitNumber, UnitConfiguration, ByteCount, ReservationTable)
        /// It is gone for initiators; what it has begun it ends.
        case unitRemoved(UnitNumber)
        /// Its volume is away, and is to come back: what it has begun it ends, and until a unit of this LUN
        /// is added one without a volume stands for it, under a number of its own.
        case unitSuspended(UnitNumber, as: UnitNumber)
        /// Others may see the unit or write to it.
        case accessChanged(UnitNumber, UnitAccess?)
        /// The volume has another size.
        case resized(UnitNumber, ByteCount)
        /// The pool below is filling up.
        case softThresholdReached(UnitNumber)
        /// That will be said at another use of the pool.
        case poolThresholdChanged(UnitNumber, PoolThreshold)
        /// The keeper's answer to ``Effect/storeReservations(_:replacing:_:)``.
        case reservationsStored(UnitNumber, ReservationStoring)
        /// Another gateway has changed reservations. Between
        /// ``Effect/storeReservations(_:replacing:_:)`` and its answer a newer table than the one offered has
        /// what was offered in it.
        case reservationsChanged(UnitNumber, ReservationTable)
        /// How far the sanitize operation of another gateway is, in 65,536ths, as of its last report; 0: none
        /// was heard, or it is over.
        case sanitizeReported(UnitNumber, UInt16)
        /// Target ports have come, gone or changed their state.
        case groupsChanged([PortGroup])
        /// The answer to ``Effect/setGroups(_:_:)``: done, or not.
        case groupsSet(TaskID, isDone: Bool)
    }
    /// What to do about it.
    public enum Effect: Sendable {
        /// Ask the unit's volume, and report.
        case submit(VolumeToken, VolumeRequest)
        /// The command has ended.
        case answer(TaskID, SCSIAnswer)
        /// The command was taken back.
        case aborted(TaskID)
        /// The function is done.
        case managed(ManagementID, ManagementOutcome)
        /// Nothing ends any more with a nexus that leaves: the others know.
        case nexusReleased(NexusID)
        /// Another gateway has ended all commands of the unit: end those here, given out or not, and report.
        case endTasks(UnitNumber, version: UInt64)
        /// This gateway goes by a version of the unit's reservations, and nothing of what that ended will
        /// still happen.
        case reservationsSettled(UnitNumber, version: UInt64)
        /// Keep this table if the one kept has still the version `replacing`, and report.
        case storeReservations(UnitNumber, replacing: UInt64, ReservationTable)
        /// How far the sanitize operation here is, in 65,536ths, for other gateways, who may hear of it late;
        /// 0: it is over.
        case reportSanitize(UnitNumber, UInt16)
        /// An initiator wants port groups to change their state; do so for all gateways and report.
        case setGroups(TaskID, [PortGroup])
        /// Another gateway has had a TARGET COLD RESET: sessions of the target end here as there, with their
        /// connections.
        case endSessions
        /// A removed unit has ended what it had begun: nothing more is asked of its volume.
        case unitGone(UnitNumber)
    }

    let limits: SCSILimits
    var ports: PortLayout
    /// By LUN.
    var units: [LogicalUnit] = []
    /// Removed ones that still have something under way.
    var leaving: [LogicalUnit] = []
    /// In the order in which they came.
    var nexuses: [(id: NexusID, names: Nexus, functions: Set<ManagementFunction>)] = []
    var copies: [RunningCopy] = []
    var copyCount: UInt64 = 0
    var copyResults: [CopyResult] = []
    /// What waits for changes in units.
    var awaitedChanges: [AwaitedChanges] = []
    /// Commands that set port groups, with the unit that has them.
    var settingGroups: [(task: TaskID, wantedOutBytes: Int, unit: UnitNumber)] = []

    /// A target without logical units.
    public init(_ configuration: TargetConfiguration) {
        limits = configuration.limits
        ports = PortLayout(
            targetName: configuration.name, groups: configuration.groups,
            allowsSetting: configuration.allowsSettingGroups)
    }

    /// What a CDB for a LUN wants to move, for the transport.
    public func transferSizes(_ lun: LUN, cdb: CDB) -> TransferSizes {
        transferTable.transferSizes(lun, cdb: cdb)
    }
    /// The same for the units that are here now, as a value to be handed on.
    public var transferTable: TransferTable {
        var table = TransferTable()
        for unit in units where unit.blockBytes != TransferTable.usualBlockBytes {
            table.blockBytes[unit.configuration.lun] = unit.blockBytes
        }
        return table
    }

    /// Takes what happened and says what to do.
    public mutating func step(_ event: Event, effects: inout [Effect]) {
        switch event {
        case .execute(let task, let command): execute(task, command, effects: &effects)
        case .abort(let task): abort(task, effects: &effects)
        case .manage(let id, let function, let nexus, let lun):
            manage(id, function, nexus, lun, effects: &effects)
        case .nexusLeaves(let nexus): nexusLeaves(nexus, effects: &effects)
        case .tasksEnded(let number, let version):
            with(number, &effects) { $0.tasksEnded(version, effects: &$1) }
        case .nexusBegan(let nexus, let names, let functions): nexusBegan(nexus, names, functions)
        case .nexusEnded(let nexus):
            nexuses.removeAll { $0.id == nexus }
            for index in units.indices { units[index].nexusEnded(nexus, effects: &effects) }
            for index in leaving.indices { leaving[index].nexusEnded(nexus, effects: &effects) }
        case .commandsCleared(let nexus, let lun):
            guard let index = unitIndex(lun, for: nexus) else { break }
            units[index].attend(.clearedByTransport, only: nexus)
        case .volumeCompleted(let token, let result):
            with(token.unit, &effects) { $0.volumeCompleted(token.task, result, effects: &$1) }
        case .unitAdded(let number, let configuration, let size, let table):
            add(number, configuration, size, table)
        case .unitRemoved(let number): remove(number)
        case .unitSuspended(let number, let substitute): suspend(number, as: substitute)
        case .accessChanged(let number, let access): change(number, to: access)
        case .resized(let number, let size): with(number, &effects) { unit, _ in unit.resized(size.bytes) }
        case .softThresholdReached(let number):
            with(number, &effects) { unit, _ in unit.attend(.softThresholdReached) }
        case .poolThresholdChanged(let number, let threshold):
            with(number, &effects) { unit, _ in unit.poolThresholdChanged(threshold) }
        case .reservationsStored(let number, let storing):
            with(number, &effects) { $0.reservationsStored(storing, effects: &$1) }
        case .reservationsChanged(let number, let table):
            with(number, &effects) { $0.reservationsChanged(table, effects: &$1) }
        case .sanitizeReported(let number, let progress):
            with(number, &effects) { unit, _ in unit.reportedProgress = progress }
        case .groupsChanged(let groups):
            ports.groups = groups
            for index in units.indices { units[index].portsChanged(ports) }
        case .groupsSet(let task, let isDone): groupsSet(task, isDone, effects: &effects)
        }
        goOnCopying(effects: &effects)
        endAwaited(effects: &effects)
        while let index = leaving.firstIndex(where: \.isIdle) {
            effects.append(.unitGone(leaving.remove(at: index).number))
        }
    }

    func index(_ number: UnitNumber) -> Int? { units.firstIndex { $0.number == number } }
    /// Lends a unit, present or leaving, to `body`.
    mutating func with(
        _ number: UnitNumber, _ effects: inout [Effect], _ body: (inout LogicalUnit, inout [Effect]) -> Void
    ) {
        if let index = index(number) {
            body(&units[index], &effects)
        } else if let index = leaving.firstIndex(where: { $0.number == number }) {
            body(&leaving[index], &effects)
        }
    }

    // MARK: Units and initiators

    private mutating func add(
        _ number: UnitNumber, _ configuration: UnitConfiguration, _ size: ByteCount,
        _ table: ReservationTable
    ) {
        invariant(index(number) == nil, "unit \(number.rawValue) is there already")
        var unit = LogicalUnit(
            number: number, configuration: configuration, sizeBytes: size.bytes, limits: limits,
            ports: ports)
        (unit.reservations, unit.modes.shared) = (table, table.modes)
        unit.settledVersion = table.version
        for nexus in nexuses { unit.nexusBegan(nexus.id, nexus.names, nexus.functions) }
        if let place = units.firstIndex(where: { $0.configuration.lun == configuration.lun }) {
            return unit.takePlace(of: &units[place])
        }
        let place = units.firstIndex { $0.configuration.lun > configuration.lun } ?? units.count
        for index in units.indices { units[index].attend(.inventoryChanged) }
        units.insert(unit, at: place)
    }
    private mutating func remove(_ number: UnitNumber) {
        guard let index = index(number) else { return }
        leaving.append(units.remove(at: index))
        for index in units.indices { units[index].attend(.inventoryChanged) }
    }
    private mutating func suspend(_ number: UnitNumber, as substitute: UnitNumber) {
        guard let index = index(number) else { return }
        invariant(self.index(substitute) == nil, "unit \(substitute.rawValue) is there already")
        leaving.append(units[index])
        units[index] = LogicalUnit(substitute, standingFor: units[index])
    }
    private mutating func nexusBegan(
        _ nexus: NexusID, _ names: Nexus, _ functions: Set<ManagementFunction>
    ) {
        guard nexuses.count < limits.nexusesMax else { return }
        nexuses.append((nexus, names, functions))
        for index in units.indices { units[index].nexusBegan(nexus, names, functions) }
    }
    func isVisible(_ unit: LogicalUnit, to nexus: NexusID) -> Bool {
        guard unit.configuration.access != nil else { return true }
        return unit.party(nexus).map { $0.right != .hidden } ?? false
    }

    // MARK: Commands

    /// How a LUN is to be understood (SAM-5, section 4.7).
    enum Address: Hashable, Sendable {
        case unit(UInt16)
        /// The well-known logical unit that knows the others.
        case reportLUNs

        init?(_ lun: LUN) {
            guard lun.rawValue & 0xffff_ffff_ffff == 0 else { return nil }
            let first = UInt16(lun.rawValue >> 48)
            switch first >> 14 {
            case 0 where first >> 8 == 0, 1: self = .unit(first & 0x3fff)
            case 3 where first == 0xc101: self = .reportLUNs
            default: return nil
            }
        }
    }
    private func unitIndex(_ lun: LUN, for nexus: NexusID) -> Int? {
        guard case .unit(let number)? = Address(lun) else { return nil }
        return units.firstIndex { $0.configuration.lun == number && isVisible($0, to: nexus) }
    }

    private mutating func execute(_ task: TaskID, _ command: SCSICommand, effects: inout [Effect]) {
        guard let index = unitIndex(command.lun, for: command.nexus) else {
            return executeWithoutUnit(task, command, effects: &effects)
        }
        units[index].execute(task, command, effects: &effects)
        guard let request = units[index].delegated else { return }
        units[index].delegated = nil
        do throws(Sense) {
            switch request.operation {
            case .reportLUNs: try reportLUNs(request, index, effects: &effects)
            case .reportPortGroups:
                try units[index].answer(request, portGroups(request), effects: &effects)
            case .setPortGroups: try setGroups(request, index, effects: &effects)
            case .extendedCopy: try startCopy(request, index, effects: &effects)
            default: try receiveCopyResults(request, index, effects: &effects)
            }
        } catch {
            effects.append(
                .answer(task, units[index].failed(error, wantedOutBytes: request.wantedOutBytes)))
        }
    }
    private mutating func abort(_ task: TaskID, effects: inout [Effect]) {
        for index in units.indices where units[index].abort(task, effects: &effects) { return }
        for index in leaving.indices where leaving[index].abort(task, effects: &effects) { return }
        // A command that sets port groups is answered when it is done.
    }
    private mutating func manage(
        _ id: ManagementID, _ function: ManagementFunction, _ nexus: NexusID, _ lun: LUN,
        effects: inout [Effect]
    ) {
        var concerned = Array(units.indices)
        switch function {
        case .targetWarmReset, .targetColdReset, .nexusReset: break
        default:
            guard let index = unitIndex(lun, for: nexus) else {
                return effects.append(.managed(id, .noSuchLUN))
            }
            concerned = [index]
        }
        var outcome = ManagementOutcome.complete
        var left = 0
        for index in concerned {
            switch units[index].manage(id, function, nexus, effects: &effects) {
            case nil: left += 1
            case .complete?: break
            case let other?: outcome = other
            }
        }
        awaitedChanges.append(AwaitedChanges(waiter: .function(id, nexus), left: left, outcome: outcome))
    }
    private mutating func nexusLeaves(_ nexus: NexusID, effects: inout [Effect]) {
        var left = 0
        for index in units.indices where units[index].nexusLeaves(nexus, effects: &effects) { left += 1 }
        awaitedChanges.append(AwaitedChanges(waiter: .farewell(nexus), left: left, outcome: .complete))
    }
    /// Tells who waited that the last change has ended.
    private mutating func endAwaited(effects: inout [Effect]) {
        guard !awaitedChanges.isEmpty else { return }
        for index in units.indices { count(units[index].takeEndedChanges()) }
        for index in leaving.indices { count(leaving[index].takeEndedChanges()) }
        while let index = awaitedChanges.firstIndex(where: { $0.left == 0 }) {
            let ended = awaitedChanges.remove(at: index)
            switch ended.waiter {
            case .function(let id, _): effects.append(.managed(id, ended.outcome))
            case .farewell(let nexus): effects.append(.nexusReleased(nexus))
            case .command, .sanitize, .nobody: break
            }
        }
    }
    private mutating func count(_ ended: [EndedChange]) {
        for change in ended {
            guard let index = awaitedChanges.firstIndex(where: { $0.waiter == change.waiter }) else {
                continue
            }
            awaitedChanges[index].left -= 1
            if !change.isDone { awaitedChanges[index].outcome = .rejected }
        }
    }
    /// The unit that a LUN on the wire names, by whatever way of addressing.
    public static func unit(addressedBy lun: LUN) -> UInt16? {
        guard case .unit(let number)? = Address(lun) else { return nil }
        return number
    }
}

/// Changes of several units that somebody waits for.
struct AwaitedChanges: Sendable {
    let waiter: ReservationChanges.Waiter
    var left: Int
    var outcome: ManagementOutcome
}

/// What CDBs want to move, by the block sizes of a target's units. LUNs without a unit have 512-byte blocks.
public struct TransferTable: Hashable, Sendable {
    /// By LUN, where it is not the usual one. Looked up, never iterated.
    var blockBytes: [UInt16: Int] = [:]
    static let usualBlockBytes = 512

    /// All blocks have 512 bytes.
    public init() {}
    /// The blocks of all units have the same size.
    public var isUniform: Bool { blockBytes.isEmpty }
    /// What `cdb` for `lun` wants to move.
    public func transferSizes(_ lun: LUN, cdb: CDB) -> TransferSizes {
        var bytes = Self.usualBlockBytes
        if !blockBytes.isEmpty, case .unit(let number)? = Target.Address(lun) {
            bytes = blockBytes[number] ?? bytes
        }
        return CommandTable.transferSizes(cdb: cdb, blockBytes: bytes)
    }
}

extension LogicalUnit {
    var isIdle: Bool { tasks.taskCount == 0 && changes.isIdle }
    mutating func takeEndedChanges() -> [EndedChange] {
        defer { endedChanges.removeAll() }
        return endedChanges
    }
}
