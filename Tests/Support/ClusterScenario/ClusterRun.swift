import BlockTypes
import Checkers
import Environment
import Simulation

/// What all runs over three chunkservers and a directory have in common: the world, a nemesis, what is
/// watched and what is written down.
///
/// A scenario brings the load, and says what else may happen and to whom.
final class ClusterRun {
    /// Something that only one scenario's nemesis does.
    struct OwnDeed {
        let name: String
        let perform: () -> Void
    }
    let world: SimWorld
    let cluster: SimCluster
    private let plan: ScenarioPlan
    /// What the present deed draws from.
    var dice: DeedDice
    private var events: [ScenarioEvent] = []
    private var bounds: BoundsWatch?
    private(set) var isStriking = true

    /// Hears of each event as it happens.
    var told: (ScenarioEvent) -> Void = { _ in }
    /// The first thing that was wrong with what the load was told.
    var loadComplaint: () -> String? = { nil }
    /// Reads the gauges of the load's processes.
    var readLoadGauges: (GaugeReader) -> Void = { _ in }
    /// Half of what happens, where the plan has something for the cluster, too.
    var ownDeeds: [OwnDeed] = []
    /// A client dies, or another one takes over.
    var replaceClient: (_ dies: Bool) -> Void = { _ in }
    /// Whose requests are to be stranded.
    var strandedClient: () -> String? = { nil }
    /// Chances of the load, beside the one of each chunkserver and of the directory, when some machine is
    /// struck; and which machine a chance stands for.
    var loadChances: () -> Int = { 1 }
    var loadMachine: (_ chance: Int) -> String? = { _ in nil }
    /// The longest rest between two deeds.
    var restMax: Duration
    /// Milliseconds.
    var directoryDownMax = 4000

    /// - Parameters:
    ///   - salt: tells the dice of one scenario from another's.
    ///   - traceLinesMax: lines kept for a person to read.
    init(_ plan: ScenarioPlan, salt: UInt64, traceLinesMax: Int) {
        self.plan = plan
        restMax = plan.nemesis.restMax
        dice = DeedDice(seed: plan.seed ^ salt)
        // A machine's clock is what it is from the start; everything else goes wrong later.
        var faults = SimFaults.none
        faults.clockDriftMillionthsMax = plan.faults.clockDriftMillionthsMax
        world = SimWorld(seed: plan.seed, faults: faults, traceLinesMax: traceLinesMax)
        cluster = SimCluster(world, plan)
    }
    var complaint: String? { loadComplaint() ?? cluster.complaint ?? bounds?.complaint }
    /// Starts the servers, and looks at every bound from then on.
    /// - Returns: what is wrong.
    func boot() -> String? {
        if let wrong = cluster.boot() { return wrong }
        let watch = BoundsWatch(world) { [weak self] read in
            guard let self else { return }
            cluster.readGauges(read)
            readLoadGauges(read)
        } compareAll: { [weak self] in
            self?.cluster.noteStandings(&$0)
        }
        bounds = watch
        watch.start()
        return nil
    }
    /// Notes how it went.
    func conclude(_ outcome: inout ScenarioOutcome) {
        for what in (bounds?.reached ?? []).sorted() { outcome.tally["reached the bound: \(what)"] = 1 }
        outcome.traceHash = world.trace.hash
        outcome.steps = world.stepCount
        (outcome.events, outcome.rates) = (events, plan.rates)
        outcome.trace = world.trace.lines
    }
    /// Judges what happened to each sector.
    /// - Returns: what is wrong.
    func judge(_ history: BlockHistory, _ outcome: inout ScenarioOutcome) -> String? {
        let (violation, undecided) = history.check()
        outcome.undecided = undecided
        guard let (register, what) = violation else { return nil }
        let block = register * UInt64(Geometry.sectorBytes) / UInt64(Geometry.blockBytes)
        for line in history.story(of: register) { world.note { "history: \(line)" } }
        return "block \(block) sector \(register % 8): \(what)"
    }

    // MARK: Turmoil

    /// Everything that the plan has may happen, for this long or until there is nothing left to happen to.
    func turmoil(_ duration: Duration, until isOver: () -> Bool = { false }) {
        world.faults = plan.faults
        for index in 0..<SimCluster.serverCount { cluster.disks[index].faults = plan.faults.disk }
        if let index = plan.damagedServer {
            cluster.disks[index].faults = .damagedSwarm(&world.random)
        }
        strikeLater(until: world.trueNow + duration)
        _ = world.run(within: duration) { complaint != nil || isOver() }
        isStriking = false
    }
    private func strikeLater(until end: Duration) {
        guard !plan.nemesis.deeds.isEmpty || !ownDeeds.isEmpty else { return }
        dice.advance()
        let rest = dice.time(upTo: Int(restMax.milliseconds))
        world.after(rest) { [weak self] in
            guard let self, isStriking, world.trueNow < end else { return }
            strike()
            strikeLater(until: end)
        }
    }
    private func strike() {
        let fault = PlannedFault.deed(dice.number)
        guard plan.selection.includes(fault) else { return }
        let isOwn = plan.nemesis.deeds.isEmpty || !ownDeeds.isEmpty && dice.oneIn(2)
        let name: String
        if isOwn {
            let deed = dice.pick(ownDeeds)
            name = deed.name
            world.note { "nemesis: \(name)" }
            deed.perform()
        } else {
            let deed = dice.pick(plan.nemesis.deeds)
            let victim = dice.pick(0..<SimCluster.serverCount)
            name = "\(deed)"
            world.note { "nemesis: \(name)" }
            perform(deed, victim)
        }
        // The first detail is the rest before it.
        let what = ([name] + dice.details.dropFirst()).joined(separator: ", ")
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
            world.after(dice.time(upTo: directoryDownMax)) { [weak self] in self?.cluster.startDirectory() }
        case .clientDies: replaceClient(true)
        case .takeOver: replaceClient(false)
        }
    }
    private func strand(_ victim: Int) {
        guard let client = strandedClient() else { return }
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
        let choice = dice.pick(0..<(SimCluster.serverCount + 1 + loadChances()))
        var name = SimCluster.machine(choice % SimCluster.serverCount)
        if choice == SimCluster.serverCount { name = "mds" }
        if choice > SimCluster.serverCount, let machine = loadMachine(choice - SimCluster.serverCount - 1) {
            name = machine
        }
        dice.note(name)
        return name
    }

    // MARK: Calm

    /// Replicas that differ after that are judged as they are.
    private static let secondsToConverge = 20

    /// All faults stop.
    func beginCalm() {
        world.note { "calm" }
        bounds?.isCalm = true
        cluster.calmDown()
    }
    /// Runs until something is done; false: it never is, or something is wrong.
    func finish(_ isDone: () -> Bool) -> Bool {
        _ = world.run(within: ScenarioPlan.calm) { isDone() || complaint != nil }
        return complaint == nil && isDone()
    }
    /// Followers learn of the last commits by heartbeats and catch up.
    func converge() {
        for _ in 0..<Self.secondsToConverge {
            world.run(for: .seconds(1))
            if cluster.hasConverged { break }
        }
    }
    /// Compares the replicas when all servers have stopped.
    /// - Returns: what is wrong.
    func compareReplicas(_ registers: [Range<Int>]) -> String? {
        guard cluster.stopServers() else { return "the chunkservers do not stop" }
        return complaint ?? cluster.compareReplicas(registers: registers)
    }
}
