import CLinux
import Glibc

extension Reactor {
    /// Allows this process as many open files as its hard limit says; for daemons, at their start. The usual
    /// soft limit of 1024 exists for programs that use select(2).
    /// - Returns: how many files may be open now.
    @discardableResult public static func raiseDescriptorLimit() -> UInt64 {
        var limit = rlimit()
        guard unsafe getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit) == 0 else { return 0 }
        let soft = limit.rlim_cur
        limit.rlim_cur = limit.rlim_max
        return unsafe setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit) == 0
            ? UInt64(limit.rlim_cur) : UInt64(soft)
    }
}
