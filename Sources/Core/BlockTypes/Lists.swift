extension Array {
    /// Empties a list that is used again and again and is mostly empty already: then this costs nothing,
    /// which `removeAll(keepingCapacity:)` does not promise.
    @inlinable public mutating func clear() { if !isEmpty { removeAll(keepingCapacity: true) } }
}
