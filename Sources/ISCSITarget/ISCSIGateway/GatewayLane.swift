import BlockTypes
import Environment
import ISCSIConfiguration
import ISCSICoordination
import ISCSIProtocol
import ISCSIServer
import SCSICommands

/// What a lane is to serve.
struct LanePlan: Sendable {
    /// Of the configuration.
    var version: UInt64 = 0
    var targets: [GatewayPlan.Target] = []
}

/// How things are in one lane.
struct LaneFacts: Sendable {
    /// Of the plan that it goes by.
    var version: UInt64 = 0
    /// Nothing of it is left untried.
    var isTried = true
    /// Nothing of it is under way.
    var isSettled = true
    /// All that there are, those that are going included.
    var targetNames: [String] = []
    /// Targets that initiators can log in to.
    var offered: [TargetDescription] = []
    /// Where other gateways offer them.
    var otherAddresses: [String: [String]] = [:]
}

/// What a lane says when it is asked.
struct LaneReport: Sendable {
    var facts = LaneFacts()
    /// Targets with a problem.
    var targetItems: [GatewayReport.Item] = []
    var unitItems: [GatewayReport.Item] = []
    var sessionCount = 0
    /// Numbered as in the lane.
    var sessions: [GatewayReport.Session] = []
}

/// What a lane says unasked.
enum LaneNews: Sendable {
    case changed(LaneFacts)
    /// An operator drains one of its volumes, and means the gateway.
    case drainAsked(Bool, redirecting: Bool)
    /// No session is left in the lane since the drain with this number began.
    case drained(UInt64)
}

/// The part of a gateway's targets that one loop serves, from what is served to what is wanted. What cannot
/// be had is tried again, and everything else goes on. Loop-confined.
final class GatewayLane {
    let environment: any Environment
    let options: ConfiguredGateway.Options
    let tag: UInt16
    let server: ISCSIServer
    let coordinators: UnitCoordinators
    /// Tells the gateway, which may be on another loop.
    private let tell: (LaneNews) -> Void
    private var plan = LanePlan()
    var targets: [GatewayTarget] = []
    var units: [GatewayUnit] = []
    /// Where initiators reach the gateway.
    private var portals: [String] = []
    private(set) var isStopping = false
    /// Initiators are to go elsewhere.
    private(set) var isDraining = false
    /// Their logins are answered with another gateway's address.
    private(set) var isRedirecting = false
    /// Counts what the gateway said of drains.
    private var drainNumber: UInt64 = 0
    /// The gateway said that no session is left in any lane.
    private var isDrainConfirmed = false

    /// - Parameter tell: called at any time, also from inside calls.
    init(
        environment: any Environment, options: ConfiguredGateway.Options, tag: UInt16, chap: CHAPDigests,
        tell: @escaping (LaneNews) -> Void
    ) {
        (self.environment, self.options, self.tag, self.tell) = (environment, options, tag, tell)
        coordinators = UnitCoordinators(environment: environment, own: PortGroup(tag: tag))
        server = ISCSIServer(
            environment: environment, portGroup: tag, coordinator: coordinators, chap: chap)
        coordinators.addressesTold = { [weak self] in self?.tellFacts() }
    }
    func log(_ level: LogLevel, _ text: String) {
        environment.log(level, "gateway \(options.name): \(text)")
    }

    // MARK: What the gateway asks

    /// Goes from what is served to what is wanted.
    func go(by plan: LanePlan) {
        self.plan = plan
        reconcile()
    }
    func reconcile() {
        guard !isStopping else { return }
        for wanted in plan.targets where !targets.contains(where: { $0.name == wanted.name }) {
            targets.append(GatewayTarget(wanted))
        }
        for target in targets {
            target.wanted = plan.targets.first { $0.name == target.name }
            for wanted in target.wanted?.units ?? [] where unit(target.name, wanted.lun.number) == nil {
                units.append(GatewayUnit(target.name, wanted))
            }
        }
        for unit in units {
            let wanted = plan.targets.first { $0.name == unit.target }?.units.first {
                $0.lun.number == unit.number
            }
            guard wanted != unit.wanted else { continue }
            // What failed before may be possible now.
            cancelRetry(unit)
            (unit.wanted, unit.wasTried) = (wanted, false)
        }
        for target in targets { goOn(target) }
        for unit in units { goOn(unit) }
        tellFacts()
    }
    private func unit(_ target: String, _ number: UInt16) -> GatewayUnit? {
        units.first { $0.target == target && $0.number == number }
    }
    /// Where initiators reach the gateway, for those whom other gateways tell.
    func announce(_ portals: [String]) {
        self.portals = portals
        for unit in units { announce(unit) }
    }
    func announce(_ unit: GatewayUnit) { unit.coordinator?.announce(portals: portals) }
    /// Sends initiators elsewhere, or lets them come again.
    func drain(_ isWanted: Bool, redirecting: Bool, number: UInt64) {
        guard !isStopping else { return }
        (isDraining, isRedirecting) = (isWanted, redirecting)
        (drainNumber, isDrainConfirmed) = (number, false)
        for unit in units where unit.hasEntered {
            unit.coordinator?.drain(isWanted, redirecting: redirecting)
        }
        guard isWanted else { return server.endDrain() }
        server.drain(redirecting: redirecting) { [weak self] in
            guard let self, isDraining, drainNumber == number else { return }
            tell(.drained(number))
        }
    }
    /// No session is left in any lane: whoever asked for the drain is told.
    func confirmDrained() {
        isDrainConfirmed = true
        for unit in units { unit.coordinator?.drained() }
    }
    /// The list of a unit says now that initiators are to go; whoever asked may have to hear that they have.
    func drainTold(by coordinator: ClusterCoordinator) {
        if isDrainConfirmed { coordinator.drained() }
    }
    func drainAsked(_ isWanted: Bool, redirecting: Bool) {
        if !isStopping { tell(.drainAsked(isWanted, redirecting: redirecting)) }
    }

    // MARK: Facts

    func tellFacts() {
        if !isStopping { tell(.changed(facts)) }
    }
    var facts: LaneFacts {
        var facts = LaneFacts(version: plan.version)
        facts.isTried =
            targets.allSatisfy { $0.isServed || $0.problem != nil || $0.wanted == nil }
            && units.allSatisfy { $0.wasTried || $0.phase == .served }
        facts.isSettled = isSettled
        facts.targetNames = targets.map(\.name)
        facts.offered = server.offeredTargets
        for name in facts.targetNames { facts.otherAddresses[name] = coordinators.addresses(of: name) }
        return facts
    }
    var report: LaneReport {
        var report = LaneReport(facts: facts)
        report.targetItems = targets.filter { $0.problem != nil }.map {
            GatewayReport.Item(name: "target \($0.name)", problem: $0.problem)
        }
        report.unitItems = units.map { unit in
            let problem = unit.problem ?? (unit.phase == .served ? nil : "under way")
            return GatewayReport.Item(name: unit.name, problem: problem)
        }
        let sessions = server.sessionFacts
        report.sessionCount = sessions.count
        report.sessions = sessions.prefix(GatewayReport.sessionsMax).map { session in
            let digits = String(session.names.sessionIdentifier, radix: 16)
            return GatewayReport.Session(
                number: session.nexus.rawValue, initiator: session.names.initiatorName,
                identifier: String(repeating: "0", count: 12 - digits.utf8.count) + digits,
                target: session.names.targetName, addresses: session.peers, user: session.userName)
        }
        return report
    }
    private var isSettled: Bool {
        targets.allSatisfy { !$0.isBusy && ($0.isServed || $0.problem != nil) && $0.wanted != nil }
            && units.allSatisfy { unit in
                switch unit.phase {
                case .served: unit.present == unit.wanted && !unit.isLost
                case .idle: unit.wasTried && unit.wanted != nil
                case .attaching, .entering, .adding, .leaving: unit.wasTried && unit.problem != nil
                }
            }
    }

    // MARK: Targets

    private func goOn(_ target: GatewayTarget) {
        guard !target.isBusy, !isStopping else { return }
        guard let wanted = target.wanted else { return end(target) }
        guard target.isServed else {
            target.isBusy = true
            return server.addTarget(wanted.description) { [self] error in
                target.isBusy = false
                guard !isStopping else { return }
                if let error {
                    target.problem = "\(error)"
                    log(.error, "target \(target.name): \(error)")
                } else {
                    (target.isServed, target.present, target.problem) = (true, wanted, nil)
                    log(.notice, "target \(target.name) is served")
                }
                reconcile()
            }
        }
        guard
            target.present?.rules != wanted.rules || target.present?.login != wanted.login
                || target.present?.alias != wanted.alias
        else { return }
        do throws(ISCSIServerError) {
            try server.changeTarget(wanted.description)
            let dropped = server.dropUnentitledSessions(of: target.name)
            if dropped > 0 { log(.notice, "\(target.name): \(dropped) sessions have no right any more") }
        } catch { log(.error, "target \(target.name): \(error)") }
        target.present = wanted
    }
    /// First nobody can come and nobody is there, then the units go, at last the target.
    private func end(_ target: GatewayTarget) {
        guard target.isServed else {
            targets.removeAll { $0 === target }
            return
        }
        if target.present != nil {
            target.present = nil
            var description = TargetDescription(name: target.name)
            (description.isAvailable, description.initiators) = (false, [])
            do throws(ISCSIServerError) { try server.changeTarget(description) } catch {
                log(.error, "target \(target.name): \(error)")
            }
            server.dropUnentitledSessions(of: target.name)
        }
        guard !units.contains(where: { $0.target == target.name }) else { return }
        target.isBusy = true
        server.removeTarget(target.name) { [self] _ in
            (target.isBusy, target.isServed) = (false, false)
            log(.notice, "target \(target.name) is served no more")
            reconcile()
        }
    }

    // MARK: The end

    /// Asks initiators to log out, lets commands under way finish, gives everything back.
    func stop(completed: @escaping () -> Void) {
        isStopping = true
        for unit in units { cancelRetry(unit) }
        server.stop { [self] in
            giveBackAll(completed: completed) { unit, ended in giveBack(unit, completed: ended) }
        }
    }
    /// Ends without a word to anybody: whatever it still said would be another process's to say.
    func abandon(completed: @escaping () -> Void) {
        isStopping = true
        server.abandon()
        giveBackAll(completed: completed) { unit, ended in
            cancelRetry(unit)
            guard let volume = unit.volume else { return ended() }
            volume.detach(completed: ended)
        }
    }
    private func giveBackAll(
        completed: @escaping () -> Void, _ giveBack: (GatewayUnit, @escaping () -> Void) -> Void
    ) {
        var left = 1
        let ended = {
            left -= 1
            if left == 0 { completed() }
        }
        for unit in units {
            left += 1
            giveBack(unit, ended)
        }
        ended()
    }
}
