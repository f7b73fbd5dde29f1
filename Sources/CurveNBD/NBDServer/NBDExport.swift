import BlockTypes
import Environment
import NBDProtocol

/// A volume under a name that NBD clients can ask for.
public struct NBDExport {
    /// The name; empty for the default export.
    public var name: String
    /// For people; may be empty.
    public var description: String
    /// Where the bytes are.
    public var volume: any BlockVolume
    /// Refuse writes even when the volume takes them.
    public var isReadOnly: Bool
    /// Answers requests with errors once another client has taken the volume over. Otherwise the connection
    /// is closed without: unanswered, a request may be sent again to whoever serves the volume now.
    public var answersWhenFenced: Bool
    /// Clients are told that seeks cost.
    public var isRotational: Bool
    /// Gives the volume another size when a client asks for it; `nil`: none may.
    public var resize: ((ByteCount, @escaping (VolumeResult) -> Void) -> Void)?
    /// `volume` under `name`.
    public init(
        name: String, description: String = "", volume: any BlockVolume, isReadOnly: Bool = false,
        answersWhenFenced: Bool = false, isRotational: Bool = false
    ) {
        (self.name, self.description, self.answersWhenFenced) = (name, description, answersWhenFenced)
        (self.volume, self.isReadOnly) = (volume, isReadOnly || volume.isReadOnly)
        self.isRotational = isRotational
    }
    var described: NBDExportDescription {
        NBDExportDescription(
            name: name, text: description, size: volume.size, isReadOnly: isReadOnly,
            isRotational: isRotational, isResizable: resize != nil)
    }
}

/// Why an export cannot be served.
public enum NBDServerError: Error, Hashable, Sendable, CustomStringConvertible {
    /// There is one of this name already.
    case nameTaken(String)
    /// The name or description is longer than the protocol allows, or holds a NUL.
    case badName
    /// The server has its bound of exports.
    case tooManyExports(Int)

    /// What happened and what to do, in one line.
    public var description: String {
        switch self {
        case .nameTaken(let name): "an export named '\(name)' is served already; choose another name"
        case .badName: "names and descriptions have at most \(NBDLimits.stringBytesMax) bytes and no NUL"
        case .tooManyExports(let most): "at most \(most) exports in one server; start another"
        }
    }
}

/// How a server's clients encrypt what they say. The work is done elsewhere.
public struct NBDServerTLS {
    /// Refuse everything until a client has encrypted.
    public var isRequired: Bool
    /// Makes an encrypted connection of a plain one, and tells once what the client is called: by its
    /// certificate, or its pre-shared key. `nil`: it cannot be done now.
    public var secure: (any Connection, @escaping ([String]) -> Void) -> (any Connection)?
    /// True when a client of these names may use the exports.
    public var mayUse: ([String]) -> Bool
    /// Encryption by these means.
    public init(
        isRequired: Bool, mayUse: @escaping ([String]) -> Bool = { _ in true },
        secure: @escaping (any Connection, @escaping ([String]) -> Void) -> (any Connection)?
    ) {
        (self.isRequired, self.mayUse, self.secure) = (isRequired, mayUse, secure)
    }
    var encryption: NBDEncryption { isRequired ? .required : .offered }
}

/// The bounds of one server.
public struct NBDServerLimits: Hashable, Sendable {
    /// Open connections. A newcomer beyond it takes the place of one still in its handshake: of the peer who
    /// has the most of those, the oldest.
    public var connectionsMax = 256
    /// Connections of one peer address, or of one process on this machine: others find room beside them.
    public var connectionsPerPeerMax = 192
    /// Connections still in their handshake.
    public var handshakesMax = 128
    /// A client that has begun a request and sends no more of it is given up: as long as a dead machine's
    /// connection lives.
    public var stallTimeout = Duration.seconds(120)
    /// From accept to the choice of an export; long enough for a person with a slow link, too short to hoard.
    public var handshakeTimeout = Duration.seconds(10)
    /// Exports; a LIST answer with the longest names then stays below 8 MiB.
    public var exportsMax = 1000
    /// The bounds of each connection while there are few.
    public var connection = NBDLimits()
    /// Requests in flight of all connections, who get equal shares of it: half of what a volume accepts
    /// before it refuses.
    public var inFlightRequestsMax = 8192
    /// Payload bytes of those; a single larger request is still served.
    public var inFlightBytesMax = 1 << 30
    /// The usual bounds.
    public init() {}
}

/// What a server is doing, for a status line.
public struct NBDServerStatus: Hashable, Sendable {
    /// Open connections, those in their handshake included.
    public var connections = 0
    /// Requests that volumes have not answered yet.
    public var inFlightRequests = 0
    /// Requests given to volumes since the start.
    public var requests: UInt64 = 0
    /// Requests that a volume refused since the start.
    public var failedRequests: UInt64 = 0
    /// Connections closed because the client broke the protocol.
    public var violations: UInt64 = 0
}
