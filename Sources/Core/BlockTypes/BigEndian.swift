/// Numbers in network byte order.
extension [UInt8] {
    /// Appends `value`, the highest byte first.
    @inlinable public mutating func append<Value: FixedWidthInteger>(bigEndian value: Value) {
        unsafe Swift.withUnsafeBytes(of: value.bigEndian) { unsafe append(contentsOf: $0) }
    }
    /// Writes `value` over the bytes from `start`, which must be there.
    @inlinable public mutating func put<Value: FixedWidthInteger>(bigEndian value: Value, at start: Int) {
        let width = Value.bitWidth / 8
        for index in 0..<width {
            self[start + index] = UInt8(truncatingIfNeeded: value >> Value(8 * (width - 1 - index)))
        }
    }
    /// The number of the `count` bytes from `start`; what lies beyond the end counts as zero.
    public func number(at start: Int, bytes count: Int) -> UInt64 {
        var value: UInt64 = 0
        for index in start..<(start + count) {
            value = value << 8 | (index < self.count ? UInt64(self[index]) : 0)
        }
        return value
    }
}
