/// All operations of one value, as one span of time (Gibbons and Korach, "Testing shared memories", 1997).
private struct Zone {
    let value: UInt64
    /// When its write was asked for; 0 for what was there at first.
    let writeStart: UInt64
    var leastFinish: UInt64
    var greatestStart: UInt64
    /// Forward: the value must be there from the first answer to the last question. Backward: all its
    /// operations overlap, so it may have come and gone at one moment between `low` and `high`.
    var isForward: Bool { leastFinish < greatestStart }
    var low: UInt64 { min(leastFinish, greatestStart) }
    var high: UInt64 { max(leastFinish, greatestStart) }
}

/// Exact when each value is written at most once, the initial zero included: O(n log n).
func checkZones(_ operations: [RegisterOperation]) -> RegisterVerdict {
    var zones: [Zone] = []
    var places = ValueTable(countMax: operations.count + 1)
    for operation in operations where operation.kind == .write {
        let isNew = places.insert(operation.value, at: zones.count)
        precondition(isNew, "value \(operation.value) was written twice")
        zones.append(
            Zone(
                value: operation.value, writeStart: operation.start, leastFinish: operation.finish,
                greatestStart: operation.start))
    }
    if places.insert(0, at: zones.count) {
        zones.append(Zone(value: 0, writeStart: 0, leastFinish: 0, greatestStart: 0))
    }
    for operation in operations where operation.kind == .read {
        guard let place = places.place(of: operation.value) else {
            return violation(.unknownValue, [operation.value], operation.finish)
        }
        guard zones[place].writeStart < operation.finish else {
            return violation(.readBeforeWrite, [operation.value], operation.finish)
        }
        zones[place].leastFinish = min(zones[place].leastFinish, operation.finish)
        zones[place].greatestStart = max(zones[place].greatestStart, operation.start)
    }
    return judge(zones.sorted { ($0.low, $0.value) < ($1.low, $1.value) })
}

/// Where each value's zone is: looked up for every operation of every register, so it hashes with one
/// multiplication.
private struct ValueTable {
    private var slots: [(value: UInt64, place: Int)]
    private let shift: UInt64
    private static let none = -1

    init(countMax: Int) {
        var bits: UInt64 = 4
        while 1 << bits < 2 * countMax { bits += 1 }
        shift = 64 - bits
        slots = Array(repeating: (0, Self.none), count: 1 << bits)
    }
    /// - Returns: false when the value is there already.
    mutating func insert(_ value: UInt64, at place: Int) -> Bool {
        let slot = slot(of: value)
        guard slots[slot].place == Self.none else { return false }
        slots[slot] = (value, place)
        return true
    }
    func place(of value: UInt64) -> Int? {
        let place = slots[slot(of: value)].place
        return place == Self.none ? nil : place
    }
    /// The slot that has the value, or the empty one where it would go.
    private func slot(of value: UInt64) -> Int {
        var slot = Int((value &* 0x9E37_79B9_7F4A_7C15) >> shift)
        while slots[slot].place != Self.none, slots[slot].value != value {
            slot = (slot + 1) & (slots.count - 1)
        }
        return slot
    }
}

/// - Parameter zones: by their low ends.
private func judge(_ zones: [Zone]) -> RegisterVerdict {
    let forward = zones.filter(\.isForward)
    for (earlier, later) in zip(forward, forward.dropFirst()) where later.low < earlier.high {
        return violation(.overlappingValues, [earlier.value, later.value], later.low)
    }
    // The forward zones are disjoint and sorted, so at most one can hold a given backward zone.
    var next = 0
    for zone in zones where !zone.isForward {
        while next < forward.count, forward[next].high <= zone.low { next += 1 }
        guard next < forward.count else { break }
        if forward[next].low < zone.low, zone.high < forward[next].high {
            return violation(.valueInsideAnother, [zone.value, forward[next].value], zone.low)
        }
    }
    return .linearizable
}

func violation(_ cause: RegisterViolation.Cause, _ values: [UInt64], _ at: UInt64) -> RegisterVerdict {
    .violated(RegisterViolation(cause: cause, values: values, at: at))
}
