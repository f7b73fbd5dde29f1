import BlockTypes

/// The fixed part of a request.
public struct NBDRequestHeader: Hashable, Sendable {
    /// Command flags.
    public var flags: UInt16
    /// The command's number.
    public var command: UInt16
    /// Repeated in the answer; means nothing to the server.
    public var cookie: UInt64
    /// First byte on the export.
    public var offset: UInt64
    /// Bytes.
    public var length: UInt64
    /// It came, or is to go, with an extended header.
    public var isExtended: Bool
    /// A request as a client would send it.
    public init(
        flags: UInt16 = 0, command: UInt16, cookie: UInt64, offset: UInt64 = 0, length: UInt64 = 0,
        isExtended: Bool = false
    ) {
        (self.flags, self.command, self.cookie) = (flags, command, cookie)
        (self.offset, self.length, self.isExtended) = (offset, length, isExtended)
    }
    /// Bytes on the wire.
    public static let byteCount = 28
    /// Bytes on the wire of an extended one.
    public static let extendedByteCount = 32

    /// - Returns: `nil` when the magic is wrong. `bytes` holds at least ``byteCount`` bytes, or
    ///   ``extendedByteCount``.
    @unsafe init?(_ bytes: UnsafeRawBufferPointer, isExtended: Bool) {
        let magic = unsafe UInt32(bigEndian: bytes.loadUnaligned(as: UInt32.self))
        guard magic == (isExtended ? Wire.extendedRequestMagic : Wire.requestMagic) else { return nil }
        self.isExtended = isExtended
        flags = unsafe UInt16(bigEndian: bytes.loadUnaligned(fromByteOffset: 4, as: UInt16.self))
        command = unsafe UInt16(bigEndian: bytes.loadUnaligned(fromByteOffset: 6, as: UInt16.self))
        cookie = unsafe UInt64(bigEndian: bytes.loadUnaligned(fromByteOffset: 8, as: UInt64.self))
        offset = unsafe UInt64(bigEndian: bytes.loadUnaligned(fromByteOffset: 16, as: UInt64.self))
        if isExtended {
            length = unsafe UInt64(bigEndian: bytes.loadUnaligned(fromByteOffset: 24, as: UInt64.self))
        } else {
            length = UInt64(
                unsafe UInt32(bigEndian: bytes.loadUnaligned(fromByteOffset: 24, as: UInt32.self)))
        }
    }
    /// The request's bytes on the wire, without payload.
    public var encoded: [UInt8] {
        var bytes: [UInt8] = []
        bytes.append(bigEndian: isExtended ? Wire.extendedRequestMagic : Wire.requestMagic)
        bytes.append(bigEndian: flags)
        bytes.append(bigEndian: command)
        bytes.append(bigEndian: cookie)
        bytes.append(bigEndian: offset)
        if isExtended {
            bytes.append(bigEndian: length)
        } else {
            bytes.append(bigEndian: UInt32(truncatingIfNeeded: length))
        }
        return bytes
    }
}

/// Turns a byte stream into requests and their payloads, however the bytes were cut up on the way.
///
/// Wire form, 28 bytes, big-endian (`proto.md`, "Request message"):
/// `magic:4 | flags:2 | type:2 | cookie:8 | offset:8 | length:4`, followed by `length` bytes after a WRITE;
/// extended, 32 bytes: the length has 8.
/// Whoever takes the header of a WRITE says next what becomes of its payload.
struct RequestStream {
    enum Item {
        /// A header; after a WRITE, call ``receivePayload(into:byteCount:)`` or ``skipPayload(byteCount:)``.
        case header(NBDRequestHeader)
        /// All bytes of the payload are in the buffer.
        case payload(Payload)
        /// All bytes of a refused payload have passed.
        case skipped
        /// The stream cannot be trusted any more.
        case badMagic
    }
    /// The client negotiated extended headers.
    var isExtended = false
    private var held: [UInt8] = []
    private var filling: BlockBuffer?
    private var filledBytes = 0
    private var payloadBytes = 0
    private var skipBytes = 0
    private var isSkipping = false

    /// A header or a payload has begun and is not whole.
    var isInsideItem: Bool { !held.isEmpty || filling != nil || isSkipping }

    mutating func receivePayload(into buffer: BlockBuffer, byteCount: Int) {
        (filling, filledBytes, payloadBytes) = (buffer, 0, byteCount)
    }
    mutating func skipPayload(byteCount: Int) { (skipBytes, isSkipping) = (byteCount, true) }

    /// Where the rest of the payload under way belongs.
    @unsafe var window: UnsafeMutableRawBufferPointer? {
        guard let filling else { return nil }
        return unsafe UnsafeMutableRawBufferPointer(rebasing: filling.bytes[filledBytes..<payloadBytes])
    }
    /// Takes bytes from the front of `bytes` until an item is complete.
    /// - Returns: `nil` when more bytes are needed; then `bytes` is empty.
    @unsafe mutating func next(_ bytes: inout UnsafeRawBufferPointer) -> Item? {
        if isSkipping {
            let taken = min(skipBytes, bytes.count)
            unsafe bytes = unsafe UnsafeRawBufferPointer(rebasing: bytes[taken...])
            skipBytes -= taken
            guard skipBytes == 0 else { return nil }
            isSkipping = false
            return .skipped
        }
        if let buffer = filling { return unsafe fill(buffer, from: &bytes) }
        return unsafe nextHeader(&bytes)
    }
    @unsafe private mutating func fill(_ buffer: BlockBuffer, from bytes: inout UnsafeRawBufferPointer)
        -> Item?
    {
        let taken = min(payloadBytes - filledBytes, bytes.count)
        if let source = bytes.baseAddress, taken > 0 {
            let target = unsafe UnsafeMutableRawBufferPointer(rebasing: buffer.bytes[filledBytes...])
            // Bytes received into the window are in place already.
            if let start = target.baseAddress, unsafe UnsafeRawPointer(start) != source {
                unsafe start.copyMemory(from: source, byteCount: taken)
            }
        }
        unsafe bytes = unsafe UnsafeRawBufferPointer(rebasing: bytes[taken...])
        filledBytes += taken
        guard filledBytes == payloadBytes else { return nil }
        filling = nil
        return .payload(Payload(buffer, byteCount: payloadBytes))
    }
    @unsafe private mutating func nextHeader(_ bytes: inout UnsafeRawBufferPointer) -> Item? {
        let headerBytes = isExtended ? NBDRequestHeader.extendedByteCount : NBDRequestHeader.byteCount
        if held.isEmpty, bytes.count >= headerBytes {
            guard let header = unsafe NBDRequestHeader(bytes, isExtended: isExtended) else {
                return .badMagic
            }
            unsafe bytes = unsafe UnsafeRawBufferPointer(rebasing: bytes[headerBytes...])
            return .header(header)
        }
        let taken = min(headerBytes - held.count, bytes.count)
        unsafe held.append(contentsOf: bytes[..<taken])
        unsafe bytes = unsafe UnsafeRawBufferPointer(rebasing: bytes[taken...])
        guard held.count == headerBytes else { return nil }
        defer { held.removeAll(keepingCapacity: true) }
        let header = unsafe held.withUnsafeBytes { bytes in
            unsafe NBDRequestHeader(bytes, isExtended: isExtended)
        }
        return header.map { .header($0) } ?? .badMagic
    }
}
