import BlockTypes
import Environment

/// Who a store is: written once at format, except for the incarnation.
public struct StoreIdentity: Hashable, Sendable {
    /// The cluster it belongs to.
    public var cluster: UniqueID
    /// The device itself.
    public var device: UniqueID
    /// The chunkserver that the MDS gave it.
    public var server: ServerID
    /// Counts openings (rule R7).
    public var incarnation: Incarnation
    /// The identity of these parts.
    public init(cluster: UniqueID, device: UniqueID, server: ServerID, incarnation: Incarnation) {
        (self.cluster, self.device, self.server, self.incarnation) = (cluster, device, server, incarnation)
    }
}

/// What an owner may tune, and the bounds of everything that could grow.
public struct StoreSettings: Sendable {
    /// Bytes of superseded blocks kept readable for peers that lag.
    public var retainedBytesMax = 256 << 20
    /// Log entries kept in memory over all copysets: about 10 MB.
    public var retainedEntriesMax = 65_536
    /// Payload bytes of entries that are not durable yet; beyond it ``ChunkStore/appendableCount(of:to:)``
    /// is 0.
    public var stagedBytesMax = 64 << 20
    /// A root is committed at least this often while there is something to commit.
    public var checkpointEvery: Duration = .seconds(30)
    /// A root is committed when this many bytes of map leaves are dirty.
    public var dirtyLeafBytesMax = 64 << 20
    /// Gives freed space back to the device, batched at each tick.
    public var discardsFreedSpace = false
    /// Bad blocks on one device before it is given up: they fit one page.
    public var badBlocksMax = 1000
    /// The defaults.
    public init() {}
}

/// What a copyset's replica knows of itself: what Raft starts from.
public struct CopysetState: Hashable, Sendable {
    /// Current term.
    public var term: Term
    /// Whom it voted for in ``term``.
    public var votedFor: ServerID?
    /// The members.
    public var members: [ServerID]
    /// Just before the first kept entry.
    public var base: LogPosition
    /// First entry of each run of equal terms after ``base``, ascending.
    public var termStarts: [LogPosition]
    /// The last entry.
    public var last: LogPosition
    /// Known committed.
    public var commit: LogIndex
    /// Applied to the map.
    public var applied: LogIndex
    /// On stable media.
    public var durable: LogIndex
    /// A full copy is needed or under way; the data here must not be read.
    public var isSyncing: Bool
    /// While syncing: votes only for candidates at or past this.
    public var voteFloor: LogPosition
    /// Created since the store was opened: no promise to an earlier leader can exist.
    public var isFresh: Bool
    /// The media lost an entry or a piece of the map that was durable (rule R4): ``isSyncing`` until copied
    /// again.
    public var isFaulty: Bool
}

/// A place in a full copy: the first block not copied yet.
public struct SyncCursor: Hashable, Comparable, Sendable {
    /// The chunk.
    public var chunk: ChunkKey
    /// The block in the chunk.
    public var block: Int
    /// Block `block` of `chunk`.
    public init(chunk: ChunkKey, block: Int) { (self.chunk, self.block) = (chunk, block) }
    /// Where every copy starts.
    public static let start = SyncCursor(chunk: ChunkKey(0), block: 0)
    /// Order of copying.
    public static func < (a: SyncCursor, b: SyncCursor) -> Bool { (a.chunk, a.block) < (b.chunk, b.block) }
}

/// A run of stored blocks in a ``SyncPiece``.
public struct SyncRun: Sendable {
    /// The blocks.
    public var run: BlockRun
    /// One per block.
    public var checksums: [CRC32C]
    /// The bytes.
    public var payload: Payload
    /// These bytes at `run`.
    public init(_ run: BlockRun, checksums: [CRC32C], payload: Payload) {
        (self.run, self.checksums, self.payload) = (run, checksums, payload)
    }
}

/// Everything stored in `[from, next)` as it was when ``applied`` was the applied index.
public struct SyncPiece: Sendable {
    /// First place covered.
    public var from: SyncCursor
    /// First place not covered; `nil` at the end.
    public var next: SyncCursor?
    /// The state it shows.
    public var applied: LogIndex
    /// Stored blocks, ascending; what is not listed is absent.
    public var runs: [SyncRun]
    /// The piece of these parts.
    public init(from: SyncCursor, next: SyncCursor?, applied: LogIndex, runs: [SyncRun]) {
        (self.from, self.next, self.applied, self.runs) = (from, next, applied, runs)
    }
    /// Blocks in one piece at most: 1 MiB.
    public static let blocksMax = 256
}

/// What a read returns.
public struct StoreRead: Sendable {
    /// Bytes and zeroes, in order.
    public var segments: [ReadSegment]
    /// One per block of data, in order; none for zeroes.
    public var checksums: [CRC32C]
}

/// Whether there is room for a write.
public enum StoreRoom: Hashable, Sendable {
    /// Yes.
    case enough
    /// Not now: the device is behind or has failed, or superseded blocks are still being let go. Soon, here
    /// or elsewhere.
    case later
    /// The store is full.
    case none
}

/// Why a read failed.
public enum StoreReadError: Error, Hashable, Sendable {
    /// These blocks of the chunk do not match their checksum, also after a second try: fetch from a peer,
    /// then ``ChunkStore/repair(_:_:payload:checksums:)``.
    case corrupt(blocks: [Int])
    /// The device failed twice for these blocks of the chunk; a peer's copy repairs them as well.
    case io(blocks: [Int], DiskError)
    /// The copyset is unknown here or is being copied.
    case notHere
}

/// Why a store could not be opened.
public enum StoreOpenError: Error, Hashable, Sendable, CustomStringConvertible {
    /// No superblock.
    case notAStore
    /// Made by a newer version.
    case newerFormat(version: UInt32)
    /// Made by a version before this one.
    case olderFormat(version: UInt32)
    /// Belongs to another cluster.
    case otherCluster(found: UniqueID)
    /// The device is smaller than the store on it.
    case truncated(expected: ByteCount, found: ByteCount)
    /// Something that must be there does not match its checksum.
    case damaged(String)
    /// The device failed.
    case io(DiskError)

    /// What happened and what to do.
    public var description: String {
        switch self {
        case .notAStore: "there is no store on this device; format it, or give the right path"
        case .newerFormat(let version):
            "the store has format \(version), this program knows \(Superblock.version); start a newer version"
        case .olderFormat(let version):
            "the store has format \(version), this program needs \(Superblock.version); start the version that"
                + " made it, or format it anew: its data is copied from the peers"
        case .otherCluster(let found):
            "the store belongs to cluster \(found); connect it there, or format it to use it here"
        case .truncated(let expected, let found):
            "the device has \(found) but the store needs \(expected); restore the device's size"
        case .damaged(let what):
            "the store is damaged: \(what); replace the device, its data is copied from the peers"
        case .io(let error): "the device failed while the store was opened: \(error); check the device"
        }
    }
}

/// Why a store does not take a copyset.
public enum CopysetRefusal: Error, Hashable, Sendable, CustomStringConvertible {
    /// More members than a record holds.
    case tooManyMembers(Int)
    /// Each copyset needs its share of the journal, lest those without a quorum stop the others.
    case journalTooSmall(ByteCount, copysetsMax: Int)

    /// What happened and what to do.
    public var description: String {
        switch self {
        case .tooManyMembers(let count):
            "a copyset of \(count) members is not possible; use at most \(JournalRecord.membersMax)"
        case .journalTooSmall(let size, let most):
            "a journal of \(size) serves at most \(most) copysets; spread them over more stores, or format"
                + " this one anew with a larger size"
        }
    }
}

/// Why a store stopped for good: it must be closed, its data comes from the peers (rule R6).
public enum StoreFailure: Error, Hashable, Sendable, CustomStringConvertible {
    /// The journal could not be written.
    case journal(DiskError)
    /// A flush failed: what the device holds is unknown.
    case flush(DiskError)
    /// A superblock could not be written.
    case superblock(DiskError)
    /// Map pages could not be written.
    case checkpoint(DiskError)
    /// More bad blocks than ``StoreSettings/badBlocksMax``, or one write that failed everywhere it was tried.
    case tooManyBadBlocks(Int)
    /// More volumes or chunks than the superblock can refer to.
    case tableFull

    /// What happened and what to do.
    public var description: String {
        switch self {
        case .journal(let error): "writing the journal failed (\(error)); replace the device"
        case .flush(let error): "flushing the device failed (\(error)); replace the device"
        case .superblock(let error): "writing the superblock failed (\(error)); replace the device"
        case .checkpoint(let error): "writing the map failed (\(error)); replace the device"
        case .tooManyBadBlocks(let count): "\(count) blocks of the device are bad; replace the device"
        case .tableFull: "the store's tables are full; move copysets to other stores"
        }
    }
}

/// Device bytes written, by cause (invariant I19).
public struct StoreTraffic: Hashable, Sendable {
    /// Payload of log entries as given by the owner.
    public var userBytes: UInt64 = 0
    /// Payload as written, retries included.
    public var dataBytes: UInt64 = 0
    /// Journal blocks with their padding.
    public var journalBytes: UInt64 = 0
    /// Leaves, tables and index pages.
    public var checkpointBytes: UInt64 = 0
    /// Superblocks.
    public var superblockBytes: UInt64 = 0
    /// Pieces of full copies.
    public var syncBytes: UInt64 = 0
    /// Repaired blocks.
    public var repairBytes: UInt64 = 0
    /// Bytes read.
    public var readBytes: UInt64 = 0
    /// Write requests.
    public var writes: UInt64 = 0
    /// Flushes.
    public var flushes: UInt64 = 0
    /// Nothing yet.
    public init() {}
    /// All bytes written.
    public var writtenBytes: UInt64 {
        dataBytes + journalBytes + checkpointBytes + superblockBytes + syncBytes + repairBytes
    }
}

/// Where a store's space is. The classes add up to the capacity (invariant I8).
public struct StoreUsage: Hashable, Sendable {
    /// Blocks for data and metadata.
    public var capacityBytes: UInt64 = 0
    /// Holding data, staged entries or metadata.
    public var usedBytes: UInt64 = 0
    /// Free at once.
    public var freeBytes: UInt64 = 0
    /// Superseded, free soon (or kept for a peer that lags).
    public var quarantinedBytes: UInt64 = 0
    /// Given up.
    public var badBytes: UInt64 = 0
    /// Between the journal's tail and its head.
    public var journalBytesUsed: UInt64 = 0
    /// The whole ring.
    public var journalBytesTotal: UInt64 = 0
    /// True when the file below is not written in full yet.
    public var isLazilyGrown = false
    /// The file system below a lazily grown store had no room at the last try.
    public var isOutOfSpaceBelow = false
    /// Bad blocks replaced by a peer's good copy since the store was opened.
    public var mendedBlocks: UInt64 = 0
    /// Device bytes by cause.
    public var traffic = StoreTraffic()
    /// Nothing known yet.
    public init() {}
}

/// What a ``ChunkStore`` wants done, and what it has to say.
public enum StoreEffect: Sendable {
    /// Hand to the disk.
    case disk(DiskRequest)
    /// Ready. The incarnation is durable.
    case opened
    /// Not usable.
    case openFailed(StoreOpenError)
    /// The copyset is durable.
    case copysetCreated(CopysetID)
    /// The copyset can not be here.
    case copysetRefused(CopysetID, CopysetRefusal)
    /// Entries and payload up to here are on stable media.
    case stored(CopysetID, through: LogPosition)
    /// The vote is durable.
    case voteStored(CopysetID, Term)
    /// The truncation is durable.
    case truncated(CopysetID, from: LogIndex)
    /// Applied up to here.
    case applied(CopysetID, through: LogIndex)
    /// Only entries after this are kept.
    case logStart(CopysetID, LogPosition)
    /// Answers ``ChunkStore/read(_:_:_:)``.
    case readCompleted(UInt64, Result<StoreRead, StoreReadError>)
    /// Answers ``ChunkStore/loadEntries(_:_:from:bytesMax:)``; empty when no longer kept.
    case entriesLoaded(UInt64, [LogEntry])
    /// The copyset's old data is dropped for good.
    case syncBegun(CopysetID)
    /// Answers ``ChunkStore/readSyncPiece(_:_:from:)``; `nil` when it could not be read, and then which
    /// blocks are to be repaired from a peer.
    case syncPieceRead(UInt64, SyncPiece?, unreadable: [BlockRun])
    /// The piece is written; it is durable together with ``syncFinished(_:)``.
    case pieceInstalled(CopysetID)
    /// The copy is complete and durable.
    case syncFinished(CopysetID)
    /// Nothing is in flight any more and everything is durable.
    case closed
    /// The device can not be trusted any more; nothing further is promised.
    case failStop(StoreFailure)
}
