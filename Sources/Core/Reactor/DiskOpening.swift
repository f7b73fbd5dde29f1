import BlockTypes
import CLinux
import Environment
import Glibc

/// What a disk is opened for.
public enum DiskMode: Hashable, Sendable {
    /// By its only owner.
    case readWrite
    /// By readers that may share it with each other, never with a writer.
    case readOnly
}

/// Why a disk could not be opened or made.
public enum DiskOpenError: Error, Hashable, Sendable, CustomStringConvertible {
    /// There is nothing at this path.
    case notFound(path: String)
    /// There is something at this path already.
    case exists(path: String)
    /// This user may not.
    case notPermitted(path: String)
    /// The file system or the device is read-only.
    case readOnly(path: String)
    /// Somebody else uses it.
    case busy(path: String, holder: String)
    /// Neither a regular file nor a block device.
    case notADisk(path: String)
    /// The file system below has no room for it.
    case full(path: String, wanted: ByteCount)
    /// Its sectors are larger than a block.
    case unsupportedSectors(path: String, bytes: Int)
    /// Anything else that the system said.
    case system(path: String, errno: Int32, call: String)

    /// What happened and what to do, in one line.
    public var description: String {
        switch self {
        case .notFound(let path): "\(path) does not exist; correct the path, or format it first"
        case .exists(let path):
            "\(path) exists already; choose another path, or remove it if it is not needed"
        case .notPermitted(let path):
            "no permission for \(path); give this user read and write access to it (a block device: group disk)"
        case .readOnly(let path): "\(path) is read-only; remount the file system or clear the device's switch"
        case .busy(let path, let holder): "\(path) is in use by \(holder); stop that first"
        case .notADisk(let path): "\(path) is neither a regular file nor a block device"
        case .full(let path, let wanted):
            "no room for \(wanted) at \(path); free space or choose a smaller size"
        case .unsupportedSectors(let path, let bytes):
            "\(path) has sectors of \(bytes) bytes; 512 and 4096 are supported"
        case .system(let path, let errno, let call): "\(call) \(path) failed: \(systemMessage(errno))"
        }
    }

    init(_ path: String, errno: Int32, call: String) {
        switch errno {
        case ENOENT, ENXIO, ENODEV: self = .notFound(path: path)
        case EEXIST: self = .exists(path: path)
        case EACCES, EPERM: self = .notPermitted(path: path)
        case EROFS: self = .readOnly(path: path)
        case EISDIR: self = .notADisk(path: path)
        default: self = .system(path: path, errno: errno, call: call)
        }
    }
}
