import BlockTypes
import SCSIBoundary

/// One volume as a SCSI block device: judges commands, turns them into requests to the volume, answers them.
///
/// Commands that wait for the volume, for others on the same blocks or for the keeper of reservations have a
/// place in `tasks`. Each has at most one request under way, so its place is the request's name.
struct LogicalUnit: Sendable {
    typealias Effect = Target.Effect

    /// Somebody whose commands come.
    struct Party: Sendable {
        let nexus: NexusID
        let names: Nexus
        var attentions = UnitAttentions()
        var preventsRemoval = false
        /// Made once: every command is judged by it.
        let reservation: ReservationParty
        init(nexus: NexusID, names: Nexus) {
            (self.nexus, self.names) = (nexus, names)
            reservation = ReservationParty(
                initiatorPort: names.initiatorPort, targetPort: names.portalGroupTag)
        }
    }

    let number: UnitNumber
    let limits: SCSILimits
    var configuration: UnitConfiguration
    var sizeBytes: UInt64
    /// What the whole target has and this unit tells.
    var ports: PortLayout

    /// In the order in which they came; looked up by `partyIndex`.
    var parties: [Party] = []
    var partyIndex: [NexusID: Int] = [:]

    var tasks: [RunningTask?] = []
    var freeTasks: [TaskNumber] = []
    var taskCount = 0
    var locks = RangeLocks()

    var reservations = ReservationTable()
    var changes = ReservationChanges()

    var modes: ModePages
    var hasMedium = true
    var sanitize = SanitizeState.none
    /// A command that may go on and is about more than this unit; the target takes it.
    var delegated: Request?
    /// Blocks read and written for EXTENDED COPY that have ended since the target looked.
    var endedTransfers: [EndedTransfer] = []

    init(
        number: UnitNumber, configuration: UnitConfiguration, sizeBytes: UInt64, limits: SCSILimits,
        ports: PortLayout
    ) {
        (self.number, self.configuration, self.sizeBytes) = (number, configuration, sizeBytes)
        (self.limits, self.ports) = (limits, ports)
        modes = ModePages(hasWriteCache: configuration.hasWriteCache)
    }

    var blockBytes: Int { configuration.blockBytes }
    var blockCount: UInt64 { sizeBytes / UInt64(blockBytes) }
    /// Logical blocks in a block of the store.
    var blocksPerStored: Int { Geometry.blockBytes / blockBytes }

    // MARK: Who is there

    mutating func nexusBegan(_ nexus: NexusID, _ names: Nexus) {
        guard partyIndex[nexus] == nil else { return }
        partyIndex[nexus] = parties.count
        var party = Party(nexus: nexus, names: names)
        party.attentions.add(.powerOnOrReset, max: limits.attentionsMax)
        parties.append(party)
    }
    mutating func nexusEnded(_ nexus: NexusID, effects: inout [Effect]) {
        guard let index = partyIndex.removeValue(forKey: nexus) else { return }
        let gone = parties.remove(at: index)
        for later in index..<parties.count { partyIndex[parties[later].nexus] = later }
        // A session that took the place of this one is the same initiator port and keeps what it holds.
        guard !parties.contains(where: { $0.reservation == gone.reservation }) else { return }
        if reservations.simpleHolder == gone.reservation {
            change(.dropSimple(gone.reservation), for: nil, effects: &effects)
        }
    }
    func party(_ nexus: NexusID) -> Party? { partyIndex[nexus].map { parties[$0] } }

    /// Tells all nexuses but one of something.
    mutating func attend(_ attention: AdditionalSense, except: NexusID? = nil) {
        for index in parties.indices where parties[index].nexus != except {
            parties[index].attentions.add(attention, max: limits.attentionsMax)
        }
    }
    /// Tells one nexus of something.
    mutating func attend(_ attention: AdditionalSense, only nexus: NexusID) {
        guard let index = partyIndex[nexus] else { return }
        parties[index].attentions.add(attention, max: limits.attentionsMax)
    }

    // MARK: What happens to the unit

    mutating func resized(_ bytes: UInt64) {
        guard bytes != sizeBytes else { return }
        sizeBytes = bytes
        attend(.capacityChanged)
    }
    mutating func portsChanged(_ ports: PortLayout) {
        let states = self.ports.groups.map(\.state)
        self.ports = ports
        if states != ports.groups.map(\.state) { attend(.asymmetricAccessChanged) }
    }

    /// The rest of a task management function: the tasks that it ends have ended.
    mutating func manage(
        _ function: ManagementFunction, _ nexus: NexusID, effects: inout [Effect]
    ) -> ManagementOutcome {
        switch function {
        case .abortTask, .abortTaskSet: return .complete
        case .clearTaskSet:
            // Whose commands were ended is not known here, so all others are told.
            attend(.commandsCleared, except: nexus)
            return .complete
        case .logicalUnitReset:
            reset(.unitReset, effects: &effects)
            return .complete
        case .targetWarmReset:
            reset(.targetReset, effects: &effects)
            return .complete
        case .targetColdReset:
            reset(.powerOn, effects: &effects)
            return .complete
        case .nexusReset:
            if let index = partyIndex[nexus] {
                parties[index].preventsRemoval = false
                parties[index].attentions.add(.nexusLoss, max: limits.attentionsMax)
                let party = parties[index].reservation
                if reservations.simpleHolder == party {
                    change(.dropSimple(party), for: nil, effects: &effects)
                }
            }
            return .complete
        case .queryAsynchronousEvent:
            return party(nexus)?.attentions.isEmpty == false ? .succeeded : .complete
        case .queryTask, .queryTaskSet: return .complete
        case .clearAutoContingentAllegiance, .taskReassign: return .notSupported
        }
    }
    private mutating func reset(_ attention: AdditionalSense, effects: inout [Effect]) {
        for index in parties.indices { parties[index].preventsRemoval = false }
        modes = ModePages(hasWriteCache: configuration.hasWriteCache)
        if reservations.simpleHolder != nil { change(.dropSimple(nil), for: nil, effects: &effects) }
        attend(attention)
    }
    var isRemovalPrevented: Bool { parties.contains { $0.preventsRemoval } }
}
