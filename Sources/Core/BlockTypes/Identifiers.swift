/// A number that names one kind of thing and never mixes with another kind.
public protocol Identifier: RawRepresentable, Hashable, Comparable, Sendable, CustomStringConvertible
where RawValue: FixedWidthInteger & UnsignedInteger & Sendable {
    /// Names the thing numbered `rawValue`.
    init(rawValue: RawValue)
}

extension Identifier {
    /// Names the thing numbered `value`.
    @inlinable public init(_ value: RawValue) { self.init(rawValue: value) }
    /// Order by number: the order in which every machine iterates them.
    @inlinable public static func < (a: Self, b: Self) -> Bool { a.rawValue < b.rawValue }
    /// The bare number.
    public var description: String { "\(rawValue)" }
}

/// A volume. 38 bits, given once by the MDS and never used again.
public struct VolumeID: Identifier {
    /// The number.
    public let rawValue: UInt64
    /// Names volume `rawValue`.
    @inlinable public init(rawValue: UInt64) { self.rawValue = rawValue }
    /// The largest number that fits a ``ChunkKey``.
    public static let max: UInt64 = (1 << 38) - 1
    /// No volume: the owner of values that belong to the cluster itself.
    public static let cluster = VolumeID(rawValue: 0)
}

/// One Raft group of replicas.
public struct CopysetID: Identifier {
    /// The number.
    public let rawValue: UInt32
    /// Names copyset `rawValue`.
    @inlinable public init(rawValue: UInt32) { self.rawValue = rawValue }
}

/// A chunkserver: the number the MDS gave to one store. Not an address.
public struct ServerID: Identifier {
    /// The number; 0 is nobody.
    public let rawValue: UInt64
    /// Names chunkserver `rawValue`.
    @inlinable public init(rawValue: UInt64) { self.rawValue = rawValue }
}

/// How often a chunkserver's store was opened; a clone or a zombie shows an older one (rule R7).
public struct Incarnation: Identifier {
    /// The count.
    public let rawValue: UInt64
    /// The `rawValue`th start.
    @inlinable public init(rawValue: UInt64) { self.rawValue = rawValue }
}

/// Number of a volume's attachment. A chunkserver that has seen a higher one refuses a lower one.
public struct Epoch: Identifier {
    /// The number; 0 is "never attached".
    public let rawValue: UInt32
    /// Attachment number `rawValue`.
    @inlinable public init(rawValue: UInt32) { self.rawValue = rawValue }
}

/// A volume's snapshot number; rides in each write.
public struct SnapshotNumber: Identifier {
    /// The number.
    public let rawValue: UInt32
    /// Snapshot number `rawValue`.
    @inlinable public init(rawValue: UInt32) { self.rawValue = rawValue }
}

/// A Raft term.
public struct Term: Identifier {
    /// The number; 0 is before the first election.
    public let rawValue: UInt32
    /// Term `rawValue`.
    @inlinable public init(rawValue: UInt32) { self.rawValue = rawValue }
    /// The next term.
    @inlinable public var next: Term { Term(rawValue + 1) }
}

/// A place in a copyset's log; the first entry has index 1.
public struct LogIndex: Identifier {
    /// The number; 0 is before the first entry.
    public let rawValue: UInt64
    /// Place `rawValue`.
    @inlinable public init(rawValue: UInt64) { self.rawValue = rawValue }
    /// The next place.
    @inlinable public var next: LogIndex { LogIndex(rawValue + 1) }
}

/// A log entry's place and the term that wrote it; ordered as Raft compares logs: term first.
public struct LogPosition: Hashable, Comparable, Sendable, CustomStringConvertible {
    /// The entry's term.
    public var term: Term
    /// The entry's place.
    public var index: LogIndex
    /// The entry at `index`, written in `term`.
    @inlinable public init(term: Term, index: LogIndex) { (self.term, self.index) = (term, index) }
    /// Before the first entry.
    public static let zero = LogPosition(term: Term(0), index: LogIndex(0))
    /// A log whose last entry is `a` is less up to date than one that ends in `b` (Raft paper, 5.4.1).
    @inlinable public static func < (a: LogPosition, b: LogPosition) -> Bool {
        (a.term, a.index) < (b.term, b.index)
    }
    /// `index@term`.
    public var description: String { "\(index)@\(term)" }
}

/// 16 random bytes that name a cluster or a store.
public struct UniqueID: Hashable, Sendable, CustomStringConvertible {
    /// First eight bytes, big-endian.
    public let high: UInt64
    /// Last eight bytes, big-endian.
    public let low: UInt64
    /// The id made of the two halves.
    @inlinable public init(high: UInt64, low: UInt64) { (self.high, self.low) = (high, low) }
    /// The usual 8-4-4-4-12 form.
    public var description: String {
        let digits = Self.hex(high) + Self.hex(low)
        var text = ""
        for (index, digit) in digits.enumerated() {
            if [8, 12, 16, 20].contains(index) { text.append("-") }
            text.append(digit)
        }
        return text
    }
    /// - Returns: `nil` when `text` is not 32 hex digits, with or without dashes.
    public init?(_ text: String) {
        let digits = text.filter { $0 != "-" }
        guard digits.count == 32, let high = UInt64(digits.prefix(16), radix: 16),
            let low = UInt64(digits.suffix(16), radix: 16)
        else { return nil }
        self.init(high: high, low: low)
    }
    private static func hex(_ value: UInt64) -> String {
        let digits = String(value, radix: 16)
        return String(repeating: "0", count: 16 - digits.count) + digits
    }
}

/// One chunk of one volume: 38 bits of volume, 26 bits of index, as stored on disk and sent on the wire.
///
/// 26 bits of 16 MiB reach 1 PiB, the largest volume.
public struct ChunkKey: Identifier {
    /// `volume << 26 | index`.
    public let rawValue: UInt64
    /// The chunk packed in `rawValue`.
    @inlinable public init(rawValue: UInt64) { self.rawValue = rawValue }
    /// Chunk `index` of `volume`.
    @inlinable public init(volume: VolumeID, index: UInt32) {
        invariant(volume.rawValue <= VolumeID.max && index < 1 << 26, "volume \(volume) chunk \(index)")
        rawValue = volume.rawValue << 26 | UInt64(index)
    }
    /// The volume it belongs to.
    @inlinable public var volume: VolumeID { VolumeID(rawValue >> 26) }
    /// Its number in the volume, from 0.
    @inlinable public var index: UInt32 { UInt32(rawValue & 0x3FF_FFFF) }
    /// `volume/index`.
    public var description: String { "\(volume)/\(index)" }
}
