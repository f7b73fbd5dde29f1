import Fuzzing

/// Everything but the control messages: their generated code is twice the size of all of this, and what is
/// instrumented costs time with every input.
@c(curve_fuzz_main) public func fuzzMain(_ count: CInt, _ arguments: UnsafeMutableRawPointer?) -> CInt {
    runFuzzer(wireTargets + storeTargets + nbdTargets + iscsiTargets, count, arguments)
}
