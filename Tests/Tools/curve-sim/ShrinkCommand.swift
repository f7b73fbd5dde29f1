import BlockTypes
import ClusterScenario
import Foundation

/// `--shrink SEED`: the shortest list of faults with which the seed still fails.
///
/// Each trial is a process of its own, since what an invariant of the code catches ends the process.
struct ShrinkCommand {
    let seed: UInt64
    let options: Options

    /// - Returns: true when the seed is clean after all.
    func run() -> Bool {
        var shrinker = Shrinker { trial($0) }
        guard let result = shrinker.shrink() else {
            print("seed \(seed): clean; there is nothing to shrink")
            return true
        }
        print("seed \(seed): \(result.cause)")
        print("\(result.requests) requests of clients, and this, of which nothing can be spared:")
        if result.rates.isEmpty, result.events.isEmpty { print("    nothing that goes wrong") }
        for rate in result.rates { print("    now and then  \(rate.rawValue)") }
        for event in result.events {
            let seconds = String(
                format: "%9.3f", Double(event.at.components.seconds) + Self.fraction(event.at))
            print("    \(seconds) s   \(event.what)")
        }
        print("(\(result.trials) runs) To see it happen:")
        print("    tools/sim \(words(for: result.selection).joined(separator: " ")) --trace")
        return false
    }
    private static func fraction(_ time: Duration) -> Double { Double(time.components.attoseconds) / 1e18 }

    private func words(for selection: PlanSelection) -> [String] {
        var words = options.scenario == .cluster ? [] : ["--scenario", options.scenario.rawValue]
        if let planted = options.planted { words += ["--plant", planted] }
        if options.disksLie { words.append("--lying-disks") }
        words += ["--replay", "\(seed)"]
        if let kept = selection.kept {
            let list = kept.map(\.description).sorted().joined(separator: ",")
            words += ["--only", list.isEmpty ? "nothing" : "'\(list)'"]
        }
        if selection.operationsMax != .max { words += ["--operations", "\(selection.operationsMax)"] }
        return words
    }
    private func trial(_ selection: PlanSelection) -> ScenarioOutcome {
        let child = Process()
        child.executableURL = URL(fileURLWithPath: "/proc/self/exe").resolvingSymlinksInPath()
        child.arguments =
            words(for: selection).map { $0.replacingOccurrences(of: "'", with: "") } + ["--tell"]
        var environment = ProcessInfo.processInfo.environment
        environment["SWIFT_BACKTRACE"] = "enable=no"
        child.environment = environment
        let (output, errors) = (Pipe(), Pipe())
        (child.standardOutput, child.standardError) = (output, errors)
        var outcome = ScenarioOutcome()
        do { try child.run() } catch {
            outcome.cause = "a run cannot be started: \(error)"
            return outcome
        }
        let tail = Tail(errors.fileHandleForReading)
        for line in Lines(output.fileHandleForReading) { take(line, into: &outcome) }
        child.waitUntilExit()
        let last = tail.lastLine
        if child.terminationReason == .uncaughtSignal { outcome.cause = "the process stopped: \(last)" }
        return outcome
    }
    private func take(_ line: String, into outcome: inout ScenarioOutcome) {
        let words = line.split(separator: "\t").map(String.init)
        switch (words.first, words.count) {
        case ("event", 4):
            guard let fault = PlannedFault(words[1]), let nanoseconds = Int64(words[2]) else { return }
            outcome.events.append(
                ScenarioEvent(fault: fault, at: .nanoseconds(nanoseconds), what: words[3]))
        case ("rate", 2): if let rate = FaultRate(rawValue: words[1]) { outcome.rates.append(rate) }
        case ("requests", 2): outcome.requests = Int(words[1]) ?? 0
        case ("cause", 2): outcome.cause = words[1]
        default: break
        }
    }
    /// What a trial says at its end.
    static func tell(_ outcome: ScenarioOutcome) {
        for rate in outcome.rates { say("rate\t\(rate.rawValue)") }
        say("requests\t\(outcome.requests)")
        if let cause = outcome.cause { say("cause\t\(cause)") }
    }
    /// What a trial says while it runs.
    static func tell(_ event: ScenarioEvent) {
        let (seconds, attoseconds) = event.at.components
        say("event\t\(event.fault)\t\(seconds * 1_000_000_000 + attoseconds / 1_000_000_000)\t\(event.what)")
    }
    private static func say(_ line: String) { FileHandle.standardOutput.write(Data("\(line)\n".utf8)) }
}
