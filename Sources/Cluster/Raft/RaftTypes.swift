import BlockTypes
import CurveWire

/// Names one proposal of the shell until its outcome is told.
public struct ProposalToken: RawRepresentable, Hashable, Sendable {
    /// The shell's own number.
    public let rawValue: UInt64
    /// Proposal `rawValue`.
    @inlinable public init(rawValue: UInt64) { self.rawValue = rawValue }
}

extension RaftReplica {
    /// What a replica is at the moment.
    ///
    /// follower -> preCandidate -> candidate -> leader; anything -> follower; a planned transfer goes from
    /// follower to candidate without asking first.
    public enum Role: Hashable, Sendable { case follower, preCandidate, candidate, leader }

    /// Times and bounds. The same on every member of a copyset, or leases mean nothing.
    public struct Settings: Hashable, Sendable {
        /// How often a leader tells its followers that it lives.
        public var heartbeatEvery: Duration = .milliseconds(200)
        /// How long a follower that heard its leader elects nobody else.
        public var lease: Duration = .milliseconds(800)
        /// Silence after which a follower campaigns; drawn anew each time. Longer than ``lease`` with its
        /// drift, so that the first campaign after a silent death finds the promises of the others run out.
        public var electionTimeout: ClosedRange<Duration> = .milliseconds(1000)...(.milliseconds(1500))
        /// No member's clock runs faster or slower than true time by more than this.
        public var clockDriftPermille: Int = 10
        /// Entries sent to one follower and not yet received by it, and entries proposed but not yet
        /// committed and stored here: what a failover may have to repair.
        public var inFlightEntriesMax: Int = 4096
        /// The same in bytes.
        public var inFlightBytesMax: Int = 64 << 20
        /// Messages sent to one follower and not yet received by it; further entries gather into batches.
        public var inFlightMessagesMax: Int = 256
        /// Entries in one message.
        public var messageEntriesMax: Int = 64
        /// Payload bytes in one message, unless a single entry is larger.
        public var messageBytesMax: Int = 1 << 20
        /// Bytes of entries kept in memory for followers that are behind; what is older is read from the
        /// store. Entries not yet stored here are kept on top of it, within ``inFlightBytesMax``.
        public var cachedBytesMax: Int = 16 << 20
        /// The usual values.
        public init() {}
    }

    /// What the store recovered.
    public struct Persisted: Sendable {
        /// The highest term stored.
        public var term: Term
        /// Who got this replica's vote in ``term``.
        public var votedFor: ServerID?
        /// The copyset's members, this replica among them.
        public var members: [ServerID]
        /// Just before the first retained entry.
        public var base: LogPosition
        /// First entry of each run of equal terms after ``base``, ascending; they cover everything up to
        /// ``last``.
        public var termStarts: [LogPosition]
        /// The last entry; equals ``base`` when the log is empty.
        public var last: LogPosition
        /// Applied up to here; at most ``last``, at least ``base``.
        public var applied: LogIndex
        /// True when a full copy was begun and not finished.
        public var isSyncing: Bool
        /// While syncing: the end of the log that was given up for the copy.
        public var voteFloor: LogPosition
        /// True when this replica never ran before, so that no promise to an earlier leader can exist.
        public var isFresh: Bool
        /// The state of these fields.
        public init(
            term: Term, votedFor: ServerID?, members: [ServerID], base: LogPosition,
            termStarts: [LogPosition], last: LogPosition, applied: LogIndex, isSyncing: Bool,
            voteFloor: LogPosition, isFresh: Bool
        ) {
            (self.term, self.votedFor, self.members, self.base) = (term, votedFor, members, base)
            (self.termStarts, self.last, self.applied) = (termStarts, last, applied)
            (self.isSyncing, self.voteFloor, self.isFresh) = (isSyncing, voteFloor, isFresh)
        }
        /// A replica of a new copyset.
        public init(freshWith members: [ServerID]) {
            self.init(
                term: Term(0), votedFor: nil, members: members, base: .zero, termStarts: [], last: .zero,
                applied: LogIndex(0), isSyncing: false, voteFloor: .zero, isFresh: true)
        }
    }

    /// What happened.
    public enum Event: Sendable {
        /// Time has passed; comes every 50 ms.
        case tick
        /// The shell wants an operation replicated.
        case propose(ProposalToken, Operation)
        /// A member said something.
        case received(from: ServerID, ReplicaMessage)
        /// A leader's entries, more than this store can take now: no entry after `index` is added. What
        /// contradicts them is dropped all the same, since that may be what the room is missing for. The
        /// leader sees that the rest did not arrive, and sends it again later.
        case receivedTooMuch(from: ServerID, ReplicaMessage.Append, addable: LogIndex)
        /// The connection to a member is gone. `provenDead`: its host refused a connection, or a newer
        /// incarnation of it was seen.
        case disconnected(ServerID, provenDead: Bool)
        /// The process that was this member at `asOf`, on the clock of
        /// ``RaftReplica/step(_:now:effects:)``, is gone beyond doubt: it serves nothing under any lease.
        case died(ServerID, asOf: Duration)
        /// Own entries and their payload are durable, without a gap, up to here.
        case stored(through: LogPosition)
        /// The earliest unanswered ``Effect/storeVote(_:votedFor:)`` of this term is durable.
        case voteStored(Term)
        /// A truncate is durable.
        case truncated(from: LogIndex)
        /// The store has applied up to here.
        case applied(through: LogIndex)
        /// The store keeps only entries after this.
        case logStart(LogPosition)
        /// Answer to ``Effect/loadEntries(for:from:bytesMax:)``; empty when they are no longer kept.
        case entriesLoaded(for: ServerID, from: LogIndex, [LogEntry])
        /// The shell has sent a sync offer with the store's state at `base`, its applied position.
        case syncOffered(to: ServerID, base: LogPosition)
        /// Follower: the copy is complete and durable, with as much of the log as
        /// ``Effect/beginSync(from:term:base:)`` says.
        case syncFinished
        /// Hand leadership to a member; `nil`: to whoever is most up to date.
        case transferLeadership(to: ServerID?)
    }

    /// What to do about it, in this order.
    public enum Effect: Sendable {
        /// Make term and vote durable, then report ``Event/voteStored(_:)``, once for each of these.
        case storeVote(Term, votedFor: ServerID?)
        /// Add to the local store; follows what was appended before, or a truncate.
        case append([LogEntry])
        /// Forget entries from here on.
        case truncate(from: LogIndex)
        /// Send to a member. May be lost.
        case send(to: ServerID, ReplicaMessage)
        /// Entries up to here may be applied (once they are durable here, too).
        case commit(through: LogIndex)
        /// Every member has all up to here: older entries need not be kept for anybody.
        case retain(after: LogIndex)
        /// The proposal is at this place of the log. Not yet committed.
        case accepted(ProposalToken, LogPosition)
        /// Not the leader; try `leader`, if anybody.
        case refused(ProposalToken, leader: ServerID?)
        /// The leader, but its window is full or it is about to hand over; try again.
        case busy(ProposalToken)
        /// Elected; not serving yet.
        case becameLeader(Term)
        /// Everything that earlier leaders committed is applied: may serve, under the lease.
        case ready(Term)
        /// No longer the leader: proposals accepted and not yet committed have an unknown outcome.
        case leadershipLost(Term)
        /// Another member, or nobody, is known to lead.
        case leaderChanged(ServerID?)
        /// Read entries of the log, at most `bytesMax` of payload but at least one, for a follower.
        /// At most one outstanding for each follower.
        case loadEntries(for: ServerID, from: LogIndex, bytesMax: Int)
        /// A follower needs entries that are no longer kept: offer it a full copy. At most one at a time.
        case offerSync(to: ServerID)
        /// Follower: drop all data and the log, persist ``RaftReplica/voteFloor``, and copy everything at and
        /// before `base` from the leader of `term`. The copy is complete, also on stable media, only when
        /// the durable log ends in an entry of `term` or a later one, at or after ``RaftReplica/voteFloor``.
        case beginSync(from: ServerID, term: Term, base: LogPosition)
    }
}
