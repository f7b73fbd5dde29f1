import Foundation
import StoreCrashModel
import Testing

@testable import ChunkStore

/// A store lives on a disk that forgets what was not flushed; after every crash it must show what it
/// promised. A few seeds as a first look: `curve-crashfuzz` runs thousands in a release build.
@Suite struct CrashTests {
    static let seeds = ProcessInfo.processInfo.environment["CRASH_SEEDS"].flatMap { UInt64($0) } ?? 12

    @Test("whatever a crash loses, acknowledged entries survive and the map is the model's")
    func crashes() {
        for seed in 0..<Self.seeds {
            if let failure = CrashRun(seed: seed).run() { Issue.record("seed \(seed): \(failure)") }
        }
    }
    @Test("a device that lies is found out")
    func rot() {
        for seed in 0..<Self.seeds {
            if let failure = RotRun(seed: seed).run() { Issue.record("seed \(seed): \(failure)") }
        }
    }
}
