import BlockTypes
import ControlMessages
import Environment
import MetadataCore

#if canImport(FoundationEssentials)
    import FoundationEssentials
#else
    import Foundation
#endif

/// Requests as the wire has them, turned into requests as the core knows them. What cannot be is refused
/// here.
extension MetadataRequest {
    init(_ request: ControlRequest) throws(MetadataRefusal) {
        guard let body = request.body else { throw MetadataRefusal(.badRequest, "the request is empty") }
        switch body {
        case .getCluster: self = .cluster
        case .allocateServer(let body):
            self = .allocateServer(device: try id(body.deviceID, "device"), host: body.host)
        case .registerServer(let body): self = .registerServer(try ServerRegistration(body))
        case .serverHeartbeat(let body): self = .heartbeat(ServerHeartbeat(body))
        case .getStatus: self = .status
        case .createPool(let body):
            self = .createPool(
                name: body.name, replicas: body.replicas, copysets: body.copysets,
                domain: try FailureDomain(body.failureDomain))
        case .createVolume(let body):
            self = .createVolume(
                path: body.path, sizeBytes: body.sizeBytes, pool: body.pool,
                stripeUnitBytes: body.stripeUnitBytes, stripeCount: body.stripeCount)
        case .getVolume(let body): self = .volume(path: body.path)
        case .listDirectory(let body):
            self = .list(path: body.path.isEmpty ? "/" : body.path, recursive: body.recursive)
        case .resizeVolume(let body):
            self = .resize(path: body.path, sizeBytes: body.sizeBytes, allowShrink: body.allowShrink)
        case .rename(let body): self = .rename(from: body.from, to: body.to)
        case .deleteVolume(let body): self = .deleteVolume(path: body.path, purgeNow: body.purgeNow)
        case .restoreVolume(let body):
            self = .restore(body.byPath ? .path(body.path) : .volume(VolumeID(body.volume)), to: body.to)
        case .purgeVolume(let body):
            self = .purge(body.byPath ? .path(body.path) : .volume(VolumeID(body.volume)))
        case .listRecycled: self = .listRecycled
        case .createDirectory(let body): self = .createDirectory(path: body.path, parents: body.parents)
        case .deleteDirectory(let body): self = .deleteDirectory(path: body.path)
        case .attachVolume(let body):
            self = .attach(
                AttachRequest(
                    path: body.path, holder: body.holder, holderKey: body.holderKey, takeOver: body.takeOver,
                    readOnly: body.readOnly,
                    expectedEpoch: body.hasExpectedEpoch ? Epoch(body.expectedEpoch) : nil,
                    attempt: body.attempt, group: body.group))
        case .renewLease(let body):
            self = .renewLease(
                volume: VolumeID(body.volume), epoch: Epoch(body.epoch),
                addressBookVersion: body.addressBookVersion,
                cluster: UniqueID(controlBytes: body.clusterID), revision: body.revision,
                settledChange: body.settledChange)
        case .detachVolume(let body):
            self = .detach(volume: VolumeID(body.volume), epoch: Epoch(body.epoch))
        case .removeMember(let body):
            self = .removeMember(
                volume: VolumeID(body.volume), epoch: Epoch(body.epoch), member: Epoch(body.member),
                force: body.force)
        case .getValue(let body):
            self = .value(
                volume: VolumeID(body.volume), name: body.name, after: body.afterVersion,
                wait: .milliseconds(Int64(body.waitMilliseconds)))
        case .swapValue(let body):
            self = .swapValue(
                ValueSwap(
                    volume: VolumeID(body.volume), epoch: Epoch(body.epoch), name: body.name,
                    expectedVersion: body.expectedVersion, bytes: Array(body.value), attempt: body.attempt))
        case .getAddressBook(let body): self = .addressBook(version: body.version)
        case .adoptDatabase(let body): self = .adoptDatabase(force: body.force)
        }
    }
}

private func id(_ bytes: Data, _ what: String) throws(MetadataRefusal) -> UniqueID {
    guard let id = UniqueID(controlBytes: bytes) else {
        throw MetadataRefusal(.badRequest, "a \(what) id has 16 bytes, not \(bytes.count)")
    }
    return id
}

extension ServerRegistration {
    fileprivate init(_ body: ControlRegisterServerRequest) throws(MetadataRefusal) {
        for text in body.addresses where SocketAddress(text) == nil {
            throw MetadataRefusal(
                .badRequest,
                "an address is none: write host:port, [v6]:port or unix:path")
        }
        self.init(
            cluster: try id(body.clusterID, "cluster"), device: try id(body.deviceID, "device"),
            server: ServerID(body.server), incarnation: Incarnation(body.incarnation),
            addresses: body.addresses, host: body.host, zone: body.zone, capacityBytes: body.capacityBytes,
            lazilyGrown: body.lazilyGrown)
        revision = body.revision
    }
}

extension ServerHeartbeat {
    fileprivate init(_ body: ControlServerHeartbeatRequest) {
        self.init(server: ServerID(body.server), incarnation: Incarnation(body.incarnation))
        (capacityBytes, usedBytes, freeBytes) = (body.capacityBytes, body.usedBytes, body.freeBytes)
        copysets = body.copysets.map {
            CopysetReport(
                copyset: CopysetID($0.copyset), isLeader: $0.isLeader, term: Term($0.term), isReady: $0.ready,
                membersInStep: $0.membersInStep)
        }
        finishedTasks = body.finishedTasks.map { TaskID($0) }
        (addressBookVersion, copysetsVersion) = (body.addressBookVersion, body.copysetsVersion)
        (health, mendedBlocks, revision) = (body.health, body.mendedBlocks, body.revision)
        cluster = UniqueID(controlBytes: body.clusterID)
        if body.hasInventory { inventory = VolumeInventory(body.inventory) }
    }
}

extension VolumeInventory {
    fileprivate init(_ body: ControlVolumeInventory) {
        let volumes = body.volumes.map {
            KnownVolume(
                volume: VolumeID($0.volume),
                fence: VolumeFence(
                    epoch: Epoch($0.epoch), size: ByteCount(bytes: $0.sizeBytes), change: $0.change),
                isDeleted: $0.isDeleted)
        }
        self.init(after: VolumeID(body.afterVolume), volumes: volumes, isLast: body.isLast)
    }
}

extension FailureDomain {
    fileprivate init(_ domain: ControlFailureDomain) throws(MetadataRefusal) {
        switch domain {
        case .zone: self = .zone
        case .server: self = .server
        case .device: self = .device
        case .UNRECOGNIZED(let number):
            throw MetadataRefusal(.badRequest, "nobody knows a failure domain \(number)")
        }
    }
}
