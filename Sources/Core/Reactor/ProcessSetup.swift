import CLinux
import Glibc

/// What a daemon asks of the system for itself, before its loop runs.
public enum ProcessSetup {
    /// Ends this process with SIGTERM when the one that started it ends, however that happens.
    public static func exitWithParent() {
        if curve_signal_at_parent_end(SIGTERM) == -ESRCH { exit(0) }
    }
}
