import BlockTypes
import CNetlink
import Glibc
import NBDProtocol

/// What the kernel needs to know of a device.
public struct DeviceSetup: Hashable, Sendable {
    /// N of /dev/nbdN; `nil` lets the kernel choose.
    public var index: UInt32?
    /// Size of the volume.
    public var size: ByteCount
    /// Logical block size, 512 to 4096.
    public var blockBytes: Int
    /// What the server said in its handshake.
    public var flags: NBDTransmissionFlags
    /// How long a request may take before its connection counts as dead, in whole seconds. 0: for ever; what
    /// was under way on a connection that did die is sent again within 31 s. The kernel keeps to "for ever"
    /// only with one connection.
    public var requestTimeoutSeconds: UInt64
    /// How long requests wait for a new connection when all are dead, in whole seconds; then they fail.
    public var deadConnectionTimeoutSeconds: UInt64
    /// Names the volume; a device can only be taken over under the same one.
    public var identifier: String

    /// A device of `size`, chosen by the kernel, that waits ten minutes for a daemon to come back.
    public init(size: ByteCount, flags: NBDTransmissionFlags, identifier: String) {
        (index, self.size, self.flags, self.identifier) = (nil, size, flags, identifier)
        blockBytes = Geometry.blockBytes
        requestTimeoutSeconds = Self.requestTimeoutSecondsDefault
        deadConnectionTimeoutSeconds = Self.deadConnectionTimeoutSecondsDefault
    }
    /// After a daemon died its unanswered requests wait this long before they are sent again. The kernel
    /// closes a slow connection, too, and sends again what it carried, so it must exceed what a healthy but
    /// busy cluster takes, an election included.
    public static let requestTimeoutSecondsDefault: UInt64 = 5
    /// The holder has what a dead daemon left unanswered, so the kernel need not guess: a cluster that is
    /// silent for an hour costs no connection.
    public static let heldRequestTimeoutSecondsDefault: UInt64 = 0
    /// Longer than a machine takes to start a daemon, however busy; shorter than people's patience.
    public static let deadConnectionTimeoutSecondsDefault: UInt64 = 600
}

/// The kernel's NBD driver over generic netlink. Blocks: never call it on the loop that answers the device's
/// requests, or a change that waits for them to finish waits for ever.
public final class NBDKernel {
    private let socket: NetlinkSocket
    private let table: BlockDeviceTable

    /// - Throws: ``DeviceError/noModule``.
    public init() throws(DeviceError) {
        socket = try NetlinkSocket(family: NBD_GENL_FAMILY_NAME)
        table = BlockDeviceTable()
    }
    /// Gives the kernel connected sockets, past their handshake, and makes a device of them.
    ///
    /// The kernel keeps its own references: the caller closes its descriptors afterwards.
    /// - Returns: the device's number.
    /// - Throws: ``DeviceError``.
    public func connect(_ setup: DeviceSetup, sockets: [Int32]) throws(DeviceError) -> UInt32 {
        do {
            return try connect(setup, sockets, withIdentifier: true)
        } catch .system(_, EINVAL) {
            // Kernels before 5.14 refuse the attribute that they do not know.
            return try connect(setup, sockets, withIdentifier: false)
        }
    }
    private func connect(
        _ setup: DeviceSetup, _ sockets: [Int32], withIdentifier: Bool
    ) throws(DeviceError) -> UInt32 {
        let replies = try call(NBD_CMD_CONNECT, "NBD_CMD_CONNECT", index: setup.index) { request in
            if let index = setup.index { request.put(Self.number(NBD_ATTR_INDEX), u32: index) }
            request.put(Self.number(NBD_ATTR_BLOCK_SIZE_BYTES), u64: UInt64(setup.blockBytes))
            request.put(Self.number(NBD_ATTR_SERVER_FLAGS), u64: UInt64(setup.flags.rawValue))
            Self.put(setup, sockets, into: &request, withIdentifier: withIdentifier)
        }
        let answered = replies.joined().first { $0.type == Self.number(NBD_ATTR_INDEX) }?.u32
        guard let index = answered ?? setup.index else {
            throw .system(call: "NBD_CMD_CONNECT without an index", errno: EPROTO)
        }
        return index
    }
    /// Replaces dead connections of a device, and tells the kernel the current size and time-outs.
    ///
    /// Connections that are alive stay: the kernel takes no more sockets than it has dead ones.
    public func reconnect(_ index: UInt32, _ setup: DeviceSetup, sockets: [Int32]) throws(DeviceError) {
        let hasIdentifier = table.device(index)?.identifier != nil
        _ = try call(NBD_CMD_RECONFIGURE, "NBD_CMD_RECONFIGURE", index: index) { request in
            request.put(Self.number(NBD_ATTR_INDEX), u32: index)
            Self.put(setup, sockets, into: &request, withIdentifier: hasIdentifier)
        }
    }
    /// Tells the kernel the size and the time-outs that hold from now on; its connections stay.
    public func update(_ index: UInt32, _ setup: DeviceSetup) throws(DeviceError) {
        try reconnect(index, setup, sockets: [])
    }
    /// Tells the kernel a new size. Requests in flight must be able to finish meanwhile.
    public func resize(_ index: UInt32, to size: ByteCount) throws(DeviceError) {
        let identifier = table.device(index)?.identifier
        _ = try call(NBD_CMD_RECONFIGURE, "NBD_CMD_RECONFIGURE", index: index) { request in
            request.put(Self.number(NBD_ATTR_INDEX), u32: index)
            request.put(Self.number(NBD_ATTR_SIZE_BYTES), u64: size.bytes)
            if let identifier { request.put(Self.number(NBD_ATTR_BACKEND_IDENTIFIER), text: identifier) }
        }
    }
    /// Asks the kernel to let a device go. It may take a moment: watch ``BlockDeviceTable``.
    public func disconnect(_ index: UInt32) throws(DeviceError) {
        _ = try call(NBD_CMD_DISCONNECT, "NBD_CMD_DISCONNECT", index: index) { request in
            request.put(Self.number(NBD_ATTR_INDEX), u32: index)
        }
    }
    /// Which devices the driver itself calls connected.
    public func connectedIndexes() throws(DeviceError) -> Set<UInt32> {
        let replies = try call(NBD_CMD_STATUS, "NBD_CMD_STATUS", index: nil) { _ in }
        var connected: Set<UInt32> = []
        for list in replies.joined() where list.type == Self.number(NBD_ATTR_DEVICE_LIST) {
            for item in NetlinkAttribute.all(in: list.data) {
                let fields = NetlinkAttribute.all(in: item.data)
                guard let index = fields.first(where: { $0.type == Self.number(NBD_DEVICE_INDEX) })?.u32,
                    fields.first(where: { $0.type == Self.number(NBD_DEVICE_CONNECTED) })?.u8 == 1
                else { continue }
                connected.insert(index)
            }
        }
        return connected
    }

    private static func put(
        _ setup: DeviceSetup, _ sockets: [Int32], into request: inout NetlinkRequest, withIdentifier: Bool
    ) {
        request.put(number(NBD_ATTR_SIZE_BYTES), u64: setup.size.bytes)
        request.put(number(NBD_ATTR_TIMEOUT), u64: setup.requestTimeoutSeconds)
        request.put(number(NBD_ATTR_DEAD_CONN_TIMEOUT), u64: setup.deadConnectionTimeoutSeconds)
        if withIdentifier { request.put(number(NBD_ATTR_BACKEND_IDENTIFIER), text: setup.identifier) }
        guard !sockets.isEmpty else { return }
        request.nest(number(NBD_ATTR_SOCKETS)) { list in
            for socket in sockets {
                list.nest(number(NBD_SOCK_ITEM)) { $0.put(number(NBD_SOCK_FD), u32: UInt32(socket)) }
            }
        }
    }
    private func call<Command: BinaryInteger>(
        _ command: Command, _ name: String, index: UInt32?, _ fill: (inout NetlinkRequest) -> Void
    ) throws(DeviceError) -> [[NetlinkAttribute]] {
        do {
            return try socket.call(Int(command), named: name, fill)
        } catch .system(let call, let errno) {
            let device = index.map { "/dev/nbd\($0)" }
            switch errno {
            case EPERM, EACCES: throw .notPermitted
            case EBUSY where device == nil, EEXIST where device == nil: throw .noneFree
            case EBUSY, EEXIST: throw .busy(device ?? "")
            // Without a number it is the driver that is not there: somebody unloads it at this moment.
            case ENODEV, ENOENT: throw device.map { .noSuchDevice($0) } ?? .noModule
            case ENOTCONN: throw .notConnected(device ?? "")
            default: throw .system(call: call, errno: errno)
            }
        }
    }
    static func number<Value: BinaryInteger>(_ value: Value) -> Int { Int(value) }
}

/// Tells when the kernel has lost a connection of some device. Blocks; belongs to one thread.
public final class NBDKernelEvents {
    private let socket: NetlinkSocket

    /// - Throws: ``DeviceError/noModule``.
    public init() throws(DeviceError) {
        socket = try NetlinkSocket(family: NBD_GENL_FAMILY_NAME)
        try socket.join(group: NBD_GENL_MCAST_GROUP_NAME, family: NBD_GENL_FAMILY_NAME)
    }
    /// Readable when there is something to be heard.
    var descriptor: Int32 { socket.descriptor }
    /// Waits for lost connections.
    /// - Returns: the devices that lost one, perhaps the same twice; none when the time is over; `nil` when
    ///   there were too many to be kept, so that any may have.
    public func lostConnections(withinMilliseconds timeout: Int32) throws(DeviceError) -> [UInt32]? {
        guard let events = try socket.events(timeoutMilliseconds: timeout) else { return nil }
        return events.filter { Int($0.command) == NBDKernel.number(NBD_CMD_LINK_DEAD) }.compactMap { event in
            event.attributes.first { $0.type == NBDKernel.number(NBD_ATTR_INDEX) }?.u32
        }
    }
}
