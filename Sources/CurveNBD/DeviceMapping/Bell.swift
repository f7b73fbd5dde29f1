import Glibc

/// Wakes a thread that waits in `poll`, from any other thread.
public final class Bell: Sendable {
    /// Readable after ``ring()``, until ``quiet()``.
    let descriptor: Int32
    private let ringer: Int32

    /// - Returns: `nil` when the process has no descriptor left.
    public init?() {
        var ends: [Int32] = [-1, -1]
        guard unsafe pipe(&ends) == 0 else { return nil }
        for end in ends {
            _ = fcntl(end, F_SETFD, FD_CLOEXEC)
            _ = fcntl(end, F_SETFL, O_NONBLOCK)
        }
        (descriptor, ringer) = (ends[0], ends[1])
    }
    deinit {
        close(descriptor)
        close(ringer)
    }
    /// Ends the wait, or the next one. Never waits itself: a full pipe has rung.
    public func ring() {
        var byte: UInt8 = 1
        _ = unsafe write(ringer, &byte, 1)
    }
    func quiet() {
        var bytes = [UInt8](repeating: 0, count: 64)
        while unsafe read(descriptor, &bytes, bytes.count) == bytes.count {}
    }
}
