import BlockTypes

extension ChunkStore {
    /// What waits here, against ``StoreSettings`` and the bounds of its parts.
    package func readGauges(_ read: GaugeReader) {
        guard phase == .open else { return }
        read("journal blocks in flight", journal.inFlight.count, JournalState.inFlightMax)
        read("journal bytes", Int(clamping: journal.head - journal.tail), Int(layout.journalBytes))
        read("staged bytes", stagedBytes, settings.stagedBytesMax)
        let own = copysetIDs.count * Self.unappliedEntriesAlways
        read("log entries", entryCount, 2 * settings.retainedEntriesMax + own)
        // The one that is too many stops the store.
        read("bad blocks", badBlocks.count, settings.badBlocksMax + 1)
    }
}
