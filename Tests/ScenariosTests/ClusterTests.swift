import ClusterScenario
import Testing

/// Many more seeds run in release: `tools/sim --seeds 1000`.
@Suite("a whole cluster in a seeded world") struct ClusterTests {
    @Test("what clients are told is true, everything finishes in calm, replicas agree", arguments: 0..<12)
    func clean(seed: UInt64) {
        let outcome = Scenario(ScenarioPlan(seed: seed)).run()
        #expect(outcome.cause == nil, "tools/sim --replay \(seed) --trace")
        #expect(outcome.answered > 0)
    }
    @Test("the same seed gives the same run", arguments: [3, 8])
    func sameSeed(seed: UInt64) {
        let first = Scenario(ScenarioPlan(seed: seed)).run()
        let second = Scenario(ScenarioPlan(seed: seed)).run()
        #expect(first.traceHash == second.traceHash && first.steps == second.steps)
    }
    @Test("disks that lie about their cache are found out when the power fails")
    func canary() {
        let caught = (0..<8 as Range<UInt64>).contains { seed in
            var plan = ScenarioPlan(seed: seed)
            (plan.disksLie, plan.damagedServer) = (true, nil)
            plan.nemesis.deeds = [.powerLossOfAll]
            return Scenario(plan).run().cause != nil
        }
        #expect(caught)
    }
}
