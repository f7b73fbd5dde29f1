/// Keeps the answer to a task management function in its place among the answers of a session that has
/// several connections (RFC 7143, section 4.2.3.3, "Response Fence"): all before it have arrived when it is
/// sent, and none behind it is sent before it has arrived. On a single connection order comes by itself.
struct ResponseFence {
    enum Phase {
        case down
        /// These connections' statuses before these numbers have to arrive.
        case others([(TargetConnection, UInt32)])
        /// The answer was sent, and has to arrive.
        case own(TargetConnection, UInt32)
    }
    var phase = Phase.down
    /// Functions whose answers are to be sent, the first one now.
    var functions: [TaskManagement] = []
    /// Answers to commands that wait behind it: never more than there are commands.
    var held: [(SCSITask, SCSIAnswer)] = []

    var isUp: Bool { if case .down = phase { false } else { true } }
}

extension PortalGroup {
    /// Sends the answer to a function, behind a fence if the session needs one.
    func answer(_ function: TaskManagement, effects: inout [Effect]) {
        let session = function.session
        guard session.connections.count > 1 || session.fence.isUp else {
            return sendAnswer(function, effects: &effects)
        }
        function.stage = .fenced
        session.fence.functions.append(function)
        if !session.fence.isUp { raiseFence(session, effects: &effects) }
    }
    private func raiseFence(_ session: TargetSession, effects: inout [Effect]) {
        guard let function = session.fence.functions.first else { return }
        var awaited: [(TargetConnection, UInt32)] = []
        for connection in session.connections where connection !== function.connection {
            guard connection.phase == .fullFeature,
                connection.acknowledgedNumber != connection.statusNumber
            else { continue }
            awaited.append((connection, connection.statusNumber))
            ping(connection, effects: &effects)
        }
        session.fence.phase = .others(awaited)
        lowerFence(session, effects: &effects)
    }
    /// Looks whether what a fence waits for has arrived.
    func lowerFence(_ session: TargetSession, effects: inout [Effect]) {
        func hasArrived(_ connection: TargetConnection, _ number: UInt32) -> Bool {
            // Who has logged out says nothing any more.
            connection.phase != .fullFeature || !precedes(connection.acknowledgedNumber, number)
        }
        while true {
            switch session.fence.phase {
            case .down: return
            case .others(let awaited):
                guard awaited.allSatisfy({ hasArrived($0.0, $0.1) }) else { return }
                let function = session.fence.functions.removeFirst()
                session.fence.phase = .own(function.connection, function.connection.statusNumber &+ 1)
                sendAnswer(function, effects: &effects)
                // Elicits the word that it arrived.
                ping(function.connection, effects: &effects)
            case .own(let connection, let number):
                guard hasArrived(connection, number) else { return }
                session.fence.phase = .down
                let held = session.fence.held
                session.fence.held = []
                // One of them may end another, by closing its connection.
                for (task, answer) in held where task.stage == .answered {
                    deliver(task, answer, effects: &effects)
                }
                guard !session.fence.functions.isEmpty, !session.fence.isUp else { return }
                raiseFence(session, effects: &effects)
                return
            }
        }
    }
    private func sendAnswer(_ function: TaskManagement, effects: inout [Effect]) {
        let connection = function.connection
        function.stage = .ended
        function.session.managements.removeAll { $0 === function }
        managements[function.id] = nil
        if !connection.isClosed {
            var header = PDUHeader(opcode: Opcode.taskManagementResponse, flags: Flag.final)
            header.setByte(2, function.code.rawValue)
            header.taskTag = function.taskTag
            // Bytes 8 to 10.
            if function.session.hasLaterFields { header.setWord(8, function.information << 8) }
            connection.stamp(&header, usesStatus: true)
            connection.send(header, effects: &effects)
        }
        tellWindow(function.session, effects: &effects)
        if function.function == .targetColdReset, function.code == .complete {
            for session in sessions where session.names?.targetName == function.session.names?.targetName {
                end(session, .dropped, effects: &effects)
            }
        }
    }
}
