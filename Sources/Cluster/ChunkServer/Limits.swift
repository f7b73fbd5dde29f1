import BlockTypes
import ChunkStore

/// The numbers that bound a chunkserver. Each protects memory or another client.
public struct ChunkServerLimits: Sendable {
    /// Requests of one client connection that are being worked on; above it the socket is not read.
    public var clientRequestsInFlightMax = 512
    /// Payload bytes of those requests.
    public var clientBytesInFlightMax = 64 << 20
    /// Requests that wait for one volume's fence; beyond it clients are told to come back.
    public var requestsBehindFenceMax = 1024
    /// Amendments of one copyset that wait for earlier changes of their blocks or read them; beyond it
    /// clients are told to come back. Requests behind them count like those behind fences.
    public var amendmentsMax = 64
    /// Accepted connections, clients and peers together.
    public var connectionsMax = 1024
    /// Bytes queued for one peer; beyond it messages are dropped, and Raft sends them again.
    public var peerQueueBytesMax = 96 << 20
    /// How often a bad block is looked for at the peers before the read fails.
    public var repairAttemptsMax = 6
    /// Reads of this server's blocks by peers (repair and full copies) at the same time.
    public var peerReadsInFlightMax = 64
    /// Full copies that this server pulls at the same time; the others wait.
    public var syncsMax = 2
    /// Time between ticks of every copyset and of the store.
    public var tickEvery: Duration = .milliseconds(50)
    /// A peer's address is tried again after this long, sooner when a connection has just broken.
    public var redialAfter: Duration = .milliseconds(200)
    /// A peer or the MDS that does not answer a connection attempt for this long is tried again.
    public var connectTimeout: Duration = .seconds(2)
    /// The MDS has this long for an answer.
    public var controlTimeout: Duration = .seconds(5)
    /// A start that finds its identity in use tries again for this long: the MDS may not yet have noticed
    /// that the former process died.
    public var identityRetryMax: Duration = .seconds(6)
    /// A server without copysets asks the MDS for them this often, for the first ``eagerFor`` of its service.
    public var eagerHeartbeatEvery: Duration = .milliseconds(50)
    /// Long enough for somebody who makes a cluster by hand or script; then it costs the MDS nothing any
    /// more.
    public var eagerFor: Duration = .seconds(10)
    /// Copysets listed in one text for people.
    public var copysetsNamedMax = 8
    /// Volumes in one answer to the MDS's question which ones the store knows.
    public var inventoryPageMax = 4096
    /// A pull of a full copy that is not answered within this time is asked again.
    public var pullTimeout: Duration = .seconds(5)
    /// The default limits.
    public init() {}
}

/// What a chunkserver is started with.
public struct ChunkServerOptions: Sendable {
    /// Where metadata servers listen; the one that leads is found.
    public var metadataServers: [String]
    /// Where to listen, as text of a socket address; port 0 lets the system choose.
    public var listen: String
    /// What others should connect to; empty: the address actually listened on.
    public var advertise: [String]
    /// This machine's name, for people.
    public var host: String
    /// Machines that may fail together, by a name of the operator's choice; empty: unknown.
    public var zone = ""
    /// A refused connection proves that the peer's process is gone, so an election need not wait for the
    /// end of its lease. Only for peers that are reached directly: a packet filter or a proxy may refuse in
    /// a living peer's name.
    public var refusalProvesDeath = false
    /// The bounds.
    public var limits = ChunkServerLimits()
    /// The store's bounds and habits.
    public var store = StoreSettings()
    /// Options with default limits.
    public init(metadataServers: [String], listen: String, advertise: [String] = [], host: String) {
        (self.metadataServers, self.listen) = (metadataServers, listen)
        (self.advertise, self.host) = (advertise, host)
    }
}

/// Why a chunkserver stopped by itself. Each says what happened and what to do.
public enum ChunkServerFailure: Error, Sendable, CustomStringConvertible {
    /// The store could not be opened.
    case store(String)
    /// The device failed while in use (rule R6): nothing on it can be trusted until somebody looks.
    case device(String)
    /// The address to listen on could not be had.
    case listen(String)
    /// The MDS refuses this server for good.
    case refused(String)

    /// The sentence for the user.
    public var description: String {
        switch self {
        case .store(let text), .device(let text), .listen(let text), .refused(let text): text
        }
    }
}
