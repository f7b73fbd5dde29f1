import BlockTypes
import Environment

/// What a device request of recovery was for.
enum RecoveryStep {
    case superblock(copy: Int, Payload)
    case openingFlush
    case pages([PageFetch], Payload)
    case journal(from: UInt64, Payload)
    case superblockWrite
    case superblockFlush
}

/// A page of the map on its way into memory.
struct PageFetch {
    enum Target {
        case index(Int)
        case table(Int, page: Int)
        case leaf(ChunkMap, Int)
        case badBlocks
    }
    var page: PageRef
    var target: Target
}

/// An entry whose payload is verified before the store serves (rule R3).
struct RecoveredTail {
    var copyset: Copyset
    var index: LogIndex
}

/// What the journal says about one copyset.
struct RecoveredLog {
    private var slots: [UInt64: LogSlot] = [:]
    private var highest: UInt64 = 0
    var watermark: UInt64 = 0

    subscript(_ index: UInt64) -> LogSlot? { slots[index] }
    /// True when an entry lies above `index`.
    func reaches(past index: UInt64) -> Bool { highest > index && slots.keys.contains { $0 > index } }

    mutating func add(_ slot: LogSlot, at index: UInt64) {
        // Another term means another leader's log from here on.
        if let old = slots[index], old.term != slot.term { truncate(from: index) }
        slots[index] = slot
        highest = max(highest, index)
    }
    mutating func truncate(from index: UInt64) {
        guard highest >= index else { return }
        if highest - index > UInt64(slots.count) {
            slots = slots.filter { $0.key < index }
        } else {
            for at in index...highest { slots[at] = nil }
        }
        highest = index == 0 ? 0 : index - 1
    }
    mutating func reset() { self = RecoveredLog() }
}

/// Opening a store: superblock, flush, map pages, journal, replay, tail verification, new incarnation.
final class Recovery {
    enum Stage {
        case firstCopies, lastCopies, flush, indexes, tables, leaves, journal, verify, superblock, records
    }
    var stage = Stage.firstCopies
    let expectedCluster: UniqueID?
    var copies: [Result<Superblock, Superblock.DecodeError>?] = [nil, nil, nil, nil]
    var requestsPending = 0
    var fetches: [PageFetch] = []
    var nextFetch = 0
    var indexPages: [[[UInt64]]] = [[], [], []]
    var tablePages: [[[UInt64]]] = [[], [], []]
    var stateLSN: [CopysetID: UInt64] = [:]
    /// Truncations that the root holds because the ring did not when it was written.
    var queuedCuts: [CopysetID: LogIndex] = [:]

    // The journal's scan.
    var scan: UInt64 = 0
    /// Where the scan goes on if nothing is found at the ring's start.
    var skippedFrom: UInt64?
    var lastChecksum: UInt32?
    var lastIncarnation: UInt32 = 0
    var durableLSN: UInt64 = 0
    var logs: [CopysetID: RecoveredLog] = [:]
    var repairs: [(old: UInt32, new: UInt32)] = []
    /// A block beyond the end that proves that something before it was durable.
    var proofOfLoss = false

    var faulty: Set<CopysetID> = []
    var tails: [RecoveredTail] = []
    var nextTail = 0
    var cuts: [CopysetID: LogIndex] = [:]
    /// Copies in the order of writing: two that agree on the chosen one stay as they are until two others are
    /// new.
    var copyOrder: [Int] = []
    var secondCopies = false

    static let fetchesMax = 16
    static let pagesPerFetch = 256
    static let journalWindowBytes = 1 << 20
    static let verifiesMax = 32
    /// Entries below the root's applied index that each copyset may keep, however many copysets there are.
    static let historyEntriesMin = 16

    init(expectedCluster: UniqueID?) { self.expectedCluster = expectedCluster }
}

extension ChunkStore {
    /// Reads the store. ``StoreEffect/opened`` or ``StoreEffect/openFailed(_:)`` follows; before the first,
    /// the incarnation has been raised durably (rule R7).
    public func open(expectedCluster: UniqueID?) {
        guard phase == .created else { return }
        phase = .opening
        recovery = Recovery(expectedCluster: expectedCluster)
        readSuperblocks([0, 256], firstCopy: 0)
    }
    /// Where a superblock may be on a device of this size, for ``probe(_:)``.
    public static func probeOffsets(for geometry: DiskGeometry) -> [ByteOffset] {
        StoreLayout.superblockBlocks(deviceBytes: geometry.size.bytes).map {
            ByteOffset(bytes: UInt64($0) * 4096)
        }
    }
    /// The store that a block read from one of ``probeOffsets(for:)`` belongs to; `nil` when it is none.
    public static func probe(_ block: Payload) -> StoreIdentity? {
        guard block.byteCount >= Geometry.blockBytes else { return nil }
        return try? Superblock(decoding: block.slice(0, Geometry.blockBytes)).identity
    }

    func fail(_ error: StoreOpenError) {
        guard phase == .opening else { return }
        recovery = nil
        phase = .stopped
        effects.append(.openFailed(error))
    }
    private func readSuperblocks(_ blocks: [UInt32], firstCopy: Int) {
        guard let recovery else { return }
        for (place, block) in blocks.enumerated() {
            let copy = firstCopy + place
            guard UInt64(block) * 4096 + 4096 <= geometry.size.bytes else {
                recovery.copies[copy] = .failure(.absent)
                continue
            }
            recovery.requestsPending += 1
            let into = Payload(pool.take(byteCount: 4096), byteCount: 4096)
            submit(.recovery(.superblock(copy: copy, into))) {
                .read($0, at: ByteOffset(bytes: UInt64(block) * 4096), into: into)
            }
        }
        if recovery.requestsPending == 0 { superblocksRead() }
    }

    func recover(_ step: RecoveryStep, _ result: Result<Void, DiskError>) {
        guard let recovery else { return }
        recovery.requestsPending -= 1
        switch step {
        case .superblock(let copy, let payload):
            switch result {
            case .success:
                do throws(Superblock.DecodeError) {
                    recovery.copies[copy] = .success(try Superblock(decoding: payload))
                } catch {
                    recovery.copies[copy] = .failure(error)
                }
            // One unreadable copy is what the others are for.
            case .failure: recovery.copies[copy] = .failure(.damaged)
            }
            if recovery.requestsPending == 0 { superblocksRead() }
        case .openingFlush:
            if case .failure(let error) = result { return fail(.io(error)) }
            beginLoadingPages()
        case .pages(let fetches, let payload): pagesRead(fetches, payload, result)
        case .journal(let from, let payload):
            if case .failure(let error) = result { return fail(.io(error)) }
            scanWindow(from: from, payload)
        case .superblockWrite:
            if case .failure(let error) = result { return fail(.io(error)) }
            if recovery.requestsPending == 0 { flushSuperblocks() }
        case .superblockFlush:
            if case .failure(let error) = result { return fail(.io(error)) }
            superblocksFlushed()
        }
    }

    // MARK: Superblock

    private func superblocksRead() {
        guard let recovery else { return }
        if recovery.stage == .firstCopies {
            recovery.stage = .lastCopies
            var known: Superblock?
            for case .success(let copy)? in recovery.copies
            where copy.sequence > (known?.sequence ?? 0) { known = copy }
            if let known, known.deviceBytes > geometry.size.bytes {
                return fail(
                    .truncated(expected: ByteCount(bytes: known.deviceBytes), found: geometry.size))
            }
            let blocks =
                known?.layout.superblockBlocks
                ?? StoreLayout.superblockBlocks(deviceBytes: geometry.size.bytes)
            return readSuperblocks(Array(blocks.dropFirst(2)), firstCopy: 2)
        }
        switch Superblock.choose(recovery.copies.compactMap { $0 }) {
        case .failure(let error): return fail(error)
        case .success(let chosen):
            if let expected = recovery.expectedCluster, chosen.identity.cluster != expected {
                return fail(.otherCluster(found: chosen.identity.cluster))
            }
            guard chosen.deviceBytes <= geometry.size.bytes else {
                return fail(
                    .truncated(expected: ByteCount(bytes: chosen.deviceBytes), found: geometry.size))
            }
            guard chosen.sectorBytes >= geometry.sectorBytes else {
                return fail(
                    .damaged(
                        "it was made for sectors of \(chosen.sectorBytes) bytes, the device has \(geometry.sectorBytes)"
                    ))
            }
            superblock = chosen
            layout = chosen.layout
            let agrees = recovery.copies.map { (try? $0?.get()) == chosen }
            recovery.copyOrder = agrees.indices.filter { !agrees[$0] } + agrees.indices.filter { agrees[$0] }
            allocator = BlockAllocator(layout: layout)
        }
        recovery.stage = .flush
        // What a killed process left in the device's cache must not be believed and then lost.
        recovery.requestsPending += 1
        guard geometry.hasVolatileCache else { return recover(.openingFlush, .success(())) }
        submit(.recovery(.openingFlush)) { .flush($0) }
    }

    // MARK: Pages

    private func beginLoadingPages() {
        guard let recovery else { return }
        recovery.stage = .indexes
        for table in 0..<3 {
            for page in superblock.indexes[table] {
                recovery.fetches.append(PageFetch(page: page, target: .index(table)))
            }
        }
        if superblock.badBlocks != .none {
            recovery.fetches.append(PageFetch(page: superblock.badBlocks, target: .badBlocks))
        }
        recovery.indexPages = superblock.indexes.map { Array(repeating: [], count: $0.count) }
        fetchPages()
    }
    /// Sorts what is to be fetched by place and reads neighbours together.
    private func fetchPages() {
        guard let recovery else { return }
        recovery.fetches.sort { $0.page.location < $1.page.location }
        recovery.nextFetch = 0
        for fetch in recovery.fetches where !allocator.isDataBlock(fetch.page.location, layout) {
            return fail(.damaged("a map page at block \(fetch.page.location)"))
        }
        pumpFetches()
    }
    private func pumpFetches() {
        guard let recovery else { return }
        while recovery.requestsPending < Recovery.fetchesMax, recovery.nextFetch < recovery.fetches.count {
            let first = recovery.nextFetch
            var end = first + 1
            while end < recovery.fetches.count, end - first < Recovery.pagesPerFetch,
                recovery.fetches[end].page.location == recovery.fetches[end - 1].page.location + 1
            {
                end += 1
            }
            recovery.nextFetch = end
            recovery.requestsPending += 1
            let byteCount = (end - first) * Geometry.blockBytes
            let into = Payload(pool.take(byteCount: byteCount), byteCount: byteCount)
            let offset = ByteOffset(bytes: UInt64(recovery.fetches[first].page.location) * 4096)
            submit(.recovery(.pages(Array(recovery.fetches[first..<end]), into))) {
                .read($0, at: offset, into: into)
            }
        }
        if recovery.requestsPending == 0 { pagesLoaded() }
    }
    private func pagesRead(_ fetches: [PageFetch], _ payload: Payload, _ result: Result<Void, DiskError>) {
        guard let recovery else { return }
        for (place, fetch) in fetches.enumerated() {
            let bytes = payload.slice(place * Geometry.blockBytes, Geometry.blockBytes)
            var words: [UInt64]?
            if case .success = result, CRC32C(of: bytes).rawValue == fetch.page.checksum {
                words = PageReader(bytes).words(at: 0, count: RecordTable.pageWords)
            }
            switch fetch.target {
            case .leaf(let chunk, let leaf):
                if let words {
                    chunk.leaves[leaf] = Leaf(words: words)
                } else {
                    recovery.faulty.insert(chunk.copyset)
                }
            case .index(let table):
                guard let words, let page = superblock.indexes[table].firstIndex(of: fetch.page) else {
                    return fail(.damaged("an index page at block \(fetch.page.location)"))
                }
                recovery.indexPages[table][page] = words
            case .table(let table, let page):
                guard let words else { return fail(.damaged("a table page at block \(fetch.page.location)")) }
                recovery.tablePages[table][page] = words
            case .badBlocks:
                guard let words else { return fail(.damaged("the list of bad blocks")) }
                for place in 0..<Int(superblock.badBlockCount) {
                    badBlocks.append(
                        UInt32(truncatingIfNeeded: words[place / 2] >> (place % 2 == 0 ? 0 : 32)))
                }
            }
        }
        pumpFetches()
    }
    private func pagesLoaded() {
        guard let recovery else { return }
        switch recovery.stage {
        case .indexes:
            recovery.stage = .tables
            recovery.fetches = []
            for table in 0..<3 {
                let count = superblock.pageCounts[table]
                let zeroes = [UInt64](repeating: 0, count: RecordTable.pageWords)
                recovery.tablePages[table] = Array(repeating: zeroes, count: count)
                for page in 0..<count {
                    let (index, place) = (page / RecordTable.refsPerPage, page % RecordTable.refsPerPage)
                    let ref = PageRef(word: recovery.indexPages[table][index][place])
                    guard ref != .none else { continue }
                    recovery.fetches.append(PageFetch(page: ref, target: .table(table, page: page)))
                }
            }
            fetchPages()
        case .tables: tablesLoaded()
        case .leaves: beginScan()
        default: break
        }
    }
    private func tablesLoaded() {
        guard let recovery else { return }
        tables = Self.emptyTables()
        for table in 0..<3 {
            tables[table].indexPages = superblock.indexes[table]
            for (page, image) in recovery.tablePages[table].enumerated() {
                let (index, place) = (page / RecordTable.refsPerPage, page % RecordTable.refsPerPage)
                tables[table].appendPage(image, ref: PageRef(word: recovery.indexPages[table][index][place]))
            }
        }
        (recovery.tablePages, recovery.indexPages) = ([], [])
        let copysetsAreGood = tables[1].scan { slot, words in
            guard let record = CopysetRecord(decoding: words), self.copysetsByID[record.id] == nil else {
                return false
            }
            self.adopt(record, slot)
            return true
        }
        copysetIDs = copysetsByID.keys.sorted()
        let volumesAreGood = adoptVolumes()
        recovery.fetches = []
        let nodesAreGood = tables[0].scan { slot, words in self.adopt(NodeRecord(decoding: words), slot) }
        guard copysetsAreGood, volumesAreGood, nodesAreGood else { return fail(.damaged("the map's tables")) }
        recovery.stage = .leaves
        fetchPages()
    }
    private func adoptVolumes() -> Bool {
        var found = VolumeGathering()
        let isReadable = tables[2].scan { slot, words in
            guard let record = VolumeTableRecord(decoding: words) else { return false }
            found.add(record, at: slot)
            return true
        }
        guard isReadable else { return false }
        for (slot, own) in found.volumes {
            guard let copyset = copysetsByID[own.copyset], copyset.volumes[own.volume] == nil,
                let (record, slots) = found.whole(slot, own)
            else { return false }
            let volume = VolumeState(id: own.volume, record: record)
            if isPlanted(.dedupForgotten), !record.isDeleted {
                volume.record = VolumeRecord(fence: record.fence)
            }
            if isPlanted(.epochInMemory), !record.isDeleted {
                volume.record = VolumeRecord(fence: .unknown)
            }
            volume.slots = slots
            copyset.insert(volume)
        }
        return found.isUsedUp
    }
    private func adopt(_ record: CopysetRecord, _ slot: Int) {
        let copyset = Copyset(id: record.id, members: record.members)
        copyset.slot = slot
        (copyset.term, copyset.votedFor) = (record.term, record.votedFor)
        (copyset.applied, copyset.appliedTerm) = (record.applied.index, record.applied.term)
        (copyset.isSyncing, copyset.isFaulty) = (record.isSyncing, record.isFaulty)
        copyset.voteFloor = record.voteFloor
        copysetsByID[record.id] = copyset
        recovery?.stateLSN[record.id] = record.stateLSN
        guard record.cutFrom > LogIndex(0) else { return }
        recovery?.queuedCuts[record.id] = record.cutFrom
        // A root that lets the tail pass the truncation must not speak of it any more.
        markDirty(copyset)
    }
    private func adopt(_ node: NodeRecord, _ slot: Int) -> Bool {
        guard let copyset = copysetsByID[node.copyset],
            let volume = copyset.volumes[node.chunk.volume]
                ?? (copyset.isSyncing ? strayVolume(node, copyset) : nil),
            volume.chunks[node.chunk.index] == nil
        else { return false }
        let chunk = ChunkMap(key: node.chunk, copyset: node.copyset)
        (chunk.slot, chunk.pages) = (slot, node.pages)
        volume.insert(chunk)
        for (place, page) in node.pages.enumerated() where page != .none {
            recovery?.fetches.append(PageFetch(page: page, target: .leaf(chunk, place)))
        }
        return true
    }
    private func strayVolume(_ node: NodeRecord, _ copyset: Copyset) -> VolumeState {
        let volume = VolumeState(id: node.chunk.volume, record: VolumeRecord(fence: .unknown))
        copyset.insert(volume)
        return volume
    }
}
