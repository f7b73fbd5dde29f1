import BlockTypes
import SCSIBoundary

/// One volume as a SCSI block device: judges commands, turns them into requests to the volume, answers them.
///
/// Commands that wait for the volume, for others on the same blocks or for the keeper of reservations have a
/// place in `tasks`. Each has at most one request under way, so its place is the request's name.
///
/// A function that does not change the unit gets a copy of it, 900 bytes: small ones that each read or write
/// calls are always in line.
struct LogicalUnit: Sendable {
    typealias Effect = Target.Effect

    /// Somebody whose commands come.
    struct Party: Sendable {
        /// What never changes, by reference: every command has its party with it.
        final class Identity: Sendable {
            let nexus: NexusID
            let names: Nexus
            let functions: Set<ManagementFunction>
            let reservation: ReservationParty
            init(_ nexus: NexusID, _ names: Nexus, _ functions: Set<ManagementFunction>) {
                (self.nexus, self.names, self.functions) = (nexus, names, functions)
                reservation = ReservationParty(
                    initiatorPort: names.initiatorPort, targetPort: names.portalGroupTag)
            }
        }
        let identity: Identity
        var nexus: NexusID { identity.nexus }
        var names: Nexus { identity.names }
        /// Task management functions that its transport answers.
        var functions: Set<ManagementFunction> { identity.functions }
        var reservation: ReservationParty { identity.reservation }
        var attentions = UnitAttentions()
        var preventsRemoval = false
        var right = UnitAccess.Right.writes
        init(nexus: NexusID, names: Nexus, functions: Set<ManagementFunction>) {
            identity = Identity(nexus, names, functions)
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
    private var recentParty = 0

    var tasks = TaskList()
    var locks = RangeLocks()

    var reservations = ReservationTable()
    var changes = ReservationChanges()
    /// Versions of the table that ended commands which the transport has not ended yet, ascending.
    var endingVersions: [UInt64] = []
    /// Nothing is left of what this version of the table and those before it ended.
    var settledVersion: UInt64 = 0

    /// Its volume is away: it says what it is, and that it is not ready.
    var isSuspended = false

    var modes: ModePages
    var hasMedium: Bool { !reservations.isEjected }
    /// A sanitize operation of this gateway, from the command until the cluster knows its end.
    var sanitizeWork: SanitizeWork?
    /// How far another gateway's is, as it was told last.
    var reportedProgress: UInt16 = 0
    /// A command that may go on and is about more than this unit; the target takes it.
    var delegated: Request?
    /// Changes that no command waited for and that have ended since the target looked.
    var endedChanges: [EndedChange] = []
    /// Blocks read and written for EXTENDED COPY that have ended since the target looked.
    var endedTransfers: [EndedTransfer] = []

    init(
        number: UnitNumber, configuration: UnitConfiguration, sizeBytes: UInt64, limits: SCSILimits,
        ports: PortLayout
    ) {
        (self.number, self.configuration, self.sizeBytes) = (number, configuration, sizeBytes)
        (self.limits, self.ports) = (limits, ports)
        if isPlanted(.comparisonLocal) { self.configuration.compareUnitBytes = 0 }
        modes = ModePages(configuration)
    }

    var blockBytes: Int { configuration.blockBytes }
    var blockCount: UInt64 { sizeBytes / UInt64(blockBytes) }
    /// Logical blocks in a block of the store.
    var blocksPerStored: Int { Geometry.blockBytes / blockBytes }

    // MARK: Who is there

    mutating func nexusBegan(_ nexus: NexusID, _ names: Nexus, _ functions: Set<ManagementFunction>) {
        guard partyIndex[nexus] == nil else { return }
        partyIndex[nexus] = parties.count
        var party = Party(nexus: nexus, names: names, functions: functions)
        party.right = configuration.access?.right(of: names.initiatorName) ?? .writes
        party.attentions.add(.powerOnOrReset, max: limits.attentionsMax)
        parties.append(party)
    }
    mutating func nexusEnded(_ nexus: NexusID, effects: inout [Effect]) {
        guard let index = partyIndex.removeValue(forKey: nexus) else { return }
        let gone = parties.remove(at: index)
        for later in index..<parties.count { partyIndex[parties[later].nexus] = later }
        // A session that took the place of this one is the same initiator port and keeps what it holds.
        if gone.preventsRemoval { tellPrevention(gone.reservation, for: .nobody, effects: &effects) }
        guard !parties.contains(where: { $0.reservation == gone.reservation }) else { return }
        if reservations.simpleHolder == gone.reservation {
            change(.dropSimple(gone.reservation), for: .nobody, effects: &effects)
        }
    }
    func party(_ nexus: NexusID) -> Party? { partyIndex[nexus].map { parties[$0] } }
    /// The place of whose command comes: mostly whose came last.
    mutating func place(of nexus: NexusID) -> Int? {
        if parties.indices.contains(recentParty), parties[recentParty].nexus == nexus { return recentParty }
        guard let place = partyIndex[nexus] else { return nil }
        recentParty = place
        return place
    }

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
    /// Whoever runs the gateways wants another threshold: mode parameters that no initiator has changed.
    mutating func poolThresholdChanged(_ threshold: PoolThreshold) {
        guard configuration.isThin, threshold != modes.poolThreshold else { return }
        modes.poolThreshold = threshold
        attend(.modeParametersChanged)
    }
    mutating func portsChanged(_ ports: PortLayout) {
        let states = self.ports.groups.map(\.state)
        self.ports = ports
        if states != ports.groups.map(\.state) { attend(.asymmetricAccessChanged) }
    }

    /// The rest of a task management function: the tasks that it ends here have ended.
    /// - Returns: `nil`: it is done when a change that bears its name is.
    mutating func manage(
        _ id: ManagementID, _ function: ManagementFunction, _ nexus: NexusID, effects: inout [Effect]
    ) -> ManagementOutcome? {
        switch function {
        case .abortTask, .abortTaskSet, .clearTaskSet: return .complete
        case .logicalUnitReset: return reset(.unit, .unitReset, id, nexus, effects: &effects)
        case .targetWarmReset: return reset(.target, .targetReset, id, nexus, effects: &effects)
        case .targetColdReset: return reset(.powerOn, .powerOn, id, nexus, effects: &effects)
        case .nexusReset:
            guard let index = partyIndex[nexus] else { return .complete }
            if parties[index].preventsRemoval {
                parties[index].preventsRemoval = false
                tellPrevention(parties[index].reservation, for: .nobody, effects: &effects)
            }
            parties[index].attentions.add(.nexusLoss, max: limits.attentionsMax)
            let party = parties[index].reservation
            guard reservations.simpleHolder == party else { return .complete }
            change(.dropSimple(party), for: .function(id, nexus), effects: &effects)
            return nil
        case .queryAsynchronousEvent:
            guard let attentions = party(nexus)?.attentions, !attentions.isEmpty else { return .complete }
            return .succeeded(information: attentions.summary)
        case .queryTask, .queryTaskSet: return .complete
        case .clearAutoContingentAllegiance, .taskReassign: return .notSupported
        }
    }
    /// Resets what is here at once, and lets the other gateways know.
    private mutating func reset(
        _ reset: UnitReset, _ attention: AdditionalSense, _ id: ManagementID, _ nexus: NexusID,
        effects: inout [Effect]
    ) -> ManagementOutcome? {
        wasReset(attention)
        return spread(.reset(reset), id, nexus, effects: &effects)
    }
    private mutating func spread(
        _ request: ReservationRequest, _ id: ManagementID, _ nexus: NexusID, effects: inout [Effect]
    ) -> ManagementOutcome? {
        // Without its volume a unit cannot let the other gateways know.
        guard !isSuspended, let party = party(nexus)?.reservation else { return .rejected }
        change(.request(request, party), for: .function(id, nexus), effects: &effects)
        return nil
    }
    mutating func wasReset(_ attention: AdditionalSense) {
        for index in parties.indices { parties[index].preventsRemoval = false }
        modes.shared = SharedModes()
        attend(attention)
    }
    /// An initiator logs out.
    /// - Returns: true: something that ends with its nexus is to end first; a change with its name tells.
    mutating func nexusLeaves(_ nexus: NexusID, effects: inout [Effect]) -> Bool {
        guard let leaver = party(nexus)?.reservation, reservations.simpleHolder == leaver,
            !parties.contains(where: { $0.nexus != nexus && $0.reservation == leaver })
        else { return false }
        change(.dropSimple(leaver), for: .farewell(nexus), effects: &effects)
        return true
    }
}
