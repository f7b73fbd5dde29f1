import BlockTypes

/// The numbers that bound the metadata server and time its promises.
public struct MetadataLimits: Hashable, Sendable {
    /// How long an attachment lives without a renewal; clients renew three times as often.
    public var lease: Duration = .seconds(10)
    /// How often a chunkserver should report.
    public var heartbeat: Duration = .seconds(1)
    /// A second process with a live server's identity is refused until the first was silent this long.
    public var identityHold: Duration = .seconds(3)
    /// A chunkserver that was silent this long counts as offline: five missed heartbeats.
    public var offlineAfter: Duration = .seconds(5)
    /// How long a deleted volume can be restored.
    public var retentionSeconds: UInt64 = 24 * 3600
    /// Chunkservers: all their addresses are in every address book, which must fit one message of 16 MiB.
    public var serversMax = 4096
    /// Pools.
    public var poolsMax = 64
    /// Copysets of one pool: the table goes into every attach reply.
    public var copysetsPerPoolMax = 16_384
    /// Copysets of all pools: a status names each, in one message of 16 MiB.
    public var copysetsMax = 1 << 17
    /// Values of one volume, bytes of one, and bytes of its name: reservations of a few units fit.
    public var valuesPerVolumeMax = 16, valueBytesMax = 64 << 10, valueNameBytesMax = 64
    /// Values of the cluster itself, and bytes of one: a message of 1 MiB holds it with room to spare.
    public var clusterValuesMax = 128, clusterValueBytesMax = 512 << 10
    /// Requests that wait for a value to change, and how long one may.
    public var watchesMax = 4096, watchMax: Duration = .seconds(30)
    /// Directories; all are held in memory.
    public var directoriesMax = 1 << 20
    /// Volumes, deleted ones included; all are held in memory.
    public var volumesMax = 1 << 22
    /// Unfinished tasks; a purge makes one for each copyset of the volume's pool.
    public var tasksMax = 1 << 20
    /// Tasks in one heartbeat reply; the rest follows in the next ones.
    public var tasksPerHeartbeatMax = 256
    /// Deleted volumes whose retention has ended that one tick purges.
    public var purgesPerTickMax = 16
    /// Requests that wait for a transaction in flight; more are refused.
    public var waitingRequestsMax = 1024
    /// Requests that wait this long for chunkservers to say what they remember are told to come again.
    public var trustPatience: Duration = .seconds(3)
    /// A revision further ahead than this is nonsense: no cluster makes a transaction each microsecond for
    /// ten days.
    public var revisionGapMax: UInt64 = 1 << 40
    /// Transactions of a lost database that nobody heard of, at most: those of its last seconds.
    public var unheardRevisionsMax: UInt64 = 1024
    /// Lost ranges of numbers, and stranded volumes, that are remembered; the newest ones.
    public var lostRangesMax = 16, strandedVolumesMax = 1000
    /// Sentences in the answer to an adoption.
    public var findingsMax = 200
    /// Addresses of one chunkserver.
    public var addressesMax = 8
    /// One address: the longest host name and a port fit.
    public var addressBytesMax = 264
    /// One host name, zone, holder, holder's key or health text.
    public var textBytesMax = 512
    /// A listing, so that it fits one message of 16 MiB with room for the numbers beside the names.
    public var listingBytesMax = 8 << 20
    /// Sentences in a status.
    public var warningsMax = 100
    /// A store with less than this share free is nearly full.
    public var nearlyFullPercent: UInt64 = 85

    /// The numbers above.
    public init() {}
}
