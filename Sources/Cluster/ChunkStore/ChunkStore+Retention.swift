import BlockTypes

/// An entry on its way back to a peer.
struct LoadedEntry {
    var index: LogIndex
    var slot: LogSlot
    /// Where its payload starts in the read's buffer, in blocks; `nil` when it is in memory or has none.
    var bufferBlock: Int?
}

extension ChunkStore {
    // MARK: Handing kept entries out

    /// Reads entries back for a peer, from `index` on, about `bytesMax` of payload and at least one entry.
    /// ``StoreEffect/entriesLoaded(_:_:)`` answers, empty when `index` is no longer kept.
    public func loadEntries(_ ticket: UInt64, _ id: CopysetID, from index: LogIndex, bytesMax: Int) {
        guard phase == .open, let copyset = copysetsByID[id], copyset.log.contains(index) else {
            effects.append(.entriesLoaded(ticket, []))
            return
        }
        var loaded: [LoadedEntry] = []
        var (locations, checksums, blocks) = ([UInt32](), [UInt32](), [Int]())
        var bytes = 0
        for raw in index.rawValue...copyset.log.lastIndex.rawValue {
            let slot = copyset.log[LogIndex(raw)]
            guard loaded.isEmpty || bytes + slot.payloadBytes <= bytesMax else { break }
            guard loaded.count < Self.loadedEntriesMax else { break }
            bytes += slot.payloadBytes
            var entry = LoadedEntry(index: LogIndex(raw), slot: slot)
            if slot.kind == .write && slot.payload == nil {
                entry.bufferBlock = locations.count
                for (place, checksum) in slot.checksums.enumerated() {
                    locations.append(slot.spans.block(place))
                    checksums.append(checksum.rawValue)
                    blocks.append(loaded.count)
                }
            }
            loaded.append(entry)
        }
        guard !locations.isEmpty else {
            effects.append(.entriesLoaded(ticket, loaded.map { Self.entry($0, buffer: nil) }))
            return
        }
        startRead(
            .entries(ticket, copyset, loaded, generation: copyset.generation), locations: locations,
            checksums: checksums, blocks: blocks)
    }
    /// One message to a peer holds no more.
    static let loadedEntriesMax = 64

    func finishLoading(
        _ read: ReadOperation, _ ticket: UInt64, _ copyset: Copyset, _ loaded: [LoadedEntry],
        _ generation: Int
    ) {
        guard let bad = read.failed.map({ read.blocks[$0] }).min() else {
            effects.append(.entriesLoaded(ticket, loaded.map { Self.entry($0, buffer: read.buffer) }))
            return
        }
        // What was superseded may be gone after a restart: then the log starts behind it.
        let lost = loaded[bad].index
        let end = read.failed.map { read.blocks[$0] }.max() ?? bad
        if copyset.generation == generation, loaded[end].index <= copyset.applied,
            copyset.log.contains(loaded[end].index),
            copyset.log[loaded[end].index].serial == loaded[end].slot.serial
        {
            dropEntries(copyset, through: loaded[end].index)
        }
        let whole = loaded.prefix { $0.index < lost }
        effects.append(.entriesLoaded(ticket, whole.map { Self.entry($0, buffer: read.buffer) }))
    }
    private static func entry(_ loaded: LoadedEntry, buffer: BlockBuffer?) -> LogEntry {
        var payload = loaded.slot.payload
        if let start = loaded.bufferBlock, let buffer {
            payload = Payload(
                buffer, startByte: start * Geometry.blockBytes, byteCount: loaded.slot.payloadBytes)
        }
        return LogEntry(
            LogPosition(term: loaded.slot.term, index: loaded.index), loaded.slot.operation(payload: payload))
    }

    // MARK: Dropping them

    /// Forgets applied entries through `index`, tells Raft, and lets go the blocks that only they needed.
    func dropEntries(_ copyset: Copyset, through index: LogIndex) {
        let through = min(index, copyset.applied)
        guard copyset.log.contains(through) else { return }
        let before = copyset.log.count
        copyset.log.dropThrough(through)
        entryCount -= before - copyset.log.count
        effects.append(.logStart(copyset.id, copyset.log.base))
        releaseQuarantine(copyset)
    }
    func tickRetention() {
        for id in copysetIDs {
            guard let copyset = copysetsByID[id] else { continue }
            let droppable = min(copyset.retainAfter, copyset.applied)
            if droppable > copyset.log.base.index && !copyset.quarantine.isEmpty {
                dropEntries(copyset, through: droppable)
            }
        }
        enforceRetention()
    }
    /// Within the budget: the copyset that keeps most loses its older half, until it fits.
    func enforceRetention() {
        while entryCount > settings.retainedEntriesMax
            || quarantinedBlockCount * Geometry.blockBytes > settings.retainedBytesMax
        {
            var most: Copyset?
            var mostKept: UInt64 = 0
            let byBytes = entryCount <= settings.retainedEntriesMax
            for id in copysetIDs {
                guard let copyset = copysetsByID[id] else { continue }
                let droppable =
                    copyset.applied.rawValue - min(copyset.applied.rawValue, copyset.log.base.index.rawValue)
                let weight = byBytes ? UInt64(copyset.quarantine.blockCount) : droppable
                if droppable > 0 && weight > mostKept { (most, mostKept) = (copyset, weight) }
            }
            guard let most else { return }
            let (base, applied) = (most.log.base.index.rawValue, most.applied.rawValue)
            dropEntries(most, through: LogIndex(base + (applied - base + 1) / 2))
        }
    }
    /// Space before history: peers that lag far get a full copy instead.
    func makeSpace() {
        (isShortOfSpace, owesSpace) = (false, false)
        for id in copysetIDs {
            guard let copyset = copysetsByID[id], !copyset.quarantine.isEmpty else { continue }
            dropEntries(copyset, through: copyset.applied)
        }
        discards.releaseAll { allocator.free($0) }
        queueWatermarks()
    }
}

/// Freed blocks that the device is told about before they are used again.
struct DiscardQueue {
    private var waiting: [Span] = []
    private(set) var blockCount = 0
    static let requestsPerTick = 64

    mutating func add(_ span: Span) {
        waiting.append(span)
        blockCount += Int(span.count)
    }
    /// Adjacent spans as one, at most ``requestsPerTick``; the rest stays.
    mutating func takeBatch() -> [Span] {
        guard !waiting.isEmpty else { return [] }
        waiting.sort { $0.start < $1.start }
        var merged: [Span] = []
        var used = 0
        for span in waiting {
            if let last = merged.last, last.end == span.start {
                merged[merged.count - 1].count += span.count
            } else {
                guard merged.count < Self.requestsPerTick else { break }
                merged.append(span)
            }
            used += 1
        }
        waiting.removeFirst(used)
        return merged
    }
    mutating func completed(_ span: Span) { blockCount -= Int(span.count) }
    mutating func releaseAll(_ free: (Span) -> Void) {
        for span in waiting {
            blockCount -= Int(span.count)
            free(span)
        }
        waiting = []
    }
}

extension ChunkStore {
    func freeOrDiscard(_ span: Span) {
        if !unusable.isEmpty && (span.start..<span.end).contains(where: unusable.contains) {
            return freeGoodPart(of: span)
        }
        if settings.discardsFreedSpace && phase == .open { discards.add(span) } else { allocator.free(span) }
    }
    /// A bad or suspect block stays taken for good.
    private func freeGoodPart(of span: Span) {
        for block in span.start..<span.end where !unusable.contains(block) {
            allocator.free(Span(start: block, count: 1))
        }
    }
    func tickDiscards() {
        guard settings.discardsFreedSpace else { return }
        for span in discards.takeBatch() {
            submit(.discard(span)) {
                .discard($0, at: ByteOffset(bytes: span.startByte), ByteCount(bytes: UInt64(span.byteCount)))
            }
        }
    }
    /// A device that refuses to discard loses nothing: the blocks are free all the same.
    func discardCompleted(_ span: Span) {
        discards.completed(span)
        allocator.free(span)
    }
}
