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
