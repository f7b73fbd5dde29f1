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

    /// How many of `entries`, from the first on, could be stored now. A follower appends no more than that:
    /// the leader sends the rest again, and sees a slow replica meanwhile.
    public func appendableCount(of entries: [LogEntry], to id: CopysetID) -> Int {
        guard phase == .open, let copyset = copysetsByID[id], copyset.stalled.isEmpty else { return 0 }
        // A copyset's own entries in flight are never refused for what others keep: only they let it go on.
        let unapplied = Int(copyset.log.lastIndex.rawValue - copyset.applied.rawValue)
        let countMax = max(
            Self.unappliedEntriesAlways - unapplied, 2 * settings.retainedEntriesMax - entryCount, 0)
        let spareBlocks = allocator.freeBlocks - stagedBlocksWaiting - metaNeedBlocks
        var bytes = 0
        for (count, entry) in entries.prefix(countMax).enumerated() {
            guard LogSlot.isStorable(entry.operation) else { return count }
            bytes += entry.operation.payloadByteCount
            guard stagedBytes + bytes <= settings.stagedBytesMax else { return count }
            guard bytes == 0 || bytes / Geometry.blockBytes <= spareBlocks else {
                (isShortOfSpace, owesSpace, copyset.lackedRoomAt) = (true, true, now)
                return count
            }
        }
        return min(entries.count, countMax)
    }
    /// What a leader may have in flight, and one message more.
    static let unappliedEntriesAlways = 4096 + 64
    /// Payload blocks of entries that may not have a place yet.
    private var stagedBlocksWaiting: Int { stagedBytes / Geometry.blockBytes }

    /// Whether a leader may propose `operation`. Growth stops below 5 % of free space, overwrites stop
    /// below 2 %, trims and deletes never do (ENGINE 4.8). A device that is merely behind is not full.
    /// `none` while ``isOutOfSpaceBelow``: another member may have room.
    public func room(for operation: Operation, in id: CopysetID) -> StoreRoom {
        // A store that has just failed or is closing is not full: the client must go on to the next leader.
        guard phase == .open, let copyset = copysetsByID[id] else { return .later }
        guard LogSlot.isStorable(operation) else { return .none }
        guard case .write(let run, _, _, _, let payload) = operation else { return .enough }
        guard !isOutOfSpaceBelow else { return .none }
        let spare = spareBlocks
        if spare < allocator.capacityBlocks / 8 { isShortOfSpace = true }
        guard spare - run.blockCount >= allocator.capacityBlocks / 50 else { return .none }
        if spare - run.blockCount < growthReserveBlocks + blocksToCome,
            growthBlocks(of: run, in: copyset.id) > 0
        {
            return .none
        }
        guard allocator.freeBlocks >= run.blockCount + stagedBlocksWaiting + metaNeedBlocks else {
            makeSpace()
            return .later
        }
        return stagedBytes + payload.byteCount <= settings.stagedBytesMax && copyset.stalled.isEmpty
            ? .enough : .later
    }

    /// Blocks that a write of `run` needs for good: for what holds nothing yet, and for its part of the map.
    public func growthBlocks(of run: BlockRun, in id: CopysetID) -> Int {
        let absent = run.blockCount - storedBlocks(of: run, in: id)
        return absent == 0 ? 0 : absent + Self.mapBlocksPerRun
    }
    /// How many blocks of `run` hold something: what a trim of it gives back.
    public func storedBlocks(of run: BlockRun, in id: CopysetID) -> Int {
        guard let chunk = copysetsByID[id]?.volumes[run.chunk.volume]?.chunks[run.chunk.index] else {
            return 0
        }
        return run.blocks.count { !chunk.entry($0).isAbsent }
    }
    /// A run lies in at most two leaves; the page of its chunk's record may be new too.
    public static let mapBlocksPerRun = 3
    /// True while this replica falls behind because its store has no room for what the others have.
    public func lacksRoom(_ id: CopysetID) -> Bool {
        guard let copyset = copysetsByID[id] else { return false }
        return copyset.waitingPiece != nil
            || copyset.lackedRoomAt.map { now <= $0 + Self.lackOfRoomLifetime } ?? false
    }
    /// Leaders try again more often than that.
    private static let lackOfRoomLifetime: Duration = .seconds(2)
    /// Blocks of new data that still fit before growth stops; `nil` when the store is closing or has failed,
    /// or cannot take what it has room for, since the file system below it is full.
    public var growthRoomBlocks: Int? {
        guard phase == .open, !isOutOfSpaceBelow else { return nil }
        return max(0, spareBlocks - growthReserveBlocks - blocksToCome)
    }
    /// What is free, or will be as soon as the store has let it go.
    private var spareBlocks: Int {
        allocator.freeBlocks + quarantinedBlockCount + reads.heldBlockCount + discards.blockCount
            - stagedBlocksWaiting - metaNeedBlocks
    }
    /// Kept for overwrites, trims and metadata, and for what is on its way here from leaders that have not
    /// yet heard how full this store is: 5 %, more where that would be less than a few requests.
    private var growthReserveBlocks: Int {
        max(allocator.capacityBlocks / 20, min(allocator.capacityBlocks / 4, Self.growthReserveBlocksMin))
    }
    /// The least that a store keeps free, if a quarter of it is not even less.
    public static let growthReserveBlocksMin = (16 << 20) / Geometry.blockBytes

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
