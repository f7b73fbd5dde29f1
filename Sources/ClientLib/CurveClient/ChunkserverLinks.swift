import BlockTypes
import CurveWire
import Environment
import FramedLink

/// The connections of one attachment: made when there is something to send, made anew when they break.
///
/// A server is known by its number; where it listens is looked up in the address book each time.
final class ChunkserverLinks {
    /// An answer came.
    var answered: ((_ id: UInt64, BlockReply) -> Void)?
    /// The connection is gone or could not be had; what was sent over it will not be answered.
    var lost: ((ServerID) -> Void)?

    /// An address that does not answer is given up after this long.
    static let connectTimeout = Duration.seconds(1)
    /// The pause after a connection broke, or after all addresses of a server failed; doubles up to the
    /// second.
    static let pauseMin = Duration.milliseconds(50), pauseMax = Duration.seconds(2)
    /// A server that owes answers and says nothing for so long is connected to anew: its host may be gone
    /// without a word.
    static let silenceMax = Duration.seconds(10)
    /// Frames that wait for one connection. An attachment has fewer sub-requests than this, and only repeats
    /// of what is waiting already come on top.
    static let queuedFramesMax = 2048

    private enum State { case idle, connecting, open(FramedLink), pausing }
    private final class Peer {
        var state = State.idle
        var addresses: [SocketAddress] = []
        var nextAddress = 0
        var pause = ChunkserverLinks.pauseMin
        var frames: [Frame] = []
        var framesSent = 0  // Of `frames`; the head of the queue.
        var unanswered = 0
        var lastHeard = Duration.zero
        var generation = 0  // Counts connections; a callback of an older one means nothing.
        var hasFailed = false
    }
    private let environment: any Environment
    private let pool: BufferPool
    private let hello: Hello
    private var peers: [ServerID: Peer] = [:]
    private(set) var bookVersion: UInt64 = 0
    private var isClosed = false

    init(environment: any Environment, pool: BufferPool, hello: Hello) {
        (self.environment, self.pool, self.hello) = (environment, pool, hello)
    }

    /// Servers with a connection.
    var connectedCount: Int {
        peers.values.reduce(0) { count, peer in if case .open = peer.state { count + 1 } else { count } }
    }

    /// The most frames that wait for one connection.
    package func readGauges(_ read: GaugeReader) {
        let most = peers.values.reduce(0) { max($0, $1.frames.count - $1.framesSent) }
        read("frames for a chunkserver", most, Self.queuedFramesMax)
    }

    /// Takes the servers' newest addresses.
    func learn(version: UInt64, _ servers: [(ServerID, [SocketAddress])]) {
        guard version >= bookVersion else { return }
        bookVersion = version
        for (server, addresses) in servers where !addresses.isEmpty {
            let peer = peer(server)
            guard peer.addresses != addresses else { continue }
            (peer.addresses, peer.nextAddress, peer.pause) = (addresses, 0, Self.pauseMin)
            if case .pausing = peer.state {
                // The pause was for the old addresses.
                peer.state = .idle
                peer.generation += 1
            }
        }
    }

    /// Sends a frame now or once there is a connection.
    /// - Returns: false when there is none and it is too early to try again.
    func send(_ frame: Frame, to server: ServerID) -> Bool {
        guard !isClosed else { return false }
        let peer = peer(server)
        switch peer.state {
        case .pausing: return false
        case .idle:
            guard !peer.addresses.isEmpty else { return false }
            enqueue(frame, peer)
            connect(server, peer)
        case .connecting:
            guard peer.frames.count < Self.queuedFramesMax else { return false }
            enqueue(frame, peer)
        case .open(let link):
            if peer.unanswered > 0, environment.now - peer.lastHeard > Self.silenceMax {
                environment.log(.warning, "chunkserver \(server) at \(link.peer) is silent; connecting anew")
                disconnect(server, peer)
                link.close()
                return false
            }
            guard peer.frames.count - peer.framesSent < Self.queuedFramesMax else { return false }
            if peer.unanswered == 0 { peer.lastHeard = environment.now }
            peer.unanswered += 1
            guard peer.frames.isEmpty, link.queuedSendBytes <= link.sendQueueBytesSoftMax else {
                enqueue(frame, peer)
                return true
            }
            link.send(frame)
        }
        return true
    }

    /// Closes everything, without further callbacks.
    func close() {
        isClosed = true
        (answered, lost) = (nil, nil)
        for server in peers.keys.sorted() {
            guard let peer = peers[server] else { continue }
            peer.generation += 1
            if case .open(let link) = peer.state { link.close() }
        }
        peers = [:]
    }

    private func peer(_ server: ServerID) -> Peer {
        if let peer = peers[server] { return peer }
        let peer = Peer()
        peers[server] = peer
        return peer
    }

    private func enqueue(_ frame: Frame, _ peer: Peer) { peer.frames.append(frame) }

    private func flush(_ peer: Peer) {
        guard case .open(let link) = peer.state else { return }
        while peer.framesSent < peer.frames.count, link.queuedSendBytes <= link.sendQueueBytesSoftMax {
            link.send(peer.frames[peer.framesSent])
            peer.framesSent += 1
        }
        if peer.framesSent == peer.frames.count { (peer.frames, peer.framesSent) = ([], 0) }
    }
}

extension ChunkserverLinks {
    private func connect(_ server: ServerID, _ peer: Peer) {
        let address = peer.addresses[peer.nextAddress % peer.addresses.count]
        peer.state = .connecting
        peer.generation += 1
        let generation = peer.generation
        environment.connect(to: address, timeout: Self.connectTimeout) { [weak self, weak peer] result in
            guard let self, let peer, peer.generation == generation else {
                if case .success(let connection) = result {
                    FramedLink.refuse(connection, reason: "no longer needed")
                }
                return
            }
            switch result {
            case .success(let connection): self.greet(server, peer, connection, at: address)
            case .failure(let error): self.tryNext(server, peer, "\(error)")
            }
        }
    }

    private func greet(
        _ server: ServerID, _ peer: Peer, _ connection: any Connection, at address: SocketAddress
    ) {
        let (mine, generation) = (hello, peer.generation)
        let link = FramedLink(
            connection: connection, environment: environment, pool: pool, mine: mine,
            serving: FrameKindSet([.reply])
        ) { theirs in
            let isExpected = theirs.server == server || isPlanted(.addressBelieved)
            guard theirs.role == .chunkserver, isExpected else {
                let other = theirs.server.map { "\(theirs.role) \($0)" } ?? "\(theirs.role)"
                return "chunkserver \(server) was expected at \(address), not \(other)"
            }
            guard let cluster = mine.cluster, let other = theirs.cluster, cluster != other else { return nil }
            return "this client belongs to cluster \(cluster), the server at \(address) to \(other)"
        }
        link.onReady = { [weak self, weak peer, weak link] _ in
            guard let link else { return }
            guard let self, let peer, peer.generation == generation else { return link.close() }
            peer.state = .open(link)
            if peer.hasFailed { self.environment.log(.info, "connected to chunkserver \(server) again") }
            (peer.pause, peer.hasFailed, peer.lastHeard) = (Self.pauseMin, false, self.environment.now)
            peer.unanswered = peer.frames.count
            self.flush(peer)
        }
        link.onFrame = { [weak self, weak peer] frame in
            guard let self, let peer, peer.generation == generation else { return }
            guard case .reply(let id, let reply) = frame else { return }
            peer.lastHeard = self.environment.now
            peer.unanswered = max(peer.unanswered - 1, 0)
            self.answered?(id, reply)
        }
        link.onDrained = { [weak self, weak peer] in
            guard let self, let peer, peer.generation == generation else { return }
            self.flush(peer)
        }
        link.onClosed = { [weak self, weak peer] reason in
            guard let self, let peer, peer.generation == generation else { return }
            if case .open = peer.state {
                self.environment.log(.warning, "lost chunkserver \(server): \(reason)")
                peer.hasFailed = true
                self.disconnect(server, peer)
            } else {
                self.tryNext(server, peer, "\(reason)")
            }
        }
    }

    private func tryNext(_ server: ServerID, _ peer: Peer, _ why: String) {
        peer.nextAddress += 1
        if peer.nextAddress % peer.addresses.count != 0 { return connect(server, peer) }
        if !peer.hasFailed { environment.log(.warning, "cannot reach chunkserver \(server): \(why)") }
        peer.hasFailed = true
        disconnect(server, peer)
    }

    /// Tells the owner and lets some time pass before the next try.
    private func disconnect(_ server: ServerID, _ peer: Peer) {
        (peer.frames, peer.framesSent, peer.unanswered) = ([], 0, 0)
        peer.state = .pausing
        peer.generation += 1
        let generation = peer.generation
        let share = 0.5 + 0.5 * Double(environment.random() >> 11) / Double(UInt64(1) << 53)
        environment.after(peer.pause * share) { [weak peer] in
            guard let peer, peer.generation == generation else { return }
            peer.state = .idle
        }
        peer.pause = min(peer.pause * 2, Self.pauseMax)
        // Not from inside a call of ``send(_:to:)``.
        environment.after(.zero) { [weak self] in self?.lost?(server) }
    }
}
