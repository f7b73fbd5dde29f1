import BlockTypes
import SCSIBoundary

/// Names one logical unit of a ``Target``: its number in the list, whatever its LUN. Never used twice.
public struct UnitNumber: Hashable, Sendable {
    /// The number.
    public let rawValue: Int
    /// Unit number `rawValue`.
    public init(rawValue: Int) { self.rawValue = rawValue }
}

/// Names a request to a volume; handed back with its result.
public struct VolumeToken: Hashable, Sendable {
    /// Whose volume.
    public let unit: UnitNumber
    let task: TaskNumber
}

/// A place in a logical unit's list of tasks.
struct TaskNumber: Hashable, Sendable { let rawValue: Int }

/// What a logical unit is, for as long as it is there. The same on every gateway.
public struct UnitConfiguration: Hashable, Sendable {
    /// The number that initiators use.
    public var lun: UInt16
    /// Bytes in a logical block: 512 or 4096.
    public var blockBytes: Int
    /// Nothing can be written.
    public var isReadOnly = false
    /// The medium can be ejected.
    public var isRemovable = false
    /// Blocks may have no storage.
    public var isThin = true
    /// An answered write may be lost before SYNCHRONIZE CACHE or FUA.
    public var hasWriteCache = false
    /// A write inside an aligned run of so many bytes is stored as a whole or not at all, also when the power
    /// fails: what the volume's layout gives. 0: there is no WRITE ATOMIC.
    public var atomicBytes = 0
    /// The volume compares and writes in one step, also among gateways, inside an aligned run of so many
    /// bytes (`BlockVolume.compareUnitBytes`). 0: it does not; then the unit does, for its own commands.
    public var compareUnitBytes = 0
    /// When initiators are told that the pool below fills up; `nil`: nobody watches it. A unit that is not
    /// thin has no use for it.
    public var poolThreshold: PoolThreshold?
    /// The NAA identifier, 16 bytes whose first half-byte is 6.
    public var identifier: [UInt8]
    /// The serial number, printable ASCII.
    public var serial: String
    /// 8 characters.
    public var vendor = "CURVE"
    /// 16 characters.
    public var product = "VOLUME"
    /// 4 characters.
    public var revision = "1"
    /// Whether EXTENDED COPY may use this unit, for initiators that see it.
    public var allowsCopies = true

    /// Who sees it and who writes to it; `nil`: everybody.
    public var access: UnitAccess?

    /// A thin unit that can be written.
    public init(lun: UInt16, blockBytes: Int = 512, identifier: [UInt8], serial: String) {
        invariant(blockBytes == 512 || blockBytes == 4096, "blocks of \(blockBytes) bytes")
        invariant(identifier.count == 16 && identifier[0] >> 4 == 6, "an NAA identifier of 16 bytes, type 6")
        invariant(lun < 0x4000, "LUN \(lun) has no flat address")
        (self.lun, self.blockBytes, self.identifier, self.serial) = (lun, blockBytes, identifier, serial)
    }
}

extension UnitConfiguration {
    /// The T10 designator: the vendor in eight characters, then what that vendor tells its units apart by.
    var vendorDesignator: [UInt8] {
        var bytes: [UInt8] = []
        bytes.append(vendor, width: 8)
        return bytes + serial.utf8.prefix(200)
    }
}

/// How full the pool below a unit may be before ``Target/Event/softThresholdReached(_:)`` comes.
public struct PoolThreshold: Hashable, Sendable {
    /// In percent of the pool; 0: it never comes.
    public let usedPercent: Int
    /// So far below that the use must have been before it comes again.
    public let slackPercent: Int
    /// A threshold of 0 to 99 percent, with an even slack of 2 to 24.
    public init(usedPercent: Int, slackPercent: Int) {
        invariant((0..<100).contains(usedPercent), "a threshold of \(usedPercent) percent")
        invariant(2...24 ~= slackPercent && slackPercent % 2 == 0, "a slack of \(slackPercent) percent")
        (self.usedPercent, self.slackPercent) = (usedPercent, slackPercent)
    }
    /// What is available in the middle of the range (SBC-4, section 4.7: it is reached at the range's lower
    /// end, and armed again above the upper one).
    var availablePercent: Int { usedPercent == 0 ? 0 : 100 - usedPercent + slackPercent / 2 }
}

/// How a group of target ports can be used (SPC-5, section 5.17.2).
public enum PortState: UInt8, Hashable, Sendable {
    /// Best.
    case activeOptimized = 0
    /// As well, but slower.
    case activeNonOptimized = 1
    /// Commands that ask only.
    case standby = 2
    /// Nearly nothing.
    case unavailable = 3
    /// On its way from one to another.
    case transitioning = 15
}

/// The target ports of one gateway.
public struct PortGroup: Hashable, Sendable {
    /// The target port group, which is also the portal group tag and the port's relative identifier.
    public var tag: UInt16
    /// How it can be used.
    public var state: PortState
    /// Use this one when there is a choice.
    public var isPreferred: Bool
    /// The ports of portal group `tag`.
    public init(tag: UInt16, state: PortState = .activeOptimized, isPreferred: Bool = false) {
        (self.tag, self.state, self.isPreferred) = (tag, state, isPreferred)
    }
}

/// What a target is.
public struct TargetConfiguration: Hashable, Sendable {
    /// Its iSCSI name.
    public var name: String
    /// The ports of all gateways, by tag: the same list everywhere.
    public var groups: [PortGroup]
    /// Whether SET TARGET PORT GROUPS is taken.
    public var allowsSettingGroups = true
    /// The bounds.
    public var limits = SCSILimits()
    /// A target with ports.
    public init(name: String, groups: [PortGroup]) { (self.name, self.groups) = (name, groups) }
}
