import BlockTypes

/// What a frame is, as one byte of its header. Numbers are for ever.
public enum FrameKind: UInt8, Sendable, CaseIterable {
    case hello = 1
    case helloRefused = 2
    case control = 3
    case controlReply = 4
    case read = 16
    case write = 17
    case trim = 18
    case zero = 19
    case fence = 20
    case reply = 21
    case blockStatus = 22
    case amend = 23
    case append = 32
    case appendReply = 33
    case heartbeat = 34
    case heartbeatReply = 35
    case voteRequest = 36
    case voteReply = 37
    case timeoutNow = 38
    case beats = 39
    case beatReplies = 40
    case syncOffer = 48
    case syncPull = 49
    case syncPiece = 50
    case syncRefused = 51
    case fetch = 52
    case fetched = 53
}

/// The bytes cannot be trusted any more: close the connection.
public enum WireError: Error, Hashable, Sendable, CustomStringConvertible {
    /// Not our protocol at all.
    case badMagic(UInt32)
    /// A frame layout that this code does not know.
    case unsupportedVersion(UInt8)
    /// A kind that this version does not have.
    case unknownKind(UInt8)
    /// Flags that this kind does not have.
    case unknownFlags(FrameKind, UInt16)
    /// The peer may not send this kind now.
    case notAllowed(FrameKind)
    /// The header announces more body than the kind may have.
    case bodyTooLong(FrameKind, bytes: Int, bytesMax: Int)
    /// The header announces more payload than the kind may have.
    case payloadTooLong(FrameKind, bytes: Int, bytesMax: Int)
    /// Header and body do not match their checksum: damaged on the way.
    case checksumMismatch
    /// A field makes no sense; `field` says which.
    case malformed(FrameKind, field: String)

    /// What happened, in one line.
    public var description: String {
        switch self {
        case .badMagic(let found):
            "the peer does not speak the Curve protocol (it starts with 0x\(String(found, radix: 16)))"
        case .unsupportedVersion(let found):
            "the peer uses frame layout \(found), this program knows \(WireLimits.frameVersion); "
                + "run the same release on both sides"
        case .unknownKind(let found): "unknown frame kind \(found); run the same release on both sides"
        case .unknownFlags(let kind, let flags):
            "\(kind) frame with unknown flags 0x\(String(flags, radix: 16))"
        case .notAllowed(let kind): "the peer may not send a \(kind) frame now"
        case .bodyTooLong(let kind, let bytes, let most):
            "\(kind) frame with a body of \(bytes) bytes, at most \(most) are allowed"
        case .payloadTooLong(let kind, let bytes, let most):
            "\(kind) frame with a payload of \(bytes) bytes, at most \(most) are allowed"
        case .checksumMismatch: "a frame was damaged on the way: its header or body fails its checksum"
        case .malformed(let kind, let field): "\(kind) frame whose \(field) makes no sense"
        }
    }
}

/// The numbers that bound what a peer can make us hold.
public enum WireLimits {
    /// The frame layout's version, a byte of every header.
    public static let frameVersion: UInt8 = 3
    /// Bytes of the header.
    public static let headerBytes = 64
    /// Body of most kinds: the longest list of heartbeats; a control request that reports 20,000 copysets.
    public static let bodyBytesMax = 1 << 20
    /// A control reply (the status of many servers), and a sync offer (at most 552 bytes a volume).
    public static let longBodyBytesMax = 16 << 20
    /// Before a peer has said who it is, it can make us hold this much.
    public static let helloBodyBytesMax = 4 << 10
    /// Longest reason in a ``Frame/helloRefused(reason:)``; longer ones are cut when sent.
    public static let reasonBytesMax = 1 << 10
    /// Payload of replies, appends and sync pieces.
    public static let payloadBytesMax = 2 << 20
    /// Payload of a client's write: it becomes one log entry as it is, so no client can make a larger one.
    public static let requestPayloadBytesMax = LogEntry.payloadBytesMax
    /// Blocks that an amendment may touch: those around the longest run of bytes that can be compared.
    public static let amendBlocksMax = (VolumeRequest.compareBytesMax - 1) / Geometry.blockBytes + 2
    /// Payload of an amendment: the new blocks, then the expected ones.
    public static let amendPayloadBytesMax = 2 * amendBlocksMax * Geometry.blockBytes
    /// Blocks that one read may ask for: its answer is 1 MiB at most, and fits a frame.
    public static let readBlocksMax = 256
    /// Blocks that one fetch may ask for, so that its answer fits a frame.
    public static let fetchBlocksMax = payloadBytesMax / Geometry.blockBytes
    /// Entries in one append, as ``ReplicaMessage/Append`` promises.
    public static let appendEntriesMax = 64
    /// Heartbeats in one frame: what fits the body.
    public static let beatsMax = 16 << 10
    /// Members in a configuration entry.
    public static let membersMax = 16
    /// Clocks, log indexes and the like stay below this, so that adding to one can never overflow.
    static let counterMax: UInt64 = 1 << 62
    /// Terms stay below this: an election adds one, and no peer can push it to the end of its 32 bits.
    static let termMax: UInt32 = 1 << 31
    /// End of the largest volume's address space, a last stripe group of 64 chunks included.
    static let fenceBytesMax = Geometry.volumeBytesMax + 64 * UInt64(Geometry.chunkBytes)
}
