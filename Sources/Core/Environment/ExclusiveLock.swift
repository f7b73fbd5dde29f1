/// A lock that one process at a time holds. Loop-confined.
///
/// It ends with the process that holds it, however that ends, and no sooner: a process that stands still
/// holds on to it. So what only the holder may do is never done by two.
public protocol ExclusiveLock: AnyObject {
    /// Takes the lock unless another process has it. Harmless when it is held here already.
    /// - Parameter note: tells the others who holds it.
    /// - Returns: `nil`: this process holds it now. Otherwise the note of the process that does; for a moment
    ///   it may be that of the one before, or empty.
    func take(note: String) throws(LockError) -> String?
    /// Lets another process have it. Harmless when it is not held.
    func release()
}

/// Why it cannot be said who holds a lock.
public struct LockError: Error, Hashable, Sendable, CustomStringConvertible {
    /// What happened and what to do.
    public let description: String
    /// A lock failed in these words.
    public init(_ description: String) { self.description = description }
}
