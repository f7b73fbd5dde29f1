import BlockTypes

/// What a simulated disk keeps: pages as reads see them, and what power loss may take back.
struct SimMedium {
    static let pageBytes = 4096
    private typealias Page = [UInt8]

    /// One content of a page since it was last durable.
    private struct Version {
        /// Number of the completed write that made it; 0 is the durable one.
        let write: UInt64
        /// `nil` reads as zeroes.
        let page: Page?
    }
    /// Bytes to write, as the payloads hold them.
    struct Source {
        private let payloads: [Payload]
        private let starts: [Int]
        let byteCount: Int
        init(_ payloads: [Payload]) {
            self.payloads = payloads
            var (starts, total) = ([Int](), 0)
            for payload in payloads {
                starts.append(total)
                total += payload.byteCount
            }
            (self.starts, byteCount) = (starts, total)
        }
        /// Copies the bytes from place `from` on into all of `target`.
        func copy(from: Int, into target: UnsafeMutableRawBufferPointer) {
            var index = (starts.lastIndex { $0 <= from }) ?? 0
            var done = 0
            while done < target.count {
                let payload = payloads[index]
                let inside = from + done - starts[index]
                let count = min(payload.byteCount - inside, target.count - done)
                unsafe payload.withBytes {
                    unsafe UnsafeMutableRawBufferPointer(rebasing: target[done..<(done + count)]).copyMemory(
                        from: UnsafeRawBufferPointer(rebasing: $0[inside..<(inside + count)]))
                }
                done += count
                index += 1
            }
        }
    }

    private let sectorBytes: Int
    private let hasVolatileCache: Bool
    /// Looked up by page number; sorted where the order can be seen. A page never written reads as zeroes.
    private var pages: [Int: Page] = [:]
    private var unsynced: [Int: [Version]] = [:]
    private var order = Fifo<(write: UInt64, page: Int)>()
    private var latentErrors: Set<Int> = []
    private var cursedThrough: UInt64 = 0
    /// Writes completed so far; a flush saves those up to the number at its submission.
    private(set) var completedWrites: UInt64 = 0

    init(sectorBytes: Int, hasVolatileCache: Bool) {
        (self.sectorBytes, self.hasVolatileCache) = (sectorBytes, hasVolatileCache)
    }

    /// The same contents, all of them durable.
    var durableCopy: SimMedium {
        var copy = SimMedium(sectorBytes: sectorBytes, hasVolatileCache: hasVolatileCache)
        copy.pages = pages
        return copy
    }

    // MARK: Requests

    func read(at start: ByteOffset, into target: Payload) {
        var done = 0
        while done < target.byteCount {
            let (page, inside, count) = Self.piece(start, done, target.byteCount)
            let from = target.startByte + done
            let part = unsafe UnsafeMutableRawBufferPointer(
                rebasing: target.buffer.bytes[from..<(from + count)])
            if let bytes = pages[page] {
                unsafe bytes.withUnsafeBytes {
                    unsafe part.copyMemory(
                        from: UnsafeRawBufferPointer(rebasing: $0[inside..<(inside + count)]))
                }
            } else {
                _ = unsafe part.initializeMemory(as: UInt8.self, repeating: 0)
            }
            done += count
        }
    }
    /// - Parameter isAcknowledged: false for a write that was in flight at power loss.
    mutating func write(at start: ByteOffset, _ source: Source, isAcknowledged: Bool) {
        completedWrites += 1
        var done = 0
        while done < source.byteCount {
            let (page, inside, count) = Self.piece(start, done, source.byteCount)
            var bytes = count == Self.pageBytes ? nil : pages[page]
            if bytes == nil { bytes = Page(repeating: 0, count: Self.pageBytes) }
            unsafe bytes?.withUnsafeMutableBytes {
                unsafe source.copy(
                    from: done, into: UnsafeMutableRawBufferPointer(rebasing: $0[inside..<(inside + count)]))
            }
            replace(page, with: bytes, isUnsynced: hasVolatileCache || !isAcknowledged)
            done += count
        }
    }
    /// Writes some sectors of a write that fails.
    mutating func tear(at start: ByteOffset, _ source: Source, _ random: inout SeededRandom) {
        for at in stride(from: 0, to: source.byteCount, by: sectorBytes) where random.oneIn(2) {
            let sector = BlockBuffer(byteCount: sectorBytes)
            unsafe source.copy(
                from: at, into: UnsafeMutableRawBufferPointer(rebasing: sector.bytes[..<sectorBytes]))
            write(
                at: ByteOffset(bytes: start.bytes + UInt64(at)),
                Source([Payload(sector, byteCount: sectorBytes)]), isAcknowledged: true)
        }
    }
    /// The bytes become anything: what they were, zeroes or rubbish.
    mutating func discard(at start: ByteOffset, _ count: ByteCount, _ random: inout SeededRandom) {
        completedWrites += 1
        let first = Int((start.bytes + UInt64(Self.pageBytes - 1)) / UInt64(Self.pageBytes))
        let end = Int((start.bytes + count.bytes) / UInt64(Self.pageBytes))
        guard first < end else { return }
        for page in first..<end where pages[page] != nil {
            switch random.next() % 3 {
            case 0: break
            case 1: replace(page, with: nil, isUnsynced: hasVolatileCache)
            default:
                replace(
                    page,
                    with: Page(repeating: UInt8(truncatingIfNeeded: random.next()), count: Self.pageBytes),
                    isUnsynced: hasVolatileCache)
            }
        }
    }
    /// Makes everything up to write `through` durable, except what an earlier failed flush has lost.
    mutating func flush(through: UInt64) {
        while let first = order.first, first.write <= through {
            order.removeFirst()
            guard first.write > cursedThrough, let versions = unsynced[first.page],
                let keep = versions.lastIndex(where: { $0.write <= through }), keep > 0
            else { continue }
            if keep == versions.count - 1 {
                unsynced[first.page] = nil
            } else {
                unsynced[first.page] =
                    [Version(write: 0, page: versions[keep].page)] + versions[(keep + 1)...]
            }
        }
    }
    /// A flush failed: what it should have saved is never saved by a later one.
    mutating func curse(through: UInt64) { cursedThrough = max(cursedThrough, through) }

    private mutating func replace(_ page: Int, with bytes: Page?, isUnsynced: Bool) {
        if isUnsynced {
            unsynced[page, default: [Version(write: 0, page: pages[page])]].append(
                Version(write: completedWrites, page: bytes))
            order.append((completedWrites, page))
        }
        pages[page] = bytes
        latentErrors.remove(page)
    }

    // MARK: Power loss

    /// Each sector of each unsynced page keeps any content it had since it was last durable.
    /// - Returns: how many pages were unsynced.
    mutating func losePower(_ random: inout SeededRandom) -> Int {
        let affected = unsynced.keys.sorted()
        for page in affected {
            guard let versions = unsynced[page] else { continue }
            // Whole-page outcomes are made as likely as mixed ones: both kinds of bug exist.
            let whole = random.oneIn(2) ? Int.random(in: 0..<versions.count, using: &random) : nil
            if let whole {
                pages[page] = versions[whole].page
                continue
            }
            var mixed = Page(repeating: 0, count: Self.pageBytes)
            for start in stride(from: 0, to: Self.pageBytes, by: sectorBytes) {
                let choice = Int.random(in: 0..<versions.count, using: &random)
                guard let chosen = versions[choice].page else { continue }
                mixed.replaceSubrange(
                    start..<(start + sectorBytes), with: chosen[start..<(start + sectorBytes)])
            }
            pages[page] = mixed
        }
        unsynced.removeAll()
        order.removeAll()
        return affected.count
    }

    // MARK: Damage and space

    func hasLatentError(at start: ByteOffset, byteCount: Int) -> Bool {
        guard !latentErrors.isEmpty else { return false }
        let first = Int(start.bytes / UInt64(Self.pageBytes))
        let last = Int((start.bytes + UInt64(byteCount) - 1) / UInt64(Self.pageBytes))
        return (first...last).contains { latentErrors.contains($0) }
    }
    mutating func breakPage(at offset: ByteOffset) {
        latentErrors.insert(Int(offset.bytes / UInt64(Self.pageBytes)))
    }
    mutating func rot(at offset: ByteOffset, mask: UInt8) {
        let page = Int(offset.bytes / UInt64(Self.pageBytes))
        var bytes = pages[page] ?? Page(repeating: 0, count: Self.pageBytes)
        bytes[Int(offset.bytes % UInt64(Self.pageBytes))] ^= mask
        pages[page] = bytes
        // What power loss may bring back is rotten as well, or the bit would heal by itself.
        guard let versions = unsynced[page], let last = versions.last else { return }
        unsynced[page] = versions.dropLast() + [Version(write: last.write, page: bytes)]
    }
    /// True when the write needs no page beyond `limit` bytes of pages.
    func fits(at start: ByteOffset, _ byteCount: Int, within limit: UInt64) -> Bool {
        guard limit != .max else { return true }
        let first = Int(start.bytes / UInt64(Self.pageBytes))
        let last = Int((start.bytes + UInt64(byteCount) - 1) / UInt64(Self.pageBytes))
        let new = (first...last).count { pages[$0] == nil }
        return new == 0 || UInt64((pages.count + new) * Self.pageBytes) <= limit
    }

    private static func piece(_ start: ByteOffset, _ done: Int, _ total: Int) -> (Int, Int, Int) {
        let place = start.bytes + UInt64(done)
        let inside = Int(place % UInt64(pageBytes))
        return (Int(place / UInt64(pageBytes)), inside, min(pageBytes - inside, total - done))
    }
}
