import BlockTypes
import Environment
import ISCSIInitiator
import MemoryEnvironment
import SCSICommands
import TestVolumes
import Testing

@testable import ISCSIProtocol
@testable import ISCSIServer

@Suite struct TroubleTests {
    @Test("a client that does not log in is closed in time, one that did stays")
    func loginTimeout() throws {
        let site = try Site()
        let (idle, served) = (site.initiator("10.0.0.7:1"), site.servedInitiator())
        site.world.run(for: .seconds(11))
        #expect(idle.closed != nil && served.closed == nil && site.server.status.connections == 1)
        site.expectService()
    }
    @Test("200 idle sockets keep nobody out; who came alone keeps its place")
    func idlers() throws {
        let site = try Site()
        let alone = site.initiator("10.0.0.6:1")
        let crowd = (0..<200).map { site.initiator("10.0.0.7:\($0)") }
        site.expectService()
        #expect(alone.closed == nil && crowd.filter { $0.closed == nil }.count == 126)
        #expect(site.server.status.logins == 127)
    }
    @Test("with all places taken by initiators that are served a newcomer is refused, with one line")
    func full() throws {
        let site = try Site { limits, _, _ in limits.connectionsMax = 3 }
        let served = (1...3).map { site.servedInitiator("10.0.0.\($0):1", isid: UInt64($0)) }
        for _ in 0..<3 { #expect(site.initiator("10.0.0.7:1").closed != nil) }
        #expect(served.allSatisfy { $0.closed == nil })
        #expect(site.world.log.filter { $0.contains("refused 10.0.0.7") }.count == 1)
        served[1].link?.reset()
        site.world.settle()
        site.expectService()
    }
    @Test("an initiator that never reads is held at its bound, disturbs nobody, and is given up")
    func deaf() throws {
        let site = try Site()
        let deaf = site.servedInitiator()
        deaf.link?.pauseReceiving()
        for _ in 0..<100 { _ = deaf.send(TestInitiator.read10(0, 2048), read: 1 << 20) }
        site.world.settle()
        var worst = 0
        site.server.readGauges { what, count, _ in
            if "\(what)".hasPrefix("reply bytes") { worst = max(worst, count) }
        }
        #expect(worst > 4 << 20 && worst < 48 << 20)
        site.expectService()
        site.world.run(for: .seconds(200))
        #expect(site.server.status.sessions == 0 && site.server.status.silent == 1)
    }
    @Test("an initiator that reads slowly is not taken for a silent one, and gets everything")
    func slow() throws {
        let site = try Site()
        let slow = site.servedInitiator()
        slow.answersPings = false
        slow.link?.pauseReceiving()
        let tags = (0..<40).map { _ in slow.send(TestInitiator.read10(0, 2048), read: 1 << 20) }
        site.world.settle()
        site.world.latency = .seconds(1)
        slow.link?.resumeReceiving()
        site.world.run(for: .seconds(300))
        #expect(slow.closed == nil)
        site.world.latency = .zero
        site.world.run(for: .seconds(2))
        #expect(tags.allSatisfy { slow.ended[$0]?.data.count == 1 << 20 })
    }
    @Test("who answers pings stays for hours; who does not is closed within two minutes")
    func pings() throws {
        let site = try Site()
        let (good, bad) = (site.servedInitiator(isid: 1), site.servedInitiator(isid: 2))
        bad.answersPings = false
        site.world.run(for: .seconds(121))
        #expect(bad.closed != nil && good.closed == nil)
        site.world.run(for: .seconds(7200))
        #expect(good.closed == nil && good.takeHeard().count > 10)
        #expect(site.server.status.silent == 1 && site.server.status.connections == 1)
    }
    @Test("a reset with commands in flight: nothing is answered twice, and who comes back waits for them")
    func resetInFlight() throws {
        let site = try Site()
        site.volume.isHolding = true
        let first = site.initiator()
        first.logIn()
        _ = first.run(TestInitiator.testUnitReady)
        _ = first.send(TestInitiator.write10(0, 1), write: [UInt8](repeating: 1, count: 512))
        _ = first.send(TestInitiator.read10(0, 16), read: 8192)
        site.world.settle()
        #expect(site.volume.heldCount == 2 && site.server.status.inFlightCommands == 2)
        first.link?.reset()
        site.world.settle()
        let second = site.initiator()
        #expect(second.logIn() == nil)
        site.volume.isHolding = false
        site.volume.release(reversed: true)
        site.world.settle()
        #expect(second.takeHeard().last?.half(36) == 0)
        #expect(site.server.status.sessions == 1 && site.server.status.inFlightCommands == 0)
        _ = second.run(TestInitiator.testUnitReady)
        #expect(second.read(0, 1)?.status == 0)
    }
    @Test("garbage instead of a login, and in the middle of a session, costs only its own connection")
    func garbage() throws {
        let site = try Site()
        let (rude, served) = (site.initiator("10.0.0.7:1"), site.servedInitiator())
        rude.say([UInt8](repeating: 0xff, count: 4096))
        site.world.settle()
        #expect(rude.closed != nil)
        let later = site.servedInitiator("10.0.0.7:2", isid: 77)
        later.say([UInt8](repeating: 0xff, count: 4096))
        site.world.run(for: .seconds(60))
        #expect(served.closed == nil && served.read(0, 1)?.status == 0)
        site.expectService()
    }

    @Test("a command and the end of its session in the same bytes: answered at once, and then asked back")
    func endBehindCommand() throws {
        let site = try Site()
        for ending in [Wire.login([], stage: 1, next: 3), [UInt8](repeating: 0xff, count: 2048)] {
            let initiator = site.servedInitiator()
            let ready = Wire().command(tag: 900, cdb: TestInitiator.testUnitReady, cmdSN: initiator.cmdSN)
            initiator.say(ready + ending)
            site.world.settle()
            #expect(initiator.closed != nil && site.server.status.inFlightCommands == 0)
        }
        site.expectService()
    }

    // MARK: The end

    @Test("a stop asks for a logout, answers what is in flight, and ends")
    func stop() throws {
        let site = try Site()
        let initiator = site.servedInitiator()
        site.volume.isHolding = true
        let read = initiator.send(TestInitiator.read10(0, 1), read: 512)
        site.world.settle()
        var isStopped = false
        site.server.stop { isStopped = true }
        site.world.settle()
        // An asynchronous message: please log out.
        #expect(initiator.takeHeard().contains { $0.opcode == 0x32 && $0.header[36] == 1 })
        #expect(TestInitiator(site.world, at: portal).link == nil)
        site.world.run(for: .seconds(3))
        #expect(!isStopped && initiator.closed == nil)
        site.volume.release()
        site.world.settle()
        #expect(initiator.ended[read]?.status == 0)
        #expect(initiator.takeHeard().contains { $0.opcode == 0x32 && $0.header[36] == 3 })
        #expect(isStopped && initiator.closed != nil)
    }
    @Test("a stop ends as soon as the last initiator has logged out")
    func stopWithoutWaiting() throws {
        let site = try Site()
        let (initiator, idle) = (site.servedInitiator(), site.initiator("10.0.0.7:1"))
        var isStopped = false
        site.server.stop { isStopped = true }
        site.world.settle()
        #expect(!isStopped && idle.closed != nil)
        initiator.logOut()
        #expect(isStopped)
    }
    @Test("a stop ends in its time with a volume that never answers")
    func boundedStop() throws {
        let site = try Site()
        let initiator = site.servedInitiator()
        site.volume.isHolding = true
        _ = initiator.send(TestInitiator.read10(0, 1), read: 512)
        site.world.settle()
        var isStopped = false
        site.server.stop(drainFor: .seconds(5)) { isStopped = true }
        site.world.run(for: .seconds(4))
        #expect(!isStopped)
        site.world.run(for: .seconds(2))
        #expect(isStopped && initiator.closed != nil)
        site.volume.release()
        site.world.settle()
    }
    @Test("a server without initiators stops at once")
    func idleStop() throws {
        let site = try Site()
        var isStopped = false
        site.server.stop { isStopped = true }
        site.world.settle()
        #expect(isStopped)
    }
    @Test("after abandon nothing of the server lives on, whatever is unanswered", arguments: [true, false])
    func abandon(isLostBefore: Bool) throws {
        let world = MemoryWorld()
        let environment = world.environment("gateway")
        weak var weakServer: ISCSIServer?
        weak var weakGroup: PortalGroup?
        weak var weakVolume: MemoryVolume?
        weak var weakSession: TargetSession?
        do {
            let volume = MemoryVolume(environment: environment, size: ByteCount(bytes: 1 << 20))
            let server = ISCSIServer(
                environment: environment, coordinator: LocalCoordinator(environment: environment))
            (weakServer, weakGroup, weakVolume) = (server, server.group, volume)
            try server.listen(on: portal)
            server.addTarget(TargetDescription(name: targetName)) { _ in }
            world.settle()
            server.addUnit(Site.unit(0), over: volume, to: targetName) { _ in }
            world.settle()
            let initiator = TestInitiator(world, at: portal)
            initiator.logIn()
            _ = initiator.run(TestInitiator.testUnitReady)
            volume.isHolding = true
            _ = initiator.send(TestInitiator.read10(0, 1), read: 512)
            _ = initiator.send(TestInitiator.write10(0, 1), write: [UInt8](repeating: 1, count: 512))
            world.settle()
            #expect(volume.heldCount == 2)
            weakSession = server.group.sessions.first
            #expect(weakSession != nil)
            if isLostBefore { initiator.link?.reset() }
            world.settle()
            server.abandon()
            world.settle()
            #expect(initiator.closed != nil && weakSession == nil)
            // The volume is asked no more; what it had begun it still ends.
            volume.release()
            world.settle()
        }
        world.run(for: .seconds(60))
        #expect(weakServer == nil && weakGroup == nil && weakVolume == nil)
    }

    @Test(
        "addresses of peers",
        arguments: [
            ("10.0.0.1", [10, 0, 0, 1]), ("[::ffff:10.0.0.1]", [10, 0, 0, 1]), ("unix:/tmp/s", []),
            ("[fe80::1%eth0]", [0xfe, 0x80] + [UInt8](repeating: 0, count: 13) + [1]),
            ("[1:2:3:4:5:6:7:8]", [0, 1, 0, 2, 0, 3, 0, 4, 0, 5, 0, 6, 0, 7, 0, 8]),
            ("[::]", [UInt8](repeating: 0, count: 16)), ("1.2.3", []), ("1.2.3.256", []), ("[1::2::3]", []),
            ("[1:2:3:4:5:6:7:8:9]", []), ("[::12345]", []),
        ] as [(String, [UInt8])])
    func addresses(text: String, bytes: [UInt8]) {
        #expect(PeerAddress.bytes(of: text) == bytes)
    }
    @Test("volumes of one cluster, and of two, are told apart")
    func identities() {
        let (one, two) = (UniqueID(high: 0x1122_3344_5566_7788, low: 9), UniqueID(high: 7, low: 9))
        let identity = UnitIdentity(cluster: one, volume: VolumeID(rawValue: 0x2a))
        #expect(identity.serial == "6024356112233445" + "599de2000000002a")
        #expect(identity.identifier.count == 16 && identity.identifier[0] >> 4 == 6)
        let others = [
            UnitIdentity(cluster: one, volume: VolumeID(rawValue: VolumeID.max)),
            UnitIdentity(cluster: two, volume: VolumeID(rawValue: 0x2a)),
            UnitIdentity(cluster: nil, volume: VolumeID(rawValue: 0x2a)),
        ]
        #expect(Set(others + [identity]).count == 4)
    }
    @Test("wildcards are no addresses to tell")
    func wildcards() {
        #expect(PeerAddress.isWildcard("0.0.0.0") && PeerAddress.isWildcard("::"))
        #expect(!PeerAddress.isWildcard("10.0.0.1") && !PeerAddress.isWildcard("localhost"))
    }
}
