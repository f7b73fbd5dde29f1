import BlockTypes

/// What replicas of one copyset say to each other. Bodies of ``ReplicaMessage``; all of Raft's vocabulary.
///
/// `sentAt` is the sender's own monotonic clock in nanoseconds. The receiver only echoes it: clocks of two
/// machines are never compared.
public enum ReplicaMessage: Sendable {
    /// Leader to follower: entries that follow `previous`, or none to probe where the follower stands.
    case append(Append)
    /// Follower to leader: how far it has got.
    case appendReply(AppendReply)
    /// Leader to follower, coalesced per server pair; keeps the lease without entries.
    case heartbeat(Heartbeat)
    /// Follower to leader.
    case heartbeatReply(HeartbeatReply)
    /// Candidate to member.
    case voteRequest(VoteRequest)
    /// Member to candidate.
    case voteReply(VoteReply)
    /// Leader to the follower that should campaign at once (planned transfer).
    case timeoutNow(term: Term)
    /// Leader to a follower whose next entry is no longer kept: copy all. Entries after `base` follow
    /// as usual; what lies at and before it must be copied.
    case syncOffer(term: Term, base: LogPosition)

    /// The sender's term.
    public var term: Term {
        switch self {
        case .append(let body): body.term
        case .appendReply(let body): body.term
        case .heartbeat(let body): body.term
        case .heartbeatReply(let body): body.term
        case .voteRequest(let body): body.term
        case .voteReply(let body): body.term
        case .timeoutNow(let term), .syncOffer(let term, _): term
        }
    }

    /// See ``ReplicaMessage/append(_:)``.
    public struct Append: Sendable {
        /// The leader's term.
        public var term: Term
        /// The entry just before `entries`.
        public var previous: LogPosition
        /// Everything up to here is committed.
        public var commit: LogIndex
        /// Every member has everything up to here: older entries need not be kept for anybody.
        public var retainAfter: LogIndex
        /// For the lease: the leader's clock when it sent this.
        public var sentAt: UInt64
        /// At most 64 entries and 1 MiB of payload in one message.
        public var entries: [LogEntry]
        /// The message of these fields.
        public init(
            term: Term, previous: LogPosition, commit: LogIndex, retainAfter: LogIndex, sentAt: UInt64,
            entries: [LogEntry]
        ) {
            (self.term, self.previous, self.commit) = (term, previous, commit)
            (self.retainAfter, self.sentAt, self.entries) = (retainAfter, sentAt, entries)
        }
    }

    /// See ``ReplicaMessage/appendReply(_:)``.
    public struct AppendReply: Hashable, Sendable {
        /// The follower's term.
        public var term: Term
        /// True when `previous` did not match; `received` then says where to try next.
        public var rejected: Bool
        /// True while the follower copies the copyset: its entries do not count for commit.
        public var syncing: Bool
        /// Entries and payload up to here are on stable media and match the leader's log.
        public var durable: LogIndex
        /// Entries up to here have arrived and match; when rejected, the last index that may match.
        public var received: LogIndex
        /// Echo of ``Append/sentAt``.
        public var echo: UInt64
        /// The message of these fields.
        public init(
            term: Term, rejected: Bool, syncing: Bool, durable: LogIndex, received: LogIndex, echo: UInt64
        ) {
            (self.term, self.rejected, self.syncing) = (term, rejected, syncing)
            (self.durable, self.received, self.echo) = (durable, received, echo)
        }
    }

    /// See ``ReplicaMessage/heartbeat(_:)``.
    public struct Heartbeat: Hashable, Sendable {
        /// The leader's term.
        public var term: Term
        /// Committed up to here; the follower uses it only for entries it knows to match the leader's.
        public var commit: LogIndex
        /// See ``Append/retainAfter``.
        public var retainAfter: LogIndex
        /// See ``Append/sentAt``.
        public var sentAt: UInt64
        /// The message of these fields.
        public init(term: Term, commit: LogIndex, retainAfter: LogIndex, sentAt: UInt64) {
            (self.term, self.commit, self.retainAfter, self.sentAt) = (term, commit, retainAfter, sentAt)
        }
    }

    /// See ``ReplicaMessage/heartbeatReply(_:)``.
    public struct HeartbeatReply: Hashable, Sendable {
        /// The follower's term.
        public var term: Term
        /// See ``AppendReply/syncing``.
        public var syncing: Bool
        /// See ``AppendReply/durable``.
        public var durable: LogIndex
        /// Echo of ``Heartbeat/sentAt``.
        public var echo: UInt64
        /// The message of these fields.
        public init(term: Term, syncing: Bool, durable: LogIndex, echo: UInt64) {
            (self.term, self.syncing, self.durable, self.echo) = (term, syncing, durable, echo)
        }
    }

    /// See ``ReplicaMessage/voteRequest(_:)``.
    public struct VoteRequest: Hashable, Sendable {
        /// The term the candidate stands for; a pre-vote does not raise anybody's term.
        public var term: Term
        /// True when only asking whether an election could be won.
        public var isPreVote: Bool
        /// True when the old leader asked for this election: promises to it do not hold it up.
        public var isTransfer: Bool
        /// The last entry of the candidate's log.
        public var last: LogPosition
        /// The message of these fields.
        public init(term: Term, isPreVote: Bool, isTransfer: Bool, last: LogPosition) {
            (self.term, self.isPreVote, self.isTransfer, self.last) = (term, isPreVote, isTransfer, last)
        }
    }

    /// See ``ReplicaMessage/voteReply(_:)``.
    public struct VoteReply: Hashable, Sendable {
        /// The voter's term; for a granted pre-vote, the term asked about.
        public var term: Term
        /// Answers a pre-vote.
        public var isPreVote: Bool
        /// The vote.
        public var granted: Bool
        /// The message of these fields.
        public init(term: Term, isPreVote: Bool, granted: Bool) {
            (self.term, self.isPreVote, self.granted) = (term, isPreVote, granted)
        }
    }
}
