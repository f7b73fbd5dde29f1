import BlockTypes
import CurveWire
import Raft

/// What may go wrong in one run; each fault is off in some runs.
struct Faults {
    var members = 3
    var lossPercent = 0
    /// How often a store takes only a part of an append's entries.
    var fullStorePercent = 0
    var duplicatePercent = 0
    var delayMicrosecondsMax = 500
    /// Off: messages between two members keep their order, as on one connection.
    var reorders = false
    var crashes = false
    var partitions = false
    var pauses = false
    var diskStalls = false
    var transfers = false
    var falseAlarms = false
    /// New leaders often crash within milliseconds (the Raft paper's figure 8 needs that).
    var shortReigns = false
    /// A member is cut off from the leader alone, and stands while the one between them restarts.
    var ambushes = false
    var drift = false
    /// A member's store comes back with nothing but its votes and the end of its log: it needs a full copy.
    var losesMedium = false
    /// One member dies and never comes back.
    var losesOneForGood = false
    /// Power fails just when a copy counts as complete, before its replica hears of it.
    var crashesAfterCopies = false
    /// Not a fault but a mutant: a copy counts as complete although its log does not reach its source's term.
    var endsCopiesEarly = false
    /// Clocks run as wrong as they may, and none is right: leases end as late as they may.
    var driftsFully = false
    /// A leader is cut off from everybody, who are told that it died.
    var falseDeaths = false
    var copyMicrosecondsMax = 400_000
    var keptEntriesMax = 1 << 20
    var settings = RaftReplica.Settings()

    static func swarm(_ seed: UInt64) -> Faults {
        var random = SeededRandom(seed: seed &* 7919 &+ 1)
        var faults = Faults()
        func pick<T>(_ choices: [T]) -> T { choices.randomElement(using: &random) ?? choices[0] }
        faults.members = pick([1, 2, 3, 3, 3, 3, 3, 3, 4, 5])
        faults.lossPercent = pick([0, 0, 3, 20])
        faults.duplicatePercent = pick([0, 0, 5, 30])
        faults.delayMicrosecondsMax = pick([300, 5_000, 60_000, 400_000])
        faults.reorders = pick([false, false, true])
        // A pipeline whose every message overtakes others makes events without end and finds nothing more.
        if faults.reorders { faults.delayMicrosecondsMax = min(faults.delayMicrosecondsMax, 20_000) }
        faults.crashes = pick([false, true, true])
        faults.partitions = pick([false, true, true])
        faults.pauses = pick([false, true])
        faults.diskStalls = pick([false, true])
        faults.transfers = pick([false, true])
        faults.falseAlarms = pick([false, true])
        faults.shortReigns = pick([false, false, true])
        faults.ambushes = pick([false, false, true])
        faults.drift = pick([false, true, true])
        faults.keptEntriesMax = pick([10, 40, 1 << 20])
        faults.settings.cachedBytesMax = pick([0, 4096, 16 << 20])
        faults.settings.messageEntriesMax = pick(faults.reorders ? [4, 64] : [1, 4, 64])
        faults.settings.inFlightEntriesMax = pick([8, 64, 4096])
        faults.fullStorePercent = pick([0, 0, 10])
        faults.losesMedium = pick([false, false, true])
        faults.losesOneForGood = pick([false, false, true])
        faults.crashesAfterCopies = pick([false, true])
        faults.copyMicrosecondsMax = pick([500, 400_000])
        faults.driftsFully = pick([false, false, true])
        faults.falseDeaths = pick([false, false, true])
        return narrowed(faults, seed)
    }
    /// Some seeds do one thing only, and that all the time: in a crowd of faults it comes too rarely.
    private static func narrowed(_ faults: Faults, _ seed: UInt64) -> Faults {
        var only = Faults()
        guard seed % 8 == 7 else { return faults }
        (only.driftsFully, only.falseDeaths) = (true, true)
        return only
    }
}

/// A broken promise; the run stops at the first.
struct Violation: Error, CustomStringConvertible {
    let description: String
}

/// A copyset in a seeded world: replicas with clocks of their own, disks that forget and a bad network.
final class RaftWorld {
    final class Node {
        let id: ServerID
        var replica: RaftReplica?
        var store = FakeStore()
        var isFresh = true
        var incarnation = 0
        var pausedUntil: Int64 = 0
        var stalledUntil: Int64 = 0
        var diskFreeAt: Int64 = 0
        var clockStart: Int64 = 0
        var clockOffset: Int64 = 0
        var clockRatePPM: Int64 = 1_000_000
        var storedTerm = Term(0)
        /// Dead, and not to come back.
        var isGone = false
        /// Until it has copied everything.
        var hasLostData = false
        init(_ id: ServerID) { self.id = id }

        func clock(_ trueTime: Int64) -> Duration {
            .nanoseconds(clockOffset + (trueTime - clockStart) * clockRatePPM / 1_000_000)
        }
    }
    struct Happening {
        let at: Int64
        let order: Int
        let action: (RaftWorld) throws -> Void
    }

    var faults: Faults
    var random: SeededRandom
    var nodes: [Node] = []
    var trueTime: Int64 = 0
    var isCalm = false
    var stopLoad = false
    var eventCount = 0
    var tracing = false
    var trace: [String] = []
    private var queue: [Happening] = []
    private var scheduled = 0
    var cut: Set<[Int]> = []
    private var lastArrival: [[Int]: Int64] = [:]
    private(set) var judge = Judge()
    private var nextToken: UInt64 = 1

    init(seed: UInt64, faults: Faults) {
        (self.faults, random) = (faults, SeededRandom(seed: seed))
        nodes = (1...UInt64(faults.members)).map { Node(ServerID($0)) }
        for node in nodes { start(node) }
    }

    // MARK: - Time

    func after(_ microseconds: Int, _ action: @escaping (RaftWorld) throws -> Void) {
        scheduled += 1
        push(Happening(at: trueTime + Int64(microseconds) * 1000, order: scheduled, action: action))
    }
    private static func isBefore(_ a: Happening, _ b: Happening) -> Bool {
        (a.at, a.order) < (b.at, b.order)
    }
    private func push(_ happening: Happening) {
        queue.append(happening)
        var child = queue.count - 1
        while child > 0, Self.isBefore(queue[child], queue[(child - 1) / 2]) {
            queue.swapAt(child, (child - 1) / 2)
            child = (child - 1) / 2
        }
    }
    private func pop() -> Happening? {
        guard let first = queue.first, let last = queue.popLast() else { return nil }
        guard !queue.isEmpty else { return first }
        queue[0] = last
        var parent = 0
        while true {
            var least = parent
            for child in [2 * parent + 1, 2 * parent + 2] where child < queue.count {
                if Self.isBefore(queue[child], queue[least]) { least = child }
            }
            if least == parent { return first }
            queue.swapAt(parent, least)
            parent = least
        }
    }
    func run(milliseconds: Int) throws {
        let end = trueTime + Int64(milliseconds) * 1_000_000
        while let next = queue.first, next.at <= end {
            _ = pop()
            trueTime = max(trueTime, next.at)
            try next.action(self)
        }
        trueTime = end
    }
    func between(_ low: Int, _ high: Int) -> Int { Int.random(in: low...high, using: &random) }
    func chance(_ percent: Int) -> Bool { between(0, 99) < percent }
    func log(_ text: @autoclosure () -> String) {
        if tracing { trace.append("\(trueTime / 1000)us \(text())") }
    }

    // MARK: - Replicas

    func start(_ node: Node) {
        guard !node.isGone else { return }
        node.incarnation += 1
        node.clockStart = trueTime
        node.clockOffset = Int64(between(0, 1_000_000)) * 1000
        node.clockRatePPM = 1_000_000
        if faults.driftsFully {
            node.clockRatePPM += chance(50) ? 10_000 : -10_000
        } else if faults.drift {
            node.clockRatePPM += Int64(between(-10_000, 10_000))
        }
        (node.pausedUntil, node.stalledUntil, node.diskFreeAt) = (0, 0, trueTime)
        let disk = node.store.disk
        node.replica = RaftReplica(
            server: node.id, isPreferredLeader: node.id == ServerID(1),
            persisted: .init(
                term: disk.term, votedFor: disk.votedFor, members: nodes.map(\.id), base: disk.base,
                termStarts: disk.termStarts, last: disk.last, applied: disk.appliedMark,
                isSyncing: disk.isSyncing, voteFloor: disk.voteFloor, isFresh: node.isFresh),
            settings: faults.settings, seed: random.next(), now: node.clock(trueTime))
        node.isFresh = false
        log("\(node.id) starts: \(disk.last) base \(disk.base) term \(disk.term) sync \(disk.isSyncing)")
        tick(node, node.incarnation)
    }
    func crash(_ node: Node) {
        guard node.replica != nil else { return }
        node.replica = nil
        node.incarnation += 1
        node.store.crash(&random)
        log("\(node.id) crashes")
        let proven = chance(50)
        for other in nodes where other !== node && (proven || chance(30)) {
            let (incarnation, time) = (other.incarnation, other.clock(trueTime))
            let event: RaftReplica.Event =
                proven && chance(50)
                ? .died(node.id, asOf: time) : .disconnected(node.id, provenDead: proven)
            after(between(100, 20_000)) { try $0.deliver(event, to: other, incarnation) }
        }
    }
    private func tick(_ node: Node, _ incarnation: Int) {
        after(50_000) { world in
            try world.deliver(.tick, to: node, incarnation)
            if node.incarnation == incarnation { world.tick(node, incarnation) }
        }
    }

    /// Hands over an event, unless the replica it was meant for is no more.
    func deliver(_ event: RaftReplica.Event, to node: Node, _ incarnation: Int) throws {
        guard node.incarnation == incarnation, node.replica != nil else { return }
        if node.pausedUntil > trueTime {
            let wait = Int((node.pausedUntil - trueTime) / 1000) + 1
            return after(wait) { try $0.deliver(event, to: node, incarnation) }
        }
        // As the shell owes it: news of a copy that was given up meanwhile is not told.
        if case .syncFinished = event, node.store.view.isSyncing { return }
        eventCount += 1
        if tracing, !isTick(event) { log("\(node.id) <- \(describe(event))") }
        var effects: [RaftReplica.Effect] = []
        node.replica?.step(event, now: node.clock(trueTime), effects: &effects)
        for effect in effects {
            log("   \(node.id) -> \(describe(effect))")
            try perform(effect, of: node)
        }
        try judge.look(at: self)
    }
    private func isTick(_ event: RaftReplica.Event) -> Bool { if case .tick = event { true } else { false } }

    private func perform(_ effect: RaftReplica.Effect, of node: Node) throws {
        try judge.see(effect, of: node, in: self)
        switch effect {
        case .storeVote(let term, let candidate): change(node, .vote(term, candidate))
        case .append(let entries): change(node, .append(entries))
        case .truncate(let index): change(node, .truncate(from: index))
        case .send(let target, let message): send(message, from: node, to: target)
        case .commit(let index):
            node.store.commit = max(node.store.commit, index)
            apply(node)
        case .retain(let index): if index > LogIndex(3), chance(30) { drop(node, through: index) }
        case .becameLeader:
            if faults.shortReigns, !isCalm, chance(40) { cutShort(node) }
        case .accepted, .refused, .busy, .ready, .leadershipLost, .leaderChanged: break
        case .loadEntries(let target, let from, let bytesMax): load(node, target, from, bytesMax)
        case .offerSync(let target): offerSync(from: node, to: target)
        case .beginSync(let source, let term, let base): beginSync(node, from: source, term, base)
        }
    }

    // MARK: - Disks

    private func change(_ node: Node, _ change: DiskState.Change) {
        node.store.ask(change)
        let incarnation = node.incarnation
        let latency = Int64(between(20, chance(5) ? 20_000 : 400)) * 1000
        node.diskFreeAt = max(node.diskFreeAt, trueTime + latency, node.stalledUntil)
        after(Int((node.diskFreeAt - trueTime) / 1000)) { world in
            guard node.incarnation == incarnation else { return }
            try world.changed(node, node.store.completeOldest())
        }
    }
    private func changed(_ node: Node, _ change: DiskState.Change) throws {
        let incarnation = node.incarnation
        switch change {
        case .vote(let term, _): try deliver(.voteStored(term), to: node, incarnation)
        case .append(let entries):
            guard let last = entries.last else { return }
            try deliver(.stored(through: last.position), to: node, incarnation)
        case .truncate(let index): try deliver(.truncated(from: index), to: node, incarnation)
        case .beginSync: break
        case .finishSync(let generation):
            guard generation == node.store.copyGeneration else { break }
            node.hasLostData = false
            if !isCalm, faults.endsCopiesEarly || faults.crashesAfterCopies && chance(30) {
                crash(node)
                after(between(1000, 300_000)) { if node.replica == nil { $0.start(node) } }
                return try judge.look(at: self)
            }
            try deliver(.syncFinished, to: node, incarnation)
        }
        apply(node)
    }
    private func apply(_ node: Node) {
        let incarnation = node.incarnation
        after(between(1, 3000)) { world in
            guard node.incarnation == incarnation else { return }
            let target = node.store.applicable
            guard target > node.store.applied else { return }
            try world.judge.applies(node, through: target)
            node.store.applied = target
            try world.deliver(.applied(through: target), to: node, incarnation)
            let excess = node.store.disk.entries.count - world.faults.keptEntriesMax
            if excess > 0 {
                let index = LogIndex(node.store.disk.base.index.rawValue + UInt64(excess))
                world.drop(node, through: min(index, target))
            }
        }
    }
    private func drop(_ node: Node, through index: LogIndex) {
        let index = min(index, node.store.applied)
        guard index > node.store.disk.base.index, !node.store.disk.isSyncing, !node.store.view.isSyncing
        else { return }
        node.store.dropThrough(index)
        let (incarnation, position) = (node.incarnation, node.store.disk.base)
        after(0) { try $0.deliver(.logStart(position), to: node, incarnation) }
    }
    private func load(_ node: Node, _ target: ServerID, _ from: LogIndex, _ bytesMax: Int) {
        let incarnation = node.incarnation
        after(between(50, 8000)) { world in
            let disk = node.store.disk
            var (entries, bytes, index) = ([LogEntry](), 0, from)
            while let entry = disk.entry(at: index), entries.isEmpty || bytes < bytesMax {
                entries.append(entry)
                bytes += entry.operation.payloadByteCount
                index = index.next
            }
            try world.deliver(.entriesLoaded(for: target, from: from, entries), to: node, incarnation)
        }
    }

    // MARK: - Full copies

    private func offerSync(from node: Node, to target: ServerID) {
        let incarnation = node.incarnation
        after(between(10, 5000)) { world in
            guard node.incarnation == incarnation, let replica = node.replica, replica.role == .leader,
                let base = node.store.disk.position(at: node.store.applied)
            else { return }
            world.send(.syncOffer(term: replica.term, base: base), from: node, to: target)
            try world.deliver(.syncOffered(to: target, base: base), to: node, incarnation)
        }
    }
    private func beginSync(_ node: Node, from source: ServerID, _ term: Term, _ base: LogPosition) {
        let floor = node.replica?.voteFloor ?? .zero
        change(node, .beginSync(base: base, sourceTerm: term, floor: floor))
        node.store.copyGeneration += 1
        (node.store.applied, node.store.commit) = (base.index, base.index)
        pull(node, from: source, base, node.store.copyGeneration, node.incarnation)
    }
    private func pull(
        _ node: Node, from source: ServerID, _ base: LogPosition, _ generation: Int, _ incarnation: Int
    ) {
        after(between(faults.copyMicrosecondsMax / 80, faults.copyMicrosecondsMax)) { world in
            guard node.incarnation == incarnation, node.store.copyGeneration == generation else { return }
            let origin = world.nodes[Int(source.rawValue) - 1]
            if origin.replica?.role == .leader, !origin.store.disk.isSyncing,
                origin.store.applied >= base.index, world.isOpen(origin, node), world.isOpen(node, origin)
            {
                world.finishSync(node, generation, incarnation)
            } else {
                world.pull(node, from: source, base, generation, incarnation)
            }
        }
    }
    private func finishSync(_ node: Node, _ generation: Int, _ incarnation: Int) {
        guard node.incarnation == incarnation, node.store.copyGeneration == generation else { return }
        guard node.store.mayFinishCopy || faults.endsCopiesEarly else {
            return after(50_000) { $0.finishSync(node, generation, incarnation) }
        }
        change(node, .finishSync(generation: generation))
    }

    // MARK: - The network

    func isOpen(_ from: Node, _ to: Node) -> Bool {
        !cut.contains([Int(from.id.rawValue), Int(to.id.rawValue)])
    }
    private func send(_ message: ReplicaMessage, from: Node, to target: ServerID) {
        let to = nodes[Int(target.rawValue) - 1]
        let copies = !isCalm && chance(faults.duplicatePercent) ? 2 : 1
        for _ in 0..<copies {
            guard isOpen(from, to), isCalm || !chance(faults.lossPercent) else { continue }
            let delay = isCalm ? between(50, 500) : between(50, between(60, faults.delayMicrosecondsMax))
            let link = [Int(from.id.rawValue), Int(target.rawValue)]
            let soonest = faults.reorders ? 0 : lastArrival[link] ?? 0
            let arrival = max(trueTime + Int64(delay) * 1000, soonest)
            lastArrival[link] = arrival
            after(Int((arrival - trueTime) / 1000)) { world in
                guard world.isOpen(from, to) else { return }
                try world.deliver(world.event(of: message, from: from.id), to: to, to.incarnation)
            }
        }
    }

    /// A store that is nearly full takes only the first entries of an append.
    private func event(of message: ReplicaMessage, from sender: ServerID) -> RaftReplica.Event {
        guard case .append(let append) = message, !isCalm, chance(faults.fullStorePercent) else {
            return .received(from: sender, message)
        }
        let count = between(0, append.entries.count)
        let addable = LogIndex(append.previous.index.rawValue + UInt64(count))
        return .receivedTooMuch(from: sender, append, addable: addable)
    }

    // MARK: - Load and faults

    func propose() {
        after(between(100, 60_000)) { world in
            guard !world.stopLoad else { return }
            world.propose()
            guard let node = world.nodes.randomElement(using: &world.random), let replica = node.replica
            else {
                return
            }
            let leader = replica.role == .leader ? node : world.nodes.first { $0.replica?.role == .leader }
            for _ in 0..<(world.chance(10) ? 12 : 1) {
                let target = leader ?? node
                try world.deliver(.propose(world.token(), world.operation()), to: target, target.incarnation)
            }
        }
    }
    func token() -> ProposalToken {
        nextToken += 1
        return ProposalToken(rawValue: nextToken)
    }
    static let payload = Payload(BlockBuffer(byteCount: 4096), byteCount: 4096)
    func operation() -> Operation {
        let tag = RequestTag(session: Epoch(1), sequence: nextToken)
        let chunk = ChunkKey(volume: VolumeID(1), index: 0)
        guard let run = BlockRun(chunk: chunk, firstBlock: 0, blockCount: 1) else { return .noop }
        return nextToken % 3 == 0
            ? .write(run, SnapshotNumber(0), tag, checksums: [], payload: Self.payload)
            : .trim(run, SnapshotNumber(0), tag)
    }

    func misbehave() {
        after(between(20_000, 700_000)) { world in
            guard !world.isCalm else { return }
            world.misbehave()
            guard let node = world.nodes.randomElement(using: &world.random) else { return }
            switch world.between(0, 9) {
            case 2 where world.faults.falseDeaths, 3 where world.faults.falseDeaths: world.feignDeath()
            case 0 where world.faults.crashes, 1 where world.faults.crashes: world.bounce(node)
            case 2 where world.faults.partitions, 3 where world.faults.partitions: world.partition()
            case 4: world.cut = []
            case 5 where world.faults.pauses:
                node.pausedUntil = world.trueTime + Int64(world.between(100, 3000)) * 1_000_000
                world.log("\(node.id) pauses until \(node.pausedUntil / 1000)us")
            case 6 where world.faults.diskStalls:
                node.stalledUntil = world.trueTime + Int64(world.between(10, 3000)) * 1_000_000
            case 7 where world.faults.transfers:
                let target = world.nodes.randomElement(using: &world.random)?.id
                for node in world.nodes {
                    let event = RaftReplica.Event.transferLeadership(to: world.chance(50) ? target : nil)
                    try world.deliver(event, to: node, node.incarnation)
                }
            case 5 where world.faults.ambushes, 6 where world.faults.ambushes: world.ambush()
            case 9 where world.faults.losesMedium && world.chance(60): world.loseMedium(of: node)
            case 9 where world.faults.losesOneForGood: world.loseForGood(node)
            case 8 where world.faults.falseAlarms:
                guard let other = world.nodes.randomElement(using: &world.random) else { return }
                let event = RaftReplica.Event.disconnected(other.id, provenDead: world.chance(50))
                try world.deliver(event, to: node, node.incarnation)
            default: break
            }
        }
    }
    private func bounce(_ node: Node) {
        let victims = chance(10) ? nodes : [node]
        for victim in victims {
            crash(victim)
            after(between(1000, chance(30) ? 4_000_000 : 300_000)) { world in
                if victim.replica == nil { world.start(victim) }
            }
        }
    }
    private func cutShort(_ node: Node) {
        after(between(0, 40_000)) { world in if !world.isCalm { world.bounce(node) }
        }
    }
    private func ambush() {
        guard let leader = nodes.first(where: { $0.replica?.role == .leader }),
            let candidate = nodes.filter({ $0 !== leader }).randomElement(using: &random)
        else { return }
        let (a, b) = (Int(leader.id.rawValue), Int(candidate.id.rawValue))
        cut.formUnion([[a, b], [b, a]])
        for _ in 0..<6 {
            after(between(700_000, 2_000_000)) { world in
                guard !world.isCalm,
                    let voter = world.nodes.filter({ $0 !== leader && $0 !== candidate })
                        .randomElement(using: &world.random)
                else { return }
                world.crash(voter)
                world.after(world.between(100, 20_000)) { world in
                    if voter.replica == nil { world.start(voter) }
                }
            }
        }
    }
    private func partition() {
        let lone = between(1, nodes.count)
        for other in 1...nodes.count where other != lone {
            if chance(80) { cut.insert([lone, other]) }
            if chance(60) { cut.insert([other, lone]) }
        }
        log("cut \(cut.sorted { $0.lexicographicallyPrecedes($1) })")
    }

    /// All faults end; whoever is down comes back.
    func calm() {
        (isCalm, cut) = (true, [])
        for node in nodes {
            (node.pausedUntil, node.stalledUntil) = (0, 0)
            if node.replica == nil { start(node) }
        }
        log("calm")
    }
    /// True when all replicas have applied everything, `index` at the least, under one leader.
    func hasConverged(past index: LogIndex) -> Bool {
        let replicas = nodes.compactMap(\.replica)
        guard replicas.count(where: { $0.role == .leader }) == 1 else { return false }
        return nodes.filter { !$0.isGone }.allSatisfy {
            $0.store.applied == judge.committedThrough && !$0.store.disk.isSyncing && !$0.store.view.isSyncing
        } && judge.committedThrough > index && replicas.allSatisfy { !$0.isSyncing }
    }
    var committedThrough: LogIndex { judge.committedThrough }
    var summary: String {
        nodes.map { node in
            guard let replica = node.replica else { return "\(node.id) is \(node.isGone ? "gone" : "down")" }
            return
                "\(node.id) \(replica.role) t\(replica.term) last \(replica.last) "
                + "commit \(replica.commitIndex) applied \(node.store.applied)\(replica.isSyncing ? " syncing" : "")"
        }.joined(separator: "; ") + "; committed \(committedThrough)"
    }
}
