import Checkers
import Testing

/// Is there an order? Tries them all: shares nothing with the checkers but the operations.
func bruteForce(_ operations: [RegisterOperation]) -> Bool {
    let doubtful = operations.indices.filter { !operations[$0].isCertain && operations[$0].finish != .max }
    return (0..<(1 << doubtful.count)).contains { choice in
        let dropped = doubtful.indices.filter { choice >> $0 & 1 == 1 }.map { doubtful[$0] }
        return hasOrder(operations.indices.filter { !dropped.contains($0) }.map { operations[$0] })
    }
}
private func hasOrder(_ operations: [RegisterOperation]) -> Bool {
    func extend(_ left: [RegisterOperation], _ value: UInt64) -> Bool {
        if left.allSatisfy({ $0.kind == .write && $0.finish == RegisterOperation.never }) { return true }
        let firstAnswer = left.map(\.finish).min() ?? .max
        for (index, operation) in left.enumerated() where operation.start < firstAnswer {
            if operation.kind == .read, operation.value != value { continue }
            var rest = left
            rest.remove(at: index)
            if extend(rest, operation.kind == .write ? operation.value : value) { return true }
        }
        return false
    }
    return extend(operations, 0)
}

/// SplitMix64, so that the test needs no other room.
struct Dice: RandomNumberGenerator {
    var state: UInt64
    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var z = state
        z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
        z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
        return z ^ (z >> 31)
    }
}

@Suite("the register checker") struct RegisterTests {
    func write(_ value: UInt64, _ start: UInt64, _ finish: UInt64) -> RegisterOperation {
        RegisterOperation(.write, value, start: start, finish: finish)
    }
    func read(_ value: UInt64, _ start: UInt64, _ finish: UInt64) -> RegisterOperation {
        RegisterOperation(.read, value, start: start, finish: finish)
    }
    func cause(_ operations: [RegisterOperation]) -> RegisterViolation.Cause? {
        if case .violated(let violation) = checkRegister(operations) { violation.cause } else { nil }
    }

    @Test("good histories pass")
    func good() {
        #expect(cause([]) == nil)
        #expect(cause([read(0, 1, 2)]) == nil)
        #expect(cause([write(7, 1, 2), read(7, 3, 4)]) == nil)
        #expect(cause([write(7, 1, 4), read(0, 2, 3), read(7, 5, 6)]) == nil)
        #expect(cause([write(7, 1, 4), read(7, 2, 3)]) == nil)
        #expect(cause([write(7, 1, 10), write(8, 2, 9), read(8, 3, 4), read(7, 5, 6)]) == nil)
        #expect(cause([write(7, 1, .max), read(0, 2, 3), read(7, 4, 5)]) == nil)
        #expect(cause([write(7, 1, .max), read(0, 2, 3), read(0, 4, 5)]) == nil)
        #expect(cause([write(7, 1, 2), write(0, 3, 4), read(0, 5, 6)]) == nil)
        #expect(cause([write(7, 1, 2), write(0, 3, .max), read(7, 4, 5), read(0, 6, 7)]) == nil)
    }
    @Test("a lost write, a stale read, a value from nowhere and a value that returns are each found")
    func bad() {
        #expect(cause([write(7, 1, 2), read(0, 3, 4)]) == .valueInsideAnother)
        #expect(cause([write(7, 1, 2), write(8, 3, 4), read(7, 5, 6)]) == .valueInsideAnother)
        #expect(cause([read(9, 1, 2)]) == .unknownValue)
        #expect(cause([read(9, 1, 2), write(9, 3, 4)]) == .readBeforeWrite)
        let returned = cause([
            write(7, 1, 20), write(8, 2, 21), read(7, 3, 4), read(8, 5, 6), read(7, 7, 8),
        ])
        #expect(returned == .valueInsideAnother)
        let woven = cause([
            write(7, 1, 20), write(8, 2, 21), read(7, 3, 4), read(8, 5, 6), read(7, 7, 8), read(8, 9, 10),
        ])
        #expect(woven == .overlappingValues)
        #expect(cause([write(7, 1, 2), read(7, 3, 4), read(0, 5, 6)]) != nil)
        #expect(cause([write(7, 1, 2), write(0, 3, 4), read(7, 5, 6), read(0, 7, 8)]) == .noOrder)
        #expect(cause([write(0, 1, 2), write(7, 3, 4), read(0, 5, 6)]) == .noOrder)
        #expect(
            cause([write(7, 1, 2), write(0, 3, .max), read(0, 4, 5), read(7, 6, 7)]) == .noOrder)
    }
    @Test("a late duplicate of an acknowledged write is found when it overwrites a newer value")
    func lateDuplicate() {
        var history = [write(7, 1, 2), write(8, 3, 4)]
        history += [read(8, 5, 6), read(7, 7, 8)]
        #expect(cause(history) != nil)
    }

    /// Random small histories, most of them nearly right: values come from a register that really exists,
    /// then one read may be changed.
    func randomHistory(_ dice: inout Dice, zeroes: Bool) -> [RegisterOperation] {
        let count = Int.random(in: 1...7, using: &dice)
        var times = Array(1...UInt64(2 * count)).shuffled(using: &dice)
        var spans: [(UInt64, UInt64)] = (0..<count).map { _ -> (UInt64, UInt64) in
            let (a, b) = (times.removeLast(), times.removeLast())
            return (min(a, b), max(a, b))
        }
        if Int.random(in: 0..<2, using: &dice) == 0 {
            // Mostly sequential: short spans find more violations.
            spans = (0..<UInt64(count)).map { ($0 * 2 + 1, $0 * 2 + 2) }
        }
        var written: [UInt64] = [0]
        var operations: [RegisterOperation] = []
        for (index, span) in spans.enumerated() where Int.random(in: 0..<2, using: &dice) == 0 {
            let isZero = zeroes && Int.random(in: 0..<2, using: &dice) == 0
            let value = isZero ? 0 : UInt64(index + 1)
            written.append(value)
            let isOpen = Int.random(in: 0..<4, using: &dice) == 0
            let isDoubtful = Int.random(in: 0..<4, using: &dice) == 0
            operations.append(
                RegisterOperation(
                    .write, value, start: span.0, finish: isOpen ? .max : span.1, isCertain: !isDoubtful))
        }
        let taken = Set(operations.map(\.start))
        for span in spans where !taken.contains(span.0) {
            operations.append(read(written.randomElement(using: &dice) ?? 0, span.0, span.1))
        }
        return operations.shuffled(using: &dice)
    }
    @Test(
        "it agrees with trying every order, on 20,000 small histories of each kind", arguments: [false, true])
    func agrees(zeroes: Bool) {
        var dice = Dice(state: zeroes ? 1 : 2)
        var (good, bad) = (0, 0)
        for _ in 0..<20_000 {
            let history = randomHistory(&dice, zeroes: zeroes)
            let expected = bruteForce(history)
            let verdict = checkRegister(history)
            #expect((verdict == .linearizable) == expected, "\(history)")
            if expected { good += 1 } else { bad += 1 }
        }
        #expect(good > 3000 && bad > 3000, "\(good) good, \(bad) bad")
    }
    @Test("it agrees with trying every order on every history of three operations on two values")
    func exhaustive() {
        let orders = permutations([1, 2, 3, 4, 5, 6])
        var seen: Set<[UInt64]> = []
        for order in orders {
            let spans = [0, 2, 4].map { (index: Int) -> (UInt64, UInt64) in
                (min(order[index], order[index + 1]), max(order[index], order[index + 1]))
            }
            guard seen.insert(spans.flatMap { [$0.0, $0.1] }).inserted else { continue }
            for kinds in 0..<216 {
                var (rest, history) = (kinds, [RegisterOperation]())
                var usedOne = false
                for span in spans {
                    let kind = rest % 6
                    rest /= 6
                    switch kind {
                    case 0: history.append(read(0, span.0, span.1))
                    case 1: history.append(read(1, span.0, span.1))
                    case 2: history.append(write(0, span.0, span.1))
                    case 3: history.append(write(0, span.0, .max))
                    default:
                        let value: UInt64 = usedOne ? 2 : 1
                        usedOne = true
                        history.append(write(value, span.0, kind == 4 ? span.1 : .max))
                    }
                }
                guard history.count(where: { $0.kind == .write && $0.value == 2 }) <= 1 else { continue }
                #expect((checkRegister(history) == .linearizable) == bruteForce(history), "\(history)")
            }
        }
        #expect(seen.count == 90)
    }
    func permutations(_ items: [UInt64]) -> [[UInt64]] {
        guard items.count > 1 else { return [items] }
        return items.indices.flatMap { index -> [[UInt64]] in
            var rest = items
            let first = rest.remove(at: index)
            return permutations(rest).map { [first] + $0 }
        }
    }
    @Test("a hundred thousand operations on one register are judged without trouble")
    func large() {
        var history: [RegisterOperation] = []
        for number in 0..<50_000 as Range<UInt64> {
            history.append(write(number + 1, 4 * number + 1, 4 * number + 2))
            history.append(read(number + 1, 4 * number + 3, 4 * number + 4))
        }
        #expect(checkRegister(history) == .linearizable)
        history.append(read(1, 1_000_000, 1_000_001))
        #expect(checkRegister(history) != .linearizable)
    }
}

@Suite("histories of many blocks") struct BlockHistoryTests {
    @Test("a write that did not begin before another one ended comes after it", arguments: [false, true])
    func beginsNow(isKnown: Bool) {
        var history = BlockHistory()
        history.startWrite(1, 0..<8, value: 1)
        history.startWrite(2, 0..<8, value: 2)
        history.finishWrite(1)
        if isKnown { history.beginsNow(2) }
        history.beginsNow(1)
        history.finishWrite(2)
        history.startRead(3, 0..<8)
        history.finishRead(3, values: Array(repeating: 1, count: 8))
        #expect((history.check().violation != nil) == isKnown)
    }
    @Test("each block is judged by itself, and the story of a bad one can be read")
    func blocks() {
        var history = BlockHistory()
        history.startWrite(1, 0..<4, value: 11)
        history.finishWrite(1)
        history.startRead(2, 0..<4)
        history.finishRead(2, values: [11, 11, 11, 11])
        #expect(history.check().violation == nil)
        history.startWrite(3, 2..<3, value: 12)
        history.fail(3)
        history.startRead(4, 1..<4)
        history.finishRead(4, values: [11, 12, 11])
        #expect(history.check().violation == nil)
        history.startRead(5, 2..<3)
        history.finishRead(5, values: [11])
        let found = history.check().violation
        #expect(found?.register == 2 && found?.what.values.contains(11) == true)
        #expect(history.story(of: 2).count == 5)
    }
    @Test("a write still open when the world ends may have happened or not")
    func open() {
        var history = BlockHistory()
        history.startWrite(1, 0..<2, value: 5)
        history.startRead(2, 0..<2)
        history.finishRead(2, values: [5, 0])
        #expect(history.check().violation == nil && history.openCount == 1)
    }
}
