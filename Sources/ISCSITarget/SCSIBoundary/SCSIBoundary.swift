import BlockTypes

/// Names one initiator port's relation to one target: what reservations and unit attentions belong to.
public struct NexusID: Hashable, Sendable {
    /// The number, never used twice.
    public let rawValue: UInt64
    /// Nexus number `rawValue`.
    public init(rawValue: UInt64) { self.rawValue = rawValue }
}

/// Who is at the two ends of a nexus (RFC 7143, section 4.4.3.1).
public struct Nexus: Hashable, Sendable {
    /// The initiator's name, in lower case.
    public let initiatorName: String
    /// The initiator's session identifier, 48 bits: with its name, the initiator port.
    public let sessionIdentifier: UInt64
    /// The target's name; with the portal group tag, the target port.
    public let targetName: String
    /// The tag of the portal group.
    public let portalGroupTag: UInt16
    /// The nexus of an initiator port and a target port.
    public init(
        initiatorName: String, sessionIdentifier: UInt64, targetName: String, portalGroupTag: UInt16
    ) {
        (self.initiatorName, self.sessionIdentifier) = (initiatorName, sessionIdentifier)
        (self.targetName, self.portalGroupTag) = (targetName, portalGroupTag)
    }
    /// The initiator port's name as reservations know it: `name,i,0x0123456789ab`.
    public var initiatorPort: String {
        let digits = String(sessionIdentifier, radix: 16)
        return "\(initiatorName),i,0x\(String(repeating: "0", count: 12 - digits.utf8.count))\(digits)"
    }
}

/// Names one SCSI command under way.
public struct TaskID: Hashable, Sendable {
    /// Its place in the table of whoever gave it out; used again.
    public let slot: Int
    /// Never used twice.
    public let generation: UInt64
    /// The command in place `slot`.
    public init(slot: Int, generation: UInt64) { (self.slot, self.generation) = (slot, generation) }
}

/// Names one task management function under way.
public struct ManagementID: Hashable, Sendable {
    /// The number, never used twice.
    public let rawValue: UInt64
    /// Function number `rawValue`.
    public init(rawValue: UInt64) { self.rawValue = rawValue }
}

/// The eight bytes of a logical unit number (SAM-5, section 4.7), as the initiator sent them.
public struct LUN: Hashable, Sendable {
    /// Big-endian: the first byte on the wire is the highest.
    public let rawValue: UInt64
    /// A number as it is on the wire.
    public init(rawValue: UInt64) { self.rawValue = rawValue }

    /// Whether both name one logical unit: numbers below 256 have a peripheral and a flat form (SAM-5,
    /// section 4.7).
    public func isSame(as other: LUN) -> Bool {
        rawValue == other.rawValue || shortest.rawValue == other.shortest.rawValue
    }
    /// The peripheral form, if the number has one.
    private var shortest: LUN {
        rawValue >> 56 == 0x40 ? LUN(rawValue: rawValue & 0x00ff_ffff_ffff_ffff) : self
    }
}

/// In which order a command wants to be carried out (SAM-5, section 8.6).
public enum TaskAttribute: UInt8, Hashable, Sendable {
    /// Not said; to be taken as simple.
    case untagged = 0
    /// In any order among others of its kind.
    case simple = 1
    /// After all before it, before all behind it.
    case ordered = 2
    /// Before all that wait.
    case headOfQueue = 3
    /// While the logical unit waits for its attention to be cleared.
    case autoContingentAllegiance = 4
}

/// A SCSI command with all its data, for the room that knows CDBs.
public struct SCSICommand: Sendable {
    /// Who asks.
    public let nexus: NexusID
    /// The logical unit.
    public let lun: LUN
    /// What is to be done.
    public let cdb: CDB
    /// Its place among other commands.
    public let attribute: TaskAttribute
    /// Bytes that the initiator has room for: more of an answer's data is cut off and told as a residual.
    public let expectedInBytes: Int
    /// Bytes that the initiator offered; ``dataOut`` has as many of them as the CDB asks for.
    public let expectedOutBytes: Int
    /// The data, in order.
    public let dataOut: [Payload]
    /// A command; `expectedInBytes` and `expectedOutBytes` as its initiator announced them.
    public init(
        nexus: NexusID, lun: LUN, cdb: CDB, attribute: TaskAttribute, expectedInBytes: Int,
        expectedOutBytes: Int, dataOut: [Payload]
    ) {
        (self.nexus, self.lun, self.cdb, self.attribute) = (nexus, lun, cdb, attribute)
        (self.expectedInBytes, self.expectedOutBytes) = (expectedInBytes, expectedOutBytes)
        self.dataOut = dataOut
    }
}

/// What a CDB wants to move, as far as the CDB and the logical unit's block size tell.
public struct TransferSizes: Hashable, Sendable {
    /// Bytes to the initiator.
    public var inBytes: Int
    /// Bytes from the initiator.
    public var outBytes: Int
    /// `inBytes` to the initiator and `outBytes` from it.
    public init(inBytes: Int, outBytes: Int) { (self.inBytes, self.outBytes) = (inBytes, outBytes) }
}

/// How a command ended.
public struct SCSIAnswer: Sendable {
    /// The status: 0 good, 2 check condition, ...
    public var status: UInt8
    /// STATUS QUALIFIER (SAM-5, section 5.3.2), for a transport that has room for it. With BUSY and TASK SET
    /// FULL: so many tenths of a second later the logical unit may be asked again. 0: nothing to say.
    public var statusQualifier: UInt16
    /// Sense data, at most 252 bytes (SPC-5, section 4.4.3).
    public var sense: [UInt8]
    /// The data, handed on by reference.
    public var dataIn: [ReadSegment]
    /// Bytes of ``dataIn``.
    public var dataInBytes: Int {
        var count = 0
        for index in dataIn.indices { count += dataIn[index].byteCount }
        return count
    }
    /// Bytes to the initiator that the CDB asked for, when that is not what ``dataIn`` has.
    public var wantedInBytes: Int?
    /// Bytes from the initiator that the CDB asked for, when that is not what was offered.
    public var wantedOutBytes: Int?

    /// An answer; residuals are computed from the wanted bytes and what the initiator expected.
    public init(
        status: UInt8 = 0, statusQualifier: UInt16 = 0, sense: [UInt8] = [], dataIn: [ReadSegment] = [],
        wantedInBytes: Int? = nil, wantedOutBytes: Int? = nil
    ) {
        (self.status, self.statusQualifier, self.sense, self.dataIn) = (
            status, statusQualifier, sense, dataIn
        )
        (self.wantedInBytes, self.wantedOutBytes) = (wantedInBytes, wantedOutBytes)
    }
}

/// What an initiator wants done with tasks and logical units (RFC 7143, section 11.5.1; RFC 7144, section
/// 4.2).
public enum ManagementFunction: UInt8, Hashable, Sendable {
    /// End one task.
    case abortTask = 1
    /// End the tasks of this nexus on the logical unit.
    case abortTaskSet = 2
    /// Clear an auto contingent allegiance.
    case clearAutoContingentAllegiance = 3
    /// End all tasks on the logical unit.
    case clearTaskSet = 4
    /// Reset the logical unit.
    case logicalUnitReset = 5
    /// Reset all logical units of the target.
    case targetWarmReset = 6
    /// The same, and drop all sessions.
    case targetColdReset = 7
    /// Move a task to this connection.
    case taskReassign = 8
    /// Is the task there?
    case queryTask = 9
    /// Is any task of this nexus on the logical unit there?
    case queryTaskSet = 10
    /// End all tasks of this nexus, as if it had been lost.
    case nexusReset = 11
    /// Is a unit attention pending?
    case queryAsynchronousEvent = 12
}

/// How a task management function ended.
public enum ManagementOutcome: Hashable, Sendable {
    /// Done.
    case complete
    /// Done, and the question's answer is yes; with SAM-5's additional response information, 24 bits, where
    /// the function has any.
    case succeeded(information: UInt32)
    /// There is no such logical unit.
    case noSuchLUN
    /// This nexus may not.
    case notAuthorized
    /// It cannot be done here.
    case notSupported
    /// It was not done.
    case rejected
}
