import BlockTypes
import CurveWire

// Elections. Nobody's term rises before a majority has said that it would vote: a replica that was cut off
// comes back without disturbing anyone.
extension RaftReplica {
    /// The last term is never used: it could not be followed by another.
    private var canCampaign: Bool {
        !isSyncing && members.contains(server) && term.rawValue < UInt32.max
    }

    mutating func campaignIfDue(_ effects: inout [Effect]) {
        if now >= electionDeadline, now >= promiseEnd, canCampaign {
            askForPreVotes(&effects)
        } else if role != .follower, now >= askedAt + settings.heartbeatEvery {
            askAgain(&effects)
        }
    }

    private mutating func askForPreVotes(_ effects: inout [Effect]) {
        setLeader(nil, &effects)
        (role, isTransferCampaign, granted) = (.preCandidate, false, [server])
        // The first rounds follow each other quickly: the promises of the others may run out a little later.
        let shift = min(fruitlessRounds, 3)
        fruitlessRounds += 1
        electionDeadline = now + drawElectionTimeout() * (1 << shift) / 8
        guard granted.count < quorum else { return campaign(isTransfer: false, &effects) }
        ask(others, &effects)
    }

    private mutating func campaign(isTransfer: Bool, _ effects: inout [Effect]) {
        becomeFollower(of: term.next, &effects)
        (role, votedFor, isTransferCampaign) = (.candidate, server, isTransfer)
        electionDeadline = now + drawElectionTimeout()
        // Votes are asked for when our own is durable: after a crash we would not know that we stood.
        storeVote(&effects)
    }

    private mutating func ask(_ voters: [ServerID], _ effects: inout [Effect]) {
        askedAt = now
        let isPreVote = role == .preCandidate
        let request = ReplicaMessage.VoteRequest(
            term: isPreVote ? term.next : term, isPreVote: isPreVote, isTransfer: isTransferCampaign,
            last: log.last)
        for voter in voters { effects.append(.send(to: voter, .voteRequest(request))) }
    }

    private mutating func askAgain(_ effects: inout [Effect]) {
        guard role == .preCandidate || granted.contains(server) else { return }
        ask(others.filter { !granted.contains($0) }, &effects)
    }

    mutating func voteStored(_ storedTerm: Term, _ effects: inout [Effect]) {
        while let vote = votesBeingStored.first, vote.term < storedTerm { votesBeingStored.popFirst() }
        guard let vote = votesBeingStored.first, vote.term == storedTerm else { return }
        votesBeingStored.popFirst()
        guard vote.term == term, let candidate = vote.votedFor, candidate == votedFor else { return }
        if candidate != server {
            reply(granted: true, to: candidate, &effects)
        } else if role == .candidate {
            granted = [server]
            guard granted.count < quorum else { return becomeLeader(&effects) }
            // Should the votes be split, the next try follows soon; later tries ever later.
            electionDeadline = now + drawElectionTimeout() * (1 << min(fruitlessRounds, 3)) / 8
            ask(others, &effects)
        }
    }

    // MARK: - As a voter

    /// True while a vote for `candidate` could make two replicas hold the lease at once.
    private func isPromised(against candidate: ServerID, _ request: ReplicaMessage.VoteRequest) -> Bool {
        let isBound = role == .leader ? holdsLease(now: now) : now < promiseEnd
        guard isBound else { return false }
        guard request.term > (role == .leader ? term : promiseTerm) else { return true }
        // The leader of the term before gave its lease up when it asked for this election; leases of leaders
        // before that one ran out before it was elected. And who stands for a later term leads none.
        return !request.isTransfer && !(role != .leader && promisedTo == candidate)
    }

    private func isUpToDate(_ request: ReplicaMessage.VoteRequest) -> Bool {
        request.last >= (isSyncing ? voteFloor : log.last)
    }

    mutating func receiveVoteRequest(
        _ request: ReplicaMessage.VoteRequest, from candidate: ServerID, _ effects: inout [Effect]
    ) {
        if request.isPreVote { return receivePreVoteRequest(request, from: candidate, &effects) }
        guard request.term >= term, !isPromised(against: candidate, request) else {
            return reply(granted: false, to: candidate, &effects)
        }
        let isNewTerm = request.term > term
        if isNewTerm { becomeFollower(of: request.term, &effects) }
        if votedFor == candidate { return repeatVote(for: candidate, &effects) }
        let isFree = votedFor == nil || isPlanted(.votesTwice)
        guard isFree, leader == nil, isUpToDate(request) else {
            if isNewTerm { storeVote(&effects) }
            return reply(granted: false, to: candidate, &effects)
        }
        (role, votedFor) = (.follower, candidate)
        electionDeadline = now + drawElectionTimeout()
        storeVote(&effects)
    }

    /// The request came again: answer again, unless the first answer has yet to go out.
    private mutating func repeatVote(for candidate: ServerID, _ effects: inout [Effect]) {
        for offset in 0..<votesBeingStored.count {
            if let vote = votesBeingStored[offset], vote.term == term, vote.votedFor == candidate { return }
        }
        reply(granted: true, to: candidate, &effects)
    }

    private func receivePreVoteRequest(
        _ request: ReplicaMessage.VoteRequest, from candidate: ServerID, _ effects: inout [Effect]
    ) {
        let grants = request.term > term && !isPromised(against: candidate, request) && isUpToDate(request)
        let reply = ReplicaMessage.VoteReply(
            term: grants ? request.term : term, isPreVote: true, granted: grants)
        effects.append(.send(to: candidate, .voteReply(reply)))
    }

    private func reply(granted: Bool, to candidate: ServerID, _ effects: inout [Effect]) {
        let reply = ReplicaMessage.VoteReply(term: term, isPreVote: false, granted: granted)
        effects.append(.send(to: candidate, .voteReply(reply)))
    }

    // MARK: - As a candidate

    mutating func receiveVoteReply(
        _ reply: ReplicaMessage.VoteReply, from voter: ServerID, _ effects: inout [Effect]
    ) {
        guard reply.granted else {
            if reply.term > term { adoptTerm(reply.term, &effects) }
            return
        }
        if reply.isPreVote {
            guard role == .preCandidate, reply.term == term.next else { return }
        } else {
            guard role == .candidate, reply.term == term, granted.contains(server) else { return }
        }
        if !granted.contains(voter) { granted.append(voter) }
        guard granted.count >= quorum else { return }
        if role == .candidate {
            becomeLeader(&effects)
        } else if now >= promiseEnd {
            campaign(isTransfer: false, &effects)
        }
    }

    /// Somebody is in a later term than we are.
    mutating func adoptTerm(_ newTerm: Term, _ effects: inout [Effect]) {
        let led = role == .leader
        becomeFollower(of: newTerm, &effects)
        storeVote(&effects)
        // Our log is probably the longest and the others are promised to us alone: stand again at once.
        if led { electionDeadline = now }
    }

    mutating func receiveTimeoutNow(_ asked: Term, from sender: ServerID, _ effects: inout [Effect]) {
        guard asked == term, role == .follower, sender == leader, canCampaign else { return }
        campaign(isTransfer: true, &effects)
    }
}
