/// What all gateways of a cluster serve over iSCSI: targets with their LUNs, who may log in, and by which
/// portals. A value; it lives in the metadata server and changes as a whole.
public struct ISCSIConfiguration: Hashable, Sendable, Codable {
    /// By name.
    public var gateways: [GatewayEntry] = []
    /// By name.
    public var users: [UserEntry] = []
    /// By name.
    public var targets: [TargetEntry] = []
    /// How initiators prove who they are before they are told of targets.
    public var discovery = LoginRule()

    /// Nothing is served.
    public init() {}

    /// The target of this name.
    public func target(_ name: String) -> TargetEntry? { targets.first { $0.name == name } }
    /// The gateway of this name.
    public func gateway(_ name: String) -> GatewayEntry? { gateways.first { $0.name == name } }
    /// The user of this name.
    public func user(_ name: String) -> UserEntry? { users.first { $0.name == name } }
    /// Names of the gateways that serve a target.
    public func gatewayNames(of target: TargetEntry) -> [String] {
        target.gateways.isEmpty ? gateways.map(\.name) : target.gateways
    }
}

/// A `curve-iscsi serve --gateway NAME`, whether it runs or not.
public struct GatewayEntry: Hashable, Sendable, Codable {
    /// What it is called.
    public var name: String
    /// Its portal group tag, and its target port group: unlike that of any other gateway, for good.
    public var groupTag: UInt16
    /// By address.
    public var portals: [PortalEntry] = []
    /// A gateway without portals.
    public init(name: String, groupTag: UInt16) { (self.name, self.groupTag) = (name, groupTag) }
}

/// Where a gateway listens.
public struct PortalEntry: Hashable, Sendable, Codable {
    /// `HOST:PORT`.
    public var address: String
    /// What initiators are told instead, where that is another one.
    public var announced: String?
    /// Listens on `address`.
    public init(address: String, announced: String? = nil) {
        (self.address, self.announced) = (address, announced)
    }
}

/// Somebody with a secret: an initiator's user, or the target's own name for initiators that want proof.
public struct UserEntry: Hashable, Sendable, Codable {
    /// What is said.
    public var name: String
    /// What is known, and never said.
    public var secret: Secret
    /// `name` with `secret`.
    public init(name: String, secret: Secret) { (self.name, self.secret) = (name, secret) }
}

/// How initiators prove who they are.
public struct LoginRule: Hashable, Sendable, Codable {
    /// Users who may log in by CHAP; nobody: no proof is wanted.
    public var users: [String] = []
    /// The user as whom the target proves itself, to initiators that want that.
    public var mutualUser: String?
    /// No proof is wanted.
    public init() {}
}

/// One target.
public struct TargetEntry: Hashable, Sendable, Codable {
    /// Its iSCSI name.
    public var name: String
    /// A word for people.
    public var alias = ""
    /// Gateways that serve it; none: all of them.
    public var gateways: [String] = []
    /// Who must prove what.
    public var login = LoginRule()
    /// By number.
    public var luns: [LUNEntry] = []
    /// By initiator. Nobody else may log in.
    public var rules: [InitiatorEntry] = []
    /// A target without LUNs that lets nobody in.
    public init(name: String) { self.name = name }
    /// The LUN of this number.
    public func lun(_ number: UInt16) -> LUNEntry? { luns.first { $0.number == number } }
}

/// A volume as a logical unit.
public struct LUNEntry: Hashable, Sendable, Codable {
    /// The number that initiators use.
    public var number: UInt16
    /// The volume's path.
    public var volume: String
    /// Bytes in a block: 512 or 4096.
    public var blockBytes = 512
    /// Nobody writes.
    public var isReadOnly = false
    /// The medium can be ejected.
    public var isRemovable = false
    /// Initiators are told when the pool is so full, in percent; 0: never, `nil`: the usual.
    public var thresholdPercent: Int?
    /// `volume` under `number`.
    public init(number: UInt16, volume: String) { (self.number, self.volume) = (number, volume) }
}

extension LUNEntry {
    /// ``thresholdPercent``, or the usual one.
    public var threshold: Int { thresholdPercent ?? SoftThreshold.usualPercent }
    /// Whether the unit can stay as it is while the configuration goes from `other` to this.
    public func isSameUnit(as other: LUNEntry) -> Bool {
        var other = other
        other.thresholdPercent = thresholdPercent
        return self == other
    }
}

/// Notices that a pool fills up: once each time that it passes the threshold.
public struct SoftThreshold: Hashable, Sendable {
    /// Before the cluster warns of stores that are nearly full, at 85.
    public static let usualPercent = 80
    /// So far it must fall below the threshold before that can be passed again.
    public static let slackPercent = 2
    /// The threshold; 0: there is none.
    public var percent: Int
    private var isPassed = false
    /// A threshold that was not passed yet.
    public init(percent: Int = usualPercent) { self.percent = percent }
    /// The pool is so full now.
    /// - Returns: true when somebody is to be told.
    public mutating func isPassed(by usedPercent: Int) -> Bool {
        guard percent > 0, usedPercent >= percent else {
            if percent == 0 || usedPercent + Self.slackPercent < percent { isPassed = false }
            return false
        }
        defer { isPassed = true }
        return !isPassed
    }
}

/// What one initiator, or any other, may do at a target.
public struct InitiatorEntry: Hashable, Sendable, Codable {
    /// Stands for every initiator that no other rule of the target names.
    public static let anybody = "*"
    /// Its iSCSI name, or ``anybody``.
    public var initiator: String
    /// Where it may come from; none: from anywhere.
    public var addresses: [String] = []
    /// LUNs that it sees; `nil`: all.
    public var luns: [UInt16]?
    /// It may not write.
    public var isReadOnly = false
    /// It may do everything, from anywhere.
    public init(initiator: String) { self.initiator = initiator }
}
