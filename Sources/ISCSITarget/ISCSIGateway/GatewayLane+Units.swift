import BlockTypes
import CurveClient
import Environment
import ISCSIConfiguration
import ISCSICoordination
import ISCSIServer

// Volumes that come, go and are tried again.
extension GatewayLane {
    /// Takes the unit's next step, if it waits for nothing.
    func goOn(_ unit: GatewayUnit) {
        guard !isStopping else { return }
        goOnWaiting(unit)
        switch unit.phase {
        case .idle: begin(unit)
        case .served:
            guard let wanted = unit.wanted, isWanted(unit) else { return leave(unit) }
            guard wanted != unit.present else { return }
            unit.present = wanted
            server.changeAccess(to: wanted.lun.number, of: unit.target, wanted.access)
            server.changePoolThreshold(of: wanted.lun.number, of: unit.target, wanted.lun.poolThreshold)
        case .attaching, .entering, .adding, .leaving: break
        }
    }
    /// Initiators wait for a unit as long as the configuration wants it as they know it.
    private func goOnWaiting(_ unit: GatewayUnit) {
        guard let awaited = unit.suspended else { return }
        if let wanted = unit.wanted, wanted.lun.isSameUnit(as: awaited) {
            server.changeAccess(to: unit.number, of: unit.target, wanted.access)
        } else if unit.phase != .adding {
            // One that is just being added is removed when it is there.
            letGo(unit)
        }
    }
    /// Nobody is to wait for the unit any more.
    private func letGo(_ unit: GatewayUnit) {
        guard unit.suspended != nil else { return }
        unit.suspended = nil
        server.removeUnit(unit.number, from: unit.target) { _ in }
    }
    private func begin(_ unit: GatewayUnit) {
        guard let wanted = unit.wanted else {
            cancelRetry(unit)
            units.removeAll { $0 === unit }
            environment.after(.zero) { [weak self] in self?.reconcile() }
            return
        }
        guard unit.retry == nil, let target = targets.first(where: { $0.name == unit.target }) else { return }
        guard target.isServed, target.wanted != nil else {
            if let problem = target.problem { (unit.problem, unit.wasTried) = (problem, true) }
            return
        }
        attach(unit, wanted)
    }
    private func attach(_ unit: GatewayUnit, _ wanted: GatewayPlan.Unit) {
        unit.phase = .attaching
        var attach = AttachOptions(
            path: wanted.lun.volume, metadataServers: options.metadataServers,
            holder: "curve-iscsi gateway \(options.name) on \(options.process)",
            holderKey: "curve-iscsi gateway \(options.name)", isReadOnly: wanted.lun.isReadOnly,
            policy: options.policy)
        attach.group = ConfiguredGateway.group(of: unit.target)
        RemoteVolume.attach(environment: environment, options: attach) { [self] result in
            switch result {
            case .failure(let error):
                guard !isStopping else { return }
                // What was deleted does not come back.
                if error.isNotFound { letGo(unit) }
                fail(unit, "\(error)")
            case .success(let volume):
                // The end, or another wish, may have come while it was attached.
                guard !isStopping else { return volume.detach {} }
                (unit.volume, unit.present) = (volume, wanted)
                volume.lost = { [weak self, weak unit, weak volume] in
                    guard let self, let unit, volume === unit.volume else { return }
                    lost(unit, "another client took the volume, or an operator the membership")
                }
                volume.poolUsed = { [weak self, weak unit, weak volume] percent in
                    guard let self, let unit, volume === unit.volume else { return }
                    poolUsed(percent, by: unit)
                }
                guard isWanted(unit) else { return leave(unit) }
                enter(unit, volume)
            }
        }
    }
    private func isWanted(_ unit: GatewayUnit) -> Bool {
        guard let wanted = unit.wanted, let present = unit.present else { return false }
        return !unit.isLost && wanted.lun.isSameUnit(as: present.lun)
    }
    /// Its pool is so full: initiators are told when that passes the threshold.
    private func poolUsed(_ percent: Int, by unit: GatewayUnit) {
        guard unit.phase == .served, let lun = unit.present?.lun else { return }
        unit.threshold.percent = lun.threshold
        guard unit.threshold.isPassed(by: percent) else { return }
        log(.warning, "\(unit.name): a store of the pool of \(lun.volume) is \(percent) % full")
        server.softThresholdReached(lun.number, of: unit.target)
    }
    private func enter(_ unit: GatewayUnit, _ volume: RemoteVolume) {
        unit.phase = .entering
        let identity = UnitIdentity(cluster: volume.cluster, volume: volume.number)
        let key = UnitKey(identifier: identity.identifier)
        let coordinator = ClusterCoordinator(
            environment: environment, target: unit.target, name: options.name,
            units: [(key: key, volume: volume)])
        unit.coordinator = coordinator
        coordinator.expelled = { [weak self, weak unit, weak coordinator] in
            guard let self, let unit, coordinator === unit.coordinator else { return }
            lost(unit, "another gateway took this one out")
        }
        coordinator.drainChanged = { [weak self, weak coordinator] in
            self?.drainAsked($0, redirecting: coordinator?.isRedirecting ?? false)
        }
        coordinator.drainTold = { [weak self, weak coordinator] in
            if let self, let coordinator { drainTold(by: coordinator) }
        }
        coordinator.enter(tag: tag) { [self] result in
            guard !isStopping, coordinator === unit.coordinator else { return }
            switch result {
            case .failure(let error): fail(unit, "\(error)")
            case .success:
                unit.hasEntered = true
                guard isWanted(unit) else { return leave(unit) }
                coordinators.add(coordinator, key, of: unit.target) { [self] isJoined in
                    guard !isStopping, coordinator === unit.coordinator else { return }
                    guard isJoined else { return fail(unit, "the other gateways cannot be heard of") }
                    announce(unit)
                    // What the gateway is told comes back to all units, this one too.
                    if coordinator.isDraining {
                        drainAsked(true, redirecting: coordinator.isRedirecting)
                    } else {
                        coordinator.drain(isDraining, redirecting: isRedirecting)
                    }
                    add(unit, volume)
                }
            }
        }
    }
    private func add(_ unit: GatewayUnit, _ volume: RemoteVolume) {
        guard isWanted(unit), let wanted = unit.wanted else { return leave(unit) }
        unit.phase = .adding
        unit.present = wanted
        server.addUnit(wanted.configuration(of: volume), over: volume, to: unit.target) { [self] error in
            guard !isStopping else { return }
            if let error { return fail(unit, "\(error)") }
            (unit.phase, unit.problem, unit.wasTried) = (.served, nil, true)
            unit.suspended = nil
            log(.notice, "\(unit.name) is served: \(wanted.lun.volume)")
            goOn(unit)
            tellFacts()
        }
    }

    /// It cannot be served now; it is tried again later.
    private func fail(_ unit: GatewayUnit, _ why: String) {
        let text = "\(unit.wanted?.lun.volume ?? unit.name): \(why)"
        if unit.problem != text { log(.error, "\(unit.name): \(text); tried again") }
        (unit.problem, unit.wasTried) = (text, true)
        leave(unit)
        tellFacts()
    }
    /// Others go on without it: whatever it still said could be wrong.
    private func lost(_ unit: GatewayUnit, _ why: String) {
        guard !isStopping, !unit.isLost else { return }
        unit.isLost = true
        unit.problem = "\(unit.present?.lun.volume ?? unit.name): \(why)"
        log(.error, "\(unit.name): \(unit.problem ?? ""); tried again")
        // Whoever still attaches or enters finds out there.
        if unit.phase == .served { leave(unit) }
        tellFacts()
    }
    private func leave(_ unit: GatewayUnit) {
        let wasServed = unit.phase == .served
        unit.phase = .leaving
        let back = { [self] in
            giveBack(unit) { [self] in
                guard !isStopping else { return }
                (unit.phase, unit.isLost) = (.idle, false)
                if wasServed {
                    let isAwaited = unit.suspended != nil
                    log(.notice, "\(unit.name) \(isAwaited ? "makes initiators wait" : "is served no more")")
                }
                if unit.wanted != nil, unit.problem != nil {
                    unit.retry = environment.after(ConfiguredGateway.retryAfter) { [weak self, weak unit] in
                        guard let self, let unit else { return }
                        unit.retry = nil
                        goOn(unit)
                    }
                }
                reconcile()
            }
        }
        guard wasServed else { return back() }
        guard unit.isLost, let present = unit.present, unit.wanted?.lun.isSameUnit(as: present.lun) == true
        else { return server.removeUnit(unit.number, from: unit.target) { _ in back() } }
        unit.suspended = present.lun
        server.suspendUnit(unit.number, of: unit.target) { _ in back() }
    }
    /// Gives up the unit's place among the gateways and its volume.
    func giveBack(_ unit: GatewayUnit, completed: @escaping () -> Void) {
        guard let volume = unit.volume else {
            environment.after(.zero, completed)
            return
        }
        let (coordinator, hasEntered) = (unit.coordinator, unit.hasEntered)
        (unit.volume, unit.coordinator, unit.hasEntered) = (nil, nil, false)
        volume.lost = nil
        var hasLeft = false
        let left = { [self] in
            guard !hasLeft else { return }
            hasLeft = true
            if let coordinator { coordinators.remove(coordinator) }
            volume.detach(completed: completed)
        }
        guard let coordinator, hasEntered else { return left() }
        coordinator.expelled = nil
        // The others find out by themselves when nobody can be told.
        environment.after(RemoteVolume.goodbyePatience, left)
        coordinator.leave(completed: left)
    }
    func cancelRetry(_ unit: GatewayUnit) {
        if let retry = unit.retry { environment.cancel(retry) }
        unit.retry = nil
    }
}
