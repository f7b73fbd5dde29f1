import BlockTypes

@testable import CurveWire

/// Frames with random contents, all of them allowed.
struct RandomFrames {
    var random: SeededRandom
    init(seed: UInt64) { random = SeededRandom(seed: seed) }

    static let caseCount = 25

    /// A frame of case `number`, 0..<``caseCount``.
    mutating func frame(_ number: Int) -> Frame {
        switch number {
        case 0: return .hello(hello())
        case 1:
            return .helloRefused(
                reason: pick(["", "no", "Zürich ist 遠い 🚂", String(repeating: "é", count: 512)]))
        case 2: return .request(id: any(), request(.read(run(below(256) + 1))))
        case 3:
            let blocks = below(5) + 1
            let (sums, payload) = data(blocks)
            let parts =
                blocks > 1 ? [payload.slice(0, 4096), payload.slice(4096, (blocks - 1) * 4096)] : [payload]
            return .request(
                id: any(), request(.write(run(blocks), sn(), tag(), checksums: sums, payload: parts)))
        case 4: return .request(id: any(), request(.trim(run(), sn(), tag())))
        case 5: return .request(id: any(), request(.zero(run(), sn(), tag())))
        case 6: return .request(id: any(), request(.fence(volume(), fence(shared: flip()))))
        case 7:
            var reply = reply(withStored: flip())
            if reply.status == .miscompare, reply.fence == nil, flip() { reply.differsAtByte = below(9000) }
            return .reply(id: any(), reply)
        case 8: return .replica(copyset(), .append(append()))
        case 9:
            return .replica(
                copyset(),
                .appendReply(
                    .init(
                        term: term(), rejected: flip(), syncing: flip(), durable: index(), received: index(),
                        echo: clock())))
        case 10: return .replica(copyset(), .heartbeat(beat()))
        case 11: return .replica(copyset(), .heartbeatReply(beatReply()))
        case 12:
            return .replica(
                copyset(),
                .voteRequest(.init(term: term(), isPreVote: flip(), isTransfer: flip(), last: position())))
        case 13:
            return .replica(copyset(), .voteReply(.init(term: term(), isPreVote: flip(), granted: flip())))
        case 14: return .replica(copyset(), .timeoutNow(term: term()))
        case 15: return .beats((0..<below(5)).map { _ in (copyset(), beat()) })
        case 16: return .beatReplies(shareBlocks: any(), (0..<below(5)).map { _ in (copyset(), beatReply()) })
        case 17:
            return .syncOffer(
                copyset(), term: term(), base: position(), blocks: any(),
                volumes: (0..<below(3)).map { _ in (volume(), record()) })
        case 18: return .syncPull(id: any(), copyset(), term: term(), cursor(), minApplied: index())
        case 19: return .syncPiece(id: any(), piece())
        case 20: return .syncRefused(id: any())
        case 21: return .fetch(id: any(), copyset(), run(below(512) + 1))
        case 22: return .fetched(id: any(), copyset(), reply())
        case 23: return .request(id: any(), request(.blockStatus(run())))
        case 24: return .request(id: any(), request(.amend(amendment())))
        default: return flip() ? .control(id: any(), body: bytes()) : .controlReply(id: any(), body: bytes())
        }
    }
    /// One of each case, the last one twice for its two halves.
    mutating func all() -> [Frame] { (0...Self.caseCount).map { frame($0) } }

    mutating func any() -> UInt64 { random.next() }
    mutating func below(_ n: Int) -> Int { Int.random(in: 0..<n, using: &random) }
    mutating func flip() -> Bool { Bool.random(using: &random) }
    mutating func pick<T>(_ values: [T]) -> T { values[below(values.count)] }
    mutating func small() -> UInt64 { pick([0, 1, any() % 1000, any() % WireLimits.counterMax]) }
    mutating func index() -> LogIndex { LogIndex(small()) }
    mutating func clock() -> UInt64 { small() }
    mutating func term() -> Term { Term(UInt32(any() % UInt64(WireLimits.termMax))) }
    mutating func position() -> LogPosition { LogPosition(term: term(), index: index()) }
    mutating func copyset() -> CopysetID { CopysetID(UInt32(truncatingIfNeeded: any())) }
    mutating func volume() -> VolumeID { VolumeID(any() & VolumeID.max) }
    mutating func chunk() -> ChunkKey { ChunkKey(rawValue: any()) }
    mutating func sn() -> SnapshotNumber { SnapshotNumber(UInt32(truncatingIfNeeded: any())) }
    mutating func epoch() -> Epoch { Epoch(UInt32(truncatingIfNeeded: any())) }
    mutating func tag() -> RequestTag { RequestTag(session: epoch(), sequence: small() + 1) }
    mutating func bytes() -> [UInt8] { (0..<below(200)).map { _ in UInt8(truncatingIfNeeded: any()) } }
    mutating func fence(shared: Bool = false) -> VolumeFence {
        var fence = VolumeFence(
            epoch: epoch(), size: ByteCount(bytes: any() % WireLimits.fenceBytesMax), change: epoch().rawValue
        )
        guard shared else { return fence }
        let sessions = Set(
            (0...below(16)).map { _ in UInt32.random(in: 0...fence.epoch.rawValue, using: &random) })
        fence.group = sessions.sorted().map { Epoch($0) }
        return fence
    }
    mutating func amendment() -> Amendment {
        let blocks = pick([1, 1, 2, WireLimits.amendBlocksMax])
        let compares = flip()
        let (sums, payload) = data(compares ? 2 * blocks : blocks)
        let first = below(4096)
        let end = (blocks - 1) * 4096 + 1 + below(4096)
        return Amendment(
            run: run(blocks), bytes: min(first, end - 1)..<end, snapshot: sn(),
            tag: RequestTag(session: epoch(), sequence: small() + 2), checksums: sums, payload: [payload])
    }
    mutating func run(_ blocks: Int? = nil) -> BlockRun {
        let count = blocks ?? pick([1, below(4096) + 1, 4096])
        guard let run = BlockRun(chunk: chunk(), firstBlock: below(4097 - count), blockCount: count) else {
            preconditionFailure("a run of \(count) blocks")
        }
        return run
    }
    mutating func data(_ blocks: Int) -> ([CRC32C], Payload) {
        let buffer = BlockBuffer(byteCount: blocks * 4096)
        for block in 0..<blocks {
            buffer.bytes.storeBytes(of: any(), toByteOffset: block * 4096, as: UInt64.self)
            buffer.bytes.storeBytes(of: any(), toByteOffset: block * 4096 + 4088, as: UInt64.self)
        }
        let payload = Payload(buffer, byteCount: blocks * 4096)
        return (CRC32C.perBlock(of: payload), payload)
    }
    mutating func request(_ kind: BlockRequest.Kind) -> BlockRequest {
        BlockRequest(copyset: copyset(), epoch: epoch(), kind: kind)
    }
    mutating func hello() -> Hello {
        Hello(
            role: pick([.client, .chunkserver, .metadata, .tool]),
            cluster: flip() ? UniqueID(high: any(), low: any()) : nil, server: flip() ? ServerID(any()) : nil,
            incarnation: flip() ? Incarnation(any()) : nil, version: UInt32(truncatingIfNeeded: any()))
    }
    mutating func reply(withStored: Bool = false) -> BlockReply {
        var reply = BlockReply(
            status: pick(ReplyStatus.allCases), leader: flip() ? ServerID(any() | 1) : nil,
            fence: flip() ? fence() : nil)
        for _ in 0..<below(4) {
            let blocks = below(3) + 1
            guard flip() else {
                reply.segments.append(
                    withStored && flip() ? .stored(blocks * 4096) : .zeroes(blocks * 4096))
                continue
            }
            let (sums, payload) = data(blocks)
            reply.segments.append(.data(payload))
            reply.checksums += sums
        }
        return reply
    }
    mutating func append() -> ReplicaMessage.Append {
        let previous = LogPosition(term: Term(3), index: index())
        var position = previous
        let entries = (0..<below(8)).map { _ in
            position = LogPosition(
                term: Term(position.term.rawValue + UInt32(below(2))), index: position.index.next)
            return LogEntry(position, operation())
        }
        return .init(
            term: Term(20), previous: previous, commit: index(), retainAfter: index(), sentAt: clock(),
            entries: entries)
    }
    mutating func operation() -> Operation {
        switch below(8) {
        case 0: return .noop
        case 1:
            let blocks = below(3) + 1
            let (sums, payload) = data(blocks)
            return .write(run(blocks), sn(), tag(), checksums: sums, payload: payload)
        case 2: return .trim(run(), sn(), tag())
        case 3: return .zero(run(), sn(), tag())
        case 4: return .fence(volume(), fence(shared: flip()))
        case 6: return .void(run(), tag())
        case 5: return .deleteVolume(volume())
        default: return .configuration((0..<below(8)).map { _ in ServerID(any()) })
        }
    }
    mutating func beat() -> ReplicaMessage.Heartbeat {
        .init(term: term(), commit: index(), retainAfter: index(), sentAt: clock())
    }
    mutating func beatReply() -> ReplicaMessage.HeartbeatReply {
        .init(term: term(), syncing: flip(), durable: index(), echo: clock())
    }
    mutating func record() -> VolumeRecord {
        let fence = fence(shared: flip())
        let windows = fence.sessions.compactMap { session in
            let words = (0..<RequestWindow.wordCount).map { _ in pick([0, 0, 1, any()]) }
            return RequestWindow(session: session, highestSequence: small(), words: words)
        }
        guard let record = VolumeRecord(fence: fence, isDeleted: flip(), windows: windows) else {
            preconditionFailure("\(windows.count) windows")
        }
        return record
    }
    mutating func cursor() -> SyncCursorWire {
        SyncCursorWire(chunk: chunk(), block: pick([0, below(4097), 4096]))
    }
    mutating func piece() -> SyncPieceWire {
        SyncPieceWire(
            copyset: copyset(), term: term(), from: cursor(), next: flip() ? cursor() : nil, applied: index(),
            runs: (0..<below(4)).map { _ in
                let blocks = below(3) + 1
                let (sums, payload) = data(blocks)
                return (run(blocks), checksums: sums, payload: payload)
            })
    }
}

/// Everything a value holds, as text; payloads by their bytes, however they are cut.
func picture(_ value: Any) -> String {
    if let payload = value as? Payload { return "payload(\(payload.byteCount) \(CRC32C(of: payload)))" }
    if let payloads = value as? [Payload] {
        let all = payloads.reduce(into: [UInt8]()) { $0 += $1.array }
        return "payload(\(all.count) \(CRC32C(of: all)))"
    }
    let mirror = Mirror(reflecting: value)
    if mirror.children.isEmpty { return "\(value)" }
    let fields = mirror.children.map { "\($0.label ?? "-"): \(picture($0.value))" }
    return "\(type(of: value))(\(fields.joined(separator: ", ")))"
}

/// The frame as its bytes on the wire.
func wire(_ frame: Frame) -> [UInt8] {
    let (head, payloads) = FrameEncoder.encode(frame)
    return payloads.reduce(into: head) { $0 += $1.array }
}

/// Makes the checksum of a changed header and body right again.
func seal(_ stream: inout [UInt8]) {
    let bodyBytes = Int(stream[8]) | Int(stream[9]) << 8 | Int(stream[10]) << 16 | Int(stream[11]) << 24
    guard stream.count >= 64 + bodyBytes else { return }
    let checksum = Array(stream[..<(64 + bodyBytes)]).withUnsafeBytes { FrameEncoder.checksum($0) }
    for index in 0..<4 { stream[60 + index] = UInt8(truncatingIfNeeded: checksum >> (8 * index)) }
}

/// Feeds `stream` in pieces of `pieceBytes`, through the window where there is one.
func decode(_ stream: [UInt8], pieceBytes: Int, into decoder: inout FrameDecoder) -> ([Frame], WireError?) {
    var (frames, at): ([Frame], Int) = ([], 0)
    while at < stream.count {
        let window = decoder.receiveWindow()
        let count = min(pieceBytes, stream.count - at, window?.count ?? pieceBytes)
        stream.withUnsafeBytes { bytes in
            let piece = UnsafeRawBufferPointer(rebasing: bytes[at..<(at + count)])
            if let window, at % 2 == 0 {  // Now and then ignore the window, as a staging buffer would.
                window.copyMemory(from: piece)
                decoder.received(UnsafeRawBufferPointer(rebasing: window[..<count]))
            } else {
                decoder.received(piece)
            }
        }
        at += count
        do throws(WireError) {
            while let frame = try decoder.next() { frames.append(frame) }
        } catch { return (frames, error) }
    }
    return (frames, nil)
}
