import BlockTypes

extension ChunkStore {
    /// Where the engine stands, in one line for a failure's message.
    package var diagnosis: String {
        "\(phase), journal \(journal.tail)..\(journal.head) of \(layout.journalBytes), "
            + "\(journal.waiting.count) waiting, \(journal.inFlight.count) in flight, "
            + "needed \(neededTail()), meta \(metaNeedBlocks), \(stagedBytes) bytes staged, "
            + "\(entryCount) entries, open batch of \(journal.open?.records.count ?? 0), "
            + "checkpoint \(checkpoint.map { "\($0.stage)" } ?? (wantsCheckpoint ? "wanted" : "none")), "
            + "\(allocator.freeBlocks) free, \(quarantinedBlockCount) quarantined, "
            + "\(stalledCopysets.count) stalled, \(retryAtTick.count) to retry"
    }
    /// True while a piece of a full copy finds no room: nothing but space can help it.
    package var isTooFullForCopy: Bool { copysetsByID.values.contains { $0.waitingPiece != nil } }
    /// Checks invariants I7 and I8 on a store that has nothing in flight: every taken block is exactly one of
    /// live, page, staged, quarantined or bad.
    /// - Returns: what is wrong, or `nil`.
    package func audit() -> String? {
        guard phase == .open, journal.isIdle, checkpoint == nil, dying.isEmpty, pending.isEmpty,
            stalledCopysets.isEmpty, retryAtTick.isEmpty
        else { return nil }
        var owners: [UInt32: String] = [:]
        var problem: String?
        func claim(_ block: UInt32, _ owner: @autoclosure () -> String) {
            if let other = owners[block] { problem = problem ?? "block \(block): \(owner()) and \(other)" }
            owners[block] = owner()
            if !allocator.isTaken(block) { problem = problem ?? "block \(block) of \(owner()) is free" }
        }
        for page in tables.flatMap({ $0.pages + $0.indexPages }) + [superblock.badBlocks] where page != .none
        {
            claim(page.location, "table page")
        }
        for chunk in droppedChunks {
            for page in chunk.pages where page != .none { claim(page.location, "old page") }
        }
        for id in copysetIDs {
            guard let copyset = copysetsByID[id] else { continue }
            for volume in copyset.volumes.values {
                for chunk in volume.chunks.values {
                    for page in chunk.pages where page != .none { claim(page.location, "leaf") }
                    for leaf in chunk.leaves {
                        for word in leaf?.words ?? [] where !MapEntry(word: word).isAbsent {
                            claim(MapEntry(word: word).location, "chunk \(chunk.key)")
                        }
                    }
                }
            }
            for span in copyset.quarantine.allSpans {
                for block in span.start..<span.end { claim(block, "quarantine of \(id)") }
            }
            var index = copyset.applied.next
            while copyset.log.contains(index) {
                let spans = copyset.log[index].spans
                for place in 0..<spans.count {
                    for block in spans[place].start..<spans[place].end {
                        claim(block, "entry \(index) of \(id)")
                    }
                }
                index = index.next
            }
        }
        if let problem { return problem }
        for block in unusable where owners[block] == nil { owners[block] = "unusable" }
        let held = reads.heldBlockCount + discards.blockCount
        let taken = allocator.capacityBlocks - allocator.freeBlocks
        if taken != owners.count + held {
            return "\(taken) blocks taken, \(owners.count + held) accounted for"
        }
        let quarantined = copysetIDs.reduce(0) { $0 + (copysetsByID[$1]?.quarantine.blockCount ?? 0) }
        if quarantined != quarantinedBlockCount {
            return "quarantine counts \(quarantinedBlockCount), has \(quarantined)"
        }
        return nil
    }
}
