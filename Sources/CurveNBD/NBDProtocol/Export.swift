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
    /// An export of `size` bytes.
    public init(name: String, text: String = "", size: ByteCount, isReadOnly: Bool = false) {
        (self.name, self.text, self.size, self.isReadOnly) = (name, text, size, isReadOnly)
    }
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
    /// WRITE_ZEROES may ask to fail rather than be slow.
    public static let fastZero = NBDTransmissionFlags(rawValue: 1 << 11)

    /// What this server offers for an export.
    static func offered(for export: NBDExportDescription, structuredReplies: Bool) -> NBDTransmissionFlags {
        var flags: NBDTransmissionFlags = [.hasFlags, .flush, .fua, .multiConnection]
        if export.isReadOnly {
            flags.insert(.readOnly)
        } else {
            flags.formUnion([.trim, .writeZeroes, .fastZero])
        }
        if structuredReplies { flags.insert(.dontFragment) }
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
