import BlockTypes

/// Writes little-endian fields, one after the other, into memory whose size was worked out before.
@safe struct WireWriter {
    // SAFETY: made and used only inside the closure that lends the memory; every write is checked.
    private let memory: UnsafeMutableRawBufferPointer
    private(set) var position: Int

    @unsafe init(_ memory: UnsafeMutableRawBufferPointer, at position: Int) {
        unsafe self.memory = memory
        self.position = position
    }
    @inline(__always) mutating func put<T: FixedWidthInteger>(_ value: T) {
        let end = position + MemoryLayout<T>.size
        let count = unsafe memory.count
        invariant(end <= count, "a frame is longer than was worked out")
        unsafe memory.storeBytes(of: value.littleEndian, toByteOffset: position, as: T.self)
        position = end
    }
    mutating func put(_ bytes: UnsafeRawBufferPointer) {
        guard bytes.count > 0 else { return }
        let end = position + bytes.count
        let count = unsafe memory.count
        invariant(end <= count, "a frame is longer than was worked out")
        unsafe UnsafeMutableRawBufferPointer(rebasing: memory[position..<end]).copyMemory(from: bytes)
        position = end
    }
    mutating func put(_ bytes: [UInt8]) { unsafe bytes.withUnsafeBytes { unsafe put($0) } }
    mutating func put(_ checksums: [CRC32C]) {
        #if _endian(little)
            // On our machines a row of checksums in memory is the row on the wire.
            unsafe checksums.withUnsafeBytes { unsafe put($0) }
        #else
            for checksum in checksums { put(checksum.rawValue) }
        #endif
    }
}

/// Reads little-endian fields from bytes that somebody else owns. Never reads past their end.
@safe struct WireReader {
    // SAFETY: made and used only while the owner lends the bytes; every read is checked.
    private let bytes: UnsafeRawBufferPointer
    private var position = 0

    @unsafe init(_ bytes: UnsafeRawBufferPointer) { unsafe self.bytes = bytes }
    var remaining: Int { unsafe bytes.count - position }

    /// - Returns: `nil` when too few bytes remain.
    @inline(__always) mutating func next<T: FixedWidthInteger>(_: T.Type) -> T? {
        guard remaining >= MemoryLayout<T>.size else { return nil }
        defer { position += MemoryLayout<T>.size }
        return T(littleEndian: unsafe bytes.loadUnaligned(fromByteOffset: position, as: T.self))
    }
    /// - Returns: `nil` when too few bytes remain.
    mutating func nextChecksums(_ count: Int) -> [CRC32C]? {
        guard count >= 0, count <= remaining / MemoryLayout<UInt32>.size else { return nil }
        // The initializer below writes into the one empty array that all threads share.
        guard count > 0 else { return [] }
        let byteCount = count * MemoryLayout<UInt32>.size
        let source = unsafe UnsafeRawBufferPointer(rebasing: bytes[position..<(position + byteCount)])
        position += byteCount
        #if _endian(little)
            return unsafe [CRC32C](unsafeUninitializedCapacity: count) { memory, initialized in
                unsafe UnsafeMutableRawBufferPointer(memory).copyMemory(from: source)
                initialized = count
            }
        #else
            return (0..<count).map { index in
                let value = unsafe source.loadUnaligned(fromByteOffset: index * 4, as: UInt32.self)
                return CRC32C(rawValue: UInt32(littleEndian: value))
            }
        #endif
    }
    /// All that remains.
    mutating func rest() -> [UInt8] {
        defer { unsafe position = bytes.count }
        return unsafe [UInt8](UnsafeRawBufferPointer(rebasing: bytes[position...]))
    }
}
