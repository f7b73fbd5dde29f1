import BlockTypes
import Testing

@testable import NBDProtocol

@Suite struct FlowTests {
    static let stream: [UInt8] =
        Say.request(Command.write, offset: 0, length: 1024, cookie: 1, payload: SessionTests.pattern(1024))
        + Say.request(Command.read, offset: 512, length: 512, cookie: 2)
        + Say.request(
            Command.write, offset: 1 << 20, length: 512, cookie: 3, payload: SessionTests.pattern(512))
        + Say.request(99, cookie: 4) + Say.request(Command.flush, cookie: 5)
        + Say.request(
            Command.write, offset: 512, length: 512, cookie: 6, payload: SessionTests.pattern(512, seed: 9))

    static func outcome(_ harness: Harness) -> [String] {
        harness.submitted.map { submitted in
            switch submitted.request {
            case .write(let start, let payloads): "write \(start) \(payloads.map { CRC32C(of: $0) })"
            case .read(let start, let count): "read \(start) \(count)"
            case .compareAndWrite, .trim, .writeZeroes, .blockStatus: "other"
            case .flush: "flush"
            }
        } + Heard.replies(harness.sent).map { "reply \($0.cookie) \($0.errno)" }
    }
    @Test("the requests are the same however the bytes are cut", arguments: 1...56)
    func cut(chunkBytes: Int) {
        var (whole, parts) = (Harness.serving(), Harness.serving())
        whole.feed(Self.stream)
        parts.feed(Self.stream, chunkBytes: chunkBytes)
        #expect(Self.outcome(whole) == Self.outcome(parts))
        #expect(Self.outcome(whole).count == 6)
    }
    @Test("a stream that ends anywhere submits nothing that is incomplete")
    func truncated() {
        for length in 0..<(28 + 1024) {
            var harness = Harness.serving()
            harness.feed(Array(Self.stream.prefix(length)))
            #expect(harness.submitted.isEmpty && harness.ended == nil)
        }
    }
    @Test("payload received into the session's window is not copied and is the same")
    func window() {
        let payload = SessionTests.pattern(100 << 10)
        var harness = Harness.serving()
        harness.feed(
            Say.request(Command.write, length: UInt64(payload.count), payload: Array(payload.prefix(1000))))
        var rest = Array(payload.dropFirst(1000))
        while !rest.isEmpty { rest.removeFirst(harness.feedWindow(Array(rest.prefix(30_000)))) }
        guard case .write(_, let payloads)? = harness.submitted.first?.request else {
            Issue.record("no write")
            return
        }
        #expect(payloads[0].array == payload && harness.session.receiveWindow == nil)
    }
    @Test("beyond the bound of requests in flight the client is not read until one is answered")
    func requestBound() {
        var limits = NBDLimits()
        limits.inFlightRequestsMax = 4
        var harness = Harness.serving(limits: limits)
        for cookie in 0..<10 { harness.feed(Say.request(Command.flush, cookie: UInt64(cookie))) }
        #expect(harness.submitted.count == 4 && harness.isPaused)
        for _ in 0..<6 {
            harness.complete(0)
            #expect(harness.submitted.count == 4)
        }
        #expect(!harness.isPaused)
        while !harness.submitted.isEmpty { harness.complete(0) }
        #expect(Heard.replies(harness.sent).map(\.cookie) == Array(0..<10))
    }
    @Test(
        "beyond the bound of bytes in flight a read or write waits, and none is larger than the bound allows")
    func byteBound() {
        var limits = NBDLimits()
        limits.inFlightBytesMax = 8192
        var harness = Harness.serving(limits: limits)
        harness.feed(
            Say.request(Command.read, length: 8192, cookie: 1)
                + Say.request(Command.write, length: 4096, cookie: 2, payload: SessionTests.pattern(4096))
                + Say.request(Command.flush, cookie: 3))
        #expect(harness.submitted.count == 1 && harness.isPaused && harness.session.inFlightBytes == 8192)
        harness.complete(0, .success([.zeroes(8192)]))
        #expect(harness.submitted.count == 2 && !harness.isPaused && harness.session.inFlightBytes == 4096)
        harness.complete(0)
        #expect(harness.session.inFlightBytes == 0)
    }
    @Test("a client that never collects its replies is held at a bound, and goes on when it collects")
    func deafClient() {
        var limits = NBDLimits()
        limits.queuedReplyBytesMax = 64 << 10
        var harness = Harness.serving(limits: limits)
        harness.clientIsDeaf = true
        for _ in 0..<100 {
            harness.feed(Say.request(Command.read, length: 16 << 10))
            while !harness.submitted.isEmpty { harness.complete(0, .success([.zeroes(16 << 10)])) }
        }
        #expect(harness.isPaused && harness.queued <= 96 << 10)
        harness.clientIsDeaf = false
        harness.drain()
        while !harness.submitted.isEmpty { harness.complete(0, .success([.zeroes(16 << 10)])) }
        #expect(!harness.isPaused && harness.sent.count == 100 * (16 + 16 << 10))
    }
    @Test(
        "any bytes at all, after any beginning, neither crash nor grow the session",
        arguments: UInt64(0)..<200)
    func randomBytes(seed: UInt64) {
        var random = SeededRandom(seed: seed)
        var harness = random.oneIn(2) ? Harness() : Harness.serving(structured: random.oneIn(2))
        for _ in 0..<40 where harness.ended == nil {
            var bytes: [UInt8] =
                switch UInt8.random(in: 0..<4, using: &random) {
                case 0: Say.option(.random(in: 0...12, using: &random), [0, 0, 0, 1, 0x76, 0, 0])
                case 1: Say.clientFlags()
                default:
                    Say.request(
                        .random(in: 0...8, using: &random), offset: .random(in: 0...4, using: &random) * 512,
                        length: .random(in: 0...4, using: &random) * 512,
                        flags: .random(in: 0...3, using: &random))
                }
            if random.oneIn(8), let index = bytes.indices.randomElement(using: &random) {
                bytes[index] ^= 0x10
            }
            harness.feed(bytes, chunkBytes: .random(in: 1...64, using: &random))
            while harness.ended == nil, let request = harness.submitted.first?.request {
                if case .read(_, let count) = request {
                    harness.complete(0, .success([.zeroes(count)]))
                } else {
                    harness.complete(0)
                }
            }
            #expect(harness.session.inFlightBytes <= NBDLimits().inFlightBytesMax, "seed \(seed)")
        }
    }
}
