/// A copyset's replicated knowledge of one volume: its fence and which recent requests were done.
///
/// Part of the copyset's state machine: it changes only when a log entry is applied, so every replica that
/// has applied the same entries holds the same record.
public struct VolumeRecord: Hashable, Sendable {
    /// The accepted epoch and the size.
    public private(set) var fence: VolumeFence
    /// True after the volume was deleted: every request for it is refused for good.
    public private(set) var isDeleted: Bool
    /// Highest sequence applied in the fence's epoch.
    public private(set) var highestSequence: UInt64
    /// One bit for each of the last ``RequestTag/windowRequests`` sequences, at `sequence % windowRequests`.
    public private(set) var window: [UInt64]

    /// Words of ``window``.
    public static let windowWords = Int(RequestTag.windowRequests / 64)

    /// A record with nothing done yet.
    public init(fence: VolumeFence) {
        (self.fence, isDeleted, highestSequence) = (fence, false, 0)
        window = Array(repeating: 0, count: Self.windowWords)
    }
    /// A record read from disk or wire.
    /// - Returns: `nil` when `window` has the wrong length.
    public init?(fence: VolumeFence, isDeleted: Bool, highestSequence: UInt64, window: [UInt64]) {
        guard window.count == Self.windowWords else { return nil }
        (self.fence, self.isDeleted) = (fence, isDeleted)
        (self.highestSequence, self.window) = (highestSequence, window)
    }

    /// What to do with a request.
    public enum Admission: Hashable, Sendable {
        /// Not done yet: do it.
        case fresh
        /// Done already: answer success, do nothing.
        case repeated
        /// Of an older attachment, or so old that nobody remembers it: refuse.
        case stale
    }
    /// Judges a request by its tag. A tag of a newer session is stale too: its fence must be applied first.
    public func admission(of tag: RequestTag) -> Admission {
        guard tag.session == fence.epoch, !isDeleted else { return .stale }
        if tag.sequence > highestSequence { return .fresh }
        if tag.sequence + RequestTag.windowRequests <= highestSequence { return .stale }
        return isSet(tag.sequence) ? .repeated : .fresh
    }
    /// Notes that a request was applied. Call only for what ``admission(of:)`` found fresh.
    public mutating func apply(_ tag: RequestTag) {
        if tag.sequence > highestSequence {
            let next = isPlanted(.dedupWindowShort) ? highestSequence : highestSequence + 1
            let first = max(
                next, tag.sequence &- min(tag.sequence, RequestTag.windowRequests - 1))
            if tag.sequence - highestSequence >= RequestTag.windowRequests {
                window = Array(repeating: 0, count: Self.windowWords)
            } else {
                for sequence in first...tag.sequence { set(sequence, false) }
            }
            highestSequence = tag.sequence
        }
        set(tag.sequence, true)
    }
    /// Applies a fence: one that is not newer changes nothing; a higher epoch forgets the old attachment's
    /// requests.
    public mutating func apply(_ new: VolumeFence) {
        guard new.isNewer(than: fence) else { return }
        if new.epoch > fence.epoch {
            highestSequence = 0
            window = Array(repeating: 0, count: Self.windowWords)
        }
        fence = new
    }
    /// Marks the volume deleted. Every request is refused from then on: which were done is forgotten, since
    /// records of deleted volumes stay and are copied with the copyset.
    public mutating func delete() {
        (isDeleted, highestSequence) = (true, 0)
        window = Array(repeating: 0, count: Self.windowWords)
    }

    private func isSet(_ sequence: UInt64) -> Bool {
        let bit = Int(sequence % RequestTag.windowRequests)
        return window[bit / 64] >> UInt64(bit % 64) & 1 == 1
    }
    private mutating func set(_ sequence: UInt64, _ value: Bool) {
        let bit = Int(sequence % RequestTag.windowRequests)
        let mask = UInt64(1) << UInt64(bit % 64)
        if value { window[bit / 64] |= mask } else { window[bit / 64] &= ~mask }
    }
}
