import BlockTypes
import ChunkStore
import Environment

/// A few entries on a device that lies: what was durable is gone, a block has rotted, a flush fails. The
/// crash model has none of that: its device only forgets what it may forget.
package final class RotRun {
    private let disk: CrashDisk
    private let pool = BufferPool(keptBytesPerClassMax: 1 << 20)
    private var store: ChunkStore
    private var random: SeededRandom
    private var effects: [StoreEffect] = []
    private let copyset = CopysetID(1)
    private let volume = VolumeID(1)
    private let entries: Int
    private var index: UInt64 = 0
    private var term = Term(1)

    package init(seed: UInt64) {
        random = SeededRandom(seed: seed)
        let geometry = DiskGeometry(
            size: ByteCount(bytes: 3 << 20), sectorBytes: random.oneIn(2) ? 512 : 4096, hasVolatileCache: true
        )
        disk = CrashDisk(geometry)
        store = ChunkStore(geometry: geometry, pool: pool)
        entries = Int.random(in: 2...9, using: &random)
        let identity = StoreIdentity(
            cluster: UniqueID(high: 1, low: 2), device: UniqueID(high: 3, low: seed), server: ServerID(1),
            incarnation: Incarnation(0))
        let format = try? StoreFormat(identity: identity, geometry: geometry, journalBytes: 128 << 10)
        if let format { CrashRun.format(format, disk, &random) }
    }
    /// - Returns: what went wrong, or `nil`.
    package func run() -> String? {
        open()
        store.createCopyset(copyset, members: [ServerID(1)])
        drain()
        append(.fence(volume, VolumeFence(epoch: Epoch(1), size: ByteCount(bytes: 32 << 20), change: 1)))
        for number in 1...entries { write(UInt64(number)) }
        switch Int.random(in: 0..<3, using: &random) {
        case 0: return lostEntry()
        case 1: return rottenBlock()
        default: return failedFlush()
        }
    }

    // MARK: What happens

    /// Rule R4: an entry that was durable is missed, not cut off.
    private func lostEntry() -> String? {
        let lost = UInt64.random(in: 1...UInt64(entries), using: &random)
        store.commit(copyset, through: LogIndex(UInt64.random(in: 1...lost, using: &random)))
        // Later journal blocks say that the entries are durable.
        for _ in 0..<2 {
            term = Term(term.rawValue + 1)
            store.storeVote(copyset, term, votedFor: nil)
            drain()
        }
        guard rot(lost) else { return "entry \(lost) is not on the device" }
        disk.cutPower(&random)
        open()
        guard let state = store.state(of: copyset) else { return "the copyset is gone" }
        if !state.isFaulty || !state.isSyncing { return "a durable entry was taken for torn: \(state)" }
        return nil
    }
    /// A block that does not match its checksum is not returned.
    private func rottenBlock() -> String? {
        let number = UInt64.random(in: 1...UInt64(entries), using: &random)
        store.commit(copyset, through: LogIndex(index))
        drain()
        guard rot(number), let run = run(of: number) else { return "entry \(number) is not on the device" }
        effects = []
        store.read(1, copyset, run)
        drain()
        for case .readCompleted(1, let result) in effects {
            if case .failure(.corrupt) = result { return nil }
            return "a rotten block was returned"
        }
        return "a read was not answered"
    }
    /// Rule R6: after a failed flush nothing is promised any more.
    private func failedFlush() -> String? {
        disk.failsFlushes = true
        effects = []
        write(UInt64(entries + 1))
        for effect in effects {
            if case .stored = effect { return "an entry was acknowledged after a failed flush" }
        }
        guard effects.contains(where: { if case .failStop(.flush) = $0 { true } else { false } }) else {
            return "a failed flush did not stop the store"
        }
        return nil
    }

    // MARK: How

    private func run(of number: UInt64) -> BlockRun? {
        BlockRun(chunk: ChunkKey(volume: volume, index: 0), firstBlock: Int(number), blockCount: 1)
    }
    private func write(_ number: UInt64) {
        guard let run = run(of: number) else { return }
        let (payload, checksums) = ModelBytes.payload([number])
        let tag = RequestTag(session: Epoch(1), sequence: number)
        append(.write(run, SnapshotNumber(0), tag, checksums: checksums, payload: payload))
    }
    private func append(_ operation: Operation) {
        index += 1
        store.append(copyset, [LogEntry(LogPosition(term: Term(1), index: LogIndex(index)), operation)])
        drain()
    }
    /// Flips a bit in the payload of write `number`.
    private func rot(_ number: UInt64) -> Bool {
        let firstDataBlock = UInt64(257 + 32)
        for block in firstDataBlock..<(disk.geometry.size.bytes / 4096) {
            let bytes = disk.block(block)
            guard ModelBytes.id(of: Payload(copying: bytes), block: 0) == number else { continue }
            disk.flipBit(at: Int(block) * 4096 + Int.random(in: 0..<4096, using: &random))
            return true
        }
        return false
    }
    private func open() {
        store = ChunkStore(geometry: disk.geometry, pool: pool)
        store.open(expectedCluster: nil)
        drain()
    }
    private func drain() {
        while true {
            var taken: [StoreEffect] = []
            store.takeEffects(&taken)
            for effect in taken {
                if case .disk(let request) = effect { disk.submit(request) } else { effects.append(effect) }
            }
            guard let (token, result) = disk.completeOne(&random) else { return }
            store.diskCompleted(token, result)
        }
    }
}
