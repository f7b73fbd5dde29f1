import BlockTypes

/// What the metadata server answers.
public enum MetadataReply: Hashable, Sendable {
    /// Who this is.
    case cluster(UniqueID)
    /// The number of a store.
    case allocated(cluster: UniqueID, server: ServerID)
    /// A chunkserver's copysets and where its peers are.
    case registered(copysets: [CopysetRow], addressBook: AddressBook, heartbeat: Duration)
    /// News for a chunkserver: the address book and its copysets when it has old ones, work, and after which
    /// volume its store's knowledge is asked for, if it is.
    case heartbeat(
        addressBook: AddressBook?, copysets: [CopysetRow], copysetsVersion: UInt64, tasks: [TaskRow],
        inquiry: VolumeID?)
    /// All there is to know.
    case status(ClusterStatus)
    /// A pool.
    case pool(PoolInfo)
    /// A volume.
    case volume(VolumeInfo)
    /// What is in a directory.
    case listing([DirectoryEntry])
    /// What is in the recycle bin.
    case recycled([VolumeInfo])
    /// Done.
    case done
    /// The volume is held.
    case attached(VolumeAttachment)
    /// The lease runs on; the size as it is now, and the address book when the caller has an old one.
    /// `generation`: of the group that holds it, with `group`, its attachments. `poolUsedPercent`: of the
    /// fullest store of its pool, which decides when the pool is full; 0: not known.
    case renewed(
        sizeBytes: UInt64, change: UInt32, addressBook: AddressBook?, generation: Epoch, group: [Epoch],
        poolUsedPercent: UInt32)
    /// Who is a member from now on: the generation, the volume's change and size, the attachments.
    case regrouped(epoch: Epoch, change: UInt32, group: [Epoch], sizeBytes: UInt64)
    /// A value; version 0: there is none. `isSwapped`: it is what the asker wanted.
    case value(version: UInt64, bytes: [UInt8], isSwapped: Bool)
    /// Where the chunkservers are.
    case addressBook(AddressBook)
    /// The database counts from now on; what is different from what others remember.
    case adopted(findings: [String])
}

/// Why a request was refused: a code for programs, a sentence for people.
public struct MetadataRefusal: Error, Hashable, Sendable, CustomStringConvertible {
    /// The codes of `control.proto`, one by one.
    public enum Code: Hashable, Sendable {
        case badRequest, notFound, alreadyExists, held, fenced, noSpace, notEmpty, wrongCluster
        case identityInUse, staleIncarnation, notReady, store, databaseWentBack
    }
    /// For programs.
    public let code: Code
    /// For people: what happened and what to do.
    public let message: String
    /// With ``Code/held``: who holds the volume.
    public let holder: String
    /// A refusal.
    public init(_ code: Code, _ message: String, holder: String = "") {
        (self.code, self.message, self.holder) = (code, message, holder)
    }
    /// The sentence.
    public var description: String { message }
}

/// Where every chunkserver that ever registered can be reached.
public struct AddressBook: Hashable, Sendable {
    /// Goes up with every change.
    public var version: UInt64
    /// In order of number.
    public var servers: [ServerRow]
}

/// A volume as people and clients see it.
public struct VolumeInfo: Hashable, Sendable {
    /// What is stored of it.
    public var row: VolumeRow
    /// Where it is, or was before it was deleted.
    public var path: String
    /// Its pool's name.
    public var poolName: String
    /// Who holds it; empty when nobody does.
    public var holder: String
    /// Members of the group that holds it whose leases have ended.
    public var silentMembers: [Epoch] = []
}

/// One line of a listing.
public struct DirectoryEntry: Hashable, Sendable {
    /// Where it is.
    public var path: String
    /// The volume; `nil` for a directory.
    public var volume: VolumeInfo?
}

/// What a holder needs to do I/O.
public struct VolumeAttachment: Hashable, Sendable {
    /// The volume.
    public var volume: VolumeInfo
    /// The number of this attachment.
    public var epoch: Epoch
    /// How long it lasts without renewal.
    public var lease: Duration
    /// The placement table, in table order.
    public var copysets: [CopysetRow]
    /// Where the chunkservers are.
    public var addressBook: AddressBook
    /// The holder must free what lies behind the end in the last stripe group.
    public var trimsTail = false
    /// The attachments of the group that it belongs to; empty: the holder has it alone.
    public var group: [Epoch] = []
}

/// A pool and its room.
public struct PoolInfo: Hashable, Sendable {
    /// What is stored of it.
    public var row: PoolRow
    /// User data that fits in all.
    public var capacityBytes: UInt64
    /// User data that still fits.
    public var freeBytes: UInt64
}

/// The state of the cluster.
public struct ClusterStatus: Hashable, Sendable {
    /// Its id.
    public var cluster: UniqueID
    /// In order of number.
    public var servers: [ServerStatus]
    /// In order of number.
    public var pools: [PoolInfo]
    /// Volumes that are not deleted.
    public var volumeCount: Int
    /// Volumes that somebody holds.
    public var attachedCount: Int
    /// Volumes in the recycle bin.
    public var recycledCount: Int
    /// In order of number.
    public var copysets: [CopysetStatus]
    /// Tasks that copysets have not finished.
    public var pendingTaskCount: Int
    /// Each a sentence: what is wrong and what to do.
    public var warnings: [String]
    /// Whether the database may be relied on.
    public var trust: DatabaseTrust
    /// The database's revision.
    public var revision: UInt64
    /// The highest revision that anybody remembers.
    public var heardRevision: UInt64
}

/// Whether the database may be relied on.
public enum DatabaseTrust: Hashable, Sendable {
    /// Nobody who matters remembers more than it says.
    case current
    /// The server has just started, and too few chunkservers have said what they remember.
    case waiting
    /// Somebody remembers more: it is an older copy. Nothing is given or changed.
    case wentBack
}

/// The state of a chunkserver.
public struct ServerStatus: Hashable, Sendable {
    /// What is stored of it.
    public var row: ServerRow
    /// True when it reported lately.
    public var isOnline: Bool
    /// Since its last report, or since the metadata server started.
    public var secondsSinceHeartbeat: UInt64
    /// Bytes of its store.
    public var capacityBytes: UInt64
    /// Bytes in use.
    public var usedBytes: UInt64
    /// Bytes free.
    public var freeBytes: UInt64
    /// Copysets it leads.
    public var copysetsLed: Int
    /// "ok", what is wrong in words, or empty when it never reported.
    public var health: String
    /// Bad blocks replaced by a peer's copy since it started.
    public var mendedBlocks: UInt64
}

/// The state of a copyset.
public struct CopysetStatus: Hashable, Sendable {
    /// Which, and its members.
    public var row: CopysetRow
    /// Its leader, if one is known and online.
    public var leader: ServerID?
    /// Members that count for commit, as the leader says.
    public var membersInStep: UInt32
}
