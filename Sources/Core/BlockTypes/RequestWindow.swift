/// Which recent requests of one attachment were done, as a copyset remembers it.
public struct RequestWindow: Hashable, Sendable {
    /// The attachment.
    public let session: Epoch
    /// Highest sequence applied.
    public private(set) var highestSequence: UInt64
    /// One bit for each of the last ``RequestTag/windowRequests`` sequences, at `sequence % windowRequests`.
    public private(set) var words: [UInt64]

    /// Words of ``words``.
    public static let wordCount = Int(RequestTag.windowRequests / 64)

    /// Nothing done yet.
    public init(session: Epoch) {
        (self.session, highestSequence) = (session, 0)
        words = Array(repeating: 0, count: Self.wordCount)
    }
    /// A window read from disk or wire.
    /// - Returns: `nil` when `words` has the wrong length.
    public init?(session: Epoch, highestSequence: UInt64, words: [UInt64]) {
        guard words.count == Self.wordCount else { return nil }
        (self.session, self.highestSequence, self.words) = (session, highestSequence, words)
    }

    /// What to do with the request numbered `sequence`.
    func admission(of sequence: UInt64) -> VolumeRecord.Admission {
        if sequence > highestSequence { return .fresh }
        if sequence + RequestTag.windowRequests <= highestSequence { return .stale }
        return isSet(sequence) ? .repeated : .fresh
    }
    /// Notes that it was applied.
    mutating func apply(_ sequence: UInt64) {
        if sequence > highestSequence {
            let next = isPlanted(.dedupWindowShort) ? highestSequence : highestSequence + 1
            let first = max(next, sequence &- min(sequence, RequestTag.windowRequests - 1))
            if sequence - highestSequence >= RequestTag.windowRequests {
                words = Array(repeating: 0, count: Self.wordCount)
            } else {
                for passed in first...sequence { set(passed, false) }
            }
            highestSequence = sequence
        }
        set(sequence, true)
    }

    private func isSet(_ sequence: UInt64) -> Bool {
        let bit = Int(sequence % RequestTag.windowRequests)
        return words[bit / 64] >> UInt64(bit % 64) & 1 == 1
    }
    private mutating func set(_ sequence: UInt64, _ value: Bool) {
        let bit = Int(sequence % RequestTag.windowRequests)
        let mask = UInt64(1) << UInt64(bit % 64)
        if value { words[bit / 64] |= mask } else { words[bit / 64] &= ~mask }
    }
}
