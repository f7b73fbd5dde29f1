import BlockTypes

/// Names one request of one disk's owner.
public struct DiskToken: Hashable, Sendable {
    /// The number.
    public let rawValue: UInt64
    /// Request `rawValue`.
    public init(rawValue: UInt64) { self.rawValue = rawValue }
}

/// What to do with a device. Offsets and lengths are multiples of its sector.
public enum DiskRequest: Sendable {
    /// Fills all of `into`; memory and length are sector-aligned.
    case read(DiskToken, at: ByteOffset, into: Payload)
    /// Writes the payloads one after the other from `at`.
    case write(DiskToken, at: ByteOffset, [Payload])
    /// Makes every write completed before this was submitted durable.
    case flush(DiskToken)
    /// Gives the space back to the device; the bytes are undefined afterwards.
    case discard(DiskToken, at: ByteOffset, ByteCount)

    /// The request's name.
    public var token: DiskToken {
        switch self {
        case .read(let token, _, _), .write(let token, _, _), .flush(let token), .discard(let token, _, _):
            token
        }
    }
}

/// Why a disk refused. Closed on purpose: every caller must decide about each case.
public enum DiskError: Error, Hashable, Sendable {
    /// The device answered with `errno` (usually EIO).
    case io(errno: Int32)
    /// The file system below a lazily grown store has no room. Only a write can get it.
    case full
    /// Fewer bytes than asked for, for good.
    case short(got: Int)
}

/// What a store needs to know of its device.
public struct DiskGeometry: Hashable, Sendable {
    /// Usable bytes.
    public let size: ByteCount
    /// The unit of aligned I/O, 512 or 4096.
    public let sectorBytes: Int
    /// True when a completed write may be lost at power failure until a flush.
    public let hasVolatileCache: Bool
    /// A device with these properties.
    public init(size: ByteCount, sectorBytes: Int, hasVolatileCache: Bool) {
        (self.size, self.sectorBytes, self.hasVolatileCache) = (size, sectorBytes, hasVolatileCache)
    }
}

/// A block device or a file used as one. Loop-confined; one owner.
public protocol Disk: AnyObject {
    /// Size and manners.
    var geometry: DiskGeometry { get }
    /// Called once per submitted request, in any order, never from inside ``submit(_:)``.
    var completed: ((DiskToken, Result<Void, DiskError>) -> Void)? { get set }
    /// Starts a request. Requests in flight run in any order: who needs an order waits for completions.
    func submit(_ request: DiskRequest)
    /// No request may be in flight.
    func close()
}

/// A volume as frontends see it: the remote one, or a layer over another volume. Loop-confined.
public protocol BlockVolume: AnyObject {
    /// Current size.
    var size: ByteCount { get }
    /// True when writes are refused.
    var isReadOnly: Bool { get }
    /// Called after the size has changed.
    var resized: ((ByteCount) -> Void)? { get set }
    /// A power of two: a compare-and-write must not cross a multiple of it.
    var compareUnitBytes: Int { get }
    /// Starts a request; `completed` runs once, never from inside this call.
    func submit(_ request: VolumeRequest, completed: @escaping (VolumeResult) -> Void)
}

extension BlockVolume {
    /// A whole chunk, as of a volume that is not striped.
    public var compareUnitBytes: Int { Geometry.chunkBytes }
}
