/// One session as those see it who decide whether it may go on.
public struct SessionFacts: Hashable, Sendable {
    /// Its nexus.
    public let nexus: NexusID
    /// Who is at its two ends.
    public let names: Nexus
    /// Who the initiator proved to be; `nil`: no proof was wanted.
    public let userName: String?
    /// Its connections, in the order in which they came.
    public let connections: [ConnectionID]
    /// Where they come from, 4 or 16 bytes each; none for what is no address.
    public let addresses: [[UInt8]]
}

extension PortalGroup {
    /// Sessions that are no discovery sessions, in the order in which they began.
    public var sessionFacts: [SessionFacts] {
        sessions.compactMap { session in
            guard let names = session.names else { return nil }
            return SessionFacts(
                nexus: session.nexus, names: names, userName: session.userName,
                connections: session.connections.map(\.id), addresses: session.connections.map(\.address))
        }
    }
    /// Whether the session could begin today: by its name, its addresses, and the user that it proved to be.
    public func isEntitled(_ session: SessionFacts) -> Bool {
        guard let target = configuration.target(named: session.names.targetName), target.isAvailable,
            session.addresses.allSatisfy({ target.admits(session.names.initiatorName, from: $0) })
        else { return false }
        guard case .chap(let users, _) = target.authentication else { return true }
        return users.contains { $0.name == session.userName }
    }
    /// Says that the connections of these sessions end, and ends them.
    public func drop(_ dropped: [SessionFacts], effects: inout [Effect]) {
        for facts in dropped {
            if let session = sessions.first(where: { $0.nexus == facts.nexus }) {
                drop(session, seconds: 0, effects: &effects)
            }
        }
    }
}
