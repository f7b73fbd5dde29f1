import BlockTypes
import CurveWire

// How a leader brings each follower to the end of its log, whatever the network loses.
extension RaftReplica {
    private func slot(of server: ServerID) -> Int? { peers.firstIndex { $0.server == server } }

    private func makeAppend(after previous: LogPosition, _ entries: [LogEntry]) -> ReplicaMessage {
        .append(
            ReplicaMessage.Append(
                term: term, previous: previous, commit: commitIndex, retainAfter: retained,
                sentAt: nowNanoseconds, entries: entries))
    }

    /// Asks where a follower stands; with `carrying`, in the hope that it stands just there.
    mutating func probe(_ slot: Int, carrying: Bool, _ effects: inout [Effect]) {
        let next = peers[slot].next
        guard let previous = log.position(at: LogIndex(next.rawValue - 1)) else {
            return wantCopy(slot, &effects)
        }
        (peers[slot].mode, peers[slot].probedAt) = (.probe, now)
        let entries =
            carrying
            ? log.entries(
                from: next, countMax: settings.messageEntriesMax, bytesMax: settings.messageBytesMax) : []
        effects.append(.send(to: peers[slot].server, makeAppend(after: previous, entries)))
    }

    /// - Parameter newest: the last entries of the log, to spare making another array of them.
    mutating func sendEntries(to slot: Int, newest: [LogEntry] = [], _ effects: inout [Effect]) {
        while peers[slot].mode == .stream, peers[slot].loadingFrom == nil,
            peers[slot].next <= log.last.index, peers[slot].mayBeSent(settings)
        {
            let next = peers[slot].next
            if next <= log.base.index { return wantCopy(slot, &effects) }
            if next < log.cacheStart {
                peers[slot].loadingFrom = next
                return effects.append(
                    .loadEntries(for: peers[slot].server, from: next, bytesMax: settings.messageBytesMax))
            }
            let entries =
                newest.first?.position.index == next
                ? newest
                : log.entries(
                    from: next, countMax: settings.messageEntriesMax, bytesMax: settings.messageBytesMax)
            send(entries, to: slot, &effects)
        }
    }

    private mutating func send(_ entries: [LogEntry], to slot: Int, _ effects: inout [Effect]) {
        guard let last = entries.last,
            let previous = log.position(at: LogIndex(peers[slot].next.rawValue - 1))
        else { return }
        // It was idle: its patience begins now.
        if peers[slot].next == peers[slot].durable.next { peers[slot].progressAt = now }
        let bytes = entries.reduce(0) { $0 + ReplicaLog.cost($1) }
        peers[slot].sent(through: last.position.index, bytes: bytes)
        effects.append(.send(to: peers[slot].server, makeAppend(after: previous, entries)))
    }

    mutating func loaded(
        _ entries: [LogEntry], from: LogIndex, for server: ServerID, _ effects: inout [Effect]
    ) {
        guard role == .leader, let slot = slot(of: server), peers[slot].loadingFrom == from else { return }
        peers[slot].loadingFrom = nil
        guard peers[slot].mode == .stream, peers[slot].next == from else { return }
        guard !entries.isEmpty else { return wantCopy(slot, &effects) }
        var expected = from
        for entry in entries {
            // An answer to a question that an earlier leadership asked; the next tick asks again.
            guard entry.position.index == expected, log.contains(entry.position) else { return }
            expected = expected.next
        }
        for start in stride(from: 0, to: entries.count, by: settings.messageEntriesMax) {
            let end = min(start + settings.messageEntriesMax, entries.count)
            send(Array(entries[start..<end]), to: slot, &effects)
        }
        sendEntries(to: slot, &effects)
    }

    /// At each tick: sees to it that something is on its way to a follower that is behind.
    mutating func nudge(_ slot: Int, _ effects: inout [Effect]) {
        let peer = peers[slot]
        if peer.copy == .wanted { return }
        if case .asked(let at) = peer.copy, now < at + settings.electionTimeout.lowerBound { return }
        switch peer.mode {
        case .probe:
            guard now >= peer.probedAt + settings.heartbeatEvery else { return }
            probe(slot, carrying: false, &effects)
        case .stream:
            // While it copies, its shell may have lost the copy and would not say so unasked.
            let isCopying = peer.copy.base != nil
            let patience = isCopying ? settings.electionTimeout.lowerBound : settings.heartbeatEvery * 2
            if now >= peer.progressAt + patience,
                isCopying || peer.durable.next < peer.next, peer.loadingFrom == nil
            {
                peers[slot].progressAt = now
                probe(slot, carrying: false, &effects)
            } else {
                sendEntries(to: slot, &effects)
            }
        }
    }

    // MARK: - Replies

    /// - Returns: who it is and when we sent what it answers, unless it is of no use to this leader.
    private mutating func hear(
        _ server: ServerID, _ replyTerm: Term, echo: UInt64, _ effects: inout [Effect]
    ) -> (slot: Int, sentAt: Duration)? {
        if replyTerm > term {
            adoptTerm(replyTerm, &effects)
            return nil
        }
        guard role == .leader, replyTerm == term, echo <= nowNanoseconds, let slot = slot(of: server) else {
            return nil
        }
        let sentAt = Duration.nanoseconds(Int64(echo))
        peers[slot].echo = max(peers[slot].echo ?? sentAt, sentAt)
        return (slot, sentAt)
    }

    mutating func receiveHeartbeatReply(
        _ reply: ReplicaMessage.HeartbeatReply, from server: ServerID, _ effects: inout [Effect]
    ) {
        guard let (slot, sentAt) = hear(server, reply.term, echo: reply.echo, &effects) else { return }
        var believed = CopyReport(
            syncing: reply.syncing, rejected: false, durable: reply.durable, sentAt: sentAt)
        believed.received = reply.syncing ? LogIndex(0) : reply.durable
        guard judgeCopy(slot, believed, &effects), reply.durable <= log.last.index else { return }
        peers[slot].has(received: reply.durable, durable: reply.durable, now: now)
        afterProgress(slot, &effects)
    }

    mutating func receiveAppendReply(
        _ reply: ReplicaMessage.AppendReply, from server: ServerID, _ effects: inout [Effect]
    ) {
        guard let (slot, sentAt) = hear(server, reply.term, echo: reply.echo, &effects) else { return }
        var report = CopyReport(
            syncing: reply.syncing, rejected: reply.rejected, durable: reply.durable, sentAt: sentAt)
        report.received = reply.received
        guard judgeCopy(slot, report, &effects), max(reply.received, reply.durable) <= log.last.index else {
            return
        }
        if reply.rejected {
            peers[slot].has(received: reply.durable, durable: reply.durable, now: now)
            refused(slot, mayMatch: reply.received, sentAt: sentAt, &effects)
        } else {
            peers[slot].has(received: reply.received, durable: reply.durable, now: now)
            if peers[slot].mode == .probe, sentAt >= peers[slot].probedAt,
                reply.received >= LogIndex(peers[slot].next.rawValue - 1)
            {
                (peers[slot].mode, peers[slot].stepBack) = (.stream, 1)
            }
        }
        afterProgress(slot, &effects)
    }

    private mutating func afterProgress(_ slot: Int, _ effects: inout [Effect]) {
        advanceCommit(&effects)
        sendEntries(to: slot, &effects)
        finishTransferIfCaughtUp(&effects)
    }

    /// The follower's log differs at the entry it was asked about.
    private mutating func refused(
        _ slot: Int, mayMatch hint: LogIndex, sentAt: Duration, _ effects: inout [Effect]
    ) {
        // Refusals of what was sent before the last question say nothing new, nor do copies of an answer to
        // it: acting on them would let a network that repeats messages breed questions without end.
        let isNews =
            peers[slot].mode == .probe ? sentAt >= peers[slot].probedAt : sentAt > peers[slot].probedAt
        guard isNews else { return }
        let asked = LogIndex(peers[slot].next.rawValue - 1)
        guard hint < asked else { return }
        var target = hint
        if hint.next == asked, peers[slot].mode == .probe {
            // All it knows is that our entry is newer: step back faster and faster.
            target = LogIndex(asked.rawValue - min(asked.rawValue, peers[slot].stepBack))
            peers[slot].stepBack *= 2
        }
        if target < peers[slot].durable {
            // Refusing what it once had on its disk, it has lost it.
            if asked <= peers[slot].durable {
                peers[slot].durable = hint
            } else {
                target = peers[slot].durable
            }
        }
        if target < log.base.index, hint >= log.base.index { target = log.base.index }
        peers[slot].restart(at: target.next)
        probe(slot, carrying: false, &effects)
    }
}
