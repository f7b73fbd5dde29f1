import BlockTypes
import ControlMessages
import CurveClient
import CurveWire
import Environment
import FramedLink
import ISCSIConfiguration
import ISCSIInitiator
import MemoryEnvironment
import Testing

@testable import ISCSIGateway

/// A chunkserver that agrees to everything and keeps nothing: enough to attach a volume.
private final class NodServer {
    private var listener: (any Listener)?
    private var links: [FramedLink] = []
    init(_ site: Site, _ number: UInt64) throws {
        let environment = site.world.environment("10.1.0.\(number)")
        let hello = Hello(
            role: .chunkserver, cluster: site.server.clusterID, server: ServerID(number),
            incarnation: Incarnation(1))
        let address = SocketAddress.tcp(host: "10.1.0.\(number)", port: 7000)
        listener = try environment.listen(on: address) { [unowned self] connection in
            let link = FramedLink(
                connection: connection, environment: environment, pool: BufferPool(), mine: hello
            ) { _ in nil }
            links.append(link)
            link.onFrame = { [unowned link] frame in
                guard case .request(let id, _) = frame else { return }
                link.send(.reply(id: id, BlockReply(status: .ok)))
            }
        }
    }
}

/// A cell with volumes: three chunkservers that the metadata server knows.
private final class Cell {
    let site: Site
    private let channel: ControlChannel
    private var servers: [NodServer] = []

    init() throws {
        site = try Site()
        channel = ControlChannel(
            environment: site.world.environment("tool"), addresses: [Site.mds], hello: Hello(role: .tool),
            pool: BufferPool())
        for number in UInt64(1)...3 {
            servers.append(try NodServer(site, number))
            let device = UniqueID(high: 5, low: number).controlBytes
            var allocate = ControlAllocateServerRequest()
            (allocate.deviceID, allocate.host) = (device, "h\(number)")
            ask(.allocateServer(allocate))
            var register = ControlRegisterServerRequest()
            (register.clusterID, register.deviceID) = (site.server.clusterID.controlBytes, device)
            (register.server, register.incarnation) = (number, 1)
            (register.addresses, register.host) = (["10.1.0.\(number):7000"], "h\(number)")
            register.capacityBytes = 1 << 40
            ask(.registerServer(register))
        }
        var pool = ControlCreatePoolRequest()
        (pool.name, pool.replicas, pool.copysets, pool.failureDomain) = ("main", 3, 4, .server)
        ask(.createPool(pool))
        try site.change { all in
            try all.create(PortalEntry(address: "\(Self.portal)"), of: "a")
            try all.create(TargetEntry(name: targetName))
            try all.create(InitiatorEntry(initiator: "*"), of: targetName)
            for (number, path) in ["/one", "/two"].enumerated() {
                create(path)
                let lun = UInt16(number)
                try all.create(LUNEntry(number: lun, volume: path), number: lun, of: targetName)
            }
        }
    }
    static let portal = SocketAddress.tcp(host: "10.0.0.1", port: 3260)

    @discardableResult func ask(_ body: ControlRequest.OneOf_Body) -> ControlResponse? {
        var answer: ControlResponse?
        channel.call(ControlRequest(body), timeout: .seconds(5)) { answer = try? $0.get() }
        site.world.run(for: .milliseconds(100))
        #expect(answer != nil)
        return answer
    }
    func create(_ path: String) {
        var create = ControlCreateVolumeRequest()
        (create.path, create.sizeBytes) = (path, 64 << 20)
        ask(.createVolume(create))
    }
    func delete(_ path: String) {
        var delete = ControlDeleteVolumeRequest()
        delete.path = path
        ask(.deleteVolume(delete))
    }
    /// As an operator does it: `curve volume expel`.
    func expelAll(_ path: String) {
        var question = ControlGetVolumeRequest()
        question.path = path
        let members = ask(.getVolume(question))?.volume.volume.members ?? []
        #expect(members.count == 1)
        var options = AttachOptions(path: path, metadataServers: [Site.mds], holder: "tool")
        options.group = ConfiguredGateway.group(of: targetName)
        for member in members {
            var isDone = false
            RemoteVolume.removeMember(
                Epoch(member.epoch), force: true, environment: site.world.environment("tool"),
                options: options
            ) { isDone = (try? $0.get()) != nil }
            site.world.run(for: .milliseconds(100))
            #expect(isDone)
        }
    }
}

@Suite struct LostVolumeTests {
    private static let (ready, read) = (
        [UInt8](repeating: 0, count: 6), [0x28] + [UInt8](repeating: 0, count: 9)
    )
    private static let (becomingReady, noSuchLUN): ([UInt8], [UInt8]) = ([2, 4, 1], [5, 0x25, 0])

    private static func served() throws -> (Cell, Gateway, Guest) {
        let cell = try Cell()
        let process = cell.site.gateway("a")
        cell.site.world.run(for: .seconds(1))
        let guest = Guest(cell.site, targetName, by: Cell.portal)
        #expect(guest.isLoggedIn)
        for lun in UInt64(0)...1 {
            #expect(guest.ask(ready, lun: lun) == [6, 0x29, 0])
            #expect(guest.ask(ready, lun: lun) == [])
        }
        return (cell, process, guest)
    }
    /// Ends the gateway's membership of LUN 0's volume, and lets it hear of that.
    private static func lose(_ cell: Cell, _ guest: Guest) {
        cell.expelAll("/one")
        for _ in 0..<100 where guest.ask(ready) == [] { cell.site.world.run(for: .milliseconds(100)) }
        #expect(guest.ask(ready) == becomingReady)
    }

    @Test("a LUN whose volume was lost makes its initiators wait, until it is attached again")
    func comesBack() throws {
        let (cell, process, guest) = try Self.served()
        Self.lose(cell, guest)
        var answers: [[UInt8]?] = []
        for _ in 0..<100 {
            answers.append(guest.ask(Self.ready))
            #expect(guest.ask(Self.ready, lun: 1) == [])
            if answers.last == [] { break }
            cell.site.world.run(for: .milliseconds(100))
        }
        #expect(answers.count > 3 && answers.dropLast(2).allSatisfy { $0 == Self.becomingReady })
        #expect(answers.suffix(2) == [[6, 0x29, 0], []])
        #expect(process.failure == nil)
    }
    @Test("one that the operator removes meanwhile is gone for good; so is one that gets another volume")
    func unwanted() throws {
        for isRemoved in [true, false] {
            let (cell, process, guest) = try Self.served()
            Self.lose(cell, guest)
            try cell.site.change { all in
                try all.deleteLUN(0, of: targetName)
                if !isRemoved {
                    try all.create(LUNEntry(number: 0, volume: "/none"), number: 0, of: targetName)
                }
            }
            #expect(guest.ask(Self.ready) == Self.noSuchLUN)
            #expect(guest.ask(Self.ready, lun: 1) == [6, 0x3f, 0x0e])
            cell.site.world.run(for: .seconds(10))
            #expect(guest.ask(Self.ready) == Self.noSuchLUN && process.failure == nil)
        }
    }
    @Test("who loses the sight of it while it is away finds no LUN, and hears so")
    func hidden() throws {
        let (cell, process, guest) = try Self.served()
        Self.lose(cell, guest)
        try cell.site.change { all in
            var rule = InitiatorEntry(initiator: "iqn.2000-01.com.example:guest")
            rule.luns = [1]
            try all.create(rule, of: targetName)
        }
        #expect(guest.ask(Self.ready) == Self.noSuchLUN && process.failure == nil)
        #expect(guest.ask(Self.ready, lun: 1) == [6, 0x3f, 0x0e])
    }
    @Test("one whose volume is deleted meanwhile is gone")
    func deleted() throws {
        let (cell, process, guest) = try Self.served()
        Self.lose(cell, guest)
        cell.site.world.run(for: .milliseconds(100))
        cell.delete("/one")
        cell.site.world.run(for: ConfiguredGateway.retryAfter + .seconds(1))
        #expect(guest.ask(Self.ready) == Self.noSuchLUN && process.failure == nil)
        #expect(guest.ask(Self.ready, lun: 1) == [6, 0x3f, 0x0e])
    }
    @Test("another volume of the same path is another unit: nobody goes on with it as if nothing was")
    func replaced() throws {
        let (cell, process, guest) = try Self.served()
        Self.lose(cell, guest)
        cell.site.world.run(for: .milliseconds(100))
        cell.delete("/one")
        cell.create("/one")
        var answers: [[UInt8]?] = []
        for _ in 0..<100 where answers.last != [] {
            answers.append(guest.ask(Self.ready))
            cell.site.world.run(for: .milliseconds(100))
        }
        #expect(answers.last == [] && answers.contains([6, 0x29, 0]) && process.failure == nil)
        #expect(guest.ask(Self.ready, lun: 1) == [6, 0x3f, 0x0e])
    }
    @Test("a LUN that was never served is not there, however long it is tried")
    func neverServed() throws {
        let cell = try Cell()
        try cell.site.change { all in
            try all.create(LUNEntry(number: 2, volume: "/missing"), number: 2, of: targetName)
        }
        let process = cell.site.gateway("a")
        cell.site.world.run(for: .seconds(1))
        let guest = Guest(cell.site, targetName, by: Cell.portal)
        #expect(guest.ask(Self.ready, lun: 2) == Self.noSuchLUN && process.failure == nil)
    }
}
