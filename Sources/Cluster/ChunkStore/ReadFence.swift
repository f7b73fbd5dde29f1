/// Holds freed blocks back while a read that may still look at them is in flight (second half of rule R1).
///
/// Reads are numbered as they start. A block freed now waits for all reads started until now.
struct ReadFence {
    private var isDone = Fifo<Bool>()
    private var oldest: UInt64 = 0
    private var held = Fifo<(after: UInt64, span: Span)>()
    private(set) var heldBlockCount = 0

    /// - Returns: the read's number, for ``end(_:_:)``.
    mutating func begin() -> UInt64 {
        isDone.append(false)
        return oldest + UInt64(isDone.count) - 1
    }
    /// - Returns: false when no read is in flight: the span is free at once.
    mutating func hold(_ span: Span) -> Bool {
        guard !isDone.isEmpty else { return false }
        held.append((after: oldest + UInt64(isDone.count), span: span))
        heldBlockCount += Int(span.count)
        return true
    }
    mutating func end(_ read: UInt64, _ free: (Span) -> Void) {
        isDone[Int(read - oldest)] = true
        while isDone.first == true {
            isDone.dropFirst(1)
            oldest += 1
        }
        while let item = held.first, item.after <= oldest {
            held.dropFirst(1)
            heldBlockCount -= Int(item.span.count)
            free(item.span)
        }
    }
}
