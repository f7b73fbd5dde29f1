import BlockTypes

extension ChunkStore {
    // MARK: Copysets and votes

    /// Makes an empty replica of a copyset; ``StoreEffect/copysetCreated(_:)`` follows when it is durable.
    /// Creating one that exists only repeats the answer. ``StoreEffect/copysetRefused(_:_:)`` follows when it
    /// has too many members, or the journal is too small for one more copyset.
    public func createCopyset(_ id: CopysetID, members: [ServerID]) {
        guard phase == .open else { return }
        guard members.count <= JournalRecord.membersMax else {
            return effects.append(.copysetRefused(id, .tooManyMembers(members.count)))
        }
        let copysetsMax = StoreFormat.copysetsMax(journalBytes: layout.journalBytes)
        guard copysetsByID[id] != nil || copysetIDs.count < copysetsMax else {
            let refusal = CopysetRefusal.journalTooSmall(
                ByteCount(bytes: layout.journalBytes), copysetsMax: copysetsMax)
            return effects.append(.copysetRefused(id, refusal))
        }
        let copyset: Copyset
        if let known = copysetsByID[id] {
            copyset = known
        } else {
            copyset = Copyset(id: id, members: members)
            copyset.isFresh = true
            insert(copyset)
            markDirty(copyset)
        }
        journal.urgent.append(.record(copyset, .create(members: copyset.members), .created(id)))
    }
    func insert(_ copyset: Copyset) {
        copysetsByID[copyset.id] = copyset
        copysetIDs = copysetsByID.keys.sorted()
    }
    func known(_ id: CopysetID) -> Copyset {
        guard let copyset = copysetsByID[id] else { invariantFailed("copyset \(id) is not here") }
        return copyset
    }
    /// Remembers a term and a vote; ``StoreEffect/voteStored(_:_:)`` follows when they are durable.
    public func storeVote(_ id: CopysetID, _ term: Term, votedFor: ServerID?) {
        guard phase == .open else { return }
        let copyset = known(id)
        invariant(term >= copyset.term, "term \(term) after \(copyset.term)")
        (copyset.term, copyset.votedFor) = (term, votedFor)
        markDirty(copyset)
        journal.urgent.append(
            .record(copyset, .vote(term, votedFor: votedFor), .voteStored(id, term)))
    }

    // MARK: Entries

    /// True when `entries` could be stored now. A follower that gets no simply does not append: the leader
    /// sends them again, and sees a slow replica meanwhile.
    public func canAppend(_ entries: [LogEntry], to id: CopysetID) -> Bool {
        guard phase == .open, let copyset = copysetsByID[id], copyset.stalled.isEmpty else { return false }
        var (blocks, bytes) = (0, 0)
        for entry in entries {
            guard LogSlot.isStorable(entry.operation) else { return false }
            bytes += entry.operation.payloadByteCount
        }
        blocks = bytes / Geometry.blockBytes
        guard stagedBytes + bytes <= settings.stagedBytesMax else { return false }
        // A copyset's own entries in flight are never refused for what others keep: only they let it go on.
        let unapplied = Int(copyset.log.lastIndex.rawValue - copyset.applied.rawValue)
        guard
            unapplied + entries.count <= Self.unappliedEntriesAlways
                || entryCount + entries.count <= 2 * settings.retainedEntriesMax
        else { return false }
        guard blocks == 0 || allocator.freeBlocks >= blocks + stagedBlocksWaiting + metaNeedBlocks else {
            isShortOfSpace = true
            return false
        }
        return true
    }
    /// What a leader may have in flight, and one message more.
    static let unappliedEntriesAlways = 4096 + 64
    /// Payload blocks of entries that may not have a place yet.
    private var stagedBlocksWaiting: Int { stagedBytes / Geometry.blockBytes }

    /// Whether a leader may propose `operation`. Growth stops below 5 % of free space, overwrites stop
    /// below 2 %, trims and deletes never do (ENGINE 4.8). A device that is merely behind is not full.
    public func room(for operation: Operation, in id: CopysetID) -> StoreRoom {
        // A store that has just failed or is closing is not full: the client must go on to the next leader.
        guard phase == .open, let copyset = copysetsByID[id] else { return .later }
        guard LogSlot.isStorable(operation) else { return .none }
        guard case .write(let run, _, _, _, let payload) = operation else { return .enough }
        guard !isOutOfSpaceBelow else { return .none }
        let spare =
            allocator.freeBlocks + quarantinedBlockCount + reads.heldBlockCount + discards.blockCount
            - stagedBlocksWaiting - metaNeedBlocks
        if spare < allocator.capacityBlocks / 8 { isShortOfSpace = true }
        guard spare - run.blockCount >= allocator.capacityBlocks / 50 else { return .none }
        if spare - run.blockCount < allocator.capacityBlocks / 20 {
            guard let chunk = copyset.volumes[run.chunk.volume]?.chunks[run.chunk.index],
                run.blocks.allSatisfy({ !chunk.entry($0).isAbsent })
            else { return .none }
        }
        guard allocator.freeBlocks >= run.blockCount + stagedBlocksWaiting + metaNeedBlocks else {
            makeSpace()
            return .later
        }
        return stagedBytes + payload.byteCount <= settings.stagedBytesMax && copyset.stalled.isEmpty
            ? .enough : .later
    }

    /// Adds entries right after the last one. ``StoreEffect/stored(_:through:)`` follows when they are
    /// durable.
    public func append(_ id: CopysetID, _ entries: [LogEntry]) {
        guard phase == .open else { return }
        let copyset = known(id)
        for entry in entries {
            invariant(
                entry.position.index == copyset.log.lastIndex.next,
                "copyset \(id): \(entry.position) after \(copyset.log.last)")
            invariant(
                LogSlot.isStorable(entry.operation), "copyset \(id): \(entry.position) can not be stored")
            let slot = LogSlot(entry, serial: nextSerial)
            nextSerial += 1
            entryCount += 1
            stagedBytes += slot.payload?.byteCount ?? 0
            traffic.userBytes += UInt64(slot.payloadBytes)
            copyset.log.append(slot)
            journal.waiting.append(.entry(copyset, entry.position.index, serial: slot.serial))
        }
        if entryCount > settings.retainedEntriesMax { enforceRetention() }
    }
    /// Forgets entries from `index` on: another leader decided otherwise. ``StoreEffect/truncated(_:from:)``
    /// follows when that is durable; entries appended afterwards keep their order behind it.
    public func truncate(_ id: CopysetID, from index: LogIndex) {
        guard phase == .open else { return }
        let copyset = known(id)
        invariant(
            index > copyset.applied && index > copyset.commit && index > copyset.log.base.index,
            "copyset \(id): truncating committed entries from \(index)")
        var freed: [Span] = []
        var lowestLSN = UInt64.max
        if copyset.log.contains(index) {
            for at in index.rawValue...copyset.log.lastIndex.rawValue {
                let slot = copyset.log[LogIndex(at)]
                lowestLSN = min(lowestLSN, slot.lsn)
                freed.append(contentsOf: forget(slot))
            }
            copyset.log.truncate(from: index)
        }
        cutLive(copyset, from: index)
        copyset.durable = min(copyset.durable, copyset.log.lastIndex)
        if isPlanted(.reuseAtOnce) || isPlanted(.truncateUnrecorded) {
            for span in freed { release(span) }
            freed = []
        }
        if isPlanted(.truncateUnrecorded) { return effects.append(.truncated(id, from: index)) }
        copyset.cutsQueued.append(QueuedCut(from: index, lowestLSN: lowestLSN))
        markDirty(copyset)
        journal.urgent.append(
            .record(copyset, .truncate(from: index), .truncated(copyset, from: index, freed: freed)))
    }
    /// Undoes the accounting of an entry that leaves the log unapplied.
    /// - Returns: its blocks.
    func forget(_ slot: LogSlot) -> [Span] {
        entryCount -= 1
        stagedBytes -= slot.payload?.byteCount ?? 0
        journal.stragglers[slot.serial] = nil
        return (0..<slot.spans.count).map { slot.spans[$0] }
    }
    /// Everything through `index` is committed. Applies what is durable here as well.
    public func commit(_ id: CopysetID, through index: LogIndex) {
        guard phase == .open else { return }
        let copyset = known(id)
        invariant(
            index <= copyset.log.lastIndex,
            "copyset \(id): commit \(index) after the last entry \(copyset.log.last)")
        guard index > copyset.commit else { return }
        copyset.commit = index
        applyReady(copyset)
    }
    /// No peer needs entries up to `index` any more.
    public func retain(_ id: CopysetID, after index: LogIndex) {
        guard phase == .open else { return }
        let copyset = known(id)
        copyset.retainAfter = max(copyset.retainAfter, index)
        let droppable = min(copyset.retainAfter, copyset.applied)
        guard droppable >= copyset.log.base.index.next else { return }
        if droppable.rawValue - copyset.log.base.index.rawValue >= Self.lazyDropEntries {
            dropEntries(copyset, through: droppable)
        }
    }
    /// Entries that may wait to be dropped together: each drop is told to Raft.
    static let lazyDropEntries: UInt64 = 128
}
