import BlockTypes
import Environment

/// The root of everything. Four copies; an update writes two, flushes, writes the other two, flushes.
///
/// Byte by byte in the README.
struct Superblock: Equatable {
    var identity: StoreIdentity
    var sectorBytes: Int
    var deviceBytes: UInt64
    var journalBytes: UInt64
    var isLazilyGrown: Bool
    /// Counts superblock updates: the newest wins.
    var sequence: UInt64 = 1
    /// Recovery starts reading here.
    var tail: UInt64 = 0
    /// Recovery must get at least here, or the journal is damaged.
    var head: UInt64 = 0
    var badBlocks: PageRef = .none
    var badBlockCount: UInt32 = 0
    /// The highest revision of the metadata server's database that this server has heard of.
    var metadataRevision: UInt64 = 0
    /// Index pages of the node, copyset and volume tables.
    var indexes: [[PageRef]] = [[], [], []]
    /// Pages of each table, empty ones included.
    var pageCounts: [Int] = [0, 0, 0]

    static let magic: UInt64 = 0x4B4C_4245_5652_5543  // "CURVEBLK"
    static let version: UInt32 = 2
    static let indexPagesMax = [160, 16, 288]
    private static let refsStart = 256
    private static let checksumAt = 4092

    init(_ format: StoreFormat) {
        identity = format.identity
        (sectorBytes, deviceBytes) = (format.geometry.sectorBytes, format.geometry.size.bytes / 4096 * 4096)
        (journalBytes, isLazilyGrown) = (format.journalBytes, format.isLazilyGrown)
    }

    /// Stands in until the real one is read.
    init(unknown identity: StoreIdentity) {
        self.identity = identity
        (sectorBytes, deviceBytes, journalBytes) = (4096, 4 << 20, StoreFormat.journalBytesMin)
        isLazilyGrown = false
    }

    var layout: StoreLayout {
        StoreLayout(deviceBytes: deviceBytes, sectorBytes: sectorBytes, journalBytes: journalBytes)
    }

    func encode(into buffer: BlockBuffer) -> Payload {
        var page = PageWriter(buffer)
        page.pad(to: 4096)
        page.position = 0
        page.put(Self.magic)
        page.put(Self.version)
        page.put(UInt32(isLazilyGrown ? 1 : 0))
        for half in [identity.cluster.high, identity.cluster.low, identity.device.high, identity.device.low] {
            page.put(half)
        }
        page.put(identity.server.rawValue)
        page.put(identity.incarnation.rawValue)
        page.put(UInt32(Geometry.blockBytes))
        page.put(UInt32(BlockAllocator.segmentBlocks))
        page.put(UInt64(sectorBytes))
        for value in [deviceBytes, StoreLayout.journalStart, journalBytes, sequence, tail, head] {
            page.put(value)
        }
        page.put(badBlocks.word)
        page.put(UInt64(badBlockCount))
        for table in 0..<3 {
            page.put(UInt32(indexes[table].count))
            page.put(UInt32(pageCounts[table]))
        }
        page.put(metadataRevision)
        page.position = Self.refsStart
        for refs in indexes { for ref in refs { page.put(ref.word) } }
        invariant(page.position <= Self.checksumAt, "superblock overflows")
        page.set(page.checksum(0, Self.checksumAt), at: Self.checksumAt)
        return Payload(buffer, byteCount: 4096)
    }

    enum DecodeError: Error { case absent, older(UInt32), newer(UInt32), damaged }

    init(decoding payload: Payload) throws(DecodeError) {
        var page = PageReader(payload)
        guard page.next(UInt64.self) == Self.magic else { throw .absent }
        guard let checksum: UInt32 = page.peek(at: Self.checksumAt),
            CRC32C(of: payload.slice(0, Self.checksumAt)).rawValue == checksum
        else { throw .damaged }
        guard let version = page.next(UInt32.self), let flags = page.next(UInt32.self) else { throw .damaged }
        guard version <= Self.version else { throw .newer(version) }
        guard version == Self.version else { throw .older(version) }
        var words: [UInt64] = []
        for _ in 0..<6 { words.append(page.next(UInt64.self) ?? 0) }
        identity = StoreIdentity(
            cluster: UniqueID(high: words[0], low: words[1]), device: UniqueID(high: words[2], low: words[3]),
            server: ServerID(words[4]), incarnation: Incarnation(words[5]))
        isLazilyGrown = flags & 1 == 1
        guard page.next(UInt32.self) == UInt32(Geometry.blockBytes),
            page.next(UInt32.self) == UInt32(BlockAllocator.segmentBlocks),
            let sector = page.next(UInt64.self), sector == 512 || sector == 4096,
            let device = page.next(UInt64.self), page.next(UInt64.self) == StoreLayout.journalStart,
            let journal = page.next(UInt64.self), let sequence = page.next(UInt64.self),
            let tail = page.next(UInt64.self), let head = page.next(UInt64.self),
            let bad = page.next(UInt64.self), let badCount = page.next(UInt64.self), badCount <= 1023,
            journal >= StoreFormat.journalBytesMin, journal % 4096 == 0, device <= StoreFormat.deviceBytesMax,
            device % 4096 == 0, journal <= device, head >= tail, head - tail <= journal,
            device >= StoreLayout.journalStart + journal + UInt64(StoreFormat.dataBlocksMin) * 4096
        else { throw .damaged }
        (sectorBytes, deviceBytes, journalBytes) = (Int(sector), device, journal)
        (self.sequence, self.tail, self.head) = (sequence, tail, head)
        (badBlocks, badBlockCount) = (PageRef(word: bad), UInt32(badCount))
        var counts: [Int] = []
        for table in 0..<3 {
            guard let indexPages = page.next(UInt32.self), let pages = page.next(UInt32.self),
                Int(indexPages) <= Self.indexPagesMax[table],
                Int(pages) <= Int(indexPages) * RecordTable.refsPerPage
            else { throw .damaged }
            counts.append(Int(indexPages))
            pageCounts[table] = Int(pages)
        }
        metadataRevision = page.next(UInt64.self) ?? 0
        page.position = Self.refsStart
        for table in 0..<3 {
            for _ in 0..<counts[table] {
                indexes[table].append(PageRef(word: page.next(UInt64.self) ?? 0))
            }
        }
    }

    /// The newest superblock of which two copies agree.
    static func choose(_ copies: [Result<Superblock, DecodeError>]) -> Result<Superblock, StoreOpenError> {
        var good: [Superblock] = []
        var (newest, oldest): (UInt32?, UInt32?)
        var sawDamaged = false
        for copy in copies {
            switch copy {
            case .success(let superblock): good.append(superblock)
            case .failure(.newer(let version)): newest = max(newest ?? 0, version)
            case .failure(.older(let version)): oldest = min(oldest ?? version, version)
            case .failure(.damaged): sawDamaged = true
            case .failure(.absent): break
            }
        }
        let agreed = good.filter { candidate in good.filter { $0 == candidate }.count >= 2 }
        if let best = agreed.max(by: { $0.sequence < $1.sequence }) { return .success(best) }
        if let newest { return .failure(.newerFormat(version: newest)) }
        if let oldest { return .failure(.olderFormat(version: oldest)) }
        if !good.isEmpty || sawDamaged {
            return .failure(.damaged("no two copies of the superblock agree"))
        }
        return .failure(.notAStore)
    }
}
