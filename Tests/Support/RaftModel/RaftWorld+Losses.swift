import BlockTypes
import Raft

// Losses that no restart mends. They are inflicted only while the promise of DESIGN section 2 still holds.
extension RaftWorld {
    /// The store comes back without its data and its log.
    func loseMedium(of node: Node) {
        guard node.replica != nil, !node.store.disk.isSyncing, !node.store.view.isSyncing,
            !nodes.contains(where: { $0.isBound }),
            hasKeeper(without: [node], reaching: max(node.store.disk.last, node.store.view.last))
        else { return }
        crash(node)
        node.store.loseEverything()
        node.hasLostData = true
        log("\(node.id) has lost its data and its log")
        after(between(1000, 300_000)) { if node.replica == nil { $0.start(node) } }
    }
    func loseForGood(_ node: Node) {
        let lost = nodes.filter { $0.isBound && $0 !== node }
        let floor = lost.map(\.store.disk.voteFloor).max() ?? .zero
        guard [3, 5].contains(nodes.count), !nodes.contains(where: { $0.isGone }), !node.isBound,
            hasKeeper(without: [node] + lost, reaching: floor)
        else { return }
        crash(node)
        node.isGone = true
        log("\(node.id) is gone for good")
    }
    func isolate(_ node: Node) {
        for other in nodes where other !== node {
            let (a, b) = (Int(node.id.rawValue), Int(other.id.rawValue))
            cut.formUnion([[a, b], [b, a]])
        }
    }
    /// Lets time pass until somebody else leads, to the millisecond.
    func nextLeader(besides node: Node) throws -> Node? {
        for _ in 0..<6000 {
            try run(milliseconds: 1)
            if let leader = nodes.first(where: { $0 !== node && $0.replica?.role == .leader }) {
                return leader
            }
        }
        return nil
    }
    /// The leader is cut off, and everybody else hears that it died. It lives, and may believe in its lease.
    func feignDeath() {
        guard let leader = nodes.first(where: { $0.replica?.role == .leader }) else { return }
        log("\(leader.id) is cut off and said to be dead")
        for other in nodes where other !== leader {
            let (a, b) = (Int(leader.id.rawValue), Int(other.id.rawValue))
            cut.formUnion([[a, b], [b, a]])
            let incarnation = other.incarnation
            after(between(100, 900_000)) {
                try $0.deliver(.disconnected(leader.id, provenDead: true), to: other, incarnation)
            }
        }
    }
    /// Some other replica is complete, has everything committed, and may be elected by one that is bound to
    /// `floor`.
    private func hasKeeper(without excluded: [Node], reaching floor: LogPosition) -> Bool {
        nodes.contains { node in
            let disk = node.store.disk
            return !node.isGone && !excluded.contains { $0 === node } && !disk.isSyncing
                && !node.store.view.isSyncing && disk.last >= floor && judge.isCommittedHeld(by: node)
        }
    }
}

extension RaftWorld.Node {
    /// It has lost its data and not copied them yet; what it acknowledged binds its vote.
    var isBound: Bool { hasLostData && store.disk.isSyncing }
}
