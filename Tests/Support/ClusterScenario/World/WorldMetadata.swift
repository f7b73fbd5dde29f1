import BlockTypes
import Environment
import MetadataServer
import Simulation

/// What the metadata server's database suffers.
public struct MetadataFaults: Sendable {
    /// A commit holds the process up for up to so long, as a slow disk does.
    public var commitMax: Duration
    /// One commit in so many fails; whether its changes were kept nobody says.
    public var failsOneIn: Int
    /// The process dies in one commit out of so many, before or after the changes are durable.
    public var diesOneIn: Int

    /// A sound database.
    public static let none = MetadataFaults(commitMax: .zero, failsOneIn: 0, diesOneIn: 0)

    /// Each fault off in half of the worlds.
    static func swarm(_ random: inout SeededRandom) -> MetadataFaults {
        MetadataFaults(
            commitMax: random.oneIn(2) ? .zero : .milliseconds(Int.random(in: 1...500, using: &random)),
            failsOneIn: random.oneIn(2) ? 0 : Int.random(in: 2...20, using: &random),
            diesOneIn: random.oneIn(2) ? 0 : Int.random(in: 2...20, using: &random))
    }
}

/// The metadata server of a world: the real one, process after process, over rows that outlive them.
final class WorldMetadata {
    static let machine = "mds"
    static let address = SocketAddress.tcp(host: machine, port: 6000)

    let world: SimWorld
    var faults = MetadataFaults.none
    private let pool: BufferPool
    fileprivate var rows: [StoreRow.Key: String] = [:]  // Looked up; sorted where the order can be seen.
    private var copy: [StoreRow.Key: String]?
    /// The revision that the copy has.
    private(set) var copyRevision: UInt64?
    /// The revision that the database had when it was lost.
    private(set) var lostRevision: UInt64 = 0
    private var host: SimHost?
    private var server: MetadataServer?
    /// Counts the restarts asked for: only the newest happens.
    private var starts = 0
    /// Restarts, for the summary of a run.
    private(set) var startCount = 0
    /// What no fault excuses.
    private(set) var complaint: String?

    init(_ world: SimWorld, pool: BufferPool) { (self.world, self.pool) = (world, pool) }

    func readGauges(_ read: GaugeReader) { if isRunning { server?.readGauges(read) } }
    var isRunning: Bool { host?.isAlive == true }
    /// Its process, to pause or to set its clock.
    var process: SimHost? { host }

    func start() {
        guard !isRunning else { return }
        let host = world.startHost(on: Self.machine)
        self.host = host
        startCount += 1
        do throws(MetadataServerError) {
            let server = try MetadataServer(
                environment: host, store: SimMetadataStore(self, host), pool: pool)
            self.server = server
            try server.start(listen: Self.address)
        } catch {
            if host.isAlive {
                host.kill()
                if faults.failsOneIn == 0 { complaint = complaint ?? "the metadata server: \(error)" }
            }
            restart(after: .milliseconds(500))
        }
    }
    func stop() {
        starts += 1
        host?.kill()
        server = nil
    }
    func kill(thenStartAfter delay: Duration) {
        stop()
        restart(after: delay)
    }
    fileprivate func diesInCommit(_ host: SimHost) {
        world.note { "\(host): the metadata server dies in a commit" }
        host.kill()
        restart(after: .milliseconds(Int.random(in: 1...3000, using: &world.random)))
    }
    /// A backup of the database.
    func takeCopy() { (copy, copyRevision) = (rows, revisionOfRows) }
    /// The database is lost, and the backup takes its place.
    func restoreCopy(thenStartAfter delay: Duration) {
        guard let copy else { return }
        stop()
        lostRevision = revisionOfRows
        rows = copy
        restart(after: delay)
    }
    /// As the rows say, whether or not their process has noticed.
    var revisionOfRows: UInt64 {
        let text = rows[StoreRow.Key(table: "cluster", number: 0)] ?? ""
        guard let place = text.firstRange(of: "\"revision\":") else { return 0 }
        return UInt64(text[place.upperBound...].prefix { $0.isNumber }) ?? 0
    }
    private func restart(after delay: Duration) {
        starts += 1
        let mine = starts
        world.after(delay) { [weak self] in
            if let self, starts == mine { start() }
        }
    }
}

/// One opening of the rows by one process.
private final class SimMetadataStore: MetadataStore {
    private let medium: WorldMetadata
    private let host: SimHost
    private var random: SeededRandom

    init(_ medium: WorldMetadata, _ host: SimHost) {
        (self.medium, self.host) = (medium, host)
        random = SeededRandom(seed: medium.world.random.next())
    }
    func load() throws(MetadataStoreError) -> [StoreRow] {
        medium.rows.keys.sorted().map { StoreRow(key: $0, value: medium.rows[$0] ?? "") }
    }
    func commit(_ changes: [StoreChange]) throws(MetadataStoreError) {
        guard host.isAlive else { throw .failed("the process is dead") }
        let faults = medium.faults
        let dies = faults.diesOneIn > 0 && random.oneIn(faults.diesOneIn)
        let fails = faults.failsOneIn > 0 && random.oneIn(faults.failsOneIn)
        if !dies && !fails || random.oneIn(2) { keep(changes) }
        if dies {
            medium.diesInCommit(host)
            throw .failed("the process is dead")
        }
        if faults.commitMax > .zero {
            let most = faults.commitMax.milliseconds
            host.pause(for: .milliseconds(Int64.random(in: 0...most, using: &random)))
        }
        if fails { throw .failed("the disk below the database failed") }
    }
    func close() {}

    private func keep(_ changes: [StoreChange]) {
        for change in changes {
            switch change {
            case .put(let row): medium.rows[row.key] = row.value
            case .delete(let key): medium.rows[key] = nil
            }
        }
    }
}
