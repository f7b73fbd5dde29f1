import BlockTypes
import ChunkStore
import CurveWire

// Room for new data, on all members of a copyset.
extension ChunkServer {
    /// Whether a change may enter the log, and how many blocks it adds to what its replicas store.
    func room(for operation: Operation, _ replica: CopysetReplica) -> (StoreRoom, growthBlocks: Int) {
        if case .trim(let run, _, _) = operation {
            return (store.room(for: operation, in: replica.id), -store.storedBlocks(of: run, in: replica.id))
        }
        guard case .write(let run, _, _, _, _) = operation else {
            return (store.room(for: operation, in: replica.id), 0)
        }
        switch store.room(for: operation, in: replica.id) {
        case .enough: break
        case .later: return (.later, 0)
        case .none: return (handsOver(replica) ? .later : .none, 0)
        }
        let growth = store.growthBlocks(of: run, in: replica.id)
        guard growth > 0 else { return (.enough, 0) }
        return (rooms.room(for: growth, on: replica.members, at: environment.now), growth)
    }

    /// The file system below this store is full, which is not what a pool is full of: a follower whose store
    /// can grow takes the lead, and this replica falls behind like any that fails.
    private func handsOver(_ replica: CopysetReplica) -> Bool {
        guard store.isOutOfSpaceBelow,
            let heir = replica.followers.first(where: { rooms.canGrow($0, at: environment.now) })
        else { return false }
        post(.transferLeadership(to: heir), to: replica)
        return true
    }

    /// A change goes to the log: its growth is somebody's room until it is stored.
    func reserveGrowth(_ blocks: Int, _ replica: CopysetReplica) {
        guard blocks != 0 else { return }
        for server in replica.members { rooms.add(blocks, of: server) }
    }

    func releaseGrowth(_ blocks: Int, _ replica: CopysetReplica) { reserveGrowth(-blocks, replica) }

    /// A full copy brings all through `base`, and the offer says how much that is: from its next word on, the
    /// follower counts it by itself.
    func settleGrowth(_ replica: CopysetReplica, of server: ServerID, through base: LogIndex) {
        guard let follower = replica.followers.firstIndex(of: server) else { return }
        rooms.add(-replica.growth.durable(through: base, follower: follower), of: server)
    }

    /// The heartbeats' answers of one follower: how far it has come, and the room it has after that.
    func noteRoom(
        of server: ServerID, _ shareBlocks: UInt64, _ replies: [(CopysetID, ReplicaMessage.HeartbeatReply)]
    ) {
        for (id, reply) in replies {
            guard let replica = replicas[id], reply.term == replica.raft.term else { continue }
            settleGrowth(replica, of: server, through: reply.durable)
        }
        rooms.heard(from: server, shareBlocks: shareBlocks, at: environment.now)
    }

    /// Forgets what this leader has let in: the next one counts for itself.
    func resetGrowth(_ replica: CopysetReplica) {
        for (server, blocks) in zip(replica.followers, replica.growth.reset()) {
            rooms.add(-blocks, of: server)
        }
    }

    /// Replicas that fall behind because this store is full.
    package var copysetsWithoutRoom: [CopysetID] { copysetOrder.filter { store.lacksRoom($0) } }

    /// What people should know of this server.
    var healthText: String {
        let full = copysetsWithoutRoom
        guard health == "ok", !full.isEmpty else { return health }
        let names = full.prefix(limits.copysetsNamedMax).map(\.description).joined(separator: ", ")
        let rest =
            full.count > limits.copysetsNamedMax ? " and \(full.count - limits.copysetsNamedMax) others" : ""
        return
            "full: its replicas of copysets \(names)\(rest) fall behind; trim or delete data of their volumes"
    }

    /// Blocks of growth that each leader with copysets here may let in until it hears from this store again.
    func shareOfRoom() -> UInt64 {
        // One that is closing or has failed is not full: it falls behind, and the others go on.
        guard let blocks = store.growthRoomBlocks else { return .max }
        let now = environment.now
        let leaders = beatsHeardAt.values.count { now <= $0 + RoomLedger.wordLifetime }
        return UInt64(blocks) / UInt64(leaders + 1)
    }
}
