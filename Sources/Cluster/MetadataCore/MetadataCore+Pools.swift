import BlockTypes

/// Pools and their tables of copysets.
extension MetadataCore {
    /// Copysets for each chunkserver in a pool whose maker did not say: enough that every server leads some
    /// and that a rebuild has many sources, few enough that idle groups cost next to nothing.
    static let copysetsPerServerDefault = 12

    func createPool(
        name: String, replicas: UInt32, copysets: UInt32, domain: FailureDomain, now: Duration
    ) throws(MetadataRefusal) -> Decision {
        try MetadataPath.check(name: name, of: "the pool name \(MetadataPath.quoted(name))")
        guard !state.poolsInOrder.contains(where: { $0.name == name }) else {
            throw MetadataRefusal(.alreadyExists, "the pool \(name) exists already; choose another name")
        }
        guard state.pools.count < limits.poolsMax else {
            throw MetadataRefusal(.noSpace, "there are \(limits.poolsMax) pools, the limit")
        }
        let replicas = replicas == 0 ? 3 : Int(replicas)
        guard [1, 3, 5].contains(replicas) else {
            throw MetadataRefusal(
                .badRequest,
                "\(replicas) replicas: a pool has 1, 3 or 5, so that a majority says more than half")
        }
        let servers = try freeServers(replicas: replicas, domain: domain, now: now)
        let wanted =
            copysets == 0
            ? max(1, Self.copysetsPerServerDefault * servers.count / replicas) : Int(copysets)
        let most = min(limits.copysetsPerPoolMax, limits.copysetsMax - state.copysets.count)
        guard wanted <= most else {
            throw MetadataRefusal(.badRequest, "\(wanted) copysets: this pool can have at most \(most)")
        }
        var cluster = state.cluster
        let id = PoolID(cluster.nextPool)
        let placed = servers.map {
            CopysetTable.Server(id: $0.id, domain: Self.domainName($0, domain))
        }
        // The seed only breaks ties; taking it from the cluster makes the choice repeatable.
        let seed = clusterID.low ^ UInt64(id.rawValue)
        guard let table = CopysetTable(servers: placed, replicas: replicas, copysets: wanted, seed: seed)
        else {
            throw MetadataRefusal(.notReady, "there are too few failure domains")
        }
        var rows: [CopysetRow] = []
        for members in table.members {
            rows.append(CopysetRow(id: CopysetID(cluster.nextCopyset), pool: id, members: members))
            cluster.nextCopyset += 1
        }
        let pool = PoolRow(
            id: id, name: name, replicas: UInt32(replicas), domain: domain,
            generations: [GenerationRow(number: 1, copysets: rows.map(\.id))], servers: servers.map(\.id))
        cluster.nextPool += 1
        cluster.copysetsVersion += 1
        return Decision(
            .pool(info(of: pool)),
            [.put(.cluster(cluster)), .put(.pool(pool))] + rows.map { .put(.copyset($0)) },
            [.log("pool \(name): \(rows.count) copysets over \(servers.count) chunkservers")])
    }
    /// The chunkservers that are online and in no pool.
    private func freeServers(
        replicas: Int, domain: FailureDomain, now: Duration
    ) throws(MetadataRefusal) -> [ServerRow] {
        let taken = Set(state.pools.values.flatMap(\.servers))
        let free = state.serversInOrder.filter { !taken.contains($0.id) && isOnline($0.id, now: now) }
        let homeless = domain == .zone ? free.filter(\.zone.isEmpty).map(\.id) : []
        guard homeless.isEmpty else {
            throw MetadataRefusal(
                .notReady,
                "a pool over zones needs to know the zone of each chunkserver; \(enumerated(homeless)) named"
                    + " none: start them again with a zone")
        }
        let domains = Set(free.map { Self.domainName($0, domain) })
        guard domains.count >= replicas else {
            let offline = state.servers.count { !taken.contains($0.key) && !isOnline($0.key, now: now) }
            let word =
                switch domain {
                case .zone: "zones"
                case .server: "machines"
                case .device: "devices"
                }
            var message =
                "a pool of \(replicas) replicas needs chunkservers on \(replicas) different \(word); there"
                + " are \(free.count) online and in no pool, on \(domains.count)"
            if offline > 0 { message += "; \(offline) more are not online" }
            if domain != .device, free.count >= replicas {
                message += "; on a single machine choose the failure domain \"device\""
            }
            throw MetadataRefusal(.notReady, message)
        }
        return free
    }
    private static func domainName(_ server: ServerRow, _ domain: FailureDomain) -> String {
        switch domain {
        case .zone: server.zone
        case .server: server.host
        case .device: server.device.description
        }
    }

    /// How full the fullest store of a pool is; 0: none has said. Growth is refused where one is full.
    func usedPercent(of pool: PoolID) -> UInt32 {
        var most: UInt64 = 0
        for id in state.pools[pool]?.servers ?? [] {
            guard let heartbeat = live[id]?.heartbeat, heartbeat.capacityBytes >= 100 else { continue }
            most = max(most, min(100, heartbeat.usedBytes / (heartbeat.capacityBytes / 100)))
        }
        return UInt32(most)
    }
    /// A pool with the room its chunkservers reported last.
    func info(of pool: PoolRow) -> PoolInfo {
        var (capacity, free): (UInt64, UInt64) = (0, 0)
        for id in pool.servers {
            let heartbeat = live[id]?.heartbeat
            capacity &+= heartbeat?.capacityBytes ?? state.servers[id]?.capacityBytes ?? 0
            free &+= heartbeat?.freeBytes ?? 0
        }
        let replicas = UInt64(pool.replicas)
        return PoolInfo(row: pool, capacityBytes: capacity / replicas, freeBytes: free / replicas)
    }
}
