import BlockTypes
import CurveWire
import Environment

/// Why a link is over.
public enum LinkCloseReason: Error, Hashable, Sendable, CustomStringConvertible {
    /// The connection broke.
    case network(NetworkError)
    /// The peer will not talk to us, and says why.
    case refusedByPeer(String)
    /// We will not talk to the peer: what was said to it.
    case refusedPeer(String)
    /// No hello in time.
    case handshakeTimedOut
    /// A frame began and its header and body did not become complete.
    case stalled
    /// The peer's bytes make no sense.
    case protocolViolation(WireError)
    /// ``FramedLink/close()`` was called.
    case closedHere

    /// What happened, in one line.
    public var description: String {
        switch self {
        case .network(let error): "\(error)"
        case .refusedByPeer(let reason): "the peer refused: \(reason)"
        case .refusedPeer(let reason): "refused the peer: \(reason)"
        case .handshakeTimedOut: "the peer did not say hello in time"
        case .stalled: "a frame began and never became complete"
        case .protocolViolation(let error): "\(error)"
        case .closedHere: "closed by this side"
        }
    }
}

/// A connection that carries frames: hello both ways, then whatever the peer's role allows.
///
/// Loop-confined. Set the closures right after `init`: none runs from inside a call of this class. The
/// connection keeps the link alive until it is closed, and after ``onClosed`` no closure runs or is kept.
public final class FramedLink {
    /// The peer said hello and was accepted; called once, before any frame.
    public var onReady: ((Hello) -> Void)?
    /// A frame came. Never a hello.
    public var onFrame: ((Frame) -> Void)?
    /// The link is over; called once, last.
    public var onClosed: ((LinkCloseReason) -> Void)?
    /// The send queue has room again.
    public var onDrained: (() -> Void)?
    /// The peer's hello, once it was accepted.
    public private(set) var peerHello: Hello?

    /// A peer that says nothing is given up after this long.
    public static let handshakeTimeout = Duration.seconds(10)

    /// Header and body of a frame, at most a few megabytes, must be there after twice this long. A damaged
    /// length would else swallow what follows, heartbeats one after the other, for as long as it takes.
    static let headPatience = Duration.milliseconds(2500)

    private enum Phase { case handshake, open, closing, closed }
    private var phase = Phase.handshake
    private let connection: any Connection
    private let environment: any Environment
    private let served: FrameKindSet
    private let check: (Hello) -> String?
    private var decoder: FrameDecoder
    private var handshakeTimer: TimerID?
    private var closeReason = LinkCloseReason.closedHere
    private var isPaused = false
    private var isDelivering = false
    private var resumeTimer: TimerID?
    private var headTimer: TimerID?

    /// Takes over `connection` and sends `mine`.
    /// - Parameters:
    ///   - served: what the owner can handle at all; a peer that sends anything else is cut off.
    ///   - check: judges the peer's hello; what it returns is the reason to refuse, told to the peer.
    public init(
        connection: any Connection, environment: any Environment, pool: BufferPool, mine: Hello,
        serving served: FrameKindSet = .all, check: @escaping (Hello) -> String?
    ) {
        (self.connection, self.environment, self.served, self.check) = (
            connection, environment, served, check
        )
        decoder = .awaitingHello(pool: pool)
        handshakeTimer = environment.after(Self.handshakeTimeout) { [weak self] in
            guard let self, self.phase == .handshake else { return }
            self.handshakeTimer = nil
            self.end(.handshakeTimedOut)
        }
        connection.handler = self
        send(.hello(mine))
    }

    /// Tells a peer why there is no place for it, and closes the connection.
    public static func refuse(_ connection: any Connection, reason: String) {
        connection.handler = DeafHandler()
        connection.send([.bytes(FrameEncoder.encode(.helloRefused(reason: reason)).head)])
        connection.close()
    }

    /// Who is at the other end, for the log.
    public var peer: String { connection.peer }
    /// True from ``onReady`` until the link ends.
    public var isOpen: Bool { phase == .open }
    /// Bytes that the kernel has not taken yet. Hold back above ``sendQueueBytesSoftMax`` until
    /// ``onDrained``.
    public var queuedSendBytes: Int { connection.queuedSendBytes }
    /// See ``queuedSendBytes``.
    public var sendQueueBytesSoftMax: Int { connection.sendQueueBytesSoftMax }

    /// Queues a frame; does nothing once the link is ending. Frames sent before the peer's hello has come are
    /// only read if the peer accepts ours.
    public func send(_ frame: Frame) {
        guard phase == .handshake || phase == .open else { return }
        let (head, payloads) = FrameEncoder.encode(frame)
        if payloads.isEmpty { return connection.send([.bytes(head)]) }
        var pieces: [SendPiece] = []
        pieces.reserveCapacity(1 + payloads.count)
        pieces.append(.bytes(head))
        for payload in payloads { pieces.append(.payload(payload)) }
        connection.send(pieces)
    }

    /// Sends what is queued and closes; ``onClosed`` follows. Frames that came are not delivered any more.
    public func close() { end(.closedHere) }

    /// Stops reading and delivering: the peer feels it as a full window.
    public func pauseReceiving() {
        guard !isPaused, phase == .handshake || phase == .open else { return }
        isPaused = true
        connection.pauseReceiving()
    }

    /// Delivers and reads again.
    public func resumeReceiving() {
        guard isPaused, phase == .handshake || phase == .open else { return }
        isPaused = false
        connection.resumeReceiving()
        guard !isDelivering, resumeTimer == nil else { return }
        // What came before the pause is delivered from the loop, not from inside this call.
        resumeTimer = environment.after(.zero) { [weak self] in
            self?.resumeTimer = nil
            self?.deliver()
        }
    }

    private func end(_ reason: LinkCloseReason) {
        guard phase == .handshake || phase == .open else { return }
        (phase, closeReason) = (.closing, reason)
        cancelTimers()
        connection.close()
    }

    private func cancelTimers() {
        if let handshakeTimer { environment.cancel(handshakeTimer) }
        if let resumeTimer { environment.cancel(resumeTimer) }
        if let headTimer { environment.cancel(headTimer) }
        (handshakeTimer, resumeTimer, headTimer) = (nil, nil, nil)
    }

    /// Looks twice: a process that stood still finds the rest of the frame waiting for it.
    private func watchHead(_ frame: UInt64, again: Bool) {
        headTimer = environment.after(Self.headPatience) { [weak self] in
            guard let self else { return }
            headTimer = nil
            guard phase == .open, let unfinished = decoder.unfinishedHead else { return }
            let isSame = unfinished == frame && !isPaused
            if isSame, again { return end(.stalled) }
            watchHead(unfinished, again: isSame)
        }
    }

    /// Hands over the frames that are complete, until the owner pauses or the link ends.
    private func deliver() {
        guard !isDelivering else { return }
        isDelivering = true
        defer { isDelivering = false }
        do throws(WireError) {
            while !isPaused, phase == .handshake || phase == .open, let frame = try decoder.next() {
                deliver(frame)
            }
        } catch { end(.protocolViolation(error)) }
    }

    private func deliver(_ frame: Frame) {
        switch frame {
        case .hello(let hello): greet(hello)
        case .helloRefused(let reason): end(.refusedByPeer(reason))
        case .request, .reply, .replica, .beats, .beatReplies, .syncOffer, .syncPull, .syncPiece,
            .syncRefused,
            .fetch, .fetched, .control, .controlReply:
            onFrame?(frame)
        }
    }

    private func greet(_ hello: Hello) {
        if let reason = versionRefusal(hello) ?? check(hello) {
            send(.helloRefused(reason: reason))
            return end(.refusedPeer(reason))
        }
        if let handshakeTimer { environment.cancel(handshakeTimer) }
        handshakeTimer = nil
        decoder.accept(served.union(.handshake).intersection(.sent(by: hello.role)))
        (phase, peerHello) = (.open, hello)
        onReady?(hello)
    }

    private func versionRefusal(_ hello: Hello) -> String? {
        guard hello.version != Hello.currentVersion else { return nil }
        return "this side speaks protocol version \(Hello.currentVersion), the other \(hello.version); "
            + "run the same release on both sides"
    }
}

extension FramedLink: ConnectionHandler {
    /// Where a large payload should land.
    @unsafe public func connectionReceiveWindow() -> UnsafeMutableRawBufferPointer? {
        unsafe decoder.receiveWindow()
    }
    /// Takes the next bytes.
    @unsafe public func connectionReceived(_ bytes: UnsafeRawBufferPointer) {
        guard phase == .handshake || phase == .open else { return }
        unsafe decoder.received(bytes)
        deliver()
        guard headTimer == nil, phase == .open, let unfinished = decoder.unfinishedHead else { return }
        watchHead(unfinished, again: false)
    }
    /// The send queue has room again.
    public func connectionDrained() { if phase == .open { onDrained?() } }
    /// The connection is over.
    public func connectionClosed(_ reason: NetworkError) {
        guard phase != .closed else { return }
        let why = phase == .closing ? closeReason : .network(reason)
        phase = .closed
        cancelTimers()
        let onClosed = onClosed
        (self.onReady, self.onFrame, self.onClosed, self.onDrained) = (nil, nil, nil, nil)
        onClosed?(why)
    }
}

/// Listens to nobody: the connection is closing.
private final class DeafHandler: ConnectionHandler {
    @unsafe func connectionReceiveWindow() -> UnsafeMutableRawBufferPointer? { nil }
    @unsafe func connectionReceived(_ bytes: UnsafeRawBufferPointer) {}
    func connectionDrained() {}
    func connectionClosed(_ reason: NetworkError) {}
}
