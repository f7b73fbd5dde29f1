import BlockTypes

/// Writes little-endian integers into block memory that nobody else sees yet.
@safe struct PageWriter {
    // SAFETY: the buffer owns the memory and every access is checked against its capacity.
    let buffer: BlockBuffer
    var position = 0

    init(_ buffer: BlockBuffer) { self.buffer = buffer }

    @inline(__always) mutating func put<T: FixedWidthInteger>(_ value: T) {
        set(value, at: position)
        position += MemoryLayout<T>.size
    }
    @inline(__always) func set<T: FixedWidthInteger>(_ value: T, at offset: Int) {
        invariant(
            offset >= 0 && offset + MemoryLayout<T>.size <= buffer.capacityBytes, "write at \(offset)")
        unsafe buffer.bytes.storeBytes(of: value.littleEndian, toByteOffset: offset, as: T.self)
    }
    /// Zeroes from the position up to `end` and moves there.
    mutating func pad(to end: Int) {
        invariant(end >= position && end <= buffer.capacityBytes, "pad to \(end)")
        unsafe UnsafeMutableRawBufferPointer(rebasing: buffer.bytes[position..<end])
            .initializeMemory(as: UInt8.self, repeating: 0)
        position = end
    }
    /// Copies a page image of little-endian words.
    mutating func put(words: [UInt64]) {
        invariant(position + words.count * 8 <= buffer.capacityBytes, "\(words.count) words at \(position)")
        #if _endian(big)
            for word in words { put(word) }
        #else
            unsafe words.withUnsafeBytes { source in
                unsafe UnsafeMutableRawBufferPointer(
                    rebasing: buffer.bytes[position..<(position + source.count)]
                ).copyMemory(from: source)
            }
            position += words.count * 8
        #endif
    }
    /// The CRC32C of `[start, end)`.
    func checksum(_ start: Int, _ end: Int) -> UInt32 {
        CRC32C(of: Payload(buffer, startByte: start, byteCount: end - start)).rawValue
    }
}

/// Reads little-endian integers. Past the end every read gives `nil`.
struct PageReader {
    let payload: Payload
    var position = 0
    let end: Int

    init(_ payload: Payload, from start: Int = 0, to end: Int? = nil) {
        self.payload = payload
        (position, self.end) = (start, min(end ?? payload.byteCount, payload.byteCount))
    }
    @inline(__always) mutating func next<T: FixedWidthInteger>(_: T.Type) -> T? {
        guard let value: T = peek(at: position) else { return nil }
        position += MemoryLayout<T>.size
        return value
    }
    @inline(__always) func peek<T: FixedWidthInteger>(at offset: Int) -> T? {
        guard offset >= 0, offset + MemoryLayout<T>.size <= end else { return nil }
        return unsafe payload.withBytes {
            unsafe T(littleEndian: $0.loadUnaligned(fromByteOffset: offset, as: T.self))
        }
    }
    /// One page as words.
    func words(at offset: Int, count: Int) -> [UInt64]? {
        guard offset >= 0, offset + count * 8 <= end else { return nil }
        return unsafe payload.withBytes { bytes in
            unsafe [UInt64](unsafeUninitializedCapacity: count) { words, filled in
                unsafe UnsafeMutableRawBufferPointer(words).copyMemory(
                    from: UnsafeRawBufferPointer(rebasing: bytes[offset..<(offset + count * 8)]))
                #if _endian(big)
                    for index in 0..<count { unsafe words[index] = unsafe words[index].littleEndian }
                #endif
                filled = count
            }
        }
    }
}

/// First in, first out, without moving what stays. Elements can also be looked at by place and cut at the
/// end.
struct Fifo<Element> {
    private var storage: [Element] = []
    private var head = 0

    var count: Int { storage.count - head }
    var isEmpty: Bool { storage.count == head }
    var first: Element? { isEmpty ? nil : storage[head] }
    var last: Element? { isEmpty ? nil : storage[storage.count - 1] }
    @inline(__always) subscript(_ place: Int) -> Element {
        _read { yield storage[head + place] }
        _modify { yield &storage[head + place] }
    }
    mutating func append(_ element: Element) { storage.append(element) }
    /// Puts elements in front; costs a copy of all.
    mutating func prepend(_ elements: [Element]) {
        storage.replaceSubrange(0..<head, with: elements)
        head = 0
    }
    @discardableResult mutating func popFirst() -> Element? {
        guard head < storage.count else { return nil }
        let element = storage[head]
        dropFirst(1)
        return element
    }
    mutating func dropFirst(_ count: Int) {
        head += count
        invariant(head <= storage.count, "dropped more than there is")
        // Moving is paid for by at least as many removals.
        if head == storage.count {
            storage.removeAll(keepingCapacity: storage.count <= 4096)
            head = 0
        } else if head >= 64 && head * 2 >= storage.count {
            storage.removeSubrange(0..<head)
            head = 0
        }
    }
    mutating func dropLast(_ count: Int) { storage.removeLast(count) }
    mutating func removeAll() { (storage, head) = ([], 0) }
}
