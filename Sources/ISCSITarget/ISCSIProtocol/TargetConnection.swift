import BlockTypes

/// Why a connection ended, as this side sees it.
public enum ISCSIEndReason: Hashable, Sendable, CustomStringConvertible {
    /// The initiator logged out.
    case loggedOut
    /// The login was refused with this class and detail.
    case loginRefused(UInt16)
    /// The login took too long.
    case loginTooLong
    /// The initiator came back, and this is what it had before.
    case reinstated
    /// The initiator answers no ping.
    case silent
    /// A reset of the target, or its removal.
    case dropped
    /// There are too many connections.
    case crowded
    /// What came cannot be trusted.
    case violation(String)

    /// In one line, for the log.
    public var description: String {
        switch self {
        case .loggedOut: "the initiator logged out"
        case .loginRefused(let status): "the login was refused with status \(String(status, radix: 16))"
        case .loginTooLong: "the login took too long"
        case .reinstated: "the initiator logged in again"
        case .silent: "the initiator answers no ping"
        case .dropped: "the target dropped the session"
        case .crowded: "there are too many connections"
        case .violation(let what): "the initiator broke the protocol: \(what)"
        }
    }
}

/// One connection: its reader, its numbers, and what it is in the middle of.
///
/// A class, because a session has several and each has its session; all belong to one portal group.
final class TargetConnection {
    enum Phase {
        case login
        /// Another loop is to go on with it: nothing is read or answered here any more.
        case moving
        /// All is agreed; an older session's commands have to end first.
        case awaitingOthers
        case fullFeature
        /// A logout was asked for: nothing more is taken.
        case loggingOut
        case closed
    }
    /// What the data segment under way belongs to.
    enum Incoming {
        case none
        case dropped
        case login(PDUHeader)
        case command(SCSITask, PDUHeader)
        case dataOut(SCSITask, PDUHeader)
        case control(PDUHeader)
    }
    /// Text in full feature phase.
    struct TextExchange {
        var taskTag: UInt32
        var transferTag: UInt32
        var incoming: [UInt8] = []
        var outgoing = OutgoingText()
        var isLastRequest = false
        /// What the initiator declared; counts when the exchange is over (section 7.12).
        var initiatorSegmentBytesMax: Int?
    }

    let id: ConnectionID
    let address: [UInt8]
    /// The number of the portal that it came by.
    let portal: Int?
    var phase = Phase.login
    var reader: PDUReader
    var login: LoginExchange
    /// The newest login request; `nil` before the first.
    var loginRequest: PDUHeader?
    /// The finished login and its last request, while ``Phase/awaitingOthers``.
    var agreed: (login: AgreedLogin, reply: LoginExchange.Reply, request: PDUHeader)?
    var incoming = Incoming.none
    /// Additional segments of the newest header: a reject gives them back.
    var additional: [UInt8] = []
    var session: TargetSession?
    var identifier: UInt16 = 0
    var parameters = ConnectionParameters()
    var text: TextExchange?

    /// The number of the next status.
    var statusNumber: UInt32 = 1
    /// Statuses before this one have arrived.
    var acknowledgedNumber: UInt32 = 1

    /// Bytes that arrived and may not be looked at yet.
    var held: [UInt8] = []
    var isPaused = false
    /// Reply bytes that the socket has not taken.
    var queuedSendBytes = 0
    /// A PDU came since the last ping was due.
    var wasHeard = true
    /// The ping that was not answered yet.
    var pingTag: UInt32?

    init(id: ConnectionID, address: [UInt8], portal: Int?, login: LoginExchange) {
        (self.id, self.address, self.portal, self.login) = (id, address, portal, login)
        reader = PDUReader(segmentBytesMax: ISCSILimits.loginSegmentBytesMax)
    }

    var isClosed: Bool { phase == .closed }

    /// Largest data segment for this initiator that keeps all but the last a multiple of a sector.
    var sendSegmentBytesMax: Int { parameters.initiatorSegmentBytesMax & ~511 }

    /// Notes which statuses have arrived. A number that was never sent says nothing.
    func acknowledge(_ expected: UInt32) {
        if precedes(acknowledgedNumber, expected), !precedes(statusNumber, expected) {
            acknowledgedNumber = expected
        }
    }

    // MARK: Sending

    /// Fills in the numbers of a PDU; one that carries a status uses its number up.
    func stamp(_ header: inout PDUHeader, usesStatus: Bool) {
        header.setNumbers(
            status: statusNumber, expectedCommand: session?.expectedCommandNumber ?? 0,
            maxCommand: session?.maxCommandNumber ?? 0)
        session?.noteWindowTold()
        if usesStatus { statusNumber &+= 1 }
    }
    /// Sends a PDU with few bytes of data or none.
    func send(_ header: PDUHeader, data: [UInt8] = [], effects: inout [PortalGroup.Effect]) {
        guard !isClosed else { return }
        var bytes: [UInt8] = []
        bytes.reserveCapacity(PDUHeader.byteCount + 12 + data.count)
        append(header, dataBytes: data.count, to: &bytes)
        if !data.isEmpty {
            let start = bytes.count
            bytes.append(contentsOf: data)
            appendTrailer(dataBytes: data.count, checksum: 0, countedFrom: start, to: &bytes)
        }
        queuedSendBytes += bytes.count
        effects.append(.send(id, consume bytes))
    }
    /// Appends a header, whose data will have `dataBytes`, and its digest.
    func append(_ header: PDUHeader, dataBytes: Int, to bytes: inout [UInt8]) {
        var header = header
        header.dataBytes = dataBytes
        let start = bytes.count
        header.append(to: &bytes)
        if parameters.hasHeaderDigest { Self.appendChecksum(0, countedFrom: start, to: &bytes) }
    }
    /// Appends what follows the data: padding and digest.
    /// - Parameters:
    ///   - checksum: of the data that is not in `bytes`.
    ///   - countedFrom: where in `bytes` the rest of it begins.
    func appendTrailer(dataBytes: Int, checksum: UInt32, countedFrom start: Int, to bytes: inout [UInt8]) {
        for _ in 0..<(-dataBytes & 3) { bytes.append(0) }
        if parameters.hasDataDigest { Self.appendChecksum(checksum, countedFrom: start, to: &bytes) }
    }
    /// Digests are little-endian, unlike everything else (RFC 7143, section 13.1 and its examples).
    private static func appendChecksum(_ seed: UInt32, countedFrom start: Int, to bytes: inout [UInt8]) {
        let sum = unsafe bytes.withUnsafeBytes {
            unsafe CRC32C.extend(seed, with: UnsafeRawBufferPointer(rebasing: $0[start...]))
        }
        unsafe withUnsafeBytes(of: sum.littleEndian) { unsafe bytes.append(contentsOf: $0) }
    }

    /// Refuses a PDU: its header goes back, with the additional segments that it came with.
    func reject(_ header: PDUHeader, _ reason: RejectReason, effects: inout [PortalGroup.Effect]) {
        var reply = PDUHeader(opcode: Opcode.reject, flags: Flag.final)
        reply.setByte(2, reason.rawValue)
        reply.taskTag = reservedTag
        stamp(&reply, usesStatus: true)
        var data = header.encoded
        if header.additionalBytes > 0 {
            data = Array((data + additional).prefix(parameters.initiatorSegmentBytesMax))
        }
        send(reply, data: data, effects: &effects)
    }
}
