import BlockTypes
import Environment
import VolumeCore

/// A volume that this program holds. Any task may call; calls run concurrently.
///
/// Offsets and lengths are multiples of 512 bytes. Writes of the same bytes that are under way together take
/// effect in the order in which they were called. A write that has returned is durable on a majority of its
/// replicas. Letting the last reference go closes the volume too, without saying how it went.
public final class Volume: Sendable {
    /// The volume's path when it was opened.
    public let path: String
    private let cluster: CurveCluster
    private let bound: LoopBound<RemoteVolume>

    /// Longer reads and writes are cut into parts of this many bytes, which are not atomic together anyway.
    static let partBytesMax = 32 << 20

    init(_ cluster: CurveCluster, _ bound: LoopBound<RemoteVolume>, path: String) {
        (self.cluster, self.bound, self.path) = (cluster, bound, path)
    }
    deinit { cluster.letGoSoon(bound) }

    private func submit(_ request: VolumeRequest) async throws(CurveError) -> [ReadSegment] {
        let bound = bound
        let result = await cluster.onLoop(refused: VolumeResult.failure(.shuttingDown)) { _, answer in
            guard let volume = bound.value else { return answer(.failure(.shuttingDown)) }
            volume.submit(request, completed: answer)
        }
        do throws(VolumeError) { return try result.get() } catch { throw CurveError(error) }
    }

    /// The volume's bytes as they came from the cluster, without a copy: stored runs and runs of zeroes.
    public func readSegments(at offset: UInt64, byteCount: Int) async throws(CurveError) -> [ReadSegment] {
        guard byteCount > Self.partBytesMax else {
            return try await submit(.read(start: ByteOffset(bytes: offset), byteCount: byteCount))
        }
        var (segments, done): ([ReadSegment], Int) = ([], 0)
        while done < byteCount {
            let count = min(Self.partBytesMax, byteCount - done)
            segments += try await submit(
                .read(start: ByteOffset(bytes: offset + UInt64(done)), byteCount: count))
            done += count
        }
        return segments
    }

    /// The volume's bytes in one array.
    public func read(at offset: UInt64, byteCount: Int) async throws(CurveError) -> [UInt8] {
        let segments = try await readSegments(at: offset, byteCount: byteCount)
        return unsafe [UInt8](unsafeUninitializedCapacity: byteCount) { memory, initialized in
            initialized = unsafe Self.copy(segments, into: UnsafeMutableRawBufferPointer(memory), from: 0)
        }
    }

    /// Fills buffers, one after the other, from consecutive bytes of the volume.
    /// - Parameter buffers: runs of memory that nobody else uses until the call returns.
    public func read(at offset: UInt64, into buffers: [Payload]) async throws(CurveError) {
        let byteCount = buffers.reduce(0) { $0 + $1.byteCount }
        let segments = try await readSegments(at: offset, byteCount: byteCount)
        var skip = 0
        for buffer in buffers {
            unsafe buffer.withBytes { bytes in
                unsafe _ = Self.copy(
                    segments, into: UnsafeMutableRawBufferPointer(mutating: bytes), from: skip)
            }
            skip += buffer.byteCount
        }
    }

    /// Copies what fits of the segments' bytes from position `skip` on.
    /// - Returns: how many.
    @unsafe private static func copy(
        _ segments: [ReadSegment], into target: UnsafeMutableRawBufferPointer, from skip: Int
    ) -> Int {
        var (position, filled) = (0, 0)
        for segment in segments {
            let start = max(skip - position, 0)
            let count = min(segment.byteCount - start, target.count - filled)
            position += segment.byteCount
            guard count > 0 else { continue }
            let part = unsafe UnsafeMutableRawBufferPointer(rebasing: target[filled..<(filled + count)])
            switch segment {
            case .data(let payload):
                unsafe payload.slice(start, count).withBytes { unsafe part.copyMemory(from: $0) }
            case .zeroes, .stored: unsafe part.initializeMemory(as: UInt8.self, repeating: 0)
            }
            filled += count
        }
        return filled
    }

    /// Writes the bytes of an array.
    public func write(at offset: UInt64, _ bytes: [UInt8]) async throws(CurveError) {
        let buffer = BlockBuffer(byteCount: max(bytes.count, 1))
        unsafe buffer.bytes.copyBytes(from: bytes)
        try await write(at: offset, [Payload(buffer, byteCount: bytes.count)])
    }

    /// Writes the bytes of buffers, one after the other, without a copy.
    /// - Parameter buffers: memory that nobody changes until the call returns.
    public func write(at offset: UInt64, _ buffers: [Payload]) async throws(CurveError) {
        var (part, partBytes, start): ([Payload], Int, UInt64) = ([], 0, offset)
        for buffer in buffers {
            var done = 0
            while done < buffer.byteCount {
                let count = min(buffer.byteCount - done, Self.partBytesMax - partBytes)
                part.append(buffer.slice(done, count))
                (done, partBytes) = (done + count, partBytes + count)
                guard partBytes == Self.partBytesMax else { continue }
                _ = try await submit(.write(start: ByteOffset(bytes: start), payloads: part))
                (part, start, partBytes) = ([], start + UInt64(partBytes), 0)
            }
        }
        guard partBytes > 0 else { return }
        _ = try await submit(.write(start: ByteOffset(bytes: start), payloads: part))
    }

    /// Returns when every write that had returned before is durable; that is at once, for each write returns
    /// only when it is.
    public func flush() async throws(CurveError) { _ = try await submit(.flush) }

    /// Gives the run's space back; it reads as zeroes afterwards.
    public func trim(at offset: UInt64, byteCount: UInt64) async throws(CurveError) {
        _ = try await submit(
            .trim(start: ByteOffset(bytes: offset), length: ByteCount(bytes: byteCount)))
    }

    /// Makes the run read as zeroes.
    public func writeZeroes(at offset: UInt64, byteCount: UInt64) async throws(CurveError) {
        _ = try await submit(
            .writeZeroes(start: ByteOffset(bytes: offset), length: ByteCount(bytes: byteCount)))
    }

    /// Replaces the bytes from `offset` with `new` if they are those of `expected`, in one step that no other
    /// change comes between, of whichever client. Both have the same length, at most 130,560 bytes, inside
    /// one stripe unit, in whole sectors of 512 bytes.
    /// - Throws: ``CurveError/Code/miscompare`` when they are not; then nothing was written.
    public func compareAndWrite(
        at offset: UInt64, expected: [UInt8], new: [UInt8]
    ) async throws(CurveError) {
        _ = try await submit(
            .compareAndWrite(
                start: ByteOffset(bytes: offset), expected: [Payload(copying: expected)],
                new: [Payload(copying: new)]))
    }

    /// Current size in bytes.
    public var sizeBytes: UInt64 {
        get async throws(CurveError) {
            let bound = bound
            let size: UInt64? = await cluster.onLoop(refused: nil) { _, answer in
                answer(bound.value?.size.bytes)
            }
            guard let size else { throw CurveError(.shuttingDown as VolumeError) }
            return size
        }
    }

    /// How the volume is doing; `nil` once it is closed.
    public var status: VolumeStatus? {
        get async {
            let bound = bound
            return await cluster.onLoop(refused: nil) { _, answer in answer(bound.value?.status) }
        }
    }

    /// Grows or shrinks the volume; returns when the new size is in force.
    /// - Parameter allowShrink: consent to the loss of what lies past the new end.
    public func resize(toBytes sizeBytes: UInt64, allowShrink: Bool = false) async throws(CurveError) {
        let bound = bound
        let closed = CurveError(.shuttingDown as VolumeError)
        let failure: CurveError? = await cluster.onLoop(refused: closed) { _, answer in
            guard let volume = bound.value else { return answer(closed) }
            volume.resize(to: ByteCount(bytes: sizeBytes), allowShrink: allowShrink) { result in
                if case .failure(let error) = result { answer(CurveError(error)) } else { answer(nil) }
            }
        }
        if let failure { throw failure }
    }

    /// Finishes what is under way and gives the volume back. Harmless when repeated.
    public func close() async {
        let (cluster, bound) = (cluster, bound)
        await cluster.onLoop(refused: ()) { _, answer in cluster.letGo(bound) { answer(()) } }
    }
}
