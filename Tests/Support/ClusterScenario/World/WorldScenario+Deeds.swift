import Environment
import Simulation

// What the nemesis does.
extension WorldScenario {
    func strike(_ deed: WorldDeed) {
        tally["deed \(deed)", default: 0] += 1
        let victim = deedDice.pick(0..<servers.count)
        world.note { "nemesis: \(deed)" }
        switch deed {
        case .powerLoss, .powerLossOfAll, .kill, .breakDuringIO, .move, .swapStores, .hangDisk, .fillBelow:
            strike(deed, victim)
        case .pause:
            deedDice.note(servers.machine(victim))
            servers.process(victim)?.pause(for: deedDice.time(upTo: 4000))
        case .isolate: world.isolate(anyMachine())
        case .blockPair:
            let (one, other) = (anyMachine(), anyMachine())
            world.block(from: one, to: other)
            world.block(from: other, to: one)
        case .blockOneWay: world.block(from: anyMachine(), to: anyMachine())
        case .slow: world.slow(from: anyMachine(), to: anyMachine(), by: deedDice.time(upTo: 1000))
        case .strand: strand()
        case .heal: world.healNetwork()
        case .wallJump:
            let seconds = Int64(deedDice.pick(-100_000..<100_001))
            let process = deedDice.oneIn(2) ? metadata.process : servers.process(victim)
            process?.jumpWallClock(bySeconds: seconds)
        case .metadataDown:
            let delay = deedDice.time(upTo: 4000)
            let (index, losesPower) = (metadata.victim(&deedDice), deedDice.oneIn(2))
            metadata.end(index, losesPower: losesPower, thenStartAfter: delay)
        case .metadataPause:
            let time = deedDice.time(upTo: 4000)
            metadata.process(metadata.victim(&deedDice))?.pause(for: time)
        case .clientPauses, .clientDies, .takeOver, .twoTakers, .gatewayBreaks: strikeClient(deed)
        }
    }
    private func strike(_ deed: WorldDeed, _ victim: Int) {
        if deed != .powerLossOfAll { deedDice.note(servers.machine(victim)) }
        switch deed {
        case .powerLoss: servers.losePower(victim, for: deedDice.time(upTo: 3000))
        case .powerLossOfAll:
            let outage = deedDice.time(upTo: 2000)
            for index in 0..<servers.count { servers.losePower(index, for: outage) }
        case .breakDuringIO:
            let count = deedDice.pick(1..<61)
            servers.breakDuringIO(victim, count: count, losesPower: deedDice.oneIn(2))
            // Half of the time it is the recovery that meets its end.
            if deedDice.oneIn(2) { servers.kill(victim, thenStartAfter: deedDice.time(upTo: 500)) }
        case .move: servers.move(victim, downFor: deedDice.time(upTo: 1000))
        case .swapStores:
            let other = deedDice.pick(0..<servers.count)
            servers.swap(victim, other, downFor: deedDice.time(upTo: 1000))
        case .hangDisk:
            // Now and then for as long as anything goes wrong at all.
            let most = deedDice.oneIn(4) ? Int(WorldPlan.turmoil.milliseconds) : 5000
            servers.hangDisk(victim, for: deedDice.time(upTo: most))
        case .fillBelow:
            hasFilledBelow = true
            servers.fillBelow(victim, for: deedDice.time(upTo: 5000))
        default: servers.kill(victim, thenStartAfter: deedDice.time(upTo: 2000))
        }
    }
    private func strikeClient(_ deed: WorldDeed) {
        let used = volumes.filter { $0.client != nil && !$0.isPurged && !$0.isRecycled }
        guard !used.isEmpty else { return }
        let volume = deedDice.pick(used)
        deedDice.note(volume.path)
        switch deed {
        case .clientDies:
            volume.client?.die()
            newClient(for: volume, takesOver: deedDice.oneIn(2))
        case .clientPauses: volume.client?.process.pause(for: deedDice.time(upTo: 14_000))
        case .gatewayBreaks: volume.client?.breakGateway()
        case .twoTakers:
            newClient(for: volume, takesOver: true)
            newClient(for: volume, takesOver: true)
        default: newClient(for: volume, takesOver: true)
        }
    }
    private func strand() {
        let clients = volumes.compactMap(\.client).filter(\.isAttached)
        guard !clients.isEmpty else { return }
        let client = deedDice.pick(clients).machine
        let members = deedDice.pick(copysets).members.compactMap { servers.index(of: $0) }
        let victim = deedDice.pick(members)
        deedDice.note("\(client) to \(servers.machine(victim))")
        let strand = StrandedRequests(&deedDice)
        strand.begin(
            in: world, client: client, server: servers.machine(victim),
            pause: { servers.process(victim)?.pause(for: $0) },
            dethrone: { [weak self] in
                guard let self, isStriking, !isPeace else { return }
                for other in members where other != victim { servers.kill(other, thenStartAfter: $0) }
            })
    }
    func anyTime(upTo milliseconds: Int) -> Duration {
        .milliseconds(Int.random(in: 1...milliseconds, using: &world.random))
    }
    private func anyMachine() -> String {
        let clients = volumes.compactMap(\.client)
        let choice = deedDice.pick(0..<(servers.count + clients.count + 1))
        var name = WorldMetadata.machine(choice == servers.count ? deedDice.pick(0..<metadata.count) : 0)
        if choice < servers.count { name = servers.machine(choice) }
        if choice > servers.count { name = clients[choice - servers.count - 1].machine }
        deedDice.note(name)
        return name
    }
}

// A store is copied while it is in use, and the copy is started elsewhere.
extension WorldScenario {
    /// Only while the original is well and heard: nobody can tell a copy from the original come back.
    func cloneLater() {
        guard plan.clonesStore else { return }
        let begin = Duration.milliseconds(Int.random(in: 1...3_000, using: &world.random))
        world.after(begin) { [weak self] in
            guard let self, isStriking else { return }
            makePeace()
            world.after(.seconds(4)) { [weak self] in self?.clone() }
        }
    }
    private func clone() {
        guard isStriking else { return }
        let victim = Int.random(in: 0..<servers.count, using: &world.random)
        guard servers.mayBeCloned(victim) else { return isPeace = false }
        world.note { "people: start a copy of the store on \(servers.machine(victim))" }
        tally["store cloned", default: 0] += 1
        servers.startClone(of: victim)
        world.after(.seconds(7)) { [weak self] in
            guard let self else { return }
            servers.endClone()
            isPeace = false
        }
    }
    /// No deeds and no faults for a while.
    private func makePeace() {
        isPeace = true
        var quiet = SimFaults.none
        quiet.clockDriftMillionthsMax = plan.faults.clockDriftMillionthsMax
        (world.faults, metadata.faults) = (quiet, .none)
        for index in 0..<servers.count { servers.disk(index).faults.writeErrorOneIn = 0 }
        world.healNetwork()
        servers.resumeAll()
        servers.startAll()
        metadata.resume()
        metadata.start()
    }
}
