import BlockTypes
import Environment
import ISCSIInitiator
import ISCSIProtocol
import ISCSIServer
import MemoryEnvironment
import SCSICommands
import TestVolumes
import Testing

let targetName = "iqn.2026-11.io.curve:t1"
let portal = SocketAddress.tcp(host: "10.0.0.1", port: 3260)

/// One server with one target and one unit in a world that only the test moves.
final class Site {
    let world = MemoryWorld()
    let environment: MemoryEnvironment
    let volume: MemoryVolume
    let coordinator: LocalCoordinator
    let server: ISCSIServer

    init(
        _ change: (inout ISCSIServerLimits, inout TargetDescription, inout UnitConfiguration) -> Void = {
            _, _, _ in
        }
    ) throws {
        environment = world.environment("gateway")
        volume = MemoryVolume(environment: environment, size: ByteCount(bytes: 64 << 20))
        coordinator = LocalCoordinator(environment: environment)
        var limits = ISCSIServerLimits()
        var description = TargetDescription(name: targetName)
        var unit = Site.unit(0)
        change(&limits, &description, &unit)
        server = ISCSIServer(environment: environment, coordinator: coordinator, limits: limits)
        try server.listen(on: portal)
        var errors: [ISCSIServerError?] = []
        server.addTarget(description) { errors.append($0) }
        world.settle()
        server.addUnit(unit, over: volume, to: targetName) { errors.append($0) }
        world.settle()
        #expect(errors == [nil, nil])
    }
    static func unit(_ lun: UInt16) -> UnitConfiguration {
        UnitConfiguration(
            lun: lun, identifier: [0x60] + [UInt8](repeating: 7, count: 14) + [UInt8(lun)],
            serial: "serial-\(lun)")
    }
    func initiator(_ host: String = "10.0.0.9:1") -> TestInitiator {
        TestInitiator(world, at: portal, from: host)
    }
    /// An initiator that is logged in and has heard of its power-on.
    func servedInitiator(
        _ host: String = "10.0.0.9:1", isid: UInt64 = 0x4000_0000_0001,
        sourceLocation: SourceLocation = #_sourceLocation
    ) -> TestInitiator {
        let initiator = initiator(host)
        #expect(initiator.logIn(isid: isid)?.status == 0, sourceLocation: sourceLocation)
        let first = initiator.run(TestInitiator.testUnitReady)
        #expect(first?.sense == [6, 0x29, 0], sourceLocation: sourceLocation)
        return initiator
    }
    /// An initiator that does real I/O: proof that the server still serves.
    func expectService(sourceLocation: SourceLocation = #_sourceLocation) {
        let victim = servedInitiator("10.0.0.8:1", isid: 0x4000_0000_00ff, sourceLocation: sourceLocation)
        let bytes = [UInt8](repeating: 0xab, count: 512)
        #expect(victim.write(1000, bytes)?.status == 0, sourceLocation: sourceLocation)
        #expect(
            victim.read(999, 2)?.data == [UInt8](repeating: 0, count: 512) + bytes,
            sourceLocation: sourceLocation)
        victim.logOut()
        #expect(victim.closed != nil, sourceLocation: sourceLocation)
    }
    func counted(_ count: Int) -> [UInt8] {
        (0..<count).map { UInt8(truncatingIfNeeded: $0 &* 7 &+ $0 >> 9) }
    }
}
