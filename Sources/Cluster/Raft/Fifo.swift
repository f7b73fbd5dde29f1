/// A first-in first-out queue whose ends both move in constant time. An Array alone would shift everything at
/// each removal.
struct Fifo<Element: Sendable>: Sendable {
    private var slots: [Element?] = []
    private var head = 0

    var count: Int { slots.count - head }
    var isEmpty: Bool { count == 0 }
    var first: Element? { isEmpty ? nil : slots[head] }

    subscript(offset: Int) -> Element? { slots[head + offset] }

    mutating func append(_ element: Element) { slots.append(element) }
    @discardableResult mutating func popFirst() -> Element? {
        guard !isEmpty else { return nil }
        let element = slots[head]
        slots[head] = nil  // What it refers to, such as payload, is let go now, not at the next compaction.
        head += 1
        if head == slots.count {
            removeAll()
        } else if head >= 64, head * 2 >= slots.count {
            slots.removeFirst(head)
            head = 0
        }
        return element
    }
    @discardableResult mutating func popLast() -> Element? { isEmpty ? nil : slots.removeLast() }
    mutating func removeAll() {
        slots.removeAll(keepingCapacity: slots.count <= 64)
        head = 0
    }
}
