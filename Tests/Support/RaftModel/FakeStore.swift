import BlockTypes
import Raft

/// What a replica's disk holds.
struct DiskState {
    var term = Term(0)
    var votedFor: ServerID?
    var base = LogPosition.zero
    var entries: [LogEntry] = []
    var isSyncing = false
    var voteFloor = LogPosition.zero
    /// The term of the source of the copy under way.
    var sourceTerm: Term?
    /// Persisted now and then; recovery applies again from here.
    var appliedMark = LogIndex(0)

    var last: LogPosition { entries.last?.position ?? base }
    func entry(at index: LogIndex) -> LogEntry? {
        guard index > base.index, index <= last.index else { return nil }
        return entries[Int(index.rawValue - base.index.rawValue) - 1]
    }
    func position(at index: LogIndex) -> LogPosition? {
        index == base.index ? base : entry(at: index)?.position
    }
    var termStarts: [LogPosition] {
        var starts: [LogPosition] = []
        for entry in entries where entry.position.term != starts.last?.term { starts.append(entry.position) }
        return starts
    }

    enum Change {
        case vote(Term, ServerID?)
        case append([LogEntry])
        case truncate(from: LogIndex)
        case beginSync(base: LogPosition, sourceTerm: Term, floor: LogPosition)
        case finishSync(generation: Int)
    }
    mutating func make(_ change: Change) {
        switch change {
        case .vote(let newTerm, let candidate): (term, votedFor) = (newTerm, candidate)
        case .append(let new): entries += new
        case .truncate(let index): entries.removeLast(Int(last.index.rawValue - index.rawValue) + 1)
        case .beginSync(let newBase, let newSourceTerm, let floor):
            (base, entries, isSyncing, voteFloor) = (newBase, [], true, floor)
            (appliedMark, sourceTerm) = (newBase.index, newSourceTerm)
        case .finishSync: (isSyncing, sourceTerm, voteFloor) = (false, nil, .zero)
        }
    }
    /// The log reaches the term of the copy's source, and what was given up for it.
    var isWholeCopy: Bool { sourceTerm.map { last.term >= $0 && last >= voteFloor } ?? false }
    /// What a store finds that lost its map: votes and the end of its log, nothing else.
    mutating func loseEverything() {
        if !isSyncing { voteFloor = last }
        base = position(at: appliedMark) ?? base
        (entries, isSyncing, sourceTerm) = ([], true, nil)
    }
    mutating func dropThrough(_ index: LogIndex) {
        guard index > base.index, let position = position(at: index) else { return }
        entries.removeFirst(Int(index.rawValue - base.index.rawValue))
        base = position
        appliedMark = max(appliedMark, index)
    }
}

/// A store whose changes reach the disk late and in order, and of which a crash keeps any prefix.
struct FakeStore {
    /// As of the last change that is durable.
    var disk = DiskState()
    /// As of the last change asked for.
    var view = DiskState()
    var pending: [DiskState.Change] = []
    var commit = LogIndex(0)
    var applied = LogIndex(0)
    var copyGeneration = 0

    /// Committed, durable, and not about to be truncated or given up for a copy.
    var applicable: LogIndex {
        guard !isAboutToCopy else { return applied }
        var index = min(commit, disk.last.index)
        while index > disk.base.index, disk.position(at: index) != view.position(at: index) {
            index = LogIndex(index.rawValue - 1)
        }
        return index
    }
    /// All that a finished copy needs is on stable media, of the copy begun last.
    var mayFinishCopy: Bool { disk.isWholeCopy && !isAboutToCopy }
    /// What the disk holds is an older log, of which nothing counts any more.
    private var isAboutToCopy: Bool { pending.contains { if case .beginSync = $0 { true } else { false } } }
    mutating func loseEverything() {
        disk.loseEverything()
        view = disk
        (applied, commit) = (disk.appliedMark, disk.appliedMark)
    }
    mutating func ask(_ change: DiskState.Change) {
        view.make(change)
        pending.append(change)
    }
    mutating func completeOldest() -> DiskState.Change {
        let change = pending.removeFirst()
        disk.make(change)
        return change
    }
    mutating func dropThrough(_ index: LogIndex) {
        disk.dropThrough(index)
        view.dropThrough(index)
    }

    mutating func crash(_ random: inout SeededRandom) {
        disk.appliedMark = LogIndex(
            UInt64.random(
                in: disk.appliedMark.rawValue...max(applied.rawValue, disk.appliedMark.rawValue),
                using: &random))
        for _ in 0..<Int.random(in: 0...pending.count, using: &random) {
            let change = pending.removeFirst()
            if pending.isEmpty == false || random.oneIn(2) {
                disk.make(change)
            } else if case .append(let entries) = change {
                let kept = Int.random(in: 0...entries.count, using: &random)
                if kept > 0 { disk.make(.append(Array(entries.prefix(kept)))) }
            }
        }
        pending = []
        disk.sourceTerm = nil  // A copy that was under way starts anew.
        view = disk
        applied = disk.appliedMark
        commit = applied
        copyGeneration += 1
    }
}
