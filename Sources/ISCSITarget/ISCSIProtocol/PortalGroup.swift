import BlockTypes

/// All connections to one portal group, from their logins to their goodbyes: bytes and answers in, replies
/// and SCSI commands out. The logic of the iSCSI target; it never waits.
///
/// Not a `Machine`: received bytes are lent for one call, and an event value would have to own a copy. A
/// class, confined to one loop: connections, sessions and commands refer to each other, and one command may
/// be ended by a request on another session.
public final class PortalGroup {
    /// What to do next, in order.
    public enum Effect: Sendable {
        /// Send bytes of headers and small data.
        case send(ConnectionID, [UInt8])
        /// Send data, by reference.
        case sendPayload(ConnectionID, Payload)
        /// Stop reading the connection.
        case pauseReceiving(ConnectionID)
        /// Read it again.
        case resumeReceiving(ConnectionID)
        /// Send what was queued, then close. No effect for this connection follows.
        case close(ConnectionID, ISCSIEndReason)
        /// Another loop serves this target: give the connection up, ask for its ``PortalGroup/moved(_:)``,
        /// and let that loop's group open it.
        case move(ConnectionID, targetName: String)
        /// An initiator port is here: commands of this nexus will follow. All other task management functions
        /// than these are answered "not supported".
        case nexusBegan(NexusID, Nexus, functions: Set<ManagementFunction>)
        /// Carry the command out, and report by ``PortalGroup/answered(_:_:effects:)``.
        case execute(TaskID, SCSICommand)
        /// End the command if that is still possible, and report in either case: by
        /// ``PortalGroup/answered(_:_:effects:)`` when it was done, else by
        /// ``PortalGroup/aborted(_:effects:)``.
        case abort(TaskID)
        /// The tasks that it is about have ended; do the rest and report by
        /// ``PortalGroup/managed(_:_:effects:)``. The logical unit is 0 for functions of the whole target.
        case manage(ManagementID, ManagementFunction, NexusID, LUN)
        /// Commands of this nexus for this logical unit ended with their connection, and the session goes on:
        /// a unit attention has to tell (RFC 7143, section 11.14.5).
        case commandsCleared(NexusID, LUN)
        /// The initiator logs out, and its commands have ended: end what ends with its nexus for others too,
        /// and report by ``PortalGroup/nexusReleased(_:effects:)``.
        case nexusLeaves(NexusID)
        /// The session is over and all its commands have ended.
        case nexusEnded(NexusID)
        /// What ``PortalGroup/endTasks(ofTarget:ending:where:effects:)`` was about has ended.
        case tasksEnded(TaskEndingID)
    }

    let limits: ISCSILimits
    let pool: BufferPool
    /// What initiators are told and asked, from the next login or request on.
    public var configuration: PortalGroupConfiguration

    // Looked up, never iterated.
    var connections: [ConnectionID: TargetConnection] = [:] { didSet { recentConnection = nil } }
    /// The one looked up last: what happens in a turn is mostly about one.
    private var recentConnection: TargetConnection?
    /// Sessions with connections, in the order in which they began.
    var sessions: [TargetSession] = []
    /// Sessions without, whose commands have not ended.
    var endingSessions: [TargetSession] = []
    /// Logins that wait for those, in the order in which they came.
    var waitingLogins: [TargetConnection] = []
    var taskSlots: [SCSITask?] = []
    var freeTaskSlots: [Int] = []
    var taskGeneration: UInt64 = 0
    // Looked up, never iterated.
    var managements: [ManagementID: TaskManagement] = [:]
    var managementCount: UInt64 = 0
    var nexusCount: UInt64 = 0
    var lastHandle: UInt16 = 0

    /// A portal group without connections.
    public init(
        configuration: PortalGroupConfiguration, limits: ISCSILimits = ISCSILimits(), pool: BufferPool
    ) { (self.configuration, self.limits, self.pool) = (configuration, limits, pool) }

    /// Bytes of randomness that every connection is given: its CHAP challenge, should it need one.
    public static let randomBytesPerConnection = CHAPExchange.randomBytes

    private func connection(_ id: ConnectionID) -> TargetConnection? {
        if let recentConnection, recentConnection.id == id { return recentConnection }
        recentConnection = connections[id]
        return recentConnection
    }

    // MARK: Events

    /// A connection was accepted.
    /// - Parameters:
    ///   - address: where it comes from, 4 or 16 bytes; empty if that cannot be said.
    ///   - portal: the number of the portal that it came by, if it came by one.
    ///   - randomness: ``randomBytesPerConnection`` bytes that nobody can guess.
    public func opened(
        _ id: ConnectionID, from address: [UInt8], by portal: Int? = nil, randomness: [UInt8],
        effects: inout [Effect]
    ) {
        invariant(connections[id] == nil, "connection \(id.rawValue) was opened twice")
        invariant(randomness.count == Self.randomBytesPerConnection, "not enough randomness for a challenge")
        guard connections.count < limits.connectionsMax else {
            effects.append(.close(id, .crowded))
            return
        }
        let login = LoginExchange(
            configuration: configuration, limits: limits, address: address, randomness: randomness)
        connections[id] = TargetConnection(id: id, address: address, portal: portal, login: login)
    }
    /// Bytes arrived, cut anywhere.
    /// - Parameter queuedSendBytes: reply bytes that the socket has not taken yet.
    @unsafe public func received(
        _ bytes: UnsafeRawBufferPointer, on id: ConnectionID, queuedSendBytes: Int, effects: inout [Effect]
    ) {
        guard let connection = connection(id) else { return }
        connection.queuedSendBytes = queuedSendBytes
        if connection.held.isEmpty {
            var rest = unsafe bytes
            unsafe consume(&rest, connection, effects: &effects)
            if rest.count > 0 { unsafe connection.held.append(contentsOf: rest) }
        } else {
            unsafe connection.held.append(contentsOf: bytes)
        }
        adjustReceiving(connection, effects: &effects)
    }
    /// Where the next bytes should land, when they are the rest of a write's data.
    @unsafe public func receiveWindow(of id: ConnectionID) -> UnsafeMutableRawBufferPointer? {
        guard let connection = connection(id), connection.held.isEmpty else { return nil }
        return unsafe connection.reader.window
    }
    /// The socket took queued replies.
    public func drained(_ id: ConnectionID, queuedSendBytes: Int, effects: inout [Effect]) {
        guard let connection = connection(id) else { return }
        connection.queuedSendBytes = queuedSendBytes
        if let session = connection.session { admitWaiting(session, effects: &effects) }
        goOn(connection, effects: &effects)
    }
    /// The connection broke. Its commands are aborted.
    public func lost(_ id: ConnectionID, effects: inout [Effect]) {
        guard let connection = connection(id) else { return }
        drop(connection, effects: &effects)
    }
    /// Forgets all sessions and what was asked in them, without a word: the process is over.
    public func abandon() {
        // They refer to each other.
        for session in sessions + endingSessions { session.forgetAll() }
        (sessions, endingSessions, connections, managements) = ([], [], [:], [:])
        (taskSlots, freeTaskSlots) = ([], [])
    }
    /// Too much time has passed since the connection was opened. Says nothing to one that has logged in.
    public func loginTimeReached(_ id: ConnectionID, effects: inout [Effect]) {
        guard let connection = connection(id), connection.phase == .login || connection.phase == .moving
        else { return }
        close(connection, .loginTooLong, effects: &effects)
    }
    /// Time to see whether the initiator is still there; to be called again and again. Closes the connection
    /// when nothing came since the ping that an earlier call sent.
    public func pingTimeReached(_ id: ConnectionID, effects: inout [Effect]) {
        guard let connection = connection(id), connection.phase == .fullFeature else { return }
        if connection.wasHeard {
            connection.wasHeard = false
        } else if connection.pingTag != nil || connection.session?.names == nil {
            // A discovery session takes no pings (section 4.3).

            close(connection, .silent, effects: &effects)
        } else {
            ping(connection, effects: &effects)
        }
    }
    /// True until the login is over.
    public func isLoggingIn(_ id: ConnectionID) -> Bool {
        guard let connection = connection(id) else { return false }
        switch connection.phase {
        case .login, .awaitingOthers, .moving: return true
        case .fullFeature, .loggingOut, .closed: return false
        }
    }
    /// True while requests are not read because replies pile up: ``drained(_:queuedSendBytes:effects:)`` must
    /// follow.
    public func waitsForDrain(_ id: ConnectionID) -> Bool {
        guard let connection = connection(id) else { return false }
        return connection.queuedSendBytes > limits.queuedReplyBytesMax
            || connection.session?.queue.isEmpty == false
    }

    // MARK: Reading

    /// Takes bytes from the front until there are none, or what they ask for has to wait.
    @unsafe private func consume(
        _ rest: inout UnsafeRawBufferPointer, _ connection: TargetConnection, effects: inout [Effect]
    ) {
        while true {
            switch connection.phase {
            case .closed:
                unsafe rest = UnsafeRawBufferPointer(start: nil, count: 0)
                return
            case .awaitingOthers, .moving: return
            case .login, .fullFeature, .loggingOut: break
            }
            guard connection.queuedSendBytes <= limits.queuedReplyBytesMax,
                let item = unsafe connection.reader.next(&rest)
            else { return }
            switch item {
            case .header(let header, let additional):
                take(header, additional, connection, effects: &effects)
            case .data(let isIntact, let bytes):
                finish(connection, bytes, isIntact: isIntact, effects: &effects)
            case .fault(.headerDigest):
                // The length may be wrong too: nothing behind it can be found (section 7.7).
                fail(connection, "a header's digest is wrong", effects: &effects)
            case .fault(.segmentTooLong(let header)):
                if connection.phase == .login {
                    refuse(connection, header, .initiatorError, effects: &effects)
                } else {
                    connection.additional = []
                    connection.reject(header, .protocolError, effects: &effects)
                    fail(connection, "a data segment is longer than declared", effects: &effects)
                }
            }
        }
    }
    /// Looks at held bytes again, since there may be room now.
    func goOn(_ connection: TargetConnection, effects: inout [Effect]) {
        if !connection.held.isEmpty, !connection.isClosed {
            // Taken out, so that reading them does not conflict with holding more.
            var bytes: [UInt8] = []
            swap(&bytes, &connection.held)
            let consumed = unsafe bytes.withUnsafeBytes { all -> Int in
                var rest = unsafe all
                unsafe consume(&rest, connection, effects: &effects)
                return all.count - rest.count
            }
            if consumed < bytes.count, !connection.isClosed { connection.held = Array(bytes[consumed...]) }
        }
        adjustReceiving(connection, effects: &effects)
    }
    private func adjustReceiving(_ connection: TargetConnection, effects: inout [Effect]) {
        guard !connection.isClosed else { return }
        let mustPause =
            !connection.held.isEmpty || connection.phase == .awaitingOthers || connection.phase == .moving
            || connection.queuedSendBytes > limits.queuedReplyBytesMax
        guard mustPause != connection.isPaused else { return }
        connection.isPaused = mustPause
        effects.append(mustPause ? .pauseReceiving(connection.id) : .resumeReceiving(connection.id))
    }
    /// A header is here: says where its data goes, or carries it out when it has none.
    private func take(
        _ header: PDUHeader, _ additional: [UInt8], _ connection: TargetConnection, effects: inout [Effect]
    ) {
        if !additional.isEmpty || !connection.additional.isEmpty { connection.additional = additional }
        let destination: PDUReader.Destination
        if connection.phase == .login {
            destination = takeLogin(header, additional, connection, effects: &effects)
        } else {
            destination = takeRequest(header, additional, connection, effects: &effects)
        }
        guard !connection.isClosed else { return }
        if header.dataBytes > 0 {
            connection.reader.direct(destination)
        } else {
            finish(connection, [], isIntact: true, effects: &effects)
        }
    }
    private func takeRequest(
        _ header: PDUHeader, _ additional: [UInt8], _ connection: TargetConnection, effects: inout [Effect]
    ) -> PDUReader.Destination {
        connection.incoming = .dropped
        connection.wasHeard = true
        guard let session = connection.session, connection.phase == .fullFeature else { return .skip }
        if header.opcode != Opcode.loginRequest {
            connection.acknowledge(header.expectedStatusNumber)
            lowerFence(session, effects: &effects)
            // Answers that the fence let go may have completed a logout.
            guard connection.phase == .fullFeature else { return .skip }
        }
        guard additional.isEmpty || header.opcode == Opcode.scsiCommand else {
            connection.reject(header, .invalidField, effects: &effects)
            return .skip
        }
        switch header.opcode {
        case Opcode.scsiCommand where !session.isDiscovery:
            return takeCommand(header, additional, connection, session, effects: &effects)
        case Opcode.dataOut where !session.isDiscovery:
            return takeDataOut(header, connection, session, effects: &effects)
        case Opcode.taskManagementRequest where !session.isDiscovery,
            Opcode.nopOut where !session.isDiscovery, Opcode.textRequest, Opcode.logoutRequest:
            connection.incoming = .control(header)
            return .bytes
        case Opcode.scsiCommand, Opcode.dataOut, Opcode.taskManagementRequest, Opcode.nopOut:
            // A discovery session looks for targets and does nothing else (section 4.3).
            connection.reject(header, .protocolError, effects: &effects)
        case Opcode.snack:
            // Nothing is kept for sending again at ErrorRecoveryLevel 0.
            connection.reject(header, .snackReject, effects: &effects)
        case Opcode.loginRequest:
            connection.reject(header, .protocolError, effects: &effects)
            fail(connection, "a login request in full feature phase", effects: &effects)
        default: connection.reject(header, .commandNotSupported, effects: &effects)
        }
        return .skip
    }
    /// A PDU is here with all its data.
    private func finish(
        _ connection: TargetConnection, _ bytes: [UInt8], isIntact: Bool, effects: inout [Effect]
    ) {
        var incoming = TargetConnection.Incoming.none
        swap(&incoming, &connection.incoming)
        switch incoming {
        case .none, .dropped: break
        case .login(let header): stepLogin(connection, header, bytes, effects: &effects)
        case .command(let task, let header):
            finishCommand(task, header, isIntact: isIntact, effects: &effects)
        case .dataOut(let task, let header):
            finishDataOut(task, header, isIntact: isIntact, effects: &effects)
        case .control(let header):
            finishControl(connection, header, bytes, isIntact: isIntact, effects: &effects)
        }
    }
}
