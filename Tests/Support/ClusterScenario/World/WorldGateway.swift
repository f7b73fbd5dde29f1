import BlockTypes
import CurveClient
import Environment
import NBDServer
import Simulation

/// A volume served over NBD, and its user: a process of its own on the same machine.
final class WorldGateway {
    let userHost: SimHost
    let remote: NBDRemote
    private let server: NBDServer
    private let connections: Int
    private static let address = SocketAddress.tcp(host: "localhost", port: 10_809)

    init(_ volume: RemoteVolume, on host: SimHost, _ world: SimWorld, _ plan: WorldVolumePlan) {
        userHost = world.startHost(on: host.machineName)
        remote = NBDRemote(userHost, size: volume.size)
        var limits = NBDServerLimits()
        limits.connection.inFlightRequestsMax = plan.requestsPerConnectionMax
        server = NBDServer(environment: host, limits: limits)
        connections = plan.connections
        do {
            try server.add(NBDExport(name: "volume", volume: volume))
            try server.listen(on: Self.address)
        } catch { remote.violation = "the gateway: \(error)" }
    }
    /// Some request may have ended without an answer.
    var hasBroken: Bool { remote.hasBroken }
    var violation: String? { remote.violation }

    func connect(_ ready: @escaping () -> Void) {
        for _ in 0..<connections { dial(ready) }
    }
    /// One connection goes, politely or not; a new one takes its place.
    func breakOne() {
        guard let client = remote.clients.first else { return }
        remote.hasBroken = true
        client.leave(politely: userHost.random() % 2 == 0)
    }
    func close() { server.abandon() }
    func readGauges(_ read: GaugeReader) { server.readGauges(read) }
    private func dial(_ ready: @escaping () -> Void) {
        userHost.connect(to: Self.address, timeout: .seconds(5)) { [weak self] result in
            guard let self else { return }
            guard case .success(let link) = result else {
                userHost.after(.milliseconds(100)) { [weak self] in self?.dial(ready) }
                return
            }
            let client = NBDClient(link)
            // The connection holds its client.
            client.ready = { [weak self, weak client] in
                if let client { self?.remote.add(client) }
                ready()
            }
            client.ended = { [weak self, weak client] in
                guard let self, let client else { return }
                remote.remove(client)
                userHost.after(.milliseconds(5)) { [weak self] in self?.dial(ready) }
            }
        }
    }
}

/// A volume at the far end of NBD connections.
final class NBDRemote: BlockVolume {
    let size: ByteCount
    let isReadOnly = false
    var resized: ((ByteCount) -> Void)?
    fileprivate(set) var clients: [NBDClient] = []
    private let host: SimHost
    private var waiting: [() -> Void] = []
    private var turn = 0
    fileprivate(set) var hasBroken = false
    /// What a server did that the protocol does not allow.
    fileprivate(set) var violation: String?

    init(_ host: SimHost, size: ByteCount) { (self.host, self.size) = (host, size) }

    func submit(_ request: VolumeRequest, completed: @escaping (VolumeResult) -> Void) {
        guard !clients.isEmpty else {
            return waiting.append { [weak self] in self?.submit(request, completed: completed) }
        }
        turn += 1
        let client = clients[turn % clients.count]
        switch request {
        case .read(let start, let byteCount):
            client.ask(.read, offset: start.bytes, byteCount: byteCount) { [weak self] in
                self?.finish($0, isRead: true, completed)
            }
        case .write(let start, let payloads):
            let count = payloads.reduce(0) { $0 + $1.byteCount }
            let flags: UInt16 = turn % 5 == 0 ? 1 : 0
            client.ask(.write, flags: flags, offset: start.bytes, byteCount: count, payloads: payloads) {
                [weak self] in self?.finish($0, isRead: false, completed)
            }
        case .trim(let start, let length):
            client.ask(.trim, offset: start.bytes, byteCount: Int(length.bytes)) { [weak self] in
                self?.finish($0, isRead: false, completed)
            }
        case .writeZeroes(let start, let length):
            let flags: UInt16 = turn % 3 == 0 ? 2 : 0
            client.ask(.zeroes, flags: flags, offset: start.bytes, byteCount: Int(length.bytes)) {
                [weak self] in self?.finish($0, isRead: false, completed)
            }
        // Nobody in the world asks for it.
        case .blockStatus, .compareAndWrite: host.after(.zero) { completed(.failure(.outOfRange)) }
        case .flush:
            client.ask(.flush, offset: 0, byteCount: 0) { [weak self] in
                self?.finish($0, isRead: false, completed)
            }
        }
    }
    private func finish(_ outcome: NBDOutcome, isRead: Bool, _ completed: @escaping (VolumeResult) -> Void) {
        // Never from inside a call of ours.
        host.after(.zero) { completed(Self.result(outcome)) }
    }
    private static func result(_ outcome: NBDOutcome) -> VolumeResult {
        switch outcome {
        case .bytes(let payload): .success([.data(payload)])
        case .done: .success([])
        case .failed(28): .failure(.noSpace)
        case .failed(22): .failure(.outOfRange)
        case .failed(108), .lost: .failure(.shuttingDown)
        case .failed: .failure(.fenced)
        }
    }
    fileprivate func add(_ client: NBDClient) {
        clients.append(client)
        let ready = waiting
        waiting = []
        for ask in ready { ask() }
    }
    fileprivate func remove(_ client: NBDClient) {
        clients.removeAll { $0 === client }
        if let wrong = client.violation { violation = violation ?? wrong }
    }
}
