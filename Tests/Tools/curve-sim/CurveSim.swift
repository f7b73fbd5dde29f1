import ClusterScenario

@main struct CurveSim {
    static func main() {
        let arguments = CommandLine.arguments
        func number(_ name: String) -> UInt64? {
            arguments.firstIndex(of: name).flatMap {
                $0 + 1 < arguments.count ? UInt64(arguments[$0 + 1]) : nil
            }
        }
        if let seed = number("--replay") {
            let traced = arguments.contains("--trace")
            let outcome = Scenario(ScenarioPlan(seed: seed), traceLinesMax: traced ? 100_000 : 0).run()
            for line in outcome.trace { print(line) }
            print(
                "seed \(seed): \(outcome.cause ?? "clean") \(outcome.requests) requests \(outcome.steps) steps \(outcome.traceHash)"
            )
            return
        }
        let first = number("--first") ?? 0
        var bad = 0
        for seed in first..<(first + (number("--seeds") ?? 100)) {
            let outcome = Scenario(ScenarioPlan(seed: seed)).run()
            if let cause = outcome.cause {
                print("seed \(seed): \(cause)")
                bad += 1
            }
        }
        print("\(bad) bad")
    }
}
