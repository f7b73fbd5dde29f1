/// A hash function of CHAP, by its IANA number (RFC 7143, section 12.1.3, and the PPP registry).
public enum CHAPAlgorithm: UInt8, CaseIterable, Hashable, Sendable {
    /// Broken; only for initiators that know nothing else.
    case md5 = 5
    /// Not much better.
    case sha1 = 6
    /// SHA-256.
    case sha256 = 7
    /// SHA3-256.
    case sha3 = 8

    /// Bytes of a digest.
    public var digestBytes: Int {
        switch self {
        case .md5: 16
        case .sha1: 20
        case .sha256, .sha3: 32
        }
    }
}

/// The hash functions, which come from outside: this room has none of its own.
public struct CHAPDigests: Sendable {
    /// Those that may be used.
    public let algorithms: [CHAPAlgorithm]
    /// The digest of some bytes. Pure.
    public let digest: @Sendable (CHAPAlgorithm, [UInt8]) -> [UInt8]
    /// These algorithms; MD5 only when it is named.
    public init(
        algorithms: [CHAPAlgorithm] = [.sha3, .sha256, .sha1],
        digest: @escaping @Sendable (CHAPAlgorithm, [UInt8]) -> [UInt8]
    ) { (self.algorithms, self.digest) = (algorithms, digest) }
}

/// A name and its secret.
public struct CHAPCredential: Hashable, Sendable {
    /// What CHAP_N says.
    public let name: String
    /// At least 12 bytes (section 12.1.3), which whoever stores secrets sees to.
    public let secret: [UInt8]
    /// `name` with `secret`.
    public init(name: String, secret: [UInt8]) { (self.name, self.secret) = (name, secret) }
}

/// One CHAP exchange, the target's side (section 12.1.3): algorithm, challenge, response, and back if asked.
struct CHAPExchange {
    private enum Phase { case begun, challenged(CHAPAlgorithm), done }
    private let users: [CHAPCredential]
    private let mutual: CHAPCredential?
    private let digests: CHAPDigests
    private let challenge: [UInt8]
    private let identifier: UInt8
    private var phase = Phase.begun
    /// Who answered the challenge rightly.
    private(set) var userName: String?

    /// Bytes of randomness that an exchange needs: challenge and identifier.
    static let randomBytes = 33

    init(users: [CHAPCredential], mutual: CHAPCredential?, digests: CHAPDigests, randomness: [UInt8]) {
        (self.users, self.mutual, self.digests) = (users, mutual, digests)
        challenge = Array(randomness.prefix(Self.randomBytes - 1))
        identifier = randomness.last ?? 0
    }
    var isDone: Bool { if case .done = phase { true } else { false } }
    static func isKey(_ key: String) -> Bool {
        switch key {
        case "CHAP_A", "CHAP_I", "CHAP_C", "CHAP_N", "CHAP_R": true
        default: false
        }
    }

    /// Takes the CHAP keys of one step.
    /// - Throws: `authenticationFailure`, whatever was wrong: who fails learns no more.
    mutating func answer(_ pairs: [TextPair]) throws(LoginStatus) -> [TextPair] {
        func value(_ key: String) -> String? { pairs.first { $0.key == key }?.value }
        switch phase {
        case .begun:
            guard pairs.count == 1, let offered = value("CHAP_A") else { throw .authenticationFailure }
            let chosen = offered.split(separator: ",").lazy.compactMap { text -> CHAPAlgorithm? in
                let algorithm = TextPairs.number(String(text)).flatMap { UInt8(exactly: $0) }
                return algorithm.flatMap { CHAPAlgorithm(rawValue: $0) }
            }.first { digests.algorithms.contains($0) }
            guard let chosen else { throw .authenticationFailure }
            phase = .challenged(chosen)
            return [
                TextPair(key: "CHAP_A", value: String(chosen.rawValue)),
                TextPair(key: "CHAP_I", value: String(identifier)),
                TextPair(key: "CHAP_C", value: TextPairs.hexadecimal(challenge)),
            ]
        case .challenged(let algorithm):
            guard let name = value("CHAP_N"), let response = value("CHAP_R"), value("CHAP_A") == nil else {
                throw .authenticationFailure
            }
            let user = try judge(name, response, algorithm)
            var reply: [TextPair] = []
            if value("CHAP_I") != nil || value("CHAP_C") != nil {
                reply = try proveOurselves(value("CHAP_I"), value("CHAP_C"), algorithm)
            }
            (phase, userName) = (.done, user.name)
            return reply
        case .done: throw .authenticationFailure
        }
    }
    private func judge(_ name: String, _ response: String, _ algorithm: CHAPAlgorithm)
        throws(LoginStatus) -> CHAPCredential
    {
        let user = users.first { $0.name == name }
        // An unknown name costs a digest too, so that time does not tell it from a wrong secret.
        let secret = user?.secret ?? challenge
        let expected = digests.digest(algorithm, [identifier] + secret + challenge)
        guard let said = TextPairs.binary(response, bytesMax: ISCSILimits.challengeBytesMax) else {
            throw .authenticationFailure
        }
        guard Self.areEqual(said, expected), let user else { throw .authenticationFailure }
        // An answer that could be our own is a wrong one (section 9.2.1): with one secret for both ways
        // whoever knows none could have it said by us, on another connection.
        if let mutual, Self.areEqual(mutual.secret, user.secret) { throw .authenticationFailure }
        return user
    }
    private func proveOurselves(
        _ identifierText: String?, _ challengeText: String?, _ algorithm: CHAPAlgorithm
    ) throws(LoginStatus) -> [TextPair] {
        guard let mutual, let identifierText, let challengeText,
            let number = TextPairs.number(identifierText), let theirIdentifier = UInt8(exactly: number),
            let theirs = TextPairs.binary(challengeText, bytesMax: ISCSILimits.challengeBytesMax)
        else { throw .authenticationFailure }
        // Who sends our challenge back wants us to answer it (section 9.2.1).
        guard !Self.areEqual(theirs, challenge) else { throw .authenticationFailure }
        let response = digests.digest(algorithm, [theirIdentifier] + mutual.secret + theirs)
        return [
            TextPair(key: "CHAP_N", value: mutual.name),
            TextPair(key: "CHAP_R", value: TextPairs.hexadecimal(response)),
        ]
    }
    /// Compares without telling by its duration where the first difference is.
    static func areEqual(_ a: [UInt8], _ b: [UInt8]) -> Bool {
        guard a.count == b.count else { return false }
        var difference: UInt8 = 0
        for index in a.indices { difference |= a[index] ^ b[index] }
        return difference == 0
    }
}
