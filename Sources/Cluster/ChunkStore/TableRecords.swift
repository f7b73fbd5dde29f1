import BlockTypes

// What the three tables hold, as 64-bit words. The first word is 0 in a free record.

/// A chunk's leaves.
struct NodeRecord {
    static let words = 16
    static let firstPage = 3
    var copyset: CopysetID
    var chunk: ChunkKey
    var pages: [PageRef]

    var encoded: [UInt64] {
        [1 | UInt64(copyset.rawValue) << 32, chunk.rawValue, 0] + pages.map(\.word)
    }
    init(_ chunk: ChunkMap) { (copyset, self.chunk, pages) = (chunk.copyset, chunk.key, chunk.pages) }
    init(decoding words: ArraySlice<UInt64>) {
        let words = Array(words)
        copyset = CopysetID(UInt32(words[0] >> 32))
        chunk = ChunkKey(rawValue: words[1])
        pages = words[Self.firstPage..<(Self.firstPage + ChunkMap.leafCount)].map(PageRef.init(word:))
    }
}

/// A copyset as of its applied index.
struct CopysetRecord {
    static let words = 32
    private static let (syncing, faulty, voted): (UInt64, UInt64, UInt64) = (2, 4, 8)
    var id: CopysetID
    var isSyncing: Bool
    var isFaulty: Bool
    var term: Term
    var votedFor: ServerID?
    var applied: LogPosition
    var voteFloor: LogPosition
    /// Journal records below this are in the record already.
    var stateLSN: UInt64
    /// Entries from here on that lie below ``stateLSN`` were cut by a truncation that waited for room.
    /// 0: none.
    var cutFrom: LogIndex
    var members: [ServerID]

    init(_ copyset: Copyset, stateLSN: UInt64) {
        (id, isSyncing, isFaulty) = (copyset.id, copyset.isSyncing, copyset.isFaulty)
        (term, votedFor, members) = (copyset.term, copyset.votedFor, copyset.members)
        applied = LogPosition(term: copyset.appliedTerm, index: copyset.applied)
        (voteFloor, self.stateLSN) = (copyset.voteFloor, stateLSN)
        cutFrom = copyset.queuedCut ?? LogIndex(0)
    }
    var encoded: [UInt64] {
        var flags: UInt64 = 1 | UInt64(id.rawValue) << 32
        if isSyncing { flags |= Self.syncing }
        if isFaulty { flags |= Self.faulty }
        if votedFor != nil { flags |= Self.voted }
        return [
            flags, UInt64(term.rawValue) | UInt64(applied.term.rawValue) << 32, votedFor?.rawValue ?? 0,
            applied.index.rawValue, UInt64(voteFloor.term.rawValue) | UInt64(members.count) << 32,
            voteFloor.index.rawValue, stateLSN, cutFrom.rawValue,
        ] + members.map(\.rawValue)
    }
    init?(decoding slice: ArraySlice<UInt64>) {
        let words = Array(slice)
        let count = Int(words[4] >> 32)
        guard count <= JournalRecord.membersMax else { return nil }
        id = CopysetID(UInt32(words[0] >> 32))
        (isSyncing, isFaulty) = (words[0] & Self.syncing != 0, words[0] & Self.faulty != 0)
        term = Term(UInt32(truncatingIfNeeded: words[1]))
        votedFor = words[0] & Self.voted != 0 ? ServerID(words[2]) : nil
        applied = LogPosition(term: Term(UInt32(words[1] >> 32)), index: LogIndex(words[3]))
        voteFloor = LogPosition(
            term: Term(UInt32(truncatingIfNeeded: words[4])), index: LogIndex(words[5]))
        stateLSN = words[6]
        cutFrom = LogIndex(words[7])
        members = words[8..<(8 + count)].map { ServerID($0) }
    }
}

/// A copyset's record of a volume.
struct VolumeTableRecord {
    static let words = 72
    var copyset: CopysetID
    var volume: VolumeID
    var record: VolumeRecord

    init(_ copyset: CopysetID, _ volume: VolumeState) {
        (self.copyset, self.volume, record) = (copyset, volume.id, volume.record)
    }
    var encoded: [UInt64] {
        [
            1 | (record.isDeleted ? 2 : 0) | UInt64(copyset.rawValue) << 32, volume.rawValue,
            UInt64(record.fence.epoch.rawValue) | UInt64(record.fence.change) << 32, record.fence.size.bytes,
            record.highestSequence,
        ] + record.window
    }
    init?(decoding slice: ArraySlice<UInt64>) {
        let words = Array(slice)
        copyset = CopysetID(UInt32(words[0] >> 32))
        volume = VolumeID(words[1])
        let fence = VolumeFence(
            epoch: Epoch(UInt32(truncatingIfNeeded: words[2])), size: ByteCount(bytes: words[3]),
            change: UInt32(words[2] >> 32))
        guard
            let record = VolumeRecord(
                fence: fence, isDeleted: words[0] & 2 != 0, highestSequence: words[4],
                window: Array(words[5..<(5 + VolumeRecord.windowWords)]))
        else { return nil }
        self.record = record
    }
}
