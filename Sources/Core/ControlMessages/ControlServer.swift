import BlockTypes
import CurveWire
import Environment
import FramedLink
import SwiftProtobuf

/// One peer of the MDS. Loop-confined.
public final class ControlServerConnection {
    /// Counts connections of this server; never used again.
    public let number: UInt64
    /// Called once when the peer is gone. Set it when the first request comes.
    public var onClosed: (() -> Void)?
    private let link: FramedLink
    private let limits: ControlServer.Limits
    private var inFlight: Set<UInt64> = []
    private let environment: any Environment
    private var lastHeard: Duration

    fileprivate init(
        number: UInt64, link: FramedLink, limits: ControlServer.Limits, environment: any Environment
    ) {
        (self.number, self.link, self.limits) = (number, link, limits)
        (self.environment, lastHeard) = (environment, environment.now)
    }
    /// How long the peer has asked nothing and waits for nothing; `nil` while it waits for an answer.
    fileprivate var idle: Duration? { inFlight.isEmpty ? environment.now - lastHeard : nil }

    fileprivate var inFlightCount: Int { inFlight.count }

    /// Who the peer said it is.
    public var hello: Hello? { link.peerHello }
    /// Where it is, for the log.
    public var peer: String { link.peer }
    /// False once the peer is gone or going: responses lead nowhere.
    public var isOpen: Bool { link.isOpen }

    /// Answers request `id`. Does nothing when the peer is gone or the request was answered before.
    public func respond(to id: UInt64, _ response: ControlResponse) {
        guard inFlight.remove(id) != nil, link.isOpen else { return }
        link.send(.controlReply(id: id, body: Self.body(of: response)))
        adjustReceiving()
    }
    /// Sends what is queued and closes.
    public func close() { link.close() }

    /// Notes a request.
    /// - Returns: false when the id is in use: the peer is confused.
    fileprivate func begin(_ id: UInt64) -> Bool {
        lastHeard = environment.now
        guard inFlight.insert(id).inserted else { return false }
        adjustReceiving()
        return true
    }
    /// Reads on only while there is room for more requests and their answers.
    fileprivate func adjustReceiving() {
        let isFull =
            inFlight.count >= limits.inFlightPerConnectionMax
            || link.queuedSendBytes > link.sendQueueBytesSoftMax
        if isFull { link.pauseReceiving() } else { link.resumeReceiving() }
    }
    fileprivate func closed() {
        let onClosed = onClosed
        self.onClosed = nil
        onClosed?()
    }

    private static func body(of response: ControlResponse) -> [UInt8] {
        if let body: [UInt8] = try? response.serializedBytes(), body.count <= WireLimits.longBodyBytesMax {
            return body
        }
        let failure = ControlFailure(
            .badRequest, "the answer is longer than \(WireLimits.longBodyBytesMax) bytes; ask for less")
        return (try? ControlResponse(refusing: failure).serializedBytes()) ?? []
    }
}

/// Accepts connections, checks hellos, turns frames into requests. What the MDS answers is its own affair.
///
/// Loop-confined.
public final class ControlServer {
    /// What peers may make this process hold.
    public struct Limits: Sendable {
        /// Chunkservers, clients and tools of one cell, with room for newcomers. Each holds at most the
        /// request that is arriving, 1 MiB, and those it waits for.
        public var connectionsMax = 4096
        /// Peers that asked nothing for this long make room for newcomers when the server is full: their
        /// hosts may have died without a word, and a living one connects again when it has something to ask.
        public var idleMin = Duration.seconds(60)
        /// Requests of one peer that wait for an answer; then it is not read any more.
        public var inFlightPerConnectionMax = 64
        /// The usual limits.
        public init() {}
    }
    /// A request came. Answer it by ``ControlServerConnection/respond(to:_:)``, at once or later.
    public var onRequest: ((ControlServerConnection, _ id: UInt64, ControlRequest) -> Void)?
    /// Connections now open, those in handshake included.
    public var connectionCount: Int { connections.count }

    private let environment: any Environment
    private let pool: BufferPool
    private var hello: Hello
    private let limits: Limits
    private var listeners: [any Listener] = []
    private var connections: [UInt64: ControlServerConnection] = [:]
    private var handshakes: [UInt64] = []  // Oldest first; few, since each ends within seconds.
    private var lastNumber: UInt64 = 0

    /// A server that says `hello`, and refuses peers of another cluster.
    public init(environment: any Environment, pool: BufferPool, hello: Hello, limits: Limits = Limits()) {
        (self.environment, self.pool, self.hello, self.limits) = (environment, pool, hello, limits)
    }

    /// Starts accepting.
    /// - Returns: the address, with the port that the system chose.
    @discardableResult public func listen(on address: SocketAddress) throws(NetworkError) -> SocketAddress {
        let listener = try environment.listen(on: address) { [weak self] connection in
            guard let self else { return FramedLink.refuse(connection, reason: "this server is stopping") }
            self.accept(connection)
        }
        listeners.append(listener)
        return listener.address
    }

    /// What peers make this process hold, against ``Limits``.
    package func readGauges(_ read: GaugeReader) {
        read("connections to the metadata server", connections.count, limits.connectionsMax)
        let most = connections.values.reduce(0) { max($0, $1.inFlightCount) }
        read("requests of one peer", most, limits.inFlightPerConnectionMax)
    }

    /// Stops accepting; peers stay.
    public func stopListening() {
        for listener in listeners { listener.close() }
        listeners = []
    }

    /// Stops accepting and closes every connection.
    public func stop() {
        stopListening()
        closeConnections()
    }

    /// Says `hello` from now on. Who heard another one is sent away, and may come again.
    public func introduceAnew(as hello: Hello) {
        self.hello = hello
        closeConnections()
    }

    private func closeConnections() {
        for number in connections.keys.sorted() { connections[number]?.close() }
    }

    private func accept(_ connection: any Connection) {
        if connections.count >= limits.connectionsMax {
            // Room is made at the cost of whoever has been silent longest, never of a peer at work.
            guard let oldest = handshakes.first ?? longestIdle() else {
                environment.log(.warning, "refused \(connection.peer): \(limits.connectionsMax) connections")
                return FramedLink.refuse(
                    connection, reason: "too many connections (\(limits.connectionsMax)); try again later")
            }
            forget(oldest)?.close()
        }
        lastNumber += 1
        let (number, mine) = (lastNumber, hello)
        let link = FramedLink(
            connection: connection, environment: environment, pool: pool, mine: mine,
            serving: FrameKindSet([.control])
        ) { theirs in
            guard let cluster = mine.cluster, let other = theirs.cluster, cluster != other else { return nil }
            return "this is cluster \(cluster), you belong to \(other); correct the address or the store"
        }
        let peer = ControlServerConnection(
            number: number, link: link, limits: limits, environment: environment)
        connections[number] = peer
        handshakes.append(number)
        link.onReady = { [weak self] _ in self?.handshakes.removeAll { $0 == number } }
        link.onFrame = { [weak self, weak peer] frame in
            guard let self, let peer, case .control(let id, let body) = frame else { return }
            self.received(id, body, from: peer)
        }
        link.onDrained = { [weak peer] in peer?.adjustReceiving() }
        // The link belongs to the peer: its callbacks may not hold the peer in turn.
        link.onClosed = { [weak self, weak peer] reason in
            guard let peer else { return }
            self?.closed(number, peer, reason)
        }
    }

    private func longestIdle() -> UInt64? {
        let idle = connections.keys.sorted().compactMap { number in
            connections[number]?.idle.map { (number: number, time: $0) }
        }
        return idle.filter { $0.time >= limits.idleMin }.max { $0.time < $1.time }?.number
    }

    private func received(_ id: UInt64, _ body: [UInt8], from peer: ControlServerConnection) {
        guard peer.begin(id) else {
            environment.log(.warning, "closing \(peer.peer): request id \(id) is in use")
            return peer.close()
        }
        guard let request = try? ControlRequest(serializedBytes: body), request.body != nil else {
            let message = "this metadata server does not know the request; run the same release everywhere"
            return peer.respond(to: id, ControlResponse(refusing: ControlFailure(.badRequest, message)))
        }
        onRequest?(peer, id, request)
    }

    private func closed(_ number: UInt64, _ peer: ControlServerConnection, _ reason: LinkCloseReason) {
        forget(number)
        switch reason {
        case .network(.closedByPeer), .network(.reset), .closedHere: break
        case .network, .refusedByPeer, .refusedPeer, .handshakeTimedOut, .stalled, .protocolViolation:
            environment.log(.warning, "closed \(peer.peer): \(reason)")
        }
        peer.closed()
    }

    @discardableResult private func forget(_ number: UInt64) -> ControlServerConnection? {
        handshakes.removeAll { $0 == number }
        return connections.removeValue(forKey: number)
    }
}
