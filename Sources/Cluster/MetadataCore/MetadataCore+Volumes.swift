import BlockTypes

/// The life of a volume: made, resized, deleted, restored, purged.
extension MetadataCore {
    /// What people see of a volume.
    func info(of row: VolumeRow, now: Duration) -> VolumeInfo {
        var holder = row.holder.map { $0.name.isEmpty ? "an unnamed holder" : $0.name } ?? ""
        if !holder.isEmpty, !isLeaseLive(row, now: now) { holder += " (silent; its lease has ended)" }
        var info = VolumeInfo(
            row: row, path: state.path(of: row), poolName: state.pools[row.pool]?.name ?? "", holder: holder)
        info.silentMembers = silentMembers(of: row, now: now)
        return info
    }

    func createVolume(
        _ text: String, sizeBytes: UInt64, pool: String, unit: UInt32, count: UInt32
    ) throws(MetadataRefusal) -> Decision {
        let path = try MetadataPath(text)
        let (parent, name) = try freePlace(at: path)
        let shape = try VolumeShape(sizeBytes: sizeBytes, stripeUnitBytes: unit, stripeCount: count)
        let pool = try self.pool(named: pool)
        var cluster = state.cluster
        guard state.volumes.count < limits.volumesMax, cluster.nextVolume <= VolumeID.max else {
            throw MetadataRefusal(
                .noSpace, "there are \(state.volumes.count) volumes, deleted ones included; purge some")
        }
        let row = VolumeRow(
            id: VolumeID(cluster.nextVolume), place: .named(parent: parent, name: name),
            sizeBytes: shape.sizeBytes, stripeUnitBytes: shape.stripeUnitBytes,
            stripeCount: shape.stripeCount,
            pool: pool.id, generation: pool.generations.last?.number ?? 0, epoch: Epoch(0),
            createdAt: secondsSince1970, holder: nil)
        cluster.nextVolume += 1
        let info = VolumeInfo(row: row, path: path.text, poolName: pool.name, holder: "")
        return Decision(.volume(info), [.put(.cluster(cluster)), .put(.volume(row))])
    }
    private func pool(named name: String) throws(MetadataRefusal) -> PoolRow {
        let pools = state.poolsInOrder
        let names = enumerated(pools.map(\.name))
        if name.isEmpty {
            guard pools.count <= 1 else {
                throw MetadataRefusal(.badRequest, "there are several pools, name one of \(names)")
            }
            guard let only = pools.first else {
                throw MetadataRefusal(
                    .notReady, "there is no pool yet; create one with \"curve pool create\"")
            }
            return only
        }
        guard let pool = pools.first(where: { $0.name == name }) else {
            throw MetadataRefusal(
                .notFound, "there is no pool \(MetadataPath.quoted(name)); there is \(names)")
        }
        return pool
    }

    /// Growing changes the metadata alone: thin space costs nothing, and the holder sets the new fence when
    /// it learns the size with its next renewal.
    ///
    /// Shrinking must also free what lies beyond. A holder does that itself, so it must be the one who asks.
    /// For a volume that nobody holds the copysets get a fence of a new epoch, under which they free it;
    /// until all have done so the volume cannot grow, or old data would come back. The new epoch makes a late
    /// copy of such a task harmless: by then a later attachment has raised the epoch further.
    func resize(
        _ text: String, to sizeBytes: UInt64, allowShrink: Bool, session: SessionID, now: Duration
    ) throws(MetadataRefusal) -> Decision {
        var row = try volume(at: text)
        try VolumeShape.check(sizeBytes: sizeBytes, stripeCount: row.stripeCount)
        let old = row.sizeBytes
        row.sizeBytes = sizeBytes
        guard sizeBytes != old else { return Decision(.volume(info(of: row, now: now))) }
        let oldEnd = row.fenceBytes(forSize: old)
        // Also by a holder whose lease has ended and whom nobody has superseded: it must not fence itself.
        let isHeld =
            isLeaseLive(row, now: now) || row.holder != nil && leases[row.id]?.session == session
        row.change = try nextChange(of: row)
        if sizeBytes > old {
            if let pending = state.tasksOfVolume[row.id]?.count {
                throw MetadataRefusal(
                    .notReady,
                    "\(pending) copysets are still freeing what the last shrink of \(text) cut off; try again"
                )
            }
            // What lies between the old end and the end of its stripe group is trimmed by a holder only.
            guard oldEnd == old || row.epoch == Epoch(0) || isHeld else {
                throw MetadataRefusal(
                    .badRequest,
                    "\(text) is striped over \(row.stripeCount) chunks and does not end with a whole stripe"
                        + " group, so it grows only while it is held; attach it to grow it")
            }
            // A size belongs to a generation of the membership: each member tells the copysets what it knows.
            if row.group != nil { (row.epoch, row.skip) = (try nextEpoch(of: row), nil) }
            guard row.tailChange == nil else {
                throw MetadataRefusal(
                    .notReady,
                    "what the last shrink of \(text) cut off is still being freed by its holder; try again")
            }
            return Decision(.volume(info(of: row, now: now)), [.put(.volume(row))])
        }
        guard allowShrink else {
            throw MetadataRefusal(
                .badRequest,
                "\(text) has \(ByteCount(bytes: old)); a size of \(ByteCount(bytes: sizeBytes)) would cut off"
                    + " data for good; allow the shrink if that is meant")
        }
        if isHeld {
            guard row.group == nil else {
                throw held(
                    row, text, "what a group holds can grow, but not shrink; detach it everywhere first")
            }
            guard leases[row.id]?.session == session else {
                throw held(row, text, "only its holder can shrink it; detach it first")
            }
            // The holder tells the copysets as well; if it dies before, the tasks have the last word. They
            // free whole stripe groups; the rest is the holder's, or the next one's.
            row.tailChange = row.fenceBytes(forSize: sizeBytes) == sizeBytes ? nil : row.change
            return try shrink(row, [], now: now)
        }
        return try shrinkUnheld(row, text, now: now)
    }
    private func shrinkUnheld(
        _ shrunk: VolumeRow, _ text: String, now: Duration
    ) throws(MetadataRefusal) -> Decision {
        var row = shrunk
        // Without an attachment nothing was ever written.
        guard row.epoch > Epoch(0) else {
            return Decision(.volume(info(of: row, now: now)), [.put(.volume(row))])
        }
        let fenceBytes = row.fenceBytes(forSize: row.sizeBytes)
        guard fenceBytes == row.sizeBytes else {
            throw MetadataRefusal(
                .badRequest,
                "\(text) is striped over \(row.stripeCount) chunks, so while nobody holds it it shrinks"
                    + " only to whole stripe groups: \(ByteCount(bytes: fenceBytes)), for example; attach"
                    + " it to shrink to any size")
        }
        row.epoch = try nextEpoch(of: row)
        (row.holder, row.group, row.tailChange) = (nil, nil, nil)
        return try shrink(row, [.endLease(row.id)], now: now)
    }
    /// Has every copyset free what lies past the end. Tasks of an earlier shrink are replaced: the new ones
    /// free all that those would.
    private func shrink(
        _ row: VolumeRow, _ afterwards: [Afterwards], now: Duration
    ) throws(MetadataRefusal) -> Decision {
        var cluster = state.cluster
        let fence = TaskRow.Fence(
            epoch: row.epoch, sizeBytes: row.fenceBytes(forSize: row.sizeBytes), change: row.change)
        let replaced = (state.tasksOfVolume[row.id] ?? []).sorted()
        let tasks = try makeTasks(for: row, fence: fence, counters: &cluster)
        return Decision(
            .volume(info(of: row, now: now)),
            replaced.map { .delete(.task($0)) } + [.put(.cluster(cluster)), .put(.volume(row))] + tasks,
            afterwards)
    }
    /// One task for each copyset that may hold chunks of the volume.
    private func makeTasks(
        for row: VolumeRow, fence: TaskRow.Fence?, counters: inout ClusterRow
    ) throws(MetadataRefusal) -> [RecordChange] {
        let table = state.table(of: row)
        guard state.tasks.count + table.count <= limits.tasksMax else {
            throw MetadataRefusal(
                .notReady,
                "\(state.tasks.count) tasks wait for their copysets already; see \"curve status\", then try"
                    + " again"
            )
        }
        var changes: [RecordChange] = []
        for copyset in table {
            let task = TaskRow(
                id: TaskID(counters.nextTask), copyset: copyset, volume: row.id, fence: fence)
            counters.nextTask += 1
            changes.append(.put(.task(task)))
        }
        return changes
    }

    func delete(_ text: String, purgeNow: Bool, now: Duration) throws(MetadataRefusal) -> Decision {
        var row = try volume(at: text)
        guard !isLeaseLive(row, now: now) else { throw held(row, text, "detach it there first") }
        let path = state.path(of: row)
        (row.holder, row.group, row.change) = (nil, nil, try nextChange(of: row))
        guard !purgeNow else {
            var cluster = state.cluster
            let end = try purged(row, counters: &cluster)
            return Decision(
                .done, end + [.put(.cluster(cluster))],
                [.endLease(row.id), .log("volume \(row.id), \(path), is purged")])
        }
        row.place = .recycled(path: path, since: secondsSince1970)
        return Decision(.done, [.put(.volume(row))], [.endLease(row.id)])
    }

    /// Ends a volume. Its number lives on until every copyset has said that it freed the volume's blocks.
    func purged(
        _ ending: VolumeRow, counters: inout ClusterRow
    ) throws(MetadataRefusal) -> [RecordChange] {
        var row = ending
        // Whoever never attached wrote nothing: there is nothing to free.
        let values = (state.values[row.id] ?? []).map {
            RecordChange.delete(.value(row.id, slot: $0.slot))
        }
        guard row.epoch > Epoch(0) else { return values + [.delete(.volume(row.id))] }
        let unfinished = (state.tasksOfVolume[row.id] ?? []).sorted()
        let tasks = try makeTasks(for: row, fence: nil, counters: &counters)
        (row.place, row.holder, row.group) = (.purging, nil, nil)
        return values + unfinished.map { .delete(.task($0)) } + [.put(.volume(row))] + tasks
    }
    /// What changes when copysets have finished `tasks`.
    func finished(_ tasks: Set<TaskID>) -> [RecordChange] {
        var changes: [RecordChange] = []
        var left: [VolumeID: Int] = [:]
        for id in tasks.sorted() {
            guard let task = state.tasks[id] else { continue }
            changes.append(.delete(.task(id)))
            let others = (left[task.volume] ?? state.tasksOfVolume[task.volume]?.count ?? 0) - 1
            left[task.volume] = others
            if others == 0, state.volumes[task.volume]?.isPurging == true {
                changes.append(.delete(.volume(task.volume)))
            }
        }
        return changes
    }

    func restore(
        _ selector: RecycledSelector, to: String, now: Duration
    ) throws(MetadataRefusal) -> Decision {
        var row = try recycledVolume(selector)
        let old = state.path(of: row)
        let path = try MetadataPath(to.isEmpty ? old : to)
        let place: (parent: DirectoryID, name: String)
        do {
            place = try freePlace(at: path)
        } catch {
            throw MetadataRefusal(
                error.code, "\(old) cannot be restored: \(error.message), or restore it to another path")
        }
        row.place = .named(parent: place.parent, name: place.name)
        return Decision(.volume(info(of: row, now: now)), [.put(.volume(row))])
    }
    func purge(_ selector: RecycledSelector) throws(MetadataRefusal) -> Decision {
        let row = try recycledVolume(selector)
        let line = "volume \(row.id), once \(state.path(of: row)), is purged"
        var cluster = state.cluster
        let end = try purged(row, counters: &cluster)
        return Decision(.done, end + [.put(.cluster(cluster))], [.log(line)])
    }
    func listRecycled(now: Duration) throws(MetadataRefusal) -> Decision {
        var bytes = 0
        var infos: [VolumeInfo] = []
        for id in state.recycled.sorted() {
            guard let row = state.volumes[id] else { continue }
            let info = info(of: row, now: now)
            bytes += Self.listedBytes(info.path, info)
            guard bytes <= limits.listingBytesMax else {
                throw MetadataRefusal(
                    .badRequest, "the recycle bin holds too much for one listing; purge some by path first")
            }
            infos.append(info)
        }
        return Decision(.recycled(infos))
    }
    private func recycledVolume(_ selector: RecycledSelector) throws(MetadataRefusal) -> VolumeRow {
        switch selector {
        case .volume(let id):
            guard state.recycled.contains(id), let row = state.volumes[id] else {
                throw MetadataRefusal(.notFound, "volume \(id) is not in the recycle bin")
            }
            return row
        case .path(let text):
            let path = try MetadataPath(text)
            let matches = state.recycled.sorted().compactMap { state.volumes[$0] }
                .filter { state.path(of: $0) == path.text }
            guard let row = matches.first else {
                throw MetadataRefusal(.notFound, "no volume of path \(path.text) is in the recycle bin")
            }
            guard matches.count == 1 else {
                let numbers = enumerated(matches.map(\.id))
                throw MetadataRefusal(
                    .badRequest,
                    "\(matches.count) deleted volumes had the path \(path.text); name one by its number:"
                        + " \(numbers)")
            }
            return row
        }
    }
    /// Purges what has been in the recycle bin for too long, a few at a time.
    func endRetention(wall: UInt64) -> Decision {
        var changes: [RecordChange] = []
        var lines: [Afterwards] = []
        var cluster = state.cluster
        for id in state.recycled.sorted() where lines.count < limits.purgesPerTickMax {
            guard let row = state.volumes[id], case .recycled(let path, let since) = row.place,
                wall >= since.addingReportingOverflow(limits.retentionSeconds).partialValue,
                let end = try? purged(row, counters: &cluster)
            else { continue }
            changes += end
            lines.append(.log("volume \(id), once \(path), is purged: its time in the recycle bin is over"))
        }
        if !changes.isEmpty { changes.append(.put(.cluster(cluster))) }
        return Decision(.done, changes, lines)
    }
}
