import BlockTypes
import Environment
import Simulation
import Testing

@Suite("the seeded world") struct WorldTests {
    @Test("timers fire in order of their due time, never early, and not after cancelling")
    func timers() {
        var faults = SimFaults.none
        faults.clockDriftMillionthsMax = 10_000
        let world = SimWorld(seed: 1, faults: faults)
        defer { world.end() }
        let host = world.startHost(on: "a")
        let start = host.now
        var fired: [Int] = []
        for number in [30, 10, 20, 5] {
            let timer = host.after(.milliseconds(number)) {
                #expect(host.now - start >= .milliseconds(number))
                #expect(host.now - start < .milliseconds(number + 1))
                fired.append(number)
            }
            if number == 20 { host.cancel(timer) }
        }
        world.run(for: .seconds(1))
        #expect(fired == [5, 10, 30])
    }
    @Test("clocks drift by at most the bound and start anywhere")
    func drift() {
        var faults = SimFaults.none
        faults.clockDriftMillionthsMax = 10_000
        let world = SimWorld(seed: 2, faults: faults)
        defer { world.end() }
        let hosts = (0..<20).map { world.startHost(on: "m\($0)") }
        let before = hosts.map(\.now)
        world.run(for: .seconds(1000))
        let passed = zip(hosts, before).map { $0.now - $1 }
        #expect(passed.allSatisfy { $0 >= .seconds(990) && $0 <= .seconds(1010) })
        #expect(Set(passed).count > 10 && Set(before).count == 20)
    }
    @Test("nothing of a crashed process runs any more")
    func crashed() {
        let world = SimWorld(seed: 3)
        defer { world.end() }
        let host = world.startHost(on: "a")
        var fired = false
        host.after(.seconds(1)) { fired = true }
        host.crash()
        world.run(for: .seconds(5))
        #expect(!fired && !host.isAlive)
    }
    @Test("the same seed gives the same run, byte by byte; another seed gives another", arguments: 0..<50)
    func sameSeed(seed: UInt64) {
        let first = Self.busyRun(seed)
        #expect(first == Self.busyRun(seed), "seed \(seed)")
        #expect(first != Self.busyRun(seed + 1000))
    }

    /// Chatter, disk traffic, crashes, pauses and partitions.
    static func busyRun(_ seed: UInt64) -> UInt64 {
        var random = SeededRandom(seed: seed)
        let world = SimWorld(seed: seed, faults: .swarm(&random))
        defer { world.end() }
        var disks: [SimDisk] = []
        for index in 0..<3 {
            disks.append(
                SimDisk(
                    world, name: "d\(index)",
                    geometry: DiskGeometry(
                        size: ByteCount(bytes: 1 << 20), sectorBytes: 512, hasVolatileCache: true)))
        }
        var nodes = (0..<3).map { Chatterer(world.startHost(on: "m\($0)"), disks[$0], $0) }
        for _ in 0..<10 {
            world.run(for: .milliseconds(Int.random(in: 1...300, using: &random)))
            let victim = Int.random(in: 0..<3, using: &random)
            switch random.next() % 5 {
            case 0: nodes[victim].host.pause(for: .milliseconds(100))
            case 1: world.isolate("m\(victim)")
            case 2: world.healNetwork()
            default:
                nodes[victim].host.crash()
                nodes[victim] = Chatterer(world.startHost(on: "m\(victim)"), disks[victim], victim)
            }
        }
        return world.trace.hash
    }
}

/// Talks to the other two and keeps its disk busy.
final class Chatterer {
    let host: SimHost
    private let disk: SimDisk
    private var token: UInt64 = 0

    init(_ host: SimHost, _ disk: SimDisk, _ index: Int) {
        (self.host, self.disk) = (host, disk)
        disk.attach(to: host)
        disk.completed = { [unowned self, host] _, _ in
            host.after(.milliseconds(3)) { self.write() }
        }
        _ = try? host.listen(on: .tcp(host: "m\(index)", port: 1)) { connection in
            let collector = Collector()
            collector.onBytes = { [unowned connection] in
                connection.send([.bytes($0.bytes.suffix(3))])
            }
            connection.handler = collector
        }
        for other in 0..<3 where other != index {
            host.connect(to: .tcp(host: "m\(other)", port: 1), timeout: .seconds(2)) { result in
                guard case .success(let connection) = result else { return }
                connection.handler = Collector()
                self.say(connection)
            }
        }
        write()
    }
    private func say(_ connection: any Connection) {
        connection.send([.bytes(pattern(Int(host.random() % 500)))])
        host.after(.milliseconds(Int(host.random() % 20))) { self.say(connection) }
    }
    private func write() {
        token += 1
        let at = ByteOffset(bytes: host.random() % 200 * 512)
        switch host.random() % 4 {
        case 0: disk.submit(.flush(DiskToken(rawValue: token)))
        case 1:
            disk.submit(
                .read(
                    DiskToken(rawValue: token), at: at,
                    into: Payload(BlockBuffer(byteCount: 512), byteCount: 512)))
        default:
            disk.submit(
                .write(
                    DiskToken(rawValue: token), at: at, [Payload(copying: pattern(1024, Int(token)))]))
        }
    }
}
