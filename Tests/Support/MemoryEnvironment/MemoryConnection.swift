import BlockTypes
import Environment

/// One end of a stream in memory.
public final class MemoryConnection: MovableConnection {
    /// The owner; set it before the world runs on.
    public var handler: (any ConnectionHandler)? {
        didSet {
            // It may have ended on its way to this owner.
            guard handler != nil, let reason = untold else { return }
            untold = nil
            world.schedule(.zero) { self.tell(reason) }
        }
    }
    /// The other end's name.
    public let peer: String
    /// Bytes sent that the other end has not received.
    public var queuedSendBytes: Int { queue.count - queueTaken }

    static let stagingBytes = 64 << 10
    /// A closing end waits this long for the other to read the rest.
    static let linger = Duration.seconds(5)

    var other: MemoryConnection?
    let world: MemoryWorld
    private var queue: [UInt8] = []
    private var queueTaken = 0
    private var isStarted = false
    private var isPaused = false
    private var isPumping = false
    private var isClosing = false
    private var isClosed = false
    private var wasFull = false
    private var untold: NetworkError?
    private var released: (((any MovedConnection)?) -> Void)?

    init(_ world: MemoryWorld, peer: String) { (self.world, self.peer) = (world, peer) }

    /// A connected pair, each end named by the other.
    public static func pair(in world: MemoryWorld) -> (MemoryConnection, MemoryConnection) {
        let (left, right) = (
            MemoryConnection(world, peer: "right"), MemoryConnection(world, peer: "left")
        )
        (left.other, right.other) = (right, left)
        left.start()
        right.start()
        return (left, right)
    }

    /// Bytes start to flow to this end at the world's next step: its owner sets the handler first.
    func start() {
        isStarted = true
        other?.pump()
    }

    /// Queues the pieces.
    public func send(_ pieces: [SendPiece]) {
        guard !isClosing, !isClosed, released == nil else { return }
        for piece in pieces {
            switch piece {
            case .bytes(let bytes): queue.append(contentsOf: bytes)
            case .payload(let payload): payload.withBytes { queue.append(contentsOf: $0) }
            }
        }
        if queuedSendBytes > sendQueueBytesSoftMax { wasFull = true }
        pump()
    }
    /// Lets bytes wait.
    public func pauseReceiving() { isPaused = true }
    /// Lets bytes flow.
    public func resumeReceiving() {
        isPaused = false
        other?.pump()
    }
    /// Delivers what is queued, then closes both ends.
    public func close() {
        guard !isClosing, !isClosed else { return }
        isClosing = true
        pump()
        world.schedule(Self.linger) { self.finish(.closedHere, .closedByPeer) }
    }
    /// Breaks the stream: both ends see a reset, what is on its way is lost.
    public func reset() { world.schedule(.zero) { self.finish(.reset, .reset) } }

    /// Arranges for the next piece to reach the other end.
    private func pump() {
        guard !isPumping, !isClosed else { return }
        isPumping = true
        world.schedule(world.latency) {
            self.isPumping = false
            self.deliver()
        }
    }
    private func deliver() {
        guard !isClosed, let other, other.isStarted, other.released == nil else { return }
        guard queuedSendBytes > 0 else {
            if isClosing { finish(.closedHere, .closedByPeer) }
            return
        }
        guard !other.isPaused, let handler = other.handler else { return }
        let window = handler.connectionReceiveWindow()
        let most = min(queuedSendBytes, window?.count ?? Self.stagingBytes, world.pieceBytes())
        let piece = Array(queue[queueTaken..<(queueTaken + most)])  // The handler may send meanwhile.
        piece.withUnsafeBytes { bytes in
            if let window {
                window.copyMemory(from: bytes)
                handler.connectionReceived(UnsafeRawBufferPointer(rebasing: window[..<most]))
            } else {
                handler.connectionReceived(bytes)
            }
        }
        queueTaken += most
        if queueTaken > 1 << 20, queueTaken > queue.count / 2 {
            queue.removeFirst(queueTaken)
            queueTaken = 0
        }
        if wasFull, queuedSendBytes < sendQueueBytesSoftMax / 2 {
            wasFull = false
            if released == nil { self.handler?.connectionDrained() }
        }
        pump()
    }
    private func finish(_ mine: NetworkError, _ theirs: NetworkError) {
        guard !isClosed else { return }
        let other = other
        over(mine)
        if let other, !other.isClosed { other.over(other.isClosing ? .closedHere : theirs) }
    }
    private func over(_ reason: NetworkError) {
        guard !isClosed else { return }
        isClosed = true
        other = nil
        if handler == nil { untold = reason } else { tell(reason) }
        leaveRelease(with: nil)
    }
    private func tell(_ reason: NetworkError) {
        let handler = handler
        self.handler = nil
        handler?.connectionClosed(reason)
    }

    // MARK: Moving

    /// Hands the stream out at the world's next step, with what is queued: that travels on by itself, as
    /// what a kernel has taken does.
    public func release(completed: @escaping ((any MovedConnection)?) -> Void) {
        precondition(released == nil, "\(peer) is being released already")
        released = completed
        guard !isClosed else { return _ = world.schedule(.zero) { self.leaveRelease(with: nil) } }
        // Nothing more reaches this end from now on, nor the news that the other one closes.
        world.schedule(.zero) {
            guard !self.isClosing, !self.isClosed else { return }
            self.leaveRelease(with: MemoryMovedConnection(self.successor()))
        }
    }
    private func leaveRelease(with moved: MemoryMovedConnection?) {
        let completed = released
        released = nil
        completed?(moved)
    }
    /// Another end in the place of this one, which has no owner yet.
    private func successor() -> MemoryConnection {
        let next = MemoryConnection(world, peer: peer)
        (next.queue, next.queueTaken, next.wasFull) = (queue, queueTaken, wasFull)
        next.other = other
        other?.other = next
        (other, handler, isClosed, queue, queueTaken) = (nil, nil, true, [], 0)
        next.pump()
        return next
    }
}

/// A stream in memory between two owners. It closes when nobody takes it.
final class MemoryMovedConnection: MovedConnection, @unchecked Sendable {
    // SAFETY: a world, with all that is in it, belongs to one thread.
    let peer: String
    private var connection: MemoryConnection?

    init(_ connection: MemoryConnection) { (self.connection, peer) = (connection, connection.peer) }
    deinit { connection?.close() }

    /// - Returns: `nil` when somebody has taken it before, or lives in another world.
    func take(in world: MemoryWorld) -> MemoryConnection? {
        guard let connection, connection.world === world else { return nil }
        self.connection = nil
        connection.start()
        return connection
    }
}
