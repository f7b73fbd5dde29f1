extension Array {
    /// Removes everything and keeps the memory.
    ///
    /// For the small arrays that a loop fills and empties for each command: `removeAll(keepingCapacity:)`
    /// goes the way of a replacement of any range by any collection, which costs several times as much as to
    /// take a few elements off.
    @inlinable public mutating func empty() { while popLast() != nil {} }
    /// Hands out everything, the first one first, and keeps the memory.
    ///
    /// Each element is taken out, where a `for` loop would hold on to the array and to what an element refers
    /// to. `body` must not touch the array.
    @inlinable public mutating func empty(into body: (consuming Element) -> Void) {
        // In place: an array that turns itself around copies each of its elements.
        if count > 1 { unsafe withUnsafeMutableBufferPointer { unsafe $0.reverse() } }
        while let element = popLast() { body(consume element) }
    }
}
