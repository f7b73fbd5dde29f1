import BlockTypes
import Environment

/// Blocks that lie side by side on the device and in the answer.
struct ReadPart {
    var startBlock: UInt32
    var count: Int
    /// Where they go, in blocks from the start of the read's buffer.
    var bufferBlock: Int
}

/// Reads blocks into one buffer, verifies each against its checksum, tries once more what does not match.
final class ReadOperation {
    enum Purpose {
        case read(UInt64, [ReadRun], checksums: [CRC32C])
        case entries(UInt64, Copyset, [LoadedEntry], generation: Int)
        case syncPiece(UInt64, SyncPiece, runs: [(BlockRun, [CRC32C])])
        case verifyTail(RecoveredTail)
    }
    let purpose: Purpose
    let serial: UInt64
    let buffer: BlockBuffer
    var parts: [ReadPart] = []
    /// One per block of the buffer.
    let checksums: [UInt32]
    /// What the owner calls each block of the buffer.
    let blocks: [Int]
    var partsPending = 0
    var isSecondTry = false
    /// Places in the buffer that failed.
    var failed: [Int] = []
    var error: DiskError?

    init(_ purpose: Purpose, serial: UInt64, buffer: BlockBuffer, checksums: [UInt32], blocks: [Int]) {
        (self.purpose, self.serial, self.buffer) = (purpose, serial, buffer)
        (self.checksums, self.blocks) = (checksums, blocks)
    }
}

/// A piece of a read's answer.
enum ReadRun {
    case zeroes(blocks: Int)
    /// From the read's buffer.
    case disk(startBlock: Int, count: Int)
    /// From an entry that is committed but not durable here.
    case memory(Payload)
}

extension ChunkStore {
    /// Reads committed blocks: what is applied, covered by what is committed but not durable here yet.
    /// ``StoreEffect/readCompleted(_:_:)`` answers.
    public func read(_ ticket: UInt64, _ id: CopysetID, _ run: BlockRun) {
        guard phase == .open, let copyset = copysetsByID[id], !copyset.isSyncing else {
            effects.append(.readCompleted(ticket, .failure(.notHere)))
            return
        }
        let overlay = overlay(copyset, run)
        let chunk = copyset.volumes[run.chunk.volume]?.chunks[run.chunk.index]
        var plan = ReadPlan()
        for (place, block) in run.blocks.enumerated() {
            switch overlay?[place] ?? .applied {
            case .applied: plan.add(chunk?.entry(block) ?? .absent, block: block)
            case .zeroes: plan.addZero()
            case .stored(let entry): plan.add(entry, block: block)
            case .memory(let payload, let checksum): plan.add(payload, checksum)
            }
        }
        guard !plan.locations.isEmpty else {
            let answer = Self.answer(plan.runs, plan.checksums, buffer: nil)
            effects.append(.readCompleted(ticket, .success(answer)))
            return
        }
        startRead(
            .read(ticket, plan.runs, checksums: plan.checksums), locations: plan.locations,
            checksums: plan.diskChecksums, blocks: plan.blocks)
    }

    /// Which of `run`'s blocks are stored, by the same rules as ``read(_:_:_:)``; the device is not touched.
    /// - Returns: `nil` when the copyset cannot be read here.
    public func blockStatus(_ id: CopysetID, _ run: BlockRun) -> [ReadSegment]? {
        guard phase == .open, let copyset = copysetsByID[id], !copyset.isSyncing else { return nil }
        let overlay = overlay(copyset, run)
        let chunk = copyset.volumes[run.chunk.volume]?.chunks[run.chunk.index]
        var segments: [ReadSegment] = []
        var (blocks, isStored) = (0, false)
        for (place, block) in run.blocks.enumerated() {
            let isNextStored =
                switch overlay?[place] ?? .applied {
                case .applied: !(chunk?.entry(block) ?? .absent).isAbsent
                case .zeroes: false
                case .stored, .memory: true
                }
            if isNextStored != isStored, blocks > 0 {
                segments.append(Self.segment(blocks, isStored: isStored))
                blocks = 0
            }
            (blocks, isStored) = (blocks + 1, isNextStored)
        }
        segments.append(Self.segment(blocks, isStored: isStored))
        return segments
    }
    private static func segment(_ blocks: Int, isStored: Bool) -> ReadSegment {
        let byteCount = blocks * Geometry.blockBytes
        return isStored ? .stored(byteCount) : .zeroes(byteCount)
    }

    /// The same as ``read(_:_:_:)``: every read is verified. Peers repair from it.
    public func readVerified(_ ticket: UInt64, _ id: CopysetID, _ run: BlockRun) { read(ticket, id, run) }

    private enum Overlay {
        case applied
        case zeroes
        case stored(MapEntry)
        case memory(Payload, CRC32C)
    }
    /// What committed entries that are not applied yet make of `run`; `nil`, the usual case, when nothing.
    ///
    /// They are judged exactly as they will be when they are applied, on a copy of the volume's record.
    private func overlay(_ copyset: Copyset, _ run: BlockRun) -> [Overlay]? {
        guard copyset.applied < copyset.commit else { return nil }
        let volume = copyset.volumes[run.chunk.volume]
        var record = volume?.record
        var result: [Overlay]?
        for raw in (copyset.applied.rawValue + 1)...copyset.commit.rawValue {
            let slot = copyset.log[LogIndex(raw)]
            switch slot.extra {
            case .fence(run.chunk.volume, let fence):
                if record == nil { record = VolumeRecord(fence: fence) } else { record?.apply(fence) }
                let size = record?.fence.size.bytes ?? 0
                let chunkStart = UInt64(run.chunk.index) * UInt64(Geometry.chunkBytes)
                for (place, block) in run.blocks.enumerated()
                where chunkStart + UInt64(block * Geometry.blockBytes) >= size {
                    result = result ?? Array(repeating: .applied, count: run.blockCount)
                    result?[place] = .zeroes
                }
                continue
            case .deleteVolume(run.chunk.volume):
                record?.delete()
                result = Array(repeating: .zeroes, count: run.blockCount)
                continue
            case .none, .fence, .deleteVolume, .configuration: break
            }
            guard let touched = slot.run, touched.chunk.volume == run.chunk.volume,
                let size = record?.fence.size,
                touched.volumeOffsetBytes + UInt64(touched.byteCount) <= size.bytes,
                record?.admission(of: slot.tag) == .fresh
            else { continue }
            record?.apply(slot.tag)
            guard slot.kind != .void, touched.overlaps(run) else { continue }
            var covered = result ?? Array(repeating: .applied, count: run.blockCount)
            for block in touched.blocks.clamped(to: run.blocks) {
                covered[block - run.firstBlock] = Self.overlay(slot, block - touched.firstBlock)
            }
            result = covered
        }
        return result
    }
    private static func overlay(_ slot: LogSlot, _ place: Int) -> Overlay {
        guard slot.kind == .write else { return .zeroes }
        if let payload = slot.payload {
            return .memory(
                payload.slice(place * Geometry.blockBytes, Geometry.blockBytes), slot.checksums[place])
        }
        return .stored(
            MapEntry(location: slot.spans.block(place), checksum: slot.checksums[place].rawValue))
    }

    func startRead(
        _ purpose: ReadOperation.Purpose, locations: [UInt32], checksums: [UInt32], blocks: [Int]
    ) {
        let buffer = pool.take(byteCount: locations.count * Geometry.blockBytes)
        let read = ReadOperation(
            purpose, serial: reads.begin(), buffer: buffer, checksums: checksums, blocks: blocks)
        for (place, location) in locations.enumerated() {
            if let last = read.parts.last, last.startBlock + UInt32(last.count) == location,
                last.count < ReadOperation.partBlocksMax
            {
                read.parts[read.parts.count - 1].count += 1
            } else {
                read.parts.append(ReadPart(startBlock: location, count: 1, bufferBlock: place))
            }
        }
        submitParts(read)
    }
    private func submitParts(_ read: ReadOperation) {
        read.partsPending = read.parts.count
        for (index, part) in read.parts.enumerated() {
            let into = Payload(
                read.buffer, startByte: part.bufferBlock * Geometry.blockBytes,
                byteCount: part.count * Geometry.blockBytes)
            submit(.read(read, part: index)) {
                .read($0, at: ByteOffset(bytes: UInt64(part.startBlock) * 4096), into: into)
            }
        }
    }
    func readPartCompleted(_ read: ReadOperation, _ index: Int, _ result: Result<Void, DiskError>) {
        let part = read.parts[index]
        switch result {
        case .failure(let error):
            read.error = error
            read.failed.append(contentsOf: part.bufferBlock..<(part.bufferBlock + part.count))
        case .success:
            for place in part.bufferBlock..<(part.bufferBlock + part.count) {
                let bytes = Payload(
                    read.buffer, startByte: place * Geometry.blockBytes, byteCount: Geometry.blockBytes)
                let isGood = CRC32C(of: bytes).rawValue == read.checksums[place]
                if !isGood && !isPlanted(.checksumIgnored) { read.failed.append(place) }
            }
        }
        read.partsPending -= 1
        guard read.partsPending == 0 else { return }
        guard read.failed.isEmpty || read.isSecondTry else { return tryAgain(read) }
        finish(read)
        reads.end(read.serial) { freeOrDiscard($0) }
    }
    /// Once more, block by block: one bad block must not hide its neighbours.
    private func tryAgain(_ read: ReadOperation) {
        let locations = read.failed.sorted().map { place -> (UInt32, Int) in
            for part in read.parts where place >= part.bufferBlock && place < part.bufferBlock + part.count {
                return (part.startBlock + UInt32(place - part.bufferBlock), place)
            }
            invariantFailed("block \(place) belongs to no part")
        }
        read.parts = locations.map { ReadPart(startBlock: $0.0, count: 1, bufferBlock: $0.1) }
        (read.failed, read.error, read.isSecondTry) = ([], nil, true)
        submitParts(read)
    }
    private func finish(_ read: ReadOperation) {
        switch read.purpose {
        case .read(let ticket, let runs, let checksums):
            let failed = read.failed.sorted().map { read.blocks[$0] }
            if failed.isEmpty {
                let answer = Self.answer(runs, checksums, buffer: read.buffer)
                effects.append(.readCompleted(ticket, .success(answer)))
            } else if let error = read.error {
                effects.append(.readCompleted(ticket, .failure(.io(blocks: failed, error))))
            } else {
                effects.append(.readCompleted(ticket, .failure(.corrupt(blocks: failed))))
            }
        case .entries(let ticket, let copyset, let loaded, let generation):
            finishLoading(read, ticket, copyset, loaded, generation)
        case .syncPiece(let ticket, let piece, let runs): finishPiece(read, ticket, piece, runs)
        case .verifyTail(let tail): tailVerified(tail, isGood: read.failed.isEmpty)
        }
    }
    private static func answer(_ runs: [ReadRun], _ checksums: [CRC32C], buffer: BlockBuffer?) -> StoreRead {
        let segments = runs.map { run -> ReadSegment in
            switch run {
            case .zeroes(let blocks): return .zeroes(blocks * Geometry.blockBytes)
            case .memory(let payload): return .data(payload)
            case .disk(let start, let count):
                guard let buffer else { invariantFailed("a read from disk without a buffer") }
                return .data(
                    Payload(
                        buffer, startByte: start * Geometry.blockBytes, byteCount: count * Geometry.blockBytes
                    ))
            }
        }
        return StoreRead(segments: segments, checksums: checksums)
    }
}

extension ReadOperation {
    /// Blocks in one device read: 1 MiB.
    static let partBlocksMax = 256
}

/// Collects a read block by block.
private struct ReadPlan {
    var runs: [ReadRun] = []
    var checksums: [CRC32C] = []
    var locations: [UInt32] = []
    var diskChecksums: [UInt32] = []
    var blocks: [Int] = []

    mutating func addZero() {
        if case .zeroes(let count)? = runs.last {
            runs[runs.count - 1] = .zeroes(blocks: count + 1)
        } else {
            runs.append(.zeroes(blocks: 1))
        }
    }
    mutating func add(_ entry: MapEntry, block: Int) {
        if entry.isAbsent { return addZero() }
        if case .disk(let start, let count)? = runs.last {
            runs[runs.count - 1] = .disk(startBlock: start, count: count + 1)
        } else {
            runs.append(.disk(startBlock: locations.count, count: 1))
        }
        locations.append(entry.location)
        diskChecksums.append(entry.checksum)
        blocks.append(block)
        checksums.append(CRC32C(rawValue: entry.checksum))
    }
    mutating func add(_ payload: Payload, _ checksum: CRC32C) {
        runs.append(.memory(payload))
        checksums.append(checksum)
    }
}
