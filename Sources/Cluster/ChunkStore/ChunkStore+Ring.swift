import BlockTypes

// How the ring never locks up.
//
// The tail passes a record once its entry is applied and a root says so. Entries that do not get applied (a
// lost quorum, a dead leader's) would hold it for ever, so their records are written again in front. That
// takes room, and the room is kept free for it: live records are bounded (`ringHasRoom`), one round of
// carrying fits what is kept (`StoreLayout.journalCarryBytes`), and no second round begins before a root has
// let the tail pass the first. A root needs no room in the ring, and stands in for what could not be
// written: it holds the watermarks and the truncations that still wait.

/// Records of one copyset that a crash would bring back as not applied: those after its durable watermark.
struct LiveRecords {
    private var items = Fifo<(index: LogIndex, byteCount: Int)>()
    private(set) var byteCount = 0

    mutating func add(_ index: LogIndex, _ bytes: Int) {
        items.append((index, bytes))
        byteCount += bytes
    }
    /// - Returns: the bytes let go.
    mutating func release(through index: LogIndex) -> Int {
        let before = byteCount
        while let item = items.first, item.index <= index {
            items.dropFirst(1)
            byteCount -= item.byteCount
        }
        return before - byteCount
    }
    /// - Returns: the bytes let go.
    mutating func cut(from index: LogIndex) -> Int {
        let before = byteCount
        while let item = items.last, item.index >= index {
            items.dropLast(1)
            byteCount -= item.byteCount
        }
        return before - byteCount
    }
}

/// A truncation that no journal block holds yet.
struct QueuedCut {
    var from: LogIndex
    /// Where the oldest record of what it cuts may lie.
    var lowestLSN: UInt64
}

extension Copyset {
    /// Its record has a place in the ring and needs no more room: until it is durable it holds the tail.
    func truncationIsWritten() {
        guard let cut = cutsQueued.popFirst() else { return }
        truncationsInFlight += 1
        truncatedLSN = min(truncatedLSN, cut.lowestLSN)
    }
    func truncationIsDurable() {
        truncationsInFlight -= 1
        if truncationsInFlight == 0 { truncatedLSN = .max }
    }
    /// What a root must say was cut: the oldest queued truncation reaches furthest down of those that matter.
    var queuedCut: LogIndex? { (0..<cutsQueued.count).map { cutsQueued[$0].from }.min() }
}

extension ChunkStore {
    // MARK: How much may be live

    /// A copyset may always have one entry in the ring; beyond that, half of what the others leave. So those
    /// that wait for a quorum for ever leave a share to all others.
    func ringHasRoom(for copyset: Copyset, _ index: LogIndex) -> Bool {
        let bytes = copyset.live.byteCount + copyset.log[index].recordBytesMax
        let left = layout.journalLiveBytes - min(layout.journalLiveBytes, journal.liveBytes)
        if copyset.live.byteCount == 0 || bytes <= left / 2 { return true }
        // What is applied stops being live with the next watermark.
        queueWatermark(copyset)
        return false
    }
    func noteLive(_ copyset: Copyset, _ index: LogIndex) {
        let bytes = copyset.log[index].recordBytesMax
        copyset.live.add(index, bytes)
        journal.liveBytes += bytes
    }
    func cutLive(_ copyset: Copyset, from index: LogIndex) {
        journal.liveBytes -= copyset.live.cut(from: index)
    }

    // MARK: Making room

    /// How far the next batch may fill the ring.
    var journalLimitBytes: UInt64 {
        if phase == .opening { return layout.journalBytes }
        let kept = journal.roomMaking == .none ? layout.journalCarryBytes : 0
        return layout.journalBytes - layout.journalReserveBytes - kept
    }
    /// The ring is full: a root lets the tail pass, after a round of carrying if that is what holds it.
    /// - Returns: true when the round has begun and the ring may be filled further.
    func startMakingRoom() -> Bool {
        guard journal.roomMaking == .none, checkpoint == nil, phase != .opening else { return false }
        guard neededTail() - journal.tail < layout.journalBytes / 8 else {
            wantsCheckpoint = true
            return false
        }
        guard journal.inFlight.isEmpty else { return false }
        journal.roomMaking = .carrying
        // What failed elsewhere is still to be written; what was being carried is listed again.
        var failed = Fifo<JournalItem>()
        while let item = journal.carried.popFirst() {
            guard case .entry(let copyset, let index, let serial) = item, copyset.log.contains(index),
                copyset.log[index].serial == serial, !copyset.log[index].isStable
            else { continue }
            failed.append(item)
        }
        carryForward(olderThan: journal.head)
        journal.carried.prepend((0..<failed.count).map { failed[$0] })
        return true
    }
    /// Nothing is left to carry.
    func noteCarried() {
        guard journal.roomMaking == .carrying, journal.carried.isEmpty, journal.inFlight.isEmpty else {
            return
        }
        journal.roomMaking = .carried
        wantsCheckpoint = true
    }
    /// Lists the records of stable entries that are not applied, to be written again.
    func carryForward(olderThan old: UInt64) {
        guard journal.carried.isEmpty else { return }
        for id in copysetIDs {
            guard let copyset = copysetsByID[id] else { continue }
            var index = copyset.applied.next
            while copyset.log.contains(index) {
                let slot = copyset.log[index]
                if slot.isStable && slot.lsn < old {
                    journal.carried.append(.entry(copyset, index, serial: slot.serial))
                }
                index = index.next
            }
        }
    }
    /// The first byte of the journal that recovery would still need once a root is written.
    func neededTail() -> UInt64 {
        var needed = journal.head
        for id in copysetIDs {
            guard let copyset = copysetsByID[id] else { continue }
            // A crash may lose the record that is on its way, and bring back what it cuts: all of it or none.
            if copyset.truncationsInFlight > 0 { needed = min(needed, copyset.truncatedLSN) }
            var index = copyset.applied.next
            while copyset.log.contains(index) {
                needed = min(needed, copyset.log[index].lsn)
                index = index.next
            }
        }
        return needed
    }
}
