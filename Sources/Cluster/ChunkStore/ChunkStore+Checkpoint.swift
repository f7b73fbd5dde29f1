import BlockTypes
import Environment

/// Where a page image belongs once it is written.
enum PageHome {
    case leaf(ChunkMap, Int)
    case table(Int, page: Int)
    case index(Int, page: Int)
    case badBlocks
}

/// Pages that lie side by side on the device.
struct PageWrite {
    var span: Span
    var payload: Payload
    var homes: [PageHome]
    var attempts = 0
}

/// One root on its way to the device (rule R5): leaves, then table pages, then index pages, then a flush,
/// then the superblock. The state it holds is the one at its start, the same applied index for everything of
/// a copyset; what changes meanwhile belongs to the next one.
final class Checkpoint {
    enum Stage: Int { case leaves, tables, indexes, flush, firstCopies, firstFlush, lastCopies, lastFlush }
    var stage = Stage.leaves
    var queue: [(home: PageHome, image: [UInt64])] = []
    var next = 0
    var writesPending = 0
    var obsolete: [Span] = []
    var tail: UInt64
    var dirtyIndexes: [Set<Int>] = [[], [], []]
    let badBlockCount: Int
    let finishedSyncs: [Copyset]
    /// What is applied in it: a durable root is as good as a watermark in the journal.
    let marks: [Batch.Mark]
    /// Lets the tail pass what was carried.
    let endsRoomMaking: Bool

    /// Pages of one write, and writes in flight: 1 MiB on its way at most.
    static let pagesPerWrite = 64
    static let writesMax = 4

    init(
        tail: UInt64, badBlockCount: Int, finishedSyncs: [Copyset], marks: [Batch.Mark], endsRoomMaking: Bool
    ) {
        (self.tail, self.badBlockCount, self.finishedSyncs) = (tail, badBlockCount, finishedSyncs)
        (self.marks, self.endsRoomMaking) = (marks, endsRoomMaking)
    }
    var remaining: Int { queue.count - next }
}

extension ChunkStore {
    var hasCheckpointWork: Bool {
        !dirtyCopysets.isEmpty || !dirtyVolumes.isEmpty || !droppedChunks.isEmpty
            || !droppedVolumeSlots.isEmpty
            || dirtyChunks.contains { !$0.isDropped && !isSyncing($0) }
    }
    private func isSyncing(_ chunk: ChunkMap) -> Bool { copysetsByID[chunk.copyset]?.isSyncing ?? false }

    /// Blocks that must stay free so that a root can always be written.
    var metaNeedBlocks: Int {
        let nodes = min(
            dirtyChunks.count + droppedChunks.count, tables[0].images.count + dirtyChunks.count / 32 + 1)
        let volumes = dirtyVolumes.count + dirtyWindowCount + droppedVolumeSlots.count
        let copysets = min(dirtyCopysets.count, tables[1].images.count + 1)
        let indexes = tables.reduce(4) { $0 + $1.indexPageCount }
        let running =
            checkpoint.map { $0.remaining + tables.reduce(indexes) { $0 + $1.dirtyPages.count } } ?? 0
        return dirtyLeafCount + nodes + volumes + copysets + indexes + running
            + max(16, allocator.capacityBlocks / 128)
    }

    func noteJournalFill() {
        guard journal.head - journal.tail > layout.journalRootBytes else { return }
        // When the tail can not move, another root after every batch would not help.
        if journal.head - superblock.head > layout.journalBytes / 16 { wantsCheckpoint = true }
    }

    // MARK: Capture

    func stepCheckpoint() {
        if checkpoint == nil {
            guard wantsCheckpoint else { return }
            capture()
        }
        guard let checkpoint, phase != .stopped else { return }
        switch checkpoint.stage {
        case .leaves, .tables, .indexes: writePages(checkpoint)
        case .flush, .firstCopies, .firstFlush, .lastCopies, .lastFlush: break
        }
    }

    private func capture() {
        wantsCheckpoint = false
        appliedSinceRoot = 0
        lastCheckpoint = now
        let finished = finishingSyncs.filter(\.isWholeCopy)
        for copyset in finished {
            finishingSyncs.removeAll { $0 === copyset }
            copyset.isSyncing = false
            (copyset.syncSourceTerm, copyset.voteFloor) = (nil, .zero)
            expect(0, of: copyset)
            copyset.isFaulty = false
            markDirty(copyset)
        }
        let kept = layout.journalHistoryBytes
        let needed = isPlanted(.tailTooEarly) ? journal.head : neededTail()
        let wantedTail = min(needed, journal.head - min(journal.head, kept))
        var tail = journal.tail
        while let boundary = journal.boundaries.first, boundary <= wantedTail {
            tail = max(tail, boundary)
            journal.boundaries.dropFirst(1)
        }
        let checkpoint = Checkpoint(
            tail: tail, badBlockCount: badBlocks.count, finishedSyncs: finished, marks: appliedMarks(),
            endsRoomMaking: journal.roomMaking == .carried)
        if journal.roomMaking == .none, journal.head - checkpoint.tail > layout.journalBytes / 2 {
            carryForward(olderThan: journal.head - min(journal.head, layout.journalBytes / 2))
        }
        self.checkpoint = checkpoint
        captureDropped(checkpoint)
        captureChunks(checkpoint)
        for (copyset, volume) in dirtyVolumes {
            (volume.isListedDirty, volume.isListedShared) = (false, false)
            guard copyset.volumes[volume.id] === volume else { continue }
            let records = VolumeTableRecord.records(of: volume, in: copyset.id)
            while volume.slots.count > records.count {
                if let slot = volume.slots.popLast() { tables[2].clear(slot) }
            }
            while volume.slots.count < records.count {
                guard let slot = tables[2].takeSlot() else { return failStop(.tableFull) }
                volume.slots.append(slot)
            }
            for (slot, record) in zip(volume.slots, records) { tables[2].write(slot, record.encoded) }
        }
        dirtyVolumes.removeAll(keepingCapacity: true)
        dirtyWindowCount = 0
        for copyset in dirtyCopysets {
            copyset.isListedDirty = false
            if copyset.slot < 0 {
                guard let slot = tables[1].takeSlot() else { return failStop(.tableFull) }
                copyset.slot = slot
            }
            tables[1].write(copyset.slot, CopysetRecord(copyset, stateLSN: journal.head).encoded)
        }
        dirtyCopysets.removeAll(keepingCapacity: true)
    }
    private func appliedMarks() -> [Batch.Mark] {
        copysetIDs.compactMap { id in
            guard let copyset = copysetsByID[id], !copyset.isResetting,
                copyset.applied > copyset.durableWatermark.index
            else { return nil }
            return Batch.Mark(copyset: copyset, generation: copyset.generation, watermark: copyset.applied)
        }
    }
    private func captureDropped(_ checkpoint: Checkpoint) {
        for chunk in droppedChunks { forgetNode(chunk, checkpoint) }
        droppedChunks.removeAll()
        for slot in droppedVolumeSlots { tables[2].clear(slot) }
        droppedVolumeSlots.removeAll()
    }
    private func forgetNode(_ chunk: ChunkMap, _ checkpoint: Checkpoint) {
        for place in 0..<ChunkMap.leafCount { replacePage(chunk, place, .none, checkpoint) }
        if chunk.slot >= 0 { tables[0].clear(chunk.slot) }
        chunk.slot = -1
    }
    private func replacePage(_ chunk: ChunkMap, _ place: Int, _ page: PageRef, _ checkpoint: Checkpoint) {
        let old = chunk.pages[place]
        if old != .none { checkpoint.obsolete.append(Span(start: old.location, count: 1)) }
        chunk.pages[place] = page
        if chunk.slot >= 0 { tables[0].writeWord(chunk.slot, NodeRecord.firstPage + place, page.word) }
    }
    private func captureChunks(_ checkpoint: Checkpoint) {
        let listed = dirtyChunks
        dirtyChunks.removeAll(keepingCapacity: true)
        for chunk in listed {
            if !chunk.isDropped && isSyncing(chunk) {
                // An unfinished copy is worth nothing after a restart.
                dirtyChunks.append(chunk)
                continue
            }
            chunk.isListedDirty = false
            guard !chunk.isDropped else { continue }
            dirtyLeafCount -= chunk.dirtyLeaves.nonzeroBitCount
            let dirty = chunk.dirtyLeaves
            chunk.dirtyLeaves = 0
            if chunk.isEmpty {
                forgetNode(chunk, checkpoint)
                chunk.isDropped = true
                _ = copysetsByID[chunk.copyset]?.volumes[chunk.key.volume]?.remove(chunk.key.index)
                continue
            }
            if chunk.slot < 0 {
                guard let slot = tables[0].takeSlot() else { return failStop(.tableFull) }
                chunk.slot = slot
                tables[0].write(slot, NodeRecord(chunk).encoded)
            }
            for place in 0..<ChunkMap.leafCount where dirty >> UInt8(place) & 1 == 1 {
                if let leaf = chunk.leaves[place], leaf.storedCount > 0 {
                    checkpoint.queue.append((.leaf(chunk, place), leaf.words))
                } else {
                    chunk.leaves[place] = nil
                    replacePage(chunk, place, .none, checkpoint)
                }
            }
        }
    }

    // MARK: Pages

    private func writePages(_ checkpoint: Checkpoint) {
        while true {
            while checkpoint.remaining > 0 && checkpoint.writesPending < Checkpoint.writesMax {
                guard writeRun(checkpoint) else { return }
            }
            guard checkpoint.remaining == 0, checkpoint.writesPending == 0 else { return }
            checkpoint.queue = []
            checkpoint.next = 0
            switch checkpoint.stage {
            case .leaves:
                checkpoint.stage = .tables
                queueTables(checkpoint)
            case .tables:
                checkpoint.stage = .indexes
                queueIndexes(checkpoint)
            default:
                checkpoint.stage = .flush
                return flushOr(checkpoint)
            }
        }
    }
    private func queueTables(_ checkpoint: Checkpoint) {
        for table in tables.indices {
            for page in tables[table].takeDirtyPages() {
                checkpoint.queue.append((.table(table, page: page), tables[table].images[page]))
            }
        }
    }
    private func queueIndexes(_ checkpoint: Checkpoint) {
        for table in tables.indices {
            for index in checkpoint.dirtyIndexes[table].sorted() {
                checkpoint.queue.append((.index(table, page: index), tables[table].indexImage(index)))
            }
        }
        if checkpoint.badBlockCount != Int(superblock.badBlockCount) {
            let words = badBlocks.prefix(checkpoint.badBlockCount).map { UInt64($0) }
            let padding = repeatElement(UInt64(0), count: RecordTable.pageWords)
            var packed: [UInt64] = []
            for place in stride(from: 0, to: words.count, by: 2) {
                packed.append(words[place] | (place + 1 < words.count ? words[place + 1] << 32 : 0))
            }
            checkpoint.queue.append((.badBlocks, Array((packed + padding).prefix(RecordTable.pageWords))))
        }
    }
    /// Writes the next images side by side, as many as fit one free run.
    /// - Returns: false when there is no room now.
    private func writeRun(_ checkpoint: Checkpoint) -> Bool {
        let wanted = min(checkpoint.remaining, Checkpoint.pagesPerWrite)
        guard let span = allocator.take(upTo: wanted, .meta) else {
            isShortOfSpace = true
            makeSpace()
            return false
        }
        let buffer = pool.take(byteCount: span.byteCount)
        var writer = PageWriter(buffer)
        var homes: [PageHome] = []
        for place in 0..<Int(span.count) {
            writer.put(words: checkpoint.queue[checkpoint.next + place].image)
            homes.append(checkpoint.queue[checkpoint.next + place].home)
            // Leaves keep no second copy once they are on their way.
            checkpoint.queue[checkpoint.next + place].image = []
        }
        checkpoint.next += Int(span.count)
        let payload = Payload(buffer, byteCount: span.byteCount)
        write(PageWrite(span: span, payload: payload, homes: homes), checkpoint)
        return true
    }
    private func write(_ write: PageWrite, _ checkpoint: Checkpoint) {
        for (place, home) in write.homes.enumerated() {
            let page = write.payload.slice(place * Geometry.blockBytes, Geometry.blockBytes)
            let location = write.span.start + UInt32(place)
            settle(home, PageRef(location: location, checksum: CRC32C(of: page).rawValue), checkpoint)
        }
        checkpoint.writesPending += 1
        traffic.checkpointBytes += UInt64(write.span.byteCount)
        submit(.page(write)) { .write($0, at: ByteOffset(bytes: write.span.startByte), [write.payload]) }
    }
    /// Parents do not know the pages' places before all of a stage are written: they may still move.
    private func writeElsewhere(_ failed: PageWrite, _ checkpoint: Checkpoint, _ error: DiskError) {
        if failed.homes.count == 1 {
            addBad(failed.span)
        } else {
            addSuspect(failed.span)
        }
        guard phase != .stopped else { return }
        guard failed.attempts < Int(Self.attemptsMax) else { return failStop(.checkpoint(error)) }
        for (place, home) in failed.homes.enumerated() {
            guard let span = allocator.take(upTo: 1, .meta) else { return failStop(.checkpoint(error)) }
            let page = failed.payload.slice(place * Geometry.blockBytes, Geometry.blockBytes)
            write(
                PageWrite(span: span, payload: page, homes: [home], attempts: failed.attempts + 1), checkpoint
            )
        }
    }
    private func settle(_ home: PageHome, _ page: PageRef, _ checkpoint: Checkpoint) {
        var old = PageRef.none
        switch home {
        case .leaf(let chunk, let place): return replacePage(chunk, place, page, checkpoint)
        case .table(let table, let number):
            (old, tables[table].pages[number]) = (tables[table].pages[number], page)
            checkpoint.dirtyIndexes[table].insert(number / RecordTable.refsPerPage)
        case .index(let table, let number):
            while tables[table].indexPages.count <= number { tables[table].indexPages.append(.none) }
            (old, tables[table].indexPages[number]) = (tables[table].indexPages[number], page)
        case .badBlocks: (old, superblock.badBlocks) = (superblock.badBlocks, page)
        }
        if old != .none { checkpoint.obsolete.append(Span(start: old.location, count: 1)) }
    }
    func checkpointPageWritten(_ write: PageWrite, _ result: Result<Void, DiskError>) {
        guard let checkpoint else { return }
        switch result {
        case .success:
            checkpoint.writesPending -= 1
            writePages(checkpoint)
        case .failure(.full):
            retryAtTick.append(
                .request(.page(write), at: ByteOffset(bytes: write.span.startByte), [write.payload]))
        case .failure(let error):
            checkpoint.writesPending -= 1
            writeElsewhere(write, checkpoint, error)
        }
    }

    // MARK: Root

    /// Flushes if the device needs it, then goes on.
    private func flushOr(_ checkpoint: Checkpoint) {
        let isTooEarly = checkpoint.stage == .flush && isPlanted(.rootBeforeLeaves)
        guard geometry.hasVolatileCache, !isTooEarly else { return checkpointFlushed(.success(())) }
        submit(.checkpointFlush) { .flush($0) }
    }
    func checkpointFlushed(_ result: Result<Void, DiskError>) {
        guard let checkpoint else { return }
        if case .failure(let error) = result { return failStop(.flush(error)) }
        switch checkpoint.stage {
        case .flush:
            superblock.tail = checkpoint.tail
            superblock.head = max(superblock.head, journal.inFlight.first?.lsn ?? journal.head)
            superblock.badBlockCount = UInt32(checkpoint.badBlockCount)
            superblock.metadataRevision = max(superblock.metadataRevision, heardRevision)
            superblock.sequence += 1
            for table in tables.indices {
                superblock.indexes[table] = tables[table].indexPages
                superblock.pageCounts[table] = tables[table].pages.count
            }
            checkpoint.stage = .firstCopies
            writeSuperblocks(layout.superblockBlocks[0..<2], pending: &checkpoint.writesPending)
        case .firstFlush:
            checkpoint.stage = .lastCopies
            writeSuperblocks(layout.superblockBlocks[2..<4], pending: &checkpoint.writesPending)
        default: rootIsDurable(checkpoint)
        }
    }
    func writeSuperblocks(_ blocks: ArraySlice<UInt32>, pending: inout Int) {
        let payload = superblock.encode(into: pool.take(byteCount: Geometry.blockBytes))
        for block in blocks {
            pending += 1
            traffic.superblockBytes += UInt64(Geometry.blockBytes)
            submit(.superblock) { .write($0, at: ByteOffset(bytes: UInt64(block) * 4096), [payload]) }
        }
    }
    func superblockWritten(_ result: Result<Void, DiskError>) {
        guard let checkpoint else { return }
        if case .failure(let error) = result { return failStop(.superblock(error)) }
        checkpoint.writesPending -= 1
        guard checkpoint.writesPending == 0 else { return }
        checkpoint.stage = checkpoint.stage == .firstCopies ? .firstFlush : .lastFlush
        flushOr(checkpoint)
    }
    private func rootIsDurable(_ checkpoint: Checkpoint) {
        self.checkpoint = nil
        durableRevision = superblock.metadataRevision
        journal.tail = checkpoint.tail
        if checkpoint.endsRoomMaking { journal.roomMaking = .none }
        watermarksAreDurable(checkpoint.marks)
        for span in checkpoint.obsolete { freeOrDiscard(span) }
        for copyset in checkpoint.finishedSyncs where !copyset.isSyncing {
            effects.append(.syncFinished(copyset.id))
        }
    }
}
