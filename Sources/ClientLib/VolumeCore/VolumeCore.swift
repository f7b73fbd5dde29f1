import BlockTypes

/// One attachment of one volume: requests in, sub-requests out, each request answered exactly once.
///
/// - A request is checked, then cut along chunks (``StripeMap``). Reads and changes are cut in the order in
///   which they came, each kind in a line of its own.
/// - Changes of the same blocks happen one after the other, in the order in which they came (``BlockLocks``);
///   a partly covered block is read, patched and written back under the same lock.
/// - A change keeps its tag over all its attempts, so that late copies do nothing.
/// - While a copyset's leader is unknown one sub-request looks for it; the others wait parked.
/// - A request that fails because of its age leaves those of its changes that were sent on the way, holding
///   their locks, until their outcome is known: a late copy never overwrites what was written after it.
/// - A change counts as done only when its copyset says so, so a flush has nothing to wait for: what was
///   answered before it is durable.
public struct VolumeCore: Machine {
    /// What happened.
    public enum Event: Sendable {
        /// Attach: announce the epoch everywhere. Requests may come before the end of it; they wait.
        case start
        /// A frontend asks; `token` comes back in ``Effect/complete(token:_:)``.
        case submit(token: Int, VolumeRequest)
        /// An attempt was answered. Late, repeated and invented answers are harmless.
        case answered(AttemptID, BlockAnswer)
        /// The connection to a server is gone, or could not be had.
        case serverLost(ServerID)
        /// A wait that ``Effect/wakeAfter(_:)`` asked for is over.
        case timerFired
        /// The metadata server says which size the volume has since which change. What is known already, or
        /// replaced by something newer, changes nothing.
        case resize(ByteCount, change: UInt32)
        /// The metadata server has given the group these members and the volume this size; copysets are told.
        case regroup(Epoch, change: UInt32, group: [Epoch], size: ByteCount)
        /// The metadata server says that this attachment is over.
        case fenced
        /// Detach: refuse new requests, finish those accepted.
        case close
        /// Detach now: fail what is left.
        case abandon
    }
    /// What to do.
    public enum Effect: Sendable {
        /// Send an attempt. When there is no connection and none in the making, answer
        /// ``BlockAnswer/unreachable``, in a later event.
        case send(AttemptID, to: ServerID, CopysetID, BlockCommand)
        /// Answer the frontend.
        case complete(token: Int, VolumeResult)
        /// Report ``Event/timerFired`` after this long.
        case wakeAfter(Duration)
        /// Every copyset knows the attachment; I/O has begun.
        case attached
        /// The size has changed.
        case resized(ByteCount)
        /// Every copyset knows this generation of the group: nothing that an attachment sent which is no
        /// member any more can take effect from now on.
        case regrouped(Epoch)
        /// The attachment is over for good, and every request fails with this.
        case lost(VolumeError)
        /// Nothing is left to do.
        case closed
    }

    /// A request that waits although it could go on if servers behaved.
    public struct Blockage: Hashable, Sendable {
        /// Where it waits.
        public var copyset: CopysetID
        /// The server asked last.
        public var server: ServerID
        /// Why.
        public var reason: AttemptFailure
        /// Since when, in the shell's time.
        public var since: Duration
    }
    /// What was done since the start.
    public struct Counters: Hashable, Sendable {
        public var reads = 0, writes = 0, discards = 0, flushes = 0
        public var readBytes = 0, writtenBytes = 0
        /// Attempts beyond the first.
        public var retries = 0
        /// Requests that ended in an error.
        public var failures = 0
    }

    let configuration: Configuration
    let limits: VolumeLimits
    let pool: BufferPool
    var random: SeededRandom
    var requests: [Request] = []
    var freeRequests: [Int] = []
    var subs: [SubRequest]
    var freeSubs: [Int]
    var copysets: [CopysetState]
    let servers: [ServerID]
    /// By server: when it last answered anything.
    var lastHeard: [Duration]
    /// By server: when it last let a whole attempt pass in silence, if it was not heard since.
    var silentSince: [Duration?]
    var locks: BlockLocks
    var tags = TagWindow()
    var windowWaiters = Queue<Int>()
    var readQueue = Queue<Int>()
    var changeQueue = Queue<Int>()
    /// A trim of many chunks that is being cut beside the queue, or -1.
    var bulk = -1
    var activeBytes = 0
    var lastSerial: UInt64 = 0
    var armedAt: Duration?
    /// When a piece of any request was last finished.
    var progressAt = Duration.zero
    var ready: [Int] = []
    var lifecycle = Lifecycle()

    /// Current size.
    public internal(set) var size: ByteCount
    /// What was done.
    public internal(set) var counters = Counters()
    /// Requests accepted and not answered.
    public internal(set) var queuedRequests = 0

    /// - Parameter pool: gives the memory for blocks that are patched.
    public init(_ configuration: Configuration, pool: BufferPool) throws(VolumeConfigurationError) {
        let size = configuration.size
        guard (Geometry.volumeBytesMin...Geometry.volumeBytesMax).contains(size.bytes),
            size.bytes % UInt64(Geometry.blockBytes) == 0, configuration.stripes.limit(forSize: size) != nil
        else { throw .size }
        guard configuration.copysets.allSatisfy({ !$0.members.isEmpty }),
            let placement = Placement(
                volume: configuration.volume, copysets: configuration.copysets.map(\.id))
        else { throw .placement }
        var members: [CopysetID: [Int]] = [:]
        var indexes: [ServerID: Int] = [:]
        var servers: [ServerID] = []
        for copyset in configuration.copysets {
            for server in copyset.members {
                if indexes[server] == nil {
                    indexes[server] = servers.count
                    servers.append(server)
                }
                members[copyset.id, default: []].append(indexes[server] ?? 0)
            }
        }
        self.servers = servers
        lastHeard = Array(repeating: .zero, count: servers.count)
        silentSince = Array(repeating: nil, count: servers.count)
        copysets = placement.order.map { CopysetState(id: $0, members: members[$0] ?? []) }
        limits = configuration.limits
        let slots = limits.subRequestsMax + limits.fencesMax
        invariant(slots <= 1 << 16, "\(slots) slots do not fit an attempt's id")
        subs = Array(repeating: SubRequest(), count: slots)
        freeSubs = Array((0..<slots).reversed())
        locks = BlockLocks(ownersMax: slots)
        random = SeededRandom(seed: configuration.seed)
        (self.configuration, self.pool, self.size) = (configuration, pool, size)
        lifecycle.acceptEnd = size
    }

    /// True while frontends may submit; otherwise they should stop reading from their clients.
    public var canAccept: Bool { queuedRequests < limits.requestsSoftMax }
    /// Sub-requests on the way or waiting.
    public var subRequestsInFlight: Int { subs.count - freeSubs.count }
    /// True once I/O has begun.
    public var isAttached: Bool { lifecycle.isAttached }

    /// True while a new size is not in force yet.
    public var isResizing: Bool {
        guard case .none = lifecycle.change else { return lifecycle.isAttached }
        return lifecycle.wanted != nil || lifecycle.wantedGroup != nil
    }

    /// The longest wait that servers are to blame for, if something waits.
    public var blockage: Blockage? {
        var found: Blockage?
        for sub in subs where sub.phase != .free {
            let copyset = copysets[sub.copyset]
            guard let since = copyset.failingSince, found.map({ since < $0.since }) ?? true else { continue }
            found = Blockage(
                copyset: copyset.id, server: servers[copyset.members[copyset.target]],
                reason: copyset.lastFailure,
                since: since)
        }
        return found
    }

    /// See ``Machine``.
    public mutating func step(_ event: Event, now: Duration, effects: inout [Effect]) {
        switch event {
        case .start: startAttaching()
        case .submit(let token, let request): submit(token, request, now: now, effects: &effects)
        case .answered(let attempt, let answer): answered(attempt, answer, now: now, effects: &effects)
        case .serverLost(let server): lost(server, now: now, effects: &effects)
        case .timerFired: timerFired(now: now, effects: &effects)
        case .resize(let size, let change): want(size, change: change)
        case .regroup(let epoch, let change, let group, let size):
            regroup(epoch, change: change, group: group, size: size)
        case .fenced: die(.fenced, effects: &effects)
        case .close: lifecycle.isClosing = true
        case .abandon:
            lifecycle.isClosing = true
            die(.shuttingDown, effects: &effects)
        }
        // Every event ends with the same tidy-up, so the next one finds nothing that could go on but does
        // not.
        pump(now: now, effects: &effects)
        while advanceLifecycle(now: now, effects: &effects) { pump(now: now, effects: &effects) }
        finishClosing(effects: &effects)
    }
}
