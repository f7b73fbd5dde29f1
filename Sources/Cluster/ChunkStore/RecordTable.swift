import BlockTypes

/// Fixed-size records in pages that are written copy-on-write at checkpoints; index pages hold the pages'
/// places and checksums, the superblock those of the index pages.
///
/// The page images stay in memory. Only the checkpointer changes them, while it captures.
struct RecordTable {
    static let refsPerPage = 512
    static let pageWords = 512

    let recordWords: Int
    private let pagesMax: Int
    private(set) var images: [[UInt64]] = []
    var pages: [PageRef] = []
    var indexPages: [PageRef] = []
    private(set) var dirtyPages: [Int] = []
    private var isDirty: [Bool] = []
    private var freeSlots: [Int] = []

    var recordsPerPage: Int { Self.pageWords / recordWords }

    init(recordWords: Int, indexPagesMax: Int) {
        self.recordWords = recordWords
        pagesMax = indexPagesMax * Self.refsPerPage
    }

    /// A slot nobody uses; `nil` when the table is as large as the superblock allows.
    mutating func takeSlot() -> Int? {
        if freeSlots.isEmpty {
            guard images.count < pagesMax else { return nil }
            let first = images.count * recordsPerPage
            appendPage(Array(repeating: 0, count: Self.pageWords), ref: .none)
            freeSlots = Array((first..<(first + recordsPerPage)).reversed())
        }
        return freeSlots.popLast()
    }
    /// Clears a record. Its slot may be taken again at once: the old page stays as it is until the next root.
    mutating func clear(_ slot: Int) {
        write(slot, Array(repeating: 0, count: recordWords))
        freeSlots.append(slot)
    }
    mutating func write(_ slot: Int, _ words: [UInt64]) {
        invariant(words.count <= recordWords, "a record of \(words.count) words")
        let (page, start) = (slot / recordsPerPage, slot % recordsPerPage * recordWords)
        for (index, word) in words.enumerated() { images[page][start + index] = word }
        touch(page)
    }
    mutating func writeWord(_ slot: Int, _ index: Int, _ word: UInt64) {
        let (page, start) = (slot / recordsPerPage, slot % recordsPerPage * recordWords)
        images[page][start + index] = word
        touch(page)
    }
    private mutating func touch(_ page: Int) {
        guard !isDirty[page] else { return }
        isDirty[page] = true
        dirtyPages.append(page)
    }
    /// Forgets what is dirty: it is about to be written.
    mutating func takeDirtyPages() -> [Int] {
        let taken = dirtyPages
        for page in taken { isDirty[page] = false }
        dirtyPages = []
        return taken
    }
    /// The refs of index page `index`, padded to a page.
    func indexImage(_ index: Int) -> [UInt64] {
        let start = index * Self.refsPerPage
        var image = pages[start..<min(pages.count, start + Self.refsPerPage)].map(\.word)
        image.append(contentsOf: repeatElement(0, count: Self.pageWords - image.count))
        return image
    }
    var indexPageCount: Int { (pages.count + Self.refsPerPage - 1) / Self.refsPerPage }

    // Recovery.

    mutating func appendPage(_ image: [UInt64], ref: PageRef) {
        images.append(image)
        pages.append(ref)
        isDirty.append(false)
    }
    /// Calls `body` with each record in use (its first word is not 0) and collects the free slots.
    mutating func scan(_ body: (Int, ArraySlice<UInt64>) -> Bool) -> Bool {
        freeSlots = []
        for page in images.indices {
            for place in 0..<recordsPerPage {
                let start = place * recordWords
                if images[page][start] == 0 {
                    freeSlots.append(page * recordsPerPage + place)
                } else if !body(page * recordsPerPage + place, images[page][start..<(start + recordWords)]) {
                    return false
                }
            }
        }
        freeSlots.reverse()
        return true
    }
}
