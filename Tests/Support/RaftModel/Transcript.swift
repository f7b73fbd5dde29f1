import BlockTypes
import Raft

/// Protocols between the replicas of a copyset, played on a network without accidents, for people to read.
package enum Transcript: String, CaseIterable, Sendable {
    case campaign
    case leaseLost = "lease-lost"
    case splitBrainHealed = "split-brain-healed"
    case catchUpByLogTail = "catch-up-by-log-tail"
    case zombieLeader = "zombie-leader"
    case powerLossOfAll = "power-loss-of-all"

    /// What it shows.
    package var title: String {
        switch self {
        case .campaign: "Three fresh replicas elect a leader, and it takes a first entry."
        case .leaseLost:
            "A leader that hears nobody gives up before anybody else may lead; then another one does."
        case .splitBrainHealed: "A leader that was cut off comes back with entries that nobody else has."
        case .catchUpByLogTail: "A replica that was away gets what it missed from the leader's log."
        case .zombieLeader:
            "A leader stands still for longer than its lease and goes on as if nothing had happened."
        case .powerLossOfAll: "All replicas lose power; what was acknowledged is there when they are back."
        }
    }

    /// Plays it.
    /// - Returns: the title, then a line for each message that arrived and for what it led to.
    /// - Throws: the promise that was broken, or what did not happen.
    package func play() throws -> [String] {
        let stage = try Stage(leaderFirst: self != .campaign)
        switch self {
        case .campaign:
            try stage.awaitLeader()
            try stage.propose(1)
        case .leaseLost: try leaseLost(stage)
        case .splitBrainHealed: try splitBrain(stage)
        case .catchUpByLogTail: try catchUp(stage)
        case .zombieLeader: try zombie(stage)
        case .powerLossOfAll: try powerLoss(stage)
        }
        return [title, ""] + stage.lines
    }

    private func leaseLost(_ stage: Stage) throws {
        let old = try stage.awaitLeader()
        stage.say("\(old.id) hears nobody any more")
        stage.world.isolate(old)
        try stage.world.run(milliseconds: 3000)
        let new = try stage.awaitLeader(besides: old)
        stage.say("\(new.id) leads; the wires of \(old.id) are whole again")
        stage.world.cut = []
        try stage.world.run(milliseconds: 300)
    }
    private func splitBrain(_ stage: Stage) throws {
        let old = try stage.awaitLeader()
        stage.say("\(old.id) hears nobody any more, and takes two entries")
        stage.world.isolate(old)
        try stage.propose(2, to: old)
        let new = try stage.awaitLeader(besides: old)
        stage.say("\(new.id) takes one")
        try stage.propose(1, to: new)
        stage.say("the wires are whole again")
        stage.world.cut = []
        try stage.world.run(milliseconds: 1000)
    }
    private func catchUp(_ stage: Stage) throws {
        let leader = try stage.awaitLeader()
        guard let away = stage.world.nodes.first(where: { $0 !== leader }) else { return }
        stage.say("\(away.id) dies; three entries come meanwhile")
        stage.world.crash(away)
        try stage.propose(3, to: leader)
        stage.say("\(away.id) comes back")
        stage.world.start(away)
        try stage.world.run(milliseconds: 1000)
    }
    private func zombie(_ stage: Stage) throws {
        let old = try stage.awaitLeader()
        stage.say("\(old.id) stands still")
        old.pausedUntil = stage.world.trueTime + 4_000_000_000
        let new = try stage.awaitLeader(besides: old)
        try stage.propose(1, to: new)
        stage.say("\(old.id) is asked for a change when it wakes up")
        old.pausedUntil = stage.world.trueTime
        try stage.propose(1, to: old)
        try stage.world.run(milliseconds: 500)
    }
    private func powerLoss(_ stage: Stage) throws {
        let leader = try stage.awaitLeader()
        try stage.propose(2, to: leader)
        stage.say("the power fails")
        for node in stage.world.nodes { stage.world.crash(node) }
        try stage.world.run(milliseconds: 100)
        stage.say("and is back")
        for node in stage.world.nodes { stage.world.start(node) }
        try stage.awaitLeader()
        try stage.world.run(milliseconds: 300)
    }
}

/// A world without accidents, and what of its trace is worth reading.
private final class Stage {
    let world: RaftWorld
    /// Trace lines of before the story begins.
    private var skipped = 0

    init(leaderFirst: Bool) throws {
        world = RaftWorld(seed: 1, faults: Faults())
        world.tracing = true
        guard leaderFirst else { return }
        try awaitLeader()
        try propose(1)
        skipped = world.trace.count
    }
    func say(_ text: String) { world.log("-- \(text)") }

    @discardableResult func awaitLeader(besides old: RaftWorld.Node? = nil) throws -> RaftWorld.Node {
        for _ in 0..<200 {
            try world.run(milliseconds: 50)
            let ready = world.nodes.first { $0 !== old && ($0.replica?.isReady ?? false) }
            if let ready { return ready }
        }
        throw Violation(description: "nobody leads")
    }
    func propose(_ count: Int, to node: RaftWorld.Node? = nil) throws {
        let target = try node ?? awaitLeader()
        for _ in 0..<count {
            try world.deliver(.propose(world.token(), world.operation()), to: target, target.incarnation)
        }
        try world.run(milliseconds: 100)
    }

    /// Messages when they arrive, without heartbeats, the writing of entries and what repeats itself.
    var lines: [String] {
        var last = ""
        return world.trace.dropFirst(skipped).compactMap { line in
            let text = line.drop { $0 != " " }
            let dull = ["-> to", "eartbeat", "stored(", "voteStored", "applied(", "retain("]
            guard !dull.contains(where: { text.contains($0) }), text != last[...] else { return nil }
            last = String(text)
            return Self.inMilliseconds(line)
        }
    }
    /// Without what changes with the seed alone: microseconds and the clocks that messages carry.
    private static func inMilliseconds(_ line: String) -> String {
        var words = line.split(separator: " ", omittingEmptySubsequences: false).map(String.init)
        for clock in ["sent", "echo"] {
            if let place = words.firstIndex(of: clock), place + 1 < words.count {
                words.removeSubrange(place...place + 1)
            }
        }
        guard let first = words.first, let microseconds = Int(first.dropLast(2)) else { return line }
        words[0] = "\(microseconds / 1000) ms"
        return words.joined(separator: " ")
    }
}
