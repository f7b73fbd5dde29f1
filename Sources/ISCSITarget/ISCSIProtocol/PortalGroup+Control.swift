import BlockTypes

/// Pings, text, logout, and what a target says unasked (RFC 7143, sections 11.9 to 11.11, 11.14, 11.15,
/// 11.18).
extension PortalGroup {
    /// A request without SCSI command is here: does it now, or when its turn comes.
    func finishControl(
        _ connection: TargetConnection, _ header: PDUHeader, _ bytes: [UInt8], isIntact: Bool,
        effects: inout [Effect]
    ) {
        guard let session = connection.session else { return }
        guard isIntact else { return connection.reject(header, .dataDigestError, effects: &effects) }
        // A NOP-Out without a task tag answers a ping and takes no number.
        let isUnnumbered = header.opcode == Opcode.nopOut && header.taskTag == reservedTag
        if header.isImmediate || isUnnumbered {
            if let reason = refusal(header, bytes, connection, session) {
                return connection.reject(header, reason, effects: &effects)
            }
            return perform(header, bytes, connection, session, effects: &effects)
        }
        session.hold(.control(header, bytes, connection), at: header.commandNumber)
        advance(session, effects: &effects)
    }
    /// Why a request that is carried out now is refused, if it is.
    func refusal(
        _ header: PDUHeader, _ bytes: [UInt8], _ connection: TargetConnection, _ session: TargetSession
    ) -> RejectReason? {
        guard connection.phase == .fullFeature else { return nil }
        switch header.opcode {
        case Opcode.textRequest:
            do throws(RejectReason) {
                _ = try textExchange(header, bytes, connection, session)
                return nil
            } catch {
                // What belongs to no exchange ends none.
                if error == .protocolError { connection.text = nil }
                return error
            }
        case Opcode.taskManagementRequest: return managementRefusal(header, connection, session)
        case Opcode.logoutRequest:
            guard header.taskTag != reservedTag, let reason = LogoutReason(rawValue: header.flags & 0x7f)
            else { return .invalidField }
            // A discovery session has one connection and recovers nothing (section 4.3).
            return session.names == nil && reason != .closeSession ? .protocolError : nil
        default: return nil
        }
    }
    /// Carries out a request that is not to be refused.
    func perform(
        _ header: PDUHeader, _ bytes: [UInt8], _ connection: TargetConnection, _ session: TargetSession,
        effects: inout [Effect]
    ) {
        guard connection.phase == .fullFeature else { return }
        switch header.opcode {
        case Opcode.nopOut: answerPing(header, bytes, connection, effects: &effects)
        case Opcode.textRequest: takeText(header, bytes, connection, session, effects: &effects)
        case Opcode.taskManagementRequest: takeManagement(header, connection, session, effects: &effects)
        default: takeLogout(header, connection, session, effects: &effects)
        }
    }

    // MARK: Pings

    private func answerPing(
        _ header: PDUHeader, _ bytes: [UInt8], _ connection: TargetConnection, effects: inout [Effect]
    ) {
        if header.transferTag != reservedTag, header.transferTag == connection.pingTag {
            connection.pingTag = nil
        }
        guard header.taskTag != reservedTag else { return }
        var reply = PDUHeader(opcode: Opcode.nopIn, flags: Flag.final)
        reply.taskTag = header.taskTag
        reply.transferTag = reservedTag
        connection.stamp(&reply, usesStatus: true)
        let echoed =
            bytes.count <= connection.parameters.initiatorSegmentBytesMax
            ? bytes : Array(bytes[..<connection.parameters.initiatorSegmentBytesMax])
        connection.send(reply, data: echoed, effects: &effects)
    }
    /// Asks the initiator whether it is there. Takes no status number.
    func ping(_ connection: TargetConnection, effects: inout [Effect]) {
        guard let session = connection.session, connection.phase == .fullFeature else { return }
        let tag = session.takeTransferTag()
        connection.pingTag = tag
        var header = PDUHeader(opcode: Opcode.nopIn, flags: Flag.final)
        header.taskTag = reservedTag
        header.transferTag = tag
        connection.stamp(&header, usesStatus: false)
        connection.send(header, effects: &effects)
    }

    /// A window that opened without an answer to tell of it is told of by a ping that wants none (section
    /// 11.4.11). While such an answer is on its way, that will do.
    func tellWindow(_ session: TargetSession, effects: inout [Effect]) {
        guard session.hasUntoldWindow, session.managements.isEmpty, session.leaving.isEmpty,
            !session.tasks.contains(where: { $0.stage == .aborting }),
            let connection = session.connections.first(where: { $0.phase == .fullFeature })
        else { return }
        var header = PDUHeader(opcode: Opcode.nopIn, flags: Flag.final)
        header.taskTag = reservedTag
        header.transferTag = reservedTag
        connection.stamp(&header, usesStatus: false)
        connection.send(header, effects: &effects)
    }

    // MARK: Text

    /// Where an exchange of texts stands with a request: changes nothing.
    private func textExchange(
        _ header: PDUHeader, _ bytes: [UInt8], _ connection: TargetConnection, _ session: TargetSession
    ) throws(RejectReason) -> TargetConnection.TextExchange {
        var exchange: TargetConnection.TextExchange
        if header.transferTag == reservedTag {
            // A new request ends what was under way.
            exchange = TargetConnection.TextExchange(taskTag: header.taskTag, transferTag: reservedTag)
        } else if let known = connection.text, known.taskTag == header.taskTag,
            known.transferTag == header.transferTag
        {
            exchange = known
        } else {
            throw .invalidField
        }
        let hasContradiction = header.has(Flag.continues) && header.has(Flag.final)
        guard !hasContradiction, exchange.outgoing.isEmpty || bytes.isEmpty, header.taskTag != reservedTag,
            exchange.incoming.count + bytes.count <= ISCSILimits.textBytesMax
        else { throw .protocolError }
        guard exchange.outgoing.isEmpty else { return exchange }
        exchange.incoming += bytes
        guard !header.has(Flag.continues) else { return exchange }
        do throws(LoginStatus) {
            let pairs = try TextPairs.decode(exchange.incoming)
            exchange.outgoing = OutgoingText(try answers(to: pairs, connection, session, &exchange))
        } catch { throw .protocolError }
        exchange.incoming = []
        exchange.isLastRequest = header.has(Flag.final)
        return exchange
    }
    private func takeText(
        _ header: PDUHeader, _ bytes: [UInt8], _ connection: TargetConnection, _ session: TargetSession,
        effects: inout [Effect]
    ) {
        var exchange: TargetConnection.TextExchange
        do throws(RejectReason) {
            exchange = try textExchange(header, bytes, connection, session)
        } catch {
            return connection.reject(header, error, effects: &effects)
        }
        connection.text = nil
        if exchange.transferTag == reservedTag { exchange.transferTag = session.takeTransferTag() }
        let piece = exchange.outgoing.next(bytesMax: connection.sendSegmentBytesMax)
        let isLast = exchange.outgoing.isEmpty && exchange.isLastRequest
        var reply = PDUHeader(opcode: Opcode.textResponse, flags: isLast ? Flag.final : 0)
        if !exchange.outgoing.isEmpty { reply.flags |= Flag.continues }
        // Without a transfer tag the place of the LUN is reserved.
        if !isLast { reply.lun = header.lun }
        reply.taskTag = header.taskTag
        reply.transferTag = isLast ? reservedTag : exchange.transferTag
        connection.stamp(&reply, usesStatus: true)
        connection.send(reply, data: piece, effects: &effects)
        if !isLast {
            connection.text = exchange
        } else if let bytesMax = exchange.initiatorSegmentBytesMax {
            connection.parameters.initiatorSegmentBytesMax = bytesMax
        }
    }
    private func answers(
        to pairs: [TextPair], _ connection: TargetConnection, _ session: TargetSession,
        _ exchange: inout TargetConnection.TextExchange
    ) throws(LoginStatus) -> [UInt8] {
        // A discovery session asks for targets, and for nothing else (section 4.3).
        guard session.names != nil || pairs.contains(where: { $0.key == "SendTargets" }) else {
            throw .initiatorError
        }
        var replies: [TextPair] = []
        for pair in pairs {
            switch pair.key {
            case "SendTargets": replies += try targets(pair.value, connection, session)
            case "MaxRecvDataSegmentLength":
                guard let number = TextPairs.number(pair.value),
                    OperationalNegotiation.segmentRange.contains(number)
                else { throw .initiatorError }
                exchange.initiatorSegmentBytesMax = Int(number)
            case "InitiatorAlias": break
            default:
                let isKnown = OperationalNegotiation.isOperational(pair.key) || Self.isLoginKey(pair.key)
                replies.append(TextPair(key: pair.key, value: isKnown ? "Reject" : "NotUnderstood"))
            }
        }
        return TextPairs.encode(replies)
    }
    private static func isLoginKey(_ key: String) -> Bool {
        switch key {
        case "InitiatorName", "TargetName", "SessionType", "AuthMethod", "TargetAlias", "TargetAddress",
            "TargetPortalGroupTag":
            true
        default: CHAPExchange.isKey(key)
        }
    }
    /// What SendTargets tells: all targets in a discovery session, and only its own in any other (appendix
    /// C).
    private func targets(_ wanted: String, _ connection: TargetConnection, _ session: TargetSession)
        throws(LoginStatus) -> [TextPair]
    {
        let name: String?
        if let own = session.names?.targetName {
            guard wanted.isEmpty || wanted.lowercased() == own else { throw .initiatorError }
            name = own
        } else {
            guard !wanted.isEmpty else { throw .initiatorError }
            name = wanted == "All" ? nil : wanted.lowercased()
        }
        var pairs: [TextPair] = []
        let all = configuration.targets + configuration.targetsElsewhere
        for target in all where name == nil || target.name == name {
            guard target.admits(session.initiatorName, from: connection.address) else { continue }
            pairs.append(TextPair(key: "TargetName", value: target.name))
            for address in addresses(of: target) {
                pairs.append(TextPair(key: "TargetAddress", value: address))
            }
        }
        return pairs
    }

    /// Where a target is to be found. Nothing stands for the address that was asked, so that other groups'
    /// are told only beside it, or instead of it.
    private func addresses(of target: TargetDescription) -> [String] {
        let others = configuration.otherAddresses[target.name] ?? []
        guard configuration.isAvailable else { return others }
        let own = configuration.portals.map { "\($0),\(configuration.portalGroupTag)" }
        return own.isEmpty ? [] : own + others
    }

    // MARK: Logout

    private func takeLogout(
        _ header: PDUHeader, _ connection: TargetConnection, _ session: TargetSession, effects: inout [Effect]
    ) {
        guard let reason = LogoutReason(rawValue: header.flags & 0x7f) else {
            return connection.reject(header, .invalidField, effects: &effects)
        }
        var identifier: UInt16?
        switch reason {
        case .closeSession: break
        case .closeConnection:
            identifier = header.connectionIdentifier
        case .removeForRecovery:
            return answerLogout(connection, header, .recoveryNotSupported, effects: &effects)
        }
        let leavers = session.connections.filter { identifier == nil || $0.identifier == identifier }
        guard !leavers.isEmpty else {
            return answerLogout(connection, header, .noSuchConnection, effects: &effects)
        }
        session.leaving.append(
            TargetSession.Leaving(connection: connection, header: header, identifier: identifier))
        for leaver in leavers { leaver.phase = .loggingOut }
        endWithConnection(
            session.tasks.filter { $0.connection.phase == .loggingOut }, session, effects: &effects)
        lowerFence(session, effects: &effects)
        answerLeaving(session, effects: &effects)
    }
    /// Answers logouts whose commands have ended, and closes what they were about.
    func answerLeaving(_ session: TargetSession, effects: inout [Effect]) {
        while !session.leaving.isEmpty,
            let index = session.leaving.firstIndex(where: { leaving in
                !session.tasks.contains {
                    $0.connection.phase == .loggingOut && leaving.concerns($0.connection)
                }
            })
        {
            let isLast = session.connections.allSatisfy { session.leaving[index].concerns($0) }
            let ends = isLast && session.names != nil && !session.connections.isEmpty
            guard !ends || session.farewell == .said else {
                if session.farewell == .none { effects.append(.nexusLeaves(session.nexus)) }
                session.farewell = .asked
                return
            }
            let leaving = session.leaving.remove(at: index)
            answerLogout(leaving.connection, leaving.header, .closed, effects: &effects)
            let leavers = session.connections.filter { leaving.concerns($0) }
            for leaver in leavers { close(leaver, .loggedOut, effects: &effects) }
        }
    }
    /// Whether ``Effect/nexusLeaves(_:)`` was said of the nexus and has no answer.
    public func waitsForRelease(of nexus: NexusID) -> Bool {
        sessions.contains { $0.nexus == nexus && $0.farewell == .asked }
    }
    /// What ends with a nexus that leaves has ended everywhere, or was waited for long enough. Once or more
    /// for each ``Effect/nexusLeaves(_:)``.
    public func nexusReleased(_ nexus: NexusID, effects: inout [Effect]) {
        guard let session = sessions.first(where: { $0.nexus == nexus }), session.farewell == .asked else {
            return
        }
        session.farewell = .said
        answerLeaving(session, effects: &effects)
    }
    private func answerLogout(
        _ connection: TargetConnection, _ request: PDUHeader, _ code: LogoutCode, effects: inout [Effect]
    ) {
        var header = PDUHeader(opcode: Opcode.logoutResponse, flags: Flag.final)
        header.setByte(2, code.rawValue)
        header.taskTag = request.taskTag
        header.setHalf(40, UInt16(clamping: connection.session?.parameters.secondsToWait ?? 0))
        connection.stamp(&header, usesStatus: true)
        connection.send(header, effects: &effects)
    }

    // MARK: Unasked

    /// Asks the initiators of a target to log out within `seconds`, for another gateway to take them.
    public func requestLogout(fromTarget name: String, seconds: UInt16, effects: inout [Effect]) {
        for session in sessions where session.names?.targetName == name {
            for connection in session.connections where connection.phase == .fullFeature {
                notify(connection, .logoutRequested, numbers: (0, 0, seconds), effects: &effects)
            }
        }
    }
    /// Asks an initiator to log a connection out within `seconds`: the portal that it came by is closed. A
    /// discovery session, to which nothing is said unasked (section 7.4.3), ends at once.
    public func requestLogout(of id: ConnectionID, seconds: UInt16, effects: inout [Effect]) {
        guard let connection = connections[id], connection.phase == .fullFeature else { return }
        guard connection.session?.isDiscovery == false else {
            return close(connection, .dropped, effects: &effects)
        }
        notify(connection, .logoutRequested, numbers: (0, 0, seconds), effects: &effects)
    }
    /// Says that all connections to a target end, and ends them; initiators may come back after `seconds`.
    public func dropSessions(ofTarget name: String, seconds: UInt16, effects: inout [Effect]) {
        for session in sessions where session.names?.targetName == name {
            drop(session, seconds: seconds, effects: &effects)
        }
    }
    func drop(_ session: TargetSession, seconds: UInt16, effects: inout [Effect]) {
        if let connection = session.connections.first(where: { $0.phase == .fullFeature }) {
            notify(connection, .sessionDropped, numbers: (0, seconds, 0), effects: &effects)
        }
        end(session, .dropped, effects: &effects)
    }
    /// Hands an asynchronous event of a logical unit on.
    public func reportEvent(
        to nexus: NexusID, lun: LUN, sense: [UInt8], effects: inout [Effect]
    ) {
        invariant(sense.count <= ISCSILimits.senseBytesMax, "sense data of \(sense.count) bytes")
        guard let session = sessions.first(where: { $0.nexus == nexus }),
            let connection = session.connections.first(where: { $0.phase == .fullFeature })
        else { return }
        let data = [UInt8(sense.count >> 8), UInt8(sense.count & 0xff)] + sense
        notify(connection, .senseData, lun: lun, data: data, effects: &effects)
    }
    private func notify(
        _ connection: TargetConnection, _ code: AsyncCode, numbers: (UInt16, UInt16, UInt16) = (0, 0, 0),
        lun: LUN = LUN(rawValue: 0), data: [UInt8] = [], effects: inout [Effect]
    ) {
        var header = PDUHeader(opcode: Opcode.asyncMessage, flags: Flag.final)
        header.lun = lun
        header.taskTag = reservedTag
        header.setByte(36, code.rawValue)
        header.setHalf(38, numbers.0)
        header.setHalf(40, numbers.1)
        header.setHalf(42, numbers.2)
        connection.stamp(&header, usesStatus: true)
        connection.send(header, data: data, effects: &effects)
    }
}

extension TargetSession.Leaving {
    func concerns(_ other: TargetConnection) -> Bool {
        identifier == nil || other.identifier == identifier
    }
}
