import BlockTypes

/// One SCSI command, from its header to its status.
final class SCSITask {
    enum Stage {
        /// Its data is under way, or commands before it are missing.
        case arriving
        /// In order; waits for room among those in flight.
        case waiting
        /// Has room; waits for data.
        case gathering
        /// Given out.
        case executing
        /// Given out, and asked back.
        case aborting
        /// Its answer is here and waits behind a fence.
        case answered
        case ended
    }
    /// Why it ends without having been carried out (RFC 7143, section 11.4.7.2).
    enum Failure {
        case unexpectedData, incorrectAmount, dataLost
        /// Additional sense code and qualifier, key 0Bh.
        var code: (UInt8, UInt8) {
            switch self {
            case .unexpectedData: (0x0c, 0x0c)
            case .incorrectAmount: (0x0c, 0x0d)
            case .dataLost: (0x47, 0x05)
            }
        }
    }
    /// A run of data that the initiator is entitled to send.
    struct Burst {
        /// ``reservedTag``: unsolicited.
        var transferTag: UInt32
        var nextByte: Int
        var endByte: Int
        var nextDataNumber: UInt32 = 0
    }

    let id: TaskID
    let taskTag: UInt32
    let lun: LUN
    let cdb: CDB
    let attribute: TaskAttribute
    /// 1 to 15, the most to the least; 0: none was given.
    let priority: UInt8
    let isImmediate: Bool
    let commandNumber: UInt32
    let session: TargetSession
    let connection: TargetConnection
    let isRead: Bool
    let isWrite: Bool
    let expectedInBytes: Int
    let expectedOutBytes: Int
    /// Bytes of data that are kept: what the CDB asks for and the initiator offers.
    let keptOutBytes: Int
    /// What it counts for among the bytes in flight.
    let chargeBytes: Int

    var stage = Stage.arriving
    var isCharged = false
    /// It is one of its session's ``TargetSession/orderedTasks``.
    var isOrdering = false
    var failure: Failure?
    /// Data that may still come, in the order in which it must.
    var bursts: [Burst] = []
    /// Data that came, in order and without gaps.
    var receivedBytes = 0
    /// Where the next request for data begins.
    var nextRequestByte = 0
    /// R2Ts sent.
    var requestNumber: UInt32 = 0
    private var unsolicited: BlockBuffer?
    private var unsolicitedBytes = 0
    private var solicited: BlockBuffer?
    /// Task management functions that wait for its end.
    var waiters: [TaskManagement] = []
    /// Others that do.
    var endings: [TaskEnding] = []

    init(
        id: TaskID, header: PDUHeader, cdb: CDB, attribute: TaskAttribute, expected: TransferSizes,
        wanted: TransferSizes, session: TargetSession, connection: TargetConnection, limits: ISCSILimits
    ) {
        (self.id, self.cdb, self.attribute) = (id, cdb, attribute)
        (self.session, self.connection) = (session, connection)
        (taskTag, lun) = (header.taskTag, header.lun)
        // Its place is reserved where the field is not agreed on.
        priority = session.hasLaterFields ? header.byte(2) >> 4 : 0
        (isImmediate, commandNumber) = (header.isImmediate, header.commandNumber)
        (isRead, isWrite) = (header.has(Flag.read), header.has(Flag.write))
        (expectedInBytes, expectedOutBytes) = (expected.inBytes, expected.outBytes)
        // A CDB beyond the bound gets no data at all: whoever knows CDBs refuses it.
        let out = wanted.outBytes <= limits.transferBytesMax ? min(expected.outBytes, wanted.outBytes) : 0
        keptOutBytes = out
        chargeBytes = max(out, min(expected.inBytes, wanted.inBytes, limits.transferBytesMax))
    }

    /// It has room, and has not ended.
    var isUnderWay: Bool {
        switch stage {
        case .gathering, .executing, .aborting: true
        case .arriving, .waiting, .answered, .ended: false
        }
    }
    /// Its priority counts: that of simple commands does.
    var hasPriority: Bool { priority > 0 && (attribute == .simple || attribute == .untagged) }
    /// All data that is kept is here, and nothing unsolicited is still to come.
    var hasAllData: Bool { bursts.isEmpty && receivedBytes >= keptOutBytes }

    /// The first failure counts.
    func fail(_ failure: Failure) { if self.failure == nil { self.failure = failure } }

    /// Where `count` bytes at `offset` go: into memory that is taken when it is first needed.
    func destination(offset: Int, count: Int, isSolicited: Bool, pool: BufferPool) -> PDUReader.Destination {
        let kept = min(count, keptOutBytes - offset)
        guard failure == nil, kept > 0 else { return .skip }
        if isSolicited {
            let buffer = solicited ?? pool.take(byteCount: keptOutBytes - unsolicitedBytes)
            solicited = buffer
            return .buffer(buffer, at: offset - unsolicitedBytes, keep: kept)
        }
        if unsolicited == nil {
            unsolicited = pool.take(byteCount: min(bursts.first?.endByte ?? 0, keptOutBytes))
        }
        guard let unsolicited else { return .skip }
        return .buffer(unsolicited, at: offset, keep: kept)
    }
    /// The unsolicited data is over: what is missing is asked for.
    func endUnsolicited() {
        unsolicitedBytes = min(receivedBytes, keptOutBytes)
        nextRequestByte = unsolicitedBytes
    }
    /// The data as it goes out: what came unasked, then what was asked for.
    func takeData() -> [Payload] {
        var pieces: [Payload] = []
        if let first = unsolicited.take(), unsolicitedBytes > 0 {
            pieces.append(Payload(consume first, byteCount: unsolicitedBytes))
        }
        if let rest = solicited.take() {
            pieces.append(Payload(rest, byteCount: keptOutBytes - unsolicitedBytes))
        }
        return pieces
    }
    func dropData() { (unsolicited, solicited) = (nil, nil) }

    /// Sense data, fixed format, key "aborted command" (SPC-4, section 4.5.3).
    static func sense(_ failure: Failure) -> [UInt8] {
        let (code, qualifier) = failure.code
        return [0x70, 0, 0x0b, 0, 0, 0, 0, 10, 0, 0, 0, 0, code, qualifier, 0, 0, 0, 0]
    }
}

/// Names a request to end tasks; whoever makes it chooses the number.
public struct TaskEndingID: Hashable, Sendable {
    /// The number.
    public let rawValue: UInt64
    /// Request number `rawValue`.
    public init(rawValue: UInt64) { self.rawValue = rawValue }
}

/// Tasks that are being ended though nobody here asked for that.
final class TaskEnding {
    let id: TaskEndingID
    /// Tasks that have not ended yet.
    var waitsFor = 0
    init(_ id: TaskEndingID) { self.id = id }
}

/// One task management function, from its request to its answer.
final class TaskManagement {
    enum Stage {
        /// Commands that were sent before it are missing.
        case waitingForCommands
        /// Tasks are being ended.
        case ending
        /// Given out.
        case propagated
        /// Others' answers have to arrive first.
        case fenced
        case ended
    }
    let id: ManagementID
    let function: ManagementFunction
    let lun: LUN
    let taskTag: UInt32
    let commandNumber: UInt32
    /// The newest command that came before it: immediate ones behind it are none of its business.
    let newestTask: UInt64
    let session: TargetSession
    let connection: TargetConnection
    var stage = Stage.waitingForCommands
    /// Tasks that have not ended yet.
    var waitsFor = 0
    var code = ManagementCode.complete
    /// Additional response information, 24 bits.
    var information: UInt32 = 0

    init(
        id: ManagementID, function: ManagementFunction, header: PDUHeader, newestTask: UInt64,
        session: TargetSession, connection: TargetConnection
    ) {
        self.newestTask = newestTask
        (self.id, self.function, self.session, self.connection) = (id, function, session, connection)
        (lun, taskTag, commandNumber) = (header.lun, header.taskTag, header.commandNumber)
    }
}
