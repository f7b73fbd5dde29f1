import BlockTypes

/// Turns a stream of bytes into frames, however the bytes were cut up on the way.
///
/// The owner lends each piece with ``received(_:)`` and then calls ``next()`` until it returns `nil`. Before
/// a piece is received it may ask for ``receiveWindow()``, so that a large payload lands where it will stay.
public struct FrameDecoder {
    private let pool: BufferPool
    private var accepted: FrameKindSet
    /// During the handshake: what came after the hello. It is read once ``accept(_:)`` says by which rules.
    private var held: [UInt8] = []
    private var isHandshake: Bool
    /// Header and body of the frame that is arriving, as far as they have come. Grows with what has arrived,
    /// never with what a header announces.
    private var head: [UInt8] = []
    private var header: FrameHeader?
    private var headerChecksum: UInt32 = 0
    /// Memory of the payload that is arriving, and how much of it has.
    private var payload: Payload?
    private var payloadFilled = 0
    private var ready: [Frame] = []
    private var readyTaken = 0
    private var framesComplete: UInt64 = 0
    private var failure: WireError?

    /// Above this, the memory of a long body is given back once its frame is complete.
    private static let headBytesKept = 64 << 10

    /// A decoder at the start of a stream that may hold frames of `accepted`; payload memory comes from
    /// `pool`.
    public init(pool: BufferPool, accepted: FrameKindSet = .all) {
        (self.pool, self.accepted, isHandshake) = (pool, accepted, false)
    }
    /// A decoder that gives out a hello, and nothing after it until ``accept(_:)``.
    public static func awaitingHello(pool: BufferPool) -> FrameDecoder {
        var decoder = FrameDecoder(pool: pool, accepted: .handshake)
        decoder.isHandshake = true
        return decoder
    }

    /// Ends the handshake: from here on the peer may send `kinds`.
    public mutating func accept(_ kinds: FrameKindSet) {
        (accepted, isHandshake) = (kinds, false)
        let bytes = held
        held = []
        unsafe bytes.withUnsafeBytes { unsafe received($0) }
    }

    /// True when the stream may end here: every frame that has begun is complete.
    public var isBetweenFrames: Bool { head.isEmpty && payload == nil && held.isEmpty }

    /// Names the frame whose header or body is arriving, if there is one. Its length is only believed: the
    /// checksum comes to bear when the body is there.
    public var unfinishedHead: UInt64? { head.isEmpty || payload != nil ? nil : framesComplete }

    /// Memory held for the header and body of the frame that is arriving.
    var headCapacityBytes: Int { head.capacity }

    /// Memory for the rest of the payload that is arriving, or `nil`.
    ///
    /// Valid until the next ``received(_:)``, and as long as the decoder lives.
    @unsafe public mutating func receiveWindow() -> UnsafeMutableRawBufferPointer? {
        guard let payload else { return nil }
        return unsafe UnsafeMutableRawBufferPointer(
            rebasing: payload.buffer.bytes[payloadFilled..<payload.byteCount])
    }

    /// Takes the next bytes of the stream. What they complete waits for ``next()``; what is wrong with them
    /// is thrown there, after the frames before it.
    @unsafe public mutating func received(_ bytes: UnsafeRawBufferPointer) {
        guard failure == nil else { return }
        do throws(WireError) {
            var taken = 0
            while taken < bytes.count {
                if isHandshake, !ready.isEmpty || !held.isEmpty {
                    // At most what one receive brings: the owner looks at the hello before it reads on.
                    return unsafe held.append(contentsOf: UnsafeRawBufferPointer(rebasing: bytes[taken...]))
                }
                taken += unsafe try take(UnsafeRawBufferPointer(rebasing: bytes[taken...]))
            }
        } catch {
            failure = error
            (head, header, payload) = ([], nil, nil)
        }
    }

    /// The next complete frame; `nil` when more bytes are needed.
    /// - Throws: why the stream cannot be trusted any more, from then on every time.
    public mutating func next() throws(WireError) -> Frame? {
        if readyTaken < ready.count {
            defer {
                readyTaken += 1
                if readyTaken == ready.count {
                    ready.clear()
                    readyTaken = 0
                }
            }
            return ready[readyTaken]
        }
        if let failure { throw failure }
        return nil
    }

    /// Takes some of `bytes`, at least one.
    /// - Returns: how many.
    private mutating func take(_ bytes: UnsafeRawBufferPointer) throws(WireError) -> Int {
        if payload != nil { return unsafe try takePayload(bytes) }
        if head.isEmpty, let taken = unsafe try takeWhole(bytes) { return taken }
        let headBytes = WireLimits.headerBytes + (header?.bodyBytes ?? 0)
        let taken = min(bytes.count, headBytes - head.count)
        unsafe head.append(contentsOf: UnsafeRawBufferPointer(rebasing: bytes[..<taken]))
        guard head.count == headBytes else { return taken }
        if header == nil {
            let (accepted, start) = (accepted, head)
            let read = unsafe try withBytes(of: start) { bytes throws(WireError) in
                unsafe try FrameHeader.read(bytes, accepting: accepted)
            }
            guard let read else { return taken }
            (header, headerChecksum) = (read.header, read.checksum)
            guard read.header.bodyBytes == 0 else { return taken }
        }
        try headComplete()
        return taken
    }

    /// Header and body are there.
    private mutating func headComplete() throws(WireError) {
        guard let header else { return }
        guard unsafe head.withUnsafeBytes({ unsafe FrameEncoder.checksum($0) }) == headerChecksum else {
            throw .checksumMismatch
        }
        if header.payloadBytes == 0 { return try finish(header, nil) }
        payload = Payload(pool.take(byteCount: header.payloadBytes), byteCount: header.payloadBytes)
        payloadFilled = 0
    }

    private mutating func takePayload(_ bytes: UnsafeRawBufferPointer) throws(WireError) -> Int {
        guard let header, let payload, let window = unsafe receiveWindow() else { return bytes.count }
        let taken = min(bytes.count, window.count)
        if unsafe bytes.baseAddress != UnsafeRawPointer(window.baseAddress) {
            unsafe window.copyMemory(from: UnsafeRawBufferPointer(rebasing: bytes[..<taken]))
        }
        payloadFilled += taken
        if payloadFilled == payload.byteCount { try finish(header, payload) }
        return taken
    }

    /// The usual case: a short frame that lies whole in `bytes` is read where it is.
    /// - Returns: `nil` when it does not.
    private mutating func takeWhole(_ bytes: UnsafeRawBufferPointer) throws(WireError) -> Int? {
        guard let (header, checksum) = unsafe try FrameHeader.read(bytes, accepting: accepted),
            bytes.count >= header.frameBytes
        else { return nil }
        let headBytes = WireLimits.headerBytes + header.bodyBytes
        let head = unsafe UnsafeRawBufferPointer(rebasing: bytes[..<headBytes])
        guard unsafe FrameEncoder.checksum(head) == checksum else { throw .checksumMismatch }
        var payload: Payload?
        if header.payloadBytes > 0 {
            let buffer = pool.take(byteCount: header.payloadBytes)
            let source = unsafe UnsafeRawBufferPointer(rebasing: bytes[headBytes..<header.frameBytes])
            unsafe buffer.bytes.copyMemory(from: source)
            payload = Payload(buffer, byteCount: header.payloadBytes)
        }
        let body = unsafe WireReader(UnsafeRawBufferPointer(rebasing: head[WireLimits.headerBytes...]))
        var parser = FrameParser(header, body, payload)
        ready.append(try parser.parse())
        framesComplete += 1
        return header.frameBytes
    }

    private mutating func finish(_ header: FrameHeader, _ payload: Payload?) throws(WireError) {
        let frame = unsafe try withBytes(of: head) { bytes throws(WireError) in
            let body = unsafe WireReader(UnsafeRawBufferPointer(rebasing: bytes[WireLimits.headerBytes...]))
            var parser = FrameParser(header, body, payload)
            return try parser.parse()
        }
        ready.append(frame)
        framesComplete += 1
        head.removeAll(keepingCapacity: head.capacity <= Self.headBytesKept)
        (self.header, self.payload) = (nil, nil)
    }
}

/// `withUnsafeBytes` that keeps the thrown type.
private func withBytes<R>(
    of array: [UInt8], _ body: (UnsafeRawBufferPointer) throws(WireError) -> R
) throws(WireError) -> R {
    let result: Result<R, WireError> = unsafe array.withUnsafeBytes { bytes in
        do throws(WireError) { return .success(unsafe try body(bytes)) } catch { return .failure(error) }
    }
    return try result.get()
}

/// - Returns: true when there is one checksum for each block of `payload` and all match.
public func verify(checksums: [CRC32C], payload: Payload) -> Bool {
    payload.byteCount == checksums.count * Geometry.blockBytes
        && firstMismatch(checksums: checksums, payload: payload) == nil
}

/// The first block of `payload` that does not match its checksum. Stops at the shorter of the two.
public func firstMismatch(checksums: [CRC32C], payload: Payload) -> Int? {
    unsafe payload.withBytes { bytes in
        for index in 0..<min(checksums.count, bytes.count / Geometry.blockBytes) {
            let start = index * Geometry.blockBytes
            let block = unsafe UnsafeRawBufferPointer(
                rebasing: bytes[start..<(start + Geometry.blockBytes)])
            if unsafe CRC32C(of: block) != checksums[index] { return index }
        }
        return nil
    }
}
