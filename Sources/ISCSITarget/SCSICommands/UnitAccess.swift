import SCSIBoundary

/// Which initiators see a unit, and which of them may write to it.
public struct UnitAccess: Hashable, Sendable {
    /// What somebody may do.
    public enum Right: Hashable, Sendable {
        /// The unit is not there.
        case hidden
        /// It is write-protected.
        case reads
        /// It is there.
        case writes
    }
    /// What one initiator may do.
    public struct Rule: Hashable, Sendable {
        /// Its name, in lower case.
        public var initiator: String
        /// What.
        public var right: Right
        /// `initiator` has `right`.
        public init(_ initiator: String, _ right: Right) { (self.initiator, self.right) = (initiator, right) }
    }
    /// Those who are named.
    public var named: [Rule]
    /// Everybody else.
    public var others: Right
    /// These rules.
    public init(named: [Rule] = [], others: Right) { (self.named, self.others) = (named, others) }

    /// What the initiator of this name may do.
    public func right(of initiator: String) -> Right {
        named.first { $0.initiator == initiator }?.right ?? others
    }
}

extension Target {
    /// Other rules for a unit: whoever sees more or fewer units than before is told, and so is who may write
    /// no more, or now may.
    mutating func change(_ number: UnitNumber, to access: UnitAccess?) {
        guard let index = index(number) else { return }
        units[index].configuration.access = access
        for place in units[index].parties.indices {
            let party = units[index].parties[place]
            let right = access?.right(of: party.names.initiatorName) ?? .writes
            guard right != party.right else { continue }
            units[index].parties[place].right = right
            guard right == .hidden || party.right == .hidden else {
                units[index].tell(.modeParametersChanged, to: party.nexus)
                continue
            }
            for other in units.indices where other != index || right != .hidden {
                units[other].tell(.inventoryChanged, to: party.nexus)
            }
        }
    }
}

extension LogicalUnit {
    /// Tells one nexus of something.
    mutating func tell(_ attention: AdditionalSense, to nexus: NexusID) {
        guard let index = partyIndex[nexus] else { return }
        parties[index].attentions.add(attention, max: limits.attentionsMax)
    }
}
