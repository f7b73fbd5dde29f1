import BlockTypes

extension RaftReplica {
    /// What a leader holds for its followers and for itself, against ``Settings``.
    package func readGauges(_ read: GaugeReader) {
        guard role == .leader else { return }
        // One more: what a new leader commits first asks nobody.
        read("entries not committed", windowCosts.count, settings.inFlightEntriesMax + 1)
        let entryMax = LogEntry.payloadBytesMax + ReplicaLog.entryOverheadBytes
        read("bytes not committed", windowBytes, settings.inFlightBytesMax + entryMax)
        // A probe may carry entries whatever is in flight.
        let messageMax = settings.messageBytesMax + settings.messageEntriesMax * ReplicaLog.entryOverheadBytes
        for peer in peers {
            read("messages to a follower", peer.inFlightCount, settings.inFlightMessagesMax + 1)
            read("bytes to a follower", peer.inFlightBytes, settings.inFlightBytesMax + 2 * messageMax)
        }
    }
}
