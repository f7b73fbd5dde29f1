import BlockTypes
import Testing

@testable import NBDProtocol

@Suite struct HandshakeTests {
    let two = [
        NBDExportDescription(name: "a", text: "first", size: ByteCount(bytes: 1 << 20)),
        NBDExportDescription(name: "b", size: ByteCount(bytes: 2 << 20), isReadOnly: true),
    ]

    @Test("the greeting offers fixed newstyle without trailing zeroes")
    func greeting() {
        #expect(ServerHandshake.greeting == Array("NBDMAGICIHAVEOPT".utf8) + [0, 3])
    }
    @Test("LIST names every export with its description, then acknowledges")
    func list() {
        var harness = Harness(exports: two)
        harness.feed(Say.clientFlags() + Say.option(OptionNumber.list))
        let answers = Heard.optionAnswers(harness.sent)
        #expect(answers.map(\.type) == [OptionReply.server, OptionReply.server, OptionReply.ack])
        #expect(answers[0].data == Say.string("a") + Array("first".utf8))
    }
    @Test(
        "GO tells size, flags and block sizes, and name and description when asked; then requests are served")
    func go() {
        var harness = Harness(exports: two)
        harness.feed(Say.clientFlags() + Say.go("a", [InfoType.name, InfoType.description, 99]))
        let answers = Heard.optionAnswers(harness.sent)
        let info = answers.filter { $0.type == OptionReply.info }.map(\.data)
        let flags: NBDTransmissionFlags = [
            .hasFlags, .flush, .fua, .trim, .writeZeroes, .fastZero, .multiConnection, .cache,
        ]
        #expect(
            info[0] == Say.number(InfoType.export) + Say.number(UInt64(1 << 20)) + Say.number(flags.rawValue))
        #expect(
            info[1] == Say.number(InfoType.blockSize) + Say.number(UInt32(1)) + Say.number(UInt32(4096))
                + Say.number(UInt32(32 << 20)))
        #expect(info[2] == Say.number(InfoType.name) + Array("a".utf8))
        #expect(info[3] == Say.number(InfoType.description) + Array("first".utf8))
        #expect(answers.last?.type == OptionReply.ack && harness.entered == "a")
    }
    @Test("a read-only export says so and offers no trim or zeroing; DF needs structured replies")
    func flags() {
        let plain = NBDTransmissionFlags.offered(for: two[1], replies: .simple, contexts: [])
        #expect(
            plain.contains(.readOnly)
                && plain.isDisjoint(with: [.trim, .writeZeroes, .fastZero, .dontFragment]))
        let structured = NBDTransmissionFlags.offered(for: two[0], replies: .structured, contexts: [])
        #expect(structured.contains(.dontFragment) && structured.isDisjoint(with: [.rotational, .resize]))
        var disk = two[0]
        (disk.isRotational, disk.isResizable) = (true, true)
        let extended = NBDTransmissionFlags.offered(for: disk, replies: .extended, contexts: .allocation)
        #expect(extended.isSuperset(of: [.rotational, .resize, .blockStatusPayload, .dontFragment]))
    }
    @Test("INFO leaves the handshake going, and INFO, GO and GO in a row are answered in order")
    func infoThenGo() {
        var harness = Harness(exports: two)
        harness.feed(
            Say.clientFlags() + Say.option(OptionNumber.info, Say.info("b")) + Say.go("nope") + Say.go("b"))
        let types = Heard.optionAnswers(harness.sent).map(\.type)
        #expect(
            types.filter { $0 != OptionReply.info } == [
                OptionReply.ack, OptionReply.unknownExport, OptionReply.ack,
            ])
        #expect(harness.entered == "b" && harness.ended == nil)
    }
    @Test("EXPORT_NAME answers size and flags, with 124 zeroes unless declined", arguments: [UInt32(1), 3])
    func exportName(clientFlags: UInt32) {
        var harness = Harness(exports: two)
        harness.feed(Say.clientFlags(clientFlags) + Say.option(OptionNumber.exportName, Array("b".utf8)))
        #expect(harness.sent.count == 10 + (clientFlags == 1 ? 124 : 0) && harness.entered == "b")
        #expect(Array(harness.sent.prefix(8)) == Say.number(UInt64(2 << 20)))
    }
    @Test("the empty name means the only export, and nothing when there are two")
    func defaultExport() {
        var one = Harness(exports: [two[0]])
        one.feed(Say.clientFlags() + Say.go(""))
        #expect(one.entered == "a")
        var both = Harness(exports: two)
        both.feed(Say.clientFlags() + Say.go(""))
        #expect(Heard.optionAnswers(both.sent).map(\.type) == [OptionReply.unknownExport])
    }
    @Test("an unknown option is refused, whatever its length, and the next one is understood")
    func unknownOptions() {
        var harness = Harness(exports: two)
        let tooLong = [UInt8](repeating: 7, count: NBDLimits.optionBytesMax + 1)
        harness.feed(
            Say.clientFlags() + Say.option(77) + Say.option(OptionNumber.startTLS)
                + Say.option(78, [UInt8](repeating: 1, count: NBDLimits.optionBytesMax))
                + Say.option(79, tooLong) + Say.option(OptionNumber.list, [1])
                + Say.option(OptionNumber.abort))
        #expect(
            Heard.optionAnswers(harness.sent).map(\.type) == [
                OptionReply.unsupported, OptionReply.unsupported, OptionReply.unsupported, OptionReply.tooBig,
                OptionReply.invalid, OptionReply.ack,
            ])
        #expect(harness.ended == .disconnected)
    }
    @Test("meta contexts need structured replies first")
    func metaContexts() {
        let query = Say.string("a") + Say.number(UInt32(1)) + Say.string("base:allocation")
        var harness = Harness(exports: two)
        harness.feed(
            Say.clientFlags() + Say.option(OptionNumber.setMetaContext, query)
                + Say.option(OptionNumber.structuredReply) + Say.option(OptionNumber.setMetaContext, query)
                + Say.option(OptionNumber.listMetaContext, query)
                + Say.option(OptionNumber.structuredReply, [0]))
        #expect(
            Heard.optionAnswers(harness.sent).map(\.type) == [
                OptionReply.invalid, OptionReply.ack, OptionReply.metaContext, OptionReply.ack,
                OptionReply.metaContext, OptionReply.ack, OptionReply.invalid,
            ])
    }
    @Test(
        "lengths that lie are refused without losing the place in the stream",
        arguments: [
            Say.number(UInt32.max) + [0, 0], Say.number(UInt32(5)) + [0x61], Say.string("a") + [0, 1],
            Say.string("a") + [0, 0, 9], [], [0, 0, 0], Say.string("a\0b") + [0, 0],
            Say.number(UInt32(2)) + [0xC3, 0x28, 0, 0],
            Say.string(String(repeating: "x", count: 4097)) + [0, 0],
        ])
    func lyingLengths(data: [UInt8]) {
        var harness = Harness(exports: two)
        harness.feed(
            Say.clientFlags() + Say.option(OptionNumber.go, data) + Say.option(OptionNumber.info, data)
                + Say.option(OptionNumber.abort))
        #expect(
            Heard.optionAnswers(harness.sent).map(\.type) == [
                OptionReply.invalid, OptionReply.invalid, OptionReply.ack,
            ])
    }
    @Test("meta context queries with lying counts and lengths are refused")
    func lyingQueries() {
        let bad: [[UInt8]] = [
            Say.string("a") + Say.number(UInt32.max),
            Say.string("a") + Say.number(UInt32(1)) + Say.number(UInt32.max),
            Say.string("a") + Say.number(UInt32(0)) + [1], Say.number(UInt32.max),
        ]
        var harness = Harness(exports: two)
        harness.feed(Say.clientFlags() + Say.option(OptionNumber.structuredReply))
        for data in bad { harness.feed(Say.option(OptionNumber.setMetaContext, data)) }
        harness.feed(
            Say.option(OptionNumber.listMetaContext, Say.string("nope") + Say.number(UInt32(0))))
        #expect(
            Heard.optionAnswers(harness.sent).dropFirst().map(\.type)
                == [UInt32](repeating: OptionReply.invalid, count: 4) + [OptionReply.unknownExport])
    }
    @Test(
        "what cannot be answered ends the session",
        arguments: [
            Say.clientFlags(4), Say.clientFlags() + [UInt8](repeating: 0, count: 16),
            Say.clientFlags() + Say.option(OptionNumber.exportName, Array("nope".utf8)),
            Say.clientFlags() + Say.option(OptionNumber.exportName, [UInt8](repeating: 0x61, count: 4097)),
            Say.clientFlags() + Say.option(OptionNumber.exportName, length: UInt32.max),
            Say.clientFlags() + Say.option(OptionNumber.go, length: UInt32.max),
            Say.clientFlags() + (0...256).flatMap { _ in Say.option(77) },
        ])
    func hopeless(bytes: [UInt8]) {
        var harness = Harness(exports: two)
        harness.feed(bytes)
        #expect(harness.ended != nil && harness.ended != .disconnected && harness.entered == nil)
    }
    @Test("a handshake holds at most 8 KiB of what a client says, however slowly that comes")
    func memory() {
        var harness = Harness(exports: two)
        harness.feed(Say.clientFlags())
        for length in [0, 100, NBDLimits.optionBytesMax, NBDLimits.skippedOptionBytesMax] {
            harness.feed(Say.option(77, length: UInt32(length)))
            for _ in 0..<length where harness.ended == nil {
                harness.feed([1])
                #expect(harness.session.handshake.heldCapacityBytes <= NBDLimits.optionBytesMax + 64)
                if length > NBDLimits.optionBytesMax { break }
            }
        }
        #expect(harness.ended == nil)
    }
    @Test("a client that lists for ever and reads nothing is not listened to until it reads")
    func listFlood() {
        var limits = NBDLimits()
        limits.queuedReplyBytesMax = 4096
        var harness = Harness(exports: two, limits: limits)
        harness.clientIsDeaf = true
        harness.feed(Say.clientFlags() + (0..<200).flatMap { _ in Say.option(OptionNumber.list) })
        #expect(harness.isPaused && harness.sent.count < 4096 + 200)
        harness.drain()
        #expect(harness.isPaused && harness.sent.count < 2 * (4096 + 200))
        harness.clientIsDeaf = false
        for _ in 0..<4 { harness.drain() }
        #expect(!harness.isPaused)
        #expect(Heard.optionAnswers(harness.sent).filter { $0.type == OptionReply.ack }.count == 200)
    }
    @Test("the handshake is the same however the bytes are cut", arguments: 1...56)
    func cut(chunkBytes: Int) {
        let bytes =
            Say.clientFlags() + Say.option(77, [UInt8](repeating: 1, count: 9000))
            + Say.option(OptionNumber.list)
            + Say.option(OptionNumber.structuredReply) + Say.go("b") + Say.request(Command.disconnect)
        var (whole, parts) = (Harness(exports: two), Harness(exports: two))
        whole.feed(bytes)
        parts.feed(bytes, chunkBytes: chunkBytes)
        #expect(whole.sent == parts.sent && parts.entered == "b" && parts.ended == .disconnected)
    }
    @Test("a server that answers what nobody asked, lies about lengths or sizes is refused by our client")
    func clientDistrust() throws {
        func answer(
            _ type: UInt32, _ data: [UInt8] = [], option: UInt32 = OptionNumber.go, length: UInt32? = nil
        ) -> [UInt8] {
            Say.number(Wire.optionReplyMagic) + Say.number(option) + Say.number(type)
                + Say.number(length ?? UInt32(data.count)) + data
        }
        func talk(_ bytes: [UInt8]) throws -> NBDExportInfo? {
            var client = ClientHandshake(exportName: "vol")
            var rest = bytes[...]
            while rest.count >= client.wantedBytes {
                let taken = Array(rest.prefix(client.wantedBytes))
                rest = rest.dropFirst(client.wantedBytes)
                if case .ready(let info) = try client.received(taken) { return info }
            }
            return nil
        }
        let hello = ServerHandshake.greeting
        let export = Say.number(InfoType.export) + Say.number(UInt64(1 << 30)) + Say.number(UInt16(0x10D))
        let blocks = Say.number(InfoType.blockSize) + [0, 0, 2, 0, 0, 0, 16, 0, 2, 0, 0, 0]
        let info = try talk(
            hello + answer(OptionReply.info, export) + answer(OptionReply.info, blocks)
                + answer(OptionReply.ack))
        #expect(
            info?.size.bytes == 1 << 30 && info?.minimumBlockBytes == 512 && info?.flags.rawValue == 0x10D)
        #expect(throws: NBDClientError.notNBD) { try talk([UInt8](repeating: 0, count: 18)) }
        #expect(throws: NBDClientError.notNBD) { try talk(hello.dropLast() + [2]) }
        #expect(throws: NBDClientError.unknownExport("vol")) {
            try talk(hello + answer(OptionReply.unknownExport))
        }
        #expect(throws: NBDClientError.refused(OptionReply.policy, "no")) {
            try talk(hello + answer(OptionReply.policy, Array("no".utf8)))
        }
        let negative = Say.number(InfoType.export) + Say.number(UInt64.max) + Say.number(UInt16(1))
        let badBlocks = Say.number(InfoType.blockSize) + [UInt8](repeating: 0, count: 12)
        for bad in [
            answer(OptionReply.ack), answer(OptionReply.info, negative), answer(OptionReply.info, badBlocks),
            answer(OptionReply.info, []), answer(OptionReply.ack, option: 3),
            answer(OptionReply.info, length: 1 << 20),
            [UInt8](repeating: 0, count: 20), (0..<70).flatMap { _ in answer(OptionReply.info, blocks) },
        ] {
            #expect(throws: NBDClientError.self) { try talk(hello + bad) }
        }
    }
    @Test("our client and our server understand each other")
    func bothSides() throws {
        var (harness, client) = (Harness(exports: two), ClientHandshake(exportName: "b"))
        harness.sent = ServerHandshake.greeting
        var info: NBDExportInfo?
        while info == nil, harness.sent.count >= client.wantedBytes {
            let taken = Array(harness.sent.prefix(client.wantedBytes))
            harness.sent.removeFirst(taken.count)
            switch try client.received(taken) {
            case .send(let bytes): harness.feed(bytes)
            case .ready(let ready): info = ready
            }
        }
        #expect(info?.size.bytes == 2 << 20 && harness.entered == "b" && harness.sent.isEmpty)
    }
}
