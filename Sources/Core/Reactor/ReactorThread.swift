import BlockTypes
import CLinux

/// A loop on a thread of its own, for callers that are not on a loop: the client library's public face,
/// daemons that spread over several loops.
@safe public final class ReactorThread: @unchecked Sendable {
    // SAFETY: `thread` and `isJoined` are touched only under `lock`; `handle` never changes.
    private let lock = Lock()
    private var thread: pthread_t
    private var isJoined = false
    /// The loop, for posting.
    public let handle: ReactorHandle

    /// Starts the thread, makes the loop there, runs `setUp` on it, then the loop, then `ended`.
    /// - Parameters:
    ///   - name: shown by ps and top; 15 bytes of it.
    ///   - ended: runs on the thread after the last action; timers and connections no longer call back.
    /// - Throws: ``ReactorError`` when the loop or the thread cannot be had.
    public init(
        name: String, limits: ReactorLimits = ReactorLimits(),
        setUp: sending @escaping (Reactor) -> Void = { _ in },
        ended: sending @escaping () -> Void = {}
    ) throws(ReactorError) {
        let started = Started()
        thread = try startThread(name: name) {
            do throws(ReactorError) {
                let reactor = try Reactor(limits: limits)
                started.tell(.success(reactor.handle))
                setUp(reactor)
                reactor.run()
                ended()
            } catch {
                started.tell(.failure(error))
            }
        }.get()
        do throws(ReactorError) {
            handle = try started.wait()
        } catch {
            pthread_join(thread, nil)
            throw error
        }
    }
    deinit {
        // Nobody can join any more; the thread goes on until its loop is stopped.
        if !isJoined { pthread_detach(thread) }
    }

    /// Runs `action` on the loop, in the order of posting.
    /// - Returns: false when the loop has ended or too many actions wait; the action was dropped.
    public func post(_ action: sending @escaping (Reactor) -> Void) -> Bool { handle.post(action) }
    /// Asks the loop to end.
    public func stop() { handle.stop() }
    /// Waits until the loop has ended. Not from the loop itself.
    public func join() {
        let mustJoin = lock.with { () -> Bool in
            defer { isJoined = true }
            return !isJoined
        }
        if mustJoin { pthread_join(thread, nil) }
    }
}

/// How the new thread tells its maker whether there is a loop.
private final class Started: @unchecked Sendable {
    // SAFETY: `outcome` is touched only under `lock`.
    private let lock = Lock()
    private var outcome: Result<ReactorHandle, ReactorError>?

    func tell(_ result: Result<ReactorHandle, ReactorError>) {
        lock.with {
            outcome = result
            lock.wakeAll()
        }
    }
    func wait() throws(ReactorError) -> ReactorHandle {
        let result = lock.with { () -> Result<ReactorHandle, ReactorError> in
            while true {
                if let outcome { return outcome }
                lock.wait()
            }
        }
        return try result.get()
    }
}
