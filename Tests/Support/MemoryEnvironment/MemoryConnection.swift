import BlockTypes
import Environment

/// One end of a stream in memory.
public final class MemoryConnection: Connection {
    /// The owner; set it before the world runs on.
    public var handler: (any ConnectionHandler)?
    /// The other end's name.
    public let peer: String
    /// Bytes sent that the other end has not received.
    public var queuedSendBytes: Int { queue.count - queueTaken }

    static let stagingBytes = 64 << 10
    /// A closing end waits this long for the other to read the rest.
    static let linger = Duration.seconds(5)

    var other: MemoryConnection?
    private let world: MemoryWorld
    private var queue: [UInt8] = []
    private var queueTaken = 0
    private var isStarted = false
    private var isPaused = false
    private var isPumping = false
    private var isClosing = false
    private var isClosed = false
    private var wasFull = false

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
        guard !isClosing, !isClosed else { return }
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
        guard !isClosed, let other, other.isStarted else { return }
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
            self.handler?.connectionDrained()
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
        let handler = handler
        self.handler = nil
        handler?.connectionClosed(reason)
    }
}
