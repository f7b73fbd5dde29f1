import BlockTypes
import Checkers
import CurveClient
import Environment
import Simulation

/// One seeded run of a cluster whose one volume a group holds together: turmoil, calm, judgement.
///
/// Members come, leave, die, stand still and are removed by others, and the volume grows, while chunkservers
/// and network fail. What each is told must be true for all of them together: sector by sector, and for
/// counters that they increment by comparing and writing. Nothing of a member takes effect after its removal
/// was acknowledged.
public final class SharedScenario {
    private let plan: SharedPlan
    private let world: SimWorld
    private let cluster: SimCluster
    private let record = LoadRecord()
    private let counters = CounterRecord()
    private var members: [SharedMember] = []
    private var memberCount = 0
    private var removalsOpen = 0
    private var removalsDone = 0
    /// Sizes that the volume was given, in order.
    private var growths: [UInt64] = []
    private var bounds: BoundsWatch?
    private var dice: DeedDice
    private var events: [ScenarioEvent] = []
    private var isStriking = true
    /// Hears of each event as it happens: an invariant may end the process before the outcome is there.
    public var told: (ScenarioEvent) -> Void = { _ in }

    /// - Parameter traceLinesMax: lines kept for a person to read.
    public init(_ plan: SharedPlan, traceLinesMax: Int = 0) {
        self.plan = plan
        dice = DeedDice(seed: plan.base.seed ^ 0x5AFE_DEED_0000_0000)
        var faults = SimFaults.none
        faults.clockDriftMillionthsMax = plan.base.faults.clockDriftMillionthsMax
        world = SimWorld(seed: plan.base.seed, faults: faults, traceLinesMax: traceLinesMax)
        cluster = SimCluster(world, plan.base)
        record.sizes = VolumeSizes(bytes: plan.base.volumeBytes)
    }
    /// Runs it to the end.
    public func run() -> ScenarioOutcome {
        var outcome = ScenarioOutcome()
        outcome.cause = perform(&outcome)
        outcome.requests = record.issued + counters.started
        outcome.answered = record.history.answeredCount
        outcome.tally = [
            "increments acknowledged": counters.acknowledgedCount, "comparisons that failed": counters.misses,
            "members removed": removalsDone, "members": memberCount, "growths": growths.count,
        ]
        for what in (bounds?.reached ?? []).sorted() { outcome.tally["reached the bound: \(what)"] = 1 }
        outcome.traceHash = world.trace.hash
        outcome.steps = world.stepCount
        (outcome.events, outcome.rates) = (events, plan.base.rates)
        outcome.trace = world.trace.lines
        for member in members { member.end() }
        world.end()
        return outcome
    }
    private func perform(_ outcome: inout ScenarioOutcome) -> String? {
        if let wrong = cluster.boot() { return wrong }
        watchBounds()
        for _ in 0..<2 { newMember() }
        guard world.run(within: .seconds(60), until: { members.allSatisfy(\.isAttached) }) else {
            return "the first members cannot attach: \(members.compactMap(\.trouble).first ?? "no answer")"
        }
        turmoil()
        if let wrong = complaint { return wrong }
        if let wrong = calm() { return wrong }
        let (violation, undecided) = record.history.check()
        outcome.undecided = undecided
        if let violation { return describe(violation) }
        guard cluster.stopServers() else { return "the chunkservers do not stop" }
        return complaint ?? cluster.compareReplicas(registers: plan.base.load.hotSpots)
    }
    private var complaint: String? { record.complaint ?? cluster.complaint ?? bounds?.complaint }
    private func watchBounds() {
        let watch = BoundsWatch(world) { [weak self] read in
            guard let self else { return }
            cluster.readGauges(read)
            for member in members { member.readGauges(read) }
        } compareAll: { [weak self] in
            self?.cluster.noteStandings(&$0)
        }
        bounds = watch
        watch.start()
    }

    // MARK: Turmoil

    private func turmoil() {
        world.faults = plan.base.faults
        for index in 0..<SimCluster.serverCount { cluster.disks[index].faults = plan.base.faults.disk }
        if let index = plan.base.damagedServer {
            cluster.disks[index].faults = .damagedSwarm(&world.random)
        }
        let end = world.trueNow + ScenarioPlan.turmoil
        strikeLater(until: end)
        _ = world.run(within: ScenarioPlan.turmoil) { complaint != nil }
        isStriking = false
    }
    private func strikeLater(until end: Duration) {
        guard !plan.base.nemesis.deeds.isEmpty || !plan.deeds.isEmpty else { return }
        dice.advance()
        let rest = dice.time(upTo: Int(plan.base.nemesis.restMax.milliseconds))
        world.after(rest) { [weak self] in
            guard let self, isStriking, world.trueNow < end else { return }
            strike()
            strikeLater(until: end)
        }
    }
    private func strike() {
        let fault = PlannedFault.deed(dice.number)
        guard plan.base.selection.includes(fault) else { return }
        let isAboutMembers = plan.base.nemesis.deeds.isEmpty || !plan.deeds.isEmpty && dice.oneIn(2)
        let what: String
        if isAboutMembers {
            let deed = dice.pick(plan.deeds)
            what = "member \(deed)"
            world.note { "nemesis: \(what)" }
            perform(deed)
        } else {
            let deed = dice.pick(plan.base.nemesis.deeds)
            what = "\(deed)"
            world.note { "nemesis: \(what)" }
            perform(deed, dice.pick(0..<SimCluster.serverCount))
        }
        let event = ScenarioEvent(
            fault: fault, at: world.trueNow, what: ([what] + dice.details).joined(separator: ", "))
        events.append(event)
        told(event)
    }
    private func perform(_ deed: SharedPlan.Deed) {
        let usable = members.filter { $0.isUsable && $0.isAttached }
        if case .joins = deed {
            if members.count(where: \.isUsable) < plan.membersMax { newMember() }
            return
        }
        if case .grows = deed { return grow() }
        // Somebody must stay who removes others.
        guard usable.count > 1 else { return newMember() }
        let victim = dice.pick(usable)
        dice.note(victim.machine)
        switch deed {
        case .dies:
            victim.die()
            remove(victim)
        case .standsStill:
            victim.host.pause(for: dice.time(upTo: 4000))
            victim.willBeRemoved()
            remove(victim)
        case .isRemoved:
            victim.willBeRemoved()
            remove(victim)
        case .leaves: victim.leave()
        case .joins, .grows: break
        }
        if dice.oneIn(2) { newMember() }
    }
    private func grow() {
        guard growths.count < plan.growthBytes.count else { return }
        let size = cluster.volumeSize.bytes + plan.growthBytes[growths.count]
        growths.append(size)
        record.sizes?.ask(size)
        cluster.grow(to: ByteCount(bytes: size))
        dice.note("to \(size)")
    }
    private func perform(_ deed: NemesisPlan.Deed, _ victim: Int) {
        switch deed {
        case .powerLoss: cluster.losePower(victim, for: dice.time(upTo: 3000))
        case .powerLossOfAll:
            let outage = dice.time(upTo: 2000)
            for index in 0..<SimCluster.serverCount { cluster.losePower(index, for: outage) }
        case .kill: cluster.kill(victim, thenStartAfter: dice.time(upTo: 2000))
        case .pause: cluster.pause(victim, for: dice.time(upTo: 4000))
        case .isolate: world.isolate(anyMachine())
        case .blockOneWay: world.block(from: anyMachine(), to: anyMachine())
        case .slow: world.slow(from: anyMachine(), to: anyMachine(), by: dice.time(upTo: 1000))
        case .heal: world.healNetwork()
        case .directoryDown:
            cluster.stopDirectory()
            world.after(dice.time(upTo: 4000)) { [weak self] in self?.cluster.startDirectory() }
        case .strand: strand(victim)
        case .clientDies, .takeOver: break
        }
    }
    private func strand(_ victim: Int) {
        let usable = members.filter(\.isUsable)
        guard !usable.isEmpty else { return }
        let client = dice.pick(usable).machine
        dice.note(client)
        let others = (0..<SimCluster.serverCount).filter { $0 != victim }
        StrandedRequests(&dice).begin(
            in: world, client: client, server: SimCluster.machine(victim),
            pause: { [weak self] in self?.cluster.pause(victim, for: $0) },
            dethrone: { [weak self] in
                guard let self, isStriking else { return }
                for other in others { cluster.kill(other, thenStartAfter: $0) }
            })
    }
    private func anyMachine() -> String {
        let choice = dice.pick(0..<(SimCluster.serverCount + 2))
        var name = SimCluster.machine(choice % SimCluster.serverCount)
        if choice == SimCluster.serverCount { name = "mds" }
        if choice > SimCluster.serverCount, !members.isEmpty { name = dice.pick(members).machine }
        dice.note(name)
        return name
    }
    private func newMember() {
        guard members.count(where: { $0.isUsable || !$0.isOver }) <= plan.membersMax else { return }
        memberCount += 1
        let member = SharedMember(
            world, number: memberCount, plan, record, counters, pool: cluster.pool,
            settled: { [weak self] in self?.settle($0) })
        members.append(member)
        member.attach()
    }
    /// Every copyset knows a generation at least as new as `epoch`: attachments that it leaves out are over.
    private func settle(_ epoch: UInt32) { record.settle(before: epoch, except: cluster.group(at: epoch)) }

    /// Has a member removed by whoever can, until somebody says that it is done.
    private func remove(_ victim: SharedMember) {
        removalsOpen += 1
        tryToRemove(victim)
    }
    private func tryToRemove(_ victim: SharedMember) {
        let others = members.filter { $0 !== victim && $0.isUsable && $0.isAttached }
        guard let volume = others.first?.volume, others[0].host.isAlive else {
            return world.after(.milliseconds(300)) { [weak self] in self?.tryToRemove(victim) }
        }
        // One that never attached is known by its name alone: the next who joins finds it silent.
        guard victim.epoch > 0 else { return removalsOpen -= 1 }
        var isAnswered = false
        func answered(_ isDone: Bool) {
            guard !isAnswered else { return }
            isAnswered = true
            guard isDone else {
                return world.after(.milliseconds(300)) { [weak self] in self?.tryToRemove(victim) }
            }
            world.note { "\(victim.machine) is removed" }
            removalsOpen -= 1
            removalsDone += 1
            victim.wasRemoved()
            record.settle(only: victim.epoch)
        }
        others[0].host.after(.zero) {
            volume.removeMember(Epoch(victim.epoch), force: true) { answered($0.isSuccess) }
        }
        // The one who was asked may die meanwhile.
        world.after(.seconds(20)) { answered(false) }
    }

    // MARK: Calm

    private func calm() -> String? {
        world.note { "calm" }
        bounds?.isCalm = true
        cluster.calmDown()
        for member in members {
            member.stopAsking()
            if member.host.isAlive { member.host.resume() }
        }
        if !members.contains(where: \.isUsable) { newMember() }
        let present = { [self] in members.filter(\.isUsable) }
        guard finish({ present().allSatisfy(\.isAttached) }) else {
            return complaint ?? "no member can attach after the faults have stopped"
        }
        guard finish({ removalsOpen == 0 }) else {
            return complaint ?? "\(removalsOpen) removals never finish after the faults have stopped"
        }
        guard finish({ present().allSatisfy { $0.size == cluster.volumeSize } }) else {
            return complaint ?? "a member never learns that the volume has grown"
        }
        for size in growths { record.sizes?.settle(size, isDone: true) }
        guard finish({ present().allSatisfy { $0.openCount == 0 } }) else {
            let count = present().reduce(0) { $0 + $1.openCount }
            return complaint ?? "\(count) requests never finish after the faults have stopped"
        }
        if let complaint { return complaint }
        guard let reader = present().first else { return "no member is left" }
        reader.readEverything()
        reader.judgeCounters()
        guard finish({ reader.openCount == 0 }) else {
            return complaint ?? "\(reader.openCount) reads never finish after the faults have stopped"
        }
        for member in present() { member.leave() }
        // Followers learn of the last commits by heartbeats and catch up.
        for _ in 0..<20 {
            world.run(for: .seconds(1))
            if cluster.hasConverged { break }
        }
        return complaint
    }
    private func finish(_ isDone: () -> Bool) -> Bool {
        _ = world.run(within: ScenarioPlan.calm) { isDone() || complaint != nil }
        return complaint == nil && isDone()
    }
    private func describe(_ found: (register: UInt64, what: RegisterViolation)) -> String {
        let block = found.register * UInt64(Geometry.sectorBytes) / UInt64(Geometry.blockBytes)
        for line in record.history.story(of: found.register) { world.note { "history: \(line)" } }
        return "block \(block) sector \(found.register % 8): \(found.what)"
    }
}
