import BlockTypes

/// One sub-request's share of a request.
struct Piece: Equatable {
    /// The chunk's number in the volume.
    var chunk: UInt32
    /// First block in the chunk.
    var firstBlock: Int
    /// Blocks; 1 for an edge.
    var blockCount: Int
    /// For an edge: the bytes of its one block that the request covers. Empty otherwise.
    var edge: Range<Int>
    /// Where the piece's first byte lies in the chunk; only differs from the first block for reads and edges.
    var byte: Int
}

/// Walks a run of a volume's bytes group by group, chunk by chunk, and cuts it into pieces.
///
/// It is a cursor and not a list, so that a trim of a whole petabyte costs no memory.
struct Splitter {
    /// The most blocks of one read or write.
    static let blocksPerTransferMax = LogEntry.payloadBytesMax / Geometry.blockBytes

    /// How the pieces are cut.
    enum Style {
        /// Whole blocks around the bytes, at most ``blocksPerTransferMax``.
        case read
        /// Whole blocks, at most ``blocksPerTransferMax``; blocks that are covered in part stand alone.
        case write
        /// As `write`, but a piece may cover a chunk.
        case discard
        /// As `read`, but a piece may cover a chunk.
        case status
        /// As `read`; whoever asks sees to it that it is one piece.
        case compare

        /// Edges belong to the blocks around them.
        var isWhole: Bool { self == .read || self == .status || self == .compare }
        /// The most blocks of one piece.
        var blocksMax: Int {
            switch self {
            case .read, .write, .compare: Splitter.blocksPerTransferMax
            case .discard, .status: Geometry.blocksPerChunk
            }
        }
    }

    let map: StripeMap
    let range: Range<UInt64>
    let style: Style
    private(set) var group: UInt64
    private var column = 0
    /// Bytes of the current chunk before this are done.
    private var byte = 0

    init(map: StripeMap, range: Range<UInt64>, style: Style) {
        (self.map, self.range, self.style) = (map, range, style)
        group = range.lowerBound / map.groupBytes
    }

    /// Everything the volume holds before this place is done.
    var doneBefore: UInt64 { max(group * map.groupBytes, range.lowerBound) }

    /// - Returns: `nil` at the end of the range.
    mutating func next() -> Piece? {
        while group * map.groupBytes < range.upperBound {
            let span = map.span(group: group, column: column, of: range)
            let start = max(span.lowerBound, byte)
            var end = span.upperBound
            if isPlanted(.stripeEndLost), !style.isWhole, column > 0, end == Geometry.chunkBytes {
                end -= map.stripeUnitBytes
            }
            if start < end { return cut(start, end: end) }
            (column, byte) = (column + 1, 0)
            if column == map.stripeCount { (group, column) = (group + 1, 0) }
        }
        return nil
    }

    private mutating func cut(_ start: Int, end: Int) -> Piece {
        let chunk = UInt32(group) * UInt32(map.stripeCount) + UInt32(column)
        let first = start / Geometry.blockBytes
        let blockStart = first * Geometry.blockBytes
        var piece = Piece(chunk: chunk, firstBlock: first, blockCount: 1, edge: 0..<0, byte: start)
        if style.isWhole {
            let lastBlock = (end + Geometry.blockBytes - 1) / Geometry.blockBytes
            piece.blockCount = min(lastBlock - first, style.blocksMax)
            byte = blockStart + piece.blockCount * Geometry.blockBytes
            return piece
        }
        let whole = (end - start) / Geometry.blockBytes
        if start != blockStart || whole == 0 {
            let edgeEnd = min(end, blockStart + Geometry.blockBytes)
            piece.edge = (start - blockStart)..<(edgeEnd - blockStart)
            byte = edgeEnd
            return piece
        }
        piece.blockCount = min(whole, style.blocksMax)
        byte = start + piece.blockCount * Geometry.blockBytes
        return piece
    }
}
