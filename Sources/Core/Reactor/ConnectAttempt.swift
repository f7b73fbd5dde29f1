import BlockTypes
import CLinux
import Environment
import Glibc

/// Tries the addresses of one peer, one after the other, until one answers or the time is over.
@safe final class ConnectAttempt: RingTarget {
    // SAFETY: `target` is allocated in init and freed in deinit; the kernel's reference to this object keeps
    // it while a connect is in flight.
    private let target = UnsafeMutablePointer<sockaddr_storage>.allocate(capacity: 1)
    private unowned let reactor: Reactor
    private let address: SocketAddress
    private var completed: ((Result<any Connection, NetworkError>) -> Void)?
    private var names: [SocketName] = []
    private var nextName = 0
    private var descriptor: Int32 = -1
    private var isConnecting = false
    private var timer: TimerID?
    private var slot = 0
    /// Why it ended, when this side ended it.
    private var verdict: NetworkError?
    /// What the last address said.
    private var lastError: NetworkError?

    private enum Kind {
        static let connect: UInt8 = 1
        static let fail: UInt8 = 2
    }

    init(
        _ reactor: Reactor, _ address: SocketAddress, timeout: Duration,
        completed: @escaping (Result<any Connection, NetworkError>) -> Void
    ) {
        (self.reactor, self.address, self.completed) = (reactor, address, completed)
        unsafe target.initialize(to: sockaddr_storage())
        super.init()
        slot = reactor.attempts.insert(self)
        timer = reactor.after(timeout) { [self] in
            timer = nil
            end(.timedOut(address))
        }
    }
    deinit { unsafe target.deallocate() }

    func start() {
        switch address {
        case .unix(let path):
            if let name = SocketName(unixPath: path) { names = [name] }
            tryNext()
        case .vsock(let cid, let port):
            // The host is machine 2 to every guest.
            names = [SocketName(vsockCID: cid ?? 2, port: port)]
            tryNext()
        case .inherited: tryNext()  // Which finds nobody.
        case .tcp(let host, let port):
            if let numeric = NameLookup.numeric(host: host, port: port) {
                names = numeric
                tryNext()
            } else {
                lookUp(host, port)
            }
        }
    }
    private func lookUp(_ host: String, _ port: UInt16) {
        let found = LookupResult()
        reactor.jobs.run(
            {
                found.names = NameLookup.blocking(host: host, port: port, forListening: false)
                return 0
            },
            completed: { [self] code in
                guard verdict == nil else { return tell(.failure(.closedHere)) }
                switch found.names {
                case .success(let names): self.names = names
                case .failure(let error): lastError = error
                case nil: lastError = .system(address, errno: -code, call: "name lookup")
                }
                tryNext()
            })
    }
    /// Ends it; the owner hears of it in the next turn at the earliest.
    private func end(_ why: NetworkError) {
        guard verdict == nil, completed != nil else { return }
        verdict = why
        if isConnecting {
            reactor.ring.cancel(self, Kind.connect)
        } else {
            reactor.complete(self, Kind.fail, result: 0)
        }
    }
    func abort() { end(.closedHere) }

    private func tryNext() {
        guard nextName < names.count else {
            verdict = lastError ?? .system(address, errno: ENAMETOOLONG, call: "connect")
            return reactor.complete(self, Kind.fail, result: 0)
        }
        let name = names[nextName]
        nextName += 1
        descriptor = reactor.fault(.socket).map { -$0 } ?? newStreamSocket(name.family)
        guard descriptor >= 0 else {
            lastError = .system(address, errno: -descriptor, call: "socket")
            return tryNext()
        }
        if case .tcp = address {
            tuneTCP(descriptor)
            boundUnacknowledgedTime(descriptor)
        }
        unsafe name.copy(to: target)
        isConnecting = true
        unsafe reactor.submit(.connect, self, Kind.connect) { entry, _ in
            unsafe io_uring_prep_connect(
                entry, descriptor, UnsafeRawPointer(target).assumingMemoryBound(to: sockaddr.self),
                name.length)
        }
    }
    override func completed(_ kind: UInt8, result: Int32, flags: UInt32) {
        guard kind == Kind.connect else { return tell(.failure(verdict ?? .closedHere)) }
        isConnecting = false
        if let verdict {
            close(descriptor)
            return tell(.failure(verdict))
        }
        guard result < 0 else {
            boundSendBufferOnThisHost(descriptor)
            return tell(
                .success(
                    SocketConnection(
                        reactor, descriptor: descriptor, peer: "\(address)", isAccepted: false)))
        }
        close(descriptor)
        lastError = error(-result)
        tryNext()
    }
    private func error(_ errno: Int32) -> NetworkError {
        switch errno {
        case ECONNREFUSED: .refused(address)
        case ETIMEDOUT: .timedOut(address)
        // A Unix socket that is not there: its server has left and cleaned up.
        case ENOENT: .refused(address)
        default: .system(address, errno: errno, call: "connect")
        }
    }
    private func tell(_ result: Result<any Connection, NetworkError>) {
        if let timer { reactor.cancel(timer) }
        timer = nil
        guard let completed else { return }
        self.completed = nil
        reactor.attempts.remove(slot)
        completed(result)
    }
}

/// What a lookup found, carried from its thread to the loop.
private final class LookupResult: @unchecked Sendable {
    // SAFETY: written by the lookup's thread before it posts its reply, read on the loop after that.
    var names: Result<[SocketName], NetworkError>?
}

extension Reactor {
    /// Connects. Host names are looked up on a thread of their own; the timeout covers that too.
    public func connect(
        to address: SocketAddress, timeout: Duration,
        completed: @escaping (Result<any Connection, NetworkError>) -> Void
    ) {
        let attempt = ConnectAttempt(self, address, timeout: timeout, completed: completed)
        if isStopping { attempt.abort() } else { attempt.start() }
    }
}
