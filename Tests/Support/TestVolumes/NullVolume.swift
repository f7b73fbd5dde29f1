import BlockTypes
import Environment

/// A volume that keeps nothing: writes are dropped, reads give zeroes. What is left is the server's cost.
///
/// A volume fills a buffer for each read where the servers beside it do, as nbdkit's null plugin does. tgt's
/// null unit fills nothing; there all reads have the same zeroes, which are always in the cache.
public final class NullVolume: BlockVolume {
    /// Its size, which never changes.
    public let size: ByteCount
    /// Never.
    public let isReadOnly = false
    /// Never called.
    public var resized: ((ByteCount) -> Void)?

    private struct Answer {
        var result: VolumeResult
        var completed: (VolumeResult) -> Void
    }
    private let environment: any Environment
    /// Longer reads are filled all the same.
    private static let zeroesBytes = 1 << 20
    private let pool = BufferPool()
    /// For all reads, when none is filled.
    private let zeroes: Payload?
    private var answers: [Answer] = []
    /// Those being given; swapped with ``answers``.
    private var round: [Answer] = []

    /// Nothing, `size` bytes of it.
    /// - Parameter fillsEveryRead: each read has a buffer of its own, filled for it; else all have the same.
    public init(environment: any Environment, size: ByteCount, fillsEveryRead: Bool) {
        (self.environment, self.size) = (environment, size)
        zeroes = fillsEveryRead ? nil : Payload(copying: [UInt8](repeating: 0, count: Self.zeroesBytes))
    }

    /// Answers in the same turn of the loop, together with all others of that turn.
    public func submit(_ request: VolumeRequest, completed: @escaping (VolumeResult) -> Void) {
        if answers.isEmpty { environment.after(.zero) { [self] in give() } }
        answers.append(Answer(result: .success(segments(request)), completed: completed))
    }
    private func give() {
        swap(&round, &answers)
        round.empty { $0.completed($0.result) }
    }
    private func segments(_ request: VolumeRequest) -> [ReadSegment] {
        switch request {
        case .read(_, let byteCount): return [.data(zeroes(byteCount))]
        case .blockStatus(_, let length): return [.stored(Int(length.bytes))]
        case .write, .compareAndWrite, .trim, .writeZeroes, .flush: return []
        }
    }
    private func zeroes(_ byteCount: Int) -> Payload {
        if let zeroes, byteCount <= zeroes.byteCount { return zeroes.slice(0, byteCount) }
        let buffer = pool.take(byteCount: byteCount)
        UnsafeMutableRawBufferPointer(rebasing: buffer.bytes[..<byteCount])
            .initializeMemory(as: UInt8.self, repeating: 0)
        return Payload(buffer, byteCount: byteCount)
    }
}
