import BlockTypes

/// The metadata server's logic: names, pools, chunkservers, attachments.
///
/// The order is a promise: a request that changes anything is answered, and its change is seen by others,
/// only after ``Event/committed`` said that the change is durable. While a transaction is in flight further
/// requests wait in order; so every decision is made on the state that the store holds.
///
/// What is not durable on purpose: when chunkservers were heard, what they reported, and when leases end.
/// After a restart every volume that has a holder gets one full lease, so a holder that lives is never
/// robbed.
public struct MetadataCore: Machine {
    /// What happened.
    public enum Event: Sendable {
        /// Somebody asks.
        case received(RequestID, MetadataRequest, session: SessionID, secondsSince1970: UInt64)
        /// The transaction of the last ``Effect/commit(_:)`` is durable.
        case committed
        /// It is not, or nobody knows.
        case commitFailed(String)
        /// The answer to ``Effect/reload``.
        case reloaded([Record])
        /// Nobody can say what the store holds.
        case reloadFailed(String)
        /// The connection is gone, and with it nobody who waits for its replies.
        case sessionClosed(SessionID)
        /// Comes about once a second.
        case tick(secondsSince1970: UInt64)
    }
    /// What to do about it.
    public enum Effect: Hashable, Sendable {
        /// Make these changes durable, all or none, then say ``Event/committed``. Only one is in flight.
        case commit([RecordChange])
        /// Answer.
        case reply(RequestID, Result<MetadataReply, MetadataRefusal>)
        /// Close the connection of a process that was replaced.
        case closeSession(SessionID)
        /// Read every row again: a failed commit left doubt about what the store holds.
        case reload
        /// Write a line to the log.
        case log(String)
    }

    /// What a request leads to.
    struct Decision {
        var reply: MetadataReply
        var changes: [RecordChange] = []
        var afterwards: [Afterwards] = []
        /// True when others would rely on it: it raises the revision.
        var raisesRevision = true
        init(_ reply: MetadataReply, _ changes: [RecordChange] = [], _ afterwards: [Afterwards] = []) {
            (self.reply, self.changes, self.afterwards) = (reply, changes, afterwards)
        }
        /// A decision that a database may forget without harm, or that a database which went back may take.
        init(
            bookkeeping reply: MetadataReply, _ changes: [RecordChange] = [], _ afterwards: [Afterwards] = []
        ) {
            self.init(reply, changes, afterwards)
            raisesRevision = false
        }
    }
    /// What becomes true in memory once the changes are durable.
    enum Afterwards: Hashable {
        case lease(VolumeID, SessionID), endLease(VolumeID), grace(VolumeID)
        case memberLease(VolumeID, Epoch), endMemberLease(VolumeID, Epoch)
        case valueChanged(VolumeID)
        case adopted, overruled
        case serverRegistered(ServerID, SessionID)
        case log(String)
    }
    /// What is known of a running chunkserver.
    struct LiveServer: Hashable {
        var session: SessionID?
        var lastHeard: Duration
        var heartbeat: ServerHeartbeat?
        /// Another connection that speaks for the same incarnation, and since when.
        var rival: Rival?
    }
    struct Rival: Hashable {
        var session: SessionID
        var since: Duration
    }
    /// What a copyset's leader said last.
    struct LiveCopyset: Hashable {
        var leader: ServerID
        var term: Term
        var isReady: Bool
        var membersInStep: UInt32
    }
    /// How long nobody else may attach, and over which connection the holder speaks.
    struct Lease: Hashable {
        var end: Duration
        var session: SessionID?
    }
    private struct Waiting {
        let id: RequestID
        let request: MetadataRequest
        let session: SessionID
        let arrived: Duration
    }
    /// ready -> committing -> ready | reloading; reloading -> ready | broken; broken -> reloading.
    private enum Phase {
        case ready, committing(RequestID?, Decision), reloading, broken(String)
    }

    /// The numbers.
    public let limits: MetadataLimits
    private(set) var state: MetadataState
    var live: [ServerID: LiveServer] = [:]
    var liveCopysets: [CopysetID: LiveCopyset] = [:]
    var leases: [VolumeID: Lease] = [:]
    /// Until when each member of a group is known to live.
    var memberLeases: [MemberKey: Duration] = [:]
    /// In the order in which they came.
    var watches: [Watch] = []
    /// Chunkservers that the log calls silent.
    var silent: Set<ServerID> = []
    /// Whether the database may be relied on.
    var trustLedger: TrustLedger
    /// When this process started; silence before it says nothing.
    let startedAt: Duration
    private let wallAtStart: UInt64
    /// Wall time, for people.
    var secondsSince1970: UInt64
    private var phase = Phase.ready
    /// In order of arrival; those before ``waitingHead`` are served.
    private var waiting: [Waiting] = []
    private var waitingHead = 0
    /// Those that wait until it is clear whether the database may be relied on.
    private var waitingForTrust: [Waiting] = []

    /// - Parameter records: every row of the store.
    /// - Throws: ``DamagedMetadata`` when they cannot be true together.
    public init(
        records: [Record], limits: MetadataLimits = MetadataLimits(), now: Duration, secondsSince1970: UInt64
    ) throws(DamagedMetadata) {
        self.limits = limits
        state = try MetadataState(records)
        trustLedger = TrustLedger(state)
        (startedAt, wallAtStart, self.secondsSince1970) = (now, secondsSince1970, secondsSince1970)
        grantGrace(now: now)
    }
    /// The rows of a cluster in which nothing has happened yet.
    public static func newCluster(id: UniqueID) -> [RecordChange] { [.put(.cluster(ClusterRow(id: id)))] }
    /// Requests that wait for a transaction to end, or for trust in the database.
    package func readGauges(_ read: GaugeReader) {
        read("requests that wait at the metadata server", waitingCount, limits.waitingRequestsMax)
    }
    private var waitingCount: Int { waiting.count - waitingHead + waitingForTrust.count }
    /// The cluster's id.
    public var clusterID: UniqueID { state.cluster.id }

    /// See ``Event``.
    public mutating func step(_ event: Event, now: Duration, effects: inout [Effect]) {
        switch event {
        case .received(let id, let request, let session, let seconds):
            secondsSince1970 = seconds
            receive(
                Waiting(id: id, request: request, session: session, arrived: now), now: now, effects: &effects
            )
        case .committed:
            guard case .committing(let id, let decision) = phase else {
                invariant(false, "committed, but nothing was to be")
                return
            }
            phase = .ready
            for change in decision.changes { state.apply(change) }
            finish(decision, id: id, now: now, effects: &effects)
            serveWaiting(now: now, effects: &effects)
        case .commitFailed(let why):
            guard case .committing(let id, _) = phase else {
                invariant(false, "a commit failed, but there was none")
                return
            }
            if let id { effects.append(.reply(id, .failure(Self.storeFailed(why)))) }
            phase = .reloading
            effects.append(.reload)
        case .reloaded(let records): reloaded(records, now: now, effects: &effects)
        case .reloadFailed(let why): broke(why, effects: &effects)
        case .sessionClosed(let session):
            waiting = waiting[waitingHead...].filter { $0.session != session }
            waitingHead = 0
            waitingForTrust.removeAll { $0.session == session }
            watches.removeAll { $0.session == session }
            for server in live.keys where live[server]?.session == session { live[server]?.session = nil }
        case .tick(let seconds):
            secondsSince1970 = seconds
            tick(now: now, effects: &effects)
        }
        if !waitingForTrust.isEmpty { serveThoseWhoWaitForTrust(now: now, effects: &effects) }
    }
}

/// Keeping order.
extension MetadataCore {
    private mutating func receive(_ request: Waiting, now: Duration, effects: inout [Effect]) {
        switch phase {
        case .ready: serve(request, now: now, effects: &effects)
        case .committing, .reloading:
            guard waitingCount < limits.waitingRequestsMax else {
                let refusal = MetadataRefusal(.notReady, "the metadata server is busy; try again")
                effects.append(.reply(request.id, .failure(refusal)))
                return
            }
            waiting.append(request)
        case .broken(let why): effects.append(.reply(request.id, .failure(Self.storeFailed(why))))
        }
    }
    /// Serves those that waited, until one of them starts a transaction again.
    private mutating func serveWaiting(now: Duration, effects: inout [Effect]) {
        while case .ready = phase, waitingHead < waiting.count {
            waitingHead += 1
            serve(waiting[waitingHead - 1], now: now, effects: &effects)
        }
        if waitingHead == waiting.count { forgetWaiting() }
    }
    private mutating func forgetWaiting() {
        waiting.removeAll(keepingCapacity: true)
        waitingHead = 0
    }
    /// Serves or refuses them once that is clear, or they have waited for too long.
    private mutating func serveThoseWhoWaitForTrust(now: Duration, effects: inout [Effect]) {
        if trust == .waiting {
            let all = waitingForTrust
            waitingForTrust = all.filter { now - $0.arrived < limits.trustPatience }
            for request in all where now - request.arrived >= limits.trustPatience {
                effects.append(.reply(request.id, .failure(MetadataRefusal(.notReady, waitingText))))
            }
        } else {
            waiting += waitingForTrust
            waitingForTrust = []
            serveWaiting(now: now, effects: &effects)
        }
    }
    private mutating func serve(_ request: Waiting, now: Duration, effects: inout [Effect]) {
        if request.request.needsTrust {
            switch trust {
            case .current: break
            case .wentBack: return effects.append(.reply(request.id, .failure(databaseWentBack())))
            case .waiting:
                guard waitingCount < limits.waitingRequestsMax else {
                    let refusal = MetadataRefusal(.notReady, waitingText)
                    return effects.append(.reply(request.id, .failure(refusal)))
                }
                return waitingForTrust.append(request)
            }
        }
        if keepsWatch(request.request, request.id, request.session, now: now) { return }
        do {
            let decision = try decide(request.request, session: request.session, now: now)
            begin(decision, id: request.id, now: now, effects: &effects)
        } catch {
            effects.append(.reply(request.id, .failure(doubting(error, request.request))))
        }
    }
    /// What an older database does not know may well be there.
    private func doubting(_ refusal: MetadataRefusal, _ request: MetadataRequest) -> MetadataRefusal {
        guard refusal.code == .notFound, request.looksUpPath, trust != .current else { return refusal }
        let doubt = trust == .wentBack ? databaseWentBack() : MetadataRefusal(.notReady, waitingText)
        return MetadataRefusal(doubt.code, "\(refusal.message), but \(doubt.message)")
    }
    private mutating func begin(
        _ decision: Decision, id: RequestID?, now: Duration, effects: inout [Effect]
    ) {
        guard decision.changes.isEmpty else {
            var decision = decision
            if decision.raisesRevision { decision.changes = raisingRevision(decision.changes) }
            phase = .committing(id, decision)
            effects.append(.commit(decision.changes))
            return
        }
        finish(decision, id: id, now: now, effects: &effects)
    }
    private func raisingRevision(_ changes: [RecordChange]) -> [RecordChange] {
        var (cluster, others) = (state.cluster, [RecordChange]())
        for change in changes {
            if case .put(.cluster(let row)) = change { cluster = row } else { others.append(change) }
        }
        cluster.revision = revision + 1
        return [.put(.cluster(cluster))] + others
    }
    private mutating func finish(
        _ decision: Decision, id: RequestID?, now: Duration, effects: inout [Effect]
    ) {
        for afterwards in decision.afterwards {
            switch afterwards {
            case .lease(let volume, let session):
                leases[volume] = Lease(end: now + limits.lease, session: session)
            case .endLease(let volume): leases[volume] = nil
            case .memberLease(let volume, let epoch):
                leases[volume] = Lease(end: now + limits.lease, session: nil)
                memberLeases[MemberKey(volume: volume, epoch: epoch)] = now + limits.lease
            case .endMemberLease(let volume, let epoch):
                memberLeases[MemberKey(volume: volume, epoch: epoch)] = nil
            case .valueChanged: serveWatches(now: now, effects: &effects)
            case .grace(let volume):
                leases[volume] = Lease(end: now + limits.lease, session: nil)
            case .adopted: trustLedger.adopted()
            case .overruled: trustLedger.isOverruled = true
            case .serverRegistered(let server, let session):
                if let old = live[server]?.session, old != session { effects.append(.closeSession(old)) }
                live[server] = LiveServer(session: session, lastHeard: now)
                silent.remove(server)
            case .log(let line): effects.append(.log(line))
            }
        }
        if let id { effects.append(.reply(id, .success(decision.reply))) }
    }
    private mutating func reloaded(_ records: [Record], now: Duration, effects: inout [Effect]) {
        guard case .reloading = phase else { return }
        do {
            state = try MetadataState(records)
        } catch {
            broke("the metadata store is damaged: \(error)", effects: &effects)
            return
        }
        phase = .ready
        grantGrace(now: now)
        effects.append(.log("the metadata store was read again after a failed transaction"))
        serveWaiting(now: now, effects: &effects)
    }
    private mutating func broke(_ why: String, effects: inout [Effect]) {
        phase = .broken(why)
        effects.append(.log("the metadata store cannot be read: \(why)"))
        for request in waiting[waitingHead...] {
            effects.append(.reply(request.id, .failure(Self.storeFailed(why))))
        }
        forgetWaiting()
    }
    private static func storeFailed(_ why: String) -> MetadataRefusal {
        MetadataRefusal(.store, "the metadata store failed, nothing was changed as far as we know: \(why)")
    }
    /// Every holder known gets a full lease, unless it has one already.
    private mutating func grantGrace(now: Duration) {
        for (id, row) in state.volumes where row.holder != nil && leases[id] == nil {
            leases[id] = Lease(end: now + limits.lease, session: nil)
        }
        for (id, row) in state.volumes {
            for member in row.group?.members ?? [] {
                let key = MemberKey(volume: id, epoch: member.epoch)
                if memberLeases[key] == nil { memberLeases[key] = now + limits.lease }
            }
        }
    }
    private mutating func tick(now: Duration, effects: inout [Effect]) {
        switch phase {
        case .ready:
            for line in newlySilent(now: now) { effects.append(.log(line)) }
            serveWatches(now: now, effects: &effects)
            if let notice = notice() { return begin(notice, id: nil, now: now, effects: &effects) }
            // An older database may hold as deleted what was restored since.
            guard trust == .current else { return }
            let decision = endRetention(wall: trustedWall(now: now))
            if !decision.changes.isEmpty { begin(decision, id: nil, now: now, effects: &effects) }
        case .broken:
            phase = .reloading
            effects.append(.reload)
        case .committing, .reloading: break
        }
    }
    /// Wall time that a clock set forward by mistake cannot hurry: no more has passed than the monotonic
    /// clock says since the start.
    private func trustedWall(now: Duration) -> UInt64 {
        let elapsed = UInt64(max(0, (now - startedAt).components.seconds))
        return min(secondsSince1970, wallAtStart &+ elapsed)
    }

    private mutating func decide(
        _ request: MetadataRequest, session: SessionID, now: Duration
    ) throws(MetadataRefusal) -> Decision {
        switch request {
        case .cluster: Decision(.cluster(clusterID))
        case .allocateServer(let device, let host): try allocateServer(device: device, host: host)
        case .registerServer(let registration): try register(registration, session: session, now: now)
        case .status: Decision(.status(status(now: now)))
        case .createPool(let name, let replicas, let copysets, let domain):
            try createPool(name: name, replicas: replicas, copysets: copysets, domain: domain, now: now)
        case .createVolume(let path, let sizeBytes, let pool, let unit, let count):
            try createVolume(path, sizeBytes: sizeBytes, pool: pool, unit: unit, count: count)
        case .volume(let path): Decision(.volume(info(of: try volume(at: path), now: now)))
        case .list(let path, let recursive): try list(path, recursive: recursive, now: now)
        case .resize(let path, let sizeBytes, let allowShrink):
            try resize(path, to: sizeBytes, allowShrink: allowShrink, session: session, now: now)
        case .rename(let from, let to): try rename(from, to: to, now: now)
        case .deleteVolume(let path, let purgeNow): try delete(path, purgeNow: purgeNow, now: now)
        case .restore(let selector, let to): try restore(selector, to: to, now: now)
        case .purge(let selector): try purge(selector)
        case .listRecycled: try listRecycled(now: now)
        case .createDirectory(let path, let parents): try createDirectory(path, parents: parents)
        case .deleteDirectory(let path): try deleteDirectory(path)
        case .attach(let request): try attach(request, session: session, now: now)
        case .detach(let volume, let epoch): try detach(volume, epoch: epoch)
        case .removeMember(let volume, let epoch, let member, let force):
            try removeMember(volume, epoch: epoch, member: member, force: force, now: now)
        case .value(let volume, let name, _, _): Decision(try value(volume, name))
        case .swapValue(let swap): try swapValue(swap)
        case .addressBook: Decision(.addressBook(state.addressBook))
        case .adoptDatabase(let force): try adopt(force: force)
        case .heartbeat(let heartbeat): try heard(heartbeat, session: session, now: now)
        case .renewLease(let volume, let epoch, let version, let cluster, let revision, let settled):
            try renew(
                volume, epoch: epoch, addressBookVersion: version, of: cluster, revision: revision,
                settledChange: settled, session: session, now: now)
        }
    }
}
