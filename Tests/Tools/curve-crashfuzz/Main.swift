import BlockTypes
import ChunkStore
import Foundation
import StoreCrashModel

/// The store's crash model, for release runs.
///
/// - `curve-crashfuzz [SEEDS [FIRST]]`: exit status 1 when a seed fails.
/// - `--cost`: CPU per write.
@main struct CrashFuzz {
    /// In one of so many runs the two other replicas are always ahead.
    static let commitsAheadEvery: UInt64 = 8

    static func main() {
        let arguments = CommandLine.arguments
        switch arguments.dropFirst().first {
        case "--cost": WriteCost.run()
        default:
            let count = arguments.count > 1 ? UInt64(arguments[1]) ?? 1000 : 1000
            fuzz(arguments.count > 2 ? UInt64(arguments[2]) ?? 0 : 0, count)
        }
    }
    private static func fuzz(_ first: UInt64, _ count: UInt64) {
        var (failures, crashes) = (0, 0)
        for seed in first..<(first + count) {
            var options = CrashRun.Options()
            options.commitsAhead = seed % Self.commitsAheadEvery == 0
            let run = CrashRun(seed: seed, options: options)
            if let failure = run.run() ?? RotRun(seed: seed).run() {
                failures += 1
                if failures <= 10 { print("seed \(seed): \(failure)") }
            }
            crashes += run.crashes
        }
        print("\(count) seeds from \(first), \(crashes) crashes, \(failures) failures")
        exit(failures == 0 ? 0 : 1)
    }
}
