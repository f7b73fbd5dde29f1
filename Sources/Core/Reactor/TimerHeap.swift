import BlockTypes

/// Timers ordered by deadline, then by the order in which they were set: a queue of those that came in that
/// order, as most of the data path do, which want the end of the turn, and a binary heap of the others, over
/// one slot table.
struct TimerHeap<Action> {
    private struct Entry {
        var deadline: Int64
        var order: UInt64
        var slot: UInt32
    }
    private struct Slot {
        /// Counts uses, so that an old name never cancels a new timer.
        var generation: UInt32 = 0
        var place: Int = -1
        var action: Action?
    }
    private var heap: [Entry] = []
    /// Never one whose timer is gone in front.
    private var queue = Fifo<Entry>()
    private var queuedCount = 0
    private var slots: [Slot] = []
    private var freeSlots: [UInt32] = []
    private var nextOrder: UInt64 = 0

    /// More timers than this at once is a leak in a shell.
    static var countMax: Int { 1 << 20 }
    private static var isQueued: Int { -2 }

    var count: Int { heap.count + queuedCount }
    /// Nanoseconds on the caller's clock.
    var nextDeadline: Int64? { first?.deadline }
    /// Orders from here on belong to timers that are set later.
    var orderMark: UInt64 { nextOrder }
    private var first: Entry? {
        guard let queued = queue.first else { return heap.first }
        guard let other = heap.first, Self.isBefore(other, queued) else { return queued }
        return other
    }

    /// - Parameter isDue: the deadline is the clock's time of this call, which never goes back.
    /// - Returns: the timer's name: generation in the upper, slot in the lower half.
    mutating func set(deadline: Int64, isDue: Bool = false, _ action: consuming Action) -> UInt64 {
        invariant(count < Self.countMax, "\(count) timers at once")
        let slot: UInt32
        if let free = freeSlots.popLast() {
            slot = free
        } else {
            slot = UInt32(slots.count)
            slots.append(Slot())
        }
        slots[Int(slot)].action = action
        let entry = Entry(deadline: deadline, order: nextOrder, slot: slot)
        nextOrder += 1
        if isDue {
            slots[Int(slot)].place = Self.isQueued
            queuedCount += 1
            queue.append(entry)
        } else {
            heap.append(entry)
            siftUp(heap.count - 1)
        }
        return UInt64(slots[Int(slot)].generation) << 32 | UInt64(slot)
    }
    /// The action is handed out: what ends with it may set or cancel timers, and this heap must be at rest
    /// then.
    /// - Returns: `nil` when the timer has fired or was cancelled.
    mutating func cancel(_ name: UInt64) -> Action? {
        let slot = Int(truncatingIfNeeded: name & 0xFFFF_FFFF)
        guard slot < slots.count, slots[slot].generation == UInt32(name >> 32), slots[slot].place != -1 else {
            return nil
        }
        let action = slots[slot].action
        if slots[slot].place == Self.isQueued {
            forgetQueued(slot)
        } else {
            remove(at: slots[slot].place)
        }
        return action
    }
    /// The first timer that is due and was set before `orderMark`; it is forgotten.
    mutating func popDue(now: Int64, before mark: UInt64) -> Action? {
        guard let first, first.deadline <= now, first.order < mark else { return nil }
        let slot = Int(first.slot)
        let action = slots[slot].action.take()
        if slots[slot].place == Self.isQueued {
            forgetQueued(slot)
        } else {
            remove(at: 0)
        }
        return action
    }
    /// Forgets all timers.
    /// - Returns: their actions; see ``cancel(_:)``.
    mutating func removeAll() -> [Action] {
        var actions: [Action] = []
        while let action = popDue(now: .max, before: .max) { actions.append(action) }
        return actions
    }
    /// Its slot is free when its place in the queue is.
    private mutating func forgetQueued(_ slot: Int) {
        slots[slot].action = nil
        slots[slot].generation &+= 1
        queuedCount -= 1
        while let gone = queue.first, slots[Int(gone.slot)].action == nil {
            queue.popFirst()
            slots[Int(gone.slot)].place = -1
            freeSlots.append(gone.slot)
        }
    }

    private mutating func remove(at place: Int) {
        let slot = Int(heap[place].slot)
        slots[slot].action = nil
        slots[slot].place = -1
        slots[slot].generation &+= 1
        freeSlots.append(UInt32(slot))
        let last = heap.removeLast()
        guard place < heap.count else { return }
        heap[place] = last
        slots[Int(last.slot)].place = place
        siftUp(place)
        siftDown(place)
    }
    private static func isBefore(_ a: Entry, _ b: Entry) -> Bool {
        (a.deadline, a.order) < (b.deadline, b.order)
    }
    private mutating func siftUp(_ start: Int) {
        var place = start
        let entry = heap[place]
        while place > 0, case let parent = (place - 1) / 2, Self.isBefore(entry, heap[parent]) {
            heap[place] = heap[parent]
            slots[Int(heap[place].slot)].place = place
            place = parent
        }
        heap[place] = entry
        slots[Int(entry.slot)].place = place
    }
    private mutating func siftDown(_ start: Int) {
        var place = start
        let entry = heap[place]
        while case let left = 2 * place + 1, left < heap.count {
            let right = left + 1
            let child = right < heap.count && Self.isBefore(heap[right], heap[left]) ? right : left
            guard Self.isBefore(heap[child], entry) else { break }
            heap[place] = heap[child]
            slots[Int(heap[place].slot)].place = place
            place = child
        }
        heap[place] = entry
        slots[Int(entry.slot)].place = place
    }
}
