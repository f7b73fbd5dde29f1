/// Keeps every state that the register may be in while the events go by; exact for any history.
///
/// Zero may be written many times, which the zones of `Zones.swift` cannot tell apart (the general problem
/// is NP-complete). What is open at one time is little, so following all orders is cheap in practice.
/// A write takes effect as late as possible, only when an answer demands it (Lowe, "Testing for
/// linearizability", 2017); a read takes effect as soon as its value is there, which can hurt nobody.
///
/// Two kinds of writes need no search. One that may not have happened takes effect right before the
/// first read of its value, or when its time ends, or as well never. One whose value nobody read takes
/// effect, if any other write does before its answer, right before that one, where nobody can notice it.
///
/// Operations that are open at the same time have places, bits of a word: a state is three words.
func searchOrders(
    _ operations: [RegisterOperation], readValues: Set<UInt64>, statesMax: Int
) -> RegisterVerdict {
    var events: [OrderEvent] = []
    for (index, operation) in operations.enumerated() {
        events.append(OrderEvent(time: operation.start, operation: index, isAnswer: false))
        if operation.finish != RegisterOperation.never {
            events.append(OrderEvent(time: operation.finish, operation: index, isAnswer: true))
        }
    }
    events.sort { $0.time < $1.time }
    var search = OrderSearch(statesLeft: statesMax)
    var places: [Int: Int] = [:]  // Looked up by operation.
    for event in events {
        let operation = operations[event.operation]
        guard event.isAnswer else {
            let isSeen = operation.kind == .read || readValues.contains(operation.value)
            guard let place = search.ask(isSeen ? operation : operation.writing(unseenValue)) else {
                return .undecided
            }
            places[event.operation] = place
            continue
        }
        guard let place = places.removeValue(forKey: event.operation), search.answer(place) else {
            return .undecided
        }
        if search.states.isEmpty { return violation(.noOrder, [operation.value], event.time) }
    }
    return .linearizable
}

/// Stands for all values that nobody read. No register holds it: writes count from 1.
private let unseenValue = UInt64.max

private struct OrderEvent {
    let time: UInt64
    let operation: Int
    let isAnswer: Bool
}

private struct OrderState: Equatable {
    var value: UInt64
    /// Asked, not answered, and not yet in effect.
    var waiting: UInt64
    /// Not answered, but in effect already.
    var done: UInt64
}

/// All states that explain what was seen so far.
private struct OrderSearch {
    private(set) var states = [OrderState(value: 0, waiting: 0, done: 0)]
    /// How many more states may be visited.
    private(set) var statesLeft: Int
    private var operations = Array(
        repeating: RegisterOperation(.read, 0, start: 1, finish: 2), count: Self.placesMax)
    /// Places of operations that are open, and those of them that are reads.
    private var taken: UInt64 = 0
    private var reads: UInt64 = 0
    /// Those that are writes of what nobody read.
    private var unseen: UInt64 = 0
    private static let placesMax = 64
    private var seen = OrderStateSet()
    private var reachedSet = OrderStateSet()

    init(statesLeft: Int) { self.statesLeft = statesLeft }

    /// - Returns: the operation's place; `nil` when too many are open.
    mutating func ask(_ operation: RegisterOperation) -> Int? {
        let place = (~taken).trailingZeroBitCount
        guard place < Self.placesMax else { return nil }
        let bit = UInt64(1) << UInt64(place)
        operations[place] = operation
        taken |= bit
        if operation.kind == .read { reads |= bit }
        if operation.value == unseenValue { unseen |= bit }
        for index in states.indices {
            if operation.kind == .read, operation.value == states[index].value {
                states[index].done |= bit
            } else {
                states[index].waiting |= bit
            }
        }
        return place
    }
    /// Leaves the states in which the operation has taken effect, with whatever had to take effect before it.
    /// - Returns: false when there are too many to visit.
    mutating func answer(_ place: Int) -> Bool {
        let bit = UInt64(1) << UInt64(place)
        defer {
            taken &= ~bit
            reads &= ~bit
            unseen &= ~bit
        }
        if states.allSatisfy({ $0.done & bit != 0 }) {
            for index in states.indices { states[index].done &= ~bit }
            return true
        }
        var reached: [OrderState] = []
        reachedSet.removeAll()
        seen.removeAll()
        for state in states { _ = seen.insert(state) }
        var open = states
        while let state = open.popLast() {
            if state.done & bit != 0 {
                var settled = state
                settled.done &= ~bit
                if reachedSet.insert(settled) { reached.append(settled) }
                continue
            }
            if !operations[place].isCertain {
                // It did not happen, and now it cannot any more.
                var without = state
                without.waiting &= ~bit
                if reachedSet.insert(without) { reached.append(without) }
            }
            addSuccessors(of: state, demanded: bit, to: &open)
            if statesLeft < 0 { return false }
        }
        states = reached
        return true
    }
    /// A waiting read wants a value that is not there: only writes can go on.
    private mutating func addSuccessors(
        of state: OrderState, demanded: UInt64, to open: inout [OrderState]
    ) {
        var triedOpenZero = false
        var writes = state.waiting & ~reads & (~unseen | demanded)
        while writes != 0 {
            let bit = writes & (~writes &+ 1)
            writes &= ~bit
            let operation = operations[bit.trailingZeroBitCount]
            let isOpen = operation.finish == RegisterOperation.never
            // Unanswered writes of zero are alike once asked: trying one is enough.
            if isOpen, operation.value == 0 {
                if triedOpenZero { continue }
                triedOpenZero = true
            }
            var changed = state
            changed.waiting &= ~(bit | unseen)
            changed.done |= state.waiting & unseen & ~bit
            if !isOpen { changed.done |= bit }
            changed.value = operation.value
            let isSeen = satisfyReads(&changed)
            guard isSeen || operation.isCertain || bit == demanded, seen.insert(changed) else { continue }
            open.append(changed)
            statesLeft -= 1
        }
    }
    /// Lets all waiting reads of the present value take effect.
    /// - Returns: whether there was one.
    private func satisfyReads(_ state: inout OrderState) -> Bool {
        let before = state.done
        var left = state.waiting & reads
        while left != 0 {
            let bit = left & (~left &+ 1)
            left &= ~bit
            guard operations[bit.trailingZeroBitCount].value == state.value else { continue }
            state.waiting &= ~bit
            state.done |= bit
        }
        return state.done != before
    }
}

/// States that were met; emptied for each answer, so emptying must cost nothing.
private struct OrderStateSet {
    private var slots: [(state: OrderState, round: Int)] = []
    private var round = 1
    private var count = 0

    mutating func removeAll() {
        round += 1
        count = 0
    }
    /// - Returns: false when it is there already.
    mutating func insert(_ state: OrderState) -> Bool {
        if 2 * count >= slots.count { grow() }
        var place = Self.place(of: state) & (slots.count - 1)
        while slots[place].round == round {
            if slots[place].state == state { return false }
            place = (place + 1) & (slots.count - 1)
        }
        slots[place] = (state, round)
        count += 1
        return true
    }
    private mutating func grow() {
        let kept = slots.filter { $0.round == round }.map(\.state)
        let empty = (OrderState(value: 0, waiting: 0, done: 0), 0)
        slots = Array(repeating: empty, count: max(16, 2 * slots.count))
        count = 0
        for state in kept { _ = insert(state) }
    }
    private static func place(of state: OrderState) -> Int {
        var mixed = state.value &* 0x9E37_79B9_7F4A_7C15
        mixed = (mixed ^ state.waiting) &* 0xBF58_476D_1CE4_E5B9
        mixed = (mixed ^ (mixed >> 29) ^ state.done) &* 0x94D0_49BB_1331_11EB
        return Int(truncatingIfNeeded: mixed >> 20)
    }
}
