import BlockTypes
import Environment
import ISCSIProtocol
import SCSICommands

/// Carrying out what the portal group and the targets decide.
extension ISCSIServer {
    /// Does what is to be done until there is no more of it. Replies of a whole turn leave together.
    func perform() {
        // Who is called from inside leaves what comes of it to the loop that runs.
        guard !isPerforming else { return }
        isPerforming = true
        while !effects.isEmpty || !unflushed.isEmpty {
            // Carrying one out may bring others about, which come behind those that are there.
            while !effects.isEmpty {
                swap(&effects, &round)
                round.empty { carryOut($0) }
            }
            flush()
        }
        isPerforming = false
        if isStopping { goOnStopping() }
    }
    private func flush() {
        unflushed.empty { link in
            link.flush()
            // The group counts what it sent, and learns here what was taken at once.
            guard !link.isOver, group.waitsForDrain(link.id) else { return }
            group.drained(link.id, queuedSendBytes: link.queuedSendBytes, effects: &effects)
            if group.waitsForDrain(link.id) { link.watchDrain() }
        }
    }
    private func carryOut(_ effect: consuming PortalGroup.Effect) {
        switch consume effect {
        case .send(let id, let bytes): queue(.bytes(bytes), on: id)
        case .sendPayload(let id, let payload): queue(.payload(payload), on: id)
        case .pauseReceiving(let id): link(id)?.pause()
        case .resumeReceiving(let id): if !isQuiescing { link(id)?.resume() }
        case .close(let id, let reason): close(id, reason)
        case .move(let id, _): if let link = link(id) { move(link) }
        case .nexusBegan(let nexus, let names, let functions): begin(nexus, names, functions)
        case .execute(let id, let command): execute(id, command)
        case .abort(let id): abort(id)
        case .manage(let id, let function, let nexus, let lun):
            if let target = nexuses[nexus]?.target {
                step(target, .manage(id, function, nexus, lun))
            } else {
                group.managed(id, .rejected, effects: &effects)
            }
        case .commandsCleared(let nexus, let lun):
            if let target = nexuses[nexus]?.target { step(target, .commandsCleared(nexus, lun)) }
        case .nexusLeaves(let nexus):
            guard let target = nexuses[nexus]?.target else {
                return group.nexusReleased(nexus, effects: &effects)
            }
            step(target, .nexusLeaves(nexus))
            guard group.waitsForRelease(of: nexus) else { return }
            environment.after(limits.farewellPatience) { [own] in
                own.target?.act { $0.nexusReleased(nexus, effects: &$1) }
            }
        case .tasksEnded(let id):
            guard let ended = endings.removeValue(forKey: id) else { return }
            step(ended.target, .tasksEnded(ended.unit, version: ended.version))
        case .nexusEnded(let nexus):
            guard let ended = nexuses.removeValue(forKey: nexus) else { return }
            step(ended.target, .nexusEnded(nexus))
            tellDrained()
        }
    }
    private func queue(_ piece: consuming SendPiece, on id: ConnectionID) {
        guard let link = link(id), link.queue(piece) else { return }
        unflushed.append(consume link)
    }
    private func close(_ id: ConnectionID, _ reason: ISCSIEndReason) {
        guard let link = link(id) else { return }
        var level = LogLevel.debug
        switch reason {
        case .loggedOut, .reinstated, .dropped: break
        case .loginTooLong, .crowded: level = .info
        case .loginRefused:
            counters.refusedLogins += 1
            level = .notice
        case .silent:
            counters.silent += 1
            level = .notice
        case .violation:
            counters.violations += 1
            level = .notice
        }
        environment.log(level, "iscsi: \(link.peer): \(reason)")
        link.close()
    }

    // MARK: Commands

    /// SAM-5, section 5.3.1: nothing here can take the command now.
    private static let busy: UInt8 = 0x08

    private func begin(_ nexus: NexusID, _ names: Nexus, _ functions: Set<ManagementFunction>) {
        guard let target = target(named: names.targetName) else {
            // The target was removed while the login waited for an older session.
            return group.dropSessions(ofTarget: names.targetName, seconds: 0, effects: &effects)
        }
        nexuses[nexus] = ServedNexus(target, names)
        step(target, .nexusBegan(nexus, names, functions: functions))
    }
    private func execute(_ id: TaskID, _ command: SCSICommand) {
        guard let target = target(of: command.nexus) else {
            return group.answered(id, SCSIAnswer(status: Self.busy), effects: &effects)
        }
        // Nothing begins any more; the connection's end takes the command back.
        guard !isAbandoned else { return }
        counters.commands += 1
        inFlightCommands += 1
        while taskTargets.count <= id.slot { taskTargets.append(nil) }
        taskTargets[id.slot] = target
        step(target, .execute(id, command))
    }
    private func abort(_ id: TaskID) {
        guard !isAbandoned else { return group.aborted(id, effects: &effects) }
        // One that came in the same bytes as what ends its session may have its answer already.
        guard taskTargets.indices.contains(id.slot), let target = taskTargets[id.slot] else { return }
        step(target, .abort(id))
    }
    private func ended(_ id: TaskID) {
        inFlightCommands -= 1
        taskTargets[id.slot] = nil
    }

    /// Lets a target know of something, and does what it says but for replies.
    func step(_ target: ServedTarget, _ event: Target.Event) {
        target.logic.step(event, effects: &targetEffects)
        // Nothing that a target says is answered from inside.
        if targetEffects.count > 1 { targetEffects.reverse() }
        while let effect = targetEffects.popLast() { carryOut(effect, of: target) }
    }
    private func carryOut(_ effect: consuming Target.Effect, of target: ServedTarget) {
        switch consume effect {
        case .submit(let token, let request): submit(token, request, of: target)
        case .answer(let id, let answer):
            ended(id)
            group.answered(id, answer, effects: &effects)
        case .aborted(let id):
            ended(id)
            group.aborted(id, effects: &effects)
        case .managed(let id, let outcome): group.managed(id, outcome, effects: &effects)
        case .nexusReleased(let nexus): group.nexusReleased(nexus, effects: &effects)
        case .endTasks(let number, let version): endTasks(of: number, version, of: target)
        case .reservationsSettled(let number, let version):
            if let unit = target.unit(number) { coordinator.settled(version, of: unit.key) }
        case .storeReservations(let number, let version, let table):
            store(table, of: number, replacing: version, of: target)
        case .setGroups(let task, let groups):
            inFlightChanges += 1
            coordinator.set(groups, of: target.name) { [self] isDone in
                inFlightChanges -= 1
                if !isAbandoned { act(target, .groupsSet(task, isDone: isDone)) }
            }
        case .reportSanitize(let number, let progress):
            if let unit = target.unit(number) { coordinator.report(sanitized: progress, of: unit.key) }
        case .endSessions: endSessions(of: target)
        case .unitGone(let number): gone(number, of: target)
        }
    }
    /// Each unit of the target tells of the same reset; whoever has come back in between stays.
    private func endSessions(of target: ServedTarget) {
        let now = environment.now
        if let last = target.coldResetAt, now - last < Self.coldResetGap { return }
        target.coldResetAt = now
        group.dropSessions(ofTarget: target.name, seconds: 0, effects: &effects)
    }
    /// Units hear of one TARGET COLD RESET within this time.
    private static let coldResetGap = Duration.seconds(5)
    private func store(
        _ table: ReservationTable, of number: UnitNumber, replacing version: UInt64, of target: ServedTarget
    ) {
        guard let unit = target.unit(number) else {
            return invariant(false, "reservations of a unit that is not there")
        }
        inFlightChanges += 1
        coordinator.store(table, of: unit.key, replacing: version) { [self] storing in
            inFlightChanges -= 1
            if !isAbandoned { act(target, .reservationsStored(number, storing)) }
        }
    }

    private func endTasks(of number: UnitNumber, _ version: UInt64, of target: ServedTarget) {
        guard let unit = target.unit(number) else {
            return invariant(false, "commands of a unit that is not there")
        }
        endingCount += 1
        let id = TaskEndingID(rawValue: endingCount)
        endings[id] = (target, number, version)
        group.endTasks(
            ofTarget: target.name, ending: id,
            where: { Target.unit(addressedBy: $0) == unit.configuration.lun }, effects: &effects)
    }

    // MARK: Volumes

    private func submit(_ token: VolumeToken, _ request: VolumeRequest, of target: ServedTarget) {
        guard let volume = target.volume(of: token.unit) else {
            return invariant(false, "a request to the volume of a unit that is not there")
        }
        counters.volumeRequests += 1
        volume.submit(request) { [self] result in
            guard !isAbandoned else { return }
            // It is there as long as something is asked of its volume.
            if case .failure(let error) = result, let unit = target.unit(token.unit) {
                note(error, unit, target)
            }
            act(target, .volumeCompleted(token, result))
        }
    }
    private func note(_ error: VolumeError, _ unit: ServedUnit, _ target: ServedTarget) {
        // A difference is what a comparison is asked for.
        if case .miscompare = error { return }
        counters.failedRequests += 1
        guard unit.loggedErrors.insert(error).inserted else { return }
        environment.log(
            .warning,
            "iscsi: \(target.name) LUN \(unit.configuration.lun): a request failed: \(error); later ones of "
                + "this kind on this LUN are not logged")
    }
}
