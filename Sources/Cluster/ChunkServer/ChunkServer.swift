import BlockTypes
import ChunkStore
import ControlMessages
import CurveWire
import Environment
import FramedLink
import Raft

/// One store, its copysets and everybody who talks to them: the shell around Raft and ChunkStore.
///
/// Loop-confined. Every callback of the environment ends in ``pump()``, which steps the Raft machines until
/// none has anything left to say, and sees to it that the store has its say when the loop's turn ends
/// (``settle()``).
public final class ChunkServer {
    /// How far the start has come, and how it ended.
    enum Phase {
        case idle, opening, registering, serving, stopping, stopped
    }

    let environment: any Environment
    let disk: any Disk
    let store: ChunkStore
    let options: ChunkServerOptions
    let pool: BufferPool
    var limits: ChunkServerLimits { options.limits }

    var phase = Phase.idle
    var listener: (any Listener)?
    var control: ControlChannel?
    var registration = Registration()

    var replicas: [CopysetID: CopysetReplica] = [:]
    /// Keys of `replicas`, ascending: the order in which they are visited.
    var copysetOrder: [CopysetID] = []
    var peers: [ServerID: PeerLink] = [:]
    var sessions: [ObjectIdentifier: ClientSession] = [:]
    /// Sessions that belong to peers, for answering a peer whose own address is not reachable.
    var peerSessions: [ServerID: ClientSession] = [:]

    var events: [(CopysetReplica, RaftReplica.Event)] = []
    var eventHead = 0
    var raftEffects: [RaftReplica.Effect] = []
    var storeEffects: [StoreEffect] = []
    var isPumping = false
    var willSettle = false
    var beats = BeatBasket()
    var rooms = RoomLedger()
    /// When each server that leads copysets here was last heard of as a leader.
    var beatsHeardAt: [ServerID: Duration] = [:]

    /// What each ticket given to the store is for.
    var tickets: [UInt64: TicketPurpose] = [:]
    var nextNumber: UInt64 = 0
    /// Repairs that wait for a peer, by the number sent to it.
    var repairs: [UInt64: Repair] = [:]
    var peerReadsInFlight = 0
    var tasks = TaskLedger()
    var health = "ok"
    var stopCompletion: (() -> Void)?

    /// Called once when the server is registered and listens.
    public var serving: ((SocketAddress) -> Void)?
    /// Called once when the server cannot go on. The process should end with the message.
    public var failed: ((ChunkServerFailure) -> Void)?

    /// A server of the store on `disk`. Nothing happens before ``start()``.
    public init(environment: any Environment, disk: any Disk, options: ChunkServerOptions, pool: BufferPool) {
        (self.environment, self.disk, self.options, self.pool) = (environment, disk, options, pool)
        store = ChunkStore(geometry: disk.geometry, settings: options.store, pool: pool)
    }

    /// What the store holds of a copyset, for whoever watches over several servers; `nil`: not here.
    public func state(of copyset: CopysetID) -> CopysetState? { store.state(of: copyset) }

    /// What of the metadata server's revisions this server would still know after a power loss.
    public var durableMetadataRevision: UInt64 { store.durableMetadataRevision }

    /// Opens the store, registers with the MDS, then serves.
    public func start() {
        invariant(phase == .idle, "a chunkserver starts once")
        phase = .opening
        disk.completed = { [weak self] token, result in
            self?.store.diskCompleted(token, result)
            self?.pump()
        }
        store.open(expectedCluster: nil)
        pump()
    }

    /// Stops serving, writes a checkpoint and closes the store.
    public func stop(completed: @escaping () -> Void) {
        guard phase != .stopped, phase != .stopping else { return completed() }
        let wasOpen = phase == .registering || phase == .serving
        phase = .stopping
        stopCompletion = completed
        listener?.close()
        control?.close()
        closeSessions()
        for peer in peers.keys.sorted() { peers[peer]?.close() }
        guard wasOpen else { return finishStop() }
        store.close()
        pump()
    }

    func finishStop() {
        phase = .stopped
        stopCompletion?()
        stopCompletion = nil
    }

    func fail(_ failure: ChunkServerFailure) {
        guard phase != .stopped else { return }
        environment.log(.error, failure.description)
        phase = .stopped
        listener?.close()
        control?.close()
        closeSessions()
        for peer in peers.keys.sorted() { peers[peer]?.close() }
        failed?(failure)
    }

    private func closeSessions() {
        for session in sessions.values.sorted(by: { $0.number < $1.number }) { session.link.close() }
    }

    /// Queues an event for a copyset's machine; ``pump()`` delivers it.
    func post(_ event: RaftReplica.Event, to replica: CopysetReplica) {
        events.append((replica, event))
    }

    /// Lets the Raft machines work at once, and the store at the end of the turn: all that one turn
    /// brought, from however many connections, becomes one commit batch with one flush.
    func pump() {
        guard !isPumping else { return }
        isPumping = true
        stepReplicas()
        isPumping = false
        guard !willSettle, phase != .stopped else { return }
        willSettle = true
        environment.after(.zero) { [weak self] in self?.settle() }
    }

    /// Lets all machines work until none has anything left to say.
    private func settle() {
        willSettle = false
        isPumping = true
        stepReplicas()
        while phase != .stopped {
            storeEffects.clear()
            store.takeEffects(&storeEffects)
            if storeEffects.isEmpty { break }
            for effect in storeEffects { perform(effect) }
            stepReplicas()
        }
        isPumping = false
        flushBeats()
    }

    private func stepReplicas() {
        while eventHead < events.count, phase != .stopped {
            let (replica, event) = events[eventHead]
            eventHead += 1
            raftEffects.clear()
            replica.raft.step(event, now: environment.now, effects: &raftEffects)
            for effect in raftEffects { perform(effect, of: replica) }
        }
        events.clear()
        eventHead = 0
    }

    /// A number that names one ticket, proposal or question; never 0, never used twice.
    func newNumber() -> UInt64 {
        nextNumber += 1
        return nextNumber
    }

    func tick() {
        guard phase == .serving || phase == .registering || phase == .stopping else { return }
        store.tick(now: environment.now)
        if phase == .serving {
            for id in copysetOrder {
                if let replica = replicas[id] {
                    post(.tick, to: replica)
                    checkPull(of: replica)
                }
            }
        }
        settle()
        environment.after(limits.tickEvery) { [weak self] in self?.tick() }
    }
}
