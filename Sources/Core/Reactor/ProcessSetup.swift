import CLinux
import Glibc

/// What a daemon asks of the system for itself, before its loop runs.
public enum ProcessSetup {
    /// Ends this process with SIGTERM when the one that started it ends, however that happens.
    /// - Parameter parent: the process that started this one, if known. Without it a parent with the number 1
    ///   is taken for the one that adopts orphans.
    public static func exitWithParent(_ parent: pid_t? = nil) {
        if curve_signal_at_parent_end(SIGTERM, parent ?? 0) == -ESRCH { exit(0) }
    }
}
