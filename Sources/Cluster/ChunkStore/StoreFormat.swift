import BlockTypes
import Environment

/// Why a store can not be made as asked.
public enum StoreFormatError: Error, Hashable, Sendable, CustomStringConvertible {
    /// The device is smaller than ``StoreFormat/deviceBytesMin`` or than its journal needs.
    case tooSmall(ByteCount, needed: ByteCount)
    /// A block number has 32 bits.
    case tooLarge(ByteCount)
    /// The journal is not a multiple of 4 KiB or smaller than ``StoreFormat/journalBytesMin``.
    case badJournal(UInt64)
    /// Neither 512 nor 4096.
    case badSector(Int)

    /// What happened and what to do.
    public var description: String {
        switch self {
        case .tooSmall(let size, let needed):
            "a store of \(size) is too small; it needs \(needed) with this journal"
        case .tooLarge(let size): "a store of \(size) is too large; use at most 16 TiB per store"
        case .badJournal(let bytes):
            "a journal of \(bytes) bytes is not possible; use a multiple of 4096 from \(StoreFormat.journalBytesMin)"
        case .badSector(let bytes): "sectors of \(bytes) bytes are not supported; use 512 or 4096"
        }
    }
}

/// What a new store shall be.
public struct StoreFormat: Hashable, Sendable {
    /// Who it is.
    public let identity: StoreIdentity
    /// Its device.
    public let geometry: DiskGeometry
    /// Bytes of the journal ring.
    public let journalBytes: UInt64
    /// True for a file whose blocks are allocated by the first write.
    public let isLazilyGrown: Bool

    /// The smallest ring: for two copysets (``copysetsMax(journalBytes:)``).
    public static let journalBytesMin: UInt64 = 128 << 10
    /// The largest device: 32 bits of block number.
    public static let deviceBytesMax: UInt64 = (1 << 32 - 1) * 4096
    /// The fewest data blocks that leave room for a checkpoint beside the data.
    static let dataBlocksMin = 128

    /// - Throws: ``StoreFormatError`` when the sizes do not fit together.
    public init(
        identity: StoreIdentity, geometry: DiskGeometry, journalBytes: UInt64? = nil,
        isLazilyGrown: Bool = false
    ) throws(StoreFormatError) {
        let journal = journalBytes ?? Self.defaultJournalBytes(for: geometry.size)
        guard geometry.sectorBytes == 512 || geometry.sectorBytes == 4096 else {
            throw .badSector(geometry.sectorBytes)
        }
        guard geometry.size.bytes <= Self.deviceBytesMax else { throw .tooLarge(geometry.size) }
        guard journal >= Self.journalBytesMin, journal % 4096 == 0, journal <= 1 << 40 else {
            throw .badJournal(journal)
        }
        let needed = max(
            2 * (StoreLayout.journalStart + journal + 4096), 2 << 20 + 1 << 19,
            StoreLayout.journalStart + journal + UInt64(Self.dataBlocksMin) * 4096)
        guard geometry.size.bytes >= needed else {
            throw .tooSmall(geometry.size, needed: ByteCount(bytes: needed))
        }
        (self.identity, self.geometry, self.journalBytes) = (identity, geometry, journal)
        self.isLazilyGrown = isLazilyGrown
    }

    /// Copysets that a journal can serve: each may keep one entry of the largest size in the ring for ever,
    /// and all of them together get 1/16 of it, besides the 1/16 that they share.
    public static func copysetsMax(journalBytes: UInt64) -> Int {
        Int(journalBytes / 16) / JournalRecord.byteCountMax
    }

    /// 1/64 of a small store, at least 16 MiB; 1/256 of a large one, 512 MiB to 32 GiB (ENGINE 4.2).
    public static func defaultJournalBytes(for size: ByteCount) -> UInt64 {
        let small = max(16 << 20, size.bytes / 64)
        let large = max(512 << 20, min(size.bytes / 256, 32 << 30))
        return min(small, large) / 4096 * 4096
    }
}

/// Where things are on the device (ENGINE 4.2).
struct StoreLayout: Hashable {
    let deviceBytes: UInt64
    let sectorBytes: Int
    let journalBytes: UInt64

    /// The second superblock copy lies just before it.
    static let journalStart: UInt64 = 1 << 20 + 4096

    /// Block numbers end here.
    var endBlock: UInt32 { UInt32(deviceBytes / 4096) }
    /// First block after the journal.
    var firstDataBlock: UInt32 { UInt32((Self.journalStart + journalBytes) / 4096) }
    /// Four copies: front, 1 MiB, middle, 1 MiB before the end.
    var superblockBlocks: [UInt32] {
        [0, 256, UInt32(deviceBytes / 2 / 4096), UInt32((deviceBytes - 1 << 20) / 4096)]
    }
    /// The largest journal block, whole sectors: two entries of the largest size fit the smallest ring's.
    var journalBlockBytesMax: Int { Int(min(64 << 10, journalBytes / 16 / 4096 * 4096)) }
    /// Left free in the ring for what recovery must write: a small record for each copyset.
    var journalReserveBytes: UInt64 { UInt64(journalBlockBytesMax) + journalBytes / 512 }
    /// Records that may be live before each copyset is down to one entry.
    var journalLiveBytes: Int { Int(journalBytes / 16) }
    /// Left free for records that are carried forward when the ring is full of what can not be applied yet.
    ///
    /// Live records take 1/8 of the ring at most: the shared 1/16, and one entry for each copyset. Blocks are
    /// filled to 60 % or more, so that carrying all takes less than 1/4, besides the last block, a skipped
    /// ring's end, the batch that did not fit, and one that fails and is written again.
    var journalCarryBytes: UInt64 { journalBytes / 4 + UInt64(4 * journalBlockBytesMax) }
    /// Kept in the ring behind every root as history: what lets this replica serve a peer after a restart.
    var journalHistoryBytes: UInt64 {
        min(journalBytes * 2 / 5, (journalBytes - journalReserveBytes - journalCarryBytes) / 2)
    }
    /// A new root is wanted when the ring holds this much.
    var journalRootBytes: UInt64 {
        min(journalBytes * 3 / 5, (journalBytes - journalReserveBytes - journalCarryBytes) * 4 / 5)
    }

    /// Where the four copies are looked for on a device of this size.
    static func superblockBlocks(deviceBytes: UInt64) -> [UInt32] {
        guard deviceBytes >= 2 << 20 else { return deviceBytes >= 4096 ? [0] : [] }
        return StoreLayout(deviceBytes: deviceBytes / 4096 * 4096, sectorBytes: 512, journalBytes: 0)
            .superblockBlocks
    }
}
