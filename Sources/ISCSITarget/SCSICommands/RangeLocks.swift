/// Keeps commands that must see and change blocks as one (COMPARE AND WRITE, ORWRITE, WRITE ATOMIC, ...)
/// apart from all others that touch the same blocks. Plain reads and writes pass each other freely.
///
/// First come, first served: a command waits for those before it that it may not meet, also for those that
/// themselves wait, so no stream of plain commands keeps an exclusive one out for ever.
struct RangeLocks: Sendable {
    private struct Entry {
        let owner: TaskNumber
        let blocks: Range<UInt64>
        let isExclusive: Bool
        var isHeld: Bool
    }
    private var entries: [Entry] = []
    private var exclusives = 0

    /// - Returns: true when the owner may go on at once; else it is named by a ``release(_:ready:)``.
    mutating func acquire(_ owner: TaskNumber, _ blocks: Range<UInt64>, exclusive: Bool) -> Bool {
        // Without an exclusive command nobody has to look at the others.
        let meets =
            (exclusive || exclusives > 0)
            && entries.contains { ($0.isExclusive || exclusive) && $0.blocks.overlaps(blocks) }
        entries.append(Entry(owner: owner, blocks: blocks, isExclusive: exclusive, isHeld: !meets))
        if exclusive { exclusives += 1 }
        return !meets
    }
    /// Takes the owner off, whether it held or waited.
    /// - Parameter ready: gets those that may go on now, in the order in which they came.
    mutating func release(_ owner: TaskNumber, ready: inout [TaskNumber]) {
        guard let index = entries.firstIndex(where: { $0.owner == owner }) else { return }
        let gone = entries.remove(at: index)
        if gone.isExclusive { exclusives -= 1 }
        for later in entries.indices where !entries[later].isHeld {
            let entry = entries[later]
            let waits = entries[..<later].contains {
                ($0.isExclusive || entry.isExclusive) && $0.blocks.overlaps(entry.blocks)
            }
            if !waits {
                entries[later].isHeld = true
                ready.append(entry.owner)
            }
        }
    }
    var isEmpty: Bool { entries.isEmpty }
}
