import SCSICommands

/// One gateway of a target, as all of them know it.
public struct Gateway: Hashable, Sendable {
    /// Its attachment of one volume.
    public struct Session: Hashable, Sendable {
        /// The volume's number.
        public var volume: UInt64
        /// The attachment's number.
        public var epoch: UInt32
    }
    /// Whether initiators are to go elsewhere.
    public enum Drain: UInt8, Hashable, Sendable {
        /// No.
        case none = 0
        /// They were asked to, and no more are let in.
        case asked = 1
        /// None is left.
        case done = 2
    }
    /// What people call it.
    public var name: String
    /// One for each volume that it serves, the keeper's first.
    public var sessions: [Session]
    /// Its target port group.
    public var group: PortGroup
    /// Where initiators reach it: `address:port`.
    public var portals: [String]
    /// Whether they are to go elsewhere.
    public var drain: Drain
    /// While it is drained, logins are sent to other gateways.
    public var redirects = false
    /// A gateway of no name yet that wants initiators.
    public init(
        name: String = "", sessions: [Session], group: PortGroup, portals: [String], drain: Drain = .none
    ) {
        (self.name, self.sessions, self.group) = (name, sessions, group)
        (self.portals, self.drain) = (portals, drain)
    }

    func epoch(of volume: UInt64) -> UInt32? { sessions.first { $0.volume == volume }?.epoch }
}

/// What the value `gateways` of a target's first volume holds: who serves the target, and as which ports.
public struct GatewayList: Hashable, Sendable {
    private static let format: UInt8 = 3
    /// Without redirection.
    private static let oldFormat: UInt8 = 2
    /// What the value is called.
    public static let valueName = "gateways"
    /// The target's name.
    public var target = ""
    /// Another number each time that gateways come where there were none: whatever does not outlive a loss
    /// of power belongs to one of these times.
    public var power: UInt64 = 0
    /// Counts changes by all gateways: no two lists are equal.
    public var author: UInt64 = 0
    /// By tag.
    public var gateways: [Gateway] = []

    /// Nobody serves.
    public init() {}

    /// The port groups that initiators are told of.
    public var groups: [PortGroup] { gateways.map(\.group) }
    /// The lowest tag that nobody has.
    public var freeTag: UInt16 {
        var tag: UInt16 = 1
        for gateway in gateways where gateway.group.tag == tag { tag += 1 }
        return tag
    }
    /// The gateway that somebody means by its name or its tag; `nil`: none, or several of the name.
    public func gateway(called word: String) -> Gateway? {
        if let tag = UInt16(word) { return gateways.first { $0.group.tag == tag } }
        let found = gateways.filter { $0.name == word }
        return found.count == 1 ? found[0] : nil
    }
    /// Sends the initiators of gateway `tag` elsewhere, or lets them come again.
    /// - Parameter redirecting: its answer to logins names another gateway; `nil`: as before.
    /// - Returns: false: there is none, or nothing to change.
    public mutating func setDrain(
        _ drain: Gateway.Drain, of tag: UInt16, redirecting: Bool? = nil
    ) -> Bool {
        guard let index = gateways.firstIndex(where: { $0.group.tag == tag }) else { return false }
        let redirects = drain == .none ? false : redirecting ?? gateways[index].redirects
        guard gateways[index].drain != drain || gateways[index].redirects != redirects else { return false }
        gateways[index].redirects = redirects
        guard gateways[index].drain != drain else { return true }
        switch drain {
        case .none: gateways[index].group.state = .activeOptimized
        // Nothing begins there any more, and what has begun may end.
        case .asked: gateways[index].group.state = .standby
        case .done: guard gateways[index].drain == .asked else { return false }
        }
        gateways[index].drain = drain
        return true
    }
    mutating func add(_ gateway: Gateway) {
        gateways.append(gateway)
        gateways.sort { $0.group.tag < $1.group.tag }
    }

    /// The value's bytes.
    public var encoded: [UInt8] {
        var bytes: [UInt8] = [Self.format]
        bytes.put(target)
        bytes.append(bigEndian: power)
        bytes.append(bigEndian: author)
        bytes.append(bigEndian: UInt16(clamping: gateways.count))
        for gateway in gateways {
            bytes.put(gateway.name)
            bytes += [gateway.drain.rawValue, gateway.redirects ? 1 : 0]
            bytes.append(bigEndian: UInt16(clamping: gateway.sessions.count))
            for session in gateway.sessions {
                bytes.append(bigEndian: session.volume)
                bytes.append(bigEndian: session.epoch)
            }
            bytes.append(bigEndian: gateway.group.tag)
            bytes += [gateway.group.state.rawValue, gateway.group.isPreferred ? 1 : 0]
            bytes.append(bigEndian: UInt16(clamping: gateway.portals.count))
            for portal in gateway.portals { bytes.put(portal) }
        }
        return bytes
    }
    /// What the value's bytes say.
    public init(decoding bytes: [UInt8]) throws(ValueError) {
        guard !bytes.isEmpty else { return }
        var reader = ValueReader(bytes)
        let format = try reader.next(UInt8.self)
        guard format == Self.format || format == Self.oldFormat else { throw ValueError("unknown format") }
        target = try reader.text()
        power = try reader.next(UInt64.self)
        author = try reader.next(UInt64.self)
        for _ in 0..<(try reader.next(UInt16.self)) { gateways.append(try Self.gateway(&reader, format)) }
        guard reader.isAtEnd else { throw ValueError("bytes behind the end") }
        for (left, right) in zip(gateways, gateways.dropFirst()) where left.group.tag >= right.group.tag {
            throw ValueError("tags out of order")
        }
    }
    private static func gateway(
        _ reader: inout ValueReader, _ format: UInt8
    ) throws(ValueError) -> Gateway {
        let name = try reader.text()
        guard let drain = Gateway.Drain(rawValue: try reader.next(UInt8.self)) else {
            throw ValueError("an unknown state of a gateway")
        }
        let redirects = format == oldFormat ? 0 : try reader.next(UInt8.self)
        guard redirects <= 1 else { throw ValueError("a flag of \(redirects)") }
        var sessions: [Gateway.Session] = []
        for _ in 0..<(try reader.next(UInt16.self)) {
            sessions.append(
                Gateway.Session(volume: try reader.next(UInt64.self), epoch: try reader.next(UInt32.self)))
        }
        var group = PortGroup(tag: try reader.next(UInt16.self))
        guard group.tag > 0, let state = PortState(rawValue: try reader.next(UInt8.self)) else {
            throw ValueError("a port group that is none")
        }
        (group.state, group.isPreferred) = (state, try reader.next(UInt8.self) != 0)
        var portals: [String] = []
        for _ in 0..<(try reader.next(UInt16.self)) { portals.append(try reader.text()) }
        var gateway = Gateway(
            name: name, sessions: sessions, group: group, portals: portals, drain: drain)
        gateway.redirects = redirects == 1
        return gateway
    }
}
