import BlockTypes
import CurveClient
import Environment
import Foundation
import ISCSIConfiguration
import ISCSICoordination
import ISCSIProtocol
import ISCSIServer
import Reactor
import SCSICommands
import ToolSupport

/// One volume that is to be a logical unit.
struct UnitPlan {
    /// What the flat addressing of LUNs reaches.
    static let lunsMax: UInt16 = 0x4000
    var lun: UInt16
    var blockBytes: Int
    /// Initiators are told when the pool is so full; 0: never.
    var thresholdPercent = SoftThreshold.usualPercent
    var attach: AttachOptions
}

/// Volumes, attached and served as units of one target until a signal comes or the last one is lost. In a
/// group other gateways serve the same ones; whoever loses one of them then ends at once.
final class TargetGateway {
    private struct Served {
        var plan: UnitPlan
        var volume: RemoteVolume
        var threshold: SoftThreshold
    }
    let reactor: Reactor
    private let target: TargetDescription
    private let addresses: [SocketAddress]
    private let announced: [String]
    private let chap: CHAPDigests
    private let group: String?
    private var server: ISCSIServer?
    private var coordinator: ClusterCoordinator?
    /// In the order in which they were attached.
    private var served: [Served] = []
    private var failure: ToolError?
    private var isStopping = false

    /// - Parameters:
    ///   - announced: where initiators are told to come; nothing: where it listens.
    ///   - group: what the volumes were told to be held in, together with other gateways.
    init(
        reactor: Reactor, target: TargetDescription, listen: [SocketAddress], announced: [String],
        chap: CHAPDigests, group: String?
    ) {
        (self.reactor, self.target, addresses) = (reactor, target, listen)
        (self.announced, self.chap, self.group) = (announced, chap, group)
    }

    func run(_ plans: [UnitPlan]) throws {
        try onTermination(of: reactor) { [self] in stop() }
        if plans.contains(where: \.attach.takeOver) { try checkAddresses() }
        attachNext(plans.sorted { $0.lun < $1.lun }[...])
        reactor.run()
        if let failure { throw failure }
    }

    /// Nobody is to lose a volume to a gateway that then cannot serve it.
    private func checkAddresses() throws {
        for address in addresses {
            do { try reactor.listen(on: address) { $0.close() }.close() } catch {
                throw ToolError.failed("cannot serve: \(words(for: error))")
            }
        }
    }
    /// One after the other: the first that cannot be had ends the gateway.
    private func attachNext(_ plans: ArraySlice<UnitPlan>) {
        guard !isStopping else { return }
        guard let plan = plans.first else { return findPlace() }
        RemoteVolume.attach(environment: reactor, options: plan.attach) { [self] result in
            switch result {
            case .failure(let error):
                failure = error.isNotFound ? .notFound("\(error)") : .failed("\(error)")
                stop()
            case .success(let volume):
                // A signal may have come while it was attached.
                guard !isStopping else { return volume.detach {} }
                served.append(
                    Served(
                        plan: plan, volume: volume,
                        threshold: SoftThreshold(percent: plan.thresholdPercent)))
                volume.lost = { [weak self] in self?.lost(plan) }
                volume.poolUsed = { [weak self] in self?.poolUsed($0, below: plan.lun) }
                attachNext(plans.dropFirst())
            }
        }
    }
    /// Which port group this gateway is: the only one, or what the others leave.
    private func findPlace() {
        guard group != nil else { return begin(1, LocalCoordinator(environment: reactor)) }
        let units = served.map { entry -> (key: UnitKey, volume: any SharedVolume) in
            let identity = UnitIdentity(cluster: entry.volume.cluster, volume: entry.volume.number)
            return (UnitKey(identifier: identity.identifier), entry.volume)
        }
        let coordinator = ClusterCoordinator(
            environment: reactor, target: target.name, name: served.first?.plan.attach.holderKey ?? "",
            units: units)
        self.coordinator = coordinator
        coordinator.expelled = { [weak self] in self?.wasRemoved() }
        coordinator.drainChanged = { [weak self] in self?.drain($0) }
        coordinator.enter { [self] result in
            guard !isStopping else { return }
            switch result {
            case .failure(let error): fail("cannot serve: \(error)")
            case .success(let tag): begin(tag, coordinator)
            }
        }
    }
    private func begin(_ tag: UInt16, _ coordinator: any TargetCoordinator) {
        let server = ISCSIServer(
            environment: reactor, portGroup: tag, coordinator: coordinator, chap: chap)
        self.server = server
        server.discoveryAuthentication = target.authentication
        server.portals = announced
        server.addTarget(target) { [self] error in
            if let error { return fail("cannot serve: \(error)") }
            addNext(served[...], to: server)
        }
    }
    private func addNext(_ entries: ArraySlice<Served>, to server: ISCSIServer) {
        guard !isStopping else { return }
        guard let entry = entries.first else { return open(server) }
        let unit = configuration(of: entry.volume, entry.plan)
        server.addUnit(unit, over: entry.volume, to: target.name) { [self] error in
            if let error { return fail("cannot serve \(entry.plan.attach.path): \(error)") }
            addNext(entries.dropFirst(), to: server)
        }
    }
    private func open(_ server: ISCSIServer) {
        do {
            let listened = try addresses.map { try server.listen(on: $0) }
            if let coordinator {
                if server.toldPortals.isEmpty {
                    reactor.log(
                        .warning,
                        "other gateways cannot tell initiators where this one is; give --advertise HOST:PORT")
                }
                coordinator.announce(portals: server.toldPortals)
                if coordinator.isDraining { drain(true) }
            }
            announceReady(listened)
        } catch { fail("cannot serve: \(words(for: error))") }
    }
    private func poolUsed(_ percent: Int, below lun: UInt16) {
        guard let server, let index = served.firstIndex(where: { $0.plan.lun == lun }),
            served[index].threshold.isPassed(by: percent)
        else { return }
        reactor.log(.warning, "a store of the pool of \(served[index].plan.attach.path) is \(percent) % full")
        server.softThresholdReached(lun, of: target.name)
    }
    /// An operator sends initiators elsewhere, or lets them come again.
    private func drain(_ isDraining: Bool) {
        guard !isStopping, let server else { return }
        guard isDraining else {
            reactor.log(.notice, "initiators may log in again")
            return server.endDrain()
        }
        reactor.log(
            .notice, "initiators are asked to log out, \(server.status.sessions) sessions are open")
        server.drain(redirecting: coordinator?.isRedirecting ?? false) { [weak self] in
            self?.reactor.log(.notice, "no session is left; the gateway can be stopped")
            self?.coordinator?.drained()
        }
    }
    private func fail(_ text: String) {
        guard !isStopping else { return }
        failure = .failed(text)
        stop()
    }
    private func lost(_ plan: UnitPlan) {
        guard !isStopping else { return }
        guard group == nil else { return wasRemoved() }
        guard served.count > 1 else {
            reactor.log(.error, "another client took the volume over; this gateway ends")
            return fail("another client took \(plan.attach.path) over; nothing unanswered was written")
        }
        reactor.log(.error, "another client took \(plan.attach.path) over; LUN \(plan.lun) is gone")
        served.removeAll { $0.plan.lun == plan.lun }
        server?.removeUnit(plan.lun, from: target.name) { _ in }
    }
    /// Others go on without this gateway, and may have changed reservations that it does not know: it says
    /// nothing more, not even a farewell.
    private func wasRemoved() {
        guard !isStopping else { return }
        isStopping = true
        failure = .failed(
            "this gateway was removed from the group '\(group ?? "")', by another one or by an operator; "
                + "nothing unanswered was written; start it again")
        server?.abandon()
        detachAll()
    }
    /// Lets commands under way finish, gives its place and the volumes back, ends.
    private func stop() {
        guard !isStopping else { return }
        isStopping = true
        guard let server else { return leave() }
        server.stop { [self] in leave() }
    }
    private func leave() {
        guard let coordinator, coordinator.tag != nil else { return detachAll() }
        var hasLeft = false
        let left = { [self] in
            guard !hasLeft else { return }
            hasLeft = true
            detachAll()
        }
        // The others find out by themselves when nobody can be told.
        reactor.after(RemoteVolume.goodbyePatience, left)
        coordinator.leave(completed: left)
    }
    private func detachAll() {
        var left = served.count
        guard left > 0 else { return reactor.stop() }
        for entry in served {
            entry.volume.detach { [self] in
                left -= 1
                if left == 0 { reactor.stop() }
            }
        }
    }

    /// What initiators see of a volume: the same wherever it is served.
    private func configuration(of volume: RemoteVolume, _ plan: UnitPlan) -> UnitConfiguration {
        let identity = UnitIdentity(cluster: volume.cluster, volume: volume.number)
        var unit = UnitConfiguration(
            lun: plan.lun, blockBytes: plan.blockBytes, identifier: identity.identifier,
            serial: identity.serial)
        unit.isReadOnly = plan.attach.isReadOnly
        unit.poolThreshold = PoolThreshold(
            usedPercent: plan.thresholdPercent, slackPercent: SoftThreshold.slackPercent)
        unit.atomicBytes = volume.atomicBytes
        // Alone its own locks do, wherever the blocks lie.
        if group != nil { unit.compareUnitBytes = volume.compareUnitBytes }
        return unit
    }
}
