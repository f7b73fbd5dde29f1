import BlockTypes
import SCSIBoundary

/// SANITIZE under way: the whole volume, from the start, pass by pass.
struct SanitizeWork: Hashable, Sendable {
    /// What is written to every block; nil gives all blocks up.
    var pattern: [UInt8]?
    var invertsBetweenPasses: Bool
    var passesLeft: Int
    let passes: Int
    var run: ByteRun
    let sizeBytes: UInt64

    private func stepBytes(_ limits: SCSILimits) -> Int {
        pattern == nil ? limits.discardStepBytesMax : limits.stepBytesMax
    }
    func request(_ limits: SCSILimits) -> VolumeRequest {
        let step = run.prefix(stepBytes(limits))
        guard let pattern else { return .trim(start: step.offset, length: step.length) }
        return .write(
            start: step.offset, payloads: [ByteRuns.repeated(pattern, byteCount: Int(step.count))])
    }
    /// The work after this step; nil when that was all.
    func advanced(_ limits: SCSILimits) -> SanitizeWork? {
        var next = self
        next.run = run.dropping(run.prefix(stepBytes(limits)).count)
        guard next.run.count == 0 else { return next }
        next.passesLeft -= 1
        guard next.passesLeft > 0 else { return nil }
        next.run = ByteRun(start: 0, count: sizeBytes)
        if invertsBetweenPasses { next.pattern = pattern.map { $0.map { ~$0 } } }
        return next
    }
    /// In 65,536ths.
    var progress: UInt16 {
        let total = sizeBytes / 65_536 * UInt64(passes) + 1
        let done = (sizeBytes * UInt64(passes - passesLeft) + run.start) / 65_536
        return UInt16(clamping: done * 65_535 / total)
    }
}

/// SANITIZE. All gateways refuse to touch the blocks before the first of them is overwritten, and until the
/// cluster knows how it ended: the table of reservations says so to them.
extension LogicalUnit {
    /// What commands are told while the blocks are not to be had.
    var sanitizeSense: Sense? {
        if let sanitizeWork { return Sense(.notReady, .sanitizeInProgress, progress: sanitizeWork.progress) }
        switch reservations.sanitize {
        case .none: return nil
        case .running: return Sense(.notReady, .sanitizeInProgress, progress: reportedProgress)
        case .failed: return Sense(.mediumError, .sanitizeFailed)
        }
    }
    var hasFailedSanitize: Bool { if case .failed = reservations.sanitize { true } else { false } }

    mutating func startSanitize(_ request: Request, effects: inout [Effect]) throws(Sense) {
        // What failed in the restricted completion mode ends by an operation in that mode that ends well, and
        // by nothing else (SBC-4, sections 4.11.1 and 5.30.1).
        if case .failed(allowsExit: false) = reservations.sanitize {
            if request.cdb.serviceAction == 0x1f { throw .invalidField(1, bit: 4) }
            if request.has(0x20, at: 1) { throw .invalidField(1, bit: 5) }
        }
        switch request.cdb.serviceAction {
        case 0x01:
            let (pattern, passes, inverts) = try overwritePattern(request)
            // The last pass leaves the pattern itself.
            let first = inverts && passes % 2 == 0 ? pattern.map { ~$0 } : pattern
            begin(request, pattern: first, passes: passes, inverts: inverts, effects: &effects)
        case 0x02:
            guard request.wantedOutBytes == 0 else { throw .invalidField(7) }
            begin(request, pattern: nil, passes: 1, inverts: false, effects: &effects)
        default:
            guard request.wantedOutBytes == 0 else { throw .invalidField(7) }
            change(.exitSanitizeFailure, request, effects: &effects)
        }
    }
    /// The parameter list of OVERWRITE: how often, and what (SBC-4, section 5.30.2.2).
    private func overwritePattern(
        _ request: Request
    ) throws(Sense) -> (pattern: [UInt8], passes: Int, inverts: Bool) {
        guard request.wantedOutBytes > 4, request.wantedOutBytes <= blockBytes + 4 else {
            throw .invalidField(7)
        }
        let list = request.parameters(limits)
        guard list.count == request.wantedOutBytes else { throw .shortParameters }
        let passes = Int(list[0] & 0x1f)
        guard passes > 0 else { throw .invalidParameter(0, bit: 4) }
        let count = list.half(at: 2)
        guard count > 0, count <= blockBytes, count == list.count - 4 else { throw .invalidParameter(2) }
        // Blocks begin with the pattern; it is repeated up to each block's end.
        let block = (0..<blockBytes).map { list[4 + $0 % count] }
        return (block, passes, list[0] & 0x80 != 0)
    }
    private mutating func begin(
        _ request: Request, pattern: [UInt8]?, passes: Int, inverts: Bool, effects: inout [Effect]
    ) {
        let work = SanitizeWork(
            pattern: pattern, invertsBetweenPasses: inverts, passesLeft: passes, passes: passes,
            run: ByteRun(start: 0, count: blockCount * UInt64(blockBytes)),
            sizeBytes: blockCount * UInt64(blockBytes))
        sanitizeWork = work
        let number = tasks.add(
            RunningTask(
                origin: .command(request.task), nexus: request.party.nexus, stage: .storing,
                wantedOutBytes: request.wantedOutBytes,
                work: .sanitizeStart(work, isImmediate: request.has(0x80, at: 1))))
        let wish = ReservationRequest.startSanitize(allowsExit: request.has(0x20, at: 1))
        change(.request(wish, request.party.reservation), for: .command(number), effects: &effects)
    }
    /// Every gateway refuses commands for the blocks by now, and has ended those it had.
    mutating func beginSanitize(_ number: TaskNumber, effects: inout [Effect]) {
        guard let task = tasks[number.rawValue], case .sanitizeStart(let work, let isImmediate) = task.work
        else { return }
        tasks[number.rawValue]?.goOn(with: .reserve)
        let isUnwanted = task.isAborting || task.isPreempted
        // It waits for all that is under way here, and all that comes is refused: nothing meets it.
        guard isImmediate || isUnwanted else {
            tasks[number.rawValue]?.goOn(with: .sanitize(work))
            tasks[number.rawValue]?.stage = .queued
            if blockCount == 0 || locks.acquire(number, 0..<blockCount, exclusive: true) {
                submit(number, effects: &effects)
            }
            return
        }
        start(
            .sanitize(work), from: .background, nexus: nil, locking: 0..<blockCount, exclusive: true,
            effects: &effects)
        finish(
            number, isUnwanted ? .failure(Sense(.abortedCommand, .none)) : .success([]), effects: &effects)
    }
    /// A step is done, and this is left.
    mutating func sanitizeAdvanced(_ work: SanitizeWork, effects: inout [Effect]) {
        if work.progress != sanitizeWork?.progress {
            effects.append(.reportSanitize(number, work.progress))
        }
        sanitizeWork = work
    }
    /// All is overwritten, or something was not: the other gateways are to know before it counts as ended.
    mutating func storeSanitizeEnd(
        _ number: TaskNumber, _ result: Result<[ReadSegment], Sense>, effects: inout [Effect]
    ) {
        guard case .running(let port, _) = reservations.sanitize else {
            // The others have given this gateway up, and what it did with it.
            return sanitizeEndStored(
                number, .failure(Sense(.mediumError, .sanitizeFailed)), effects: &effects)
        }
        var failure: Sense?
        if case .failure(let sense) = result { failure = sense }
        tasks[number.rawValue]?.goOn(with: .sanitizeEnd(failure))
        tasks[number.rawValue]?.stage = .storing
        let own = ReservationParty(initiatorPort: "", targetPort: port)
        change(
            .request(.endSanitize(hasFailed: failure != nil), own), for: .sanitize(number),
            effects: &effects)
    }
    mutating func sanitizeEndStored(
        _ number: TaskNumber, _ result: Result<[ReadSegment], Sense>, effects: inout [Effect]
    ) {
        sanitizeWork = nil
        effects.append(.reportSanitize(self.number, 0))
        var failure: Sense?
        if case .failure(let sense) = result { failure = sense }
        if case .sanitizeEnd(.some(let sense))? = tasks[number.rawValue]?.work { failure = sense }
        tasks[number.rawValue]?.goOn(with: .reserve)
        finish(number, failure.map { .failure($0) } ?? .success([]), effects: &effects)
    }
    /// The table says that this gateway sanitizes, and it does not: it was started anew, or could not say how
    /// it ended. Then it has failed.
    mutating func endOrphanedSanitize(by place: Int, effects: inout [Effect]) {
        guard case .running(let port, _) = reservations.sanitize, sanitizeWork == nil,
            port == parties[place].names.portalGroupTag, changes.waiting.isEmpty
        else { return }
        let party = parties[place].reservation
        change(.request(.endSanitize(hasFailed: true), party), for: .nobody, effects: &effects)
    }
    /// Another gateway sanitizes: it begins when what is under way here has ended.
    /// - Parameter version: the table that is settled by then.
    mutating func holdForSanitize(_ version: UInt64) {
        for index in tasks.indices where tasks[index]?.holdsVersion == nil {
            switch tasks[index]?.stage {
            case .queued, .submitted: tasks[index]?.holdsVersion = version
            case .storing, .copying, nil: break
            }
        }
    }
}
