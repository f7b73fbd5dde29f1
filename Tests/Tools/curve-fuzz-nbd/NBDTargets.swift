import BlockTypes
import Fuzzing
import NBDProtocol

/// What the package manager's `main` stands for.
@c(curve_fuzz_nbd_main) public func fuzzMain(_ count: CInt, _ arguments: UnsafeMutableRawPointer?) -> CInt {
    let targets = [
        FuzzTarget(name: "nbd-handshake", feed: feedHandshake),
        FuzzTarget(name: "nbd-transmission", feed: feedTransmission),
        FuzzTarget(name: "nbd-client", feed: feedClient),
    ]
    return runFuzzer(targets, count, arguments)
}

/// One for all inputs: a large write's memory is mapped once.
private let pool = BufferPool(keptBytesPerClassMax: 64 << 20)

/// What clients may choose from.
private let exports = [
    NBDExportDescription(name: "vol", size: ByteCount(bytes: 1 << 20), isRotational: true, isResizable: true),
    NBDExportDescription(name: "ro", text: "told", size: ByteCount(bytes: 1 << 20), isReadOnly: true),
]

/// A server's session with a volume that answers at once, or late.
private struct Session {
    var session: NBDSession
    var waiting: [(NBDRequestToken, VolumeResult)] = []
    var isClosed = false
    var answersLate: Bool
    var refusal: String?

    init(answersLate: Bool, encryption: NBDEncryption = .off, refusal: String? = nil) {
        (self.answersLate, self.refusal) = (answersLate, refusal)
        session = NBDSession(pool: pool, encryption: encryption)
        var effects: [NBDSession.Effect] = []
        session.opened(effects: &effects)
        perform(&effects)
    }

    /// - Parameter pieceBytes: how many bytes arrive at a time; 0: all at once.
    mutating func feed(_ bytes: ArraySlice<UInt8>, pieceBytes: Int) {
        var effects: [NBDSession.Effect] = []
        effects.reserveCapacity(32)
        bytes.withUnsafeBytes { all in
            let step = pieceBytes == 0 ? max(all.count, 1) : pieceBytes
            var start = 0
            while start < all.count, !isClosed {
                let end = min(all.count, start + step)
                session.received(
                    UnsafeRawBufferPointer(rebasing: all[start..<end]), exports: exports, queuedReplyBytes: 0,
                    effects: &effects)
                perform(&effects)
                start = end
            }
        }
        answerAll(&effects)
    }

    private mutating func perform(_ effects: inout [NBDSession.Effect]) {
        note(&effects)
        if !answersLate { answerAll(&effects) }
    }

    private mutating func note(_ effects: inout [NBDSession.Effect]) {
        for effect in effects {
            require(!isClosed, "an effect after close")
            switch effect {
            case .submit(let token, let request):
                waiting.append((token, answer(to: request)))
            case .resize(let token, let size):
                // Zeroes written as data go in steps, so a volume without end would take as many.
                let fits = size <= Self.sizeMax
                if fits { session.resized(to: size) }
                waiting.append((token, fits ? .success([]) : .failure(.noSpace)))
            case .close: isClosed = true
            case .startTLS: session.secured(refusal: refusal)
            case .send, .sendPayload, .enter, .pauseReceiving, .resumeReceiving: break
            }
        }
        effects.removeAll(keepingCapacity: true)
        require(session.inFlightRequests >= waiting.count, "a request is in flight and not counted")
    }

    /// What an answer asks for next is answered by the same loop: one request may go in any number of steps.
    private mutating func answerAll(_ effects: inout [NBDSession.Effect]) {
        while let (token, result) = waiting.popLast() {
            session.completed(
                token, result, exports: exports, queuedReplyBytes: 0, effects: &effects)
            note(&effects)
        }
    }

    private static let sizeMax = ByteCount(bytes: 1 << 30)

    private func answer(to request: VolumeRequest) -> VolumeResult {
        switch request {
        case .read(_, let byteCount): .success([.zeroes(byteCount)])
        case .blockStatus(_, let length): .success([.stored(Int(length.bytes))])
        default: .success([])
        }
    }
}

/// How an input is cut. Most arrive whole, since a session's cost is one of calls and not of bytes; that
/// cuts do not matter is also tested by value.
private let pieces = [0, 0, 0, 0, 0, 1, 17, 300]

private let encryptions: [NBDEncryption] = [.offered, .off, .required, .offered]

private func feedHandshake(_ input: [UInt8]) {
    let steering = input.first ?? 0
    var session = Session(
        answersLate: steering & 1 == 1, encryption: encryptions[Int(steering >> 4) % 4],
        refusal: steering >> 6 & 1 == 1 ? "no" : nil)
    session.feed(input.dropFirst(), pieceBytes: pieces[Int(steering >> 1) % pieces.count])
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
    session.feed(handshake[...], pieceBytes: 0)
    require(!session.isClosed && !session.session.isInHandshake, "a proper handshake fails")
    return session
}

/// Magic numbers of requests, as little-endian numbers.
private let requestMagic: UInt32 = 0x1395_6025, extendedMagic: UInt32 = 0x711C_E421

/// All of the input reaches the transmission phase. Every request's magic number is made right.
private func feedTransmission(_ input: [UInt8]) {
    var bytes = input
    let steering = bytes.first ?? 0
    let style = Int(steering >> 1 & 3)
    var session = greeted[style]
    session.answersLate = steering & 1 == 1
    var start = 1
    let isExtended = style == 2
    let headerBytes = isExtended ? 32 : 28
    while start + headerBytes <= bytes.count {
        bytes.put(isExtended ? extendedMagic : requestMagic, at: start)
        let isWrite = bytes[start + 6] == 0 && bytes[start + 7] == 1
        let carriesPayload = isWrite || isExtended && bytes[start + 5] & 0x20 != 0
        var length: UInt64 = 0
        for index in (start + 24)..<(start + headerBytes) { length = length << 8 | UInt64(bytes[index]) }
        start += headerBytes
        guard carriesPayload else { continue }
        guard length < UInt64(bytes.count) else { break }
        start += Int(length)
    }
    session.feed(bytes.dropFirst(), pieceBytes: pieces[Int(steering >> 3) % pieces.count])
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
