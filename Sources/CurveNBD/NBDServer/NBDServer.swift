import BlockTypes
import Environment
import NBDProtocol

/// Serves volumes to NBD clients over the listeners of one environment. Loop-confined.
///
/// All connections of an export go to the same volume object: a flush on one covers what was answered on any.
public final class NBDServer {
    let environment: any Environment
    let limits: NBDServerLimits
    let pool: BufferPool
    private var exports: [NBDExport] = []
    private var listeners: [any Listener] = []
    /// Open connections by number, oldest first: numbers only grow.
    private var connections: [Int: ServerConnection] = [:]
    private var nextConnection = 0
    private var stopped: (() -> Void)?
    private var isStopping = false
    private var describedExports: [NBDExportDescription]?
    /// One line per shortage is enough.
    private var hasComplained = false
    var counters = NBDServerStatus()

    /// How clients that connect from now on encrypt; `nil`: not at all.
    public var tls: NBDServerTLS?

    /// Called when the last connection has gone.
    public var emptied: (() -> Void)?

    /// Called after an export's volume has changed its size.
    public var exportResized: ((_ name: String, _ size: ByteCount) -> Void)?

    /// A server without exports that listens nowhere yet.
    public init(
        environment: any Environment, limits: NBDServerLimits = NBDServerLimits(),
        pool: BufferPool = BufferPool()
    ) {
        (self.environment, self.limits, self.pool) = (environment, limits, pool)
    }

    /// What it is doing.
    public var status: NBDServerStatus {
        var status = counters
        status.connections = connections.count
        status.inFlightRequests = connections.values.reduce(0) { $0 + $1.inFlightRequests }
        return status
    }

    /// What connections hold, against ``NBDServerLimits``.
    package func readGauges(_ read: GaugeReader) {
        read("NBD connections", connections.count, limits.connectionsMax)
        let requests = connections.values.reduce(0) { max($0, $1.inFlightRequests) }
        let bytes = connections.values.reduce(0) { max($0, $1.inFlightBytes) }
        read("requests of an NBD connection", requests, limits.connection.inFlightRequestsMax)
        read(
            "bytes of an NBD connection", bytes,
            max(limits.connection.inFlightBytesMax, NBDLimits.payloadBytesMax))
    }

    /// Connections that have chosen this export.
    public func connections(of name: String) -> Int {
        connections.values.reduce(0) { $0 + ($1.exportName == name ? 1 : 0) }
    }

    /// Offers a volume to clients that connect from now on, and follows its size.
    /// - Throws: ``NBDServerError``.
    public func add(_ export: NBDExport) throws(NBDServerError) {
        let texts = [export.name, export.description]
        guard texts.allSatisfy({ $0.utf8.count <= NBDLimits.stringBytesMax && !$0.utf8.contains(0) }) else {
            throw .badName
        }
        guard !exports.contains(where: { $0.name == export.name }) else { throw .nameTaken(export.name) }
        guard exports.count < limits.exportsMax else { throw .tooManyExports(limits.exportsMax) }
        exports.append(export)
        describedExports = nil
        // By volume, not by name: one volume may be exported twice.
        export.volume.resized = { [weak self, weak volume = export.volume] size in
            if let self, let volume { resized(volume, to: size) }
        }
    }
    /// Offers an export no longer; its connections answer what is in flight and close.
    public func remove(_ name: String) {
        guard let index = exports.firstIndex(where: { $0.name == name }) else { return }
        let volume = exports.remove(at: index).volume
        if !exports.contains(where: { $0.volume === volume }) { volume.resized = nil }
        describedExports = nil
        for connection in inOrder where connection.exportName == name { connection.stop() }
    }
    /// Accepts clients on `address`.
    /// - Returns: the address, with the port that the system chose.
    /// - Throws: ``NetworkError``.
    @discardableResult public func listen(on address: SocketAddress) throws(NetworkError) -> SocketAddress {
        let listener = try environment.listen(on: address) { [weak self] link in
            if let self { accept(link) } else { link.close() }
        }
        listeners.append(listener)
        return listener.address
    }
    /// Serves one client whose connection was made elsewhere.
    public func serve(_ link: any Connection) { accept(link) }

    /// Stops accepting, answers what is in flight, closes every connection, then calls `completed`.
    /// - Parameter drainFor: how long answers may take; then connections are closed without them.
    public func stop(drainFor: Duration = .seconds(10), completed: @escaping () -> Void) {
        guard !isStopping else { return }
        (isStopping, stopped) = (true, completed)
        for listener in listeners { listener.close() }
        listeners = []
        for export in exports { export.volume.resized = nil }
        for connection in inOrder { connection.stop() }
        if connections.isEmpty {
            environment.after(.zero) { [self] in finishStop() }
        } else {
            environment.after(drainFor) { [self] in
                for connection in inOrder { connection.abandon() }
                finishStop()
            }
        }
    }

    /// Closes everything at once, answers or not, and lets the volumes go: the process is over.
    public func abandon() {
        isStopping = true
        for listener in listeners { listener.close() }
        listeners = []
        for connection in inOrder { connection.abandon() }
        exports = []
        describedExports = nil
    }

    private var inOrder: [ServerConnection] {
        connections.sorted { $0.key < $1.key }.map(\.value)
    }
    private func finishStop() {
        guard connections.isEmpty, let stopped else { return }
        self.stopped = nil
        stopped()
    }
    private func accept(_ link: any Connection) {
        guard !isStopping, makeRoom(for: link.peerHost) else { return link.close() }
        let connection = ServerConnection(number: nextConnection, link: link, server: self)
        nextConnection += 1
        hasComplained = false
        connections[connection.number] = connection
        shareOut()
        connection.open()
    }
    /// - Returns: false when a bound is reached and nobody is in a handshake who could go instead.
    private func makeRoom(for peer: String) -> Bool {
        let waiting = inOrder.filter(\.isInHandshake)
        let ofPeer = connections.values.reduce(0) { $0 + ($1.peerHost == peer ? 1 : 0) }
        let victim: ServerConnection?
        if ofPeer >= limits.connectionsPerPeerMax {
            victim = waiting.first { $0.peerHost == peer }
        } else if connections.count >= limits.connectionsMax || waiting.count >= limits.handshakesMax {
            victim = Self.oldestOfTheMost(waiting)
        } else {
            return true
        }
        guard let victim else {
            if !hasComplained {
                environment.log(
                    .warning,
                    "nbd: refused \(peer), which has \(ofPeer) of \(connections.count) connections; later "
                        + "refusals are not logged until one succeeds")
            }
            hasComplained = true
            return false
        }
        victim.abandon()
        return true
    }
    /// Of the peer with the most connections in `waiting`, the oldest: a crowd makes room by itself, and a
    /// client that means business is not pushed out by it.
    private static func oldestOfTheMost(_ waiting: [ServerConnection]) -> ServerConnection? {
        var counts: [String: Int] = [:]
        for connection in waiting { counts[connection.peerHost, default: 0] += 1 }
        let most = waiting.reduce(0) { max($0, counts[$1.peerHost] ?? 0) }
        return waiting.first { counts[$0.peerHost] == most }
    }
    /// Gives every connection its part of what may be in flight.
    private func shareOut() {
        let count = max(1, connections.count)
        let requests = min(limits.connection.inFlightRequestsMax, max(1, limits.inFlightRequestsMax / count))
        let bytes = min(limits.connection.inFlightBytesMax, limits.inFlightBytesMax / count)
        for connection in connections.values { connection.limitInFlight(requests: requests, bytes: bytes) }
    }
    private func resized(_ volume: any BlockVolume, to size: ByteCount) {
        describedExports = nil
        for export in exports where export.volume === volume {
            for connection in inOrder where connection.exportName == export.name {
                connection.resized(to: size)
            }
            exportResized?(export.name, size)
        }
    }

    // What connections ask of their server.

    /// The exports as a client may see them now.
    func descriptions() -> [NBDExportDescription] {
        if let describedExports { return describedExports }
        let described = exports.map(\.described)
        describedExports = described
        return described
    }
    func export(named name: String) -> NBDExport? { exports.first { $0.name == name } }
    /// Forgets a connection. Harmless when it is forgotten already.
    func forget(_ number: Int) {
        connections[number] = nil
        shareOut()
        if isStopping { finishStop() } else if connections.isEmpty { emptied?() }
    }
}
