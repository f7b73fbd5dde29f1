import BlockTypes
import Environment
import NBDProtocol

/// One client: carries out what its session decides.
final class ServerConnection: ConnectionHandler {
    let number: Int
    private var link: any Connection
    private let tls: NBDServerTLS?
    private let server: NBDServer
    private var session: NBDSession
    private var volume: (any BlockVolume)?
    private(set) var exportName: String?
    private var answersWhenFenced = false
    private var handshakeTimer: TimerID?
    private var stallTimer: TimerID?
    private var receivedPieces = 0
    private var effects: [NBDSession.Effect] = []
    /// The effects being carried out; swapped with ``effects``, so that neither buffer is ever copied.
    private var batch: [NBDSession.Effect] = []
    /// What a batch sends; kept for its memory.
    private var pieces: [SendPiece] = []
    private var loggedErrors: Set<VolumeError> = []
    private var isOver = false

    init(number: Int, link: any Connection, server: NBDServer) {
        (self.number, self.link, self.server, tls) = (number, link, server, server.tls)
        var limits = server.limits.connection
        // The link reports that it drained only after it was above its own mark.
        limits.queuedReplyBytesMax = link.sendQueueBytesSoftMax
        session = NBDSession(
            limits: limits, pool: server.pool, encryption: tls?.encryption ?? .off)
    }

    var isInHandshake: Bool { session.isInHandshake }
    var peerHost: String { link.peerHost }
    var inFlightRequests: Int { session.inFlightRequests }
    var inFlightBytes: Int { session.inFlightBytes }

    func open() {
        handshakeTimer = server.environment.after(server.limits.handshakeTimeout) { [weak self] in
            self?.handshakeTimedOut()
        }
        link.handler = self
        session.opened(effects: &effects)
        perform()
    }
    func stop() {
        session.stop(effects: &effects)
        perform()
    }
    /// Closes without waiting for answers.
    func abandon() { finish() }

    func limitInFlight(requests: Int, bytes: Int) { session.limitInFlight(requests: requests, bytes: bytes) }

    func resized(to size: ByteCount) { session.resized(to: size) }

    private func handshakeTimedOut() {
        handshakeTimer = nil
        guard session.isInHandshake else { return }
        server.environment.log(.info, "nbd: \(link.peer): no export chosen in time")
        finish()
    }

    /// One timer for as long as pieces of requests come: it looks whether any came since it was set.
    private func watchForStall() {
        guard stallTimer == nil, !isOver, session.awaitsRest else { return }
        let seen = receivedPieces
        stallTimer = server.environment.after(server.limits.stallTimeout) { [weak self] in
            self?.lookForStall(seen)
        }
    }
    private func lookForStall(_ seen: Int) {
        stallTimer = nil
        guard !isOver, session.awaitsRest else { return }
        guard seen == receivedPieces else { return watchForStall() }
        server.environment.log(.notice, "nbd: \(link.peer): stopped in the middle of a request; given up")
        finish()
    }

    // What the link reports.

    @unsafe func connectionReceiveWindow() -> UnsafeMutableRawBufferPointer? { unsafe session.receiveWindow }

    @unsafe func connectionReceived(_ bytes: UnsafeRawBufferPointer) {
        guard !isOver else { return }
        unsafe session.received(
            bytes, exports: choices, queuedReplyBytes: link.queuedSendBytes, effects: &effects)
        perform()
        receivedPieces &+= 1
        watchForStall()
    }
    func connectionDrained() {
        guard !isOver else { return }
        session.drained(exports: choices, queuedReplyBytes: link.queuedSendBytes, effects: &effects)
        perform()
    }
    func connectionClosed(_ reason: NetworkError) {
        if !isOver { server.environment.log(.debug, "nbd: \(link.peer): \(reason)") }
        end()
        link.handler = nil
    }

    private func completed(_ token: NBDRequestToken, _ result: VolumeResult) {
        if case .failure(let error) = result {
            note(error)
            if error == .fenced, !answersWhenFenced { return finish() }
        }
        session.completed(
            token, result, exports: choices, queuedReplyBytes: link.queuedSendBytes, effects: &effects)
        perform()
    }
    private var choices: [NBDExportDescription] { session.isInHandshake ? server.descriptions() : [] }

    private func note(_ error: VolumeError) {
        server.counters.failedRequests += 1
        guard loggedErrors.insert(error).inserted else { return }
        server.environment.log(
            .warning,
            "nbd: \(link.peer): export '\(exportName ?? "")': a request failed: \(error); later ones of "
                + "this kind on this connection are not logged")
    }

    // Carrying out effects.

    private func perform() {
        repeat {
            swap(&batch, &effects)
            var ended: NBDEndReason?
            var mustSecure = false
            var isKnownToWait = false
            for effect in batch {
                switch effect {
                case .send(let bytes): pieces.append(.bytes(bytes))
                case .sendPayload(let payload): pieces.append(.payload(payload))
                case .startTLS: mustSecure = true
                case .enter(let name): enter(name)
                case .submit(let token, let request):
                    if !request.changesBytes || clientWaits(&isKnownToWait) { submit(token, request) }
                case .resize(let token, let size):
                    if clientWaits(&isKnownToWait) { resize(token, to: size) }
                case .pauseReceiving: link.pauseReceiving()
                case .resumeReceiving: link.resumeReceiving()
                case .close(let reason): ended = reason
                }
            }
            batch.removeAll(keepingCapacity: true)
            if !pieces.isEmpty, !isOver { link.send(pieces) }
            pieces.removeAll(keepingCapacity: true)
            if let ended { close(ended) }
            if mustSecure, !isOver { secure() }
            // A link that took everything at once never reports that it drained.
            guard !isOver, session.waitsForDrain, link.queuedSendBytes <= link.sendQueueBytesSoftMax / 2
            else {
                continue
            }
            session.drained(exports: choices, queuedReplyBytes: link.queuedSendBytes, effects: &effects)
        } while !effects.isEmpty
    }
    /// Whoever left waits for no answer, but repeats elsewhere what was not answered here (a kernel does, on
    /// another connection of its device) and goes on from there. A change that was left here would come
    /// after that, and undo it.
    /// - Parameter isKnown: the answer to an earlier question of the same batch, for asking costs a call.
    /// - Returns: false when the client has left; then the connection is over.
    private func clientWaits(_ isKnown: inout Bool) -> Bool {
        guard !isKnown else { return true }
        guard !isOver, !link.hasPeerLeft else {
            finish()
            return false
        }
        isKnown = true
        return true
    }
    /// From here on the session hears and says only what is encrypted.
    private func secure() {
        let secured = tls?.secure(link) { [weak self] names in self?.secured(names) }
        guard let secured else {
            server.environment.log(.error, "nbd: \(link.peer): TLS cannot begin")
            return finish()
        }
        link = secured
        link.handler = self
    }
    private func secured(_ names: [String]) {
        guard !isOver else { return }
        guard let tls, !tls.mayUse(names) else { return session.secured(refusal: nil) }
        let name = names.first ?? "no name"
        server.environment.log(.notice, "nbd: \(link.peer): \(name) may use nothing here")
        session.secured(refusal: "'\(name)' may use no export of this server")
    }
    private func enter(_ name: String) {
        if let handshakeTimer { server.environment.cancel(handshakeTimer) }
        handshakeTimer = nil
        exportName = name
        let export = server.export(named: name)
        (volume, answersWhenFenced) = (export?.volume, export?.answersWhenFenced ?? false)
    }
    private func submit(_ token: NBDRequestToken, _ request: VolumeRequest) {
        guard let volume else { return invariant(isOver, "a request before an export was chosen") }
        server.counters.requests += 1
        volume.submit(request) { self.completed(token, $0) }
    }
    private func resize(_ token: NBDRequestToken, to size: ByteCount) {
        let ask = exportName.flatMap { server.export(named: $0)?.resize }
        guard let ask else {
            // The export has gone meanwhile.
            server.environment.after(.zero) { self.completed(token, .failure(.shuttingDown)) }
            return
        }
        ask(size) { self.completed(token, $0) }
    }
    private func close(_ reason: NBDEndReason) {
        switch reason {
        case .disconnected, .stopped: server.environment.log(.debug, "nbd: \(link.peer): \(reason)")
        case .unknownExport, .refused: server.environment.log(.notice, "nbd: \(link.peer): \(reason)")
        case .violation:
            server.counters.violations += 1
            server.environment.log(.notice, "nbd: \(link.peer): \(reason)")
        }
        finish()
    }
    private func finish() {
        guard !isOver else { return }
        end()
        link.close()
    }
    private func end() {
        guard !isOver else { return }
        isOver = true
        volume = nil  // Which may still hold requests of this connection, and so the connection.
        for timer in [handshakeTimer, stallTimer] {
            if let timer { server.environment.cancel(timer) }
        }
        (handshakeTimer, stallTimer) = (nil, nil)
        session.lost()
        server.forget(number)
    }
}

extension VolumeRequest {
    /// It may leave other bytes behind than it found.
    fileprivate var changesBytes: Bool {
        switch self {
        case .write, .compareAndWrite, .trim, .writeZeroes: true
        case .read, .flush, .blockStatus: false
        }
    }
}
