import BlockTypes
import Environment

/// A loop that runs when the test says so, with a clock that only the test moves.
final class FakeWorld: Environment {
    private(set) var now = Duration.zero
    let secondsSince1970: UInt64 = 0
    private var timers: [(due: Duration, id: UInt64, action: () -> Void)] = []
    private var nextTimer: UInt64 = 0
    private(set) var logged: [String] = []
    var listeners: [SocketAddress: FakeListener] = [:]
    private var linkCount = 0

    func random() -> UInt64 { 4 }
    @discardableResult func after(_ delay: Duration, _ action: @escaping () -> Void) -> TimerID {
        nextTimer += 1
        timers.append((now + delay, nextTimer, action))
        return TimerID(rawValue: nextTimer)
    }
    func cancel(_ timer: TimerID) { timers.removeAll { $0.id == timer.rawValue } }
    func log(_ level: LogLevel, _ message: @autoclosure () -> String) {
        if level >= .info { logged.append(message()) }
    }
    func listen(on address: SocketAddress, accepted: @escaping (any Connection) -> Void) throws(NetworkError)
        -> any Listener
    {
        if listeners[address] != nil { throw .addressInUse(address) }
        let listener = FakeListener(address: address, world: self, accepted: accepted)
        listeners[address] = listener
        return listener
    }
    func connect(
        to address: SocketAddress, timeout: Duration,
        completed: @escaping (Result<any Connection, NetworkError>) -> Void
    ) { completed(.failure(.refused(address))) }

    /// Runs everything due within `time`, in order.
    func run(for time: Duration = .zero) {
        let end = now + time
        while let next = timers.indices.filter({ timers[$0].due <= end }).min(by: {
            (timers[$0].due, timers[$0].id) < (timers[$1].due, timers[$1].id)
        }) {
            let timer = timers.remove(at: next)
            now = max(now, timer.due)
            timer.action()
        }
        now = end
    }
    /// A client connects.
    func client(at address: SocketAddress = .unix(path: "/s"), from host: String? = nil) -> FakeLink {
        linkCount += 1
        let peer = host.map { "\($0):\(linkCount)" } ?? "client \(linkCount)"
        let link = FakeLink(peer: peer, world: self)
        listeners[address]?.accepted(link)
        return link
    }
}

final class FakeListener: Listener {
    let address: SocketAddress
    let accepted: (any Connection) -> Void
    private let world: FakeWorld
    init(address: SocketAddress, world: FakeWorld, accepted: @escaping (any Connection) -> Void) {
        (self.address, self.world, self.accepted) = (address, world, accepted)
    }
    func close() { world.listeners[address] = nil }
}

/// The server's end of a connection; the test is the client.
final class FakeLink: Connection {
    var handler: (any ConnectionHandler)?
    let peer: String
    private let world: FakeWorld
    /// What the client has read.
    var received: [UInt8] = []
    /// What it has not read.
    private var unread: [SendPiece] = []
    var queuedSendBytes: Int { unread.reduce(0) { $0 + $1.byteCount } }
    /// A client that reads nothing.
    var isDeaf = false
    /// The client has closed both directions; what it sent before is still there to be read.
    var hasPeerLeft = false
    private(set) var isClosed = false
    private var isPaused = false
    private var unsent: [UInt8] = []

    init(peer: String, world: FakeWorld) { (self.peer, self.world) = (peer, world) }

    func send(_ pieces: [SendPiece]) {
        unread += pieces
        if !isDeaf { collect() }
    }
    private func collect() {
        for piece in unread {
            switch piece {
            case .bytes(let bytes): received += bytes
            case .payload(let payload): received += payload.array
            }
        }
        unread = []
    }
    func pauseReceiving() { isPaused = true }
    func resumeReceiving() {
        isPaused = false
        world.after(.zero) { self.say([]) }
    }
    func close() {
        guard !isClosed else { return }
        isClosed = true
        world.after(.zero) { self.handler?.connectionClosed(.closedHere) }
    }
    // The client's doings.

    func say(_ bytes: [UInt8]) {
        unsent += bytes
        while !unsent.isEmpty, !isPaused, !isClosed, let handler {
            if let window = handler.connectionReceiveWindow() {
                let count = min(window.count, unsent.count)
                for index in 0..<count { window[index] = unsent[index] }
                unsent.removeFirst(count)
                handler.connectionReceived(UnsafeRawBufferPointer(rebasing: window[..<count]))
            } else {
                let taken = Array(unsent.prefix(64 << 10))
                unsent.removeFirst(taken.count)
                taken.withUnsafeBytes { handler.connectionReceived($0) }
            }
        }
    }
    /// Bytes that the server does not take at present.
    var unsentBytes: Int { unsent.count }
    func listenAgain() {
        isDeaf = false
        let wasFull = queuedSendBytes > sendQueueBytesSoftMax
        collect()
        if wasFull { handler?.connectionDrained() }
    }
    func reset() {
        guard !isClosed else { return }
        isClosed = true
        handler?.connectionClosed(.reset)
    }
    func takeReceived() -> [UInt8] {
        defer { received = [] }
        return received
    }
}
