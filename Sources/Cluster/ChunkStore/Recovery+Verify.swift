import BlockTypes
import Environment

extension ChunkStore {
    // MARK: Tail (rules R3, R4)

    func verifyNext() {
        guard let recovery, recovery.stage == .verify else { return }
        while recovery.requestsPending < Recovery.verifiesMax, recovery.nextTail < recovery.tails.count {
            let tail = recovery.tails[recovery.nextTail]
            recovery.nextTail += 1
            if let cut = recovery.cuts[tail.copyset.id], cut <= tail.index { continue }
            recovery.requestsPending += 1
            let slot = tail.copyset.log[tail.index]
            let places = 0..<Int(slot.blockCount)
            startRead(
                .verifyTail(tail), locations: places.map { slot.spans.block($0) },
                checksums: slot.checksums.map(\.rawValue), blocks: Array(places))
        }
        if recovery.requestsPending == 0 { tailIsVerified() }
    }
    func tailVerified(_ tail: RecoveredTail, isGood: Bool) {
        guard let recovery else { return }
        recovery.requestsPending -= 1
        if !isGood { cut(tail.copyset, tail.index, recovery) }
        verifyNext()
    }
    func cut(_ copyset: Copyset, _ index: LogIndex, _ recovery: Recovery) {
        recovery.cuts[copyset.id] = min(recovery.cuts[copyset.id] ?? index, index)
    }
    private func tailIsVerified() {
        guard let recovery else { return }
        recovery.stage = .superblock
        for id in copysetIDs {
            guard let copyset = copysetsByID[id] else { continue }
            guard let index = recovery.cuts[id] else {
                // The next root will not know of it, and what it cut may still be in the ring then.
                if let from = recovery.queuedCuts[id] {
                    journal.urgent.append(.record(copyset, .truncate(from: from), .nothing))
                }
                continue
            }
            if copyset.log[index].lsn < recovery.durableLSN && !isPlanted(.lostTakenForTorn) {
                // Not torn by a crash: it was durable, and may have been acknowledged (rule R4).
                let floor = max(copyset.voteFloor, copyset.log.last)
                copyset.isFaulty = true
                let base = LogPosition(term: copyset.appliedTerm, index: copyset.applied)
                restart(copyset, base: base, voteFloor: floor, volumes: [], announce: false)
                continue
            }
            var freed: [Span] = []
            for raw in index.rawValue...copyset.log.lastIndex.rawValue {
                let spans = copyset.log[LogIndex(raw)].spans
                for place in 0..<spans.count { freed.append(spans[place]) }
                entryCount -= 1
            }
            copyset.log.truncate(from: index)
            cutLive(copyset, from: index)
            copyset.durable = min(copyset.durable, copyset.log.lastIndex)
            journal.urgent.append(.record(copyset, .truncate(from: index), .freedAll(freed)))
        }
        if !isPlanted(.incarnationKept) {
            superblock.identity.incarnation = Incarnation(superblock.identity.incarnation.rawValue + 1)
        }
        superblock.sequence += 1
        superblock.head = journal.head
        writeOpeningSuperblocks()
    }
    // MARK: New incarnation (rule R7)

    private func writeOpeningSuperblocks() {
        guard let recovery else { return }
        let blocks = recovery.secondCopies ? recovery.copyOrder[2..<4] : recovery.copyOrder[0..<2]
        let payload = superblock.encode(into: pool.take(byteCount: Geometry.blockBytes))
        for copy in blocks {
            let block = layout.superblockBlocks[copy]
            recovery.requestsPending += 1
            traffic.superblockBytes += UInt64(Geometry.blockBytes)
            submit(.recovery(.superblockWrite)) {
                .write($0, at: ByteOffset(bytes: UInt64(block) * 4096), [payload])
            }
        }
    }
    func flushSuperblocks() {
        guard let recovery else { return }
        recovery.requestsPending += 1
        guard geometry.hasVolatileCache else { return recover(.superblockFlush, .success(())) }
        submit(.recovery(.superblockFlush)) { .flush($0) }
    }
    func superblocksFlushed() {
        guard let recovery else { return }
        if !recovery.secondCopies {
            recovery.secondCopies = true
            return writeOpeningSuperblocks()
        }
        recovery.stage = .records
        guard let id = copysetIDs.first, let copyset = copysetsByID[id], !journal.urgent.isEmpty else {
            return finishRecovery()
        }
        // The last record of the lot: what it follows is durable when it is.
        journal.urgent.append(.record(copyset, .watermark, .recovered))
        pumpJournal()
    }
    func finishRecovery() {
        recovery = nil
        phase = .open
        lastCheckpoint = now
        (durableRevision, heardRevision) = (superblock.metadataRevision, superblock.metadataRevision)
        noteJournalFill()
        enforceRetention()
        effects.removeAll { if case .logStart = $0 { true } else { false } }
        effects.append(.opened)
    }
}
