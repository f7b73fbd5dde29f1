import BlockTypes

/// What a volume does when a majority of some chunk's replicas stays out of reach.
public enum UnavailablePolicy: Hashable, Sendable {
    /// Waits, however long it takes.
    case queue
    /// Fails a request with ``VolumeError/replicasUnavailable`` when nothing of it was done for this long.
    /// One that still waits for its turn ages only while nothing at all is done.
    case errorAfter(Duration)
}

/// One copyset as the metadata server describes it.
public struct CopysetMembers: Hashable, Sendable {
    /// Its name.
    public var id: CopysetID
    /// Its replicas; the first is the preferred leader.
    public var members: [ServerID]
    /// Copyset `id` on `members`.
    public init(id: CopysetID, members: [ServerID]) { (self.id, self.members) = (id, members) }
}

/// Bounds of one attachment. Each has the reason for its number.
public struct VolumeLimits: Hashable, Sendable {
    /// Sub-requests in the making or on the way: 256 KiB each they hold ``activeBytesMax``, twice over for
    /// small ones, which is more than three SSDs need to be busy.
    public var subRequestsMax = 512
    /// Fences on the way besides those; an attachment of a large volume sends one to each copyset.
    public var fencesMax = 64
    /// Payload of the sub-requests, read and written.
    public var activeBytesMax = 64 << 20
    /// Sub-requests of one large trim: the rest stays free for others.
    public var bulkSubRequestsMax = 64
    /// Above this many waiting requests ``VolumeCore/canAccept`` asks frontends to hold back.
    public var requestsSoftMax = 4096
    /// Above this many, requests are refused: a frontend has ignored ``VolumeCore/canAccept``.
    public var requestsMax = 16384
    /// Bytes of one read or write: what NBD clients may ask for in one piece.
    public var requestBytesMax = 64 << 20
    /// Silence after which another replica is asked. About what an election takes: who asks earlier hears the
    /// dead leader's name, who asks later makes users wait.
    public var attemptTimeout = Duration.seconds(1)
    /// The same for a server that was silent the last time, and how long it is left alone before it is asked
    /// again: those who hear a deaf leader name it until they have elected another, and who asks it meanwhile
    /// does not see the other. A late answer clears its name.
    public var suspectTimeout = Duration.milliseconds(125), suspectRest = Duration.milliseconds(500)
    /// How many `attemptTimeout` an attempt may take in all at a server that answers other requests
    /// meanwhile.
    public var attemptExtensionsMax = 10
    /// First pause before a copyset is asked again, and the longest.
    public var backoffMin = Duration.milliseconds(10), backoffMax = Duration.milliseconds(250)
    /// The longest while a leader is looked for: one sub-request of a copyset does so for all, and users
    /// wait.
    public var searchPauseMax = Duration.milliseconds(100)
    /// Hints followed at once before a pause: two replicas that name each other must not be asked in a
    /// circle.
    public var hintsMax = 3
    /// Repeats of a transfer whose bytes arrived damaged, before the request fails.
    public var damagesMax = 2
    /// The bounds above.
    public init() {}
}

/// Why an attachment makes no sense.
public enum VolumeConfigurationError: Error, Hashable, Sendable {
    /// The size is not a multiple of a block, outside 1 MiB...1 PiB, or too large for its striping.
    case size
    /// The copyset table is empty, names one twice, or has one without members.
    case placement
}

extension VolumeCore {
    /// What an attachment is.
    public struct Configuration: Sendable {
        /// The volume.
        public var volume: VolumeID
        /// Its size.
        public var size: ByteCount
        /// Its striping.
        public var stripes: StripeMap
        /// The placement table of its generation, in table order.
        public var copysets: [CopysetMembers]
        /// The attachment's number.
        public var epoch: Epoch
        /// The attachments of the group that it belongs to, itself included; empty: it has the volume alone.
        public var group: [Epoch]
        /// The volume's change that began it.
        public var change: UInt32
        /// The volume's snapshot number.
        public var snapshot: SnapshotNumber
        /// Data may lie behind the end in the last stripe group: they are freed before I/O begins.
        public var trimsTail: Bool
        /// Refuses changes.
        public var isReadOnly: Bool
        /// What to do when replicas are out of reach.
        public var policy: UnavailablePolicy
        /// The bounds.
        public var limits: VolumeLimits
        /// Random bits, for jitter.
        public var seed: UInt64

        /// An attachment of these properties.
        public init(
            volume: VolumeID, size: ByteCount, stripes: StripeMap, copysets: [CopysetMembers], epoch: Epoch,
            change: UInt32, group: [Epoch] = [], snapshot: SnapshotNumber = SnapshotNumber(0),
            trimsTail: Bool = false,
            isReadOnly: Bool = false,
            policy: UnavailablePolicy = .queue, limits: VolumeLimits = VolumeLimits(), seed: UInt64
        ) {
            (self.volume, self.size, self.stripes) = (volume, size, stripes)
            (self.copysets, self.epoch, self.snapshot) = (copysets, epoch, snapshot)
            (self.change, self.group, self.trimsTail) = (change, group, trimsTail)
            (self.isReadOnly, self.policy, self.limits, self.seed) = (isReadOnly, policy, limits, seed)
        }
    }
}
