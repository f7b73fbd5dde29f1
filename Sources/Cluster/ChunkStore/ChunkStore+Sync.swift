import BlockTypes
import Environment

/// A piece of a full copy on its way to the device.
final class SyncInstall {
    let copyset: Copyset
    let generation: Int
    let piece: SyncPiece
    var spans: [Spans]
    var writesPending = 0
    init(_ copyset: Copyset, _ piece: SyncPiece, _ spans: [Spans]) {
        (self.copyset, self.piece, self.spans) = (copyset, piece, spans)
        generation = copyset.generation
    }
}

/// Blocks that are written anew because their place went bad.
final class RepairOperation {
    struct Block {
        let chunk: ChunkKey
        let block: Int
        let old: MapEntry
        let new: UInt32
    }
    let copyset: Copyset
    let blocks: [Block]
    var writesPending = 0
    var hasFailed = false
    init(_ copyset: Copyset, _ blocks: [Block]) { (self.copyset, self.blocks) = (copyset, blocks) }
}

extension ChunkStore {
    // MARK: Source of a full copy

    /// Where a full copy starts: the applied position, the blocks stored there, and the volume records,
    /// ascending.
    public func syncState(
        _ id: CopysetID
    ) -> (base: LogPosition, blocks: Int, volumes: [(VolumeID, VolumeRecord)]) {
        let copyset = known(id)
        let volumes = copyset.volumeIDs.compactMap { id in
            copyset.volumes[id].map { (id, $0.record) }
        }
        let position = LogPosition(term: copyset.appliedTerm, index: copyset.applied)
        return (position, copyset.storedBlockCount, volumes)
    }
    /// Reads the next stored blocks at or after `cursor`. ``StoreEffect/syncPieceRead(_:_:unreadable:)``
    /// answers.
    public func readSyncPiece(_ ticket: UInt64, _ id: CopysetID, from cursor: SyncCursor) {
        guard phase == .open, let copyset = copysetsByID[id], !copyset.isSyncing else {
            effects.append(.syncPieceRead(ticket, nil, unreadable: []))
            return
        }
        var collector = SyncCollector()
        outer: for volumeID in copyset.volumeIDs where volumeID >= cursor.chunk.volume {
            guard let volume = copyset.volumes[volumeID] else { continue }
            for number in volume.chunkIndices {
                let key = ChunkKey(volume: volumeID, index: number)
                guard key >= cursor.chunk, let chunk = volume.chunks[number] else { continue }
                let first = key == cursor.chunk ? cursor.block : 0
                if !collector.collect(chunk, from: first) { break outer }
            }
        }
        let piece = SyncPiece(from: cursor, next: collector.next, applied: copyset.applied, runs: [])
        guard !collector.locations.isEmpty else {
            effects.append(.syncPieceRead(ticket, piece, unreadable: []))
            return
        }
        startRead(
            .syncPiece(ticket, piece, runs: collector.runs), locations: collector.locations,
            checksums: collector.checksums, blocks: Array(collector.locations.indices))
    }
    func finishPiece(
        _ read: ReadOperation, _ ticket: UInt64, _ piece: SyncPiece, _ runs: [(BlockRun, [CRC32C])]
    ) {
        guard read.failed.isEmpty else {
            effects.append(.syncPieceRead(ticket, nil, unreadable: Self.unreadable(read, runs)))
            return
        }
        var piece = piece
        var done = 0
        for (run, checksums) in runs {
            let payload = Payload(read.buffer, startByte: done, byteCount: run.byteCount)
            piece.runs.append(SyncRun(run, checksums: checksums, payload: payload))
            done += run.byteCount
        }
        effects.append(.syncPieceRead(ticket, piece, unreadable: []))
    }
    /// The blocks that failed, in runs.
    private static func unreadable(_ read: ReadOperation, _ runs: [(BlockRun, [CRC32C])]) -> [BlockRun] {
        var found: [BlockRun] = []
        var first = 0
        for (run, _) in runs {
            let end = first + run.blockCount
            for place in read.failed.sorted() where (first..<end).contains(place) {
                let block = run.firstBlock + place - first
                if let last = found.last, last.chunk == run.chunk, last.blocks.upperBound == block,
                    let longer = BlockRun(
                        chunk: run.chunk, firstBlock: last.firstBlock, blockCount: last.blockCount + 1)
                {
                    found[found.count - 1] = longer
                } else if let one = BlockRun(chunk: run.chunk, firstBlock: block, blockCount: 1) {
                    found.append(one)
                }
            }
            first = end
        }
        return found
    }

    // MARK: Sink

    /// Drops the copyset's data and log; both start again behind `base` with these volume records.
    /// ``StoreEffect/syncBegun(_:)`` follows when that is durable, unless a newer beginning has replaced this
    /// one by then: only the newest is told of. A restart before ``finishSync(_:)`` has
    /// ended leaves the copyset syncing, and a new offer starts it over.
    ///
    /// - Parameters:
    ///   - sourceTerm: the term in which the source leads. The copy is complete only once the log here is
    ///     durable up to an entry of that term or a later one: it holds all committed before, then.
    ///   - blocks: what the source holds. Until it has come, it counts as taken when others ask for room.
    public func beginSync(
        _ id: CopysetID, base: LogPosition, sourceTerm: Term, voteFloor: LogPosition, blocks: Int,
        volumes: [(VolumeID, VolumeRecord)]
    ) {
        guard phase == .open else { return }
        let copyset = known(id)
        restart(copyset, base: base, voteFloor: voteFloor, volumes: volumes, announce: true)
        copyset.syncSourceTerm = sourceTerm
        expect(blocks, of: copyset)
    }
    /// A full copy still brings so many blocks.
    func expect(_ blocks: Int, of copyset: Copyset) {
        blocksToCome += blocks - copyset.syncBlocksToCome
        copyset.syncBlocksToCome = blocks
    }
    /// Without a source: who opened the store has found out that it needs one.
    func restart(
        _ copyset: Copyset, base: LogPosition, voteFloor: LogPosition, volumes: [(VolumeID, VolumeRecord)],
        announce: Bool
    ) {
        let (dropped, freed) = dropData(copyset)
        copyset.log.reset(base: base)
        (copyset.applied, copyset.appliedTerm) = (base.index, base.term)
        (copyset.commit, copyset.durable, copyset.retainAfter) = (base.index, base.index, LogIndex(0))
        (copyset.isSyncing, copyset.applyLimit, copyset.voteFloor) = (true, nil, voteFloor)
        copyset.syncSourceTerm = nil
        expect(0, of: copyset)
        (copyset.syncCursor, copyset.installed, copyset.waitingPiece) = (.start, [], nil)
        copyset.isResetting = true
        finishingSyncs.removeAll { $0 === copyset }
        effects.removeAll { if case .syncBegun(copyset.id) = $0 { true } else { false } }
        for (volumeID, record) in volumes {
            let volume = VolumeState(id: volumeID, record: record)
            copyset.insert(volume)
            markDirty(volume, of: copyset)
        }
        markDirty(copyset)
        journal.urgent.append(
            .record(
                copyset, .beginSync(base: base, voteFloor: voteFloor),
                .syncBegun(
                    copyset, dropped: dropped, freed: freed, generation: copyset.generation,
                    announce: announce)))
    }
    /// Forgets everything of a copyset but its votes.
    /// - Returns: what may be freed once the record that says so is durable.
    private func dropData(_ copyset: Copyset) -> (chunks: [ChunkMap], spans: [Span]) {
        var (chunks, spans) = ([ChunkMap](), [Span]())
        for volumeID in copyset.volumeIDs {
            guard let volume = copyset.volumes[volumeID] else { continue }
            for number in volume.chunkIndices {
                guard let chunk = volume.remove(number) else { continue }
                discard(chunk)
                chunks.append(chunk)
            }
            droppedVolumeSlots += volume.slots
        }
        copyset.removeVolumes()
        let last = copyset.log.lastIndex.rawValue
        for raw in (copyset.log.base.index.rawValue + 1)..<(last + 1) {
            let slot = copyset.log[LogIndex(raw)]
            let blocks = forget(slot)
            // What is applied is the map's or the quarantine's.
            if LogIndex(raw) > copyset.applied { spans.append(contentsOf: blocks) }
        }
        quarantinedBlockCount -= copyset.quarantine.blockCount
        spans.append(contentsOf: copyset.quarantine.takeAll())
        copyset.generation += 1
        copyset.durableWatermark = .none
        cutLive(copyset, from: LogIndex(0))
        for place in 0..<dying.count where dying[place].owner === copyset {
            dying[place] = DyingChunk(chunk: dying[place].chunk, owner: nil)
            chunks.append(dying[place].chunk)
        }
        let moved = Set(chunks.map { ObjectIdentifier($0) })
        var kept = Fifo<DyingChunk>()
        while let item = dying.popFirst() {
            if item.owner != nil || !moved.contains(ObjectIdentifier(item.chunk)) { kept.append(item) }
        }
        dying = kept
        return (chunks, spans)
    }
    /// Stops applying while a piece is on its way: the piece must not be older than what is applied here.
    public func holdApply(_ id: CopysetID) {
        guard phase == .open, let copyset = copysetsByID[id], copyset.isSyncing else { return }
        copyset.applyLimit = copyset.applied
    }
    /// Stores a piece and lets applying go on. ``StoreEffect/pieceInstalled(_:)`` follows when it is written.
    ///
    /// A piece that does not start where the last one ended, or that is older than what is applied, is
    /// refused without an answer: it belongs to a copy that was started over.
    public func installPiece(_ id: CopysetID, _ piece: SyncPiece) {
        guard phase == .open, let copyset = copysetsByID[id], copyset.isSyncing,
            copyset.syncCursor == piece.from,
            piece.applied >= copyset.applied, isWellFormed(piece)
        else { return }
        copyset.waitingPiece = nil
        // What comes up to there is in the piece, and applying it frees what it has staged.
        copyset.applyLimit = piece.applied
        applyReady(copyset)
        var spans: [Spans] = []
        for run in piece.runs {
            guard allocator.freeBlocks >= run.run.blockCount + metaNeedBlocks,
                let found = allocator.take(exactly: run.run.blockCount, .large)
            else {
                for taken in spans { for place in 0..<taken.count { release(taken[place]) } }
                // Nothing else waits for it: it is tried again at the next tick.
                isShortOfSpace = true
                copyset.waitingPiece = piece
                return
            }
            spans.append(found)
            expect(max(0, copyset.syncBlocksToCome - run.run.blockCount), of: copyset)
        }
        let install = SyncInstall(copyset, piece, spans)
        for (place, run) in piece.runs.enumerated() {
            var done = 0
            for part in 0..<spans[place].count {
                let span = spans[place][part]
                let payload = run.payload.slice(done, span.byteCount)
                done += span.byteCount
                writeSync(
                    install,
                    DataWrite(
                        startByte: span.startByte, byteCount: span.byteCount, payloads: [payload], entries: []
                    ))
            }
        }
        if install.writesPending == 0 { installed(install) }
    }
    func tickSync() {
        for id in copysetIDs {
            guard let piece = copysetsByID[id]?.waitingPiece else { continue }
            makeSpace()
            installPiece(id, piece)
        }
        if finishingSyncs.contains(where: \.isWholeCopy) { wantsCheckpoint = true }
    }
    private func isWellFormed(_ piece: SyncPiece) -> Bool {
        var at = piece.from
        for run in piece.runs {
            let start = SyncCursor(chunk: run.run.chunk, block: run.run.firstBlock)
            guard start >= at, run.checksums.count == run.run.blockCount,
                run.payload.byteCount == run.run.byteCount
            else { return false }
            at = SyncCursor(chunk: run.run.chunk, block: run.run.firstBlock + run.run.blockCount)
        }
        return piece.next.map { at <= $0 && $0 > piece.from } ?? true
    }
    private func writeSync(_ install: SyncInstall, _ write: DataWrite) {
        install.writesPending += 1
        traffic.syncBytes += UInt64(write.byteCount)
        submit(.syncData(install, write)) {
            .write($0, at: ByteOffset(bytes: write.startByte), write.payloads)
        }
    }
    func syncDataWritten(_ install: SyncInstall, _ write: DataWrite, _ result: Result<Void, DiskError>) {
        switch result {
        case .success: isOutOfSpaceBelow = false
        case .failure(.full):
            (isOutOfSpaceBelow, outOfSpaceAt) = (true, now)
            return retryAtTick.append(
                .request(.syncData(install, write), at: ByteOffset(bytes: write.startByte), write.payloads))
        case .failure:
            let span = Span(start: UInt32(write.startByte / 4096), count: UInt32(write.byteCount / 4096))
            addBad(span)
            guard phase != .stopped else { return }
            guard let again = replace(span, in: install) else {
                return failStop(.tooManyBadBlocks(badBlocks.count))
            }
            var done = 0
            let payload = write.payloads[0]
            for place in 0..<again.count {
                let part = again[place]
                writeSync(
                    install,
                    DataWrite(
                        startByte: part.startByte, byteCount: part.byteCount,
                        payloads: [payload.slice(done, part.byteCount)], entries: []))
                done += part.byteCount
            }
        }
        install.writesPending -= 1
        if install.writesPending == 0 { installed(install) }
    }
    private func replace(_ bad: Span, in install: SyncInstall) -> Spans? {
        guard let again = allocator.take(exactly: Int(bad.count), .large) else { return nil }
        for place in install.spans.indices {
            var changed = Spans()
            for part in 0..<install.spans[place].count {
                let span = install.spans[place][part]
                if span == bad {
                    for piece in 0..<again.count { changed.append(again[piece]) }
                } else {
                    changed.append(span)
                }
            }
            install.spans[place] = changed
        }
        return again
    }
    private func installed(_ install: SyncInstall) {
        let (copyset, piece) = (install.copyset, install.piece)
        guard copyset.generation == install.generation else {
            for spans in install.spans { for place in 0..<spans.count { release(spans[place]) } }
            return
        }
        for (place, run) in piece.runs.enumerated() {
            mapIn(run, at: install.spans[place], copyset)
        }
        copyset.syncCursor = piece.next
        if piece.applied > copyset.applied {
            copyset.installed.append(
                InstalledPiece(from: piece.from, next: piece.next, applied: piece.applied))
        }
        copyset.applyLimit = nil
        effects.append(.pieceInstalled(copyset.id))
        applyReady(copyset)
    }
    private func mapIn(_ run: SyncRun, at spans: Spans, _ copyset: Copyset) {
        guard let volume = copyset.volumes[run.run.chunk.volume] ?? makeVolume(run.run.chunk.volume, copyset)
        else {
            for place in 0..<spans.count { release(spans[place]) }
            return
        }
        let chunk = volume.chunks[run.run.chunk.index] ?? makeChunk(run.run.chunk, volume, copyset)
        let before = chunk.dirtyLeaves
        for (place, block) in run.run.blocks.enumerated() {
            let entry = MapEntry(location: spans.block(place), checksum: run.checksums[place].rawValue)
            let old = chunk.set(block, entry)
            if !old.isAbsent { release(Span(start: old.location, count: 1)) }
        }
        noteDirtyLeaves(chunk, before)
    }
    /// A volume that appeared after the copy's base: its fence is still in the log, which will be applied.
    /// Until then the record refuses everything.
    private func makeVolume(_ id: VolumeID, _ copyset: Copyset) -> VolumeState? {
        let volume = VolumeState(id: id, record: VolumeRecord(fence: .unknown))
        copyset.insert(volume)
        markDirty(volume, of: copyset)
        return volume
    }
    /// All pieces are here. ``StoreEffect/syncFinished(_:)`` follows when a root holds them and the log
    /// reaches the source's term.
    public func finishSync(_ id: CopysetID) {
        guard phase == .open, let copyset = copysetsByID[id], copyset.isSyncing, copyset.syncCursor == nil
        else {
            return
        }
        copyset.applyLimit = nil
        applyReady(copyset)
        if !finishingSyncs.contains(where: { $0 === copyset }) { finishingSyncs.append(copyset) }
        wantsCheckpoint = true
    }

    // MARK: Repair

    /// Writes blocks anew with bytes from a peer, where the map still wants these checksums and the place is
    /// bad. The old places are never used again.
    public func repair(_ id: CopysetID, _ run: BlockRun, payload: Payload, checksums: [CRC32C]) {
        guard phase == .open, let copyset = copysetsByID[id], !copyset.isSyncing,
            payload.byteCount == run.byteCount, checksums.count == run.blockCount,
            let chunk = copyset.volumes[run.chunk.volume]?.chunks[run.chunk.index]
        else { return }
        var blocks: [RepairOperation.Block] = []
        var pieces: [Payload] = []
        for (place, block) in run.blocks.enumerated() {
            let old = chunk.entry(block)
            let piece = payload.slice(place * Geometry.blockBytes, Geometry.blockBytes)
            guard !old.isAbsent, old.checksum == checksums[place].rawValue,
                CRC32C(of: piece) == checksums[place], allocator.freeBlocks > metaNeedBlocks,
                let span = allocator.take(upTo: 1, .small)
            else { continue }
            // From here on nobody may get the old place: the journal will say that it has moved.
            addBad(Span(start: old.location, count: 1))
            guard phase != .stopped else { return }
            blocks.append(RepairOperation.Block(chunk: run.chunk, block: block, old: old, new: span.start))
            pieces.append(piece)
        }
        guard !blocks.isEmpty else { return }
        let repair = RepairOperation(copyset, blocks)
        repair.writesPending = blocks.count
        for (place, block) in blocks.enumerated() {
            traffic.repairBytes += UInt64(Geometry.blockBytes)
            submit(.repairData(repair)) {
                .write($0, at: ByteOffset(bytes: UInt64(block.new) * 4096), [pieces[place]])
            }
        }
    }
    /// A repair that fails is given up: the next read asks for it again.
    func repairWritten(_ repair: RepairOperation, _ result: Result<Void, DiskError>) {
        if case .failure = result { repair.hasFailed = true }
        repair.writesPending -= 1
        guard repair.writesPending == 0 else { return }
        for block in repair.blocks {
            guard !repair.hasFailed else {
                addSuspect(Span(start: block.new, count: 1))
                continue
            }
            journal.urgent.append(
                .record(
                    repair.copyset, .repair(old: block.old.location, new: block.new),
                    .repaired(repair.copyset, block)))
        }
    }
    func finishRepair(_ copyset: Copyset, _ block: RepairOperation.Block) {
        guard let chunk = copyset.volumes[block.chunk.volume]?.chunks[block.chunk.index],
            chunk.entry(block.block) == block.old
        else {
            // Overwritten meanwhile: the old place is released by rule R1 like any other.
            return release(Span(start: block.new, count: 1))
        }
        let before = chunk.dirtyLeaves
        _ = chunk.set(block.block, MapEntry(location: block.new, checksum: block.old.checksum))
        noteDirtyLeaves(chunk, before)
        mendedBlockCount += 1
    }
}

/// Gathers the stored blocks of a piece.
private struct SyncCollector {
    var runs: [(BlockRun, [CRC32C])] = []
    var locations: [UInt32] = []
    var checksums: [UInt32] = []
    /// Where the next piece starts, once this one is full.
    var next: SyncCursor?

    /// - Returns: false when the piece is full.
    mutating func collect(_ chunk: ChunkMap, from first: Int) -> Bool {
        var block = first
        var start: Int?
        func close(_ collector: inout SyncCollector, at end: Int) {
            guard let from = start,
                let run = BlockRun(chunk: chunk.key, firstBlock: from, blockCount: end - from)
            else { return }
            let sums = collector.checksums.suffix(end - from).map { CRC32C(rawValue: $0) }
            collector.runs.append((run, sums))
            start = nil
        }
        while block < Geometry.blocksPerChunk {
            let entry = chunk.entry(block)
            if entry.isAbsent {
                close(&self, at: block)
                // Whole leaves are absent most of the time.
                block = chunk.leaves[block >> 9] == nil ? (block | 511) + 1 : block + 1
                continue
            }
            if locations.count == SyncPiece.blocksMax {
                close(&self, at: block)
                next = SyncCursor(chunk: chunk.key, block: block)
                return false
            }
            if start == nil { start = block }
            locations.append(entry.location)
            checksums.append(entry.checksum)
            block += 1
        }
        close(&self, at: Geometry.blocksPerChunk)
        return true
    }
}
