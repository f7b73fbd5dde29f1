import Foundation

/// A process that serves devices, or will: a spare has been started and waits, since most of what a death
/// costs is the start of the next process.
struct WatchedProcess {
    let pid: pid_t
    /// Where a spare is told to begin; its end tells it to end.
    private let starter: Int32

    /// Starts this program as a worker.
    /// - Returns: `nil` when that fails; `errno` says why.
    init?(_ program: String, _ arguments: [String], isSpare: Bool = false) {
        var ends: [Int32] = [-1, -1]
        guard !isSpare || pipe(&ends) == 0 else { return nil }
        if isSpare { _ = fcntl(ends[1], F_SETFD, FD_CLOEXEC) }
        defer { if isSpare { close(ends[0]) } }
        var attributes = posix_spawnattr_t()
        posix_spawnattr_init(&attributes)
        defer { posix_spawnattr_destroy(&attributes) }
        var none = sigset_t()
        sigemptyset(&none)
        posix_spawnattr_setsigmask(&attributes, &none)
        posix_spawnattr_setflags(&attributes, Int16(POSIX_SPAWN_SETSIGMASK))
        let spareWords = isSpare ? ["--spare", "\(ends[0])"] : []
        let words = ([program] + arguments + ["--worker"] + spareWords).map { strdup($0) } + [nil]
        defer { words.forEach { free($0) } }
        var pid: pid_t = 0
        let result = posix_spawn(&pid, "/proc/self/exe", nil, &attributes, words, environ)
        guard result == 0 else {
            if isSpare { close(ends[1]) }
            errno = result
            return nil
        }
        (self.pid, starter) = (pid, ends[1])
    }

    /// Tells a spare to begin.
    /// - Returns: `nil` when it has gone.
    func go() -> WatchedProcess? {
        var byte: UInt8 = 1
        let begins = write(starter, &byte, 1) == 1 && waitpid(pid, nil, WNOHANG) == 0
        close(starter)
        return begins ? self : nil
    }
    /// Ends a spare.
    func end() {
        close(starter)
        waitpid(pid, nil, 0)
    }
    /// What a spare does.
    /// - Returns: false when whoever started it has gone.
    static func waitForGo(on descriptor: Int32) -> Bool {
        var byte: UInt8 = 0
        var count: Int
        repeat { count = read(descriptor, &byte, 1) } while count < 0 && errno == EINTR
        close(descriptor)
        return count == 1
    }
}
