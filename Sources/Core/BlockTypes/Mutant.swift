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
    /// The epochs that a store has accepted do not survive a restart.
    case epochInMemory = "epoch-in-memory"
    /// A leader serves without asking whether its lease still runs.
    case leaseUnheld = "lease-unheld"
    /// A leader believes in its lease for 2 % longer than its followers promised.
    case leaseTooLong = "lease-too-long"
    /// A replica that starts again owes nothing to the leader that it followed.
    case promiseForgotten = "promise-forgotten"
    /// A replica votes again in a term in which it has voted.
    case votesTwice = "votes-twice"
    /// Entries of an earlier term count as committed as soon as a majority has them.
    case oldTermCounted = "old-term-counted"
    /// A new leader serves at once instead of committing an entry of its own term first.
    case noopSkipped = "noop-skipped"
    /// The window of done requests forgets its newest one when the next comes.
    case dedupWindowShort = "dedup-window-short"
    /// Requests go past a fence that is on its way into the log: a takeover or a resize races with writes.
    case fenceUngated = "fence-ungated"
    /// Who answers at a server's address is taken for that server.
    case addressBelieved = "address-believed"
    /// A partly covered block is read and patched beside other changes of it.
    case edgeUnordered = "edge-unordered"
    /// A change that reaches the end of a stripe group lacks the last unit.
    case stripeEndLost = "stripe-end-lost"
    /// A resize leaves what lay behind the end in the last stripe group.
    case tailUntrimmed = "tail-untrimmed"
    /// A write with FUA over NBD is answered when it is given to the volume.
    case forcedWriteEarly = "forced-write-early"
    /// A takeover gets the epoch of the attachment that it ends.
    case epochReused = "epoch-reused"
    /// Two processes may run as one chunkserver.
    case twinAdmitted = "twin-admitted"
    /// A metadata database that was put back from an older copy counts.
    case databaseBelieved = "database-believed"
    /// A metadata server that stands by leads without waiting for the database.
    case databaseUnheld = "database-unheld"

    /// A connection is read on, however many of its requests are under way.
    case readingUnpaused = "reading-unpaused"
    /// A client's repeated attempt gets a new tag.
    case retryRetagged = "retry-retagged"
    /// Members of a group share one window of done requests.
    case dedupShared = "dedup-shared"
    /// Blocks that are being compared or patched may be changed meanwhile.
    case amendUnordered = "amend-unordered"
    /// A comparison that found a difference leaves no trace: a late copy of it may find none.
    case missUnrecorded = "miss-unrecorded"
    /// A member that was removed by force stays among those that copysets accept.
    case removalUnfenced = "removal-unfenced"
    /// An iSCSI gateway answers for a change that the others have not heard of.
    case changeUnawaited = "change-unawaited"
    /// It keeps another one's reset from its own initiators.
    case resetUnspread = "reset-unspread"
    /// It compares and writes under its own locks, as if it were alone.
    case comparisonLocal = "comparison-local"
    /// It says of what a change ends that nothing is left of it, while its volume still has some.
    case settlingUnawaited = "settling-unawaited"
    /// Whoever does not hear of a change is taken off the list of gateways, and may write on.
    case gatewayUnfenced = "gateway-unfenced"
    /// SANITIZE begins before the other gateways refuse commands for the blocks.
    case sanitizeUnawaited = "sanitize-unawaited"
    /// What a gateway was sanitizing counts as done when it is taken out.
    case sanitizeForgotten = "sanitize-forgotten"
    /// An iSCSI gateway that stood still reads on.
    case standstillUnnoticed = "standstill-unnoticed"

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
