/// The bounds of one NBD connection.
public struct NBDLimits: Hashable, Sendable {
    /// Requests submitted and not answered; above it the socket is not read. The kernel's own depth is 128.
    public var inFlightRequestsMax = 128
    /// Payload bytes of those requests, reads included.
    public var inFlightBytesMax = NBDLimits.payloadBytesMax
    /// Reply bytes that wait for a client that does not read; above it its requests are not read.
    public var queuedReplyBytesMax = 8 << 20
    /// Options of one handshake; a client that means business needs about ten.
    public var optionsMax = 256

    /// The usual bounds.
    public init() {}

    /// Largest read or write that is served. Twice what the protocol lets clients expect, because the
    /// reference implementation's own test suite goes up to 50 MB.
    public static let payloadBytesMax = 64 << 20
    /// Largest write that is swallowed and refused; a longer one ends the connection.
    public static let skippedPayloadBytesMax = 256 << 20
    /// What clients are told is the largest payload: the protocol's default.
    public static let advertisedPayloadBytesMax: UInt32 = 32 << 20
    /// What clients are told is the smallest unit. Those that are told nothing (EXPORT_NAME) may count on it.
    public static let minimumBlockBytes: UInt32 = 1
    /// Longest string (`proto.md`, "Conventions").
    public static let stringBytesMax = 4096
    /// Option data held in memory; longer data is swallowed and refused.
    public static let optionBytesMax = 8 << 10
    /// Extents that one answer to BLOCK_STATUS tells of for each context; clients ask on behind it.
    public static let extentsMax = 16_384
    /// What a BLOCK_STATUS counts for among the bytes in flight: about what a volume's longest answer takes.
    public static let statusBudgetBytes = 2 << 20
    /// Longest option that is swallowed; a longer one ends the connection.
    public static let skippedOptionBytesMax = 1 << 20
}
