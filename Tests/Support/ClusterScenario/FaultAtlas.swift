import BlockTypes
import ChunkServer
import ChunkStore

/// Says which faults may strike now: those under which the promise of DESIGN section 2 is supposed to hold,
/// so that each failure is a bug.
///
/// One disk of each copyset may damage what it keeps. While its server runs it knows what it has
/// acknowledged and whom it voted for, whatever the disk forgets. Started again it may have lost the newest
/// of both without a trace, need a full copy, or be refused for good; from then on a majority of complete
/// copies is the two others and nobody else. So it may die at any time, but must not come back before both
/// of them can do without its memory, in every copyset that it has. The other two may be struck in any way
/// meanwhile: their disks are honest.
struct FaultAtlas {
    /// What others may still rely on in one copyset.
    private struct Debt {
        var end = LogPosition.zero
        /// The last term in which it voted for another server; 0 when it did not.
        var votedIn = Term(0)
    }
    private struct Replica: Hashable {
        let server: ServerID
        let copyset: CopysetID
    }
    private let copysets: [(id: CopysetID, members: [ServerID])]
    private var debts: [Replica: Debt] = [:]  // Looked up, never iterated.
    private var damaging: Set<ServerID> = []  // Looked up, never iterated.
    private var gone: Set<ServerID> = []  // Looked up, never iterated.

    init(_ copysets: [(id: CopysetID, members: [ServerID])]) { self.copysets = copysets }

    /// Lets the disk of this server damage what it keeps, unless that could take a second copy of a block.
    /// - Returns: whether it may.
    mutating func admitDamage(on server: ServerID) -> Bool {
        let isAlone = copysets.allSatisfy { copyset in
            !copyset.members.contains(server) || !copyset.members.contains { damaging.contains($0) }
        }
        if isAlone { damaging.insert(server) }
        return isAlone
    }
    func isDamaging(_ server: ServerID) -> Bool { damaging.contains(server) }

    /// This server is about to die, or has given up.
    mutating func dies(_ server: ChunkServer, _ id: ServerID) {
        guard damaging.contains(id) else { return }
        for copyset in copysets where copyset.members.contains(id) {
            guard let state = server.state(of: copyset.id) else { continue }
            let hasVoted = state.votedFor != nil && state.votedFor != id
            debts[Replica(server: id, copyset: copyset.id)] = Debt(
                end: state.position(at: state.durable), votedIn: hasVoted ? state.term : Term(0))
        }
    }
    /// The store of this server was refused: nobody starts it again.
    mutating func isRefused(_ server: ServerID) {
        if damaging.contains(server) { gone.insert(server) }
    }
    func isGone(_ server: ServerID) -> Bool { gone.contains(server) }

    /// True when all other members, in every copyset of this server, are complete, have applied everything
    /// it acknowledged, and follow a leader of the term it voted in or of a later one: what it may have
    /// forgotten changes no election. A server whose disk is honest may always return.
    /// - Parameter state: what a server that serves now says about a copyset.
    func mayReturn(_ server: ServerID, _ state: (ServerID, CopysetID) -> CopysetState?) -> Bool {
        if gone.contains(server) { return false }
        guard damaging.contains(server) else { return true }
        return copysets.allSatisfy { copyset in
            guard copyset.members.contains(server) else { return true }
            let debt = debts[Replica(server: server, copyset: copyset.id)] ?? Debt()
            return copyset.members.allSatisfy { other in
                if other == server { return true }
                guard let state = state(other, copyset.id), !state.isSyncing else { return false }
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
