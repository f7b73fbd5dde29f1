import BlockTypes
import ChunkServer
import ChunkStore
import Environment
import Simulation

/// Three chunkservers and a directory on simulated machines, with everything needed to break and mend them.
public final class SimCluster {
    /// The world they live in.
    public let world: SimWorld
    let pool = BufferPool(keptBytesPerClassMax: 1 << 20)
    private let plan: ScenarioPlan
    private let directoryState: DirectoryState
    private var directoryHost: SimHost?
    private var directory: ScenarioDirectory?
    private(set) var disks: [SimDisk] = []
    private var hosts: [SimHost?] = [nil, nil, nil]
    private var servers: [ChunkServer?] = [nil, nil, nil]
    private(set) var isServing = [false, false, false]
    /// Which of them served to the end.
    private var wasServing = [false, false, false]
    /// Counts the restarts asked for: only the newest happens.
    private var starts = [0, 0, 0]
    /// The number of each one's present process.
    private var processes = [0, 0, 0]
    private var startCount = 0
    private var atlas: FaultAtlas
    /// The first thing a chunkserver said when it gave up.
    public private(set) var complaint: String?

    /// Every attachment that the directory has granted, the first one with epoch 1.
    var grants: [DirectoryState.Grant] { directoryState.grants }
    /// The attachments of the group as of the generation that `epoch` names.
    func group(at epoch: UInt32) -> [UInt32] { directoryState.generations[epoch] ?? [] }
    /// The volume's size as the directory has it.
    var volumeSize: ByteCount { directoryState.size }
    /// Makes the volume larger while a group holds it.
    func grow(to size: ByteCount) { directoryState.grow(to: size) }
    /// Answers whether the client of this name still waits for an answer to its attach.
    var isAsking: (String) -> Bool {
        get { directoryState.isAsking }
        set { directoryState.isAsking = newValue }
    }

    static let serverCount = 3
    static func machine(_ index: Int) -> String { "cs\(index + 1)" }
    private static func server(_ index: Int) -> ServerID { ServerID(UInt64(index + 1)) }

    init(_ world: SimWorld, _ plan: ScenarioPlan) {
        (self.world, self.plan) = (world, plan)
        let cluster = UniqueID(high: world.random.next(), low: world.random.next())
        let everybody = (0..<Self.serverCount).map(Self.server)
        directoryState = DirectoryState(
            cluster: cluster,
            copysets: (1...plan.copysets).map { number in
                let first = number % Self.serverCount
                return (CopysetID(UInt32(number)), Array(everybody[first...] + everybody[..<first]))
            }, volume: VolumeID(7), size: ByteCount(bytes: plan.servedBytes ?? plan.volumeBytes),
            stripeUnitBytes: plan.stripeCount == 1 ? UInt32(Geometry.chunkBytes) : 64 << 10,
            stripeCount: plan.stripeCount)
        atlas = FaultAtlas(directoryState.copysets)
        if let index = plan.damagedServer { _ = atlas.admitDamage(on: Self.server(index)) }
        for index in 0..<Self.serverCount {
            // Sizes differ a little, as disks do.
            let size = plan.volumeBytes * 2 + UInt64(32 + index) << 20
            disks.append(
                SimDisk(
                    world, name: "disk\(index + 1)",
                    geometry: DiskGeometry(
                        size: ByteCount(bytes: size), sectorBytes: plan.sectorBytes,
                        hasVolatileCache: plan.hasVolatileCache && !plan.disksLie),
                    liesAboutCache: plan.disksLie))
        }
    }

    // MARK: Life

    /// Formats the disks and starts everybody.
    /// - Returns: what went wrong.
    func boot() -> String? {
        startDirectory()
        for index in 0..<Self.serverCount {
            if let wrong = format(index) { return wrong }
            start(index)
        }
        guard world.run(within: .seconds(60), until: { isServing.allSatisfy(\.self) || complaint != nil })
        else {
            return "the chunkservers do not come up"
        }
        return complaint
    }
    private func format(_ index: Int) -> String? {
        let host = world.startHost(on: Self.machine(index))
        let disk = disks[index]
        disk.attach(to: host)
        let device = UniqueID(high: world.random.next(), low: world.random.next())
        let identity = StoreIdentity(
            cluster: directoryState.cluster, device: device, server: Self.server(index),
            incarnation: Incarnation(0))
        do throws(StoreFormatError) {
            let format = try StoreFormat(
                identity: identity, geometry: disk.geometry, journalBytes: plan.journalBytes)
            let formatted = StoreRunner.format(format, disk, world)
            disk.close()
            host.kill()
            return formatted ? nil : "\(disk.name) cannot be formatted"
        } catch { return "\(disk.name): \(error)" }
    }
    func startDirectory() {
        guard directoryHost?.isAlive != true else { return }
        let host = world.startHost(on: "mds")
        directoryHost = host
        do { directory = try ScenarioDirectory(directoryState, on: host, pool: pool) } catch {
            complain("the directory: \(error)")
        }
    }
    func stopDirectory() {
        directory = nil
        directoryHost?.kill()
    }
    func start(_ index: Int) {
        guard hosts[index]?.isAlive != true else { return }
        let name = Self.machine(index)
        let host = world.startHost(on: name)
        disks[index].attach(to: host)
        var options = ChunkServerOptions(
            metadataServers: [ScenarioDirectory.address.description], listen: "\(name):7000", host: name)
        options.store = plan.store
        options.limits = plan.limits
        options.refusalProvesDeath = plan.seed % 2 == 0
        let server = ChunkServer(environment: host, disk: disks[index], options: options, pool: pool)
        server.serving = { [weak self] _ in self?.isServing[index] = true }
        server.failed = { [weak self, weak server] failure in
            guard let self, servers[index] === server else { return }
            // A damaged disk may well make its server give up; it is started again as an operator would.
            if index != plan.damagedServer { complain("\(name) gave up: \(failure)") }
            if case .store = failure { atlas.isRefused(Self.server(index)) }
            world.after(.zero) {
                guard self.servers[index] === server else { return }
                self.kill(index, thenStartAfter: .seconds(1))
            }
        }
        hosts[index] = host
        servers[index] = server
        startCount += 1
        processes[index] = startCount
        server.start()
    }
    /// Power loss, and power again.
    func losePower(_ index: Int, for duration: Duration) {
        forget(index)?.crash(downFor: duration)
        startLater(index, after: duration)
    }
    /// Death of the process, and a new one.
    func kill(_ index: Int, thenStartAfter delay: Duration) {
        forget(index)?.kill()
        startLater(index, after: delay)
    }
    private func startLater(_ index: Int, after delay: Duration) {
        starts[index] += 1
        let mine = starts[index]
        world.after(delay + .milliseconds(1)) { [weak self] in
            if let self, starts[index] == mine { startIfAllowed(index) }
        }
    }
    private func startIfAllowed(_ index: Int) {
        guard !atlas.isGone(Self.server(index)) else { return }
        // What a dead process had under way still reaches the disk; until then the kernel holds its lock.
        guard disks[index].inFlightCount == 0 else { return startLater(index, after: .milliseconds(1)) }
        guard atlas.mayReturn(Self.server(index), { stateNow($0, $1) }) else {
            return startLater(index, after: .milliseconds(50))
        }
        start(index)
    }
    private func stateNow(_ server: ServerID, _ copyset: CopysetID) -> CopysetState? {
        let index = Int(server.rawValue) - 1
        return isServing[index] ? servers[index]?.state(of: copyset) : nil
    }
    private func forget(_ index: Int) -> SimHost? {
        let host = hosts[index]
        if let server = servers[index] { atlas.dies(server, Self.server(index)) }
        (hosts[index], servers[index], isServing[index]) = (nil, nil, false)
        return host
    }
    func noteStandings(_ watch: inout StandingWatch) {
        for index in 0..<Self.serverCount {
            servers[index]?.readStandings { watch.note($0, store: index, process: processes[index]) }
        }
    }
    func readGauges(_ read: GaugeReader) { for server in servers { server?.readGauges(read) } }
    func pause(_ index: Int, for duration: Duration) { hosts[index]?.pause(for: duration) }

    /// Ends all faults: whatever happens now is the cluster's own doing.
    func calmDown() {
        world.faults = .none
        world.healNetwork()
        for index in 0..<Self.serverCount {
            disks[index].faults = .none
            hosts[index]?.resume()
        }
        startDirectory()
        for index in 0..<Self.serverCount where hosts[index]?.isAlive != true {
            startLater(index, after: .zero)
        }
    }
    /// True when everybody who can be there is, with the same log, applied to its end.
    var hasConverged: Bool {
        let present = (0..<Self.serverCount).filter { !atlas.isGone(Self.server($0)) }
        guard present.allSatisfy({ isServing[$0] }) else { return false }
        return directoryState.copysets.allSatisfy { id, _ in
            let states = present.map { servers[$0]?.state(of: id) }
            return states.allSatisfy {
                $0?.isSyncing == false && $0?.applied == $0?.last.index && $0?.last == states[0]?.last
            }
        }
    }
    /// Clean shutdown of all chunkservers.
    func stopServers() -> Bool {
        wasServing = isServing
        var running = 0
        for index in 0..<Self.serverCount {
            guard let server = servers[index] else { continue }
            running += 1
            server.stop { running -= 1 }
        }
        let stopped = world.run(within: .seconds(60)) { running == 0 }
        for index in 0..<Self.serverCount { forget(index)?.kill() }
        return stopped
    }
    private func complain(_ what: String) { if complaint == nil { complaint = what } }

    // MARK: After the end

    /// Opens the three stores anew and compares what they hold.
    func compareReplicas(registers: [Range<Int>]) -> String? {
        var runners: [StoreRunner] = []
        // A damaged store that did not come back in time says nothing.
        for index in 0..<Self.serverCount where wasServing[index] {
            let host = world.startHost(on: Self.machine(index))
            disks[index].attach(to: host)
            let runner = StoreRunner(disks[index], world, pool)
            if let wrong = runner.open() {
                // A disk that loses acknowledged writes may well have lost what its store needs.
                if index == plan.damagedServer { continue }
                return "\(disks[index].name) after the run: \(wrong)"
            }
            runners.append(runner)
        }
        for (id, _) in directoryState.copysets {
            let ends = runners.map { $0.store.state(of: id)?.last ?? .zero }
            guard Set(ends).count == 1, let end = ends.first else {
                return "the replicas of copyset \(id) end at \(ends) after a calm minute"
            }
            for runner in runners where !runner.commit(id, through: end.index) {
                return "\(runner.name) does not apply copyset \(id) up to \(end)"
            }
        }
        if let wrong = compareBlocks(runners) { return wrong }
        for runner in runners {
            if let wrong = runner.store.audit() {
                return "the store on \(runner.name) does not add up: \(wrong)"
            }
        }
        return nil
    }
    private func compareBlocks(_ runners: [StoreRunner]) -> String? {
        let chunks = UInt32(plan.volumeBytes / UInt64(Geometry.chunkBytes))
        guard
            let placement = Placement(
                volume: directoryState.volume, copysets: directoryState.copysets.map(\.id))
        else { return "no placement" }
        for index in 0..<chunks {
            let chunk = ChunkKey(volume: directoryState.volume, index: index)
            for first in stride(from: 0, to: Geometry.blocksPerChunk, by: 1024) {
                guard let run = BlockRun(chunk: chunk, firstBlock: first, blockCount: 1024) else { continue }
                let sums = runners.map { $0.checksums(placement.copyset(ofChunk: index), run) }
                for (runner, sum) in zip(runners, sums) {
                    if sum == nil, disks.firstIndex(where: { $0.name == runner.name }) != plan.damagedServer {
                        return "\(runner.name) cannot read \(run): \(runner.failure ?? "")"
                    }
                }
                let readable = sums.compactMap { $0 }
                guard let one = readable.first else { continue }
                for other in readable where other != one {
                    let block = zip(one, other).enumerated().first { $1.0 != $1.1 }?.offset ?? 0
                    return "replicas differ at \(chunk) block \(first + block)"
                }
            }
        }
        return nil
    }
}
