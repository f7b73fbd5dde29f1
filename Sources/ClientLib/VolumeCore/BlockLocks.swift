import BlockTypes

/// Puts changes of the same blocks in one order, first come first served; changes of distinct blocks never
/// meet.
///
/// A change joins the list of every 64-block group it touches, behind those that came before; it may start
/// when no earlier one in those lists overlaps it. All changes join in the order in which they were asked
/// for, so two that share several blocks have one order for all of them, and nobody waits in a circle.
struct BlockLocks {
    private struct Entry {
        var chunk: UInt32 = 0
        var group: UInt32 = 0
        var firstBlock: Int32 = 0
        var endBlock: Int32 = 0
        var owner: Int32 = 0
        var next: Int32 = -1
    }
    /// Blocks in a group: a write of the largest size touches two groups at most.
    private static let groupBlocks = 64
    private static let bucketCount = 1024  // About twice the sub-requests that can be active.

    private var entries: [Entry] = []
    private var firstFree: Int32 = -1
    private var heads = [Int32](repeating: -1, count: bucketCount)
    /// By owner: earlier overlapping changes, counted once per common group.
    private var waits: [Int32]

    init(ownersMax: Int) { waits = Array(repeating: 0, count: ownersMax) }

    /// Queues `owner` for the blocks.
    /// - Returns: true when it may start now.
    mutating func acquire(_ owner: Int, chunk: UInt32, blocks: Range<Int>) -> Bool {
        waits[owner] = 0
        for group in groups(of: blocks) {
            let bucket = Self.bucket(chunk, group)
            var (cursor, last) = (heads[bucket], Int32(-1))
            while cursor >= 0 {
                if overlaps(entries[Int(cursor)], chunk, group, blocks) { waits[owner] += 1 }
                (last, cursor) = (cursor, entries[Int(cursor)].next)
            }
            let index = allocate()
            entries[Int(index)] = Entry(
                chunk: chunk, group: UInt32(group), firstBlock: Int32(blocks.lowerBound),
                endBlock: Int32(blocks.upperBound), owner: Int32(owner))
            if last < 0 { heads[bucket] = index } else { entries[Int(last)].next = index }
        }
        return waits[owner] == 0
    }

    /// Takes `owner` off the lists, whether it had started or not.
    /// - Parameter ready: gets those that may start now, in the order in which they came.
    mutating func release(_ owner: Int, chunk: UInt32, blocks: Range<Int>, ready: inout [Int]) {
        for group in groups(of: blocks) {
            let bucket = Self.bucket(chunk, group)
            var (cursor, previous, isPast) = (heads[bucket], Int32(-1), false)
            while cursor >= 0 {
                let entry = entries[Int(cursor)]
                if !isPast, entry.owner == Int32(owner), entry.chunk == chunk, entry.group == UInt32(group) {
                    isPast = true
                    if previous < 0 {
                        heads[bucket] = entry.next
                    } else {
                        entries[Int(previous)].next = entry.next
                    }
                    (entries[Int(cursor)].next, firstFree) = (firstFree, cursor)
                } else {
                    if isPast, overlaps(entry, chunk, group, blocks) {
                        waits[Int(entry.owner)] -= 1
                        if waits[Int(entry.owner)] == 0 { ready.append(Int(entry.owner)) }
                    }
                    previous = cursor
                }
                cursor = entry.next
            }
            invariant(isPast, "sub-request \(owner) held no lock on chunk \(chunk) blocks \(blocks)")
        }
    }

    private func groups(of blocks: Range<Int>) -> ClosedRange<Int> {
        (blocks.lowerBound / Self.groupBlocks)...((blocks.upperBound - 1) / Self.groupBlocks)
    }
    private func overlaps(_ entry: Entry, _ chunk: UInt32, _ group: Int, _ blocks: Range<Int>) -> Bool {
        entry.chunk == chunk && entry.group == UInt32(group) && entry.firstBlock < Int32(blocks.upperBound)
            && entry.endBlock > Int32(blocks.lowerBound)
    }
    private static func bucket(_ chunk: UInt32, _ group: Int) -> Int {
        let key = UInt64(chunk) << 8 | UInt64(group)
        return Int((key &* 0x9E37_79B9_7F4A_7C15) >> 54)
    }
    private mutating func allocate() -> Int32 {
        guard firstFree >= 0 else {
            entries.append(Entry())
            return Int32(entries.count - 1)
        }
        let index = firstFree
        firstFree = entries[Int(index)].next
        return index
    }
}
