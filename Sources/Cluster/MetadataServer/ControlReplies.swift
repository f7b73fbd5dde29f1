import BlockTypes
import ControlMessages
import MetadataCore

#if canImport(FoundationEssentials)
    import FoundationEssentials
#else
    import Foundation
#endif

/// Replies as the core makes them, turned into what the wire has.
extension ControlResponse {
    /// - Parameter revision: of the database, for those who shall remember it.
    init(_ reply: MetadataReply, version: String, revision: UInt64) {
        switch reply {
        case .cluster(let id):
            var body = ControlGetClusterResponse()
            (body.clusterID, body.version) = (id.controlBytes, version)
            self.init(.getCluster(body))
        case .allocated(let cluster, let server):
            var body = ControlAllocateServerResponse()
            (body.clusterID, body.server) = (cluster.controlBytes, server.rawValue)
            self.init(.allocateServer(body))
        case .registered(let copysets, let addressBook, let heartbeat):
            var body = ControlRegisterServerResponse()
            body.copysets = copysets.map { ControlCopyset($0) }
            body.addressBook = ControlAddressBook(addressBook)
            (body.heartbeatMilliseconds, body.revision) = (heartbeat.wholeMilliseconds, revision)
            self.init(.registerServer(body))
        case .heartbeat(let addressBook, let copysets, let copysetsVersion, let tasks, let inquiry):
            var body = ControlServerHeartbeatResponse()
            if let addressBook { body.addressBook = ControlAddressBook(addressBook) }
            body.copysets = copysets.map { ControlCopyset($0) }
            (body.copysetsVersion, body.revision) = (copysetsVersion, revision)
            body.tasks = tasks.map { ControlCopysetTask($0) }
            if let inquiry { body.inquiry.afterVolume = inquiry.rawValue }
            self.init(.serverHeartbeat(body))
        case .status(let status): self.init(.getStatus(ControlGetStatusResponse(status)))
        case .pool(let info):
            var body = ControlCreatePoolResponse()
            body.pool = ControlPool(info)
            self.init(.createPool(body))
        case .volume(let info):
            var body = ControlVolumeResponse()
            body.volume = ControlVolume(info)
            self.init(.volume(body))
        case .listing(let entries):
            var body = ControlListDirectoryResponse()
            body.entries = entries.map { ControlDirectoryEntry($0) }
            self.init(.listDirectory(body))
        case .recycled(let infos):
            var body = ControlListRecycledResponse()
            body.volumes = infos.map { ControlVolume($0) }
            self.init(.listRecycled(body))
        case .done: self.init(.empty(ControlEmptyResponse()))
        case .attached(let attachment):
            self.init(.attachVolume(ControlAttachVolumeResponse(attachment, revision: revision)))
        case .renewed(let sizeBytes, let change, let addressBook, let generation, let group, let used):
            var body = ControlRenewLeaseResponse()
            (body.sizeBytes, body.change, body.revision) = (sizeBytes, change, revision)
            (body.epoch, body.poolUsedPercent) = (generation.rawValue, used)
            body.group = group.map(\.rawValue)
            if let addressBook { body.addressBook = ControlAddressBook(addressBook) }
            self.init(.renewLease(body))
        case .regrouped(let epoch, let change, let group, let sizeBytes):
            var body = ControlRemoveMemberResponse()
            (body.epoch, body.change, body.sizeBytes) = (epoch.rawValue, change, sizeBytes)
            body.group = group.map(\.rawValue)
            self.init(.removeMember(body))
        case .value(let version, let bytes, let isSwapped):
            var body = ControlValueResponse()
            (body.version, body.swapped, body.value) = (version, isSwapped, Data(bytes))
            self.init(.value(body))
        case .addressBook(let addressBook):
            var body = ControlGetAddressBookResponse()
            body.addressBook = ControlAddressBook(addressBook)
            self.init(.getAddressBook(body))
        case .adopted(let findings):
            var body = ControlAdoptDatabaseResponse()
            (body.revision, body.findings) = (revision, findings)
            self.init(.adoptDatabase(body))
        }
    }
}

extension ControlAttachVolumeResponse {
    fileprivate init(_ attachment: VolumeAttachment, revision: UInt64) {
        self.init()
        volume = ControlVolume(attachment.volume)
        epoch = attachment.epoch.rawValue
        leaseMilliseconds = attachment.lease.wholeMilliseconds
        copysets = attachment.copysets.map { ControlCopyset($0) }
        addressBook = ControlAddressBook(attachment.addressBook)
        (self.revision, trimTail) = (revision, attachment.trimsTail)
        group = attachment.group.map(\.rawValue)
    }
}

extension ControlFailure {
    init(_ refusal: MetadataRefusal) {
        let code: ControlFailure.Code =
            switch refusal.code {
            case .badRequest: .badRequest
            case .notFound: .notFound
            case .alreadyExists: .alreadyExists
            case .held: .held
            case .fenced: .fenced
            case .noSpace: .noSpace
            case .notEmpty: .notEmpty
            case .wrongCluster: .wrongCluster
            case .identityInUse: .identityInUse
            case .staleIncarnation: .staleIncarnation
            case .notReady: .notReady
            case .store: .store
            case .databaseWentBack: .databaseWentBack
            }
        self.init(code, refusal.message, holder: refusal.holder)
    }
}

extension Duration {
    fileprivate var wholeMilliseconds: UInt32 {
        let (seconds, attoseconds) = components
        return UInt32(clamping: seconds * 1000 + attoseconds / 1_000_000_000_000_000)
    }
}

extension ControlCopyset {
    fileprivate init(_ row: CopysetRow) {
        self.init()
        (id, members) = (row.id.rawValue, row.members.map(\.rawValue))
    }
}

extension ControlAddressBook {
    fileprivate init(_ book: AddressBook) {
        self.init()
        version = book.version
        servers = book.servers.map { row in
            var address = ControlServerAddress()
            (address.server, address.incarnation) = (row.id.rawValue, row.incarnation.rawValue)
            address.addresses = row.addresses
            return address
        }
    }
}

extension ControlCopysetTask {
    fileprivate init(_ row: TaskRow) {
        self.init()
        (task, copyset, volume) = (row.id.rawValue, row.copyset.rawValue, row.volume.rawValue)
        guard let fence = row.fence else {
            work = .deleteVolume(true)
            return
        }
        var body = ControlSetFence()
        (body.epoch, body.sizeBytes, body.change) = (fence.epoch.rawValue, fence.sizeBytes, fence.change ?? 0)
        work = .setFence(body)
    }
}

extension ControlPool {
    fileprivate init(_ info: PoolInfo) {
        self.init()
        (id, name, replicas) = (info.row.id.rawValue, info.row.name, info.row.replicas)
        failureDomain =
            switch info.row.domain {
            case .zone: .zone
            case .server: .server
            case .device: .device
            }
        copysets = UInt32(clamping: info.row.generations.last?.copysets.count ?? 0)
        (capacityBytes, freeBytes) = (info.capacityBytes, info.freeBytes)
    }
}

extension ControlVolume {
    fileprivate init(_ info: VolumeInfo) {
        self.init()
        let row = info.row
        (id, path, sizeBytes) = (row.id.rawValue, info.path, row.sizeBytes)
        (stripeUnitBytes, stripeCount) = (row.stripeUnitBytes, row.stripeCount)
        (pool, poolName, generation) = (row.pool.rawValue, info.poolName, row.generation)
        (epoch, createdAt, holder) = (row.epoch.rawValue, row.createdAt, info.holder)
        change = row.change ?? 0
        group = row.group?.name ?? ""
        members = (row.group?.members ?? []).map { member in
            var body = ControlGroupMember()
            (body.epoch, body.holder) = (member.epoch.rawValue, member.holder.name)
            body.silent = info.silentMembers.contains(member.epoch)
            return body
        }
        if case .recycled(_, let since) = row.place { deletedAt = since }
    }
}

extension ControlDirectoryEntry {
    fileprivate init(_ entry: DirectoryEntry) {
        self.init()
        path = entry.path
        isDirectory = entry.volume == nil
        if let info = entry.volume { volume = ControlVolume(info) }
    }
}

extension ControlGetStatusResponse {
    fileprivate init(_ status: ClusterStatus) {
        self.init()
        clusterID = status.cluster.controlBytes
        servers = status.servers.map { ControlServerStatus($0) }
        pools = status.pools.map { ControlPool($0) }
        volumes = UInt32(clamping: status.volumeCount)
        attachedVolumes = UInt32(clamping: status.attachedCount)
        recycledVolumes = UInt32(clamping: status.recycledCount)
        copysets = status.copysets.map { copyset in
            var body = ControlCopysetStatus()
            body.copyset = copyset.row.id.rawValue
            body.members = copyset.row.members.map(\.rawValue)
            body.leader = copyset.leader?.rawValue ?? 0
            body.membersInStep = copyset.membersInStep
            return body
        }
        pendingTasks = UInt32(clamping: status.pendingTaskCount)
        warnings = status.warnings
        database.state =
            switch status.trust {
            case .current: .current
            case .waiting: .waiting
            case .wentBack: .wentBack
            }
        (database.revision, database.heardRevision) = (status.revision, status.heardRevision)
    }
}

extension ControlServerStatus {
    fileprivate init(_ status: ServerStatus) {
        self.init()
        let row = status.row
        (server, deviceID, host) = (row.id.rawValue, row.device.controlBytes, row.host)
        (addresses, incarnation) = (row.addresses, row.incarnation.rawValue)
        (online, secondsSinceHeartbeat) = (status.isOnline, status.secondsSinceHeartbeat)
        (capacityBytes, usedBytes, freeBytes) = (status.capacityBytes, status.usedBytes, status.freeBytes)
        (lazilyGrown, copysetsLed) = (row.lazilyGrown, UInt32(clamping: status.copysetsLed))
        (health, zone, mendedBlocks) = (status.health, row.zone, status.mendedBlocks)
    }
}
