import BlockTypes
import Testing

@testable import NBDProtocol

@Suite("STARTTLS") struct EncryptionTests {
    static let query =
        Say.string("vol") + Say.number(UInt32(1)) + Say.string("base:allocation")
    func types(_ harness: inout Harness) -> [UInt32] { Heard.optionAnswers(harness.takeSent()).map(\.type) }

    @Test("a server that demands TLS answers nothing else before it, and all of it afterwards")
    func required() {
        var harness = Harness(encryption: .required)
        let others = [
            OptionNumber.list, OptionNumber.info, OptionNumber.go, OptionNumber.structuredReply,
            OptionNumber.listMetaContext, OptionNumber.setMetaContext, OptionNumber.extendedHeaders, 77,
        ]
        harness.feed(
            Say.clientFlags() + others.flatMap { Say.option($0) } + Say.option(OptionNumber.startTLS))
        #expect(
            types(&harness) == [UInt32](repeating: OptionReply.tlsRequired, count: others.count) + [
                OptionReply.ack
            ])
        #expect(harness.startsTLS == 1)
        harness.session.secured(refusal: nil)
        harness.feed(Say.option(OptionNumber.startTLS) + Say.go("vol"))
        #expect(types(&harness).first == OptionReply.invalid && harness.entered == "vol")
    }
    @Test("EXPORT_NAME in the clear, where TLS is demanded, ends the session; ABORT is acknowledged")
    func requiredEnds() {
        var harness = Harness(encryption: .required)
        harness.feed(Say.clientFlags() + Say.option(OptionNumber.exportName, Array("vol".utf8)))
        #expect(harness.ended == .refused("this server speaks only through TLS"))
        var polite = Harness(encryption: .required)
        polite.feed(Say.clientFlags() + Say.option(OptionNumber.abort))
        #expect(types(&polite) == [OptionReply.ack] && polite.ended == .disconnected)
    }
    @Test("nothing that was said in the clear has an effect afterwards")
    func forgotten() {
        var harness = Harness(encryption: .offered)
        harness.feed(
            Say.clientFlags() + Say.option(OptionNumber.extendedHeaders)
                + Say.option(OptionNumber.setMetaContext, Self.query) + Say.option(OptionNumber.startTLS, [1])
                + Say.option(OptionNumber.startTLS))
        #expect(
            types(&harness) == [
                OptionReply.ack, OptionReply.metaContext, OptionReply.ack, OptionReply.invalid,
                OptionReply.ack,
            ])
        harness.session.secured(refusal: nil)
        harness.feed(Say.option(OptionNumber.setMetaContext, Self.query) + Say.go("vol"))
        #expect(types(&harness).first == OptionReply.invalid && harness.entered == "vol")
        // Neither extended nor structured.
        harness.feed(Say.request(99, cookie: 5))
        #expect(Heard.replies(harness.sent) == [Heard.Reply(cookie: 5, errno: 22)])
    }
    @Test("plain bytes behind STARTTLS end the session, in the same piece, later, or held back before")
    func injected() {
        let start = Say.clientFlags() + Say.option(OptionNumber.startTLS)
        for piece in [Int.max, 1, 20] {
            var harness = Harness(encryption: .offered)
            harness.feed(start + Say.option(OptionNumber.list), chunkBytes: piece)
            #expect(harness.ended == .violation("plain bytes behind STARTTLS"))
            #expect(harness.startsTLS == (piece == Int.max ? 0 : 1))
        }
        var limits = NBDLimits()
        limits.queuedReplyBytesMax = 100
        var harness = Harness(limits: limits, encryption: .offered)
        harness.clientIsDeaf = true
        harness.feed(
            Say.clientFlags() + (0..<8).flatMap { _ in Say.option(OptionNumber.list) }
                + Say.option(OptionNumber.startTLS) + Say.go("vol"))
        #expect(harness.isPaused)
        harness.clientIsDeaf = false
        for _ in 0..<8 { if harness.ended == nil { harness.drain() } }
        #expect(harness.ended == .violation("plain bytes behind STARTTLS") && harness.startsTLS == 0)
    }
    @Test("a client that does not speak fixed newstyle finds a server without TLS, or none at all")
    func notFixed() {
        var offered = Harness(encryption: .offered)
        offered.feed(
            Say.clientFlags(2) + Say.option(OptionNumber.startTLS)
                + Say.option(OptionNumber.exportName, Array("vol".utf8)))
        #expect(
            Heard.optionAnswers(offered.takeSent()).map(\.type) == [OptionReply.unsupported]
                && offered.entered == "vol")
        var required = Harness(encryption: .required)
        required.feed(Say.clientFlags(2) + Say.option(OptionNumber.exportName, Array("vol".utf8)))
        #expect(required.entered == nil && required.ended != nil && required.sent.isEmpty)
    }
    @Test("without TLS the option is unknown; a client that may use nothing is refused by policy")
    func refusals() {
        var plain = Harness()
        plain.feed(Say.clientFlags() + Say.option(OptionNumber.startTLS))
        #expect(types(&plain) == [OptionReply.unsupported])
        var harness = Harness(encryption: .offered)
        harness.feed(Say.clientFlags() + Say.option(OptionNumber.startTLS))
        _ = harness.takeSent()
        harness.session.secured(refusal: "not you")
        harness.feed(Say.option(OptionNumber.list) + Say.go("vol"))
        #expect(types(&harness) == [OptionReply.policy, OptionReply.policy])
        harness.feed(Say.option(OptionNumber.exportName, Array("vol".utf8)))
        #expect(harness.ended == .refused("not you") && harness.entered == nil)
    }
}
