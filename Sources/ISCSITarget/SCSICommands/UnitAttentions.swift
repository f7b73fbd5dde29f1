/// What an initiator must still be told of, in the order in which it is told (SAM-5, section 5.14).
///
/// A reset stands before everything else, and what a greater reset says, the lesser need not say again.
struct UnitAttentions: Hashable, Sendable {
    private var waiting: [AdditionalSense] = []

    var isEmpty: Bool { waiting.isEmpty }
    mutating func takeFirst() -> AdditionalSense? { waiting.isEmpty ? nil : waiting.removeFirst() }
    mutating func remove(_ attention: AdditionalSense) { waiting.removeAll { $0 == attention } }

    /// What QUERY ASYNCHRONOUS EVENT answers, 24 bits: UADE DEPTH (one: 01b; more: 10b), sense key,
    /// additional sense code and qualifier of what is told next (SAM-5, additional response information).
    var summary: UInt32 {
        guard let next = waiting.first else { return 0 }
        let depth: UInt32 = waiting.count > 1 ? 2 : 1
        let key = UInt32(SenseKey.unitAttention.rawValue)
        return (depth << 4 | key) << 16 | UInt32(next.code) << 8 | UInt32(next.qualifier)
    }

    mutating func add(_ attention: AdditionalSense, max: Int) {
        if waiting.contains(attention) { return }
        if let rank = Self.rank(attention) {
            if waiting.contains(where: { Self.rank($0).map { $0 < rank } ?? false }) { return }
            waiting.removeAll { Self.rank($0) != nil }
            waiting.insert(attention, at: 0)
        } else {
            waiting.append(attention)
        }
        if waiting.count > max, let oldest = waiting.firstIndex(where: { Self.rank($0) == nil }) {
            waiting.remove(at: oldest)
        }
    }
    /// The greatest reset has rank 0; what is no reset has none.
    private static func rank(_ attention: AdditionalSense) -> Int? {
        switch attention {
        case .powerOnOrReset, .powerOn: 0
        case .targetReset: 1
        case .unitReset: 2
        case .nexusLoss: 3
        default: nil
        }
    }
}
