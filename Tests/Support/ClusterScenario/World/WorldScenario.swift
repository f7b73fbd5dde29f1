import BlockTypes
import Checkers
import ControlMessages
import Environment
import Simulation

/// One seeded run of the whole world: metadata server, chunkservers, clients, gateways and people.
///
/// First anything may happen, and whatever a client is told must be true. Then all faults stop: every request
/// must finish, every volume that was not deleted must be readable, and the replicas must agree.
public final class WorldScenario {
    let plan: WorldPlan
    let world: SimWorld
    let pool = BufferPool(keptBytesPerClassMax: 1 << 20)
    let metadata: WorldMetadata
    let servers: WorldServers
    let desk: WorldDesk
    var volumes: [WorldVolume] = []
    private var bounds: BoundsWatch?
    var isStriking = true
    /// Some store has had no room below it.
    var hasFilledBelow = false
    /// Nothing bad is to happen for a while.
    var isPeace = false
    var tally: [String: Int] = [:]  // Sorted where it is shown.
    /// The metadata server's database is an older copy that nobody has adopted.
    var isDatabaseOld = false
    private(set) var copysets: [(id: CopysetID, members: [ServerID])] = []
    private var clientCount = 0
    /// For the nemesis and for people.
    var deedDice: DeedDice, actDice: DeedDice
    private var events: [ScenarioEvent] = []
    /// Hears of each event as it happens: an invariant may end the process before the outcome is there.
    public var told: (ScenarioEvent) -> Void = { _ in }

    /// - Parameter traceLinesMax: lines kept for a person to read.
    public init(_ plan: WorldPlan, traceLinesMax: Int = 0) {
        self.plan = plan
        // Clocks drift from the beginning: a machine keeps the clock that it was made with.
        var faults = SimFaults.none
        faults.clockDriftMillionthsMax = plan.faults.clockDriftMillionthsMax
        world = SimWorld(seed: plan.seed, faults: faults, traceLinesMax: traceLinesMax)
        metadata = WorldMetadata(world, count: plan.metadataServers, pool: pool)
        servers = WorldServers(world, plan, metadata.addresses, pool: pool)
        desk = WorldDesk(world, name: "desk", metadata.addresses, pool: pool)
        deedDice = DeedDice(seed: plan.seed ^ 0xDEED_0000_0000_0000)
        actDice = DeedDice(seed: plan.seed ^ 0xAC70_0000_0000_0000)
    }
    /// Runs it to the end.
    public func run() -> ScenarioOutcome {
        var outcome = ScenarioOutcome()
        outcome.cause = perform(&outcome)
        for volume in volumes {
            outcome.requests += volume.record.issued
            outcome.answered += volume.record.history.answeredCount
        }
        outcome.tally = finalTally
        outcome.traceHash = world.trace.hash
        outcome.steps = world.stepCount
        (outcome.events, outcome.rates) = (events, plan.rates)
        outcome.trace = world.trace.lines
        for volume in volumes { for client in volume.clients { client.end() } }
        desk.close()
        metadata.stop()
        world.run(for: .milliseconds(1))
        world.end()
        servers.forgetEverything()
        for volume in volumes { volume.clients.removeAll() }
        return outcome
    }
    private func perform(_ outcome: inout ScenarioOutcome) -> String? {
        if let wrong = boot() { return wrong }
        watchBounds()
        turmoil()
        if let wrong = complaint ?? calm() {
            if world.trace.isListening { servers.noteDiagnosis() }
            return wrong
        }
        for volume in volumes {
            let (violation, undecided) = volume.record.history.check()
            outcome.undecided += undecided
            if let violation { return describe(violation, of: volume) }
        }
        if world.trace.isListening { servers.noteDiagnosis() }
        let judge = WorldJudge(self)
        if let wrong = judge.weighTraffic() { return wrong }
        let lagging = servers.replicasWithoutRoom
        guard lagging.isEmpty || plan.losesSightOfServers else {
            return "the leaders let in more than these replicas have room for: \(lagging)"
        }
        tally["replicas without room"] = lagging.count
        let gone = (0..<servers.count).filter { servers.isGone($0) }
        tally["stores refused for good"] = gone.count
        for index in 0..<servers.count where !gone.contains(index) && !servers.isServing(index) {
            return "\(servers.disk(index).name) could be used again and is not served"
        }
        guard servers.stopAll() else { return "the chunkservers do not stop" }
        return complaint ?? judge.compareReplicas(but: lagging)
    }
    private var finalTally: [String: Int] {
        var tally = tally
        for volume in volumes {
            let record = volume.record
            tally["refused for lack of space", default: 0] += record.refusedForSpace
            tally["refused past the end", default: 0] += record.refusedPastEnd
            tally["volumes"] = volumes.count
            tally["volumes purged", default: 0] += volume.isPurged ? 1 : 0
            tally["attachments", default: 0] += volume.clients.count { $0.isAttached }
        }
        for what in (bounds?.reached ?? []).sorted() { tally["reached the bound: \(what)"] = 1 }
        tally["metadata servers"] = metadata.count
        tally["metadata server started"] = metadata.startCount
        tally["metadata server took over"] = metadata.takeoverCount
        tally["chunkservers started"] = servers.startCount
        return tally
    }
    var complaint: String? {
        for volume in volumes {
            if let wrong = volume.client?.violation { return "volume \(volume.number) over NBD: \(wrong)" }
            if let wrong = volume.record.complaint { return "volume \(volume.number): \(wrong)" }
        }
        return servers.complaint ?? metadata.complaint ?? bounds?.complaint
    }
    private func watchBounds() {
        let watch = BoundsWatch(world) { [weak self] read in
            guard let self else { return }
            metadata.readGauges(read)
            servers.readGauges(read)
            for volume in volumes { for client in volume.clients { client.readGauges(read) } }
        } compareAll: { [weak self] in
            self?.servers.noteStandings(&$0)
        }
        bounds = watch
        watch.start()
    }

    // MARK: The beginning

    private func boot() -> String? {
        metadata.start()
        if let wrong = servers.format(asking: desk) { return wrong }
        servers.startAll()
        guard world.run(within: .seconds(60), until: { servers.allServe || servers.complaint != nil }) else {
            return "the chunkservers do not come up"
        }
        if let wrong = servers.complaint { return wrong }
        var request = ControlCreatePoolRequest()
        (request.name, request.replicas) = ("pool", 3)
        (request.copysets, request.failureDomain) = (UInt32(plan.copysets), .server)
        guard desk.answer(to: .createPool(request)) != nil else { return "no pool: \(desk.refusal)" }
        guard case .getStatus(let status) = desk.answer(to: .getStatus(ControlGetStatusRequest())) else {
            return "no status: \(desk.refusal)"
        }
        copysets = status.copysets.map { (CopysetID($0.copyset), $0.members.map { ServerID($0) }) }
        for volumePlan in plan.volumes {
            let volume = newVolume(volumePlan)
            guard desk.answer(to: creation(of: volume)) != nil else {
                return "volume \(volume.number) cannot be made: \(desk.refusal)"
            }
        }
        for volume in volumes.prefix(plan.clientsMax) { newClient(for: volume, takesOver: false) }
        guard world.run(within: .seconds(60), until: { volumes.contains { $0.client?.isAttached == true } })
        else {
            return "no client can attach: \(volumes.first?.client?.trouble ?? "no answer")"
        }
        return complaint
    }
    func newVolume(_ plan: WorldVolumePlan) -> WorldVolume {
        let volume = WorldVolume(number: volumes.count + 1, plan)
        volume.record.mayLackSpace = { [weak self] in self?.mayLackSpace ?? true }
        volumes.append(volume)
        return volume
    }
    func creation(of volume: WorldVolume) -> ControlRequest.OneOf_Body {
        var request = ControlCreateVolumeRequest()
        (request.path, request.sizeBytes) = (volume.path, volume.plan.sizes[0])
        (request.stripeUnitBytes, request.stripeCount) = (
            volume.plan.stripeUnitBytes, volume.plan.stripeCount
        )
        return .createVolume(request)
    }
    func newClient(for volume: WorldVolume, takesOver: Bool) {
        clientCount += 1
        let client = WorldClient(
            world, number: clientCount, volume, metadata.addresses(beginningWith: clientCount),
            takesOver: takesOver)
        volume.clients.append(client)
        client.attach()
    }

    // MARK: Turmoil

    private func turmoil() {
        world.faults = plan.faults
        metadata.faults = plan.metadata
        for index in 0..<servers.count {
            servers.disk(index).faults = plan.faults.disk
            servers.disk(index).faults.writeErrorOneIn = plan.writeErrorOneIn
        }
        let damaged = servers.admitDamage(among: copysets)
        for index in damaged { servers.disk(index).faults = damagedDisk() }
        tally["disks that damage"] = damaged.count
        let end = world.trueNow + WorldPlan.turmoil
        strikeLater(until: end)
        actLater(until: end)
        cloneLater()
        restoreMetadataLater()
        _ = world.run(within: WorldPlan.turmoil) { complaint != nil || isQuiet }
        isStriking = false
    }
    private func damagedDisk() -> SimDiskFaults {
        var faults = SimDiskFaults.damagedSwarm(&world.random)
        if world.random.oneIn(3) {
            faults.writeErrorOneIn = Int.random(in: 200...5_000, using: &world.random)
        }
        if world.random.oneIn(3) {
            faults.flushErrorOneIn = Int.random(in: 200...5_000, using: &world.random)
        }
        return faults
    }
    /// Nobody has anything left to ask.
    private var isQuiet: Bool {
        guard plan.acts.isEmpty, !plan.clonesStore, !plan.restoresMetadata else { return false }
        return volumes.prefix(plan.clientsMax).allSatisfy { !$0.isBusy && $0.openCount == 0 }
    }
    private func strikeLater(until end: Duration) {
        guard !plan.deeds.isEmpty else { return }
        deedDice.advance()
        world.after(deedDice.time(upTo: Int(plan.restMax.milliseconds))) { [weak self] in
            guard let self, isStriking, world.trueNow < end else { return }
            let (fault, deed) = (PlannedFault.deed(deedDice.number), deedDice.pick(plan.deeds))
            if !isPeace, plan.selection.includes(fault) {
                strike(deed)
                tell(fault, "\(deed)", deedDice)
            }
            strikeLater(until: end)
        }
    }
    private func actLater(until end: Duration) {
        guard !plan.acts.isEmpty else { return }
        actDice.advance()
        world.after(actDice.time(upTo: Int(plan.actRestMax.milliseconds))) { [weak self] in
            guard let self, isStriking, world.trueNow < end else { return }
            let (fault, chosen) = (PlannedFault.act(actDice.number), actDice.pick(plan.acts))
            if plan.selection.includes(fault) {
                act(chosen)
                tell(fault, "people: \(chosen)", actDice)
            }
            actLater(until: end)
        }
    }
    private func tell(_ fault: PlannedFault, _ what: String, _ dice: DeedDice) {
        // The first detail is the rest before it.
        let all = ([what] + dice.details.dropFirst()).joined(separator: ", ")
        let event = ScenarioEvent(fault: fault, at: world.trueNow, what: all)
        events.append(event)
        told(event)
    }
    /// Superblocks, and what a store keeps free for its own map.
    private static let keptForStoreBytes = 7 << 19
    /// Growth may be refused once what was ever written could fill a good part of what the smallest store has
    /// for it: beside its reserve, and a share for each leader that is too small for one request.
    private var mayLackSpace: Bool {
        if hasFilledBelow { return true }
        let blocksMax = volumes.map(\.plan.load.blocksMax).max() ?? 0
        // What is asked for counts before it is there.
        let blocks = volumes.reduce(0) {
            $0 + $1.record.writtenBlocks.count + $1.plan.load.inFlightMax * $1.plan.load.blocksMax
        }
        let capacity = Int(plan.storeBytes) - Int(plan.journalBytes) - Self.keptForStoreBytes
        let reserve = max(capacity / 20, min(capacity / 4, 16 << 20))
        let shares = servers.count * (blocksMax + 3) * Geometry.blockBytes
        // Blocks that went bad are not used any more.
        let usable = (capacity - reserve) * (plan.damagedServers.isEmpty ? 6 : 4) / 8
        return blocks * Geometry.blockBytes > usable - shares
    }

    // MARK: Calm

    private func calm() -> String? {
        world.note { "calm" }
        bounds?.isCalm = true
        (world.faults, metadata.faults) = (.none, .none)
        world.healNetwork()
        servers.mendDisks()
        servers.resumeAll()
        metadata.resume()
        metadata.start()
        servers.startAll()
        for volume in volumes {
            for client in volume.clients where client !== volume.client && !client.isAttached { client.die() }
            for client in volume.clients {
                client.process.resume()
                client.stopAsking()
            }
            volume.client?.insist()
        }
        if let wrong = settleDatabase() { return wrong }
        for volume in volumes where !volume.isPurged && !volume.isDoubtful && !isDatabaseOld {
            if volume.isRecycled { _ = desk.answer(to: restoration(of: volume)) }
            if volume.client?.isUsable != true { newClient(for: volume, takesOver: true) }
            volume.client?.stopAsking()
        }
        if let wrong = waitForClients() { return wrong }
        for volume in readable where volume.client?.readEverything() != true {
            return "volume \(volume.number) has nobody who could read it"
        }
        guard world.run(within: WorldPlan.calm, until: { openCount == 0 || complaint != nil }) else {
            return "\(openCount) reads never finish after the faults have stopped: \(trouble)"
        }
        for volume in readable { volume.client?.detach {} }
        // Followers learn of the last commits by heartbeats and catch up; deleted volumes are freed.
        world.run(for: .seconds(20))
        return complaint
    }
    private func waitForClients() -> String? {
        guard
            world.run(
                within: WorldPlan.calm,
                until: { complaint != nil || readable.allSatisfy { $0.client?.canBeRead == true } })
        else { return "a volume cannot be attached after the faults have stopped: \(trouble)" }
        for volume in volumes { volume.client?.stopAsking() }
        guard world.run(within: WorldPlan.calm, until: { openCount == 0 || complaint != nil }) else {
            return "\(openCount) requests never finish after the faults have stopped: \(trouble)"
        }
        return complaint
    }
    /// Volumes that must be readable in calm: a deletion that nobody has heard of may have come true.
    private var readable: [WorldVolume] {
        volumes.filter { volume in
            if isDatabaseOld || volume.isDoubtful {
                return volume.client?.isUsable == true && volume.client?.canBeRead == true
            }
            return !volume.isPurged && !(volume.isDeletionAsked && volume.client?.isUsable != true)
        }
    }
    private var openCount: Int { volumes.reduce(0) { $0 + $1.openCount } }
    private var trouble: String {
        for volume in volumes where volume.openCount > 0 || volume.client?.canBeRead != true {
            return "volume \(volume.number): \(volume.client?.trouble ?? "no client")"
        }
        return "nobody says why"
    }
    private func describe(
        _ found: (register: UInt64, what: RegisterViolation), of volume: WorldVolume
    ) -> String {
        let block = found.register * UInt64(Geometry.sectorBytes) / UInt64(Geometry.blockBytes)
        for line in volume.record.history.story(of: found.register) { world.note { "history: \(line)" } }
        return "volume \(volume.number) block \(block) sector \(found.register % 8): \(found.what)"
    }
}
