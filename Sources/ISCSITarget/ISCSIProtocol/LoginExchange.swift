/// What a login wants in the end, once all is agreed.
struct AgreedLogin {
    var initiatorName = ""
    /// `nil`: a discovery session.
    var targetName: String?
    /// The target that a discovery session named, if it did.
    var discoveryTarget: String?
    /// Who the initiator proved to be; `nil`: no proof was wanted.
    var userName: String?
    var sessionIdentifier: UInt64 = 0
    /// 0: a session of its own; otherwise the one that the connection wants to join.
    var sessionHandle: UInt16 = 0
    var connectionIdentifier: UInt16 = 0
    var firstCommandNumber: UInt32 = 0
    var session = SessionParameters()
    var connection = ConnectionParameters()
}

/// One connection's login, from its first request to full feature phase (RFC 7143, sections 6.2, 6.3, 11.12).
///
/// It knows what was said on this connection. Whether there is room for another session or connection, and
/// what becomes of an older one, is for the portal group to say when the login is ``Reply/isComplete``.
struct LoginExchange {
    struct Reply {
        /// Transit and continue bits, current and next stage.
        var flags: UInt8
        var text: [UInt8]
        var isComplete = false
    }
    private let configuration: PortalGroupConfiguration
    private let limits: ISCSILimits
    private let address: [UInt8]
    private let randomness: [UInt8]

    private(set) var agreed = AgreedLogin()
    /// Where a target that moved is now; told with the refusal.
    private(set) var movedTo: String?
    /// The first step named a target that another loop serves: what it said, for that one to hear. Nothing
    /// was answered to it.
    private(set) var moving: (targetName: String, text: [UInt8])?
    private var stage: LoginStage?
    private var taskTag: UInt32 = 0
    private(set) var requestCount = 0
    private var isIdentified = false
    private var isAuthenticated = false
    private var methodAnswered = false
    private var authentication = Authentication.none
    private var chap: CHAPExchange?
    private var operational: OperationalNegotiation
    /// The TargetName that was said first; in a discovery session it means nothing.
    private var namedTarget: String?
    /// Operational keys that were said: each may be said once. Looked up, never iterated.
    private var negotiated: Set<String> = []
    /// Text of a step that comes in several PDUs.
    private var incoming: [UInt8] = []
    /// Text of ours that goes out in several, and the flags of the last of them.
    private var outgoing = OutgoingText()
    private var lastFlags: UInt8 = 0
    private var lastIsComplete = false

    init(
        configuration: PortalGroupConfiguration, limits: ISCSILimits, address: [UInt8], randomness: [UInt8]
    ) {
        (self.configuration, self.limits, self.address) = (configuration, limits, address)
        self.randomness = randomness
        operational = OperationalNegotiation(
            limits: limits, headerDigests: configuration.headerDigests,
            dataDigests: configuration.dataDigests, isDiscovery: false, isLeading: true,
            session: SessionParameters())
    }

    /// So many requests were taken elsewhere.
    mutating func begin(afterRequests count: Int) { requestCount = count }
    /// Takes one login request, whole.
    /// - Parameter existing: parameters of the session with this handle, if it belongs to this initiator
    /// port.
    /// - Throws: the status to refuse the login with.
    mutating func receive(
        _ header: PDUHeader, _ bytes: [UInt8], existing: (AgreedLogin) -> SessionParameters?
    ) throws(LoginStatus) -> Reply {
        requestCount += 1
        guard requestCount <= ISCSILimits.loginRequestsMax else { throw .initiatorError }
        let next = try check(header)
        if !outgoing.isEmpty {
            guard bytes.isEmpty else { throw .initiatorError }
            return nextReply()
        }
        incoming += bytes
        guard incoming.count <= ISCSILimits.textBytesMax else { throw .initiatorError }
        if header.has(Flag.continues) { return Reply(flags: currentStage << 2, text: []) }
        let pairs = try TextPairs.decode(incoming)
        if !isIdentified, let name = Self.target(in: pairs), configuration.isElsewhere(name) {
            moving = (name, incoming)
            return Reply(flags: 0, text: [])
        }
        incoming = []
        var replies: [TextPair] = []
        if isIdentified {
            try checkRepeated(pairs)
        } else {
            try identify(pairs, &replies, existing: existing)
        }
        switch stage {
        case .security: try security(pairs, &replies)
        case .operational: try negotiate(pairs, &replies)
        case .fullFeature, nil: throw .initiatorError
        }
        (lastFlags, lastIsComplete) = (currentStage << 2, false)
        if let next, isAuthenticated {
            lastFlags |= Flag.transit | next.rawValue
            stage = next
            if next == .fullFeature {
                lastIsComplete = true
                (agreed.session, agreed.connection) = (operational.session, operational.connection)
                // Where FirstBurstLength was not said, or before a lower MaxBurstLength (section 13.14).
                agreed.session.firstBurstBytesMax = min(
                    agreed.session.firstBurstBytesMax, agreed.session.burstBytesMax)
            }
        }
        outgoing = OutgoingText(TextPairs.encode(replies))
        return nextReply()
    }

    private var currentStage: UInt8 { stage?.rawValue ?? 0 }

    private mutating func nextReply() -> Reply {
        let text = outgoing.next(bytesMax: ISCSILimits.loginSegmentBytesMax)
        if outgoing.isEmpty { return Reply(flags: lastFlags, text: text, isComplete: lastIsComplete) }
        return Reply(flags: Flag.continues | lastFlags & 0x0c, text: text)
    }

    /// Judges a request's header.
    /// - Returns: the stage that the initiator wants to go to, if any.
    private mutating func check(_ header: PDUHeader) throws(LoginStatus) -> LoginStage? {
        guard header.byte(3) == 0 else { throw .unsupportedVersion }
        guard header.isImmediate, let current = LoginStage(rawValue: header.flags >> 2 & 3) else {
            throw .initiatorError
        }
        if let stage {
            // A piece of our text that is still to come belongs to the stage in which it began.
            let expected = outgoing.isEmpty ? stage.rawValue : lastFlags >> 2 & 3
            guard current.rawValue == expected, header.taskTag == taskTag,
                header.sessionIdentifier == agreed.sessionIdentifier,
                header.sessionHandle == agreed.sessionHandle,
                header.connectionIdentifier == agreed.connectionIdentifier
            else { throw .invalidDuringLogin }
        } else {
            guard current != .fullFeature else { throw .initiatorError }
            (stage, taskTag) = (current, header.taskTag)
            agreed.sessionIdentifier = header.sessionIdentifier
            agreed.sessionHandle = header.sessionHandle
            agreed.connectionIdentifier = header.connectionIdentifier
            agreed.firstCommandNumber = header.commandNumber
        }
        guard header.has(Flag.transit) else { return nil }
        guard !header.has(Flag.continues), let next = LoginStage(rawValue: header.flags & 3),
            next.rawValue > current.rawValue
        else { throw .initiatorError }
        return next
    }

    // MARK: Who and what

    /// The target that a normal session's first step names.
    private static func target(in pairs: [TextPair]) -> String? {
        guard !pairs.contains(where: { $0.key == "SessionType" && $0.value != "Normal" }) else { return nil }
        return pairs.first { $0.key == "TargetName" }?.value.lowercased()
    }
    /// The first step names the initiator, what it wants and where.
    private mutating func identify(
        _ pairs: [TextPair], _ replies: inout [TextPair], existing: (AgreedLogin) -> SessionParameters?
    ) throws(LoginStatus) {
        func value(_ key: String) -> String? { pairs.first { $0.key == key }?.value }
        guard let name = value("InitiatorName") else { throw .missingParameter }
        guard Self.isName(name) else { throw .initiatorError }
        agreed.initiatorName = name.lowercased()
        namedTarget = value("TargetName")?.lowercased()
        switch value("SessionType") ?? "Normal" {
        case "Normal":
            guard let namedTarget else { throw .missingParameter }
            let target = try choose(namedTarget)
            replies.append(
                TextPair(key: "TargetPortalGroupTag", value: String(configuration.portalGroupTag)))
            if TextPairs.isValue(target.alias) {
                replies.append(TextPair(key: "TargetAlias", value: target.alias))
            }
        case "Discovery":
            // Every discovery session has one connection.
            guard agreed.sessionHandle == 0 else { throw .cannotInclude }
            agreed.discoveryTarget = namedTarget
            authentication = configuration.discoveryAuthentication
        default: throw .sessionTypeNotSupported
        }
        if case .none = authentication { isAuthenticated = true }
        var parameters = SessionParameters()
        if agreed.sessionHandle != 0 {
            guard let found = existing(agreed) else { throw .noSuchSession }
            parameters = found
        }
        operational = OperationalNegotiation(
            limits: limits, headerDigests: configuration.headerDigests,
            dataDigests: configuration.dataDigests, isDiscovery: agreed.targetName == nil,
            isLeading: agreed.sessionHandle == 0, session: parameters)
        isIdentified = true
    }
    private mutating func choose(_ targetName: String) throws(LoginStatus) -> TargetDescription {
        guard let target = configuration.target(named: targetName) else { throw .notFound }
        guard target.admits(agreed.initiatorName, from: address) else { throw .authorizationFailure }
        if target.isAvailable, !configuration.isAvailable, configuration.redirectsWhenUnavailable,
            let other = configuration.otherAddress(of: targetName, for: agreed.initiatorName)
        {
            movedTo = other
            throw .movedTemporarily
        }
        guard target.isAvailable, configuration.isAvailable else { throw .serviceUnavailable }
        if let redirection = target.redirection {
            movedTo = redirection.address
            throw redirection.isPermanent ? .movedPermanently : .movedTemporarily
        }
        agreed.targetName = targetName
        authentication = target.authentication
        return target
    }
    /// What was said in the first step may be said again, and not otherwise.
    private func checkRepeated(_ pairs: [TextPair]) throws(LoginStatus) {
        for pair in pairs {
            let isSame =
                switch pair.key {
                case "InitiatorName": pair.value.lowercased() == agreed.initiatorName
                case "TargetName": pair.value.lowercased() == namedTarget
                case "SessionType": (pair.value == "Discovery") == (agreed.targetName == nil)
                default: true
                }
            guard isSame else { throw .initiatorError }
        }
    }
    /// Printable, without blanks, and not too long; whether it is one of `iqn.`, `eui.`, `naa.` matters to
    /// nobody.
    static func isName(_ name: String) -> Bool {
        let bytes = name.utf8
        return !bytes.isEmpty && bytes.count <= ISCSILimits.nameBytesMax && bytes.allSatisfy { $0 > 0x20 }
    }
    private static func isIdentifying(_ key: String) -> Bool {
        switch key {
        case "InitiatorName", "TargetName", "SessionType", "InitiatorAlias": true
        default: false
        }
    }

    // MARK: Stages

    private mutating func security(_ pairs: [TextPair], _ replies: inout [TextPair]) throws(LoginStatus) {
        for pair in pairs where !Self.isIdentifying(pair.key) && !CHAPExchange.isKey(pair.key) {
            if pair.key == "AuthMethod" {
                replies.append(TextPair(key: "AuthMethod", value: try chooseMethod(pair.value)))
            } else {
                let isKnown = OperationalNegotiation.isOperational(pair.key) || Self.isForeign(pair.key)
                Self.answer(pair, isKnown ? "Reject" : "NotUnderstood", &replies)
            }
        }
        let proofs = pairs.filter { CHAPExchange.isKey($0.key) }
        guard !proofs.isEmpty else { return }
        guard var exchange = chap else { throw .authenticationFailure }
        replies += try exchange.answer(proofs)
        chap = exchange
        isAuthenticated = exchange.isDone
        agreed.userName = exchange.userName
    }
    private mutating func chooseMethod(_ offered: String) throws(LoginStatus) -> String {
        guard !methodAnswered else { throw .initiatorError }
        methodAnswered = true
        let wanted =
            switch authentication {
            case .none: "None"
            case .chap: "CHAP"
            }
        guard offered.split(separator: ",").contains(where: { $0 == wanted }) else {
            throw .authenticationFailure
        }
        if case .chap(let users, let mutual) = authentication {
            chap = CHAPExchange(
                users: users, mutual: mutual, digests: configuration.chap, randomness: randomness)
        }
        return wanted
    }
    private mutating func negotiate(_ pairs: [TextPair], _ replies: inout [TextPair]) throws(LoginStatus) {
        guard isAuthenticated else { throw .authenticationFailure }
        if !operational.hasDeclaredSegment {
            operational.hasDeclaredSegment = true
            replies.append(
                TextPair(key: "MaxRecvDataSegmentLength", value: String(limits.segmentBytesMax)))
        }
        operational.lookAhead(pairs)
        for pair in pairs where !Self.isIdentifying(pair.key) {
            // Nothing is negotiated more than once (section 6.3).
            guard negotiated.insert(pair.key).inserted else { throw .initiatorError }
            if Self.isForeign(pair.key) || pair.key == "AuthMethod" || CHAPExchange.isKey(pair.key) {
                Self.answer(pair, "Reject", &replies)
            } else if let value = try operational.answer(pair.key, pair.value) {
                Self.answer(pair, value, &replies)
            }
        }
    }
    /// Keys that only a target says, or that belong to full feature phase.
    private static func isForeign(_ key: String) -> Bool {
        switch key {
        case "TargetAlias", "TargetAddress", "TargetPortalGroupTag", "SendTargets": true
        default: false
        }
    }
    /// Answers are not answered.
    private static func answer(_ pair: TextPair, _ value: String, _ replies: inout [TextPair]) {
        switch pair.value {
        case "Reject", "NotUnderstood", "Irrelevant": return
        default: replies.append(TextPair(key: pair.key, value: value))
        }
    }
}
