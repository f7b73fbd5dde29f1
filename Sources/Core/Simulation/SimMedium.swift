import BlockTypes

/// What a simulated disk keeps: pages as reads see them, and what power loss may take back.
struct SimMedium {
    static let pageBytes = PageShelf.pageBytes

    /// One content of a page since it was last durable; the oldest one is the durable one.
    private struct Version {
        /// Number of the completed write that made it; 0 is the durable one.
        var write: UInt64
        /// ``PageShelf/none`` reads as zeroes.
        let place: PageShelf.Place
        /// The version before it in `versions`, -1 for none.
        var older: Int32
    }
    /// Bytes to write, as the payloads hold them.
    struct Source {
        private let payloads: [Payload]
        let byteCount: Int
        /// Where the last copy ended: copies go from front to back, as a rule.
        private var (index, indexStart) = (0, 0)
        init(_ payloads: [Payload]) {
            self.payloads = payloads
            byteCount = payloads.reduce(0) { $0 + $1.byteCount }
        }
        /// Copies the bytes from place `from` on into all of `target`.
        mutating func copy(from: Int, into target: UnsafeMutableRawBufferPointer) {
            if from < indexStart { (index, indexStart) = (0, 0) }
            var done = 0
            while done < target.count {
                let payload = payloads[index]
                let inside = from + done - indexStart
                guard inside < payload.byteCount else {
                    indexStart += payload.byteCount
                    index += 1
                    continue
                }
                let count = min(payload.byteCount - inside, target.count - done)
                unsafe payload.withBytes {
                    unsafe UnsafeMutableRawBufferPointer(rebasing: target[done..<(done + count)]).copyMemory(
                        from: UnsafeRawBufferPointer(rebasing: $0[inside..<(inside + count)]))
                }
                done += count
            }
        }
    }

    private let sectorBytes: Int
    private let hasVolatileCache: Bool
    private var shelf = PageShelf()
    /// Where each page's bytes lie, by page number. A page never written reads as zeroes.
    private var places: [PageShelf.Place]
    private var usedPages = 0
    /// The newest version of each unsynced page, by page number; -1 for a page that is durable as it is.
    private var newest: [Int32]
    private var versions: [Version] = []
    private var freeVersions: [Int32] = []
    /// Every unsynced page is in here, some more than once, and some that have become durable.
    private var touched: [Int] = []
    private var unsyncedCount = 0
    private var order = Fifo<(write: UInt64, page: Int)>()
    private var latentErrors: Set<Int> = []
    private var cursedThrough: UInt64 = 0
    /// Writes completed so far; a flush saves those up to the number at its submission.
    private(set) var completedWrites: UInt64 = 0

    init(byteCount: UInt64, sectorBytes: Int, hasVolatileCache: Bool) {
        (self.sectorBytes, self.hasVolatileCache) = (sectorBytes, hasVolatileCache)
        let count = Int(byteCount / UInt64(Self.pageBytes))
        places = Array(repeating: PageShelf.none, count: count)
        newest = Array(repeating: -1, count: count)
    }

    /// The same contents, all of them durable.
    var durableCopy: SimMedium {
        var copy = SimMedium(
            byteCount: UInt64(places.count * Self.pageBytes), sectorBytes: sectorBytes,
            hasVolatileCache: hasVolatileCache)
        for page in places.indices where places[page] != PageShelf.none {
            let place = copy.shelf.take()
            unsafe copy.shelf.bytes(place).copyMemory(
                from: UnsafeRawBufferPointer(shelf.bytes(places[page])))
            copy.set(page, place)
        }
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
            if places[page] != PageShelf.none {
                unsafe part.copyMemory(
                    from: UnsafeRawBufferPointer(
                        rebasing: shelf.bytes(places[page])[inside..<(inside + count)]))
            } else {
                _ = unsafe part.initializeMemory(as: UInt8.self, repeating: 0)
            }
            done += count
        }
    }
    /// - Parameter isAcknowledged: false for a write that was in flight at power loss.
    mutating func write(at start: ByteOffset, _ source: Source, isAcknowledged: Bool) {
        completedWrites += 1
        var (source, done) = (source, 0)
        while done < source.byteCount {
            let (page, inside, count) = Self.piece(start, done, source.byteCount)
            let place = count == Self.pageBytes ? shelf.take() : shelf.take(copyOf: places[page])
            unsafe source.copy(
                from: done,
                into: UnsafeMutableRawBufferPointer(
                    rebasing: shelf.bytes(place)[inside..<(inside + count)]))
            replace(page, with: place, isUnsynced: hasVolatileCache || !isAcknowledged)
            done += count
        }
    }
    /// Writes some sectors of a write that fails.
    mutating func tear(at start: ByteOffset, _ source: Source, _ random: inout SeededRandom) {
        var source = source
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
        for page in first..<end where places[page] != PageShelf.none {
            switch random.next() % 3 {
            case 0: break
            case 1: replace(page, with: PageShelf.none, isUnsynced: hasVolatileCache)
            default:
                let place = shelf.take()
                _ = unsafe shelf.bytes(place).initializeMemory(
                    as: UInt8.self, repeating: UInt8(truncatingIfNeeded: random.next()))
                replace(page, with: place, isUnsynced: hasVolatileCache)
            }
        }
    }
    /// Makes everything up to write `through` durable, except what an earlier failed flush has lost.
    mutating func flush(through: UInt64) {
        while let first = order.first, first.write <= through {
            order.removeFirst()
            if first.write > cursedThrough { keepDurably(first.page, through: through) }
        }
    }
    /// A flush failed: what it should have saved is never saved by a later one.
    mutating func curse(through: UInt64) { cursedThrough = max(cursedThrough, through) }

    private mutating func replace(_ page: Int, with place: PageShelf.Place, isUnsynced: Bool) {
        if isUnsynced {
            if newest[page] < 0 {
                note(Version(write: 0, place: places[page], older: -1), of: page)
                touched.append(page)
                unsyncedCount += 1
                forgetSynced()
            }
            note(Version(write: completedWrites, place: place, older: newest[page]), of: page)
            order.append((completedWrites, page))
        } else {
            invariant(newest[page] < 0, "a durable write over page \(page), which is unsynced")
            shelf.giveBack(places[page])
        }
        set(page, place)
        if !latentErrors.isEmpty { latentErrors.remove(page) }
    }

    private mutating func set(_ page: Int, _ place: PageShelf.Place) {
        usedPages += (place == PageShelf.none ? 0 : 1) - (places[page] == PageShelf.none ? 0 : 1)
        places[page] = place
    }

    // MARK: Versions

    private mutating func note(_ version: Version, of page: Int) {
        if let free = freeVersions.popLast() {
            versions[Int(free)] = version
            newest[page] = free
        } else {
            newest[page] = Int32(versions.count)
            versions.append(version)
        }
    }
    /// The newest version up to `through`, if it is not the durable one already, becomes the durable one.
    private mutating func keepDurably(_ page: Int, through: UInt64) {
        var kept = newest[page]
        while kept >= 0, versions[Int(kept)].write > through { kept = versions[Int(kept)].older }
        guard kept >= 0, versions[Int(kept)].write > 0 else { return }
        dropVersions(from: versions[Int(kept)].older, keeping: PageShelf.none)
        if kept == newest[page] {
            freeVersions.append(kept)
            newest[page] = -1
            unsyncedCount -= 1
        } else {
            versions[Int(kept)].older = -1
            versions[Int(kept)].write = 0
        }
    }
    /// Forgets a version and all before it; their bytes, too, but for those in one place.
    private mutating func dropVersions(from first: Int32, keeping place: PageShelf.Place) {
        var index = first
        while index >= 0 {
            let version = versions[Int(index)]
            if version.place != place { shelf.giveBack(version.place) }
            freeVersions.append(index)
            index = version.older
        }
    }
    private mutating func forgetSynced() {
        guard touched.count > 64, touched.count > 4 * unsyncedCount else { return }
        touched = unsyncedPages
    }
    /// In ascending order.
    private var unsyncedPages: [Int] {
        var pages: [Int] = []
        for page in touched.sorted() where newest[page] >= 0 && pages.last != page { pages.append(page) }
        return pages
    }

    // MARK: Power loss

    /// Each sector of each unsynced page keeps any content it had since it was last durable.
    /// - Returns: how many pages were unsynced.
    mutating func losePower(_ random: inout SeededRandom) -> Int {
        let affected = unsyncedPages
        for page in affected {
            // Oldest first.
            var history: [PageShelf.Place] = []
            var index = newest[page]
            while index >= 0 {
                history.append(versions[Int(index)].place)
                index = versions[Int(index)].older
            }
            history.reverse()
            // Whole-page outcomes are made as likely as mixed ones: both kinds of bug exist.
            let isWhole = random.oneIn(2)
            let place =
                isWhole
                ? history[Int.random(in: 0..<history.count, using: &random)] : mixed(history, &random)
            set(page, place)
            dropVersions(from: newest[page], keeping: place)
            newest[page] = -1
        }
        touched.removeAll()
        unsyncedCount = 0
        order.removeAll()
        return affected.count
    }
    private mutating func mixed(
        _ history: [PageShelf.Place], _ random: inout SeededRandom
    ) -> PageShelf.Place {
        let place = shelf.take(copyOf: PageShelf.none)
        for start in stride(from: 0, to: Self.pageBytes, by: sectorBytes) {
            let chosen = history[Int.random(in: 0..<history.count, using: &random)]
            guard chosen != PageShelf.none else { continue }
            unsafe UnsafeMutableRawBufferPointer(
                rebasing: shelf.bytes(place)[start..<(start + sectorBytes)]
            ).copyMemory(
                from: UnsafeRawBufferPointer(
                    rebasing: shelf.bytes(chosen)[start..<(start + sectorBytes)]))
        }
        return place
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
    /// What power loss may bring back is rotten as well, or the bit would heal by itself.
    mutating func rot(at offset: ByteOffset, mask: UInt8) {
        let page = Int(offset.bytes / UInt64(Self.pageBytes))
        if places[page] == PageShelf.none {
            set(page, shelf.take(copyOf: PageShelf.none))
            if newest[page] >= 0 {
                let last = versions[Int(newest[page])]
                versions[Int(newest[page])] = Version(
                    write: last.write, place: places[page], older: last.older)
            }
        }
        unsafe shelf.bytes(places[page])[Int(offset.bytes % UInt64(Self.pageBytes))] ^= mask
    }
    /// True when the write needs no page beyond `limit` bytes of pages.
    func fits(at start: ByteOffset, _ byteCount: Int, within limit: UInt64) -> Bool {
        guard limit != .max else { return true }
        let first = Int(start.bytes / UInt64(Self.pageBytes))
        let last = Int((start.bytes + UInt64(byteCount) - 1) / UInt64(Self.pageBytes))
        let new = (first...last).count { places[$0] == PageShelf.none }
        return new == 0 || UInt64((usedPages + new) * Self.pageBytes) <= limit
    }

    private static func piece(_ start: ByteOffset, _ done: Int, _ total: Int) -> (Int, Int, Int) {
        let place = start.bytes + UInt64(done)
        let inside = Int(place % UInt64(pageBytes))
        return (Int(place / UInt64(pageBytes)), inside, min(pageBytes - inside, total - done))
    }
}
