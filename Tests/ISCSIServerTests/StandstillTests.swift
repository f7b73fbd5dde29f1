import BlockTypes
import Environment
import ISCSIInitiator
import ISCSIProtocol
import ISCSIServer
import MemoryEnvironment
import TestVolumes
import Testing

/// A process that can stand still: time passes, and nothing of it runs.
private final class StallingEnvironment: Environment {
    private let inner: MemoryEnvironment
    private var lost = Duration.zero
    init(_ inner: MemoryEnvironment) { self.inner = inner }

    func standStill(for time: Duration) { lost += time }
    var now: Duration { inner.now + lost }
    var secondsSince1970: UInt64 { inner.secondsSince1970 }
    func random() -> UInt64 { inner.random() }
    @discardableResult func after(_ delay: Duration, _ action: @escaping () -> Void) -> TimerID {
        inner.after(delay, action)
    }
    func cancel(_ timer: TimerID) { inner.cancel(timer) }
    func listen(
        on address: SocketAddress, accepted: @escaping (any Connection) -> Void
    ) throws(NetworkError) -> any Listener { try inner.listen(on: address, accepted: accepted) }
    func connect(
        to address: SocketAddress, timeout: Duration,
        completed: @escaping (Result<any Connection, NetworkError>) -> Void
    ) { inner.connect(to: address, timeout: timeout, completed: completed) }
    func log(_ level: LogLevel, _ message: @autoclosure () -> String) { inner.log(level, message()) }
}

/// What initiators gave up while a server stood still is not carried out when it goes on.
@Suite struct StandstillTests {
    private let world = MemoryWorld()
    private let environment: StallingEnvironment
    private let volume: MemoryVolume
    private let server: ISCSIServer

    init() throws {
        environment = StallingEnvironment(world.environment("gateway"))
        volume = MemoryVolume(environment: environment, size: ByteCount(bytes: 1 << 20))
        server = ISCSIServer(
            environment: environment, coordinator: LocalCoordinator(environment: environment))
        try server.listen(on: portal)
        server.addTarget(TargetDescription(name: targetName)) { _ in }
        world.settle()
        server.addUnit(Site.unit(0), over: volume, to: targetName) { _ in }
        world.settle()
    }
    private func served(_ isid: UInt64 = 1) -> TestInitiator {
        let initiator = TestInitiator(world, at: portal)
        initiator.logIn(isid: isid)
        _ = initiator.run(TestInitiator.testUnitReady)
        return initiator
    }
    private let ones = [UInt8](repeating: 1, count: 512)
    private let zeroes = [UInt8](repeating: 0, count: 512)

    @Test("what waited in the socket is not read, though it is told before the beat that is late")
    func unread() {
        let (writer, idle) = (served(1), served(2))
        world.run(for: .milliseconds(500))
        environment.standStill(for: .milliseconds(4100))
        _ = writer.send(TestInitiator.write10(0, 1), write: ones)
        world.settle()
        #expect(writer.closed != nil && idle.closed != nil && server.status.sessions == 0)
        #expect(world.log.filter { $0.contains("stood still for about 3 s") }.count == 1)
        let reader = served(3)
        #expect(reader.read(0, 1)?.data == zeroes)
        world.run(for: .seconds(20))
        #expect(reader.closed == nil && reader.write(0, ones)?.status == 0)
    }
    @Test("where nobody said anything the late beat itself ends the sessions")
    func silent() {
        let idle = served()
        environment.standStill(for: .milliseconds(3100))
        world.settle()
        #expect(idle.closed == nil)
        world.run(for: .seconds(1))
        #expect(idle.closed != nil && server.status.sessions == 0)
    }
    @Test("who comes first afterwards stays; those of before are gone")
    func newcomer() {
        let older = served(1)
        environment.standStill(for: .milliseconds(4100))
        let newer = TestInitiator(world, at: portal)
        newer.logIn(isid: 2)
        world.run(for: .seconds(5))
        #expect(older.closed != nil && newer.closed == nil && server.status.sessions == 1)
    }
    @Test("what was read, and waits for another command's answer, does not go on")
    func held() {
        let writer = served()
        volume.isHolding = true
        // It has the block for itself; the write waits for it.
        _ = writer.send([0x89, 0] + be64(0) + [0, 0, 0, 1, 0, 0], write: zeroes + ones)
        _ = writer.send(TestInitiator.write10(0, 1), write: ones)
        world.settle()
        #expect(volume.heldCount == 1)
        environment.standStill(for: .milliseconds(4100))
        volume.isHolding = false
        volume.release()
        world.settle()
        #expect(writer.closed != nil && served(2).read(0, 1)?.data == zeroes)
    }
    @Test("a short pause is nobody's business, and neither is a long one without connections")
    func harmless() {
        served(2).logOut()
        environment.standStill(for: .seconds(60))
        volume.resize(to: ByteCount(bytes: 2 << 20))
        let writer = served()
        environment.standStill(for: .milliseconds(2900))
        #expect(writer.write(0, ones)?.status == 0)
        world.run(for: .seconds(5))
        environment.standStill(for: .milliseconds(2900))
        #expect(writer.write(1, ones)?.status == 0 && writer.closed == nil)
        #expect(!world.log.contains { $0.contains("stood still") })
    }
}
