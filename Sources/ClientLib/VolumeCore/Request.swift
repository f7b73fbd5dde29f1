import BlockTypes

/// A request that was accepted and is not answered.
struct Request {
    enum Kind: UInt8 { case read, write, trim, zero, status, compare }
    enum Owner {
        /// The slot is free, or was answered and still stands in a queue.
        case nobody
        /// A frontend, by its token.
        case frontend(Int)
        /// The volume itself: what lies behind its end in the last stripe group is trimmed.
        case tail
    }
    var owner: Owner
    var kind: Kind
    var range: Range<UInt64>
    var source: WriteSource?
    /// What a comparison expects.
    var expected: WriteSource?
    var splitter: Splitter
    /// When it was accepted, or a piece of it was last finished.
    var progressAt: Duration
    /// Stands in a queue, which will free the slot.
    var isQueued = true
    /// No piece is to come.
    var isCut = false
    /// Pieces on the way.
    var outstanding = 0
    /// Pieces cut so far.
    var pieces = 0
    var failure: VolumeError?
    /// What a read's pieces brought, by piece.
    var results: [[ReadSegment]] = []

    var isAnswered: Bool { if case .nobody = owner { true } else { false } }
}

/// What is known of one copyset.
struct CopysetState {
    let id: CopysetID
    /// Indexes into the volume's servers.
    let members: [Int]
    /// Whom to ask: the leader, or the member that is tried next.
    var target = 0
    /// The target has shown that it leads.
    var isConfirmed = false
    /// The sub-request that looks for the leader, or -1.
    var prober = -1
    /// Slots that wait for the prober; one that no longer does is skipped.
    var parked = Queue<Int>()
    var failingSince: Duration?
    var lastFailure = AttemptFailure.noLeader
    /// A fence beside the campaign is queued or on the way.
    var isFencePending = false

    init(id: CopysetID, members: [Int]) { (self.id, self.members) = (id, members) }
}
