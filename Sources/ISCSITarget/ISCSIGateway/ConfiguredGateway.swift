import BlockTypes
import CurveClient
import Environment
import ISCSIConfiguration
import ISCSIProtocol
import ISCSIServer
import SCSICommands
import VolumeCore

/// A gateway that serves what the cluster's configuration says for its name, and goes by every change of it
/// while it runs. What cannot be had is tried again, and everything else goes on. Loop-confined.
public final class ConfiguredGateway {
    /// Who it is and whom it asks.
    public struct Options: Sendable {
        /// Its name in the configuration.
        public var name: String
        /// The process, for people: "host7 pid 1234".
        public var process: String
        /// Where metadata servers listen.
        public var metadataServers: [SocketAddress]
        /// What to do when replicas are out of reach.
        public var policy = UnavailablePolicy.queue
        /// The gateway `name`, run by `process`.
        public init(name: String, process: String, metadataServers: [SocketAddress]) {
            (self.name, self.process, self.metadataServers) = (name, process, metadataServers)
        }
    }
    /// What cannot be had is tried again after this long.
    public static let retryAfter = Duration.seconds(3)

    let environment: any Environment
    let options: Options
    let values: ClusterValues
    private let chap: CHAPDigests
    /// Unlike that of any other process of this name.
    let start: UInt64
    /// Called once when all that the first configuration wants was tried, with where it listens.
    public var ready: (([SocketAddress]) -> Void)?
    /// Called once when it ends by itself, with the reason.
    public var failed: ((String) -> Void)?

    /// The newest configuration that could be read.
    private(set) var configuration: ISCSIConfiguration?
    private(set) var version: UInt64 = 0
    var plan: GatewayPlan?
    private(set) var server: ISCSIServer?
    private(set) var coordinators: UnitCoordinators?
    /// The tag that the server has for good.
    private(set) var tag: UInt16?
    var portals: [GatewayPortal] = []
    var targets: [GatewayTarget] = []
    var units: [GatewayUnit] = []
    var problem: String?
    private var portalRetry: TimerID?
    private var isReady = false
    private(set) var isStopping = false
    /// Initiators are to go elsewhere.
    var isDraining = false
    /// Their logins are answered with another gateway's address.
    var isRedirecting = false
    private var stopped: (() -> Void)?
    var reporter = GatewayReporter()

    /// A gateway that asks nobody yet.
    public init(environment: any Environment, options: Options, chap: CHAPDigests) {
        (self.environment, self.options, self.chap) = (environment, options, chap)
        values = ClusterValues(environment: environment, metadataServers: options.metadataServers)
        start = max(1, environment.random())
    }

    /// Begins to watch the configuration and to serve what it says.
    public func begin() {
        values.watch(StoredConfiguration.valueName) { [weak self] error in
            self?.log(.warning, "the configuration cannot be had: \(error); what is served goes on")
        } changed: { [weak self] value in
            self?.take(value)
        }
    }
    func log(_ level: LogLevel, _ text: String) {
        environment.log(level, "gateway \(options.name): \(text)")
    }

    // MARK: The configuration

    private func take(_ value: VolumeValue) {
        guard !isStopping else { return }
        let next: ISCSIConfiguration
        do throws(ConfigurationError) {
            next = try StoredConfiguration.decode(value.bytes)
        } catch {
            problem = "version \(value.version): \(error); what is served goes on"
            log(.error, problem ?? "")
            return report()
        }
        if value.version < version {
            log(.warning, "the configuration went back from version \(version) to \(value.version)")
        }
        (configuration, version, problem) = (next, value.version, nil)
        guard let plan = GatewayPlan(next, gateway: options.name) else { return unknown() }
        guard tag == nil || tag == plan.groupTag else {
            problem = "its group-tag is \(plan.groupTag) now and was \(tag ?? 0); start it again"
            log(.error, problem ?? "")
            return report()
        }
        self.plan = plan
        if server == nil { makeServer(plan) }
        log(.info, "goes by version \(version) of the configuration")
        claim { [self] in reconcile() }
    }
    /// The configuration does not know it, or no more.
    private func unknown() {
        log(
            .warning,
            "the configuration knows no gateway of this name; make it with 'curve-iscsi portal create "
                + "--gateway \(options.name) ADDRESS'")
        plan = nil
        if server != nil { reconcile() }
        tellReady()
    }
    private func makeServer(_ plan: GatewayPlan) {
        let own = PortGroup(tag: plan.groupTag)
        let coordinators = UnitCoordinators(environment: environment, own: own)
        let server = ISCSIServer(
            environment: environment, portGroup: plan.groupTag, coordinator: coordinators, chap: chap)
        (self.server, self.coordinators, tag) = (server, coordinators, plan.groupTag)
    }

    /// Goes from what is served to what is wanted.
    func reconcile() {
        guard !isStopping, let server else { return }
        server.discoveryAuthentication = plan?.discovery.authentication ?? .none
        for wanted in plan?.targets ?? [] where !targets.contains(where: { $0.name == wanted.name }) {
            targets.append(GatewayTarget(wanted))
        }
        for target in targets {
            target.wanted = plan?.targets.first { $0.name == target.name }
            for wanted in target.wanted?.units ?? [] where unit(target.name, wanted.lun.number) == nil {
                units.append(GatewayUnit(target.name, wanted))
            }
        }
        for unit in units {
            let wanted = plan?.targets.first { $0.name == unit.target }?.units.first {
                $0.lun.number == unit.number
            }
            guard wanted != unit.wanted else { continue }
            // What failed before may be possible now.
            cancelRetry(unit)
            (unit.wanted, unit.wasTried) = (wanted, false)
        }
        reconcilePortals(server)
        for target in targets { goOn(target) }
        for unit in units { goOn(unit) }
        tellReady()
        report()
    }
    func unit(_ target: String, _ number: UInt16) -> GatewayUnit? {
        units.first { $0.target == target && $0.number == number }
    }

    private func reconcilePortals(_ server: ISCSIServer) {
        let wanted = plan?.portals ?? []
        for portal in portals where !wanted.contains(where: { $0.address == portal.address }) {
            if let address = portal.listens { server.stopListening(on: address) }
            if portal.isOpen { log(.notice, "portal \(portal.address) is closed") }
        }
        portals.removeAll { portal in !wanted.contains { $0.address == portal.address } }
        for entry in wanted {
            if !portals.contains(where: { $0.address == entry.address }) {
                portals.append(GatewayPortal(address: entry.address))
            }
            guard let index = portals.firstIndex(where: { $0.address == entry.address }) else { continue }
            portals[index].announced = entry.announced
            if !portals[index].isOpen { open(index, server) }
        }
        let open = portals.filter(\.isOpen)
        server.portals =
            open.contains { $0.announced != nil } ? open.map { $0.announced ?? $0.address } : []
        announce()
        if portals.contains(where: { !$0.isOpen }), portalRetry == nil {
            portalRetry = environment.after(Self.retryAfter) { [weak self] in
                self?.portalRetry = nil
                self?.reconcile()
            }
        }
    }
    private func open(_ index: Int, _ server: ISCSIServer) {
        let text = portals[index].address
        guard case .tcp(let host, let port)? = SocketAddress(text) else {
            portals[index].problem = "is no address"
            return
        }
        do throws(NetworkError) {
            portals[index].listens = try server.listen(on: .tcp(host: host, port: port))
            (portals[index].isOpen, portals[index].problem) = (true, nil)
            log(.notice, "portal \(text) is open")
        } catch {
            let why = "cannot listen: \(error)"
            if portals[index].problem != why { log(.error, "portal \(text): \(why)") }
            portals[index].problem = why
        }
    }

    /// Tells whoever started it, once nothing of the first configuration is left untried.
    func tellReady() {
        guard !isReady, version > 0 || configuration != nil else { return }
        guard units.allSatisfy({ $0.wasTried || $0.phase == .served }) else { return }
        isReady = true
        ready?(portals.compactMap(\.listens))
    }

    // MARK: Targets

    private func goOn(_ target: GatewayTarget) {
        guard let server, !target.isBusy, !isStopping else { return }
        guard let wanted = target.wanted else { return end(target, server) }
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
    private func end(_ target: GatewayTarget, _ server: ISCSIServer) {
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
    public func stop(completed: @escaping () -> Void) {
        guard !isStopping else { return }
        isStopping = true
        stopped = completed
        for unit in units { cancelRetry(unit) }
        guard let server else { return farewell() }
        server.stop { [self] in leaveAll() }
    }
    private func leaveAll() {
        var left = 1
        let ended = { [self] in
            left -= 1
            if left == 0 { farewell() }
        }
        for unit in units {
            left += 1
            giveBack(unit, completed: ended)
        }
        ended()
    }
    private func farewell() {
        sayFarewell { [self] in
            values.close()
            stopped?()
            stopped = nil
        }
    }
    /// Another process has this name: whatever this one still said would be the other's to say.
    func giveWay(to other: String) {
        guard !isStopping else { return }
        isStopping = true
        server?.abandon()
        let text =
            "another process, \(other), serves as gateway \(options.name) now; nothing unanswered was "
            + "written; give each gateway a name of its own"
        leaveSilently { [self] in
            values.close()
            failed?(text)
        }
    }
    private func leaveSilently(completed: @escaping () -> Void) {
        var left = 1
        let ended = {
            left -= 1
            if left == 0 { completed() }
        }
        for unit in units {
            cancelRetry(unit)
            guard let volume = unit.volume else { continue }
            left += 1
            volume.detach(completed: ended)
        }
        ended()
    }
}
