import Foundation
import StoreCrashModel
import Testing

@testable import ChunkStore

/// A store lives on a disk that forgets what was not flushed; after every crash it must show what it
/// promised. More seeds: `CRASH_SEEDS=10000`, or `swift run -c release curve-crashfuzz 10000`.
@Suite struct CrashTests {
    static let seeds = ProcessInfo.processInfo.environment["CRASH_SEEDS"].flatMap { UInt64($0) } ?? 300

    @Test("whatever a crash loses, acknowledged entries survive and the map is the model's")
    func crashes() {
        for seed in 0..<Self.seeds {
            if let failure = CrashRun(seed: seed).run() { Issue.record("seed \(seed): \(failure)") }
        }
    }
    /// - Returns: true when one of the seeds fails.
    private func isCaught(commitsAhead: Bool = false, _ change: (inout StoreRules) -> Void) -> Bool {
        var options = CrashRun.Options()
        options.commitsAhead = commitsAhead
        change(&options.rules)
        return (0..<UInt64(2000)).contains { CrashRun(seed: $0, options: options).run() != nil }
    }
    @Test("without rule R1, blocks are reused too early and the model notices")
    func withoutQuarantine() { #expect(isCaught { $0.quarantinesSuperseded = false }) }
    @Test("without rule R2, the watermark runs ahead of the device and the model notices")
    func withoutDurableWatermark() {
        #expect(isCaught(commitsAhead: true) { $0.capsWatermarkAtDurable = false })
    }
    @Test("without rule R3, torn payload stays in the log and the model notices")
    func withoutTailVerification() { #expect(isCaught { $0.verifiesTail = false }) }
}
