import ChunkStore
import Foundation
import StoreCrashModel

/// `curve-crashfuzz [SEEDS [FIRST [no-r1|no-r2|no-r3]]]`: the store's crash model, for release runs; exit
/// status 1 when a seed fails. `--cost`: CPU per write.
@main struct CrashFuzz {
    static func main() {
        let arguments = CommandLine.arguments
        if arguments.contains("--cost") { return WriteCost.run() }
        let count = arguments.count > 1 ? UInt64(arguments[1]) ?? 1000 : 1000
        let first = arguments.count > 2 ? UInt64(arguments[2]) ?? 0 : 0
        var options = CrashRun.Options()
        if arguments.count > 3 {
            switch arguments[3] {
            case "no-r1": options.rules.quarantinesSuperseded = false
            case "no-r2": options.rules.capsWatermarkAtDurable = false
            case "no-r3": options.rules.verifiesTail = false
            default: break
            }
        }
        var (failures, crashes) = (0, 0)
        for seed in first..<(first + count) {
            let run = CrashRun(seed: seed, options: options)
            if let failure = run.run() {
                failures += 1
                if failures <= 10 { print("seed \(seed): \(failure)") }
            }
            crashes += run.crashes
        }
        print("\(count) seeds from \(first), \(crashes) crashes, \(failures) failures")
        exit(failures == 0 ? 0 : 1)
    }
}
