import BlockTypes
import Environment

/// A thin volume in memory for tests: it can fail, be slow, or hold its answers back.
public final class MemoryVolume: BlockVolume {
    /// Current size.
    public private(set) var size: ByteCount
    /// True when writes are refused.
    public let isReadOnly: Bool
    /// Called after the size has changed.
    public var resized: ((ByteCount) -> Void)?

    /// The next requests fail with these errors, first one first.
    public var failures: [VolumeError] = []
    /// How long each answer takes.
    public var delay = Duration.zero
    /// How fast bytes are written, one request at a time; `nil`: at once.
    public var writeBytesPerSecond: Int?
    /// While true, answers wait for ``release()``.
    public var isHolding = false
    /// What was asked, in order, without payload.
    public private(set) var log: [String] = []
    /// Whether ``log`` is kept.
    public var keepsLog = false

    private let environment: any Environment
    private let pool = BufferPool(keptBytesPerClassMax: 64 << 20)
    private var pages: [UInt64: BlockBuffer] = [:]
    private var ready: [() -> Void] = []
    private var isScheduled = false
    private let pageBytes: Int

    /// A volume of zeroes, whose map knows pages of `pageBytes`.
    public init(
        environment: any Environment, size: ByteCount, isReadOnly: Bool = false, pageBytes: Int = 64 << 10
    ) {
        (self.environment, self.size, self.isReadOnly) = (environment, size, isReadOnly)
        self.pageBytes = pageBytes
    }
    /// Requests whose answers wait.
    public var heldCount: Int { ready.count }

    /// Lets all waiting answers go, newest first when `reversed`.
    public func release(reversed: Bool = false) {
        let answers = ready
        ready = []
        for answer in reversed ? answers.reversed() : answers { answer() }
    }
    /// Grows or shrinks.
    public func resize(to size: ByteCount) {
        self.size = size
        resized?(size)
    }
    /// Carries the request out at once, answers later.
    public func submit(_ request: VolumeRequest, completed: @escaping (VolumeResult) -> Void) {
        if keepsLog { log.append(Self.describe(request)) }
        let result = failures.isEmpty ? carryOut(request) : .failure(failures.removeFirst())
        ready.append { completed(result) }
        guard !isHolding else { return }
        let delay = delay + writingTime(request)
        if delay > .zero {
            let answers = ready
            ready = []
            environment.after(delay) { for answer in answers { answer() } }
        } else if !isScheduled {
            isScheduled = true
            environment.after(.zero) { [self] in
                isScheduled = false
                if !isHolding { release() }
            }
        }
    }
    private func writingTime(_ request: VolumeRequest) -> Duration {
        guard let writeBytesPerSecond, case .write(_, let payloads) = request else { return .zero }
        let bytes = payloads.reduce(0) { $0 + $1.byteCount }
        return .seconds(1) * (Double(bytes) / Double(writeBytesPerSecond))
    }
    private static func describe(_ request: VolumeRequest) -> String {
        switch request {
        case .read(let start, let count): "read \(start)+\(count)"
        case .write(let start, let payloads): "write \(start)+\(payloads.reduce(0) { $0 + $1.byteCount })"
        case .compareAndWrite(let start, _, let new):
            "compare and write \(start)+\(new.reduce(0) { $0 + $1.byteCount })"
        case .trim(let start, let length): "trim \(start)+\(length.bytes)"
        case .writeZeroes(let start, let length): "zero \(start)+\(length.bytes)"
        case .flush: "flush"
        case .blockStatus(let start, let length): "status \(start)+\(length.bytes)"
        }
    }
    private func carryOut(_ request: VolumeRequest) -> VolumeResult {
        switch request {
        case .read(let start, let count):
            guard inside(start.bytes, UInt64(count)) else { return .failure(.outOfRange) }
            return .success(read(start.bytes, count))
        case .write(let start, let payloads):
            let total = payloads.reduce(0) { $0 + $1.byteCount }
            guard inside(start.bytes, UInt64(total)) else { return .failure(.outOfRange) }
            var offset = start.bytes
            for payload in payloads {
                write(payload, at: offset)
                offset += UInt64(payload.byteCount)
            }
            return .success([])
        case .compareAndWrite(let start, let expected, let new):
            let wanted = expected.flatMap(\.array)
            guard inside(start.bytes, UInt64(wanted.count)) else { return .failure(.outOfRange) }
            if let byte = Comparison.firstDifference(read(start.bytes, wanted.count), wanted) {
                return .failure(.miscompare(atByte: byte))
            }
            return carryOut(.write(start: start, payloads: new))
        case .trim(let start, let length), .writeZeroes(let start, let length):
            guard inside(start.bytes, length.bytes) else { return .failure(.outOfRange) }
            zero(start.bytes, length.bytes)
            return .success([])
        case .flush: return .success([])
        case .blockStatus(let start, let length):
            guard inside(start.bytes, length.bytes) else { return .failure(.outOfRange) }
            return .success(blockStatus(start.bytes, length.bytes))
        }
    }
    private func inside(_ start: UInt64, _ count: UInt64) -> Bool {
        let (end, overflowed) = start.addingReportingOverflow(count)
        return !overflowed && end <= size.bytes
    }
    /// Calls `body` for each part of the run that lies in one page.
    private func eachPage(_ start: UInt64, _ count: UInt64, _ body: (UInt64, Int, Int) -> Void) {
        let wide = UInt64(pageBytes)
        var offset = start
        while offset < start + count {
            let inPage = offset % wide
            let step = min(wide - inPage, start + count - offset)
            body(offset / wide, Int(inPage), Int(step))
            offset += step
        }
    }
    private func read(_ start: UInt64, _ count: Int) -> [ReadSegment] {
        var segments: [ReadSegment] = []
        eachPage(start, UInt64(count)) { page, offset, step in
            guard let buffer = pages[page] else {
                if case .zeroes(let before)? = segments.last {
                    segments[segments.count - 1] = .zeroes(before + step)
                } else {
                    segments.append(.zeroes(step))
                }
                return
            }
            let copy = pool.take(byteCount: step)
            copy.bytes.copyMemory(
                from: UnsafeRawBufferPointer(rebasing: buffer.bytes[offset..<(offset + step)]))
            segments.append(.data(Payload(copy, byteCount: step)))
        }
        return segments
    }
    private func blockStatus(_ start: UInt64, _ count: UInt64) -> [ReadSegment] {
        var segments: [ReadSegment] = []
        eachPage(start, count) { page, _, step in
            let isStored = pages[page] != nil
            switch segments.last {
            case .stored(let before)? where isStored: segments[segments.count - 1] = .stored(before + step)
            case .zeroes(let before)? where !isStored: segments[segments.count - 1] = .zeroes(before + step)
            default: segments.append(isStored ? .stored(step) : .zeroes(step))
            }
        }
        return segments
    }
    private func write(_ payload: Payload, at start: UInt64) {
        var done = 0
        eachPage(start, UInt64(payload.byteCount)) { page, offset, step in
            let buffer = pages[page] ?? freshPage(page)
            payload.slice(done, step).withBytes { bytes in
                UnsafeMutableRawBufferPointer(rebasing: buffer.bytes[offset...]).copyMemory(from: bytes)
            }
            done += step
        }
    }
    private func freshPage(_ page: UInt64) -> BlockBuffer {
        let buffer = pool.take(byteCount: pageBytes)
        buffer.bytes.initializeMemory(as: UInt8.self, repeating: 0)
        pages[page] = buffer
        return buffer
    }
    private func zero(_ start: UInt64, _ count: UInt64) {
        eachPage(start, count) { page, offset, step in
            guard let buffer = pages[page] else { return }
            if step == pageBytes {
                pages[page] = nil
            } else {
                UnsafeMutableRawBufferPointer(rebasing: buffer.bytes[offset..<(offset + step)])
                    .initializeMemory(as: UInt8.self, repeating: 0)
            }
        }
    }
}
