import BlockTypes

/// Everything that two of our processes say to each other. One frame on the wire is a 64-byte header, a body
/// and a payload of whole blocks; README.md shows the layout.
///
/// A server answers with the request's `id`, which only the asking side gives meaning to.
public enum Frame: Sendable {
    /// The first frame both ways.
    case hello(Hello)
    /// Instead of a hello, or after the peer's: why this side will not talk. The connection closes.
    case helloRefused(reason: String)
    /// Client to the leader of a copyset.
    case request(id: UInt64, BlockRequest)
    /// The answer to ``request(id:_:)``.
    case reply(id: UInt64, BlockReply)
    /// Between the replicas of a copyset. A `.syncOffer` never goes this way:
    /// ``syncOffer(_:term:base:blocks:volumes:)`` carries it together with the state it stands for.
    case replica(CopysetID, ReplicaMessage)
    /// The heartbeats of all copysets that one server leads and another follows.
    case beats([(CopysetID, ReplicaMessage.Heartbeat)])
    /// The answers to ``beats(_:)``, and how many blocks of growth the follower's store has for this leader;
    /// `UInt64.max`: it can not say.
    case beatReplies(shareBlocks: UInt64, [(CopysetID, ReplicaMessage.HeartbeatReply)])
    /// Leader to a follower that must copy the whole copyset: its volumes' records as of `base`, and how many
    /// blocks it has.
    case syncOffer(
        CopysetID, term: Term, base: LogPosition, blocks: UInt64, volumes: [(VolumeID, VolumeRecord)])
    /// Follower to leader: the next piece at or after the cursor, from a state at `minApplied` or later.
    case syncPull(id: UInt64, CopysetID, term: Term, SyncCursorWire, minApplied: LogIndex)
    /// The answer to a pull.
    case syncPiece(id: UInt64, SyncPieceWire)
    /// The answer to a pull that cannot be served now: not the leader, or not that far yet.
    case syncRefused(id: UInt64)
    /// A replica whose copy of these blocks is bad asks another for its own.
    case fetch(id: UInt64, CopysetID, BlockRun)
    /// The answer to ``fetch(id:_:_:)``; any status but `.ok` refuses it.
    case fetched(id: UInt64, CopysetID, BlockReply)
    /// A request of ControlMessages, as protobuf.
    case control(id: UInt64, body: [UInt8])
    /// The answer to ``control(id:body:)``, as protobuf.
    case controlReply(id: UInt64, body: [UInt8])
}

/// What kind of process is at the other end; decides which frames it may send.
public enum PeerRole: UInt8, Sendable {
    /// A holder of volumes: a gateway or an embedding program.
    case client = 1
    /// Keeps replicas.
    case chunkserver = 2
    /// The metadata server.
    case metadata = 3
    /// The command line tool.
    case tool = 4
}

/// Who speaks. Nothing else is understood before it.
public struct Hello: Hashable, Sendable {
    /// What kind of process.
    public var role: PeerRole
    /// The cluster it belongs to; `nil` when it has yet to learn that.
    public var cluster: UniqueID?
    /// A chunkserver's number.
    public var server: ServerID?
    /// Which start of that chunkserver this is.
    public var incarnation: Incarnation?
    /// The highest protocol version it speaks.
    public var version: UInt32

    /// The version that this code speaks.
    public static let currentVersion: UInt32 = 2

    /// A hello of these fields.
    public init(
        role: PeerRole, cluster: UniqueID? = nil, server: ServerID? = nil, incarnation: Incarnation? = nil,
        version: UInt32 = Hello.currentVersion
    ) {
        (self.role, self.cluster, self.server) = (role, cluster, server)
        (self.incarnation, self.version) = (incarnation, version)
    }
}

/// What a client asks of a copyset.
public struct BlockRequest: Sendable {
    /// The Raft group that holds the blocks.
    public var copyset: CopysetID
    /// The attachment that asks.
    public var epoch: Epoch
    /// What is asked.
    public var kind: Kind

    /// The operations.
    public enum Kind: Sendable {
        /// Returns the blocks.
        case read(BlockRun)
        /// Replaces the blocks. One checksum per block, made by the client. The payloads follow each other
        /// and fill the run; a received frame has exactly one.
        case write(BlockRun, SnapshotNumber, RequestTag, checksums: [CRC32C], payload: [Payload])
        /// Forgets the blocks.
        case trim(BlockRun, SnapshotNumber, RequestTag)
        /// Makes the blocks read as zeroes.
        case zero(BlockRun, SnapshotNumber, RequestTag)
        /// Replaces some bytes of the run, under the leader's order, if they are as expected.
        case amend(Amendment)
        /// Announces an attachment, a group's members or a size.
        case fence(VolumeID, VolumeFence)
        /// Tells which of the blocks are stored.
        case blockStatus(BlockRun)
    }

    /// A request of these fields.
    public init(copyset: CopysetID, epoch: Epoch, kind: Kind) {
        (self.copyset, self.epoch, self.kind) = (copyset, epoch, kind)
    }
}

/// How a request ended.
public enum ReplyStatus: UInt8, Sendable, CaseIterable {
    /// Done; a write is on stable media of a majority.
    case ok = 0
    /// Another replica leads; ``BlockReply/leader`` may name it.
    case notLeader = 1
    /// Leads, but may not serve yet.
    case notReady = 2
    /// A newer attachment was announced: this one is over for good.
    case staleEpoch = 3
    /// Not inside the volume.
    case outOfRange = 4
    /// No room for new data.
    case noSpace = 5
    /// The volume was deleted.
    case deleted = 6
    /// The payload does not match its checksums, or no replica's copy matches.
    case checksumMismatch = 7
    /// Too much in flight: try again later.
    case overloaded = 8
    /// The request makes no sense.
    case badRequest = 9
    /// This server has no replica of that copyset.
    case wrongCopyset = 10
    /// The tag is older than the window: nobody remembers whether it was done.
    case forgotten = 11
    /// The epoch is newer than the copyset knows: announce it first.
    case needsFence = 12
    /// What is stored is not what was expected; nothing was written, and no copy of the request ever will.
    /// ``BlockReply/differsAtByte`` says where, if that is still known.
    case miscompare = 13
}

/// Bytes of a run of blocks that the leader replaces in the order of its log: it reads the blocks, perhaps
/// compares, and writes them whole. No other change of them comes in between.
public struct Amendment: Sendable {
    /// The blocks around the bytes.
    public var run: BlockRun
    /// The bytes, counted from the run's first one.
    public var bytes: Range<Int>
    /// The volume's snapshot number.
    public var snapshot: SnapshotNumber
    /// The request's name. One that compares has a second name, ``missTag``.
    public var tag: RequestTag
    /// One per block of the payload.
    public var checksums: [CRC32C]
    /// The run's blocks with the new bytes at their places; then, if it compares, those with the bytes that
    /// are expected. The other bytes mean nothing. A received frame has exactly one payload.
    public var payload: [Payload]

    /// An amendment of these fields.
    public init(
        run: BlockRun, bytes: Range<Int>, snapshot: SnapshotNumber, tag: RequestTag, checksums: [CRC32C],
        payload: [Payload]
    ) {
        (self.run, self.bytes, self.snapshot, self.tag) = (run, bytes, snapshot, tag)
        (self.checksums, self.payload) = (checksums, payload)
    }
    /// True when it expects something.
    public var compares: Bool { checksums.count == 2 * run.blockCount }
    /// The name that a comparison uses up when it finds a difference; a write uses up ``tag``. So what was
    /// found is known wherever it is known which requests were done.
    public var missTag: RequestTag { RequestTag(session: tag.session, sequence: tag.sequence - 1) }
    /// True when its parts fit each other.
    var isWellFormed: Bool {
        let blocks = run.blockCount
        return blocks <= WireLimits.amendBlocksMax && !bytes.isEmpty && bytes.lowerBound >= 0
            && bytes.lowerBound < Geometry.blockBytes && bytes.upperBound <= run.byteCount
            && bytes.upperBound > run.byteCount - Geometry.blockBytes
            && (checksums.count == blocks || checksums.count == 2 * blocks && tag.sequence > 1)
            && payload.reduce(0) { $0 + $1.byteCount } == checksums.count * Geometry.blockBytes
    }
}

/// The answer to a ``BlockRequest`` or a repair's fetch.
public struct BlockReply: Sendable {
    /// How it ended.
    public var status: ReplyStatus
    /// Who leads, if this server knows; never server 0.
    public var leader: ServerID?
    /// The fence that refused the request, when one did.
    public var fence: VolumeFence?
    /// A read's blocks, in order, or what a block status found.
    public var segments: [ReadSegment]
    /// One per block of the data segments, in order.
    public var checksums: [CRC32C]
    /// With ``ReplyStatus/miscompare``: the first byte of the run that differs; `nil`: nobody remembers.
    public var differsAtByte: Int?

    /// A reply of these fields.
    public init(
        status: ReplyStatus, leader: ServerID? = nil, fence: VolumeFence? = nil, segments: [ReadSegment] = [],
        checksums: [CRC32C] = []
    ) {
        (self.status, self.leader, self.fence) = (status, leader, fence)
        (self.segments, self.checksums) = (segments, checksums)
    }
}

/// A place in a copyset's chunks, in key order: where a full copy has got to.
public struct SyncCursorWire: Hashable, Sendable {
    /// The chunk.
    public var chunk: ChunkKey
    /// Block in the chunk, 0...4096; 4096 is the chunk's end.
    public var block: Int
    /// Block `block` of `chunk`.
    public init(chunk: ChunkKey, block: Int) { (self.chunk, self.block) = (chunk, block) }
}

/// Some blocks of a full copy.
public struct SyncPieceWire: Sendable {
    /// The copyset being copied.
    public var copyset: CopysetID
    /// The leader's term.
    public var term: Term
    /// Where the piece starts: the pull's cursor.
    public var from: SyncCursorWire
    /// Where the next piece starts; `nil` after the last.
    public var next: SyncCursorWire?
    /// The piece is the state after this entry.
    public var applied: LogIndex
    /// Every stored block from `from` up to `next`, with one checksum per block.
    public var runs: [(BlockRun, checksums: [CRC32C], payload: Payload)]

    /// A piece of these fields.
    public init(
        copyset: CopysetID, term: Term, from: SyncCursorWire, next: SyncCursorWire?, applied: LogIndex,
        runs: [(BlockRun, checksums: [CRC32C], payload: Payload)]
    ) {
        (self.copyset, self.term, self.from) = (copyset, term, from)
        (self.next, self.applied, self.runs) = (next, applied, runs)
    }
}
