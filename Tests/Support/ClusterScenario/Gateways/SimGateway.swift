import BlockTypes
import CurveClient
import Environment
import ISCSICoordination
import ISCSIProtocol
import ISCSIServer
import SCSICommands
import Simulation

/// One gateway on a machine of its own, as `curve-iscsi serve --group` runs it: started again when it ends.
final class SimGateway {
    static let target = "iqn.2026-11.io.curve:shared"
    let number: Int
    let machine: String
    private let world: SimWorld
    private let pool: BufferPool
    /// Its present process; others' callbacks are late.
    private(set) var host: SimHost?
    private var volume: RemoteVolume?
    private var coordinator: ClusterCoordinator?
    private var server: ISCSIServer?
    private(set) var isServing = false
    private(set) var starts = 0
    /// Every chunkserver has answered it since ``reachStores()``.
    private(set) var reachesStores = false
    private var mustReachStores = false
    private(set) var trouble: String?
    private var isStopping = false
    /// When it stood still.
    private var standstills: [Range<Duration>] = []
    /// ISCSIServer, "Promises and limits": a beat of one second that is late by three; and some for its clock.
    private static let noticedStandstill = Duration.seconds(5)
    /// Of processes that are gone: what they waited for and they themselves refer to each other until the run
    /// ends.
    private var retired: [(server: ISCSIServer?, coordinator: ClusterCoordinator?, volume: RemoteVolume?)] =
        []

    init(_ world: SimWorld, number: Int, pool: BufferPool) {
        (self.world, self.number, self.pool) = (world, number, pool)
        machine = "gw\(number)"
    }
    var address: SocketAddress { .tcp(host: machine, port: 3260) }

    // MARK: Life

    func start() {
        guard host?.isAlive != true, !isStopping else { return }
        starts += 1
        let host = world.startHost(on: machine)
        self.host = host
        attach(on: host)
    }
    private func attach(on host: SimHost) {
        var options = AttachOptions(
            path: "/volume", metadataServers: [ScenarioDirectory.address], holder: machine,
            holderKey: machine)
        (options.timeout, options.group) = (.seconds(10), "gateways")
        RemoteVolume.attach(environment: host, options: options) { [weak self] result in
            guard let self, self.host === host, host.isAlive else { return }
            switch result {
            case .failure(let error): end(host, "\(error)")
            case .success(let volume): enter(volume, on: host)
            }
        }
    }
    private func enter(_ volume: RemoteVolume, on host: SimHost) {
        self.volume = volume
        volume.lost = { [weak self] in self?.end(host, "the volume is lost") }
        let unit = Self.unit(volume)
        let coordinator = ClusterCoordinator(
            environment: host, target: Self.target, name: machine,
            units: [(UnitKey(identifier: unit.identifier), volume)])
        self.coordinator = coordinator
        coordinator.expelled = { [weak self] in self?.end(host, "expelled") }
        coordinator.enter { [weak self] result in
            guard let self, self.host === host, host.isAlive else { return }
            switch result {
            case .failure(let error): end(host, "\(error)")
            case .success(let tag): serve(unit, volume, coordinator, tag, on: host)
            }
        }
    }
    private func serve(
        _ unit: UnitConfiguration, _ volume: RemoteVolume, _ coordinator: ClusterCoordinator, _ tag: UInt16,
        on host: SimHost
    ) {
        let server = ISCSIServer(
            environment: host, portGroup: tag, coordinator: coordinator, pool: pool)
        self.server = server
        server.addTarget(TargetDescription(name: Self.target)) { [weak self] error in
            guard let self, self.host === host else { return }
            if let error { return end(host, "\(error)") }
            server.addUnit(unit, over: volume, to: Self.target) { [weak self] error in
                guard let self, self.host === host else { return }
                if let error { return end(host, "\(error)") }
                do {
                    try server.listen(on: address)
                    isServing = true
                    if mustReachStores { reachStores() }
                } catch { end(host, "\(error)") }
            }
        }
    }
    private static func unit(_ volume: RemoteVolume) -> UnitConfiguration {
        let identity = UnitIdentity(cluster: UniqueID(high: 1, low: 2), volume: volume.number)
        var unit = UnitConfiguration(lun: 0, identifier: identity.identifier, serial: identity.serial)
        unit.compareUnitBytes = volume.compareUnitBytes
        return unit
    }
    /// The process ends at once, and whoever runs it starts it again.
    private func end(_ host: SimHost, _ why: String) {
        guard self.host === host, host.isAlive else { return }
        trouble = why
        world.note { "\(machine) ends: \(why)" }
        server?.abandon()
        host.after(.zero) { [weak self] in
            guard self?.host === host else { return }
            self?.die(startingAfter: .milliseconds(500))
        }
    }
    /// The process stands still, and goes on by itself.
    func standStill(for time: Duration) {
        guard let host, host.isAlive, !host.isPaused else { return }
        host.pause(for: time)
        standstills.append(world.trueNow..<(world.trueNow + time))
    }
    /// It goes on now.
    func goOn() {
        host?.resume()
        endStandstill()
    }
    private func endStandstill() {
        guard let last = standstills.last, last.contains(world.trueNow) else { return }
        standstills[standstills.count - 1] = last.lowerBound..<world.trueNow
    }
    /// What was sent at `time` came while it stood still, and by now it has, or had, for so long that it must
    /// notice: it is never carried out.
    func overlooks(sentAt time: Duration) -> Bool {
        standstills.contains {
            $0.contains(time) && min($0.upperBound, world.trueNow) - $0.lowerBound > Self.noticedStandstill
        }
    }
    func die(startingAfter rest: Duration) {
        host?.kill()
        forget()
        world.after(rest) { [weak self] in self?.start() }
    }
    /// Reads the whole volume, and again when it is started anew, so that what its connections to
    /// chunkservers went through is noticed and over.
    func reachStores() {
        mustReachStores = true
        if isServing { readOn(from: 0) }
    }
    private func readOn(from start: UInt64) {
        guard let volume, let host, host.isAlive else { return }
        let left = volume.size.bytes - start
        guard left > 0 else { return reachesStores = true }
        let count = min(left, UInt64(1 << 20))
        volume.submit(.read(start: ByteOffset(bytes: start), byteCount: Int(count))) { [weak self] result in
            guard let self, self.host === host else { return }
            if case .success = result { return readOn(from: start + count) }
            host.after(.milliseconds(100)) { [weak self] in
                if self?.host === host { self?.readOn(from: start) }
            }
        }
    }
    private func forget() {
        endStandstill()
        reachesStores = false
        retired.append((server, coordinator, volume))
        (server, coordinator, volume, isServing) = (nil, nil, nil, false)
    }
    /// Ends in order.
    func stop(stopped: @escaping () -> Void) {
        isStopping = true
        guard let server, let coordinator, let volume, host?.isAlive == true else { return stopped() }
        server.stop(drainFor: .seconds(5)) {
            coordinator.leave { volume.detach { stopped() } }
        }
    }
    /// The run is over.
    func end() {
        forget()
        for process in retired {
            process.server?.abandon()
            process.coordinator?.abandon()
            process.volume?.abandon()
        }
        retired = []
    }
    func readGauges(_ read: GaugeReader) {
        guard host?.isAlive == true else { return }
        server?.readGauges(read)
        volume?.readGauges(read)
    }
}
