import BlockTypes
import SCSIBoundary

/// Where a sanitize operation stands (SBC-4, section 4.11).
enum SanitizeState: Hashable, Sendable {
    case none
    case running(SanitizeWork)
    /// It failed; the unit answers nothing about its blocks until another one ends well, or
    /// EXIT FAILURE MODE where the failed one allowed that.
    case failed(allowsExit: Bool)

    var hasFailed: Bool { if case .failed = self { true } else { false } }
}

/// SANITIZE under way: the whole volume, from the start, pass by pass.
struct SanitizeWork: Hashable, Sendable {
    /// What is written to every block; nil gives all blocks up.
    var pattern: [UInt8]?
    var invertsBetweenPasses: Bool
    var passesLeft: Int
    let passes: Int
    var run: ByteRun
    let sizeBytes: UInt64
    let allowsExit: Bool

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

extension LogicalUnit {
    /// What commands are told while the blocks are not to be had.
    var sanitizeSense: Sense? {
        switch sanitize {
        case .none: nil
        case .running(let work): Sense(.notReady, .sanitizeInProgress, progress: work.progress)
        case .failed: Sense(.mediumError, .sanitizeFailed)
        }
    }

    mutating func startSanitize(_ request: Request, effects: inout [Effect]) throws(Sense) {
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
            if case .failed(let allowsExit) = sanitize {
                guard allowsExit else { throw Sense(.mediumError, .sanitizeFailed) }
                sanitize = .none
            }
            answer(request, effects: &effects)
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
            sizeBytes: blockCount * UInt64(blockBytes), allowsExit: request.has(0x20, at: 1))
        sanitize = .running(work)
        let isImmediate = request.has(0x80, at: 1)
        // It waits for all that is under way, and all that comes is refused: nothing meets it.
        start(
            .sanitize(work), from: isImmediate ? .background : .command(request.task),
            nexus: isImmediate ? nil : request.party.nexus, wantedOutBytes: request.wantedOutBytes,
            locking: 0..<blockCount, exclusive: true, effects: &effects)
        if isImmediate { answer(request, effects: &effects) }
    }
    mutating func sanitizeEnded(_ result: Result<[ReadSegment], Sense>) {
        guard case .running(let work) = sanitize else { return }
        switch result {
        case .success: sanitize = .none
        case .failure: sanitize = .failed(allowsExit: work.allowsExit)
        }
    }
}
