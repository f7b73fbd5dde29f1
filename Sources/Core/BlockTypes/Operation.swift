/// A non-empty run of whole blocks inside one chunk.
public struct BlockRun: Hashable, Sendable, CustomStringConvertible {
    /// The chunk.
    public let chunk: ChunkKey
    /// First block in the chunk, 0..<4096.
    public let firstBlock: Int
    /// Blocks, 1...4096.
    public let blockCount: Int
    /// - Returns: `nil` when the run is empty or leaves the chunk.
    public init?(chunk: ChunkKey, firstBlock: Int, blockCount: Int) {
        guard firstBlock >= 0, blockCount > 0, firstBlock <= Geometry.blocksPerChunk - blockCount else {
            return nil
        }
        (self.chunk, self.firstBlock, self.blockCount) = (chunk, firstBlock, blockCount)
    }
    /// The blocks as a range of numbers in the chunk.
    @inlinable public var blocks: Range<Int> { firstBlock..<(firstBlock + blockCount) }
    /// Bytes in the run.
    @inlinable public var byteCount: Int { blockCount * Geometry.blockBytes }
    /// First byte on the volume.
    @inlinable public var volumeOffsetBytes: UInt64 {
        UInt64(chunk.index) * UInt64(Geometry.chunkBytes) + UInt64(firstBlock * Geometry.blockBytes)
    }
    /// True when both touch a common block.
    public func overlaps(_ other: BlockRun) -> Bool { chunk == other.chunk && blocks.overlaps(other.blocks) }
    /// `volume/index[first..<end]`.
    public var description: String { "\(chunk)[\(firstBlock)..<\(firstBlock + blockCount)]" }
}

/// Names one request of one attachment, so that a repeated or late copy of it does nothing.
///
/// The session of an attachment is the ``Epoch`` that it was given when it began; a member of a group keeps
/// it while others come and go. A client never has more than ``windowRequests`` sequence numbers between its
/// oldest unanswered request and its newest.
public struct RequestTag: Hashable, Sendable, CustomStringConvertible {
    /// The attachment.
    public let session: Epoch
    /// Counts the attachment's requests, from 1.
    public let sequence: UInt64
    /// Request `sequence` of `session`.
    public init(session: Epoch, sequence: UInt64) { (self.session, self.sequence) = (session, sequence) }
    /// How far back a copyset remembers what it has done.
    public static let windowRequests: UInt64 = 4096
    /// `session:sequence`.
    public var description: String { "\(session):\(sequence)" }
}

/// What a chunkserver knows of a volume: enough to refuse what must be refused.
public struct VolumeFence: Hashable, Sendable {
    /// The volume's newest attachment or, when a group holds it, the generation of its membership.
    public var epoch: Epoch
    /// End of the volume's chunk address space: its size, rounded up to whole stripe groups when striped.
    /// Chunk `i`, byte `b` lies at `i * 16 MiB + b`; nothing is written at or past the end.
    public var size: ByteCount
    /// The volume's change that gave it this size: goes up with each attachment, resize and deletion, so that
    /// a late copy of an older fence is known for what it is.
    public var change: UInt32
    /// The attachments of the group that holds the volume together, ascending; empty: the one numbered
    /// ``epoch`` has it alone.
    public var group: [Epoch]
    /// The most members of a group.
    public static let groupMax = 16

    /// Requests of `epoch`, or of a group's attachments, on a volume of `size` since its change `change`.
    public init(epoch: Epoch, size: ByteCount, change: UInt32, group: [Epoch] = []) {
        (self.epoch, self.size, self.change, self.group) = (epoch, size, change, group)
    }
    /// The attachments whose requests are accepted.
    public var sessions: [Epoch] { group.isEmpty ? [epoch] : group }
    /// True when requests of the attachment are accepted.
    public func accepts(_ session: Epoch) -> Bool {
        group.isEmpty ? session == epoch : group.contains(session)
    }
    /// True when `group` can be one's members: ascending, not too many, none that is yet to come.
    public static func isGroup(_ group: [Epoch], at epoch: Epoch) -> Bool {
        group.count <= groupMax && group.last ?? epoch <= epoch
            && zip(group, group.dropFirst()).allSatisfy { $0 < $1 }
    }
    /// Older than every fence: lets nothing pass.
    public static let unknown = VolumeFence(epoch: Epoch(0), size: .zero, change: 0)
    /// True when it is to replace `other`; equal ones say the same.
    public func isNewer(than other: VolumeFence) -> Bool {
        (epoch, change) > (other.epoch, other.change)
    }
}

/// One change to a copyset's state, in the order of its log.
public enum Operation: Sendable {
    /// A new leader's first entry: commits what older terms left.
    case noop
    /// Replaces whole blocks. `checksums` holds one per block, made at the client; `payload` is the blocks.
    case write(BlockRun, SnapshotNumber, RequestTag, checksums: [CRC32C], payload: Payload)
    /// Forgets blocks: they read as zeroes and take no space.
    case trim(BlockRun, SnapshotNumber, RequestTag)
    /// Makes blocks read as zeroes without storing them.
    case zero(BlockRun, SnapshotNumber, RequestTag)
    /// Uses up a request's tag and changes nothing: a comparison of the run found a difference, and no late
    /// copy of it may find none.
    case void(BlockRun, RequestTag)
    /// Raises a volume's epoch, or sets its size under the same epoch; a smaller size frees what lies beyond.
    /// One that is not newer than what is known changes nothing.
    case fence(VolumeID, VolumeFence)
    /// Frees everything of a volume and refuses all further requests for it.
    case deleteVolume(VolumeID)
    /// The copyset's members from here on.
    case configuration([ServerID])

    /// Payload bytes, 0 for everything but a write.
    public var payloadByteCount: Int {
        if case .write(_, _, _, _, let payload) = self { payload.byteCount } else { 0 }
    }
    /// The blocks it touches, if it touches blocks.
    public var run: BlockRun? {
        switch self {
        case .write(let run, _, _, _, _), .trim(let run, _, _), .zero(let run, _, _), .void(let run, _): run
        case .noop, .fence, .deleteVolume, .configuration: nil
        }
    }
    /// The request that asked for it, if a client did.
    public var tag: RequestTag? {
        switch self {
        case .write(_, _, let tag, _, _), .trim(_, _, let tag), .zero(_, _, let tag), .void(_, let tag): tag
        case .noop, .fence, .deleteVolume, .configuration: nil
        }
    }
}

/// An operation at its place in a copyset's log.
public struct LogEntry: Sendable {
    /// Term and index.
    public let position: LogPosition
    /// What it does.
    public let operation: Operation
    /// `operation` at `position`.
    public init(_ position: LogPosition, _ operation: Operation) {
        (self.position, self.operation) = (position, operation)
    }
    /// The largest payload of one entry: 64 blocks. Larger client writes are split, so that a small write
    /// never waits behind a large one in the log.
    public static let payloadBytesMax = 256 << 10
}
