/// Finds the least that must go wrong for a run to fail as it does.
///
/// Leaves out what the plan brings, first by halves, then one by one, as long as the run still fails for the
/// same cause; then lets clients ask for less and less. What is left is not the least of all possible plans,
/// but nothing of it can be spared alone.
public struct Shrinker {
    /// What is left.
    public struct Result: Sendable {
        /// Why it fails, in the words of the last failing run.
        public var cause: String
        /// What is done to it, in order.
        public var events: [ScenarioEvent]
        /// What goes wrong now and then.
        public var rates: [FaultRate]
        /// What brings it about.
        public var selection: PlanSelection
        /// Requests that clients make.
        public var requests: Int
        /// Runs that were needed.
        public var trials: Int
    }
    /// Carries out a part of a plan.
    private let run: (PlanSelection) -> ScenarioOutcome
    private let trialsMax: Int
    private var trials = 0
    private var kind = ""
    private var last = ScenarioOutcome()

    /// - Parameter trialsMax: the search ends after so many runs with what it has.
    public init(trialsMax: Int = 400, run: @escaping (PlanSelection) -> ScenarioOutcome) {
        (self.trialsMax, self.run) = (trialsMax, run)
    }
    /// - Returns: `nil` when the whole plan does not fail.
    public mutating func shrink() -> Result? {
        last = run(PlanSelection())
        trials = 1
        guard let cause = last.cause else { return nil }
        kind = Self.kind(of: cause)
        var kept = last.rates.map { PlannedFault.rate($0) } + last.events.map(\.fault)
        leaveOut(of: &kept)
        var selection = PlanSelection(kept: Set(kept))
        var operations = last.requests
        while operations > 1,
            let fewer = [operations / 2, operations * 3 / 4].first(where: { most in
                fails(PlanSelection(kept: selection.kept, operationsMax: most))
            })
        {
            operations = fewer
            selection.operationsMax = fewer
        }
        leaveOut(of: &kept, operationsMax: selection.operationsMax)
        selection.kept = Set(kept)
        return Result(
            cause: last.cause ?? cause, events: last.events, rates: last.rates, selection: selection,
            requests: last.requests, trials: trials)
    }
    private mutating func leaveOut(of kept: inout [PlannedFault], operationsMax: Int = .max) {
        var size = max(1, kept.count)
        while size > 0, trials < trialsMax {
            var start = 0
            var hasShrunk = false
            while start < kept.count, trials < trialsMax {
                var fewer = kept
                fewer.removeSubrange(start..<min(start + size, kept.count))
                if fails(PlanSelection(kept: Set(fewer), operationsMax: operationsMax)) {
                    kept = fewer
                    hasShrunk = true
                } else {
                    start += size
                }
            }
            if size == 1, hasShrunk { continue }
            size /= 2
        }
    }
    private mutating func fails(_ selection: PlanSelection) -> Bool {
        guard trials < trialsMax else { return false }
        trials += 1
        let outcome = run(selection)
        guard let cause = outcome.cause, Self.kind(of: cause) == kind else { return false }
        last = outcome
        return true
    }
    /// A cause without its numbers and names: two blocks that hold old data fail alike.
    static func kind(of cause: String) -> String {
        let words = cause.split { !$0.isLetter && !$0.isNumber }
        return words.filter { word in !word.contains { $0.isNumber } }.prefix(6).joined(separator: " ")
    }
}
