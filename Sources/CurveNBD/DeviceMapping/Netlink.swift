import BlockTypes
import CNetlink
import Glibc

/// One attribute of a netlink message.
struct NetlinkAttribute: Hashable {
    var type: UInt16
    var data: ArraySlice<UInt8>

    /// The attributes that `bytes` hold; stops at the first one that is cut short.
    static func all(in bytes: ArraySlice<UInt8>) -> [NetlinkAttribute] {
        var (attributes, rest) = ([NetlinkAttribute](), bytes)
        while rest.count >= 4 {
            let first = rest.startIndex
            let length = Int(rest[first]) | Int(rest[first + 1]) << 8
            let type = UInt16(rest[first + 2]) | UInt16(rest[first + 3]) << 8
            guard length >= 4, length <= rest.count else { break }
            // The two top bits are flags: nested, network byte order.
            attributes.append(
                NetlinkAttribute(type: type & 0x3FFF, data: rest[(first + 4)..<(first + length)]))
            rest = rest.dropFirst((length + 3) & ~3)
        }
        return attributes
    }
    var u32: UInt32? {
        guard data.count == 4 else { return nil }
        return data.reversed().reduce(0) { $0 << 8 | UInt32($1) }
    }
    var u8: UInt8? { data.count == 1 ? data.first : nil }
}

/// What came back for one request.
private final class NetlinkReply {
    var messages: [(command: UInt8, attributes: [UInt8])] = []
    var errno: Int32 = 0
    var isFinished = false
}

/// A request under construction.
@safe struct NetlinkRequest {
    // SAFETY: made and freed by NetlinkSocket around the closure that fills it.
    fileprivate let message: OpaquePointer
    fileprivate var hasFailed = false

    fileprivate init(_ message: OpaquePointer) { unsafe self.message = message }

    mutating func put(_ type: Int, u32 value: UInt32) {
        if unsafe nla_put_u32(message, Int32(type), value) < 0 { hasFailed = true }
    }
    mutating func put(_ type: Int, u64 value: UInt64) {
        if unsafe nla_put_u64(message, Int32(type), value) < 0 { hasFailed = true }
    }
    mutating func put(_ type: Int, text value: String) {
        let bytes = Array(value.utf8) + [0]
        let result = unsafe bytes.withUnsafeBytes {
            unsafe nla_put(message, Int32(type), Int32($0.count), $0.baseAddress)
        }
        if result < 0 { hasFailed = true }
    }
    mutating func nest(_ type: Int, _ body: (inout NetlinkRequest) -> Void) {
        guard let start = unsafe nla_nest_start(message, Int32(type)) else {
            hasFailed = true
            return
        }
        body(&self)
        unsafe nla_nest_end(message, start)
    }
}

/// A generic netlink socket for one family. Blocks; belongs to one thread.
@safe final class NetlinkSocket {
    // SAFETY: allocated in init, freed in deinit, used by one thread.
    private let socket: OpaquePointer
    private let family: Int32
    /// The largest answer is the device list: 16 bytes for each of at most a few thousand devices.
    private static let replyMessagesMax = 64

    /// - Throws: ``DeviceError/noModule`` when the kernel does not know the family.
    init(family name: String) throws(DeviceError) {
        guard let socket = unsafe nl_socket_alloc() else {
            throw .system(call: "nl_socket_alloc", errno: ENOMEM)
        }
        let connected = unsafe genl_connect(socket)
        guard connected >= 0 else {
            unsafe nl_socket_free(socket)
            throw .system(call: "genl_connect", errno: EPROTONOSUPPORT)
        }
        let family = unsafe genl_ctrl_resolve(socket, name)
        guard family >= 0 else {
            unsafe nl_socket_free(socket)
            throw .noModule
        }
        unsafe self.socket = socket
        self.family = family
    }
    deinit { unsafe nl_socket_free(socket) }
    var descriptor: Int32 { unsafe nl_socket_get_fd(socket) }

    /// Sends a request and waits for its acknowledgement.
    /// - Returns: the attributes of each message that came before it.
    /// - Throws: ``DeviceError/system(call:errno:)`` with the kernel's answer.
    func call(
        _ command: Int, named call: String, _ fill: (inout NetlinkRequest) -> Void
    ) throws(DeviceError) -> [[NetlinkAttribute]] {
        guard let message = unsafe nlmsg_alloc() else { throw .system(call: call, errno: ENOMEM) }
        defer { unsafe nlmsg_free(message) }
        // Port and sequence 0: libnl fills them in.
        guard unsafe genlmsg_put(message, 0, 0, family, 0, 0, UInt8(command), UInt8(NBD_GENL_VERSION)) != nil
        else {
            throw .system(call: call, errno: EMSGSIZE)
        }
        var request = unsafe NetlinkRequest(message)
        fill(&request)
        guard !request.hasFailed else { throw .system(call: call, errno: EMSGSIZE) }
        let reply = NetlinkReply()
        try unsafe exchange(message, reply, call)
        guard reply.errno == 0 else { throw .system(call: call, errno: reply.errno) }
        return reply.messages.map { NetlinkAttribute.all(in: $0.attributes[...]) }
    }
    @unsafe private func exchange(_ message: OpaquePointer, _ reply: NetlinkReply, _ call: String)
        throws(DeviceError)
    {
        guard let callbacks = unsafe nl_cb_alloc(NL_CB_DEFAULT) else {
            throw .system(call: call, errno: ENOMEM)
        }
        defer { unsafe nl_cb_put(callbacks) }
        unsafe Self.collect(into: reply, callbacks)
        guard unsafe nl_send_auto(socket, message) >= 0 else { throw .system(call: call, errno: errno) }
        while !reply.isFinished {
            let result = unsafe nl_recvmsgs(socket, callbacks)
            guard result >= 0 || reply.isFinished else { throw .system(call: call, errno: EIO) }
        }
        extendLifetime(reply)
    }
    /// SAFETY: `reply` outlives the callbacks, which run only inside `nl_recvmsgs` of its caller.
    @unsafe private static func collect(into reply: NetlinkReply, _ callbacks: OpaquePointer) {
        let argument = unsafe Unmanaged.passUnretained(reply).toOpaque()
        unsafe nl_cb_set(
            callbacks, NL_CB_VALID, NL_CB_CUSTOM,
            { message, argument in
                guard let argument = unsafe argument, let header = unsafe nlmsg_hdr(message),
                    let generic = unsafe genlmsg_hdr(header), let start = unsafe genlmsg_attrdata(generic, 0)
                else { return Int32(NL_OK.rawValue) }
                let reply = unsafe Unmanaged<NetlinkReply>.fromOpaque(argument).takeUnretainedValue()
                let bytes = unsafe UnsafeRawBufferPointer(
                    start: start, count: Int(max(0, genlmsg_attrlen(generic, 0))))
                if reply.messages.count < NetlinkSocket.replyMessagesMax {
                    unsafe reply.messages.append((generic.pointee.cmd, Array(bytes)))
                }
                return Int32(NL_OK.rawValue)
            }, argument)
        unsafe nl_cb_set(
            callbacks, NL_CB_ACK, NL_CB_CUSTOM,
            { _, argument in
                guard let argument = unsafe argument else { return Int32(NL_STOP.rawValue) }
                unsafe Unmanaged<NetlinkReply>.fromOpaque(argument).takeUnretainedValue().isFinished = true
                return Int32(NL_STOP.rawValue)
            }, argument)
        unsafe nl_cb_err(
            callbacks, NL_CB_CUSTOM,
            { _, error, argument in
                guard let argument = unsafe argument else { return Int32(NL_STOP.rawValue) }
                let reply = unsafe Unmanaged<NetlinkReply>.fromOpaque(argument).takeUnretainedValue()
                reply.isFinished = true
                if let error = unsafe error { reply.errno = unsafe -error.pointee.error }
                return Int32(NL_STOP.rawValue)
            }, argument)
    }

    /// Starts listening to a multicast group of the family; then only ``events(timeoutMilliseconds:)`` is
    /// used.
    func join(group: String, family name: String) throws(DeviceError) {
        let group = unsafe genl_ctrl_resolve_grp(socket, name, group)
        guard group >= 0, unsafe nl_socket_add_membership(socket, group) >= 0 else {
            throw .system(call: "join the nbd event group", errno: ENOENT)
        }
    }
    /// Waits for events of the joined group.
    /// - Returns: the events; none when the time is over; `nil` when some were lost.
    func events(timeoutMilliseconds: Int32) throws(DeviceError)
        -> [(command: UInt8, attributes: [NetlinkAttribute])]?
    {
        var waited = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
        let count = unsafe poll(&waited, 1, timeoutMilliseconds)
        if count == 0 || (count < 0 && errno == EINTR) { return [] }
        guard count > 0 else { throw .system(call: "poll", errno: errno) }
        guard let callbacks = unsafe nl_cb_alloc(NL_CB_DEFAULT) else {
            throw .system(call: "nl_cb_alloc", errno: ENOMEM)
        }
        defer { unsafe nl_cb_put(callbacks) }
        let reply = NetlinkReply()
        unsafe Self.collect(into: reply, callbacks)
        // Events answer no request, so their sequence numbers are not ours.
        unsafe nl_cb_set(callbacks, NL_CB_SEQ_CHECK, NL_CB_CUSTOM, { _, _ in Int32(NL_OK.rawValue) }, nil)
        let result = unsafe nl_recvmsgs(socket, callbacks)
        extendLifetime(reply)
        if result == -NLE_NOMEM { return nil }
        guard result >= 0 else { throw .system(call: "nl_recvmsgs", errno: EIO) }
        return reply.messages.map { ($0.command, NetlinkAttribute.all(in: $0.attributes[...])) }
    }
}
