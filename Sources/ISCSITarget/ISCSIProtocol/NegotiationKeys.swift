/// What both sides of a session agreed on (RFC 7143, section 13): at first the protocol's defaults.
public struct SessionParameters: Hashable, Sendable {
    /// Connections that the session may have.
    public var maxConnections = 1
    /// Data comes unsolicited only with the command itself.
    public var initialR2T = true
    /// Data may come with the command.
    public var immediateData = true
    /// Longest sequence of Data-In, and of solicited Data-Out.
    public var burstBytesMax = 262_144
    /// Longest unsolicited data of a command.
    public var firstBurstBytesMax = 65_536
    /// Seconds to wait before coming back after a connection broke.
    public var secondsToWait = 2
    /// Seconds for which tasks outlive their connection.
    public var secondsToRetain = 20
    /// Requests for data of one command at a time.
    public var outstandingRequestsMax = 1
    /// 1: RFC 7143; 2: RFC 7144 too.
    public var protocolLevel = 1
}

/// What both sides of a connection agreed on.
public struct ConnectionParameters: Hashable, Sendable {
    /// Headers carry a CRC32C.
    public var hasHeaderDigest = false
    /// Data segments carry a CRC32C.
    public var hasDataDigest = false
    /// Longest data segment that the initiator takes.
    public var initiatorSegmentBytesMax = 8192
}

/// The operational keys of one login, key by key.
struct OperationalNegotiation {
    let limits: ISCSILimits
    let headerDigests: DigestPolicy
    let dataDigests: DigestPolicy
    let isDiscovery: Bool
    /// False: the session exists, and its parameters stay as they are.
    let isLeading: Bool
    var session: SessionParameters
    var connection = ConnectionParameters()
    /// MaxBurstLength as the text under way will have it, wherever in it the key stands.
    var burstBytesMaxAhead: Int?
    /// Our own MaxRecvDataSegmentLength was declared.
    var hasDeclaredSegment = false

    static let segmentRange: ClosedRange<UInt64> = 512...16_777_215

    /// Keys that belong to the operational stage; before it they are refused.
    static func isOperational(_ key: String) -> Bool {
        switch key {
        case "HeaderDigest", "DataDigest", "MaxConnections", "InitialR2T", "ImmediateData",
            "MaxRecvDataSegmentLength", "MaxBurstLength", "FirstBurstLength", "DefaultTime2Wait",
            "DefaultTime2Retain", "MaxOutstandingR2T", "DataPDUInOrder", "DataSequenceInOrder",
            "ErrorRecoveryLevel", "TaskReporting", "iSCSIProtocolLevel":
            true
        default: isObsolete(key)
        }
    }
    /// Of RFC 3720 alone; to be refused, but not as unknown (section 13.25).
    static func isObsolete(_ key: String) -> Bool {
        switch key {
        case "IFMarker", "OFMarker", "IFMarkInt", "OFMarkInt": true
        default: false
        }
    }

    /// Looks at a text before its keys are taken one by one: they stand in any order, and one bears on
    /// another.
    mutating func lookAhead(_ pairs: [TextPair]) {
        burstBytesMaxAhead = nil
        guard isLeading, let pair = pairs.first(where: { $0.key == "MaxBurstLength" }),
            let number = TextPairs.number(pair.value), Self.segmentRange.contains(number)
        else { return }
        burstBytesMaxAhead = min(Int(number), limits.burstBytesMax)
    }
    /// Takes one key of the initiator.
    /// - Returns: the value to answer with, or `nil` when the key is a declaration that wants no answer.
    /// - Throws: when a declaration says what may not be.
    mutating func answer(_ key: String, _ value: String) throws(LoginStatus) -> String? {
        switch key {
        case "HeaderDigest":
            guard let chosen = digest(value, headerDigests) else { return "Reject" }
            connection.hasHeaderDigest = chosen == "CRC32C"
            return chosen
        case "DataDigest":
            guard let chosen = digest(value, dataDigests) else { return "Reject" }
            connection.hasDataDigest = chosen == "CRC32C"
            return chosen
        case "MaxRecvDataSegmentLength":
            guard let number = TextPairs.number(value), Self.segmentRange.contains(number) else {
                throw .initiatorError
            }
            connection.initiatorSegmentBytesMax = Int(number)
            return nil
        case "MaxConnections", "InitialR2T", "ImmediateData", "MaxBurstLength", "FirstBurstLength",
            "MaxOutstandingR2T", "DataPDUInOrder", "DataSequenceInOrder", "TaskReporting":
            return isDiscovery ? "Irrelevant" : answerNormal(key, value)
        case "DefaultTime2Wait": return number(value, 0...3600, \.secondsToWait, by: max, 0)
        case "DefaultTime2Retain": return number(value, 0...3600, \.secondsToRetain, by: min, 0)
        case "ErrorRecoveryLevel": return number(value, 0...2, nil, by: min, 0)
        case "iSCSIProtocolLevel": return number(value, 0...31, \.protocolLevel, by: min, 2)
        case "IFMarker", "OFMarker": return "No"
        case "IFMarkInt", "OFMarkInt": return "Reject"
        default: return "NotUnderstood"
        }
    }
    /// Keys that mean nothing in a discovery session.
    private mutating func answerNormal(_ key: String, _ value: String) -> String {
        switch key {
        case "MaxConnections":
            return number(value, 1...65_535, \.maxConnections, by: min, limits.connectionsPerSessionMax)
        case "InitialR2T": return boolean(value, \.initialR2T) { $0 || $1 }
        case "ImmediateData": return boolean(value, \.immediateData) { $0 && $1 }
        case "MaxBurstLength":
            return number(value, Self.segmentRange, \.burstBytesMax, by: min, limits.burstBytesMax)
        case "FirstBurstLength":
            // It may not be above MaxBurstLength (section 13.14).
            let ahead = burstBytesMaxAhead ?? session.burstBytesMax
            return number(
                value, Self.segmentRange, \.firstBurstBytesMax, by: min,
                min(limits.firstBurstBytesMax, ahead))
        case "MaxOutstandingR2T":
            return number(
                value, 1...65_535, \.outstandingRequestsMax, by: min, limits.outstandingRequestsMax)
        case "DataPDUInOrder", "DataSequenceInOrder":
            return TextPairs.boolean(value) == nil ? "Reject" : "Yes"
        default:
            // TaskReporting: what aborts do here is the standard's default (section 4.2.3.3).
            return value.split(separator: ",").contains("RFC3720") ? "RFC3720" : "Reject"
        }
    }
    private func digest(_ list: String, _ policy: DigestPolicy) -> String? {
        list.split(separator: ",").map { String($0) }.first { policy.allows($0) }
    }
    /// Agrees on a number: by `result`, the key's result function, of the initiator's and `own`.
    ///
    /// A connection that joins a session cannot change the session's: it is told that, or refused if it is
    /// not what the function allows.
    private mutating func number(
        _ value: String, _ range: ClosedRange<UInt64>, _ place: WritableKeyPath<SessionParameters, Int>?,
        by result: (Int, Int) -> Int, _ own: Int
    ) -> String {
        guard let number = TextPairs.number(value), range.contains(number) else { return "Reject" }
        guard let place else { return String(result(Int(number), own)) }
        if isLeading {
            session[keyPath: place] = result(Int(number), own)
        } else if result(Int(number), session[keyPath: place]) != session[keyPath: place] {
            return "Reject"
        }
        return String(session[keyPath: place])
    }
    /// The same for yes and no; we take either.
    private mutating func boolean(
        _ value: String, _ place: WritableKeyPath<SessionParameters, Bool>, by result: (Bool, Bool) -> Bool
    ) -> String {
        guard let said = TextPairs.boolean(value) else { return "Reject" }
        if isLeading {
            session[keyPath: place] = said
        } else if result(said, session[keyPath: place]) != session[keyPath: place] {
            return "Reject"
        }
        return session[keyPath: place] ? "Yes" : "No"
    }
}
