import BlockTypes
import CurveClient
import Environment
import Simulation

/// One client process: attaches the volume, puts load on it, may die or be superseded.
final class ScenarioClient {
    let machine: String
    private let host: SimHost
    private let plan: LoadPlan
    private let record: LoadRecord
    private let pool: BufferPool
    private let seed: UInt64
    private var volume: RemoteVolume?
    private var load: VolumeLoad?
    private var mayAsk = true
    private(set) var isAttached = false
    private(set) var isLost = false
    private var attachTrouble: String?
    /// Another client tries to attach: this one need not go on trying.
    var isSuperseded = false
    /// True when somebody asked for the volume and got it after this client, who had this epoch.
    private let wasTakenOver: (_ machine: String, _ epoch: UInt32) -> Bool
    /// True while it waits for an answer to its attach.
    private(set) var isAsking = false

    init(
        _ world: SimWorld, number: Int, _ plan: LoadPlan, _ record: LoadRecord, pool: BufferPool,
        seed: UInt64,
        wasTakenOver: @escaping (_ machine: String, _ epoch: UInt32) -> Bool
    ) {
        self.wasTakenOver = wasTakenOver
        machine = "client\(number)"
        host = world.startHost(on: machine)
        (self.plan, self.record, self.pool, self.seed) = (plan, record, pool, seed)
    }
    var openCount: Int { load?.openCount ?? 0 }
    func readGauges(_ read: GaugeReader) { if host.isAlive { volume?.readGauges(read) } }
    var isUsable: Bool { host.isAlive && !isLost }
    /// What it waits for, in words.
    var trouble: String? { attachTrouble ?? volume?.status.waiting }

    func attach() {
        var options = AttachOptions(
            path: "/volume", metadataServers: [ScenarioDirectory.address], holder: machine, takeOver: true)
        options.timeout = .seconds(10)
        isAsking = true
        RemoteVolume.attach(environment: host, options: options) { [weak self] result in
            guard let self, host.isAlive else { return }
            isAsking = false
            switch result {
            case .success(let volume): attached(volume)
            case .failure(let error):
                attachTrouble = "\(error)"
                // A superseded client's attach may be fenced by the newer one: it gives up.
                if isSuperseded { return isLost = true }
                host.after(.milliseconds(200)) { [weak self] in self?.attach() }
            }
        }
    }
    private func attached(_ volume: RemoteVolume) {
        (self.volume, isAttached, attachTrouble) = (volume, true, nil)
        record.settle(before: volume.epoch.rawValue)
        volume.lost = { [weak self] in
            guard let self else { return }
            isLost = true
            if !isOutdated() { record.complain("\(machine) was fenced and nobody had taken over") }
        }
        let load = VolumeLoad(
            volume, on: host, plan, record, session: volume.epoch.rawValue, seed: seed)
        load.isExpected = { [weak self] error in error == .fenced && self?.isOutdated() == true }
        self.load = load
        if mayAsk { load.start() }
    }
    private func isOutdated() -> Bool { volume.map { wasTakenOver(machine, $0.epoch.rawValue) } ?? false }
    func stopAsking() {
        mayAsk = false
        load?.stop()
    }
    func readEverything() { load?.readEverything() }
    func detach() { volume?.detach {} }
    func die() {
        load?.die()
        (isLost, isAsking) = (true, false)
        host.kill()
    }
    func end() {
        load?.end()
        (volume, load) = (nil, nil)
    }
}
