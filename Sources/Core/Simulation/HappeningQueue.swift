/// What will happen, in the order of (due time, order of scheduling): the same seed gives the same order.
///
/// A heap of plain numbers over a table of slots, so that sifting never touches a closure. Each has four
/// children: half as many levels as with two, and the four lie side by side.
struct HappeningQueue {
    /// Names a scheduled happening; a used name never names another one.
    struct Name: Hashable {
        let slot: UInt32
        let generation: UInt32
    }
    /// One taken from the queue.
    struct Taken {
        let name: Name
        let owner: SimHost?
    }
    private struct Entry {
        let dueNanoseconds: Int64
        let order: UInt64
        let slot: UInt32
        let generation: UInt32
        func precedes(_ other: Entry) -> Bool {
            dueNanoseconds != other.dueNanoseconds
                ? dueNanoseconds < other.dueNanoseconds : order < other.order
        }
    }
    private struct Slot {
        var action: (() -> Void)?
        var owner: SimHost?
        var generation: UInt32
    }

    private static let children = 4
    private var heap: [Entry] = []
    private var slots: [Slot] = []
    private var freeSlots: [UInt32] = []
    private var scheduled: UInt64 = 0

    /// When the next happening is due, `nil` when nothing will ever happen.
    var nextDueNanoseconds: Int64? { heap.first?.dueNanoseconds }
    /// Happenings that wait.
    var count: Int { heap.count }

    /// Adds a happening.
    mutating func add(
        dueNanoseconds: Int64, owner: SimHost?, _ action: @escaping () -> Void
    ) -> Name {
        let slot: UInt32
        if let free = freeSlots.popLast() {
            slot = free
            slots[Int(slot)].action = action
            slots[Int(slot)].owner = owner
        } else {
            slot = UInt32(slots.count)
            slots.append(Slot(action: action, owner: owner, generation: 1))
        }
        let name = Name(slot: slot, generation: slots[Int(slot)].generation)
        push(name, dueNanoseconds: dueNanoseconds)
        return name
    }
    /// Puts a happening back that was taken but not performed.
    mutating func putBack(_ name: Name, dueNanoseconds: Int64) {
        push(name, dueNanoseconds: dueNanoseconds)
    }
    /// Takes the next happening; its slot stays until ``finish(_:)`` or ``putBack(_:dueNanoseconds:)``.
    /// - Returns: `nil` for one that was cancelled meanwhile.
    mutating func takeNext() -> Taken? {
        guard let first = heap.first else { return nil }
        let last = heap.removeLast()
        if !heap.isEmpty {
            heap[0] = last
            siftDown(0)
        }
        // Not the whole slot: that would count one more reference to the action.
        guard slots[Int(first.slot)].generation == first.generation else { return nil }
        return Taken(
            name: Name(slot: first.slot, generation: first.generation), owner: slots[Int(first.slot)].owner)
    }
    /// Frees a happening's slot.
    ///
    /// What the slot held is handed out, so that the last reference to something that schedules or cancels
    /// when it goes is never dropped in here.
    /// - Returns: what to do and whose it was, `nil` when it was cancelled.
    mutating func finish(_ name: Name) -> (action: () -> Void, owner: SimHost?)? {
        let index = Int(name.slot)
        guard index < slots.count, slots[index].generation == name.generation,
            let action = slots[index].action.take()
        else { return nil }
        let owner = slots[index].owner.take()
        slots[index].generation &+= 1
        freeSlots.append(name.slot)
        return (action, owner)
    }

    private mutating func push(_ name: Name, dueNanoseconds: Int64) {
        heap.append(
            Entry(
                dueNanoseconds: dueNanoseconds, order: scheduled, slot: name.slot,
                generation: name.generation))
        scheduled += 1
        siftUp(heap.count - 1)
    }
    private mutating func siftUp(_ start: Int) {
        unsafe heap.withUnsafeMutableBufferPointer { heap in
            let moving = unsafe heap[start]
            var index = start
            while index > 0 {
                let parent = (index - 1) / Self.children
                guard moving.precedes(unsafe heap[parent]) else { break }
                unsafe heap[index] = heap[parent]
                index = parent
            }
            unsafe heap[index] = moving
        }
    }
    private mutating func siftDown(_ start: Int) {
        unsafe heap.withUnsafeMutableBufferPointer { heap in
            let moving = unsafe heap[start]
            var index = start
            while true {
                let first = Self.children * index + 1
                guard first < heap.count else { break }
                var least = first
                for child in (first + 1)..<min(first + Self.children, heap.count)
                where unsafe heap[child].precedes(heap[least]) { least = child }
                guard unsafe heap[least].precedes(moving) else { break }
                unsafe heap[index] = heap[least]
                index = least
            }
            unsafe heap[index] = moving
        }
    }
}

/// First in, first out, without moving what waits.
struct Fifo<Element> {
    private var elements: [Element] = []
    private var head = 0

    var isEmpty: Bool { head == elements.count }
    var count: Int { elements.count - head }
    var first: Element? { head < elements.count ? elements[head] : nil }
    var last: Element? { head < elements.count ? elements[elements.count - 1] : nil }

    mutating func append(_ element: Element) { elements.append(element) }
    /// Replaces the newest element.
    mutating func replaceLast(_ element: Element) { elements[elements.count - 1] = element }
    /// Drops the oldest element.
    mutating func removeFirst() {
        head += 1
        guard head >= 64, head * 2 >= elements.count else { return }
        elements.removeFirst(head)
        head = 0
    }
    mutating func removeAll() {
        elements.removeAll()
        head = 0
    }
}
