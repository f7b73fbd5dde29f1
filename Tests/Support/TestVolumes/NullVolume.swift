import BlockTypes
import Environment

/// A volume that keeps nothing: writes are dropped, reads give zeroes. What is left is the server's cost.
///
/// A read is answered as a real volume's is: by a buffer of its own, filled for it. That is also what the
/// null plugin of nbdkit does.
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
    private let pool = BufferPool()
    private var answers: [Answer] = []
    /// Those being given; swapped with ``answers``.
    private var round: [Answer] = []

    /// Nothing, `size` bytes of it.
    public init(environment: any Environment, size: ByteCount) {
        (self.environment, self.size) = (environment, size)
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
        case .read(_, let byteCount):
            let buffer = pool.take(byteCount: byteCount)
            UnsafeMutableRawBufferPointer(rebasing: buffer.bytes[..<byteCount])
                .initializeMemory(as: UInt8.self, repeating: 0)
            return [.data(Payload(buffer, byteCount: byteCount))]
        case .blockStatus(_, let length): return [.stored(Int(length.bytes))]
        case .write, .compareAndWrite, .trim, .writeZeroes, .flush: return []
        }
    }
}
