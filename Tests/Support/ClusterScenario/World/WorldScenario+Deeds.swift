import Environment
import Simulation

// What the nemesis does.
extension WorldScenario {
    func strike(_ deed: WorldDeed) {
        tally["deed \(deed)", default: 0] += 1
        let victim = Int.random(in: 0..<servers.count, using: &world.random)
        world.note { "nemesis: \(deed)" }
        switch deed {
        case .powerLoss, .powerLossOfAll, .kill, .breakDuringIO, .move, .swapStores, .hangDisk:
            strike(deed, victim)
        case .pause: servers.process(victim)?.pause(for: anyTime(upTo: 4000))
        case .isolate: world.isolate(anyMachine())
        case .blockOneWay: world.block(from: anyMachine(), to: anyMachine())
        case .slow: world.slow(from: anyMachine(), to: anyMachine(), by: anyTime(upTo: 1000))
        case .heal: world.healNetwork()
        case .wallJump:
            let seconds = Int64.random(in: -100_000...100_000, using: &world.random)
            let process = world.random.oneIn(2) ? metadata.process : servers.process(victim)
            process?.jumpWallClock(bySeconds: seconds)
        case .metadataDown: metadata.kill(thenStartAfter: anyTime(upTo: 4000))
        case .metadataPause: metadata.process?.pause(for: anyTime(upTo: 4000))
        case .clientPauses, .clientDies, .takeOver, .twoTakers, .gatewayBreaks: strikeClient(deed)
        }
    }
    private func strike(_ deed: WorldDeed, _ victim: Int) {
        switch deed {
        case .powerLoss: servers.losePower(victim, for: anyTime(upTo: 3000))
        case .powerLossOfAll:
            let outage = anyTime(upTo: 2000)
            for index in 0..<servers.count { servers.losePower(index, for: outage) }
        case .breakDuringIO:
            let count = Int.random(in: 1...60, using: &world.random)
            servers.breakDuringIO(victim, count: count, losesPower: world.random.oneIn(2))
            // Half of the time it is the recovery that meets its end.
            if world.random.oneIn(2) { servers.kill(victim, thenStartAfter: anyTime(upTo: 500)) }
        case .move: servers.move(victim, downFor: anyTime(upTo: 1000))
        case .swapStores:
            let other = Int.random(in: 0..<servers.count, using: &world.random)
            servers.swap(victim, other, downFor: anyTime(upTo: 1000))
        case .hangDisk: servers.hangDisk(victim, for: anyTime(upTo: 5000))
        default: servers.kill(victim, thenStartAfter: anyTime(upTo: 2000))
        }
    }
    private func strikeClient(_ deed: WorldDeed) {
        let used = volumes.filter { $0.client != nil && !$0.isPurged && !$0.isRecycled }
        guard !used.isEmpty else { return }
        let volume = used[Int.random(in: 0..<used.count, using: &world.random)]
        switch deed {
        case .clientDies:
            volume.client?.die()
            newClient(for: volume, takesOver: world.random.oneIn(2))
        case .clientPauses: volume.client?.process.pause(for: anyTime(upTo: 14_000))
        case .gatewayBreaks: volume.client?.breakGateway()
        case .twoTakers:
            newClient(for: volume, takesOver: true)
            newClient(for: volume, takesOver: true)
        default: newClient(for: volume, takesOver: true)
        }
    }
    func anyTime(upTo milliseconds: Int) -> Duration {
        .milliseconds(Int.random(in: 1...milliseconds, using: &world.random))
    }
    private func anyMachine() -> String {
        let clients = volumes.compactMap(\.client)
        let choice = Int.random(in: 0...(servers.count + clients.count), using: &world.random)
        if choice == servers.count { return WorldMetadata.machine }
        return choice < servers.count ? servers.machine(choice) : clients[choice - servers.count - 1].machine
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
        guard servers.isServing(victim) else { return isPeace = false }
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
        world.healNetwork()
        servers.resumeAll()
        servers.startAll()
        metadata.process?.resume()
        metadata.start()
    }
}
