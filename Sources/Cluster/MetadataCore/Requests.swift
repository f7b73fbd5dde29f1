import BlockTypes

/// Names one request that waits for its reply.
public struct RequestID: Hashable, Sendable {
    /// The number.
    public let rawValue: UInt64
    /// Request `rawValue`.
    public init(rawValue: UInt64) { self.rawValue = rawValue }
}

/// Names one connection to the metadata server; never used again.
public struct SessionID: Hashable, Sendable {
    /// The number.
    public let rawValue: UInt64
    /// Connection `rawValue`.
    public init(rawValue: UInt64) { self.rawValue = rawValue }
}

/// What is asked of the metadata server.
public enum MetadataRequest: Hashable, Sendable {
    /// Who are you?
    case cluster
    /// A number for a new store.
    case allocateServer(device: UniqueID, host: String)
    /// A chunkserver has started, or has connected again.
    case registerServer(ServerRegistration)
    /// A chunkserver lives.
    case heartbeat(ServerHeartbeat)
    /// All there is to know.
    case status
    /// A pool over all chunkservers that are online and in no pool. `copysets` 0: a suitable number.
    case createPool(name: String, replicas: UInt32, copysets: UInt32, domain: FailureDomain)
    /// A new volume. `pool` empty: the only one; `stripeUnitBytes`, `stripeCount` 0: the default.
    case createVolume(
        path: String, sizeBytes: UInt64, pool: String, stripeUnitBytes: UInt32, stripeCount: UInt32)
    /// One volume.
    case volume(path: String)
    /// What is in a directory, and below it.
    case list(path: String, recursive: Bool)
    /// Grow at once; shrink with consent.
    case resize(path: String, sizeBytes: UInt64, allowShrink: Bool)
    /// Rename or move a volume or a directory.
    case rename(from: String, to: String)
    /// To the recycle bin, or for good.
    case deleteVolume(path: String, purgeNow: Bool)
    /// Out of the recycle bin; `to` empty: to where it was.
    case restore(RecycledSelector, to: String)
    /// For good.
    case purge(RecycledSelector)
    /// What is in the recycle bin.
    case listRecycled
    /// A new directory, with its parents if asked.
    case createDirectory(path: String, parents: Bool)
    /// Remove an empty directory.
    case deleteDirectory(path: String)
    /// Hold a volume.
    case attach(AttachRequest)
    /// Hold on. `revision`: the highest of the database of `cluster` that the holder remembers;
    /// `settledChange`: nothing is stored behind the end that this change of the volume gave it.
    case renewLease(
        volume: VolumeID, epoch: Epoch, addressBookVersion: UInt64, cluster: UniqueID? = nil,
        revision: UInt64 = 0, settledChange: UInt32 = 0)
    /// Let go.
    case detach(volume: VolumeID, epoch: Epoch)
    /// A member wants another one to be none any more; `force`: also one whose lease still runs.
    case removeMember(volume: VolumeID, epoch: Epoch, member: Epoch, force: Bool)
    /// A value, once its version is higher than `after` or `wait` is over.
    case value(volume: VolumeID, name: String, after: UInt64, wait: Duration)
    /// A holder changes a value, if nobody else has.
    case swapValue(ValueSwap)
    /// Where the chunkservers are.
    case addressBook(version: UInt64)
    /// Go on with a database that went back.
    case adoptDatabase(force: Bool)
}

/// What a starting chunkserver says of itself.
public struct ServerRegistration: Hashable, Sendable {
    /// The cluster it was formatted for.
    public var cluster: UniqueID
    /// Its store.
    public var device: UniqueID
    /// Its number.
    public var server: ServerID
    /// How often its store was opened.
    public var incarnation: Incarnation
    /// Where it listens.
    public var addresses: [String]
    /// Its machine.
    public var host: String
    /// Its zone; empty when it has none.
    public var zone: String
    /// Bytes of its store.
    public var capacityBytes: UInt64
    /// True when the store's file grows as it is used.
    public var lazilyGrown: Bool
    /// The highest revision of the database that it remembers.
    public var revision: UInt64 = 0
    /// All of it.
    public init(
        cluster: UniqueID, device: UniqueID, server: ServerID, incarnation: Incarnation, addresses: [String],
        host: String, zone: String = "", capacityBytes: UInt64, lazilyGrown: Bool = false
    ) {
        (self.cluster, self.device, self.server) = (cluster, device, server)
        (self.incarnation, self.addresses, self.host, self.zone) = (incarnation, addresses, host, zone)
        (self.capacityBytes, self.lazilyGrown) = (capacityBytes, lazilyGrown)
    }
}

/// What a chunkserver reports every ``MetadataLimits/heartbeat``.
public struct ServerHeartbeat: Hashable, Sendable {
    /// Its number.
    public var server: ServerID
    /// Its incarnation.
    public var incarnation: Incarnation
    /// Bytes of its store.
    public var capacityBytes: UInt64 = 0
    /// Bytes in use.
    public var usedBytes: UInt64 = 0
    /// Bytes free.
    public var freeBytes: UInt64 = 0
    /// Its copysets.
    public var copysets: [CopysetReport] = []
    /// Tasks that are committed and applied.
    public var finishedTasks: [TaskID] = []
    /// The address book it has; 0: none.
    public var addressBookVersion: UInt64 = 0
    /// The copysets it knows of; 0: none.
    public var copysetsVersion: UInt64 = 0
    /// "ok", or what is wrong in words.
    public var health = "ok"
    /// Bad blocks replaced by a peer's copy since the process started.
    public var mendedBlocks: UInt64 = 0
    /// The cluster that it belongs to; `nil` when it does not say.
    public var cluster: UniqueID?
    /// The highest revision of the database that it remembers.
    public var revision: UInt64 = 0
    /// What its store knows of volumes, when that was asked.
    public var inventory: VolumeInventory?
    /// A heartbeat without news.
    public init(server: ServerID, incarnation: Incarnation) {
        (self.server, self.incarnation) = (server, incarnation)
    }
}

/// What a chunkserver's store knows of volumes: one page of it.
public struct VolumeInventory: Hashable, Sendable {
    /// The volumes of this page come after this one.
    public var after: VolumeID
    /// In order of number.
    public var volumes: [KnownVolume]
    /// There are no further pages.
    public var isLast: Bool
    /// One page.
    public init(after: VolumeID, volumes: [KnownVolume], isLast: Bool) {
        (self.after, self.volumes, self.isLast) = (after, volumes, isLast)
    }
}

/// A volume as a chunkserver's store knows it.
public struct KnownVolume: Hashable, Sendable {
    /// Which.
    public var volume: VolumeID
    /// The newest fence in any of its copysets there.
    public var fence: VolumeFence
    /// True when a copyset there has deleted it.
    public var isDeleted: Bool
    /// All of it.
    public init(volume: VolumeID, fence: VolumeFence, isDeleted: Bool) {
        (self.volume, self.fence, self.isDeleted) = (volume, fence, isDeleted)
    }
}

/// One copyset as one of its members sees it.
public struct CopysetReport: Hashable, Sendable {
    /// Which.
    public var copyset: CopysetID
    /// True when the reporter leads it.
    public var isLeader: Bool
    /// The reporter's term.
    public var term: Term
    /// True when the reporter is a leader that serves requests.
    public var isReady: Bool
    /// As leader: members that count for commit, itself included.
    public var membersInStep: UInt32
    /// All of it.
    public init(
        copyset: CopysetID, isLeader: Bool = false, term: Term = Term(0), isReady: Bool = false,
        membersInStep: UInt32 = 0
    ) {
        (self.copyset, self.isLeader, self.term) = (copyset, isLeader, term)
        (self.isReady, self.membersInStep) = (isReady, membersInStep)
    }
}

/// Names a volume in the recycle bin.
public enum RecycledSelector: Hashable, Sendable {
    /// By its number.
    case volume(VolumeID)
    /// By the path it had.
    case path(String)
}

/// A change of one of a volume's values, or of the cluster's.
public struct ValueSwap: Hashable, Sendable {
    /// The volume; ``BlockTypes/VolumeID/cluster``: none, and no attachment is needed.
    public var volume: VolumeID
    /// The attachment of who asks.
    public var epoch: Epoch
    /// The value's name.
    public var name: String
    /// The version that it must have; 0: there must be none.
    public var expectedVersion: UInt64
    /// What it shall be.
    public var bytes: [UInt8]
    /// Names the attempt: a copy of it gets the same answer. 0: no name.
    public var attempt: UInt64
    /// All of it.
    public init(
        volume: VolumeID, epoch: Epoch, name: String, expectedVersion: UInt64, bytes: [UInt8],
        attempt: UInt64 = 0
    ) {
        (self.volume, self.epoch, self.name) = (volume, epoch, name)
        (self.expectedVersion, self.bytes, self.attempt) = (expectedVersion, bytes, attempt)
    }
}

/// Who wants to hold which volume.
public struct AttachRequest: Hashable, Sendable {
    /// The volume.
    public var path: String
    /// For people: the program, machine and process.
    public var holder: String
    /// For re-attaching: the same key may attach again at once. Empty: never the same.
    public var holderKey: String
    /// True to fence a holder whose lease still runs.
    public var takeOver: Bool
    /// True when the holder will not write.
    public var readOnly: Bool
    /// Attach only while the last attachment is this one; `nil`: whatever it is.
    public var expectedEpoch: Epoch?
    /// Names the attempt: a copy of it gets the same answer. 0: no name.
    public var attempt: UInt64
    /// The group to hold it with; empty: alone.
    public var group: String
    /// All of it.
    public init(
        path: String, holder: String, holderKey: String, takeOver: Bool = false, readOnly: Bool = false,
        expectedEpoch: Epoch? = nil, attempt: UInt64 = 0, group: String = ""
    ) {
        (self.path, self.holder, self.holderKey) = (path, holder, holderKey)
        (self.takeOver, self.readOnly) = (takeOver, readOnly)
        (self.expectedEpoch, self.attempt, self.group) = (expectedEpoch, attempt, group)
    }
}
