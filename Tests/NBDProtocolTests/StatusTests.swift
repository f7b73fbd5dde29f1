import BlockTypes
import Testing

@testable import NBDProtocol

@Suite("block status, extended headers and what comes with them") struct StatusTests {
    static let exports = [
        NBDExportDescription(name: "a", size: ByteCount(bytes: 1 << 40)),
        NBDExportDescription(name: "b", size: ByteCount(bytes: 1 << 20)),
    ]
    static func query(_ name: String, _ queries: [String]) -> [UInt8] {
        Say.string(name) + Say.number(UInt32(queries.count)) + queries.flatMap { Say.string($0) }
    }
    static func set(_ name: String, _ queries: [String]) -> [UInt8] {
        Say.option(OptionNumber.setMetaContext, query(name, queries))
    }
    /// A session for export "a" with these contexts.
    static func serving(
        _ contexts: [String] = ["base:allocation"], extended: Bool = false, resizable: Bool = false
    ) -> Harness {
        var exports = exports
        exports[0].isResizable = resizable
        var harness = Harness(exports: exports)
        let headers = extended ? OptionNumber.extendedHeaders : OptionNumber.structuredReply
        harness.feed(Say.clientFlags() + Say.option(headers) + set("a", contexts) + Say.go("a"))
        #expect(harness.entered == "a")
        harness.sent = []
        return harness
    }
    static let map: [ReadSegment] = [
        .stored(4096), .stored(4096), .zeroes(8192), .zeroes(512), .stored(1024),
    ]
    static func extents32(_ list: [(UInt32, UInt32)]) -> [UInt8] {
        list.flatMap { Say.number($0.0) + Say.number($0.1) }
    }

    @Test(
        "LIST tells every context, or those of a namespace; SET takes whole names and ignores strangers",
        arguments: [
            (true, [], ["base:allocation", "curve:allocation-depth"]), (true, ["base:"], ["base:allocation"]),
            (true, ["curve:", "qemu:"], ["curve:allocation-depth"]), (true, ["x-y:z"], []), (false, [], []),
            (false, ["base:"], []),
            (false, ["base:allocation", "x:y", "base:allocation"], ["base:allocation"]),
            (
                false, ["curve:allocation-depth", "base:allocation"],
                ["base:allocation", "curve:allocation-depth"]
            ),
        ] as [(Bool, [String], [String])])
    func queries(isListing: Bool, queries: [String], found: [String]) {
        var harness = Harness(exports: Self.exports)
        let option = isListing ? OptionNumber.listMetaContext : OptionNumber.setMetaContext
        harness.feed(
            Say.clientFlags() + Say.option(OptionNumber.structuredReply)
                + Say.option(option, Self.query("a", queries)))
        let answers = Heard.optionAnswers(harness.sent).dropFirst()
        #expect(answers.last?.type == OptionReply.ack)
        let names = answers.dropLast().map { String(decoding: $0.data.dropFirst(4), as: UTF8.self) }
        #expect(names == found && answers.dropLast().allSatisfy { $0.type == OptionReply.metaContext })
        let numbers = Set(answers.dropLast().map { Array($0.data.prefix(4)) })
        #expect(numbers.count == (isListing ? min(found.count, 1) : found.count))
    }
    @Test("what SET chose is void for another export, after a later SET, also a failing one")
    func voidSelection() {
        for between in [
            Self.set("b", ["base:allocation"]), Self.set("a", []), Self.set("nope", ["base:allocation"]),
            Say.option(OptionNumber.setMetaContext, [1]),
        ] {
            var harness = Harness(exports: Self.exports)
            harness.feed(
                Say.clientFlags() + Say.option(OptionNumber.structuredReply)
                    + Self.set("a", ["base:allocation"]) + between + Say.go("a"))
            harness.sent = []
            harness.feed(Say.request(Command.blockStatus, length: 4096))
            #expect(Heard.replies(harness.sent).map(\.errno) == [22] && harness.submitted.isEmpty)
        }
    }
    @Test("a block status tells extents of each context, neighbours of one state in one; REQ_ONE the first")
    func status() {
        var harness = Self.serving(["base:allocation", "curve:allocation-depth"])
        harness.feed(Say.request(Command.blockStatus, offset: 512, length: 17920, cookie: 3))
        guard case .blockStatus(let start, let length)? = harness.submitted.first?.request else {
            Issue.record("nothing was asked")
            return
        }
        #expect(start.bytes == 512 && length.bytes == 17920)
        #expect(harness.session.inFlightBytes == NBDLimits.statusBudgetBytes)
        harness.complete(0, .success(Self.map))
        #expect(
            Heard.replies(harness.takeSent()) == [
                Heard.Reply(
                    cookie: 3, type: ReplyChunk.blockStatus, isLast: false,
                    data: Say.number(UInt32(1)) + Self.extents32([(8192, 0), (8704, 3), (1024, 0)])),
                Heard.Reply(
                    cookie: 3, type: ReplyChunk.blockStatus,
                    data: Say.number(UInt32(2)) + Self.extents32([(8192, 1), (8704, 0), (1024, 1)])),
            ])
        #expect(harness.session.inFlightBytes == 0)
        harness.feed(Say.request(Command.blockStatus, length: 17920, flags: CommandFlag.onlyOne))
        harness.complete(0, .success(Self.map))
        #expect(
            Heard.replies(harness.sent).first?.data == Say.number(UInt32(1)) + Self.extents32([(8192, 0)]))
    }
    @Test("a run longer than one answer is asked about in part, and extents beyond the bound are left out")
    func longStatus() {
        var harness = Self.serving()
        harness.feed(Say.request(Command.blockStatus, length: 4 << 30 - 512))
        guard case .blockStatus(_, let length)? = harness.submitted.first?.request else {
            Issue.record("nothing was asked")
            return
        }
        #expect(length.bytes == UInt64(VolumeRequest.statusBytesMax))
        let many = (0..<65_536).map { $0 % 2 == 0 ? ReadSegment.stored(4096) : .zeroes(4096) }
        harness.complete(0, .success(many))
        #expect(Heard.replies(harness.sent).first?.data.count == 4 + 8 * NBDLimits.extentsMax)
    }
    @Test("a block status of nothing, past the end, or that fails, gets its error and the stream goes on")
    func statusErrors() {
        var harness = Self.serving()
        harness.feed(
            Say.request(Command.blockStatus) + Say.request(Command.blockStatus, offset: 1 << 40, length: 512)
                + Say.request(Command.blockStatus, length: 512, flags: CommandFlag.dontFragment)
                + Say.request(Command.blockStatus, length: 512))
        harness.complete(0, .failure(.replicasUnavailable))
        #expect(Heard.replies(harness.sent).map(\.errno) == [22, 22, 22, 5])
    }
    @Test("CACHE is a hint that is taken and costs nothing")
    func cache() {
        for extended in [false, true] {
            var harness = Self.serving(extended: extended)
            harness.feed(Say.request(Command.cache, length: 4096, cookie: 4, extended: extended))
            let replies = Heard.replies(harness.sent)
            #expect(replies.map(\.errno) == [0] && replies[0].cookie == 4 && harness.submitted.isEmpty)
            #expect(replies[0].type == (extended ? ReplyChunk.none : nil))
        }
    }
    @Test("extended headers: once, before or after structured replies, which then are too late")
    func negotiation() {
        var harness = Harness(exports: Self.exports)
        harness.feed(
            Say.clientFlags() + Say.option(OptionNumber.structuredReply)
                + Say.option(OptionNumber.extendedHeaders, [1])
                + Say.option(OptionNumber.extendedHeaders) + Say.option(OptionNumber.extendedHeaders)
                + Say.option(OptionNumber.structuredReply)
                + Say.option(OptionNumber.exportName, Array("a".utf8)))
        #expect(
            Heard.optionAnswers(harness.sent).map(\.type) == [
                OptionReply.ack, OptionReply.invalid, OptionReply.ack, OptionReply.invalid,
                OptionReply.extendedHeadersRequired,
            ])
        #expect(harness.ended == .violation("EXPORT_NAME after extended headers"))
    }
    @Test("with extended headers lengths have 64 bits and every answer repeats the request's place")
    func extendedTransmission() {
        var harness = Self.serving(extended: true)
        harness.feed(
            Say.request(Command.trim, offset: 4096, length: 1 << 39, cookie: 1, extended: true)
                + Say.request(Command.writeZeroes, offset: 512, length: 5 << 32, cookie: 2, extended: true)
                + Say.request(Command.blockStatus, offset: 8192, length: 1 << 38, cookie: 3, extended: true)
                + Say.request(
                    Command.write, offset: 1 << 20, length: 512, flags: CommandFlag.payloadLength, cookie: 4,
                    payload: SessionTests.pattern(512), extended: true)
                + Say.request(Command.read, offset: 1 << 30, length: 1 << 33, cookie: 5, extended: true)
                + Say.request(Command.read, offset: 1 << 30, length: 512, cookie: 6, extended: true))
        guard case .trim(_, let trimmed)? = harness.submitted.first?.request else {
            Issue.record("no trim")
            return
        }
        #expect(trimmed.bytes == 1 << 39 && harness.submitted.count == 5)
        harness.complete(2, .success(Self.map))
        harness.complete(3, .success([.zeroes(512)]))
        for _ in 0..<3 { harness.complete(0) }
        let replies = Heard.replies(harness.sent)
        #expect(replies.map(\.cookie) == [5, 3, 6, 1, 2, 4])
        #expect(replies.map(\.offset) == [1 << 30, 8192, 1 << 30, 4096, 512, 1 << 20])
        #expect(replies.map(\.errno) == [22, 0, 0, 0, 0, 0])
        #expect(
            replies[1].data == Say.number(UInt32(1)) + Say.number(UInt32(3))
                + [(8192, 0), (8704, 3), (1024, 0)].flatMap { (length: UInt64, state: UInt64) in
                    Say.number(length) + Say.number(state)
                })
        #expect(replies[2].type == ReplyChunk.offsetHole)
    }
    @Test("the requests are the same however the bytes are cut", arguments: 1...64)
    func cut(chunkBytes: Int) {
        let filter = Say.number(UInt64(4096)) + Say.number(UInt32(2))
        let bytes =
            Say.request(
                Command.write, length: 512, flags: CommandFlag.payloadLength,
                payload: SessionTests.pattern(512), extended: true)
            + Say.request(
                Command.blockStatus, length: 12, flags: CommandFlag.payloadLength, payload: filter,
                extended: true)
            + Say.request(Command.flush, extended: true) + Say.request(Command.disconnect, extended: true)
        let both = ["base:allocation", "curve:allocation-depth"]
        var (whole, parts) = (Self.serving(both, extended: true), Self.serving(both, extended: true))
        whole.feed(bytes)
        parts.feed(bytes, chunkBytes: chunkBytes)
        #expect(whole.submitted.count == 3 && parts.submitted.count == 3)
        for index in [2, 1, 0] {
            whole.complete(index, .success(index == 1 ? [.stored(4096)] : []))
            parts.complete(index, .success(index == 1 ? [.stored(4096)] : []))
        }
        #expect(whole.sent == parts.sent && parts.ended == .disconnected)
    }
    @Test("a filter names the contexts that are wanted; one that does not fit is swallowed and refused")
    func filter() {
        var harness = Self.serving(["base:allocation", "curve:allocation-depth"], extended: true)
        func ask(_ payload: [UInt8]) {
            harness.feed(
                Say.request(
                    Command.blockStatus, offset: 4096, length: UInt64(payload.count),
                    flags: CommandFlag.payloadLength, payload: payload, extended: true))
        }
        let length = Say.number(UInt64(8192))
        ask(length + Say.number(UInt32(2)))
        harness.complete(0, .success([.stored(8192)]))
        let answer = Heard.replies(harness.takeSent())
        #expect(answer.count == 1 && answer[0].isLast && Array(answer[0].data.prefix(4)) == [0, 0, 0, 2])
        let (one, two) = (Say.number(UInt32(1)), Say.number(UInt32(2)))
        for bad in [
            length, length + Say.number(UInt32(4)), length + one + one, length + one + two + one,
            length + [1],
            [1], length + Say.number(UInt32(3)), Say.number(UInt64(0)) + one, Say.number(UInt64.max) + one,
        ] { ask(bad) }
        #expect(Heard.replies(harness.sent).map(\.errno) == [UInt32](repeating: 22, count: 9))
        #expect(harness.submitted.isEmpty && harness.session.inFlightBytes == 0)
    }
    @Test("a payload behind a command that takes none is swallowed and refused")
    func strayPayload() {
        var harness = Self.serving(extended: true)
        harness.feed(
            Say.request(
                Command.trim, length: 600, flags: CommandFlag.payloadLength,
                payload: SessionTests.pattern(600), extended: true)
                + Say.request(Command.flush, cookie: 8, extended: true))
        #expect(Heard.replies(harness.sent).map(\.errno) == [22] && harness.submitted.count == 1)
    }
    @Test("RESIZE asks for another size where clients may, and is answered when it is in force")
    func resize() {
        var harness = Self.serving(resizable: true)
        harness.feed(
            Say.request(Command.resize, offset: 100) + Say.request(Command.resize, offset: 0)
                + Say.request(Command.resize, offset: 1 << 21, cookie: 9))
        #expect(harness.resizes.map(\.size.bytes) == [1 << 21])
        #expect(Heard.replies(harness.takeSent()).map(\.errno) == [22, 22])
        var effects: [NBDSession.Effect] = []
        harness.session.completed(
            harness.resizes[0].token, .success([]), exports: [], queuedReplyBytes: 0, effects: &effects)
        guard case .send(let bytes)? = effects.first else {
            Issue.record("no answer")
            return
        }
        #expect(Heard.replies(bytes) == [Heard.Reply(cookie: 9)])
    }
}
