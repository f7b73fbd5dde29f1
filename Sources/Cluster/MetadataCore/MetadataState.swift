import BlockTypes

/// Rows that cannot be true together: the store is damaged or was written by something else.
public struct DamagedMetadata: Error, Hashable, Sendable, CustomStringConvertible {
    /// Which rows, and how they disagree.
    public let description: String
    /// The rows disagree as `description` says.
    public init(_ description: String) { self.description = description }
}

/// What the rows say, indexed for the questions that are asked. Changed only by ``apply(_:)``, so the state
/// after a restart is the state before it.
struct MetadataState: Equatable {
    /// What a name in a directory stands for.
    enum Node: Hashable { case directory(DirectoryID), volume(VolumeID) }

    private(set) var cluster: ClusterRow
    private(set) var servers: [ServerID: ServerRow] = [:]
    private(set) var pools: [PoolID: PoolRow] = [:]
    private(set) var copysets: [CopysetID: CopysetRow] = [:]
    private(set) var directories: [DirectoryID: DirectoryRow] = [:]
    private(set) var volumes: [VolumeID: VolumeRow] = [:]
    private(set) var tasks: [TaskID: TaskRow] = [:]
    /// In the order of their places.
    private(set) var values: [VolumeID: [ValueRow]] = [:]

    private(set) var serverOfDevice: [UniqueID: ServerID] = [:]
    private(set) var copysetsOfServer: [ServerID: [CopysetID]] = [:]
    private(set) var children: [DirectoryID: [String: Node]] = [:]
    private(set) var recycled: Set<VolumeID> = []
    private(set) var tasksOfCopyset: [CopysetID: Set<TaskID>] = [:]
    private(set) var tasksOfVolume: [VolumeID: Set<TaskID>] = [:]

    init(cluster: ClusterRow) { self.cluster = cluster }

    /// The state that `records` describe, in any order.
    init(_ records: [Record]) throws(DamagedMetadata) {
        var found: ClusterRow?
        for case .cluster(let row) in records { found = row }
        guard let found else { throw DamagedMetadata("the cluster's own row is missing") }
        self.init(cluster: found)
        for record in records {
            if let clash = clash(with: record) { throw DamagedMetadata(clash) }
            apply(.put(record))
        }
        try check()
    }

    mutating func apply(_ change: RecordChange) {
        switch change {
        case .put(.cluster(let row)): cluster = row
        case .put(.server(let row)):
            servers[row.id] = row
            serverOfDevice[row.device] = row.id
        case .put(.pool(let row)): pools[row.id] = row
        case .put(.copyset(let row)): put(row)
        case .put(.directory(let row)):
            removeName(of: row.id)
            directories[row.id] = row
            children[row.parent, default: [:]][row.name] = .directory(row.id)
        case .put(.volume(let row)):
            removeName(of: row.id)
            volumes[row.id] = row
            switch row.place {
            case .named(let parent, let name): children[parent, default: [:]][name] = .volume(row.id)
            case .recycled: recycled.insert(row.id)
            case .purging: break
            }
        case .put(.task(let row)):
            tasks[row.id] = row
            tasksOfCopyset[row.copyset, default: []].insert(row.id)
            tasksOfVolume[row.volume, default: []].insert(row.id)
        case .put(.value(let row)):
            var rows = (values[row.volume] ?? []).filter { $0.slot != row.slot }
            rows.insert(row, at: rows.firstIndex { $0.slot > row.slot } ?? rows.count)
            values[row.volume] = rows
        case .delete(.value(let id, let slot)):
            values[id]?.removeAll { $0.slot == slot }
            if values[id]?.isEmpty == true { values[id] = nil }
        case .delete(.directory(let id)):
            removeName(of: id)
            directories[id] = nil
        case .delete(.volume(let id)):
            removeName(of: id)
            volumes[id] = nil
        case .delete(.task(let id)):
            guard let row = tasks.removeValue(forKey: id) else { return }
            tasksOfCopyset[row.copyset]?.remove(id)
            if tasksOfCopyset[row.copyset]?.isEmpty == true { tasksOfCopyset[row.copyset] = nil }
            tasksOfVolume[row.volume]?.remove(id)
            if tasksOfVolume[row.volume]?.isEmpty == true { tasksOfVolume[row.volume] = nil }
        }
    }

    private mutating func put(_ row: CopysetRow) {
        for member in copysets[row.id]?.members ?? [] {
            copysetsOfServer[member]?.removeAll { $0 == row.id }
        }
        copysets[row.id] = row
        for member in row.members {
            var ids = copysetsOfServer[member] ?? []
            ids.insert(row.id, at: ids.firstIndex { $0 > row.id } ?? ids.count)
            copysetsOfServer[member] = ids
        }
    }
    private mutating func removeName(of id: DirectoryID) {
        guard let row = directories[id] else { return }
        removeChild(row.name, of: row.parent)
    }
    private mutating func removeName(of id: VolumeID) {
        guard let row = volumes[id] else { return }
        if case .named(let parent, let name) = row.place { removeChild(name, of: parent) }
        recycled.remove(id)
    }
    private mutating func removeChild(_ name: String, of parent: DirectoryID) {
        children[parent]?[name] = nil
        if children[parent]?.isEmpty == true { children[parent] = nil }
    }
}

/// Questions.
extension MetadataState {
    var serversInOrder: [ServerRow] { servers.values.sorted { $0.id < $1.id } }
    var poolsInOrder: [PoolRow] { pools.values.sorted { $0.id < $1.id } }
    var copysetsInOrder: [CopysetRow] { copysets.values.sorted { $0.id < $1.id } }

    var addressBook: AddressBook {
        AddressBook(
            version: cluster.addressBookVersion, servers: serversInOrder.filter { !$0.addresses.isEmpty })
    }
    /// What stands at `path`; `nil` when nothing does.
    func node(at path: MetadataPath) -> Node? {
        var node = Node.directory(.root)
        for name in path.names {
            guard case .directory(let id) = node, let next = children[id]?[name] else { return nil }
            node = next
        }
        return node
    }
    /// The path of a directory.
    func path(of id: DirectoryID) -> String {
        var names: [String] = []
        var at = id
        while let row = directories[at], names.count <= MetadataPath.depthMax {
            names.append(row.name)
            at = row.parent
        }
        return "/" + names.reversed().joined(separator: "/")
    }
    /// The path of a volume, or the one it had.
    func path(of row: VolumeRow) -> String {
        switch row.place {
        case .named(let parent, let name): parent == .root ? "/" + name : path(of: parent) + "/" + name
        case .recycled(let path, _): path
        case .purging: ""
        }
    }
    /// The copysets that place a volume, in table order; empty only if the rows are damaged.
    func table(of row: VolumeRow) -> [CopysetID] {
        pools[row.pool]?.generations.first { $0.number == row.generation }?.copysets ?? []
    }
}

/// What rows from a store must fulfil before anything relies on them.
extension MetadataState {
    /// Why `record` cannot stand beside those already there.
    private func clash(with record: Record) -> String? {
        func taken(_ parent: DirectoryID, _ name: String) -> Bool { children[parent]?[name] != nil }
        switch record {
        case .cluster: return nil
        case .server(let row):
            return serverOfDevice[row.device] == nil ? nil : "two chunkservers have the device \(row.device)"
        case .pool, .copyset, .task, .value: return nil
        case .directory(let row):
            return taken(row.parent, row.name) ? "directory \(row.id) shares its name with another" : nil
        case .volume(let row):
            guard case .named(let parent, let name) = row.place, taken(parent, name) else { return nil }
            return "volume \(row.id) shares its name with another"
        }
    }
    private func check() throws(DamagedMetadata) {
        for id in directories.keys.sorted() {
            guard let row = directories[id] else { continue }
            var (at, depth) = (row.parent, 1)
            while at != .root, depth <= MetadataPath.depthMax {
                guard let parent = directories[at] else {
                    throw DamagedMetadata("directory \(id) lies in directory \(at), which does not exist")
                }
                (at, depth) = (parent.parent, depth + 1)
            }
            guard depth <= MetadataPath.depthMax, id != .root, id.rawValue < cluster.nextDirectory else {
                throw DamagedMetadata("directory \(id) lies in a circle, too deep, or beyond the counter")
            }
        }
        for id in volumes.keys.sorted() { if let row = volumes[id] { try check(row) } }
        for id in copysets.keys.sorted() {
            guard let row = copysets[id] else { continue }
            guard id.rawValue < cluster.nextCopyset, pools[row.pool] != nil, !row.members.isEmpty,
                row.members.allSatisfy({ servers[$0] != nil })
            else { throw DamagedMetadata("copyset \(id) names a pool or a chunkserver that does not exist") }
        }
        for pool in poolsInOrder {
            guard pool.id.rawValue < cluster.nextPool, pool.replicas > 0, !pool.generations.isEmpty else {
                throw DamagedMetadata("pool \(pool.id) has no replicas or no table")
            }
            for copyset in pool.generations.flatMap(\.copysets) where copysets[copyset]?.pool != pool.id {
                throw DamagedMetadata("pool \(pool.id) names copyset \(copyset), which is not its own")
            }
        }
        for server in serversInOrder where server.id.rawValue >= cluster.nextServer {
            throw DamagedMetadata("chunkserver \(server.id) lies beyond the counter")
        }
        for id in values.keys.sorted() where id != .cluster && volumes[id] == nil {
            throw DamagedMetadata("a value is of volume \(id), which does not exist")
        }
        for id in tasks.keys.sorted() {
            guard let row = tasks[id], id.rawValue < cluster.nextTask, copysets[row.copyset] != nil,
                volumes[row.volume] != nil
            else { throw DamagedMetadata("task \(id) names a copyset or a volume that does not exist") }
        }
    }
    private func check(_ row: VolumeRow) throws(DamagedMetadata) {
        guard row.id.rawValue <= VolumeID.max, row.id.rawValue < cluster.nextVolume else {
            throw DamagedMetadata("volume \(row.id) lies beyond the counter")
        }
        guard !table(of: row).isEmpty else {
            throw DamagedMetadata("volume \(row.id) names a pool or a generation that does not exist")
        }
        if case .named(let parent, _) = row.place, parent != .root, directories[parent] == nil {
            throw DamagedMetadata("volume \(row.id) lies in directory \(parent), which does not exist")
        }
        if let group = row.group {
            guard row.holder != nil, !group.members.isEmpty,
                VolumeFence.isGroup(group.members.map(\.epoch), at: row.epoch)
            else { throw DamagedMetadata("volume \(row.id) is held by a group that cannot be one") }
        }
        do throws(MetadataRefusal) {
            let shape = try VolumeShape(
                sizeBytes: row.sizeBytes, stripeUnitBytes: row.stripeUnitBytes, stripeCount: row.stripeCount)
            guard shape.stripeUnitBytes == row.stripeUnitBytes, shape.stripeCount == row.stripeCount else {
                throw MetadataRefusal(.store, "a stripe is missing")
            }
        } catch {
            throw DamagedMetadata("volume \(row.id): \(error.message)")
        }
    }
}
