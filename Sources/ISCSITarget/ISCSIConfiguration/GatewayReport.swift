/// What a gateway says of itself, when it has applied a change and when it is asked. It stands in a value of
/// the cluster, so whoever asks need not reach the gateway.
public struct GatewayReport: Hashable, Sendable, Codable {
    /// How a portal or a LUN is.
    public struct Item: Hashable, Sendable, Codable {
        /// `portal 10.0.0.1:3260`, `LUN 0 of iqn...`.
        public var name: String
        /// Why it is not served, if it is not.
        public var problem: String?
        /// `name` is served, or not for this reason.
        public init(name: String, problem: String?) { (self.name, self.problem) = (name, problem) }
    }
    /// One session.
    public struct Session: Hashable, Sendable, Codable {
        /// Its number at this gateway since it was started; never used twice.
        public var number: UInt64
        /// Who.
        public var initiator: String
        /// The initiator's session identifier, 12 hexadecimal digits.
        public var identifier: String
        /// At which target.
        public var target: String
        /// Addresses of its connections.
        public var addresses: [String]
        /// Who it proved to be; `nil`: no proof was wanted.
        public var user: String?
        /// All of it.
        public init(
            number: UInt64, initiator: String, identifier: String, target: String, addresses: [String],
            user: String?
        ) {
            (self.number, self.initiator, self.identifier) = (number, initiator, identifier)
            (self.target, self.addresses, self.user) = (target, addresses, user)
        }
    }
    /// Whether initiators are to go elsewhere.
    public enum Drain: String, Hashable, Sendable, Codable {
        /// They were asked to, and no more are let in.
        case asked
        /// None is left.
        case done
    }
    /// The gateway's name.
    public var gateway: String
    /// The process, for people.
    public var process: String
    /// Another one each time that the process starts.
    public var start: UInt64
    /// The version of the configuration that it goes by.
    public var version: UInt64 = 0
    /// Portals and LUNs.
    public var items: [Item] = []
    /// At most ``sessionsMax``, by number: the oldest of each loop first.
    public var sessions: [Session] = []
    /// How many there are.
    public var sessionCount = 0
    /// The last order that it has carried out.
    public var ordersDone: UInt64 = 0
    /// Initiators are to go elsewhere; `nil`: they may come.
    public var drain: Drain?
    /// It ended in order.
    public var hasEnded = false
    /// So many fit into a value.
    public static let sessionsMax = 512

    /// A gateway that serves nothing yet.
    public init(gateway: String, process: String, start: UInt64) {
        (self.gateway, self.process, self.start) = (gateway, process, start)
    }
    /// The value that holds the report of the gateway with this tag.
    public static func valueName(tag: UInt16) -> String { "iscsi-report-\(tag)" }
}

/// What gateways are asked to do once, by value; each gateway has its own.
public struct GatewayOrders: Hashable, Sendable, Codable {
    /// One order.
    public struct Order: Hashable, Sendable, Codable {
        /// Its number; they only grow.
        public var number: UInt64
        /// The session that is to end, and the start of the process that it belongs to; `nil`: nothing is
        /// wanted but a new report.
        public var session: UInt64?
        /// See ``session``.
        public var start: UInt64?
    }
    /// The newest ones, at most ``ordersMax``, in order.
    public private(set) var orders: [Order] = []
    /// The last one's number.
    public private(set) var last: UInt64 = 0
    /// Older ones were carried out long ago, or never will be.
    public static let ordersMax = 32

    /// Nothing was ever wanted.
    public init() {}
    /// Adds an order.
    /// - Returns: its number.
    public mutating func add(session: UInt64? = nil, start: UInt64? = nil) -> UInt64 {
        last += 1
        orders.append(Order(number: last, session: session, start: start))
        if orders.count > Self.ordersMax { orders.removeFirst(orders.count - Self.ordersMax) }
        return last
    }
    /// The value that holds the orders to the gateway with this tag.
    public static func valueName(tag: UInt16) -> String { "iscsi-orders-\(tag)" }
}
