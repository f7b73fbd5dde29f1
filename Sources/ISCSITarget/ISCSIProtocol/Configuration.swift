/// A run of addresses: all whose first bits are the same.
public struct AddressPrefix: Hashable, Sendable {
    /// 4 or 16 bytes.
    public let bytes: [UInt8]
    /// How many of their bits count.
    public let bitCount: Int
    /// The addresses that share the first `bitCount` bits of `bytes`.
    public init(bytes: [UInt8], bitCount: Int) { (self.bytes, self.bitCount) = (bytes, bitCount) }

    /// True when `address` is of the same kind and shares the bits.
    public func contains(_ address: [UInt8]) -> Bool {
        guard address.count == bytes.count, bitCount <= 8 * bytes.count else { return false }
        for index in bytes.indices {
            let bits = min(max(bitCount - 8 * index, 0), 8)
            let mask = UInt8(truncatingIfNeeded: 0xff00 >> bits)
            if (address[index] ^ bytes[index]) & mask != 0 { return false }
        }
        return true
    }
}

/// Whom a target lets in.
public struct InitiatorRule: Hashable, Sendable {
    /// The initiator's name; `nil`: any.
    public let initiatorName: String?
    /// Where it may come from; empty: from anywhere.
    public let networks: [AddressPrefix]
    /// Initiators named `initiatorName` from `networks`.
    public init(initiatorName: String?, networks: [AddressPrefix] = []) {
        (self.initiatorName, self.networks) = (initiatorName?.lowercased(), networks)
    }
    func admits(_ name: String, from address: [UInt8]) -> Bool {
        if let initiatorName, initiatorName != name { return false }
        return networks.isEmpty || networks.contains { $0.contains(address) }
    }
}

/// How initiators prove who they are.
public enum Authentication: Sendable {
    /// They need not.
    case none
    /// By one of these users' secrets. An initiator that asks back gets an answer by `mutual`, if there is
    /// one.
    case chap(users: [CHAPCredential], mutual: CHAPCredential?)
}

/// Where else a target is to be found.
public struct Redirection: Hashable, Sendable {
    /// `address:port`, with an IPv6 address in brackets.
    public let address: String
    /// True: for good.
    public let isPermanent: Bool
    /// To `address`.
    public init(address: String, isPermanent: Bool) {
        (self.address, self.isPermanent) = (address, isPermanent)
    }
}

/// One target as initiators see it.
public struct TargetDescription: Sendable {
    /// Its iSCSI name, in lower case.
    public let name: String
    /// A word for people, told at every login if it has at most 255 bytes and no control characters.
    public var alias = ""
    /// Who may log in; `nil`: everybody who proves to be one of the users.
    public var initiators: [InitiatorRule]?
    /// How they prove it.
    public var authentication = Authentication.none
    /// Logins are sent there.
    public var redirection: Redirection?
    /// False: logins are told to come back later.
    public var isAvailable = true
    /// A target without restrictions.
    public init(name: String) { self.name = name.lowercased() }

    func admits(_ initiatorName: String, from address: [UInt8]) -> Bool {
        guard let initiators else { return true }
        // A rule that names the initiator goes before those for everybody.
        let named = initiators.filter { $0.initiatorName == initiatorName }
        return (named.isEmpty ? initiators : named).contains { $0.admits(initiatorName, from: address) }
    }
}

/// Everything a portal group is told from outside.
public struct PortalGroupConfiguration: Sendable {
    /// Its tag.
    public var portalGroupTag: UInt16 = 1
    /// Its addresses as initiators are told them: `address:port`.
    public var portals: [String] = []
    /// Where other portal groups offer a target: `address:port,tag`, by the target's name. Looked up, never
    /// iterated.
    public var otherAddresses: [String: [String]] = [:]
    /// False: initiators are told to come back later, or to go elsewhere, whatever the target.
    public var isAvailable = true
    /// While it is not available logins are sent to one of ``otherAddresses``, if there is one.
    public var redirectsWhenUnavailable = false
    /// Its targets, in the order in which SendTargets names them.
    public var targets: [TargetDescription] = []
    /// Targets of the same portals that another loop of this process serves. SendTargets names them after
    /// ``targets``; a login to one of them moves there.
    public var targetsElsewhere: [TargetDescription] = []
    /// How initiators of discovery sessions prove who they are.
    public var discoveryAuthentication = Authentication.none
    /// Digests that may be chosen, of CRC32C and None; empty lists stand for None alone.
    public var headerDigests = DigestPolicy.either
    /// The same for data.
    public var dataDigests = DigestPolicy.either
    /// What a CDB of this target's logical unit wants to move. Pure: the same question, the same answer.
    public var transferSizes: @Sendable (_ target: String, _ lun: LUN, _ cdb: CDB) -> TransferSizes
    /// The hash functions that CHAP may use.
    public var chap: CHAPDigests

    /// A portal group without targets.
    public init(
        chap: CHAPDigests,
        transferSizes: @escaping @Sendable (_ target: String, _ lun: LUN, _ cdb: CDB) -> TransferSizes
    ) { (self.chap, self.transferSizes) = (chap, transferSizes) }

    func target(named name: String) -> TargetDescription? { targets.first { $0.name == name } }
    func isElsewhere(_ name: String) -> Bool { targetsElsewhere.contains { $0.name == name } }
    /// Where an initiator of a target finds another portal group: one is always told the same while those
    /// stay, and many are spread over all.
    func otherAddress(of target: String, for initiatorName: String) -> String? {
        guard let others = otherAddresses[target], !others.isEmpty else { return nil }
        let place = initiatorName.utf8.reduce(0) { ($0 &* 31 &+ Int($1)) & 0xffff } % others.count
        return others[place].split(separator: ",").first.map { String($0) }
    }
}

/// Which digests may be agreed on.
public enum DigestPolicy: Hashable, Sendable {
    /// What the initiator likes best.
    case either
    /// None at all.
    case never
    /// CRC32C, or the key is refused.
    case always

    func allows(_ name: String) -> Bool {
        switch name {
        case "CRC32C": self != .never
        case "None": self != .always
        default: false
        }
    }
}
