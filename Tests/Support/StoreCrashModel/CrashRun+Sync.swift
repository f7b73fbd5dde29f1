import BlockTypes
import Environment

import ChunkStore

/// A second store, on a perfect disk, that has applied what is committed: the leader that a copy comes from.
final class SyncSource {
    let store: ChunkStore
    private let disk: CrashDisk
    private var random = SeededRandom(seed: 1)
    private var isOpen = false
    private var fed: [Int]
    private var piece: SyncPiece??

    init(copysets: Int) {
        let geometry = DiskGeometry(
            size: ByteCount(bytes: 8 << 20), sectorBytes: 4096, hasVolatileCache: false)
        disk = CrashDisk(geometry)
        store = ChunkStore(geometry: geometry, pool: BufferPool(keptBytesPerClassMax: 1 << 20))
        fed = Array(repeating: 0, count: copysets)
        let identity = StoreIdentity(
            cluster: UniqueID(high: 1, low: 2), device: UniqueID(high: 9, low: 9), server: ServerID(2),
            incarnation: Incarnation(0))
        if let format = try? StoreFormat(identity: identity, geometry: geometry, journalBytes: 1 << 20) {
            CrashRun.format(format, disk, &random)
        }
        store.open(expectedCluster: nil)
        drain()
        for number in 0..<copysets {
            store.createCopyset(CopysetID(UInt32(number + 1)), members: [ServerID(1), ServerID(2)])
        }
        drain()
    }
    func feed(_ model: ModelCopyset, _ number: Int) {
        while fed[number] < model.committed {
            let end = min(model.committed, fed[number] + 8)
            let entries = (fed[number]..<end).map { CrashRun.entry(model.log[$0], at: $0 + 1) }
            guard store.appendableCount(of: entries, to: model.id) == entries.count else { return }
            store.append(model.id, entries)
            drain()
            store.commit(model.id, through: LogIndex(UInt64(end)))
            store.retain(model.id, after: LogIndex(UInt64(end)))
            fed[number] = end
            drain()
            store.tick(now: .seconds(end))
            drain()
        }
    }
    func readPiece(_ id: CopysetID, _ cursor: SyncCursor) -> SyncPiece? {
        piece = nil
        store.readSyncPiece(1, id, from: cursor)
        drain()
        return piece ?? nil
    }
    private func drain() {
        while true {
            var effects: [StoreEffect] = []
            store.takeEffects(&effects)
            for effect in effects {
                switch effect {
                case .disk(let request): disk.submit(request)
                case .opened: isOpen = true
                case .syncPieceRead(_, let read, _): piece = .some(read)
                default: break
                }
            }
            guard let (token, result) = disk.completeOne(&random) else { return }
            store.diskCompleted(token, result)
        }
    }
}

enum ModelSync {
    case none
    case beginning(base: Int)
    case ready(SyncCursor?)
    case holding(SyncPiece)
    case installing(next: SyncCursor?)
    case finishing
}

extension CrashRun {
    /// The leader no longer keeps what this replica lacks: a full copy.
    func beginSync(_ number: Int) {
        guard isOpen, model[number].isCreated, model[number].committed > 3 else { return }
        let source = self.source ?? SyncSource(copysets: model.count)
        self.source = source
        source.feed(model[number], number)
        let (base, blocks, volumes) = source.store.syncState(model[number].id)
        // A leader never offers less than the replica has applied, unless the replica has lost it.
        let id = model[number].id
        if let state = store.state(of: id), !state.isSyncing, state.applied > base.index { return }
        older[id, default: []].append(OlderLog(log: model[number].sent, wasCopied: true))
        model[number].sent = Array(model[number].log.prefix(Int(base.index.rawValue)))
        model[number].acknowledged = 0
        model[number].told = Int(base.index.rawValue)
        model[number].sync = .beginning(base: Int(base.index.rawValue))
        // Whatever this replica has of its term, the source has too, for it leads.
        let sourceEnd = LogPosition(
            term: model[number].log.last.map { Term($0.term) } ?? base.term,
            index: LogIndex(UInt64(model[number].log.count)))
        let floor = min(store.state(of: id).map { max($0.last, $0.voteFloor) } ?? .zero, sourceEnd)
        // A leader that has just been elected has applied nothing of its own term yet.
        let sourceTerm =
            random.oneIn(2) ? base.term : model[number].log.last.map { Term($0.term) } ?? base.term
        (model[number].sourceTerm, model[number].reachedTerm) = (sourceTerm, base.term)
        store.beginSync(
            id, base: base, sourceTerm: sourceTerm, voteFloor: floor, blocks: blocks, volumes: volumes)
    }
    func stepSync(_ number: Int) {
        guard isOpen, let source else { return }
        let id = model[number].id
        switch model[number].sync {
        case .none, .beginning, .installing, .finishing: break
        case .ready(nil):
            store.finishSync(id)
            model[number].sync = .finishing
        case .ready(let cursor?):
            store.holdApply(id)
            source.feed(model[number], number)
            guard let piece = source.readPiece(id, cursor) else { return fail("no piece at \(cursor)") }
            model[number].sync = .holding(piece)
        case .holding(let piece):
            model[number].sync = .installing(next: piece.next)
            store.installPiece(id, piece)
        }
    }
    func pieceInstalled(_ number: Int) {
        guard case .installing(let next) = model[number].sync else { return }
        model[number].sync = .ready(next)
    }
    func syncFinished(_ number: Int) {
        guard case .finishing = model[number].sync else { return }
        // A newer leader may have cut the log again since: what was committed is below that cut.
        let reached = model[number].reachedTerm
        if reached < model[number].sourceTerm {
            fail(
                "copyset \(number) is complete at term \(reached), its source's is \(model[number].sourceTerm)"
            )
        }
        model[number].sync = .none
        model[number].acknowledged = Int(store.state(of: model[number].id)?.durable.rawValue ?? 0)
    }
}
