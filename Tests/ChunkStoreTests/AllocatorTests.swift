import BlockTypes
import Testing

@testable import ChunkStore

@Suite struct AllocatorTests {
    let layout = StoreLayout(deviceBytes: 32 << 20, sectorBytes: 4096, journalBytes: 1 << 20)

    @Test("any order of taking and freeing hands out each block once and loses none")
    func everything() {
        for seed in 0..<UInt64(20) {
            var random = SeededRandom(seed: seed)
            var allocator = BlockAllocator(layout: layout)
            allocator.buildLists()
            let capacity = allocator.capacityBlocks
            var taken: [Span] = []
            var owned: Set<UInt32> = []
            for _ in 0..<3000 {
                if random.oneIn(2) || taken.isEmpty {
                    let count =
                        random.oneIn(4)
                        ? Int.random(in: 17...256, using: &random) : Int.random(in: 1...16, using: &random)
                    let kind: SegmentClass = random.oneIn(5) ? .meta : count > 16 ? .large : .small
                    guard let spans = allocator.take(exactly: count, kind) else {
                        #expect(allocator.freeBlocks < count)
                        continue
                    }
                    #expect(spans.blockCount == count)
                    for place in 0..<spans.count {
                        taken.append(spans[place])
                        for block in spans[place].start..<spans[place].end {
                            #expect(owned.insert(block).inserted && allocator.isDataBlock(block, layout))
                        }
                    }
                } else {
                    let span = taken.remove(at: Int.random(in: 0..<taken.count, using: &random))
                    allocator.free(span)
                    owned.subtract(span.start..<span.end)
                }
                #expect(allocator.freeBlocks == capacity - owned.count)
            }
            for span in taken { allocator.free(span) }
            #expect(allocator.freeBlocks == capacity)
        }
    }
    @Test("a large request on an empty store is one run inside its segment")
    func contiguous() throws {
        var allocator = BlockAllocator(layout: layout)
        allocator.buildLists()
        _ = allocator.take(exactly: 5, .small)
        let spans = allocator.take(exactly: 256, .large)
        #expect(spans?.count == 1)
    }
    @Test("small writes fill the fullest segment, large ones an empty one, pages another")
    func classes() throws {
        var allocator = BlockAllocator(layout: layout)
        allocator.buildLists()
        func segment(_ kind: SegmentClass) throws -> UInt32 {
            let span = allocator.take(upTo: 1, kind)
            return try #require(span).start / UInt32(BlockAllocator.segmentBlocks)
        }
        let segments = [try segment(.small), try segment(.large), try segment(.meta)]
        #expect(Set(segments).count == 3)
        let again = try segment(.small)
        #expect(again == segments[0])
    }
    @Test("the last free block is found")
    func last() {
        var allocator = BlockAllocator(layout: layout)
        allocator.buildLists()
        let most = allocator.take(exactly: allocator.capacityBlocks - 1, .large)
        let last = allocator.take(upTo: 8, .small)
        let none = allocator.take(upTo: 1, .small)
        #expect(most != nil && last?.count == 1 && none == nil)
    }
}
