import ClusterScenario
import Testing

/// Many more seeds run in release: `tools/sim --scenario world --seeds 1000`.
@Suite("the whole world, seeded") struct WorldTests {
    @Test("what clients are told is true, everything finishes in calm, replicas agree", arguments: 0..<4)
    func clean(seed: UInt64) {
        let outcome = WorldScenario(WorldPlan(seed: seed)).run()
        #expect(outcome.cause == nil, "tools/sim --scenario world --replay \(seed) --trace")
        #expect(outcome.answered > 0)
    }
    @Test(
        "an older copy of the metadata is noticed, and nothing is given before it is adopted",
        arguments: 0..<3)
    func restored(seed: UInt64) {
        var plan = WorldPlan(seed: seed)
        plan.restoresMetadata = true
        let outcome = WorldScenario(plan).run()
        #expect(outcome.cause == nil, "tools/sim --scenario restored --replay \(seed) --trace")
    }
    @Test("the same seed gives the same run", arguments: [1])
    func sameSeed(seed: UInt64) {
        let first = WorldScenario(WorldPlan(seed: seed)).run()
        let second = WorldScenario(WorldPlan(seed: seed)).run()
        #expect(first.traceHash == second.traceHash && first.steps == second.steps)
    }
    @Test("attachments of two volumes have the same numbers, and their requests are not taken for each other")
    func equalEpochs() {
        for seed in 0..<2 as Range<UInt64> {
            var plan = WorldPlan.quiet(seed: seed)
            (plan.servers, plan.copysets, plan.clientsMax) = (3, 1, 4)
            plan.volumes = Array(repeating: plan.volumes[0], count: 4)
            #expect(WorldScenario(plan).run().cause == nil, "seed \(seed)")
        }
    }
    @Test("a store that answers at another one's address is not taken for it")
    func swappedStores() {
        for seed in 0..<3 as Range<UInt64> {
            var plan = WorldPlan.quiet(seed: seed)
            (plan.servers, plan.copysets) = (5, 4)
            (plan.deeds, plan.restMax) = ([.swapStores, .kill], .milliseconds(1500))
            #expect(WorldScenario(plan).run().cause == nil, "seed \(seed)")
        }
    }
    @Test("disks that lie about their cache are found out when the power fails")
    func canary() {
        let caught = (0..<8 as Range<UInt64>).contains { seed in
            var plan = WorldPlan.quiet(seed: seed)
            (plan.disksLie, plan.deeds, plan.restMax) = (true, [.powerLossOfAll], .seconds(1))
            return WorldScenario(plan).run().cause != nil
        }
        #expect(caught)
    }
}
