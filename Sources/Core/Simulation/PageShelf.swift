import BlockTypes

/// Places for the bytes of pages, in a few large pieces of memory: a write takes one and asks no heap.
struct PageShelf {
    /// Names a place; ``none`` stands for zeroes that lie nowhere.
    typealias Place = Int32
    static let none: Place = -1
    static let pageBytes = 4096
    private static let boardPages = 64

    private var boards: [BlockBuffer] = []
    private var free: [Place] = []

    /// A place of undefined contents.
    mutating func take() -> Place {
        if let place = free.popLast() { return place }
        let first = boards.count * Self.boardPages
        boards.append(BlockBuffer(byteCount: Self.boardPages * Self.pageBytes))
        for index in (1..<Self.boardPages).reversed() { free.append(Place(first + index)) }
        return Place(first)
    }
    /// A place with the bytes that another one has.
    mutating func take(copyOf other: Place) -> Place {
        let place = take()
        if other == Self.none {
            _ = unsafe bytes(place).initializeMemory(as: UInt8.self, repeating: 0)
        } else {
            unsafe bytes(place).copyMemory(from: UnsafeRawBufferPointer(bytes(other)))
        }
        return place
    }
    mutating func giveBack(_ place: Place) { if place != Self.none { free.append(place) } }
    /// The bytes in a place; valid as long as the shelf is.
    @unsafe func bytes(_ place: Place) -> UnsafeMutableRawBufferPointer {
        let start = Int(place) % Self.boardPages * Self.pageBytes
        return unsafe UnsafeMutableRawBufferPointer(
            rebasing: boards[Int(place) / Self.boardPages].bytes[start..<(start + Self.pageBytes)])
    }
}
