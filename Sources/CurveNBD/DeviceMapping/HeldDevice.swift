import Glibc
import Synchronization

/// One device that is held: its connections between kernel and server, on a thread of its own.
final class HeldDevice: @unchecked Sendable {
    // SAFETY: `links`, `control` and `buffer` belong to the thread; `mail` has its own lock.
    private struct Link {
        var kernel: Int32
        /// -1 while there is none.
        var server: Int32
        var relay = RequestRelay()
        var isOver = false
    }
    let name: String
    private let bell: Bell
    private let mail = Mutex<[(HolderOrder, Int32)]>([])
    private var links: [Link] = []
    private var patience = Duration.zero
    /// When requests that wait for a server fail; `nil` while there is one, and once they have failed.
    private var givesUpAt: ContinuousClock.Instant?
    /// The daemon's connection; -1 while there is none.
    private var control: Int32 = -1
    private var buffer = [UInt8](repeating: 0, count: 256 << 10)
    private static let readable = Int16(POLLIN), writable = Int16(POLLOUT)

    init?(_ name: String) {
        guard let bell = Bell() else { return nil }
        self.bell = bell
        self.name = name
    }
    func post(_ order: HolderOrder, _ connection: Int32) {
        mail.withLock { $0.append((order, connection)) }
        bell.ring()
    }
    var hasNoMail: Bool { mail.withLock { $0.isEmpty } }

    /// - Parameter ended: asked when no connection is left; false keeps the thread.
    /// - Returns: false when the system has no thread left.
    func start(ended: @escaping @Sendable (HeldDevice) -> Bool) -> Bool {
        ThreadStart.run { [self] in
            repeat { while step() {} } while !ended(self)
            if control >= 0 { close(control) }
        }
    }

    /// Waits for something to do, and does it.
    /// - Returns: false when no connection is left and nothing was asked.
    private func step() -> Bool {
        var waited = [bell.descriptor, control].map { pollfd(fd: $0, events: Self.readable, revents: 0) }
        for link in links {
            var (kernel, server) = (Int16(0), Int16(0))
            if link.relay.wantsRequests { kernel |= Self.readable }
            if !link.relay.toKernel.isEmpty { kernel |= Self.writable }
            if link.relay.wantsAnswers { server |= Self.readable }
            if !link.relay.toServer.isEmpty { server |= Self.writable }
            waited.append(pollfd(fd: link.kernel, events: kernel, revents: 0))
            waited.append(pollfd(fd: link.server, events: server, revents: 0))
        }
        guard unsafe poll(&waited, nfds_t(waited.count), waitMilliseconds) >= 0 else { return errno == EINTR }
        giveUpInTime()
        // In this order: mail brings another daemon's connection.
        if waited[1].revents != 0 { hearDaemon() }
        if waited[0].revents != 0 { takeMail() }
        for place in links.indices where 3 + 2 * place < waited.count {
            if waited[2 + 2 * place].revents & Self.readable != 0 { receiveRequests(place) }
        }
        closeDeserted()
        for place in links.indices where !links[place].isOver {
            let isOld = 3 + 2 * place < waited.count
            if isOld, links[place].server == waited[3 + 2 * place].fd, waited[3 + 2 * place].revents != 0 {
                receiveAnswers(place)
            }
            flush(place)
        }
        links.removeAll(where: \.isOver)
        return !links.isEmpty || !hasNoMail
    }

    private var waitMilliseconds: Int32 {
        guard let givesUpAt else { return -1 }
        let left = max(.zero, givesUpAt - .now).components
        return Int32(clamping: left.seconds * 1000 + left.attoseconds / 1_000_000_000_000_000 + 1)
    }
    private func giveUpInTime() {
        guard let givesUpAt, givesUpAt <= .now else { return }
        self.givesUpAt = nil
        for place in links.indices where links[place].server < 0 { links[place].relay.giveUp() }
    }

    // MARK: The daemon

    private func takeMail() {
        bell.quiet()
        for (order, connection) in mail.withLock({ orders in
            defer { orders = [] }
            return orders
        }) {
            // A daemon that asks is the one that serves; one before it has ended.
            if control >= 0 { close(control) }
            control = connection
            carryOut(order)
        }
    }
    private func hearDaemon() {
        let message = try? DescriptorMessage.receive(on: control)
        guard let message, let order = HolderOrder(message.text, message.descriptors) else {
            close(control)
            control = -1
            return
        }
        guard order.device == name else {
            order.sockets.forEach { close($0) }
            return answer(HolderOrder.held(0))
        }
        carryOut(order)
    }
    private func carryOut(_ order: HolderOrder) {
        // What the kernel closed is not to be served again.
        closeDeserted()
        (patience, givesUpAt) = (.seconds(Int64(clamping: order.patienceSeconds)), nil)
        switch order.verb {
        case .hold: join(order.sockets[...])
        case .keep:
            if let refusal = keep(order) { return answer(HolderOrder.held(-Int(refusal))) }
        case .serve:
            var servers = order.sockets[...]
            for place in links.indices where !links[place].isOver {
                guard let server = servers.popFirst() else { break }
                _ = fcntl(server, F_SETFL, O_NONBLOCK)
                if links[place].server >= 0 { close(links[place].server) }
                links[place].server = server
                links[place].relay.serverCame()
            }
            servers.forEach { close($0) }
        }
        answer(HolderOrder.held(links.count { !$0.isOver }))
    }
    /// Pairs of the kernel's other end and its server.
    private func join(_ pairs: ArraySlice<Int32>) {
        for place in stride(from: pairs.startIndex, to: pairs.endIndex, by: 2) {
            var link = Link(kernel: pairs[place], server: pairs[place + 1])
            for socket in [link.kernel, link.server] { _ = fcntl(socket, F_SETFL, O_NONBLOCK) }
            link.relay.serverCame()
            links.append(link)
        }
    }
    /// A device of the older interface lives in this process, on a thread more.
    /// - Returns: the errno of a refusal.
    private func keep(_ order: HolderOrder) -> Int32? {
        let (device, count) = (order.sockets[0], (order.sockets.count - 1) / 3)
        let kernelEnds = order.sockets[1...count]
        // The driver has references of its own.
        defer { kernelEnds.forEach { close($0) } }
        var refusal: Int32?
        do throws(DeviceError) {
            guard let shape = order.shape else { throw .system(call: "", errno: EINVAL) }
            try IoctlDevice.prepare(device, shape, Array(kernelEnds))
        } catch .system(_, let errno) { refusal = errno } catch { refusal = EPERM }
        let lives =
            refusal == nil
            && ThreadStart.run {
                IoctlDevice.live(device)
                close(device)
            }
        guard lives else {
            ([device] + order.sockets[(count + 1)...]).forEach { close($0) }
            return refusal ?? EAGAIN
        }
        join(order.sockets[(count + 1)...])
        return nil
    }
    private func answer(_ text: String) { try? DescriptorMessage.send(text, [], on: control) }

    // MARK: The connections

    /// Who asks twice elsewhere must not be served twice: the kernel closes a connection before it sends
    /// again what that one carried, so what came by others is passed on only after the closed ones' servers
    /// are left.
    private func closeDeserted() {
        var waited = links.map { pollfd(fd: $0.kernel, events: 0, revents: 0) }
        guard unsafe poll(&waited, nfds_t(waited.count), 0) > 0 else { return }
        for place in links.indices where waited[place].revents != 0 { end(place) }
    }
    private func end(_ place: Int) {
        guard !links[place].isOver else { return }
        links[place].isOver = true
        if links[place].server >= 0 { close(links[place].server) }
        close(links[place].kernel)
        (links[place].server, links[place].kernel) = (-1, -1)
    }
    private func loseServer(_ place: Int) {
        guard links[place].server >= 0 else { return }
        close(links[place].server)
        links[place].server = -1
        links[place].relay.serverLost()
        givesUpAt = givesUpAt ?? .now + patience
        if control >= 0 { answer(HolderOrder.lost) }
    }
    private func receive(from descriptor: Int32) -> Int {
        unsafe buffer.withUnsafeMutableBytes {
            unsafe recv(descriptor, $0.baseAddress, $0.count, Int32(MSG_DONTWAIT))
        }
    }
    private func receiveRequests(_ place: Int) {
        guard !links[place].isOver else { return }
        let count = receive(from: links[place].kernel)
        // Its end is seen by closeDeserted.
        guard count > 0 else { return }
        do throws(RequestRelay.Violation) {
            try links[place].relay.requests(buffer[..<count])
        } catch {
            // The kernel connects anew, and sends again.
            end(place)
        }
    }
    private func receiveAnswers(_ place: Int) {
        let count = receive(from: links[place].server)
        if count < 0, errno == EAGAIN || errno == EINTR { return }
        guard count > 0 else { return loseServer(place) }
        do throws(RequestRelay.Violation) {
            try links[place].relay.answers(buffer[..<count])
        } catch { loseServer(place) }
    }
    private func flush(_ place: Int) {
        if links[place].server >= 0, !Self.send(&links[place].relay.toServer, to: links[place].server) {
            loseServer(place)
        }
        // A kernel that says goodbye waits for the end of the connection.
        if links[place].relay.isLeaving, links[place].relay.toServer.isEmpty { return end(place) }
        // An end of the kernel's is seen by closeDeserted.
        _ = Self.send(&links[place].relay.toKernel, to: links[place].kernel)
    }
    /// Sends what there is room for.
    /// - Returns: false when the other side has gone.
    private static func send(_ queue: inout ByteQueue, to descriptor: Int32) -> Bool {
        while !queue.isEmpty {
            let count = unsafe queue.next.withUnsafeBytes {
                unsafe Glibc.send(
                    descriptor, $0.baseAddress, $0.count, Int32(MSG_DONTWAIT | MSG_NOSIGNAL))
            }
            guard count > 0 else { return errno == EAGAIN || errno == EINTR }
            queue.sent(count)
        }
        return true
    }
}

/// Threads without Foundation.
enum ThreadStart {
    private final class Work {
        let body: @Sendable () -> Void
        init(_ body: @escaping @Sendable () -> Void) { self.body = body }
    }
    /// - Returns: false when the system has no thread left.
    static func run(_ body: @escaping @Sendable () -> Void) -> Bool {
        var attributes = pthread_attr_t()
        unsafe pthread_attr_init(&attributes)
        defer { unsafe pthread_attr_destroy(&attributes) }
        unsafe pthread_attr_setdetachstate(&attributes, Int32(PTHREAD_CREATE_DETACHED))
        var thread = pthread_t()
        // SAFETY: the new thread takes over the reference that is retained here.
        let work = unsafe Unmanaged.passRetained(Work(body)).toOpaque()
        let result = unsafe pthread_create(
            &thread, &attributes,
            { argument in
                guard let argument = unsafe argument else { return nil }
                unsafe Unmanaged<Work>.fromOpaque(argument).takeRetainedValue().body()
                return nil
            }, work)
        if result != 0 { unsafe Unmanaged<Work>.fromOpaque(work).release() }
        return result == 0
    }
}
