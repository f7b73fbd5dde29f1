import BlockTypes

/// An initiator port at a target port: who registers and reserves (SPC-5, section 5.13).
public struct ReservationParty: Hashable, Sendable, Comparable {
    /// The initiator port's name: `name,i,0x0123456789ab`.
    public let initiatorPort: String
    /// The target port's relative identifier.
    public let targetPort: UInt16
    /// An initiator port at a target port.
    public init(initiatorPort: String, targetPort: UInt16) {
        (self.initiatorPort, self.targetPort) = (initiatorPort, targetPort)
    }
    /// By name, then by port.
    public static func < (left: Self, right: Self) -> Bool {
        (left.initiatorPort, left.targetPort) < (right.initiatorPort, right.targetPort)
    }
}

/// The types of a persistent reservation (SPC-5, section 6.16.3.4).
public enum ReservationType: UInt8, Hashable, Sendable, CaseIterable {
    /// The holder writes, everybody reads.
    case writeExclusive = 1
    /// The holder alone.
    case exclusiveAccess = 3
    /// Who is registered writes, everybody reads.
    case writeExclusiveRegistrantsOnly = 5
    /// Who is registered, alone.
    case exclusiveAccessRegistrantsOnly = 6
    /// As the former two, and all who are registered hold it.
    case writeExclusiveAllRegistrants = 7
    /// As the former, for any access.
    case exclusiveAccessAllRegistrants = 8

    var isWriteExclusive: Bool {
        switch self {
        case .writeExclusive, .writeExclusiveRegistrantsOnly, .writeExclusiveAllRegistrants: true
        case .exclusiveAccess, .exclusiveAccessRegistrantsOnly, .exclusiveAccessAllRegistrants: false
        }
    }
    var isForRegistrants: Bool { rawValue >= 5 }
    var isHeldByAll: Bool { rawValue >= 7 }
}

/// Mode parameters of a logical unit that initiators can change.
public struct SharedModes: Hashable, Sendable {
    /// D_SENSE: sense data in descriptor format.
    public var usesDescriptorSense = false
    /// SWP: software write protect.
    public var isWriteProtected = false
    /// The defaults.
    public init() {}
}

/// Where a sanitize operation of any gateway stands (SBC-4, section 4.11).
public enum SharedSanitize: Hashable, Sendable {
    /// There is none.
    case none
    /// The gateway of this target port overwrites the blocks; nobody reads or writes them meanwhile.
    case running(port: UInt16, allowsExit: Bool)
    /// It failed, or its gateway is gone. Blocks are not to be had until another one ends well, or until EXIT
    /// FAILURE MODE where this one allowed that.
    case failed(allowsExit: Bool)
}

/// Who is registered with, and who has reserved, one logical unit, and what else of it is the same for all
/// gateways: mode parameters, the medium, a sanitize operation, and the resets that all must know of.
///
/// A plain value, with a version that every change raises. A change is a pure function: the table, who asks
/// and what for, give the next table or a refusal. A gateway offers the next table to the keeper together
/// with the version it started from; when another gateway was faster it begins anew from what that one left.
/// The table also has the unit attentions that the last changes bring, by version, so that every gateway
/// finds out what it must tell to whom.
public struct ReservationTable: Hashable, Sendable {
    /// A registered party and its key.
    public struct Registration: Hashable, Sendable {
        /// Who.
        public let party: ReservationParty
        /// Its key; never 0.
        public let key: UInt64
    }
    /// What is held.
    public struct Holding: Hashable, Sendable {
        /// How.
        public let type: ReservationType
        /// By whom; nobody in particular when all who are registered hold it.
        public let holder: ReservationParty?
    }
    /// What somebody must be told because of a change.
    public struct Notice: Hashable, Sendable {
        /// Since when.
        public let version: UInt64
        /// Who is told; of kinds that are for everybody, who brought it about.
        public let party: ReservationParty
        /// What.
        public let kind: Kind
        /// What happened to the party.
        public enum Kind: UInt8, Hashable, Sendable {
            /// Its registration was preempted.
            case registrationPreempted = 1
            /// The reservation was preempted, or all was cleared.
            case reservationPreempted = 2
            /// The reservation was released.
            case reservationReleased = 3
            /// The same as the first, and its commands were ended.
            case aborted = 4
            /// For everybody: the logical unit was reset.
            case unitReset = 5
            /// For everybody: the target was reset.
            case targetReset = 6
            /// For everybody: the target was reset as by a loss of power.
            case powerOn = 7
            /// For nobody: a gateway of before TST = 001b had a CLEAR TASK SET, which ended the commands of
            /// all nexuses. Kept where it stands in a table, never made.
            case taskSetCleared = 8
            /// For everybody but the party: mode parameters have changed.
            case modesChanged = 9
            /// For everybody but the party: a medium was loaded.
            case mediumLoaded = 10

            /// All commands of the unit end with it, wherever they are.
            var endsCommands: Bool {
                switch self {
                case .unitReset, .targetReset, .powerOn: true
                case .registrationPreempted, .reservationPreempted, .reservationReleased, .aborted,
                    .taskSetCleared, .modesChanged, .mediumLoaded:
                    false
                }
            }
        }
    }
    /// Notices kept, never fewer than one change brings; a gateway that misses more changes than these tells
    /// its initiators of a preemption.
    public static let noticesMax = registrationsMax
    /// Registrations that there may be: so many, and as many notices, fit into ``encodedBytesMax`` whatever
    /// the names of their initiators.
    public static let registrationsMax = 128
    /// Longest initiator port's name: an iSCSI name of 223 bytes, and `,i,0x0123456789ab`.
    public static let portNameBytesMax = 240
    /// What ``encoded`` has at most.
    public static let encodedBytesMax = 65_200

    /// Raised by every change.
    public var version: UInt64 = 0
    /// PRGENERATION: what the initiators see of changes of registrations.
    public var generation: UInt32 = 0
    /// In the order in which they came.
    public var registrations: [Registration] = []
    /// The reservation.
    public var holding: Holding?
    /// APTPL: registrations and reservation stay when all gateways lose their power.
    public var persistsThroughPowerLoss = false
    /// Who holds it by RESERVE(6).
    public var simpleHolder: ReservationParty?
    /// What initiators have set by MODE SELECT.
    public var modes = SharedModes()
    /// A sanitize operation.
    public var sanitize = SharedSanitize.none
    /// The medium was taken out, and not put in again.
    public var isEjected = false
    /// Target ports of gateways that have an initiator who prevents removal of the medium, ascending.
    public var preventingPorts: [UInt16] = []
    /// Of the last changes.
    public var notices: [Notice] = []

    /// Nobody is registered.
    public init() {}

    func key(of party: ReservationParty) -> UInt64? {
        registrations.first { $0.party == party }?.key
    }
    func holds(_ party: ReservationParty) -> Bool {
        guard let holding else { return false }
        return holding.type.isHeldByAll ? key(of: party) != nil : holding.holder == party
    }
    /// The key that READ RESERVATION tells.
    var holdingKey: UInt64 { holding?.holder.flatMap { key(of: $0) } ?? 0 }

    /// What is left when all gateways have lost their power: RESERVE(6) never is.
    public func afterPowerLoss() -> ReservationTable {
        var next = self
        (next.simpleHolder, next.modes) = (nil, SharedModes())
        (next.isEjected, next.preventingPorts) = (false, [])
        if case .running(_, let allowsExit) = sanitize { next.sanitize = .failed(allowsExit: allowsExit) }
        if !persistsThroughPowerLoss {
            (next.registrations, next.holding, next.notices) = ([], nil, [])
            next.generation = 0
        }
        next.version += 1
        return next
    }
    /// The same, when the gateway of a target port is gone: without its RESERVE(6), and without what it
    /// prevented. What it was sanitizing has failed.
    public func withoutGateway(_ port: UInt16) -> ReservationTable {
        var next = self
        if simpleHolder?.targetPort == port { next.simpleHolder = nil }
        next.preventingPorts.removeAll { $0 == port }
        if case .running(port: port, let allowsExit) = sanitize {
            next.sanitize = isPlanted(.sanitizeForgotten) ? .none : .failed(allowsExit: allowsExit)
        }
        if next != self { next.version += 1 }
        return next
    }
    /// The same, without the RESERVE(6) of `party`; of anybody when nil.
    public func withoutSimpleHolder(_ party: ReservationParty?) -> ReservationTable {
        guard let simpleHolder, party == nil || simpleHolder == party else { return self }
        var next = self
        next.simpleHolder = nil
        next.version += 1
        return next
    }

    /// Whether a command of a class may go on.
    func allows(_ reservations: ReservationClass, from party: ReservationParty) -> Bool {
        if let simpleHolder, simpleHolder != party {
            switch reservations {
            case .always, .own: break
            case .status, .reads, .writes: return false
            }
        }
        guard let holding, !holds(party) else { return true }
        if holding.type.isForRegistrants, key(of: party) != nil { return true }
        switch reservations {
        case .always, .status, .own: return true
        case .reads: return holding.type.isWriteExclusive
        case .writes: return false
        }
    }
}
