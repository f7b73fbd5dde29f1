import Glibc

/// Starts this program again as a daemon, and lets the daemon say when it is ready.
public enum Background {
    /// The descriptor on which a daemon reports; its first line tells success from failure.
    private static let reportDescriptor: Int32 = 3
    /// Set for a daemon that has the descriptor; any other process may have something else there.
    private static let reportVariable = "CURVE_REPORTS_TO_PARENT"
    private static let readyPrefix = "ready "
    private static let failedPrefix = "failed "
    private static let reportBytesMax = 4096

    /// Runs this program in a new session and waits for its report. Call it while there is only one thread.
    /// - Parameters:
    ///   - arguments: without the program's own name.
    ///   - logPath: where its standard error goes; `nil` leaves it where ours goes.
    ///   - timeoutSeconds: how long it may take to report.
    /// - Returns: what the daemon gave to ``ready(_:)``.
    /// - Throws: ``DeviceError/daemon(_:status:)`` with what it gave to ``failed(_:status:)``, or with what
    ///   happened instead.
    public static func start(
        arguments: [String], logPath: String?, timeoutSeconds: Int32 = 120
    ) throws(DeviceError) -> String {
        var ends: [Int32] = [0, 0]
        guard unsafe pipe(&ends) == 0 else { throw .system(call: "pipe", errno: errno) }
        for end in ends { _ = fcntl(end, F_SETFD, FD_CLOEXEC) }
        defer { close(ends[0]) }
        let pid: pid_t
        do throws(DeviceError) {
            pid = try spawn(arguments, logPath, reportingOn: ends[1])
        } catch {
            close(ends[1])
            throw error
        }
        close(ends[1])
        let report = line(from: ends[0], timeoutSeconds)
        if report.hasPrefix(readyPrefix) { return String(report.dropFirst(readyPrefix.count)) }
        if report.hasPrefix(failedPrefix) {
            let words = report.dropFirst(failedPrefix.count).split(separator: " ", maxSplits: 1)
            throw .daemon(words.count == 2 ? String(words[1]) : report, status: Int32(words.first ?? "") ?? 2)
        }
        kill(pid, SIGTERM)
        throw .daemon(
            "the daemon ended or was silent for \(timeoutSeconds) s before it was ready; see its log",
            status: 2)
    }
    /// True in a process that ``start(arguments:logPath:timeoutSeconds:)`` made, until it has reported.
    public static var isDaemon: Bool { unsafe getenv(reportVariable) != nil }

    /// Leaves the report to a process that this one has started.
    public static func leaveReport() {
        guard isDaemon else { return }
        unsafe unsetenv(reportVariable)
        close(reportDescriptor)
    }

    /// Tells the process that started this one that all is well.
    public static func ready(_ text: String) { report(readyPrefix + text) }

    /// Tells the process that started this one why it cannot work.
    /// - Parameter status: the exit status that fits.
    public static func failed(_ text: String, status: Int32) { report("\(failedPrefix)\(status) \(text)") }

    private static func report(_ text: String) {
        guard isDaemon else { return }
        unsafe unsetenv(reportVariable)
        let oneLine = text.replacing("\n", with: " ") + "\n"
        let bytes = Array(oneLine.utf8.prefix(reportBytesMax))
        // Nobody to report to is no reason to stop.
        _ = unsafe bytes.withUnsafeBytes { unsafe write(reportDescriptor, $0.baseAddress, $0.count) }
        close(reportDescriptor)
    }
    private static func line(from descriptor: Int32, _ timeoutSeconds: Int32) -> String {
        var (bytes, piece) = ([UInt8](), [UInt8](repeating: 0, count: 512))
        while bytes.count < reportBytesMax, !bytes.contains(0x0A) {
            var waited = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
            let count = unsafe poll(&waited, 1, timeoutSeconds * 1000)
            if count < 0, errno == EINTR { continue }
            guard count > 0 else { break }
            let got = unsafe piece.withUnsafeMutableBytes {
                unsafe read(descriptor, $0.baseAddress, $0.count)
            }
            guard got > 0 else { break }
            bytes += piece[..<got]
        }
        return String(decoding: bytes.prefix { $0 != 0x0A }, as: UTF8.self)
    }
    /// Runs this program in a new session and does not wait for anything. Its standard error is ours.
    static func spawnApart(_ arguments: [String]) throws(DeviceError) {
        var actions = unsafe posix_spawn_file_actions_t()
        unsafe posix_spawn_file_actions_init(&actions)
        defer { unsafe posix_spawn_file_actions_destroy(&actions) }
        unsafe posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDWR, 0)
        unsafe posix_spawn_file_actions_adddup2(&actions, 0, 1)
        try unsafe spawn(arguments, &actions)
    }
    private static func spawn(
        _ arguments: [String], _ logPath: String?, reportingOn report: Int32
    ) throws(DeviceError) -> pid_t {
        var actions = unsafe posix_spawn_file_actions_t()
        unsafe posix_spawn_file_actions_init(&actions)
        defer { unsafe posix_spawn_file_actions_destroy(&actions) }
        unsafe posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDWR, 0)
        unsafe posix_spawn_file_actions_adddup2(&actions, 0, 1)
        if let logPath {
            unsafe posix_spawn_file_actions_addopen(
                &actions, 2, logPath, O_WRONLY | O_CREAT | O_APPEND, 0o600)
        }
        unsafe posix_spawn_file_actions_adddup2(&actions, report, reportDescriptor)
        unsafe setenv(reportVariable, "1", 1)
        defer { unsafe unsetenv(reportVariable) }
        return try unsafe spawn(arguments, &actions)
    }
    @unsafe @discardableResult private static func spawn(
        _ arguments: [String], _ actions: inout posix_spawn_file_actions_t
    ) throws(DeviceError) -> pid_t {
        var attributes = posix_spawnattr_t()
        unsafe posix_spawnattr_init(&attributes)
        defer { unsafe posix_spawnattr_destroy(&attributes) }
        // POSIX_SPAWN_SETSID, which glibc declares for GNU sources only: the daemon outlives our terminal.
        unsafe posix_spawnattr_setflags(&attributes, 0x80)
        var pid: pid_t = 0
        let name = CommandLine.arguments.first ?? "curve-nbd"
        let words = unsafe ([name] + arguments).map { unsafe strdup($0) } + [nil]
        defer { unsafe words.forEach { unsafe free($0) } }
        let result = unsafe posix_spawn(&pid, "/proc/self/exe", &actions, &attributes, words, environ)
        guard result == 0 else { throw .system(call: "start the daemon", errno: result) }
        return pid
    }
}
