import BlockTypes

/// How a volume's consecutive bytes go round its chunks.
///
/// `stripeCount` chunks form a group; inside it stripe units are dealt out like cards, one to each chunk in
/// turn. Any run of volume bytes therefore touches one contiguous run in each chunk of each group it meets:
/// that is what lets a large request become few sub-requests.
public struct StripeMap: Hashable, Sendable {
    /// Bytes that stay together.
    public let stripeUnitBytes: Int
    /// Chunks in a group; 1 is a plain volume.
    public let stripeCount: Int

    /// The largest group.
    public static let stripeCountMax = 64
    /// Consecutive chunks, no striping.
    public static let plain = StripeMap(unit: Geometry.chunkBytes, count: 1)

    /// - Returns: `nil` unless the unit is a power of two from one block to one chunk and the count 1...64.
    ///   The unit of a plain volume means nothing and may be anything.
    public init?(stripeUnitBytes: Int, stripeCount: Int) {
        if stripeCount == 1 {
            self = .plain
            return
        }
        guard (2...Self.stripeCountMax).contains(stripeCount),
            (Geometry.blockBytes...Geometry.chunkBytes).contains(stripeUnitBytes),
            stripeUnitBytes & (stripeUnitBytes - 1) == 0
        else { return nil }
        self.init(unit: stripeUnitBytes, count: stripeCount)
    }
    private init(unit: Int, count: Int) { (stripeUnitBytes, stripeCount) = (unit, count) }

    /// A write of whole blocks inside an aligned run of so many bytes is one entry of one copyset's log:
    /// stored as a whole or not at all, whatever fails.
    public var atomicBytes: Int {
        min(stripeUnitBytes, Splitter.blocksPerTransferMax * Geometry.blockBytes)
    }
    /// Bytes of one group of chunks.
    public var groupBytes: UInt64 { UInt64(Geometry.chunkBytes * stripeCount) }
    /// Bytes of one round of units through a group.
    var rowBytes: Int { stripeUnitBytes * stripeCount }

    /// Where a volume's byte lies.
    public func place(ofByte offset: UInt64) -> (chunk: UInt32, byte: Int) {
        let (group, local) = offset.quotientAndRemainder(dividingBy: groupBytes)
        let (row, inRow) = Int(local).quotientAndRemainder(dividingBy: rowBytes)
        let (column, inUnit) = inRow.quotientAndRemainder(dividingBy: stripeUnitBytes)
        return (UInt32(group) * UInt32(stripeCount) + UInt32(column), row * stripeUnitBytes + inUnit)
    }
    /// Which of a volume's bytes lies at `byte` of chunk `chunk`.
    public func volumeByte(chunk: UInt32, byte: Int) -> UInt64 {
        let (group, column) = Int(chunk).quotientAndRemainder(dividingBy: stripeCount)
        return UInt64(group) * groupBytes + UInt64(localByte(column: column, byte: byte))
    }
    /// Where byte `byte` of the group's chunk `column` lies in the group's share of the volume.
    func localByte(column: Int, byte: Int) -> Int {
        let (row, inUnit) = byte.quotientAndRemainder(dividingBy: stripeUnitBytes)
        return row * rowBytes + column * stripeUnitBytes + inUnit
    }
    /// The bytes of chunk `column` of group `group` that the volume's bytes `range` fall on; often empty.
    func span(group: UInt64, column: Int, of range: Range<UInt64>) -> Range<Int> {
        let base = group * groupBytes
        let start = range.lowerBound > base ? Int(min(range.lowerBound - base, groupBytes)) : 0
        let end = range.upperBound > base ? Int(min(range.upperBound - base, groupBytes)) : 0
        return share(of: start, column: column)..<share(of: max(start, end), column: column)
    }
    /// How many of a group's first `local` bytes lie in chunk `column`.
    private func share(of local: Int, column: Int) -> Int {
        let (row, inRow) = local.quotientAndRemainder(dividingBy: rowBytes)
        return row * stripeUnitBytes + min(max(inRow - column * stripeUnitBytes, 0), stripeUnitBytes)
    }

    /// End of the chunk address space of a volume of `size` bytes (``VolumeFence/size``).
    /// - Returns: `nil` when chunks of the last group would have numbers that no chunk can have.
    public func limit(forSize size: ByteCount) -> ByteCount? {
        guard size.bytes <= Geometry.volumeBytesMax else { return nil }
        guard stripeCount > 1 else { return size }
        let limit = (size.bytes + groupBytes - 1) / groupBytes * groupBytes
        return limit <= Geometry.volumeBytesMax ? ByteCount(bytes: limit) : nil
    }
    /// Chunks of an address space that ends at `limit`.
    static func chunkCount(below limit: ByteCount) -> UInt64 {
        (limit.bytes + UInt64(Geometry.chunkBytes) - 1) / UInt64(Geometry.chunkBytes)
    }
}
