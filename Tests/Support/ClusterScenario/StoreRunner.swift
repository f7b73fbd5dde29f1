import BlockTypes
import ChunkStore
import Environment
import Simulation

/// One store on its simulated disk without a chunkserver around it.
final class StoreRunner {
    let store: ChunkStore
    let name: String
    private let disk: SimDisk
    private let world: SimWorld
    private var nextTicket: UInt64 = 1
    private(set) var failure: String?
    private var isOpen = false
    private var applied: [CopysetID: LogIndex] = [:]
    private var answers: [UInt64: Result<StoreRead, StoreReadError>] = [:]

    init(_ disk: SimDisk, _ world: SimWorld, _ pool: BufferPool) {
        (self.disk, self.world, name) = (disk, world, disk.name)
        store = ChunkStore(geometry: disk.geometry, pool: pool)
        disk.completed = { [weak self] token, result in
            self?.store.diskCompleted(token, result)
            self?.drain()
        }
    }
    private func drain() {
        var effects: [StoreEffect] = []
        repeat {
            effects.removeAll(keepingCapacity: true)
            store.takeEffects(&effects)
            for effect in effects {
                switch effect {
                case .disk(let request): disk.submit(request)
                case .opened: isOpen = true
                case .openFailed(let error): failure = "\(error)"
                case .failStop(let error): failure = "\(error)"
                case .applied(let id, let through): applied[id] = through
                case .readCompleted(let ticket, let result): answers[ticket] = result
                default: break
                }
            }
        } while !effects.isEmpty
    }
    /// - Returns: what went wrong.
    func open() -> String? {
        store.open(expectedCluster: nil)
        drain()
        _ = world.run(within: .seconds(120)) { isOpen || failure != nil }
        return failure ?? (isOpen ? nil : "does not open")
    }
    func commit(_ id: CopysetID, through index: LogIndex) -> Bool {
        store.commit(id, through: index)
        drain()
        return world.run(within: .seconds(60)) {
            applied[id] ?? store.state(of: id)?.applied ?? LogIndex(0) >= index
        }
    }
    /// One number for each block: its checksum, 0 for zeroes. A stored block of zeroes has its checksum too.
    /// - Returns: `nil` when it cannot be read; ``failure`` then says why.
    func checksums(_ id: CopysetID, _ run: BlockRun) -> [UInt32]? {
        nextTicket += 1
        let ticket = nextTicket
        store.read(ticket, id, run)
        drain()
        _ = world.run(within: .seconds(60)) { answers[ticket] != nil }
        let answer = answers.removeValue(forKey: ticket)
        guard case .success(let read) = answer else {
            failure = answer.map { "\($0)" } ?? "no answer"
            return nil
        }
        var sums: [UInt32] = []
        for segment in read.segments {
            switch segment {
            case .zeroes(let count), .stored(let count):
                sums += Array(repeating: 0, count: count / Geometry.blockBytes)
            case .data(let payload): sums += CRC32C.perBlock(of: payload).map(\.rawValue)
            }
        }
        return sums
    }

    /// Formats a disk.
    static func format(_ format: StoreFormat, _ disk: SimDisk, _ world: SimWorld) -> Bool {
        let formatter = StoreFormatter(format)
        var ended: Bool?
        func drain() {
            var effects: [StoreFormatter.Effect] = []
            formatter.takeEffects(&effects)
            for effect in effects {
                switch effect {
                case .disk(let request): disk.submit(request)
                case .formatted: ended = true
                case .failed: ended = false
                }
            }
        }
        disk.completed = { token, result in
            formatter.diskCompleted(token, result)
            drain()
        }
        formatter.start()
        drain()
        _ = world.run(within: .seconds(60)) { ended != nil }
        return ended == true
    }
}
