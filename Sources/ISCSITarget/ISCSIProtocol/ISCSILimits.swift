/// The bounds of the target's side. What an initiator may ask for beyond them is refused or waits.
public struct ISCSILimits: Hashable, Sendable {
    /// Commands of one session that are under way, and numbers that it may still send: its command window.
    public var commandsMax = 128
    /// Immediate commands of one session that are under way; they stand outside of the window. Each
    /// connection may have one, whatever the others have.
    public var immediateCommandsMax = 16
    /// Data of one session's commands that are given out or gathered at the same time. A single command
    /// may be larger when it is alone.
    public var inFlightBytesMax = 32 << 20
    /// Reply bytes that wait for an initiator that does not read; above it the connection is not read.
    public var queuedReplyBytesMax = 8 << 20
    /// Connections of one session: what MaxConnections is negotiated with.
    public var connectionsPerSessionMax = 8
    /// Connections of all sessions and logins together.
    public var connectionsMax = 1024
    /// Longest data segment taken: our MaxRecvDataSegmentLength.
    public var segmentBytesMax = 256 << 10
    /// Longest sequence of solicited data: what MaxBurstLength is negotiated with.
    public var burstBytesMax = 1 << 20
    /// Longest unsolicited data: what FirstBurstLength is negotiated with. Every command of the window may
    /// bring so much unasked.
    public var firstBurstBytesMax = 256 << 10
    /// Requests for data of one command at a time: what MaxOutstandingR2T is negotiated with.
    public var outstandingRequestsMax = 8
    /// Largest data of one command, in either direction.
    public var transferBytesMax = 64 << 20

    /// The usual bounds.
    public init() {}

    /// Longest data segment of a login, either way: the protocol's default before anything is declared.
    public static let loginSegmentBytesMax = 8192
    /// Text of one login step or text request, all its PDUs together.
    public static let textBytesMax = 64 << 10
    /// Keys of one login step or text request.
    public static let keysMax = 128
    /// Longest name of a key (RFC 7143, section 6.1).
    public static let keyNameBytesMax = 63
    /// Longest value of a key, but for those that say otherwise (section 6.1).
    public static let valueBytesMax = 255
    /// Longest value of any key: binary ones (section 6.1).
    public static let longValueBytesMax = 8192
    /// Longest iSCSI name (section 4.2.7.1).
    public static let nameBytesMax = 223
    /// Login requests of one login; one that means business needs about ten.
    public static let loginRequestsMax = 64
    /// Longest challenge and response of CHAP (section 12.1.3).
    public static let challengeBytesMax = 1024
    /// Longest CDB: 16 bytes of the header and an extension.
    public static let commandBytesMax = 260
    /// Longest sense data in a response (SPC: at most 252 bytes).
    public static let senseBytesMax = 252
}
