import Environment
import ISCSIProtocol
import SCSICommands

/// The bounds and manners of one server.
public struct ISCSIServerLimits: Hashable, Sendable {
    /// Open connections. A newcomer beyond it takes the place of one that has not logged in: of the peer who
    /// has the most of those, the oldest.
    public var connectionsMax = 512
    /// Connections of one peer address, or of one process on this machine: others find room beside them.
    public var connectionsPerPeerMax = 384
    /// Connections that have not logged in.
    public var loginsMax = 128
    /// From accept to full feature phase; long enough for CHAP over a slow link, too short to hoard.
    public var loginTimeout = Duration.seconds(10)
    /// How often a silent initiator is looked at: it is asked after two of these, given up after three.
    public var pingInterval = Duration.seconds(30)
    /// How late the server may be for something that was due, before it ends all sessions: an initiator that
    /// heard nothing for so long may have asked elsewhere for what waits here unread.
    public var standstillMax = Duration.seconds(3)
    /// How long a logout waits for other gateways to hear what ends with it.
    public var farewellPatience = Duration.seconds(5)
    /// How long initiators may take to log out by themselves when the server stops.
    public var logoutGrace = Duration.seconds(2)
    /// Targets of one server.
    public var targetsMax = 256
    /// Logical units of one target.
    public var unitsPerTargetMax = 256
    /// The bounds of the protocol.
    public var session = ISCSILimits()
    /// The usual bounds.
    public init() {}
}

/// Why a target or a unit cannot be served.
public enum ISCSIServerError: Error, Hashable, Sendable, CustomStringConvertible {
    /// This is no iSCSI name.
    case badName(String)
    /// There is a target of this name already.
    case nameTaken(String)
    /// There is no target of this name.
    case noSuchTarget(String)
    /// The target has a unit of this number already.
    case lunTaken(UInt16, target: String)
    /// The target has no unit of this number.
    case noSuchLUN(UInt16, target: String)
    /// The volume, or its identifier, is served under another number.
    case volumeServed(target: String, lun: UInt16)
    /// The server has its bound of targets.
    case tooManyTargets(Int)
    /// The target has its bound of units.
    case tooManyUnits(Int, target: String)
    /// What all gateways must agree on cannot be had.
    case coordinatorUnavailable
    /// The server is stopping.
    case stopping

    /// What happened and what to do, in one line.
    public var description: String {
        switch self {
        case .badName(let name):
            "'\(name)' is no iSCSI name; write iqn.YYYY-MM.DOMAIN:WORD, in lower case, of at most "
                + "\(ISCSILimits.nameBytesMax) bytes"
        case .nameTaken(let name): "a target named \(name) is served already; choose another name"
        case .noSuchTarget(let name): "no target is named \(name)"
        case .lunTaken(let lun, let target): "\(target) has a LUN \(lun) already; choose another number"
        case .noSuchLUN(let lun, let target): "\(target) has no LUN \(lun)"
        case .volumeServed(let target, let lun):
            "the volume is LUN \(lun) of \(target) already; remove that first"
        case .tooManyTargets(let most): "at most \(most) targets in one server; start another"
        case .tooManyUnits(let most, let target): "\(target) has \(most) LUNs, the most there may be"
        case .coordinatorUnavailable:
            "the reservations of the volume cannot be had from the cluster; see 'curve status'"
        case .stopping: "the server is stopping"
        }
    }
}

/// What a server is doing, for a status page.
public struct ISCSIServerStatus: Hashable, Sendable {
    /// Open connections, those that have not logged in included.
    public var connections = 0
    /// Connections that have not logged in.
    public var logins = 0
    /// Nexuses: sessions that are no discovery sessions.
    public var sessions = 0
    /// Commands that volumes or reservations have not let end yet.
    public var inFlightCommands = 0
    /// Commands carried out or under way since the start.
    public var commands: UInt64 = 0
    /// Requests to volumes since the start.
    public var volumeRequests: UInt64 = 0
    /// Those that a volume refused.
    public var failedRequests: UInt64 = 0
    /// Logins refused since the start.
    public var refusedLogins: UInt64 = 0
    /// Connections closed because the initiator broke the protocol.
    public var violations: UInt64 = 0
    /// Connections closed because the initiator answered no ping.
    public var silent: UInt64 = 0
}
