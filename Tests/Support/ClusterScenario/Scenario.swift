import BlockTypes
import Checkers
import CurveClient
import Environment
import Simulation

/// How a run ended.
public struct ScenarioOutcome: Sendable {
    /// What was wrong, in one line; `nil` when nothing was.
    public var cause: String?
    /// Requests that clients made, and those that were answered.
    public var requests = 0, answered = 0
    /// Blocks whose history was too tangled to judge.
    public var undecided = 0
    /// Depends on every happening of the run.
    public var traceHash: UInt64 = 0
    /// Happenings performed.
    public var steps: UInt64 = 0
    /// What was done to it, and what went wrong now and then.
    public var events: [ScenarioEvent] = []
    /// See ``events``.
    public var rates: [FaultRate] = []
    /// How often what happened, by name: shows that runs reach what they should.
    public var tally: [String: Int] = [:]  // Sorted where it is shown.
    /// The last lines of the trace, when they were kept.
    public var trace: [String] = []
    /// Of a run that has not begun.
    public init() {}
}

/// One seeded run of a whole cluster: turmoil, calm, judgement.
///
/// First anything may happen to machines, network and disks, and whatever a client is told must be true.
/// Then all faults stop: every request must finish, and the replicas must agree.
public final class Scenario {
    private let plan: ScenarioPlan
    private let world: SimWorld
    private let cluster: SimCluster
    private let record = LoadRecord()
    private var clients: [ScenarioClient] = []
    private var clientCount = 0
    private var bounds: BoundsWatch?
    private var dice: DeedDice
    private var events: [ScenarioEvent] = []
    /// Hears of each event as it happens: an invariant may end the process before the outcome is there.
    public var told: (ScenarioEvent) -> Void = { _ in }

    /// - Parameter traceLinesMax: lines kept for a person to read.
    public init(_ plan: ScenarioPlan, traceLinesMax: Int = 0) {
        self.plan = plan
        dice = DeedDice(seed: plan.seed ^ 0xDEED_0000_0000_0000)
        // A machine's clock is what it is from the start; everything else goes wrong later.
        var faults = SimFaults.none
        faults.clockDriftMillionthsMax = plan.faults.clockDriftMillionthsMax
        world = SimWorld(seed: plan.seed, faults: faults, traceLinesMax: traceLinesMax)
        cluster = SimCluster(world, plan)
        cluster.isAsking = { [unowned self] name in
            clients.contains { $0.machine == name && $0.isAsking }
        }
    }
    /// Runs it to the end.
    public func run() -> ScenarioOutcome {
        var outcome = ScenarioOutcome()
        outcome.cause = perform(&outcome)
        outcome.requests = record.issued
        outcome.answered = record.history.answeredCount
        for what in (bounds?.reached ?? []).sorted() { outcome.tally["reached the bound: \(what)"] = 1 }
        outcome.traceHash = world.trace.hash
        outcome.steps = world.stepCount
        (outcome.events, outcome.rates) = (events, plan.rates)
        outcome.trace = world.trace.lines
        for client in clients { client.end() }
        world.end()
        return outcome
    }
    private func perform(_ outcome: inout ScenarioOutcome) -> String? {
        if let wrong = cluster.boot() { return wrong }
        watchBounds()
        newClient()
        guard world.run(within: .seconds(60), until: { clients[0].isAttached }) else {
            return "the first client cannot attach: \(clients[0].trouble ?? "no answer")"
        }
        turmoil()
        if let wrong = complaint { return wrong }
        if let wrong = calm() { return wrong }
        let (violation, undecided) = record.history.check()
        outcome.undecided = undecided
        if let violation { return describe(violation) }
        guard cluster.stopServers() else { return "the chunkservers do not stop" }
        return complaint ?? cluster.compareReplicas(registers: plan.load.hotSpots)
    }
    private var complaint: String? { record.complaint ?? cluster.complaint ?? bounds?.complaint }
    private func watchBounds() {
        let watch = BoundsWatch(world) { [weak self] read in
            guard let self else { return }
            cluster.readGauges(read)
            for client in clients { client.readGauges(read) }
        } compareAll: { [weak self] in
            self?.cluster.noteStandings(&$0)
        }
        bounds = watch
        watch.start()
    }

    // MARK: Turmoil

    private func turmoil() {
        world.faults = plan.faults
        for index in 0..<SimCluster.serverCount { cluster.disks[index].faults = plan.faults.disk }
        if let index = plan.damagedServer {
            cluster.disks[index].faults = .damagedSwarm(&world.random)
        }
        let end = world.trueNow + ScenarioPlan.turmoil
        strikeLater(until: end)
        _ = world.run(within: ScenarioPlan.turmoil) {
            complaint != nil || record.issued >= plan.load.operations && openCount == 0
        }
        isStriking = false
    }
    private var isStriking = true
    private var openCount: Int { clients.reduce(0) { $0 + $1.openCount } }

    private func strikeLater(until end: Duration) {
        guard !plan.nemesis.deeds.isEmpty else { return }
        dice.advance()
        let rest = dice.time(upTo: Int(plan.nemesis.restMax.milliseconds))
        world.after(rest) { [weak self] in
            guard let self, isStriking, world.trueNow < end else { return }
            strike()
            strikeLater(until: end)
        }
    }
    private func strike() {
        let deed = dice.pick(plan.nemesis.deeds)
        let victim = dice.pick(0..<SimCluster.serverCount)
        let fault = PlannedFault.deed(dice.number)
        guard plan.selection.includes(fault) else { return }
        world.note { "nemesis: \(deed)" }
        perform(deed, victim)
        // The first detail is the rest before it.
        let what = (["\(deed)"] + dice.details.dropFirst()).joined(separator: ", ")
        let event = ScenarioEvent(fault: fault, at: world.trueNow, what: what)
        events.append(event)
        told(event)
    }
    private func perform(_ deed: NemesisPlan.Deed, _ victim: Int) {
        switch deed {
        case .powerLoss, .kill, .pause, .strand: dice.note(SimCluster.machine(victim))
        default: break
        }
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
        case .strand: strand(victim)
        case .heal: world.healNetwork()
        case .directoryDown:
            cluster.stopDirectory()
            world.after(dice.time(upTo: 4000)) { [weak self] in self?.cluster.startDirectory() }
        case .clientDies:
            clients.last?.die()
            newClient()
        case .takeOver: newClient()
        }
    }
    private func strand(_ victim: Int) {
        guard let client = clients.last?.machine else { return }
        let others = (0..<SimCluster.serverCount).filter { $0 != victim }
        let strand = StrandedRequests(&dice)
        strand.begin(
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
        if choice > SimCluster.serverCount, let client = clients.last { name = client.machine }
        dice.note(name)
        return name
    }
    private func newClient() {
        clientCount += 1
        for client in clients { client.isSuperseded = true }
        let client = ScenarioClient(
            world, number: clientCount, plan.load, record, pool: cluster.pool, seed: world.random.next(),
            wasTakenOver: { [cluster] machine, epoch in
                cluster.grants.dropFirst(Int(epoch)).contains { $0.isAsked && $0.holder != machine }
            })
        clients.append(client)
        client.attach()
    }

    // MARK: Calm

    /// Replicas that differ after that are judged as they are.
    private static let secondsToConverge = 20

    private func calm() -> String? {
        world.note { "calm" }
        bounds?.isCalm = true
        cluster.calmDown()
        for client in clients { client.stopAsking() }
        if clients.last?.isUsable != true { newClient() }
        guard let client = clients.last else { return "no client" }
        guard world.run(within: ScenarioPlan.calm, until: { client.isAttached || complaint != nil }) else {
            return "no client can attach after the faults have stopped: \(client.trouble ?? "no answer")"
        }
        client.stopAsking()
        guard world.run(within: ScenarioPlan.calm, until: { openCount == 0 || complaint != nil }) else {
            return "\(openCount) requests never finish after the faults have stopped: \(client.trouble ?? "")"
        }
        if let complaint { return complaint }
        client.readEverything()
        guard world.run(within: ScenarioPlan.calm, until: { openCount == 0 || complaint != nil }) else {
            return "\(openCount) reads never finish after the faults have stopped: \(client.trouble ?? "")"
        }
        client.detach()
        // Followers learn of the last commits by heartbeats and catch up.
        for _ in 0..<Self.secondsToConverge {
            world.run(for: .seconds(1))
            if cluster.hasConverged { break }
        }
        return complaint
    }
    private func describe(_ found: (register: UInt64, what: RegisterViolation)) -> String {
        let block = found.register * UInt64(Geometry.sectorBytes) / UInt64(Geometry.blockBytes)
        for line in record.history.story(of: found.register) { world.note { "history: \(line)" } }
        return "block \(block) sector \(found.register % 8): \(found.what)"
    }
}

extension Duration {
    /// Whole milliseconds.
    var milliseconds: Int64 { components.seconds * 1000 + components.attoseconds / 1_000_000_000_000_000 }
}
