/// Bugs that are planted on purpose, each to prove that a judge catches it.
///
/// They exist only in builds with `-Xswiftc -DMUTANTS`; anywhere else ``isPlanted(_:)`` is a constant and
/// what it guards is not compiled in.
public enum Mutant: String, CaseIterable, Sendable {
    /// R1: superseded blocks are used again at once.
    case reuseAtOnce = "r1-reuse"
    /// R2: the watermark is what is committed, durable here or not.
    case watermarkAhead = "r2-watermark"
    /// R3: payload above the watermark is not verified after a crash.
    case tailUnverified = "r3-tail"
    /// R4: a durable entry that the media lost is cut off like a torn one.
    case lostTakenForTorn = "r4-faulty"
    /// R6: a flush that failed counts as done.
    case failedFlushBelieved = "r6-flush"
    /// R7: the incarnation stays at a restart.
    case incarnationKept = "r7-incarnation"
    /// The root is written before what it refers to is flushed.
    case rootBeforeLeaves = "root-before-leaves"
    /// The journal's tail passes entries that are not applied.
    case tailTooEarly = "tail-too-early"
    /// Blocks are returned without a look at their checksum.
    case checksumIgnored = "checksum-ignored"
    /// A truncation changes the memory and not the journal.
    case truncateUnrecorded = "truncate-unrecorded"
    /// What is written but not flushed counts as durable.
    case ackBeforeFlush = "ack-before-flush"
    /// A trim leaves the map as it was.
    case trimUnmasked = "trim-unmasked"
    /// A restart forgets which requests were done.
    case dedupForgotten = "dedup-forgotten"

    #if MUTANTS
        /// The one that is planted; a tool sets it once, before anything else runs.
        public nonisolated(unsafe) static var chosen: Mutant?
    #endif

    /// True in a build that has them.
    public static var areBuilt: Bool {
        #if MUTANTS
            true
        #else
            false
        #endif
    }
    /// Plants this one in the whole process.
    public func plant() {
        #if MUTANTS
            unsafe Mutant.chosen = self
        #endif
    }
}

/// True when the bug is planted: never, but in builds for that purpose.
@inlinable @inline(__always) public func isPlanted(_ mutant: Mutant) -> Bool {
    #if MUTANTS
        unsafe Mutant.chosen == mutant
    #else
        false
    #endif
}
