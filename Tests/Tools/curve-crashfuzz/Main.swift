import BlockTypes
import ChunkStore
import Foundation
import StoreCrashModel

/// The store's crash model, for release runs.
///
/// - `curve-crashfuzz [SEEDS [FIRST]]`: exit status 1 when a seed fails.
/// - `--mutant NAME`, `--mutants`: plants a bug (every bug), says which seed catches it; exit status 1 when
///   none does. Only in a build with `-Xswiftc -DMUTANTS`: see `tools/mutants`.
/// - `--cost`: CPU per write.
@main struct CrashFuzz {
    /// A planted bug must be caught within so many seeds.
    static let mutantSeedsMax: UInt64 = 2000
    /// In one of so many runs the two other replicas are always ahead.
    static let commitsAheadEvery: UInt64 = 8

    static func main() {
        let arguments = CommandLine.arguments
        switch arguments.dropFirst().first {
        case "--cost": WriteCost.run()
        case "--mutants": exit(Mutant.allCases.filter { !runsCaught($0) }.isEmpty ? 0 : 1)
        case "--mutant": hunt(arguments.count > 2 ? arguments[2] : "")
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

    // MARK: Planted bugs

    private static func hunt(_ name: String) {
        guard let mutant = Mutant(rawValue: name), Mutant.areBuilt else {
            let names = Mutant.allCases.map(\.rawValue).joined(separator: " ")
            print(Mutant.areBuilt ? "mutants: \(names)" : "this build has no mutants; use tools/mutants")
            exit(2)
        }
        mutant.plant()
        var options = CrashRun.Options()
        // A watermark can only run ahead where the commit does.
        options.commitsAhead = mutant == .watermarkAhead
        for seed in 0..<mutantSeedsMax {
            let crash = CrashRun(seed: seed, options: options).run().map { ("crash model", $0) }
            guard let (judge, failure) = crash ?? RotRun(seed: seed).run().map({ ("rot model", $0) }) else {
                continue
            }
            print("\(name): \(seed + 1) seeds, \(judge): \(failure.prefix(100))")
            exit(0)
        }
        print("\(name): not caught in \(mutantSeedsMax) seeds")
        exit(1)
    }
    /// In a process of its own: what an invariant of the store catches ends the process.
    private static func runsCaught(_ mutant: Mutant) -> Bool {
        let child = Process()
        child.executableURL = URL(fileURLWithPath: CommandLine.arguments[0])
        child.arguments = ["--mutant", mutant.rawValue]
        child.standardError = FileHandle.nullDevice
        do { try child.run() } catch { return false }
        child.waitUntilExit()
        if child.terminationReason == .uncaughtSignal {
            print("\(mutant.rawValue): an invariant of the store")
            return true
        }
        return child.terminationStatus == 0
    }
}
