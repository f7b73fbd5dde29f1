import BlockTypes
import SCSIBoundary

/// How storing a changed table ended.
public enum ReservationStoring: Hashable, Sendable {
    /// The keeper has it.
    case stored
    /// Another gateway changed it first; this is what it left.
    case outdated(ReservationTable)
    /// The keeper could not be asked.
    case failed
}

/// Changes of reservations that wait for the keeper: one at a time, in order.
struct ReservationChanges: Sendable {
    enum Wish: Hashable, Sendable {
        case request(ReservationRequest, ReservationParty)
        /// RESERVE(6) of one, or of anybody, ends without a command.
        case dropSimple(ReservationParty?)
    }
    /// Who wants to know how it ended.
    enum Waiter: Hashable, Sendable {
        case command(TaskNumber)
        /// A task management function of a nexus.
        case function(ManagementID, NexusID)
        /// A nexus that leaves.
        case farewell(NexusID)
        /// A sanitize operation that is over.
        case sanitize(TaskNumber)
        case nobody
    }
    struct Waiting: Sendable {
        let wish: Wish
        let waiter: Waiter
        var attempts = 0
    }
    var waiting: [Waiting] = []
    /// What the keeper was offered.
    var offered: ReservationTable?
    /// The first one that waits is stored in this version, and ends when that is settled here too.
    var settling: UInt64?

    var isIdle: Bool { offered == nil && settling == nil }
}

extension ReservationTable.Notice.Kind {
    /// What everybody is told, when it is for everybody.
    var attentionOfAll: AdditionalSense? {
        switch self {
        case .unitReset: .unitReset
        case .targetReset: .targetReset
        case .powerOn: .powerOn
        case .modesChanged: .modeParametersChanged
        case .mediumLoaded: .mediumMayHaveChanged
        case .registrationPreempted, .reservationPreempted, .reservationReleased, .aborted, .taskSetCleared:
            nil
        }
    }
}

/// A change that no command waited for has ended.
struct EndedChange: Sendable {
    let waiter: ReservationChanges.Waiter
    let isDone: Bool
}

/// Reservations: PERSISTENT RESERVE IN and OUT, RESERVE(6), RELEASE(6).
///
/// The table is the cluster's. A command that changes it is answered when the keeper has the change and when
/// nothing can happen any more that the change ended; until the keeper says so, or others have changed it
/// again, this gateway goes by what it had.
extension LogicalUnit {
    mutating func reserveSimply(_ request: Request, effects: inout [Effect]) throws(Sense) {
        // Extents and third parties are obsolete.
        guard !request.has(0x11, at: 1) else { throw .invalidField(1, bit: 4) }
        let wish: ReservationRequest = request.operation == .reserve6 ? .simpleReserve : .simpleRelease
        change(wish, request, effects: &effects)
    }

    mutating func persistentReserveOut(_ request: Request, effects: inout [Effect]) throws(Sense) {
        let action = request.cdb.serviceAction
        guard request.wantedOutBytes == 24 else { throw .shortParameters }
        let list = request.parameters(limits)
        guard list.count == 24 else { throw .shortParameters }
        let (key, actionKey, flags) = (list.long(at: 0), list.long(at: 8), list[20])
        // SIP_C and ATP_C are 0: one registration is one nexus. Other actions do not look at these bits.
        if action == 0 || action == 6 {
            guard flags & 0x08 == 0 else { throw .invalidParameter(20, bit: 3) }
            guard flags & 0x04 == 0 else { throw .invalidParameter(20, bit: 2) }
        }
        let type = ReservationType(rawValue: request.cdb[2] & 0x0f)
        if [1, 2, 4, 5].contains(action) {
            guard request.cdb[2] >> 4 == 0 else { throw .invalidField(2, bit: 7) }
            guard type != nil else { throw .invalidField(2, bit: 3) }
        }
        let persists = flags & 0x01 != 0
        let wish: ReservationRequest
        switch (action, type) {
        case (0, _): wish = .register(key: key, newKey: actionKey, ignoringKey: false, persists: persists)
        case (6, _): wish = .register(key: key, newKey: actionKey, ignoringKey: true, persists: persists)
        case (1, .some(let type)): wish = .reserve(key: key, type: type)
        case (2, .some(let type)): wish = .release(key: key, type: type)
        case (3, _): wish = .clear(key: key)
        case (4, .some(let type)):
            wish = .preempt(key: key, victimKey: actionKey, type: type, aborting: false)
        case (5, .some(let type)):
            wish = .preempt(key: key, victimKey: actionKey, type: type, aborting: true)
        default: throw .invalidField(1, bit: 4)
        }
        change(wish, request, effects: &effects)
    }

    mutating func change(
        _ wish: ReservationRequest, _ request: Request, effects: inout [Effect]
    ) {
        let number = tasks.add(
            RunningTask(
                origin: .command(request.task), nexus: request.party.nexus, stage: .storing,
                wantedOutBytes: request.wantedOutBytes, work: .reserve))
        change(.request(wish, request.party.reservation), for: .command(number), effects: &effects)
    }
    mutating func change(
        _ wish: ReservationChanges.Wish, for waiter: ReservationChanges.Waiter, effects: inout [Effect]
    ) {
        changes.waiting.append(ReservationChanges.Waiting(wish: wish, waiter: waiter))
        goOnChanging(effects: &effects)
    }
    /// Takes back what a command that ends wants changed, unless the keeper has been asked.
    mutating func dropChange(of task: TaskNumber, effects: inout [Effect]) {
        guard let place = changes.waiting.firstIndex(where: { $0.waiter == .command(task) }),
            place > 0 || changes.isIdle
        else { return }
        changes.waiting.remove(at: place)
        finish(task, .failure(Sense(.abortedCommand, .none)), effects: &effects)
    }

    /// Offers the next change to the keeper, unless one is on its way; ends those that change nothing.
    private mutating func goOnChanging(effects: inout [Effect]) {
        while changes.isIdle, let next = changes.waiting.first {
            let outcome: Result<ReservationTable, ReservationRefusal>
            switch next.wish {
            case .dropSimple(let party): outcome = .success(reservations.withoutSimpleHolder(party))
            case .request(let request, let party):
                do throws(ReservationRefusal) {
                    outcome = .success(
                        try reservations.applying(
                            request, from: party, registrationsMax: limits.registrationsMax))
                } catch { outcome = .failure(error) }
            }
            switch outcome {
            case .success(let table) where table.version != reservations.version:
                changes.offered = table
                effects.append(.storeReservations(number, replacing: reservations.version, table))
            case .success: endChange(.success([]), effects: &effects)
            case .failure(let refusal): refuse(refusal, effects: &effects)
            }
        }
    }
    private mutating func endChange(
        _ result: Result<[ReadSegment], Sense>, effects: inout [Effect]
    ) {
        let ended = changes.waiting.removeFirst()
        switch ended.waiter {
        case .command(let task):
            if case .sanitizeStart? = tasks[task.rawValue]?.work, case .success = result {
                return beginSanitize(task, effects: &effects)
            }
            finish(task, result, effects: &effects)
        case .sanitize(let task): sanitizeEndStored(task, result, effects: &effects)
        case .function, .farewell:
            let isDone = if case .success = result { true } else { false }
            endedChanges.append(EndedChange(waiter: ended.waiter, isDone: isDone))
        case .nobody: break
        }
    }
    private mutating func refuse(_ refusal: ReservationRefusal, effects: inout [Effect]) {
        switch refusal {
        case .conflict: endChange(status: Status.reservationConflict, effects: &effects)
        case .invalidParameter: endChange(.failure(.invalidParameter(8)), effects: &effects)
        case .invalidRelease:
            endChange(.failure(Sense(.illegalRequest, .invalidRelease)), effects: &effects)
        case .noRoom:
            endChange(.failure(Sense(.illegalRequest, .insufficientRegistrations)), effects: &effects)
        case .sanitizing:

            let sense = Sense(.notReady, .sanitizeInProgress, progress: reportedProgress)
            endChange(.failure(sense), effects: &effects)
        case .sanitizeFailed:
            endChange(.failure(.invalidField(1)), effects: &effects)
        case .removalPrevented:
            endChange(.failure(Sense(.illegalRequest, .removalPrevented)), effects: &effects)
        }
    }
    private mutating func endChange(status: UInt8, effects: inout [Effect]) {
        guard case .command(let number)? = changes.waiting.first?.waiter else {
            return endChange(.failure(Sense(.abortedCommand, .none)), effects: &effects)
        }
        changes.waiting.removeFirst()
        finish(number, status: status, effects: &effects)
    }

    /// The keeper has answered.
    mutating func reservationsStored(_ storing: ReservationStoring, effects: inout [Effect]) {
        invariant(changes.offered != nil, "an answer of the keeper that nothing waits for")
        guard let offered = changes.offered else { return }
        changes.offered = nil
        switch storing {
        case .stored:
            changes.settling = offered.version
            take(offered, own: changes.waiting.first?.waiter, effects: &effects)
            settle(effects: &effects)
        case .outdated(let table):
            changes.waiting[0].attempts += 1
            if changes.waiting[0].attempts >= limits.reservationAttemptsMax {
                endChange(status: Status.busy, effects: &effects)
            } else if case .command(let task) = changes.waiting[0].waiter, hasEnded(task) {
                endChange(.failure(Sense(.abortedCommand, .none)), effects: &effects)
            }
            take(table, own: nil, effects: &effects)
        case .failed:
            // Nobody knows whether it was done; what comes from the keeper next will tell.
            endChange(.failure(Sense(.hardwareError, .internalTargetFailure)), effects: &effects)
        }
        goOnChanging(effects: &effects)
    }
    /// Another gateway has changed the table. What is being stored here is older, and is gone by first: it
    /// stands with the keeper, and its command waits for other gateways only.
    mutating func reservationsChanged(_ table: ReservationTable, effects: inout [Effect]) {
        if let offered = changes.offered, table.version > offered.version {
            take(offered, own: changes.waiting.first?.waiter, effects: &effects)
        }
        take(table, own: nil, effects: &effects)
    }
    private func hasEnded(_ task: TaskNumber) -> Bool {
        tasks[task.rawValue].map { $0.isAborting || $0.isPreempted } ?? true
    }
    /// Another gateway has changed the table, or this one did: tells whom it concerns here, and ends what it
    /// ends.
    /// - Parameter own: who wanted the change, when it was made here.
    mutating func take(
        _ table: ReservationTable, own: ReservationChanges.Waiter?, effects: inout [Effect]
    ) {
        guard table.version > reservations.version else { return }
        let before = reservations
        reservations = table
        modes.shared = table.modes
        var author: NexusID?
        switch own {
        case .command(let task)?: author = tasks[task.rawValue]?.nexus
        case .function(_, let nexus)?: author = nexus
        case .farewell?, .sanitize?, .nobody?, nil: break
        }
        if own == nil, case .running = table.sanitize, before.sanitize != table.sanitize {
            // Its start may be older than the newest change.
            holdForSanitize(before.version + 1)
        }
        for notice in table.notices
        where notice.version > before.version && notice.kind != .taskSetCleared {
            if let attention = notice.kind.attentionOfAll {
                if isPlanted(.resetUnspread), own == nil { continue }
                // What a function does here it has done already.
                if case .function? = own, notice.version == table.version { continue }
                heed(notice, attention, except: author, effects: &effects)
            } else {
                tell(notice, except: author, effects: &effects)
            }
        }
        tellOfMissed(before)
        settle(effects: &effects)
    }
    /// Something that is about everybody.
    private mutating func heed(
        _ notice: ReservationTable.Notice, _ attention: AdditionalSense, except author: NexusID?,
        effects: inout [Effect]
    ) {
        switch notice.kind {
        case .unitReset, .targetReset, .powerOn:
            for index in parties.indices { parties[index].preventsRemoval = false }
            attend(attention)
            if notice.kind == .powerOn { effects.append(.endSessions) }
        default: attend(attention, except: author)
        }
        guard notice.kind.endsCommands else { return }
        // Commands that wait for the keeper end at once: whoever has ended them may be what they wait for.
        let waiting = changes.waiting.map(\.waiter)
        for case .command(let task) in waiting {
            tasks[task.rawValue]?.isPreempted = true
            dropChange(of: task, effects: &effects)
        }
        endingVersions.append(notice.version)
        effects.append(.endTasks(number, version: notice.version))
    }
    private mutating func tell(
        _ notice: ReservationTable.Notice, except author: NexusID?, effects: inout [Effect]
    ) {
        for index in parties.indices where parties[index].reservation == notice.party {
            let attention: AdditionalSense =
                switch notice.kind {
                case .reservationPreempted: .reservationsPreempted
                case .reservationReleased: .reservationsReleased
                default: .registrationsPreempted
                }
            parties[index].attentions.add(attention, max: limits.attentionsMax)
            if notice.kind == .aborted {
                parties[index].attentions.add(.commandsCleared, max: limits.attentionsMax)
            }
        }
        guard notice.kind == .aborted else { return }
        preempt(notice.party, in: notice.version, except: author, effects: &effects)
    }
    /// More may have happened than the notices tell: whoever is no longer registered is told of that.
    private mutating func tellOfMissed(_ before: ReservationTable) {
        guard let oldest = reservations.notices.first,
            reservations.notices.count == ReservationTable.noticesMax,
            oldest.version > before.version + 1
        else { return }
        for index in parties.indices {
            let party = parties[index].reservation
            if before.key(of: party) != nil, reservations.key(of: party) == nil {
                parties[index].attentions.add(.registrationsPreempted, max: limits.attentionsMax)
            }
        }
    }

    /// The transport has ended what `version` ended.
    mutating func tasksEnded(_ version: UInt64, effects: inout [Effect]) {
        endingVersions.removeAll { $0 == version }
        settle(effects: &effects)
    }
    /// Says up to which version nothing is left of what the table ended, and ends the change that waits for
    /// that.
    mutating func settle(effects: inout [Effect]) {
        var open = endingVersions.min()
        for task in tasks {
            guard let held = task?.holdsVersion else { continue }
            open = min(open ?? held, held)
        }
        let settled = open.map { $0 - 1 } ?? reservations.version
        if settled > settledVersion {
            settledVersion = settled
            effects.append(.reservationsSettled(number, version: settled))
        }
        guard let awaited = changes.settling, awaited <= settledVersion else { return }
        changes.settling = nil
        endChange(.success([]), effects: &effects)
        goOnChanging(effects: &effects)
    }

    // MARK: PERSISTENT RESERVE IN

    mutating func persistentReserveIn(_ request: Request, effects: inout [Effect]) throws(Sense) {
        // As for the other direction: RESERVE(6) shuts persistent reservations out.
        guard reservations.simpleHolder == nil else {
            effects.append(.answer(request.task, SCSIAnswer(status: Status.reservationConflict)))
            return
        }
        switch request.cdb.serviceAction {
        case 0: answer(request, keys, effects: &effects)
        case 1: answer(request, holding, effects: &effects)
        case 2: answer(request, capabilities, effects: &effects)
        default: answer(request, fullStatus, effects: &effects)
        }
    }
    private func listed(_ list: [UInt8]) -> [UInt8] {
        var bytes: [UInt8] = []
        bytes.append(bigEndian: reservations.generation)
        bytes.append(bigEndian: UInt32(list.count))
        return bytes + list
    }
    private var keys: [UInt8] {
        var list: [UInt8] = []
        for registration in reservations.registrations { list.append(bigEndian: registration.key) }
        return listed(list)
    }
    private var holding: [UInt8] {
        guard let holding = reservations.holding else { return listed([]) }
        var list: [UInt8] = []
        list.append(bigEndian: reservations.holdingKey)
        return listed(list + [0, 0, 0, 0, 0, holding.type.rawValue, 0, 0])
    }
    private var capabilities: [UInt8] {
        // CRH and PTPL_C; TMV and what is allowed in spite of reservations is not told; all types.
        [0, 8, 0x11, 0x80 | (reservations.persistsThroughPowerLoss ? 1 : 0), 0xea, 0x01, 0, 0]
    }
    private var fullStatus: [UInt8] {
        var list: [UInt8] = []
        for registration in reservations.registrations {
            let isHolder = reservations.holds(registration.party)
            list.append(bigEndian: registration.key)
            list += [0, 0, 0, 0, isHolder ? 1 : 0]
            list += [isHolder ? reservations.holding?.type.rawValue ?? 0 : 0, 0, 0, 0, 0]
            list.append(bigEndian: registration.party.targetPort)
            // TransportID of an iSCSI initiator port (SPC-5, section 7.6.4.6).
            var name = Array(registration.party.initiatorPort.utf8) + [0]
            while name.count < 20 || name.count % 4 != 0 { name.append(0) }
            list.append(bigEndian: UInt32(4 + name.count))
            list += [0x45, 0]
            list.append(bigEndian: UInt16(name.count))
            list += name
        }
        return listed(list)
    }
}
