import BlockTypes
import ChunkStore

/// Where a copyset's replica stands at one moment, for whoever watches several servers from outside.
package struct CopysetStanding {
    /// Which copyset.
    package let copyset: CopysetID
    /// Its term.
    package let term: Term
    /// True when it takes itself for the leader of that term.
    package let leads: Bool
    /// True when it would serve a read now.
    package let holdsLease: Bool
    /// Applied, committed as far as it knows, durable here.
    package let applied: LogIndex, commit: LogIndex, durable: LogIndex
}

extension ChunkServer {
    /// One for each copyset, in order.
    package func readStandings(_ read: (CopysetStanding) -> Void) {
        guard phase == .serving else { return }
        for id in copysetOrder {
            guard let replica = replicas[id], let progress = store.progress(of: id) else { continue }
            // Not the whole machine in a variable of its own: that would copy it.
            let leads = replica.raft.role == .leader
            read(
                CopysetStanding(
                    copyset: id, term: replica.raft.term, leads: leads,
                    holdsLease: leads && replica.raft.isReady
                        && replica.raft.holdsLease(now: environment.now),
                    applied: progress.applied, commit: progress.commit, durable: progress.durable))
        }
    }
    /// Bytes that the store says it wrote since it was opened, by cause.
    package var storeTraffic: StoreTraffic { store.usage.traffic }
}
