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

@Suite("a volume that a group of clients holds together, in a seeded world") struct SharedVolumeTests {
    @Test("members agree on every sector and every counter, and a removed one is gone", arguments: 0..<8)
    func clean(seed: UInt64) {
        let outcome = SharedScenario(SharedPlan(seed: seed)).run()
        #expect(outcome.cause == nil, "tools/sim --scenario shared --replay \(seed) --trace")
        #expect(outcome.answered > 0)
    }
    @Test("the same seed gives the same run", arguments: [1, 5])
    func sameSeed(seed: UInt64) {
        let first = SharedScenario(SharedPlan(seed: seed)).run()
        let second = SharedScenario(SharedPlan(seed: seed)).run()
        #expect(first.traceHash == second.traceHash && first.steps == second.steps)
    }
}

@Suite("several iSCSI gateways of one volume, in a seeded world") struct GatewayWorldTests {
    @Test(
        "counters are exact, who is preempted or reset is, and all gateways tell the same", arguments: 0..<8)
    func clean(seed: UInt64) {
        let outcome = GatewayScenario(GatewayPlan(seed: seed)).run()
        #expect(outcome.cause == nil, "tools/sim --scenario gateways --replay \(seed) --trace")
        #expect(outcome.answered > 0)
    }
    @Test("SANITIZE among them leaves nothing of what was there before", arguments: [8, 10, 19])
    func sanitize(seed: UInt64) {
        let outcome = GatewayScenario(GatewayPlan(seed: seed)).run()
        #expect(outcome.cause == nil, "tools/sim --scenario gateways --replay \(seed) --trace")
        #expect(outcome.tally["SANITIZE done"] ?? 0 > 0)
    }
    @Test("the same seed gives the same run", arguments: [2, 3, 10])
    func sameSeed(seed: UInt64) {
        let first = GatewayScenario(GatewayPlan(seed: seed)).run()
        let second = GatewayScenario(GatewayPlan(seed: seed)).run()
        #expect(first.traceHash == second.traceHash && first.steps == second.steps)
    }
}

@Suite("shrinking a failure") struct ShrinkTests {
    @Test("of a failing run only what it needs to fail is left")
    func canary() throws {
        // Seed 3 fails where disks lie, and brings much else.
        var plan = ScenarioPlan(seed: 3)
        (plan.disksLie, plan.damagedServer) = (true, nil)
        plan.nemesis.deeds.append(.powerLossOfAll)
        let whole = Scenario(plan).run()
        #expect(whole.cause != nil)
        var shrinker = Shrinker(trialsMax: 60) { [plan] in Scenario(plan.reduced(to: $0)).run() }
        let shrunk = shrinker.shrink()
        let result = try #require(shrunk)
        #expect(result.trials <= 60)
        #expect(result.events.contains { $0.what.hasPrefix("powerLoss") })
        #expect(result.events.count < whole.events.count || whole.events.count == 1)
        // What is left is enough, and can be run again.
        let again = Scenario(plan.reduced(to: result.selection)).run()
        #expect(again.cause == result.cause)
        let selection = PlanSelection(kept: [], operationsMax: result.selection.operationsMax)
        #expect(Scenario(plan.reduced(to: selection)).run().cause == nil)
    }
    @Test("a clean run has nothing to shrink")
    func clean() {
        let plan = ScenarioPlan(seed: 1)
        var shrinker = Shrinker { Scenario(plan.reduced(to: $0)).run() }
        let shrunk = shrinker.shrink()
        #expect(shrunk == nil)
    }
}
