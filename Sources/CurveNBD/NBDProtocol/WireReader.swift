/// Reads big-endian numbers and strings from bytes that a peer sent. Never traps on short input.
struct WireReader {
    private let bytes: ArraySlice<UInt8>
    private var position: Int

    init(_ bytes: ArraySlice<UInt8>) { (self.bytes, position) = (bytes, bytes.startIndex) }

    var remainingBytes: Int { bytes.endIndex - position }

    /// - Returns: the next number, or `nil` when fewer bytes remain than it needs.
    mutating func next<Value: FixedWidthInteger>(_: Value.Type) -> Value? {
        let width = Value.bitWidth / 8
        guard remainingBytes >= width else { return nil }
        var value: Value = 0
        for index in position..<(position + width) { value = value << 8 | Value(bytes[index]) }
        position += width
        return value
    }
    /// - Returns: the next `byteCount` bytes, or `nil` when fewer remain.
    mutating func take(_ byteCount: UInt32) -> ArraySlice<UInt8>? {
        guard let count = Int(exactly: byteCount), remainingBytes >= count else { return nil }
        defer { position += count }
        return bytes[position..<(position + count)]
    }
    /// - Returns: a string behind its 32-bit length, or `nil` when it is cut short, longer than the protocol
    ///   allows, not UTF-8 or contains a NUL.
    mutating func lengthAndString() -> String? {
        guard let count = next(UInt32.self), count <= NBDLimits.stringBytesMax, let raw = take(count) else {
            return nil
        }
        return WireReader.string(raw)
    }
    static func string(_ raw: ArraySlice<UInt8>) -> String? {
        guard !raw.contains(0) else { return nil }
        return String(validating: raw, as: UTF8.self)
    }
}
