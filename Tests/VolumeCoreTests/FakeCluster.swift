import BlockTypes

@testable import VolumeCore

/// What may go wrong, each once in so many messages; 0 is never.
struct Faults {
    var requestLost = 0, replyLost = 0, lateCopy = 0, linkBreaks = 0, leaderMoves = 0, refusals = 0,
        damages = 0
    static let none = Faults()
    static func random(_ random: inout SeededRandom) -> Faults {
        var faults = Faults()
        func rate() -> Int { [0, 15, 40, 150].randomElement(using: &random) ?? 0 }
        faults.requestLost = rate()
        faults.replyLost = rate()
        faults.lateCopy = rate()
        faults.linkBreaks = rate() * 4
        faults.leaderMoves = rate() * 2
        faults.refusals = rate()
        faults.damages = rate() * 10
        return faults
    }
}

/// Copysets that do what they are told in the order in which it arrives, behind links that lose, delay and
/// repeat; they judge tags and fences with the very record that real replicas keep.
struct FakeCluster {
    struct Copyset {
        let members: [ServerID]
        var leader = 0
        var leaderlessUntil = Duration.zero
        var record: VolumeRecord?
        var blocks: [UInt64: Payload] = [:]
    }
    enum Happening {
        case arrives(AttemptID, ServerID, CopysetID, BlockCommand, link: Int)
        case answered(AttemptID, BlockAnswer, ServerID, link: Int)
        case linkLost(ServerID)
        case wake
    }
    private struct Due {
        var at: Duration
        var order: Int
        var what: Happening
    }
    var copysets: [CopysetID: Copyset] = [:]
    var random: SeededRandom
    var faults = Faults.none
    var now = Duration.zero
    private var heap: [Due] = []
    private var order = 0
    /// By server: how often its link was made anew, and when the last message on it arrives.
    private var links: [ServerID: Int] = [:]
    private var lastArrival: [ServerID: Duration] = [:]
    /// Servers that answer nothing, for tests that want a dead majority.
    var silent: Set<ServerID> = []
    var epochAccepted: Epoch?
    /// The attachment whose requests these are.
    let session: Epoch
    var commands = 0
    /// So many requests for the map are answered with bytes.
    var sendsBytesForMaps = 0

    init(table: [CopysetMembers], session: Epoch, seed: UInt64) {
        self.session = session
        random = SeededRandom(seed: seed)
        for copyset in table { copysets[copyset.id] = Copyset(members: copyset.members) }
    }

    private mutating func chance(_ oneIn: Int) -> Bool { oneIn > 0 && random.oneIn(oneIn) }
    private mutating func delay() -> Duration {
        .microseconds(
            random.oneIn(20)
                ? Int.random(in: 0..<50_000, using: &random) : Int.random(in: 50..<900, using: &random))
    }
    mutating func push(_ what: Happening, after delay: Duration) {
        order += 1
        heap.append(Due(at: now + delay, order: order, what: what))
        var child = heap.count - 1
        while child > 0, precedes(child, (child - 1) / 2) {
            heap.swapAt(child, (child - 1) / 2)
            child = (child - 1) / 2
        }
    }
    private func precedes(_ a: Int, _ b: Int) -> Bool {
        (heap[a].at, heap[a].order) < (heap[b].at, heap[b].order)
    }
    private mutating func pop() -> Due? {
        guard let first = heap.first, let last = heap.popLast() else { return nil }
        guard !heap.isEmpty else { return first }
        heap[0] = last
        var parent = 0
        while true {
            var least = parent
            for child in [parent * 2 + 1, parent * 2 + 2] where child < heap.count && precedes(child, least) {
                least = child
            }
            if least == parent { return first }
            heap.swapAt(parent, least)
            parent = least
        }
    }

    /// Takes what the core sends.
    mutating func send(_ id: AttemptID, to server: ServerID, _ copyset: CopysetID, _ command: BlockCommand) {
        commands += 1
        let link = links[server, default: 0]
        if chance(faults.linkBreaks) {
            links[server] = link + 1
            push(.linkLost(server), after: delay())
        }
        switch command {
        case .write, .trim, .zero, .amend:
            if chance(faults.lateCopy) {
                let late = Duration.milliseconds(Int.random(in: 1..<6000, using: &random))
                push(.arrives(id, server, copyset, command, link: -1), after: late)
            }
        case .read, .fence, .blockStatus: break
        }
        if chance(faults.requestLost) || silent.contains(server) { return }
        // A link keeps the order of what it carries.
        let arrival = max(now + delay(), lastArrival[server, default: .zero])
        lastArrival[server] = arrival
        push(.arrives(id, server, copyset, command, link: link), after: arrival - now)
    }

    /// - Returns: what the core learns next; `nil` when nothing is left to happen.
    mutating func next() -> VolumeCore.Event? {
        while let due = pop() {
            now = max(now, due.at)
            switch due.what {
            case .wake: return .timerFired
            case .linkLost(let server): return .serverLost(server)
            case .answered(let id, let answer, let server, let link):
                guard link == links[server, default: 0] else { continue }
                return .answered(id, answer)
            case .arrives(let id, let server, let copyset, let command, let link):
                // What a broken link carried may have been received all the same.
                if link >= 0, link != links[server, default: 0], Bool.random(using: &random) { continue }
                let answer = judge(server, copyset, command)
                if link < 0 || chance(faults.replyLost) { continue }
                push(.answered(id, answer, server, link: link), after: delay())
            }
        }
        return nil
    }

    private mutating func judge(_ server: ServerID, _ id: CopysetID, _ command: BlockCommand) -> BlockAnswer {
        guard var copyset = copysets[id], copyset.members.contains(server) else { return .wrongCopyset }
        if chance(faults.leaderMoves) {
            copyset.leader = Int.random(in: 0..<copyset.members.count, using: &random)
            copyset.leaderlessUntil = now + .milliseconds(Int.random(in: 0..<1500, using: &random))
            copysets[id] = copyset
        }
        guard now >= copyset.leaderlessUntil else { return .notLeader(hint: nil) }
        guard copyset.members[copyset.leader] == server else {
            let hints = [
                nil, copyset.members[copyset.leader], copyset.members.randomElement(using: &random),
                ServerID(99),
            ]
            return .notLeader(hint: hints.randomElement(using: &random) ?? nil)
        }
        if chance(faults.refusals) {
            return [BlockAnswer.notReady, .overloaded, .needsFence][Int.random(in: 0..<3, using: &random)]
        }
        defer { copysets[id] = copyset }
        if case .blockStatus(let run) = command, sendsBytesForMaps > 0 {
            sendsBytesForMaps -= 1
            let bytes = Payload(BlockBuffer(byteCount: run.byteCount), byteCount: run.byteCount)
            return .done([.data(bytes)])
        }
        return copyset.perform(command, of: session, damaged: chance(faults.damages))
    }
}

extension FakeCluster.Copyset {
    /// - Parameter session: of the attachment that asks.
    mutating func perform(_ command: BlockCommand, of session: Epoch, damaged: Bool) -> BlockAnswer {
        if case .fence(_, let fence) = command {
            guard var record else {
                self.record = VolumeRecord(fence: fence)
                return .done([])
            }
            if !record.fence.accepts(session), !fence.isNewer(than: record.fence) { return .staleEpoch }
            if fence.isNewer(than: record.fence), fence.size < record.fence.size {
                for key in blocks.keys where Self.end(of: key) > fence.size.bytes { blocks[key] = nil }
            }
            record.apply(fence)
            self.record = record
            return .done([])
        }
        guard let record else { return .needsFence }
        guard record.isDeleted == false else { return .deleted }
        switch command {
        case .fence: return .refused
        case .blockStatus(let run):
            return .done(
                run.blocks.map { blocks[Self.key(run, $0)] == nil ? .zeroes(4096) : .stored(4096) })
        case .read(let run): return damaged ? .damaged : read(run, record)
        case .write(let run, _, let tag, let checksums, let payload):
            if damaged { return .damaged }
            return change(run, tag) { $0.store(run, checksums, payload) }
        case .amend(let run, let bytes, _, let tag, let checksums, let payload):
            if damaged { return .damaged }
            return amend(run, bytes, tag, checksums, payload)
        case .trim(let run, _, let tag), .zero(let run, _, let tag):
            return change(run, tag) { copyset in
                for block in run.blocks { copyset.blocks[Self.key(run, block)] = nil }
            }
        }
    }
    private func read(_ run: BlockRun, _ record: VolumeRecord) -> BlockAnswer {
        guard Self.end(of: Self.key(run, run.blocks.upperBound - 1)) <= record.fence.size.bytes else {
            return .outOfRange
        }
        return .done(
            run.blocks.map { block in blocks[Self.key(run, block)].map { .data($0) } ?? .zeroes(4096) })
    }
    private mutating func change(_ run: BlockRun, _ tag: RequestTag, _ body: (inout Self) -> Void)
        -> BlockAnswer
    {
        guard var record else { return .needsFence }
        guard record.fence.accepts(tag.session) else {
            return tag.session > record.fence.epoch ? .needsFence : .staleEpoch
        }
        switch record.admission(of: tag) {
        case .stale: return .forgotten
        case .repeated: return .done([])
        case .fresh: break
        }
        guard Self.end(of: Self.key(run, run.blocks.upperBound - 1)) <= record.fence.size.bytes else {
            return .outOfRange
        }
        record.apply(tag)
        self.record = record
        body(&self)
        return .done([])
    }
    /// What a leader does in one step; where a difference was is forgotten at once.
    private mutating func amend(
        _ run: BlockRun, _ bytes: Range<Int>, _ tag: RequestTag, _ checksums: [CRC32C], _ payload: Payload
    ) -> BlockAnswer {
        precondition(CRC32C.perBlock(of: payload) == checksums, "a torn amendment")
        let expected = payload.byteCount == run.byteCount ? nil : payload.slice(run.byteCount, run.byteCount)
        let missTag = RequestTag(session: tag.session, sequence: tag.sequence - 1)
        if let record, expected != nil, record.fence.accepts(tag.session),
            record.admission(of: missTag) == .repeated
        {
            return .miscompare(atByte: nil)
        }
        var whole: [UInt8] = []
        for block in run.blocks {
            whole += blocks[Self.key(run, block)]?.array ?? [UInt8](repeating: 0, count: 4096)
        }
        let isDone = record?.admission(of: tag) == .repeated
        if let wanted = expected?.array, !isDone,
            let byte = bytes.first(where: { whole[$0] != wanted[$0] })
        {
            let answer = change(run, missTag) { _ in }
            if case .done = answer { return .miscompare(atByte: byte) }
            return answer
        }
        whole.replaceSubrange(bytes, with: payload.slice(0, run.byteCount).array[bytes])
        let block = Payload(copying: whole)
        return change(run, tag) { $0.store(run, CRC32C.perBlock(of: block), [block]) }
    }
    private mutating func store(_ run: BlockRun, _ checksums: [CRC32C], _ pieces: [Payload]) {
        let whole = BlockBuffer(byteCount: run.byteCount)
        var position = 0
        for piece in pieces {
            piece.withBytes { whole.bytes[position..<(position + piece.byteCount)].copyBytes(from: $0) }
            position += piece.byteCount
        }
        let payload = Payload(whole, byteCount: run.byteCount)
        precondition(position == run.byteCount && CRC32C.perBlock(of: payload) == checksums, "a torn write")
        for (index, block) in run.blocks.enumerated() {
            blocks[Self.key(run, block)] = payload.slice(index * 4096, 4096)
        }
    }
    private static func key(_ run: BlockRun, _ block: Int) -> UInt64 {
        run.chunk.rawValue << 12 | UInt64(block)
    }
    /// End of the block in the volume's address space.
    private static func end(of key: UInt64) -> UInt64 { (key & ((1 << 38) - 1)) * 4096 + 4096 }
}
