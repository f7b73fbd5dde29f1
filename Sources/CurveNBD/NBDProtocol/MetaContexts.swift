import BlockTypes

/// What BLOCK_STATUS can tell of a run of bytes (`proto.md`, "Metadata querying").
struct MetaContexts: OptionSet, Hashable, Sendable {
    let rawValue: UInt32
    /// Stored, or a hole that reads as zeroes.
    static let allocation = MetaContexts(rawValue: 1 << 0)
    /// How many layers down the bytes lie: 0 nowhere, 1 in the volume itself.
    static let depth = MetaContexts(rawValue: 1 << 1)

    /// Every context, in the order in which clients are told of them.
    static let all: [MetaContexts] = [.allocation, .depth]

    /// Its number on the wire. For one context.
    var identifier: UInt32 { rawValue }
    /// Its name. For one context.
    var name: String { self == .allocation ? "base:allocation" : "curve:allocation-depth" }

    /// The contexts that a query means. Unknown ones mean none, and are no error.
    /// - Parameter isListing: a namespace alone then means all that is in it.
    static func matching(_ query: String, isListing: Bool) -> [MetaContexts] {
        all.filter { context in
            let isNamespace = query.hasSuffix(":") && context.name.hasPrefix(query)
            return query == context.name || isListing && isNamespace
        }
    }
    /// What it says of stored bytes, or of a hole. For one context.
    func state(isStored: Bool) -> UInt32 {
        if self == .depth { return isStored ? 1 : 0 }
        return isStored ? 0 : BlockState.hole | BlockState.zero
    }
}

/// A stretch of bytes in one state.
struct StatusExtent: Hashable {
    var byteCount: UInt64
    var isStored: Bool

    /// What a volume's answer comes to: neighbours of one state are one extent, and there is a bound.
    static func list(_ segments: [ReadSegment], countMax: Int) -> [StatusExtent] {
        var extents: [StatusExtent] = []
        for segment in segments {
            let isStored = segment.isStored
            if let last = extents.last, last.isStored == isStored {
                extents[extents.count - 1].byteCount += UInt64(segment.byteCount)
            } else if extents.count < countMax {
                extents.append(StatusExtent(byteCount: UInt64(segment.byteCount), isStored: isStored))
            } else {
                break
            }
        }
        return extents
    }
}

extension ReadSegment {
    fileprivate var isStored: Bool { if case .zeroes = self { false } else { true } }
}
