import BlockTypes
import Environment
import Testing

@testable import ChunkStore

@Suite struct FormatTests {
    private func superblock() throws -> Superblock {
        let identity = StoreIdentity(
            cluster: UniqueID(high: 1, low: 2), device: UniqueID(high: 3, low: 4), server: ServerID(5),
            incarnation: Incarnation(6))
        let geometry = DiskGeometry(
            size: ByteCount(bytes: 64 << 20), sectorBytes: 512, hasVolatileCache: true)
        var superblock = Superblock(
            try StoreFormat(identity: identity, geometry: geometry, isLazilyGrown: true))
        (superblock.sequence, superblock.tail, superblock.head) = (9, 4096, 8192)
        superblock.indexes[1] = [PageRef(location: 5000, checksum: 77)]
        superblock.pageCounts[1] = 3
        superblock.badBlocks = PageRef(location: 6000, checksum: 88)
        (superblock.badBlockCount, superblock.metadataRevision) = (2, 7_000_000_000)
        return superblock
    }
    private func bytes(of superblock: Superblock) -> [UInt8] {
        superblock.encode(into: BlockBuffer(byteCount: 4096)).array
    }
    private func decode(_ bytes: [UInt8]) -> Result<Superblock, Superblock.DecodeError> {
        do throws(Superblock.DecodeError) {
            return .success(try Superblock(decoding: Payload(copying: bytes)))
        } catch { return .failure(error) }
    }

    @Test("a superblock reads back as it was written")
    func superblockRoundTrip() throws {
        let superblock = try superblock()
        #expect(try decode(bytes(of: superblock)).get() == superblock)
    }
    @Test("a superblock with any flipped bit is refused")
    func superblockFlips() throws {
        let good = bytes(of: try superblock())
        for byte in stride(from: 0, to: 4096, by: 3) {
            var bad = good
            bad[byte] ^= 1 << UInt8(byte % 8)
            if case .success = decode(bad) { Issue.record("flipped byte \(byte)") }
        }
    }
    @Test("a superblock cut short is refused")
    func superblockCut() throws {
        let good = bytes(of: try superblock())
        for count in stride(from: 0, to: 4095, by: 100) {
            if case .success = decode(Array(good.prefix(count))) { Issue.record("cut at \(count)") }
        }
    }
    @Test("a newer format says so, when nothing older agrees")
    func newer() throws {
        var bytes = bytes(of: try superblock())
        func copy(version: UInt8) -> Result<Superblock, Superblock.DecodeError> {
            bytes[8] = version
            let sum = CRC32C(of: Array(bytes.prefix(4092))).rawValue
            for place in 0..<4 { bytes[4092 + place] = UInt8(truncatingIfNeeded: sum >> UInt32(place * 8)) }
            return decode(bytes)
        }
        let (newer, older) = (copy(version: 9), copy(version: 1))
        #expect(throws: StoreOpenError.newerFormat(version: 9)) {
            try Superblock.choose([newer, newer]).get()
        }
        #expect(throws: StoreOpenError.olderFormat(version: 1)) {
            try Superblock.choose([older, older]).get()
        }
        #expect(StoreOpenError.newerFormat(version: 9).description.contains("start a newer version"))
        #expect(StoreOpenError.olderFormat(version: 1).description.contains("format it anew"))
    }
    @Test("the newest superblock that two copies agree on wins")
    func choice() throws {
        let old = try superblock()
        var new = old
        new.sequence += 1
        #expect(
            try Superblock.choose([.success(new), .failure(.damaged), .success(old), .success(old)]).get()
                == old)
        #expect(
            try Superblock.choose([.success(new), .success(new), .success(old), .success(old)]).get() == new)
        #expect(throws: StoreOpenError.notAStore) { try Superblock.choose([.failure(.absent)]).get() }
        #expect(throws: (any Error).self) {
            try Superblock.choose([.success(new), .success(old), .failure(.damaged)]).get()
        }
    }
    @Test("sizes that do not fit together are refused with the reason")
    func sizes() {
        let identity = StoreIdentity(
            cluster: UniqueID(high: 1, low: 2), device: UniqueID(high: 3, low: 4), server: ServerID(5),
            incarnation: Incarnation(0))
        func geometry(_ bytes: UInt64, sector: Int = 4096) -> DiskGeometry {
            DiskGeometry(size: ByteCount(bytes: bytes), sectorBytes: sector, hasVolatileCache: true)
        }
        #expect(throws: StoreFormatError.self) {
            try StoreFormat(identity: identity, geometry: geometry(20 << 20))
        }
        #expect(throws: StoreFormatError.badSector(520)) {
            try StoreFormat(identity: identity, geometry: geometry(1 << 30, sector: 520))
        }
        #expect(throws: StoreFormatError.badJournal(4097)) {
            try StoreFormat(identity: identity, geometry: geometry(1 << 30), journalBytes: 4097)
        }
        #expect(throws: StoreFormatError.self) {
            try StoreFormat(identity: identity, geometry: geometry(1 << 50))
        }
        #expect(StoreFormat.defaultJournalBytes(for: ByteCount(bytes: 1 << 30)) == 16 << 20)
        #expect(StoreFormat.defaultJournalBytes(for: ByteCount(bytes: 8 << 30)) == 128 << 20)
        #expect(StoreFormat.defaultJournalBytes(for: ByteCount(bytes: 1 << 40)) == 4 << 30)
        #expect(StoreFormat.defaultJournalBytes(for: ByteCount(bytes: 16 << 40)) == 32 << 30)
    }

    // MARK: Journal

    private static let records: [JournalRecord] = {
        var write = LogSlot(term: Term(3), kind: .write)
        write.chunk = ChunkKey(volume: VolumeID(4), index: 5)
        (write.firstBlock, write.blockCount) = (100, 3)
        write.sn = SnapshotNumber(6)
        write.tag = RequestTag(session: Epoch(7), sequence: 8)
        write.spans.append(Span(start: 1000, count: 2))
        write.spans.append(Span(start: 2000, count: 1))
        write.checksums = [1, 2, 3].map { CRC32C(rawValue: $0) }
        var trim = LogSlot(term: Term(3), kind: .trim)
        (trim.chunk, trim.firstBlock, trim.blockCount) = (write.chunk, 0, 4096)
        var fence = LogSlot(term: Term(3), kind: .fence)
        fence.extra = .fence(
            VolumeID(1), VolumeFence(epoch: Epoch(2), size: ByteCount(bytes: 3 << 20), change: 1))
        var shared = fence
        shared.extra = .fence(
            VolumeID(1),
            VolumeFence(
                epoch: Epoch(9), size: ByteCount(bytes: 3 << 20), change: 2,
                group: [Epoch(2), Epoch(8), Epoch(9)]))
        var void = trim
        (void.kind, void.blockCount, void.sn) = (.void, 2, SnapshotNumber(0))
        void.tag = RequestTag(session: Epoch(7), sequence: 9)
        var delete = LogSlot(term: Term(3), kind: .deleteVolume)
        delete.extra = .deleteVolume(VolumeID(9))
        var members = LogSlot(term: Term(3), kind: .configuration)
        members.extra = .configuration([ServerID(1), ServerID(2)])
        return [
            .entry(write, LogIndex(50)), .entry(trim, LogIndex(51)), .entry(fence, LogIndex(52)),
            .entry(shared, LogIndex(52)), .entry(void, LogIndex(52)),
            .entry(delete, LogIndex(53)), .entry(members, LogIndex(54)),
            .entry(LogSlot(term: Term(3), kind: .noop), LogIndex(55)), .truncate(from: LogIndex(56)),
            .vote(Term(4), votedFor: nil), .vote(Term(4), votedFor: ServerID(2)),
            .create(members: [ServerID(1), ServerID(2), ServerID(3)]),
            .beginSync(
                base: LogPosition(term: Term(1), index: LogIndex(2)),
                voteFloor: LogPosition(term: Term(3), index: LogIndex(4))),
            .watermark, .repair(old: 10, new: 20),
        ]
    }()
    private func encoded() -> (page: PageWriter, checksum: UInt32) {
        var page = PageWriter(BlockBuffer(byteCount: 4096))
        page.pad(to: JournalHeader.byteCount)
        for record in Self.records {
            let start = page.position
            record.encode(copyset: CopysetID(77), into: &page)
            _ = JournalRecord.setWatermark(40, in: page, at: start)
        }
        page.pad(to: 2048)
        let header = JournalHeader(
            incarnation: 2, lsn: 4096, byteCount: 2048, recordCount: UInt16(Self.records.count),
            previousChecksum: 5, durableLSN: 6, device: 7)
        let checksum = header.seal(page)
        return (page, checksum)
    }
    @Test("every record reads back as it was written, with its watermark")
    func recordsRoundTrip() throws {
        let (page, checksum) = encoded()
        let block = Payload(page.buffer, byteCount: 2048)
        let (header, found) = try #require(JournalHeader.decode(block, lsn: 4096, sectorBytes: 512))
        #expect(found == checksum && header.durableLSN == 6 && header.previousChecksum == 5)
        var reader = PageReader(block, from: JournalHeader.byteCount)
        for record in Self.records {
            let decoded = try #require(JournalRecord.decode(&reader))
            #expect("\(decoded.record)".count > 0 && decoded.copyset == CopysetID(77))
            switch (record, decoded.record) {
            case (.entry(let a, let i), .entry(let b, let j)):
                #expect(i == j && a.kind == b.kind && a.term == b.term && a.spans == b.spans)
                #expect(a.checksums == b.checksums && a.extra == b.extra && a.tag == b.tag && a.run == b.run)
                #expect(decoded.watermark == 40)
            case (.beginSync(let a, let b), .beginSync(let c, let d)):
                #expect(a == c && b == d && decoded.watermark == nil)
            default:
                #expect("\(record)" == "\(decoded.record)")
                #expect(decoded.watermark == 40)
            }
        }
    }
    @Test("a journal block with any flipped bit, cut anywhere, or at another place is refused")
    func journalDamage() {
        let (page, _) = encoded()
        let good = Payload(page.buffer, byteCount: 2048).array
        for byte in stride(from: 0, to: 2048, by: 5) {
            var bad = good
            bad[byte] ^= 1 << UInt8(byte % 8)
            if JournalHeader.decode(Payload(copying: bad), lsn: 4096, sectorBytes: 512) != nil {
                Issue.record("flipped byte \(byte)")
            }
        }
        for count in stride(from: 1, to: 2047, by: 37) {
            let cut = Payload(copying: Array(good.prefix(count)))
            #expect(JournalHeader.decode(cut, lsn: 4096, sectorBytes: 512) == nil)
        }
        #expect(JournalHeader.decode(Payload(copying: good), lsn: 8192, sectorBytes: 512) == nil)
    }
    @Test("records of any bytes are decoded or refused, never trapped on")
    func garbage() {
        var random = SeededRandom(seed: 11)
        let (page, _) = encoded()
        let good = Payload(page.buffer, byteCount: 2048).array
        for _ in 0..<3000 {
            var bytes = good
            for _ in 0..<Int.random(in: 1...8, using: &random) {
                bytes[Int.random(in: 64..<1200, using: &random)] = UInt8.random(in: 0...255, using: &random)
            }
            var reader = PageReader(Payload(copying: bytes), from: JournalHeader.byteCount)
            while JournalRecord.decode(&reader) != nil {}
            #expect(reader.position <= 2048)
        }
    }
}
