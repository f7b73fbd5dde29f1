import BlockTypes

/// A command descriptor block, filled up with zeroes to 16 bytes (SPC-5, section 4.2).
///
/// No command that is known here has more: what an initiator appends to the 16 bytes is checked by the
/// transport and goes no further. A number and no array, since each command of an initiator passes its CDB on
/// and on.
public struct CDB: Hashable, Sendable {
    /// Bytes of each.
    public static let byteCount = 16

    /// The first byte is the highest.
    @usableFromInline let bits: UInt128

    /// The first 16 of `bytes`.
    public init(_ bytes: [UInt8]) {
        var bits: UInt128 = 0
        for index in 0..<Self.byteCount { bits = bits << 8 | UInt128(index < bytes.count ? bytes[index] : 0) }
        self.bits = bits
    }
    /// Two halves in the host's order.
    public init(first: UInt64, last: UInt64) { bits = UInt128(first) << 64 | UInt128(last) }

    /// The byte at `index`.
    @inlinable public subscript(_ index: Int) -> UInt8 {
        invariant(index >= 0 && index < Self.byteCount, "a byte outside of a CDB")
        return UInt8(truncatingIfNeeded: bits &>> UInt128(8 * (Self.byteCount - 1 - index)))
    }
    /// Whether a bit of `mask` is set in a byte.
    @inlinable public func has(_ mask: UInt8, at byte: Int) -> Bool { self[byte] & mask != 0 }
    /// The big-endian number of `count` bytes, 1 to 8, from `start`.
    public func number(at start: Int, bytes count: Int) -> UInt64 {
        invariant(
            start >= 0 && (1...8).contains(count) && start + count <= Self.byteCount,
            "a field outside of a CDB")
        let end = UInt64(truncatingIfNeeded: bits &>> UInt128(8 * (Self.byteCount - start - count)))
        return end & UInt64.max &>> UInt64(64 - 8 * count)
    }
    /// The first byte: which command it is.
    @inlinable public var opcode: UInt8 { self[0] }
    /// Bits 0 to 4 of byte 1: which service of an operation code that has several.
    @inlinable public var serviceAction: UInt8 { self[1] & 0x1f }
}
