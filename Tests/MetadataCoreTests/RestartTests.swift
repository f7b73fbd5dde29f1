import BlockTypes
import Testing

@testable import MetadataCore

@Suite struct RestartTests {
    @Test(
        "after any sequence of requests a restart on the store gives the very state that was live",
        arguments: UInt64(0)..<40)
    func restartEqualsLive(seed: UInt64) throws {
        let bench = try Bench()
        var random = SeededRandom(seed: seed)
        var granted: [VolumeID: Epoch] = [:]
        var numbers: Set<VolumeID> = []
        for step in 0..<300 {
            if random.oneIn(25) { (bench.commitsToFail, bench.failedCommitsArrive) = (1, random.oneIn(2)) }
            bench.pass(.seconds(Int.random(in: 0...2, using: &random)))
            let known = Set(bench.core.state.volumes.keys)
            do {
                switch try bench.ask(
                    Self.request(bench, &random), session: UInt64.random(in: 1...3, using: &random))
                {
                case .attached(let attachment):
                    let id = attachment.volume.row.id
                    #expect(attachment.epoch > granted[id] ?? Epoch(0), "seed \(seed): an epoch given twice")
                    granted[id] = attachment.epoch
                case .volume(let info) where !known.contains(info.row.id):
                    #expect(numbers.insert(info.row.id).inserted, "seed \(seed): a number given twice")
                default: break
                }
            } catch is MetadataRefusal {}
            bench.commitsToFail = 0
            if random.oneIn(20) {
                _ = try? bench.beatAll(finished: bench.core.state.tasks.keys.sorted().dropLast(3))
            }
            if random.oneIn(10) { bench.tick() }
            let reloaded = try MetadataState(Array(bench.rows.values))
            #expect(reloaded == bench.core.state, "seed \(seed), step \(step)")
            for (id, epoch) in granted {
                guard let row = reloaded.volumes[id] else { continue }
                #expect(row.epoch >= epoch, "seed \(seed): a granted epoch is not in the store")
            }
            if random.oneIn(40) { try bench.restart() }
        }
    }

    static func request(_ bench: Bench, _ random: inout SeededRandom) -> MetadataRequest {
        let names = ["a", "b", "c"]
        func name() -> String { names.randomElement(using: &random) ?? "a" }
        func path() -> String { random.oneIn(2) ? "/" + name() : "/" + name() + "/" + name() }
        let volumes = bench.core.state.volumes.keys.sorted()
        let volume = volumes.randomElement(using: &random) ?? VolumeID(1)
        let size = UInt64.random(in: 1...64, using: &random) << 24
        let server = UInt64.random(in: 1...4, using: &random)
        let row = bench.core.state.volumes[volume]
        let members = row?.group?.members.map(\.epoch) ?? []
        let epoch = members.randomElement(using: &random) ?? row?.epoch ?? Epoch(1)
        switch Int.random(in: 0..<21, using: &random) {
        case 0: return .allocateServer(device: Bench.device(server), host: "h\(server)")
        case 1, 2:
            let device = bench.core.state.servers[ServerID(server)]?.device ?? Bench.device(server)
            var registration = Bench.registration(
                server, incarnation: UInt64.random(in: 1...20, using: &random))
            registration.device = device
            return .registerServer(registration)
        case 3: return .createPool(name: name(), replicas: 3, copysets: 6, domain: .device)
        case 4, 5:
            return .createVolume(path: path(), sizeBytes: size, pool: "", stripeUnitBytes: 0, stripeCount: 0)
        case 6: return .createDirectory(path: path(), parents: random.oneIn(2))
        case 7: return .deleteDirectory(path: path())
        case 8: return .rename(from: path(), to: path())
        case 9: return .resize(path: path(), sizeBytes: size, allowShrink: random.oneIn(2))
        case 10: return .deleteVolume(path: path(), purgeNow: random.oneIn(2))
        case 11: return .restore(.volume(volume), to: random.oneIn(2) ? "" : path())
        case 12: return .purge(random.oneIn(2) ? .volume(volume) : .path(path()))
        case 13: return .detach(volume: volume, epoch: epoch)
        case 14: return .renewLease(volume: volume, epoch: epoch, addressBookVersion: 0)
        case 15:
            let member = members.randomElement(using: &random) ?? Epoch(1)
            return .removeMember(volume: volume, epoch: epoch, member: member, force: random.oneIn(2))
        case 16, 17:
            let value = name()
            let volume = random.oneIn(4) ? .cluster : volume
            let version = bench.core.state.value(volume, value)?.version ?? 0
            return .swapValue(
                ValueSwap(
                    volume: volume, epoch: epoch, name: value,
                    expectedVersion: random.oneIn(4) ? 1 : version, bytes: [UInt8(size >> 24)]))
        default:
            return .attach(
                AttachRequest(
                    path: path(), holder: "h", holderKey: name(), takeOver: random.oneIn(3),
                    group: random.oneIn(2) ? "" : "g"))
        }
    }

    @Test("rows that cannot be true together are refused with what is wrong")
    func damage() throws {
        let bench = try Bench.ready()
        try bench.ask(.createDirectory(path: "/d", parents: false))
        try bench.create("/d/v")
        func damaged(_ change: (inout [Bench.Slot: Record]) -> Void) -> String {
            var rows = bench.rows
            change(&rows)
            do {
                _ = try MetadataState(Array(rows.values))
                return ""
            } catch { return error.description }
        }
        #expect(damaged { _ in } == "")
        #expect(damaged { $0[.cluster] = nil }.contains("cluster's own row"))
        #expect(damaged { $0[.directory(DirectoryID(1))] = nil }.contains("volume 1 lies in directory 1"))
        #expect(damaged { $0[.pool(PoolID(1))] = nil } != "")
        #expect(damaged { $0[.copyset(CopysetID(3))] = nil }.contains("copyset 3"))
        #expect(damaged { $0[.server(ServerID(2))] = nil } != "")
        let circle = DirectoryRow(id: DirectoryID(1), parent: DirectoryID(1), name: "d")
        #expect(damaged { $0[.directory(DirectoryID(1))] = .directory(circle) }.contains("circle"))
        let twin = DirectoryRow(id: DirectoryID(0), parent: .root, name: "x")
        #expect(damaged { $0[.directory(DirectoryID(0))] = .directory(twin) } != "")
        guard case .volume(var row) = bench.rows[.volume(VolumeID(1))] else { throw Bench.Wrong.reply }
        row.sizeBytes = 17
        #expect(damaged { $0[.volume(VolumeID(1))] = .volume(row) }.contains("17 bytes"))
        (row.sizeBytes, row.id) = (1 << 30, VolumeID(2))
        #expect(damaged { $0[.volume(VolumeID(2))] = .volume(row) }.contains("shares its name"))
        row.place = .recycled(path: "/d/v", since: 1)
        #expect(damaged { $0[.volume(VolumeID(2))] = .volume(row) }.contains("volume 2"))
        let task = TaskRow(id: TaskID(0), copyset: CopysetID(1), volume: VolumeID(50), fence: nil)
        #expect(damaged { $0[.task(TaskID(0))] = .task(task) }.contains("task 0"))
    }

    @Test(
        "reports and leases are not in the store: a restart forgets who was online, and remembers who holds")
    func whatIsForgotten() throws {
        let bench = try Bench.ready()
        try bench.create("/v")
        _ = try bench.attach("/v")
        try bench.beatAll()
        try bench.restart(hears: false)
        let status = try bench.status()
        #expect(status.servers.allSatisfy { !$0.isOnline })
        #expect(status.attachedCount == 1)
        #expect(try bench.info("/v").holder == "holder a")
    }
}
