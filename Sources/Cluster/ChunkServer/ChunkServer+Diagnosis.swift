extension ChunkServer {
    /// Where everything stands, in a few lines for a failure's trace.
    package var diagnosis: [String] {
        ["store: \(store.diagnosis)"]
            + copysetOrder.compactMap { id in
                replicas[id].map { "copyset \(id): \($0.raft.diagnosis); applied \($0.applied)" }
            }
    }
}
