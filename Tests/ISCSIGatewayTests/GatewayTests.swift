import BlockTypes
import CurveClient
import Environment
import ISCSIConfiguration
import ISCSIServer
import MemoryEnvironment
import MetadataServer
import Testing

@testable import ISCSIGateway

let targetName = "iqn.2026-11.example.com:db"

/// A metadata server in memory, the values in it, and gateways that watch them. There are no chunkservers, so
/// no volume can be attached.
final class Site {
    static let mds = SocketAddress.tcp(host: "mds", port: 6700)
    let world = MemoryWorld()
    let server: MetadataServer
    let values: ClusterValues
    var configuration = ISCSIConfiguration()
    private var version: UInt64 = 0

    init() throws {
        server = try MetadataServer(environment: world.environment("mds"), store: MemoryMetadataStore())
        try server.start(listen: Self.mds)
        values = ClusterValues(environment: world.environment("tool"), metadataServers: [Self.mds])
    }
    /// - Parameter stuck: the loop that stands still from the start.
    func gateway(_ name: String, process: String = "p", loops: Int = 1, stuck: Int? = nil) -> Gateway {
        let gateway = Gateway(self, name, process, loops, stuck)
        world.run(for: .seconds(1))
        return gateway
    }
    /// Changes the configuration, and lets everybody hear of it.
    func change(_ body: (inout ISCSIConfiguration) throws -> Void) throws {
        try body(&configuration)
        try configuration.check()
        put(try StoredConfiguration.encode(configuration))
    }
    func put(_ bytes: [UInt8]) {
        var isDone = false
        values.swap(StoredConfiguration.valueName, expected: version, bytes: bytes) {
            isDone = (try? $0.get().isSwapped) == true
        }
        world.run(for: .seconds(1))
        #expect(isDone)
        version += 1
    }
    func value(_ name: String) -> [UInt8] {
        var bytes: [UInt8] = []
        values.value(name) { bytes = (try? $0.get().bytes) ?? [] }
        world.run(for: .milliseconds(100))
        return bytes
    }
    func report(_ tag: UInt16) throws -> GatewayReport {
        try StoredConfiguration.value(value(GatewayReport.valueName(tag: tag)), "a report")
    }
    func order(_ tag: UInt16, _ orders: GatewayOrders, expected: UInt64) throws {
        values.swap(
            GatewayOrders.valueName(tag: tag), expected: expected, bytes: try StoredConfiguration.json(orders)
        ) { _ in }
        world.run(for: .seconds(1))
    }
}

/// A loop to which others post. What they post waits while it stands still.
final class TestLoop {
    private let environment: MemoryEnvironment
    private var waiting: [@Sendable (any AdoptingEnvironment) -> Void] = []
    var standsStill = false {
        didSet {
            guard !standsStill else { return }
            for action in waiting { run(action) }
            waiting = []
        }
    }
    init(_ environment: MemoryEnvironment) { self.environment = environment }
    private func run(_ action: @escaping @Sendable (any AdoptingEnvironment) -> Void) {
        environment.after(.zero) { [environment] in action(environment) }
    }
    var loop: GatewayLoop {
        let bound = LoopBound<TestLoop>()
        bound.value = self
        return GatewayLoop { action in
            guard let loop = bound.value else { return }
            if loop.standsStill { loop.waiting.append(action) } else { loop.run(action) }
        }
    }
}

/// One process.
final class Gateway {
    let gateway: ConfiguredGateway
    /// The one with the portals first.
    let loops: [TestLoop]
    var ready: [SocketAddress]?
    var failure: String?
    var hasStopped = false
    init(_ site: Site, _ name: String, _ process: String, _ loops: Int, _ stuck: Int?) {
        let environments = (0..<loops).map { _ in site.world.environment("gateway") }
        self.loops = environments.map { TestLoop($0) }
        if let stuck { self.loops[stuck].standsStill = true }
        let all = self.loops.map(\.loop)
        gateway = ConfiguredGateway(
            environment: environments[0], home: all[0], others: Array(all.dropFirst()),
            options: .init(name: name, process: process, metadataServers: [Site.mds]), chap: .openSSL())
        gateway.ready = { [unowned self] in ready = $0 }
        gateway.failed = { [unowned self] in failure = $0 }
        gateway.begin()
    }
    var targets: [String] { gateway.lanes.flatMap(\.facts.offered).map(\.name) }
}

@Suite struct ConfiguredGatewayTests {
    @Test(
        "portals and targets come and go while it runs; what it cannot do is in its report",
        arguments: [1, 3])
    func changes(loops: Int) throws {
        let site = try Site()
        try site.change { try $0.create(PortalEntry(address: "10.0.0.1:3260"), of: "a") }
        let process = site.gateway("a", loops: loops)
        #expect(process.ready == [.tcp(host: "10.0.0.1", port: 3260)] && process.targets.isEmpty)
        #expect(try site.report(1).version == 1)
        try site.change { all in
            try all.create(TargetEntry(name: targetName))
            try all.create(PortalEntry(address: "10.0.0.1:3261"), of: "a")
        }
        #expect(process.targets == [targetName])
        var report = try site.report(1)
        #expect(report.version == 2 && report.items.allSatisfy { $0.problem == nil })
        #expect(report.items.map(\.name) == ["portal 10.0.0.1:3260", "portal 10.0.0.1:3261"])
        try site.change { try $0.create(LUNEntry(number: 0, volume: "/missing"), number: 0, of: targetName) }
        report = try site.report(1)
        #expect(report.version == 3 && report.items.last?.name == "LUN 0 of \(targetName)")
        #expect(report.items.last?.problem?.contains("/missing") == true)
        try site.change { all in
            try all.deleteTarget(targetName, force: true)
            try all.deletePortal("10.0.0.1:3261", of: "a")
        }
        #expect(process.targets.isEmpty)
        #expect(try site.report(1).items.map(\.name) == ["portal 10.0.0.1:3260"])
        #expect(try site.report(1).version == 4)
        process.gateway.stop { process.hasStopped = true }
        site.world.run(for: .seconds(15))
        #expect(process.hasStopped && process.failure == nil)
        #expect(try site.report(1).hasEnded)
    }

    @Test(
        "one that the configuration does not know waits until it does, and serves nothing when it no more does",
        arguments: [1, 3]
    )
    func unknown(loops: Int) throws {
        let site = try Site()
        let process = site.gateway("a", loops: loops)
        #expect(process.ready == [])
        try site.change { all in
            try all.create(PortalEntry(address: "10.0.0.1:3260"), of: "b")
            try all.create(TargetEntry(name: targetName))
        }
        #expect(process.gateway.lanes.isEmpty)
        try site.change { try $0.create(PortalEntry(address: "10.0.0.2:3260"), of: "a") }
        #expect(process.targets == [targetName] && process.gateway.tag == 2)
        try site.change { try $0.deletePortal("10.0.0.2:3260", of: "a") }
        #expect(process.targets.isEmpty && process.gateway.portals.isEmpty)
    }

    @Test(
        "a configuration that makes no sense changes nothing, and neither does another tag",
        arguments: [1, 3])
    func nonsense(loops: Int) throws {
        let site = try Site()
        try site.change { all in
            try all.create(PortalEntry(address: "10.0.0.1:3260"), of: "a")
            try all.create(TargetEntry(name: targetName))
        }
        let process = site.gateway("a", loops: loops)
        site.put(Array("{".utf8))
        #expect(process.targets == [targetName])
        #expect(try site.report(1).items.first?.problem?.contains("cannot be read") == true)
        try site.change { all in
            all.gateways[0].groupTag = 5
            try all.deleteTarget(targetName, force: true)
        }
        #expect(process.targets == [targetName] && process.gateway.tag == 1)
        #expect(try site.report(1).items.first?.problem?.contains("start it again") == true)
        try site.change { $0.gateways[0].groupTag = 1 }
        #expect(process.targets.isEmpty)
        #expect(try site.report(1).items.allSatisfy { $0.problem == nil })
    }

    @Test(
        "of two processes of one name the older one ends, and says which is the newer one", arguments: [1, 3])
    func twice(loops: Int) throws {
        let site = try Site()
        try site.change { try $0.create(PortalEntry(address: "10.0.0.1:3260"), of: "a") }
        let first = site.gateway("a", process: "first", loops: loops)
        let second = site.gateway("a", process: "second", loops: loops)
        site.world.run(for: .seconds(5))
        #expect(first.failure?.contains("another process, second, serves as gateway a now") == true)
        #expect(second.failure == nil)
        #expect(try site.report(1).process == "second")
        // The portal was the first one's when the second one came.
        #expect(try site.report(1).items.allSatisfy { $0.problem == nil })
    }

    @Test("orders that were there before are not for it; later ones are answered", arguments: [1, 3])
    func orders(loops: Int) throws {
        let site = try Site()
        try site.change { try $0.create(PortalEntry(address: "10.0.0.1:3260"), of: "a") }
        var orders = GatewayOrders()
        _ = orders.add(session: 1, start: 1)
        try site.order(1, orders, expected: 0)
        let process = site.gateway("a", loops: loops)
        #expect(try site.report(1).ordersDone == 1)
        let number = orders.add(session: 7, start: process.gateway.start)
        try site.order(1, orders, expected: 1)
        let report = try site.report(1)
        #expect(
            report.ordersDone == number && report.sessions.isEmpty && report.start == process.gateway.start)
    }

    @Test(
        "while the metadata server is away everything goes on, and what changed is heard of afterwards",
        arguments: [1, 3])
    func away(loops: Int) throws {
        let site = try Site()
        try site.change { all in
            try all.create(PortalEntry(address: "10.0.0.1:3260"), of: "a")
            try all.create(TargetEntry(name: targetName))
        }
        let process = site.gateway("a", loops: loops)
        site.server.stop()
        site.world.run(for: .seconds(60))
        #expect(process.targets == [targetName] && process.failure == nil)
        let store = MemoryMetadataStore()
        let other = try MetadataServer(environment: site.world.environment("mds"), store: store)
        try other.start(listen: Site.mds)
        site.world.run(for: .seconds(60))
        // Another cluster's, with nothing in it: an older copy looks the same.
        #expect(process.targets.isEmpty)
    }
}
