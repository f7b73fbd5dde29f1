import BlockTypes
import Foundation
import Testing

@testable import DeviceMapping

/// Requests and answers as the kernel and its server write them.
enum KernelBytes {
    static func number(_ value: UInt64, _ count: Int) -> [UInt8] {
        (0..<count).map { UInt8(truncatingIfNeeded: value >> UInt64(8 * (count - 1 - $0))) }
    }
    static func request(_ command: UInt16, _ handle: UInt64, _ length: Int, _ payload: [UInt8] = [])
        -> [UInt8]
    {
        number(0x2560_9513, 4) + number(UInt64(command), 4) + number(handle, 8) + number(handle << 12, 8)
            + number(UInt64(length), 4) + payload
    }
    static func write(_ handle: UInt64, _ payload: [UInt8]) -> [UInt8] {
        request(1, handle, payload.count, payload)
    }
    static func answer(_ handle: UInt64, _ data: [UInt8] = [], error: UInt64 = 0) -> [UInt8] {
        number(0x6744_6698, 4) + number(error, 4) + number(handle, 8) + data
    }
}

extension ByteQueue {
    /// What waits, all of it.
    mutating func drain() -> [UInt8] {
        var bytes: [UInt8] = []
        while !isEmpty {
            let some = next.prefix(7)
            bytes += some
            sent(some.count)
        }
        return bytes
    }
}

@Suite struct RequestRelayTests {
    private typealias Bytes = KernelBytes
    private let requests =
        Bytes.write(1, [9, 8, 7, 6, 5]) + Bytes.request(0, 2, 4) + Bytes.request(3, 3, 0)
        + Bytes.request(4, 4, Int(UInt32.max))

    @Test("requests and answers are the same however the bytes are cut", arguments: 1...40)
    func cuts(size: Int) throws {
        var relay = RequestRelay()
        relay.serverCame()
        for start in stride(from: 0, to: requests.count, by: size) {
            try relay.requests(requests[start..<min(start + size, requests.count)])
        }
        #expect(relay.toServer.drain() == requests && relay.unansweredCount == 4)
        let answers =
            Bytes.answer(2, [1, 2, 3, 4]) + Bytes.answer(4) + Bytes.answer(1, error: 5) + Bytes.answer(3)
        for start in stride(from: 0, to: answers.count, by: size) {
            try relay.answers(answers[start..<min(start + size, answers.count)])
        }
        #expect(relay.toKernel.drain() == answers && relay.unansweredCount == 0)
    }
    @Test("the next server gets what was not answered, in the kernel's order, and nothing else")
    func nextServer() throws {
        var relay = RequestRelay()
        relay.serverCame()
        try relay.requests(requests[...])
        _ = relay.toServer.drain()
        // The third answer, of a read, is cut off in its data.
        try relay.answers((Bytes.answer(4) + Bytes.answer(1) + Bytes.answer(2, [1, 2])).dropLast(0))
        relay.serverLost()
        #expect(relay.toKernel.drain() == Bytes.answer(4) + Bytes.answer(1))
        // Without a server requests are kept, whole and in part.
        let late = Bytes.write(5, [1, 1])
        try relay.requests(late[..<29])
        #expect(relay.toServer.isEmpty)
        relay.serverCame()
        #expect(relay.toServer.drain() == Bytes.request(0, 2, 4) + Bytes.request(3, 3, 0))
        try relay.requests(late[29...])
        #expect(relay.toServer.drain() == late)
        try relay.answers((Bytes.answer(2, [5, 6, 7, 8]))[...])
        #expect(relay.toKernel.drain() == Bytes.answer(2, [5, 6, 7, 8]) && relay.unansweredCount == 2)
    }
    @Test("a read that failed has no data behind its answer; a goodbye is passed on and not kept")
    func shapes() throws {
        var relay = RequestRelay()
        relay.serverCame()
        try relay.requests((Bytes.request(0, 2, 4) + Bytes.request(2, 0, 0))[...])
        try relay.answers(Bytes.answer(2, error: 5)[...])
        #expect(relay.toKernel.drain() == Bytes.answer(2, error: 5) && relay.unansweredCount == 0)
        #expect(relay.toServer.drain() == Bytes.request(0, 2, 4) + Bytes.request(2, 0, 0))
    }
    @Test("once no server has come in time requests fail, until one comes")
    func patience() throws {
        var relay = RequestRelay()
        relay.serverCame()
        try relay.requests(requests[...])
        relay.serverLost()
        relay.giveUp()
        #expect(relay.toKernel.drain() == (1...4).flatMap { Bytes.answer($0, error: 5) })
        try relay.requests(Bytes.write(9, [1])[...])
        #expect(relay.toKernel.drain() == Bytes.answer(9, error: 5) && relay.unansweredCount == 0)
        relay.serverCame()
        try relay.requests(Bytes.write(10, [1])[...])
        #expect(relay.toServer.drain() == Bytes.write(10, [1]) && relay.toKernel.isEmpty)
    }
    @Test("what is held has its bounds")
    func bounds() throws {
        var relay = RequestRelay()
        for handle in 0..<UInt64(RequestRelay.requestsMax) {
            #expect(relay.wantsRequests)
            try relay.requests(Bytes.request(3, handle, 0)[...])
        }
        #expect(!relay.wantsRequests)
        try relay.answers(Bytes.answer(7)[...])
        #expect(relay.wantsRequests)
        var reader = RequestRelay()
        try reader.requests(Bytes.request(0, 1, RequestRelay.heldBytesMax)[...])
        #expect(!reader.wantsRequests)
    }
    @Test("nonsense of either side is noticed")
    func violations() throws {
        var relay = RequestRelay()
        #expect(throws: RequestRelay.Violation.self) {
            try relay.requests([UInt8](repeating: 0, count: 28)[...])
        }
        relay = RequestRelay()
        #expect(throws: RequestRelay.Violation.self) {
            try relay.requests(Bytes.request(1, 1, RequestRelay.lengthMax + 1)[...])
        }
        relay = RequestRelay()
        try relay.requests(Bytes.request(3, 1, 0)[...])
        #expect(throws: RequestRelay.Violation.self) { try relay.answers(Bytes.answer(2)[...]) }
    }
}

@Suite struct HolderOrderTests {
    @Test("an order is read as it was written, with the shape of a device that is kept")
    func text() throws {
        let volume = DeviceSetup(
            size: ByteCount(bytes: 1 << 42), flags: [.hasFlags, .flush], identifier: "curve:a b")
        let shape = IoctlDevice.Shape(volume)
        #expect(shape.blocks == 1 << 30 && shape.blockBytes == 4096)
        // Numbers that no process has open: they are closed when an order is refused.
        let line = HolderOrder.text(.keep, 7, 600, volume.identifier, shape: shape)
        let kept = try #require(HolderOrder(line, [60001, 60002, 60003, 60004]))
        #expect(kept.verb == .keep && kept.device == "nbd7 curve:a b" && kept.shape == shape)
        #expect(kept.patienceSeconds == 600)
        let served = try #require(HolderOrder(HolderOrder.text(.serve, 7, 1, "x"), []))
        #expect(served.verb == .serve && served.shape == nil)
    }
    @Test(
        "orders that make no sense are refused",
        arguments: [
            ("", 0), ("hold", 2), ("hold 9 nbd1", 3), ("hold x nbd1", 2), ("keep 9 nbd1", 4),
            ("keep:1,2,3 9 nbd1", 4), ("keep:1,2,3,4 9 nbd1", 1), ("keep:1,2,3,4 9 nbd1", 3), (" 9 nbd1", 0),
            (": 9 nbd1", 0),
        ])
    func nonsense(text: String, sockets: Int) {
        #expect(HolderOrder(text, (0..<sockets).map { 60001 + Int32($0) }) == nil)
    }
    @Test("a count is read, a refusal and the unasked are not taken for one")
    func answers() {
        #expect(
            HolderOrder.count(HolderOrder.held(2)) == 2 && HolderOrder.count(HolderOrder.held(-16)) == -16)
        #expect(HolderOrder.count(HolderOrder.lost) == nil && HolderOrder.count("") == nil)
    }
}

@Suite struct HeldDeviceTests {
    /// A test's end of a socket, that never waits for ever.
    private final class End: Sendable {
        let descriptor: Int32
        init(_ descriptor: Int32) {
            self.descriptor = descriptor
            var patience = timeval(tv_sec: 20, tv_usec: 0)
            setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &patience, socklen_t(MemoryLayout<timeval>.size))
        }
        deinit { close(descriptor) }
        func write(_ bytes: [UInt8]) { #expect(send(descriptor, bytes, bytes.count, 0) == bytes.count) }
        func read(_ count: Int) -> [UInt8] {
            var bytes = [UInt8](repeating: 0, count: count)
            let got = recv(descriptor, &bytes, count, Int32(MSG_WAITALL))
            return Array(bytes.prefix(max(0, got)))
        }
        var text: String? { (try? DescriptorMessage.receive(on: descriptor))?.text }
    }
    private func pair(_ kind: __socket_type = SOCK_STREAM) throws -> (End, Int32) {
        var ends: [Int32] = [-1, -1]
        try #require(socketpair(AF_UNIX, Int32(kind.rawValue), 0, &ends) == 0)
        return (End(ends[0]), ends[1])
    }
    private typealias Bytes = KernelBytes

    @Test("a server that dies in the middle of an answer is replaced by one that gives it whole")
    func replaced() throws {
        let devices = HeldDevices()
        let (kernel, kernelEnd) = try pair()
        var (server, serverEnd) = try pair()
        var (daemon, daemonEnd) = try pair(SOCK_SEQPACKET)
        devices.take(try #require(HolderOrder("hold 9 nbd7 curve:x", [kernelEnd, serverEnd])), daemonEnd)
        #expect(daemon.text == "held 1")
        let payload = [UInt8](repeating: 3, count: 300_000)
        let requests = Bytes.write(1, payload) + Bytes.request(0, 2, 4)
        let sender = Thread { [kernel] in kernel.write(requests) }
        sender.start()
        #expect(server.read(requests.count) == requests)
        server.write(Bytes.answer(2, [1, 2, 3, 4]).dropLast(2))
        // The daemon lives, and hears of it.
        server = End(dup(0))
        #expect(daemon.text == "lost")
        (server, serverEnd) = try pair()
        (daemon, daemonEnd) = try pair(SOCK_SEQPACKET)
        devices.take(try #require(HolderOrder("serve 9 nbd7 curve:x", [serverEnd])), daemonEnd)
        #expect(daemon.text == "held 1" && server.read(requests.count) == requests)
        let answers = Bytes.answer(2, [5, 6, 7, 8]) + Bytes.answer(1)
        server.write(answers)
        #expect(kernel.read(answers.count) == answers)
        shutdown(kernel.descriptor, Int32(SHUT_RDWR))
        #expect(server.read(1).isEmpty)
        // Its thread says so after it has closed the sockets.
        let deadline = ContinuousClock.now + .seconds(10)
        while !devices.isEmpty, ContinuousClock.now < deadline { usleep(1000) }
        #expect(devices.isEmpty)
        // Nothing is held any more.
        (daemon, daemonEnd) = try pair(SOCK_SEQPACKET)
        (server, serverEnd) = try pair()
        devices.take(try #require(HolderOrder("serve 9 nbd7 curve:x", [serverEnd])), daemonEnd)
        #expect(daemon.text == "held 0" && server.read(1).isEmpty)
    }
    @Test("requests fail once the patience is over, and are served again by a server that comes late")
    func patience() throws {
        let devices = HeldDevices()
        let (kernel, kernelEnd) = try pair()
        var (server, serverEnd) = try pair()
        var (daemon, daemonEnd) = try pair(SOCK_SEQPACKET)
        devices.take(try #require(HolderOrder("hold 1 nbd7 curve:x", [kernelEnd, serverEnd])), daemonEnd)
        #expect(daemon.text == "held 1")
        kernel.write(Bytes.request(0, 2, 4))
        server = End(dup(0))
        #expect(kernel.read(16) == Bytes.answer(2, error: 5))
        (server, serverEnd) = try pair()
        (daemon, daemonEnd) = try pair(SOCK_SEQPACKET)
        devices.take(try #require(HolderOrder("serve 1 nbd7 curve:x", [serverEnd])), daemonEnd)
        #expect(daemon.text == "held 1")
        kernel.write(Bytes.request(0, 3, 4))
        #expect(server.read(28) == Bytes.request(0, 3, 4))
        server.write(Bytes.answer(3, [1, 2, 3, 4]))
        #expect(kernel.read(20) == Bytes.answer(3, [1, 2, 3, 4]))
    }
    @Test("what comes by one connection is passed on after the servers of closed ones were left")
    func deserted() throws {
        for _ in 0..<200 {
            let devices = HeldDevices()
            let (first, firstEnd) = try pair()
            let (second, secondEnd) = try pair()
            let (oldServer, oldServerEnd) = try pair()
            let (newServer, newServerEnd) = try pair()
            let (daemon, daemonEnd) = try pair(SOCK_SEQPACKET)
            let sockets = [firstEnd, oldServerEnd, secondEnd, newServerEnd]
            devices.take(try #require(HolderOrder("hold 9 nbd7 curve:x", sockets)), daemonEnd)
            #expect(daemon.text == "held 2")
            // As the kernel does it: closed first, sent again then.
            shutdown(first.descriptor, Int32(SHUT_RDWR))
            second.write(Bytes.write(1, [1]))
            #expect(newServer.read(29) == Bytes.write(1, [1]))
            var asked = pollfd(fd: oldServer.descriptor, events: 0, revents: 0)
            #expect(poll(&asked, 1, 0) == 1 && asked.revents & Int16(POLLHUP) != 0)
        }
    }
}
