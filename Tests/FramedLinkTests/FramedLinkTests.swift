import BlockTypes
import CurveWire
import Environment
import MemoryEnvironment
import Testing

@testable import FramedLink

/// Two links joined in memory, with what each was told.
final class Pair {
    let world: MemoryWorld
    let streams: (MemoryConnection, MemoryConnection)
    let left: FramedLink
    let right: FramedLink
    var leftTold: [String] = []
    var rightTold: [String] = []
    var payloads: [Payload] = []

    init(
        seed: UInt64 = 1, left mine: Hello = Hello(role: .client),
        right theirs: Hello = Hello(role: .chunkserver),
        serving: FrameKindSet = .all, rightCheck: @escaping (Hello) -> String? = { _ in nil }
    ) {
        world = MemoryWorld(seed: seed)
        streams = MemoryConnection.pair(in: world)
        let environment = world.environment("test")
        left = FramedLink(
            connection: streams.0, environment: environment, pool: BufferPool(), mine: mine,
            check: { _ in nil })
        right = FramedLink(
            connection: streams.1, environment: environment, pool: BufferPool(), mine: theirs,
            serving: serving,
            check: rightCheck)
        left.onReady = { [unowned self] hello in leftTold.append("ready \(hello.role)") }
        right.onReady = { [unowned self] hello in rightTold.append("ready \(hello.role)") }
        left.onFrame = { [unowned self] frame in leftTold.append(name(frame)) }
        right.onFrame = { [unowned self] frame in rightTold.append(name(frame)) }
        left.onClosed = { [unowned self] reason in leftTold.append("closed: \(reason)") }
        right.onClosed = { [unowned self] reason in rightTold.append("closed: \(reason)") }
        left.onDrained = { [unowned self] in leftTold.append("drained") }
    }
    func name(_ frame: Frame) -> String {
        switch frame {
        case .control(let id, let body): return "control \(id) \(body)"
        case .request(let id, let request):
            if case .write(_, _, _, _, let parts) = request.kind { payloads += parts }
            return "request \(id)"
        default: return "other"
        }
    }
}

func write(id: UInt64, blocks: Int, seed: UInt64) -> (Frame, Payload) {
    var random = SeededRandom(seed: seed)
    let buffer = BlockBuffer(byteCount: blocks * 4096)
    for index in 0..<(blocks * 512) {
        buffer.bytes.storeBytes(of: random.next(), toByteOffset: index * 8, as: UInt64.self)
    }
    let payload = Payload(buffer, byteCount: blocks * 4096)
    guard let run = BlockRun(chunk: ChunkKey(rawValue: 7), firstBlock: 0, blockCount: blocks) else {
        preconditionFailure("no run of \(blocks)")
    }
    let request = BlockRequest(
        copyset: CopysetID(1), epoch: Epoch(1),
        kind: .write(
            run, SnapshotNumber(1), RequestTag(session: Epoch(1), sequence: 1),
            checksums: CRC32C.perBlock(of: payload), payload: [payload]))
    return (.request(id: id, request), payload)
}

@Suite struct FramedLinkTests {
    @Test("both sides say hello, then frames flow in order", arguments: [1, 7, 64, 100_000])
    func frames(pieceBytes: Int) {
        let pair = Pair()
        pair.world.pieceBytesMax = pieceBytes
        for id in 1...3 { pair.left.send(.control(id: UInt64(id), body: [UInt8(id)])) }
        #expect(pair.rightTold.isEmpty, "nothing happens from inside a call")
        pair.world.settle()
        #expect(pair.leftTold == ["ready chunkserver"])
        #expect(pair.rightTold == ["ready client", "control 1 [1]", "control 2 [2]", "control 3 [3]"])
        #expect(pair.right.peerHello == Hello(role: .client) && pair.right.isOpen)
    }

    @Test("payload arrives whole, glued to other frames and cut at random", arguments: UInt64(0)..<20)
    func payload(seed: UInt64) {
        let pair = Pair(seed: seed)
        (pair.world.pieceBytesMax, pair.world.cutsAtRandom) = (30_000, true)
        var sent: [Payload] = []
        for id in UInt64(1)...6 {
            let (frame, payload) = write(
                id: id, blocks: [1, 2, 33, 64][Int(id + seed) % 4], seed: seed * 10 + id)
            sent.append(payload)
            pair.left.send(frame)
            pair.left.send(.control(id: id, body: []))
        }
        pair.world.settle()
        #expect(pair.payloads.map(\.array) == sent.map(\.array), "seed \(seed)")
        #expect(pair.rightTold.count == 13)
    }

    @Test("a peer that is not wanted is told why, and both sides know it")
    func refusal() {
        let pair = Pair(rightCheck: { "you are a \($0.role)" })
        pair.left.send(.control(id: 1, body: []))
        pair.world.settle()
        #expect(pair.leftTold == ["ready chunkserver", "closed: the peer refused: you are a client"])
        #expect(pair.rightTold == ["closed: refused the peer: you are a client"])
        #expect(!pair.left.isOpen)
        pair.left.send(.control(id: 2, body: []))
        pair.left.close()
        pair.world.settle()
        #expect(pair.leftTold.count == 2, "nothing comes after the end")
    }

    @Test("another protocol version is refused with what to do")
    func version() {
        let pair = Pair(left: Hello(role: .client, version: 99))
        pair.world.settle()
        #expect(pair.rightTold.count == 1 && pair.rightTold[0].contains("run the same release"))
        #expect(pair.leftTold.last?.contains("run the same release") == true)
    }

    @Test("a silent peer is given up after the handshake timeout, and not a moment before")
    func silence() {
        let world = MemoryWorld()
        let (near, far) = MemoryConnection.pair(in: world)
        var reasons: [LinkCloseReason] = []
        let link = FramedLink(
            connection: near, environment: world.environment("test"), pool: BufferPool(),
            mine: Hello(role: .tool),
            check: { _ in nil })
        link.onClosed = { reasons.append($0) }
        far.handler = Deaf()
        world.run(for: FramedLink.handshakeTimeout - .milliseconds(1))
        #expect(reasons.isEmpty)
        world.run(for: .milliseconds(1))
        #expect(reasons == [.handshakeTimedOut])
    }

    @Test("a peer that breaks the rules of its role is cut off; what came before counts")
    func outOfRole() {
        let pair = Pair()
        pair.left.send(.control(id: 1, body: []))
        pair.left.send(.replica(CopysetID(1), .timeoutNow(term: Term(1))))
        pair.left.send(.control(id: 2, body: []))
        pair.world.settle()
        let end = LinkCloseReason.protocolViolation(.notAllowed(.timeoutNow))
        #expect(pair.rightTold == ["ready client", "control 1 []", "closed: \(end)"])
        #expect(pair.leftTold.last == "closed: \(LinkCloseReason.network(.closedByPeer))")
    }

    @Test("an owner that serves few kinds never sees the others")
    func serving() {
        let pair = Pair(serving: FrameKindSet([.control]))
        pair.left.send(write(id: 1, blocks: 1, seed: 1).0)
        pair.world.settle()
        let end = LinkCloseReason.protocolViolation(.notAllowed(.write))
        #expect(pair.rightTold == ["ready client", "closed: \(end)"])
    }

    @Test("a second hello is refused")
    func secondHello() {
        let pair = Pair()
        pair.left.send(.hello(Hello(role: .metadata)))
        pair.world.settle()
        let end = LinkCloseReason.protocolViolation(.notAllowed(.hello))
        #expect(pair.rightTold == ["ready client", "closed: \(end)"])
    }

    @Test("garbage instead of a hello closes the link")
    func garbage() {
        let world = MemoryWorld()
        let (near, far) = MemoryConnection.pair(in: world)
        var reasons: [LinkCloseReason] = []
        let link = FramedLink(
            connection: near, environment: world.environment("test"), pool: BufferPool(),
            mine: Hello(role: .tool),
            check: { _ in nil })
        link.onClosed = { reasons.append($0) }
        far.handler = Deaf()
        far.send([.bytes(Array(repeating: 65, count: 500))])
        world.settle()
        #expect(reasons == [.protocolViolation(.badMagic(0x4141_4141))])
    }

    @Test("while paused no frame is delivered, not even one that had come; after it none is missing")
    func pause() {
        let pair = Pair()
        pair.right.onFrame = { [unowned pair] frame in
            pair.rightTold.append(pair.name(frame))
            if pair.rightTold.count == 3 { pair.right.pauseReceiving() }
        }
        for id in 1...9 { pair.left.send(.control(id: UInt64(id), body: [])) }
        pair.world.run(for: .seconds(60))
        #expect(pair.rightTold == ["ready client", "control 1 []", "control 2 []"])
        pair.right.resumeReceiving()
        #expect(pair.rightTold.count == 3, "nothing happens from inside a call")
        pair.world.settle()
        #expect(pair.rightTold.count == 10 && pair.rightTold.last == "control 9 []")
    }

    @Test("a pause and a resume inside a delivery lose nothing and repeat nothing")
    func pauseInside() {
        let pair = Pair()
        pair.right.onFrame = { [unowned pair] frame in
            pair.rightTold.append(pair.name(frame))
            pair.right.pauseReceiving()
            pair.right.resumeReceiving()
        }
        for id in 1...5 { pair.left.send(.control(id: UInt64(id), body: [])) }
        pair.world.settle()
        #expect(pair.rightTold == ["ready client"] + (1...5).map { "control \($0) []" })
    }

    @Test("close sends what was queued and says so once; frames that come later are dropped")
    func close() {
        let pair = Pair()
        pair.world.settle()
        pair.left.send(.control(id: 1, body: []))
        pair.right.send(.control(id: 5, body: []))
        pair.left.close()
        pair.left.close()
        pair.world.settle()
        #expect(pair.leftTold == ["ready chunkserver", "closed: closed by this side"])
        #expect(pair.rightTold == ["ready client", "control 1 []", "closed: the peer closed the connection"])
    }

    @Test("a reset in the middle of a payload closes both links with its cause")
    func reset() {
        let pair = Pair()
        pair.world.pieceBytesMax = 1000
        pair.world.latency = .milliseconds(1)
        pair.left.send(write(id: 1, blocks: 16, seed: 1).0)
        pair.world.run(for: .milliseconds(20))
        pair.streams.0.reset()
        pair.world.settle()
        #expect(pair.leftTold == ["ready chunkserver", "closed: the peer reset the connection"])
        #expect(pair.rightTold == ["ready client", "closed: the peer reset the connection"])
    }

    @Test("a sender that held back hears when there is room again")
    func drained() {
        let pair = Pair()
        pair.world.settle()
        pair.right.pauseReceiving()
        var count: UInt64 = 0
        while pair.left.queuedSendBytes <= pair.left.sendQueueBytesSoftMax {
            count += 1
            pair.left.send(write(id: count, blocks: 64, seed: count).0)
        }
        pair.world.run(for: .seconds(60))
        #expect(pair.leftTold == ["ready chunkserver"])
        pair.right.resumeReceiving()
        pair.world.settle()
        #expect(pair.leftTold == ["ready chunkserver", "drained"] && pair.payloads.count == Int(count))
    }

    @Test("a damaged length does not swallow the peer's frames for ever")
    func damagedLength() {
        let pair = Pair()
        pair.world.run(for: .milliseconds(10))
        var (head, _) = FrameEncoder.encode(.control(id: 1, body: [1, 2, 3]))
        head[10] ^= 8  // Half a megabyte longer.
        pair.streams.0.send([.bytes(head)])
        for _ in 0..<60 {
            pair.left.send(.control(id: 2, body: [4]))
            pair.world.run(for: .milliseconds(100))
        }
        #expect(pair.rightTold.last == "closed: a frame began and never became complete")
    }

    @Test("a link that ends is freed")
    func freed() {
        var pair: Pair? = Pair()
        weak let left = pair?.left
        pair?.world.settle()
        pair?.left.close()
        pair?.world.settle()
        pair = nil
        #expect(left == nil)
    }
}

final class Deaf: ConnectionHandler {
    func connectionReceiveWindow() -> UnsafeMutableRawBufferPointer? { nil }
    func connectionReceived(_ bytes: UnsafeRawBufferPointer) {}
    func connectionDrained() {}
    func connectionClosed(_ reason: NetworkError) {}
}
