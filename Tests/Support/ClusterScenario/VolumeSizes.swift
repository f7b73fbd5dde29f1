/// Which sizes a volume may have had, for judging who was refused and who was served past an end.
public struct VolumeSizes: Sendable {
    private var bounds: [ClosedRange<UInt64>]
    /// Sizes that somebody asked for without hearing what came of it: they may come true at any time.
    private var rumours: Set<UInt64> = []
    private var wishes: [UInt64] = []
    private var known: UInt64

    /// A volume of this size.
    public init(bytes: UInt64) {
        known = bytes
        bounds = [bytes...bytes]
    }
    /// A moment, to ask about what was true since.
    public var mark: Int { bounds.count - 1 }
    /// The size, unless somebody is changing it.
    public var current: UInt64 { known }
    /// No request that ends here or before may have been refused since `mark`.
    public func lowest(since mark: Int) -> UInt64 { bounds[mark...].map(\.lowerBound).min() ?? 0 }
    /// No request that ends past this may have been served since `mark`.
    public func highest(since mark: Int) -> UInt64 { bounds[mark...].map(\.upperBound).max() ?? 0 }

    /// Somebody wants this size.
    public mutating func ask(_ size: UInt64) {
        wishes.append(size)
        update()
    }
    /// The wish came true, or (`false`) nobody knows.
    public mutating func settle(_ size: UInt64, isDone: Bool) {
        if let index = wishes.firstIndex(of: size) { wishes.remove(at: index) }
        if isDone { known = size } else { rumours.insert(size) }
        update()
    }
    /// The volume was seen with this size by somebody who holds it.
    public mutating func saw(_ size: UInt64) {
        known = size
        update()
    }
    private mutating func update() {
        let possible = [known] + wishes + rumours
        guard let low = possible.min(), let high = possible.max(), low...high != bounds[mark] else { return }
        bounds.append(low...high)
    }
}
