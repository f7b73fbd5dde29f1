import BlockTypes

/// Names: what stands where, listing, making and removing directories, moving things.
extension MetadataCore {
    /// The volume at `text`.
    func volume(at text: String) throws(MetadataRefusal) -> VolumeRow {
        let path = try MetadataPath(text)
        switch state.node(at: path) {
        case .volume(let id):
            guard let row = state.volumes[id] else { break }
            return row
        case .directory: throw MetadataRefusal(.notFound, "\(path.text) is a directory, not a volume")
        case nil: break
        }
        let recycled = state.recycled.contains { id in
            state.volumes[id].map { state.path(of: $0) == path.text } ?? false
        }
        throw MetadataRefusal(
            .notFound,
            "there is no volume \(path.text); "
                + (recycled ? "it is in the recycle bin, restore it first" : "see 'curve volume list'"))
    }
    /// The directory that would hold `path`, and the name there; refuses the root and what exists already.
    func freePlace(at path: MetadataPath) throws(MetadataRefusal) -> (parent: DirectoryID, name: String) {
        guard let name = path.last else { throw MetadataRefusal(.alreadyExists, "/ always exists") }
        let parent = try directory(at: path.names.dropLast())
        guard state.children[parent]?[name] == nil else {
            throw MetadataRefusal(.alreadyExists, "\(path.text) exists already; choose another name")
        }
        return (parent, name)
    }
    private func directory(at names: ArraySlice<String>) throws(MetadataRefusal) -> DirectoryID {
        var at = DirectoryID.root
        for (depth, name) in names.enumerated() {
            let text = "/" + names.prefix(depth + 1).joined(separator: "/")
            switch state.children[at]?[name] {
            case .directory(let id): at = id
            case .volume: throw MetadataRefusal(.notFound, "\(text) is a volume, not a directory")
            case nil: throw MetadataRefusal(.notFound, "there is no directory \(text); create it first")
            }
        }
        return at
    }

    func createDirectory(_ text: String, parents: Bool) throws(MetadataRefusal) -> Decision {
        let path = try MetadataPath(text)
        var cluster = state.cluster
        var changes: [RecordChange] = []
        var at = DirectoryID.root
        for (depth, name) in path.names.enumerated() {
            let isLast = depth == path.names.count - 1
            let here = "/" + path.names.prefix(depth + 1).joined(separator: "/")
            switch state.children[at]?[name] {
            case .directory(let id):
                guard !isLast || parents else {
                    throw MetadataRefusal(.alreadyExists, "the directory \(here) exists already")
                }
                at = id
            case .volume: throw MetadataRefusal(.alreadyExists, "\(here) is a volume")
            case nil:
                guard isLast || parents else {
                    throw MetadataRefusal(
                        .notFound, "there is no directory \(here); create it first, or with its parents")
                }
                guard state.directories.count + changes.count < limits.directoriesMax else {
                    throw MetadataRefusal(
                        .noSpace, "there are \(limits.directoriesMax) directories, the limit")
                }
                let row = DirectoryRow(id: DirectoryID(cluster.nextDirectory), parent: at, name: name)
                cluster.nextDirectory += 1
                changes.append(.put(.directory(row)))
                at = row.id
            }
        }
        guard !path.names.isEmpty || parents else {
            throw MetadataRefusal(.alreadyExists, "/ always exists")
        }
        if !changes.isEmpty { changes.append(.put(.cluster(cluster))) }
        return Decision(.done, changes)
    }

    func deleteDirectory(_ text: String) throws(MetadataRefusal) -> Decision {
        let path = try MetadataPath(text)
        guard case .directory(let id) = state.node(at: path) else {
            throw MetadataRefusal(.notFound, "there is no directory \(path.text)")
        }
        guard id != .root else { throw MetadataRefusal(.badRequest, "/ cannot be deleted") }
        if let count = state.children[id]?.count {
            throw MetadataRefusal(
                .notEmpty, "\(path.text) holds \(count) volumes or directories; delete or move them first")
        }
        return Decision(.done, [.delete(.directory(id))])
    }

    func rename(_ from: String, to: String, now: Duration) throws(MetadataRefusal) -> Decision {
        let (source, target) = (try MetadataPath(from), try MetadataPath(to))
        switch state.node(at: source) {
        case nil: throw MetadataRefusal(.notFound, "there is no volume or directory \(source.text)")
        case .volume(let id):
            guard var row = state.volumes[id] else {
                throw MetadataRefusal(.notFound, "there is no volume \(source.text)")
            }
            let (parent, name) = try freePlace(at: target)
            row.place = .named(parent: parent, name: name)
            return Decision(.volume(info(of: row, now: now)), [.put(.volume(row))])
        case .directory(let id):
            guard var row = state.directories[id] else {
                throw MetadataRefusal(.badRequest, "/ cannot be moved")
            }
            guard !target.names.starts(with: source.names) else {
                throw MetadataRefusal(
                    .badRequest, "\(source.text) cannot be moved to \(target.text), into itself")
            }
            (row.parent, row.name) = try freePlace(at: target)
            guard target.names.count + height(of: id) <= MetadataPath.depthMax else {
                throw MetadataRefusal(
                    .badRequest,
                    "below \(target.text) some path would have more than \(MetadataPath.depthMax) names")
            }
            return Decision(.done, [.put(.directory(row))])
        }
    }
    /// Names on the longest way down from a directory.
    private func height(of top: DirectoryID) -> Int {
        var (height, level) = (0, [top])
        while !level.isEmpty {
            var next: [DirectoryID] = []
            var hasChildren = false
            for id in level {
                guard let nodes = state.children[id] else { continue }
                hasChildren = true
                for case .directory(let child) in nodes.values { next.append(child) }
            }
            if hasChildren { height += 1 }
            level = next
        }
        return height
    }

    func list(_ text: String, recursive: Bool, now: Duration) throws(MetadataRefusal) -> Decision {
        let path = try MetadataPath(text)
        var entries: [DirectoryEntry] = []
        var bytes = 0
        func add(_ entry: DirectoryEntry) throws(MetadataRefusal) {
            bytes += Self.listedBytes(entry.path, entry.volume)
            guard bytes <= limits.listingBytesMax else {
                throw MetadataRefusal(
                    .badRequest, "\(path.text) holds too much for one listing; list less of it")
            }
            entries.append(entry)
        }
        switch state.node(at: path) {
        case nil: throw MetadataRefusal(.notFound, "there is no directory \(path.text)")
        case .volume:
            try add(DirectoryEntry(path: path.text, volume: info(of: try volume(at: text), now: now)))
        case .directory(let top):
            // Depth first, in order of name: what is next to be listed lies last.
            var ahead: [(path: String, node: MetadataState.Node)] = []
            func open(_ id: DirectoryID, at prefix: String) {
                let names = state.children[id] ?? [:]
                for (name, node) in names.sorted(by: { $0.key > $1.key }) {
                    ahead.append((prefix + "/" + name, node))
                }
            }
            open(top, at: path.names.isEmpty ? "" : path.text)
            while let (here, node) = ahead.popLast() {
                switch node {
                case .directory(let id):
                    try add(DirectoryEntry(path: here, volume: nil))
                    if recursive { open(id, at: here) }
                case .volume(let id):
                    guard let row = state.volumes[id] else { continue }
                    try add(DirectoryEntry(path: here, volume: info(of: row, now: now)))
                }
            }
        }
        return Decision(.listing(entries))
    }
    /// What a line costs in a message: its texts and about 100 bytes of numbers.
    static func listedBytes(_ path: String, _ volume: VolumeInfo?) -> Int {
        100 + 2 * path.utf8.count + (volume.map { $0.holder.utf8.count + $0.poolName.utf8.count } ?? 0)
    }
}
