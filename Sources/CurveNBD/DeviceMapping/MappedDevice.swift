import BlockTypes
import Glibc
import NBDProtocol

/// What the owner of a mapping may choose.
public struct MapOptions: Hashable, Sendable {
    /// N of /dev/nbdN; `nil` takes over a device of the same identifier, else lets the kernel choose.
    public var index: UInt32?
    /// A holder stands between kernel and server, so that what is under way outlives the server.
    public var isHeld = false
    /// Uses the driver's older interface, even where there is netlink. Needs the holder.
    public var usesIoctl = false
    /// Sockets of the kernel; without a holder a second one keeps requests flowing while one is replaced.
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
    /// False when no holder could be had: what is under way when the daemon dies waits for the kernel.
    public private(set) var isHeld: Bool
    private var holder: HolderLine?
    /// Something was lost that is not replaced.
    private var needsConnections = false
    /// How often connections were replaced.
    public private(set) var reconnections = 0
    private var setup: DeviceSetup
    /// `nil` where the driver is told by ioctl.
    private let kernel: NBDKernel?
    private let events: NBDKernelEvents?
    private let table = BlockDeviceTable()
    private let mark: DaemonMark
    /// The kernel keeps the identifier, so that the device is told from the next one of its number.
    private let isNamed: Bool

    /// /dev/nbdN.
    public var path: String { "/dev/nbd\(index)" }

    /// Makes a device of an export, or gives a device that lost its daemon new connections.
    /// - Parameter socketPath: the Unix socket on which the server listens.
    /// - Throws: ``DeviceError``.
    public init(socketPath: String, exportName: String, options: MapOptions) throws(DeviceError) {
        (self.socketPath, self.exportName) = (socketPath, exportName)
        (connections, isHeld) = (max(1, options.connections), options.isHeld)
        let speaksNetlink = try Self.speaksNetlink(options, table)
        kernel = speaksNetlink ? try NBDKernel() : nil
        events = speaksNetlink ? try NBDKernelEvents() : nil
        let sockets = try Self.sockets(connections, socketPath, exportName)
        let info = sockets[0].info
        var setup = DeviceSetup(size: info.size, flags: info.flags, identifier: options.identifier)
        if options.refusesTrim { setup.flags.remove(.trim) }
        setup.index = options.index
        setup.blockBytes =
            options.blockBytes ?? Int(min(info.preferredBlockBytes, UInt32(Geometry.blockBytes)))
        setup.requestTimeoutSeconds =
            options.requestTimeoutSeconds
            ?? (isHeld ? DeviceSetup.heldRequestTimeoutSecondsDefault : setup.requestTimeoutSeconds)
        setup.deadConnectionTimeoutSeconds =
            options.deadConnectionTimeoutSeconds ?? setup.deadConnectionTimeoutSeconds
        self.setup = setup
        guard let kernel else {
            (index, mark, holder) = try IoctlMapping.make(options, setup, sockets, table)
            isNamed = false
            return
        }
        if let orphan = try Self.orphan(options, table) {
            index = orphan
            mark = try DaemonMark(index: index, folder: options.markFolder)
            isNamed = table.identifier(of: index) != nil
            try join(sockets)
        } else {
            guard !options.mustExist else {
                throw .notConnected(options.index.map { "/dev/nbd\($0)" } ?? options.identifier)
            }
            let pairs = isHeld ? try KernelPairs(connections) : nil
            index = try kernel.connect(setup, sockets: pairs?.kernelEnds ?? sockets.map(\.descriptor))
            do throws(DeviceError) {
                mark = try DaemonMark(index: index, folder: options.markFolder)
            } catch {
                // Nobody would serve it.
                try? kernel.disconnect(index)
                throw error
            }
            isNamed = table.identifier(of: index) != nil
            if let pairs { hold(pairs, sockets) }
            extendLifetime(pairs)
        }
        extendLifetime(sockets)
    }
    /// - Throws: ``DeviceError/noModule``; what is asked for and cannot be had without netlink.
    static func speaksNetlink(
        _ options: MapOptions, _ table: BlockDeviceTable
    ) throws(DeviceError) -> Bool {
        guard !options.usesIoctl else { return false }
        do throws(DeviceError) {
            _ = try NBDKernel()
            return true
        } catch {
            guard error == .noModule, table.hasModule else { throw error }
            return false
        }
    }
    /// Gives a device to a new server: at the holder, if that has its connections, else at the kernel.
    private func join(_ sockets: [ServerSocket]) throws(DeviceError) {
        if isHeld, let line = try? HolderLine.open(index, setup.identifier) {
            let held = line.tell(.serve, patience, sockets.map(\.descriptor)) ?? 0
            if held > 0 {
                holder = line
                try kernel?.update(index, setup)
            }
            if held >= connections { return }
            if held > 0 { return try reconnect(Self.sockets(connections, socketPath, exportName)) }
        }
        try reconnect(sockets)
    }
    private var patience: UInt64 { setup.deadConnectionTimeoutSeconds }
    /// Replaces the kernel's dead connections; it takes no more than that.
    private func reconnect(_ sockets: [ServerSocket]) throws(DeviceError) {
        guard let kernel else {
            throw .daemon(
                "a device made without netlink gets no new connections; map the volume again", status: 2)
        }
        guard isHeld, let pairs = try? KernelPairs(connections) else {
            return try kernel.reconnect(index, setup, sockets: sockets.map(\.descriptor))
        }
        try kernel.reconnect(index, setup, sockets: pairs.kernelEnds)
        hold(pairs, sockets)
        extendLifetime(pairs)
    }
    /// Without a holder the kernel's connections end with the pairs, and are replaced by direct ones.
    private func hold(_ pairs: KernelPairs, _ sockets: [ServerSocket]) {
        let both = zip(pairs.holderEnds, sockets).flatMap { [$0, $1.descriptor] }
        if let holder, let held = holder.tell(.hold, patience, both), held > 0 { return }
        holder = try? HolderLine.open(index, setup.identifier)
        if let held = holder?.tell(.hold, patience, both), held > 0 { return }
        (holder, isHeld, needsConnections) = (nil, false, true)
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
    /// True while the kernel has the device: this one, and not the next one of its number.
    public var isConnected: Bool {
        table.isConnected(index) && (!isNamed || table.identifier(of: index) == setup.identifier)
    }

    /// Waits for a connection to be lost, and replaces what was lost.
    /// - Parameters:
    ///   - timeout: how long; -1: until something happens.
    ///   - bell: ends the wait.
    /// - Returns: false when the device has been unmapped: its daemon may end.
    /// - Throws: ``DeviceError``; the device stays, and the next call tries again.
    public func keepAlive(forMilliseconds timeout: Int32, bell: Bell? = nil) throws(DeviceError) -> Bool {
        if !needsConnections { wait(timeout, bell) }
        if let events {
            let lost = try events.lostConnections(withinMilliseconds: 0)
            needsConnections = needsConnections || lost.map { $0.contains(index) } ?? true
        }
        guard isConnected else { return false }
        switch holder?.news() ?? .nothing {
        case .nothing: break
        case .serverLost:
            let sockets = try Self.sockets(connections, socketPath, exportName)
            if holder?.tell(.serve, patience, sockets.map(\.descriptor)) ?? 0 == 0 { needsConnections = true }
        // If the device is not going, the kernel says that its connections are dead.
        case .holderGone: holder = nil
        }
        guard needsConnections else { return true }
        let sockets = try Self.sockets(connections, socketPath, exportName)
        setup.size = sockets[0].info.size
        needsConnections = false
        reconnections += 1
        do throws(DeviceError) {
            try reconnect(sockets)
        } catch {
            needsConnections = true
            throw error
        }
        extendLifetime(sockets)
        return true
    }
    private func wait(_ timeout: Int32, _ bell: Bell?) {
        var waited = [events?.descriptor ?? -1, holder?.descriptor ?? -1, bell?.descriptor ?? -1].map {
            pollfd(fd: $0, events: Int16(POLLIN), revents: 0)
        }
        if unsafe poll(&waited, nfds_t(waited.count), timeout) > 0, waited[2].revents != 0 { bell?.quiet() }
    }
    /// Tells the kernel the volume's new size.
    public func resize(to size: ByteCount) throws(DeviceError) {
        setup.size = size
        guard let kernel else { return try IoctlDevice.resize(index, IoctlDevice.Shape(setup)) }
        try kernel.resize(index, to: size)
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
        try disconnect(device)
        for _ in 0..<(timeoutSeconds * 1000 / pollMilliseconds) {
            let hasDaemon = waitsForDaemon && DaemonMark.pid(of: index, folder: markFolder) != nil
            if !table.isConnected(index) ? !hasDaemon : !table.isConnected(index, as: device.identifier) {
                return
            }
            usleep(UInt32(pollMilliseconds) * 1000)
        }
        throw table.isConnected(index, as: device.identifier)
            ? .stillHeld(device: device.path)
            : .daemon("\(device.path) is gone, but its daemon is still running", status: 2)
    }
    /// By the interface that made the device: those of netlink have an identifier, unless the kernel is
    /// older.
    private static func disconnect(_ device: NBDDevice) throws(DeviceError) {
        if device.identifier == nil, (try? IoctlDevice.end(device.index)) != nil { return }
        try NBDKernel().disconnect(device.index)
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
