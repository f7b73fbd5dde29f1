import BlockTypes

/// Names one attempt at one sub-request; rides as the request id in the frame and comes back in the answer.
public struct AttemptID: Hashable, Sendable {
    /// `serial << 16 | slot`.
    public let rawValue: UInt64
    /// An id that came back from a server: may be anything.
    public init(rawValue: UInt64) { self.rawValue = rawValue }
    init(slot: Int, serial: UInt64) { rawValue = serial << 16 | UInt64(slot) }
    /// Where in the volume's table the sub-request lives; below ``VolumeLimits/subRequestsMax`` plus
    /// ``VolumeLimits/fencesMax`` for ids that the core made.
    public var slot: Int { Int(rawValue & 0xFFFF) }
    var serial: UInt64 { rawValue >> 16 }
}

/// What a copyset is asked to do.
public enum BlockCommand: Sendable {
    /// Returns the blocks.
    case read(BlockRun)
    /// Replaces the blocks with the payloads' bytes, one after the other; one checksum per block.
    case write(BlockRun, SnapshotNumber, RequestTag, checksums: [CRC32C], payload: [Payload])
    /// Forgets the blocks.
    case trim(BlockRun, SnapshotNumber, RequestTag)
    /// Makes the blocks read as zeroes.
    case zero(BlockRun, SnapshotNumber, RequestTag)
    /// Replaces bytes of the run under the leader's order, if they are as expected. The payload is the run's
    /// blocks with the new bytes at their places, then, if something is expected, those with that.
    case amend(
        BlockRun, bytes: Range<Int>, SnapshotNumber, RequestTag, checksums: [CRC32C], payload: Payload)
    /// Announces the attachment, the group's members, or the size.
    case fence(VolumeID, VolumeFence)
    /// Tells which of the blocks are stored.
    case blockStatus(BlockRun)
}

/// What came of an attempt.
public enum BlockAnswer: Sendable {
    /// Done; a read brings its blocks, every checksum verified; a block status what it found.
    case done([ReadSegment])
    /// Another replica leads, perhaps this one.
    case notLeader(hint: ServerID?)
    /// It leads but may not serve yet.
    case notReady
    /// It has too much to do.
    case overloaded
    /// What is stored is not what was expected, first at this byte of the run; `nil`: it was so, but where is
    /// not known any more.
    case miscompare(atByte: Int?)
    /// A newer attachment exists.
    case staleEpoch
    /// The copyset does not know this attachment yet.
    case needsFence
    /// Outside the volume.
    case outOfRange
    /// No room.
    case noSpace
    /// The volume was deleted.
    case deleted
    /// Bytes did not match their checksums: on the way there or back, or on every replica.
    case damaged
    /// The server has no such copyset.
    case wrongCopyset
    /// The server cannot tell whether it was done.
    case forgotten
    /// The server found the request senseless.
    case refused
    /// There is no connection to the server.
    case unreachable
}

/// Why an attempt did not do; what ``VolumeCore/Blockage`` tells people.
public enum AttemptFailure: Hashable, Sendable, CustomStringConvertible {
    case noLeader, unreachable, silent, notReady, overloaded, needsFence, damaged, refused
    /// In words, to follow "copyset 3:".
    public var description: String {
        switch self {
        case .noLeader: "no leader"
        case .unreachable: "server out of reach"
        case .silent: "server does not answer"
        case .notReady: "leader not ready to serve"
        case .overloaded: "leader overloaded"
        case .needsFence: "attachment not yet announced"
        case .damaged: "data arrives damaged"
        case .refused: "server refuses"
        }
    }
}

/// One request's share of work for one chunk, or a fence.
struct SubRequest {
    /// `patch` is an edge that the leader patches, since others write to the volume as well.
    enum Work: UInt8 { case read, write, trim, zero, edge, fence, status, patch, compare }
    /// `free` -> `lock` -> `window` -> `flying` -> `free`, skipping what need not be waited for; `flying` may
    /// go to `pausing` or `parked` and back any number of times.
    enum Phase: UInt8 {
        /// Not in use.
        case free
        /// Behind an earlier change of the same blocks.
        case lock
        /// Behind the oldest change without an outcome (``TagWindow``).
        case window
        /// Sent; `deadline` says how long silence is borne.
        case flying
        /// Tries again at `deadline`.
        case pausing
        /// Waits for another sub-request to find the copyset's leader.
        case parked
    }
    var phase = Phase.free
    var work = Work.read
    /// Whose share; -1 when nobody waits for it any more.
    var request = -1
    /// Which piece of the request.
    var ordinal = 0
    var copyset = 0
    var piece = Piece(chunk: 0, firstBlock: 0, blockCount: 1, edge: 0..<0, byte: 0)
    /// The piece's blocks; `nil` for a fence.
    var run: BlockRun?
    var payloads: [Payload] = []
    var checksums: [CRC32C] = []
    /// An edge's old block has been read and patched: what is left is a write.
    var isMerged = false
    /// The tag's number; 0 before one was given. A comparison has the number before it as well.
    var sequence: UInt64 = 0
    /// What an amendment replaces, in bytes of its run.
    var bytes = 0..<0
    /// Who was asked last, as an index into the volume's servers.
    var server = 0
    var sentAt = Duration.zero
    var serial: UInt64 = 0
    /// Answers to attempts before this one mean nothing.
    var firstSerial: UInt64 = 0
    /// The attempt last given up for silence: a late answer to it clears the server's name.
    var silentAttempt: (serial: UInt64, server: Int)?
    /// An attempt at a change left: only an answer can tell its outcome.
    var wasSent = false
    var deadline = Duration.zero
    var failures = 0
    var hints = 0
    var damages = 0

    var blocks: Range<Int> { piece.firstBlock..<(piece.firstBlock + piece.blockCount) }
    /// What it adds to the payload in flight.
    var activeBytes: Int {
        switch work {
        case .read, .write, .edge, .patch: piece.blockCount * Geometry.blockBytes
        case .compare: 2 * piece.blockCount * Geometry.blockBytes
        case .trim, .zero, .fence, .status: 0
        }
    }
    /// It changes blocks and so holds, or waits for, their lock.
    var isChange: Bool { work != .read && work != .fence && work != .status }
    /// Attempts were made and an answer may come.
    var isUnderWay: Bool { phase == .flying || phase == .pausing || phase == .parked }
    /// The next attempt reads.
    var isReading: Bool { work == .read || work == .status || (work == .edge && !isMerged) }
}
