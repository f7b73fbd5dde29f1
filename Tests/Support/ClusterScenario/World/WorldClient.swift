import BlockTypes
import CurveClient
import Environment
import NBDServer
import Simulation

/// One client process: attaches a volume, serves it over NBD or uses it itself, may die or be superseded.
final class WorldClient {
    let machine: String
    let volume: WorldVolume
    private let world: SimWorld
    private let host: SimHost
    private let seed: UInt64
    private let metadataServers: [SocketAddress]
    private var takesOver: Bool
    private var attachment: RemoteVolume?
    private var load: VolumeLoad?
    private var gateway: WorldGateway?
    private var mayAsk = true
    private var attempts = 0
    private var pathsNotFound: Set<String> = []
    /// When it first and last asked to attach, and whether an attempt ended without a clear answer: such a
    /// one may still reach the metadata server.
    private(set) var firstAsk: Duration?
    private(set) var lastAsk: Duration?
    private var hasLostAsk = false
    private var attachedAt: Duration?
    var isAttached: Bool { attachedAt != nil }
    private(set) var isLost = false
    private var isDetached = false
    private var attachTrouble: String?

    init(
        _ world: SimWorld, number: Int, _ volume: WorldVolume, _ metadataServers: [SocketAddress],
        takesOver: Bool
    ) {
        machine = "client\(number)"
        self.metadataServers = metadataServers
        host = world.startHost(on: machine)
        (self.world, self.volume, self.takesOver, seed) = (world, volume, takesOver, world.random.next())
    }
    var openCount: Int { load?.openCount ?? 0 }
    func readGauges(_ read: GaugeReader) {
        guard host.isAlive else { return }
        attachment?.readGauges(read)
        gateway?.readGauges(read)
    }
    var isUsable: Bool { host.isAlive && !isLost && !isDetached }
    var isAlive: Bool { host.isAlive }
    /// What it waits for, in words.
    var trouble: String { attachTrouble ?? attachment?.status.waiting ?? "no answer" }
    var process: SimHost { host }
    /// What its NBD server did that the protocol does not allow.
    var violation: String? { gateway?.violation }

    // MARK: Attaching

    func attach() {
        let path = volume.paths[attempts % volume.paths.count]
        let nameChanges = volume.nameChanges
        attempts += 1
        var options = AttachOptions(
            path: path, metadataServers: metadataServers, holder: machine, takeOver: takesOver)
        options.timeout = .seconds(10)
        firstAsk = firstAsk ?? world.trueNow
        lastAsk = world.trueNow
        RemoteVolume.attach(environment: host, options: options) { [weak self] result in
            guard let self, host.isAlive else { return }
            switch result {
            case .success(let attachment): attached(attachment)
            case .failure(let error):
                attachFailed(error, path: path, isNameSteady: nameChanges == volume.nameChanges)
            }
        }
    }
    private func attachFailed(_ error: AttachError, path: String, isNameSteady: Bool) {
        attachTrouble = "\(error)"
        if !error.isHeld, !error.isNotFound { hasLostAsk = true }
        if case .lost(let loss) = error, !isExpected(loss) {
            volume.record.complain("an attachment of \(volume.path) was lost: \(error)")
        }
        if error.isNotFound, volume.isDeletionAsked || volume.isPurged { return isLost = true }
        pathsNotFound = error.isNotFound && isNameSteady ? pathsNotFound.union([path]) : []
        // A renaming that nobody has heard of may come true between two attempts.
        if volume.isNameSure, pathsNotFound.contains(volume.path) {
            volume.record.complain("\(volume.path) is not found: \(error)")
        }
        // A superseded client's attach may be fenced by the newer one: it gives up.
        if volume.client !== self { return isLost = true }
        host.after(.milliseconds(200)) { [weak self] in self?.attach() }
    }
    private func attached(_ attachment: RemoteVolume) {
        (self.attachment, attachedAt, attachTrouble) = (attachment, world.trueNow, nil)
        if let purgedAt = volume.purgedAt, !volume.isDoubtful, let lastAsk, lastAsk > purgedAt {
            volume.record.complain("\(volume.path) was purged and is attached all the same")
        }
        let session = attachment.epoch.rawValue
        volume.record.settle(before: session)
        volume.record.sizes?.saw(attachment.size.bytes)
        attachment.lost = { [weak self] in self?.lost() }
        guard volume.plan.isServedOverNBD else { return use(attachment, on: host, session) }
        let gateway = WorldGateway(attachment, on: host, world, volume.plan)
        self.gateway = gateway
        gateway.connect { [weak self, weak gateway] in
            if let self, let gateway, load == nil { use(gateway.remote, on: gateway.userHost, session) }
        }
    }
    private func use(_ disk: any BlockVolume, on host: SimHost, _ session: UInt32) {
        let load = VolumeLoad(
            disk, on: host, volume.plan.load, volume.record, session: session, seed: seed)
        load.isExpected = { [weak self] error in self?.isExpected(error) ?? true }
        self.load = load
        if mayAsk { load.start() }
    }
    private func lost() {
        isLost = true
        if let reason = attachment?.lossReason, !isExpected(reason) {
            volume.record.complain("\(machine) lost \(volume.path): \(reason)")
        }
    }
    /// Errors that somebody else's deeds explain.
    private func isExpected(_ error: VolumeError) -> Bool {
        switch error {
        case .fenced: volume.isDeletionAsked || volume.isShrunkUnheld || isChallenged
        case .deleted: volume.isDeletionAsked
        // It may know an older size than the one that took its place.
        case .outOfRange, .noSpace: isChallenged
        case .shuttingDown: isDetached || gateway?.hasBroken == true || isLost
        default: false
        }
    }
    /// True when another client's attach may have come after this one's.
    private var isChallenged: Bool {
        volume.clients.contains { other in
            guard other !== self, other.lastAsk != nil, let mine = firstAsk else { return false }
            guard !other.hasLostAsk, let answered = other.attachedAt else { return true }
            return answered >= mine
        }
    }

    // MARK: Deeds

    func stopAsking() {
        mayAsk = false
        load?.stop()
    }
    /// Nobody else is to have the volume.
    func insist() { takesOver = true }
    /// - Returns: false when there is nothing to read through.
    func readEverything() -> Bool {
        guard let load, let attachment else { return false }
        load.readEverything(upTo: Int(attachment.size.bytes) / Geometry.blockBytes)
        return true
    }
    var canBeRead: Bool { isAttached && load != nil }
    func detach(_ done: @escaping () -> Void) {
        stopAsking()
        isDetached = true
        guard let attachment, !isLost else { return done() }
        attachment.detach(completed: done)
    }
    func die() {
        load?.die()
        isLost = true
        gateway?.userHost.kill()
        host.kill()
    }
    func breakGateway() { gateway?.breakOne() }
    func resize(to size: UInt64) {
        guard let attachment, isUsable, isAttached else { return }
        let session = attachment.epoch.rawValue
        let writes = volume.sizeAsked(size)
        host.traceLine { "resizes \(volume.path) to \(size)" }
        attachment.resize(to: ByteCount(bytes: size), allowShrink: true) { [weak self] result in
            guard let self else { return }
            host.traceLine { "told of resize to \(size): \(result)" }
            let isDone = if case .success = result { true } else { false }
            volume.sizeSettled(size, writes, isDone: isDone, session: session)
        }
    }
    func end() {
        gateway?.close()
        load?.end()
        (attachment, load, gateway) = (nil, nil, nil)
    }
}
