import BlockTypes

/// Makes a ``Frame`` of a checked header, its body and its payload.
///
/// Everything taken is zeroed or consumed, so that whatever is left over at the end was not meant to be
/// there.
struct FrameParser {
    private var header: FrameHeader
    private var body: WireReader
    private let payload: Payload?
    private var payloadTaken = 0

    init(_ header: FrameHeader, _ body: WireReader, _ payload: Payload?) {
        (self.header, self.body, self.payload) = (header, body, payload)
    }

    mutating func parse() throws(WireError) -> Frame {
        let frame = try parseFields()
        try require(body.remaining == 0, "body length")
        try require(payloadTaken == header.payloadBytes, "payload length")
        try require(
            header.id == 0 && header.copyset == 0 && header.number == 0 && header.a == 0 && header.b == 0
                && header.c == 0 && header.d == 0, "unused field")
        return frame
    }

    private mutating func parseFields() throws(WireError) -> Frame {
        switch header.kind {
        case .hello: return try hello()
        case .helloRefused:
            try require(header.bodyBytes <= WireLimits.reasonBytesMax, "reason")
            guard let reason = String(validating: body.rest(), as: UTF8.self) else {
                throw malformed("reason")
            }
            return .helloRefused(reason: reason)
        case .control: return .control(id: take(&header.id), body: body.rest())
        case .controlReply: return .controlReply(id: take(&header.id), body: body.rest())
        case .read, .write, .trim, .zero, .fence, .blockStatus, .amend: return try request()
        case .reply: return .reply(id: take(&header.id), try reply())
        case .append, .appendReply, .heartbeat, .heartbeatReply, .voteRequest, .voteReply, .timeoutNow:
            return .replica(takeCopyset(), try replicaMessage())
        case .beats: return .beats(try beats())
        case .beatReplies: return .beatReplies(shareBlocks: take(&header.a), try beatReplies())
        case .syncOffer: return try syncOffer()
        case .syncPull: return try syncPull()
        case .syncPiece: return .syncPiece(id: take(&header.id), try syncPiece())
        case .syncRefused: return .syncRefused(id: take(&header.id))
        case .fetch:
            let (id, copyset, run) = (take(&header.id), takeCopyset(), try takeRun())
            try require(run.blockCount <= WireLimits.fetchBlocksMax, "block count")
            return .fetch(id: id, copyset, run)
        case .fetched: return .fetched(id: take(&header.id), takeCopyset(), try reply())
        }
    }

    private mutating func hello() throws(WireError) -> Frame {
        let flags = header.flags
        guard let rawRole = UInt8(exactly: take(&header.d)), let role = PeerRole(rawValue: rawRole) else {
            throw malformed("role")
        }
        var hello = Hello(role: role, version: take(&header.number))
        if flags & FrameFlag.helloHasCluster != 0 {
            hello.cluster = UniqueID(high: take(&header.a), low: take(&header.b))
        }
        if flags & FrameFlag.helloHasServer != 0 { hello.server = ServerID(take(&header.c)) }
        if flags & FrameFlag.helloHasIncarnation != 0 { hello.incarnation = Incarnation(take(&header.id)) }
        return .hello(hello)
    }
}

// MARK: - Between clients and chunkservers

extension FrameParser {
    private mutating func request() throws(WireError) -> Frame {
        let kind = header.kind
        let (id, copyset, epoch) = (take(&header.id), takeCopyset(), Epoch(take(&header.number)))
        func frame(_ kind: BlockRequest.Kind) -> Frame {
            .request(id: id, BlockRequest(copyset: copyset, epoch: epoch, kind: kind))
        }
        if kind == .fence {
            let (volume, size) = (try volume(take(&header.a)), try fenceSize(take(&header.b)))
            let (epoch, change) = (Epoch(take(&header.d)), try change(take(&header.c)))
            let group = try group(body.remaining / FrameBody.sessionBytes, at: epoch)
            return frame(.fence(volume, VolumeFence(epoch: epoch, size: size, change: change, group: group)))
        }
        let run = try takeRun()
        if kind == .blockStatus { return frame(.blockStatus(run)) }
        if kind == .read {
            try require(run.blockCount <= WireLimits.readBlocksMax, "block count")
            return frame(.read(run))
        }
        let names = take(&header.c)
        let sn = SnapshotNumber(UInt32(truncatingIfNeeded: names))
        let tag = try tag(session: UInt32(names >> 32), sequence: take(&header.b))
        if kind == .trim { return frame(.trim(run, sn, tag)) }
        if kind == .zero { return frame(.zero(run, sn, tag)) }
        if kind == .amend { return frame(.amend(try amendment(run, sn, tag))) }
        let (checksums, payload) = (try takeChecksums(run.blockCount), try takePayload(run.byteCount))
        return frame(.write(run, sn, tag, checksums: checksums, payload: [payload]))
    }

    private mutating func amendment(
        _ run: BlockRun, _ sn: SnapshotNumber, _ tag: RequestTag
    ) throws(WireError) -> Amendment {
        let (first, count) = (Int(try next(UInt32.self)), Int(try next(UInt32.self)))
        let checksums = try takeChecksums(body.remaining / FrameBody.checksumBytes)
        let payload = try takePayload(checksums.count * Geometry.blockBytes)
        let amendment = Amendment(
            run: run, bytes: first..<(first + count), snapshot: sn, tag: tag, checksums: checksums,
            payload: [payload])
        try require(amendment.isWellFormed, "bytes")
        return amendment
    }

    private mutating func reply() throws(WireError) -> BlockReply {
        let flags = header.flags
        let packed = take(&header.d)
        guard let status = ReplyStatus(rawValue: UInt8(truncatingIfNeeded: packed)) else {
            throw malformed("status")
        }
        let leader = take(&header.a)
        var reply = BlockReply(status: status, leader: leader == 0 ? nil : ServerID(leader))
        if flags & FrameFlag.replyHasFence != 0 {
            reply.fence = VolumeFence(
                epoch: Epoch(take(&header.number)), size: try fenceSize(take(&header.b)),
                change: try change(take(&header.c)))
        }
        if flags & FrameFlag.replyHasDifference != 0 {
            let byte = Int(take(&header.number))
            try require(
                reply.fence == nil && status == .miscompare
                    && byte < WireLimits.amendBlocksMax * Geometry.blockBytes, "difference")
            reply.differsAtByte = byte
        }
        let segmentCount = Int(packed >> 8)
        try require(segmentCount <= body.remaining / FrameBody.segmentBytes, "segment count")
        reply.segments.reserveCapacity(segmentCount)
        var (blocks, dataBlocks) = (0, 0)
        for _ in 0..<segmentCount {
            let packed = try next(UInt32.self)
            let count = Int(packed & ~(ReadSegment.dataBit | ReadSegment.storedBit))
            blocks += count
            try require(count > 0 && blocks <= Geometry.blocksPerChunk, "segment")
            if packed & ReadSegment.storedBit != 0 {
                try require(packed & ReadSegment.dataBit == 0 && header.kind == .reply, "segment")
                reply.segments.append(.stored(count * Geometry.blockBytes))
            } else if packed & ReadSegment.dataBit != 0 {
                dataBlocks += count
                reply.segments.append(.data(try takePayload(count * Geometry.blockBytes)))
            } else {
                reply.segments.append(.zeroes(count * Geometry.blockBytes))
            }
        }
        reply.checksums = try takeChecksums(dataBlocks)
        return reply
    }
}

// MARK: - Between replicas

extension FrameParser {
    private mutating func replicaMessage() throws(WireError) -> ReplicaMessage {
        let (kind, flags) = (header.kind, header.flags)
        let term = try term(take(&header.number))
        switch kind {
        case .append: return .append(try append(term))
        case .appendReply:
            return .appendReply(
                .init(
                    term: term, rejected: flags & FrameFlag.isRejected != 0,
                    syncing: flags & FrameFlag.isSyncing != 0, durable: try index(take(&header.a)),
                    received: try index(take(&header.b)), echo: try clock(take(&header.id))))
        case .heartbeat:
            return .heartbeat(
                .init(
                    term: term, commit: try index(take(&header.a)), retainAfter: try index(take(&header.b)),
                    sentAt: try clock(take(&header.id))))
        case .heartbeatReply:
            return .heartbeatReply(
                .init(
                    term: term, syncing: flags & FrameFlag.isSyncing != 0,
                    durable: try index(take(&header.a)),
                    echo: try clock(take(&header.id))))
        case .voteRequest:
            return .voteRequest(
                .init(
                    term: term, isPreVote: flags & FrameFlag.isPreVote != 0,
                    isTransfer: flags & FrameFlag.isTransfer != 0, last: try takePosition()))
        case .voteReply:
            return .voteReply(
                .init(
                    term: term, isPreVote: flags & FrameFlag.isPreVote != 0,
                    granted: flags & FrameFlag.isGranted != 0))
        case .timeoutNow: return .timeoutNow(term: term)
        case .hello, .helloRefused, .control, .controlReply, .read, .write, .trim, .zero, .fence,
            .blockStatus, .amend, .reply, .beats, .beatReplies, .syncOffer, .syncPull, .syncPiece,
            .syncRefused, .fetch, .fetched:
            throw malformed("kind")
        }
    }

    private mutating func append(_ term: Term) throws(WireError) -> ReplicaMessage.Append {
        let previous = try takePosition()
        var append = ReplicaMessage.Append(
            term: term, previous: previous, commit: try index(take(&header.b)),
            retainAfter: try index(take(&header.c)),
            sentAt: try clock(take(&header.id)), entries: [])
        append.entries.reserveCapacity(
            min(body.remaining / FrameBody.entryBytes, WireLimits.appendEntriesMax))
        var last = previous
        while body.remaining > 0 {
            try require(append.entries.count < WireLimits.appendEntriesMax, "entry count")
            let entry = try entry(after: last)
            try require(entry.position.term >= last.term && entry.position.term <= term, "entry term")
            append.entries.append(entry)
            last = entry.position
        }
        return append
    }

    private mutating func entry(after last: LogPosition) throws(WireError) -> LogEntry {
        guard let kind = EntryKind(rawValue: try next(UInt8.self)), try next(UInt8.self) == 0 else {
            throw malformed("entry kind")
        }
        let memberCount = Int(try next(UInt16.self))
        let position = LogPosition(term: try term(try next(UInt32.self)), index: last.index.next)
        let (key, number) = (try next(UInt64.self), try next(UInt64.self))
        let (sn, session, blocks) = (try next(UInt32.self), try next(UInt32.self), try next(UInt32.self))
        func blank(_ members: Bool = false, _ blockFields: Bool = true) -> Bool {
            (members || memberCount == 0) && (!blockFields || (sn == 0 && blocks == 0))
        }
        switch kind {
        case .noop:
            try require(blank() && key == 0 && number == 0 && session == 0, "entry")
            return LogEntry(position, .noop)
        case .write, .trim, .zero, .void:
            try require(blank(false, false), "entry")
            let run = try run(ChunkKey(rawValue: key), blocks)
            let (sn, tag) = (SnapshotNumber(sn), try tag(session: session, sequence: number))
            if kind == .void {
                try require(sn == SnapshotNumber(0), "entry")
                return LogEntry(position, .void(run, tag))
            }
            if kind == .trim { return LogEntry(position, .trim(run, sn, tag)) }
            if kind == .zero { return LogEntry(position, .zero(run, sn, tag)) }
            try require(run.byteCount <= LogEntry.payloadBytesMax, "entry length")
            let (sums, payload) = (try takeChecksums(run.blockCount), try takePayload(run.byteCount))
            return LogEntry(position, .write(run, sn, tag, checksums: sums, payload: payload))
        case .fence:
            try require(blocks == 0, "entry")
            let group = try group(memberCount, at: Epoch(session))
            let fence = VolumeFence(
                epoch: Epoch(session), size: try fenceSize(number), change: sn, group: group)
            return LogEntry(position, .fence(try volume(key), fence))
        case .deleteVolume:
            try require(blank() && number == 0 && session == 0, "entry")
            return LogEntry(position, .deleteVolume(try volume(key)))
        case .configuration:
            try require(
                blank(true) && key == 0 && number == 0 && session == 0
                    && memberCount <= WireLimits.membersMax,
                "entry")
            var members: [ServerID] = []
            for _ in 0..<memberCount { members.append(ServerID(try next(UInt64.self))) }
            return LogEntry(position, .configuration(members))
        }
    }

    private mutating func beats() throws(WireError) -> [(CopysetID, ReplicaMessage.Heartbeat)] {
        let count = body.remaining / FrameBody.beatBytes
        try require(count <= WireLimits.beatsMax, "heartbeat count")
        var beats: [(CopysetID, ReplicaMessage.Heartbeat)] = []
        beats.reserveCapacity(count)
        for _ in 0..<count {
            let (copyset, term) = (CopysetID(try next(UInt32.self)), try term(try next(UInt32.self)))
            let (commit, retain) = (try index(try next(UInt64.self)), try index(try next(UInt64.self)))
            let sentAt = try clock(try next(UInt64.self))
            beats.append((copyset, .init(term: term, commit: commit, retainAfter: retain, sentAt: sentAt)))
        }
        return beats
    }

    private mutating func beatReplies() throws(WireError) -> [(CopysetID, ReplicaMessage.HeartbeatReply)] {
        let count = body.remaining / FrameBody.beatReplyBytes
        try require(count <= WireLimits.beatsMax, "heartbeat count")
        var replies: [(CopysetID, ReplicaMessage.HeartbeatReply)] = []
        replies.reserveCapacity(count)
        for _ in 0..<count {
            let (copyset, term) = (CopysetID(try next(UInt32.self)), try term(try next(UInt32.self)))
            let (durable, echo) = (try index(try next(UInt64.self)), try clock(try next(UInt64.self)))
            let syncing = try nextBool()
            replies.append((copyset, .init(term: term, syncing: syncing, durable: durable, echo: echo)))
        }
        return replies
    }
}

// MARK: - Full copies

extension FrameParser {
    private mutating func syncOffer() throws(WireError) -> Frame {
        let (copyset, term) = (takeCopyset(), try term(take(&header.number)))
        let (base, blocks) = (try takePosition(), take(&header.b))
        var volumes: [(VolumeID, VolumeRecord)] = []
        while body.remaining > 0 {
            let (volume, size) = (try volume(try next(UInt64.self)), try fenceSize(try next(UInt64.self)))
            let highest = try next(UInt64.self)
            let (epoch, change) = (Epoch(try next(UInt32.self)), try next(UInt32.self))
            let flags = try next(UInt32.self)
            try require(
                flags & ~(VolumeRecordFlag.isDeleted | VolumeRecordFlag.isShared) == 0, "volume flags")
            let mask = try next(UInt64.self)
            var windows: [RequestWindow] = []
            if flags & VolumeRecordFlag.isShared == 0 {
                windows = [try window(of: epoch, highest, mask)]
            } else {
                try require(highest == 0 && (1...UInt64(VolumeFence.groupMax)).contains(mask), "windows")
                for _ in 0..<mask {
                    let (session, highest) = (Epoch(try next(UInt32.self)), try next(UInt64.self))
                    windows.append(try window(of: session, highest, try next(UInt64.self)))
                }
            }
            let group = flags & VolumeRecordFlag.isShared == 0 ? [] : windows.map(\.session)
            try require(VolumeFence.isGroup(group, at: epoch), "group")
            guard
                let record = VolumeRecord(
                    fence: VolumeFence(epoch: epoch, size: size, change: change, group: group),
                    isDeleted: flags & VolumeRecordFlag.isDeleted != 0, windows: windows)
            else { throw malformed("volume record") }
            volumes.append((volume, record))
        }
        return .syncOffer(copyset, term: term, base: base, blocks: blocks, volumes: volumes)
    }
    private mutating func window(
        of session: Epoch, _ highest: UInt64, _ mask: UInt64
    ) throws(WireError) -> RequestWindow {
        try require(highest < WireLimits.counterMax, "sequence")
        var words: [UInt64] = []
        words.reserveCapacity(RequestWindow.wordCount)
        for bit in 0..<UInt64(RequestWindow.wordCount) {
            let word = mask >> bit & 1 == 1 ? try next(UInt64.self) : 0
            try require(word != 0 || mask >> bit & 1 == 0, "window")
            words.append(word)
        }
        guard let window = RequestWindow(session: session, highestSequence: highest, words: words) else {
            throw malformed("window")
        }
        return window
    }

    private mutating func syncPull() throws(WireError) -> Frame {
        let (id, copyset, term) = (take(&header.id), takeCopyset(), try term(take(&header.number)))
        let cursor = try cursor(take(&header.a), take(&header.d))
        return .syncPull(id: id, copyset, term: term, cursor, minApplied: try index(take(&header.b)))
    }

    private mutating func syncPiece() throws(WireError) -> SyncPieceWire {
        let flags = header.flags
        let (copyset, term, blocks) = (takeCopyset(), try term(take(&header.number)), take(&header.d))
        var piece = SyncPieceWire(
            copyset: copyset, term: term, from: try cursor(take(&header.a), blocks & 0xFFFF), next: nil,
            applied: try index(take(&header.b)), runs: [])
        if flags & FrameFlag.pieceHasNext != 0 {
            piece.next = try cursor(take(&header.c), blocks >> 16)
        } else {
            try require(blocks >> 16 == 0, "cursor")
        }
        while body.remaining > 0 {
            let chunk = ChunkKey(rawValue: try next(UInt64.self))
            let run = try run(chunk, try next(UInt32.self))
            let (sums, payload) = (try takeChecksums(run.blockCount), try takePayload(run.byteCount))
            piece.runs.append((run, checksums: sums, payload: payload))
        }
        return piece
    }

    private func cursor(_ chunk: UInt64, _ block: UInt32) throws(WireError) -> SyncCursorWire {
        try require(block <= UInt32(Geometry.blocksPerChunk), "cursor")
        return SyncCursorWire(chunk: ChunkKey(rawValue: chunk), block: Int(block))
    }
}

// MARK: - Fields

extension FrameParser {
    private mutating func takeCopyset() -> CopysetID { CopysetID(take(&header.copyset)) }
    private mutating func takeRun() throws(WireError) -> BlockRun {
        try run(ChunkKey(rawValue: take(&header.a)), take(&header.d))
    }
    /// The log position that `a` and `d` hold.
    private mutating func takePosition() throws(WireError) -> LogPosition {
        LogPosition(term: try term(take(&header.d)), index: try index(take(&header.a)))
    }
    /// The sessions of a fence's group, which follow.
    private mutating func group(_ count: Int, at epoch: Epoch) throws(WireError) -> [Epoch] {
        try require(count <= VolumeFence.groupMax, "group")
        var group: [Epoch] = []
        for _ in 0..<count { group.append(Epoch(try next(UInt32.self))) }
        try require(VolumeFence.isGroup(group, at: epoch), "group")
        return group
    }
    private mutating func takeChecksums(_ count: Int) throws(WireError) -> [CRC32C] {
        guard let checksums = body.nextChecksums(count) else { throw malformed("checksum count") }
        return checksums
    }
    private mutating func takePayload(_ byteCount: Int) throws(WireError) -> Payload {
        guard let payload, byteCount <= payload.byteCount - payloadTaken else {
            throw malformed("payload length")
        }
        defer { payloadTaken += byteCount }
        return payload.slice(payloadTaken, byteCount)
    }
    private mutating func next<T: FixedWidthInteger>(_ type: T.Type) throws(WireError) -> T {
        guard let value = body.next(type) else { throw malformed("body length") }
        return value
    }
    private mutating func nextBool() throws(WireError) -> Bool {
        let value = try next(UInt32.self)
        try require(value <= 1, "truth value")
        return value == 1
    }

    private func run(_ chunk: ChunkKey, _ blocks: UInt32) throws(WireError) -> BlockRun {
        guard
            let run = BlockRun(
                chunk: chunk, firstBlock: Int(blocks & 0xFFFF), blockCount: Int(blocks >> 16))
        else { throw malformed("run of blocks") }
        return run
    }
    private func tag(session: UInt32, sequence: UInt64) throws(WireError) -> RequestTag {
        try require(sequence > 0 && sequence < WireLimits.counterMax, "sequence")
        return RequestTag(session: Epoch(session), sequence: sequence)
    }
    private func volume(_ value: UInt64) throws(WireError) -> VolumeID {
        try require(value <= VolumeID.max, "volume")
        return VolumeID(value)
    }
    private func fenceSize(_ value: UInt64) throws(WireError) -> ByteCount {
        try require(value <= WireLimits.fenceBytesMax, "volume size")
        return ByteCount(bytes: value)
    }
    private func change(_ value: UInt64) throws(WireError) -> UInt32 {
        try require(value <= UInt64(UInt32.max), "change")
        return UInt32(value)
    }
    private func term(_ value: UInt32) throws(WireError) -> Term {
        try require(value < WireLimits.termMax, "term")
        return Term(value)
    }
    private func index(_ value: UInt64) throws(WireError) -> LogIndex {
        try require(value < WireLimits.counterMax, "log index")
        return LogIndex(value)
    }
    private func clock(_ value: UInt64) throws(WireError) -> UInt64 {
        try require(value < WireLimits.counterMax, "clock")
        return value
    }
    private func require(_ holds: Bool, _ field: StaticString) throws(WireError) {
        if !holds { throw .malformed(header.kind, field: "\(field)") }
    }
    private func malformed(_ field: StaticString) -> WireError { .malformed(header.kind, field: "\(field)") }
}

/// The field's value; what is taken counts as used.
@inline(__always) private func take<T: FixedWidthInteger>(_ field: inout T) -> T {
    defer { field = 0 }
    return field
}
