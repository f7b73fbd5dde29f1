import BlockTypes

/// What a block of a chunk points to: a device block and the checksum of what must be there.
struct MapEntry: Hashable {
    /// 0: absent, reads as zeroes.
    let location: UInt32
    let checksum: UInt32
    static let absent = MapEntry(word: 0)
    init(location: UInt32, checksum: UInt32) { (self.location, self.checksum) = (location, checksum) }
    init(word: UInt64) {
        location = UInt32(truncatingIfNeeded: word)
        checksum = UInt32(truncatingIfNeeded: word >> 32)
    }
    var word: UInt64 { UInt64(checksum) << 32 | UInt64(location) }
    var isAbsent: Bool { location == 0 }
}

/// A page on disk and its checksum, kept in the page's parent.
struct PageRef: Hashable {
    var location: UInt32
    var checksum: UInt32
    static let none = PageRef(location: 0, checksum: 0)
    var word: UInt64 { UInt64(checksum) << 32 | UInt64(location) }
    init(location: UInt32, checksum: UInt32) { (self.location, self.checksum) = (location, checksum) }
    init(word: UInt64) {
        (location, checksum) = (UInt32(truncatingIfNeeded: word), UInt32(truncatingIfNeeded: word >> 32))
    }
}

/// The map of 2 MiB: 512 entries, one page on disk. A checkpoint holds on to `words`; the first change after
/// that copies them (Swift's own copy-on-write), so what it writes is the state it captured.
final class Leaf {
    var words: [UInt64]
    var storedCount: Int

    static let entryCount = 512

    init() {
        words = Array(repeating: 0, count: Self.entryCount)
        storedCount = 0
    }
    init(words: [UInt64]) {
        self.words = words
        storedCount = words.reduce(0) { $0 + (UInt32(truncatingIfNeeded: $1) == 0 ? 0 : 1) }
    }
}

/// The map of one chunk.
final class ChunkMap {
    let key: ChunkKey
    let copyset: CopysetID
    var leaves: [Leaf?]
    /// Where the leaves are in the newest root, or will be in the one being written.
    var pages: [PageRef]
    /// One bit per leaf that differs from `pages`.
    var dirtyLeaves: UInt8 = 0
    /// The chunk's record in the node table; -1 before it has one.
    var slot = -1
    var isListedDirty = false
    /// Cut off from its volume; its blocks are being freed.
    var isDropped = false

    static let leafCount = Geometry.blocksPerChunk / Leaf.entryCount

    init(key: ChunkKey, copyset: CopysetID) {
        (self.key, self.copyset) = (key, copyset)
        leaves = Array(repeating: nil, count: Self.leafCount)
        pages = Array(repeating: .none, count: Self.leafCount)
    }
    @inline(__always) func entry(_ block: Int) -> MapEntry {
        guard let leaf = leaves[block >> 9] else { return .absent }
        return MapEntry(word: leaf.words[block & 511])
    }
    /// - Returns: what was there before.
    @inline(__always) func set(_ block: Int, _ entry: MapEntry) -> MapEntry {
        let (place, index) = (block >> 9, block & 511)
        let leaf: Leaf
        if let found = leaves[place] {
            leaf = found
        } else {
            if entry.isAbsent { return .absent }
            leaf = Leaf()
            leaves[place] = leaf
        }
        let old = MapEntry(word: leaf.words[index])
        if old.isAbsent && entry.isAbsent { return old }
        leaf.words[index] = entry.word
        leaf.storedCount += (entry.isAbsent ? 0 : 1) - (old.isAbsent ? 0 : 1)
        dirtyLeaves |= 1 << UInt8(place)
        return old
    }
    var isEmpty: Bool { leaves.allSatisfy { ($0?.storedCount ?? 0) == 0 } }
}

/// A copyset's part of one volume.
final class VolumeState {
    let id: VolumeID
    var record: VolumeRecord
    var chunks: [UInt32: ChunkMap] = [:]
    /// The record's places in the volume table, the volume's own first; none before it has one.
    var slots: [Int] = []
    var isListedDirty = false
    /// The windows of its group are counted among those that a root has to hold.
    var isListedShared = false
    private var sortedIndices: [UInt32]?

    init(id: VolumeID, record: VolumeRecord) { (self.id, self.record) = (id, record) }

    /// Chunk numbers, ascending.
    var chunkIndices: [UInt32] {
        if let sortedIndices { return sortedIndices }
        let sorted = chunks.keys.sorted()
        sortedIndices = sorted
        return sorted
    }
    func insert(_ chunk: ChunkMap) {
        chunks[chunk.key.index] = chunk
        sortedIndices = nil
    }
    func remove(_ index: UInt32) -> ChunkMap? {
        sortedIndices = nil
        return chunks.removeValue(forKey: index)
    }
    /// True when all blocks of `run` lie inside the volume.
    func contains(_ run: BlockRun) -> Bool {
        run.volumeOffsetBytes + UInt64(run.byteCount) <= record.fence.size.bytes
    }
}
