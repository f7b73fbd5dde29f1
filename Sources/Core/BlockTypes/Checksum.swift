import CISAL

/// CRC32C (Castagnoli, RFC 3720 appendix B.4) of a run of bytes.
public struct CRC32C: Hashable, Sendable, CustomStringConvertible {
    /// The finished checksum.
    public let rawValue: UInt32
    /// A checksum read from disk or wire.
    @inlinable public init(rawValue: UInt32) { self.rawValue = rawValue }
    /// The checksum of `bytes`.
    @unsafe public init(of bytes: UnsafeRawBufferPointer) {
        rawValue = unsafe Self.extend(0, with: bytes)
    }
    /// The checksum of an array.
    public init(of bytes: [UInt8]) { self = unsafe bytes.withUnsafeBytes { unsafe CRC32C(of: $0) } }
    /// The checksum of a payload.
    public init(of payload: Payload) { self = unsafe payload.withBytes { unsafe CRC32C(of: $0) } }
    /// Eight hex digits.
    public var description: String { String(rawValue, radix: 16) }

    /// The finished checksum of what `checksum` covers followed by `bytes`.
    @unsafe public static func extend(_ checksum: UInt32, with bytes: UnsafeRawBufferPointer) -> UInt32 {
        guard let base = bytes.baseAddress, bytes.count > 0 else { return checksum }
        // ISA-L takes a non-const pointer but only reads; its length is an Int32, so long runs go in pieces.
        var (sum, done) = (~checksum, 0)
        while done < bytes.count {
            let step = min(bytes.count - done, 1 << 30)
            let start = unsafe UnsafeMutablePointer(
                mutating: base.advanced(by: done).assumingMemoryBound(to: UInt8.self))
            sum = unsafe crc32_iscsi(start, Int32(step), sum)
            done += step
        }
        return ~sum
    }

    /// One checksum per 4 KiB block of `payload`, whose length is a multiple of a block.
    public static func perBlock(of payload: Payload) -> [CRC32C] {
        invariant(
            payload.byteCount % Geometry.blockBytes == 0, "\(payload.byteCount) bytes are not whole blocks")
        return unsafe payload.withBytes { bytes in
            (0..<(payload.byteCount / Geometry.blockBytes)).map { block in
                let start = block * Geometry.blockBytes
                return unsafe CRC32C(
                    of: UnsafeRawBufferPointer(rebasing: bytes[start..<(start + Geometry.blockBytes)]))
            }
        }
    }
}
