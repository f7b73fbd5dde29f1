/// What one loop holds at most.
public struct ReactorLimits: Sendable {
    /// Accepted connections open at once; further ones wait in the kernel's backlog.
    public var acceptedConnectionsMax = 16_384
    /// Actions from other threads that wait for the loop; ``ReactorHandle/post(_:)`` refuses more.
    public var postedActionsMax = 65_536
    /// Buffers into which data of any connection arrives. They are given back in the same turn, so this
    /// bounds how many connections are read between two looks at the completions, not how many there are.
    public var stagingBuffersCount = 64
    /// Requests that one disk hands to the kernel at once; the rest waits in order.
    public var diskRequestsInFlightMax = 128
    /// How long a connection that was closed here goes on sending what was queued, and how long it then
    /// waits for the peer's last bytes.
    public var lingerMax: Duration = .seconds(5)
    /// Queued bytes at which a connection is given up: its owner ignores the soft limit.
    public var sendQueueBytesMax = 256 << 20
    /// The defaults.
    public init() {}
}
