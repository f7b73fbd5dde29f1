import Foundation
import RaftModel

/// Raft's world in release runs.
///
/// - `curve-raftfuzz [SEEDS [FIRST]]`: exit status 1 when a seed fails.
/// - `--replay SEED`: every event of one seed, and its outcome.
@main struct RaftFuzz {
    /// Seeds with one replica gone and another one empty; they are alike, so a few do.
    static let doubleFaultsMax: UInt64 = 200

    static func main() {
        let arguments = CommandLine.arguments
        if arguments.count > 2, arguments[1] == "--replay" { return replay(UInt64(arguments[2]) ?? 0) }
        let count = arguments.count > 1 ? UInt64(arguments[1]) ?? 2000 : 2000
        let first = arguments.count > 2 ? UInt64(arguments[2]) ?? 0 : 0
        var (events, failures) = (0, 0)
        func note(_ failure: String, _ seed: UInt64) {
            failures += 1
            if failures <= 10 { print("seed \(seed): \(failure)") }
        }
        for seed in first..<(first + count) {
            let outcome = RaftRun.run(seed: seed)
            events += outcome.events
            if let failure = outcome.failure { note(failure, seed) }
        }
        for seed in first..<(first + min(count, doubleFaultsMax)) {
            if let failure = RaftRun.doubleFault(seed: seed) { note("double fault: \(failure)", seed) }
            if let failure = RaftRun.pastReign(seed: seed) { note("past reign: \(failure)", seed) }
        }
        print("\(count) seeds from \(first), \(events) events, \(failures) failures")
        exit(failures == 0 ? 0 : 1)
    }
    private static func replay(_ seed: UInt64) {
        let outcome = RaftRun.run(seed: seed, tracing: true)
        for line in outcome.trace { print(line) }
        print("seed \(seed): \(outcome.events) events, \(outcome.failure ?? "fine")")
    }
}
