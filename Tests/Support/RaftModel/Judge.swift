import BlockTypes
import CurveWire
import Raft

/// Watches a world and stops it at the first broken promise. Knows no rule of the code it judges: only what
/// disks hold, what was committed, and who believes what.
struct Judge {
    /// Committed entries, from index 1.
    private var truth: [LogEntry] = []
    private var leaders: [Term: (ServerID, Int)] = [:]
    private struct Written { let sequence: UInt64?; let previous: LogPosition }
    private var written: [LogPosition: Written] = [:]
    private var acknowledged = LogIndex(0)

    var committedThrough: LogIndex { LogIndex(UInt64(truth.count)) }

    private func fail(_ why: String) -> Violation { Violation(description: why) }

    mutating func see(
        _ effect: RaftReplica.Effect, of node: RaftWorld.Node, in world: RaftWorld
    ) throws {
        switch effect {
        case .becameLeader(let term):
            // I1.
            if let (other, _) = leaders[term] { throw fail("\(other) and \(node.id) lead term \(term)") }
            leaders[term] = (node.id, node.incarnation)
        case .storeVote(let term, let candidate):
            // I5, and one vote in each term.
            let view = node.store.view
            guard
                term > view.term || term == view.term && (view.votedFor == nil || view.votedFor == candidate)
            else { throw fail("\(node.id) goes from term \(view.term) to \(term), or changes its vote") }
        case .append(let entries):
            var previous = node.store.view.last
            for entry in entries {
                guard entry.position.index == previous.index.next, entry.position.term >= previous.term else {
                    throw fail("\(node.id) appends \(entry.position) after \(previous)")
                }
                // I2: place and term determine the entry and, by induction, all before it.
                let new = Written(sequence: entry.operation.tag?.sequence, previous: previous)
                if let old = written[entry.position], old.sequence != new.sequence || old.previous != previous
                {
                    throw fail("\(entry.position) was written twice, differently")
                }
                written[entry.position] = new
                previous = entry.position
            }
        case .truncate(let index):
            guard index > node.store.commit else { throw fail("\(node.id) truncates committed \(index)") }
        case .commit(let index): try commits(node, through: index, in: world)
        case .send(let target, let message): try says(node, message, to: target)
        case .retain, .accepted, .refused, .busy, .ready, .leadershipLost, .leaderChanged, .loadEntries,
            .offerSync, .beginSync:
            break
        }
    }

    /// What a replica claims to be durable is on its disk.
    private func says(_ node: RaftWorld.Node, _ message: ReplicaMessage, to target: ServerID) throws {
        let disk = node.store.disk
        switch message {
        case .voteReply(let reply) where reply.granted && !reply.isPreVote:
            guard disk.term == reply.term, disk.votedFor == target else {
                throw fail("\(node.id) grants \(target) a vote that is not on its disk")
            }
        case .voteRequest(let request) where !request.isPreVote:
            guard disk.term == request.term, disk.votedFor == node.id else {
                throw fail("\(node.id) stands for term \(request.term) and its disk does not say so")
            }
        case .appendReply(let reply): try claims(node, reply.durable, syncing: reply.syncing)
        case .heartbeatReply(let reply): try claims(node, reply.durable, syncing: reply.syncing)
        default: break
        }
    }
    private func claims(_ node: RaftWorld.Node, _ durable: LogIndex, syncing: Bool) throws {
        guard syncing || durable <= node.store.disk.last.index else {
            throw fail("\(node.id) claims \(durable), its disk ends at \(node.store.disk.last)")
        }
        guard syncing || !node.store.disk.isSyncing else {
            throw fail("\(node.id) claims to be complete, its disk says it copies")
        }
    }

    private mutating func commits(
        _ node: RaftWorld.Node, through index: LogIndex, in world: RaftWorld
    ) throws {
        let view = node.store.view
        guard index <= view.last.index else { throw fail("\(node.id) commits \(index), has \(view.last)") }
        while committedThrough < index {
            guard let entry = view.entry(at: committedThrough.next) else {
                throw fail("\(node.id) commits \(index) and lacks \(committedThrough.next)")
            }
            truth.append(entry)
        }
        guard index == view.base.index || view.position(at: index) == truth[Int(index.rawValue) - 1].position
        else {
            throw fail(
                "\(node.id) commits \(String(describing: view.position(at: index))), "
                    + "committed was \(truth[Int(index.rawValue) - 1].position)")
        }
        if node.replica?.role == .leader { acknowledged = max(acknowledged, index) }
        try isKept(world)
    }

    /// I3: what is committed is durable, as part of a complete log, on a quorum.
    func isKept(_ world: RaftWorld) throws {
        guard let last = truth.last?.position else { return }
        // Who lost its data votes only for those who reach what it had: that counts as long as somebody does.
        let holders = world.nodes.count(where: isCommittedHeld)
        let bound = world.nodes.count {
            $0.isBound && $0.store.disk.voteFloor >= last
        }
        let having = holders == 0 ? 0 : holders + bound
        guard having > world.nodes.count / 2 else {
            throw fail("committed \(last) is on \(having) of \(world.nodes.count) disks")
        }
    }

    /// The last committed entry, and so all before it, is part of a complete log on this disk.
    func isCommittedHeld(by node: RaftWorld.Node) -> Bool {
        guard let last = truth.last?.position else { return true }
        let disk = node.store.disk
        guard !disk.isSyncing else { return false }
        return disk.base.index >= last.index || disk.position(at: last.index) == last
    }

    /// I4 and I6: only what is committed is applied, and the same everywhere.
    func applies(_ node: RaftWorld.Node, through target: LogIndex) throws {
        var index = node.store.applied.next
        while index <= target {
            guard index <= committedThrough,
                let entry = node.store.disk.entry(at: index),
                entry.position == truth[Int(index.rawValue) - 1].position
            else { throw fail("\(node.id) applies at \(index) what is not committed there") }
            index = index.next
        }
    }

    /// I13: after each event, by every clock of its own, at most one replica believes that it may serve; and
    /// one that serves knows of everything that was ever acknowledged.
    func look(at world: RaftWorld) throws {
        var holder: ServerID?
        for node in world.nodes {
            guard let replica = node.replica, replica.holdsLease(now: node.clock(world.trueTime)) else {
                continue
            }
            if let holder { throw fail("\(holder) and \(node.id) hold the lease") }
            holder = node.id
            if replica.isReady, replica.commitIndex < acknowledged {
                throw fail("\(node.id) serves at \(replica.commitIndex), acknowledged was \(acknowledged)")
            }
        }
        try isKept(world)
    }
}
