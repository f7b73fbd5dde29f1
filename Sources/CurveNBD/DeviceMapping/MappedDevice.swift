import BlockTypes
import Glibc
import NBDProtocol

/// What the owner of a mapping may choose.
public struct MapOptions: Hashable, Sendable {
    /// N of /dev/nbdN; `nil` takes over a device of the same identifier, else lets the kernel choose.
    public var index: UInt32?
    /// Sockets between kernel and server; a second one keeps requests flowing while one is replaced.
    public var connections = 2
    /// Logical block size of the device; `nil` takes what the server prefers.
    public var blockBytes: Int?
    /// See ``DeviceSetup/requestTimeoutSeconds``; `nil` keeps the default.
    public var requestTimeoutSeconds: UInt64?
    /// See ``DeviceSetup/deadConnectionTimeoutSeconds``; `nil` keeps the default.
    public var deadConnectionTimeoutSeconds: UInt64?
    /// Names the volume in the kernel's list.
    public var identifier: String
    /// Takes over a device that waits for a daemon, and makes none.
    public var mustExist = false
    /// Tells the kernel that blocks cannot be given back.
    public var refusesTrim = false
    /// Where daemons mark the devices that they serve.
    public var markFolder = DaemonMark.defaultFolder
    /// The usual choices for a volume named `identifier`.
    public init(identifier: String) { self.identifier = identifier }
}

/// A kernel block device over an NBD server on this machine. Blocks; belongs to one thread, which must not be
/// the server's loop.
public final class MappedDevice {
    /// N of /dev/nbdN.
    public let index: UInt32
    private let socketPath: String
    private let exportName: String
    private let connections: Int
    private var setup: DeviceSetup
    private let kernel: NBDKernel
    private let events: NBDKernelEvents
    private let table = BlockDeviceTable()
    private let mark: DaemonMark

    /// /dev/nbdN.
    public var path: String { "/dev/nbd\(index)" }

    /// Makes a device of an export, or gives a device that lost its daemon new connections.
    /// - Parameter socketPath: the Unix socket on which the server listens.
    /// - Throws: ``DeviceError``.
    public init(socketPath: String, exportName: String, options: MapOptions) throws(DeviceError) {
        (self.socketPath, self.exportName) = (socketPath, exportName)
        connections = max(1, options.connections)
        kernel = try NBDKernel()
        events = try NBDKernelEvents()
        let sockets = try Self.sockets(connections, socketPath, exportName)
        let info = sockets[0].info
        var setup = DeviceSetup(size: info.size, flags: info.flags, identifier: options.identifier)
        if options.refusesTrim { setup.flags.remove(.trim) }
        setup.index = options.index
        setup.blockBytes =
            options.blockBytes ?? Int(min(info.preferredBlockBytes, UInt32(Geometry.blockBytes)))
        setup.requestTimeoutSeconds = options.requestTimeoutSeconds ?? setup.requestTimeoutSeconds
        setup.deadConnectionTimeoutSeconds =
            options.deadConnectionTimeoutSeconds ?? setup.deadConnectionTimeoutSeconds
        self.setup = setup
        if let orphan = try Self.orphan(options, table) {
            index = orphan
            mark = try DaemonMark(index: index, folder: options.markFolder)
            try kernel.reconnect(orphan, setup, sockets: sockets.map(\.descriptor))
        } else {
            guard !options.mustExist else {
                throw .notConnected(options.index.map { "/dev/nbd\($0)" } ?? options.identifier)
            }
            index = try kernel.connect(setup, sockets: sockets.map(\.descriptor))
            mark = try DaemonMark(index: index, folder: options.markFolder)
        }
        extendLifetime(sockets)
    }
    /// A connected device of this identifier: its daemon is gone, or the volume would not have let us attach.
    private static func orphan(_ options: MapOptions, _ table: BlockDeviceTable) throws(DeviceError)
        -> UInt32?
    {
        guard let wanted = options.index else {
            return table.devices().first { $0.isConnected && $0.identifier == options.identifier }?.index
        }
        guard let device = table.device(wanted) else { throw .noSuchDevice("/dev/nbd\(wanted)") }
        guard device.isConnected else { return nil }
        guard device.identifier == options.identifier else {
            throw device.identifier.map { .belongsToAnother(device: device.path, identifier: $0) }
                ?? .busy(device.path)
        }
        return wanted
    }
    private static func sockets(
        _ count: Int, _ path: String, _ exportName: String
    ) throws(DeviceError) -> [ServerSocket] {
        var sockets: [ServerSocket] = []
        for _ in 0..<count { sockets.append(try ServerSocket(path: path, exportName: exportName)) }
        return sockets
    }
    /// True while the kernel has the device.
    public var isConnected: Bool { table.isConnected(index) }

    /// Waits for the kernel to lose a connection, and replaces what it lost.
    /// - Returns: false when the device has been unmapped: its daemon may end.
    /// - Throws: ``DeviceError``; the device stays, and the next call tries again.
    public func keepAlive(forMilliseconds timeout: Int32) throws(DeviceError) -> Bool {
        let lost = try events.lostConnections(withinMilliseconds: timeout)
        guard isConnected else { return false }
        if lost.contains(index) {
            let sockets = try Self.sockets(connections, socketPath, exportName)
            setup.size = sockets[0].info.size
            try kernel.reconnect(index, setup, sockets: sockets.map(\.descriptor))
            extendLifetime(sockets)
        }
        return true
    }
    /// Tells the kernel the volume's new size.
    public func resize(to size: ByteCount) throws(DeviceError) {
        try kernel.resize(index, to: size)
        setup.size = size
    }
}

/// Removes devices, whoever made them.
public enum DeviceRemoval {
    /// Disconnects a device and returns when the kernel has let it go and its daemon has ended.
    /// - Parameters:
    ///   - force: also when it is in use; whoever uses it gets errors.
    ///   - timeoutSeconds: how long processes that have it open may take to close it.
    ///   - waitsForDaemon: false when the daemon itself asks.
    /// - Throws: ``DeviceError``.
    public static func unmap(
        _ index: UInt32, force: Bool, timeoutSeconds: Int = 30, waitsForDaemon: Bool = true,
        markFolder: String = DaemonMark.defaultFolder
    ) throws(DeviceError) {
        let table = BlockDeviceTable()
        guard let device = table.device(index) else {
            throw table.hasModule ? .noSuchDevice("/dev/nbd\(index)") : .noModule
        }
        guard device.isConnected else { throw .notConnected(device.path) }
        if !force {
            guard device.users.isEmpty else { throw .inUse(device: device.path, by: device.users) }
            try writeBack(device)
        }
        try NBDKernel().disconnect(index)
        for _ in 0..<(timeoutSeconds * 1000 / pollMilliseconds) {
            let hasDaemon = waitsForDaemon && DaemonMark.pid(of: index, folder: markFolder) != nil
            if !table.isConnected(index), !hasDaemon { return }
            usleep(UInt32(pollMilliseconds) * 1000)
        }
        throw table.isConnected(index)
            ? .stillHeld(device: device.path)
            : .daemon("\(device.path) is gone, but its daemon is still running", status: 2)
    }
    private static let pollMilliseconds = 20

    /// Opens the device for this process alone, which fails while any mount namespace has it, and flushes it.
    private static func writeBack(_ device: NBDDevice) throws(DeviceError) {
        let mode = (device.isReadOnly ? O_RDONLY : O_RDWR) | O_EXCL | O_CLOEXEC
        let file = unsafe open(device.path, mode)
        guard file >= 0 else {
            switch errno {
            case EBUSY: throw .inUse(device: device.path, by: ["another program or mount namespace"])
            case EACCES, EPERM: throw .notPermitted
            default: throw .system(call: "open \(device.path)", errno: errno)
            }
        }
        defer { close(file) }
        guard device.isReadOnly || fsync(file) == 0 else {
            throw .system(call: "flush \(device.path)", errno: errno)
        }
    }
}
