import Checkers

/// What a unit answers on account of SANITIZE (SBC-4, section 4.11).
enum Sanitizing {
    /// SANITIZE IN PROGRESS.
    static let isRunning = SimInitiator.Answer.sense([2, 0x04, 0x1b])
    /// SANITIZE COMMAND FAILED.
    static let hasFailed = SimInitiator.Answer.sense([3, 0x31, 0x03])
    /// INVALID FIELD IN CDB: what failed may not be left, and no operation that may is begun.
    static let isRestricted = SimInitiator.Answer.sense([5, 0x24, 0x00])
}

/// One SANITIZE, as whoever asked for it sees it.
struct SanitizeAttempt {
    let allowsExit: Bool
    let isImmediate: Bool
    /// What every sector holds in the end, and between two passes: words of their own. No pattern: zeroes.
    let pattern: UInt64?
    let passes: Int
    /// The writes of the whole unit that it is, by its last pass, and by another one.
    fileprivate let last: UInt64
    fileprivate let between: UInt64?
}

/// What is known of SANITIZE in a run.
struct SanitizeState {
    var sent = 0
    var done = 0
    /// How often the unit was seen to have failed.
    var failed = 0
    /// Somebody gave up waiting for an answer: the command may still come to a gateway.
    var mayLinger = false
    /// That was EXIT FAILURE MODE: the end of a failure says nothing any more.
    var exitMayLinger = false
    /// It was answered at its beginning, and has not been seen to end.
    fileprivate var running: SanitizeAttempt?
    /// Whatever was asked for since then.
    fileprivate var issuedSince: [UInt64] = []
    /// The unit was told to have failed, and nobody has done anything about it since.
    fileprivate var isKnownFailed = false
    /// What was asked for since then.
    fileprivate var issuedInFailure: Set<UInt64> = []  // Looked up, never iterated.
}

// SANITIZE is a write of the whole unit, from the command to its end.
//
// Who hears GOOD at once knows that every gateway refuses commands for the blocks from then on. A command
// that was sent after that and is done proves that it is over, and comes after it.
extension PathRecord {
    /// A word that no write puts anywhere, and no inverted pattern is.
    private static let patternBit: UInt64 = 1 << 63

    mutating func startSanitize(erases: Bool, passes: Int, isImmediate: Bool, allowsExit: Bool)
        -> SanitizeAttempt
    {
        let all = Self.registers(0..<(sanitizedSectors ?? 0))
        sanitizing.sent += 1
        sanitizing.isKnownFailed = false
        let last = nextNumber()
        let pattern = erases ? nil : last | Self.patternBit
        var between: UInt64?
        if let pattern, passes > 1 {
            let number = nextNumber()
            history.startWrite(number, all, value: ~pattern)
            between = number
        }
        history.startWrite(last, all, value: pattern ?? 0)
        return SanitizeAttempt(
            allowsExit: allowsExit, isImmediate: isImmediate, pattern: pattern, passes: passes, last: last,
            between: between)
    }
    /// Nothing of it has happened.
    mutating func refuse(_ attempt: SanitizeAttempt) {
        for id in [attempt.last, attempt.between].compactMap(\.self) { history.refuse(id) }
    }
    /// It is over, and has overwritten everything.
    mutating func isSanitized(_ attempt: SanitizeAttempt) {
        sanitizing.done += 1
        if let between = attempt.between { history.refuse(between) }
        history.finishWrite(attempt.last)
    }
    /// Nobody knows what became of it, or will.
    mutating func giveUp(_ attempt: SanitizeAttempt) {
        forgetRunning()
        for id in [attempt.last, attempt.between].compactMap(\.self) { history.fail(id) }
    }
    /// It was answered with GOOD, and goes on.
    mutating func begins(_ attempt: SanitizeAttempt) {
        guard !sanitizing.exitMayLinger else { return giveUp(attempt) }
        sanitizing.running = attempt
    }
    var isFailureCertain: Bool { sanitizing.isKnownFailed }
    /// The unit is told to have failed.
    /// - Parameter isNews: by a gateway that knew of the present operation.
    mutating func sanitizeFailed(isNews: Bool) {
        guard let attempt = sanitizing.running else { return }
        guard isNews, !sanitizing.mayLinger else { return giveUp(attempt) }
        forgetRunning()
        for id in [attempt.last, attempt.between].compactMap(\.self) { history.expire(id) }
        (sanitizing.isKnownFailed, sanitizing.issuedInFailure) = (true, [])
    }
    /// EXIT FAILURE MODE is on its way.
    mutating func exits() { sanitizing.isKnownFailed = false }
    private mutating func forgetRunning() { (sanitizing.running, sanitizing.issuedSince) = (nil, []) }

    mutating func noteIssue(_ number: UInt64) {
        if sanitizing.running != nil { sanitizing.issuedSince.append(number) }
        if sanitizing.isKnownFailed { sanitizing.issuedInFailure.insert(number) }
    }
    /// A command for blocks is answered with GOOD.
    /// - Returns: what is wrong with that.
    mutating func isTaken(_ number: UInt64) -> String? {
        if sanitizing.isKnownFailed, sanitizing.issuedInFailure.contains(number) {
            return "a command is taken, though SANITIZE has failed and nobody has mended that"
        }
        if sanitizing.issuedSince.contains(number) { provesEnd() }
        return nil
    }
    /// Something has happened that does not happen before what is under way has ended.
    mutating func provesEnd() {
        guard let attempt = sanitizing.running else { return }
        isSanitized(attempt)
        // None of these was taken before that.
        for other in sanitizing.issuedSince { history.beginsNow(other) }
        forgetRunning()
    }
}
