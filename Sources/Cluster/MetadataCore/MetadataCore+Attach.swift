import BlockTypes

/// Who holds a volume.
///
/// The lease only says who may attach without force; it fences nobody. Fencing is the epoch's work: every
/// attachment has a higher one, it is durable before the holder learns it, and the chunkservers refuse the
/// older. So a wrong clock here can at worst let a second holder in, whom the first then cannot disturb.
extension MetadataCore {
    /// True while nobody else may attach without force.
    func isLeaseLive(_ row: VolumeRow, now: Duration) -> Bool {
        guard row.holder != nil, let lease = leases[row.id] else { return false }
        return lease.end > now
    }
    /// The refusal that names the holder.
    func held(_ row: VolumeRow, _ text: String, _ advice: String) -> MetadataRefusal {
        let name = row.holder.map { $0.name.isEmpty ? "an unnamed holder" : $0.name } ?? ""
        let since = utcText(secondsSince1970: row.holder?.since ?? 0)
        return MetadataRefusal(
            .held, "\(text) is attached by \(name) since \(since); \(advice)", holder: name)
    }
    /// The number of the next attachment.
    func nextEpoch(of row: VolumeRow) throws(MetadataRefusal) -> Epoch {
        if isPlanted(.epochReused), row.epoch > Epoch(0) { return row.epoch }
        let next = UInt64(row.epoch.rawValue) + UInt64(row.skip ?? 0) + 1
        guard next <= UInt32.max else {
            throw MetadataRefusal(
                .noSpace,
                "volume \(row.id) was attached \(row.epoch) times, the limit; copy it to a new volume")
        }
        return Epoch(UInt32(next))
    }

    /// The number of the volume's next change.
    func nextChange(of row: VolumeRow) throws(MetadataRefusal) -> UInt32 {
        let next = UInt64(row.change ?? 0) + UInt64(row.skip ?? 0) + 1
        guard next <= UInt32.max else {
            throw MetadataRefusal(
                .noSpace,
                "volume \(row.id) was changed \(UInt32.max) times, the limit; copy it to a new volume")
        }
        return UInt32(next)
    }

    func attach(
        _ request: AttachRequest, session: SessionID, now: Duration
    ) throws(MetadataRefusal) -> Decision {
        var row = try volume(at: request.path)
        try check(request.holder, "a holder's name")
        try check(request.holderKey, "a holder's key")
        if !request.group.isEmpty { return try join(row, request, session: session, now: now) }
        // A copy of the request that got it: the same answer again.
        if request.attempt != 0, let holder = row.holder, holder.attempt == request.attempt {
            return Decision(
                .attached(attachment(row, epoch: row.epoch, now: now)), [], [.lease(row.id, session)])
        }
        let isSame = row.holder.map { !$0.key.isEmpty && $0.key == request.holderKey } ?? false
        if isLeaseLive(row, now: now), !isSame, !request.takeOver {
            throw held(
                row, request.path, "detach it there, or attach with --takeover, which fences that holder")
        }
        if let expected = request.expectedEpoch, expected != row.epoch {
            throw MetadataRefusal(
                .notReady,
                "\(request.path) was attached with number \(row.epoch) since \(expected) was read; try again")
        }
        let old = row.holder
        (row.epoch, row.change) = (try nextEpoch(of: row), try nextChange(of: row))
        row.holder = HolderRow(
            name: request.holder, key: request.holderKey, since: secondsSince1970,
            readOnly: request.readOnly, attempt: request.attempt == 0 ? nil : request.attempt)
        (row.skip, row.group) = (nil, nil)
        let attached = attachment(row, epoch: row.epoch, now: now)
        var afterwards: [Afterwards] = [.lease(row.id, session)]
        if let old {
            let names = "from \(MetadataPath.quoted(old.name)) to \(MetadataPath.quoted(request.holder))"
            afterwards.append(
                .log("volume \(row.id), \(attached.volume.path), goes \(names), epoch \(row.epoch)"))
        }
        return Decision(.attached(attached), [.put(.volume(row))], afterwards)
    }
    /// What the holder of `row` with the attachment `epoch` needs to know.
    func attachment(_ row: VolumeRow, epoch: Epoch, now: Duration) -> VolumeAttachment {
        let copysets = state.table(of: row).compactMap { state.copysets[$0] }
        var info = info(of: row, now: now)
        info.holder = row.holder?.name ?? ""
        return VolumeAttachment(
            volume: info, epoch: epoch, lease: limits.lease, copysets: copysets,
            addressBook: state.addressBook, trimsTail: row.tailChange != nil,
            group: row.group?.members.map(\.epoch) ?? [])
    }

    /// Keeps a lease alive, even one that had ended if nobody took its place.
    mutating func renew(
        _ id: VolumeID, epoch: Epoch, addressBookVersion: UInt64, of cluster: UniqueID?, revision: UInt64,
        settledChange: UInt32, session: SessionID, now: Duration
    ) throws(MetadataRefusal) -> Decision {
        if let cluster {
            guard cluster == clusterID else {
                throw MetadataRefusal(
                    .wrongCluster, "this is cluster \(clusterID), the volume is of \(cluster)")
            }
            heard(revision: revision)
            heard(addressBookVersion: addressBookVersion)
        }
        var row = try attachment(of: id, epoch: epoch)
        guard row.holder != nil else {
            throw MetadataRefusal(.fenced, "volume \(id) is detached; attach it again")
        }
        leases[id] = Lease(end: now + limits.lease, session: row.group == nil ? session : nil)
        if row.group != nil { memberLeases[MemberKey(volume: id, epoch: epoch)] = now + limits.lease }
        var changes: [RecordChange] = []
        if let tail = row.tailChange, settledChange >= tail, trust == .current {
            row.tailChange = nil
            changes.append(.put(.volume(row)))
        }
        let isNew = addressBookVersion != state.cluster.addressBookVersion
        return Decision(
            .renewed(
                sizeBytes: row.sizeBytes, change: row.change ?? 0,
                addressBook: isNew ? state.addressBook : nil, generation: row.epoch,
                group: row.group?.members.map(\.epoch) ?? [], poolUsedPercent: usedPercent(of: row.pool)),
            changes)
    }

    /// Lets go; done already is done.
    func detach(_ id: VolumeID, epoch: Epoch) throws(MetadataRefusal) -> Decision {
        var row = try attachment(of: id, epoch: epoch)
        guard row.holder != nil else { return Decision(.done) }
        if row.group != nil { return leave(row, epoch) }
        row.holder = nil
        return Decision(bookkeeping: .done, [.put(.volume(row))], [.endLease(id)])
    }

    /// The volume, if the attachment is not over.
    func attachment(of id: VolumeID, epoch: Epoch) throws(MetadataRefusal) -> VolumeRow {
        guard let row = state.volumes[id], !row.isPurging else {
            // Nobody is told that his volume is gone by a database that may never have known it.
            guard id.rawValue < state.cluster.nextVolume, !mayBeLost(id) else {
                throw unknownAttachment("volume \(id) is not known here")
            }
            throw MetadataRefusal(.fenced, "volume \(id) is gone; it was deleted")
        }
        guard epoch <= row.epoch, epoch > Epoch(0) else {
            throw unknownAttachment("volume \(id) never had an attachment \(epoch)")
        }
        if let group = row.group {
            guard group.members.contains(where: { $0.epoch == epoch }) else {
                throw MetadataRefusal(
                    .fenced,
                    "attachment \(epoch) of volume \(id) is over: it is no member of the group"
                        + " \(MetadataPath.quoted(group.name)) any more")
            }
            return row
        }
        guard epoch == row.epoch else {
            let by = row.holder.map { ", attached by \(MetadataPath.quoted($0.name))" } ?? ""
            throw MetadataRefusal(
                .fenced, "attachment \(epoch) of volume \(id) is over: it is at \(row.epoch) now\(by)")
        }
        return row
    }
    private func unknownAttachment(_ what: String) -> MetadataRefusal {
        trust == .current
            ? MetadataRefusal(
                .badRequest, "\(what); if the database was put back, its lease cannot be renewed")
            : databaseWentBack()
    }
}
