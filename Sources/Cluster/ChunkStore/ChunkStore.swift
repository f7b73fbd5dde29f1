import BlockTypes
import Environment

/// One device's chunks: methods say what happened, ``takeEffects(_:)`` says what to do about it.
///
/// Payload is written once, to its final place, and a small record into a journal that all copysets of the
/// device share; applying an entry flips the map in memory. Nothing is announced before it is on stable
/// media, and no block is written again while anything could need what it holds (rules R1 to R7, ENGINE 4.6).
///
/// One thread owns it. Call ``takeEffects(_:)`` after every round of events: one round's entries make one
/// commit batch.
public final class ChunkStore {
    enum Phase { case created, opening, open, closing, closed, stopped }

    let geometry: DiskGeometry
    let settings: StoreSettings
    let pool: BufferPool
    var phase = Phase.created
    var effects: [StoreEffect] = []
    var now = Duration.zero
    var traffic = StoreTraffic()
    var pending = PendingTable()

    var superblock: Superblock
    var layout: StoreLayout
    var allocator: BlockAllocator
    var badBlocks: [UInt32] = []
    /// Bad blocks, and blocks of failed writes that do not tell which one was bad: nobody gets them again.
    var unusable: Set<UInt32> = []
    var quarantinedBlockCount = 0
    /// The file system below had no room for what this store has room for.
    public internal(set) var isOutOfSpaceBelow = false
    /// When a write last found no room below.
    var outOfSpaceAt = Duration.zero

    var copysetsByID: [CopysetID: Copyset] = [:]
    var copysetIDs: [CopysetID] = []

    var journal = JournalState()
    var stalledCopysets: [Copyset] = []
    var storedCopysets: [Copyset] = []
    var appliedCopysets: [Copyset] = []
    /// Writes that found no room below a lazily grown store; tried again at the next tick.
    var retryAtTick: [RetryAtTick] = []

    var reads = ReadFence()
    var dying = Fifo<DyingChunk>()
    var discards = DiscardQueue()

    var tables: [RecordTable]
    var checkpoint: Checkpoint?
    var dirtyChunks: [ChunkMap] = []
    var dirtyVolumes: [(Copyset, VolumeState)] = []
    /// Table records that the next root may have to write for groups, at most.
    var dirtyWindowCount = 0
    var dirtyCopysets: [Copyset] = []
    var droppedChunks: [ChunkMap] = []
    var droppedVolumeSlots: [Int] = []
    var dirtyLeafCount = 0
    var lastCheckpoint = Duration.zero
    var wantsCheckpoint = false
    var appliedSinceRoot = 0
    var finishingSyncs: [Copyset] = []
    /// Blocks that full copies under way still bring; the sum over all copysets.
    var blocksToCome = 0
    /// Not yet durable as long as it is above the superblock's.
    var heardRevision: UInt64 = 0
    var durableRevision: UInt64 = 0
    var mendedBlockCount: UInt64 = 0

    var stagedBytes = 0
    var entryCount = 0
    var nextSerial: UInt64 = 1
    var isShortOfSpace = false
    /// An entry found no room: history goes at the next tick, since nothing else would ask for it.
    var owesSpace = false
    var recovery: Recovery?

    /// A store on a device of `geometry`; nothing happens before ``open(expectedCluster:)``.
    public init(geometry: DiskGeometry, settings: StoreSettings = StoreSettings(), pool: BufferPool) {
        (self.geometry, self.settings, self.pool) = (geometry, settings, pool)
        let nobody = StoreIdentity(
            cluster: UniqueID(high: 0, low: 0), device: UniqueID(high: 0, low: 0), server: ServerID(0),
            incarnation: Incarnation(0))
        superblock = Superblock(unknown: nobody)
        layout = superblock.layout
        allocator = BlockAllocator(layout: layout)
        tables = Self.emptyTables()
    }
    static func emptyTables() -> [RecordTable] {
        zip([NodeRecord.words, CopysetRecord.words, VolumeTableRecord.words], Superblock.indexPagesMax).map {
            RecordTable(recordWords: $0, indexPagesMax: $1)
        }
    }

    // MARK: What an owner can see

    /// Who this store is; meaningful once opened.
    public var identity: StoreIdentity { superblock.identity }
    /// The copysets here, ascending.
    public var copysets: [CopysetID] { copysetIDs }
    /// Where the space is and what was written.
    public var usage: StoreUsage {
        var usage = StoreUsage()
        func bytes(_ blocks: Int) -> UInt64 { UInt64(blocks) * UInt64(Geometry.blockBytes) }
        let quarantined = quarantinedBlockCount + reads.heldBlockCount + discards.blockCount
        let bad = unusable.count
        usage.capacityBytes = bytes(allocator.capacityBlocks)
        usage.freeBytes = bytes(allocator.freeBlocks)
        usage.quarantinedBytes = bytes(quarantined)
        usage.badBytes = bytes(bad)
        usage.usedBytes = bytes(allocator.capacityBlocks - allocator.freeBlocks - quarantined - bad)
        usage.journalBytesUsed = journal.head - journal.tail
        usage.journalBytesTotal = layout.journalBytes
        (usage.isLazilyGrown, usage.isOutOfSpaceBelow) = (superblock.isLazilyGrown, isOutOfSpaceBelow)
        usage.traffic = traffic
        usage.mendedBlocks = mendedBlockCount
        return usage
    }
    /// What Raft starts from; `nil` for a copyset that is not here.
    public func state(of id: CopysetID) -> CopysetState? {
        guard let copyset = copysetsByID[id] else { return nil }
        return CopysetState(
            term: copyset.term, votedFor: copyset.votedFor, members: copyset.members, base: copyset.log.base,
            termStarts: copyset.log.termStarts, last: copyset.log.last, commit: copyset.commit,
            applied: copyset.applied, durable: copyset.durable, isSyncing: copyset.isSyncing,
            voteFloor: copyset.voteFloor, isFresh: copyset.isFresh, isFaulty: copyset.isFaulty)
    }
    /// How far a copyset is; the part of ``state(of:)`` that costs nothing to tell.
    package func progress(of id: CopysetID) -> (applied: LogIndex, commit: LogIndex, durable: LogIndex)? {
        copysetsByID[id].map { ($0.applied, $0.commit, $0.durable) }
    }
    /// What the copyset knows of a volume at its applied index.
    public func volumeRecord(_ id: CopysetID, _ volume: VolumeID) -> VolumeRecord? {
        copysetsByID[id]?.volumes[volume]?.record
    }

    // MARK: Events

    /// A device request has ended.
    public func diskCompleted(_ token: DiskToken, _ result: Result<Void, DiskError>) {
        guard phase != .stopped, let operation = pending.take(token) else { return }
        perform(operation, result)
    }
    /// Time passes: paces checkpoints, frees what was deferred, tries again what found no room.
    public func tick(now: Duration) {
        self.now = now
        guard phase == .open || phase == .closing else { return }
        retryWithoutRoom()
        tickJournal()
        tickRetention()
        tickDiscards()
        tickSync()
        if hasCheckpointWork && now - lastCheckpoint >= settings.checkpointEvery { wantsCheckpoint = true }
        tickRevision()
    }
    /// Commits a root, flushes, then says ``StoreEffect/closed``. Entries given before are stored first.
    public func close() {
        switch phase {
        case .open:
            phase = .closing
            wantsCheckpoint = true
        case .created:
            phase = .closed
            effects.append(.closed)
        case .opening:
            recovery = nil
            phase = .closed
            effects.append(.closed)
        case .closing, .closed, .stopped: break
        }
    }
    /// Appends what is to be done and forgets it. Also closes the commit batch: call it after each round.
    public func takeEffects(_ into: inout [StoreEffect]) {
        pump()
        into.append(contentsOf: effects)
        effects.removeAll(keepingCapacity: true)
    }

    // MARK: Inside

    private func pump() {
        if phase == .opening, recovery?.stage == .records { pumpJournal() }
        guard phase == .open || phase == .closing else { return }
        unstall()
        pumpJournal()
        pumpDying()
        stepCheckpoint()
        announce()
        if phase == .closing { finishClosing() }
    }
    private func announce() {
        for copyset in storedCopysets {
            copyset.isListedStored = false
            guard let term = copyset.log.term(of: copyset.durable) else { continue }
            effects.append(
                .stored(copyset.id, through: LogPosition(term: term, index: copyset.durable)))
        }
        storedCopysets.clear()
        for copyset in appliedCopysets {
            copyset.isListedApplied = false
            effects.append(.applied(copyset.id, through: copyset.applied))
        }
        appliedCopysets.clear()
    }
    private func finishClosing() {
        guard journal.isIdle, checkpoint == nil, !wantsCheckpoint else { return }
        // A device that never answers keeps the store open: its memory may still be written to.
        guard pending.isEmpty else { return }
        if dying.isEmpty && hasCheckpointWork && retryAtTick.isEmpty {
            wantsCheckpoint = true
            stepCheckpoint()
            return
        }
        phase = .closed
        effects.append(.closed)
    }
    func failStop(_ failure: StoreFailure) {
        guard phase != .stopped else { return }
        phase = .stopped
        effects.append(.failStop(failure))
    }
    func submit(_ operation: PendingOperation, _ make: (DiskToken) -> DiskRequest) {
        let request = make(pending.add(operation))
        switch request {
        case .write: traffic.writes += 1
        case .flush: traffic.flushes += 1
        case .read(_, _, let into): traffic.readBytes += UInt64(into.byteCount)
        case .discard: break
        }
        effects.append(.disk(request))
    }

    private func perform(_ operation: PendingOperation, _ result: Result<Void, DiskError>) {
        switch operation {
        case .journal(let batch, let payload): journalWritten(batch, payload, result)
        case .data(let batch, let write): dataWritten(batch, write, result)
        case .batchFlush(let through): batchesFlushed(through, result)
        case .read(let read, let part): readPartCompleted(read, part, result)
        case .page(let write): checkpointPageWritten(write, result)
        case .checkpointFlush: checkpointFlushed(result)
        case .superblock: superblockWritten(result)
        case .discard(let span): discardCompleted(span)
        case .syncData(let install, let write): syncDataWritten(install, write, result)
        case .repairData(let repair): repairWritten(repair, result)
        case .recovery(let step): recover(step, result)
        }
    }
}

/// What a token stands for.
enum PendingOperation {
    case journal(Batch, Payload)
    case data(Batch, DataWrite)
    case batchFlush(through: UInt64)
    case read(ReadOperation, part: Int)
    case page(PageWrite)
    case checkpointFlush
    case superblock
    case discard(Span)
    case syncData(SyncInstall, DataWrite)
    case repairData(RepairOperation)
    case recovery(RecoveryStep)
}

/// Tokens in flight. A slot's generation makes its next token differ from its last.
struct PendingTable {
    private var operations: [PendingOperation?] = []
    private var generations: [UInt32] = []
    private var free: [Int] = []
    var isEmpty: Bool { free.count == operations.count }

    mutating func add(_ operation: PendingOperation) -> DiskToken {
        let slot: Int
        if let reused = free.popLast() {
            slot = reused
            operations[slot] = operation
            generations[slot] &+= 1
        } else {
            slot = operations.count
            operations.append(operation)
            generations.append(0)
        }
        return DiskToken(rawValue: UInt64(generations[slot]) << 32 | UInt64(slot))
    }
    /// - Returns: `nil` for a token that is not in flight.
    mutating func take(_ token: DiskToken) -> PendingOperation? {
        let slot = Int(token.rawValue & 0xFFFF_FFFF)
        guard slot < operations.count, generations[slot] == UInt32(token.rawValue >> 32) else { return nil }
        guard let operation = operations[slot] else { return nil }
        operations[slot] = nil
        free.append(slot)
        return operation
    }
}

/// What to try again when the file system below may have room.
enum RetryAtTick {
    case request(PendingOperation, at: ByteOffset, [Payload])
    case entry(Copyset, LogIndex, serial: UInt64)
}
