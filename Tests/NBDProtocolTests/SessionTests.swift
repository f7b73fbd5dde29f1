import BlockTypes
import Testing

@testable import NBDProtocol

@Suite struct SessionTests {
    static func pattern(_ count: Int, seed: Int = 3) -> [UInt8] {
        (0..<count).map { UInt8(truncatingIfNeeded: $0 &* 31 &+ $0 >> 8 &+ seed) }
    }
    static let blocks = pattern(8192)

    @Test("a write reaches the volume with its payload and is answered after the volume answered")
    func write() {
        var harness = Harness.serving()
        harness.feed(Say.request(Command.write, offset: 4096, length: 8192, cookie: 5, payload: Self.blocks))
        guard case .write(let start, let payloads) = harness.submitted[0].request else {
            Issue.record("not a write")
            return
        }
        #expect(start.bytes == 4096 && payloads.flatMap(\.array) == Self.blocks && harness.sent.isEmpty)
        #expect(payloads[0].startByte == 0)
        harness.complete(0)
        #expect(Heard.replies(harness.sent) == [Heard.Reply(cookie: 5)])
    }
    @Test("a read without structured replies returns stored bytes and zeroes in place")
    func simpleRead() {
        var harness = Harness.serving()
        harness.feed(Say.request(Command.read, offset: 0, length: 12288, cookie: 9))
        let segments: [ReadSegment] = [.zeroes(4096), .data(Payload(copying: Self.blocks))]
        harness.complete(0, .success(segments))
        let expected = [UInt8](repeating: 0, count: 4096) + Self.blocks
        #expect(Heard.replies(harness.sent, readBytes: 12288) == [Heard.Reply(cookie: 9, data: expected)])
    }
    @Test("a structured read returns a chunk per stretch of data and a hole for zeroes; the last says done")
    func structuredRead() {
        var harness = Harness.serving(structured: true)
        harness.feed(Say.request(Command.read, offset: 512, length: 8704, cookie: 9))
        let half = Payload(copying: Array(Self.blocks.prefix(512)))
        harness.complete(0, .success([.data(half), .data(half), .zeroes(4096), .zeroes(3072), .data(half)]))
        let data = half.array
        #expect(
            Heard.replies(harness.sent) == [
                Heard.Reply(
                    cookie: 9, type: ReplyChunk.offsetData, isLast: false,
                    data: Say.number(UInt64(512)) + data + data),
                Heard.Reply(
                    cookie: 9, type: ReplyChunk.offsetHole, isLast: false,
                    data: Say.number(UInt64(1536)) + Say.number(UInt32(7168))),
                Heard.Reply(cookie: 9, type: ReplyChunk.offsetData, data: Say.number(UInt64(8704)) + data),
            ])
    }
    @Test("DF gets one chunk: data with its zeroes spelled out, or one hole")
    func dontFragment() {
        var harness = Harness.serving(structured: true)
        harness.feed(Say.request(Command.read, length: 8192, flags: CommandFlag.dontFragment, cookie: 1))
        let half = Payload(copying: Array(Self.blocks.prefix(4096)))
        harness.complete(0, .success([.zeroes(4096), .data(half)]))
        let spelled = [UInt8](repeating: 0, count: 4096) + half.array
        #expect(
            Heard.replies(harness.takeSent()) == [
                Heard.Reply(cookie: 1, type: ReplyChunk.offsetData, data: Say.number(UInt64(0)) + spelled)
            ])
        harness.feed(Say.request(Command.read, length: 8192, flags: CommandFlag.dontFragment, cookie: 2))
        harness.complete(0, .success([.zeroes(8192)]))
        #expect(Heard.replies(harness.sent).map(\.type) == [ReplyChunk.offsetHole])
    }
    @Test("FUA flushes after the change and answers after the flush, on every command")
    func fua() {
        var harness = Harness.serving()
        harness.feed(Say.request(Command.trim, offset: 0, length: 4096, flags: CommandFlag.fua))
        harness.complete(0)
        guard case .flush = harness.submitted[0].request else {
            Issue.record("no flush")
            return
        }
        #expect(harness.sent.isEmpty)
        harness.complete(0)
        #expect(Heard.replies(harness.takeSent()).map(\.errno) == [0])
        harness.feed(
            Say.request(Command.read, length: 512, flags: CommandFlag.fua)
                + Say.request(Command.flush, flags: 1))
        harness.complete(0, .success([.zeroes(512)]))
        harness.complete(0)
        #expect(harness.submitted.isEmpty && harness.sent.count == 16 + 512 + 16)
    }
    @Test("a flush that fails after a FUA write fails the write")
    func fuaFlushFails() {
        var harness = Harness.serving()
        harness.feed(
            Say.request(Command.write, length: 512, flags: CommandFlag.fua, payload: Self.pattern(512)))
        harness.complete(0)
        harness.complete(0, .failure(.replicasUnavailable))
        #expect(Heard.replies(harness.sent).map(\.errno) == [NBDErrno.io.rawValue])
    }
    @Test("zeroes without a hole are written as data in bounded steps; with FAST_ZERO that fails at once")
    func noHole() {
        var harness = Harness.serving(size: 1 << 30)
        let length: UInt64 = 40 << 20
        harness.feed(
            Say.request(
                Command.writeZeroes, offset: 512, length: length, flags: CommandFlag.noHole | CommandFlag.fua)
        )
        var total = 0
        while case .write(let start, let payloads)? = harness.submitted.first?.request {
            #expect(start.bytes == 512 + UInt64(total) && harness.submitted.count == 1)
            total += payloads.reduce(0) { $0 + $1.byteCount }
            harness.complete(0)
        }
        #expect(total == Int(length) && harness.sent.isEmpty)
        harness.complete(0)
        #expect(Heard.replies(harness.takeSent()).map(\.errno) == [0])
        harness.feed(
            Say.request(Command.writeZeroes, length: 512, flags: CommandFlag.noHole | CommandFlag.fastZero)
                + Say.request(Command.writeZeroes, length: 512, flags: CommandFlag.fastZero))
        #expect(Heard.replies(harness.sent).map(\.errno) == [NBDErrno.notSupported.rawValue])
        #expect(harness.submitted.count == 1)
    }
    static let refused: [(String, [UInt8], NBDErrno)] = [
        ("read past the end", Say.request(Command.read, offset: 1 << 20, length: 512), .invalid),
        ("read that wraps", Say.request(Command.read, offset: .max - 511, length: 1024), .invalid),
        ("read of 4 GiB - 1", Say.request(Command.read, length: .max), .invalid),
        (
            "write past the end",
            Say.request(Command.write, offset: 1 << 20, length: 512, payload: pattern(512)), .noSpace
        ),
        (
            "write that wraps",
            Say.request(Command.write, offset: .max - 511, length: 1024, payload: pattern(1024)), .noSpace
        ),
        ("trim past the end", Say.request(Command.trim, offset: 512, length: 1 << 20), .invalid),
        ("zeroes past the end", Say.request(Command.writeZeroes, offset: 512, length: 1 << 20), .noSpace),
        ("unknown command", Say.request(99), .invalid),
        ("CACHE past the end", Say.request(Command.cache, offset: 1 << 20, length: 512), .invalid),
        ("RESIZE that nobody may", Say.request(Command.resize, offset: 1 << 21), .invalid),
        ("BLOCK_STATUS without a context", Say.request(7, length: 512), .invalid),
        ("unknown flag", Say.request(Command.read, length: 512, flags: 0x80), .invalid),
        (
            "unknown flag on a write",
            Say.request(Command.write, length: 512, flags: 0x8000, payload: pattern(512)), .invalid
        ),
        ("DF without structured replies", Say.request(Command.read, length: 512, flags: 4), .invalid),
        ("NO_HOLE on a trim", Say.request(Command.trim, length: 512, flags: 2), .invalid),
        ("flush with a length", Say.request(Command.flush, length: 512), .invalid),
    ]
    @Test(
        "a request that is wrong gets its error, touches nothing, and the next one is served",
        arguments: refused)
    func wrong(name: String, bytes: [UInt8], errno: NBDErrno) {
        var harness = Harness.serving()
        harness.feed(bytes + Say.request(Command.flush, cookie: 8))
        #expect(Heard.replies(harness.sent) == [Heard.Reply(cookie: 7, errno: errno.rawValue)])
        #expect(harness.submitted.count == 1 && harness.ended == nil)
    }
    @Test("single bytes may be read, written, zeroed and trimmed anywhere")
    func singleBytes() {
        var harness = Harness.serving()
        harness.feed(Say.request(Command.write, offset: 4095, length: 3, payload: [1, 2, 3]))
        guard case .write(let start, let payloads)? = harness.submitted.first?.1 else {
            Issue.record("no write")
            return
        }
        #expect(start.bytes == 4095 && payloads.map(\.byteCount).reduce(0, +) == 3)
        harness.complete(0, .success([]))
        harness.feed(
            Say.request(Command.trim, offset: 5, length: 7)
                + Say.request(Command.writeZeroes, offset: 1, length: 1)
                + Say.request(Command.read, offset: (1 << 20) - 1, length: 1))
        #expect(harness.submitted.count == 3)
    }
    @Test("with structured replies an error brings its reason in words, also for a read")
    func errorText() {
        var harness = Harness.serving(structured: true)
        harness.feed(Say.request(Command.read, offset: 1 << 40, length: 512) + Say.request(Command.flush))
        harness.complete(0, .failure(.noSpace))
        let replies = Heard.replies(harness.sent)
        #expect(replies.map(\.type) == [ReplyChunk.error, ReplyChunk.error])
        #expect(replies.map(\.errno) == [22, 28])
        #expect(
            String(decoding: replies[1].data.dropFirst(6), as: UTF8.self)
                == "the pool has no room for new data")
    }
    @Test("a read-only export refuses every change")
    func readOnly() {
        var harness = Harness.serving(isReadOnly: true)
        harness.feed(
            Say.request(Command.write, length: 512, payload: Self.pattern(512))
                + Say.request(Command.trim, length: 512) + Say.request(Command.writeZeroes, length: 512))
        #expect(Heard.replies(harness.sent).map(\.errno) == [1, 1, 1] && harness.submitted.isEmpty)
    }
    @Test("empty runs are done at once", arguments: [false, true])
    func empty(structured: Bool) {
        var harness = Harness.serving(structured: structured)
        for command in [Command.read, Command.write, Command.trim, Command.writeZeroes] {
            harness.feed(Say.request(command, offset: 512))
        }
        let replies = Heard.replies(harness.sent)
        #expect(replies.map(\.errno) == [0, 0, 0, 0] && harness.submitted.isEmpty)
        #expect(replies[0].type == (structured ? ReplyChunk.none : nil))
    }
    @Test("a payload just above the bound is swallowed and refused; an absurd one ends the connection")
    func tooLong() {
        var harness = Harness.serving(size: 1 << 40)
        let length = NBDLimits.payloadBytesMax + 1
        harness.feed(Say.request(Command.write, length: UInt64(length)))
        for _ in 0..<64 { harness.feed([UInt8](repeating: 1, count: 1 << 20)) }
        #expect(harness.sent.isEmpty && harness.session.inFlightBytes == 0)
        harness.feed([1] + Say.request(Command.read, length: UInt64(NBDLimits.payloadBytesMax)))
        #expect(Heard.replies(harness.sent).map(\.errno) == [22] && harness.submitted.count == 1)
        harness.feed(Say.request(Command.write, length: .max))
        #expect(harness.ended == .violation("a payload of 4294967295 bytes"))
    }
    @Test("a wrong magic ends the connection at once and late answers of the volume go nowhere")
    func badMagic() {
        var harness = Harness.serving()
        harness.feed(Say.request(Command.read, length: 512) + [UInt8](repeating: 0, count: 28))
        #expect(harness.ended == .violation("a request starts with the wrong magic"))
        harness.complete(0, .success([.zeroes(512)]))
        #expect(harness.sent.isEmpty)
    }
    @Test("after DISC nothing is served any more, and the connection closes after the last answer")
    func disconnect() {
        var harness = Harness.serving()
        harness.feed(
            Say.request(Command.read, length: 512, cookie: 1) + Say.request(Command.disconnect)
                + Say.request(Command.read, length: 512, cookie: 2))
        #expect(harness.submitted.count == 1 && harness.ended == nil)
        harness.complete(0, .success([.zeroes(512)]))
        #expect(harness.ended == .disconnected && harness.sent.count == 16 + 512)
    }
    @Test("the same cookie on many requests is answered as often as it was asked")
    func sameCookie() {
        var harness = Harness.serving()
        for _ in 0..<64 { harness.feed(Say.request(Command.flush, cookie: 1)) }
        while !harness.submitted.isEmpty { harness.complete(harness.submitted.count - 1) }
        #expect(Heard.replies(harness.sent) == [Heard.Reply](repeating: Heard.Reply(cookie: 1), count: 64))
    }
    @Test("stop takes no more requests and closes after the last answer")
    func stop() {
        var harness = Harness.serving()
        harness.feed(
            Say.request(Command.flush, cookie: 1) + Say.request(Command.write, length: 512, payload: [1, 2]))
        harness.stop()
        harness.feed(Say.request(Command.flush, cookie: 2))
        #expect(harness.submitted.count == 1 && harness.ended == nil)
        harness.complete(0)
        #expect(harness.ended == .stopped && Heard.replies(harness.sent) == [Heard.Reply(cookie: 1)])
    }
    @Test("a new size judges the requests that come after it")
    func resize() {
        var harness = Harness.serving()
        harness.session.resized(to: ByteCount(bytes: 2 << 20))
        harness.feed(Say.request(Command.read, offset: 1 << 20, length: 512))
        #expect(harness.submitted.count == 1)
        harness.session.resized(to: ByteCount(bytes: 4096))
        harness.feed(Say.request(Command.read, offset: 4096, length: 512))
        #expect(Heard.replies(harness.sent).map(\.errno) == [22])
    }
}
