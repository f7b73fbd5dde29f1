import BlockTypes

/// A run of device blocks.
struct Span: Hashable {
    var start: UInt32
    var count: UInt32
    var end: UInt32 { start + count }
    var startByte: UInt64 { UInt64(start) * 4096 }
    var byteCount: Int { Int(count) * 4096 }
}

/// A few spans, in the order of the blocks they hold. One span, the usual case, needs no heap memory.
struct Spans: Hashable {
    private(set) var first: Span?
    private(set) var rest: [Span] = []
    var count: Int { first == nil ? 0 : 1 + rest.count }
    var isEmpty: Bool { first == nil }
    @inline(__always) subscript(_ place: Int) -> Span {
        if place > 0 { return rest[place - 1] }
        guard let first else { invariantFailed("no span at \(place)") }
        return first
    }
    var blockCount: Int { rest.reduce(Int(first?.count ?? 0)) { $0 + Int($1.count) } }
    mutating func append(_ span: Span) {
        if let last = rest.last {
            if last.end == span.start {
                rest[rest.count - 1].count += span.count
            } else {
                rest.append(span)
            }
        } else if let only = first {
            if only.end == span.start { first?.count += span.count } else { rest.append(span) }
        } else {
            first = span
        }
    }
    /// The device block that holds block `place` of the whole.
    func block(_ place: Int) -> UInt32 {
        var left = UInt32(place)
        for index in 0..<count {
            let span = self[index]
            if left < span.count { return span.start + left }
            left -= span.count
        }
        invariantFailed("no block \(place)")
    }
}

/// Like ``invariant(_:_:file:line:)`` where there is no value to go on with.
func invariantFailed(_ why: @autoclosure () -> String) -> Never {
    invariant(false, why())
    preconditionFailure("unreachable")
}

/// What a segment is filled with; known in memory only.
enum SegmentClass: Int, CaseIterable {
    /// All free, for anybody.
    case none
    /// Entries of up to 16 blocks.
    case small
    /// Larger entries and pieces of full copies.
    case large
    /// Map pages.
    case meta
}

/// Which device blocks are taken, and which to take next.
///
/// Small writes go to the fullest segment that still has 1/16 free, large ones to the emptiest, map pages to
/// segments of their own (ENGINE 3.2, 4.8: keeps large writes in few pieces on an aged store). Segments are
/// found through lists by class and free count, never by looking at all of them.
struct BlockAllocator {
    static let segmentBlocks = 1024
    static let smallBlocksMax = 16
    private static let bucketCount = 33
    private static let none: Int32 = -1

    private var taken: [UInt64]
    private var freeCounts: [Int32]
    private var classes: [SegmentClass]
    private var listHeads: [Int32]
    private var next: [Int32]
    private var previous: [Int32]
    private var currentSegment = [Int32](repeating: -1, count: SegmentClass.allCases.count)
    private var cursors = [UInt32](repeating: 0, count: SegmentClass.allCases.count)
    private var listsAreBuilt = false
    private(set) var freeBlocks = 0
    /// Blocks of the data area: everything that is not superblock or journal.
    private(set) var capacityBlocks = 0
    private let endBlock: UInt32

    /// Everything after the journal free but the superblocks; call ``buildLists()`` after marking what is in
    /// use.
    init(layout: StoreLayout) {
        endBlock = layout.endBlock
        let segments = (Int(layout.endBlock) + Self.segmentBlocks - 1) / Self.segmentBlocks
        taken = Array(repeating: UInt64.max, count: segments * Self.segmentBlocks / 64)
        freeCounts = Array(repeating: 0, count: segments)
        classes = Array(repeating: .none, count: segments)
        listHeads = Array(repeating: Self.none, count: SegmentClass.allCases.count * Self.bucketCount)
        next = Array(repeating: Self.none, count: segments)
        previous = Array(repeating: Self.none, count: segments)
        free(Span(start: layout.firstDataBlock, count: layout.endBlock - layout.firstDataBlock))
        for block in layout.superblockBlocks where block >= layout.firstDataBlock {
            _ = reserve(block)
        }
        capacityBlocks = freeBlocks
    }

    @inline(__always) func isTaken(_ block: UInt32) -> Bool {
        taken[Int(block >> 6)] >> UInt64(block & 63) & 1 == 1
    }
    func isDataBlock(_ block: UInt32, _ layout: StoreLayout) -> Bool {
        block >= layout.firstDataBlock && block < endBlock && !layout.superblockBlocks.contains(block)
    }
    /// Marks one block taken. For recovery.
    /// - Returns: false when it was taken already.
    mutating func reserve(_ block: UInt32) -> Bool {
        guard block < endBlock, !isTaken(block) else { return false }
        mark(Span(start: block, count: 1))
        return true
    }
    /// Starts handing out blocks.
    mutating func buildLists() {
        listsAreBuilt = true
        for segment in freeCounts.indices.reversed() { link(segment) }
    }

    /// Takes up to `count` adjacent blocks. Adjacent beats full: a short request looks through its segment
    /// for a run that holds all of it.
    mutating func take(upTo count: Int, _ kind: SegmentClass) -> Span? {
        guard freeBlocks > 0, count > 0 else { return nil }
        while true {
            let segment = currentSegment[kind.rawValue]
            if segment >= 0, let span = findRun(upTo: count, in: Int(segment), from: cursors[kind.rawValue]) {
                mark(span)
                cursors[kind.rawValue] = span.end
                return span
            }
            guard let chosen = chooseSegment(for: kind) else { return nil }
            setClass(of: chosen, kind)
            currentSegment[kind.rawValue] = Int32(chosen)
            cursors[kind.rawValue] = UInt32(chosen * Self.segmentBlocks)
        }
    }
    /// Takes exactly `count` blocks, in as few spans as it can.
    mutating func take(exactly count: Int, _ kind: SegmentClass) -> Spans? {
        guard freeBlocks >= count else { return nil }
        var (spans, left) = (Spans(), count)
        while left > 0 {
            guard let span = take(upTo: left, kind) else { invariantFailed("free blocks that are not found") }
            spans.append(span)
            left -= Int(span.count)
        }
        return spans
    }
    /// Gives blocks back. Only what rule R1 has released may come here.
    mutating func free(_ span: Span) {
        eachWord(span) { words, word, mask in
            invariant(words[word] & mask == mask, "block freed twice near \(span.start)")
            words[word] &= ~mask
        }
        count(span, by: 1)
    }

    private mutating func mark(_ span: Span) {
        eachWord(span) { words, word, mask in
            invariant(words[word] & mask == 0, "block taken twice near \(span.start)")
            words[word] |= mask
        }
        count(span, by: -1)
    }
    private mutating func eachWord(_ span: Span, _ body: (inout [UInt64], Int, UInt64) -> Void) {
        var block = span.start
        while block < span.end {
            let (word, bit) = (Int(block >> 6), block & 63)
            let bits = min(64 - bit, span.end - block)
            let mask = (bits == 64 ? UInt64.max : (1 << UInt64(bits) - 1)) << UInt64(bit)
            body(&taken, word, mask)
            block += bits
        }
    }
    private mutating func count(_ span: Span, by sign: Int) {
        freeBlocks += sign * Int(span.count)
        var block = span.start
        while block < span.end {
            let segment = Int(block) / Self.segmentBlocks
            let here = min(span.end, UInt32((segment + 1) * Self.segmentBlocks)) - block
            let (old, new) = (freeCounts[segment], freeCounts[segment] + Int32(sign) * Int32(here))
            if listsAreBuilt && (old >> 5 != new >> 5 || old == 0 || new == 0 || new == 1024) {
                unlink(segment)
                freeCounts[segment] = new
                if new == 1024 && !currentSegment.contains(Int32(segment)) { classes[segment] = .none }
                link(segment)
            } else {
                freeCounts[segment] = new
            }
            block += here
        }
    }

    /// The first free run at or after `from`; for a short request the first that is long enough, if there is
    /// one.
    private func findRun(upTo count: Int, in segment: Int, from: UInt32) -> Span? {
        guard freeCounts[segment] > 0 else { return nil }
        let end = UInt32((segment + 1) * Self.segmentBlocks)
        var best: Span?
        var at = from
        while let start = nextFree(at, end) {
            var stop = start + 1
            while stop < end && stop - start < UInt32(count) && !isTaken(stop) { stop += 1 }
            let run = Span(start: start, count: stop - start)
            if Int(run.count) == count { return run }
            if best.map({ run.count > $0.count }) ?? true { best = run }
            at = stop
        }
        // Passing over what is too short loses nothing: the segment is visited again when it is chosen again.
        return best
    }
    private func nextFree(_ from: UInt32, _ end: UInt32) -> UInt32? {
        var block = from
        while block < end {
            let free = ~taken[Int(block >> 6)] >> UInt64(block & 63)
            if free != 0 {
                let found = block + UInt32(free.trailingZeroBitCount)
                return found < end ? found : nil
            }
            block = (block | 63) + 1
        }
        return nil
    }

    private func chooseSegment(for kind: SegmentClass) -> Int? {
        switch kind {
        case .small:
            fullest(.small, atLeast: 2) ?? emptiest(.none) ?? fullest(.small) ?? emptiest(.large)
                ?? emptiest(.meta)
        case .large:
            emptiest(.large, atLeast: 8) ?? emptiest(.none) ?? emptiest(.large) ?? emptiest(.small)
                ?? emptiest(.meta)
        case .meta, .none:
            emptiest(.meta, atLeast: 8) ?? emptiest(.none) ?? emptiest(.meta) ?? emptiest(.small)
                ?? emptiest(.large)
        }
    }
    private func fullest(_ kind: SegmentClass, atLeast bucket: Int = 0) -> Int? {
        for bucket in bucket..<Self.bucketCount {
            let head = listHeads[kind.rawValue * Self.bucketCount + bucket]
            if head >= 0 { return Int(head) }
        }
        return nil
    }
    private func emptiest(_ kind: SegmentClass, atLeast low: Int = 0) -> Int? {
        for bucket in (low..<Self.bucketCount).reversed() {
            let head = listHeads[kind.rawValue * Self.bucketCount + bucket]
            if head >= 0 { return Int(head) }
        }
        return nil
    }
    private mutating func setClass(of segment: Int, _ kind: SegmentClass) {
        guard classes[segment] != kind else { return }
        unlink(segment)
        classes[segment] = kind
        link(segment)
    }
    /// A full segment is in no list.
    private mutating func link(_ segment: Int) {
        guard freeCounts[segment] > 0 else { return }
        let list = classes[segment].rawValue * Self.bucketCount + Int(freeCounts[segment] >> 5)
        next[segment] = listHeads[list]
        previous[segment] = Self.none
        if listHeads[list] >= 0 { previous[Int(listHeads[list])] = Int32(segment) }
        listHeads[list] = Int32(segment)
    }
    private mutating func unlink(_ segment: Int) {
        guard freeCounts[segment] > 0 else { return }
        let list = classes[segment].rawValue * Self.bucketCount + Int(freeCounts[segment] >> 5)
        let (before, after) = (previous[segment], next[segment])
        if before >= 0 { next[Int(before)] = after } else { listHeads[list] = after }
        if after >= 0 { previous[Int(after)] = before }
    }
}
