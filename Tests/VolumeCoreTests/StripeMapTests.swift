import BlockTypes
import Testing

@testable import VolumeCore

@Suite struct StripeMapTests {
    static let kib = 1024

    @Test func everyBlockOfSmallGeometriesGoesThereAndBack() throws {
        for count in [1, 2, 3, 4, 7] {
            for unit in [4 << 10, 64 << 10, 1 << 20, 16 << 20] {
                let map = try #require(StripeMap(stripeUnitBytes: unit, stripeCount: count))
                var seen: Set<UInt64> = []
                let step = UInt64(min(map.stripeUnitBytes, 1 << 20))
                for offset in stride(from: UInt64(0), to: map.groupBytes * 2, by: Int(step)) {
                    for byte in [offset, offset + step - 1] {
                        let place = map.place(ofByte: byte)
                        #expect(map.volumeByte(chunk: place.chunk, byte: place.byte) == byte)
                        #expect(place.byte < Geometry.chunkBytes)
                    }
                    let place = map.place(ofByte: offset)
                    #expect(seen.insert(UInt64(place.chunk) << 24 | UInt64(place.byte)).inserted)
                }
                #expect(map.place(ofByte: map.groupBytes).chunk == UInt32(count))
            }
        }
    }

    @Test func randomBytesOfLargeVolumesGoThereAndBack() throws {
        var random = SeededRandom(seed: 7)
        for _ in 0..<20_000 {
            let unit = 4096 << Int.random(in: 0...12, using: &random)
            let count = Int.random(in: 1...64, using: &random)
            let map = try #require(StripeMap(stripeUnitBytes: unit, stripeCount: count))
            let byte = UInt64.random(in: 0..<Geometry.volumeBytesMax, using: &random)
            let place = map.place(ofByte: byte)
            #expect(map.volumeByte(chunk: place.chunk, byte: place.byte) == byte)
        }
    }

    @Test func unitsAndCountsOutsideTheRulesAreRefused() {
        #expect(StripeMap(stripeUnitBytes: 2048, stripeCount: 2) == nil)
        #expect(StripeMap(stripeUnitBytes: 12288, stripeCount: 2) == nil)
        #expect(StripeMap(stripeUnitBytes: 32 << 20, stripeCount: 2) == nil)
        #expect(StripeMap(stripeUnitBytes: 4096, stripeCount: 0) == nil)
        #expect(StripeMap(stripeUnitBytes: 4096, stripeCount: 65) == nil)
        #expect(StripeMap(stripeUnitBytes: -4096, stripeCount: 2) == nil)
        #expect(StripeMap(stripeUnitBytes: 0, stripeCount: 1) == .plain)
    }

    @Test func theLimitIsWholeGroupsOnlyWhenStriped() throws {
        let striped = try #require(StripeMap(stripeUnitBytes: 64 << 10, stripeCount: 4))
        #expect(striped.limit(forSize: ByteCount(bytes: 1 << 20)) == ByteCount(bytes: 64 << 20))
        #expect(StripeMap.plain.limit(forSize: ByteCount(bytes: 1 << 20)) == ByteCount(bytes: 1 << 20))
        let odd = try #require(StripeMap(stripeUnitBytes: 64 << 10, stripeCount: 3))
        #expect(odd.limit(forSize: ByteCount(bytes: Geometry.volumeBytesMax)) == nil)
    }

    /// Every byte of the range is in exactly one piece, at its own place, in whole blocks or as an edge.
    @Test(arguments: [Splitter.Style.read, .write, .discard])
    func piecesCoverARangeOnce(_ style: Splitter.Style) throws {
        var random = SeededRandom(seed: 11)
        for _ in 0..<300 {
            let count = Int.random(in: 1...5, using: &random)
            let map = try #require(
                StripeMap(stripeUnitBytes: 4096 << Int.random(in: 0...8, using: &random), stripeCount: count))
            let start = UInt64.random(in: 0..<(map.groupBytes * 2 / 512), using: &random) * 512
            let range = start..<(start + UInt64.random(in: 1...4096, using: &random) * 512)
            var splitter = Splitter(map: map, range: range, style: style)
            var covered: [Range<UInt64>] = []
            while let piece = splitter.next() {
                #expect(style == .discard || piece.blockCount <= 64)
                let from = style == .read || !piece.edge.isEmpty ? piece.byte : piece.firstBlock * 4096
                let to =
                    piece.edge.isEmpty
                    ? (piece.firstBlock + piece.blockCount) * 4096
                    : piece.firstBlock * 4096 + piece.edge.upperBound
                #expect(style == .read || piece.edge.isEmpty || piece.edge.count < 4096)
                for byte in stride(from: from / 512 * 512, to: to, by: 512) {
                    let sector = map.volumeByte(chunk: piece.chunk, byte: byte)
                    if style == .read, !range.contains(sector) { continue }
                    covered.append(sector..<(sector + 512))
                }
            }
            covered.sort { $0.lowerBound < $1.lowerBound }
            var end = range.lowerBound
            for sector in covered {
                #expect(sector.lowerBound == end)
                end = sector.upperBound
            }
            #expect(end == range.upperBound)
        }
    }

    /// What WRITE ATOMIC counts on: blocks inside an aligned run are one piece, whatever the shape.
    @Test(arguments: 1...5) func aWriteInsideAnAtomicRunIsOnePiece(_ count: Int) throws {
        for shift in 0...12 {
            let map = try #require(StripeMap(stripeUnitBytes: 4096 << shift, stripeCount: count))
            #expect(map.atomicBytes == (count == 1 ? 256 << 10 : min(4096 << shift, 256 << 10)))
            let blocks = map.atomicBytes / 4096
            for (first, last) in [(0, blocks), (0, 1), (blocks - 1, blocks), (blocks / 2, blocks)] {
                for run in [0, 1, UInt64(count), 2 * map.groupBytes / UInt64(map.atomicBytes) + 3] {
                    let base = run * UInt64(map.atomicBytes)
                    let range = base + UInt64(first) * 4096..<base + UInt64(last) * 4096
                    var splitter = Splitter(map: map, range: range, style: .write)
                    let piece = splitter.next()
                    #expect(piece?.blockCount == last - first && piece?.edge.isEmpty == true)
                    #expect(splitter.next() == nil)
                }
            }
        }
    }

    @Test func aMebibyteOnFourStripesIsFourSubRequests() throws {
        let map = try #require(StripeMap(stripeUnitBytes: 64 << 10, stripeCount: 4))
        var splitter = Splitter(map: map, range: (3 << 20)..<(4 << 20), style: .write)
        var pieces: [Piece] = []
        while let piece = splitter.next() { pieces.append(piece) }
        #expect(pieces.map(\.chunk) == [0, 1, 2, 3])
        #expect(pieces.allSatisfy { $0.blockCount == 64 && $0.firstBlock == 192 })
        let source = WriteSource([Payload(BlockBuffer(byteCount: 1 << 20), byteCount: 1 << 20)])
        let slices = map.slices(
            of: source, range: (3 << 20)..<(4 << 20), piece: pieces[1], byteCount: 256 << 10)
        #expect(slices.map(\.startByte) == [64 << 10, 320 << 10, 576 << 10, 832 << 10])
    }
}

@Suite struct BlockLocksTests {
    @Test func overlappingChangesGoInTheOrderTheyCameAndOthersAtOnce() {
        var locks = BlockLocks(ownersMax: 8)
        var ready: [Int] = []
        let got0 = locks.acquire(0, chunk: 1, blocks: 0..<10)
        #expect(got0)
        let got1 = locks.acquire(1, chunk: 1, blocks: 5..<70)
        #expect(!got1)
        let got2 = locks.acquire(2, chunk: 1, blocks: 70..<80)
        #expect(got2)
        let got3 = locks.acquire(3, chunk: 2, blocks: 0..<10)
        #expect(got3)
        let got4 = locks.acquire(4, chunk: 1, blocks: 60..<75)
        #expect(!got4)
        locks.release(0, chunk: 1, blocks: 0..<10, ready: &ready)
        #expect(ready == [1])
        locks.release(1, chunk: 1, blocks: 5..<70, ready: &ready)
        #expect(ready == [1])
        locks.release(2, chunk: 1, blocks: 70..<80, ready: &ready)
        #expect(ready == [1, 4])
    }

    /// Against a list that is scanned in full.
    @Test func agreesWithAPlainListForRandomRuns() {
        struct Held { var owner: Int, chunk: UInt32, blocks: Range<Int>, runs: Bool }
        var random = SeededRandom(seed: 3)
        var locks = BlockLocks(ownersMax: 64)
        var held: [Held] = []
        for _ in 0..<20_000 {
            if held.count < 60, Bool.random(using: &random),
                let owner = (0..<64).first(where: { number in
                    !held.contains { $0.owner == number }
                })
            {
                let first = Int.random(in: 0..<200, using: &random)
                let blocks = first..<(first + Int.random(in: 1...150, using: &random))
                let chunk = UInt32.random(in: 0..<3, using: &random)
                let free = !held.contains { $0.chunk == chunk && $0.blocks.overlaps(blocks) }
                let got = locks.acquire(owner, chunk: chunk, blocks: blocks)
                #expect(got == free)
                held.append(Held(owner: owner, chunk: chunk, blocks: blocks, runs: free))
            } else if let index = held.indices.randomElement(using: &random) {
                // One in four leaves before its turn, as a request that failed does.
                if !held[index].runs, !random.oneIn(4) { continue }
                let gone = held.remove(at: index)
                var ready: [Int] = []
                locks.release(gone.owner, chunk: gone.chunk, blocks: gone.blocks, ready: &ready)
                var expected: [Int] = []
                for (place, other) in held.enumerated() where !other.runs {
                    let isBlocked = held[..<place].contains {
                        $0.chunk == other.chunk && $0.blocks.overlaps(other.blocks)
                    }
                    if !isBlocked { expected.append(other.owner) }
                }
                #expect(ready.sorted() == expected.sorted())
                for owner in ready {
                    for place in held.indices where held[place].owner == owner { held[place].runs = true }
                }
            }
        }
    }
}

@Suite struct TagWindowTests {
    @Test func nobodyRunsMoreThanAWindowAhead() {
        var tags = TagWindow()
        func expectTake(_ expected: UInt64?) {
            let taken = tags.take()
            #expect(taken == expected)
        }
        expectTake(1)
        for sequence in 2...RequestTag.windowRequests { expectTake(sequence) }
        expectTake(nil)
        tags.finish(2)
        expectTake(nil)
        tags.finish(1)
        #expect(tags.oldest == 3)
        expectTake(4097)
        expectTake(4098)
        expectTake(nil)
    }
}

@Suite struct QueueTests {
    @Test func firstInFirstOut() {
        var queue = Queue<Int>()
        var (next, expected) = (0, 0)
        for round in 0..<500 {
            for _ in 0..<(round % 7) {
                queue.append(next)
                next += 1
            }
            for _ in 0..<(round % 5) where !queue.isEmpty {
                let popped = queue.popFirst()
                #expect(popped == expected)
                expected += 1
            }
        }
        #expect(queue.count == next - expected)
    }
}
