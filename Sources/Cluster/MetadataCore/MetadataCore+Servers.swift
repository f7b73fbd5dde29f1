import BlockTypes

/// Chunkservers: who they are, where they are, whether they live, what they have to do.
extension MetadataCore {
    /// True when it reported lately.
    func isOnline(_ server: ServerID, now: Duration) -> Bool {
        live[server].map { now - $0.lastHeard < limits.offlineAfter } ?? false
    }

    func allocateServer(device: UniqueID, host: String) throws(MetadataRefusal) -> Decision {
        if let known = state.serverOfDevice[device] {
            return Decision(.allocated(cluster: clusterID, server: known))
        }
        try check(host, "a host name")
        guard state.servers.count < limits.serversMax else {
            throw MetadataRefusal(.noSpace, "there are \(limits.serversMax) chunkservers, the limit")
        }
        var cluster = state.cluster
        let row = ServerRow(id: ServerID(cluster.nextServer), device: device, host: host)
        cluster.nextServer += 1
        return Decision(
            .allocated(cluster: clusterID, server: row.id), [.put(.cluster(cluster)), .put(.server(row))])
    }

    mutating func register(
        _ registration: ServerRegistration, session: SessionID, now: Duration
    ) throws(MetadataRefusal) -> Decision {
        guard registration.cluster == clusterID else {
            throw MetadataRefusal(
                .wrongCluster,
                "this store was formatted for cluster \(registration.cluster), this is \(clusterID); start it"
                    + " with its own metadata server, or format it anew for this one")
        }
        guard var row = state.servers[registration.server], row.device == registration.device else {
            metStranger(registration)
            if trust == .wentBack { throw databaseWentBack() }
            let known = state.serverOfDevice[registration.device].map { "; that device has number \($0)" }
            throw MetadataRefusal(
                .notFound,
                "there is no chunkserver \(registration.server) with device \(registration.device)"
                    + (known ?? "; format the store for this cluster first"))
        }
        try check(registration.host, "a host name")
        try check(registration.zone, "a zone")
        for address in registration.addresses {
            try check(address, "an address", bytesMax: limits.addressBytesMax)
        }
        guard (1...limits.addressesMax).contains(registration.addresses.count) else {
            throw MetadataRefusal(
                .badRequest, "a chunkserver has 1 to \(limits.addressesMax) addresses; register with them")
        }
        try checkIdentity(row, registration.incarnation, session: session, now: now)
        spoke(row.id, revision: registration.revision)
        let old = row
        (row.host, row.zone, row.addresses) = (registration.host, registration.zone, registration.addresses)
        (row.incarnation, row.capacityBytes) = (registration.incarnation, registration.capacityBytes)
        row.lazilyGrown = registration.lazilyGrown
        var cluster = state.cluster
        let isChanged = row != old
        if isChanged { cluster.addressBookVersion = newBookVersion }
        var book = state.addressBook
        book.version = cluster.addressBookVersion
        book.servers = book.servers.filter { $0.id < row.id } + [row] + book.servers.filter { $0.id > row.id }
        let copysets = (state.copysetsOfServer[row.id] ?? []).compactMap { state.copysets[$0] }
        let line =
            "chunkserver \(row.id) on \(row.host) registered: \(enumerated(row.addresses)),"
            + " incarnation \(row.incarnation)"
        return Decision(
            bookkeeping: .registered(copysets: copysets, addressBook: book, heartbeat: limits.heartbeat),
            isChanged ? [.put(.cluster(cluster)), .put(.server(row))] : [],
            [.serverRegistered(row.id, session), .log(line)])
    }
    /// Refuses who comes with an older incarnation, and who comes while another process has the identity.
    private func checkIdentity(
        _ row: ServerRow, _ incarnation: Incarnation, session: SessionID, now: Duration
    ) throws(MetadataRefusal) {
        if let other = incumbent(of: row.id, besides: session, now: now), !isPlanted(.twinAdmitted) {
            let age = (now - other.lastHeard).components.seconds
            throw MetadataRefusal(
                .identityInUse,
                "another process runs as chunkserver \(row.id), on \(row.host) at"
                    + " \(enumerated(row.addresses)), heard \(age) s ago. If this store is a copy of that"
                    + " one, format it anew. If it is the same one, stop the other process; it may start"
                    + " \(limits.identityHold) after that was last heard"
            )
        }
        guard incarnation >= row.incarnation else {
            throw MetadataRefusal(
                .staleIncarnation,
                "chunkserver \(row.id) has run with incarnation \(row.incarnation), this store comes with"
                    + " \(incarnation): it is an old copy of that store or was replaced; format it anew")
        }
    }
    /// Who speaks for `server` over an open connection that is not `session`, and was heard lately.
    private func incumbent(of server: ServerID, besides session: SessionID, now: Duration) -> LiveServer? {
        guard let other = live[server], let open = other.session, open != session,
            now - other.lastHeard < limits.identityHold
        else { return nil }
        return other
    }
    /// Judges a heartbeat over a connection that is not its server's own.
    ///
    /// It may be the same process, whose old connection broke without our knowing: then that one stays
    /// silent, and telling the process to give up would be wrong. Only when both go on speaking there are
    /// two.
    private mutating func checkRival(
        _ row: ServerRow, _ incarnation: Incarnation, session: SessionID, now: Duration
    ) throws(MetadataRefusal) {
        guard incarnation == row.incarnation, let other = incumbent(of: row.id, besides: session, now: now)
        else { return }
        if other.rival?.session != session { live[row.id]?.rival = Rival(session: session, since: now) }
        guard let rival = live[row.id]?.rival, other.lastHeard <= rival.since + limits.heartbeat else {
            return
        }
        throw MetadataRefusal(
            .notReady,
            "chunkserver \(row.id) was heard over another connection just now; if that one is dead, this"
                + " one takes its place \(limits.identityHold) after it was last heard; try again")
    }

    /// Notes who fell silent since the last time.
    mutating func newlySilent(now: Duration) -> [String] {
        var lines: [String] = []
        for server in live.keys.sorted() where !isOnline(server, now: now) {
            guard silent.insert(server).inserted, let row = state.servers[server] else { continue }
            lines.append("chunkserver \(server) on \(row.host) is silent for \(limits.offlineAfter)")
        }
        return lines
    }

    mutating func heard(
        _ heartbeat: ServerHeartbeat, session: SessionID, now: Duration
    ) throws(MetadataRefusal) -> Decision {
        guard let row = state.servers[heartbeat.server], !row.addresses.isEmpty,
            heartbeat.cluster ?? clusterID == clusterID
        else {
            throw MetadataRefusal(
                .notFound, "chunkserver \(heartbeat.server) has not registered; register first")
        }
        guard heartbeat.health.utf8.count <= limits.textBytesMax else {
            throw MetadataRefusal(.badRequest, "a health text has at most \(limits.textBytesMax) bytes")
        }
        try checkRival(row, heartbeat.incarnation, session: session, now: now)
        try checkIdentity(row, heartbeat.incarnation, session: session, now: now)
        guard heartbeat.incarnation == row.incarnation else {
            throw MetadataRefusal(
                .notFound,
                "chunkserver \(row.id) has registered with incarnation \(row.incarnation), not"
                    + " \(heartbeat.incarnation); register first")
        }
        if heartbeat.cluster != nil { spoke(row.id, revision: heartbeat.revision) }
        if let inventory = heartbeat.inventory { take(inventory, from: row.id) }
        var returned: [Afterwards] = []
        if silent.remove(row.id) != nil {
            returned.append(.log("chunkserver \(row.id) on \(row.host) is heard again"))
        }
        var kept = heartbeat
        // Kept elsewhere; a copyset's news is its leader's.
        (kept.copysets, kept.finishedTasks, kept.inventory) = ([], [], nil)
        let rival = live[row.id]?.session == session ? live[row.id]?.rival : nil
        live[row.id] = LiveServer(session: session, lastHeard: now, heartbeat: kept, rival: rival)
        let led = note(heartbeat.copysets, from: row.id, now: now)
        let done = Set(heartbeat.finishedTasks.filter { isMember(row.id, of: state.tasks[$0]?.copyset) })
        var changes = finished(done)
        // An older database has an older address book; others take it only with a newer version.
        if heartbeat.cluster != nil { heard(addressBookVersion: heartbeat.addressBookVersion) }
        if trustLedger.heardBookVersion > state.cluster.addressBookVersion {
            var cluster = state.cluster
            cluster.addressBookVersion = newBookVersion
            changes.append(.put(.cluster(cluster)))
        }
        var tasks: [TaskRow] = []
        for copyset in led where tasks.count < limits.tasksPerHeartbeatMax {
            for id in (state.tasksOfCopyset[copyset] ?? []).sorted() where !done.contains(id) {
                guard tasks.count < limits.tasksPerHeartbeatMax, let task = state.tasks[id] else { break }
                tasks.append(task)
            }
        }
        let version = state.cluster.copysetsVersion
        let copysets = heartbeat.copysetsVersion == version ? [] : state.copysetsOfServer[row.id] ?? []
        let isNew = heartbeat.addressBookVersion != state.cluster.addressBookVersion
        return Decision(
            bookkeeping: .heartbeat(
                addressBook: isNew ? state.addressBook : nil,
                copysets: copysets.compactMap { state.copysets[$0] }, copysetsVersion: version, tasks: tasks,
                inquiry: trust == .wentBack ? trustLedger.inquiry(of: row.id) : nil),
            changes, returned)
    }
    /// Newer than every address book that anybody has.
    private var newBookVersion: UInt64 {
        let (ours, heard) = (state.cluster.addressBookVersion, trustLedger.heardBookVersion)
        return heard > ours ? heard + limits.unheardRevisionsMax : ours + 1
    }
    private func isMember(_ server: ServerID, of copyset: CopysetID?) -> Bool {
        copyset.flatMap { state.copysets[$0] }?.members.contains(server) ?? false
    }
    /// Notes who leads, and returns the copysets that `server` leads, in the order in which it named them.
    private mutating func note(_ reports: [CopysetReport], from server: ServerID, now: Duration)
        -> [CopysetID]
    {
        let mine = Set(state.copysetsOfServer[server] ?? [])
        var led: [CopysetID] = []
        for report in reports where mine.contains(report.copyset) {
            let known = liveCopysets[report.copyset]
            if report.isLeader {
                // An old leader that has not noticed its successor may say so too; its term gives it away.
                let isNewest = known.map { $0.leader == server || report.term >= $0.term } ?? true
                guard isNewest || !isOnline(known?.leader ?? server, now: now) else { continue }
                liveCopysets[report.copyset] = LiveCopyset(
                    leader: server, term: report.term, isReady: report.isReady,
                    membersInStep: report.membersInStep)
                led.append(report.copyset)
            } else if known?.leader == server {
                liveCopysets[report.copyset] = nil
            }
        }
        return led
    }

    /// Refuses a text that is too long or has control characters.
    func check(_ text: String, _ what: String, bytesMax: Int? = nil) throws(MetadataRefusal) {
        let bytesMax = bytesMax ?? limits.textBytesMax
        guard text.utf8.count <= bytesMax else {
            throw MetadataRefusal(.badRequest, "\(what) has at most \(bytesMax) bytes")
        }
        guard text.unicodeScalars.allSatisfy({ $0.value >= 0x20 && !(0x7F...0x9F).contains($0.value) }) else {
            throw MetadataRefusal(.badRequest, "\(what) may not have control characters")
        }
    }
}
