/// The sizes everything else is built from (DESIGN section 3).
public enum Geometry {
    /// The unit of checksum, map and trim.
    public static let blockBytes = 4096
    /// The smallest block of a kernel device. Other clients may address single bytes.
    public static let sectorBytes = 512
    /// One chunk of a volume's address space.
    public static let chunkBytes = 16 << 20
    /// Blocks in a chunk.
    public static let blocksPerChunk = chunkBytes / blockBytes
    /// Smallest volume, and largest.
    public static let volumeBytesMin: UInt64 = 1 << 20
    /// 1 PiB: 2^26 chunks, the width of ``ChunkKey``'s index.
    public static let volumeBytesMax: UInt64 = 1 << 50
}

/// A distance in bytes.
public struct ByteCount: Hashable, Comparable, Sendable, CustomStringConvertible {
    /// The count itself.
    public var bytes: UInt64
    /// A count of `bytes` bytes.
    @inlinable public init(bytes: UInt64) { self.bytes = bytes }
    /// Nothing at all.
    public static let zero = ByteCount(bytes: 0)
    /// Order by length.
    @inlinable public static func < (a: ByteCount, b: ByteCount) -> Bool { a.bytes < b.bytes }
    /// The count with the largest binary unit that divides it.
    public var description: String {
        let units: [(UInt64, String)] = [
            (1 << 50, "PiB"), (1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"),
        ]
        for (size, name) in units where bytes >= size && bytes % size == 0 {
            return "\(bytes / size) \(name)"
        }
        return "\(bytes) B"
    }
}

/// A place on a volume or a device, in bytes from its start.
public struct ByteOffset: Hashable, Comparable, Sendable, CustomStringConvertible {
    /// The distance from the start.
    public var bytes: UInt64
    /// The place `bytes` bytes from the start.
    @inlinable public init(bytes: UInt64) { self.bytes = bytes }
    /// Order by place.
    @inlinable public static func < (a: ByteOffset, b: ByteOffset) -> Bool { a.bytes < b.bytes }
    /// The bare number, for messages.
    public var description: String { "\(bytes)" }
}

/// A non-empty run of bytes on a volume: `[start, start + length)`.
///
/// Holding one is proof that it does not overflow and lies inside the volume.
public struct Extent: Hashable, Sendable {
    /// First byte.
    public let start: ByteOffset
    /// Bytes, at least one.
    public let length: ByteCount
    /// - Returns: `nil` when the run is empty, wraps around or ends past `volumeSize`.
    public init?(start: ByteOffset, length: ByteCount, within volumeSize: ByteCount) {
        guard length.bytes > 0 else { return nil }
        let (end, overflowed) = start.bytes.addingReportingOverflow(length.bytes)
        guard !overflowed, end <= volumeSize.bytes else { return nil }
        (self.start, self.length) = (start, length)
    }
    /// First byte after the run.
    @inlinable public var end: ByteOffset { ByteOffset(bytes: start.bytes + length.bytes) }
}
