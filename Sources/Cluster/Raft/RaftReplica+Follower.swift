import BlockTypes
import CurveWire

// What a follower does with its leader's messages.
extension RaftReplica {
    /// - Returns: false when the message is not of this term's leader; its sender was answered if need be.
    private mutating func follow(
        _ sender: ServerID, of messageTerm: Term, sentAt: UInt64, _ effects: inout [Effect]
    ) -> Bool {
        guard messageTerm >= term else {
            // Tells a leader that was cut off that it no longer leads.
            reply(
                rejected: true, syncing: isSyncing, received: LogIndex(0), echo: sentAt, to: sender, &effects)
            return false
        }
        if messageTerm > term {
            becomeFollower(of: messageTerm, &effects)
            storeVote(&effects)
        }
        guard role != .leader, leader == nil || leader == sender else { return false }
        if role != .follower { becomeFollower(of: term, &effects) }
        setLeader(sender, &effects)
        promiseEnd = max(promiseEnd, now + promiseLength)
        (promisedTo, promiseTerm, fruitlessRounds) = (sender, term, 0)
        electionDeadline = now + drawElectionTimeout()
        newestEcho = max(newestEcho, sentAt)
        return true
    }

    /// True when the data here are a copy that this term's leader knows nothing of.
    private var lostSyncSource: Bool { isSyncing && syncSource?.term != term }

    /// Durable here, and surely the same as on this term's leader.
    private var claimed: LogIndex { lostSyncSource ? LogIndex(0) : min(log.durable, matched) }

    mutating func receiveAppend(
        _ append: ReplicaMessage.Append, addable: LogIndex = LogIndex(.max), from sender: ServerID,
        _ effects: inout [Effect]
    ) {
        guard follow(sender, of: append.term, sentAt: append.sentAt, &effects) else { return }
        guard !lostSyncSource else {
            return reply(
                rejected: true, syncing: true, received: LogIndex(0), echo: append.sentAt, to: sender,
                &effects)
        }
        guard append.previous.index <= log.last.index, isKnownToMatch(append.previous) else {
            guard append.previous.index > commitIndex, append.previous.index.rawValue > 0 else { return }
            let hint = log.lastIndex(
                atOrBefore: LogIndex(append.previous.index.rawValue - 1), notAfter: append.previous.term)
            return reply(
                rejected: true, syncing: isSyncing, received: max(hint, commitIndex), echo: append.sentAt,
                to: sender, &effects)
        }
        guard isWellFormed(append) else { return }
        let hadLast = log.last
        guard take(append, addable: addable, &effects) else { return }
        matched = max(
            matched,
            min(LogIndex(append.previous.index.rawValue + UInt64(append.entries.count)), log.last.index))
        advanceCommit(to: min(append.commit, matched), &effects)
        releaseRetained(append.retainAfter, &effects)
        // New entries are acknowledged when they are durable, or at the next tick if that takes longer.
        if log.last == hadLast || append.entries.isEmpty { replyToAppend(&effects) } else { owesReply = true }
    }

    /// Committed entries are the same on every log, also those that this one no longer keeps.
    private func isKnownToMatch(_ position: LogPosition) -> Bool {
        position.index <= commitIndex && (log.term(at: position.index) ?? position.term) == position.term
            || log.contains(position)
    }

    private func isWellFormed(_ append: ReplicaMessage.Append) -> Bool {
        var previous = append.previous
        for entry in append.entries {
            guard previous.index.rawValue < .max, entry.position.index == previous.index.next,
                entry.position.term >= previous.term, entry.position.term <= append.term
            else { return false }
            previous = entry.position
        }
        return true
    }

    /// Adds what is new up to `addable`, after dropping what contradicts it.
    ///
    /// - Returns: false when it has to wait, or would undo what is committed.
    private mutating func take(
        _ append: ReplicaMessage.Append, addable: LogIndex, _ effects: inout [Effect]
    ) -> Bool {
        var new = append.entries
        if let first = new.first, first.position.index <= log.last.index {
            new = Array(
                new.drop { $0.position.index <= commitIndex || log.contains($0.position) })
        }
        guard let first = new.first else { return true }
        if first.position.index <= log.last.index {
            // One at a time: of two, `stored` could not tell which append of the same entry it speaks of.
            guard !isTruncating, first.position.index > commitIndex else { return false }
            log.truncate(from: first.position.index)
            isTruncating = true
            effects.append(.truncate(from: first.position.index))
        }
        guard first.position.index == log.last.index.next else { return false }
        new.removeAll { $0.position.index > addable }
        guard !new.isEmpty else { return true }
        for entry in new { log.append(entry) }
        effects.append(.append(new))
        return true
    }

    mutating func receiveHeartbeat(
        _ heartbeat: ReplicaMessage.Heartbeat, from sender: ServerID, _ effects: inout [Effect]
    ) {
        guard follow(sender, of: heartbeat.term, sentAt: heartbeat.sentAt, &effects) else { return }
        if !lostSyncSource {
            advanceCommit(to: min(heartbeat.commit, matched), &effects)
            releaseRetained(heartbeat.retainAfter, &effects)
        }
        let reply = ReplicaMessage.HeartbeatReply(
            term: term, syncing: isSyncing, durable: claimed, echo: heartbeat.sentAt)
        effects.append(.send(to: sender, .heartbeatReply(reply)))
    }

    private mutating func releaseRetained(_ index: LogIndex, _ effects: inout [Effect]) {
        let releasable = min(index, commitIndex, log.durable)
        guard releasable > retained else { return }
        retained = releasable
        effects.append(.retain(after: releasable))
    }

    /// Tells the leader how far this replica has got.
    mutating func replyToAppend(_ effects: inout [Effect]) {
        owesReply = false
        guard let leader else { return }
        reply(
            rejected: false, syncing: isSyncing, received: matched, echo: newestEcho, to: leader, &effects)
    }

    private func reply(
        rejected: Bool, syncing: Bool, received: LogIndex, echo: UInt64, to sender: ServerID,
        _ effects: inout [Effect]
    ) {
        let reply = ReplicaMessage.AppendReply(
            term: term, rejected: rejected, syncing: syncing, durable: claimed,
            received: received, echo: echo)
        effects.append(.send(to: sender, .appendReply(reply)))
    }

    // MARK: - Full copy

    /// No log gets this long in a million years; counting on from a larger index could overflow.
    private static let indexMax: UInt64 = 1 << 62

    mutating func receiveSyncOffer(
        _ offered: Term, _ base: LogPosition, from sender: ServerID, _ effects: inout [Effect]
    ) {
        guard follow(sender, of: offered, sentAt: newestEcho, &effects), base.term <= term,
            base.index.rawValue <= Self.indexMax
        else { return }
        if isSyncing {
            // The copy in progress will do: what was acknowledged of its log must not be forgotten for
            // another.
            if let source = syncSource, source.term == term,
                base.index <= source.base.index || log.contains(base)
            {
                return replyToAppend(&effects)
            }
        } else if base.index <= commitIndex || log.contains(base) {
            matched = max(matched, min(base.index, log.last.index))
            return replyToAppend(&effects)
        } else {
            // A log that was never part of an unfinished copy binds: its entries may have been counted.
            voteFloor = log.last
        }
        (isSyncing, syncSource, isTruncating) = (true, (term, base), false)
        log.restart(at: base)
        (commitIndex, applied, matched) = (base.index, base.index, base.index)
        retained = base.index
        effects.append(.beginSync(from: sender, term: term, base: base))
        replyToAppend(&effects)
    }

    mutating func syncFinished(_ effects: inout [Effect]) {
        guard isSyncing else { return }
        let end = log.position(at: log.durable) ?? log.base
        invariant(
            syncSource.map { end.term >= $0.term } ?? false,
            "a copy counts as complete with a log to \(end), from \(String(describing: syncSource))"
        )
        (isSyncing, syncSource) = (false, nil)
        replyToAppend(&effects)
    }
}
