import BlockTypes
import CurveClient
import Environment
import Foundation
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
    var attach: AttachOptions
}

/// Volumes, attached and served as units of one target until a signal comes or the last one is lost.
final class TargetGateway {
    private struct Served {
        var plan: UnitPlan
        var volume: RemoteVolume
    }
    let reactor: Reactor
    let server: ISCSIServer
    private let target: TargetDescription
    private let addresses: [SocketAddress]
    /// In the order in which they were attached.
    private var served: [Served] = []
    private var failure: ToolError?
    private var isStopping = false

    init(
        reactor: Reactor, target: TargetDescription, listen: [SocketAddress], chap: CHAPDigests
    ) {
        (self.reactor, self.target, addresses) = (reactor, target, listen)
        server = ISCSIServer(
            environment: reactor, coordinator: LocalCoordinator(environment: reactor), chap: chap)
        server.discoveryAuthentication = target.authentication
    }

    func run(_ plans: [UnitPlan]) throws {
        try onTermination(of: reactor) { [self] in stop() }
        if plans.contains(where: \.attach.takeOver) { try checkAddresses() }
        server.addTarget(target) { [self] error in
            if let error { return fail("cannot serve: \(error)") }
            addNext(plans[...])
        }
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
    private func addNext(_ plans: ArraySlice<UnitPlan>) {
        guard !isStopping else { return }
        guard let plan = plans.first else { return open() }
        RemoteVolume.attach(environment: reactor, options: plan.attach) { [self] result in
            switch result {
            case .failure(let error):
                failure = error.isNotFound ? .notFound("\(error)") : .failed("\(error)")
                stop()
            case .success(let volume):
                served.append(Served(plan: plan, volume: volume))
                // A signal may have come while it was attached.
                guard !isStopping else { return volume.detach {} }
                volume.lost = { [weak self] in self?.lost(plan) }
                let unit = Self.configuration(of: volume, plan)
                server.addUnit(unit, over: volume, to: target.name) { [self] error in
                    if let error { return fail("cannot serve \(plan.attach.path): \(error)") }
                    addNext(plans.dropFirst())
                }
            }
        }
    }
    private func open() {
        do {
            announceReady(try addresses.map { try server.listen(on: $0) })
        } catch { fail("cannot serve: \(words(for: error))") }
    }
    private func fail(_ text: String) {
        guard !isStopping else { return }
        failure = .failed(text)
        stop()
    }
    private func lost(_ plan: UnitPlan) {
        guard !isStopping else { return }
        guard served.count > 1 else {
            reactor.log(.error, "another client took the volume over; this gateway ends")
            return fail("another client took \(plan.attach.path) over; nothing unanswered was written")
        }
        reactor.log(.error, "another client took \(plan.attach.path) over; LUN \(plan.lun) is gone")
        served.removeAll { $0.plan.lun == plan.lun }
        server.removeUnit(plan.lun, from: target.name) { _ in }
    }
    /// Lets commands under way finish, gives the volumes back, ends.
    private func stop() {
        guard !isStopping else { return }
        isStopping = true
        server.stop { [self] in
            var left = served.count
            guard left > 0 else { return reactor.stop() }
            for entry in served {
                entry.volume.detach { [self] in
                    left -= 1
                    if left == 0 { reactor.stop() }
                }
            }
        }
    }

    /// What initiators see of a volume: the same wherever it is served.
    private static func configuration(of volume: RemoteVolume, _ plan: UnitPlan) -> UnitConfiguration {
        let identity = UnitIdentity(cluster: volume.cluster, volume: volume.number)
        var unit = UnitConfiguration(
            lun: plan.lun, blockBytes: plan.blockBytes, identifier: identity.identifier,
            serial: identity.serial)
        unit.isReadOnly = plan.attach.isReadOnly
        return unit
    }
}
