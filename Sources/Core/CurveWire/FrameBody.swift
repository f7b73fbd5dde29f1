import BlockTypes

/// The variable part of a frame, by reference until it is written.
enum FrameBody {
    case none
    case bytes([UInt8])
    case checksums([CRC32C])
    case sessions([Epoch])
    case amendment(bytes: Range<Int>, [CRC32C])
    case segments([ReadSegment], [CRC32C])
    case entries([LogEntry])
    case beats([(CopysetID, ReplicaMessage.Heartbeat)])
    case beatReplies([(CopysetID, ReplicaMessage.HeartbeatReply)])
    case volumes([(VolumeID, VolumeRecord)])
    case runs([(BlockRun, checksums: [CRC32C], payload: Payload)])

    static let checksumBytes = 4
    static let sessionBytes = 4
    static let byteRangeBytes = 8
    static let segmentBytes = 4
    static let beatBytes = 32
    static let beatReplyBytes = 28
    /// A volume record without the words of its windows, and a further window of a group.
    static let volumeBytes = 44, memberWindowBytes = 20
    static let windowWordBytes = 8
    static let runBytes = 12
    /// An entry without its checksums or members.
    static let entryBytes = 36
    static let memberBytes = 8

    /// Bytes that ``write(_:)`` writes.
    var byteCount: Int {
        switch self {
        case .none: 0
        case .bytes(let bytes): bytes.count
        case .checksums(let checksums): checksums.count * Self.checksumBytes
        case .sessions(let sessions): sessions.count * Self.sessionBytes
        case .amendment(_, let checksums): Self.byteRangeBytes + checksums.count * Self.checksumBytes
        case .segments(let segments, let checksums):
            segments.count * Self.segmentBytes + checksums.count * Self.checksumBytes
        case .entries(let entries):
            entries.reduce(0) { $0 + Self.entryBytes + $1.operation.variableBytes }
        case .beats(let beats): beats.count * Self.beatBytes
        case .beatReplies(let replies): replies.count * Self.beatReplyBytes
        case .volumes(let volumes):
            volumes.reduce(0) { $0 + $1.1.byteCount }
        case .runs(let runs):
            runs.reduce(0) { $0 + Self.runBytes + $1.checksums.count * Self.checksumBytes }
        }
    }

    func write(_ writer: inout WireWriter) {
        switch self {
        case .none: break
        case .bytes(let bytes): writer.put(bytes)
        case .checksums(let checksums): writer.put(checksums)
        case .sessions(let sessions): for session in sessions { writer.put(session.rawValue) }
        case .amendment(let bytes, let checksums):
            writer.put(UInt32(bytes.lowerBound))
            writer.put(UInt32(bytes.count))
            writer.put(checksums)
        case .segments(let segments, let checksums):
            for segment in segments { writer.put(segment.packed) }
            writer.put(checksums)
        case .entries(let entries): for entry in entries { entry.write(&writer) }
        case .beats(let beats): for (copyset, beat) in beats { beat.write(copyset, &writer) }
        case .beatReplies(let replies): for (copyset, reply) in replies { reply.write(copyset, &writer) }
        case .volumes(let volumes): for (volume, record) in volumes { record.write(volume, &writer) }
        case .runs(let runs):
            for (run, checksums, _) in runs {
                writer.put(run.chunk.rawValue)
                writer.put(run.packedBlocks)
                writer.put(checksums)
            }
        }
    }
}

/// What a log entry does, as a byte. Numbers are for ever.
enum EntryKind: UInt8 {
    case noop = 0
    case write = 1
    case trim = 2
    case zero = 3
    case fence = 4
    case deleteVolume = 5
    case configuration = 6
    case void = 7
}

extension ReadSegment {
    static let dataBit: UInt32 = 1 << 31
    static let storedBit: UInt32 = 1 << 30
    /// Blocks, with the top bit set for data, the next one for data that is stored and not sent.
    fileprivate var packed: UInt32 {
        invariant(
            byteCount > 0 && byteCount % Geometry.blockBytes == 0, "a segment of \(byteCount) bytes")
        let blocks = UInt32(byteCount / Geometry.blockBytes)
        return switch self {
        case .data: blocks | Self.dataBit
        case .stored: blocks | Self.storedBit
        case .zeroes: blocks
        }
    }
}

extension Operation {
    /// Bytes of an encoded entry beyond its fixed part.
    fileprivate var variableBytes: Int {
        switch self {
        case .write(_, _, _, let checksums, _): checksums.count * FrameBody.checksumBytes
        case .configuration(let members): members.count * FrameBody.memberBytes
        case .fence(_, let fence): fence.group.count * FrameBody.sessionBytes
        case .noop, .trim, .zero, .void, .deleteVolume: 0
        }
    }
}

extension LogEntry {
    /// `kind:1 | zero:1 | members:2 | term:4 | key:8 | number:8 | sn:4 | session:4 | blocks:4`, then
    /// checksums, members or a group's sessions. `key` is a chunk or a volume, `number` a sequence or a size,
    /// `session` also a fence's epoch, `sn` its change.
    fileprivate func write(_ writer: inout WireWriter) {
        switch operation {
        case .noop: fixed(.noop, &writer)
        case .write(let run, let sn, let tag, let checksums, _):
            fixed(.write, run, sn, tag, &writer)
            writer.put(checksums)
        case .trim(let run, let sn, let tag): fixed(.trim, run, sn, tag, &writer)
        case .zero(let run, let sn, let tag): fixed(.zero, run, sn, tag, &writer)
        case .void(let run, let tag): fixed(.void, run, SnapshotNumber(0), tag, &writer)
        case .fence(let volume, let fence):
            fixed(
                .fence, members: UInt16(fence.group.count), key: volume.rawValue, number: fence.size.bytes,
                sn: fence.change, session: fence.epoch.rawValue, &writer)
            for session in fence.group { writer.put(session.rawValue) }
        case .deleteVolume(let volume): fixed(.deleteVolume, key: volume.rawValue, &writer)
        case .configuration(let members):
            invariant(members.count <= WireLimits.membersMax, "\(members.count) members")
            fixed(.configuration, members: UInt16(members.count), &writer)
            for member in members { writer.put(member.rawValue) }
        }
    }
    private func fixed(
        _ kind: EntryKind, _ run: BlockRun, _ sn: SnapshotNumber, _ tag: RequestTag,
        _ writer: inout WireWriter
    ) {
        fixed(
            kind, key: run.chunk.rawValue, number: tag.sequence, sn: sn.rawValue,
            session: tag.session.rawValue, blocks: run.packedBlocks, &writer)
    }
    private func fixed(
        _ kind: EntryKind, members: UInt16 = 0, key: UInt64 = 0, number: UInt64 = 0, sn: UInt32 = 0,
        session: UInt32 = 0, blocks: UInt32 = 0, _ writer: inout WireWriter
    ) {
        writer.put(kind.rawValue)
        writer.put(UInt8(0))
        writer.put(members)
        writer.put(position.term.rawValue)
        writer.put(key)
        writer.put(number)
        writer.put(sn)
        writer.put(session)
        writer.put(blocks)
    }
}

extension ReplicaMessage.Heartbeat {
    /// `copyset:4 | term:4 | commit:8 | retainAfter:8 | sentAt:8`
    fileprivate func write(_ copyset: CopysetID, _ writer: inout WireWriter) {
        writer.put(copyset.rawValue)
        writer.put(term.rawValue)
        writer.put(commit.rawValue)
        writer.put(retainAfter.rawValue)
        writer.put(sentAt)
    }
}

extension ReplicaMessage.HeartbeatReply {
    /// `copyset:4 | term:4 | durable:8 | echo:8 | syncing:4`
    fileprivate func write(_ copyset: CopysetID, _ writer: inout WireWriter) {
        writer.put(copyset.rawValue)
        writer.put(term.rawValue)
        writer.put(durable.rawValue)
        writer.put(echo)
        writer.put(UInt32(syncing ? 1 : 0))
    }
}

extension RequestWindow {
    /// One bit for each word that is not zero; a window has as many words as this has bits.
    fileprivate var mask: UInt64 {
        var mask: UInt64 = 0
        for (index, word) in words.enumerated() where word != 0 { mask |= 1 << UInt64(index) }
        return mask
    }
}

/// Bits of a volume record's flags.
enum VolumeRecordFlag {
    static let isDeleted: UInt32 = 1
    /// Its group's windows follow instead of one.
    static let isShared: UInt32 = 2
}

extension VolumeRecord {
    fileprivate var byteCount: Int {
        windows.reduce(FrameBody.volumeBytes) {
            $0 + (fence.group.isEmpty ? 0 : FrameBody.memberWindowBytes) + $1.mask.nonzeroBitCount
                * FrameBody.windowWordBytes
        }
    }
    /// `volume:8 | size:8 | highestSequence:8 | epoch:4 | change:4 | flags:4 | mask:8`, then the words of
    /// the mask: deleted volumes and those that were hardly written are many, and take little room. Of a
    /// volume that a group holds the mask is the number of its windows and the sequence is 0; each window
    /// follows as `session:4 | highestSequence:8 | mask:8` and its words.
    fileprivate func write(_ volume: VolumeID, _ writer: inout WireWriter) {
        let isShared = !fence.group.isEmpty
        writer.put(volume.rawValue)
        writer.put(fence.size.bytes)
        writer.put(isShared ? 0 : windows[0].highestSequence)
        writer.put(fence.epoch.rawValue)
        writer.put(fence.change)
        writer.put(
            (isDeleted ? VolumeRecordFlag.isDeleted : 0) | (isShared ? VolumeRecordFlag.isShared : 0))
        writer.put(isShared ? UInt64(windows.count) : windows[0].mask)
        for window in windows {
            if isShared {
                writer.put(window.session.rawValue)
                writer.put(window.highestSequence)
                writer.put(window.mask)
            }
            for word in window.words where word != 0 { writer.put(word) }
        }
    }
}
