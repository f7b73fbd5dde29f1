import BlockTypes
import ChunkServer
import ChunkStore

/// Says which faults may strike now: those under which the promise of DESIGN section 2 is supposed to hold,
/// so that each failure is a bug.
///
/// One disk of three may damage what it keeps. While its server runs it knows what it has acknowledged and
/// whom it voted for, whatever the disk forgets. Started again it may have lost the newest of both without a
/// trace, need a full copy, or be refused for good; from then on a majority of complete copies is the two
/// others and nobody else. So it may die at any time, but must not come back before both of them can do
/// without its memory. The other two may be struck in any way meanwhile: their disks are honest.
struct FaultAtlas {
    /// What others may still rely on in one copyset.
    private struct Debt {
        var end = LogPosition.zero
        /// The last term in which it voted for another server; 0 when it did not.
        var votedIn = Term(0)
    }
    private var debts: [CopysetID: Debt] = [:]  // Looked up, never iterated.
    private let copysets: [CopysetID]

    init(_ copysets: [CopysetID]) { self.copysets = copysets }

    /// The server with the damaging disk is about to die, or has given up.
    mutating func dies(_ server: ChunkServer, _ id: ServerID) {
        for copyset in copysets {
            guard let state = server.state(of: copyset) else { continue }
            let hasVoted = state.votedFor != nil && state.votedFor != id
            debts[copyset] = Debt(
                end: state.position(at: state.durable), votedIn: hasVoted ? state.term : Term(0))
        }
    }
    /// True when `others`, both of them, are complete, have applied everything it acknowledged, and follow
    /// a leader of the term it voted in or of a later one: what it may have forgotten changes no election.
    func mayReturn(_ others: [ChunkServer?]) -> Bool {
        others.allSatisfy { other in
            copysets.allSatisfy { copyset in
                guard let state = other?.state(of: copyset), !state.isSyncing else { return false }
                let debt = debts[copyset] ?? Debt()
                let applied = state.position(at: state.applied)
                return applied >= debt.end && applied.term >= debt.votedIn
            }
        }
    }
}

extension CopysetState {
    /// Which term wrote a kept entry.
    fileprivate func position(at index: LogIndex) -> LogPosition {
        let start = termStarts.last { $0.index <= index } ?? base
        return LogPosition(term: start.term, index: index)
    }
}
