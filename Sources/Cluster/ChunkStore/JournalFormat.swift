import BlockTypes

/// Head of a journal block: one block per commit batch, a multiple of the sector long.
///
/// Byte by byte in the README. The chain through `previousChecksum` ends recovery's scan at the first gap.
struct JournalHeader: Equatable {
    var incarnation: UInt32
    /// Distance from the journal's first byte ever; never wraps.
    var lsn: UInt64
    var byteCount: UInt32
    var recordCount: UInt16
    var previousChecksum: UInt32
    /// Every record below has its journal block and its payload on stable media.
    var durableLSN: UInt64
    /// Low half of the device id: a block of another store never matches.
    var device: UInt64

    static let byteCount = 64
    static let magic: UInt32 = 0x4B4C_424A  // "JBLK"
    private static let checksumAt = 60

    /// Fills the head of a block whose records and padding are in place.
    /// - Returns: the block's checksum.
    func seal(_ block: PageWriter) -> UInt32 {
        var head = block
        head.position = 0
        head.put(Self.magic)
        head.put(incarnation)
        head.put(lsn)
        head.put(byteCount)
        head.put(recordCount)
        head.put(UInt16(0))
        head.put(previousChecksum)
        head.put(UInt32(0))
        head.put(durableLSN)
        head.put(device)
        head.put(UInt64(0))
        head.put(UInt32(0))
        head.put(UInt32(0))
        let checksum = head.checksum(0, Int(byteCount))
        head.set(checksum, at: Self.checksumAt)
        return checksum
    }

    /// Reads and verifies the block at the start of `payload`.
    /// - Returns: `nil` when there is no whole valid block with this `lsn`.
    static func decode(_ payload: Payload, lsn: UInt64, sectorBytes: Int) -> (
        JournalHeader, checksum: UInt32
    )? {
        var page = PageReader(payload)
        guard page.next(UInt32.self) == magic, let incarnation = page.next(UInt32.self),
            page.next(UInt64.self) == lsn, let byteCount = page.next(UInt32.self),
            let recordCount = page.next(UInt16.self), page.next(UInt16.self) != nil,
            let previous = page.next(UInt32.self), page.next(UInt32.self) != nil,
            let durable = page.next(UInt64.self), let device = page.next(UInt64.self),
            byteCount >= Self.byteCount, Int(byteCount) % sectorBytes == 0,
            Int(byteCount) <= payload.byteCount,
            let stored: UInt32 = page.peek(at: checksumAt)
        else { return nil }
        // The checksum covers the whole block with its own field as zero.
        var sum = CRC32C(of: payload.slice(0, checksumAt)).rawValue
        sum = CRC32C.extend(sum, withZeroes: 4)
        let rest = payload.slice(checksumAt + 4, Int(byteCount) - checksumAt - 4)
        sum = unsafe rest.withBytes { unsafe CRC32C.extend(sum, with: $0) }
        guard sum == stored else { return nil }
        return (
            JournalHeader(
                incarnation: incarnation, lsn: lsn, byteCount: byteCount, recordCount: recordCount,
                previousChecksum: previous, durableLSN: durable, device: device), sum
        )
    }
}

extension CRC32C {
    fileprivate static func extend(_ sum: UInt32, withZeroes count: Int) -> UInt32 {
        unsafe [UInt8](repeating: 0, count: count).withUnsafeBytes { unsafe extend(sum, with: $0) }
    }
}

/// One record of a journal block.
enum JournalRecord {
    /// A log entry; a second one with the same index and term replaces the first (its payload has moved, or
    /// it was carried forward to let the ring's tail pass).
    case entry(LogSlot, LogIndex)
    /// Entries from here on are gone.
    case truncate(from: LogIndex)
    case vote(Term, votedFor: ServerID?)
    case create(members: [ServerID])
    /// The copyset's data is dropped, its log starts again after `base`.
    case beginSync(base: LogPosition, voteFloor: LogPosition)
    /// Carries nothing but the watermark.
    case watermark
    /// A block was written anew; the old place is bad.
    case repair(old: UInt32, new: UInt32)

    static let blocksMax = 256
    static let membersMax = 16
    static let headBytes = 24
    /// The largest record: a write of ``blocksMax`` blocks that all lie apart.
    static let byteCountMax = 64 + blocksMax * 12
    /// The largest record that is not an entry: a copyset of ``membersMax`` members.
    static let localBytesMax = 64 + membersMax * 8
    private static let noWatermark = UInt32.max

    private var type: UInt8 {
        switch self {
        case .entry(let slot, _): slot.kind.rawValue
        case .truncate: 16
        case .vote: 17
        case .create: 18
        case .beginSync: 19
        case .watermark: 20
        case .repair: 21
        }
    }

    /// Appends the record. Its watermark is set later by ``setWatermark(_:in:at:)``.
    func encode(copyset: CopysetID, into page: inout PageWriter) {
        let start = page.position
        page.put(type)
        page.put(UInt8(0))
        page.put(UInt16(0))
        page.put(copyset.rawValue)
        var (term, index) = (UInt32(0), UInt64(0))
        switch self {
        case .entry(let slot, let at): (term, index) = (slot.term.rawValue, at.rawValue)
        case .truncate(let from): index = from.rawValue
        case .vote(let voted, _): term = voted.rawValue
        case .beginSync(let base, _): (term, index) = (base.term.rawValue, base.index.rawValue)
        case .create, .watermark, .repair: break
        }
        page.put(term)
        page.put(Self.noWatermark)
        page.put(index)
        switch self {
        case .entry(let slot, _): Self.encode(slot, into: &page)
        case .vote(_, let votedFor):
            page.put(votedFor?.rawValue ?? 0)
            page.put(UInt64(votedFor == nil ? 0 : 1))
        case .create(let members): Self.encode(members, into: &page)
        case .beginSync(_, let floor):
            page.put(UInt64(floor.term.rawValue))
            page.put(floor.index.rawValue)
        case .repair(let old, let new):
            page.put(old)
            page.put(new)
        case .truncate, .watermark: break
        }
        page.pad(to: (page.position + 7) / 8 * 8)
        page.set(UInt16(page.position - start), at: start + 2)
    }
    private static func encode(_ members: [ServerID], into page: inout PageWriter) {
        page.put(UInt64(members.count))
        for member in members { page.put(member.rawValue) }
    }
    private static func encode(_ slot: LogSlot, into page: inout PageWriter) {
        switch slot.extra {
        case .fence(let volume, let fence):
            page.put(volume.rawValue)
            page.put(fence.epoch.rawValue)
            page.put(fence.change)
            page.put(fence.size.bytes)
            guard !fence.group.isEmpty else { return }
            page.put(UInt32(fence.group.count))
            for session in fence.group { page.put(session.rawValue) }
        case .deleteVolume(let volume): page.put(volume.rawValue)
        case .configuration(let members): encode(members, into: &page)
        case .none:
            guard slot.kind != .noop else { return }
            page.put(slot.chunk.rawValue)
            page.put(slot.firstBlock)
            page.put(slot.blockCount)
            page.put(slot.sn.rawValue)
            page.put(slot.tag.session.rawValue)
            page.put(UInt32(slot.spans.count))
            page.put(slot.tag.sequence)
            for place in 0..<slot.spans.count {
                page.put(slot.spans[place].start)
                page.put(slot.spans[place].count)
            }
            for checksum in slot.checksums { page.put(checksum.rawValue) }
        }
    }

    /// The watermark of the copyset of the record at `start`: its distance below the record's index, or the
    /// index itself where the record has none of its own.
    /// - Returns: false when the record can not hold it: then nothing must rely on its being durable.
    static func setWatermark(_ watermark: UInt64, in page: PageWriter, at start: Int) -> Bool {
        let reader = PageReader(Payload(page.buffer, byteCount: page.position))
        guard let type: UInt8 = reader.peek(at: start), let index: UInt64 = reader.peek(at: start + 16),
            type != 19
        else { return false }
        if type >= 17 {
            page.set(watermark, at: start + 16)
            page.set(UInt32(0), at: start + 12)
            return true
        }
        guard index >= watermark, index - watermark < UInt64(noWatermark) else { return false }
        page.set(UInt32(index - watermark), at: start + 12)
        return true
    }

    struct Decoded {
        var copyset: CopysetID
        var watermark: UInt64?
        var record: JournalRecord
    }

    /// Reads the record at the reader's position and moves behind it.
    /// - Returns: `nil` when it makes no sense; the block's checksum matched, so that is damage of our own
    ///   making.
    static func decode(_ page: inout PageReader) -> Decoded? {
        let start = page.position
        guard let type = page.next(UInt8.self), page.next(UInt8.self) != nil,
            let byteCount = page.next(UInt16.self), byteCount >= headBytes, byteCount % 8 == 0,
            start + Int(byteCount) <= page.end, let copyset = page.next(UInt32.self),
            let term = page.next(UInt32.self), let delta = page.next(UInt32.self),
            let index = page.next(UInt64.self)
        else { return nil }
        var body = PageReader(page.payload, from: page.position, to: start + Int(byteCount))
        page.position = start + Int(byteCount)
        guard let record = decode(type, Term(term), LogIndex(index), &body) else { return nil }
        let watermark = delta == noWatermark || UInt64(delta) > index ? nil : index - UInt64(delta)
        return Decoded(copyset: CopysetID(copyset), watermark: watermark, record: record)
    }

    private static func decode(_ type: UInt8, _ term: Term, _ index: LogIndex, _ body: inout PageReader)
        -> JournalRecord?
    {
        switch type {
        case 16: return .truncate(from: index)
        case 17:
            guard let server = body.next(UInt64.self), let voted = body.next(UInt64.self) else { return nil }
            return .vote(term, votedFor: voted == 1 ? ServerID(server) : nil)
        case 18: return decodeMembers(&body).map { .create(members: $0) }
        case 19:
            guard let floorTerm = body.next(UInt64.self), let floor = body.next(UInt64.self) else {
                return nil
            }
            return .beginSync(
                base: LogPosition(term: term, index: index),
                voteFloor: LogPosition(
                    term: Term(UInt32(truncatingIfNeeded: floorTerm)), index: LogIndex(floor)))
        case 20: return .watermark
        case 21:
            guard let old = body.next(UInt32.self), let new = body.next(UInt32.self) else { return nil }
            return .repair(old: old, new: new)
        default:
            guard let kind = LogSlot.Kind(rawValue: type) else { return nil }
            return decodeEntry(kind, term, &body).map { .entry($0, index) }
        }
    }
    private static func decodeMembers(_ body: inout PageReader) -> [ServerID]? {
        guard let count = body.next(UInt64.self), count <= UInt64(membersMax) else { return nil }
        var members: [ServerID] = []
        for _ in 0..<count {
            guard let member = body.next(UInt64.self) else { return nil }
            members.append(ServerID(member))
        }
        return members
    }
    private static func decodeEntry(_ kind: LogSlot.Kind, _ term: Term, _ body: inout PageReader) -> LogSlot?
    {
        var slot = LogSlot(term: term, kind: kind)
        switch kind {
        case .noop: break
        case .fence:
            guard let volume = body.next(UInt64.self), let epoch = body.next(UInt32.self),
                let change = body.next(UInt32.self), let size = body.next(UInt64.self),
                let group = decodeGroup(&body)
            else { return nil }
            slot.extra = .fence(
                VolumeID(volume),
                VolumeFence(epoch: Epoch(epoch), size: ByteCount(bytes: size), change: change, group: group))
        case .deleteVolume:
            guard let volume = body.next(UInt64.self) else { return nil }
            slot.extra = .deleteVolume(VolumeID(volume))
        case .configuration:
            guard let members = decodeMembers(&body) else { return nil }
            slot.extra = .configuration(members)
        case .write, .trim, .zero, .void:
            guard decodeRun(&slot, &body) else { return nil }
        }
        return slot
    }
    /// What follows a fence: nothing when one attachment has the volume alone.
    private static func decodeGroup(_ body: inout PageReader) -> [Epoch]? {
        guard let count = body.next(UInt32.self) else { return [] }
        guard count <= UInt32(VolumeFence.groupMax) else { return nil }
        var group: [Epoch] = []
        for _ in 0..<count {
            guard let session = body.next(UInt32.self) else { return nil }
            group.append(Epoch(session))
        }
        return group
    }
    private static func decodeRun(_ slot: inout LogSlot, _ body: inout PageReader) -> Bool {
        guard let chunk = body.next(UInt64.self), let first = body.next(UInt16.self),
            let count = body.next(UInt16.self), let sn = body.next(UInt32.self),
            let session = body.next(UInt32.self), let spans = body.next(UInt32.self),
            let sequence = body.next(UInt64.self),
            BlockRun(chunk: ChunkKey(rawValue: chunk), firstBlock: Int(first), blockCount: Int(count)) != nil
        else { return false }
        (slot.chunk, slot.firstBlock, slot.blockCount) = (ChunkKey(rawValue: chunk), first, count)
        slot.sn = SnapshotNumber(sn)
        slot.tag = RequestTag(session: Epoch(session), sequence: sequence)
        guard slot.kind == .write else { return spans == 0 }
        guard spans > 0, spans <= UInt32(count), count <= UInt16(blocksMax) else { return false }
        var blocks: UInt64 = 0
        for _ in 0..<spans {
            guard let start = body.next(UInt32.self), let length = body.next(UInt32.self), length > 0,
                start.addingReportingOverflow(length).overflow == false
            else { return false }
            slot.spans.append(Span(start: start, count: length))
            blocks += UInt64(length)
        }
        guard blocks == UInt64(count) else { return false }
        slot.checksums.reserveCapacity(Int(count))
        for _ in 0..<count {
            guard let checksum = body.next(UInt32.self) else { return false }
            slot.checksums.append(CRC32C(rawValue: checksum))
        }
        return true
    }
}
