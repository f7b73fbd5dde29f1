import BlockTypes

/// Turns a byte stream into headers and data segments, however the bytes were cut up on the way.
///
/// Wire form (RFC 7143, section 11.2):
/// `header:48 | additional segments | header digest:4 | data | padding to 4 | data digest:4`. Additional
/// segments, digests and data are there when header and negotiation say so. Whoever takes a header with data
/// says next, by ``direct(_:)``, where the data goes: it is copied once at most, and not at all when the
/// socket received it into ``window``.
struct PDUReader {
    enum Item {
        /// A header, and its additional segments as bytes; with data behind it, call ``direct(_:)``.
        case header(PDUHeader, additional: [UInt8])
        /// The data segment has passed; `bytes` has it when that was asked for.
        case data(isIntact: Bool, bytes: [UInt8])
        /// The stream cannot be trusted any more.
        case fault(Fault)
    }
    enum Fault { case headerDigest, segmentTooLong(PDUHeader) }
    /// Where a data segment goes.
    enum Destination {
        case skip
        /// Hand it out as bytes: text and pings.
        case bytes
        /// Into the buffer from byte `at`; only the first `keep` bytes, the rest is dropped.
        case buffer(BlockBuffer, at: Int, keep: Int)

        /// What is to be kept of `byteCount` bytes of data is no more than those, and lies in the buffer.
        func hasRoom(for byteCount: Int) -> Bool {
            switch self {
            case .skip, .bytes: true
            case .buffer(let buffer, let start, let keep):
                keep <= byteCount && start + keep <= buffer.capacityBytes
            }
        }
    }
    private enum Phase { case header, undirected, data, trailer }

    /// Longest data segment that may come.
    var segmentBytesMax: Int
    var hasHeaderDigest = false
    var hasDataDigest = false
    private var phase = Phase.header
    /// A header, or padding and data digest, that is not whole yet.
    private var held: [UInt8] = []
    private var destination = Destination.skip
    private var collected: [UInt8] = []
    private var dataBytes = 0
    private var passedBytes = 0
    private var checksum: UInt32 = 0

    init(segmentBytesMax: Int) { self.segmentBytesMax = segmentBytesMax }

    /// A PDU has begun and is not whole.
    var isInsidePDU: Bool { phase != .header || !held.isEmpty }

    mutating func direct(_ destination: consuming Destination) {
        invariant(phase == .undirected, "data was directed without a header")
        invariant(destination.hasRoom(for: dataBytes), "data beyond its buffer")
        if case .bytes = destination { collected.reserveCapacity(dataBytes) }
        self.destination = destination
        (phase, passedBytes, checksum) = (.data, 0, 0)
    }

    /// Where the rest of the data under way belongs.
    @unsafe var window: UnsafeMutableRawBufferPointer? {
        guard phase == .data, case .buffer(let buffer, let start, let keep) = destination, passedBytes < keep
        else { return nil }
        return unsafe UnsafeMutableRawBufferPointer(
            rebasing: buffer.bytes[(start + passedBytes)..<(start + keep)])
    }

    /// Takes bytes from the front of `bytes` until an item is complete.
    /// - Returns: `nil` when more bytes are needed; then `bytes` is empty.
    @unsafe mutating func next(_ bytes: inout UnsafeRawBufferPointer) -> Item? {
        invariant(phase != .undirected, "the data of a header was not directed")
        if phase == .header { return unsafe nextHeader(&bytes) }
        if phase == .data {
            unsafe takeData(&bytes)
            guard passedBytes == dataBytes else { return nil }
            phase = .trailer
        }
        return unsafe nextTrailer(&bytes)
    }

    @unsafe private mutating func nextHeader(_ bytes: inout UnsafeRawBufferPointer) -> Item? {
        let digestBytes = hasHeaderDigest ? 4 : 0
        if held.isEmpty, bytes.count >= PDUHeader.byteCount {
            let wanted = PDUHeader.byteCount + Int(unsafe bytes[4]) * 4 + digestBytes
            if bytes.count >= wanted {
                let whole = unsafe UnsafeRawBufferPointer(rebasing: bytes[..<wanted])
                unsafe bytes = unsafe UnsafeRawBufferPointer(rebasing: bytes[wanted...])
                return unsafe decode(whole)
            }
        }
        unsafe hold(PDUHeader.byteCount - held.count, of: &bytes)
        guard held.count >= PDUHeader.byteCount else { return nil }
        let wanted = PDUHeader.byteCount + Int(held[4]) * 4 + digestBytes
        unsafe hold(wanted - held.count, of: &bytes)
        guard held.count == wanted else { return nil }
        // Taken out, so that reading it does not conflict with changing the rest of `self`.
        var whole: [UInt8] = []
        swap(&whole, &held)
        let item = unsafe whole.withUnsafeBytes { unsafe decode($0) }
        whole.removeAll(keepingCapacity: true)
        swap(&whole, &held)
        return item
    }
    @unsafe private mutating func hold(_ wantedBytes: Int, of bytes: inout UnsafeRawBufferPointer) {
        let taken = min(max(wantedBytes, 0), bytes.count)
        unsafe held.append(contentsOf: bytes[..<taken])
        unsafe bytes = unsafe UnsafeRawBufferPointer(rebasing: bytes[taken...])
    }
    @unsafe private mutating func decode(_ whole: UnsafeRawBufferPointer) -> Item {
        let headBytes = whole.count - (hasHeaderDigest ? 4 : 0)
        let head = unsafe UnsafeRawBufferPointer(rebasing: whole[..<headBytes])
        if hasHeaderDigest {
            let said = unsafe UInt32(
                littleEndian: whole.loadUnaligned(fromByteOffset: headBytes, as: UInt32.self))
            guard unsafe CRC32C(of: head).rawValue == said else { return .fault(.headerDigest) }
        }
        let header = unsafe PDUHeader(head)
        guard header.dataBytes <= segmentBytesMax else { return .fault(.segmentTooLong(header)) }
        dataBytes = header.dataBytes
        if dataBytes > 0 { phase = .undirected }
        let additional = unsafe headBytes > PDUHeader.byteCount ? Array(head[PDUHeader.byteCount...]) : []
        return .header(header, additional: additional)
    }
    @unsafe private mutating func takeData(_ bytes: inout UnsafeRawBufferPointer) {
        let taken = min(dataBytes - passedBytes, bytes.count)
        guard taken > 0 else { return }
        let piece = unsafe UnsafeRawBufferPointer(rebasing: bytes[..<taken])
        unsafe bytes = unsafe UnsafeRawBufferPointer(rebasing: bytes[taken...])
        switch destination {
        case .skip: break
        case .bytes: unsafe collected.append(contentsOf: piece)
        case .buffer(let buffer, let start, let keep):
            let kept = min(taken, keep - passedBytes)
            if kept > 0, let source = piece.baseAddress, let base = unsafe buffer.bytes.baseAddress {
                let target = unsafe base + (start + passedBytes)
                // Bytes received into the window are in place already.
                if unsafe UnsafeRawPointer(target) != source {
                    unsafe target.copyMemory(from: source, byteCount: kept)
                }
            }
        }
        if hasDataDigest { checksum = unsafe CRC32C.extend(checksum, with: piece) }
        passedBytes += taken
    }
    @unsafe private mutating func nextTrailer(_ bytes: inout UnsafeRawBufferPointer) -> Item? {
        let paddingBytes = -dataBytes & 3
        let wanted = paddingBytes + (hasDataDigest ? 4 : 0)
        unsafe hold(wanted - held.count, of: &bytes)
        guard held.count == wanted else { return nil }
        var isIntact = true
        if hasDataDigest {
            unsafe held.withUnsafeBytes { trailer in
                let padding = unsafe UnsafeRawBufferPointer(rebasing: trailer[..<paddingBytes])
                let sum = unsafe CRC32C.extend(checksum, with: padding)
                let said = unsafe trailer.loadUnaligned(fromByteOffset: paddingBytes, as: UInt32.self)
                isIntact = UInt32(littleEndian: said) == sum
            }
        }
        held.removeAll(keepingCapacity: true)
        (phase, destination) = (.header, .skip)
        var handed: [UInt8] = []
        swap(&handed, &collected)
        return .data(isIntact: isIntact, bytes: handed)
    }
}
