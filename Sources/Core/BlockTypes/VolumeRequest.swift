/// Why a volume did not do what it was asked. Closed on purpose: every frontend must map each case.
public enum VolumeError: Error, Hashable, Sendable {
    /// The request is not inside the volume, or longer than one may be.
    case outOfRange
    /// The volume was attached read-only.
    case readOnly
    /// The pool has no room for new data; overwrites, trims and deletes still work.
    case noSpace
    /// Another client took the volume over; this attachment is dead for good.
    case fenced
    /// A majority of replicas stayed out of reach for longer than the volume's policy allows.
    case replicasUnavailable
    /// No replica holds a copy that matches its checksum.
    case checksumMismatch
    /// The volume was deleted.
    case deleted
    /// The volume is being closed.
    case shuttingDown
    /// What is stored differs from what was expected, first at this byte of the request. Nothing was written.
    case miscompare(atByte: Int)
}

/// What a frontend asks of a volume. Offsets and lengths are multiples of 512 bytes.
public enum VolumeRequest: Sendable {
    /// Returns the bytes of the run.
    case read(start: ByteOffset, byteCount: Int)
    /// Replaces bytes with those of `payloads`, one after the other. Answered when durable on a majority.
    case write(start: ByteOffset, payloads: [Payload])
    /// Replaces the bytes from `start` with `new` if they are those of `expected`, in one step that no other
    /// change comes between, of whichever client. Both have the same length, at most
    /// ``compareBytesMax``, inside one stripe unit (``BlockVolume/compareUnitBytes``). Otherwise nothing is
    /// written and the answer is ``VolumeError/miscompare(atByte:)``.
    case compareAndWrite(start: ByteOffset, expected: [Payload], new: [Payload])
    /// Forgets the run's whole blocks; its edges are zeroed. Reads as zeroes afterwards.
    case trim(start: ByteOffset, length: ByteCount)
    /// Makes the run read as zeroes.
    case writeZeroes(start: ByteOffset, length: ByteCount)
    /// Answered when every write answered before it is durable.
    case flush
    /// Tells which bytes of the run are stored, without reading them: at most ``statusBytesMax`` of them.
    case blockStatus(start: ByteOffset, length: ByteCount)

    /// The longest ``blockStatus(start:length:)``: its answer then has at most 65,536 segments.
    public static let statusBytesMax = 256 << 20
    /// The longest ``compareAndWrite(start:expected:new:)``: what one byte of a SCSI command can count.
    public static let compareBytesMax = 255 * Geometry.sectorBytes
}

/// A run of what a read returns: bytes, or zeroes that were never stored. Or of what a volume's map says.
public enum ReadSegment: Sendable {
    /// Stored bytes, checksum verified.
    case data(Payload)
    /// This many zero bytes, which take no space.
    case zeroes(Int)
    /// This many stored bytes that were not read: only in the answer to a block status.
    case stored(Int)
    /// Bytes in the run.
    public var byteCount: Int {
        switch self {
        case .data(let payload): payload.byteCount
        case .zeroes(let count), .stored(let count): count
        }
    }
}

/// How a request ended. Only a read and a block status have segments; they add up to the bytes asked for.
public typealias VolumeResult = Result<[ReadSegment], VolumeError>
