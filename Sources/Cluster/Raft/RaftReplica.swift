import BlockTypes
import CurveWire

/// One replica of one copyset: Raft with pre-vote, leader leases, pipelining and full copies.
///
/// Waits for nothing and does nothing: events go in, effects come out, to be carried out in their order.
/// What must be durable first is asked for with one effect, and acted upon at the event that answers it.
public struct RaftReplica: Machine, Sendable {
    /// This replica.
    public let server: ServerID
    /// All replicas, ascending.
    public let members: [ServerID]
    /// What it is at the moment.
    public internal(set) var role = Role.follower
    /// The highest term it knows.
    public internal(set) var term: Term
    /// Who leads ``term``, as far as it knows.
    public internal(set) var leader: ServerID?
    /// Entries up to here are committed, as far as it knows.
    public internal(set) var commitIndex: LogIndex
    /// True when it leads and everything that earlier leaders committed is applied. Says nothing of the
    /// lease.
    public internal(set) var isReady = false
    /// True while it copies the copyset: it neither campaigns nor counts for commit.
    public internal(set) var isSyncing: Bool
    /// While syncing: it votes only for candidates whose log reaches this far, which is what it acknowledged
    /// before it gave its log up.
    public internal(set) var voteFloor: LogPosition

    let settings: Settings
    /// See ``promise(_:)``.
    let promiseLength: Duration
    let isPreferredLeader: Bool
    var random: SeededRandom
    var now: Duration
    var nowNanoseconds: UInt64
    var log: ReplicaLog
    var applied: LogIndex
    var retained: LogIndex

    // Votes.
    var votedFor: ServerID?
    /// Votes on their way to stable media, oldest first.
    var votesBeingStored = Fifo<(term: Term, votedFor: ServerID?)>()
    var granted: [ServerID] = []
    var isTransferCampaign = false
    var electionDeadline: Duration
    var askedAt: Duration
    var fruitlessRounds = 0

    // As a follower.
    /// Until then nobody but `promisedTo` gets a vote, except after a planned transfer.
    var promiseEnd: Duration
    var promisedTo: ServerID?
    var promiseTerm: Term
    /// Entries up to here are known to be those of this term's leader.
    var matched: LogIndex
    var newestEcho: UInt64 = 0
    var owesReply = false
    /// A truncate is not durable yet.
    var isTruncating = false
    /// The copy in progress; `nil` while syncing means that the source was lost.
    var syncSource: (term: Term, base: LogPosition)?

    // As a leader.
    var peers: [Progress] = []
    var leaderSince = Duration.zero
    var heartbeatSentAt = Duration.zero
    var firstOfTerm = LogIndex(0)
    var windowCosts = Fifo<Int>()
    var windowBytes = 0
    var windowStart = LogIndex(0)
    var transfer: (target: ServerID, deadline: Duration)?

    /// A replica that continues from what the store recovered.
    ///
    /// - Parameter seed: differs between replicas, or they campaign at the same moments.
    public init(
        server: ServerID, isPreferredLeader: Bool, persisted: Persisted, settings: Settings, seed: UInt64,
        now: Duration
    ) {
        self.server = server
        members = Set(persisted.members).sorted()
        (self.settings, self.isPreferredLeader, self.now) = (settings, isPreferredLeader, now)
        promiseLength = Self.promise(settings)
        nowNanoseconds = Self.nanoseconds(now)
        random = SeededRandom(seed: seed)
        log = ReplicaLog(base: persisted.base, termStarts: persisted.termStarts, last: persisted.last)
        // An entry of a term proves that the term was reached, stored or not.
        let knowsLaterTerm = persisted.last.term > persisted.term
        term = max(persisted.term, persisted.last.term)
        votedFor = knowsLaterTerm ? nil : persisted.votedFor
        applied = min(max(persisted.applied, persisted.base.index), persisted.last.index)
        (commitIndex, matched, retained) = (applied, applied, persisted.base.index)
        (isSyncing, voteFloor) = (persisted.isSyncing, persisted.voteFloor)
        // A restarted replica does not remember whom it promised what, nor when.
        let owesNothing = persisted.isFresh || isPlanted(.promiseForgotten)
        promiseEnd = owesNothing ? now : now + promiseLength
        promiseTerm = term
        (electionDeadline, askedAt) = (now, now)
        if !(persisted.isFresh && isPreferredLeader) { electionDeadline = now + drawElectionTimeout() }
        // When all members start at once nobody leads: the preferred one stands as soon as promises allow
        // it. If somebody leads, it will have been heard by then.
        if isPreferredLeader { electionDeadline = min(electionDeadline, promiseEnd) }
    }

    /// The last entry of the log, durable or not.
    public var last: LogPosition { log.last }

    /// True while no other replica can have become leader: reads may be served.
    ///
    /// - Parameter now: the clock of ``step(_:now:effects:)``, read after the state to be served was looked
    ///   at or just before it, never earlier.
    public func holdsLease(now: Duration) -> Bool {
        guard role == .leader else { return false }
        if isPlanted(.leaseUnheld) { return true }
        let lease = isPlanted(.leaseTooLong) ? settings.lease * 102 / 100 : settings.lease
        let kept = lease * (1000 - settings.clockDriftPermille) / 1000
        let agreeing = peers.count { peer in peer.echo.map { now < $0 + kept } ?? false }
        return agreeing + 1 >= quorum
    }

    /// Members, this leader among them, that answer, are complete, and lack no more than a window of entries
    /// of what is committed. 0 on a replica that does not lead.
    public var membersInStep: Int {
        guard role == .leader else { return 0 }
        let window = UInt64(settings.inFlightEntriesMax)
        return 1
            + peers.count {
                $0.copy == .none && $0.echo != nil && isAlive($0)
                    && $0.durable.rawValue + window >= commitIndex.rawValue
            }
    }

    /// See ``Machine``.
    public mutating func step(_ event: Event, now: Duration, effects: inout [Effect]) {
        if now > self.now { (self.now, nowNanoseconds) = (now, Self.nanoseconds(now)) }
        switch event {
        case .tick: tick(&effects)
        case .propose(let token, let operation): propose(token, operation, &effects)
        case .received(let sender, let message): receive(message, from: sender, &effects)
        case .receivedTooMuch(let sender, let append, let addable):
            if members.contains(sender), sender != server {
                receiveAppend(append, addable: addable, from: sender, &effects)
            }
        case .disconnected(let peer, let provenDead): disconnected(peer, provenDead: provenDead, &effects)
        case .died(let peer, let time): died(peer, asOf: time, &effects)
        case .stored(let position): stored(through: position, &effects)
        case .voteStored(let term): voteStored(term, &effects)
        case .truncated: isTruncating = false
        case .applied(let index): applied(through: index, &effects)
        case .logStart(let position): log.dropThrough(position)
        case .entriesLoaded(let peer, let from, let entries): loaded(entries, from: from, for: peer, &effects)
        case .syncOffered(let peer, let base): syncOffered(to: peer, base: base, &effects)
        case .syncFinished: syncFinished(&effects)
        case .transferLeadership(let target): beginTransfer(to: target, &effects)
        }
    }

    private mutating func receive(
        _ message: ReplicaMessage, from sender: ServerID, _ effects: inout [Effect]
    ) {
        guard sender != server, members.contains(sender) else { return }
        switch message {
        case .append(let body): receiveAppend(body, from: sender, &effects)
        case .appendReply(let body): receiveAppendReply(body, from: sender, &effects)
        case .heartbeat(let body): receiveHeartbeat(body, from: sender, &effects)
        case .heartbeatReply(let body): receiveHeartbeatReply(body, from: sender, &effects)
        case .voteRequest(let body): receiveVoteRequest(body, from: sender, &effects)
        case .voteReply(let body): receiveVoteReply(body, from: sender, &effects)
        case .timeoutNow(let term): receiveTimeoutNow(term, from: sender, &effects)
        case .syncOffer(let term, let base): receiveSyncOffer(term, base, from: sender, &effects)
        }
    }

    private mutating func tick(_ effects: inout [Effect]) {
        switch role {
        case .leader: tickAsLeader(&effects)
        case .follower:
            if owesReply { replyToAppend(&effects) }
            campaignIfDue(&effects)
        case .preCandidate, .candidate: campaignIfDue(&effects)
        }
    }

    private mutating func stored(through position: LogPosition, _ effects: inout [Effect]) {
        guard log.markDurable(position) else { return }
        if role == .leader {
            advanceCommit(&effects)
            evictAsLeader()
        } else {
            log.evict(through: log.durable, bytesMax: settings.cachedBytesMax)
            if leader != nil { replyToAppend(&effects) }
        }
    }

    private mutating func applied(through index: LogIndex, _ effects: inout [Effect]) {
        applied = max(applied, min(index, commitIndex))
        guard role == .leader, !isReady, applied >= firstOfTerm else { return }
        isReady = true
        effects.append(.ready(term))
    }

    private mutating func disconnected(
        _ peer: ServerID, provenDead: Bool, _ effects: inout [Effect]
    ) {
        if role == .leader {
            guard let slot = peers.firstIndex(where: { $0.server == peer }) else { return }
            peers[slot].restart(at: max(peers[slot].durable, peers[slot].received).next)
        } else if provenDead, peer == leader {
            // The promise stands: a leader that died on one connection may live on another.
            electionDeadline = min(electionDeadline, max(now, promiseEnd) + turn(after: peer))
        }
    }

    /// All members hear of a death at about the same time. They stand one after the other, more than a tick
    /// apart: two that stand at once share the votes, and the next try comes an election timeout later.
    private func turn(after dead: ServerID) -> Duration {
        guard !isPreferredLeader, let mine = members.firstIndex(of: server),
            let its = members.firstIndex(of: dead)
        else { return .zero }
        let distance = (mine - its + members.count) % members.count
        return .milliseconds(150 * distance - 75)
    }

    /// A promise protects the lease of a leader; a dead one holds none. What was promised later than `time`
    /// may have been promised to its successor of the same name.
    private mutating func died(_ peer: ServerID, asOf time: Duration, _ effects: inout [Effect]) {
        if role != .leader, promisedTo == peer, promiseEnd - promiseLength <= time {
            promiseEnd = min(promiseEnd, now)
        }
        disconnected(peer, provenDead: true, &effects)
    }

    // MARK: - Small things all roles need

    var quorum: Int { members.count / 2 + 1 }
    var others: [ServerID] { members.filter { $0 != server } }
    static func nanoseconds(_ time: Duration) -> UInt64 {
        let (seconds, attoseconds) = time.components
        return UInt64(max(0, seconds)) * 1_000_000_000 + UInt64(max(0, attoseconds / 1_000_000_000))
    }
    static func promise(_ settings: Settings) -> Duration {
        settings.lease * (1000 + settings.clockDriftPermille) / 1000
    }

    mutating func drawElectionTimeout() -> Duration {
        let (low, high) = (settings.electionTimeout.lowerBound, settings.electionTimeout.upperBound)
        let steps = isPreferredLeader ? 0...200 : 200...1000  // The preferred leader is usually first.
        return low + (high - low) * Int.random(in: steps, using: &random) / 1000
    }

    mutating func setLeader(_ newLeader: ServerID?, _ effects: inout [Effect]) {
        guard leader != newLeader else { return }
        leader = newLeader
        effects.append(.leaderChanged(newLeader))
    }

    mutating func storeVote(_ effects: inout [Effect]) {
        votesBeingStored.append((term, votedFor))
        effects.append(.storeVote(term, votedFor: votedFor))
    }

    /// Follows nobody yet. A later term has to be stored by the caller, together with a vote if it gives one.
    mutating func becomeFollower(of newTerm: Term, _ effects: inout [Effect]) {
        if role == .leader {
            (peers, transfer, isReady) = ([], nil, false)
            windowCosts.removeAll()
            windowBytes = 0
            log.evict(through: log.durable, bytesMax: settings.cachedBytesMax)
            electionDeadline = now + drawElectionTimeout()
            effects.append(.leadershipLost(term))
            setLeader(nil, &effects)
        }
        role = .follower
        granted = []
        guard newTerm > term else { return }
        (term, votedFor) = (newTerm, nil)
        (matched, newestEcho, owesReply) = (commitIndex, 0, false)
        setLeader(nil, &effects)
    }

    mutating func advanceCommit(to index: LogIndex, _ effects: inout [Effect]) {
        guard index > commitIndex else { return }
        commitIndex = index
        effects.append(.commit(through: index))
    }
}
