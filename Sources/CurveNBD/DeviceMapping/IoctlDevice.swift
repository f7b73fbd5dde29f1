import BlockTypes
import Glibc

/// The driver's older interface, for kernels that do not speak of NBD by netlink.
///
/// A device lives as long as one thread waits in NBD_DO_IT, which is why a holder has it and not a daemon.
/// What the interface cannot do: replace a connection that died, so a holder's death takes the device with
/// it; name the volume, so only the holder knows whose it is. Numbers: linux/nbd.h.
enum IoctlDevice {
    private static let setSocket: UInt = 0xab00, setBlockSize: UInt = 0xab01, doIt: UInt = 0xab03
    private static let clearSocket: UInt = 0xab04, setSizeBlocks: UInt = 0xab07, disconnect: UInt = 0xab08
    private static let setTimeout: UInt = 0xab09, setFlags: UInt = 0xab0a

    /// What the driver is told of a device, in the order of a holder's line.
    struct Shape: Hashable {
        var blocks: UInt64
        var blockBytes: UInt64
        var flags: UInt64
        var timeoutSeconds: UInt64

        init(_ setup: DeviceSetup) {
            blockBytes = UInt64(setup.blockBytes)
            blocks = setup.size.bytes / blockBytes
            (flags, timeoutSeconds) = (UInt64(setup.flags.rawValue), setup.requestTimeoutSeconds)
        }
        init?(_ text: Substring) {
            let numbers = text.split(separator: ",").compactMap { UInt64($0) }
            guard numbers.count == 4 else { return nil }
            (blocks, blockBytes, flags, timeoutSeconds) = (numbers[0], numbers[1], numbers[2], numbers[3])
        }
        var text: String { "\(blocks),\(blockBytes),\(flags),\(timeoutSeconds)" }
    }

    /// A device that nobody uses.
    /// - Throws: ``DeviceError/noneFree``, ``DeviceError/noModule``.
    static func free(_ wanted: UInt32?, _ table: BlockDeviceTable) throws(DeviceError) -> UInt32 {
        guard table.hasModule else { throw .noModule }
        if let wanted {
            guard !table.isConnected(wanted) else { throw .busy("/dev/nbd\(wanted)") }
            return wanted
        }
        guard let device = table.devices().first(where: { !$0.isConnected && $0.size == .zero }) else {
            throw .noneFree
        }
        return device.index
    }
    /// Opens a device for its owner.
    static func open(_ index: UInt32) throws(DeviceError) -> Int32 {
        let file = unsafe Glibc.open("/dev/nbd\(index)", O_RDWR | O_CLOEXEC)
        guard file >= 0 else {
            throw errno == EACCES || errno == EPERM
                ? .notPermitted : .system(call: "open /dev/nbd\(index)", errno: errno)
        }
        return file
    }
    /// Gives a device its shape and its connections; the driver takes them from one thread only.
    static func prepare(_ device: Int32, _ shape: Shape, _ sockets: [Int32]) throws(DeviceError) {
        try order(device, setBlockSize, shape.blockBytes, "NBD_SET_BLKSIZE")
        try order(device, setSizeBlocks, shape.blocks, "NBD_SET_SIZE_BLOCKS")
        try order(device, setTimeout, shape.timeoutSeconds, "NBD_SET_TIMEOUT")
        try order(device, setFlags, shape.flags, "NBD_SET_FLAGS")
        for socket in sockets { try order(device, setSocket, UInt64(socket), "NBD_SET_SOCK") }
    }
    /// Is the device until it is disconnected. Blocks for as long.
    static func live(_ device: Int32) {
        _ = ioctl(device, doIt)
        _ = ioctl(device, clearSocket)
    }
    /// Ends a device.
    static func end(_ index: UInt32) throws(DeviceError) {
        let device = try open(index)
        defer { close(device) }
        try order(device, disconnect, 0, "NBD_DISCONNECT")
    }
    /// The volume has another size.
    static func resize(_ index: UInt32, _ shape: Shape) throws(DeviceError) {
        let device = try open(index)
        defer { close(device) }
        try order(device, setSizeBlocks, shape.blocks, "NBD_SET_SIZE_BLOCKS")
    }
    private static func order(
        _ device: Int32, _ number: UInt, _ value: UInt64, _ name: String
    ) throws(DeviceError) {
        // The driver takes the number itself where others take a pointer.
        let result =
            if let argument = unsafe UnsafeMutableRawPointer(bitPattern: UInt(value)) {
                unsafe ioctl(device, number, argument)
            } else { ioctl(device, number, 0) }
        guard result >= 0 else {
            throw errno == EPERM || errno == EACCES ? .notPermitted : .system(call: name, errno: errno)
        }
    }
}
