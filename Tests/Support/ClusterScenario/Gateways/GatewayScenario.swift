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
    private let common: ClusterRun
    private var world: SimWorld { common.world }
    private var cluster: SimCluster { common.cluster }
    private let record: GatewayRecord
    private var gateways: [SimGateway] = []
    private var ports: [SimInitiator] = []
    private var counters: [CountingInitiator] = []
    private var rivals: [RivalInitiator] = []
    private var multipaths: [MultipathInitiator] = []
    private var sanitizer: SanitizingInitiator?
    /// From a gateway's return to the return of its paths.
    private static let pathBackMax = Duration.seconds(5)
    /// Hears of each event as it happens: an invariant may end the process before the outcome is there.
    public var told: (ScenarioEvent) -> Void {
        get { common.told }
        set { common.told = newValue }
    }

    /// - Parameter traceLinesMax: lines kept for a person to read.
    public init(_ plan: GatewayPlan, traceLinesMax: Int = 0) {
        self.plan = plan
        record = GatewayRecord(sanitizedSectors: plan.sanitizesMax > 0 ? plan.servedSectors : nil)
        common = ClusterRun(plan.base, salt: 0x6A7E_DEED_0000_0000, traceLinesMax: traceLinesMax)
        // Gateways need some time to come back between two deeds.
        common.restMax = plan.base.nemesis.restMax * 2
        common.directoryDownMax = 8000
        common.loadComplaint = { [record] in record.complaint }
        common.readLoadGauges = { [unowned self] in for gateway in gateways { gateway.readGauges($0) } }
        common.loadChances = { [unowned self] in gateways.count + ports.count }
        common.loadMachine = { [unowned self] in (gateways.map(\.machine) + ports.map(\.machine))[$0] }
        common.ownDeeds = plan.deeds.map { deed in
            ClusterRun.OwnDeed(name: "gateway \(deed)") { [unowned self] in
                perform(deed, common.dice.pick(gateways))
            }
        }
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
            "of those, writes to a gateway that stood still": record.paths.overlooked,
            "starts of gateways": gateways.reduce(0) { $0 + $1.starts },
            "SANITIZE sent": record.paths.sanitizing.sent, "SANITIZE done": record.paths.sanitizing.done,
            "SANITIZE failed": record.paths.sanitizing.failed,
            "left failed behind a reservation": sanitizer?.isLockedOut == true ? 1 : 0,
        ]
        common.conclude(&outcome)
        for port in ports { port.leave() }
        for gateway in gateways { gateway.end() }
        world.end()
        return outcome
    }
    private func perform() -> String? {
        if let wrong = common.boot() { return wrong }
        for number in 1...plan.gateways {
            gateways.append(SimGateway(world, number: number, pool: cluster.pool))
            gateways[number - 1].start()
        }
        guard common.finish({ gateways.allSatisfy(\.isServing) }) else {
            return common.complaint
                ?? "the gateways do not come up: \(gateways.compactMap(\.trouble).first ?? "no answer")"
        }
        startLoad()
        common.turmoil(GatewayPlan.turmoil)
        if let wrong = common.complaint { return wrong }
        if let wrong = calm() { return wrong }
        return record.paths.judge() ?? common.compareReplicas([])
    }

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
            multipaths.append(MultipathInitiator(paths, gateways, record, world, key: UInt64(200 + number)))
            multipaths[number].start()
        }
        if plan.sanitizesMax > 0 {
            let paths = gateways.indices.map { newPort(40 + $0, boundTo: $0) }
            sanitizer = SanitizingInitiator(
                paths, helpers: ports.filter { port in !paths.contains { $0 === port } }, record, world,
                key: 300, attempts: plan.sanitizesMax)
            sanitizer?.strike = { [weak self] place in
                guard let self, common.isStriking, !plan.deeds.isEmpty else { return }
                let deed = common.dice.pick(plan.deeds)
                world.note { "about SANITIZE: gateway \(deed), gw\(place + 1)" }
                perform(deed, gateways[place])
            }
            sanitizer?.start()
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
            guard let self, common.isStriking else { return }
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

    private func perform(_ deed: GatewayPlan.Deed, _ victim: SimGateway) {
        common.dice.note(victim.machine)
        switch deed {
        case .dies: victim.die(startingAfter: common.dice.time(upTo: 8000))
        case .standsStill: victim.standStill(for: common.dice.time(upTo: 16_000))
        case .losesMetadata:
            world.block(from: victim.machine, to: "mds")
            world.block(from: "mds", to: victim.machine)
            healLater(common.dice.time(upTo: 16_000))
        case .losesStores:
            for index in 0..<SimCluster.serverCount {
                world.block(from: victim.machine, to: SimCluster.machine(index))
                world.block(from: SimCluster.machine(index), to: victim.machine)
            }
            healLater(common.dice.time(upTo: 12_000))
        case .isCutOff:
            world.isolate(victim.machine)
            healLater(common.dice.time(upTo: 16_000))
        }
    }
    private func healLater(_ rest: Duration) {
        world.after(rest) { [weak self] in self?.world.healNetwork() }
    }
    // MARK: Calm

    private func calm() -> String? {
        common.beginCalm()
        for counter in counters { counter.mayAsk = false }
        for rival in rivals { rival.mayAsk = false }
        for multipath in multipaths { multipath.mayAsk = false }
        for gateway in gateways {
            gateway.goOn()
            gateway.start()
        }
        guard common.finish({ gateways.allSatisfy(\.isServing) }) else {
            return common.complaint
                ?? "a gateway does not come back: \(gateways.compactMap(\.trouble).last ?? "")"
        }
        // A chunkserver that was cut off may be noticed only when it has owed answers for ten seconds.
        for gateway in gateways { gateway.reachStores() }
        guard common.finish({ gateways.allSatisfy(\.reachesStores) }) else {
            return common.complaint ?? "a gateway does not reach the stores after the faults have stopped"
        }
        let areBack = world.run(within: Self.pathBackMax) { [self] in
            multipaths.allSatisfy { $0.ports.allSatisfy(\.isReady) } || common.complaint != nil
        }
        guard areBack else {
            return common.complaint ?? "a path is not back \(Self.pathBackMax) after its gateway"
        }
        sanitizer?.finish()
        guard common.finish({ sanitizer?.isResting ?? true }) else {
            return common.complaint ?? "the unit is not ready after SANITIZE"
        }
        // Nobody who is here may mend it, so nobody can look.
        guard sanitizer?.isLockedOut != true else {
            for port in ports { port.leave() }
            return stopGateways()
        }
        guard
            common.finish({
                ports.allSatisfy { $0.openCount == 0 } && multipaths.allSatisfy { $0.openCount == 0 }
            })
        else { return common.complaint ?? "commands never end after the faults have stopped" }
        for port in ports { port.leave() }
        var judges: [JudgingInitiator] = []
        for place in gateways.indices {
            let port = SimInitiator(
                world, number: 50 + place, gateways, at: place, digests: plan.hasDigests)
            port.connect()
            judges.append(JudgingInitiator(port, record))
        }
        guard common.finish({ judges.allSatisfy(\.port.isReady) }) else {
            return common.complaint ?? "a gateway lets nobody in after the faults have stopped"
        }
        // What a gateway has not heard yet when it comes back it hears by its watch; a question to a metadata
        // server that died unseen is asked anew when its time is over.
        world.run(for: .seconds(30))
        for judge in judges { judge.start() }
        guard common.finish({ judges.allSatisfy(\.isDone) }) else {
            return common.complaint ?? "questions never end after the faults have stopped"
        }
        if let different = judges.first(where: { $0.told != judges[0].told }) {
            return "\(different.port.machine) is told another truth than \(judges[0].port.machine): "
                + "\(different.told), \(judges[0].told)"
        }
        for judge in judges { judge.port.leave() }
        return stopGateways()
    }
    private func stopGateways() -> String? {
        var left = gateways.count
        for gateway in gateways { gateway.stop { left -= 1 } }
        guard common.finish({ left == 0 }) else { return common.complaint ?? "a gateway does not stop" }
        common.converge()
        return common.complaint
    }
}
