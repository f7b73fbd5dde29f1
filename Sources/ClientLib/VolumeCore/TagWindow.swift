import BlockTypes

/// Hands out the sequence numbers of one attachment's changes (``RequestTag``).
///
/// A copyset remembers the last ``RequestTag/windowRequests`` of them; nobody may run further ahead of the
/// oldest change whose outcome is unknown, or a late copy of it could be taken for something new.
struct TagWindow {
    /// The oldest number whose outcome is unknown, or the next to be given.
    private(set) var oldest: UInt64 = 1
    private(set) var next: UInt64 = 1
    /// One bit per number from `oldest`: its outcome is known.
    private var known = [UInt64](repeating: 0, count: Int(RequestTag.windowRequests / 64))

    /// - Returns: `nil` while the window is full.
    mutating func take() -> UInt64? {
        guard next - oldest < RequestTag.windowRequests else { return nil }
        defer { next += 1 }
        return next
    }
    /// Takes two in a row.
    /// - Returns: the second one; `nil` while there are not two.
    mutating func takeTwo() -> UInt64? {
        guard next + 1 - oldest < RequestTag.windowRequests else { return nil }
        defer { next += 2 }
        return next + 1
    }
    /// Notes that the outcome of `sequence` is known.
    mutating func finish(_ sequence: UInt64) {
        invariant(sequence >= oldest && sequence < next, "\(sequence) outside \(oldest)..<\(next)")
        known[word(sequence)] |= bit(sequence)
        while oldest < next, known[word(oldest)] & bit(oldest) != 0 {
            known[word(oldest)] &= ~bit(oldest)
            oldest += 1
        }
    }
    private func word(_ sequence: UInt64) -> Int { Int(sequence % RequestTag.windowRequests / 64) }
    private func bit(_ sequence: UInt64) -> UInt64 { 1 << (sequence % 64) }
}
