import CLinux
import Environment
import Glibc

/// A lock on a file (`flock`), which holds the note. The file stays when the lock is gone.
///
/// Whoever shares the file system shares the lock, as far as the file system says so.
public final class FileLock: ExclusiveLock {
    private let path: String
    private var descriptor: Int32 = -1

    /// The lock on the file at `path`, which is made when it is missing.
    public init(path: String) { self.path = path }
    deinit { release() }

    /// See ``ExclusiveLock``.
    public func take(note: String) throws(LockError) -> String? {
        guard descriptor < 0 else { return nil }
        let opened = unsafe curve_open(path, O_RDWR | O_CREAT, 0o644)
        guard opened >= 0 else { throw failure(errno: -opened, call: "open") }
        guard flock(opened, LOCK_EX | LOCK_NB) == 0 else {
            let why = errno
            close(opened)
            guard why == EWOULDBLOCK else { throw failure(errno: why, call: "flock") }
            return readSmallFile(path) ?? ""
        }
        descriptor = opened
        // A note that finds no room is no reason to do without the lock: then nobody is told.
        let bytes = Array(note.utf8)
        if ftruncate(opened, 0) == 0 { _ = unsafe pwrite(opened, bytes, bytes.count, 0) }
        return nil
    }
    /// See ``ExclusiveLock``.
    public func release() {
        if descriptor >= 0 { close(descriptor) }
        descriptor = -1
    }

    private func failure(errno: Int32, call: String) -> LockError {
        LockError("\(call) \(path) failed: \(systemMessage(errno)); let this user write there")
    }
}
