import BlockTypes
import ChunkStore
import CurveWire

// Room for new data, on all members of a copyset.
extension ChunkServer {
    /// Whether a change may enter the log, and how many blocks of growth it is counted as.
    func room(for operation: Operation, _ replica: CopysetReplica) -> (StoreRoom, growthBlocks: Int) {
        let own = store.room(for: operation, in: replica.id)
        guard own == .enough, case .write(let run, _, _, _, _) = operation else { return (own, 0) }
        // Counting overwrites as growth costs nothing while there is plenty.
        let most = run.blockCount + ChunkStore.mapBlocksPerRun
        if rooms.room(for: most, on: replica.members, at: environment.now) == .enough {
            return (.enough, most)
        }
        let growth = store.growthBlocks(of: run, in: replica.id)
        guard growth > 0 else { return (.enough, 0) }
        return (rooms.room(for: growth, on: replica.members, at: environment.now), growth)
    }

    /// A change goes to the log: its growth is somebody's room until it is stored.
    func reserveGrowth(_ blocks: Int, _ replica: CopysetReplica) {
        guard blocks > 0 else { return }
        for server in replica.members { rooms.add(UInt64(blocks), of: server) }
    }

    func releaseGrowth(_ blocks: Int, _ replica: CopysetReplica) {
        guard blocks > 0 else { return }
        for server in replica.members { rooms.remove(UInt64(blocks), of: server) }
    }

    /// The heartbeats' answers of one follower: how far it has come, and the room it has after that.
    func noteRoom(
        of server: ServerID, _ shareBlocks: UInt64, _ replies: [(CopysetID, ReplicaMessage.HeartbeatReply)]
    ) {
        for (id, reply) in replies {
            guard let replica = replicas[id], reply.term == replica.raft.term, !reply.syncing,
                let follower = replica.followers.firstIndex(of: server)
            else { continue }
            rooms.remove(replica.growth.durable(through: reply.durable, follower: follower), of: server)
        }
        rooms.heard(from: server, shareBlocks: shareBlocks, at: environment.now)
    }

    /// Forgets what this leader has let in: the next one counts for itself.
    func resetGrowth(_ replica: CopysetReplica) {
        for (server, blocks) in zip(replica.followers, replica.growth.reset()) {
            rooms.remove(blocks, of: server)
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
        // One that is closing or has failed is not full.
        guard let blocks = store.growthRoomBlocks else { return .max }
        let now = environment.now
        let leaders = beatsHeardAt.values.count { now <= $0 + RoomLedger.wordLifetime }
        return UInt64(blocks) / UInt64(leaders + 1)
    }
}
