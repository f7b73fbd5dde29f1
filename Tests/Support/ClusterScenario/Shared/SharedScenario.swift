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
    private let common: ClusterRun
    private var world: SimWorld { common.world }
    private var cluster: SimCluster { common.cluster }
    private let record = LoadRecord()
    private let counters = CounterRecord()
    private var members: [SharedMember] = []
    private var memberCount = 0
    private var removalsOpen = 0
    private var removalsDone = 0
    /// Sizes that the volume was given, in order.
    private var growths: [UInt64] = []
    /// Hears of each event as it happens: an invariant may end the process before the outcome is there.
    public var told: (ScenarioEvent) -> Void {
        get { common.told }
        set { common.told = newValue }
    }

    /// - Parameter traceLinesMax: lines kept for a person to read.
    public init(_ plan: SharedPlan, traceLinesMax: Int = 0) {
        self.plan = plan
        common = ClusterRun(plan.base, salt: 0x5AFE_DEED_0000_0000, traceLinesMax: traceLinesMax)
        record.sizes = VolumeSizes(bytes: plan.base.volumeBytes)
        common.loadComplaint = { [record] in record.complaint }
        common.readLoadGauges = { [unowned self] in for member in members { member.readGauges($0) } }
        common.strandedClient = { [unowned self] in anyOf(members.filter(\.isUsable)) }
        common.loadMachine = { [unowned self] _ in
            members.isEmpty ? nil : common.dice.pick(members).machine
        }
        common.ownDeeds = plan.deeds.map { deed in
            ClusterRun.OwnDeed(name: "member \(deed)") { [unowned self] in perform(deed) }
        }
    }
    private func anyOf(_ members: [SharedMember]) -> String? {
        guard !members.isEmpty else { return nil }
        let name = common.dice.pick(members).machine
        common.dice.note(name)
        return name
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
        common.conclude(&outcome)
        for member in members { member.end() }
        world.end()
        return outcome
    }
    private func perform(_ outcome: inout ScenarioOutcome) -> String? {
        if let wrong = common.boot() { return wrong }
        for _ in 0..<2 { newMember() }
        guard world.run(within: .seconds(60), until: { members.allSatisfy(\.isAttached) }) else {
            return "the first members cannot attach: \(members.compactMap(\.trouble).first ?? "no answer")"
        }
        common.turmoil(ScenarioPlan.turmoil)
        if let wrong = common.complaint { return wrong }
        if let wrong = calm() { return wrong }
        if let wrong = common.judge(record.history, &outcome) { return wrong }
        return common.compareReplicas(plan.base.load.hotSpots)
    }

    // MARK: Turmoil

    private func perform(_ deed: SharedPlan.Deed) {
        let usable = members.filter { $0.isUsable && $0.isAttached }
        if case .joins = deed {
            if members.count(where: \.isUsable) < plan.membersMax { newMember() }
            return
        }
        if case .grows = deed { return grow() }
        // Somebody must stay who removes others.
        guard usable.count > 1 else { return newMember() }
        let victim = common.dice.pick(usable)
        common.dice.note(victim.machine)
        switch deed {
        case .dies:
            victim.die()
            remove(victim)
        case .standsStill:
            victim.host.pause(for: common.dice.time(upTo: 4000))
            victim.willBeRemoved()
            remove(victim)
        case .isRemoved:
            victim.willBeRemoved()
            remove(victim)
        case .leaves: victim.leave()
        case .joins, .grows: break
        }
        if common.dice.oneIn(2) { newMember() }
    }
    private func grow() {
        guard growths.count < plan.growthBytes.count else { return }
        let size = cluster.volumeSize.bytes + plan.growthBytes[growths.count]
        growths.append(size)
        record.sizes?.ask(size)
        cluster.grow(to: ByteCount(bytes: size))
        common.dice.note("to \(size)")
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
        common.beginCalm()
        for member in members {
            member.stopAsking()
            if member.host.isAlive { member.host.resume() }
        }
        if !members.contains(where: \.isUsable) { newMember() }
        let present = { [self] in members.filter(\.isUsable) }
        guard common.finish({ present().allSatisfy(\.isAttached) }) else {
            return common.complaint ?? "no member can attach after the faults have stopped"
        }
        guard common.finish({ removalsOpen == 0 }) else {
            return common.complaint ?? "\(removalsOpen) removals never finish after the faults have stopped"
        }
        guard common.finish({ present().allSatisfy { $0.size == cluster.volumeSize } }) else {
            return common.complaint ?? "a member never learns that the volume has grown"
        }
        for size in growths { record.sizes?.settle(size, isDone: true) }
        guard common.finish({ present().allSatisfy { $0.openCount == 0 } }) else {
            let count = present().reduce(0) { $0 + $1.openCount }
            return common.complaint ?? "\(count) requests never finish after the faults have stopped"
        }
        if let complaint = common.complaint { return complaint }
        guard let reader = present().first else { return "no member is left" }
        reader.readEverything()
        reader.judgeCounters()
        guard common.finish({ reader.openCount == 0 }) else {
            return common.complaint ?? "\(reader.openCount) reads never finish after the faults have stopped"
        }
        for member in present() { member.leave() }
        common.converge()
        return common.complaint
    }
}
