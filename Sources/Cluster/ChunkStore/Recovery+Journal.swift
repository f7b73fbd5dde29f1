import BlockTypes
import Environment

extension ChunkStore {
    // MARK: Scan

    func beginScan() {
        guard let recovery else { return }
        recovery.stage = .journal
        recovery.scan = superblock.tail
        journal.tail = superblock.tail
        readWindow()
    }
    private func readWindow() {
        guard let recovery else { return }
        let offset = recovery.scan % layout.journalBytes
        let byteCount = Int(min(UInt64(Recovery.journalWindowBytes), layout.journalBytes - offset))
        let into = Payload(pool.take(byteCount: byteCount), byteCount: byteCount)
        recovery.requestsPending += 1
        submit(.recovery(.journal(from: recovery.scan, into))) {
            .read($0, at: journalOffset(recovery.scan), into: into)
        }
    }
    /// Takes blocks off the window until it ends or the chain does.
    func scanWindow(from start: UInt64, _ window: Payload) {
        guard let recovery else { return }
        let reachesRingEnd = (start % layout.journalBytes) + UInt64(window.byteCount) == layout.journalBytes
        while true {
            let at = Int(recovery.scan - start)
            let left = window.byteCount - at
            // A block is never longer than this: with less left, the window may cut it.
            if left < layout.journalBlockBytesMax && !reachesRingEnd { return readWindow() }
            guard left > 0 else {
                guard canGoRound(recovery) else { return scanEnded() }
                return readWindow()
            }
            if takeBlock(window.slice(at, left)) {
                recovery.skippedFrom = nil
                continue
            }
            if let skipped = recovery.skippedFrom {
                recovery.scan = skipped
                return scanEnded()
            }
            recovery.proofOfLoss = findsProofOfLoss(window, from: at, start: start)
            // A block that did not fit before the ring's end is at its start.
            guard recovery.scan % layout.journalBytes != 0, left < layout.journalBlockBytesMax,
                canGoRound(recovery)
            else { return scanEnded() }
            recovery.skippedFrom = recovery.scan
            recovery.scan += layout.journalBytes - recovery.scan % layout.journalBytes
            return readWindow()
        }
    }
    /// The ring holds one round at most.
    private func canGoRound(_ recovery: Recovery) -> Bool {
        let next = (recovery.scan + layout.journalBytes - 1) / layout.journalBytes * layout.journalBytes
        return next - journal.tail < layout.journalBytes
    }
    private func takeBlock(_ payload: Payload) -> Bool {
        guard let recovery,
            let (header, checksum) = JournalHeader.decode(
                payload, lsn: recovery.scan, sectorBytes: layout.sectorBytes),
            header.device == identity.device.low, header.incarnation >= recovery.lastIncarnation,
            recovery.lastChecksum.map({ $0 == header.previousChecksum }) ?? true
        else { return false }
        var page = PageReader(payload, from: JournalHeader.byteCount, to: Int(header.byteCount))
        for _ in 0..<header.recordCount {
            guard let decoded = JournalRecord.decode(&page) else { return false }
            replay(decoded, lsn: recovery.scan)
        }
        noteBoundary(recovery.scan)
        (recovery.lastChecksum, recovery.lastIncarnation) = (checksum, header.incarnation)
        recovery.durableLSN = max(recovery.durableLSN, header.durableLSN)
        recovery.scan += UInt64(header.byteCount)
        return true
    }
    /// Rule R4 for the journal itself: a valid block behind the end that calls the gap durable means that the
    /// media lost what was there; a crash does not do that.
    private func findsProofOfLoss(_ window: Payload, from at: Int, start: UInt64) -> Bool {
        let reach = min(window.byteCount, at + 2 * layout.journalBlockBytesMax)
        for place in stride(from: at + layout.sectorBytes, to: reach, by: layout.sectorBytes) {
            let lsn = start + UInt64(place)
            guard
                let (header, _) = JournalHeader.decode(
                    window.slice(place, window.byteCount - place), lsn: lsn, sectorBytes: layout.sectorBytes),
                header.device == identity.device.low, header.durableLSN > start + UInt64(at)
            else { continue }
            return true
        }
        return false
    }

    private func replay(_ decoded: JournalRecord.Decoded, lsn: UInt64) {
        guard let recovery else { return }
        let id = decoded.copyset
        if case .create(let members) = decoded.record, copysetsByID[id] == nil {
            let copyset = Copyset(id: id, members: members)
            insert(copyset)
            markDirty(copyset)
        }
        guard let copyset = copysetsByID[id] else { return }
        let isNews = lsn >= recovery.stateLSN[id] ?? 0
        var log = recovery.logs[id] ?? RecoveredLog()
        recovery.logs[id] = nil
        switch decoded.record {
        case .entry(var slot, let index):
            // History is a courtesy to peers and must not cost more memory here than it may while running.
            let kept = max(Recovery.historyEntriesMin, settings.retainedEntriesMax / max(1, copysetIDs.count))
            guard index.rawValue + UInt64(kept) > copyset.applied.rawValue else { break }
            slot.lsn = lsn
            log.add(slot, at: index.rawValue)
        case .truncate(let from):
            log.truncate(from: from.rawValue)
            // The truncation that the root stood in for has found its place.
            if isNews, let cut = recovery.queuedCuts[id], from <= cut { recovery.queuedCuts[id] = nil }
        case .vote(let term, let votedFor):
            guard isNews else { break }
            (copyset.term, copyset.votedFor) = (term, votedFor)
            markDirty(copyset)
        case .create, .watermark: break
        case .repair(let old, let new): recovery.repairs.append((old, new))
        case .beginSync(let base, let floor):
            log.reset()
            guard isNews else { break }
            (copyset.applied, copyset.appliedTerm) = (base.index, base.term)
            (copyset.isSyncing, copyset.voteFloor) = (true, floor)
            markDirty(copyset)
        }
        if let watermark = decoded.watermark { log.watermark = max(log.watermark, watermark) }
        recovery.logs[id] = log
    }

    // MARK: Replay

    private func scanEnded() {
        guard let recovery else { return }
        guard recovery.scan >= superblock.head, !recovery.proofOfLoss else {
            return fail(.damaged("the journal ends at \(recovery.scan), before what was durable"))
        }
        journal.head = recovery.scan
        journal.previousChecksum = recovery.lastChecksum ?? 0
        for id in copysetIDs {
            guard let copyset = copysetsByID[id] else { continue }
            var log = recovery.logs[id] ?? RecoveredLog()
            // Nothing that came after that truncation can be in the ring without it.
            if let from = recovery.queuedCuts[id] { log.truncate(from: from.rawValue) }
            rebuild(copyset, log, recovery)
        }
        recovery.logs = [:]
        guard reserveAll(recovery) else { return }
        for id in copysetIDs {
            guard let copyset = copysetsByID[id], !copyset.isSyncing else { continue }
            pinHistory(copyset)
        }
        for block in badBlocks { _ = allocator.reserve(block) }
        unusable = Set(badBlocks)
        allocator.buildLists()
        recovery.stage = .verify
        verifyNext()
    }
    /// Puts a copyset's log together and applies what the watermark covers (rule R2).
    private func rebuild(_ copyset: Copyset, _ found: RecoveredLog, _ recovery: Recovery) {
        let applied = copyset.applied.rawValue
        copyset.log.reset(base: LogPosition(term: copyset.appliedTerm, index: copyset.applied))
        var (top, bottom) = (applied, applied)
        while found[top + 1] != nil { top += 1 }
        let watermark = max(applied, found.watermark)
        if copyset.isSyncing || recovery.faulty.contains(copyset.id) || watermark > top
            || found.reaches(past: top)
        {
            return abandon(copyset, top, found)
        }
        if let first = found[applied], first.term == copyset.appliedTerm {
            while found[bottom] != nil { bottom -= 1 }
            bottom += 1
            copyset.log.reset(
                base: LogPosition(term: found[bottom]?.term ?? Term(0), index: LogIndex(bottom)))
        }
        for index in bottom..<top {
            guard var slot = found[index + 1] else { break }
            slot.serial = nextSerial
            nextSerial += 1
            (slot.isStable, slot.batch) = (true, 0)
            copyset.log.append(slot)
            entryCount += 1
        }
        (copyset.commit, copyset.durable) = (LogIndex(watermark), LogIndex(top))
        for index in watermark..<top { noteLive(copyset, LogIndex(index + 1)) }
        applyReady(copyset)
        appliedCopysets.removeAll()
        copyset.isListedApplied = false
    }
    /// Without what it needs, the copyset is copied again from a peer. Votes and what it may have promised
    /// stay.
    private func abandon(_ copyset: Copyset, _ top: UInt64, _ found: RecoveredLog) {
        if !copyset.isSyncing {
            let last = found[top].map { LogPosition(term: $0.term, index: LogIndex(top)) } ?? copyset.log.base
            copyset.voteFloor = max(copyset.voteFloor, last)
            (copyset.isSyncing, copyset.isFaulty) = (true, true)
            // Until the next root says so, each start finds out anew.
            wantsCheckpoint = true
        }
        for id in copyset.volumeIDs {
            guard let volume = copyset.volumes[id] else { continue }
            for number in volume.chunkIndices {
                guard let chunk = volume.remove(number) else { continue }
                discard(chunk)
                for place in chunk.leaves.indices { chunk.leaves[place] = nil }
            }
            droppedVolumeSlots += volume.slots
        }
        copyset.removeVolumes()
        copyset.syncCursor = .start
        (copyset.commit, copyset.durable) = (copyset.applied, copyset.applied)
        markDirty(copyset)
    }

    // MARK: Space

    /// Marks everything in use. A block that two things claim is damage (invariant I7).
    private func reserveAll(_ recovery: Recovery) -> Bool {
        var pages = tables.flatMap { $0.pages + $0.indexPages }
        pages.append(superblock.badBlocks)
        for chunk in droppedChunks { pages.append(contentsOf: chunk.pages) }
        for page in pages where page != .none {
            guard allocator.reserve(page.location) else { return claimedTwice(page.location) }
        }
        for id in copysetIDs {
            guard let copyset = copysetsByID[id] else { continue }
            for volumeID in copyset.volumeIDs {
                guard let volume = copyset.volumes[volumeID] else { continue }
                for number in volume.chunkIndices {
                    guard let chunk = volume.chunks[number] else { continue }
                    guard reserve(chunk, recovery) else { return false }
                }
            }
        }
        for repair in recovery.repairs where !badBlocks.contains(repair.old) { badBlocks.append(repair.old) }
        for id in copysetIDs {
            guard let copyset = copysetsByID[id] else { continue }
            reserveTail(copyset, recovery)
        }
        return true
    }
    private func claimedTwice(_ block: UInt32) -> Bool {
        fail(.damaged("block \(block) is used twice"))
        return false
    }
    private func reserve(_ chunk: ChunkMap, _ recovery: Recovery) -> Bool {
        for page in chunk.pages where page != .none {
            guard allocator.reserve(page.location) else { return claimedTwice(page.location) }
        }
        let before = chunk.dirtyLeaves
        for (leafPlace, leaf) in chunk.leaves.enumerated() {
            guard let leaf else { continue }
            for place in 0..<Leaf.entryCount {
                var entry = MapEntry(word: leaf.words[place])
                guard !entry.isAbsent else { continue }
                for repair in recovery.repairs where repair.old == entry.location {
                    entry = MapEntry(location: repair.new, checksum: entry.checksum)
                    _ = chunk.set(leafPlace * Leaf.entryCount + place, entry)
                }
                guard allocator.isDataBlock(entry.location, layout), allocator.reserve(entry.location) else {
                    return claimedTwice(entry.location)
                }
            }
        }
        noteDirtyLeaves(chunk, before)
        return true
    }
    /// Entries above the watermark keep their blocks. One whose block is claimed by the map was never
    /// durable.
    private func reserveTail(_ copyset: Copyset, _ recovery: Recovery) {
        var index = copyset.applied.next
        while copyset.log.contains(index) {
            let slot = copyset.log[index]
            for place in 0..<slot.spans.count {
                for block in slot.spans[place].start..<slot.spans[place].end
                where !allocator.isDataBlock(block, layout) || !allocator.reserve(block) {
                    // Blocks taken here stay taken until the cut is durable; the rest is not ours.
                    copyset.log[index].spans = reservedPart(slot.spans, before: block)
                    var later = index.next
                    while copyset.log.contains(later) {
                        copyset.log[later].spans = Spans()
                        later = later.next
                    }
                    return cut(copyset, index, recovery)
                }
            }
            if slot.kind == .write && !isPlanted(.tailUnverified) {
                recovery.tails.append(RecoveredTail(copyset: copyset, index: index))
            }
            index = index.next
        }
    }
    private func reservedPart(_ spans: Spans, before block: UInt32) -> Spans {
        var part = Spans()
        for place in 0..<spans.count {
            let span = spans[place]
            guard block >= span.start && block < span.end else {
                part.append(span)
                continue
            }
            if block > span.start { part.append(Span(start: span.start, count: block - span.start)) }
            break
        }
        return part
    }
    /// Keeps what applied entries wrote readable for peers, newest first, as far as nothing else lives there.
    /// Their checksums are verified when they are asked for.
    private func pinHistory(_ copyset: Copyset) {
        guard copyset.log.base.index < copyset.applied else { return }
        var index = copyset.applied
        while index > copyset.log.base.index {
            let slot = copyset.log[index]
            let chunk = copyset.volumes[slot.chunk.volume]?.chunks[slot.chunk.index]
            for place in 0..<Int(slot.kind == .write ? slot.blockCount : 0) {
                let block = slot.spans.block(place)
                if chunk?.entry(Int(slot.firstBlock) + place).location == block { continue }
                let isOverBudget = quarantinedBlockCount * Geometry.blockBytes > settings.retainedBytesMax / 2
                guard !isOverBudget, allocator.isDataBlock(block, layout), allocator.reserve(block) else {
                    let before = copyset.log.count
                    copyset.log.dropThrough(index)
                    entryCount -= before - copyset.log.count
                    return
                }
                copyset.quarantine.add(Span(start: block, count: 1), supersededBy: copyset.applied)
                quarantinedBlockCount += 1
            }
            index = LogIndex(index.rawValue - 1)
        }
    }
}
