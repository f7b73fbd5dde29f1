import BlockTypes

/// Turns frames into bytes. Payload stays where it is: the shell sends it after the head, piece by piece.
public enum FrameEncoder {
    /// - Returns: header and body in one array, and the payload that follows them on the wire.
    public static func encode(_ frame: Frame) -> (head: [UInt8], payloads: [Payload]) {
        var draft = FrameDraft(frame)
        let bodyBytes = draft.body.byteCount
        let payloadBytes = draft.payloads.reduce(0) { $0 + $1.byteCount }
        let kind = draft.header.kind
        invariant(bodyBytes <= kind.bodyBytesMax, "\(kind) frame with a body of \(bodyBytes) bytes")
        invariant(payloadBytes <= kind.payloadBytesMax, "\(kind) frame with \(payloadBytes) bytes of payload")
        invariant(payloadBytes % Geometry.blockBytes == 0, "\(kind) frame with a payload of broken blocks")
        (draft.header.bodyBytes, draft.header.payloadBytes) = (bodyBytes, payloadBytes)
        let headBytes = WireLimits.headerBytes + bodyBytes
        let head = unsafe [UInt8](unsafeUninitializedCapacity: headBytes) { memory, initialized in
            let all = UnsafeMutableRawBufferPointer(memory)
            var body = unsafe WireWriter(all, at: WireLimits.headerBytes)
            draft.body.write(&body)
            invariant(body.position == headBytes, "\(kind) frame: \(body.position) of \(headBytes) bytes")
            var header = unsafe WireWriter(all, at: 0)
            draft.header.write(&header)
            let checksum = unsafe FrameEncoder.checksum(UnsafeRawBufferPointer(all))
            header.put(checksum)
            initialized = headBytes
        }
        return (head, draft.payloads)
    }

    /// True when the records fit one ``Frame/syncOffer(_:term:base:blocks:volumes:)``: at least 30,000 do.
    /// Users decide how many volumes there are, so the sender of an offer asks first.
    public static func fitsOffer(_ volumes: [(VolumeID, VolumeRecord)]) -> Bool {
        FrameBody.volumes(volumes).byteCount <= FrameKind.syncOffer.bodyBytesMax
    }

    /// The checksum of a header and its body: all bytes but those of the checksum itself.
    @unsafe static func checksum(_ head: UnsafeRawBufferPointer) -> UInt32 {
        let before = unsafe UnsafeRawBufferPointer(rebasing: head[..<FrameHeader.checksumOffset])
        let after = unsafe UnsafeRawBufferPointer(rebasing: head[WireLimits.headerBytes...])
        return unsafe CRC32C.extend(CRC32C.extend(0, with: before), with: after)
    }
}

/// A frame taken apart: header fields, what the body is made of, payload.
struct FrameDraft {
    var header = FrameHeader(.hello)
    var body = FrameBody.none
    var payloads: [Payload] = []

    init(_ frame: Frame) {
        switch frame {
        case .hello(let hello): fill(hello)
        case .helloRefused(let reason):
            header = FrameHeader(.helloRefused)
            body = .bytes(Self.cut(reason))
        case .request(let id, let request): fill(id, request)
        case .reply(let id, let reply): fill(.reply, id, CopysetID(0), reply)
        case .replica(let copyset, let message): fill(copyset, message)
        case .beats(let beats):
            invariant(beats.count <= WireLimits.beatsMax, "\(beats.count) heartbeats in one frame")
            header = FrameHeader(.beats)
            body = .beats(beats)
        case .beatReplies(let shareBlocks, let replies):
            invariant(replies.count <= WireLimits.beatsMax, "\(replies.count) heartbeat replies in one frame")
            header = FrameHeader(.beatReplies)
            header.a = shareBlocks
            body = .beatReplies(replies)
        case .syncOffer(let copyset, let term, let base, let blocks, let volumes):
            header = FrameHeader(.syncOffer)
            (header.copyset, header.number) = (copyset.rawValue, term.rawValue)
            (header.a, header.b, header.d) = (base.index.rawValue, blocks, base.term.rawValue)
            body = .volumes(volumes)
        case .syncPull(let id, let copyset, let term, let cursor, let minApplied):
            header = FrameHeader(.syncPull)
            (header.id, header.copyset, header.number) = (id, copyset.rawValue, term.rawValue)
            (header.a, header.b) = (cursor.chunk.rawValue, minApplied.rawValue)
            header.d = UInt32(cursor.block)
        case .syncPiece(let id, let piece): fill(id, piece)
        case .syncRefused(let id):
            header = FrameHeader(.syncRefused)
            header.id = id
        case .fetch(let id, let copyset, let run):
            invariant(run.blockCount <= WireLimits.fetchBlocksMax, "a fetch of \(run.blockCount) blocks")
            header = FrameHeader(.fetch)
            (header.id, header.copyset) = (id, copyset.rawValue)
            header.set(run)
        case .fetched(let id, let copyset, let reply): fill(.fetched, id, copyset, reply)
        case .control(let id, let bytes): fill(.control, id, bytes)
        case .controlReply(let id, let bytes): fill(.controlReply, id, bytes)
        }
    }

    private mutating func fill(_ kind: FrameKind, _ id: UInt64, _ bytes: [UInt8]) {
        header = FrameHeader(kind)
        header.id = id
        body = .bytes(bytes)
    }

    private mutating func fill(_ hello: Hello) {
        header = FrameHeader(.hello)
        if hello.cluster != nil { header.flags |= FrameFlag.helloHasCluster }
        if hello.server != nil { header.flags |= FrameFlag.helloHasServer }
        if hello.incarnation != nil { header.flags |= FrameFlag.helloHasIncarnation }
        (header.number, header.d) = (hello.version, UInt32(hello.role.rawValue))
        (header.a, header.b) = (hello.cluster?.high ?? 0, hello.cluster?.low ?? 0)
        (header.c, header.id) = (hello.server?.rawValue ?? 0, hello.incarnation?.rawValue ?? 0)
    }

    private mutating func fill(_ id: UInt64, _ request: BlockRequest) {
        switch request.kind {
        case .read(let run):
            invariant(run.blockCount <= WireLimits.readBlocksMax, "a read of \(run.blockCount) blocks")
            header = FrameHeader(.read)
            header.set(run)
        case .write(let run, let sn, let tag, let checksums, let parts):
            header = FrameHeader(.write)
            header.set(run, sn, tag)
            invariant(
                checksums.count == run.blockCount && parts.reduce(0) { $0 + $1.byteCount } == run.byteCount,
                "a write of \(run) with \(checksums.count) checksums or another length of payload")
            body = .checksums(checksums)
            payloads = parts
        case .trim(let run, let sn, let tag):
            header = FrameHeader(.trim)
            header.set(run, sn, tag)
        case .zero(let run, let sn, let tag):
            header = FrameHeader(.zero)
            header.set(run, sn, tag)
        case .blockStatus(let run):
            header = FrameHeader(.blockStatus)
            header.set(run)
        case .amend(let amendment):
            invariant(amendment.isWellFormed, "an amendment of \(amendment.run), bytes \(amendment.bytes)")
            header = FrameHeader(.amend)
            header.set(amendment.run, amendment.snapshot, amendment.tag)
            body = .amendment(bytes: amendment.bytes, amendment.checksums)
            payloads = amendment.payload
        case .fence(let volume, let fence):
            header = FrameHeader(.fence)
            if !fence.group.isEmpty { body = .sessions(fence.group) }
            (header.a, header.b, header.d) = (volume.rawValue, fence.size.bytes, fence.epoch.rawValue)
            header.c = UInt64(fence.change)
        }
        (header.id, header.copyset) = (id, request.copyset.rawValue)
        header.number = request.epoch.rawValue
    }

    private mutating func fill(_ kind: FrameKind, _ id: UInt64, _ copyset: CopysetID, _ reply: BlockReply) {
        header = FrameHeader(kind)
        (header.id, header.copyset, header.a) = (id, copyset.rawValue, reply.leader?.rawValue ?? 0)
        if let fence = reply.fence {
            header.flags |= FrameFlag.replyHasFence
            (header.number, header.b, header.c) = (
                fence.epoch.rawValue, fence.size.bytes, UInt64(fence.change)
            )
        }
        if let byte = reply.differsAtByte {
            invariant(reply.fence == nil && kind == .reply, "a fence and a difference in one reply")
            header.flags |= FrameFlag.replyHasDifference
            header.number = UInt32(byte)
        }
        header.d = UInt32(reply.status.rawValue) | UInt32(reply.segments.count) << 8
        var dataBytes = 0
        for segment in reply.segments {
            guard case .data(let payload) = segment else { continue }
            payloads.append(payload)
            dataBytes += payload.byteCount
        }
        invariant(
            dataBytes == reply.checksums.count * Geometry.blockBytes,
            "\(reply.checksums.count) checksums for \(dataBytes) bytes")
        if !reply.segments.isEmpty { body = .segments(reply.segments, reply.checksums) }
    }

    private mutating func fill(_ id: UInt64, _ piece: SyncPieceWire) {
        header = FrameHeader(.syncPiece)
        (header.id, header.copyset, header.number) = (id, piece.copyset.rawValue, piece.term.rawValue)
        (header.a, header.b) = (piece.from.chunk.rawValue, piece.applied.rawValue)
        header.d = UInt32(piece.from.block)
        if let next = piece.next {
            header.flags |= FrameFlag.pieceHasNext
            header.c = next.chunk.rawValue
            header.d |= UInt32(next.block) << 16
        }
        payloads.reserveCapacity(piece.runs.count)
        for (run, checksums, payload) in piece.runs {
            invariant(
                checksums.count == run.blockCount && payload.byteCount == run.byteCount,
                "a piece of \(run) with \(checksums.count) checksums and \(payload.byteCount) bytes")
            payloads.append(payload)
        }
        body = .runs(piece.runs)
    }

    private mutating func fill(_ copyset: CopysetID, _ message: ReplicaMessage) {
        switch message {
        case .append(let append):
            fill(append)
        case .appendReply(let reply):
            header = FrameHeader(.appendReply)
            if reply.syncing { header.flags |= FrameFlag.isSyncing }
            if reply.rejected { header.flags |= FrameFlag.isRejected }
            (header.id, header.a, header.b) = (reply.echo, reply.durable.rawValue, reply.received.rawValue)
        case .heartbeat(let beat):
            header = FrameHeader(.heartbeat)
            (header.id, header.a, header.b) = (beat.sentAt, beat.commit.rawValue, beat.retainAfter.rawValue)
        case .heartbeatReply(let reply):
            header = FrameHeader(.heartbeatReply)
            if reply.syncing { header.flags |= FrameFlag.isSyncing }
            (header.id, header.a) = (reply.echo, reply.durable.rawValue)
        case .voteRequest(let request):
            header = FrameHeader(.voteRequest)
            if request.isPreVote { header.flags |= FrameFlag.isPreVote }
            if request.isTransfer { header.flags |= FrameFlag.isTransfer }
            (header.a, header.d) = (request.last.index.rawValue, request.last.term.rawValue)
        case .voteReply(let reply):
            header = FrameHeader(.voteReply)
            if reply.isPreVote { header.flags |= FrameFlag.isPreVote }
            if reply.granted { header.flags |= FrameFlag.isGranted }
        case .timeoutNow: header = FrameHeader(.timeoutNow)
        case .syncOffer:
            header = FrameHeader(.syncOffer)
            invariant(false, "a sync offer without its state; send Frame.syncOffer")
        }
        (header.copyset, header.number) = (copyset.rawValue, message.term.rawValue)
    }

    private mutating func fill(_ append: ReplicaMessage.Append) {
        header = FrameHeader(.append)
        (header.id, header.a, header.d) = (
            append.sentAt, append.previous.index.rawValue, append.previous.term.rawValue
        )
        (header.b, header.c) = (append.commit.rawValue, append.retainAfter.rawValue)
        invariant(append.entries.count <= WireLimits.appendEntriesMax, "\(append.entries.count) entries")
        var index = append.previous.index
        for entry in append.entries {
            index = index.next
            invariant(entry.position.index == index, "entry \(entry.position) where \(index) is due")
            guard case .write(let run, _, _, let checksums, let payload) = entry.operation else { continue }
            invariant(
                checksums.count == run.blockCount && payload.byteCount == run.byteCount
                    && payload.byteCount <= LogEntry.payloadBytesMax,
                "a write of \(run) with \(checksums.count) checksums and \(payload.byteCount) bytes")
            payloads.append(payload)
        }
        if !append.entries.isEmpty { body = .entries(append.entries) }
    }

    /// A reason short enough to be sent, cut between characters.
    private static func cut(_ reason: String) -> [UInt8] {
        var reason = Substring(reason)
        if reason.utf8.count > WireLimits.reasonBytesMax {
            reason = reason.prefix(WireLimits.reasonBytesMax)  // A character has at least one byte.
            while reason.utf8.count > WireLimits.reasonBytesMax { reason.removeLast() }
        }
        return Array(reason.utf8)
    }
}

extension FrameHeader {
    fileprivate mutating func set(_ run: BlockRun) {
        a = run.chunk.rawValue
        d = run.packedBlocks
    }
    fileprivate mutating func set(_ run: BlockRun, _ sn: SnapshotNumber, _ tag: RequestTag) {
        set(run)
        b = tag.sequence
        c = UInt64(sn.rawValue) | UInt64(tag.session.rawValue) << 32
    }
}

extension BlockRun {
    /// `firstBlock | blockCount << 16`; 4096 fits 16 bits.
    var packedBlocks: UInt32 { UInt32(firstBlock) | UInt32(blockCount) << 16 }
}
