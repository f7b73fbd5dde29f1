import BlockTypes
import Environment

/// A small world for tests of shells: several environments on one clock, joined by streams in memory.
///
/// Nothing happens until the test runs it, and everything happens in one order that the seed decides. It
/// knows no disks and no faults beyond resets; the Simulation room has those.
public final class MemoryWorld {
    /// Time since the start.
    public private(set) var now = Duration.zero
    /// What a received piece is cut to, at most: 1 drips every byte. `nil`: as long as the staging buffer.
    public var pieceBytesMax: Int?
    /// True cuts each piece at a random place below ``pieceBytesMax``.
    public var cutsAtRandom = false
    /// How long bytes travel.
    public var latency = Duration.zero
    /// Lines that environments have logged.
    public private(set) var log: [String] = []
    var random: SeededRandom
    var listeners: [SocketAddress: MemoryListener] = [:]
    private var nextPort: UInt16 = 40000

    private struct Happening {
        let due: Duration
        let order: UInt64
        let action: () -> Void
    }
    private var heap: [Happening] = []
    private var cancelled: Set<UInt64> = []
    private var lastOrder: UInt64 = 0

    /// A world whose chances depend on `seed` alone.
    public init(seed: UInt64 = 1) { random = SeededRandom(seed: seed) }

    /// A process of this world.
    public func environment(_ name: String) -> MemoryEnvironment { MemoryEnvironment(name, self) }

    /// Lets everything happen that is due now, and what follows from it without waiting.
    public func settle() { run(for: .zero) }

    /// Lets `time` pass.
    public func run(for time: Duration) {
        let end = now + time
        var steps = 0
        while let first = heap.first, first.due <= end {
            _ = pop()
            now = max(now, first.due)
            if cancelled.remove(first.order) == nil { first.action() }
            steps += 1
            precondition(steps < 10_000_000, "the world does not come to rest")
        }
        now = end
    }

    @discardableResult func schedule(_ delay: Duration, _ action: @escaping () -> Void) -> UInt64 {
        lastOrder += 1
        push(Happening(due: now + max(delay, .zero), order: lastOrder, action: action))
        return lastOrder
    }
    func cancel(_ order: UInt64) { cancelled.insert(order) }
    func note(_ line: String) { log.append(line) }
    func freePort() -> UInt16 {
        nextPort += 1
        return nextPort
    }
    func pieceBytes() -> Int {
        let most = pieceBytesMax ?? MemoryConnection.stagingBytes
        return cutsAtRandom ? Int.random(in: 1...most, using: &random) : most
    }

    private static func precedes(_ a: Happening, _ b: Happening) -> Bool {
        (a.due, a.order) < (b.due, b.order)
    }
    private func push(_ happening: Happening) {
        heap.append(happening)
        var child = heap.count - 1
        while child > 0, Self.precedes(heap[child], heap[(child - 1) / 2]) {
            heap.swapAt(child, (child - 1) / 2)
            child = (child - 1) / 2
        }
    }
    private func pop() -> Happening? {
        guard let first = heap.first, let last = heap.popLast() else { return nil }
        guard !heap.isEmpty else { return first }
        heap[0] = last
        var parent = 0
        while true {
            var least = parent
            for child in [2 * parent + 1, 2 * parent + 2]
            where child < heap.count && Self.precedes(heap[child], heap[least]) { least = child }
            guard least != parent else { return first }
            heap.swapAt(parent, least)
            parent = least
        }
    }
}

/// One process of a ``MemoryWorld``.
public final class MemoryEnvironment: AdoptingEnvironment {
    private let name: String
    private let world: MemoryWorld
    init(_ name: String, _ world: MemoryWorld) { (self.name, self.world) = (name, world) }

    /// The world's time.
    public var now: Duration { world.now }
    /// Wall time: a fixed date plus the time since the start.
    public var secondsSince1970: UInt64 { 1_800_000_000 + UInt64(world.now.components.seconds) }
    /// Chance by the world's seed.
    public func random() -> UInt64 { world.random.next() }
    /// Runs `action` when the world gets there.
    @discardableResult public func after(_ delay: Duration, _ action: @escaping () -> Void) -> TimerID {
        TimerID(rawValue: world.schedule(delay, action))
    }
    /// Forgets a timer.
    public func cancel(_ timer: TimerID) { world.cancel(timer.rawValue) }

    /// Accepts connections made in this world.
    public func listen(
        on address: SocketAddress, accepted: @escaping (any Connection) -> Void
    ) throws(NetworkError) -> any Listener {
        var address = address
        if case .tcp(let host, 0) = address { address = .tcp(host: host, port: world.freePort()) }
        guard world.listeners[address] == nil else { throw .addressInUse(address) }
        let listener = MemoryListener(address, world, accepted)
        world.listeners[address] = listener
        return listener
    }

    /// Connects in this world; refused where nobody listens.
    public func connect(
        to address: SocketAddress, timeout: Duration,
        completed: @escaping (Result<any Connection, NetworkError>) -> Void
    ) {
        let (world, name) = (world, name)
        world.schedule(world.latency) {
            guard let listener = world.listeners[address] else {
                return completed(.failure(.refused(address)))
            }
            let near = MemoryConnection(world, peer: "\(address)")
            let far = MemoryConnection(world, peer: name)
            (near.other, far.other) = (far, near)
            listener.accepted(far)
            far.start()
            completed(.success(near))
            near.start()
        }
    }
    /// Goes on with what an environment of the same world has released.
    public func adopt(_ moved: any MovedConnection) -> (any Connection)? {
        (moved as? MemoryMovedConnection)?.take(in: world)
    }
    /// Adds to the world's log.
    public func log(_ level: LogLevel, _ message: @autoclosure () -> String) {
        world.note("\(level) \(name): \(message())")
    }
}

final class MemoryListener: Listener {
    let address: SocketAddress
    let accepted: (any Connection) -> Void
    private let world: MemoryWorld
    init(_ address: SocketAddress, _ world: MemoryWorld, _ accepted: @escaping (any Connection) -> Void) {
        (self.address, self.world, self.accepted) = (address, world, accepted)
    }
    func close() { world.listeners[address] = nil }
}
