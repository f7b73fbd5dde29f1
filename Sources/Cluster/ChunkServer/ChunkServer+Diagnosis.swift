extension ChunkServer {
    /// True when the MDS has answered one of the last two heartbeats.
    package var isHeardByMetadata: Bool {
        guard let answered = registration.heartbeatAnsweredAt else { return false }
        return environment.now - answered < registration.heartbeatEvery * 2
    }
    /// Where everything stands, in a few lines for a failure's trace.
    package var diagnosis: [String] {
        ["store: \(store.diagnosis)"]
            + copysetOrder.compactMap { id in
                replicas[id].map { "copyset \(id): \($0.raft.diagnosis); applied \($0.applied)" }
            }
    }
}
