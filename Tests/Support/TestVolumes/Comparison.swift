import BlockTypes

/// What test volumes need for a compare-and-write.
public enum Comparison {
    /// The first byte in which what was found is not what was wanted.
    public static func firstDifference(_ found: [ReadSegment], _ wanted: [UInt8]) -> Int? {
        var position = 0
        for segment in found {
            let count = segment.byteCount
            let bytes =
                if case .data(let payload) = segment { payload.array } else {
                    [UInt8](repeating: 0, count: count)
                }
            for (index, byte) in bytes.enumerated() where byte != wanted[position + index] {
                return position + index
            }
            position += count
        }
        return nil
    }
}
