import BlockTypes
import ControlMessages
import CurveWire
import Environment

/// One metadata server process of a cluster that may have several on one database. Loop-confined.
///
/// It stands by until it holds the database, then it leads, for the rest of its life. Standing by it answers
/// every request by saying who leads, and touches nothing. There is one way to lead, at a first start and at
/// a takeover: take the lock, open the store, make a ``MetadataServer`` of its rows.
///
/// The switch is as safe as the lock: it ends with the process that holds it, so a process that stands still
/// and goes on has still got it, and no other has written meanwhile.
public final class MetadataDaemon {
    /// What may differ between two processes.
    public struct Options: Sendable {
        /// Those of the server once it leads.
        public var server = MetadataServer.Options()
        /// Who this is, for people; usually the machine's name.
        public var name = "a metadata server"
        /// The process's number, for people.
        public var processID: Int32 = 0
        /// Where others are told to look for it; `nil`: where it listens.
        public var advertised: SocketAddress?
        /// The usual.
        public init() {}
    }
    /// How often a process that stands by tries to get the database.
    public static let attemptEvery = Duration.milliseconds(100)

    /// Where it listens, with the port that the system chose; `nil` until ``start(listen:)``.
    public private(set) var address: SocketAddress?
    /// The server while this process leads.
    public private(set) var leading: MetadataServer?
    /// Called once when it cannot lead although nobody else does. The process should end with the message.
    public var failed: ((MetadataServerError) -> Void)?

    private let environment: any Environment
    private let lock: any ExclusiveLock
    private let openStore: () throws(MetadataStoreError) -> any MetadataStore
    private let pool: BufferPool
    private let options: Options
    private let control: ControlServer
    /// What is answered while it stands by.
    private var standing = ControlFailure(.notLeading, "this metadata server is starting")
    private var timer: TimerID?
    private var isStopped = false

    /// - Parameter openStore: opens the database; called only while `lock` is held.
    public init(
        environment: any Environment, lock: any ExclusiveLock, pool: BufferPool = BufferPool(),
        options: Options = Options(), openStore: @escaping () throws(MetadataStoreError) -> any MetadataStore
    ) {
        (self.environment, self.lock, self.openStore) = (environment, lock, openStore)
        (self.pool, self.options) = (pool, options)
        // The cluster's id is in the database: it is said by whoever holds that.
        control = ControlServer(
            environment: environment, pool: pool, hello: Hello(role: .metadata),
            limits: options.server.connections)
    }

    package func readGauges(_ read: GaugeReader) {
        if let leading { leading.readGauges(read) } else { control.readGauges(read) }
    }

    /// Listens, and leads or stands by.
    public func start(listen: SocketAddress) throws(MetadataServerError) {
        invariant(address == nil, "a metadata server starts once")
        control.onRequest = { [weak self] connection, id, _ in
            guard let self else { return }
            connection.respond(to: id, ControlResponse(refusing: standing))
        }
        do {
            address = try control.listen(on: listen)
        } catch {
            throw .network(error)
        }
        do throws(MetadataServerError) {
            try attempt()
        } catch {
            stop()
            throw error
        }
    }

    /// Closes every connection and the database.
    public func stop() {
        isStopped = true
        if let timer { environment.cancel(timer) }
        timer = nil
        control.stop()
        leading?.stop()
        // Last: from here on another process writes.
        lock.release()
    }

    private var holder: MetadataHolder {
        MetadataHolder(
            name: options.name, processID: options.processID, address: options.advertised ?? reachableAddress)
    }
    /// An address that stands for all of a machine's leads nobody there.
    private var reachableAddress: SocketAddress? {
        guard case .tcp(let host, _) = address, ["0.0.0.0", "::"].contains(host) else { return address }
        return nil
    }

    /// Leads if nobody else does.
    private func attempt() throws(MetadataServerError) {
        let note: String?
        do {
            note = try lock.take(note: holder.note)
        } catch {
            throw .store(.failed("\(error)"))
        }
        if let note, !isPlanted(.databaseUnheld) { return standBy(for: MetadataHolder(note: note)) }
        do throws(MetadataServerError) {
            try lead()
        } catch {
            lock.release()
            // Opened without our lock, by a tool or by an older release.
            guard case .store(.inUse) = error else { throw error }
            standBy(for: nil)
        }
    }
    private func lead() throws(MetadataServerError) {
        let store: any MetadataStore
        do {
            store = try openStore()
        } catch {
            throw .store(error)
        }
        do throws(MetadataServerError) {
            let server = try MetadataServer(
                environment: environment, store: store, pool: pool, options: options.server, control: control)
            server.start(at: address)
            leading = server
        } catch {
            store.close()
            throw error
        }
    }
    private func standBy(for holder: MetadataHolder?) {
        let who = holder?.description ?? "another process"
        let message = "this metadata server stands by; it waits for \(who), which holds the database"
        if message != standing.message { environment.log(.notice, message) }
        standing.message = message
        standing.leader = holder?.address?.description ?? ""
        timer = environment.after(Self.attemptEvery) { [weak self] in
            guard let self, !isStopped else { return }
            do throws(MetadataServerError) {
                try attempt()
            } catch {
                stop()
                failed?(error)
            }
        }
    }
}
