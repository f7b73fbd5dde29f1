import BlockTypes

/// Where a copyset's log begins and ends, which term wrote what, and the newest entries themselves.
///
/// Older entries live only in the store. Entries in memory are always an unbroken run that ends at `last`.
struct ReplicaLog: Sendable {
    private(set) var base: LogPosition
    private(set) var last: LogPosition
    /// Entries up to here are on stable media; between `base` and `last`.
    private(set) var durable: LogIndex
    private var termStarts: [LogPosition]
    private var cache = Fifo<LogEntry>()
    private(set) var cachedBytes = 0

    /// Bytes an entry without payload is taken to occupy, so that many small ones are bounded, too.
    static let entryOverheadBytes = 256
    static func cost(_ entry: LogEntry) -> Int { entry.operation.payloadByteCount + entryOverheadBytes }

    init(base: LogPosition, termStarts: [LogPosition], last: LogPosition) {
        let starts = termStarts.filter { $0.index > base.index }
        invariant(
            base <= last && base.index <= last.index && starts.isEmpty == (base == last)
                && (starts.first.map { $0.index == base.index.next } ?? true)
                && (starts.last.map { $0.term == last.term && $0.index <= last.index } ?? true)
                && zip(starts, starts.dropFirst()).allSatisfy { $0.term < $1.term && $0.index < $1.index },
            "log of \(base) to \(last) with terms starting at \(termStarts)")
        (self.base, self.termStarts, self.last, durable) = (base, starts, last, last.index)
    }

    /// First entry that is in memory; one past `last` when none is.
    var cacheStart: LogIndex { LogIndex(last.index.rawValue - UInt64(cache.count) + 1) }

    /// - Returns: `nil` outside of `base` to `last`.
    func term(at index: LogIndex) -> Term? {
        if index == last.index { return last.term }
        guard index >= base.index, index < last.index else { return nil }
        return runStart(of: index)?.term ?? base.term
    }
    func position(at index: LogIndex) -> LogPosition? {
        term(at: index).map { LogPosition(term: $0, index: index) }
    }
    func contains(_ position: LogPosition) -> Bool { term(at: position.index) == position.term }

    /// The last index at or before `index` whose entry is of `term` or an earlier one; `base` at the least.
    func lastIndex(atOrBefore index: LogIndex, notAfter term: Term) -> LogIndex {
        var candidate = min(index, last.index)
        while let start = runStart(of: candidate), start.term > term {
            candidate = LogIndex(start.index.rawValue - 1)
        }
        return max(candidate, base.index)
    }

    private func runStart(of index: LogIndex) -> LogPosition? {
        var (low, high) = (0, termStarts.count)
        while low < high {
            let middle = (low + high) / 2
            if termStarts[middle].index <= index { low = middle + 1 } else { high = middle }
        }
        return low == 0 ? nil : termStarts[low - 1]
    }

    mutating func append(_ entry: LogEntry) {
        invariant(
            entry.position.index == last.index.next && entry.position.term >= last.term,
            "\(entry.position) after \(last)")
        if entry.position.term > last.term || last == base { termStarts.append(entry.position) }
        last = entry.position
        cache.append(entry)
        cachedBytes += Self.cost(entry)
    }

    mutating func truncate(from index: LogIndex) {
        invariant(index > base.index && index <= last.index, "truncate \(index) of \(base) to \(last)")
        guard let newLast = position(at: LogIndex(index.rawValue - 1)) else { return }
        while last.index > newLast.index, let dropped = cache.popLast() {
            cachedBytes -= Self.cost(dropped)
            last.index = LogIndex(last.index.rawValue - 1)
        }
        termStarts.removeAll { $0.index >= index }
        last = newLast
        durable = min(durable, newLast.index)
    }

    /// - Returns: false when `position` is of an entry that was truncated since, or known to be durable.
    mutating func markDurable(_ position: LogPosition) -> Bool {
        guard position.index > durable, contains(position) else { return false }
        durable = position.index
        return true
    }

    /// The store has dropped everything up to `position`.
    mutating func dropThrough(_ position: LogPosition) {
        guard position.index > base.index, contains(position) else { return }
        var following = termStarts.filter { $0.index > position.index }
        let next = position.index.next
        if next <= last.index, following.first?.index != next, let term = term(at: next) {
            following.insert(LogPosition(term: term, index: next), at: 0)
        }
        (base, termStarts) = (position, following)
        durable = max(durable, position.index)
        evict(through: position.index, bytesMax: .max)
    }

    /// A log that begins anew after `position`.
    mutating func restart(at position: LogPosition) {
        cache.removeAll()
        (base, last, durable, termStarts, cachedBytes) = (position, position, position.index, [], 0)
    }

    /// Lets go of entries up to `index`, and of more while above `bytesMax`; never of one not yet durable.
    mutating func evict(through index: LogIndex, bytesMax: Int) {
        while let entry = cache.first, entry.position.index <= durable,
            entry.position.index <= index || cachedBytes > bytesMax
        {
            cache.popFirst()
            cachedBytes -= Self.cost(entry)
        }
    }

    /// Entries from `index` on that are in memory, at most as many and as large as given, but at least one.
    func entries(from index: LogIndex, countMax: Int, bytesMax: Int) -> [LogEntry] {
        let start = cacheStart
        guard index >= start, index <= last.index else { return [] }
        let offset = Int(index.rawValue - start.rawValue)
        var (end, bytes) = (offset, 0)
        while end < cache.count, end - offset < countMax, let entry = cache[end] {
            bytes += entry.operation.payloadByteCount
            if end > offset, bytes > bytesMax { break }
            end += 1
        }
        return (offset..<end).compactMap { cache[$0] }
    }
}
