import BlockTypes
import Fuzzing
import NBDProtocol

let nbdTargets = [
    FuzzTarget(name: "nbd-handshake", feed: feedHandshake),
    FuzzTarget(name: "nbd-transmission", feed: feedTransmission),
    FuzzTarget(name: "nbd-client", feed: feedClient),
]

/// One for all inputs: a large write's memory is mapped once.
private let pool = BufferPool(keptBytesPerClassMax: 64 << 20)

/// A server's session with a volume that answers at once, or later, or never.
private struct Session {
    var session = NBDSession(pool: pool, encryption: .offered)
    let exports = [NBDExportDescription(name: "vol", size: ByteCount(bytes: 1 << 20))]
    var waiting: [(NBDRequestToken, VolumeRequest)] = []
    var isClosed = false
    var answersLate: Bool

    init(answersLate: Bool) {
        self.answersLate = answersLate
        var effects: [NBDSession.Effect] = []
        session.opened(effects: &effects)
        perform(effects)
    }

    mutating func feed(_ bytes: [UInt8], pieceBytes: Int) {
        var start = 0
        while start < bytes.count, !isClosed {
            let end = min(bytes.count, start + pieceBytes)
            var effects: [NBDSession.Effect] = []
            bytes[start..<end].withUnsafeBytes {
                session.received($0, exports: exports, queuedReplyBytes: 0, effects: &effects)
            }
            perform(effects)
            start = end
        }
        answerAll()
    }

    private mutating func perform(_ effects: [NBDSession.Effect]) {
        for effect in effects {
            require(!isClosed, "an effect after close")
            switch effect {
            case .submit(let token, let request):
                waiting.append((token, request))
            case .resize(let token, _): waiting.append((token, .flush))
            case .close: isClosed = true
            case .startTLS: session.secured(refusal: nil)
            case .send, .sendPayload, .enter, .pauseReceiving, .resumeReceiving: break
            }
        }
        require(session.inFlightRequests >= waiting.count, "a request is in flight and not counted")
        if !answersLate { answerAll() }
    }

    private mutating func answerAll() {
        while let (token, request) = waiting.popLast() {
            var effects: [NBDSession.Effect] = []
            session.completed(
                token, answer(to: request), exports: exports, queuedReplyBytes: 0, effects: &effects)
            perform(effects)
        }
    }

    private func answer(to request: VolumeRequest) -> VolumeResult {
        switch request {
        case .read(_, let byteCount): .success([.zeroes(byteCount)])
        case .blockStatus(_, let length): .success([.stored(Int(length.bytes))])
        default: .success([])
        }
    }
}

private func feedHandshake(_ input: [UInt8]) {
    var bytes = input
    let steering = bytes.takeByte()
    var session = Session(answersLate: steering & 1 == 1)
    session.feed(bytes, pieceBytes: 1 + steering / 2)
}

/// Sessions past a proper handshake, one of each style of replies; every input gets a copy of one.
// One thread fuzzes.
private nonisolated(unsafe) let greeted = [greet(nil), greet(structured), greet(extended), greet(structured)]
private let structured: UInt8 = 8, extended: UInt8 = 11

private func greet(_ style: UInt8?) -> Session {
    var session = Session(answersLate: false)
    var handshake: [UInt8] = [0, 0, 0, 3]
    func option(_ number: UInt8, _ data: [UInt8]) -> [UInt8] {
        Array("IHAVEOPT".utf8) + [0, 0, 0, number, 0, 0, 0, UInt8(data.count)] + data
    }
    if let style {
        var contexts: [UInt8] = []
        for name in ["base:allocation", "curve:allocation-depth"] {
            contexts += [0, 0, 0, UInt8(name.utf8.count)] + Array(name.utf8)
        }
        handshake += option(style, [])
        handshake += option(10, [0, 0, 0, 3] + Array("vol".utf8) + [0, 0, 0, 2] + contexts)
    }
    handshake += option(7, [0, 0, 0, 3] + Array("vol".utf8) + [0, 0])
    session.feed(handshake, pieceBytes: 4096)
    require(!session.isClosed && !session.session.isInHandshake, "a proper handshake fails")
    return session
}

/// All of the input reaches the transmission phase. Every request's magic number is made right.
private func feedTransmission(_ input: [UInt8]) {
    var bytes = input
    let steering = bytes.takeByte()
    let style = steering >> 1 & 3
    var session = greeted[style]
    session.answersLate = steering & 1 == 1
    var start = 0
    let isExtended = style == 2
    let headerBytes = isExtended ? 32 : 28
    while start + headerBytes <= bytes.count {
        bytes.replaceSubrange(
            start..<(start + 4), with: isExtended ? [0x21, 0xE4, 0x1C, 0x71] : [0x25, 0x60, 0x95, 0x13])
        let isWrite = bytes[start + 6] == 0 && bytes[start + 7] == 1
        let carriesPayload = isWrite || isExtended && bytes[start + 5] & 0x20 != 0
        let length = bytes[(start + 24)..<(start + headerBytes)].reduce(UInt64(0)) { $0 << 8 | UInt64($1) }
        start += headerBytes
        guard carriesPayload else { continue }
        guard length < UInt64(bytes.count) else { break }
        start += Int(length)
    }
    session.feed(bytes, pieceBytes: 1 + steering * 8)
}

/// Our client's side of the handshake, against a server that says anything.
private func feedClient(_ input: [UInt8]) {
    var client = ClientHandshake(exportName: "vol")
    var start = 0
    while start + client.wantedBytes <= input.count {
        let end = start + client.wantedBytes
        do throws(NBDClientError) {
            if case .ready = try client.received(Array(input[start..<end])) { return }
        } catch {
            return
        }
        start = end
    }
}
