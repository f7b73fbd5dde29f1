/// Which copyset holds each chunk of a volume: computed, never stored (DESIGN section 3).
///
/// The pool's table of copysets is shuffled by the volume's number; chunk `i` lies in copyset `i mod G` of
/// the shuffled table. Consecutive chunks so go to different copysets, every copyset gets `1/G` of a large
/// volume, and small volumes do not all start on the same one.
///
/// The shuffle is part of the format: data written today must be found for ever. It is a Fisher-Yates shuffle
/// from the last place down, over SplitMix64 seeded with the volume's number; the partner of place `i` is the
/// high half of the 128-bit product of the next 64 random bits and `i + 1`. The standard library's own
/// shuffle is not used because it may change.
public struct Placement: Hashable, Sendable {
    /// The volume placed.
    public let volume: VolumeID
    /// The volume's own order of the table.
    public let order: [CopysetID]

    /// The largest table: bounds what a peer can make us shuffle.
    public static let copysetsMax = 1 << 20

    /// - Parameter copysets: the table of the volume's placement generation, in table order.
    /// - Returns: `nil` when the table is empty, too large, or names a copyset twice.
    public init?(volume: VolumeID, copysets: [CopysetID]) {
        guard !copysets.isEmpty, copysets.count <= Self.copysetsMax,
            Set(copysets).count == copysets.count
        else { return nil }
        var order = copysets
        var random = PlacementRandom(state: volume.rawValue)
        for last in stride(from: order.count - 1, to: 0, by: -1) {
            order.swapAt(last, Int(random.next(below: UInt64(last) + 1)))
        }
        (self.volume, self.order) = (volume, order)
    }

    /// The copyset that holds chunk `index`.
    @inlinable public func copyset(ofChunk index: UInt32) -> CopysetID {
        order[Int(index) % order.count]
    }
    /// The copysets that chunks `0..<chunkCount` lie in, in the order in which they are first used.
    public func copysets(ofFirst chunkCount: UInt64) -> ArraySlice<CopysetID> {
        order.prefix(Int(min(chunkCount, UInt64(order.count))))
    }
}

/// SplitMix64, written out here once more so that no change elsewhere can move data.
private struct PlacementRandom {
    var state: UInt64
    mutating func next(below bound: UInt64) -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var z = state
        z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
        z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
        return (z ^ (z >> 31)).multipliedFullWidth(by: bound).high
    }
}
