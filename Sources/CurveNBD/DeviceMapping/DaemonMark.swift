import Glibc

/// Shows which process serves a device: a file that the daemon keeps locked, with its number in it.
///
/// The kernel remembers only who made the device first, and a daemon's death is not always seen by others;
/// a lock goes with its process.
public final class DaemonMark {
    /// Where marks are, unless the owner of the mapping wants them elsewhere.
    public static let defaultFolder = "/run/curve-nbd"
    private let file: Int32
    /// A reader holds the lock for a moment; two daemons never share a device.
    private static let (lockTries, lockPauseMicroseconds) = (100, UInt32(10_000))

    /// Marks this process as the one that serves device `index`, until the mark is released.
    /// - Throws: ``DeviceError/busy(_:)`` when another process has it.
    init(index: UInt32, folder: String) throws(DeviceError) {
        guard unsafe mkdir(folder, 0o755) == 0 || errno == EEXIST else {
            throw .system(call: "create \(folder)", errno: errno)
        }
        let path = Self.path(index, folder)
        let file = unsafe open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0o644)
        guard file >= 0 else { throw .system(call: "open \(path)", errno: errno) }
        var triesLeft = Self.lockTries
        while flock(file, LOCK_EX | LOCK_NB) != 0 {
            triesLeft -= 1
            guard triesLeft > 0 else {
                close(file)
                throw .busy("/dev/nbd\(index)")
            }
            usleep(Self.lockPauseMicroseconds)
        }
        let text = Array("\(getpid())\n".utf8)
        let written = ftruncate(file, 0) == 0 ? unsafe write(file, text, text.count) : -1
        guard written == text.count else {
            close(file)
            throw .system(call: "write \(path)", errno: errno)
        }
        self.file = file
    }
    deinit { close(file) }

    /// The process that serves device `index` now.
    /// - Returns: `nil` when no process does.
    public static func pid(of index: UInt32, folder: String = defaultFolder) -> Int? {
        let path = path(index, folder)
        let file = unsafe open(path, O_RDONLY | O_CLOEXEC)
        guard file >= 0 else { return nil }
        defer { close(file) }
        guard flock(file, LOCK_SH | LOCK_NB) != 0 else { return nil }
        return Text.line(path).flatMap { Int($0) }
    }
    private static func path(_ index: UInt32, _ folder: String) -> String { "\(folder)/nbd\(index)" }
}
