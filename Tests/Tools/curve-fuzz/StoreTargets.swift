import BlockTypes
import Fuzzing

@testable import ChunkStore

let storeTargets = [
    FuzzTarget(name: "superblock", feed: feedSuperblock),
    FuzzTarget(name: "journal", feed: feedJournal),
    FuzzTarget(name: "tables", feed: feedTables),
]

private func payload(_ bytes: [UInt8], byteCount: Int) -> Payload {
    let buffer = BlockBuffer(byteCount: byteCount)
    buffer.bytes.initializeMemory(as: UInt8.self, repeating: 0)
    let count = min(bytes.count, byteCount)
    bytes.prefix(count).withUnsafeBytes { source in
        UnsafeMutableRawBufferPointer(rebasing: buffer.bytes[..<count]).copyMemory(from: source)
    }
    return Payload(buffer, byteCount: byteCount)
}

/// A superblock whose magic number and checksum are right.
private func feedSuperblock(_ input: [UInt8]) {
    var bytes = input.filledUp(to: 4096)
    bytes.put(UInt32(truncatingIfNeeded: Superblock.magic), at: 0)
    bytes.put(UInt32(truncatingIfNeeded: Superblock.magic >> 32), at: 4)
    let checksumAt = 4092
    bytes.put(CRC32C.extend(0, with: bytes[..<checksumAt]), at: checksumAt)
    _ = try? Superblock(decoding: payload(bytes, byteCount: 4096))
}

/// A journal block whose checksum is right, and all records in it.
private func feedJournal(_ input: [UInt8]) {
    let sectors = (input.count + JournalHeader.byteCount + 511) / 512
    var bytes = [UInt8](repeating: 0, count: sectors * 512)
    bytes.replaceSubrange(JournalHeader.byteCount..<(JournalHeader.byteCount + input.count), with: input)
    bytes.put(JournalHeader.magic, at: 0)
    bytes.put(UInt32(bytes.count), at: 16)
    bytes[20] = input.first ?? 0
    bytes.put(CRC32C.extend(0, with: bytes[...]), at: 60)
    let block = payload(bytes, byteCount: (bytes.count + 4095) / 4096 * 4096)
    guard let (header, _) = JournalHeader.decode(block, lsn: 0, sectorBytes: 512) else {
        fatalError("a block with a right checksum is refused")
    }
    var page = PageReader(block, from: JournalHeader.byteCount, to: Int(header.byteCount))
    for _ in 0..<header.recordCount {
        guard JournalRecord.decode(&page) != nil else { return }
    }
}

/// Records of the three tables.
private func feedTables(_ input: [UInt8]) {
    var bytes = input
    let kind = bytes.takeByte() % 3
    let count = [NodeRecord.words, CopysetRecord.words, VolumeTableRecord.words][kind]
    bytes = bytes.filledUp(to: count * 8)
    let words = (0..<count).map { (word: Int) -> UInt64 in
        let low = UInt64(bytes.littleEndian32(at: 8 * word))
        return UInt64(bytes.littleEndian32(at: 8 * word + 4)) << 32 | low
    }
    switch kind {
    case 0: _ = NodeRecord(decoding: words[...])
    case 1: _ = CopysetRecord(decoding: words[...])
    default: _ = VolumeTableRecord(decoding: words[...])
    }
}
