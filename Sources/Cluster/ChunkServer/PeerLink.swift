import BlockTypes
import CurveWire
import Environment
import FramedLink

/// This server's own connection to one peer: dialled, kept and dialled again for ever, one attempt at a time.
///
/// Each server of a pair dials the other; messages go out on one's own connection and come in on the other's.
/// So nobody has to agree who dials, and Raft needs no order between the two directions.
final class PeerLink {
    let server: ServerID
    private let environment: any Environment
    private let limits: ChunkServerLimits
    private let makeLink: (any Connection) -> FramedLink
    private var addresses: [SocketAddress] = []
    private var nextAddress = 0
    private var link: FramedLink?
    private var isDialling = false
    private var isClosed = false
    /// Bumped whenever what is under way must be forgotten: its callbacks then do nothing.
    private var generation = 0
    private(set) var isReady = false
    private var redialPause = PeerLink.redialPauseMin

    /// A connection that broke is made anew almost at once: the first to hear that nobody listens there any
    /// more is the first who can stand for election. The pause doubles up to
    /// ``ChunkServerLimits/redialAfter``.
    private static let redialPauseMin = Duration.milliseconds(10)

    /// The peer said hello; false when its incarnation is older than one already seen.
    var greeted: ((Hello) -> Void)?
    var received: ((Frame) -> Void)?
    /// The connection ended or could not be made. With a time: its host answered that nobody listens there,
    /// when asked then or a little later.
    var lost: ((_ refusedSince: Duration?) -> Void)?

    init(
        server: ServerID, environment: any Environment, limits: ChunkServerLimits,
        makeLink: @escaping (any Connection) -> FramedLink
    ) {
        (self.server, self.environment) = (server, environment)
        (self.limits, self.makeLink) = (limits, makeLink)
    }

    /// Where the peer can be found from now on. A working connection to one of them stays.
    func update(_ addresses: [SocketAddress]) {
        guard addresses != self.addresses else { return }
        self.addresses = addresses
        nextAddress = 0
        link?.close()
        if !isDialling, link == nil { dial() }
    }

    var queuedSendBytes: Int { link?.queuedSendBytes ?? 0 }

    func send(_ frame: Frame) -> Bool {
        guard isReady, let link, link.queuedSendBytes < limits.peerQueueBytesMax else { return false }
        link.send(frame)
        return true
    }

    /// The peer's process has this incarnation now. A connection to an older one is of no use, and when its
    /// host lost power it may take very long until anything says so.
    func isProcess(_ incarnation: Incarnation) {
        guard let link, let old = link.peerHello?.incarnation, old < incarnation else { return }
        generation += 1
        link.close()
        self.link = nil
        (isReady, isDialling) = (false, false)
        dial()
    }

    func close() {
        isClosed = true
        generation += 1
        link?.close()
        link = nil
        isReady = false
    }

    private func dial() {
        guard !isClosed, !isDialling, link == nil, !addresses.isEmpty else { return }
        isDialling = true
        let (address, mine) = (addresses[nextAddress % addresses.count], generation)
        let start = environment.now
        nextAddress += 1
        environment.connect(to: address, timeout: limits.connectTimeout) { [weak self] result in
            guard let self, generation == mine else {
                if case .success(let connection) = result { connection.close() }
                return
            }
            isDialling = false
            switch result {
            case .success(let connection): adopt(connection)
            case .failure(let error):
                if case .refused = error { lost?(start) } else { lost?(nil) }
                redialLater()
            }
        }
    }

    private func adopt(_ connection: any Connection) {
        let link = makeLink(connection)
        let mine = generation
        link.onReady = { [weak self] hello in
            guard let self, generation == mine else { return }
            isReady = true
            redialPause = Self.redialPauseMin
            greeted?(hello)
        }
        link.onFrame = { [weak self] frame in
            guard let self, generation == mine else { return }
            received?(frame)
        }
        link.onClosed = { [weak self] reason in
            guard let self, generation == mine else { return }
            self.link = nil
            isReady = false
            environment.log(.debug, "connection to chunkserver \(server) ended: \(reason)")
            lost?(nil)
            redialLater()
        }
        self.link = link
    }

    private func redialLater() {
        let mine = generation
        let pause = min(redialPause, limits.redialAfter)
        redialPause = min(redialPause * 2, limits.redialAfter)
        environment.after(pause) { [weak self] in
            guard let self, generation == mine else { return }
            dial()
        }
    }
}

/// Heartbeats of all copysets that wait to leave in one frame per peer.
struct BeatBasket {
    var beats: [ServerID: [(CopysetID, ReplicaMessage.Heartbeat)]] = [:]
    var replies: [ServerID: [(CopysetID, ReplicaMessage.HeartbeatReply)]] = [:]
    var isEmpty: Bool { beats.isEmpty && replies.isEmpty }
}
