extension RaftReplica {
    /// Where this replica stands, in one line for a failure's message.
    package var diagnosis: String {
        let followers = peers.map { peer in
            "\(peer.server): \(peer.mode), copy \(peer.copy), durable \(peer.durable), "
                + "received \(peer.received), next \(peer.next), \(peer.inFlightBytes) bytes in flight, "
                + "loading \(peer.loadingFrom.map { "from \($0)" } ?? "nothing")"
        }
        let ends = "log \(log.base)..\(log.last), commit \(commitIndex)"
        return "\(role) in term \(term), \(ends)"
            + (role == .leader ? "; " + followers.joined(separator: "; ") : "")
    }
}
