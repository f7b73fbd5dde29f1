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

/// A copyset's record of a volume, or one window of a volume that a group holds: such a volume has a record
/// of its own without a window, and one for each member.
struct VolumeTableRecord {
    static let words = 72
    private static let (deleted, shared, member): (UInt64, UInt64, UInt64) = (2, 4, 8)
    var copyset: CopysetID
    var volume: VolumeID
    /// Of a member's record only the epoch counts, and names the member.
    var fence: VolumeFence
    var isDeleted = false
    /// A group holds the volume: its members' records have the windows.
    var isShared = false
    var isMember = false
    var window: RequestWindow

    /// All records that a volume has in the table, its own first.
    static func records(of volume: VolumeState, in copyset: CopysetID) -> [VolumeTableRecord] {
        let record = volume.record
        var own = VolumeTableRecord(
            copyset: copyset, volume: volume.id, fence: record.fence, isDeleted: record.isDeleted,
            window: record.windows[0])
        guard !record.fence.group.isEmpty else { return [own] }
        (own.isShared, own.window) = (true, RequestWindow(session: record.fence.epoch))
        return [own]
            + record.windows.map { window in
                var member = own
                (member.isShared, member.isMember, member.window) = (false, true, window)
                member.fence.epoch = window.session
                return member
            }
    }
    private init(
        copyset: CopysetID, volume: VolumeID, fence: VolumeFence, isDeleted: Bool, window: RequestWindow
    ) {
        (self.copyset, self.volume, self.fence) = (copyset, volume, fence)
        (self.isDeleted, self.window) = (isDeleted, window)
    }

    var encoded: [UInt64] {
        var flags = 1 | UInt64(copyset.rawValue) << 32
        if isDeleted { flags |= Self.deleted }
        if isShared { flags |= Self.shared }
        if isMember { flags |= Self.member }
        return [
            flags, volume.rawValue, UInt64(fence.epoch.rawValue) | UInt64(fence.change) << 32,
            fence.size.bytes, window.highestSequence,
        ] + window.words
    }
    init?(decoding slice: ArraySlice<UInt64>) {
        let words = Array(slice)
        copyset = CopysetID(UInt32(words[0] >> 32))
        volume = VolumeID(words[1])
        fence = VolumeFence(
            epoch: Epoch(UInt32(truncatingIfNeeded: words[2])), size: ByteCount(bytes: words[3]),
            change: UInt32(words[2] >> 32))
        isDeleted = words[0] & Self.deleted != 0
        (isShared, isMember) = (words[0] & Self.shared != 0, words[0] & Self.member != 0)
        guard
            let window = RequestWindow(
                session: fence.epoch, highestSequence: words[4],
                words: Array(words[5..<(5 + RequestWindow.wordCount)]))
        else { return nil }
        self.window = window
    }
}

/// Volume records as they come out of the table, in any order.
struct VolumeGathering {
    private struct Key: Hashable {
        let copyset: CopysetID
        let volume: VolumeID
    }
    private var members: [Key: [(slot: Int, window: RequestWindow)]] = [:]
    private(set) var volumes: [(slot: Int, record: VolumeTableRecord)] = []

    mutating func add(_ record: VolumeTableRecord, at slot: Int) {
        guard record.isMember else { return volumes.append((slot, record)) }
        members[Key(copyset: record.copyset, volume: record.volume), default: []].append(
            (slot, record.window))
    }
    /// The whole record of a volume, and its places in the table.
    /// - Returns: `nil` when they cannot be true together.
    mutating func whole(_ slot: Int, _ own: VolumeTableRecord) -> (VolumeRecord, slots: [Int])? {
        guard own.isShared else {
            return VolumeRecord(fence: own.fence, isDeleted: own.isDeleted, windows: [own.window]).map {
                ($0, [slot])
            }
        }
        let key = Key(copyset: own.copyset, volume: own.volume)
        guard let found = members.removeValue(forKey: key) else { return nil }
        let sorted = found.sorted { $0.window.session < $1.window.session }
        var fence = own.fence
        fence.group = sorted.map(\.window.session)
        guard VolumeFence.isGroup(fence.group, at: fence.epoch),
            let record = VolumeRecord(
                fence: fence, isDeleted: own.isDeleted, windows: sorted.map(\.window))
        else { return nil }
        return (record, [slot] + sorted.map(\.slot))
    }
    /// True when every member's record belonged to a volume's.
    var isUsedUp: Bool { members.isEmpty }
}
