import BlockTypes

/// The state of the cluster, and what is wrong with it in words.
extension MetadataCore {
    func status(now: Duration) -> ClusterStatus {
        let servers = state.serversInOrder.map { status(of: $0, now: now) }
        let copysets = state.copysetsInOrder.map { status(of: $0, now: now) }
        var (named, attached) = (0, 0)
        for row in state.volumes.values {
            if case .named = row.place { named += 1 }
            if row.holder != nil { attached += 1 }
        }
        let warnings = warnings(servers: servers, copysets: copysets)
        return ClusterStatus(
            cluster: clusterID, servers: servers, pools: state.poolsInOrder.map { info(of: $0) },
            volumeCount: named, attachedCount: attached, recycledCount: state.recycled.count,
            copysets: copysets, pendingTaskCount: state.tasks.count,
            warnings: Array(warnings.prefix(limits.warningsMax)), trust: trust, revision: revision,
            heardRevision: max(revision, heardRevision))
    }
    private func status(of row: ServerRow, now: Duration) -> ServerStatus {
        let live = live[row.id]
        let heartbeat = live?.heartbeat
        let led = (state.copysetsOfServer[row.id] ?? []).count { liveCopysets[$0]?.leader == row.id }
        let isOnline = isOnline(row.id, now: now)
        let silent = (now - (live?.lastHeard ?? startedAt)).components.seconds
        return ServerStatus(
            row: row, isOnline: isOnline, secondsSinceHeartbeat: UInt64(max(0, silent)),
            capacityBytes: heartbeat?.capacityBytes ?? row.capacityBytes,
            usedBytes: heartbeat?.usedBytes ?? 0, freeBytes: heartbeat?.freeBytes ?? 0,
            copysetsLed: isOnline ? led : 0, health: heartbeat?.health ?? "",
            mendedBlocks: heartbeat?.mendedBlocks ?? 0)
    }
    private func status(of row: CopysetRow, now: Duration) -> CopysetStatus {
        guard let live = liveCopysets[row.id], live.isReady, isOnline(live.leader, now: now) else {
            return CopysetStatus(row: row, leader: nil, membersInStep: 0)
        }
        return CopysetStatus(row: row, leader: live.leader, membersInStep: live.membersInStep)
    }

    private func warnings(servers: [ServerStatus], copysets: [CopysetStatus]) -> [String] {
        var warnings: [String] = []
        switch trust {
        case .current: break
        case .waiting: warnings.append(waitingText)
        case .wentBack: warnings.append(wentBackText)
        }
        if let stranded = state.cluster.strandedVolumes, !stranded.isEmpty {
            warnings.append(
                "\(stranded.count) volumes are not in the database since an older one was adopted, but"
                    + " chunkservers hold their data: \(enumerated(stranded))")
        }
        if servers.isEmpty {
            warnings.append("there is no chunkserver; format a store and start one")
        } else if state.pools.isEmpty {
            warnings.append(
                "there is no pool, so no volume can be made; create one with \"curve pool create\"")
        }
        warnings += copysetWarnings(copysets, offline: Set(servers.filter { !$0.isOnline }.map(\.row.id)))
        for server in servers { warnings += serverWarnings(server) }
        return warnings
    }
    private func serverWarnings(_ server: ServerStatus) -> [String] {
        let name = "chunkserver \(server.row.id) on \(server.row.host)"
        guard !server.row.addresses.isEmpty else {
            return ["\(name) was formatted but has never started; start it"]
        }
        var warnings: [String] = []
        if !server.isOnline {
            warnings.append(
                "\(name) has been silent for \(server.secondsSinceHeartbeat) s; start it, or look at its log"
                    + " and its network")
        } else if server.health != "ok", !server.health.isEmpty {
            warnings.append("\(name) reports: \(server.health)")
        }
        let (used, capacity) = (server.usedBytes, server.capacityBytes)
        if capacity > 0, used >= capacity / 100 * limits.nearlyFullPercent {
            let percent = min(100, used / max(1, capacity / 100))
            warnings.append(
                "\(name) is \(percent) % full; add chunkservers, purge deleted volumes or delete data before"
                    + " writes are refused")
        }
        return warnings
    }
    private func copysetWarnings(_ copysets: [CopysetStatus], offline: Set<ServerID>) -> [String] {
        func missing(_ some: [CopysetStatus]) -> String? {
            let servers = Set(some.flatMap(\.row.members)).intersection(offline).sorted()
            guard !servers.isEmpty else { return nil }
            return servers.count == 1
                ? "chunkserver \(servers[0]) is offline, start it"
                : "chunkservers \(enumerated(servers)) are offline, start them"
        }
        var warnings: [String] = []
        let headless = copysets.filter { $0.leader == nil }
        if !headless.isEmpty {
            let why = missing(headless) ?? "an election should end that in seconds"
            warnings.append(
                "\(headless.count) of \(copysets.count) copysets have no leader, I/O to them waits"
                    + " (\(enumerated(headless.map(\.row.id)))): \(why)")
        }
        let short = copysets.filter { $0.leader != nil && Int($0.membersInStep) < $0.row.members.count }
        if !short.isEmpty {
            let why = missing(short) ?? "a member is catching up"
            warnings.append(
                "\(short.count) of \(copysets.count) copysets have fewer members in step than replicas"
                    + " (\(enumerated(short.map(\.row.id)))): \(why)")
        }
        return warnings
    }
}
