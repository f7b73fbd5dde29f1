/// Keeps every state that the register may be in while the events go by; exact for any history.
///
/// Zero may be written many times, which the zones of `Zones.swift` cannot tell apart (the general problem
/// is NP-complete). What is open at one time is little, so following all orders is cheap in practice.
/// A write takes effect as late as possible, only when an answer demands it (Lowe, "Testing for
/// linearizability", 2017); a read takes effect as soon as its value is there, which can hurt nobody.
private struct OrderState: Hashable {
    var value: UInt64
    /// Asked, not answered, and not yet in effect; ascending places in the list of operations.
    var waiting: [Int]
    /// Not answered, but in effect already.
    var done: [Int]

    /// Lets all waiting reads of the present value take effect.
    mutating func satisfyReads(_ operations: [RegisterOperation]) {
        for index in waiting where operations[index].kind == .read && operations[index].value == value {
            finish(index)
        }
        waiting.removeAll { operations[$0].kind == .read && operations[$0].value == value }
    }
    /// Notes an operation that is in effect before it is answered.
    mutating func finish(_ index: Int) {
        done.insert(index, at: done.firstIndex { $0 > index } ?? done.count)
    }
}

private struct OrderEvent {
    let time: UInt64
    let operation: Int
    let isAnswer: Bool
}

func searchOrders(_ operations: [RegisterOperation], statesMax: Int) -> RegisterVerdict {
    var events: [OrderEvent] = []
    for (index, operation) in operations.enumerated() {
        events.append(OrderEvent(time: operation.start, operation: index, isAnswer: false))
        if operation.finish != RegisterOperation.never {
            events.append(OrderEvent(time: operation.finish, operation: index, isAnswer: true))
        }
    }
    events.sort { $0.time < $1.time }
    var states: Set<OrderState> = [OrderState(value: 0, waiting: [], done: [])]
    var statesLeft = statesMax
    for event in events {
        if event.isAnswer {
            guard let next = answer(event.operation, operations, states, &statesLeft) else {
                return .undecided
            }
            states = next
            if states.isEmpty { return violation(.noOrder, [operations[event.operation].value], event.time) }
        } else {
            states = Set(
                states.map {
                    var state = $0
                    state.waiting.append(event.operation)
                    state.satisfyReads(operations)
                    return state
                })
        }
    }
    return .linearizable
}

/// The states in which `index` has taken effect, with whatever had to take effect before it.
private func answer(
    _ index: Int, _ operations: [RegisterOperation], _ states: Set<OrderState>,
    _ statesLeft: inout Int
) -> Set<OrderState>? {
    var reached: Set<OrderState> = []
    var seen = states
    var open = Array(states)
    while let state = open.popLast() {
        if let position = state.done.firstIndex(of: index) {
            var settled = state
            settled.done.remove(at: position)
            reached.insert(settled)
            continue
        }
        if !operations[index].isCertain {
            // It did not happen, and now it cannot any more.
            var without = state
            without.waiting.removeAll { $0 == index }
            reached.insert(without)
        }
        for next in successors(state, operations) where seen.insert(next).inserted {
            open.append(next)
            statesLeft -= 1
        }
        if statesLeft < 0 { return nil }
    }
    return reached
}

private func successors(_ state: OrderState, _ operations: [RegisterOperation]) -> [OrderState] {
    var next: [OrderState] = []
    var triedOpenZero = false
    // A waiting read wants a value that is not there: only writes can go on.
    for (position, index) in state.waiting.enumerated() where operations[index].kind == .write {
        let operation = operations[index]
        let isOpen = operation.finish == RegisterOperation.never
        // Unanswered writes of zero are alike once asked: trying the oldest is enough.
        if isOpen, operation.value == 0 {
            if triedOpenZero { continue }
            triedOpenZero = true
        }
        var changed = state
        changed.waiting.remove(at: position)
        if !isOpen { changed.finish(index) }
        changed.value = operation.value
        changed.satisfyReads(operations)
        next.append(changed)
    }
    return next
}
