import BlockTypes

/// Why a connection ended.
public enum NBDEndReason: Hashable, Sendable, CustomStringConvertible {
    /// The client said goodbye.
    case disconnected
    /// This side stops; what was in flight has been answered.
    case stopped
    /// The client asked for an export that is not there, by an option that cannot report an error.
    case unknownExport(String)
    /// The client asked, by an option that cannot report an error, for what it may not have.
    case refused(String)
    /// The client broke the protocol, so the stream cannot be trusted any more.
    case violation(String)

    /// In one line, for the log.
    public var description: String {
        switch self {
        case .disconnected: "the client disconnected"
        case .stopped: "the server stopped"
        case .unknownExport(let name): "no export is named '\(name)'"
        case .refused(let why): "the client was refused: \(why)"
        case .violation(let what): "the client broke the protocol: \(what)"
        }
    }
}

/// Names one request that a session has in flight.
public struct NBDRequestToken: Hashable, Sendable {
    let slot: Int
}

/// One client's connection, from greeting to goodbye: bytes and volume results in, replies and volume
/// requests out. The logic of the server; it never waits.
///
/// Not a `Machine`: received bytes are lent for one call, and an event value would have to own a copy.
/// Order: requests are answered as the volume answers them; none is submitted before its payload is complete.
/// Questions that are asked for each request have a `mutating get`: so they look at the session where it is,
/// while a plain one would be handed a copy, with a reference taken to each of its lists.
public struct NBDSession {
    /// What to do next, in order.
    public enum Effect: Sendable {
        /// Send bytes of a header or handshake.
        case send([UInt8])
        /// Send payload, by reference.
        case sendPayload(Payload)
        /// Send what was queued, then encrypt: all that comes is TLS, and ``NBDSession/secured(refusal:)``
        /// reports when it is in force.
        case startTLS
        /// The handshake is over: requests will be for this export.
        case enter(exportName: String)
        /// Give the request to the export's volume and report by ``NBDSession/completed(_:_:effects:)``.
        case submit(NBDRequestToken, VolumeRequest)
        /// Give the volume another size and report in the same way.
        case resize(NBDRequestToken, ByteCount)
        /// Stop reading the socket.
        case pauseReceiving
        /// Read it again.
        case resumeReceiving
        /// Send what was queued, then close. No effect follows it.
        case close(NBDEndReason)
    }
    enum Phase { case handshake, securing, serving, ending, closed }
    /// What a request in flight still needs before it is answered.
    enum Work { case answer, flush, zeroes(from: UInt64), status(MetaContexts) }
    struct InFlight {
        var header: NBDRequestHeader
        var work: Work
        var payloadBytes: Int
    }

    private(set) var limits: NBDLimits
    let pool: BufferPool
    var phase = Phase.handshake
    var handshake: ServerHandshake
    var stream = RequestStream()
    var encoder = ReplyEncoder(style: .simple)
    /// What BLOCK_STATUS may be asked about.
    var contexts: MetaContexts = []
    var endReason = NBDEndReason.disconnected
    /// The export under way; its size follows the volume's.
    public internal(set) var export = NBDExportDescription(name: "", size: .zero)

    var slots: [InFlight?] = []
    var freeSlots: [Int] = []
    /// Requests submitted and not answered yet.
    public internal(set) var inFlightRequests = 0
    /// Payload bytes of those requests and of a write under way.
    public internal(set) var inFlightBytes = 0
    /// A request that waits for room among those in flight.
    var waiting: NBDRequestHeader?
    /// The write whose payload is under way, or is being swallowed and will get the error.
    var payloadOwner: NBDRequestHeader?
    var skipVerdict: (errno: NBDErrno, text: String)?

    /// Bytes that arrived but may not be looked at yet.
    var held: [UInt8] = []
    var heldStart = 0
    var isPaused = false
    var queuedReplyBytes = 0

    /// A session in which nothing has been sent yet.
    public init(
        limits: NBDLimits = NBDLimits(), pool: BufferPool, encryption: NBDEncryption = .off
    ) {
        (self.limits, self.pool) = (limits, pool)
        handshake = ServerHandshake(encryption: encryption)
    }

    /// True until an export was chosen.
    public var isInHandshake: Bool {
        mutating get { phase == .handshake || phase == .securing }
    }

    /// TLS is in force: the client begins anew.
    /// - Parameter refusal: why a client with these names may use nothing here; `nil`: it may.
    public mutating func secured(refusal: String?) {
        invariant(phase == .securing, "TLS came without STARTTLS")
        phase = .handshake
        handshake.refusal = refusal
        handshake.secured()
    }

    /// The connection was accepted.
    public mutating func opened(effects: inout [Effect]) { effects.append(.send(ServerHandshake.greeting)) }

    /// Bytes arrived, cut anywhere.
    /// - Parameters:
    ///   - exports: what a client may choose from, as of now; only looked at during the handshake.
    ///   - queuedReplyBytes: reply bytes that the socket has not taken yet.
    @unsafe public mutating func received(
        _ bytes: UnsafeRawBufferPointer, exports: [NBDExportDescription], queuedReplyBytes: Int,
        effects: inout [Effect]
    ) {
        self.queuedReplyBytes = queuedReplyBytes
        guard phase != .ending, phase != .closed else { return }
        if heldBytes > 0 {
            unsafe held.append(contentsOf: bytes)
        } else {
            var rest = unsafe bytes
            unsafe consume(&rest, exports, effects: &effects)
            if rest.count > 0 { unsafe held.append(contentsOf: rest) }
        }
        adjustReceiving(effects: &effects)
        if phase == .securing { effects.append(.startTLS) }
    }
    /// Where the next bytes should land, when they are the rest of a payload.
    @unsafe public var receiveWindow: UnsafeMutableRawBufferPointer? {
        mutating get {
            guard phase == .serving, heldBytes == 0 else { return nil }
            return unsafe stream.window
        }
    }
    /// The volume answered a request.
    public mutating func completed(
        _ token: NBDRequestToken, _ result: VolumeResult, exports: [NBDExportDescription],
        queuedReplyBytes: Int, effects: inout [Effect]
    ) {
        self.queuedReplyBytes = queuedReplyBytes
        finish(token, result, effects: &effects)
        goOn(exports, effects: &effects)
    }
    /// The socket took queued replies.
    public mutating func drained(
        exports: [NBDExportDescription], queuedReplyBytes: Int, effects: inout [Effect]
    ) {
        self.queuedReplyBytes = queuedReplyBytes
        goOn(exports, effects: &effects)
    }
    /// The volume's size changed: later requests are judged by the new one.
    public mutating func resized(to size: ByteCount) { export.size = size }

    /// Changes how much may be in flight. What is above a lower bound is answered as before.
    public mutating func limitInFlight(requests: Int, bytes: Int) {
        (limits.inFlightRequestsMax, limits.inFlightBytesMax) = (requests, bytes)
    }

    /// Takes no more requests; closes once those in flight are answered.
    public mutating func stop(effects: inout [Effect]) {
        guard phase != .ending, phase != .closed else { return }
        end(.stopped, effects: &effects)
        adjustReceiving(effects: &effects)
    }

    /// The connection broke: what is in flight is finished for nobody.
    public mutating func lost() { (phase, held, heldStart, waiting) = (.closed, [], 0, nil) }

    /// True while requests are not read because replies pile up:
    /// ``drained(exports:queuedReplyBytes:effects:)`` must follow.
    public var waitsForDrain: Bool {
        mutating get { isPaused && queuedReplyBytes > limits.queuedReplyBytesMax }
    }

    /// True when the client has begun a request that it could go on with.
    public var awaitsRest: Bool {
        mutating get { phase == .serving && !isPaused && stream.isInsideItem }
    }

    private var heldBytes: Int { held.count - heldStart }

    /// Looks at held bytes again, since there may be room now.
    private mutating func goOn(_ exports: [NBDExportDescription], effects: inout [Effect]) {
        let wasInHandshake = phase == .handshake
        if phase == .handshake || phase == .serving, heldBytes > 0 || waiting != nil {
            // Taken out, so that reading them does not conflict with changing the rest of `self`.
            let bytes = held
            held = []
            let consumed = unsafe bytes.withUnsafeBytes { all -> Int in
                var rest = unsafe UnsafeRawBufferPointer(rebasing: all[heldStart...])
                unsafe consume(&rest, exports, effects: &effects)
                return all.count - rest.count
            }
            if consumed < bytes.count { (held, heldStart) = (bytes, consumed) } else { heldStart = 0 }
        }
        adjustReceiving(effects: &effects)
        // Nothing of a handshake is in flight at a volume: what was said before is all that was held.
        if wasInHandshake, phase == .securing { effects.append(.startTLS) }
    }
    /// Takes bytes from the front until there are none, or what they ask for has to wait.
    @unsafe private mutating func consume(
        _ rest: inout UnsafeRawBufferPointer, _ exports: [NBDExportDescription], effects: inout [Effect]
    ) {
        while true {
            switch phase {
            case .ending, .closed:
                unsafe rest = UnsafeRawBufferPointer(start: nil, count: 0)
                return
            case .securing:
                // Whoever puts bytes between STARTTLS and TLS wants them to be taken for encrypted ones.
                if rest.count > 0 { end(.violation("plain bytes behind STARTTLS"), effects: &effects) }
                if phase == .securing { return }
            case .handshake:
                guard queuedReplyBytes <= limits.queuedReplyBytesMax,
                    let outcome = unsafe handshake.next(&rest, exports: exports, limits: limits)
                else { return }
                perform(outcome, effects: &effects)
            case .serving:
                if let header = waiting {
                    guard hasRoom(for: header) else { return }
                    waiting = nil
                    admit(header, effects: &effects)
                    continue
                }
                guard queuedReplyBytes <= limits.queuedReplyBytesMax, let item = unsafe stream.next(&rest)
                else {
                    return
                }
                perform(item, effects: &effects)
            }
        }
    }
    private mutating func perform(_ outcome: ServerHandshake.Outcome, effects: inout [Effect]) {
        switch outcome {
        case .reply(let bytes): queue(.send(bytes), effects: &effects)
        case .startTLS(let bytes):
            queue(.send(bytes), effects: &effects)
            phase = .securing
        case .begin(let bytes, let chosen):
            queue(.send(bytes), effects: &effects)
            (phase, export) = (.serving, chosen)
            (encoder.style, contexts) = (handshake.replies, handshake.contexts(for: chosen))
            stream.isExtended = handshake.replies == .extended
            effects.append(.enter(exportName: chosen.name))
        case .end(let bytes, let reason):
            if !bytes.isEmpty { queue(.send(bytes), effects: &effects) }
            end(reason, effects: &effects)
        }
    }
    /// Appends something to send and counts it, so that one call cannot queue without bound.
    mutating func queue(_ effect: Effect, effects: inout [Effect]) {
        switch effect {
        case .send(let bytes): queuedReplyBytes += bytes.count
        case .sendPayload(let payload): queuedReplyBytes += payload.byteCount
        case .startTLS, .enter, .submit, .resize, .pauseReceiving, .resumeReceiving, .close: break
        }
        effects.append(effect)
    }
    /// Takes no more bytes; closes at once or after the last answer.
    mutating func end(_ reason: NBDEndReason, effects: inout [Effect]) {
        invariant(phase != .ending && phase != .closed, "a session ends once")
        (phase, endReason) = (.ending, reason)
        (held, heldStart, waiting) = ([], 0, nil)
        stream = RequestStream()
        closeIfIdle(effects: &effects)
    }
    mutating func closeIfIdle(effects: inout [Effect]) {
        guard phase == .ending else { return }
        if case .violation = endReason {} else if inFlightRequests > 0 { return }
        phase = .closed
        effects.append(.close(endReason))
    }
    private mutating func adjustReceiving(effects: inout [Effect]) {
        let mustPause =
            switch phase {
            case .handshake, .serving:
                heldBytes > 0 || waiting != nil
                    || queuedReplyBytes > limits.queuedReplyBytesMax
            // Still reading a client that waits for its last answers notices when it goes away.
            case .securing, .ending, .closed: false
            }
        guard mustPause != isPaused else { return }
        isPaused = mustPause
        if phase != .closed { effects.append(mustPause ? .pauseReceiving : .resumeReceiving) }
    }
}
