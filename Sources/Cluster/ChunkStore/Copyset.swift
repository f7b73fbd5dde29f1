import BlockTypes

/// Blocks that nobody may write yet, oldest superseding entry first.
struct Quarantine {
    private struct Item {
        var index: LogIndex
        var span: Span
    }
    private var items = Fifo<Item>()
    private(set) var blockCount = 0
    var isEmpty: Bool { items.isEmpty }
    /// The entry that must be below a durable watermark for the oldest blocks to go.
    var firstIndex: LogIndex? { items.first?.index }

    mutating func add(_ span: Span, supersededBy index: LogIndex) {
        blockCount += Int(span.count)
        if let last = items.last, last.index == index, last.span.end == span.start {
            items[items.count - 1].span.count += span.count
        } else {
            items.append(Item(index: index, span: span))
        }
    }
    /// Rule R1: only a durable watermark lets blocks go. Entries after `base` may still be asked for by a
    /// peer, and an entry's blocks were superseded by a later one, so what `base + 2` superseded stays.
    mutating func release(_ watermark: DurableWatermark, keepingAfter base: LogIndex, _ body: (Span) -> Void)
    {
        let through = min(watermark.index, base.next)
        while let item = items.first, item.index <= through {
            items.dropFirst(1)
            blockCount -= Int(item.span.count)
            body(item.span)
        }
    }
    var allSpans: [Span] { (0..<items.count).map { items[$0].span } }
    /// Everything, for a copyset that is dropped as a whole; the caller waits for the record that says so.
    mutating func takeAll() -> [Span] {
        let spans = allSpans
        self = Quarantine()
        return spans
    }
}

/// A piece that was installed at a later index than what is applied: entries up to `applied` are in it
/// already.
struct InstalledPiece {
    var from: SyncCursor
    var next: SyncCursor?
    var applied: LogIndex
    func covers(_ place: SyncCursor) -> Bool { place >= from && next.map { place < $0 } ?? true }
}

/// One copyset's replica, in memory.
final class Copyset {
    let id: CopysetID
    var term = Term(0)
    var votedFor: ServerID?
    var members: [ServerID]
    var log = CopysetLog()
    var commit = LogIndex(0)
    var applied = LogIndex(0)
    var appliedTerm = Term(0)
    var durable = LogIndex(0)
    var retainAfter = LogIndex(0)
    var volumes: [VolumeID: VolumeState] = [:]
    private var sortedVolumes: [VolumeID]?

    var isFresh = false
    var isFaulty = false
    var isSyncing = false
    var voteFloor = LogPosition.zero
    /// The term in which the source of the copy under way leads; `nil` when there is none.
    var syncSourceTerm: Term?
    /// While syncing: blocks of the source that have not come yet.
    var syncBlocksToCome = 0
    /// While syncing: what has not been copied yet. `nil`: everything has.
    var syncCursor: SyncCursor?
    var installed: [InstalledPiece] = []
    /// While a piece is on its way: what it shows is not older than this.
    var applyLimit: LogIndex?
    /// A piece that found no room.
    var waitingPiece: SyncPiece?
    /// When an entry from its leader last found no room.
    var lackedRoomAt: Duration?

    var quarantine = Quarantine()
    var durableWatermark = DurableWatermark.none
    /// Truncations that no journal block holds yet.
    var cutsQueued = Fifo<QueuedCut>()
    /// Truncations on their way to the device, and the lowest record of what they cut.
    var truncationsInFlight = 0
    var truncatedLSN: UInt64 = .max
    /// What the ring holds of entries after ``durableWatermark``.
    var live = LiveRecords()
    /// Raised when the data is dropped: watermarks of before mean nothing afterwards.
    var generation = 0
    /// Journal items that wait for free blocks; later items of this copyset wait behind them.
    var stalled = Fifo<(index: LogIndex, serial: UInt64)>()

    // Marks of the store's lists, so that each holds a copyset once.
    var slot = -1
    var isListedDirty = false
    var batchMark: UInt64 = 0
    var isListedStored = false
    var isListedApplied = false
    var hasQueuedWatermark = false
    var announcedBase = LogIndex(0)

    /// Blocks of all volumes that hold data.
    var storedBlockCount: Int {
        volumes.values.reduce(0) { sum, volume in
            volume.chunks.values.reduce(sum) { $0 + $1.leaves.reduce(0) { $0 + ($1?.storedCount ?? 0) } }
        }
    }
    /// True when nothing is missing of a copy whose pieces are all here.
    ///
    /// The log given up for it may have held what is committed. The log here surely holds that once it is
    /// durable up to an entry of the source's own term, for a leader has what earlier ones committed, and up
    /// to the end of what was given up, which that same leader may have committed with this replica's word.
    /// Before that, this replica must neither vote by its log nor count.
    var isWholeCopy: Bool {
        guard let syncSourceTerm, let reached = log.term(of: durable) else { return false }
        let end = LogPosition(term: reached, index: durable)
        return isSyncing && installed.isEmpty && reached >= syncSourceTerm && end >= voteFloor
    }

    init(id: CopysetID, members: [ServerID]) { (self.id, self.members) = (id, members) }

    var volumeIDs: [VolumeID] {
        if let sortedVolumes { return sortedVolumes }
        let sorted = volumes.keys.sorted()
        sortedVolumes = sorted
        return sorted
    }
    func insert(_ volume: VolumeState) {
        volumes[volume.id] = volume
        sortedVolumes = nil
    }
    func removeVolumes() {
        volumes = [:]
        sortedVolumes = nil
    }
    /// The data was dropped but the record that says so is not durable: an index means nothing to older
    /// records.
    var isResetting = false

    /// Watermark for the journal (rule R2): applied never passes what is durable here.
    var watermark: LogIndex? {
        if isResetting { return nil }
        return isPlanted(.watermarkAhead) ? commit : applied
    }
}
