import BlockTypes
import Environment
import ISCSIInitiator
import Simulation

/// An initiator that overwrites the whole unit by SANITIZE, now and then, and asks all gateways what became
/// of it. One that failed it repeats, or leaves by EXIT FAILURE MODE.
final class SanitizingInitiator {
    /// One for each gateway.
    let ports: [SimInitiator]
    private let record: GatewayRecord
    private let key: UInt64
    private var random: SeededRandom
    private var attemptsLeft: Int
    /// False: what has begun is ended, and nothing else.
    private var mayAsk = true
    /// Nothing has begun, and the unit was ready when it was asked last.
    private(set) var isResting = true
    /// The unit has failed, as far as it knows.
    private var isNeeded = false
    /// Gateways that have told since the last SANITIZE that it runs: what they tell next is no old news.
    private var haveHeard: Set<Int> = []  // Looked up, never iterated.
    /// Other initiators' sessions: one of them may be registered where it is not.
    private let helpers: [SimInitiator]
    private var conflicts = 0
    /// So many gateways have let it read since all is calm.
    private var assured = 0
    /// The unit has failed, and is reserved: nobody who is here may write, and nobody can register.
    private(set) var isLockedOut = false
    /// Something happens to this gateway, before anything is overwritten or while it is.
    var strike: (_ place: Int) -> Void = { _ in }
    /// A SANITIZE has no answer yet.
    private var isWaiting = false
    /// Longer than an operation takes whose gateway stands still as long as any does.
    private static let patience = Duration.seconds(20)
    private static let conflictsMax = 60

    init(
        _ ports: [SimInitiator], helpers: [SimInitiator], _ record: GatewayRecord, _ world: SimWorld,
        key: UInt64, attempts: Int
    ) {
        (self.ports, self.helpers, self.record, self.key) = (ports, helpers, record, key)
        attemptsLeft = attempts
        random = SeededRandom(seed: world.random.next())
    }
    func start() { rest() }
    private func later(upTo milliseconds: Int, _ body: @escaping (SanitizingInitiator) -> Void) {
        ports[0].host.after(.milliseconds(Int.random(in: 50...milliseconds, using: &random))) { [weak self] in
            if let self { body(self) }
        }
    }
    private func anyPlace() -> Int { Int.random(in: 0..<ports.count, using: &random) }
    /// One with a session, where there is any.
    private func readyPlace() -> Int {
        let first = anyPlace()
        return (0..<ports.count).map { (first + $0) % ports.count }.first { ports[$0].isReady } ?? first
    }
    /// All is calm: what has begun is ended, and then every gateway must let it read.
    func finish() {
        mayAsk = false
        guard isResting else { return }
        isResting = false
        rest()
    }
    private func rest() {
        guard mayAsk else { return later(upTo: 100) { $0.assure() } }
        isResting = true
        guard attemptsLeft > 0 else { return }
        later(upTo: 6000) {
            guard $0.mayAsk else { return }
            $0.isResting = false
            $0.attemptsLeft -= 1
            $0.register(at: 0)
        }
    }

    private func assure() {
        guard assured < ports.count else { return isResting = true }
        read(assured) { [weak self] answer in
            guard let self else { return }
            if case .good = answer { assured += 1 }
            guard answer == Sanitizing.hasFailed else { return rest() }
            (assured, isNeeded) = (0, true)
            mend(allowsExit: nil)
        }
    }

    // MARK: SANITIZE

    /// With every gateway, one after the other: later nobody may.
    private func register(at place: Int, attempt: Int = 1) {
        guard place < ports.count else {
            // Somebody may not hear of what is about to begin.
            if random.oneIn(3) { strike(anyPlace()) }
            return sanitize(at: readyPlace())
        }
        ports[place].run(Command.reserveOut(6), out: Command.keys(0, key)) { [weak self] answer in
            guard let self else { return }
            if case .attention = answer, attempt < 8 { return register(at: place, attempt: attempt + 1) }
            register(at: place + 1)
        }
    }

    private func sanitize(at place: Int) {
        let attempt = record.paths.startSanitize(
            erases: random.oneIn(4), passes: random.oneIn(3) ? random.oneIn(2) ? 9 : 3 : 1,
            isImmediate: random.oneIn(2),
            allowsExit: random.oneIn(2))
        haveHeard = []
        if ports[place].isReady, random.oneIn(2) {
            // Most are over in a few milliseconds.
            let most = random.oneIn(2) ? 20 : 100
            ports[0].host.after(.milliseconds(Int.random(in: 0...most, using: &random))) { [weak self] in
                self?.strike(place)
            }
        }
        let list = parameters(attempt)
        let flags: UInt8 = (attempt.isImmediate ? 0x80 : 0) | (attempt.allowsExit ? 0x20 : 0)
        let cdb = Command.sanitize(attempt.pattern == nil ? 2 : 1, flags: flags, list.count)
        let other = isNeeded && random.oneIn(2) ? helpers.randomElement(using: &random) : nil
        let port = other ?? ports[place]
        isWaiting = true
        port.run(cdb, out: list, patience: Self.patience) { [weak self] answer in
            guard let self else { return }
            isWaiting = false
            ports[place].host.traceLine { "\(attempt) is answered \(answer)" }
            ended(attempt, place, answer)
        }
        listen(on: port)
    }
    /// A reset ends the command without an answer; who says nothing more does not hear of it.
    private func listen(on port: SimInitiator) {
        port.host.after(.seconds(1)) { [weak self] in
            guard let self, isWaiting else { return }
            port.run(Command.testUnitReady) { _ in }
            listen(on: port)
        }
    }
    /// The pattern as often as it pleases, up to a block of it (SBC-4, section 5.30.2.2).
    private func parameters(_ attempt: SanitizeAttempt) -> [UInt8] {
        guard let pattern = attempt.pattern else { return [] }
        let repeats = random.oneIn(2) ? 1 : random.oneIn(2) ? 3 : 64
        let bytes = (0..<repeats).flatMap { _ in be64(pattern) }
        return [UInt8(attempt.passes) | (attempt.passes > 1 ? 0x80 : 0), 0] + be16(UInt16(bytes.count))
            + bytes
    }
    private func ended(_ attempt: SanitizeAttempt, _ place: Int, _ answer: SimInitiator.Answer) {
        switch answer {
        case .good where attempt.isImmediate:
            record.paths.begins(attempt)
            haveHeard = [place]
            watch(attempt)
        case .good:
            record.paths.isSanitized(attempt)
            isNeeded = false
            rest()
        case .attention, .refused, .conflict:
            record.paths.refuse(attempt)
            guard mayAsk || isNeeded else { return rest() }
            if answer == .conflict, isNeeded { conflicts += 1 }
            if conflicts >= Self.conflictsMax, !mayAsk { (isLockedOut, isResting) = (true, true) }
            guard !isLockedOut else { return }
            later(upTo: 200) {
                if $0.isNeeded { $0.sanitize(at: $0.readyPlace()) } else { $0.register(at: 0) }
            }
        case Sanitizing.isRunning, Sanitizing.isRestricted:
            if answer == Sanitizing.isRestricted, !attempt.allowsExit {
                record.complain("SANITIZE is refused for an AUSE bit that it does not have")
            }
            record.paths.refuse(attempt)
            watch(nil)
        case .sense, .unknown:
            record.paths.giveUp(attempt)
            if answer == .unknown { record.paths.sanitizing.mayLinger = true }
            watch(nil)
        }
    }

    // MARK: What became of it

    /// Asks one gateway after the other, until one of them lets it read, or says that it has failed.
    /// - Parameter attempt: what has begun; `nil`: it is not known.
    private func watch(_ attempt: SanitizeAttempt?) {
        later(upTo: 300) { $0.look(attempt) }
    }
    private func look(_ attempt: SanitizeAttempt?) {
        let place = anyPlace()
        ask(place) { [weak self] answer, isRead in
            guard let self else { return }
            switch answer {
            case .good where isRead:
                isNeeded = false
                rest()
            // A gateway that never heard of it is ready, too.
            case .good where haveHeard.contains(place):
                record.paths.provesEnd()
                watch(attempt)
            case Sanitizing.isRunning:
                haveHeard.insert(place)
                watch(attempt)
            case Sanitizing.hasFailed:
                isNeeded = true
                record.paths.sanitizing.failed += 1
                let isNews = attempt != nil && haveHeard.contains(place)
                record.paths.sanitizeFailed(isNews: isNews)
                linger(Int.random(in: 0...6, using: &random), allowsExit: attempt?.allowsExit)
            default: watch(attempt)
            }
        }
    }
    /// TEST UNIT READY, or a read of some sectors that have a history: who reads them has the medium.
    private func ask(_ place: Int, then: @escaping (_ answer: SimInitiator.Answer, _ isRead: Bool) -> Void) {
        guard random.oneIn(2) else {
            return ports[place].run(Command.testUnitReady) { then($0, false) }
        }
        read(place) { then($0, true) }
    }
    private func read(_ place: Int, then: @escaping (_ answer: SimInitiator.Answer) -> Void) {
        let field = record.paths.fields[random.oneIn(2) ? 0 : 1]
        let number = record.paths.startRead(field)
        ports[place].run(Command.read(field.lowerBound, field.count), read: 512 * field.count) {
            [record] answer in
            if case .good(let bytes) = answer {
                record.readPaths(number, field, bytes)
            } else {
                record.paths.history.fail(number)
            }
            then(answer)
        }
    }
    /// The unit stays failed, whoever is asked, until somebody does something about it.
    private func linger(_ questionsLeft: Int, allowsExit: Bool?) {
        guard questionsLeft > 0 else { return mend(allowsExit: allowsExit) }
        later(upTo: 300) { sanitizer in
            sanitizer.ask(sanitizer.anyPlace()) { [weak sanitizer] answer, isRead in
                guard let sanitizer else { return }
                // Where the failure is certain, the record has complained.
                if case .good = answer, isRead {
                    sanitizer.isNeeded = false
                    return sanitizer.rest()
                }
                sanitizer.linger(questionsLeft - 1, allowsExit: allowsExit)
            }
        }
    }
    private func mend(allowsExit: Bool?) {
        guard random.oneIn(2) else { return sanitize(at: readyPlace()) }
        let place = readyPlace()
        // Nobody else mends it, so it is the same failure.
        let mustStay = allowsExit == false && record.paths.isFailureCertain && haveHeard.contains(place)
        if !mustStay { record.paths.exits() }
        ports[place].run(Command.sanitize(0x1f, flags: 0, 0)) { [weak self] answer in
            guard let self else { return }
            ports[place].host.traceLine { "EXIT FAILURE MODE is answered \(answer)" }
            switch answer {
            case .good where mustStay:
                record.complain("EXIT FAILURE MODE is done, though the failed SANITIZE did not allow it")
            // Whoever has not heard of it has nothing to leave.
            case .good: watch(nil)
            case Sanitizing.isRestricted, .attention: sanitize(at: readyPlace())
            case .conflict: sanitize(at: readyPlace())
            case .refused: linger(1, allowsExit: allowsExit)
            case .sense, .unknown:
                if answer == .unknown {
                    (record.paths.sanitizing.mayLinger, record.paths.sanitizing.exitMayLinger) = (true, true)
                }
                watch(nil)
            }
        }
    }
}
