import BlockTypes
import Environment
import Glibc

/// A volume in a file, for tests in which the serving process is killed. Each request is carried out at once.
public final class FileVolume: BlockVolume {
    /// Current size: the file's.
    public private(set) var size: ByteCount
    /// Never.
    public let isReadOnly = false
    /// Called after the size has changed.
    public var resized: ((ByteCount) -> Void)?
    /// How long the first write's answer takes.
    public var firstWriteDelay = Duration.zero
    private let file: Int32
    private let environment: any Environment
    private let pool = BufferPool()
    /// `lseek`: to the next data, to the next hole.
    private static let seekData: Int32 = 3, seekHole: Int32 = 4

    /// Opens a file; an empty or new one gets `size` bytes.
    /// - Returns: `nil` when the file cannot be had.
    public init?(environment: any Environment, path: String, size: ByteCount) {
        file = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0o600)
        guard file >= 0 else { return nil }
        var status = stat()
        guard fstat(file, &status) == 0 else { return nil }
        if status.st_size == 0, ftruncate(file, off_t(size.bytes)) != 0 { return nil }
        self.environment = environment
        self.size = status.st_size == 0 ? size : ByteCount(bytes: UInt64(status.st_size))
    }
    deinit { close(file) }

    /// Follows the file's size from now on, looking ten times a second.
    public func followSize() {
        var status = stat()
        if fstat(file, &status) == 0, status.st_size != off_t(size.bytes) {
            size = ByteCount(bytes: UInt64(status.st_size))
            resized?(size)
        }
        environment.after(.milliseconds(100)) { [self] in followSize() }
    }

    /// Carries the request out, answers later.
    public func submit(_ request: VolumeRequest, completed: @escaping (VolumeResult) -> Void) {
        let result = carryOut(request)
        var delay = Duration.zero
        if case .write = request { swap(&delay, &firstWriteDelay) }
        environment.after(delay) { completed(result) }
    }
    private func carryOut(_ request: VolumeRequest) -> VolumeResult {
        switch request {
        case .read(let start, let count):
            let buffer = pool.take(byteCount: count)
            guard pread(file, buffer.bytes.baseAddress, count, off_t(start.bytes)) == count else {
                return .failure(.outOfRange)
            }
            return .success([.data(Payload(buffer, byteCount: count))])
        case .write(let start, let payloads):
            var offset = off_t(start.bytes)
            for payload in payloads {
                let written = payload.withBytes { pwrite(file, $0.baseAddress, $0.count, offset) }
                guard written == payload.byteCount else { return .failure(.noSpace) }
                offset += off_t(written)
            }
            return .success([])
        case .compareAndWrite(let start, let expected, let new):
            return compareAndWrite(start, expected, new)
        case .trim(let start, let length), .writeZeroes(let start, let length):
            return zero(start, length)
        case .flush: return .success([])
        case .blockStatus(let start, let length): return blockStatus(start.bytes, length.bytes)
        }
    }
    private func compareAndWrite(
        _ start: ByteOffset, _ expected: [Payload], _ new: [Payload]
    ) -> VolumeResult {
        let wanted = expected.flatMap(\.array)
        let found = carryOut(.read(start: start, byteCount: wanted.count))
        guard case .success(let segments) = found else { return found }
        if let byte = Comparison.firstDifference(segments, wanted) {
            return .failure(.miscompare(atByte: byte))
        }
        return carryOut(.write(start: start, payloads: new))
    }
    /// As the file system sees it, cut to whole sectors.
    private func blockStatus(_ start: UInt64, _ length: UInt64) -> VolumeResult {
        var segments: [ReadSegment] = []
        var position = off_t(start)
        let end = off_t(start + length)
        while position < end {
            let data = lseek(file, position, Self.seekData)
            let dataStart = data < 0 ? end : min(end, data / 512 * 512)
            if dataStart > position { segments.append(.zeroes(Int(dataStart - position))) }
            guard dataStart < end else { break }
            let hole = lseek(file, max(position, dataStart), Self.seekHole)
            let dataEnd = hole < 0 ? end : min(end, (hole + 511) / 512 * 512)
            segments.append(.stored(Int(dataEnd - dataStart)))
            position = dataEnd
        }
        return .success(segments)
    }
    private func zero(_ start: ByteOffset, _ length: ByteCount) -> VolumeResult {
        let zeroes = [UInt8](repeating: 0, count: 64 << 10)
        var left = Int(length.bytes)
        while left > 0 {
            let step = min(left, zeroes.count)
            let offset = off_t(start.bytes) + off_t(Int(length.bytes) - left)
            guard pwrite(file, zeroes, step, offset) == step else { return .failure(.noSpace) }
            left -= step
        }
        return .success([])
    }
}
