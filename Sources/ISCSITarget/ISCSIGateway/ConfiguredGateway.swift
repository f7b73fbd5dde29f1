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
///
/// It has the portals, the configuration and the word to the cluster; the targets are spread over its lanes,
/// one on its own loop and one on each other loop that it was given.
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
    /// Portals open at the latest this long after there is something to serve.
    static let openingPatience = Duration.seconds(10)

    let environment: any Environment
    let options: Options
    let values: ClusterValues
    let chap: CHAPDigests
    let home: GatewayLoop?
    private let others: [GatewayLoop]
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
    /// The first one is on this loop, and its server has the portals.
    var lanes: [LaneLink] = []
    /// In which lane a target is, as long as that has it. Looked up, never iterated.
    private var places: [String: Int] = [:]
    /// Where initiators reach this gateway, as the lanes know it.
    private var toldPortals: [String] = []
    /// The tag that the servers have for good.
    private(set) var tag: UInt16?
    var portals: [GatewayPortal] = []
    var problem: String?
    /// All that the first plan wants was tried, or took too long. An initiator that comes back after a
    /// restart takes "no such target", or "no such LUN" for what it was writing, as the last word.
    private var mayOpen = false
    private var portalRetry: TimerID?
    private var isReady = false
    private(set) var isStopping = false
    /// Initiators are to go elsewhere.
    private(set) var isDraining = false
    /// Their logins are answered with another gateway's address.
    private var isRedirecting = false
    /// Counts what was said of that.
    private var drainCount: UInt64 = 0
    private(set) var isDrainConfirmed = false
    private var stopped: (() -> Void)?
    var reporter = GatewayReporter()

    /// A gateway that asks nobody yet.
    /// - Parameters:
    ///   - home: the loop of `environment`, for the others.
    ///   - others: loops among which it spreads its targets, besides its own.
    public init(
        environment: any Environment, home: GatewayLoop? = nil, others: [GatewayLoop] = [], options: Options,
        chap: CHAPDigests
    ) {
        invariant(home != nil || others.isEmpty, "other loops could not answer")
        (self.environment, self.home, self.others) = (environment, home, others)
        (self.options, self.chap) = (options, chap)
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
        if tag == nil { makeLanes(plan.groupTag) }
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
        if tag != nil { reconcile() }
        tellReady()
    }
    private func makeLanes(_ tag: UInt16) {
        self.tag = tag
        let own = GatewayLane(environment: environment, options: options, tag: tag, chap: chap) {
            [weak self] in self?.heard($0, from: 0)
        }
        lanes = [LaneLink(own)]
        own.server.moved = { [weak self] connection, login, portal in
            self?.pass(connection, login, portal)
        }
        environment.after(Self.openingPatience) { [weak self] in self?.openPortals() }
        guard let home else { return }
        let gateway = LoopBound<ConfiguredGateway>()
        gateway.value = self
        for (index, loop) in others.enumerated() {
            let (options, chap) = (options, chap)
            lanes.append(
                LaneLink(on: loop) { environment in
                    GatewayLane(environment: environment, options: options, tag: tag, chap: chap) { news in
                        home.post { _ in gateway.value?.heard(news, from: index + 1) }
                    }
                })
        }
    }
    /// A connection is to go on where its target is. One whose target has gone meanwhile comes back, and
    /// hears that.
    private func pass(_ connection: any MovedConnection, _ login: MovingLogin, _ portal: Int?) {
        let lane = lanes[places[login.targetName] ?? 0]
        guard !lane.pass(connection, login, portal: portal, home: home), !lane.hasComplained else { return }
        lane.hasComplained = true
        log(
            .error,
            "\(login.targetName): its loop stands still; \(connection.peer) and those who come meanwhile are "
                + "dropped")
    }
    /// The server on this loop, which has the portals.
    var server: ISCSIServer? { lanes.first?.local?.server }

    /// Goes from what is served to what is wanted.
    func reconcile() {
        guard !isStopping, let server else { return }
        server.discoveryAuthentication = plan?.discovery.authentication ?? .none
        if mayOpen { reconcilePortals(server) }
        var plans = lanes.map { _ in LanePlan(version: version) }
        for target in plan?.targets ?? [] { plans[place(of: target)].targets.append(target) }
        for (lane, plan) in zip(lanes, plans) { lane.tell { $0.go(by: plan) } }
        tellReady()
        report()
    }
    /// A target stays where it is; a new one goes where the fewest units are, rather not to the loop that has
    /// the portals.
    private func place(of target: GatewayPlan.Target) -> Int {
        if let place = places[target.name] { return place }
        let loads = lanes.indices.map { index in
            let there = plan?.targets.filter { places[$0.name] == index } ?? []
            return there.reduce(0) { $0 + 1 + $1.units.count }
        }
        let place = loads.indices.reversed().min { loads[$0] < loads[$1] } ?? 0
        places[target.name] = place
        return place
    }
    /// One of the lanes has something to say.
    private func heard(_ news: LaneNews, from index: Int) {
        guard !isStopping, lanes.indices.contains(index) else { return }
        switch news {
        case .changed(let facts):
            lanes[index].facts = facts
            for (name, place) in places where place == index {
                let isWanted = plan?.targets.contains { $0.name == name } ?? false
                let isGone = facts.version == version && !facts.targetNames.contains(name)
                if !isWanted, isGone { places[name] = nil }
            }
            if index > 0 { tellDiscovery() }
            tellReady()
            report()
        case .drainAsked(let isWanted, let redirecting): drain(isWanted, redirecting: redirecting)
        case .drained(let number):
            // What it says of an earlier drain crossed the news of a later one.
            guard number == drainCount else { return }
            lanes[index].isDrained = true
            confirmDrained()
        }
    }
    /// Initiators that look for targets find those of all lanes.
    private func tellDiscovery() {
        guard let server else { return }
        server.targetsElsewhere = lanes.dropFirst().flatMap(\.facts.offered)
        for lane in lanes.dropFirst() {
            for (name, addresses) in lane.facts.otherAddresses {
                server.setOtherAddresses(addresses, of: name)
            }
        }
    }

    private func reconcilePortals(_ server: ISCSIServer) {
        let wanted = plan?.portals ?? []
        for portal in portals where !wanted.contains(where: { $0.address == portal.address }) {
            if let address = portal.listens {
                let numbers = server.stopListening(on: address)
                for lane in lanes.dropFirst() { lane.tell { $0.server.portalsClosed(numbers) } }
            }
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
        toldPortals = server.toldPortals
        announce()
        if portals.contains(where: { !$0.isOpen }), portalRetry == nil {
            portalRetry = environment.after(Self.retryAfter) { [weak self] in
                self?.portalRetry = nil
                self?.reconcile()
            }
        }
    }
    private func openPortals() {
        guard !mayOpen, !isStopping, let server else { return }
        mayOpen = true
        reconcilePortals(server)
        report()
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

    private func announce() {
        for (index, lane) in lanes.enumerated() {
            lane.tell { [toldPortals] in
                if index > 0 { $0.server.portals = toldPortals }
                $0.announce(toldPortals)
            }
        }
    }
    /// Tells whoever started it, once nothing of the first configuration is left untried.
    private func tellReady() {
        guard !isReady || !mayOpen, version > 0 || configuration != nil else { return }
        let isTried = lanes.allSatisfy { $0.facts.version == version && $0.facts.isTried }
        if !lanes.isEmpty, isTried { openPortals() }
        guard !isReady, isTried || plan == nil else { return }
        isReady = true
        ready?(portals.compactMap(\.listens))
    }

    // MARK: Drain

    /// An operator sends initiators elsewhere, or lets them come again: by one volume, and meant for all.
    private func drain(_ isWanted: Bool, redirecting: Bool) {
        guard isWanted != isDraining || redirecting != isRedirecting else {
            // It was asked by another of its volumes, too; nobody may be left by now.
            return confirmDrained()
        }
        (isDraining, isRedirecting, isDrainConfirmed) = (isWanted, redirecting, false)
        drainCount += 1
        log(.notice, isWanted ? "initiators are asked to log out" : "initiators may log in again")
        for index in lanes.indices { lanes[index].isDrained = false }
        for lane in lanes {
            lane.tell { [drainCount] in $0.drain(isWanted, redirecting: redirecting, number: drainCount) }
        }
        report()
    }
    private func confirmDrained() {
        guard isDraining, lanes.allSatisfy(\.isDrained) else { return }
        if !isDrainConfirmed { log(.notice, "no session is left; the gateway can be stopped") }
        isDrainConfirmed = true
        for lane in lanes { lane.tell { $0.confirmDrained() } }
        report()
    }

    // MARK: The end

    /// Asks initiators to log out, lets commands under way finish, gives everything back.
    public func stop(completed: @escaping () -> Void) {
        guard !isStopping else { return }
        isStopping = true
        stopped = completed
        inAllLanes({ $0.stop(completed: $1) }, completed: { [self] in farewell() })
    }
    private func farewell() {
        sayFarewell { [self] in
            end()
            stopped?()
            stopped = nil
        }
    }
    /// Another process has this name: whatever this one still said would be the other's to say.
    func giveWay(to other: String) {
        guard !isStopping else { return }
        isStopping = true
        let text =
            "another process, \(other), serves as gateway \(options.name) now; nothing unanswered was "
            + "written; give each gateway a name of its own"
        inAllLanes(
            { $0.abandon(completed: $1) },
            completed: { [self] in
                end()
                failed?(text)
            })
    }
    private func end() {
        values.close()
        for lane in lanes { lane.forget() }
    }
    /// The group in which the gateways of a target hold its volumes.
    public static func group(of target: String) -> String { "iscsi \(target)" }
}
