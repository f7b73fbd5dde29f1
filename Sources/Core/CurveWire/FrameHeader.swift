import BlockTypes

/// The fixed start of every frame: 64 bytes, little-endian.
///
/// `magic:4 | version:1 | kind:1 | flags:2 | bodyBytes:4 | payloadBytes:4 | id:8 | copyset:4 | number:4 |
/// a:8 | b:8 | c:8 | d:4 | crc:4`, where `crc` is the CRC32C of the 60 bytes before it and the body.
/// README.md says what each kind keeps in `id` to `d`; what it does not use is zero.
struct FrameHeader {
    var kind: FrameKind
    var flags: UInt16 = 0
    var bodyBytes = 0
    var payloadBytes = 0
    /// A request's id, or the sender's clock in what replicas exchange.
    var id: UInt64 = 0
    var copyset: UInt32 = 0
    /// An epoch or a term.
    var number: UInt32 = 0
    var a: UInt64 = 0
    var b: UInt64 = 0
    var c: UInt64 = 0
    var d: UInt32 = 0

    static let magic: UInt32 = 0x3156_5243  // "CRV1" as the bytes stand in the stream.
    static let checksumOffset = 60

    init(_ kind: FrameKind) { self.kind = kind }

    /// Writes all but the checksum.
    func write(_ writer: inout WireWriter) {
        writer.put(Self.magic)
        writer.put(WireLimits.frameVersion)
        writer.put(kind.rawValue)
        writer.put(flags)
        writer.put(UInt32(bodyBytes))
        writer.put(UInt32(payloadBytes))
        writer.put(id)
        writer.put(copyset)
        writer.put(number)
        writer.put(a)
        writer.put(b)
        writer.put(c)
        writer.put(d)
    }

    /// Reads a header and checks what can be checked before its body is there.
    /// - Returns: the header and its checksum; `nil` when `bytes` holds fewer than 64.
    static func read(_ bytes: UnsafeRawBufferPointer, accepting kinds: FrameKindSet) throws(WireError)
        -> (header: FrameHeader, checksum: UInt32)?
    {
        var reader = unsafe WireReader(bytes)
        guard reader.remaining >= WireLimits.headerBytes, let magic = reader.next(UInt32.self),
            let version = reader.next(UInt8.self), let rawKind = reader.next(UInt8.self)
        else { return nil }
        guard magic == Self.magic else { throw .badMagic(magic) }
        guard version == WireLimits.frameVersion else { throw .unsupportedVersion(version) }
        guard let kind = FrameKind(rawValue: rawKind) else { throw .unknownKind(rawKind) }
        guard kinds.contains(kind) else { throw .notAllowed(kind) }
        var header = FrameHeader(kind)
        header.flags = reader.next(UInt16.self) ?? 0
        header.bodyBytes = Int(reader.next(UInt32.self) ?? 0)
        header.payloadBytes = Int(reader.next(UInt32.self) ?? 0)
        header.id = reader.next(UInt64.self) ?? 0
        header.copyset = reader.next(UInt32.self) ?? 0
        header.number = reader.next(UInt32.self) ?? 0
        header.a = reader.next(UInt64.self) ?? 0
        header.b = reader.next(UInt64.self) ?? 0
        header.c = reader.next(UInt64.self) ?? 0
        header.d = reader.next(UInt32.self) ?? 0
        let checksum = reader.next(UInt32.self) ?? 0
        guard header.flags & ~kind.knownFlags == 0 else { throw .unknownFlags(kind, header.flags) }
        guard header.bodyBytes <= kind.bodyBytesMax else {
            throw .bodyTooLong(kind, bytes: header.bodyBytes, bytesMax: kind.bodyBytesMax)
        }
        guard header.payloadBytes <= kind.payloadBytesMax else {
            throw .payloadTooLong(kind, bytes: header.payloadBytes, bytesMax: kind.payloadBytesMax)
        }
        guard header.payloadBytes % Geometry.blockBytes == 0 else {
            throw .malformed(kind, field: "payload length")
        }
        return (header, checksum)
    }

    /// Bytes of header, body and payload.
    var frameBytes: Int { WireLimits.headerBytes + bodyBytes + payloadBytes }
}

/// Bits of ``FrameHeader/flags``; each kind has a few of its own.
enum FrameFlag {
    static let helloHasCluster: UInt16 = 1
    static let helloHasServer: UInt16 = 2
    static let helloHasIncarnation: UInt16 = 4
    static let replyHasFence: UInt16 = 1
    static let replyHasDifference: UInt16 = 2
    static let isSyncing: UInt16 = 1
    static let isRejected: UInt16 = 2
    static let isPreVote: UInt16 = 1
    static let isTransfer: UInt16 = 2
    static let isGranted: UInt16 = 2
    static let pieceHasNext: UInt16 = 1
}

extension FrameKind {
    /// The flags this kind may carry.
    var knownFlags: UInt16 {
        switch self {
        case .hello: 7
        case .appendReply, .voteRequest, .voteReply: 3
        case .reply: 3
        case .fetched, .heartbeatReply, .syncPiece: 1
        case .helloRefused, .control, .controlReply, .read, .write, .trim, .zero, .fence, .blockStatus,
            .amend, .append, .heartbeat, .timeoutNow, .beats, .beatReplies, .syncOffer, .syncPull,
            .syncRefused, .fetch:
            0
        }
    }
    /// The longest body this kind may have.
    var bodyBytesMax: Int {
        switch self {
        case .hello, .helloRefused: WireLimits.helloBodyBytesMax
        case .controlReply, .syncOffer: WireLimits.longBodyBytesMax
        case .control, .write, .amend, .reply, .append, .beats, .beatReplies, .syncPiece, .fetched:
            WireLimits.bodyBytesMax
        case .fence: VolumeFence.groupMax * FrameBody.sessionBytes
        case .read, .trim, .zero, .blockStatus, .appendReply, .heartbeat, .heartbeatReply,
            .voteRequest, .voteReply, .timeoutNow, .syncPull, .syncRefused, .fetch:
            0
        }
    }
    /// The longest payload this kind may have.
    var payloadBytesMax: Int {
        switch self {
        case .write: WireLimits.requestPayloadBytesMax
        case .amend: WireLimits.amendPayloadBytesMax
        case .reply, .append, .syncPiece, .fetched: WireLimits.payloadBytesMax
        case .hello, .helloRefused, .control, .controlReply, .read, .trim, .zero, .fence, .blockStatus,
            .appendReply,
            .heartbeat, .heartbeatReply, .voteRequest, .voteReply, .timeoutNow, .beats, .beatReplies,
            .syncOffer, .syncPull, .syncRefused, .fetch:
            0
        }
    }
}

/// Some kinds of frame: those that a peer may send.
public struct FrameKindSet: Sendable {
    private let bits: UInt64  // Bit `rawValue` of each kind; all are below 64.
    /// The set of `kinds`.
    public init(_ kinds: [FrameKind]) {
        bits = kinds.reduce(0) { $0 | UInt64(1) << UInt64($1.rawValue) }
    }
    /// True when `kind` is one of them.
    public func contains(_ kind: FrameKind) -> Bool { bits >> UInt64(kind.rawValue) & 1 == 1 }

    /// The kinds in both.
    public func intersection(_ other: FrameKindSet) -> FrameKindSet { FrameKindSet(bits: bits & other.bits) }
    /// The kinds in either.
    public func union(_ other: FrameKindSet) -> FrameKindSet { FrameKindSet(bits: bits | other.bits) }
    private init(bits: UInt64) { self.bits = bits }

    /// Every kind.
    public static let all = FrameKindSet(FrameKind.allCases)
    /// What may come before a peer has said who it is.
    public static let handshake = FrameKindSet([.hello, .helloRefused])
    /// What a peer of `role` may send once it has said so.
    public static func sent(by role: PeerRole) -> FrameKindSet {
        switch role {
        case .client, .tool: requests
        case .metadata: ofMetadata
        case .chunkserver: ofChunkserver
        }
    }
    private static let requests = FrameKindSet([
        .helloRefused, .control, .read, .write, .trim, .zero, .fence, .blockStatus, .amend,
    ])
    private static let ofMetadata = FrameKindSet([.helloRefused, .control, .controlReply])
    private static let ofChunkserver = FrameKindSet(
        FrameKind.allCases.filter { kind in
            ![.hello, .read, .write, .trim, .zero, .fence, .blockStatus, .amend].contains(kind)
        })
}
