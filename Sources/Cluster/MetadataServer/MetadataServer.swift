import BlockTypes
import ControlMessages
import CurveWire
import Environment
import MetadataCore

/// Why a metadata server cannot start.
public enum MetadataServerError: Error, Sendable, CustomStringConvertible {
    /// The store refused.
    case store(MetadataStoreError)
    /// The store's rows contradict each other.
    case damaged(DamagedMetadata)
    /// The address cannot be had.
    case network(NetworkError)

    /// What happened and what to do.
    public var description: String {
        switch self {
        case .store(let error): "\(error)"
        case .damaged(let error): "the metadata store is damaged: \(error); restore it from a backup"
        case .network(let error): "\(error)"
        }
    }
}

/// The metadata server: a `MetadataCore` between a store and the control connections. Loop-confined.
public final class MetadataServer {
    /// What may differ between two servers.
    public struct Options: Sendable {
        /// The core's numbers.
        public var limits = MetadataLimits()
        /// Bounds of the connections.
        public var connections = ControlServer.Limits()
        /// What `curve status` shows as this server's release.
        public var version = "development"
        /// The usual.
        public init() {}
    }
    /// How often leases, silence and retention are looked at.
    static let tickInterval = Duration.seconds(1)

    /// The cluster's id, made at the store's first start.
    public let clusterID: UniqueID
    /// Where it listens, with the port that the system chose; `nil` until ``start(listen:)``.
    public private(set) var address: SocketAddress?

    /// Of the database: counts the transactions that gave or changed something.
    public var revision: UInt64 { core.revision }

    private let environment: any Environment
    private let store: any MetadataStore
    private let options: Options
    private let server: ControlServer
    private var core: MetadataCore
    private var connections: [SessionID: ControlServerConnection] = [:]
    private struct Caller {
        let connection: ControlServerConnection
        let id: UInt64
    }
    private var callers: [RequestID: Caller] = [:]
    private var lastRequest: UInt64 = 0
    private var events: [MetadataCore.Event] = []
    private var effects: [MetadataCore.Effect] = []
    private var isFeeding = false
    private var tickTimer: TimerID?
    private var isStopped = false

    /// Reads the store; makes a new cluster when it is empty.
    /// - Parameter control: what its peers come by, if that listens already; then ``start(at:)`` is next.
    public init(
        environment: any Environment, store: any MetadataStore, pool: BufferPool = BufferPool(),
        options: Options = Options(), control: ControlServer? = nil
    ) throws(MetadataServerError) {
        (self.environment, self.store, self.options) = (environment, store, options)
        let records: [Record]
        do throws(MetadataStoreError) {
            records = try Self.loadOrMakeCluster(in: store, environment)
        } catch {
            throw .store(error)
        }
        do throws(DamagedMetadata) {
            core = try MetadataCore(
                records: records, limits: options.limits, now: environment.now,
                secondsSince1970: environment.secondsSince1970)
        } catch {
            throw .damaged(error)
        }
        clusterID = core.clusterID
        let hello = Hello(role: .metadata, cluster: clusterID)
        control?.introduceAnew(as: hello)
        server =
            control
            ?? ControlServer(environment: environment, pool: pool, hello: hello, limits: options.connections)
    }

    /// What waits here and in the core.
    package func readGauges(_ read: GaugeReader) {
        server.readGauges(read)
        core.readGauges(read)
    }

    /// Starts to listen; may be called again for a further address.
    public func start(listen: SocketAddress) throws(MetadataServerError) {
        let bound: SocketAddress
        do {
            bound = try server.listen(on: listen)
        } catch {
            throw .network(error)
        }
        start(at: bound)
    }
    /// Serves whoever comes by the control server that it was made with, which listens there.
    func start(at bound: SocketAddress?) {
        invariant(!isStopped, "a stopped metadata server is not started again")
        server.onRequest = { [weak self] connection, id, request in
            self?.received(request, id: id, from: connection)
        }
        if address == nil { address = bound }
        if tickTimer == nil { armTick() }
        let place = bound.map { "listens on \($0)" } ?? "listens"
        environment.log(.notice, "the metadata server of cluster \(clusterID) leads, and \(place)")
    }

    /// Closes every connection, and the store.
    public func stop() {
        guard !isStopped else { return }
        isStopped = true
        if let tickTimer { environment.cancel(tickTimer) }
        server.stop()
        store.close()
    }

    private func armTick() {
        tickTimer = environment.after(Self.tickInterval) { [weak self] in
            guard let self, !isStopped else { return }
            feed(.tick(secondsSince1970: environment.secondsSince1970))
            armTick()
        }
    }
}

/// From the wire to the core and back.
extension MetadataServer {
    private func received(_ request: ControlRequest, id: UInt64, from connection: ControlServerConnection) {
        guard !isStopped else { return }
        let session = SessionID(rawValue: connection.number)
        if connections[session] == nil {
            connections[session] = connection
            connection.onClosed = { [weak self] in self?.closed(session) }
        }
        let asked: MetadataRequest
        do throws(MetadataRefusal) {
            asked = try MetadataRequest(request)
        } catch {
            respond(to: Caller(connection: connection, id: id), .failure(error))
            return
        }
        lastRequest += 1
        let number = RequestID(rawValue: lastRequest)
        callers[number] = Caller(connection: connection, id: id)
        feed(
            .received(number, asked, session: session, secondsSince1970: environment.secondsSince1970))
    }
    private func closed(_ session: SessionID) {
        connections[session] = nil
        // The core forgets what this one waits for.
        callers = callers.filter { $0.value.connection.number != session.rawValue }
        guard !isStopped else { return }
        feed(.sessionClosed(session))
    }
    private func respond(to caller: Caller, _ result: Result<MetadataReply, MetadataRefusal>) {
        switch result {
        case .success(let reply):
            caller.connection.respond(
                to: caller.id,
                ControlResponse(reply, version: options.version, revision: core.revision))
        case .failure(let refusal):
            environment.log(.debug, "refused \(caller.connection.peer): \(refusal)")
            caller.connection.respond(to: caller.id, ControlResponse(refusing: ControlFailure(refusal)))
        }
    }

    /// Feeds the core and does what it asks, until nothing is left to do.
    private func feed(_ event: MetadataCore.Event) {
        events.append(event)
        guard !isFeeding else { return }
        isFeeding = true
        var next = 0
        while next < events.count {
            let event = events[next]
            next += 1
            effects.removeAll(keepingCapacity: true)
            core.step(event, now: environment.now, effects: &effects)
            for effect in effects { perform(effect) }
        }
        events.removeAll(keepingCapacity: true)
        isFeeding = false
    }
    private func perform(_ effect: MetadataCore.Effect) {
        switch effect {
        case .commit(let changes):
            do throws(MetadataStoreError) {
                try Self.commit(changes, to: store)
                events.append(.committed)
            } catch {
                environment.log(.error, "the metadata store failed: \(error)")
                events.append(.commitFailed("\(error)"))
            }
        case .reply(let id, let result):
            // No caller: its connection closed while the request waited.
            if let caller = callers.removeValue(forKey: id) { respond(to: caller, result) }
        case .closeSession(let session): connections[session]?.close()
        case .reload:
            do throws(MetadataStoreError) {
                events.append(.reloaded(try Self.load(store)))
            } catch {
                events.append(.reloadFailed("\(error)"))
            }
        case .log(let line): environment.log(.notice, line)
        }
    }

    private static func loadOrMakeCluster(
        in store: any MetadataStore, _ environment: any Environment
    ) throws(MetadataStoreError) -> [Record] {
        let records = try load(store)
        guard records.isEmpty else { return records }
        let id = UniqueID(high: environment.random(), low: environment.random())
        try commit(MetadataCore.newCluster(id: id), to: store)
        environment.log(.notice, "made the new cluster \(id)")
        return try load(store)
    }
    private static func load(_ store: any MetadataStore) throws(MetadataStoreError) -> [Record] {
        var records: [Record] = []
        for row in try store.load() { records.append(try RecordCodec.record(row)) }
        return records
    }
    private static func commit(
        _ changes: [RecordChange], to store: any MetadataStore
    ) throws(MetadataStoreError) {
        var lines: [StoreChange] = []
        for change in changes { lines.append(try RecordCodec.storeChange(change)) }
        try store.commit(lines)
    }
}
