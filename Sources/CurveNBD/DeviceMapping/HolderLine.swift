import Glibc

/// The daemon's connection to the holder, for one device. Closed with the last reference.
final class HolderLine {
    /// What came unasked.
    enum News { case nothing, serverLost, holderGone }
    let descriptor: Int32
    private let index: UInt32
    private let identifier: String
    private var sawLoss = false
    /// The holder answers at once; this only keeps a stopped one from stopping us.
    private static let answerSeconds = 5
    /// A holder that was just started gets 15 s to listen: machines that start again are busy. After four,
    /// another is started, since one that was about to end may have had the lock.
    private static let startTries = 1500, startEvery = 400, startPauseMicroseconds: UInt32 = 10_000

    private init(_ descriptor: Int32, _ index: UInt32, _ identifier: String) {
        (self.descriptor, self.index, self.identifier) = (descriptor, index, identifier)
    }
    deinit { close(descriptor) }

    /// A line about a device; starts the holder when there is none.
    /// - Throws: ``DeviceError`` when none can be had.
    static func open(_ index: UInt32, _ identifier: String) throws(DeviceError) -> HolderLine {
        for attempt in 0..<startTries {
            do throws(DeviceError) {
                let descriptor = try ServerSocket.connected(
                    to: DeviceHolder.path, stepSeconds: answerSeconds, isStream: false)
                return HolderLine(descriptor, index, identifier)
            } catch .system(_, ENOENT), .system(_, ECONNREFUSED) {
                if attempt % startEvery == 0 { try start() }
                usleep(startPauseMicroseconds)
            }
        }
        throw .daemon("the process that holds devices does not start", status: 2)
    }
    /// This program again, apart from us.
    private static func start() throws(DeviceError) {
        // It is nobody's to wait for.
        signal(SIGCHLD, SIG_IGN)
        try Background.spawnApart(["daemon", "--holder"])
    }

    /// - Returns: how many connections of the device are held, or a negative errno; `nil` when the holder
    ///   did not answer.
    func tell(
        _ verb: HolderOrder.Verb, _ patienceSeconds: UInt64, _ sockets: [Int32],
        shape: IoctlDevice.Shape? = nil
    ) -> Int? {
        do throws(DeviceError) {
            try DescriptorMessage.send(
                HolderOrder.text(verb, index, patienceSeconds, identifier, shape: shape), sockets,
                on: descriptor)
            while let said = try DescriptorMessage.receive(on: descriptor) {
                if let count = HolderOrder.count(said.text) { return count }
                sawLoss = sawLoss || said.text == HolderOrder.lost
            }
        } catch {}
        return nil
    }
    /// What the holder said since the last time; does not wait.
    func news() -> News {
        while true {
            var waited = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
            guard unsafe poll(&waited, 1, 0) == 1 else {
                defer { sawLoss = false }
                return sawLoss ? .serverLost : .nothing
            }
            guard let said = try? DescriptorMessage.receive(on: descriptor) else { return .holderGone }
            sawLoss = sawLoss || said.text == HolderOrder.lost
        }
    }
}

/// Pairs of connected sockets: one end for the kernel, the other for the holder. Closed with the last
/// reference.
final class KernelPairs {
    let kernelEnds: [Int32], holderEnds: [Int32]
    /// Room for a whole request of the usual largest size.
    private static let bufferBytes: Int32 = 2 << 20

    init(_ count: Int) throws(DeviceError) {
        var (kernel, holder) = ([Int32](), [Int32]())
        for _ in 0..<count {
            var ends: [Int32] = [-1, -1]
            let kind = Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue)
            guard unsafe socketpair(AF_UNIX, kind, 0, &ends) == 0 else {
                (kernel + holder).forEach { close($0) }
                throw .system(call: "socketpair", errno: errno)
            }
            for end in ends {
                var size = Self.bufferBytes
                unsafe setsockopt(
                    end, SOL_SOCKET, SO_SNDBUFFORCE, &size, socklen_t(MemoryLayout<Int32>.size))
            }
            kernel.append(ends[0])
            holder.append(ends[1])
        }
        (kernelEnds, holderEnds) = (kernel, holder)
    }
    deinit { (kernelEnds + holderEnds).forEach { close($0) } }
}
