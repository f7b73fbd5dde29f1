import BlockTypes
import Environment
import Simulation

/// Collects what a connection delivers; asks for a window when told to.
final class Collector: ConnectionHandler {
    var bytes: [UInt8] = []
    var deliveries = 0
    var closed: NetworkError?
    var closings = 0
    var drained = 0
    var onBytes: ((Collector) -> Void)?
    var window: BlockBuffer?

    func connectionReceiveWindow() -> UnsafeMutableRawBufferPointer? { window?.bytes }
    func connectionReceived(_ received: UnsafeRawBufferPointer) {
        if let window {
            precondition(window.bytes.baseAddress == UnsafeMutableRawPointer(mutating: received.baseAddress))
        }
        deliveries += 1
        bytes.append(contentsOf: received)
        onBytes?(self)
    }
    func connectionDrained() { drained += 1 }
    func connectionClosed(_ reason: NetworkError) {
        closings += 1
        closed = reason
    }
}

/// Two hosts with one connection between them.
final class Pair {
    let world: SimWorld
    let a: SimHost
    let b: SimHost
    let near = Collector()
    let far = Collector()
    private(set) var nearEnd: (any Connection)!
    private(set) var farEnd: (any Connection)!

    init(seed: UInt64, faults: SimFaults = .none, traceLinesMax: Int = 0) {
        world = SimWorld(seed: seed, faults: faults, traceLinesMax: traceLinesMax)
        a = world.startHost(on: "a")
        b = world.startHost(on: "b")
        _ = try? b.listen(on: .tcp(host: "b", port: 7)) { connection in
            self.farEnd = connection
            connection.handler = self.far
        }
        a.connect(to: .tcp(host: "b", port: 7), timeout: .seconds(60)) { result in
            guard case .success(let connection) = result else { return }
            self.nearEnd = connection
            connection.handler = self.near
        }
        _ = world.run(within: .seconds(60)) { nearEnd != nil && farEnd != nil }
    }
}

/// A pattern that repeats only after an odd number of bytes, made once.
private let patternSource: [UInt8] = {
    let period = (0..<65_537).map { UInt8(truncatingIfNeeded: $0 &* 131 >> 3) }
    return (0..<90).reduce(into: []) { all, _ in all += period }
}()

func pattern(_ count: Int, _ salt: Int = 0) -> [UInt8] {
    Array(patternSource[(salt & 0xFFFF)..<((salt & 0xFFFF) + count)])
}
