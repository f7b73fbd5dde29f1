import BlockTypes
import CurveWire

// What a leader does with proposals and with time.
extension RaftReplica {
    mutating func becomeLeader(_ effects: inout [Effect]) {
        (role, isReady, leaderSince) = (.leader, false, now)
        (granted, fruitlessRounds, owesReply) = ([], 0, false)
        effects.append(.becameLeader(term))
        setLeader(server, &effects)
        firstOfTerm = log.last.index.next
        windowStart = firstOfTerm
        peers = others.map { Progress(server: $0, next: firstOfTerm, now: now) }
        if isPlanted(.noopSkipped) {
            isReady = true
            effects.append(.ready(term))
        } else {
            appendToLog(.noop, &effects)
        }
        for slot in peers.indices { probe(slot, carrying: true, &effects) }
        // At once: its answers say how much room the followers have.
        sendHeartbeats(&effects)
    }

    private mutating func appendToLog(_ operation: Operation, _ effects: inout [Effect]) {
        let entry = LogEntry(LogPosition(term: term, index: log.last.index.next), operation)
        log.append(entry)
        windowCosts.append(ReplicaLog.cost(entry))
        windowBytes += ReplicaLog.cost(entry)
        let entries = [entry]
        effects.append(.append(entries))
        for slot in peers.indices { sendEntries(to: slot, newest: entries, &effects) }
    }

    mutating func propose(
        _ token: ProposalToken, _ operation: Operation, _ effects: inout [Effect]
    ) {
        guard role == .leader else { return effects.append(.refused(token, leader: leader)) }
        let windowEntries = log.last.index.rawValue - min(commitIndex, log.durable).rawValue
        guard transfer == nil, windowEntries < UInt64(settings.inFlightEntriesMax),
            windowBytes < settings.inFlightBytesMax
        else { return effects.append(.busy(token)) }
        effects.append(.accepted(token, LogPosition(term: term, index: log.last.index.next)))
        appendToLog(operation, &effects)
    }

    /// Counts who has what. The leader's own disk is one among the others'.
    mutating func advanceCommit(_ effects: inout [Effect]) {
        var best = commitIndex
        if isOnQuorum(log.durable, better: best) { best = log.durable }
        for peer in peers where isOnQuorum(peer.durable, better: best) { best = peer.durable }
        // Entries of earlier terms are committed by a later one of this term only (Raft paper, 5.4.2).
        if best >= firstOfTerm || isPlanted(.oldTermCounted) { advanceCommit(to: best, &effects) }
        while windowStart <= min(commitIndex, log.durable), let cost = windowCosts.popFirst() {
            windowBytes -= cost
            windowStart = windowStart.next
        }
    }

    private func isOnQuorum(_ index: LogIndex, better: LogIndex) -> Bool {
        guard index > better else { return false }
        var having = log.durable >= index ? 1 : 0
        for peer in peers where peer.counts && peer.durable >= index { having += 1 }
        return having >= quorum
    }

    /// Memory is for those who are behind and still there.
    mutating func evictAsLeader() {
        var needless = log.durable
        for peer in peers where isAlive(peer) { needless = min(needless, peer.received) }
        log.evict(through: needless, bytesMax: settings.cachedBytesMax)
    }

    func isAlive(_ peer: Progress) -> Bool {
        now < max(peer.echo ?? leaderSince, leaderSince) + settings.electionTimeout.lowerBound
    }

    mutating func tickAsLeader(_ effects: inout [Effect]) {
        guard peers.count(where: isAlive) + 1 >= quorum else { return becomeFollower(of: term, &effects) }
        if let transfer, now >= transfer.deadline { self.transfer = nil }
        releaseRetained(&effects)
        if now >= heartbeatSentAt + settings.heartbeatEvery { sendHeartbeats(&effects) }
        for slot in peers.indices { nudge(slot, &effects) }
        askForSyncIfWanted(&effects)
        evictAsLeader()
    }

    private mutating func sendHeartbeats(_ effects: inout [Effect]) {
        heartbeatSentAt = now
        let heartbeat = ReplicaMessage.Heartbeat(
            term: term, commit: commitIndex, retainAfter: retained, sentAt: nowNanoseconds)
        for peer in peers { effects.append(.send(to: peer.server, .heartbeat(heartbeat))) }
    }

    private mutating func releaseRetained(_ effects: inout [Effect]) {
        let needless = peers.reduce(min(commitIndex, log.durable)) { min($0, $1.durable) }
        guard needless > retained else { return }
        retained = needless
        effects.append(.retain(after: needless))
    }

    // MARK: - Planned transfer

    /// Proposals wait while the target catches up; should it not manage within an election timeout, all goes
    /// on as before.
    mutating func beginTransfer(to wanted: ServerID?, _ effects: inout [Effect]) {
        guard role == .leader, transfer == nil else { return }
        let able = peers.filter { $0.copy == .none && isAlive($0) && $0.echo != nil }
        let target =
            wanted.map { wanted in able.first { $0.server == wanted } }
            ?? able.max { ($0.received, $1.server) < ($1.received, $0.server) }
        guard let target else { return }
        transfer = (target.server, now + settings.electionTimeout.lowerBound)
        finishTransferIfCaughtUp(&effects)
    }

    mutating func finishTransferIfCaughtUp(_ effects: inout [Effect]) {
        guard let transfer, let peer = peers.first(where: { $0.server == transfer.target }),
            peer.counts, peer.received == log.last.index
        else { return }
        // The lease is given up first and for good: from here on promises to this leader bind nobody.
        becomeFollower(of: term, &effects)
        effects.append(.send(to: transfer.target, .timeoutNow(term: term)))
    }
}
