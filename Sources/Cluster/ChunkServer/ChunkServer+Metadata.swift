import BlockTypes
import ChunkStore
import ControlMessages
import CurveWire
import Environment
import Raft

/// What the MDS has told this server.
struct Registration {
    var addresses: [ServerID: [SocketAddress]] = [:]
    /// The incarnation of each peer that announced these addresses.
    var addressIncarnations: [ServerID: Incarnation] = [:]
    /// The newest incarnation seen of each peer, from the MDS or from itself.
    var incarnations: [ServerID: Incarnation] = [:]
    var addressBookVersion: UInt64 = 0
    var copysetsVersion: UInt64 = 0
    var heartbeatEvery: Duration = .seconds(1)
    /// True while a registration is asked or about to be asked again: one at a time.
    var isAsking = false
    /// When the first refusal because of a running twin came.
    var refusedSince: Duration?
    /// What the MDS wants to know of volumes: those after this one.
    var inquiry: VolumeID?
    /// When the MDS first said yes.
    var registeredAt: Duration = .zero
    /// When the MDS last answered a heartbeat.
    var heartbeatAnsweredAt: Duration?

    /// True when the addresses known are those of the newest process that was heard of. A refusal at an
    /// address that a process has left says nothing about the process that took its place elsewhere.
    func knowsAddress(of server: ServerID) -> Bool {
        addressIncarnations[server] != nil && addressIncarnations[server] == incarnations[server]
    }
}

/// The MDS's tasks: under way, and done but not yet reported.
struct TaskLedger {
    private(set) var inFlight: Set<UInt64> = []  // Looked up, never iterated.
    private(set) var done: [UInt64] = []

    mutating func begin(_ task: UInt64) -> Bool { !done.contains(task) && inFlight.insert(task).inserted }
    mutating func abandoned(_ task: UInt64) { inFlight.remove(task) }
    mutating func finished(_ task: UInt64) {
        inFlight.remove(task)
        if !done.contains(task) { done.append(task) }
    }
    /// The MDS has taken the report: what it no longer asks for is forgotten.
    mutating func reported(_ tasks: [UInt64]) { done.removeAll { tasks.contains($0) } }
}

/// Registration and heartbeats. The MDS must have said yes once before this server takes part: only it can
/// tell a restarted server from a second copy of its store.
extension ChunkServer {
    func register() {
        phase = .registering
        tick()
        let addresses: [SocketAddress]
        do throws(MetadataServerListError) {
            addresses = try MetadataServerList(texts: options.metadataServers).addresses
        } catch {
            return fail(.refused("\(error)"))
        }
        openListener()
        guard phase == .registering else { return }
        let identity = store.identity
        control = ControlChannel(
            environment: environment, addresses: addresses,
            // Without the cluster: the registration carries it, and is refused with a code instead of a
            // closed connection that would be tried for ever.
            hello: Hello(role: .chunkserver, server: identity.server, incarnation: identity.incarnation),
            pool: pool)
        askToRegister()
    }

    private var advertised: [String] {
        options.advertise.isEmpty ? [listener?.address.description ?? options.listen] : options.advertise
    }

    private func askToRegister() {
        guard !registration.isAsking else { return }
        registration.isAsking = true
        sendRegistration()
    }

    private func sendRegistration() {
        guard phase == .registering || phase == .serving else { return }
        var request = ControlRegisterServerRequest()
        request.clusterID = store.identity.cluster.controlBytes
        request.deviceID = store.identity.device.controlBytes
        request.server = store.identity.server.rawValue
        request.incarnation = store.identity.incarnation.rawValue
        request.addresses = advertised
        (request.host, request.zone) = (options.host, options.zone)
        request.capacityBytes = UInt64(store.usage.capacityBytes)
        request.lazilyGrown = store.usage.isLazilyGrown
        request.revision = store.metadataRevision
        call(.registerServer(request)) { [weak self] result in
            guard let self else { return }
            switch result {
            case .success(let response):
                registration.isAsking = false
                registered(response.registerServer)
            case .failure(let error): registrationFailed(error)
            }
            pump()
        }
    }

    private func call(
        _ body: ControlRequest.OneOf_Body,
        _ completed: @escaping (Result<ControlResponse, ControlError>) -> Void
    ) {
        var request = ControlRequest()
        request.body = body
        control?.call(request, timeout: limits.controlTimeout, completed: completed)
    }

    private func registrationFailed(_ error: ControlError) {
        guard phase == .registering else { return retryRegistration() }
        if case .refused(let failure) = error {
            if failure.code == .identityInUse {
                let since = registration.refusedSince ?? environment.now
                registration.refusedSince = since
                if environment.now - since < limits.identityRetryMax { return retryRegistration() }
            }
            // A database that went back may not know this server any more, until somebody adopts it.
            if ![.notReady, .store, .databaseWentBack].contains(failure.code) {
                return fail(.refused("the MDS refuses this chunkserver: \(failure.message)"))
            }
        }
        environment.log(.notice, "waiting for the MDS: \(error)")
        retryRegistration()
    }

    private func retryRegistration() {
        environment.after(.milliseconds(500)) { [weak self] in self?.sendRegistration() }
    }

    private func registered(_ response: ControlRegisterServerResponse) {
        if response.heartbeatMilliseconds > 0 {
            registration.heartbeatEvery = .milliseconds(Int64(response.heartbeatMilliseconds))
        }
        store.remember(metadataRevision: response.revision)
        take(response.addressBook)
        guard phase == .registering else { return }
        phase = .serving
        registration.registeredAt = environment.now
        for id in store.copysets { startReplica(id) }
        take(response.copysets)
        if let address = listener?.address {
            environment.log(
                .notice,
                "chunkserver \(store.identity.server) serves on \(address), "
                    + "incarnation \(store.identity.incarnation)")
            serving?(address)
        }
        sendHeartbeat()
    }

    private func take(_ book: ControlAddressBook) {
        guard book.version > registration.addressBookVersion else { return }
        registration.addressBookVersion = book.version
        for entry in book.servers {
            let server = ServerID(entry.server)
            registration.addresses[server] = entry.addresses.compactMap { SocketAddress($0) }
            let incarnation = Incarnation(entry.incarnation)
            registration.addressIncarnations[server] = incarnation
            if incarnation > registration.incarnations[server] ?? Incarnation(0) {
                registration.incarnations[server] = incarnation
            }
            if let addresses = registration.addresses[server] { peers[server]?.update(addresses) }
            peers[server]?.isProcess(incarnation)
        }
    }

    private func take(_ copysets: [ControlCopyset]) {
        for copyset in copysets where store.state(of: CopysetID(copyset.id)) == nil {
            store.createCopyset(CopysetID(copyset.id), members: copyset.members.map { ServerID($0) })
        }
    }

    // MARK: - Heartbeats

    private func sendHeartbeat() {
        guard phase == .serving else { return }
        var request = ControlServerHeartbeatRequest()
        request.server = store.identity.server.rawValue
        request.incarnation = store.identity.incarnation.rawValue
        let usage = store.usage
        request.capacityBytes = UInt64(usage.capacityBytes)
        request.usedBytes = UInt64(usage.usedBytes)
        request.freeBytes = UInt64(usage.freeBytes)
        request.copysets = copysetOrder.compactMap { replicas[$0].map(report) }
        request.finishedTasks = tasks.done
        request.addressBookVersion = registration.addressBookVersion
        request.copysetsVersion = registration.copysetsVersion
        request.health = healthText
        (request.mendedBlocks, request.revision) = (usage.mendedBlocks, store.metadataRevision)
        request.clusterID = store.identity.cluster.controlBytes
        if let inquiry = registration.inquiry { request.inventory = inventory(after: inquiry) }
        let reported = tasks.done
        call(.serverHeartbeat(request)) { [weak self] result in
            guard let self, phase == .serving else { return }
            switch result {
            case .success(let response): heartbeatAnswered(response.serverHeartbeat, reported: reported)
            case .failure(let error): heartbeatFailed(error)
            }
            pump()
            environment.after(pauseUntilHeartbeat) { [weak self] in self?.sendHeartbeat() }
        }
    }

    /// A new server hears of its copysets by heartbeat, and somebody waits for the first volume. An MDS that
    /// asks what the store knows is waited for as well.
    private var pauseUntilHeartbeat: Duration {
        let isNew = environment.now - registration.registeredAt < limits.eagerFor && copysetOrder.isEmpty
        if registration.inquiry != nil { return limits.eagerHeartbeatEvery }
        return isNew
            ? min(limits.eagerHeartbeatEvery, registration.heartbeatEvery) : registration.heartbeatEvery
    }

    private func inventory(after volume: VolumeID) -> ControlVolumeInventory {
        let known = store.volumes(after: volume, countMax: limits.inventoryPageMax)
        var inventory = ControlVolumeInventory()
        inventory.afterVolume = volume.rawValue
        inventory.isLast = known.count < limits.inventoryPageMax
        inventory.volumes = known.map { knowledge in
            var report = ControlVolumeReport()
            (report.volume, report.isDeleted) = (knowledge.volume.rawValue, knowledge.isDeleted)
            (report.epoch, report.change) = (knowledge.fence.epoch.rawValue, knowledge.fence.change)
            report.sizeBytes = knowledge.fence.size.bytes
            return report
        }
        return inventory
    }

    private func report(_ replica: CopysetReplica) -> ControlCopysetReport {
        var report = ControlCopysetReport()
        report.copyset = replica.id.rawValue
        report.isLeader = replica.raft.role == .leader
        report.term = replica.raft.term.rawValue
        report.applied = replica.applied.rawValue
        report.syncing = replica.sync != nil
        report.ready = replica.raft.isReady && replica.raft.holdsLease(now: environment.now)
        report.membersInStep = UInt32(replica.raft.membersInStep)
        return report
    }

    private func heartbeatAnswered(_ response: ControlServerHeartbeatResponse, reported: [UInt64]) {
        registration.heartbeatAnsweredAt = environment.now
        store.remember(metadataRevision: response.revision)
        registration.inquiry = response.hasInquiry ? VolumeID(response.inquiry.afterVolume) : nil
        if response.hasAddressBook { take(response.addressBook) }
        take(response.copysets)
        registration.copysetsVersion = max(registration.copysetsVersion, response.copysetsVersion)
        tasks.reported(reported)
        for task in response.tasks { begin(task) }
    }

    private func heartbeatFailed(_ error: ControlError) {
        guard case .refused(let failure) = error else { return }
        switch failure.code {
        case .staleIncarnation, .identityInUse, .wrongCluster:
            fail(.refused("the MDS refuses this chunkserver: \(failure.message)"))
        case .notFound, .notReady: askToRegister()  // The MDS was restarted and wants to know us again.
        default: environment.log(.warning, "the MDS refused a heartbeat: \(failure.message)")
        }
    }

    private func begin(_ task: ControlCopysetTask) {
        guard let replica = replicas[CopysetID(task.copyset)], replica.raft.isReady else { return }
        let volume = VolumeID(task.volume)
        guard volume.rawValue <= VolumeID.max, replica.gates[volume] == nil, tasks.begin(task.task) else {
            return
        }
        let record = store.volumeRecord(replica.id, volume)
        let operation: Operation
        switch task.work {
        case .deleteVolume:
            if record?.isDeleted == true { return tasks.finished(task.task) }
            operation = .deleteVolume(volume)
        case .setFence(let fence):
            let fence = VolumeFence(
                epoch: Epoch(fence.epoch), size: ByteCount(bytes: fence.sizeBytes), change: fence.change)
            if let record, record.isDeleted || !fence.isNewer(than: record.fence) {
                return tasks.finished(task.task)
            }
            operation = .fence(volume, fence)
        case nil: return tasks.finished(task.task)
        }
        replica.gates[volume] = []
        propose(
            operation, PendingChange(tag: nil, gatedVolume: volume, task: task.task, responders: []), replica)
    }
}
