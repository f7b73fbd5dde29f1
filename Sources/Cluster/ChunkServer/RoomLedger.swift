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
        /// What it will store more than now when it has all that is in logs led here. Below zero when these
        /// end with trims: that room counts when it says so.
        var outstanding = 0
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

    mutating func add(_ blocks: Int, of server: ServerID) {
        members[server, default: Member()].outstanding += blocks
    }

    /// True when the member has said that its store can grow.
    func canGrow(_ server: ServerID, at now: Duration) -> Bool {
        guard let member = members[server], let heardAt = member.heardAt, now <= heardAt + Self.wordLifetime
        else { return false }
        return member.share > 0 && member.share < .max
    }

    /// Whether all `servers` that are heard of can take `blocks` more. `later`: not before they have said
    /// again how they stand.
    func room(for blocks: Int, on servers: [ServerID], at now: Duration) -> StoreRoom {
        var room = StoreRoom.enough
        for server in servers {
            guard let member = members[server] else { continue }
            if let heardAt = member.heardAt, now <= heardAt + Self.wordLifetime {
                if member.share < UInt64(blocks) { return .none }
                if member.share - UInt64(blocks) < UInt64(max(0, member.outstanding)) { room = .later }
            } else if let until = member.expectedUntil, now <= until {
                let share = UInt64(ChunkStore.growthReserveBlocksMin / Self.sharesBeforeFirstWord)
                if UInt64(max(0, member.outstanding) + blocks) > share { room = .later }
            }
        }
        return room
    }
}

/// What one leader has let one copyset grow by, entry by entry, and how much of it each follower has.
///
/// What a copyset stores is decided by the position in its log alone, so a follower that lags needs no more
/// room than what lies between: trims count against writes. Were they not, a slow follower would soon seem
/// to need all the room there is, and everybody would wait for it.
struct GrowthLog {
    /// Positions remembered. When there are more, the older half is forgotten: a follower that is so far
    /// behind is then believed to have less than it has.
    static let marksMax = 4096

    private struct Mark {
        let index: LogIndex
        /// Growth in blocks up to and including this entry.
        let total: Int
    }
    private var marks: [Mark] = []
    private var total = 0
    /// The newest mark that each follower has said to have.
    private var stored: [Mark]

    init(followers: Int) {
        stored = Array(repeating: Mark(index: LogIndex(0), total: 0), count: followers)
    }

    mutating func placed(_ blocks: Int, at index: LogIndex) {
        guard blocks != 0 else { return }
        total += blocks
        if marks.count == Self.marksMax { marks.removeFirst(Self.marksMax / 2) }
        marks.append(Mark(index: index, total: total))
    }

    /// A follower's log is durable through `index`.
    /// - Returns: the blocks that this adds to what it has; below zero, what it has less.
    mutating func durable(through index: LogIndex, follower: Int) -> Int {
        let next = marks.partitioningIndex { $0.index > index }
        guard next > 0, marks[next - 1].index > stored[follower].index else { return 0 }
        let news = marks[next - 1].total - stored[follower].total
        stored[follower] = marks[next - 1]
        return news
    }

    /// The lead is lost, or begins: what each follower has not said to have, which is forgotten.
    mutating func reset() -> [Int] {
        defer { self = GrowthLog(followers: stored.count) }
        return stored.map { total - $0.total }
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
