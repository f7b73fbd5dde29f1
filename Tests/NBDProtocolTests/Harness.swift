import BlockTypes
import Testing

@testable import NBDProtocol

/// A session whose effects are collected; the test plays client and volume.
struct Harness {
    var session: NBDSession
    var exports: [NBDExportDescription]
    var sent: [UInt8] = []
    var submitted: [(token: NBDRequestToken, request: VolumeRequest)] = []
    var resizes: [(token: NBDRequestToken, size: ByteCount)] = []
    var startsTLS = 0
    var entered: String?
    var ended: NBDEndReason?
    var isPaused = false
    /// Reply bytes that the client has not taken.
    var queued = 0
    /// True: the client reads nothing.
    var clientIsDeaf = false

    init(
        exports: [NBDExportDescription] = [
            NBDExportDescription(name: "vol", size: ByteCount(bytes: 1 << 20))
        ],
        limits: NBDLimits = NBDLimits(), encryption: NBDEncryption = .off
    ) {
        self.exports = exports
        session = NBDSession(limits: limits, pool: BufferPool(), encryption: encryption)
        var effects: [NBDSession.Effect] = []
        session.opened(effects: &effects)
        note(effects)
        sent = []
    }
    mutating func feed(_ bytes: [UInt8], chunkBytes: Int = Int.max) {
        var start = 0
        while start < bytes.count, ended == nil {
            let count = min(chunkBytes, bytes.count - start)
            var effects: [NBDSession.Effect] = []
            bytes[start..<(start + count)].withUnsafeBytes {
                session.received($0, exports: exports, queuedReplyBytes: queued, effects: &effects)
            }
            note(effects)
            start += count
        }
    }
    /// Sends payload bytes the way a socket does that receives into the session's window.
    mutating func feedWindow(_ bytes: [UInt8]) -> Int {
        guard let window = session.receiveWindow else { return 0 }
        let count = min(window.count, bytes.count)
        for index in 0..<count { window[index] = bytes[index] }
        var effects: [NBDSession.Effect] = []
        session.received(
            UnsafeRawBufferPointer(rebasing: window[..<count]), exports: exports, queuedReplyBytes: queued,
            effects: &effects)
        note(effects)
        return count
    }
    mutating func complete(_ index: Int, _ result: VolumeResult = .success([])) {
        let token = submitted.remove(at: index).token
        var effects: [NBDSession.Effect] = []
        session.completed(token, result, exports: exports, queuedReplyBytes: queued, effects: &effects)
        note(effects)
    }
    mutating func drain() {
        queued = 0
        var effects: [NBDSession.Effect] = []
        session.drained(exports: exports, queuedReplyBytes: 0, effects: &effects)
        note(effects)
    }
    mutating func stop() {
        var effects: [NBDSession.Effect] = []
        session.stop(effects: &effects)
        note(effects)
    }
    private mutating func note(_ effects: [NBDSession.Effect]) {
        for effect in effects {
            #expect(ended == nil, "an effect after close")
            switch effect {
            case .send(let bytes): sent += bytes
            case .sendPayload(let payload): sent += payload.array
            case .startTLS: startsTLS += 1
            case .enter(let name): entered = name
            case .submit(let token, let request): submitted.append((token, request))
            case .resize(let token, let size): resizes.append((token, size))
            case .pauseReceiving: isPaused = true
            case .resumeReceiving: isPaused = false
            case .close(let reason): ended = reason
            }
        }
        if clientIsDeaf {
            queued += effects.reduce(0) {
                switch $1 {
                case .send(let bytes): $0 + bytes.count
                case .sendPayload(let payload): $0 + payload.byteCount
                default: $0
                }
            }
        }
    }
    /// What was sent since the last call.
    mutating func takeSent() -> [UInt8] {
        defer { sent = [] }
        return sent
    }
    /// A session past its handshake.
    static func serving(
        size: UInt64 = 1 << 20, isReadOnly: Bool = false, structured: Bool = false,
        limits: NBDLimits = NBDLimits()
    ) -> Harness {
        let export = NBDExportDescription(name: "vol", size: ByteCount(bytes: size), isReadOnly: isReadOnly)
        var harness = Harness(exports: [export], limits: limits)
        harness.feed(
            Say.clientFlags() + (structured ? Say.option(OptionNumber.structuredReply) : []) + Say.go("vol"))
        #expect(harness.entered == "vol")
        harness.sent = []
        return harness
    }
}

extension Harness: CustomTestStringConvertible {
    /// Short, or a failure would print every byte.
    var testDescription: String { "session that sent \(sent.count) bytes" }
}

/// What a client says, as bytes.
enum Say {
    static func clientFlags(_ flags: UInt32 = 3) -> [UInt8] { number(flags) }
    static func option(_ option: UInt32, _ data: [UInt8] = [], length: UInt32? = nil) -> [UInt8] {
        number(Wire.optionMagic) + number(option) + number(length ?? UInt32(data.count)) + data
    }
    static func string(_ text: String) -> [UInt8] { number(UInt32(text.utf8.count)) + Array(text.utf8) }
    static func info(_ name: String, _ types: [UInt16] = []) -> [UInt8] {
        string(name) + number(UInt16(types.count)) + types.flatMap { number($0) }
    }
    static func go(_ name: String, _ types: [UInt16] = []) -> [UInt8] {
        option(OptionNumber.go, info(name, types))
    }
    static func request(
        _ command: UInt16, offset: UInt64 = 0, length: UInt64 = 0, flags: UInt16 = 0, cookie: UInt64 = 7,
        payload: [UInt8] = [], extended: Bool = false
    ) -> [UInt8] {
        NBDRequestHeader(
            flags: flags, command: command, cookie: cookie, offset: offset, length: length,
            isExtended: extended
        ).encoded + payload
    }
    static func number<Value: FixedWidthInteger>(_ value: Value) -> [UInt8] {
        var bytes: [UInt8] = []
        bytes.append(bigEndian: value)
        return bytes
    }
}

/// What a server said.
enum Heard {
    struct OptionAnswer: Equatable {
        var option: UInt32
        var type: UInt32
        var data: [UInt8]
    }
    static func optionAnswers(_ bytes: [UInt8]) -> [OptionAnswer] {
        var (reader, answers) = (WireReader(bytes[...]), [OptionAnswer]())
        while reader.next(UInt64.self) == Wire.optionReplyMagic {
            guard let option = reader.next(UInt32.self), let type = reader.next(UInt32.self),
                let length = reader.next(UInt32.self), let data = reader.take(length)
            else { break }
            answers.append(OptionAnswer(option: option, type: type, data: Array(data)))
        }
        return answers
    }
    struct Reply: Equatable {
        var cookie: UInt64
        /// 0 for success.
        var errno: UInt32 = 0
        /// Of a structured reply.
        var type: UInt16?
        var isLast = true
        var data: [UInt8] = []
        /// Of an extended reply.
        var offset: UInt64?
    }
    /// - Parameter readBytes: how many bytes follow a simple reply of success.
    static func replies(_ bytes: [UInt8], readBytes: UInt32 = 0) -> [Reply] {
        var (reader, replies) = (WireReader(bytes[...]), [Reply]())
        while let magic = reader.next(UInt32.self) {
            if magic == Wire.simpleReplyMagic, let errno = reader.next(UInt32.self),
                let cookie = reader.next(UInt64.self)
            {
                let data = errno == 0 ? reader.take(readBytes) : []
                replies.append(Reply(cookie: cookie, errno: errno, data: Array(data ?? [])))
            } else if magic == Wire.structuredReplyMagic, let flags = reader.next(UInt16.self),
                let type = reader.next(UInt16.self), let cookie = reader.next(UInt64.self),
                let length = reader.next(UInt32.self), let data = reader.take(length)
            {
                var reply = Reply(cookie: cookie, type: type, isLast: flags == 1, data: Array(data))
                if type == ReplyChunk.error {
                    var inner = WireReader(data)
                    reply.errno = inner.next(UInt32.self) ?? 0
                }
                replies.append(reply)
            } else if magic == Wire.extendedReplyMagic, let flags = reader.next(UInt16.self),
                let type = reader.next(UInt16.self), let cookie = reader.next(UInt64.self),
                let offset = reader.next(UInt64.self), let length = reader.next(UInt64.self),
                let data = reader.take(UInt32(length))
            {
                var reply = Reply(cookie: cookie, type: type, isLast: flags == 1, data: Array(data))
                reply.offset = offset
                if type == ReplyChunk.error {
                    var inner = WireReader(data)
                    reply.errno = inner.next(UInt32.self) ?? 0
                }
                replies.append(reply)
            } else {
                Issue.record("the server's bytes cannot be read from here on")
                return replies
            }
        }
        return replies
    }
}
