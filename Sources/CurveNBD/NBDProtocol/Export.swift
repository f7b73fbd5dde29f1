import BlockTypes

/// What a client may know of an export.
public struct NBDExportDescription: Hashable, Sendable {
    /// The name that clients ask for; empty for the default export.
    public var name: String
    /// For people; empty when there is nothing to say.
    public var text: String
    /// Current size.
    public var size: ByteCount
    /// True when writes are refused.
    public var isReadOnly: Bool
    /// Clients are told that seeks cost.
    public var isRotational: Bool
    /// Clients may change the size.
    public var isResizable: Bool
    /// An export of `size` bytes.
    public init(
        name: String, text: String = "", size: ByteCount, isReadOnly: Bool = false,
        isRotational: Bool = false,
        isResizable: Bool = false
    ) {
        (self.name, self.text, self.size, self.isReadOnly) = (name, text, size, isReadOnly)
        (self.isRotational, self.isResizable) = (isRotational, isResizable && !isReadOnly)
    }
}

/// Whether clients encrypt what they say.
public enum NBDEncryption: Hashable, Sendable {
    /// STARTTLS is not known.
    case off
    /// Clients may.
    case offered
    /// Clients must, before anything else is answered.
    case required
}

/// What a server tells a client it may do (`proto.md`, "Transmission flags").
public struct NBDTransmissionFlags: OptionSet, Hashable, Sendable {
    /// The 16 bits.
    public let rawValue: UInt16
    /// The flags in `rawValue`.
    public init(rawValue: UInt16) { self.rawValue = rawValue }
    /// Always set.
    public static let hasFlags = NBDTransmissionFlags(rawValue: 1 << 0)
    /// Writes are refused.
    public static let readOnly = NBDTransmissionFlags(rawValue: 1 << 1)
    /// FLUSH is served.
    public static let flush = NBDTransmissionFlags(rawValue: 1 << 2)
    /// FUA is honoured on every command.
    public static let fua = NBDTransmissionFlags(rawValue: 1 << 3)
    /// Seeks cost.
    public static let rotational = NBDTransmissionFlags(rawValue: 1 << 4)
    /// TRIM is served.
    public static let trim = NBDTransmissionFlags(rawValue: 1 << 5)
    /// WRITE_ZEROES is served.
    public static let writeZeroes = NBDTransmissionFlags(rawValue: 1 << 6)
    /// The "don't fragment" flag of reads is honoured; needs structured replies.
    public static let dontFragment = NBDTransmissionFlags(rawValue: 1 << 7)
    /// A flush on one connection covers what was answered on all.
    public static let multiConnection = NBDTransmissionFlags(rawValue: 1 << 8)
    /// RESIZE is served.
    public static let resize = NBDTransmissionFlags(rawValue: 1 << 9)
    /// CACHE is served.
    public static let cache = NBDTransmissionFlags(rawValue: 1 << 10)
    /// WRITE_ZEROES may ask to fail rather than be slow.
    public static let fastZero = NBDTransmissionFlags(rawValue: 1 << 11)
    /// BLOCK_STATUS may name the contexts that it wants; needs extended headers.
    public static let blockStatusPayload = NBDTransmissionFlags(rawValue: 1 << 12)

    /// What this server offers for an export.
    static func offered(
        for export: NBDExportDescription, replies: ReplyStyle, contexts: MetaContexts
    ) -> NBDTransmissionFlags {
        var flags: NBDTransmissionFlags = [.hasFlags, .flush, .fua, .multiConnection, .cache]
        if export.isRotational { flags.insert(.rotational) }
        if export.isResizable { flags.insert(.resize) }
        if export.isReadOnly {
            flags.insert(.readOnly)
        } else {
            flags.formUnion([.trim, .writeZeroes, .fastZero])
        }
        if replies != .simple { flags.insert(.dontFragment) }
        if replies == .extended, !contexts.isEmpty { flags.insert(.blockStatusPayload) }
        return flags
    }
}

extension [NBDExportDescription] {
    /// The export that a client means by `name`: the empty name also means the only export there is.
    func named(_ name: String) -> NBDExportDescription? {
        if let exact = first(where: { $0.name == name }) { return exact }
        return name.isEmpty && count == 1 ? self[0] : nil
    }
}
