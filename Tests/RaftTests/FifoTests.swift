import Testing

@testable import Raft

@Suite struct FifoTests {
    @Test("what goes in first comes out first, through any number of compactions")
    func order() {
        var queue = Fifo<Int>()
        var (pushed, popped) = (0, 0)
        for round in 0..<500 {
            for _ in 0..<(round % 7) { (queue.append(pushed), pushed += 1).0 }
            for _ in 0..<(round % 5) {
                guard let element = queue.popFirst() else { break }
                #expect(element == popped)
                popped += 1
            }
            #expect(queue.count == pushed - popped && queue.first == (queue.isEmpty ? nil : popped))
            if !queue.isEmpty { #expect(queue[queue.count - 1] == pushed - 1) }
        }
        #expect(queue.popLast() == pushed - 1)
    }
}
