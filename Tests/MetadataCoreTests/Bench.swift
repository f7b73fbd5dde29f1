import BlockTypes
import Testing

@testable import MetadataCore

/// A metadata server without a wire: the core, a store that is a dictionary, a clock that the test moves.
final class Bench {
    enum Slot: Hashable {
        case cluster, server(ServerID), pool(PoolID), copyset(CopysetID), directory(DirectoryID)
        case volume(VolumeID), task(TaskID), value(UInt64)
    }
    var core: MetadataCore
    var rows: [Slot: Record] = [:]
    var now: Duration = .seconds(100)
    var wall: UInt64 = 1_763_715_600  // 2025-11-21 09:00:00 UTC
    var limits: MetadataLimits
    /// Commits that the store lets fail before it works again, and whether they reach it all the same.
    var commitsToFail = 0
    var failedCommitsArrive = false
    var log: [String] = []
    var closed: [SessionID] = []
    /// What chunkservers say that they remember of the database.
    var remembered: [ServerID: UInt64] = [:]
    private var nextRequest: UInt64 = 1

    static let cluster = UniqueID(high: 7, low: 11)

    init(limits: MetadataLimits = MetadataLimits()) throws {
        self.limits = limits
        core = try MetadataCore(
            records: Self.records(MetadataCore.newCluster(id: Self.cluster)), limits: limits, now: now,
            secondsSince1970: wall)
        store(MetadataCore.newCluster(id: Self.cluster))
    }

    static func records(_ changes: [RecordChange]) -> [Record] {
        changes.compactMap { if case .put(let record) = $0 { record } else { nil } }
    }
    func store(_ changes: [RecordChange]) {
        for change in changes {
            switch change {
            case .put(let record): rows[Self.slot(record)] = record
            case .delete(.directory(let id)): rows[.directory(id)] = nil
            case .delete(.volume(let id)): rows[.volume(id)] = nil
            case .delete(.task(let id)): rows[.task(id)] = nil
            case .delete(.value(let id, let slot)): rows[.value(id.rawValue << 8 | UInt64(slot))] = nil
            }
        }
    }
    static func slot(_ record: Record) -> Slot {
        switch record {
        case .cluster: .cluster
        case .server(let row): .server(row.id)
        case .pool(let row): .pool(row.id)
        case .copyset(let row): .copyset(row.id)
        case .directory(let row): .directory(row.id)
        case .volume(let row): .volume(row.id)
        case .task(let row): .task(row.id)
        case .value(let row): .value(row.number)
        }
    }

    /// Asks and waits for the answer.
    @discardableResult
    func ask(_ request: MetadataRequest, session: UInt64 = 1) throws -> MetadataReply {
        let id = RequestID(rawValue: nextRequest)
        nextRequest += 1
        let replies = feed(
            .received(id, request, session: SessionID(rawValue: session), secondsSince1970: wall))
        return try #require(replies[id]).get()
    }
    /// Feeds an event and all that follows from it.
    @discardableResult
    func feed(
        _ event: MetadataCore.Event
    ) -> [RequestID: Result<MetadataReply, MetadataRefusal>] {
        var replies: [RequestID: Result<MetadataReply, MetadataRefusal>] = [:]
        var events = [event]
        while !events.isEmpty {
            var effects: [MetadataCore.Effect] = []
            core.step(events.removeFirst(), now: now, effects: &effects)
            for effect in effects {
                switch effect {
                case .commit(let changes):
                    let fails = commitsToFail > 0
                    if fails { commitsToFail -= 1 }
                    if !fails || failedCommitsArrive { store(changes) }
                    events.append(fails ? .commitFailed("disk on fire") : .committed)
                case .reply(let id, let result):
                    #expect(replies[id] == nil, "answered twice")
                    replies[id] = result
                case .closeSession(let session): closed.append(session)
                case .reload: events.append(.reloaded(Array(rows.values)))
                case .log(let line): log.append(line)
                }
            }
        }
        return replies
    }
    /// The refusal of a request that must be refused.
    func refusal(_ request: MetadataRequest, session: UInt64 = 1) -> MetadataRefusal? {
        do {
            try ask(request, session: session)
            Issue.record("\(request) was not refused")
            return nil
        } catch let refusal as MetadataRefusal {
            return refusal
        } catch {
            Issue.record("\(error)")
            return nil
        }
    }
    /// Ends the process and starts another on what the store holds.
    /// - Parameter hears: the chunkservers report at once, each with the revision that it remembers.
    func restart(hears: Bool = true) throws {
        core = try MetadataCore(
            records: rows.values.shuffled(), limits: limits, now: now, secondsSince1970: wall)
        guard hears else { return }
        for server in core.state.serversInOrder where !server.addresses.isEmpty {
            var beat = Self.beat(server.id.rawValue, incarnation: server.incarnation.rawValue)
            beat.revision = remembered[server.id] ?? 0
            try ask(.heartbeat(beat), session: 1000 + server.id.rawValue)
        }
    }
    func pass(_ time: Duration) {
        now += time
        wall += UInt64(time.components.seconds)
    }
    func tick() { feed(.tick(secondsSince1970: wall)) }
}

extension Bench {
    static func device(_ number: UInt64) -> UniqueID { UniqueID(high: 99, low: number) }
    static func registration(
        _ number: UInt64, incarnation: UInt64 = 1, host: String = "host"
    ) -> ServerRegistration {
        ServerRegistration(
            cluster: cluster, device: device(number), server: ServerID(number),
            incarnation: Incarnation(incarnation), addresses: ["10.0.0.\(number):7000"], host: host,
            capacityBytes: 100 << 30)
    }
    static func beat(_ number: UInt64, incarnation: UInt64 = 1) -> ServerHeartbeat {
        var beat = ServerHeartbeat(server: ServerID(number), incarnation: Incarnation(incarnation))
        beat.cluster = cluster
        (beat.capacityBytes, beat.usedBytes, beat.freeBytes) = (100 << 30, 10 << 30, 90 << 30)
        return beat
    }
    /// Chunkserver `n` speaks over session `1000 + n` and lives on machine `host(n)`.
    func addServers(_ count: UInt64, host: (UInt64) -> String = { "host\($0)" }) throws {
        for number in 1...count {
            try ask(.allocateServer(device: Self.device(number), host: host(number)))
            try ask(
                .registerServer(Self.registration(number, host: host(number))), session: 1000 + number)
        }
    }
    /// Every copyset is led by its first member and complete.
    @discardableResult
    func beatAll(finished: [TaskID] = []) throws -> [TaskRow] {
        var tasks: [TaskRow] = []
        for server in core.state.serversInOrder {
            var beat = Self.beat(server.id.rawValue, incarnation: server.incarnation.rawValue)
            for id in core.state.copysetsOfServer[server.id] ?? [] {
                let isLeader = core.state.copysets[id]?.members.first == server.id
                beat.copysets.append(
                    CopysetReport(
                        copyset: id, isLeader: isLeader, term: Term(1), isReady: isLeader, membersInStep: 3))
            }
            beat.finishedTasks = finished
            guard
                case .heartbeat(_, _, _, let found, _) = try ask(
                    .heartbeat(beat), session: 1000 + server.id.rawValue)
            else { continue }
            tasks += found
        }
        return tasks
    }
    /// Three chunkservers, one pool of 12 copysets, nothing else.
    static func ready(limits: MetadataLimits = MetadataLimits()) throws -> Bench {
        let bench = try Bench(limits: limits)
        try bench.addServers(3)
        try bench.ask(.createPool(name: "main", replicas: 3, copysets: 12, domain: .server))
        return bench
    }
    @discardableResult
    func create(
        _ path: String, _ sizeBytes: UInt64 = 1 << 30, unit: UInt32 = 0, count: UInt32 = 0
    ) throws -> VolumeInfo {
        let request = MetadataRequest.createVolume(
            path: path, sizeBytes: sizeBytes, pool: "", stripeUnitBytes: unit, stripeCount: count)
        guard case .volume(let info) = try ask(request) else { throw Wrong.reply }
        return info
    }
    func info(_ path: String) throws -> VolumeInfo {
        guard case .volume(let info) = try ask(.volume(path: path)) else { throw Wrong.reply }
        return info
    }
    func attach(
        _ path: String, key: String = "a", takeOver: Bool = false, session: UInt64 = 1
    ) throws -> VolumeAttachment {
        let request = AttachRequest(path: path, holder: "holder \(key)", holderKey: key, takeOver: takeOver)
        guard case .attached(let attachment) = try ask(.attach(request), session: session) else {
            throw Wrong.reply
        }
        return attachment
    }
    func status() throws -> ClusterStatus {
        guard case .status(let status) = try ask(.status) else { throw Wrong.reply }
        return status
    }
    func listing(_ path: String, recursive: Bool = false) throws -> [String] {
        guard case .listing(let entries) = try ask(.list(path: path, recursive: recursive)) else {
            throw Wrong.reply
        }
        return entries.map { $0.volume == nil ? $0.path + "/" : $0.path }
    }
    enum Wrong: Error { case reply }
}
