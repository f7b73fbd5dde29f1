import BlockTypes
import ChunkServer

/// Compares what all replicas say of themselves at one moment of true time: invariants I1, I4, I5 and I13 of
/// ENGINE section 7.
struct StandingWatch {
    private struct Reign: Hashable {
        let copyset: CopysetID
        let term: Term
    }
    private struct Replica: Hashable {
        let process: Int
        let copyset: CopysetID
    }
    /// The first thing that cannot be.
    private(set) var complaint: String?
    private var leaders: [Reign: Int] = [:]  // Looked up, never iterated.
    private var terms: [Replica: Term] = [:]  // Looked up, never iterated.
    private var holders: [CopysetID: Int] = [:]  // Looked up, never iterated.

    /// Another moment.
    mutating func begin() { holders.removeAll(keepingCapacity: true) }

    /// - Parameters:
    ///   - store: which disk; it stays when the process changes.
    ///   - process: which process; never used again.
    mutating func note(_ standing: CopysetStanding, store: Int, process: Int) {
        let copyset = standing.copyset
        if standing.leads {
            let reign = Reign(copyset: copyset, term: standing.term)
            let first = leaders[reign]
            if first == nil { leaders[reign] = store }
            if let first, first != store {
                complain(
                    "disk\(first + 1) and disk\(store + 1) lead copyset \(copyset) in term \(standing.term)")
            }
        }
        if standing.holdsLease {
            if let other = holders.updateValue(store, forKey: copyset) {
                complain("disk\(other + 1) and disk\(store + 1) hold the lease of copyset \(copyset)")
            }
        }
        if standing.applied > min(standing.commit, standing.durable) {
            complain(
                "disk\(store + 1) has applied \(standing.applied) of copyset \(copyset), committed is "
                    + "\(standing.commit), durable \(standing.durable)")
        }
        let replica = Replica(process: process, copyset: copyset)
        if let known = terms.updateValue(standing.term, forKey: replica), standing.term < known {
            complain("disk\(store + 1) goes from term \(known) of copyset \(copyset) to \(standing.term)")
        }
    }
    private mutating func complain(_ what: String) { complaint = complaint ?? what }
}
