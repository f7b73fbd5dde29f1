import BlockTypes

/// Task management (RFC 7143, sections 4.2.3 and 11.5; RFC 7144, section 4.2).
///
/// A function that is about several tasks waits until all commands sent before it have come, ends them, and
/// is then handed on. It does not wait for data that R2Ts have asked for: transfer tags are not used again,
/// so late data finds no command and is dropped, and common initiators send none after a reset.
extension PortalGroup {
    func takeManagement(
        _ header: PDUHeader, _ connection: TargetConnection, _ session: TargetSession, effects: inout [Effect]
    ) {
        managementCount += 1
        let kind = ManagementFunction(rawValue: header.flags & 0x7f)
        let function = TaskManagement(
            id: ManagementID(rawValue: managementCount), function: kind ?? .clearAutoContingentAllegiance,
            header: header, newestTask: taskGeneration, session: session, connection: connection)
        session.managements.append(function)
        guard let kind, session.functions.contains(kind) else {
            let code = kind == .taskReassign ? ManagementCode.reassignmentNotSupported : .notSupported
            return answer(function, code, effects: &effects)
        }
        switch kind {
        case .abortTask: abortOne(function, header, effects: &effects)
        case .queryTask:
            let isThere =
                session.task(tagged: header.transferTag).map { $0.lun.isSame(as: header.lun) } ?? false
            answer(function, isThere ? .succeeded : .complete, effects: &effects)
        case .queryTaskSet:
            let isAny = session.tasks.contains { $0.lun.isSame(as: header.lun) }
            answer(function, isAny ? .succeeded : .complete, effects: &effects)
        default: startManagements(session, effects: &effects)
        }
    }
    func managementRefusal(_ header: PDUHeader, _ connection: TargetConnection, _ session: TargetSession)
        -> RejectReason?
    {
        guard header.taskTag != reservedTag else { return .invalidField }
        // Each connection has room for one, whatever the others' take (section 4.2.2.1).
        guard
            session.managements.count < limits.immediateCommandsMax + limits.commandsMax
                || !session.managements.contains(where: { $0.connection === connection })
        else { return .tooManyImmediateCommands }
        // No good initiator has sent so many commands: there is nothing to wait for, and nothing to give up.
        return precedes(session.maxCommandNumber &+ 1, header.commandNumber) ? .invalidField : nil
    }
    private func answer(_ function: TaskManagement, _ code: ManagementCode, effects: inout [Effect]) {
        function.code = code
        answer(function, effects: &effects)
    }
    /// ABORT TASK, with the cases of section 11.6.1.
    private func abortOne(_ function: TaskManagement, _ header: PDUHeader, effects: inout [Effect]) {
        let session = function.session
        function.stage = .ending
        if let task = session.task(tagged: header.transferTag), task.lun.isSame(as: header.lun) {
            end([task], for: function, effects: &effects)
            return goOn(function, effects: &effects)
        }
        if let code = abortOther(function, tag: header.transferTag) {
            return answer(function, code, effects: &effects)
        }
        // The command may have been lost with its connection: then its number counts as received.
        let number = header.word(32)
        guard precedes(number, function.commandNumber), !precedes(number, session.expectedCommandNumber)
        else { return answer(function, .noSuchTask, effects: &effects) }
        session.hold(.plug, at: number)
        answer(function, .complete, effects: &effects)
        advance(session, effects: &effects)
    }
    /// ABORT TASK of what is no SCSI command (section 11.5.1): a function is not aborted, all else that waits
    /// is.
    /// - Returns: `nil` when there is no such request.
    private func abortOther(_ function: TaskManagement, tag: UInt32) -> ManagementCode? {
        let session = function.session
        if session.managements.contains(where: { $0 !== function && $0.taskTag == tag }) { return .rejected }
        if let waiting = session.waitingControl(tagged: tag) {
            if waiting.opcode == Opcode.taskManagementRequest { return .rejected }
            session.plug { if case .control(let header, _, _) = $0 { header.taskTag == tag } else { false } }
            return .complete
        }
        guard let owner = session.connections.first(where: { $0.text?.taskTag == tag }) else { return nil }
        owner.text = nil
        return .complete
    }
    /// Functions whose preceding commands are all here now begin.
    func startManagements(_ session: TargetSession, effects: inout [Effect]) {
        for function in session.managements where function.stage == .waitingForCommands {
            switch function.function {
            case .targetWarmReset, .targetColdReset:
                // What is still to come before it counts as received, and ended (section 4.2.3.3, c).
                let dropped = session.plug(before: function.commandNumber)
                for task in dropped { drop(task, effects: &effects) }
            default:
                if precedes(session.expectedCommandNumber, function.commandNumber) { continue }
            }
            begin(function, effects: &effects)
        }
    }
    private func begin(_ function: TaskManagement, effects: inout [Effect]) {
        function.stage = .ending
        // Counts itself, so that it does not go on before all its tasks were asked back.
        function.waitsFor += 1
        end(affectedTasks(function), for: function, effects: &effects)
        function.waitsFor -= 1
        goOn(function, effects: &effects)
    }
    private func affectedTasks(_ function: TaskManagement) -> [SCSITask] {
        let session = function.session
        let own = session.tasks.filter { task in
            if task.isImmediate { return task.id.generation <= function.newestTask }
            return task.stage != .arriving && precedes(task.commandNumber, function.commandNumber)
        }
        let others = (sessions + endingSessions).filter {
            $0 !== session && $0.names?.targetName == session.names?.targetName
        }.flatMap { $0.tasks.filter { $0.stage != .arriving } }
        switch function.function {
        // The task set is that of the nexus: the Control mode page says TST = 001b (SPC-5, section 7.5.10).
        case .abortTaskSet, .clearTaskSet: return own.filter { $0.lun.isSame(as: function.lun) }
        case .logicalUnitReset:
            return (own + others).filter { $0.lun.isSame(as: function.lun) }
        case .targetWarmReset, .targetColdReset: return own + others
        case .nexusReset: return own
        default: return []
        }
    }
    /// Ends tasks: at once, or by asking for them back when they were given out.
    ///
    /// What was not given out goes first, all of it: room that one of them leaves must not admit another.
    /// - Parameters:
    ///   - function: what waits for their end.
    ///   - ending: what else does.
    func end(
        _ tasks: [SCSITask], for function: TaskManagement?, ending: TaskEnding? = nil,
        effects: inout [Effect]
    ) {
        var forgotten: [SCSITask] = []
        for task in tasks {
            switch task.stage {
            case .arriving, .waiting, .gathering: break
            // Nobody is there any more to be answered.
            case .answered where function == nil && ending == nil: break
            case .executing, .aborting, .answered, .ended: continue
            }
            task.session.plug { if case .command(let held) = $0 { held === task } else { false } }
            forget(task)
            forgotten.append(task)
        }
        for task in tasks where task.stage != .ended {
            if let function {
                task.waiters.append(function)
                function.waitsFor += 1
            }
            if let ending, task.stage != .answered {
                task.endings.append(ending)
                ending.waitsFor += 1
            }
            if task.stage == .executing {
                task.stage = .aborting
                effects.append(.abort(task.id))
            }
        }
        for task in forgotten { goOnWithout(task, effects: &effects) }
        for task in forgotten { tellWindow(task.session, effects: &effects) }
    }
    /// Ends commands to a target, whoever sent them, without an answer: another gateway has reset the logical
    /// unit. ``Effect/tasksEnded(_:)`` follows, with an effect of this call or of a later one.
    /// - Parameter isConcerned: whether commands for this LUN are meant.
    public func endTasks(
        ofTarget name: String, ending id: TaskEndingID, where isConcerned: (LUN) -> Bool,
        effects: inout [Effect]
    ) {
        let tasks = (sessions + endingSessions).filter { $0.names?.targetName == name }.flatMap {
            $0.tasks.filter { $0.stage != .arriving && isConcerned($0.lun) }
        }
        let ending = TaskEnding(id)
        // Counts itself, so that it does not end before all its tasks were asked back.
        ending.waitsFor = 1
        end(tasks, for: nil, ending: ending, effects: &effects)
        ending.waitsFor -= 1
        if ending.waitsFor == 0 { effects.append(.tasksEnded(id)) }
    }
    /// The tasks have ended: hands the function on, or answers it.
    func goOn(_ function: TaskManagement, effects: inout [Effect]) {
        guard function.stage == .ending, function.waitsFor == 0 else { return }
        if function.function == .abortTask { return answer(function, effects: &effects) }
        function.stage = .propagated
        managements[function.id] = function
        let isForTarget =
            switch function.function {
            case .targetWarmReset, .targetColdReset, .nexusReset: true
            default: false
            }
        effects.append(
            .manage(
                function.id, function.function, function.session.nexus,
                isForTarget ? LUN(rawValue: 0) : function.lun))
    }
    /// A function that was handed on is done.
    public func managed(_ id: ManagementID, _ outcome: ManagementOutcome, effects: inout [Effect]) {
        let found = managements[id]
        invariant(found?.stage == .propagated, "an answer to a function that was not handed on")
        guard let function = found else { return }
        switch outcome {
        case .complete: answer(function, .complete, effects: &effects)
        case .succeeded(let information):
            function.information = information
            answer(function, .succeeded, effects: &effects)
        case .noSuchLUN: answer(function, .noSuchLUN, effects: &effects)
        case .notAuthorized: answer(function, .notAuthorized, effects: &effects)
        case .notSupported: answer(function, .notSupported, effects: &effects)
        case .rejected: answer(function, .rejected, effects: &effects)
        }
    }
}
