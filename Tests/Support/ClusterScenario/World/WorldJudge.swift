import BlockTypes
import Environment
import Simulation

/// Looks at the stores after a run, each on its own: do the replicas of each copyset hold the same?
struct WorldJudge {
    private let scenario: WorldScenario
    private var world: SimWorld { scenario.world }

    init(_ scenario: WorldScenario) { self.scenario = scenario }

    /// Bytes that the disks were given, against the bytes that clients wrote: counted by the disks and the
    /// load, not by the stores. Only where nothing was copied or written again after a fault.
    func weighTraffic() -> String? {
        let plan = scenario.plan
        guard plan.deeds.isEmpty, plan.acts.isEmpty, plan.damagedServers.isEmpty, plan.writeErrorOneIn == 0,
            !plan.clonesStore
        else { return nil }
        let records = scenario.volumes.map(\.record)
        let bytes = records.reduce(0) { $0 + $1.writtenBytes }
        let requests = records.reduce(0) { $0 + $1.issued }
        let seconds = Int(world.trueNow.components.seconds) + 1
        let roots = seconds * 1_000_000 / Int(max(plan.store.checkpointEvery.milliseconds, 50)) / 1000 + 4
        // A change costs its blocks once, a striped or cut one a journal block for each piece; a root costs
        // its table pages and four superblocks.
        let replicas = 3
        let changes = replicas * (bytes * 5 / 4 + requests * 3 * 4096)
        let budget = changes + scenario.servers.count * (roots * 160 << 10 + 4 << 20)
        let written = (0..<scenario.servers.count).reduce(0) {
            $0 + scenario.servers.disk($1).counters.writtenBytes
        }
        return written <= budget
            ? nil : "\(written) bytes written to disks for \(bytes) of clients; the budget is \(budget)"
    }
    /// - Parameter lagging: replicas that have no room for what the others have.
    func compareReplicas(but lagging: [LaggingReplica]) -> String? {
        var runners: [Int: StoreRunner] = [:]  // Looked up by number.
        for index in 0..<scenario.servers.count where scenario.servers.servedToTheEnd(index) {
            let host = world.startHost(on: scenario.servers.machine(index))
            let disk = scenario.servers.disk(index)
            disk.attach(to: host)
            let runner = StoreRunner(disk, world, scenario.pool)
            if let wrong = runner.open() {
                // A disk that loses acknowledged writes may well have lost what its store needs.
                if scenario.servers.isDamaging(index) { continue }
                return "\(disk.name) after the run: \(wrong)"
            }
            runners[index] = runner
        }
        for copyset in scenario.copysets {
            let members = copyset.members.compactMap { scenario.servers.index(of: $0) }.sorted().filter {
                !lagging.contains(LaggingReplica(server: $0, copyset: copyset.id))
            }
            if let wrong = compare(copyset.id, members, members.compactMap { runners[$0] }) { return wrong }
        }
        for index in 0..<scenario.servers.count {
            if let wrong = runners[index]?.store.audit() {
                return "the store on \(scenario.servers.disk(index).name) does not add up: \(wrong)"
            }
        }
        return nil
    }
    private func compare(_ id: CopysetID, _ members: [Int], _ runners: [StoreRunner]) -> String? {
        let ends = runners.map { $0.store.state(of: id)?.last ?? .zero }
        guard Set(ends).count == 1, let end = ends.first else {
            return "the replicas of copyset \(id) end at \(ends) after a calm minute"
        }
        for runner in runners where !runner.commit(id, through: end.index) {
            return "\(runner.name) does not apply copyset \(id) up to \(end)"
        }
        for volume in scenario.volumes {
            let sizeMax = volume.plan.sizes.max() ?? 0
            let group = UInt64(volume.plan.stripeCount) * UInt64(Geometry.chunkBytes)
            let chunks = UInt32((sizeMax + group - 1) / group) * volume.plan.stripeCount
            for index in 0..<chunks {
                let chunk = ChunkKey(volume: VolumeID(UInt64(volume.number)), index: index)
                if let wrong = compare(id, chunk, members, runners) { return wrong }
            }
        }
        return nil
    }
    private func compare(
        _ id: CopysetID, _ chunk: ChunkKey, _ members: [Int], _ runners: [StoreRunner]
    ) -> String? {
        for first in stride(from: 0, to: Geometry.blocksPerChunk, by: 1024) {
            guard let run = BlockRun(chunk: chunk, firstBlock: first, blockCount: 1024) else { continue }
            let sums = runners.map { $0.checksums(id, run) }
            for (runner, sum) in zip(runners, sums) where sum == nil {
                let index = members.first { scenario.servers.disk($0).name == runner.name }
                if let index, scenario.servers.isDamaging(index) { continue }
                return "\(runner.name) cannot read \(run): \(runner.failure ?? ""), \(runner.store.diagnosis)"
            }
            let readable = sums.compactMap { $0 }
            guard let one = readable.first else { continue }
            for other in readable where other != one {
                let block = zip(one, other).enumerated().first { $1.0 != $1.1 }?.offset ?? 0
                return "the replicas of copyset \(id) differ at \(chunk) block \(first + block)"
            }
        }
        return nil
    }
}
