import BlockTypes

// What the metadata server remembers. Every durable fact is a row of one of these kinds; the whole state is
// what the rows say and nothing more, so a restart equals the live state. Rows are written as they are
// (Codable): a new field must be optional, a changed meaning needs a new version in the store.

/// A directory's number; 0 is the root, which has no row.
public struct DirectoryID: Identifier, Codable {
    /// The number.
    public let rawValue: UInt64
    /// Directory `rawValue`.
    public init(rawValue: UInt64) { self.rawValue = rawValue }
    /// "/".
    public static let root = DirectoryID(0)
}

/// A pool's number.
public struct PoolID: Identifier, Codable {
    /// The number.
    public let rawValue: UInt32
    /// Pool `rawValue`.
    public init(rawValue: UInt32) { self.rawValue = rawValue }
}

/// A task's number.
public struct TaskID: Identifier, Codable {
    /// The number.
    public let rawValue: UInt64
    /// Task `rawValue`.
    public init(rawValue: UInt64) { self.rawValue = rawValue }
}

/// The cluster's id and the next number of each kind. Numbers are never used again.
public struct ClusterRow: Hashable, Sendable, Codable {
    /// Made at the first start, never changed.
    public var id: UniqueID
    /// The next chunkserver.
    public var nextServer: UInt64 = 1
    /// The next pool.
    public var nextPool: UInt32 = 1
    /// The next copyset, counted over all pools.
    public var nextCopyset: UInt32 = 1
    /// The next directory.
    public var nextDirectory: UInt64 = 1
    /// The next volume.
    public var nextVolume: UInt64 = 1
    /// The next task.
    public var nextTask: UInt64 = 1
    /// Goes up when an address or an incarnation changes.
    public var addressBookVersion: UInt64 = 1
    /// Goes up when a copyset is made or changed.
    public var copysetsVersion: UInt64 = 1
    /// Counts the transactions that gave or changed something. Missing: none was counted.
    public var revision: UInt64?
    /// The highest revision that somebody remembers, while that is more than ours: the database went back.
    public var heardRevision: UInt64?
    /// Numbers that a lost database may have given, newest last.
    public var lostVolumes: [LostNumbers]?
    /// Volumes of a lost database of which chunkservers hold data.
    public var strandedVolumes: [VolumeID]?
    /// A cluster in which nothing has happened yet.
    public init(id: UniqueID) { self.id = id }
}

/// Numbers of volumes that were passed over when an older database was adopted.
public struct LostNumbers: Hashable, Sendable, Codable {
    /// The first one.
    public var from: UInt64
    /// The first one after them.
    public var to: UInt64
}

/// A chunkserver: a number for a device. Where it is reached is its last word, not its name.
public struct ServerRow: Hashable, Sendable, Codable {
    /// Its number.
    public var id: ServerID
    /// Its store.
    public var device: UniqueID
    /// Its machine, as it said last.
    public var host: String
    /// Its zone; empty when it has none.
    public var zone: String = ""
    /// Where it listens; empty until it has registered.
    public var addresses: [String] = []
    /// The highest it has registered with; 0 until then.
    public var incarnation = Incarnation(0)
    /// Bytes of its store.
    public var capacityBytes: UInt64 = 0
    /// True when the store's file grows as it is used.
    public var lazilyGrown = false
}

/// Which devices may not fail together: no two replicas of a copyset share one.
public enum FailureDomain: String, Hashable, Sendable, Codable {
    /// A group of machines.
    case zone
    /// One machine.
    case server
    /// One store: for clusters on a single machine.
    case device
}

/// One placement generation of a pool: its fixed table of copysets.
public struct GenerationRow: Hashable, Sendable, Codable {
    /// The number, from 1.
    public var number: UInt32
    /// In table order, which ``Placement`` shuffles for each volume.
    public var copysets: [CopysetID]
}

/// A pool of devices and its tables of copysets.
public struct PoolRow: Hashable, Sendable, Codable {
    /// Its number.
    public var id: PoolID
    /// Its name.
    public var name: String
    /// Replicas of each copyset.
    public var replicas: UInt32
    /// What its replicas may not share.
    public var domain: FailureDomain
    /// Oldest first; new volumes use the last.
    public var generations: [GenerationRow]
    /// The chunkservers it took when it was made, in order of number.
    public var servers: [ServerID]
}

/// A copyset and its members.
public struct CopysetRow: Hashable, Sendable, Codable {
    /// Its number.
    public var id: CopysetID
    /// Its pool.
    public var pool: PoolID
    /// The first one is the preferred leader.
    public var members: [ServerID]
}

/// A directory.
public struct DirectoryRow: Hashable, Sendable, Codable {
    /// Its number.
    public var id: DirectoryID
    /// The directory it is in.
    public var parent: DirectoryID
    /// Its name there.
    public var name: String
}

/// Who holds a volume.
public struct HolderRow: Hashable, Sendable, Codable {
    /// For people.
    public var name: String
    /// For re-attaching.
    public var key: String
    /// Seconds since 1970.
    public var since: UInt64
    /// True when it does not write.
    public var readOnly: Bool
    /// The name of the attempt that got it. Missing: it had none.
    public var attempt: UInt64?
}

/// One of those who hold a volume together.
public struct MemberRow: Hashable, Sendable, Codable {
    /// The number of its attachment.
    public var epoch: Epoch
    /// Who it is.
    public var holder: HolderRow
}

/// Those who hold a volume together.
public struct GroupRow: Hashable, Sendable, Codable {
    /// What each of them says to be let in.
    public var name: String
    /// In the order of their attachments.
    public var members: [MemberRow]
}

/// A small value that a volume's holders agree on, gone with the volume; or one of the cluster itself.
public struct ValueRow: Hashable, Sendable, Codable {
    /// The volume.
    public var volume: VolumeID
    /// Its place among the volume's values, below ``MetadataLimits/valuesPerVolumeMax``.
    public var slot: UInt8
    /// Its name.
    public var name: String
    /// Counts its changes, from 1.
    public var version: UInt64
    /// Its bytes, two hexadecimal digits each.
    public var hex: String
    /// The name of the attempt that changed it last. Missing: it had none.
    public var attempt: UInt64?

    /// One number for each place that a value can have.
    public var number: UInt64 { volume.rawValue << 8 | UInt64(slot) }
    /// Its bytes.
    public var bytes: [UInt8] {
        get {
            let digits = hex.utf8.map { digit in digit < 0x3A ? digit &- 0x30 : digit &- 0x57 }
            return stride(from: 0, to: digits.count - 1, by: 2).map { digits[$0] << 4 | digits[$0 + 1] & 15 }
        }
        set {
            let digits = Array("0123456789abcdef".utf8)
            hex = String(
                decoding: newValue.flatMap { [digits[Int($0 >> 4)], digits[Int($0 & 15)]] }, as: UTF8.self)
        }
    }
}

/// Where a volume is in its life.
///
/// named -> recycled -> named (restore), named -> purging, recycled -> purging; purging ends in no row.
public enum VolumePlace: Hashable, Sendable, Codable {
    /// In a directory.
    case named(parent: DirectoryID, name: String)
    /// In the recycle bin: where it was, and since when (seconds since 1970).
    case recycled(path: String, since: UInt64)
    /// Gone for people; its copysets are still freeing its blocks.
    case purging
}

/// A volume.
public struct VolumeRow: Hashable, Sendable, Codable {
    /// Its number.
    public var id: VolumeID
    /// Where it is.
    public var place: VolumePlace
    /// Its size.
    public var sizeBytes: UInt64
    /// Consecutive bytes that stay in one chunk.
    public var stripeUnitBytes: UInt32
    /// Chunks that consecutive units go round; 1: plain.
    public var stripeCount: UInt32
    /// Its pool.
    public var pool: PoolID
    /// The pool's generation that places its chunks.
    public var generation: UInt32
    /// Its last attachment; 0: never attached, so nothing was ever written.
    public var epoch: Epoch
    /// Seconds since 1970.
    public var createdAt: UInt64
    /// Who holds it, or held it last and never let go.
    public var holder: HolderRow?
    /// Attachments, resizes and deletions so far: tells the newer of two fences. Missing: none was counted.
    public var change: UInt32?
    /// Epochs and changes that the next one passes over: a lost database may have given them.
    public var skip: UInt32?
    /// The change that put the end into a stripe group in which data may still lie behind it: a holder frees
    /// them, and may be gone before it has. Until one says that it did, the volume cannot grow.
    public var tailChange: UInt32?
    /// The group that holds it together; then ``holder`` names its members for people, and ``epoch`` is the
    /// generation of the membership. Missing: none does.
    public var group: GroupRow?
}

/// Something that a copyset must commit on the metadata server's behalf.
public struct TaskRow: Hashable, Sendable, Codable {
    /// What to set a fence to.
    public struct Fence: Hashable, Sendable, Codable {
        /// The epoch from which on the size holds.
        public var epoch: Epoch
        /// End of the volume's chunk address space.
        public var sizeBytes: UInt64
        /// The volume's change that gave it this size.
        public var change: UInt32?
    }
    /// Its number.
    public var id: TaskID
    /// Who must do it.
    public var copyset: CopysetID
    /// The volume it is about.
    public var volume: VolumeID
    /// The fence to set; `nil`: delete the volume.
    public var fence: Fence?
}

/// A row of any kind.
public enum Record: Hashable, Sendable {
    case cluster(ClusterRow), server(ServerRow), pool(PoolRow), copyset(CopysetRow)
    case directory(DirectoryRow), volume(VolumeRow), task(TaskRow), value(ValueRow)
}

/// Names a row that can go away.
public enum RecordKey: Hashable, Sendable {
    case directory(DirectoryID), volume(VolumeID), task(TaskID)
    /// The value in this place of the volume.
    case value(VolumeID, slot: UInt8)
}

/// One line of a transaction.
public enum RecordChange: Hashable, Sendable {
    /// The row is from now on this.
    case put(Record)
    /// There is no such row from now on.
    case delete(RecordKey)
}

extension VolumeID: Codable {}
extension CopysetID: Codable {}
extension ServerID: Codable {}
extension Incarnation: Codable {}
extension Epoch: Codable {}
extension UniqueID: Codable {
    /// Reads the 8-4-4-4-12 form.
    public init(from decoder: any Decoder) throws {
        let container = try decoder.singleValueContainer()
        let text = try container.decode(String.self)
        guard let id = UniqueID(text) else {
            throw DecodingError.dataCorruptedError(in: container, debugDescription: "\(text) is no unique id")
        }
        self = id
    }
    /// Writes the 8-4-4-4-12 form.
    public func encode(to encoder: any Encoder) throws {
        var container = encoder.singleValueContainer()
        try container.encode(description)
    }
}
