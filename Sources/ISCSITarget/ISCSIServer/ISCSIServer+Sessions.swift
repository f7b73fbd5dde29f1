import ISCSIProtocol
import SCSICommands

/// One session, for people.
public struct ServedSession: Hashable, Sendable {
    /// Its nexus.
    public let nexus: NexusID
    /// Who is at its two ends.
    public let names: Nexus
    /// Who the initiator proved to be; `nil`: no proof was wanted.
    public let userName: String?
    /// Where its connections come from.
    public let peers: [String]
}

/// Sessions that are looked at and ended from outside, and who may do what with units.
extension ISCSIServer {
    /// Sessions that are no discovery sessions, in the order in which they began.
    public var sessionFacts: [ServedSession] {
        group.sessionFacts.map { facts in
            ServedSession(
                nexus: facts.nexus, names: facts.names, userName: facts.userName,
                peers: facts.connections.compactMap { link($0)?.peer })
        }
    }
    /// Ends the sessions of a target that could not begin by its description of today.
    /// - Returns: how many there were.
    @discardableResult public func dropUnentitledSessions(of name: String) -> Int {
        let dropped = group.sessionFacts.filter { $0.names.targetName == name && !group.isEntitled($0) }
        guard !dropped.isEmpty else { return 0 }
        act { $0.drop(dropped, effects: &$1) }
        return dropped.count
    }
    /// Ends one session.
    /// - Returns: false when there is none of this number.
    public func dropSession(_ number: UInt64) -> Bool {
        let dropped = group.sessionFacts.filter { $0.nexus.rawValue == number }
        guard !dropped.isEmpty else { return false }
        act { $0.drop(dropped, effects: &$1) }
        return true
    }
    /// Changes who sees a unit and who writes to it; those whom it concerns are told.
    public func changeAccess(to lun: UInt16, of name: String, _ access: UnitAccess?) {
        guard let served = target(named: name) else { return }
        if let suspended = served.suspended.first(where: { $0.lun == lun }) {
            act(served, .accessChanged(suspended.number, access))
        } else if let unit = served.unit(lun: lun), unit.isPresent {
            act(served, .accessChanged(unit.number, access))
        }
    }
}
