import BlockTypes

/// One log entry as the store keeps it: the operation, with the payload by reference to the device.
struct LogSlot {
    enum Kind: UInt8 {
        case noop = 1, write, trim, zero, fence, deleteVolume, configuration, void
    }
    /// What the rarer operations carry.
    enum Extra: Hashable {
        case none
        case fence(VolumeID, VolumeFence)
        case deleteVolume(VolumeID)
        case configuration([ServerID])
    }
    var term: Term
    var kind: Kind
    /// Record and payload are on stable media.
    var isStable = false
    /// Payload writes that failed so far.
    var attempts: UInt8 = 0
    var firstBlock: UInt16 = 0
    var blockCount: UInt16 = 0
    var chunk = ChunkKey(0)
    var sn = SnapshotNumber(0)
    var tag = RequestTag(session: Epoch(0), sequence: 0)
    /// Where the payload is or will be. Empty until the entry is staged.
    var spans = Spans()
    var checksums: [CRC32C] = []
    /// The bytes themselves until they are stable.
    var payload: Payload?
    var extra = Extra.none
    /// The journal block that holds the record lies at or after this.
    var lsn: UInt64 = .max
    /// The batch whose durability makes the entry stable; `max` while its payload looks for another place.
    var batch: UInt64 = .max
    /// Tells this entry from an earlier one at the same index.
    var serial: UInt64 = 0

    init(term: Term, kind: Kind) { (self.term, self.kind) = (term, kind) }

    init(_ entry: LogEntry, serial: UInt64) {
        self.init(term: entry.position.term, kind: .noop)
        self.serial = serial
        switch entry.operation {
        case .noop: break
        case .write(let run, let sn, let tag, let checksums, let payload):
            kind = .write
            set(run, sn, tag)
            (self.checksums, self.payload) = (checksums, payload)
        case .trim(let run, let sn, let tag):
            kind = .trim
            set(run, sn, tag)
        case .zero(let run, let sn, let tag):
            kind = .zero
            set(run, sn, tag)
        case .void(let run, let tag):
            kind = .void
            set(run, SnapshotNumber(0), tag)
        case .fence(let volume, let fence): (kind, extra) = (.fence, .fence(volume, fence))
        case .deleteVolume(let volume): (kind, extra) = (.deleteVolume, .deleteVolume(volume))
        case .configuration(let members): (kind, extra) = (.configuration, .configuration(members))
        }
    }
    private mutating func set(_ run: BlockRun, _ sn: SnapshotNumber, _ tag: RequestTag) {
        (chunk, firstBlock, blockCount) = (run.chunk, UInt16(run.firstBlock), UInt16(run.blockCount))
        (self.sn, self.tag) = (sn, tag)
    }

    /// The blocks that its request was about: those that it changes, but for a void one.
    var run: BlockRun? {
        guard kind == .write || kind == .trim || kind == .zero || kind == .void else { return nil }
        return BlockRun(chunk: chunk, firstBlock: Int(firstBlock), blockCount: Int(blockCount))
    }
    /// Bytes of its journal record at most, wherever the payload finds its place.
    var recordBytesMax: Int {
        switch extra {
        case .configuration(let members): 64 + members.count * 8
        case .fence(_, let fence): 64 + (fence.group.count + 1) * 4
        case .none, .deleteVolume: 64 + (kind == .write ? Int(blockCount) * 12 : 0)
        }
    }
    var payloadBytes: Int { kind == .write ? Int(blockCount) * Geometry.blockBytes : 0 }

    /// The operation again, with `payload` for a write.
    func operation(payload: Payload?) -> Operation {
        switch (kind, extra, run) {
        case (.write, _, let run?):
            guard let payload else { invariantFailed("a write without payload") }
            return .write(run, sn, tag, checksums: checksums, payload: payload)
        case (.trim, _, let run?): return .trim(run, sn, tag)
        case (.zero, _, let run?): return .zero(run, sn, tag)
        case (.void, _, let run?): return .void(run, tag)
        case (.fence, .fence(let volume, let fence), _): return .fence(volume, fence)
        case (.deleteVolume, .deleteVolume(let volume), _): return .deleteVolume(volume)
        case (.configuration, .configuration(let members), _): return .configuration(members)
        default: return .noop
        }
    }

    /// True when a journal record can hold the operation: what a peer's decoder may let through that we can
    /// not.
    static func isStorable(_ operation: Operation) -> Bool {
        switch operation {
        case .write(let run, _, _, let checksums, let payload):
            run.blockCount <= JournalRecord.blocksMax && checksums.count == run.blockCount
                && payload.byteCount == run.byteCount
        case .configuration(let members): members.count <= JournalRecord.membersMax
        case .fence(_, let fence): fence.group.count <= VolumeFence.groupMax
        case .noop, .trim, .zero, .void, .deleteVolume: true
        }
    }
}

/// The kept entries of one copyset, by index.
struct CopysetLog {
    /// Just before the first kept entry.
    private(set) var base = LogPosition.zero
    private var slots = Fifo<LogSlot>()

    var count: Int { slots.count }
    var lastIndex: LogIndex { LogIndex(base.index.rawValue + UInt64(slots.count)) }
    var last: LogPosition {
        slots.last.map { LogPosition(term: $0.term, index: lastIndex) } ?? base
    }
    func contains(_ index: LogIndex) -> Bool { index > base.index && index <= lastIndex }
    @inline(__always) subscript(_ index: LogIndex) -> LogSlot {
        _read { yield slots[Int(index.rawValue - base.index.rawValue) - 1] }
        _modify { yield &slots[Int(index.rawValue - base.index.rawValue) - 1] }
    }
    /// The term of `index`, which is the base's or a kept entry's.
    func term(of index: LogIndex) -> Term? {
        if index == base.index { return base.term }
        return contains(index) ? self[index].term : nil
    }
    mutating func append(_ slot: LogSlot) { slots.append(slot) }
    mutating func truncate(from index: LogIndex) {
        guard contains(index) else { return }
        slots.dropLast(Int(lastIndex.rawValue - index.rawValue) + 1)
    }
    /// Forgets entries up to `index`.
    mutating func dropThrough(_ index: LogIndex) {
        guard contains(index) else { return }
        let term = self[index].term
        slots.dropFirst(Int(index.rawValue - base.index.rawValue))
        base = LogPosition(term: term, index: index)
    }
    mutating func reset(base: LogPosition) {
        self.base = base
        slots.removeAll()
    }
    /// First entry of each run of equal terms.
    var termStarts: [LogPosition] {
        var starts: [LogPosition] = []
        var term: Term?
        for place in 0..<slots.count where slots[place].term != term {
            term = slots[place].term
            starts.append(
                LogPosition(term: slots[place].term, index: LogIndex(base.index.rawValue + UInt64(place) + 1))
            )
        }
        return starts
    }
}
