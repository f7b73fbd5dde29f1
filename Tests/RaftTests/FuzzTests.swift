import Foundation
import RaftModel
import Testing

/// A few seeds as a first look; `curve-raftfuzz` runs thousands in a release build.
@Suite struct FuzzTests {
    static let seeds = UInt64(ProcessInfo.processInfo.environment["RAFT_SEEDS"] ?? "") ?? 4

    @Test("no fault breaks a promise, and when faults end everybody catches up")
    func survives() {
        for seed in 0..<Self.seeds {
            if let failure = RaftRun.run(seed: seed).failure { Issue.record("seed \(seed): \(failure)") }
        }
    }
    @Test("with one replica gone and one that lost everything, the third brings the copyset back")
    func doubleFault() {
        for seed in 0..<min(Self.seeds, 40) {
            let failure = RaftRun.doubleFault(seed: seed)
            #expect(failure == nil, "seed \(seed)")
        }
    }
    @Test("a copy that counts before its log reaches its source's term is found out")
    func earlyEnd() {
        let isCaught = (UInt64(0)..<20).contains {
            RaftRun.doubleFault(seed: $0, endsCopiesEarly: true)?.contains("committed") == true
        }
        #expect(isCaught)
    }
    @Test("a copy that begins below what its log had applied applies nothing of that log")
    func copyBelow() {
        #expect(RaftRun.run(seed: 5063).failure == nil)
    }
    @Test("the same seed gives the same run")
    func deterministic() {
        let (one, two) = (RaftRun.run(seed: 1, tracing: true), RaftRun.run(seed: 1, tracing: true))
        #expect(one.events == two.events && one.trace == two.trace)
    }
}
