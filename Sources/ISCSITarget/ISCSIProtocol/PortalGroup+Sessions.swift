import BlockTypes

/// Logins, and the beginning and end of connections and sessions (RFC 7143, section 6.3).
extension PortalGroup {
    // MARK: Login

    func takeLogin(
        _ header: PDUHeader, _ additional: [UInt8], _ connection: TargetConnection, effects: inout [Effect]
    ) -> PDUReader.Destination {
        guard header.opcode == Opcode.loginRequest else {
            if let request = connection.loginRequest {
                // It gets the answer that its login waits for (section 4.2.4).
                refuse(connection, request, .invalidDuringLogin, effects: &effects)
            } else {
                close(connection, .violation("something else than a login"), effects: &effects)
            }
            return .skip
        }
        guard additional.isEmpty else {
            refuse(connection, header, .initiatorError, effects: &effects)
            return .skip
        }
        connection.loginRequest = header
        connection.incoming = .login(header)
        return .bytes
    }
    func stepLogin(
        _ connection: TargetConnection, _ header: PDUHeader, _ bytes: [UInt8], effects: inout [Effect]
    ) {
        do throws(LoginStatus) {
            let reply = try connection.login.receive(header, bytes) { agreed in
                session(like: agreed)?.parameters
            }
            if let moving = connection.login.moving {
                connection.phase = .moving
                effects.append(.move(connection.id, targetName: moving.targetName))
            } else if reply.isComplete {
                connection.agreed = (connection.login.agreed, reply, header)
                try complete(connection, effects: &effects)
            } else {
                answerLogin(connection, header, reply, session: nil, effects: &effects)
            }
        } catch {
            refuse(connection, header, error, effects: &effects)
        }
    }
    /// The connection of a ``Effect/move(_:targetName:)`` was given up here.
    /// - Returns: what the login has said, and what came behind it; `nil`: the connection is gone.
    public func moved(_ id: ConnectionID) -> MovingLogin? {
        guard let connection = connections[id], connection.phase == .moving,
            let moving = connection.login.moving, let request = connection.loginRequest
        else { return nil }
        let login = MovingLogin(
            targetName: moving.targetName, request: request, text: moving.text, rest: connection.held,
            statusNumber: connection.statusNumber, requestCount: connection.login.requestCount)
        connection.phase = .closed
        connections[id] = nil
        return login
    }
    /// A connection whose login began elsewhere in this process is here: goes on with it, as
    /// ``opened(_:from:randomness:effects:)`` and what followed there.
    public func opened(
        _ id: ConnectionID, from address: [UInt8], randomness: [UInt8], movedWith login: MovingLogin,
        effects: inout [Effect]
    ) {
        opened(id, from: address, randomness: randomness, effects: &effects)
        guard let connection = connections[id] else { return }
        connection.statusNumber = login.statusNumber
        connection.loginRequest = login.request
        connection.login.begin(afterRequests: login.requestCount - 1)
        stepLogin(connection, login.request, login.text, effects: &effects)
        connection.held = login.rest
        goOn(connection, effects: &effects)
    }
    private func answerLogin(
        _ connection: TargetConnection, _ request: PDUHeader, _ reply: LoginExchange.Reply,
        session: TargetSession?, effects: inout [Effect]
    ) {
        var header = loginResponse(connection, request, flags: reply.flags)
        if let session {
            header.sessionHandle = session.handle
            session.noteWindowTold()
        }
        connection.send(header, data: reply.text, effects: &effects)
    }
    private func loginResponse(_ connection: TargetConnection, _ request: PDUHeader, flags: UInt8)
        -> PDUHeader
    {
        var header = PDUHeader(opcode: Opcode.loginResponse, flags: flags)
        header.sessionIdentifier = request.sessionIdentifier
        header.sessionHandle = request.sessionHandle
        header.taskTag = request.taskTag
        // A new session's window begins at the number that its first login carries.
        let joined = connection.session ?? session(like: connection.login.agreed)
        let first = request.commandNumber
        header.setNumbers(
            status: connection.statusNumber, expectedCommand: joined?.expectedCommandNumber ?? first,
            maxCommand: joined?.maxCommandNumber ?? first &+ UInt32(limits.commandsMax) &- 1)
        connection.statusNumber &+= 1
        return header
    }
    func refuse(
        _ connection: TargetConnection, _ request: PDUHeader, _ status: LoginStatus, effects: inout [Effect]
    ) {
        var header = loginResponse(connection, request, flags: request.flags & 0x0c)
        header.setHalf(36, status.rawValue)
        var text: [UInt8] = []
        if let address = connection.login.movedTo {
            text = TextPairs.encode([TextPair(key: "TargetAddress", value: address)])
        }
        connection.send(header, data: text, effects: &effects)
        close(connection, .loginRefused(status.rawValue), effects: &effects)
    }

    /// All is agreed: makes the session, or joins it, once commands that must not meet its own have ended.
    func complete(_ connection: TargetConnection, effects: inout [Effect]) throws(LoginStatus) {
        guard let (agreed, _, _) = connection.agreed else { return }
        if agreed.sessionHandle == 0 {
            if let names = nexus(of: agreed) {
                if let older = sessions.first(where: { $0.names == names }) {
                    end(older, .reinstated, effects: &effects)
                }
                if endingSessions.contains(where: { $0.names == names }) { return wait(connection) }
            } else if let older = discovery(like: agreed, by: connection.portal) {
                end(older, .reinstated, effects: &effects)
            }
            guard let handle = freeHandle() else { throw .outOfResources }
            begin(connection, agreed, handle, effects: &effects)
        } else {
            guard let session = session(like: agreed) else { throw .noSuchSession }
            if let older = session.connections.first(where: {
                $0.identifier == agreed.connectionIdentifier
            }) {
                session.isAwaited = true
                close(older, .reinstated, effects: &effects)
            }
            if session.tasks.contains(where: { $0.connection.isClosed }) { return wait(connection) }
            guard session.connections.count < session.parameters.maxConnections else {
                throw .tooManyConnections
            }
            join(connection, session, agreed, effects: &effects)
        }
    }
    private func wait(_ connection: TargetConnection) {
        guard connection.phase == .login else { return }
        connection.phase = .awaitingOthers
        waitingLogins.append(connection)
    }
    /// Commands have ended: logins that waited for them may go on.
    func wakeLogins(effects: inout [Effect]) {
        guard !waitingLogins.isEmpty else { return }
        let waiting = waitingLogins
        waitingLogins = []
        for connection in waiting where connection.phase == .awaitingOthers {
            connection.phase = .login
            do throws(LoginStatus) {
                try complete(connection, effects: &effects)
            } catch {
                if let request = connection.agreed?.request {
                    refuse(connection, request, error, effects: &effects)
                }
            }
            if connection.phase == .fullFeature { goOn(connection, effects: &effects) }
        }
    }
    private func begin(
        _ connection: TargetConnection, _ agreed: AgreedLogin, _ handle: UInt16, effects: inout [Effect]
    ) {
        nexusCount += 1
        let nexus = NexusID(rawValue: nexusCount)
        let session = TargetSession(
            handle: handle, nexus: nexus, names: self.nexus(of: agreed), agreed: agreed, limits: limits)
        sessions.append(session)
        if let names = session.names {
            effects.append(.nexusBegan(nexus, names, functions: session.functions))
        }
        join(connection, session, agreed, effects: &effects)
    }
    private func join(
        _ connection: TargetConnection, _ session: TargetSession, _ agreed: AgreedLogin,
        effects: inout [Effect]
    ) {
        guard let (_, reply, request) = connection.agreed else { return }
        connection.agreed = nil
        session.isAwaited = false
        (connection.session, connection.identifier) = (session, agreed.connectionIdentifier)
        session.connections.append(connection)
        answerLogin(connection, request, reply, session: session, effects: &effects)
        connection.acknowledgedNumber = connection.statusNumber &- 1
        connection.phase = .fullFeature
        connection.parameters = agreed.connection
        connection.reader.hasHeaderDigest = agreed.connection.hasHeaderDigest
        connection.reader.hasDataDigest = agreed.connection.hasDataDigest
        connection.reader.segmentBytesMax = limits.segmentBytesMax
    }
    private func nexus(of agreed: AgreedLogin) -> Nexus? {
        agreed.targetName.map {
            Nexus(
                initiatorName: agreed.initiatorName, sessionIdentifier: agreed.sessionIdentifier,
                targetName: $0, portalGroupTag: configuration.portalGroupTag)
        }
    }
    /// The session that a login with this handle may join.
    private func session(like agreed: AgreedLogin) -> TargetSession? {
        guard agreed.sessionHandle != 0, let names = nexus(of: agreed) else { return nil }
        return sessions.first { $0.handle == agreed.sessionHandle && $0.names == names }
    }
    /// The discovery session whose place another one takes (section 7.4.2): of the same initiator port, for
    /// the same target, or by the same portal where none is named.
    private func discovery(like agreed: AgreedLogin, by portal: Int?) -> TargetSession? {
        sessions.first { session in
            session.isDiscovery && session.initiatorName == agreed.initiatorName
                && session.sessionIdentifier == agreed.sessionIdentifier
                && session.discoveryTarget == agreed.discoveryTarget
                && (agreed.discoveryTarget != nil
                    || session.connections.allSatisfy { $0.portal == portal })
        }
    }
    private func freeHandle() -> UInt16? {
        guard sessions.count < limits.connectionsMax else { return nil }
        repeat {
            lastHandle = lastHandle &+ 1
        } while lastHandle == 0
            || sessions.contains(where: { $0.handle == lastHandle })
        return lastHandle
    }

    // MARK: The end

    /// The stream cannot be trusted: at ErrorRecoveryLevel 0 the session goes with it (section 7.7).
    func fail(_ connection: TargetConnection, _ what: String, effects: inout [Effect]) {
        if let session = connection.session {
            end(session, .violation(what), effects: &effects)
        } else {
            close(connection, .violation(what), effects: &effects)
        }
    }
    /// Closes from this side.
    func close(_ connection: TargetConnection, _ reason: ISCSIEndReason, effects: inout [Effect]) {
        guard !connection.isClosed else { return }
        effects.append(.close(connection.id, reason))
        drop(connection, effects: &effects)
    }
    /// The connection is gone, and its commands with it; without another one the session is over.
    func drop(_ connection: TargetConnection, effects: inout [Effect]) {
        let awaited = connection.agreed.flatMap { session(like: $0.login) }
        connection.phase = .closed
        connections[connection.id] = nil
        (connection.held, connection.agreed, connection.text) = ([], nil, nil)
        connection.incoming = .none
        waitingLogins.removeAll { $0 === connection }
        guard let session = connection.session else {
            if let awaited {
                awaited.isAwaited = waitingLogins.contains {
                    $0.agreed.flatMap { session(like: $0.login) } === awaited
                }
                finishIfOver(awaited, effects: &effects)
            }
            return
        }
        detach(connection, session, effects: &effects)
        finishIfOver(session, effects: &effects)
        lowerFence(session, effects: &effects)
    }
    /// Takes a connection out of its session.
    private func detach(
        _ connection: TargetConnection, _ session: TargetSession, effects: inout [Effect]
    ) {
        connection.session = nil
        session.connections.removeAll { $0 === connection }
        session.plug { entry in
            switch entry {
            case .command(let task): task.connection === connection
            case .control(_, _, let owner): owner === connection
            case .plug: false
            }
        }
        endWithConnection(
            session.tasks.filter { $0.connection === connection }, session, effects: &effects)
    }
    /// Ends commands whose connection is gone or leaves. Where the session goes on, SCSI is told.
    func endWithConnection(_ tasks: [SCSITask], _ session: TargetSession, effects: inout [Effect]) {
        var units: [LUN] = []
        // What was asked back before was not ended by this.
        for task in tasks where task.stage != .aborting && !units.contains(task.lun) {
            units.append(task.lun)
        }
        end(tasks, for: nil, effects: &effects)
        guard session.isAwaited || session.connections.contains(where: { $0.phase == .fullFeature }) else {
            return
        }
        for unit in units { effects.append(.commandsCleared(session.nexus, unit)) }
    }
    /// Ends a session: its connections are closed, its commands aborted.
    func end(_ session: TargetSession, _ reason: ISCSIEndReason, effects: inout [Effect]) {
        for connection in session.connections { close(connection, reason, effects: &effects) }
    }
    /// A session without connections waits for its commands to end, then is forgotten.
    func finishIfOver(_ session: TargetSession, effects: inout [Effect]) {
        guard session.connections.isEmpty, !session.isAwaited else { return }
        if !session.isOver {
            session.isOver = true
            sessions.removeAll { $0 === session }
            endingSessions.append(session)
        }
        guard session.tasks.isEmpty, endingSessions.contains(where: { $0 === session }) else { return }
        endingSessions.removeAll { $0 === session }
        // Functions that waited behind a fence are done; those whose turn never came are forgotten with the
        // session, to which they refer.
        lowerFence(session, effects: &effects)
        session.managements = []
        session.leaving = []
        if session.names != nil { effects.append(.nexusEnded(session.nexus)) }
        wakeLogins(effects: &effects)
    }
}
