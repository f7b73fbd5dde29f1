import BlockTypes
import Environment
import Simulation

/// One seeded run of a cluster whose one volume several iSCSI gateways serve as one target: turmoil, calm,
/// judgement.
///
/// Gateways die, stand still and are cut off while chunkservers, metadata server and network fail. Counters
/// that initiators increment by COMPARE AND WRITE are exact; after PREEMPT AND ABORT was answered nothing of
/// the victim's comes; a reset is known to everybody when it is answered; in the end all gateways tell the
/// same.
public final class GatewayScenario {
    private let plan: GatewayPlan
    private let world: SimWorld
    private let cluster: SimCluster
    private let record = GatewayRecord()
    private var gateways: [SimGateway] = []
    private var ports: [SimInitiator] = []
    private var counters: [CountingInitiator] = []
    private var rivals: [RivalInitiator] = []
    private var multipaths: [MultipathInitiator] = []
    private var bounds: BoundsWatch?
    private var dice: DeedDice
    private var events: [ScenarioEvent] = []
    private var isStriking = true
    /// From a gateway's return to the return of its paths.
    private static let pathBackMax = Duration.seconds(5)
    /// Hears of each event as it happens: an invariant may end the process before the outcome is there.
    public var told: (ScenarioEvent) -> Void = { _ in }

    /// - Parameter traceLinesMax: lines kept for a person to read.
    public init(_ plan: GatewayPlan, traceLinesMax: Int = 0) {
        self.plan = plan
        dice = DeedDice(seed: plan.base.seed ^ 0x6A7E_DEED_0000_0000)
        var faults = SimFaults.none
        faults.clockDriftMillionthsMax = plan.base.faults.clockDriftMillionthsMax
        world = SimWorld(seed: plan.base.seed, faults: faults, traceLinesMax: traceLinesMax)
        cluster = SimCluster(world, plan.base)
    }
    /// Runs it to the end.
    public func run() -> ScenarioOutcome {
        var outcome = ScenarioOutcome()
        outcome.cause = perform()
        outcome.requests = record.writes + record.counters.started + record.paths.started
        outcome.answered = record.writes + record.counters.acknowledgedCount + record.paths.answered
        outcome.tally = [
            "increments acknowledged": record.counters.acknowledgedCount,
            "comparisons that failed": record.counters.misses, "preemptions": record.preemptions,
            "writes of rivals": record.writes, "resets": record.resets,
            "resets refused": record.refusedResets, "requests by several paths": record.paths.answered,
            "attempts given up on a path": record.paths.givenUp,
            "starts of gateways": gateways.reduce(0) { $0 + $1.starts },
        ]
        for what in (bounds?.reached ?? []).sorted() { outcome.tally["reached the bound: \(what)"] = 1 }
        outcome.traceHash = world.trace.hash
        outcome.steps = world.stepCount
        (outcome.events, outcome.rates) = (events, plan.base.rates)
        outcome.trace = world.trace.lines
        for port in ports { port.leave() }
        for gateway in gateways { gateway.end() }
        world.end()
        return outcome
    }
    private func perform() -> String? {
        if let wrong = cluster.boot() { return wrong }
        let watch = BoundsWatch(world) { [weak self] read in
            guard let self else { return }
            cluster.readGauges(read)
            for gateway in gateways { gateway.readGauges(read) }
        } compareAll: { [weak self] in
            self?.cluster.noteStandings(&$0)
        }
        bounds = watch
        watch.start()
        for number in 1...plan.gateways {
            gateways.append(SimGateway(world, number: number, pool: cluster.pool))
            gateways[number - 1].start()
        }
        guard finish({ gateways.allSatisfy(\.isServing) }) else {
            return complaint
                ?? "the gateways do not come up: \(gateways.compactMap(\.trouble).first ?? "no answer")"
        }
        startLoad()
        turmoil()
        if let wrong = complaint { return wrong }
        if let wrong = calm() { return wrong }
        if let wrong = record.paths.judge() { return wrong }
        guard cluster.stopServers() else { return "the chunkservers do not stop" }
        return complaint ?? cluster.compareReplicas(registers: [])
    }
    private var complaint: String? { record.complaint ?? cluster.complaint ?? bounds?.complaint }

    // MARK: Load

    private func startLoad() {
        for number in 1...(plan.counters + plan.rivals) {
            let port = newPort(number)
            if number <= plan.counters {
                counters.append(CountingInitiator(port, record, world, key: UInt64(100 + number)))
                counters[number - 1].start()
            } else {
                rivals.append(RivalInitiator(port, record, world, key: UInt64(number)))
                rivals[rivals.count - 1].start()
            }
        }
        for number in 0..<plan.multipaths {
            let paths = gateways.indices.map { newPort(20 + 10 * number + $0, boundTo: $0) }
            multipaths.append(MultipathInitiator(paths, record, world, key: UInt64(200 + number)))
            multipaths[number].start()
        }
        resetLater(plan.resetsMax)
    }
    private func newPort(_ number: Int, boundTo place: Int? = nil) -> SimInitiator {
        let port = SimInitiator(
            world, number: number, gateways, at: place ?? number % gateways.count, isBound: place != nil,
            digests: plan.hasDigests)
        port.complain = { [weak self] in self?.record.complain($0) }
        ports.append(port)
        port.connect()
        return port
    }
    private func resetLater(_ left: Int) {
        guard left > 0 else { return }
        world.after(.milliseconds(Int.random(in: 500...5000, using: &world.random))) { [weak self] in
            guard let self, isStriking else { return }
            reset()
            resetLater(left - 1)
        }
    }
    private func reset() {
        let port = ports[Int.random(in: 0..<ports.count, using: &world.random)]
        let began = world.trueNow
        port.host.after(.zero) { [weak self] in
            port.reset { [weak self] isDone in
                guard let self else { return }
                world.note { "a reset by \(port.machine) \(isDone ? "is done" : "has failed")" }
                guard isDone else { return record.refusedResets += 1 }
                record.resets += 1
                for other in ports where other.isReady && other.begunAt < began && other.resetHeardAt < began
                {
                    other.owedResetSince = other.owedResetSince ?? world.trueNow
                }
            }
        }
    }

    // MARK: Turmoil

    private func turmoil() {
        world.faults = plan.base.faults
        for index in 0..<SimCluster.serverCount { cluster.disks[index].faults = plan.base.faults.disk }
        let end = world.trueNow + GatewayPlan.turmoil
        strikeLater(until: end)
        _ = world.run(within: GatewayPlan.turmoil) { complaint != nil }
        isStriking = false
    }
    private func strikeLater(until end: Duration) {
        guard !plan.base.nemesis.deeds.isEmpty || !plan.deeds.isEmpty else { return }
        dice.advance()
        let rest = dice.time(upTo: 2 * Int(plan.base.nemesis.restMax.milliseconds))
        world.after(rest) { [weak self] in
            guard let self, isStriking, world.trueNow < end else { return }
            strike()
            strikeLater(until: end)
        }
    }
    private func strike() {
        let fault = PlannedFault.deed(dice.number)
        guard plan.base.selection.includes(fault) else { return }
        let isAboutGateways = plan.base.nemesis.deeds.isEmpty || !plan.deeds.isEmpty && dice.oneIn(2)
        let what: String
        if isAboutGateways {
            let deed = dice.pick(plan.deeds)
            what = "gateway \(deed)"
            world.note { "nemesis: \(what)" }
            perform(deed, dice.pick(gateways))
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
    private func perform(_ deed: GatewayPlan.Deed, _ victim: SimGateway) {
        dice.note(victim.machine)
        switch deed {
        case .dies: victim.die(startingAfter: dice.time(upTo: 8000))
        case .standsStill: victim.host?.pause(for: dice.time(upTo: 16_000))
        case .losesMetadata:
            world.block(from: victim.machine, to: "mds")
            world.block(from: "mds", to: victim.machine)
            healLater(dice.time(upTo: 16_000))
        case .losesStores:
            for index in 0..<SimCluster.serverCount {
                world.block(from: victim.machine, to: SimCluster.machine(index))
                world.block(from: SimCluster.machine(index), to: victim.machine)
            }
            healLater(dice.time(upTo: 12_000))
        case .isCutOff:
            world.isolate(victim.machine)
            healLater(dice.time(upTo: 16_000))
        }
    }
    private func healLater(_ rest: Duration) {
        world.after(rest) { [weak self] in self?.world.healNetwork() }
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
            world.after(dice.time(upTo: 8000)) { [weak self] in self?.cluster.startDirectory() }
        case .strand, .clientDies, .takeOver: break
        }
    }
    private func anyMachine() -> String {
        let machines =
            (0..<SimCluster.serverCount).map(SimCluster.machine) + ["mds"] + gateways.map(\.machine)
            + ports.map(\.machine)
        let name = dice.pick(machines)
        dice.note(name)
        return name
    }

    // MARK: Calm

    private func calm() -> String? {
        world.note { "calm" }
        bounds?.isCalm = true
        cluster.calmDown()
        for counter in counters { counter.mayAsk = false }
        for rival in rivals { rival.mayAsk = false }
        for multipath in multipaths { multipath.mayAsk = false }
        for gateway in gateways {
            gateway.host?.resume()
            gateway.start()
        }
        guard finish({ gateways.allSatisfy(\.isServing) }) else {
            return complaint ?? "a gateway does not come back: \(gateways.compactMap(\.trouble).last ?? "")"
        }
        let areBack = world.run(within: Self.pathBackMax) { [self] in
            multipaths.allSatisfy { $0.ports.allSatisfy(\.isReady) } || complaint != nil
        }
        guard areBack else { return complaint ?? "a path is not back \(Self.pathBackMax) after its gateway" }
        guard
            finish({ ports.allSatisfy { $0.openCount == 0 } && multipaths.allSatisfy { $0.openCount == 0 } })
        else { return complaint ?? "commands never end after the faults have stopped" }
        for port in ports { port.leave() }
        var judges: [JudgingInitiator] = []
        for place in gateways.indices {
            let port = SimInitiator(
                world, number: 50 + place, gateways, at: place, digests: plan.hasDigests)
            port.connect()
            judges.append(JudgingInitiator(port, record))
        }
        guard finish({ judges.allSatisfy(\.port.isReady) }) else {
            return complaint ?? "a gateway lets nobody in after the faults have stopped"
        }
        // What a gateway has not heard yet when it comes back it hears by its watch; a question to a metadata
        // server that died unseen is asked anew when its time is over.
        world.run(for: .seconds(30))
        for judge in judges { judge.start() }
        guard finish({ judges.allSatisfy(\.isDone) }) else {
            return complaint ?? "questions never end after the faults have stopped"
        }
        if let different = judges.first(where: { $0.told != judges[0].told }) {
            return "\(different.port.machine) is told another truth than \(judges[0].port.machine): "
                + "\(different.told), \(judges[0].told)"
        }
        for judge in judges { judge.port.leave() }
        var left = gateways.count
        for gateway in gateways { gateway.stop { left -= 1 } }
        guard finish({ left == 0 }) else { return complaint ?? "a gateway does not stop" }
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
}
