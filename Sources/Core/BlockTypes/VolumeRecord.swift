/// A copyset's replicated knowledge of one volume: its fence and which recent requests were done.
///
/// Part of the copyset's state machine: it changes only when a log entry is applied, so every replica that
/// has applied the same entries holds the same record.
public struct VolumeRecord: Hashable, Sendable {
    /// Whose requests are accepted, and the size.
    public private(set) var fence: VolumeFence
    /// True after the volume was deleted: every request for it is refused for good.
    public private(set) var isDeleted: Bool
    /// What was done, by attachment: one window for each of the fence's sessions, in their order.
    public private(set) var windows: [RequestWindow]

    /// A record with nothing done yet.
    public init(fence: VolumeFence) {
        (self.fence, isDeleted) = (fence, false)
        windows = fence.sessions.map { RequestWindow(session: $0) }
    }
    /// A record read from disk or wire.
    /// - Returns: `nil` when `windows` are not those of the fence's sessions.
    public init?(fence: VolumeFence, isDeleted: Bool, windows: [RequestWindow]) {
        guard windows.map(\.session) == fence.sessions, fence.group.count <= VolumeFence.groupMax else {
            return nil
        }
        (self.fence, self.isDeleted, self.windows) = (fence, isDeleted, windows)
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
        guard !isDeleted, let window = index(of: tag.session) else { return .stale }
        return windows[window].admission(of: tag.sequence)
    }
    /// Notes that a request was applied. Call only for what ``admission(of:)`` found fresh.
    public mutating func apply(_ tag: RequestTag) {
        guard let window = index(of: tag.session) else { return }
        windows[window].apply(tag.sequence)
    }
    /// Applies a fence: one that is not newer changes nothing. What attachments did that it accepts no more
    /// is forgotten; those that it still accepts go on as if nothing had happened.
    public mutating func apply(_ new: VolumeFence) {
        guard new.isNewer(than: fence) else { return }
        let old = windows
        windows = new.sessions.map { session in
            old.first { $0.session == session } ?? RequestWindow(session: session)
        }
        fence = new
    }
    /// Marks the volume deleted. Every request is refused from then on: which were done is forgotten, since
    /// records of deleted volumes stay and are copied with the copyset.
    public mutating func delete() {
        (isDeleted, fence.group) = (true, [])
        windows = [RequestWindow(session: fence.epoch)]
    }

    private func index(of session: Epoch) -> Int? {
        if isPlanted(.dedupShared), fence.accepts(session) { return 0 }
        return windows.firstIndex { $0.session == session }
    }
}
