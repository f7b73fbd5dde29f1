@_exported import SCSIBoundary

/// Names one connection of a portal group. The shell numbers them and never uses a number twice.
public struct ConnectionID: Hashable, Sendable {
    /// The number.
    public let rawValue: UInt64
    /// Connection number `rawValue`.
    public init(rawValue: UInt64) { self.rawValue = rawValue }
}
