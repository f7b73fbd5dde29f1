import CLinux
import Glibc

/// Why no loop could be started on this machine.
public enum ReactorError: Error, Hashable, Sendable, CustomStringConvertible {
    /// io_uring exists but this process may not use it; `sysctl` is the value of kernel.io_uring_disabled.
    case forbidden(sysctl: Int?)
    /// The kernel was built without io_uring, or a sandbox stands in for the kernel.
    case missing(kernel: String)
    /// The kernel does not know a feature that the loop needs.
    case tooOld(kernel: String)
    /// No memory or locked-memory allowance for the rings.
    case outOfMemory
    /// Anything else that the system said.
    case system(errno: Int32, call: String)

    /// What happened and what to do, in one line.
    public var description: String {
        switch self {
        case .forbidden(.some(let value)) where value > 0:
            "io_uring is switched off on this host (kernel.io_uring_disabled = \(value)); "
                + "run `sysctl kernel.io_uring_disabled=0` as root"
                + (value == 1 ? ", or run as root or in the group kernel.io_uring_group" : "")
        case .forbidden:
            "io_uring is forbidden here, most likely by a container's seccomp profile; allow io_uring_setup, "
                + "io_uring_enter and io_uring_register (Docker: --security-opt seccomp=PROFILE)"
        case .missing(let kernel):
            "kernel \(kernel) has no io_uring; use a kernel built with CONFIG_IO_URING, and no sandbox "
                + "that replaces the kernel"
        case .tooOld(let kernel):
            "kernel \(kernel) lacks io_uring features that are needed (single issuer, deferred task work, "
                + "buffer rings); use Linux 6.1 or newer"
        case .outOfMemory:
            "no memory for io_uring; raise the locked-memory limit (ulimit -l) or free memory"
        case .system(let errno, let call):
            "\(call) failed: \(systemMessage(errno))"
        }
    }

    init(creatingRing errno: Int32) {
        switch errno {
        case EPERM, EACCES:
            self = .forbidden(sysctl: readSmallFile("/proc/sys/kernel/io_uring_disabled").flatMap { Int($0) })
        case ENOSYS: self = .missing(kernel: kernelRelease())
        case EINVAL: self = .tooOld(kernel: kernelRelease())
        case ENOMEM: self = .outOfMemory
        default: self = .system(errno: errno, call: "io_uring_setup")
        }
    }
}

/// The system's words for `errno`, with the number.
func systemMessage(_ errno: Int32) -> String {
    var text = [CChar](repeating: 0, count: 128)
    let words = unsafe text.withUnsafeMutableBufferPointer { buffer -> String in
        guard let base = buffer.baseAddress, unsafe strerror_r(errno, base, buffer.count) == 0 else {
            return "error"
        }
        return unsafe String(cString: base)
    }
    return "\(words) (errno \(errno))"
}

private func kernelRelease() -> String {
    var names = utsname()
    guard unsafe uname(&names) == 0 else { return "of unknown version" }
    return unsafe withUnsafeBytes(of: &names.release) {
        unsafe String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self)
    }
}

/// The text of a file in /proc or /sys without the space around it.
/// - Returns: `nil` when it cannot be read.
func readSmallFile(_ path: String, bytesMax: Int = 64 << 10) -> String? {
    let file = unsafe curve_open(path, O_RDONLY, 0)
    guard file >= 0 else { return nil }
    defer { close(file) }
    var bytes = [UInt8](repeating: 0, count: bytesMax)
    var filled = 0
    while filled < bytesMax {
        let count = unsafe bytes.withUnsafeMutableBytes { buffer -> Int in
            guard let base = buffer.baseAddress else { return 0 }
            return unsafe read(file, base + filled, bytesMax - filled)
        }
        guard count > 0 else { break }
        filled += count
    }
    var text = Substring(String(decoding: bytes[..<filled], as: UTF8.self))
    while let last = text.last, last.isWhitespace { text.removeLast() }
    return String(text.drop { $0.isWhitespace })
}
