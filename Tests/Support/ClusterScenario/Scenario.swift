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
    private let common: ClusterRun
    private var world: SimWorld { common.world }
    private let record = LoadRecord()
    private var clients: [ScenarioClient] = []
    private var clientCount = 0
    /// Hears of each event as it happens: an invariant may end the process before the outcome is there.
    public var told: (ScenarioEvent) -> Void {
        get { common.told }
        set { common.told = newValue }
    }

    /// - Parameter traceLinesMax: lines kept for a person to read.
    public init(_ plan: ScenarioPlan, traceLinesMax: Int = 0) {
        self.plan = plan
        common = ClusterRun(plan, salt: 0xDEED_0000_0000_0000, traceLinesMax: traceLinesMax)
        common.cluster.isAsking = { [unowned self] name in
            clients.contains { $0.machine == name && $0.isAsking }
        }
        common.loadComplaint = { [record] in record.complaint }
        common.readLoadGauges = { [unowned self] in for client in clients { client.readGauges($0) } }
        common.strandedClient = { [unowned self] in clients.last?.machine }
        common.loadMachine = { [unowned self] _ in clients.last?.machine }
        common.replaceClient = { [unowned self] dies in
            if dies { clients.last?.die() }
            newClient()
        }
    }
    /// Runs it to the end.
    public func run() -> ScenarioOutcome {
        var outcome = ScenarioOutcome()
        outcome.cause = perform(&outcome)
        outcome.requests = record.issued
        outcome.answered = record.history.answeredCount
        common.conclude(&outcome)
        for client in clients { client.end() }
        world.end()
        return outcome
    }
    private func perform(_ outcome: inout ScenarioOutcome) -> String? {
        if let wrong = common.boot() { return wrong }
        newClient()
        guard world.run(within: .seconds(60), until: { clients[0].isAttached }) else {
            return "the first client cannot attach: \(clients[0].trouble ?? "no answer")"
        }
        common.turmoil(ScenarioPlan.turmoil) { record.issued >= plan.load.operations && openCount == 0 }
        if let wrong = common.complaint { return wrong }
        if let wrong = calm() { return wrong }
        if let wrong = common.judge(record.history, &outcome) { return wrong }
        return common.compareReplicas(plan.load.hotSpots)
    }
    private var openCount: Int { clients.reduce(0) { $0 + $1.openCount } }

    private func newClient() {
        clientCount += 1
        for client in clients { client.isSuperseded = true }
        let client = ScenarioClient(
            world, number: clientCount, plan.load, record, pool: common.cluster.pool,
            seed: world.random.next(),
            wasTakenOver: { [cluster = common.cluster] machine, epoch in
                cluster.grants.dropFirst(Int(epoch)).contains { $0.isAsked && $0.holder != machine }
            })
        clients.append(client)
        client.attach()
    }
    private func calm() -> String? {
        common.beginCalm()
        for client in clients { client.stopAsking() }
        if clients.last?.isUsable != true { newClient() }
        guard let client = clients.last else { return "no client" }
        func never(_ what: String) -> String {
            common.complaint ?? "\(what) after the faults have stopped: \(client.trouble ?? "no answer")"
        }
        guard common.finish({ client.isAttached }) else { return never("no client can attach") }
        client.stopAsking()
        guard common.finish({ openCount == 0 }) else { return never("\(openCount) requests never finish") }
        client.readEverything()
        guard common.finish({ openCount == 0 }) else { return never("\(openCount) reads never finish") }
        client.detach()
        common.converge()
        return common.complaint
    }
}

extension Duration {
    /// Whole milliseconds.
    var milliseconds: Int64 { components.seconds * 1000 + components.attoseconds / 1_000_000_000_000_000 }
}
