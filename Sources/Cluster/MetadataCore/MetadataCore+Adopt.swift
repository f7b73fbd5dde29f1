import BlockTypes

/// Going on with a database that went back, because an operator says so.
///
/// What the lost database gave cannot be known in full. Numbers are therefore lifted by as many as its lost
/// transactions could have given, and what chunkservers know of volumes (attachments, sizes, deletions) is
/// taken over from their fences. Holders who live go on.
extension MetadataCore {
    func adopt(force: Bool) throws(MetadataRefusal) -> Decision {
        let heard = heardRevision
        guard heard > revision else {
            guard trust == .waiting else {
                throw MetadataRefusal(
                    .badRequest, "the database is the newest that anybody remembers; nothing to adopt")
            }
            guard force else { throw MetadataRefusal(.notReady, waitingText) }
            let finding = "only \(trustLedger.heardText) chunkservers were heard, none remembers more"
            return Decision(bookkeeping: .adopted(findings: [finding]), [], [.overruled, .log(finding)])
        }
        if !force { try checkInventories() }
        let (next, overflowed) = heard.addingReportingOverflow(limits.unheardRevisionsMax)
        guard !overflowed else { throw MetadataRefusal(.noSpace, "revision \(heard) is the last") }
        let lost = next - revision
        var adoption = Adoption(cluster: lifted(past: lost), lost: lost)
        adoption.cluster.revision = next
        adoption.note(
            "the database was at revision \(revision), revision \(heard) was remembered: up to"
                + " \(heard - revision) transactions are lost")
        for id in trustLedger.strangers.keys.sorted() {
            guard let row = trustLedger.strangers[id], state.serverOfDevice[row.device] == nil else {
                continue
            }
            adoption.changes.append(.put(.server(row)))
            adoption.cluster.nextServer = max(adoption.cluster.nextServer, id.rawValue + 1)
            adoption.note("chunkserver \(id) on \(row.host) was not in the database and is again")
        }
        for id in state.volumes.keys.sorted() {
            if let row = state.volumes[id] { try adopt(row, &adoption) }
        }
        noteStranded(&adoption)
        adoption.changes.append(.put(.cluster(adoption.cluster)))
        let findings = Array(adoption.findings.prefix(limits.findingsMax))
        return Decision(
            bookkeeping: .adopted(findings: findings), adoption.changes,
            adoption.holders.map { .grace($0) } + findings.map { .log($0) } + [.adopted])
    }
    /// Each copyset's leader must have said what it knows: it alone is sure to have applied every fence.
    private func checkInventories() throws(MetadataRefusal) {
        let silent = state.copysetsInOrder.filter { row in
            guard let live = liveCopysets[row.id], live.isReady else { return true }
            return !trustLedger.isComplete(live.leader)
        }
        guard silent.isEmpty else {
            throw MetadataRefusal(
                .notReady,
                "\(silent.count) of \(state.copysets.count) copysets have not said yet what they know of"
                    + " volumes (\(enumerated(silent.map(\.id)))); start their chunkservers and try again,"
                    + " or use --force, which may bring back older sizes of volumes there")
        }
    }
    /// The counters, past everything that `lost` transactions could have given.
    private func lifted(past lost: UInt64) -> ClusterRow {
        var cluster = state.cluster
        let first = cluster.nextVolume
        cluster.nextServer += lost
        cluster.nextVolume += lost
        // One request makes as many directories as a path has names, one volume's end as many tasks as a pool
        // has copysets.
        cluster.nextDirectory += lost * UInt64(MetadataPath.depthMax)
        cluster.nextTask += lost * UInt64(limits.copysetsPerPoolMax)
        // Pools are for ever and few.
        cluster.nextPool += UInt32(limits.poolsMax)
        cluster.nextCopyset += UInt32(limits.copysetsMax)
        cluster.copysetsVersion += lost
        cluster.addressBookVersion = max(cluster.addressBookVersion, trustLedger.heardBookVersion) + lost
        cluster.heardRevision = nil
        let ranges = (cluster.lostVolumes ?? []) + [LostNumbers(from: first, to: cluster.nextVolume)]
        cluster.lostVolumes = Array(ranges.suffix(limits.lostRangesMax))
        return cluster
    }
    private func adopt(_ old: VolumeRow, _ adoption: inout Adoption) throws(MetadataRefusal) {
        var row = old
        let name = row.isPurging ? "volume \(row.id)" : "volume \(row.id), \(state.path(of: row)),"
        row.skip = UInt32(clamping: UInt64(row.skip ?? 0) + adoption.lost)
        if case .recycled(let path, _) = row.place {
            row.place = .recycled(path: path, since: secondsSince1970)
            adoption.note("\(name) is in the recycle bin; its time there begins anew")
        }
        guard let known = trustLedger.found[row.id], !row.isPurging else {
            adoption.changes.append(.put(.volume(row)))
            return
        }
        if known.isDeleted {
            row.epoch = max(row.epoch, known.fence.epoch)
            adoption.changes += try purged(row, counters: &adoption.cluster)
            return adoption.note("\(name) was deleted for good since; it is deleted again")
        }
        if known.fence.epoch > row.epoch {
            (row.epoch, row.group) = (known.fence.epoch, nil)
            row.holder = HolderRow(
                name: "a holder unknown since the database went back", key: "", since: secondsSince1970,
                readOnly: false)
            adoption.holders.append(row.id)
            adoption.note("\(name) was attached since, last with number \(row.epoch)")
        }
        row.change = max(row.change ?? 0, known.fence.change)
        let size = known.fence.size.bytes
        // A fence ends with a whole stripe group: too long a volume hides nothing, too short a one does.
        if size != row.sizeBytes,
            (try? VolumeShape.check(sizeBytes: size, stripeCount: row.stripeCount)) != nil
        {
            let (before, after) = (ByteCount(bytes: row.sizeBytes), ByteCount(bytes: size))
            row.sizeBytes = size
            adoption.note("\(name) has \(after) as its chunkservers know it, not \(before)")
        }
        adoption.changes.append(.put(.volume(row)))
    }
    private func noteStranded(_ adoption: inout Adoption) {
        let stranded = trustLedger.found.keys.sorted().filter { state.volumes[$0] == nil }
        guard !stranded.isEmpty else { return }
        let all = (adoption.cluster.strandedVolumes ?? []) + stranded
        adoption.cluster.strandedVolumes = Array(all.suffix(limits.strandedVolumesMax))
        adoption.note(
            "\(stranded.count) volumes are not in the database, but chunkservers hold their data"
                + " (\(enumerated(stranded))): nothing frees it and nobody gets their numbers")
    }
    /// True for a number that a lost database may have given.
    func mayBeLost(_ id: VolumeID) -> Bool {
        state.cluster.lostVolumes?.contains { ($0.from..<$0.to).contains(id.rawValue) } ?? false
    }
}

/// An adoption in the making.
private struct Adoption {
    var cluster: ClusterRow
    /// Transactions that may be lost.
    let lost: UInt64
    var changes: [RecordChange] = []
    var findings: [String] = []
    /// Volumes with a holder whom the database does not know.
    var holders: [VolumeID] = []

    init(cluster: ClusterRow, lost: UInt64) { (self.cluster, self.lost) = (cluster, lost) }
    mutating func note(_ finding: String) { findings.append(finding) }
}
