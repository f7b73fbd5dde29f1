import BlockTypes
import ChunkStore
import Environment
import StoreCrashModel

/// CPU cost of the write path on a device that answers at once: `curve-crashfuzz --cost`.
final class WriteCost {
    private let pool = BufferPool()
    private var random = SeededRandom(seed: 1)
    private let disk: CrashDisk
    private let store: ChunkStore
    private var effects: [StoreEffect] = []
    private let copyset = CopysetID(1)
    private var index: UInt64 = 1
    private static let writes = 400_000
    private static let batch = 16

    static func run() { WriteCost()?.measure() }

    private init?() {
        let geometry = DiskGeometry(
            size: ByteCount(bytes: 512 << 20), sectorBytes: 4096, hasVolatileCache: false)
        disk = CrashDisk(geometry)
        let identity = StoreIdentity(
            cluster: UniqueID(high: 1, low: 2), device: UniqueID(high: 3, low: 4), server: ServerID(1),
            incarnation: Incarnation(0))
        guard let format = try? StoreFormat(identity: identity, geometry: geometry) else { return nil }
        CrashRun.format(format, disk, &random)
        store = ChunkStore(geometry: geometry, pool: pool)
        store.open(expectedCluster: nil)
        openFromDisk()
        store.createCopyset(copyset, members: [ServerID(1)])
        answerAtOnce()
        let fence = VolumeFence(epoch: Epoch(1), size: ByteCount(bytes: 1 << 30), change: 1)
        store.append(
            copyset, [LogEntry(LogPosition(term: Term(1), index: LogIndex(1)), .fence(VolumeID(1), fence))])
        answerAtOnce()
        store.commit(copyset, through: LogIndex(1))
    }
    private func openFromDisk() {
        while true {
            effects.removeAll(keepingCapacity: true)
            store.takeEffects(&effects)
            for case .disk(let request) in effects { disk.submit(request) }
            guard let (token, result) = disk.completeOne(&random) else { return }
            store.diskCompleted(token, result)
        }
    }
    private func answerAtOnce() {
        var hasWork = true
        while hasWork {
            hasWork = false
            effects.removeAll(keepingCapacity: true)
            store.takeEffects(&effects)
            for case .disk(let request) in effects {
                store.diskCompleted(request.token, .success(()))
                hasWork = true
            }
        }
    }
    private func writeBatch(_ payload: Payload, _ checksums: [CRC32C]) {
        for _ in 0..<Self.batch {
            index += 1
            let chunk = ChunkKey(volume: VolumeID(1), index: UInt32.random(in: 0..<16, using: &random))
            let block = Int.random(in: 0..<4096, using: &random)
            guard let run = BlockRun(chunk: chunk, firstBlock: block, blockCount: 1) else { return }
            let tag = RequestTag(session: Epoch(1), sequence: index)
            let operation = Operation.write(
                run, SnapshotNumber(0), tag, checksums: checksums, payload: payload)
            store.append(copyset, [LogEntry(LogPosition(term: Term(1), index: LogIndex(index)), operation)])
        }
        answerAtOnce()
        store.commit(copyset, through: LogIndex(index))
        store.retain(copyset, after: LogIndex(index - min(index, 64)))
    }
    private func measure() {
        let (payload, checksums) = ModelBytes.payload([7])
        let took = ContinuousClock().measure {
            for round in 0..<(Self.writes / Self.batch) {
                writeBatch(payload, checksums)
                if round % 64 == 0 { store.tick(now: .milliseconds(round)) }
            }
        }
        let nanoseconds =
            took.components.seconds * 1_000_000_000 + took.components.attoseconds / 1_000_000_000
        let traffic = store.usage.traffic
        print(
            "\(nanoseconds / Int64(Self.writes)) ns per 4 KiB write, batches of \(Self.batch), "
                + "checkpoints included")
        print("write amplification \(Double(traffic.writtenBytes) / Double(traffic.userBytes))")
    }
}
