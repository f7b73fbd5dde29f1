import BlockTypes
import Testing

@Suite("Arrays that are emptied again and again") struct ArrayEmptyingTests {
    private final class Piece {
        let number: Int
        init(_ number: Int) { self.number = number }
    }

    @Test("everything is handed out once, in order, and nothing is kept", arguments: 0..<4)
    func empties(count: Int) {
        var pieces = (0..<count).map { Piece($0) }
        weak let last = pieces.last
        let capacity = pieces.capacity
        var seen: [Int] = []
        pieces.empty { seen.append($0.number) }
        #expect(seen == Array(0..<count))
        #expect(pieces.isEmpty && pieces.capacity == capacity && last == nil)
    }
}
