import BlockTypes
import ChunkStore

/// How much new data the members of the copysets led here can still take, so that a leader refuses growth
/// that some member has no place for (ENGINE 4.8).
///
/// A follower that gets more than fits can not even take the trims that would free its space: they come
/// later in the log. So each member tells each leader a share of its room, which nobody else spends, and a
/// leader counts against it what it has let in since. Members that are not heard of do not count: a dead one
/// must not stop the others.
struct RoomLedger {
    /// A word older than this is not believed any more; a member says it with every heartbeat.
    static let wordLifetime: Duration = .seconds(1)

    /// One that is connected and has not yet said anything has this long to do so, and meanwhile is taken to
    /// have room for no more than a part of what every store keeps free (`growthReserveBlocksMin`).
    static let firstWordPatience: Duration = .milliseconds(100)
    static let sharesBeforeFirstWord = 8

    private struct Member {
        var share: UInt64 = 0
        var heardAt: Duration?
        var expectedUntil: Duration?
        /// Blocks let into logs led here that this member has not said to have stored.
        var outstanding: UInt64 = 0
    }
    private var members: [ServerID: Member] = [:]

    /// A member said how many blocks of growth its store has for this leader.
    mutating func heard(from server: ServerID, shareBlocks: UInt64, at now: Duration) {
        members[server, default: Member()].share = shareBlocks
        members[server, default: Member()].heardAt = now
    }

    /// A lead begins, or a connection: a member whose word does not hold any more is about to say it.
    mutating func expectWord(from server: ServerID, at now: Duration) {
        let member = members[server, default: Member()]
        if let heardAt = member.heardAt, now <= heardAt + Self.wordLifetime { return }
        members[server, default: member].expectedUntil = now + Self.firstWordPatience
    }

    /// This server's own store. What it was let have is already in its figures.
    mutating func heardFromSelf(_ server: ServerID, shareBlocks: UInt64, at now: Duration) {
        members[server] = Member(share: shareBlocks, heardAt: now, outstanding: 0)
    }

    /// The connection is gone: what was said does not hold any more.
    mutating func lost(_ server: ServerID) { members[server]?.heardAt = nil }

    mutating func add(_ blocks: UInt64, of server: ServerID) {
        members[server, default: Member()].outstanding += blocks
    }
    mutating func remove(_ blocks: UInt64, of server: ServerID) {
        guard let outstanding = members[server]?.outstanding else { return }
        members[server]?.outstanding = outstanding - min(outstanding, blocks)
    }

    /// Whether all `servers` that are heard of can take `blocks` more. `later`: not before they have said
    /// again how they stand.
    func room(for blocks: Int, on servers: [ServerID], at now: Duration) -> StoreRoom {
        var room = StoreRoom.enough
        for server in servers {
            guard let member = members[server] else { continue }
            if let heardAt = member.heardAt, now <= heardAt + Self.wordLifetime {
                if member.share < UInt64(blocks) { return .none }
                if member.share - UInt64(blocks) < member.outstanding { room = .later }
            } else if let until = member.expectedUntil, now <= until {
                let share = UInt64(ChunkStore.growthReserveBlocksMin / Self.sharesBeforeFirstWord)
                if member.outstanding + UInt64(blocks) > share { room = .later }
            }
        }
        return room
    }
}

/// The growth that one leader has let into one copyset's log, and how much of it each follower has.
struct GrowthLog {
    /// Positions remembered. When there are more, the older half is forgotten: a follower that is so far
    /// behind is then believed to have less than it has.
    static let marksMax = 4096

    private struct Mark {
        let index: LogIndex
        /// Blocks up to and including this entry.
        let total: UInt64
    }
    private var marks: [Mark] = []
    private var total: UInt64 = 0
    private var stored: [UInt64]

    init(followers: Int) { stored = Array(repeating: 0, count: followers) }

    mutating func placed(_ blocks: Int, at index: LogIndex) {
        guard blocks > 0 else { return }
        total += UInt64(blocks)
        if marks.count == Self.marksMax { marks.removeFirst(Self.marksMax / 2) }
        marks.append(Mark(index: index, total: total))
    }

    /// A follower's log is durable through `index`: the blocks that this adds to what it has.
    mutating func durable(through index: LogIndex, follower: Int) -> UInt64 {
        let next = marks.partitioningIndex { $0.index > index }
        guard next > 0, marks[next - 1].total > stored[follower] else { return 0 }
        let news = marks[next - 1].total - stored[follower]
        stored[follower] = marks[next - 1].total
        return news
    }

    /// The lead is lost, or begins: what each follower has not said to have, which is forgotten.
    mutating func reset() -> [UInt64] {
        defer { self = GrowthLog(followers: stored.count) }
        return stored.map { total - $0 }
    }
}

extension Array {
    /// The first index whose element fulfils `isPast`, if all that do stand at the end.
    fileprivate func partitioningIndex(_ isPast: (Element) -> Bool) -> Int {
        var (low, high) = (0, count)
        while low < high {
            let middle = (low + high) / 2
            if isPast(self[middle]) { high = middle } else { low = middle + 1 }
        }
        return low
    }
}
