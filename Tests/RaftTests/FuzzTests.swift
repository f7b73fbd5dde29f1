import BlockTypes
import Foundation
import Testing

@testable import Raft

@Suite struct FuzzTests {
    static let environment = ProcessInfo.processInfo.environment
    static let first = UInt64(environment["RAFT_FIRST_SEED"] ?? "") ?? 0
    static let seeds = Int(environment["RAFT_SEEDS"] ?? "") ?? 500
    static let shards = 10

    /// - Returns: how many events were stepped, and what went wrong, if anything.
    static func run(seed: UInt64, tracing: Bool = false) -> (events: Int, failure: String?, trace: [String]) {
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

    @Test(
        "no fault breaks a promise, and when faults end everybody catches up", arguments: 0..<shards)
    func survives(shard: Int) {
        var events = 0
        let start = ContinuousClock.now
        for seed in stride(from: shard, to: Self.seeds, by: Self.shards) {
            let outcome = Self.run(seed: Self.first + UInt64(seed))
            events += outcome.events
            if let failure = outcome.failure { Issue.record("seed \(Self.first + UInt64(seed)): \(failure)") }
        }
        if Self.environment["RAFT_SPEED"] != nil {
            print("shard \(shard): \(events) events in \(ContinuousClock.now - start)")
        }
    }

    /// One replica dies for good and another has lost everything; the leader that is left has just restarted
    /// and knows little of what is committed.
    static func doubleFault(seed: UInt64, endsCopiesEarly: Bool = false) -> String? {
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

    @Test("with one replica gone and one that lost everything, the third brings the copyset back")
    func doubleFault() {
        for seed in UInt64(0)..<40 {
            let failure = Self.doubleFault(seed: seed)
            #expect(failure == nil, "seed \(seed)")
        }
    }
    @Test("a copy that counts before its log reaches its source's term is found out")
    func earlyEnd() {
        let caught = (UInt64(0)..<20).filter {
            Self.doubleFault(seed: $0, endsCopiesEarly: true)?.contains("committed") == true
        }
        #expect(caught.count >= 3, "\(caught)")
    }

    @Test("replays one seed", .enabled(if: environment["RAFT_REPLAY"] != nil))
    func replay() throws {
        let seed = try #require(UInt64(Self.environment["RAFT_REPLAY"] ?? ""))
        let outcome = Self.run(seed: seed, tracing: true)
        for line in outcome.trace { print(line) }
        print("seed \(seed): \(outcome.events) events, \(outcome.failure ?? "fine")")
    }

    @Test("the same seed gives the same run")
    func deterministic() {
        for seed in UInt64(0)..<5 {
            let (one, two) = (Self.run(seed: seed, tracing: true), Self.run(seed: seed, tracing: true))
            #expect(one.events == two.events && one.trace == two.trace, "seed \(seed)")
        }
    }
}
