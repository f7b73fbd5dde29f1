import BlockTypes
import Raft

/// Seeded lives of one copyset.
package enum RaftRun {
    /// Any faults the seed brings, then calm: nothing may be broken, and everybody must catch up.
    /// - Returns: how many events were stepped, and what went wrong, if anything.
    package static func run(
        seed: UInt64, tracing: Bool = false
    ) -> (events: Int, failure: String?, trace: [String]) {
        let world = RaftWorld(seed: seed, faults: .swarm(seed))
        world.tracing = tracing
        do {
            world.propose()
            world.misbehave()
            try world.run(milliseconds: 12_000)
            world.calm()
            let before = world.committedThrough
            for _ in 0..<60 {
                try world.run(milliseconds: 500)
                world.stopLoad = world.trueTime > 15_000_000_000
                if world.stopLoad, world.hasConverged(past: before) {
                    return (world.eventCount, nil, world.trace)
                }
            }
            return (world.eventCount, "no progress when calm: \(world.summary)", world.trace)
        } catch {
            return (world.eventCount, "\(error)", world.trace)
        }
    }
    /// The Raft paper's figure 8: a leader dies with an entry that nobody else has; so does its successor.
    /// The first one leads again, brings its old entry to a majority, and dies before anything of its new
    /// term gets there. Then the successor comes back.
    package static func pastReign(seed: UInt64) -> String? {
        var faults = Faults()
        faults.settings.messageEntriesMax = 1
        faults.delayMicrosecondsMax = 5_000
        let world = RaftWorld(seed: seed, faults: faults)
        do {
            try world.run(milliseconds: 3000)
            guard let first = world.nodes.first(where: { $0.replica?.role == .leader }) else { return nil }
            world.isolate(first)
            for _ in 0..<world.between(1, 3) {
                try world.deliver(.propose(world.token(), world.operation()), to: first, first.incarnation)
            }
            try world.run(milliseconds: 50)
            world.crash(first)
            world.cut = []
            guard let second = try world.nextLeader(besides: first) else { return nil }
            world.isolate(second)
            try world.run(milliseconds: 30)
            world.crash(second)
            world.start(first)
            guard try world.nextLeader(besides: second) === first else { return nil }
            try world.run(milliseconds: world.between(0, 60))
            world.isolate(first)
            world.crash(first)
            try world.run(milliseconds: 20)
            world.cut = []
            world.start(second)
            try world.run(milliseconds: 4000)
            world.calm()
            try world.run(milliseconds: 6000)
            return nil
        } catch {
            return "\(error)"
        }
    }
    /// One replica dies for good and another has lost everything; the leader that is left has just restarted
    /// and knows little of what is committed.
    package static func doubleFault(seed: UInt64, endsCopiesEarly: Bool = false) -> String? {
        var faults = Faults()
        (faults.keptEntriesMax, faults.endsCopiesEarly) = (10, endsCopiesEarly)
        if seed % 2 == 0 { faults.copyMicrosecondsMax = 500 }
        let world = RaftWorld(seed: seed, faults: faults)
        do {
            world.propose()
            try world.run(milliseconds: 2000 + world.between(0, 3000))
            guard let leader = world.nodes.first(where: { $0.replica?.role == .leader }) else { return nil }
            let others = world.nodes.filter { $0 !== leader }
            world.loseForGood(others[0])
            try world.run(milliseconds: world.between(0, 500))
            for node in [others[1], leader] {
                world.loseMedium(of: node)
                guard node.hasLostData else { continue }
                let left = node === leader ? others[1] : leader
                world.crash(left)
                world.start(left)
                break
            }
            try world.run(milliseconds: 15_000)
            world.calm()
            (world.stopLoad, world.faults.endsCopiesEarly) = (true, false)
            try world.run(milliseconds: 10_000)
            return world.hasConverged(past: LogIndex(0)) ? nil : "no progress: \(world.summary)"
        } catch {
            return "\(error)"
        }
    }
}
