import BlockTypes
import CLinux
import Glibc

/// A mutex with a condition. Plain pthreads, because the thread sanitizer understands them.
@safe final class Lock: @unchecked Sendable {
    // SAFETY: both are allocated in init and freed in deinit; pthreads make them safe for any thread.
    private let mutex = UnsafeMutablePointer<pthread_mutex_t>.allocate(capacity: 1)
    private let condition = UnsafeMutablePointer<pthread_cond_t>.allocate(capacity: 1)

    init() {
        unsafe pthread_mutex_init(mutex, nil)
        unsafe pthread_cond_init(condition, nil)
    }
    deinit {
        unsafe pthread_cond_destroy(condition)
        unsafe pthread_mutex_destroy(mutex)
        unsafe condition.deallocate()
        unsafe mutex.deallocate()
    }
    @inline(__always) func with<R>(_ body: () -> R) -> R {
        unsafe pthread_mutex_lock(mutex)
        defer { unsafe pthread_mutex_unlock(mutex) }
        return body()
    }
    /// Call inside ``with(_:)``: releases the lock until ``wakeAll()``.
    func wait() { unsafe pthread_cond_wait(condition, mutex) }
    func wakeAll() { unsafe pthread_cond_broadcast(condition) }
}

private final class ThreadStart {
    let name: String
    let run: () -> Void
    init(name: String, run: @escaping () -> Void) { (self.name, self.run) = (name, run) }
}

/// Runs `body` on a new thread. `sending` lets the closure carry over what only that thread will use.
func startThread(
    name: String, _ body: sending @escaping () -> Void
) -> Result<pthread_t, ReactorError> {
    let start = unsafe Unmanaged.passRetained(ThreadStart(name: name, run: body))
    var thread = pthread_t()
    // SAFETY: the new thread consumes the reference; nothing here keeps another.
    let code = unsafe pthread_create(
        &thread, nil,
        { raw in
            guard let raw = unsafe raw else { return nil }
            let start = unsafe Unmanaged<ThreadStart>.fromOpaque(raw).takeRetainedValue()
            unsafe curve_name_thread(start.name)
            start.run()
            return nil
        }, start.toOpaque())
    guard code == 0 else {
        unsafe start.release()
        return .failure(.system(errno: code, call: "pthread_create"))
    }
    return .success(thread)
}
