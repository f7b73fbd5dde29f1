import BlockTypes

/// What members did to counters by comparing and writing, and what was wrong with it.
final class CounterRecord {
    /// Where a counter lies, in sectors from the first counter's block: alone, beside others in a block, and
    /// across the edge of two blocks.
    static let places: [Range<Int>] = [0..<1, 1..<2, 3..<4, 7..<9]

    /// What a counter holds.
    struct State: Equatable {
        var count: UInt64 = 0
        /// Who wrote it, and the number of the attempt: no two are the same.
        var session: UInt64 = 0
        var attempt: UInt64 = 0
    }
    private struct Counter {
        /// Counts that somebody was told to have made.
        var acknowledged: Set<UInt64> = []  // Counted and looked up, never iterated.
        /// The highest one that was seen or made.
        var highest: UInt64 = 0
        /// Attempts whose outcome nobody knows.
        var unknown: UInt64 = 0
    }
    private var counters = Array(repeating: Counter(), count: places.count)
    /// Attempts that were told to have found a difference: they must never take effect.
    private var missed: Set<UInt64> = []  // Looked up, never iterated.
    private var lastAttempt: UInt64 = 0
    private(set) var started = 0
    private(set) var misses = 0
    var acknowledgedCount: Int { counters.reduce(0) { $0 + $1.acknowledged.count } }

    func newAttempt() -> UInt64 {
        started += 1
        lastAttempt += 1
        return lastAttempt
    }
    func highest(_ counter: Int) -> UInt64 { counters[counter].highest }

    /// A counter was read.
    /// - Parameter floor: the highest count known when that was asked for.
    func read(_ state: State, _ counter: Int, floor: UInt64) -> String? {
        counters[counter].highest = max(counters[counter].highest, state.count)
        if state.count < floor {
            return "counter \(counter) shows \(state.count), and \(floor) was there before"
        }
        if missed.contains(state.attempt) {
            return "counter \(counter): attempt \(state.attempt) was told that it had failed, and is done"
        }
        return nil
    }
    func succeeded(_ state: State, _ counter: Int) -> String? {
        counters[counter].highest = max(counters[counter].highest, state.count)
        guard counters[counter].acknowledged.insert(state.count).inserted else {
            return "counter \(counter): two members were told to have made it \(state.count)"
        }
        return nil
    }
    func missed(_ attempt: UInt64) {
        misses += 1
        missed.insert(attempt)
    }
    /// From when an attempt leaves until its outcome is known nobody knows it.
    func lostSight(of counter: Int) { counters[counter].unknown += 1 }
    func foundAgain(_ counter: Int) { counters[counter].unknown -= 1 }

    /// The last word: what is there must be what was made.
    func judge(_ state: State, _ counter: Int) -> String? {
        let known = UInt64(counters[counter].acknowledged.count)
        let most = known + counters[counter].unknown
        guard (known...most).contains(state.count) else {
            return "counter \(counter) ends at \(state.count): \(known) increments were acknowledged, "
                + "\(counters[counter].unknown) have an unknown outcome"
        }
        return nil
    }

    // MARK: Contents

    static func bytes(_ state: State, sectors: Int) -> [UInt8] {
        guard state != State() else { return [UInt8](repeating: 0, count: sectors * 512) }
        var bytes: [UInt8] = []
        for sector in 0..<sectors {
            let words = [state.count, state.session, state.attempt, UInt64(sector)]
            for place in 0..<64 {
                let word = words[place % 4]
                for shift in stride(from: 0, to: 64, by: 8) {
                    bytes.append(UInt8(truncatingIfNeeded: word >> UInt64(shift)))
                }
            }
        }
        return bytes
    }
    /// - Returns: `nil` when the bytes are those of no one attempt.
    static func state(_ bytes: [UInt8]) -> State? {
        func word(_ at: Int) -> UInt64 {
            (0..<8).reduce(0) { $0 | UInt64(bytes[at + $1]) << UInt64($1 * 8) }
        }
        let state = State(count: word(0), session: word(8), attempt: word(16))
        return Self.bytes(state, sectors: bytes.count / 512) == bytes ? state : nil
    }
}
