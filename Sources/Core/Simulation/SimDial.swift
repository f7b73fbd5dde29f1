import BlockTypes
import Environment

/// A socket that accepts connections on a simulated machine.
final class SimListener: Listener {
    let number: UInt64
    let host: SimHost
    private let key: SocketAddress
    let accepted: (any Connection) -> Void

    init(host: SimHost, number: UInt64, key: SocketAddress, accepted: @escaping (any Connection) -> Void) {
        (self.host, self.number, self.key, self.accepted) = (host, number, key, accepted)
    }
    var address: SocketAddress { key }
    func close() {
        guard host.machine.listeners[key] === self else { return }
        host.machine.listeners[key] = nil
        host.disown(self)
    }
}

/// One attempt to connect: asks again while nothing answers, as TCP does, until its time is up.
final class SimDial {
    private let from: SimHost
    private let to: SimMachine?
    private let key: SocketAddress
    private let address: SocketAddress
    private let timeout: Duration
    private var completed: ((Result<any Connection, NetworkError>) -> Void)?
    private var retryNanoseconds: Int64 = 1_000_000_000
    private var isSettled = false
    private var world: SimWorld { from.world }

    init(
        from: SimHost, to: SimMachine?, key: SocketAddress, address: SocketAddress, timeout: Duration,
        completed: @escaping (Result<any Connection, NetworkError>) -> Void
    ) {
        (self.from, self.to, self.key, self.address) = (from, to, key, address)
        (self.timeout, self.completed) = (timeout, completed)
    }

    func start() {
        guard let to else {
            return settle(
                .failure(.system(address, errno: Self.noSuchName, call: "getaddrinfo")), afterNanoseconds: 0)
        }
        from.after(timeout) { self.settle(.failure(.timedOut(self.address)), afterNanoseconds: 0) }
        world.schedule(afterNanoseconds: SimPipe.latency(from: from.machine, to: to, world), owner: nil) {
            self.ask(to)
        }
    }

    private static let noSuchName: Int32 = 2  // ENOENT

    private func ask(_ to: SimMachine) {
        guard !isSettled, from.isAlive else { return }
        guard SimPipe.reaches(from: from.machine, to: to), SimPipe.reaches(from: to, to: from.machine) else {
            world.schedule(afterNanoseconds: retryNanoseconds, owner: nil) { self.ask(to) }
            retryNanoseconds = min(2 * retryNanoseconds, 8_000_000_000)
            return
        }
        let back = SimPipe.latency(from: to, to: from.machine, world)
        guard let listener = to.listeners[key], listener.host.isAlive else {
            return settle(.failure(.refused(address)), afterNanoseconds: back)
        }
        let (near, far) = SimConnection.pair(
            from, listener.host, nearName: address.description, farName: from.machine.name)
        let accepted = listener.accepted
        listener.host.schedule { accepted(far) }
        settle(.success(near), afterNanoseconds: back)
    }
    private func settle(
        _ result: Result<any Connection, NetworkError>, afterNanoseconds delay: Int64
    ) {
        guard !isSettled, let completed else { return }
        isSettled = true
        self.completed = nil
        world.note {
            if case .failure(let error) = result { return "\(from): connect to \(address): \(error)" }
            return "\(from): connected to \(address)"
        }
        from.schedule(afterNanoseconds: delay) { completed(result) }
    }
}
