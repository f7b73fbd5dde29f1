import BlockTypes
import ChunkServer
import ChunkStore
import ControlMessages
import Environment
import Simulation

/// The chunkservers of a world: a store each, started and broken and started again.
final class WorldServers {
    /// A store, and the process that runs on it now.
    private final class Member {
        let disk: SimDisk
        /// Where its process runs; changes when the store is carried to another machine.
        var machine: String
        var port: UInt16 = 7000
        var host: SimHost?
        var server: ChunkServer?
        var isServing = false
        /// Counts the restarts asked for: only the newest happens.
        var starts = 0
        /// The number of its present process.
        var process = 0
        /// What had been written to its disk before.
        var writtenBytesBefore = 0
        var id = ServerID(0)

        init(disk: SimDisk, machine: String) { (self.disk, self.machine) = (disk, machine) }
    }
    private let world: SimWorld
    private let plan: WorldPlan
    private let metadataServers: [String]
    private let pool: BufferPool
    private var members: [Member] = []
    private var atlas = FaultAtlas([])
    /// Which of them served to the end.
    private var servedLast: Set<Int> = []  // Looked up, never iterated.
    private var cloneHost: SimHost?
    private var clone: ChunkServer?
    /// Processes started.
    private(set) var startCount = 0
    /// The first thing that no fault excuses.
    private(set) var complaint: String?

    var count: Int { members.count }
    var allServe: Bool { members.allSatisfy(\.isServing) }
    func machine(_ index: Int) -> String { members[index].machine }
    func disk(_ index: Int) -> SimDisk { members[index].disk }
    func process(_ index: Int) -> SimHost? { members[index].host }
    func isServing(_ index: Int) -> Bool { members[index].isServing }
    /// True when a majority keeps that it has heard of a later revision of the metadata; a disk that damages
    /// what it keeps does not count.
    func majorityRemembersMore(than revision: UInt64) -> Bool {
        let informed = members.indices.count { index in
            !isDamaging(index)
                && members[index].server.map { $0.durableMetadataRevision > revision } ?? false
        }
        return informed * 2 > members.count
    }
    func index(of server: ServerID) -> Int? { members.firstIndex { $0.id == server } }

    init(_ world: SimWorld, _ plan: WorldPlan, _ metadataServers: [SocketAddress], pool: BufferPool) {
        (self.world, self.plan, self.pool) = (world, plan, pool)
        self.metadataServers = metadataServers.map(\.description)
        for index in 0..<plan.servers {
            let size = plan.storeBytes + (plan.storeSizesDiffer ? UInt64(index % 3) << 20 : 0)
            let disk = SimDisk(
                world, name: "disk\(index + 1)",
                geometry: DiskGeometry(
                    size: ByteCount(bytes: size), sectorBytes: plan.sectorBytes,
                    hasVolatileCache: plan.hasVolatileCache && !plan.disksLie),
                faults: SimDiskFaults.none, liesAboutCache: plan.disksLie)
            members.append(Member(disk: disk, machine: "cs\(index + 1)"))
        }
    }

    // MARK: Making

    /// Formats every store with a number from the metadata server.
    /// - Returns: what went wrong.
    func format(asking desk: WorldDesk) -> String? {
        for member in members {
            let device = UniqueID(high: world.random.next(), low: world.random.next())
            var request = ControlAllocateServerRequest()
            (request.deviceID, request.host) = (device.controlBytes, member.machine)
            guard let body = desk.answer(to: .allocateServer(request)),
                case .allocateServer(let answer) = body,
                let cluster = UniqueID(controlBytes: answer.clusterID)
            else { return "\(member.machine) gets no number" }
            member.id = ServerID(answer.server)
            let identity = StoreIdentity(
                cluster: cluster, device: device, server: member.id, incarnation: Incarnation(0))
            if let wrong = format(member, identity) { return wrong }
        }
        return nil
    }
    private func format(_ member: Member, _ identity: StoreIdentity) -> String? {
        let host = world.startHost(on: member.machine)
        let disk = member.disk
        disk.attach(to: host)
        do throws(StoreFormatError) {
            let format = try StoreFormat(
                identity: identity, geometry: disk.geometry, journalBytes: plan.journalBytes)
            let formatted = StoreRunner.format(format, disk, world)
            disk.close()
            host.kill()
            return formatted ? nil : "\(disk.name) cannot be formatted"
        } catch { return "\(disk.name): \(error)" }
    }

    // MARK: Damage

    /// The pool is made: some disks may damage what they keep from now on.
    /// - Returns: which.
    func admitDamage(among copysets: [(id: CopysetID, members: [ServerID])]) -> [Int] {
        atlas = FaultAtlas(copysets)
        return plan.damagedServers.filter { atlas.admitDamage(on: members[$0].id) }
    }
    func isDamaging(_ index: Int) -> Bool { atlas.isDamaging(members[index].id) }
    /// True for a disk that its server could not go on with.
    func isGone(_ index: Int) -> Bool { atlas.isGone(members[index].id) }
    /// A damaging disk may end its server at any time, and then nobody can tell a copy from it.
    /// A metadata server that does not hear the original takes the copy for the original come back.
    func mayBeCloned(_ index: Int) -> Bool {
        members[index].isServing && !isDamaging(index) && members[index].server?.isHeardByMetadata == true
    }
    /// True when its server was there when all were stopped.
    func servedToTheEnd(_ index: Int) -> Bool { servedLast.contains(index) }
    private func stateNow(_ server: ServerID, _ copyset: CopysetID) -> CopysetState? {
        guard let member = members.first(where: { $0.id == server }), member.isServing else { return nil }
        return member.server?.state(of: copyset)
    }
    /// A server whose disk damages what it keeps may die in many ways, and is started again as an operator
    /// would; one whose disk sometimes cannot write gives it up, whatever it holds (rule R6).
    private func gaveUp(_ index: Int, _ failure: ChunkServerFailure) {
        let member = members[index]
        if case .store = failure { atlas.isRefused(member.id) }
        var isExcused = isDamaging(index)
        if plan.writeErrorOneIn > 0 {
            if case .device = failure { isExcused = true }
            // It could not write while it opened its store, which is as it was.
            if case .store(let why) = failure, why == "\(StoreOpenError.io(.io(errno: 5)))" {
                isExcused = true
            }
        }
        if !isExcused { complain("\(member.machine) gave up: \(failure)") }
    }

    // MARK: Life

    func startAll() { for index in members.indices { start(index) } }

    private func start(_ index: Int) {
        let member = members[index]
        guard member.host?.isAlive != true, !isGone(index) else { return }
        guard atlas.mayReturn(member.id, { stateNow($0, $1) }) else {
            return startLater(index, after: .milliseconds(50))
        }
        // The kernel holds a dead process's lock on its device until the last request is done.
        guard member.disk.inFlightCount == 0 else { return startLater(index, after: .milliseconds(5)) }
        let host = world.startHost(on: member.machine)
        member.disk.attach(to: host)
        let server = ChunkServer(
            environment: host, disk: member.disk, options: options(of: member), pool: pool)
        server.serving = { [weak member] _ in member?.isServing = true }
        server.failed = { [weak self, weak server] failure in
            guard let self, member.server === server else { return }
            gaveUp(index, failure)
            world.after(.zero) {
                guard member.server === server else { return }
                self.kill(index, thenStartAfter: .seconds(1))
            }
        }
        (member.host, member.server) = (host, server)
        startCount += 1
        member.process = startCount
        member.writtenBytesBefore = member.disk.counters.writtenBytes
        server.start()
    }
    private func options(of member: Member) -> ChunkServerOptions {
        var options = ChunkServerOptions(
            metadataServers: metadataServers,
            listen: "\(member.machine):\(member.port)", host: member.machine)
        options.store = plan.store
        options.limits = plan.limits
        options.refusalProvesDeath = plan.refusalProvesDeath
        return options
    }
    /// Power loss of a machine, and power again.
    func losePower(_ index: Int, for duration: Duration) {
        forget(index)?.crash(downFor: duration)
        startLater(index, after: duration)
    }
    /// Death of a process, and a new one.
    func kill(_ index: Int, thenStartAfter delay: Duration) {
        forget(index)?.kill()
        startLater(index, after: delay)
    }
    private func startLater(_ index: Int, after delay: Duration) {
        let member = members[index]
        member.starts += 1
        let mine = member.starts
        world.after(delay + .milliseconds(1)) { [weak self] in
            if let self, member.starts == mine { start(index) }
        }
    }
    private func forget(_ index: Int) -> SimHost? {
        let member = members[index]
        let host = member.host
        if let server = member.server { atlas.dies(server, member.id) }
        (member.host, member.server, member.isServing) = (nil, nil, false)
        return host
    }
    /// Replicas that say that they fall behind for lack of room.
    var replicasWithoutRoom: [LaggingReplica] {
        members.enumerated().flatMap { index, member in
            (member.server?.copysetsWithoutRoom ?? []).map { LaggingReplica(server: index, copyset: $0) }
        }
    }
    /// Tells the trace where every server stands.
    func noteDiagnosis() {
        for member in members {
            for line in member.server?.diagnosis ?? [] { world.note { "\(member.machine): \(line)" } }
        }
    }
    func noteStandings(_ watch: inout StandingWatch) {
        for (index, member) in members.enumerated() {
            member.server?.readStandings { watch.note($0, store: index, process: member.process) }
        }
    }
    func readGauges(_ read: GaugeReader) { for member in members { member.server?.readGauges(read) } }
    func resumeAll() { for member in members { member.host?.resume() } }

    /// Clean shutdown of everybody.
    func stopAll() -> Bool {
        var running = 0
        if let wrong = weighTraffic() { complain(wrong) }
        servedLast = Set(members.indices.filter { members[$0].isServing })
        for member in members {
            guard let server = member.server else { continue }
            running += 1
            server.stop { running -= 1 }
        }
        let stopped = world.run(within: .seconds(60)) { running == 0 }
        for index in members.indices { forget(index)?.kill() }
        return stopped
    }
    /// What each store says it wrote, against what its disk was given (invariant I19).
    private func weighTraffic() -> String? {
        for member in members where member.isServing {
            guard let server = member.server else { continue }
            let given = member.disk.counters.writtenBytes - member.writtenBytesBefore
            let said = server.storeTraffic.writtenBytes
            if said != UInt64(given) {
                return "\(member.disk.name) was given \(given) bytes, its store speaks of \(said)"
            }
        }
        return nil
    }
    func complain(_ what: String) { if complaint == nil { complaint = what } }
    func forgetEverything() {
        members.removeAll()
        endClone()
    }
}

// What operators do with machines.
extension WorldServers {
    /// The next process of this store listens elsewhere.
    func move(_ index: Int, downFor delay: Duration) {
        members[index].port = members[index].port == 7999 ? 7000 : members[index].port + 1
        kill(index, thenStartAfter: delay)
    }
    /// Two stores change machines.
    func swap(_ one: Int, _ other: Int, downFor delay: Duration) {
        guard one != other else { return }
        forget(one)?.kill()
        forget(other)?.kill()
        (members[one].machine, members[other].machine) = (members[other].machine, members[one].machine)
        startLater(one, after: delay)
        startLater(other, after: delay)
    }
    /// Starts a copy of this store on a machine of its own. The metadata server must send it away.
    func startClone(of index: Int) {
        let machine = "copy"
        let host = world.startHost(on: machine)
        let disk = SimDisk(copyOf: members[index].disk, name: "copy of disk\(index + 1)")
        disk.attach(to: host)
        var options = options(of: members[index])
        (options.listen, options.host) = ("\(machine):7000", machine)
        let server = ChunkServer(environment: host, disk: disk, options: options, pool: pool)
        server.serving = { [weak self] _ in self?.complain("a copy of disk\(index + 1) was let in") }
        (cloneHost, clone) = (host, server)
        server.start()
    }
    func endClone() {
        cloneHost?.kill()
        (cloneHost, clone) = (nil, nil)
    }
    /// Ends the process, or the power, while the `count`-th request from now on is under way.
    func breakDuringIO(_ index: Int, count: Int, losesPower: Bool) {
        var left = count
        let disk = members[index].disk
        disk.faultHook = { [weak self, weak disk] _ in
            guard let self, left > 0 else { return nil }
            left -= 1
            guard left == 0 else { return nil }
            disk?.faultHook = nil
            let moment = Int64.random(in: 0...150_000, using: &world.random)
            world.after(.nanoseconds(moment)) {
                let rest = Duration.milliseconds(Int.random(in: 1...1000, using: &self.world.random))
                if losesPower {
                    self.losePower(index, for: rest)
                } else {
                    self.kill(index, thenStartAfter: rest)
                }
            }
            return nil
        }
    }
    /// Every request of this disk takes until `duration` from now.
    func hangDisk(_ index: Int, for duration: Duration) {
        let end = world.trueNow + duration
        members[index].disk.faultHook = { [world] _ in
            world.trueNow < end ? .isDelayed(end - world.trueNow) : nil
        }
    }
    /// The file system below this disk has no room for anything new until `duration` from now.
    func fillBelow(_ index: Int, for duration: Duration) {
        let disk = members[index].disk
        disk.faults.spaceBytesMax = 0
        world.after(duration) { disk.faults.spaceBytesMax = .max }
    }
    func mendDisks() {
        for member in members { (member.disk.faults, member.disk.faultHook) = (.none, nil) }
    }
}

/// A replica that has no room for what the others have.
struct LaggingReplica: Hashable, CustomStringConvertible {
    let server: Int
    let copyset: CopysetID
    var description: String { "disk\(server + 1)'s of copyset \(copyset)" }
}
