import BlockTypes
import ChunkStore
import Environment
import StoreCrashModel

/// CPU cost of the write path on a device that answers at once: `curve-crashfuzz --cost`.
struct WriteCost {
    static func run() {
        let geometry = DiskGeometry(
            size: ByteCount(bytes: 512 << 20), sectorBytes: 4096, hasVolatileCache: false)
        let pool = BufferPool()
        var random = SeededRandom(seed: 1)
        let disk = CrashDisk(geometry)
        let identity = StoreIdentity(
            cluster: UniqueID(high: 1, low: 2), device: UniqueID(high: 3, low: 4), server: ServerID(1),
            incarnation: Incarnation(0))
        guard let format = try? StoreFormat(identity: identity, geometry: geometry) else { return }
        CrashRun.format(format, disk, &random)
        let store = ChunkStore(geometry: geometry, pool: pool)
        store.open(expectedCluster: nil)
        var effects: [StoreEffect] = []
        func drain(answering: Bool) {
            while true {
                effects.removeAll(keepingCapacity: true)
                store.takeEffects(&effects)
                for case .disk(let request) in effects {
                    if answering {
                        store.diskCompleted(request.token, .success(()))
                    } else {
                        disk.submit(request)
                    }
                }
                if answering {
                    if !effects.contains(where: { if case .disk = $0 { true } else { false } }) { return }
                } else {
                    guard let (token, result) = disk.completeOne(&random) else { return }
                    store.diskCompleted(token, result)
                }
            }
        }
        drain(answering: false)
        let copyset = CopysetID(1)
        store.createCopyset(copyset, members: [ServerID(1)])
        drain(answering: true)
        var index: UInt64 = 1
        let fence = VolumeFence(epoch: Epoch(1), size: ByteCount(bytes: 1 << 30))
        store.append(
            copyset, [LogEntry(LogPosition(term: Term(1), index: LogIndex(1)), .fence(VolumeID(1), fence))])
        drain(answering: true)
        store.commit(copyset, through: LogIndex(1))
        let (payload, checksums) = ModelBytes.payload([7])
        let (count, batch) = (400_000, 16)
        let clock = ContinuousClock()
        let took = clock.measure {
            for round in 0..<(count / batch) {
                for _ in 0..<batch {
                    index += 1
                    let chunk = ChunkKey(
                        volume: VolumeID(1), index: UInt32.random(in: 0..<16, using: &random))
                    guard
                        let run = BlockRun(
                            chunk: chunk, firstBlock: Int.random(in: 0..<4096, using: &random), blockCount: 1)
                    else { return }
                    let tag = RequestTag(session: Epoch(1), sequence: index)
                    store.append(
                        copyset,
                        [
                            LogEntry(
                                LogPosition(term: Term(1), index: LogIndex(index)),
                                .write(run, SnapshotNumber(0), tag, checksums: checksums, payload: payload))
                        ])
                }
                drain(answering: true)
                store.commit(copyset, through: LogIndex(index))
                store.retain(copyset, after: LogIndex(index - min(index, 64)))
                if round % 64 == 0 { store.tick(now: .milliseconds(round)) }
            }
        }
        let nanoseconds =
            took.components.seconds * 1_000_000_000 + took.components.attoseconds / 1_000_000_000
        let traffic = store.usage.traffic
        print("\(nanoseconds / Int64(count)) ns per 4 KiB write, batches of \(batch), checkpoints included")
        print("write amplification \(Double(traffic.writtenBytes) / Double(traffic.userBytes))")
    }
}
