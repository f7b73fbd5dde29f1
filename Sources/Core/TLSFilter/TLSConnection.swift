import BlockTypes
import Environment

/// A connection whose bytes are encrypted on the way: it stands between a plain one and the owner's handler.
///
/// Loop-confined. The owner hears of nothing before the handshake is over.
public final class TLSConnection: Connection, ConnectionHandler {
    private let inner: any Connection
    private let engine: TLSEngine
    private let environment: any Environment
    /// Called once with the client's names when the handshake is over.
    private var secured: (([String]) -> Void)?
    private var isPaused = false
    private var isClosed = false
    private var isPumping = false
    private var isPumpDue = false
    private let plain = BlockBuffer(byteCount: TLSConnection.plainBytes)
    /// Plain bytes read at once where the handler has no window.
    private static let plainBytes = 64 << 10
    /// Plain bytes encrypted before they are sent on.
    private static let flushBytes = 256 << 10
    /// Encrypted bytes that wait while the handler is paused: beyond it the client ignores that nobody reads.
    private static let handshakeBytesMax = 256 << 10
    private var handshakeBytes = 0

    /// The owner's.
    public var handler: (any ConnectionHandler)? {
        didSet { if handler != nil { pumpSoon() } }
    }
    /// Who is at the other end.
    public var peer: String { inner.peer }
    /// As the plain one knows it.
    public var hasPeerLeft: Bool { inner.hasPeerLeft }
    /// Encrypted bytes that the kernel has not taken yet.
    public var queuedSendBytes: Int { inner.queuedSendBytes }

    /// Takes `inner` over: from here on all that it brings is TLS.
    public init(
        _ inner: any Connection, _ engine: TLSEngine, environment: any Environment,
        secured: @escaping ([String]) -> Void
    ) {
        (self.inner, self.engine, self.environment) = (inner, engine, environment)
        self.secured = secured
        inner.handler = self
        inner.resumeReceiving()
    }

    /// Encrypts and queues the pieces.
    public func send(_ pieces: [SendPiece]) {
        guard !isClosed else { return }
        var waiting = 0
        for piece in pieces {
            switch piece {
            case .bytes(let bytes): unsafe bytes.withUnsafeBytes { unsafe engine.write($0) }
            case .payload(let payload):
                var done = 0
                while done < payload.byteCount {
                    let count = min(Self.flushBytes, payload.byteCount - done)
                    unsafe payload.slice(done, count).withBytes { unsafe engine.write($0) }
                    done += count
                    if done < payload.byteCount { flush() }
                }
            }
            waiting += piece.byteCount
            if waiting >= Self.flushBytes {
                flush()
                waiting = 0
            }
        }
        flush()
    }
    /// Stops reading.
    public func pauseReceiving() {
        isPaused = true
        inner.pauseReceiving()
    }
    /// Reads again.
    public func resumeReceiving() {
        guard isPaused else { return }
        isPaused = false
        inner.resumeReceiving()
        pumpSoon()
    }
    /// Says goodbye in TLS's words, sends what is queued, closes.
    public func close() {
        guard !isClosed else { return }
        isClosed = true
        engine.close()
        flush()
        inner.close()
    }

    // What the plain connection reports.

    /// See ``ConnectionHandler``.
    @unsafe public func connectionReceiveWindow() -> UnsafeMutableRawBufferPointer? { nil }
    /// See ``ConnectionHandler``.
    @unsafe public func connectionReceived(_ bytes: UnsafeRawBufferPointer) {
        guard !isClosed else { return }
        unsafe engine.receive(bytes)
        if secured != nil {
            handshakeBytes += bytes.count
            guard handshakeBytes <= Self.handshakeBytesMax else { return fail("a handshake without end") }
        }
        pump()
    }
    /// See ``ConnectionHandler``.
    public func connectionDrained() { handler?.connectionDrained() }
    /// See ``ConnectionHandler``.
    public func connectionClosed(_ reason: NetworkError) {
        isClosed = true
        secured = nil
        let told = handler
        handler = nil
        told?.connectionClosed(reason)
    }

    private func pumpSoon() {
        guard !isPumpDue else { return }
        isPumpDue = true
        environment.after(.zero) { [weak self] in
            guard let self else { return }
            isPumpDue = false
            pump()
        }
    }
    /// Hands over what can be decrypted.
    private func pump() {
        guard !isPumping, !isClosed else { return }
        isPumping = true
        defer { isPumping = false }
        if engine.state == .handshaking {
            engine.advance()
            flush()
            guard engine.state == .established else { return endIfOver() }
            environment.log(.debug, "\(peer): \(engine.description)")
            let secured = secured
            self.secured = nil
            secured?(engine.peerNames)
        }
        while !isPaused, !isClosed, let handler {
            let window = unsafe handler.connectionReceiveWindow()
            let memory = unsafe window.flatMap { $0.count > 0 ? unsafe $0 : nil } ?? plain.bytes
            let count = unsafe engine.read(into: memory)
            guard count > 0 else { break }
            unsafe handler.connectionReceived(UnsafeRawBufferPointer(rebasing: memory[..<count]))
        }
        flush()
        endIfOver()
    }
    private func endIfOver() {
        switch engine.state {
        case .handshaking, .established: break
        // Nothing more comes, so nothing more is read: the plain connection's end tells the handler.
        case .closed: close()
        case .failed(let why): fail(why)
        }
    }
    private func fail(_ why: String) {
        guard !isClosed else { return }
        environment.log(.notice, "\(peer): \(why)")
        isClosed = true
        secured = nil
        flush()  // The alert that tells the client why.
        inner.close()
    }
    private func flush() {
        let bytes = engine.takeOutput()
        if !bytes.isEmpty { inner.send([.bytes(bytes)]) }
    }
}
