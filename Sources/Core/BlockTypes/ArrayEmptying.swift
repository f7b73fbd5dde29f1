extension Array {
    /// Removes everything and keeps the memory.
    ///
    /// For the small arrays that a loop fills and empties for each command: `removeAll(keepingCapacity:)`
    /// goes the way of a replacement of any range by any collection, which costs several times as much as to
    /// take a few elements off.
    @inlinable public mutating func empty() { while popLast() != nil {} }
}
