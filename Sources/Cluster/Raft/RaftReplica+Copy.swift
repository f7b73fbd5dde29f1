import BlockTypes
import CurveWire

// A leader's side of full copies. The shells move the data; here is decided who needs it, and when it counts.
extension RaftReplica {
    /// What a reply says about a copy.
    struct CopyReport {
        var syncing: Bool
        var rejected: Bool
        var durable: LogIndex
        var sentAt: Duration
        var received = LogIndex(0)
        init(syncing: Bool, rejected: Bool, durable: LogIndex, sentAt: Duration) {
            (self.syncing, self.rejected, self.durable, self.sentAt) = (syncing, rejected, durable, sentAt)
        }
    }

    /// What the follower needs next is no longer kept, be it in the middle of a copy.
    mutating func wantCopy(_ slot: Int, _ effects: inout [Effect]) {
        if peers[slot].copy.base != nil { return copyLost(slot, &effects) }
        if peers[slot].copy == .none { peers[slot].copy = .wanted }
        askForSyncIfWanted(&effects)
    }

    /// One copy at a time, and only to a follower that answers. Not only by a leader that is ready: where one
    /// replica is gone and the other needs a copy, nothing is committed before that copy is complete.
    mutating func askForSyncIfWanted(_ effects: inout [Effect]) {
        guard role == .leader else { return }
        for slot in peers.indices where !isAlive(peers[slot]) || peers[slot].echo == nil {
            if peers[slot].copy != .none { giveUpCopy(slot) }
        }
        let repeatAfter = settings.electionTimeout.lowerBound
        for slot in peers.indices {
            if case .asked(let at) = peers[slot].copy, now >= at + repeatAfter { peers[slot].copy = .wanted }
        }
        let isBusy = peers.contains { $0.copy != .none && $0.copy != .wanted }
        guard !isBusy, let slot = peers.firstIndex(where: { $0.copy == .wanted }) else { return }
        peers[slot].copy = .asked(at: now)
        effects.append(.offerSync(to: peers[slot].server))
    }

    /// It is gone, or we lost sight of its copy: when it answers again, it is asked where it stands.
    private mutating func giveUpCopy(_ slot: Int) {
        let base = peers[slot].copy.base?.index
        peers[slot].copy = .none
        // What was believed durable there was the copy's.
        if base != nil { peers[slot].durable = LogIndex(0) }
        peers[slot].restart(at: log.last.index.next)
    }

    mutating func syncOffered(to server: ServerID, base: LogPosition, _ effects: inout [Effect]) {
        guard role == .leader, log.contains(base), base.index <= commitIndex,
            let slot = peers.firstIndex(where: { $0.server == server }),
            case .asked = peers[slot].copy
        else { return }
        peers[slot].offered(base, now: now)
        probe(slot, carrying: false, &effects)
    }

    /// Keeps track of a follower's copy.
    ///
    /// - Returns: true when what the reply says of the log can be believed.
    mutating func judgeCopy(_ slot: Int, _ report: CopyReport, _ effects: inout [Effect]) -> Bool {
        switch peers[slot].copy {
        case .none:
            guard report.syncing else { return true }
            peers[slot].durable = LogIndex(0)
            wantCopy(slot, &effects)
            return false
        case .wanted, .asked:
            if !report.syncing, report.durable >= log.base.index {
                peers[slot].copy = .none
                return true
            }
            askForSyncIfWanted(&effects)
            return false
        case .offered(let base, let offeredAt):
            // What answers something older than the offer may speak of a log that was given up for it.
            guard report.sentAt >= offeredAt else { return false }
            if isDone(report, base) { return copyDone(slot, &effects) }
            if report.syncing, !report.rejected, report.received >= base.index {
                peers[slot].copy = .running(base: base, offeredAt: offeredAt, since: now)
                return true
            }
            // The offer, or the answer to it, was lost.
            if report.sentAt >= offeredAt + settings.electionTimeout.lowerBound { copyLost(slot, &effects) }
            return false
        case .running(let base, let offeredAt, let since):
            guard report.sentAt >= offeredAt else { return false }
            if isDone(report, base) { return copyDone(slot, &effects) }
            if report.syncing, !report.rejected { return true }
            // It started anew since then.
            if report.sentAt >= since { copyLost(slot, &effects) }
            return false
        }
    }

    private func isDone(_ report: CopyReport, _ base: LogPosition) -> Bool {
        !report.syncing && report.durable >= base.index
    }
    private mutating func copyDone(_ slot: Int, _ effects: inout [Effect]) -> Bool {
        peers[slot].copy = .none
        askForSyncIfWanted(&effects)
        return true
    }
    private mutating func copyLost(_ slot: Int, _ effects: inout [Effect]) {
        giveUpCopy(slot)
        peers[slot].copy = .wanted
        askForSyncIfWanted(&effects)
    }
}
