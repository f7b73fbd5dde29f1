import BlockTypes
import Environment
import ISCSIProtocol
import SCSICommands

/// One portal group of one gateway: serves targets, with volumes as their logical units, to initiators on
/// the listeners of one environment. Loop-confined.
///
/// What initiators may say is decided by a `PortalGroup`, what commands mean by a `Target`; this carries out
/// what both decide, and keeps time.
public final class ISCSIServer {
    let environment: any Environment
    let limits: ISCSIServerLimits
    let coordinator: any TargetCoordinator
    let group: PortalGroup
    /// The target port group of this gateway, which is also its portal group tag.
    let ownGroup: PortGroup

    /// In the order in which they were added; those that end what they have begun included.
    var targets: [ServedTarget] = []
    private var unitCount = 0

    private var listeners: [(portal: Int, listener: any Listener)] = []
    private var portalCount = 0
    /// Open connections by number, oldest first: numbers only grow.
    private var links: [ConnectionID: ServerLink] = [:]
    private var linkCount: UInt64 = 0
    /// The link looked up last: the effects of a turn are mostly about one.
    private var recentLink: ServerLink?
    private var pingTimer: TimerID?
    private var beatTimer: TimerID?
    /// A server that runs only after this stood still, as long as there are connections.
    private var beatDeadline = Duration.zero
    /// One line per shortage is enough.
    private var hasComplained = false
    private var stopped: (() -> Void)?
    private var drained: (() -> Void)?
    private(set) var isStopping = false
    /// From here on nothing is read, and what is in flight is waited for.
    private(set) var isQuiescing = false
    private(set) var isAbandoned = false
    private var hasDropped = false

    // What `ISCSIServer+Effects` works with.
    var effects: [PortalGroup.Effect] = []
    /// Those being carried out, the last one first.
    var round: [PortalGroup.Effect] = []
    var isPerforming = false
    var targetEffects: [Target.Effect] = []
    /// Links with something to send.
    var unflushed: [ServerLink] = []
    // Looked up, never iterated.
    var nexuses: [NexusID: ServedNexus] = [:] { didSet { recentNexus = nil } }
    /// The one whose command came last.
    private var recentNexus: (id: NexusID, target: ServedTarget)?
    /// What may outlive the server and calls back holds this.
    let own: BackReference<ISCSIServer>
    /// Commands that are being ended because another gateway did so. Looked up, never iterated.
    var endings: [TaskEndingID: (target: ServedTarget, unit: UnitNumber, version: UInt64)] = [:]
    var endingCount: UInt64 = 0
    /// Whose a command is, by its slot.
    var taskTargets: [ServedTarget?] = []
    var inFlightCommands = 0
    /// Changes of reservations and port groups that the coordinator has not answered.
    var inFlightChanges = 0
    var counters = ISCSIServerStatus()

    /// Takes connections whose login named one of ``targetsElsewhere``, with the number of the portal that
    /// they came by.
    public var moved: ((any MovedConnection, MovingLogin, _ portal: Int?) -> Void)?

    /// Addresses that initiators are told by SendTargets, `address:port`. Empty: those listened on, as far as
    /// they are addresses of one interface.
    public var portals: [String] = [] { didSet { tellPortals() } }

    /// What initiators are told by SendTargets of this server: ``portals``, or what stands for them.
    public var toldPortals: [String] { group.configuration.portals }
    /// How initiators prove who they are before they are told of targets.
    public var discoveryAuthentication: Authentication {
        get { group.configuration.discoveryAuthentication }
        set { group.configuration.discoveryAuthentication = newValue }
    }

    /// A server without targets that listens nowhere yet.
    /// - Parameters:
    ///   - portGroup: the tag of this gateway's portal group, different from that of any other gateway of the
    ///     same targets.
    ///   - coordinator: what it agrees by with those; its callbacks are the server's from now on.
    public init(
        environment: any Environment, portGroup: UInt16 = 1, coordinator: any TargetCoordinator,
        chap: CHAPDigests = .openSSL(), limits: ISCSIServerLimits = ISCSIServerLimits(),
        pool: BufferPool = BufferPool()
    ) {
        (self.environment, self.limits, self.coordinator) = (environment, limits, coordinator)
        own = BackReference()
        ownGroup = PortGroup(tag: portGroup)
        var configuration = PortalGroupConfiguration(chap: chap) { _, _, _ in
            TransferSizes(inBytes: 0, outBytes: 0)
        }
        configuration.portalGroupTag = portGroup
        var session = limits.session
        session.connectionsMax = limits.connectionsMax
        group = PortalGroup(configuration: configuration, limits: session, pool: pool)
        own.target = self
        coordinator.reservationsChanged = { [own] unit, table in
            own.target?.tellUnit(unit) { .reservationsChanged($0, table) }
        }
        coordinator.sanitizeReported = { [own] unit, progress in
            own.target?.tellUnit(unit) { .sanitizeReported($0, progress) }
        }
        coordinator.groupsChanged = { [own] target, groups in
            guard let server = own.target, let served = server.target(named: target) else { return }
            server.act(served, .groupsChanged(groups))
        }
        coordinator.addressesChanged = { [own] target, addresses in
            own.target?.setOtherAddresses(addresses, of: target)
        }
    }
    deinit { own.target = nil }

    /// What it is doing.
    public var status: ISCSIServerStatus {
        var status = counters
        status.connections = links.count
        status.logins = links.values.reduce(0) { $0 + (group.isLoggingIn($1.id) ? 1 : 0) }
        status.sessions = nexuses.count
        status.inFlightCommands = inFlightCommands
        return status
    }
    /// Sessions that are no discovery sessions, in the order in which they began.
    public var sessions: [Nexus] {
        nexuses.sorted { $0.key.rawValue < $1.key.rawValue }.map(\.value.names)
    }
    /// What connections hold, against ``ISCSIServerLimits``.
    package func readGauges(_ read: GaugeReader) {
        read("iSCSI connections", links.count, limits.connectionsMax)
        let queued = links.values.reduce(0) { max($0, $1.queuedSendBytes) }
        // A command that was given out before the bound was reached is still answered.
        read(
            "reply bytes of an iSCSI connection", queued,
            limits.session.queuedReplyBytesMax + limits.session.inFlightBytesMax
                + limits.session.transferBytesMax)
    }

    // MARK: Portals

    /// Accepts initiators on `address`.
    /// - Returns: the address, with the port that the system chose.
    /// - Throws: ``NetworkError``.
    @discardableResult public func listen(on address: SocketAddress) throws(NetworkError) -> SocketAddress {
        portalCount += 1
        let portal = portalCount
        let listener = try environment.listen(on: address) { [own] link in
            if let server = own.target { server.accept(link, by: portal) } else { link.close() }
        }
        listeners.append((portal, listener))
        tellPortals()
        return listener.address
    }
    /// Accepts nobody on `address` any more, asks who came by it to log out, and closes the connections that
    /// are left after ``ISCSIServerLimits/logoutGrace``. A session that has others goes on over those.
    /// - Returns: the numbers of the portals, for servers to which connections that came by them moved.
    @discardableResult public func stopListening(on address: SocketAddress) -> [Int] {
        let closed = listeners.filter { $0.listener.address == address }
        for entry in closed { entry.listener.close() }
        listeners.removeAll { $0.listener.address == address }
        tellPortals()
        let portals = closed.map(\.portal)
        portalsClosed(portals)
        return portals
    }
    /// Ends what came by portals that are closed, as ``stopListening(on:)`` does.
    public func portalsClosed(_ portals: [Int]) {
        let concerned = inOrder.filter { link in link.portal.map { portals.contains($0) } ?? false }
        for link in concerned {
            guard !group.isLoggingIn(link.id) else {
                abandon(link)
                continue
            }
            group.requestLogout(
                of: link.id, seconds: UInt16(clamping: limits.logoutGrace.components.seconds),
                effects: &effects)
        }
        perform()
        environment.after(limits.logoutGrace) { [weak self] in
            guard let self else { return }
            for link in concerned { abandon(link) }
        }
    }
    /// Serves one initiator whose connection was made elsewhere.
    public func serve(_ link: any Connection) { accept(link) }

    private func tellPortals() {
        guard portals.isEmpty else {
            group.configuration.portals = portals
            return
        }
        group.configuration.portals = listeners.compactMap { entry in
            let address = entry.listener.address
            guard case .tcp(let host, _) = address, !PeerAddress.isWildcard(host) else { return nil }
            return address.description
        }
    }

    // MARK: The end

    /// Lets nobody in any more, asks initiators to log out, and goes on serving those who stay.
    /// - Parameters:
    ///   - redirecting: logins are sent to another gateway, and not told to come back later.
    ///   - drained: called when no session is left; once for each call, unless ``endDrain()`` comes first.
    public func drain(redirecting: Bool = false, drained: @escaping () -> Void) {
        group.configuration.isAvailable = false
        group.configuration.redirectsWhenUnavailable = redirecting
        self.drained = drained
        for target in targets {
            group.requestLogout(
                fromTarget: target.name, seconds: UInt16(clamping: limits.logoutGrace.components.seconds),
                effects: &effects)
        }
        perform()
        tellDrained()
    }
    /// Lets initiators in again.
    public func endDrain() {
        group.configuration.isAvailable = true
        drained = nil
    }
    func tellDrained() {
        guard nexuses.isEmpty, let drained else { return }
        self.drained = nil
        environment.after(.zero, drained)
    }

    /// Stops accepting, asks initiators to log out, answers what is in flight, closes every connection, then
    /// calls `completed`.
    /// - Parameter drainFor: how long all that may take; then connections are closed without answers.
    public func stop(drainFor: Duration = .seconds(10), completed: @escaping () -> Void) {
        guard !isStopping else { return }
        (isStopping, stopped) = (true, completed)
        closeListeners()
        for target in targets {
            for unit in target.units { unit.volume.resized = nil }
        }
        let grace = min(limits.logoutGrace, drainFor)
        for link in inOrder where group.isLoggingIn(link.id) { abandon(link) }
        for target in targets {
            group.requestLogout(
                fromTarget: target.name, seconds: UInt16(clamping: grace.components.seconds),
                effects: &effects)
        }
        perform()
        environment.after(isIdle ? .zero : grace) { [self] in quiesce() }
        environment.after(drainFor) { [self] in
            for link in inOrder { abandon(link) }
            tellStopped()
        }
    }
    private func quiesce() {
        guard stopped != nil else { return }
        isQuiescing = true
        for link in inOrder { link.pause() }
        goOnStopping()
    }
    /// Whatever ends may be the last thing that a stop waits for.
    func goOnStopping() {
        if isStopping, links.isEmpty { isQuiescing = true }
        guard isQuiescing, inFlightCommands == 0, stopped != nil else { return }
        if !hasDropped {
            hasDropped = true
            for target in targets {
                group.dropSessions(ofTarget: target.name, seconds: 0, effects: &effects)
            }
            perform()
            // Those that look for targets.
            for link in inOrder { abandon(link) }
        }
        // What the end of sessions changes in reservations is told to the cluster.
        if isIdle { environment.after(.zero) { [self] in tellStopped() } }
    }
    private var isIdle: Bool { links.isEmpty && inFlightCommands == 0 && inFlightChanges == 0 }
    private func tellStopped() {
        guard let stopped else { return }
        self.stopped = nil
        stopped()
    }

    /// Closes everything at once, answers or not, and lets the volumes go: the process is over.
    public func abandon() {
        (isStopping, isAbandoned) = (true, true)
        closeListeners()
        for link in inOrder { abandon(link) }
        group.abandon()
        (targets, nexuses, taskTargets, endings) = ([], [:], [], [:])
    }
    private func closeListeners() {
        for entry in listeners { entry.listener.close() }
        listeners = []
    }
    /// Closes without waiting for answers.
    func abandon(_ link: ServerLink) {
        guard !link.isOver else { return }
        link.close()
        act { $0.lost(link.id, effects: &$1) }
    }

    // MARK: Connections

    private var inOrder: [ServerLink] {
        links.sorted { $0.key.rawValue < $1.key.rawValue }.map(\.value)
    }
    func link(_ id: ConnectionID) -> ServerLink? {
        if let recentLink, recentLink.id == id { return recentLink }
        recentLink = links[id]
        return recentLink
    }
    /// Forgets a connection. Harmless when it is forgotten already.
    func forget(_ link: ServerLink) {
        links[link.id] = nil
        recentLink = nil
        guard links.isEmpty else { return }
        for timer in [pingTimer, beatTimer] {
            if let timer { environment.cancel(timer) }
        }
        (pingTimer, beatTimer) = (nil, nil)
    }
    func accept(_ connection: any Connection, by portal: Int? = nil, movedWith login: MovingLogin? = nil) {
        // Who comes first after a standstill is no part of it.
        _ = hasStoodStill()
        guard !isStopping, makeRoom(for: connection.peerHost) else { return connection.close() }
        hasComplained = false
        linkCount += 1
        let link = ServerLink(ConnectionID(rawValue: linkCount), connection, self, portal: portal)
        links[link.id] = link
        link.open()
        let randomness = randomBytes(PortalGroup.randomBytesPerConnection)
        let address = PeerAddress.bytes(of: link.peerHost)
        act { group, effects in
            if let login {
                group.opened(
                    link.id, from: address, randomness: randomness, movedWith: login, effects: &effects)
            } else {
                group.opened(
                    link.id, from: address, by: portal, randomness: randomness, effects: &effects)
            }
        }
        if pingTimer == nil { waitForPing() }
        if beatTimer == nil { waitForBeat() }
    }
    private func randomBytes(_ count: Int) -> [UInt8] {
        var bytes: [UInt8] = []
        while bytes.count < count {
            let random = environment.random()
            for shift in 0..<8 { bytes.append(UInt8(truncatingIfNeeded: random >> UInt64(8 * shift))) }
        }
        return Array(bytes.prefix(count))
    }
    /// - Returns: false when a bound is reached and nobody is logging in who could go instead.
    private func makeRoom(for peer: String) -> Bool {
        let waiting = inOrder.filter { group.isLoggingIn($0.id) }
        let ofPeer = links.values.reduce(0) { $0 + ($1.peerHost == peer ? 1 : 0) }
        let victim: ServerLink?
        if ofPeer >= limits.connectionsPerPeerMax {
            victim = waiting.first { $0.peerHost == peer }
        } else if links.count >= limits.connectionsMax || waiting.count >= limits.loginsMax {
            victim = Self.oldestOfTheMost(waiting)
        } else {
            return true
        }
        guard let victim else {
            if !hasComplained {
                environment.log(
                    .warning,
                    "iscsi: refused \(peer), which has \(ofPeer) of \(links.count) connections; later "
                        + "refusals are not logged until one succeeds")
            }
            hasComplained = true
            return false
        }
        abandon(victim)
        return true
    }
    /// Of the peer with the most connections in `waiting`, the oldest: a crowd makes room by itself, and an
    /// initiator that means business is not pushed out by it.
    private static func oldestOfTheMost(_ waiting: [ServerLink]) -> ServerLink? {
        var counts: [String: Int] = [:]
        for link in waiting { counts[link.peerHost, default: 0] += 1 }
        let most = waiting.reduce(0) { max($0, counts[$1.peerHost] ?? 0) }
        return waiting.first { counts[$0.peerHost] == most }
    }
    private func waitForPing() {
        pingTimer = environment.after(limits.pingInterval) { [own] in own.target?.pingTimeReached() }
    }
    private func pingTimeReached() {
        pingTimer = nil
        for link in inOrder where !link.hasMoved() {
            group.pingTimeReached(link.id, effects: &effects)
        }
        perform()
        if !links.isEmpty { waitForPing() }
    }

    // MARK: Standing still

    /// Something is due so often.
    private static let beatInterval = Duration.seconds(1)

    private func waitForBeat() {
        beatDeadline = environment.now + Self.beatInterval + limits.standstillMax
        beatTimer = environment.after(Self.beatInterval) { [own] in
            guard let server = own.target, !server.hasStoodStill() else { return }
            server.waitForBeat()
        }
    }
    /// Ends all sessions when a beat is late by more than ``ISCSIServerLimits/standstillMax``: whoever gave
    /// up a path meanwhile has asked elsewhere for what waits here, and may have had its answer.
    ///
    /// Asked before anything is read or goes on: what came is told before the timer that was due.
    func hasStoodStill() -> Bool {
        // Without connections there is nothing to end, and no beat.
        guard beatTimer != nil else { return false }
        let late = environment.now - beatDeadline
        guard late > .zero, !isPlanted(.standstillUnnoticed) else { return false }
        let seconds = (late + limits.standstillMax).components.seconds
        environment.log(
            .warning,
            "iscsi: this gateway stood still for about \(seconds) s; its connections are "
                + "closed, so that nothing is carried out that initiators have given up")
        for link in inOrder { abandon(link) }
        return true
    }

    // MARK: What happens

    /// Lets the portal group know of something, and does what it says.
    func act(_ body: (PortalGroup, inout [PortalGroup.Effect]) -> Void) {
        body(group, &effects)
        perform()
    }
    /// Lets a target know of something.
    func act(_ target: ServedTarget, _ event: Target.Event) {
        // What was read before waits for such events, too.
        _ = hasStoodStill()
        step(target, event)
        perform()
    }
    @unsafe func received(_ bytes: UnsafeRawBufferPointer, on link: ServerLink) {
        guard !hasStoodStill() else { return }
        unsafe group.received(
            bytes, on: link.id, queuedSendBytes: link.queuedSendBytes, effects: &effects)
        perform()
    }
    private func tellUnit(_ key: UnitKey, _ event: (UnitNumber) -> Target.Event) {
        for target in targets {
            for unit in target.units where unit.isPresent && unit.key == key {
                act(target, event(unit.number))
            }
        }
    }
    /// The next unit's number.
    func takeUnitNumber() -> UnitNumber {
        unitCount += 1
        return UnitNumber(rawValue: unitCount)
    }
    func target(of nexus: NexusID) -> ServedTarget? {
        if let recentNexus, recentNexus.id == nexus { return recentNexus.target }
        guard let target = nexuses[nexus]?.target else { return nil }
        recentNexus = (nexus, target)
        return target
    }
    func target(named name: String) -> ServedTarget? {
        targets.first { $0.name == name && !$0.isRemoved }
    }
}
