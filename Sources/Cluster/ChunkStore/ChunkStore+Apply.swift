import BlockTypes

extension ChunkStore {
    /// Applies entries up to min(commit, durable) (invariant I4), but not past a piece of a full copy that is
    /// on its way.
    func applyReady(_ copyset: Copyset) {
        let target = min(copyset.commit, copyset.durable, copyset.applyLimit ?? copyset.commit)
        guard copyset.applied < target else { return }
        appliedSinceRoot += Int(target.rawValue - copyset.applied.rawValue)
        if appliedSinceRoot > Self.replayedEntriesMax { wantsCheckpoint = true }
        while copyset.applied < target {
            let index = copyset.applied.next
            apply(copyset, index)
            copyset.applied = index
            copyset.appliedTerm = copyset.log[index].term
        }
        if copyset.isSyncing {
            let applied = copyset.applied
            copyset.installed.removeAll { $0.applied <= applied }
        }
        markDirty(copyset)
        if !copyset.isListedApplied {
            copyset.isListedApplied = true
            appliedCopysets.append(copyset)
        }
    }

    /// Entries that a restart has to hold and apply again: about 150 MB and less than a second.
    static let replayedEntriesMax = 1 << 19

    private func apply(_ copyset: Copyset, _ index: LogIndex) {
        switch copyset.log[index].kind {
        case .noop: break
        case .write, .trim, .zero, .void: applyRun(copyset, index)
        case .fence, .deleteVolume, .configuration: applyExtra(copyset, index)
        }
    }

    private func applyRun(_ copyset: Copyset, _ index: LogIndex) {
        let slot = copyset.log[index]
        guard let run = slot.run else { return }
        guard let volume = admit(run, slot.tag, copyset) else {
            for place in 0..<slot.spans.count { supersede(copyset, slot.spans[place], index) }
            return
        }
        volume.record.apply(slot.tag)
        markDirty(volume, of: copyset)
        if slot.kind == .void || slot.kind == .trim && isPlanted(.trimUnmasked) { return }
        let found = volume.chunks[run.chunk.index]
        guard let chunk = found ?? (slot.kind == .write ? makeChunk(run.chunk, volume, copyset) : nil) else {
            return
        }
        let before = chunk.dirtyLeaves
        var span = 0
        var used: UInt32 = 0
        for (place, block) in run.blocks.enumerated() {
            var entry = MapEntry.absent
            if slot.kind == .write {
                if used == slot.spans[span].count { (span, used) = (span + 1, 0) }
                entry = MapEntry(
                    location: slot.spans[span].start + used, checksum: slot.checksums[place].rawValue)
                used += 1
            }
            if needsCopyCheck(copyset)
                && isCopied(later: copyset, SyncCursor(chunk: run.chunk, block: block), index)
            {
                if !entry.isAbsent {
                    supersede(copyset, Span(start: entry.location, count: 1), index)
                }
                continue
            }
            let old = chunk.set(block, entry)
            if !old.isAbsent { supersede(copyset, Span(start: old.location, count: 1), index) }
        }
        noteDirtyLeaves(chunk, before)
    }
    /// The volume, when the request is fresh and inside it. A repeated, stale or outlying one changes
    /// nothing.
    private func admit(_ run: BlockRun, _ tag: RequestTag, _ copyset: Copyset) -> VolumeState? {
        guard let volume = copyset.volumes[run.chunk.volume], volume.contains(run),
            volume.record.admission(of: tag) == .fresh
        else { return nil }
        return volume
    }
    func makeChunk(_ key: ChunkKey, _ volume: VolumeState, _ copyset: Copyset) -> ChunkMap {
        let chunk = ChunkMap(key: key, copyset: copyset.id)
        volume.insert(chunk)
        return chunk
    }
    private func needsCopyCheck(_ copyset: Copyset) -> Bool {
        copyset.isSyncing || !copyset.installed.isEmpty
    }
    /// While syncing: true when a block gets its content from a piece that shows a later state than `index`.
    private func isCopied(later copyset: Copyset, _ place: SyncCursor, _ index: LogIndex) -> Bool {
        if let cursor = copyset.syncCursor, place >= cursor { return true }
        return copyset.installed.contains { $0.applied >= index && $0.covers(place) }
    }

    private func applyExtra(_ copyset: Copyset, _ index: LogIndex) {
        switch copyset.log[index].extra {
        case .none: break
        case .configuration(let members): copyset.members = members
        case .deleteVolume(let id):
            guard let volume = copyset.volumes[id] else {
                // Remembered all the same: a late request must not bring the volume back.
                let volume = VolumeState(id: id, record: VolumeRecord(fence: .unknown))
                volume.record.delete()
                copyset.insert(volume)
                return markDirty(volume, of: copyset)
            }
            volume.record.delete()
            markDirty(volume, of: copyset)
            for chunk in volume.chunkIndices { drop(chunk, of: volume, copyset) }
        case .fence(let id, let fence):
            if let volume = copyset.volumes[id] {
                let oldSize = volume.record.fence.size
                volume.record.apply(fence)
                markDirty(volume, of: copyset)
                if volume.record.fence.size < oldSize { shrink(volume, copyset, index) }
            } else {
                let volume = VolumeState(id: id, record: VolumeRecord(fence: fence))
                copyset.insert(volume)
                markDirty(volume, of: copyset)
            }
        }
    }
    /// Cuts a whole chunk off; its blocks are freed in small steps.
    private func drop(_ index: UInt32, of volume: VolumeState, _ copyset: Copyset) {
        guard let chunk = volume.remove(index) else { return }
        discard(chunk)
        guard phase != .opening else { return }
        dying.append(DyingChunk(chunk: chunk, owner: copyset))
    }
    /// Takes a chunk out of the map's bookkeeping.
    func discard(_ chunk: ChunkMap) {
        chunk.isDropped = true
        dirtyLeafCount -= chunk.dirtyLeaves.nonzeroBitCount
        chunk.dirtyLeaves = 0
        droppedChunks.append(chunk)
    }
    private func shrink(_ volume: VolumeState, _ copyset: Copyset, _ index: LogIndex) {
        let end = volume.record.fence.size.bytes
        let wholeFrom = (end + UInt64(Geometry.chunkBytes) - 1) / UInt64(Geometry.chunkBytes)
        for number in volume.chunkIndices where UInt64(number + 1) * UInt64(Geometry.chunkBytes) > end {
            // While syncing, parts of a chunk may have come with a later state: those stay.
            if UInt64(number) >= wholeFrom && !copyset.isSyncing {
                drop(number, of: volume, copyset)
                continue
            }
            guard let chunk = volume.chunks[number] else { continue }
            let start = UInt64(number) * UInt64(Geometry.chunkBytes)
            let first = end > start ? Int((end - start + 4095) / 4096) : 0
            let before = chunk.dirtyLeaves
            for block in first..<Geometry.blocksPerChunk {
                guard !chunk.entry(block).isAbsent else { continue }
                if needsCopyCheck(copyset)
                    && isCopied(later: copyset, SyncCursor(chunk: chunk.key, block: block), index)
                {
                    continue
                }
                let old = chunk.set(block, .absent)
                supersede(copyset, Span(start: old.location, count: 1), index)
            }
            noteDirtyLeaves(chunk, before)
        }
    }

    // MARK: Blocks on their way to being free

    /// Rule R1: what an entry superseded waits for a durable watermark.
    func supersede(_ copyset: Copyset, _ span: Span, _ index: LogIndex) {
        // Recovery finds out afterwards what is in use.
        guard phase != .opening else { return }
        guard !isPlanted(.reuseAtOnce) else { return release(span) }
        copyset.quarantine.add(span, supersededBy: index)
        quarantinedBlockCount += Int(span.count)
    }
    /// Lets go what the durable watermark and the kept entries allow.
    func releaseQuarantine(_ copyset: Copyset) {
        let before = copyset.quarantine.blockCount
        guard before > 0 else { return }
        copyset.quarantine.release(copyset.durableWatermark, keepingAfter: copyset.log.base.index) {
            release($0)
        }
        quarantinedBlockCount -= before - copyset.quarantine.blockCount
    }
    /// Frees blocks as soon as no read can be looking at them.
    func release(_ span: Span) {
        if reads.hold(span) { return }
        freeOrDiscard(span)
    }

    /// Chunks freed per round: a deleted volume must not stall what others do.
    static let dyingChunksPerRound = 2

    func pumpDying() {
        for _ in 0..<Self.dyingChunksPerRound {
            guard let item = dying.popFirst() else { return }
            for leaf in item.chunk.leaves {
                guard let leaf, leaf.storedCount > 0 else { continue }
                for word in leaf.words {
                    let entry = MapEntry(word: word)
                    guard !entry.isAbsent else { continue }
                    let span = Span(start: entry.location, count: 1)
                    if let owner = item.owner { supersede(owner, span, owner.applied) } else { release(span) }
                }
            }
            item.chunk.leaves = Array(repeating: nil, count: ChunkMap.leafCount)
            if let owner = item.owner { releaseQuarantine(owner) }
        }
    }

    // MARK: Dirty lists

    func noteDirtyLeaves(_ chunk: ChunkMap, _ before: UInt8) {
        dirtyLeafCount += (chunk.dirtyLeaves & ~before).nonzeroBitCount
        if !chunk.isListedDirty && chunk.dirtyLeaves != 0 {
            chunk.isListedDirty = true
            dirtyChunks.append(chunk)
        }
        if dirtyLeafCount * Geometry.blockBytes > settings.dirtyLeafBytesMax { wantsCheckpoint = true }
    }
    func markDirty(_ copyset: Copyset) {
        guard !copyset.isListedDirty else { return }
        copyset.isListedDirty = true
        dirtyCopysets.append(copyset)
    }
    func markDirty(_ volume: VolumeState, of copyset: Copyset) {
        if !volume.record.fence.group.isEmpty, !volume.isListedShared {
            volume.isListedShared = true
            dirtyWindowCount += VolumeFence.groupMax
        }
        guard !volume.isListedDirty else { return }
        volume.isListedDirty = true
        dirtyVolumes.append((copyset, volume))
    }
}

/// A chunk that was cut off from its volume.
struct DyingChunk {
    let chunk: ChunkMap
    /// Whose watermark releases the blocks; `nil` when the record that dropped them is durable already.
    let owner: Copyset?
}
