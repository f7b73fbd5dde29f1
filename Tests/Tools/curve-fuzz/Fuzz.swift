import Fuzzing

/// Frames and what the store reads. The rest has programs of its own: every instrumented branch of a
/// program costs time with every input.
@c(curve_fuzz_main) public func fuzzMain(_ count: CInt, _ arguments: UnsafeMutableRawPointer?) -> CInt {
    runFuzzer(wireTargets + storeTargets, count, arguments)
}
