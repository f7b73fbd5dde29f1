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

/// The metadata servers of a world: the real ones, process after process, over rows that outlive them. One
/// holds the rows, the others stand by.
final class WorldMetadata {
    /// Where one process after the other runs.
    private final class Member {
        let machine: String
        var host: SimHost?
        var daemon: MetadataDaemon?
        /// Counts the restarts asked for: only the newest happens.
        var starts = 0
        init(machine: String) { self.machine = machine }
        var isRunning: Bool { host?.isAlive == true }
    }
    static func machine(_ index: Int) -> String { index == 0 ? "mds" : "mds\(index + 1)" }
    private static func address(_ machine: String) -> SocketAddress { .tcp(host: machine, port: 6000) }

    let world: SimWorld
    let addresses: [SocketAddress]
    var faults = MetadataFaults.none
    private let pool: BufferPool
    private let members: [Member]
    private let lockFile: SimLockFile
    fileprivate var rows: [StoreRow.Key: String] = [:]  // Looked up; sorted where the order can be seen.
    private var copy: [StoreRow.Key: String]?
    /// The revision that the copy has.
    private(set) var copyRevision: UInt64?
    /// The revision that the database had when it was lost.
    private(set) var lostRevision: UInt64 = 0
    /// Processes started, for the summary of a run.
    private(set) var startCount = 0
    /// How often another machine's process took the rows over.
    private(set) var takeoverCount = 0
    private var lastLeader: String?
    /// What no fault excuses.
    private(set) var complaint: String?

    init(_ world: SimWorld, count: Int, pool: BufferPool) {
        (self.world, self.pool) = (world, pool)
        members = (0..<count).map { Member(machine: Self.machine($0)) }
        addresses = members.map { Self.address($0.machine) }
        lockFile = SimLockFile(world)
    }

    func readGauges(_ read: GaugeReader) {
        for member in members where member.isRunning { member.daemon?.readGauges(read) }
    }
    var count: Int { members.count }
    private var leader: Int? { members.firstIndex { $0.isRunning && $0.host === lockFile.livingHolder } }
    /// The process that leads, or else one that would like to.
    var process: SimHost? { leader.flatMap { members[$0].host } ?? members.first(where: \.isRunning)?.host }
    /// The addresses as somebody knows them who begins with another one.
    func addresses(beginningWith number: Int) -> [SocketAddress] {
        let first = number % addresses.count
        return Array(addresses[first...] + addresses[..<first])
    }

    /// Starts those that do not run.
    func start() { for member in members { start(member) } }
    private func start(_ member: Member) {
        guard !member.isRunning else { return }
        let host = world.startHost(on: member.machine)
        member.host = host
        startCount += 1
        var options = MetadataDaemon.Options()
        (options.name, options.processID) = (member.machine, Int32(startCount))
        let daemon = MetadataDaemon(
            environment: host, lock: SimLock(lockFile, host), pool: pool, options: options
        ) { [unowned self] () throws(MetadataStoreError) -> any MetadataStore in
            opened(by: member)
            return SimMetadataStore(self, host)
        }
        member.daemon = daemon
        daemon.failed = { [weak self] in self?.gaveUp(member, host, $0) }
        do throws(MetadataServerError) {
            try daemon.start(listen: Self.address(member.machine))
        } catch {
            gaveUp(member, host, error)
        }
    }
    private func gaveUp(_ member: Member, _ host: SimHost, _ error: MetadataServerError) {
        if host.isAlive {
            host.kill()
            if faults.failsOneIn == 0 { complain("the metadata server: \(error)") }
        }
        restart(member, after: .milliseconds(500))
    }
    private func opened(by member: Member) {
        if let lastLeader, lastLeader != member.machine { takeoverCount += 1 }
        lastLeader = member.machine
    }
    private func complain(_ what: String) { complaint = complaint ?? what }

    func stop() { for member in members { stop(member) } }
    private func stop(_ member: Member) {
        member.starts += 1
        member.host?.kill()
        member.daemon = nil
    }
    func resume() { for member in members { member.host?.resume() } }
    fileprivate func diesInCommit(_ host: SimHost) {
        world.note { "\(host): the metadata server dies in a commit" }
        host.kill()
        guard let member = members.first(where: { $0.host === host }) else { return }
        restart(member, after: .milliseconds(Int.random(in: 1...3000, using: &world.random)))
    }
    private func restart(_ member: Member, after delay: Duration) {
        member.starts += 1
        let mine = member.starts
        world.after(delay) { [weak self] in
            if let self, member.starts == mine { start(member) }
        }
    }

    // MARK: Deeds

    /// The one that leads, mostly.
    func victim(_ dice: inout DeedDice) -> Int {
        guard count > 1 else { return 0 }
        let any = dice.pick(0..<count)
        let victim = dice.oneIn(4) ? any : leader ?? any
        dice.note(members[victim].machine)
        return victim
    }
    func process(_ index: Int) -> SimHost? { members[index].host }
    /// Its process dies, or its machine loses power.
    func end(_ index: Int, losesPower: Bool, thenStartAfter delay: Duration) {
        let member = members[index]
        if losesPower { member.host?.crash(downFor: delay) }
        stop(member)
        restart(member, after: delay + .milliseconds(1))
    }

    // MARK: The rows

    /// Only who holds the rows may change them, whatever else goes wrong.
    fileprivate func keep(_ changes: [StoreChange], by host: SimHost) {
        if lockFile.livingHolder !== host { complain("\(host) changes metadata that it does not hold") }
        for change in changes {
            switch change {
            case .put(let row): rows[row.key] = row.value
            case .delete(let key): rows[key] = nil
            }
        }
    }
    /// A backup of the database.
    func takeCopy() { (copy, copyRevision) = (rows, revisionOfRows) }
    /// The database is lost, and the backup takes its place.
    func restoreCopy(thenStartAfter delay: Duration) {
        guard let copy else { return }
        stop()
        lostRevision = revisionOfRows
        rows = copy
        for member in members { restart(member, after: delay) }
    }
    /// As the rows say, whether or not their process has noticed.
    var revisionOfRows: UInt64 {
        let text = rows[StoreRow.Key(table: "cluster", number: 0)] ?? ""
        guard let place = text.firstRange(of: "\"revision\":") else { return 0 }
        return UInt64(text[place.upperBound...].prefix { $0.isNumber }) ?? 0
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
        if !dies && !fails || random.oneIn(2) { medium.keep(changes, by: host) }
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
}
