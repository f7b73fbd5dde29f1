import BlockTypes

/// Things that are found by a small number of their own.
struct SlotTable<Element> {
    private var slots: [Element?] = []
    private var free: [Int] = []
    private(set) var count = 0

    mutating func insert(_ element: Element) -> Int {
        count += 1
        if let slot = free.popLast() {
            slots[slot] = element
            return slot
        }
        slots.append(element)
        return slots.count - 1
    }
    mutating func remove(_ slot: Int) {
        invariant(slots[slot] != nil, "slot \(slot) is empty")
        slots[slot] = nil
        free.append(slot)
        count -= 1
    }
    /// In the order of their slots.
    var elements: [Element] { slots.compactMap { $0 } }
}

/// First in, first out, without moving what waits.
struct Fifo<Element> {
    private var items: [Element?] = []
    private var head = 0

    var isEmpty: Bool { head == items.count }
    var count: Int { items.count - head }
    var first: Element? { isEmpty ? nil : items[head] }

    mutating func append(_ element: Element) { items.append(element) }
    @discardableResult mutating func popFirst() -> Element? {
        guard head < items.count else { return nil }
        let element = items[head]
        items[head] = nil
        head += 1
        if head == items.count {
            // Small storage is kept for the next burst; a large one goes back.
            items.removeAll(keepingCapacity: items.count <= 64)
            head = 0
        } else if head >= 64, head * 2 >= items.count {
            items.removeFirst(head)  // Each element is moved at most once per doubling.
            head = 0
        }
        return element
    }
    mutating func removeAll() {
        items = []
        head = 0
    }
}
