/// First in, first out; both ends cost the same however long it is.
struct Queue<Element> {
    private var elements: [Element] = []
    private var head = 0

    var count: Int { elements.count - head }
    var isEmpty: Bool { head == elements.count }
    var first: Element? { isEmpty ? nil : elements[head] }

    mutating func append(_ element: Element) { elements.append(element) }
    mutating func popFirst() -> Element? {
        guard head < elements.count else { return nil }
        defer {
            head += 1
            if head == elements.count {
                elements.removeAll(keepingCapacity: true)
                head = 0
            } else if head >= 64, head * 2 >= elements.count {
                // Moves at most as many elements as were taken since the last time.
                elements.removeFirst(head)
                head = 0
            }
        }
        return elements[head]
    }
    mutating func removeAll() { (elements, head) = ([], 0) }
}
