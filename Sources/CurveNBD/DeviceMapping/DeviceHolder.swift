import Glibc
import Synchronization

/// The process between the kernel and the daemon: it has the kernel's sockets, so that a daemon that dies
/// costs its devices only the time in which the next one starts.
///
/// Whatever was under way is in its memory; see ``RequestRelay``. It knows no volumes and no cluster, so
/// that it has no reason to die. It ends when it has held nothing for a moment.
public enum DeviceHolder {
    /// Where it listens.
    static let path = "\(DaemonMark.defaultFolder)/holder.sock"
    private static let lockPath = "\(DaemonMark.defaultFolder)/holder.lock"
    /// How long it waits for a first, or another, device.
    private static let idleMilliseconds: Int32 = 2000
    private static let lookEveryMilliseconds: Int32 = 100
    private static let backlog: Int32 = 64

    /// Holds devices until there are none. Blocks.
    /// - Throws: ``DeviceError``; nothing when another process holds already.
    public static func run() throws(DeviceError) {
        // Whoever ends processes wants the daemon; who uses a device would lose it by our end.
        for number in [SIGTERM, SIGINT, SIGHUP, SIGPIPE] { signal(number, SIG_IGN) }
        // Locks and reports are those of whoever started us: nobody is to wait for our end.
        for name in Text.namesIn("/proc/self/fd") { if let file = Int32(name), file > 2 { close(file) } }
        let lock = unsafe open(lockPath, O_RDWR | O_CREAT | O_CLOEXEC, 0o600)
        guard lock >= 0 else { throw .system(call: "open \(lockPath)", errno: errno) }
        guard flock(lock, LOCK_EX | LOCK_NB) == 0 else { return }
        let listener = try listen()
        let devices = HeldDevices()
        var idle: Int32 = 0
        while idle < idleMilliseconds {
            var waited = pollfd(fd: listener, events: Int16(POLLIN), revents: 0)
            if unsafe poll(&waited, 1, lookEveryMilliseconds) == 1 {
                idle = 0
                accept(listener, devices)
            } else {
                idle = devices.isEmpty ? idle + lookEveryMilliseconds : 0
            }
        }
        // Who connects from here on finds nobody, and starts another one.
        unsafe _ = unlink(path)
        close(listener)
        close(lock)
    }
    private static func listen() throws(DeviceError) -> Int32 {
        unsafe _ = unlink(path)
        let descriptor = socket(AF_UNIX, Int32(SOCK_SEQPACKET.rawValue | SOCK_CLOEXEC.rawValue), 0)
        guard descriptor >= 0 else { throw .system(call: "socket", errno: errno) }
        let mask = umask(0o077)
        defer { umask(mask) }
        guard unsafe ServerSocket.withAddress(path, { unsafe bind(descriptor, $0, $1) }) == 0,
            Glibc.listen(descriptor, backlog) == 0
        else { throw .system(call: "listen on \(path)", errno: errno) }
        return descriptor
    }
    /// A first message says which device the connection is about; whoever is silent is not waited for.
    private static func accept(_ listener: Int32, _ devices: HeldDevices) {
        let descriptor = Glibc.accept(listener, nil, nil)
        guard descriptor >= 0 else { return }
        _ = fcntl(descriptor, F_SETFD, FD_CLOEXEC)
        var patience = timeval(tv_sec: 1, tv_usec: 0)
        unsafe setsockopt(
            descriptor, SOL_SOCKET, SO_RCVTIMEO, &patience, socklen_t(MemoryLayout<timeval>.size))
        guard let message = try? DescriptorMessage.receive(on: descriptor),
            let order = HolderOrder(message.text, message.descriptors)
        else {
            close(descriptor)
            return
        }
        devices.take(order, descriptor)
    }
}

/// What a daemon tells the holder: a line, and sockets.
struct HolderOrder {
    enum Verb: String {
        /// Pairs of sockets: the kernel's, then the server's that it is to be joined with.
        case hold
        /// New servers for the connections that are held; answered by how many there are.
        case serve
        /// As `hold`, of a device that lives in the holder: the device, the kernel's ends, then pairs.
        case keep
    }
    /// What a kept device is to be.
    var shape: IoctlDevice.Shape?
    var verb: Verb
    /// Device number and identifier.
    var device: String
    /// How long requests wait for a server; then they fail.
    var patienceSeconds: UInt64
    var sockets: [Int32]

    init?(_ text: String, _ sockets: [Int32]) {
        let words = text.split(separator: " ", maxSplits: 2)
        let verbs = (words.first ?? "").split(separator: ":")
        shape = verbs.count == 2 ? IoctlDevice.Shape(verbs[1]) : nil
        guard words.count == 3, let verb = verbs.first.flatMap({ Verb(rawValue: String($0)) }),
            let patience = UInt64(words[1]),
            verb == .serve || (verb == .hold && sockets.count % 2 == 0)
                || (sockets.count % 3 == 1 && sockets.count > 1 && shape != nil)
        else {
            sockets.forEach { close($0) }
            return nil
        }
        (self.verb, patienceSeconds, device, self.sockets) = (verb, patience, String(words[2]), sockets)
    }
    static func text(
        _ verb: Verb, _ index: UInt32, _ patienceSeconds: UInt64, _ identifier: String,
        shape: IoctlDevice.Shape? = nil
    ) -> String {
        "\(verb.rawValue)\(shape.map { ":" + $0.text } ?? "") \(patienceSeconds) nbd\(index) \(identifier)"
    }
    /// Unasked: a server has gone while its daemon lives.
    static let lost = "lost"
    static func held(_ count: Int) -> String { "held \(count)" }
    static func count(_ answer: String) -> Int? {
        let words = answer.split(separator: " ")
        return words.count == 2 && words[0] == "held" ? Int(words[1]) : nil
    }
}

/// The devices that are held, each by a thread of its own. Locked.
final class HeldDevices: Sendable {
    private let devices = Mutex<[String: HeldDevice]>([:])

    var isEmpty: Bool { devices.withLock { $0.isEmpty } }

    /// Gives an order, with the connection that it came by, to the thread of its device.
    func take(_ order: HolderOrder, _ connection: Int32) {
        let isKnown = devices.withLock { devices in
            if let device = devices[order.device] {
                device.post(order, connection)
                return true
            }
            guard order.verb != .serve, let device = HeldDevice(order.device) else { return false }
            guard device.start(ended: { self.forget($0) }) else { return false }
            device.post(order, connection)
            devices[order.device] = device
            return true
        }
        guard !isKnown else { return }
        order.sockets.forEach { close($0) }
        try? DescriptorMessage.send(HolderOrder.held(0), [], on: connection)
        close(connection)
    }
    /// - Returns: false when something was posted meanwhile.
    private func forget(_ device: HeldDevice) -> Bool {
        devices.withLock { devices in
            guard device.hasNoMail else { return false }
            devices[device.name] = nil
            return true
        }
    }
}
