import BlockTypes
import Environment

/// Proof that a journal block with this watermark is on stable media: only this file makes one (rule R1).
struct DurableWatermark {
    let index: LogIndex
    fileprivate init(_ index: LogIndex) { self.index = index }
    /// Nothing is known to be durable.
    static let none = DurableWatermark(LogIndex(0))
}

/// What waits to become a journal record.
enum JournalItem {
    case entry(Copyset, LogIndex, serial: UInt64)
    case record(Copyset, JournalRecord, Completion)
}

/// What follows from a record's being durable.
enum Completion {
    case nothing
    case created(CopysetID)
    case voteStored(CopysetID, Term)
    case truncated(Copyset, from: LogIndex, freed: [Span])
    case syncBegun(Copyset, dropped: [ChunkMap], freed: [Span], generation: Int, announce: Bool)
    case repaired(Copyset, RepairOperation.Block)
    case freed(Span)
    case freedAll([Span])
    case recovered
}

/// One commit batch: a journal block and the payload of the entries in it.
final class Batch {
    struct Entry {
        let copyset: Copyset
        let index: LogIndex
        let serial: UInt64
    }
    struct Mark {
        let copyset: Copyset
        let generation: Int
        let watermark: LogIndex
    }
    static let recordsMax = 64
    /// Large writes of one turn share a flush, yet a small one that comes behind them does not wait long.
    static let payloadBytesMax = 4 << 20

    let serial: UInt64
    var page: PageWriter
    var records: [(copyset: Copyset, at: Int)] = []
    var entries: [Entry] = []
    var completions: [Completion] = []
    var marks: [Mark] = []
    var payloadBytes = 0
    var lsn: UInt64 = 0
    var writesPending = 0
    var isFlushed = false

    init(serial: UInt64, buffer: BlockBuffer) {
        self.serial = serial
        page = PageWriter(buffer)
        page.pad(to: JournalHeader.byteCount)
    }
    var isFull: Bool { records.count >= Self.recordsMax || payloadBytes >= Self.payloadBytesMax }
}

/// Payload of one or more entries that lie side by side on the device.
struct DataWrite {
    var startByte: UInt64
    var byteCount: Int
    var payloads: [Payload]
    var entries: [Batch.Entry]
    var endByte: UInt64 { startByte + UInt64(byteCount) }
    static let byteCountMax = 1 << 20
}

struct JournalState {
    var head: UInt64 = 0
    /// Durable in the superblock: nothing before it is read again.
    var tail: UInt64 = 0
    var previousChecksum: UInt32 = 0
    var open: Batch?
    var inFlight = Fifo<Batch>()
    /// Everything but entries. It overtakes entries that wait, which does no harm: what a truncation cuts is
    /// no longer there to be recorded, and what is appended afterwards comes behind it.
    var urgent = Fifo<JournalItem>()
    var waiting = Fifo<JournalItem>()
    var nextBatch: UInt64 = 1
    var flushThrough: UInt64?
    var lastWatermarks = Duration.zero
    /// Entries whose records are written again: the old ones hold the tail, or name a place that failed.
    var carried = Fifo<JournalItem>()
    /// Some block starts, ascending, from the tail on.
    var boundaries = Fifo<UInt64>()
    /// Entries whose payload write failed, by serial: their old record holds back `durableLSN`.
    var stragglers: [UInt64: UInt64] = [:]
    /// Bytes of records that a crash now would bring back unapplied, over all copysets.
    var liveBytes = 0
    var roomMaking = RoomMaking.none
    /// none -> carrying -> carried -> none. Nothing but carried records is written before the root of the
    /// round is durable, so one round never needs more than its room (see `StoreLayout.journalCarryBytes`).
    enum RoomMaking {
        case none
        /// The record of every stable entry that is not applied is written again in front.
        case carrying
        /// All of them are durable: the next root lets the tail pass.
        case carried
    }
    /// Blocks in flight at most: one being written, one closing.
    static let inFlightMax = 2
    var isIdle: Bool {
        (open?.records.isEmpty ?? true) && inFlight.isEmpty && waiting.isEmpty && urgent.isEmpty
    }
}

extension ChunkStore {
    /// Moves what waits into the open batch and sends batches off. A batch closes when the one before is
    /// durable or when it is full (ENGINE 4.4).
    func pumpJournal() {
        while phase != .stopped {
            let isBlocked = fillOpenBatch()
            guard let batch = journal.open, !batch.records.isEmpty else { return noteCarried() }
            guard journal.inFlight.isEmpty || journal.inFlight.count < JournalState.inFlightMax && isBlocked
            else { return }
            guard closeBatch(batch) || startMakingRoom() else { return }
        }
    }

    /// - Returns: true when the batch can take no more.
    private func fillOpenBatch() -> Bool {
        let isMakingRoom = journal.roomMaking != .none
        while let item = (isMakingRoom ? nil : journal.urgent.first) ?? journal.carried.first {
            let batch = openBatch()
            let isUrgent = !isMakingRoom && !journal.urgent.isEmpty
            guard batch.page.position + Self.recordBytesMax(item) <= layout.journalBlockBytesMax,
                isUrgent || isMakingRoom || !batch.isFull
            else { return true }
            if isUrgent { journal.urgent.dropFirst(1) } else { journal.carried.dropFirst(1) }
            encode(item, into: batch)
        }
        while !isMakingRoom, let item = journal.waiting.first {
            let batch = openBatch()
            // An urgent record always finds room in the batch that is open.
            let room = layout.journalBlockBytesMax - JournalRecord.byteCountMax
            if batch.isFull || batch.page.position + Self.recordBytesMax(item) > room { return true }
            journal.waiting.dropFirst(1)
            encode(item, into: batch)
        }
        return journal.open?.isFull ?? false
    }
    private static func recordBytesMax(_ item: JournalItem) -> Int {
        switch item {
        case .record: JournalRecord.localBytesMax
        case .entry(let copyset, let index, _):
            copyset.log.contains(index) ? copyset.log[index].recordBytesMax : 0
        }
    }
    private func openBatch() -> Batch {
        if let open = journal.open { return open }
        let buffer = pool.take(byteCount: layout.journalBlockBytesMax)
        let batch = Batch(serial: journal.nextBatch, buffer: buffer)
        journal.nextBatch += 1
        journal.open = batch
        return batch
    }

    private func encode(_ item: JournalItem, into batch: Batch) {
        switch item {
        case .record(let copyset, let record, let completion):
            batch.records.append((copyset, batch.page.position))
            record.encode(copyset: copyset.id, into: &batch.page)
            batch.completions.append(completion)
            if case .watermark = record { copyset.hasQueuedWatermark = false }
        case .entry(let copyset, let index, let serial):
            guard copyset.log.contains(index), copyset.log[index].serial == serial else { return }
            // What was carried forward and has been applied meanwhile no longer needs it.
            guard index > copyset.applied else { return }
            let isRecorded = copyset.log[index].lsn != .max
            guard isRecorded || copyset.stalled.isEmpty else {
                return copyset.stalled.append((index, serial))
            }
            guard isRecorded || ringHasRoom(for: copyset, index), stage(copyset, index, batch) else {
                // An entry whose first place failed must not wait behind others: it holds the tail.
                if isRecorded { return retryAtTick.append(.entry(copyset, index, serial: serial)) }
                copyset.stalled.append((index, serial))
                stalledCopysets.append(copyset)
                return
            }
            if !isRecorded { noteLive(copyset, index) }
            batch.records.append((copyset, batch.page.position))
            batch.entries.append(Batch.Entry(copyset: copyset, index: index, serial: serial))
            JournalRecord.entry(copyset.log[index], index).encode(copyset: copyset.id, into: &batch.page)
        }
    }
    /// Finds room for an entry's payload.
    /// - Returns: false when there is none now.
    private func stage(_ copyset: Copyset, _ index: LogIndex, _ batch: Batch) -> Bool {
        let count = copyset.log[index].kind == .write ? Int(copyset.log[index].blockCount) : 0
        if count > 0 && copyset.log[index].payload != nil {
            let kind: SegmentClass = count <= BlockAllocator.smallBlocksMax ? .small : .large
            guard allocator.freeBlocks >= count + metaNeedBlocks,
                let spans = allocator.take(exactly: count, kind)
            else {
                isShortOfSpace = true
                return false
            }
            // An earlier try failed: its blocks go when the record of the new place is durable.
            let old = copyset.log[index].spans
            for place in 0..<old.count { batch.completions.append(.freed(old[place])) }
            copyset.log[index].spans = spans
            batch.payloadBytes += count * Geometry.blockBytes
        }
        journal.stragglers[copyset.log[index].serial] = nil
        // A record that is carried forward still counts at its old place until the new one is durable.
        if !copyset.log[index].isStable { copyset.log[index].lsn = journal.head }
        copyset.log[index].batch = batch.serial
        return true
    }

    private func closeBatch(_ batch: Batch) -> Bool {
        let sector = layout.sectorBytes
        let byteCount = (batch.page.position + sector - 1) / sector * sector
        var lsn = journal.head
        let offset = lsn % layout.journalBytes
        if offset + UInt64(byteCount) > layout.journalBytes { lsn += layout.journalBytes - offset }
        guard lsn + UInt64(byteCount) - journal.tail <= journalLimitBytes else { return false }
        journal.open = nil
        batch.lsn = lsn
        batch.page.pad(to: byteCount)
        for record in batch.records {
            guard let watermark = record.copyset.watermark else { continue }
            guard JournalRecord.setWatermark(watermark.rawValue, in: batch.page, at: record.at),
                record.copyset.batchMark != batch.serial
            else { continue }
            record.copyset.batchMark = batch.serial
            batch.marks.append(
                Batch.Mark(
                    copyset: record.copyset, generation: record.copyset.generation, watermark: watermark))
        }
        let header = JournalHeader(
            incarnation: UInt32(truncatingIfNeeded: identity.incarnation.rawValue), lsn: lsn,
            byteCount: UInt32(byteCount), recordCount: UInt16(batch.records.count),
            previousChecksum: journal.previousChecksum, durableLSN: durableLSN(before: lsn),
            device: identity.device.low)
        journal.previousChecksum = header.seal(batch.page)
        for case .truncated(let copyset, _, _) in batch.completions {
            copyset.truncationIsWritten()
            // A root that lets the tail pass it must not speak of it any more.
            markDirty(copyset)
        }
        noteBoundary(lsn)
        journal.head = lsn + UInt64(byteCount)
        journal.inFlight.append(batch)
        traffic.journalBytes += UInt64(byteCount)
        let block = Payload(batch.page.buffer, byteCount: byteCount)
        batch.writesPending += 1
        submit(.journal(batch, block)) { .write($0, at: journalOffset(lsn), [block]) }
        writePayloads(of: batch)
        noteJournalFill()
        return true
    }
    /// Remembers some places where a block starts: the tail must be one.
    func noteBoundary(_ lsn: UInt64) {
        if let last = journal.boundaries.last, lsn - last < layout.journalBytes / 256 { return }
        journal.boundaries.append(lsn)
    }
    func journalOffset(_ lsn: UInt64) -> ByteOffset {
        ByteOffset(bytes: StoreLayout.journalStart + lsn % layout.journalBytes)
    }
    private func durableLSN(before lsn: UInt64) -> UInt64 {
        // Torn entries are below the head until their truncation is durable.
        if let recovery { return recovery.durableLSN }
        var durable = journal.inFlight.first?.lsn ?? lsn
        // A minimum does not depend on the order of a dictionary.
        for straggler in journal.stragglers.values { durable = min(durable, straggler) }
        return durable
    }

    private func writePayloads(of batch: Batch) {
        var open: DataWrite?
        for entry in batch.entries {
            let slot = entry.copyset.log.contains(entry.index) ? entry.copyset.log[entry.index] : nil
            guard let slot, slot.serial == entry.serial, let payload = slot.payload else { continue }
            var done = 0
            for place in 0..<slot.spans.count {
                let span = slot.spans[place]
                let piece = payload.slice(done, span.byteCount)
                done += span.byteCount
                if var write = open, write.endByte == span.startByte, slot.attempts == 0,
                    write.byteCount + span.byteCount <= DataWrite.byteCountMax
                {
                    write.byteCount += span.byteCount
                    write.payloads.append(piece)
                    write.entries.append(entry)
                    open = write
                    continue
                }
                if let write = open { submitData(batch, write) }
                open = DataWrite(
                    startByte: span.startByte, byteCount: span.byteCount, payloads: [piece], entries: [entry])
            }
        }
        if let write = open { submitData(batch, write) }
    }
    private func submitData(_ batch: Batch, _ write: DataWrite) {
        batch.writesPending += 1
        traffic.dataBytes += UInt64(write.byteCount)
        submit(.data(batch, write)) { .write($0, at: ByteOffset(bytes: write.startByte), write.payloads) }
    }

    // MARK: Completions

    func journalWritten(_ batch: Batch, _ block: Payload, _ result: Result<Void, DiskError>) {
        switch result {
        case .success:
            batch.writesPending -= 1
            settleBatches()
        case .failure(.full):
            retryAtTick.append(.request(.journal(batch, block), at: journalOffset(batch.lsn), [block]))
        case .failure(let error): failStop(.journal(error))
        }
    }
    func dataWritten(_ batch: Batch, _ write: DataWrite, _ result: Result<Void, DiskError>) {
        batch.writesPending -= 1
        switch result {
        case .success: isOutOfSpaceBelow = false
        case .failure(let error): dataFailed(write, error)
        }
        if phase != .stopped { settleBatches() }
    }
    /// The payload goes elsewhere; the entry becomes durable with the record of the new place. Meanwhile the
    /// journal goes on: a full or failing spot must not hold up the other copysets.
    private func dataFailed(_ write: DataWrite, _ error: DiskError) {
        (isOutOfSpaceBelow, outOfSpaceAt) = (error == .full, now)
        let blame = Set(write.entries.map(\.serial)).count == 1
        for entry in write.entries {
            guard entry.copyset.log.contains(entry.index),
                entry.copyset.log[entry.index].serial == entry.serial
            else { continue }
            if error != .full {
                giveUpBlocks(of: write, entry, certain: blame)
                guard phase != .stopped else { return }
            }
            guard entry.copyset.log[entry.index].batch != .max else { continue }
            entry.copyset.log[entry.index].batch = .max
            journal.stragglers[entry.serial] = entry.copyset.log[entry.index].lsn
            if error == .full {
                retryAtTick.append(.entry(entry.copyset, entry.index, serial: entry.serial))
            } else {
                entry.copyset.log[entry.index].attempts += 1
                guard entry.copyset.log[entry.index].attempts <= Self.attemptsMax else {
                    return failStop(.tooManyBadBlocks(unusable.count))
                }
                journal.carried.append(.entry(entry.copyset, entry.index, serial: entry.serial))
            }
        }
    }
    /// Tries for one payload: a device that refuses this often in different places is broken.
    static let attemptsMax: UInt8 = 5

    /// Takes the blocks of a failed write out of use for good. A write of several entries does not tell which
    /// block failed: then they are only left alone until the next start.
    private func giveUpBlocks(of write: DataWrite, _ entry: Batch.Entry, certain: Bool) {
        let spans = entry.copyset.log[entry.index].spans
        var kept = Spans()
        for place in 0..<spans.count {
            let span = spans[place]
            if span.startByte >= write.startByte && span.startByte < write.endByte {
                if certain { addBad(span) } else { addSuspect(span) }
            } else {
                kept.append(span)
            }
        }
        entry.copyset.log[entry.index].spans = kept
    }
    func addBad(_ span: Span) {
        for block in span.start..<span.end where !badBlocks.contains(block) {
            badBlocks.append(block)
            unusable.insert(block)
        }
        wantsCheckpoint = true
        stopIfTooManyAreBad()
    }
    func addSuspect(_ span: Span) {
        unusable.formUnion(span.start..<span.end)
        stopIfTooManyAreBad()
    }
    private func stopIfTooManyAreBad() {
        guard
            badBlocks.count > settings.badBlocksMax
                || unusable.count > Self.unusablePerBadBlock * settings.badBlocksMax
        else { return }
        failStop(.tooManyBadBlocks(unusable.count))
    }
    /// One bad block takes the other blocks of its write out of use until the next start: 64 at most.
    static let unusablePerBadBlock = 64
    func batchesFlushed(_ through: UInt64, _ result: Result<Void, DiskError>) {
        if case .failure(let error) = result, !isPlanted(.failedFlushBelieved) {
            return failStop(.flush(error))
        }
        journal.flushThrough = nil
        for place in 0..<journal.inFlight.count where journal.inFlight[place].serial <= through {
            journal.inFlight[place].isFlushed = true
        }
        settleBatches()
    }

    /// Finishes batches in order; asks for one flush that covers all that are written.
    private func settleBatches() {
        let needsFlush = geometry.hasVolatileCache && !isPlanted(.ackBeforeFlush)
        while let batch = journal.inFlight.first, batch.writesPending == 0, !needsFlush || batch.isFlushed {
            journal.inFlight.dropFirst(1)
            finish(batch)
        }
        guard needsFlush, journal.flushThrough == nil else { return }
        var through: UInt64?
        for place in 0..<journal.inFlight.count {
            guard journal.inFlight[place].writesPending == 0 else { break }
            through = journal.inFlight[place].serial
        }
        guard let through else { return }
        journal.flushThrough = through
        submit(.batchFlush(through: through)) { .flush($0) }
    }

    private func finish(_ batch: Batch) {
        for entry in batch.entries {
            guard entry.copyset.log.contains(entry.index),
                entry.copyset.log[entry.index].serial == entry.serial,
                entry.copyset.log[entry.index].batch == batch.serial
            else { continue }
            let payload = entry.copyset.log[entry.index].payload
            entry.copyset.log[entry.index].isStable = true
            entry.copyset.log[entry.index].lsn = batch.lsn
            entry.copyset.log[entry.index].payload = nil
            stagedBytes -= payload?.byteCount ?? 0
            advanceDurable(entry.copyset)
        }
        watermarksAreDurable(batch.marks)
        for completion in batch.completions { complete(completion) }
    }
    /// A journal block or a root that says so is on stable media.
    func watermarksAreDurable(_ marks: [Batch.Mark]) {
        for mark in marks where mark.copyset.generation == mark.generation {
            guard mark.watermark > mark.copyset.durableWatermark.index else { continue }
            mark.copyset.durableWatermark = DurableWatermark(mark.watermark)
            journal.liveBytes -= mark.copyset.live.release(through: mark.watermark)
            releaseQuarantine(mark.copyset)
        }
    }
    private func advanceDurable(_ copyset: Copyset) {
        let old = copyset.durable
        while copyset.log.contains(copyset.durable.next), copyset.log[copyset.durable.next].isStable {
            copyset.durable = copyset.durable.next
        }
        guard copyset.durable > old else { return }
        if !copyset.isListedStored {
            copyset.isListedStored = true
            storedCopysets.append(copyset)
        }
        applyReady(copyset)
    }
    private func complete(_ completion: Completion) {
        switch completion {
        case .nothing: break
        case .created(let id): effects.append(.copysetCreated(id))
        case .voteStored(let id, let term): effects.append(.voteStored(id, term))
        case .truncated(let copyset, let from, let freed):
            for span in freed { release(span) }
            copyset.truncationIsDurable()
            effects.append(.truncated(copyset.id, from: from))
        case .syncBegun(let copyset, let dropped, let freed, let generation, let announce):
            for span in freed { release(span) }
            for chunk in dropped { dying.append(DyingChunk(chunk: chunk, owner: nil)) }
            // A second beginning may be waiting behind this one.
            guard copyset.generation == generation else { break }
            copyset.isResetting = false
            if announce { effects.append(.syncBegun(copyset.id)) }
        case .repaired(let copyset, let block): finishRepair(copyset, block)
        case .freed(let span): release(span)
        case .freedAll(let spans): for span in spans { release(span) }
        case .recovered: finishRecovery()
        }
    }

    // MARK: Pacing

    func tickJournal() {
        if owesSpace { makeSpace() }
        let isTight = isShortOfSpace || allocator.freeBlocks < allocator.capacityBlocks / 4
        guard isTight || journal.isIdle && now - journal.lastWatermarks >= Self.idleWatermarksEvery else {
            return
        }
        journal.lastWatermarks = now
        queueWatermarks()
    }
    /// Each costs a journal block of its own, and nobody waits for it while there is room.
    static let idleWatermarksEvery = Duration.seconds(1)
    /// A copyset that falls silent keeps its last superseded blocks until somebody writes its watermark down.
    func queueWatermarks() {
        for id in copysetIDs {
            guard let copyset = copysetsByID[id], !copyset.quarantine.isEmpty else { continue }
            queueWatermark(copyset)
        }
    }
    func queueWatermark(_ copyset: Copyset) {
        guard !copyset.hasQueuedWatermark, copyset.applied > copyset.durableWatermark.index else { return }
        copyset.hasQueuedWatermark = true
        journal.urgent.append(.record(copyset, .watermark, .nothing))
    }
    /// Puts items back that waited for room: in front, because what came later must stay behind them.
    func unstall() {
        guard !stalledCopysets.isEmpty else { return }
        if isShortOfSpace { makeSpace() }
        let copysets = stalledCopysets
        stalledCopysets = []
        for copyset in copysets {
            guard hasRoomForFirstStalled(copyset) else {
                stalledCopysets.append(copyset)
                continue
            }
            let items = copyset.stalled
            copyset.stalled = Fifo()
            journal.waiting.prepend(
                (0..<items.count).map { .entry(copyset, items[$0].index, serial: items[$0].serial) })
        }
    }
    private func hasRoomForFirstStalled(_ copyset: Copyset) -> Bool {
        guard let (index, serial) = copyset.stalled.first, copyset.log.contains(index),
            copyset.log[index].serial == serial
        else { return true }
        return ringHasRoom(for: copyset, index)
            && allocator.freeBlocks >= Int(copyset.log[index].blockCount) + metaNeedBlocks
    }
    func retryWithoutRoom() {
        let retries = retryAtTick
        retryAtTick = []
        // What found no room may be gone, cut off the log, and a leader that believes to have none writes
        // nothing that could tell it otherwise.
        if retries.isEmpty, now > outOfSpaceAt + Self.outOfSpaceLifetime { isOutOfSpaceBelow = false }
        for retry in retries {
            switch retry {
            case .request(let operation, let offset, let payloads):
                count(payloads.reduce(0) { $0 + $1.byteCount }, again: operation)
                submit(operation) { .write($0, at: offset, payloads) }
            case .entry(let copyset, let index, let serial):
                journal.carried.append(.entry(copyset, index, serial: serial))
            }
        }
    }
    /// Attempts are made at each tick; while none of them fails any more there may be room again.
    private static let outOfSpaceLifetime: Duration = .seconds(2)
    private func count(_ byteCount: Int, again operation: PendingOperation) {
        switch operation {
        case .journal: traffic.journalBytes += UInt64(byteCount)
        case .page: traffic.checkpointBytes += UInt64(byteCount)
        case .syncData: traffic.syncBytes += UInt64(byteCount)
        case .data, .batchFlush, .read, .checkpointFlush, .superblock, .discard, .repairData, .recovery:
            invariant(false, "written again as it was: \(operation)")
        }
    }
}
