import BlockTypes
import SCSIBoundary

/// A command that waits for something, or a piece of work without one.
struct RunningTask: Sendable {
    /// Who wants to know when it is done.
    enum Origin: Sendable {
        case command(TaskID)
        /// A step of an EXTENDED COPY; it is told by ``LogicalUnit/endedTransfers``.
        case transfer(CopyNumber)
        /// A sanitize operation that was answered already.
        case background
    }
    /// What it waits for. `queued -> submitted -> (submitted ...) -> gone`, or `storing`, or `copying`.
    enum Stage: Hashable, Sendable {
        case queued
        case submitted
        case storing
        case copying
    }
    var origin: Origin
    let nexus: NexusID?
    var stage: Stage
    /// Ends at the next occasion, without an answer.
    var isAborting = false
    /// Ends with status TASK ABORTED at the next occasion.
    var isPreempted = false
    /// This version of the reservations is settled only when the task has ended.
    var holdsVersion: UInt64?
    /// What its answer says of the data from the initiator.
    var wantedOutBytes = 0
    private(set) var work: Work
    /// Of the work.
    private(set) var shape: WorkShape

    init(origin: Origin, nexus: NexusID?, stage: Stage, wantedOutBytes: Int = 0, work: Work) {
        (self.origin, self.nexus, self.stage) = (origin, nexus, stage)
        (self.wantedOutBytes, self.work, shape) = (wantedOutBytes, work, work.shape)
    }
    mutating func goOn(with work: Work) { (self.work, shape) = (work, work.shape) }
}

/// What most often has to be known of a task's work.
enum WorkShape: Hashable, Sendable {
    /// One request to the volume, and nothing behind it: what most commands are.
    case oneRead, oneWrite
    case sanitize
    case other
}

/// A run of bytes of the volume.
struct ByteRun: Hashable, Sendable {
    var start: UInt64
    var count: UInt64
    var end: UInt64 { start + count }
    var offset: ByteOffset { ByteOffset(bytes: start) }
    var length: ByteCount { ByteCount(bytes: count) }
    /// The first `max` bytes.
    func prefix(_ max: Int) -> ByteRun { ByteRun(start: start, count: min(count, UInt64(max))) }
}

/// The next thing that a task does with its volume.
enum Work: Sendable {
    /// Its data is the answer.
    case read(ByteRun)
    case write(ByteRun, [Payload], then: AfterWrite)
    /// Compares with `expected`, which starts at `base`; with `repeats`, every block with the one given.
    case verify(ByteRun, base: UInt64, expected: [Payload], repeats: Bool)
    case compare(ByteRun, expected: [Payload], new: [Payload], flushes: Bool)
    case or(ByteRun, [Payload], flushes: Bool)
    /// One block to all blocks of the run.
    case same(ByteRun, block: [UInt8])
    case zero(ByteRun)
    /// Gives blocks up, run by run.
    case discard([ByteRun], zeroing: Bool)
    case status(BlockStatusWork)
    case flush
    case sanitize(SanitizeWork)
    /// Other gateways are to refuse commands before it begins.
    case sanitizeStart(SanitizeWork, isImmediate: Bool)
    /// They are to know how it ended.
    case sanitizeEnd(Sense?)
    /// The change of reservations is what it waits for.
    case reserve
    /// The target does the copying.
    case copy

    /// Done twice it has the same end as done once. A comparison whose write has happened fails the next
    /// time, and a SANITIZE begins anew.
    fileprivate var isRepeatable: Bool {
        switch self {
        case .compare, .sanitize, .sanitizeStart, .sanitizeEnd, .reserve, .copy: false
        case .read, .write, .verify, .or, .same, .zero, .discard, .status, .flush: true
        }
    }
    fileprivate var shape: WorkShape {
        switch self {
        case .read: .oneRead
        case .write(_, _, .nothing): .oneWrite
        case .sanitize: .sanitize
        default: .other
        }
    }
}

/// What follows a write.
enum AfterWrite: Hashable, Sendable {
    case nothing
    case flush
    /// Read again; `compares` with what was written.
    case verify(compares: Bool)
}

/// GET LBA STATUS under way.
struct BlockStatusWork: Sendable {
    /// What is still to be asked for.
    var run: ByteRun
    var descriptors: [(start: UInt64, blocks: UInt64, isStored: Bool)] = []
    var descriptorsMax: Int
    var steps = 0
    let allocationBytes: Int
}

extension LogicalUnit {
    /// Starts work that stands for itself.
    mutating func start(
        _ work: consuming Work, from origin: RunningTask.Origin, nexus: NexusID?, wantedOutBytes: Int = 0,
        locking blocks: Range<UInt64>?, exclusive: Bool, effects: inout [Effect]
    ) {
        let number = tasks.add(
            RunningTask(
                origin: origin, nexus: nexus, stage: .queued, wantedOutBytes: wantedOutBytes, work: work))
        if let blocks, !blocks.isEmpty, !locks.acquire(number, blocks, exclusive: exclusive) { return }
        submit(number, effects: &effects)
    }
    /// Asks the volume for what the task's work needs next.
    mutating func submit(_ number: TaskNumber, effects: inout [Effect]) {
        guard let work = tasks.work(of: number) else { return }
        tasks.setStage(.submitted, of: number)
        let request: VolumeRequest
        switch consume work {
        case .read(let run): request = .read(start: run.offset, byteCount: Int(run.count))
        case .write(let run, let data, _): request = .write(start: run.offset, payloads: data)
        case .verify(let run, _, _, _):
            let step = run.prefix(limits.stepBytesMax)
            request = .read(start: step.offset, byteCount: Int(step.count))
        case .compare(let run, let expected, let new, _) where configuration.compareUnitBytes > 0:
            request = .compareAndWrite(start: run.offset, expected: expected, new: new)
        case .compare(let run, _, _, _), .or(let run, _, _):
            request = .read(start: run.offset, byteCount: Int(run.count))
        case .same(let run, let block):
            let step = run.prefix(limits.stepBytesMax)
            request = .write(
                start: step.offset, payloads: [ByteRuns.repeated(block, byteCount: Int(step.count))])
        case .zero(let run):
            let step = run.prefix(limits.discardStepBytesMax)
            request = .writeZeroes(start: step.offset, length: step.length)
        case .discard(let runs, let zeroing):
            guard let run = runs.first?.prefix(limits.discardStepBytesMax) else { return }
            request =
                zeroing
                ? .writeZeroes(start: run.offset, length: run.length)
                : .trim(start: run.offset, length: run.length)
        case .status(let status):
            let step = status.run.prefix(VolumeRequest.statusBytesMax)
            request = .blockStatus(start: step.offset, length: step.length)
        case .flush: request = .flush
        case .sanitize(let sanitize): request = sanitize.request(limits)
        case .reserve, .sanitizeStart, .sanitizeEnd, .copy: return
        }
        effects.append(.submit(VolumeToken(unit: self.number, task: number), request))
    }

    /// The volume has answered.
    mutating func volumeCompleted(_ number: TaskNumber, _ result: VolumeResult, effects: inout [Effect]) {
        invariant(
            tasks.stage(of: number) == .submitted, "an answer of the volume that nothing waits for")
        switch result {
        case .failure(let error):
            guard let work = tasks.work(of: number) else { return }
            finish(number, .failure(sense(for: error, during: work)), effects: &effects)
        case .success(let segments) where tasks.shape(of: number) == .oneRead:
            finish(number, .success(segments), effects: &effects)
        case .success where tasks.shape(of: number) == .oneWrite:
            finish(number, .success([]), effects: &effects)
        case .success(let segments):
            guard let work = tasks.work(of: number) else { return }
            advance(number, work, segments, effects: &effects)
        }
    }
    private mutating func advance(
        _ number: TaskNumber, _ work: Work, _ segments: [ReadSegment], effects: inout [Effect]
    ) {
        switch step(work, segments) {
        case .failure(let sense): finish(number, .failure(sense), effects: &effects)
        case .success(.done(let answer)): finish(number, .success(answer), effects: &effects)
        case .success(.next(let work)):
            tasks[number.rawValue]?.goOn(with: work)
            if case .sanitize(let sanitize) = work { sanitizeAdvanced(sanitize, effects: &effects) }
            // Between two steps is an occasion to end.
            if let task = tasks[number.rawValue], task.isAborting || task.isPreempted {
                finish(number, .failure(Sense(.abortedCommand, .none)), effects: &effects)
            } else {
                submit(number, effects: &effects)
            }
        }
    }

    /// What a step of work led to.
    enum Outcome {
        case done([ReadSegment])
        case next(Work)
    }
    private func step(_ work: Work, _ segments: [ReadSegment]) -> Result<Outcome, Sense> {
        switch work {
        case .read: return .success(.done(segments))
        case .write(let run, let data, let then):
            switch then {
            case .nothing: return .success(.done([]))
            case .flush: return .success(.next(.flush))
            case .verify(let compares):
                return .success(
                    .next(.verify(run, base: run.start, expected: compares ? data : [], repeats: false)))
            }
        case .verify(let run, let base, let expected, let repeats):
            return verified(run, base, expected, repeats, segments)
        case .compare(_, _, _, let flushes) where configuration.compareUnitBytes > 0:
            return .success(flushes ? .next(.flush) : .done([]))
        case .compare(let run, let expected, let new, let flushes):
            if let offset = ByteRuns.firstDifference(segments, expected) {
                return .failure(Sense(.miscompare, .miscompareDuringVerify, information: UInt64(offset)))
            }
            return .success(.next(.write(run, new, then: flushes ? .flush : .nothing)))
        case .or(let run, let data, let flushes):
            let united = ByteRuns.union(segments, data, byteCount: Int(run.count))
            return .success(.next(.write(run, [united], then: flushes ? .flush : .nothing)))
        case .same(let run, let block):
            let left = run.dropping(run.prefix(limits.stepBytesMax).count)
            return .success(left.count == 0 ? .done([]) : .next(.same(left, block: block)))
        case .zero(let run):
            let left = run.dropping(run.prefix(limits.discardStepBytesMax).count)
            return .success(left.count == 0 ? .done([]) : .next(.zero(left)))
        case .discard(var runs, let zeroing):
            let left = runs[0].dropping(runs[0].prefix(limits.discardStepBytesMax).count)
            if left.count == 0 { runs.removeFirst() } else { runs[0] = left }
            return .success(runs.isEmpty ? .done([]) : .next(.discard(runs, zeroing: zeroing)))
        case .status(let status): return .success(advanced(status, segments))
        case .flush: return .success(.done([]))
        case .sanitize(let sanitize):
            guard let next = sanitize.advanced(limits) else { return .success(.done([])) }
            return .success(.next(.sanitize(next)))
        case .reserve, .sanitizeStart, .sanitizeEnd, .copy: return .success(.done([]))
        }
    }
    private func verified(
        _ run: ByteRun, _ base: UInt64, _ expected: [Payload], _ repeats: Bool, _ segments: [ReadSegment]
    ) -> Result<Outcome, Sense> {
        let step = run.prefix(limits.stepBytesMax)
        if !expected.isEmpty {
            let wanted =
                repeats
                ? [
                    ByteRuns.repeated(
                        ByteRuns.gather(expected, atMost: blockBytes), byteCount: Int(step.count))
                ]
                : ByteRuns.slice(expected, Int(run.start - base), Int(step.count))
            if let offset = ByteRuns.firstDifference(segments, wanted) {
                let block = (step.start + UInt64(offset)) / UInt64(blockBytes)
                return .failure(Sense(.miscompare, .miscompareDuringVerify, information: block))
            }
        }
        let left = run.dropping(step.count)
        guard left.count > 0 else { return .success(.done([])) }
        return .success(.next(.verify(left, base: base, expected: expected, repeats: repeats)))
    }

    /// Ends a command with a status that has no sense data.
    mutating func finish(_ number: TaskNumber, status: UInt8, effects: inout [Effect]) {
        guard case .command(let id)? = tasks[number.rawValue]?.origin, let task = forget(number) else {
            return
        }
        guard !task.isAborting else { return effects.append(.aborted(id)) }
        effects.append(.answer(id, answer(status: status, wantedOutBytes: task.wantedOutBytes)))
    }
    /// Ends a task: answers, lets those go on that waited for its blocks, forgets it.
    mutating func finish(
        _ number: TaskNumber, _ result: consuming Result<[ReadSegment], Sense>, effects: inout [Effect]
    ) {
        if tasks.shape(of: number) == .sanitize {
            return storeSanitizeEnd(number, result, effects: &effects)
        }
        guard let task = forget(number) else { return }
        switch task.origin {
        case .command(let id):
            switch consume result {
            case _ where task.isPreempted: effects.append(.answer(id, SCSIAnswer(status: Status.taskAborted)))
            case .success(let data):
                effects.append(.answer(id, SCSIAnswer(dataIn: data, wantedOutBytes: task.wantedOutBytes)))
            // It was to end, and what it did last did not happen or was not all of it.
            case .failure where task.isAborting: effects.append(.aborted(id))
            case .failure(let sense):
                effects.append(.answer(id, failed(sense, wantedOutBytes: task.wantedOutBytes)))
            }
        case .transfer(let copy): endedTransfers.append(EndedTransfer(copy: copy, result: result))
        case .background: break
        }
        var ready: [TaskNumber] = []
        locks.release(number, ready: &ready)
        for next in ready { submit(next, effects: &effects) }
        if task.holdsVersion != nil { settle(effects: &effects) }
    }
    /// - Returns: `nil` when there is no such task any more.
    private mutating func forget(_ number: TaskNumber) -> RunningTask? {
        guard let task = tasks.remove(number) else { return nil }
        if case .sanitizeStart = task.work { sanitizeWork = nil }
        return task
    }
    func failed(_ sense: Sense, wantedOutBytes: Int) -> SCSIAnswer {
        SCSIAnswer(
            status: Status.checkCondition, sense: sense.encoded(asDescriptors: modes.usesDescriptorSense),
            wantedOutBytes: wantedOutBytes)
    }

    /// Takes a command back if nothing of it has begun, or as soon as its present step has ended.
    /// - Returns: false when it is not of this unit.
    mutating func abort(_ id: TaskID, effects: inout [Effect]) -> Bool {
        // Rare enough to look at all of them; every command would pay for a table.
        guard
            let place = tasks.firstIndex(where: {
                if case .command(let own)? = $0?.origin { own == id } else { false }
            })
        else { return false }
        let number = TaskNumber(rawValue: place)
        switch tasks.work(of: number) {
        case .sanitize, .sanitizeEnd:
            // SBC-4, section 4.11.2: it goes on, only nobody waits for it any more.
            tasks[number.rawValue]?.origin = .background
            effects.append(.aborted(id))
            return true
        default: break
        }
        switch tasks[number.rawValue]?.stage {
        case .queued:
            tasks[number.rawValue]?.isAborting = true
            finish(number, .failure(Sense(.abortedCommand, .none)), effects: &effects)
        case .storing:
            tasks[number.rawValue]?.isAborting = true
            dropChange(of: number, effects: &effects)
        case .submitted, .copying: tasks[number.rawValue]?.isAborting = true
        case nil: break
        }
        return true
    }
    /// Ends all commands of a party whose registration was preempted with PREEMPT AND ABORT in `version`.
    mutating func preempt(
        _ party: ReservationParty, in version: UInt64, except: NexusID?, effects: inout [Effect]
    ) {
        for index in tasks.indices {
            guard let task = tasks[index], let nexus = task.nexus, nexus != except,
                self.party(nexus)?.reservation == party
            else { continue }
            guard case .command = task.origin else {
                // A step of a copy: the next one is refused, this one is waited for.
                if tasks[index]?.holdsVersion == nil { tasks[index]?.holdsVersion = version }
                continue
            }
            tasks[index]?.isPreempted = true
            let number = TaskNumber(rawValue: index)
            switch task.stage {
            case .queued: finish(number, .failure(Sense(.abortedCommand, .none)), effects: &effects)
            case .storing: dropChange(of: number, effects: &effects)
            case .submitted, .copying:
                if tasks[index]?.holdsVersion == nil { tasks[index]?.holdsVersion = version }
            }
        }
    }

    /// The only place where a volume's error becomes sense data. The shell's log has the cause.
    private func sense(for error: VolumeError, during work: Work) -> Sense {
        switch error {
        case .outOfRange: Sense(.illegalRequest, .blockOutOfRange)
        case .readOnly: Sense(.dataProtect, .writeProtected)
        case .noSpace: Sense(.dataProtect, .spaceAllocationFailed)
        case .checksumMismatch: Sense(.mediumError, .unrecoveredReadError)
        // The volume may be attached again, and initiators ask again for what can be done twice.
        case .fenced where work.isRepeatable: Self.becomingReady
        case .fenced, .deleted, .shuttingDown, .replicasUnavailable:
            Sense(.notReady, .notReadyManualIntervention)
        case .miscompare(let byte):
            Sense(.miscompare, .miscompareDuringVerify, information: UInt64(byte))
        }
    }
}

extension ByteRun {
    func dropping(_ bytes: UInt64) -> ByteRun { ByteRun(start: start + bytes, count: count - bytes) }
}
