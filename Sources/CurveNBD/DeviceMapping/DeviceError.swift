import BlockTypes
import NBDProtocol

/// Why a block device could not be made, changed or removed. Closed on purpose: the tool explains each case.
public enum DeviceError: Error, Hashable, Sendable, CustomStringConvertible {
    /// The kernel has no network block devices.
    case noModule
    /// Only root, or who has CAP_SYS_ADMIN, may configure devices.
    case notPermitted
    /// The text names no NBD device.
    case noSuchDevice(String)
    /// The device serves something else.
    case busy(String)
    /// Every device is taken.
    case noneFree
    /// It is mounted, swapped to, or something is stacked on it.
    case inUse(device: String, by: [String])
    /// The kernel has not let the device go in time; somebody still has it open.
    case stillHeld(device: String)
    /// The device is not connected.
    case notConnected(String)
    /// The device was connected by something else under this identifier.
    case belongsToAnother(device: String, identifier: String)
    /// The server behind the device was not usable.
    case server(NBDClientError)
    /// The daemon ended, was silent, or said why it cannot work, with the exit status that it chose.
    case daemon(String, status: Int32)
    /// Anything else the system said.
    case system(call: String, errno: Int32)

    /// What happened and what to do, in one line.
    public var description: String {
        switch self {
        case .noModule: "the kernel has no NBD devices; run: modprobe nbd"
        case .notPermitted: "configuring NBD devices needs root or CAP_SYS_ADMIN"
        case .noSuchDevice(let name): "'\(name)' is not an NBD device; give /dev/nbdN, or list the devices"
        case .busy(let device):
            "\(device) serves something else; choose another device or let the kernel choose"
        case .noneFree: "every NBD device is taken; unmap one, or load the module with a larger nbds_max"
        case .inUse(let device, let users):
            "\(device) is in use by \(users.joined(separator: ", ")); release it first"
        case .stillHeld(let device):
            "\(device) was disconnected, but a process still has it open; see: fuser \(device)"
        case .notConnected(let device): "\(device) is not connected"
        case .belongsToAnother(let device, let identifier): "\(device) belongs to '\(identifier)'"
        case .server(let error): "\(error)"
        case .daemon(let what, _): what
        case .system(let call, let errno): "\(call): \(Text.ofErrno(errno))"
        }
    }
}
