import BlockTypes
import Environment
import StoreCrashModel

@testable import ChunkStore

/// A store on a ``CrashDisk`` that does what it is told, one step at a time.
final class StoreHarness {
    var store: ChunkStore
    let disk: CrashDisk
    var settings: StoreSettings
    let pool = BufferPool()
    var random = SeededRandom(seed: 1)
    private(set) var effects: [StoreEffect] = []
    /// What the disk was given, by every store on it.
    private(set) var writtenBytes = 0
    private var nextTicket: UInt64 = 1
    private var index: UInt64 = 0
    private var sequence: UInt64 = 0
    let copyset = CopysetID(1)
    let volume = VolumeID(7)
    static let cluster = UniqueID(high: 1, low: 2)

    init(
        sizeBytes: UInt64 = 64 << 20, sectorBytes: Int = 4096, hasVolatileCache: Bool = true,
        journalBytes: UInt64 = 16 << 20, settings: StoreSettings = StoreSettings(),
        isLazilyGrown: Bool = false
    ) throws {
        let geometry = DiskGeometry(
            size: ByteCount(bytes: sizeBytes), sectorBytes: sectorBytes, hasVolatileCache: hasVolatileCache)
        disk = CrashDisk(geometry)
        self.settings = settings
        let identity = StoreIdentity(
            cluster: Self.cluster, device: UniqueID(high: 3, low: 4), server: ServerID(5),
            incarnation: Incarnation(0))
        let format = try StoreFormat(
            identity: identity, geometry: geometry, journalBytes: journalBytes, isLazilyGrown: isLazilyGrown)
        CrashRun.format(format, disk, &random)
        store = ChunkStore(geometry: geometry, settings: settings, pool: pool)
        open()
    }
    func open() {
        effects = []
        store = ChunkStore(geometry: disk.geometry, settings: settings, pool: pool)
        store.open(expectedCluster: nil)
        drain()
    }
    func crash() {
        disk.cutPower(&random)
        open()
    }
    var didOpen: Bool { effects.contains { if case .opened = $0 { true } else { false } } }
    var isClosed: Bool { effects.contains { if case .closed = $0 { true } else { false } } }
    var refusals: [CopysetRefusal] {
        effects.compactMap { if case .copysetRefused(_, let refusal) = $0 { refusal } else { nil } }
    }
    var openError: StoreOpenError? {
        for case .openFailed(let error) in effects { return error }
        return nil
    }
    var failure: StoreFailure? {
        for case .failStop(let failure) in effects { return failure }
        return nil
    }

    /// Runs until nothing is left to do.
    func drain() {
        while true {
            take()
            guard let (token, result) = disk.completeOne(&random) else { return }
            store.diskCompleted(token, result)
        }
    }
    func take() {
        var taken: [StoreEffect] = []
        store.takeEffects(&taken)
        for effect in taken {
            guard case .disk(let request) = effect else {
                effects.append(effect)
                continue
            }
            if case .write(_, _, let payloads) = request {
                writtenBytes += payloads.reduce(0) { $0 + $1.byteCount }
            }
            disk.submit(request)
        }
    }
    func tick(_ now: Duration = .seconds(1)) {
        store.tick(now: now)
        drain()
    }

    /// A copyset with one volume of 1 GiB.
    func prepare() {
        store.createCopyset(copyset, members: [ServerID(5), ServerID(6), ServerID(7)])
        drain()
        append(.fence(volume, VolumeFence(epoch: Epoch(1), size: ByteCount(bytes: 1 << 30), change: 1)))
        commitAll()
    }
    func append(_ operation: Operation) {
        index += 1
        store.append(copyset, [LogEntry(LogPosition(term: Term(1), index: LogIndex(index)), operation)])
    }
    func commitAll() {
        drain()
        store.commit(copyset, through: LogIndex(index))
        drain()
    }
    func run(_ chunk: UInt32, _ first: Int, _ count: Int) throws -> BlockRun {
        struct Outside: Error {}
        let key = ChunkKey(volume: volume, index: chunk)
        guard let run = BlockRun(chunk: key, firstBlock: first, blockCount: count) else { throw Outside() }
        return run
    }
    func tag() -> RequestTag {
        sequence += 1
        return RequestTag(session: Epoch(1), sequence: sequence)
    }
    func write(_ run: BlockRun, id: UInt64) {
        let (payload, checksums) = ModelBytes.payload(Array(repeating: id, count: run.blockCount))
        append(.write(run, SnapshotNumber(0), tag(), checksums: checksums, payload: payload))
    }
    /// What the blocks of `run` hold: a write's number, or `nil` for zeroes.
    func read(_ run: BlockRun) throws -> [UInt64?] {
        let read = try readResult(run).get()
        return read.segments.flatMap { segment -> [UInt64?] in
            switch segment {
            case .zeroes(let bytes), .stored(let bytes): Array(repeating: nil, count: bytes / 4096)
            case .data(let payload):
                (0..<(payload.byteCount / 4096)).map { ModelBytes.id(of: payload, block: $0) }
            }
        }
    }
    func readResult(_ run: BlockRun) -> Result<StoreRead, StoreReadError> {
        let ticket = nextTicket
        nextTicket += 1
        store.read(ticket, copyset, run)
        drain()
        for case .readCompleted(ticket, let result) in effects { return result }
        return .failure(.notHere)
    }
    func loadEntries(from index: UInt64, bytesMax: Int = 1 << 20) -> [LogEntry] {
        let ticket = nextTicket
        nextTicket += 1
        store.loadEntries(ticket, copyset, from: LogIndex(index), bytesMax: bytesMax)
        drain()
        for case .entriesLoaded(ticket, let entries) in effects { return entries }
        return []
    }
}
