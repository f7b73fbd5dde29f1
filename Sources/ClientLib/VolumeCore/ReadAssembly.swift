import BlockTypes

/// A read's segments in the making: neighbours that can be one segment become one.
struct SegmentList {
    private(set) var segments: [ReadSegment] = []

    mutating func append(_ segment: ReadSegment) {
        switch (segments.last, segment) {
        case (.zeroes(let before), .zeroes(let count)):
            segments[segments.count - 1] = .zeroes(before + count)
        case (.stored(let before), .stored(let count)):
            segments[segments.count - 1] = .stored(before + count)
        case (.data(let before), .data(let payload))
        where before.buffer === payload.buffer && before.startByte + before.byteCount == payload.startByte:
            segments[segments.count - 1] = .data(
                Payload(
                    before.buffer, startByte: before.startByte,
                    byteCount: before.byteCount + payload.byteCount))
        default: segments.append(segment)
        }
    }
}

/// Hands out the bytes of consecutive pieces of one chunk, from front to back.
private struct PieceReader {
    private let results: [[ReadSegment]]
    private var piece: Int
    private var segment = 0
    private var consumed = 0

    /// - Parameter skip: bytes of the first piece that were not asked for.
    init(_ results: [[ReadSegment]], firstPiece: Int, skip: Int) {
        (self.results, piece) = (results, firstPiece)
        var nothing = SegmentList()
        take(skip, into: &nothing)
    }
    mutating func take(_ byteCount: Int, into list: inout SegmentList) {
        var left = byteCount
        while left > 0 {
            if segment == results[piece].count {
                (piece, segment) = (piece + 1, 0)
                continue
            }
            let current = results[piece][segment]
            let count = min(left, current.byteCount - consumed)
            switch current {
            case .data(let payload): list.append(.data(payload.slice(consumed, count)))
            case .zeroes: list.append(.zeroes(count))
            case .stored: list.append(.stored(count))
            }
            left -= count
            consumed += count
            if consumed == current.byteCount { (segment, consumed) = (segment + 1, 0) }
        }
    }
}

extension StripeMap {
    /// Puts what the pieces of a read brought back into the volume's order.
    /// - Parameter results: one list per piece, in the order in which ``Splitter`` cut them in this style;
    ///   each covers its piece's blocks in full.
    func assemble(_ results: [[ReadSegment]], range: Range<UInt64>, style: Splitter.Style = .read)
        -> [ReadSegment]
    {
        var list = SegmentList()
        var firstPiece = 0
        var group = range.lowerBound / groupBytes
        while group * groupBytes < range.upperBound {
            var readers: [PieceReader?] = []
            for column in 0..<stripeCount {
                let span = span(group: group, column: column, of: range)
                guard !span.isEmpty else {
                    readers.append(nil)
                    continue
                }
                let skip = span.lowerBound % Geometry.blockBytes
                readers.append(PieceReader(results, firstPiece: firstPiece, skip: skip))
                let blocks = (skip + span.count + Geometry.blockBytes - 1) / Geometry.blockBytes
                firstPiece += (blocks - 1) / style.blocksMax + 1
            }
            deal(from: &readers, group: group, range: range, into: &list)
            group += 1
        }
        return list.segments
    }

    private func deal(
        from readers: inout [PieceReader?], group: UInt64, range: Range<UInt64>, into list: inout SegmentList
    ) {
        let base = group * groupBytes
        var position = range.lowerBound > base ? Int(range.lowerBound - base) : 0
        let end = Int(min(range.upperBound - base, groupBytes))
        while position < end {
            let column = position % rowBytes / stripeUnitBytes
            let count = min(end - position, stripeUnitBytes - position % stripeUnitBytes)
            readers[column]?.take(count, into: &list)
            position += count
        }
    }

    /// The slices of `source` that a write's piece stores, in the order of the chunk.
    func slices(of source: WriteSource, range: Range<UInt64>, piece: Piece, byteCount: Int) -> [Payload] {
        let (group, column) = Int(piece.chunk).quotientAndRemainder(dividingBy: stripeCount)
        let base = UInt64(group) * groupBytes
        var slices: [Payload] = []
        var byte = piece.byte
        let end = piece.byte + byteCount
        while byte < end {
            let count =
                stripeCount == 1 ? end - byte : min(end - byte, stripeUnitBytes - byte % stripeUnitBytes)
            let position = base + UInt64(localByte(column: column, byte: byte)) - range.lowerBound
            source.append(Int(position), count, to: &slices)
            byte += count
        }
        return slices
    }
}

/// The payloads of one write, addressed by position in the write.
struct WriteSource {
    private let payloads: [Payload]
    /// Where each payload starts, then where the last one ends.
    private let starts: [Int]

    var byteCount: Int { starts[starts.count - 1] }

    init(_ payloads: [Payload]) {
        self.payloads = payloads
        var starts = [0]
        starts.reserveCapacity(payloads.count + 1)
        for payload in payloads { starts.append(starts[starts.count - 1] + payload.byteCount) }
        self.starts = starts
    }
    /// Appends slices that hold `byteCount` bytes from `position`.
    func append(_ position: Int, _ byteCount: Int, to slices: inout [Payload]) {
        var (index, position, left) = (payloadIndex(at: position), position, byteCount)
        while left > 0 {
            let count = min(left, starts[index + 1] - position)
            if count > 0 { slices.append(payloads[index].slice(position - starts[index], count)) }
            (index, position, left) = (index + 1, position + count, left - count)
        }
    }
    /// The last payload that starts at or before `position`.
    private func payloadIndex(at position: Int) -> Int {
        var (low, high) = (0, payloads.count - 1)
        while low < high {
            let middle = (low + high + 1) / 2
            if starts[middle] <= position { low = middle } else { high = middle - 1 }
        }
        return low
    }
}

/// Checksums of blocks whose bytes lie in several payloads.
enum ScatteredBlocks {
    /// One checksum per block of the payloads, which follow each other and fill whole blocks.
    static func checksums(of payloads: [Payload]) -> [CRC32C] {
        if payloads.count == 1 { return CRC32C.perBlock(of: payloads[0]) }
        var checksums: [CRC32C] = []
        var (sum, filled): (UInt32, Int) = (0, 0)
        for payload in payloads {
            unsafe payload.withBytes { bytes in
                var start = 0
                while start < bytes.count {
                    let count = min(Geometry.blockBytes - filled, bytes.count - start)
                    let part = unsafe UnsafeRawBufferPointer(rebasing: bytes[start..<(start + count)])
                    unsafe sum = CRC32C.extend(sum, with: part)
                    (start, filled) = (start + count, filled + count)
                    if filled == Geometry.blockBytes {
                        checksums.append(CRC32C(rawValue: sum))
                        (sum, filled) = (0, 0)
                    }
                }
            }
        }
        return checksums
    }
    /// A block made of `old` with the bytes from `start` replaced by `new`, or by zeroes.
    static func patched(
        _ old: [ReadSegment], start: Int, byteCount: Int, with new: [Payload], pool: BufferPool
    ) -> Payload {
        let block = Payload(pool.take(byteCount: Geometry.blockBytes), byteCount: Geometry.blockBytes)
        let target = unsafe block.buffer.bytes
        var position = 0
        for segment in old {
            switch segment {
            case .data(let payload):
                unsafe payload.withBytes { bytes in
                    unsafe UnsafeMutableRawBufferPointer(rebasing: target[position...]).copyMemory(
                        from: bytes)
                }
            case .zeroes(let count), .stored(let count): unsafe clear(target, position, count)
            }
            position += segment.byteCount
        }
        if new.isEmpty { unsafe clear(target, start, byteCount) }
        position = start
        for payload in new {
            unsafe payload.withBytes { bytes in
                unsafe UnsafeMutableRawBufferPointer(rebasing: target[position...]).copyMemory(from: bytes)
            }
            position += payload.byteCount
        }
        return block
    }
    /// Copies what `parts` hold, one after the other, to byte `start` of `target`.
    static func copy(_ parts: [Payload], into target: Payload, at start: Int) {
        var position = start
        for part in parts {
            unsafe part.withBytes { bytes in
                unsafe UnsafeMutableRawBufferPointer(
                    rebasing: target.buffer.bytes[position..<(position + bytes.count)]
                ).copyMemory(from: bytes)
            }
            position += part.byteCount
        }
    }
    @unsafe private static func clear(
        _ bytes: UnsafeMutableRawBufferPointer, _ start: Int, _ count: Int
    ) {
        guard count > 0 else { return }
        unsafe UnsafeMutableRawBufferPointer(rebasing: bytes[start..<(start + count)])
            .initializeMemory(as: UInt8.self, repeating: 0)
    }
}
