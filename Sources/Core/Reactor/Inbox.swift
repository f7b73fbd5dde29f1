import BlockTypes
import CLinux
import Glibc

/// Actions from any thread, and the bell that wakes the one loop that runs them.
@safe final class Inbox: @unchecked Sendable {
    // SAFETY: `waiting` and `state` are touched only under `lock`; the rest never changes. An action is
    // sent by one thread and run by another, never used by both.
    private let lock = Lock()
    private let waitingMax: Int
    private var waiting: [(Reactor) -> Void] = []
    private var state = State.open
    let bell: Int32

    /// Who may still post: everybody, only the loop's own blocking jobs, nobody.
    enum State { case open, draining, closed }

    init(waitingMax: Int) throws(ReactorError) {
        self.waitingMax = waitingMax
        bell = eventfd(0, Int32(EFD_CLOEXEC | EFD_NONBLOCK))
        guard bell >= 0 else { throw .system(errno: errno, call: "eventfd") }
    }
    deinit { if bell >= 0 { close(bell) } }

    /// - Parameter isReply: true for the outcome of a blocking job that the loop itself has started: their
    ///   number is bounded where they start.
    /// - Returns: false when the loop has ended or the inbox is full; the action is then dropped.
    func post(isReply: Bool = false, _ action: sending @escaping (Reactor) -> Void) -> Bool {
        var mustRing = false
        let posted = lock.with { () -> Bool in
            guard isReply ? state != .closed : state == .open && waiting.count < waitingMax else {
                return false
            }
            mustRing = waiting.isEmpty  // A burst costs one wake-up.
            waiting.append(action)
            return true
        }
        if mustRing { eventfd_write(bell, 1) }
        return posted
    }
    /// - Returns: what was posted since the last call, oldest first.
    func take() -> [(Reactor) -> Void] {
        var count: eventfd_t = 0
        unsafe eventfd_read(bell, &count)  // Before taking: a post in between must ring again.
        var taken: [(Reactor) -> Void] = []
        lock.with { swap(&waiting, &taken) }
        return taken
    }
    func enter(_ new: State) { lock.with { state = new } }
}

/// A loop as other threads see it.
public struct ReactorHandle: Sendable {
    let inbox: Inbox

    /// Runs `action` on the loop, in the order of posting. An accepted action runs exactly once, also when
    /// the loop is stopping.
    /// - Returns: false when the loop has ended or ``ReactorLimits/postedActionsMax`` actions wait already;
    ///   the action was dropped.
    public func post(_ action: sending @escaping (Reactor) -> Void) -> Bool { inbox.post(action) }
    /// Asks the loop to end; harmless when it has.
    public func stop() { _ = inbox.post(isReply: true) { $0.stop() } }
}
