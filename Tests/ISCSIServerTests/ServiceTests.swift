import BlockTypes
import Environment
import ISCSIInitiator
import ISCSIProtocol
import ISCSIServer
import MemoryEnvironment
import SCSICommands
import TestVolumes
import Testing

@Suite struct ServiceTests {
    @Test("an initiator logs in, writes, reads it back and logs out")
    func readAndWrite() throws {
        let site = try Site()
        let initiator = site.servedInitiator()
        let bytes = site.counted(4096)
        #expect(initiator.write(8, bytes)?.status == 0)
        #expect(initiator.read(8, 8)?.data == bytes)
        #expect(site.server.status.sessions == 1 && site.server.sessions.count == 1)
        #expect(site.server.status.commands == 3 && site.server.status.inFlightCommands == 0)
        initiator.logOut()
        #expect(initiator.closed == .closedByPeer && site.server.status.connections == 0)
        #expect(site.server.status.sessions == 0)
    }
    @Test("megabytes go through windows and requests for data, and come back whole, cut anywhere")
    func large() throws {
        let site = try Site()
        (site.world.pieceBytesMax, site.world.cutsAtRandom) = (9000, true)
        let initiator = site.servedInitiator()
        let bytes = site.counted(1 << 20)
        #expect(initiator.write(3, bytes)?.status == 0)
        #expect(initiator.read(3, 2048)?.data == bytes)
        #expect(initiator.read(0, 4)?.data == [UInt8](repeating: 0, count: 1536) + bytes.prefix(512))
    }
    @Test("what one initiator writes another reads")
    func shared() throws {
        let site = try Site()
        let (one, two) = (
            site.servedInitiator(isid: 0x4000_0000_0001), site.servedInitiator(isid: 0x4000_0000_0002)
        )
        #expect(one.write(5, [UInt8](repeating: 9, count: 512))?.status == 0)
        #expect(two.read(5, 1)?.data == [UInt8](repeating: 9, count: 512))
        #expect(site.server.sessions.map(\.sessionIdentifier) == [0x4000_0000_0001, 0x4000_0000_0002])
    }
    @Test("two connections of one session share its window")
    func twoConnections() throws {
        let site = try Site()
        let first = site.initiator()
        let handle = try #require(first.logIn(["MaxConnections=2"])?.handle)
        let second = site.initiator()
        #expect(second.logIn(["MaxConnections=2"], tsih: handle, cid: 2)?.status == 0)
        #expect(site.server.status.sessions == 1 && site.server.status.connections == 2)
        #expect(first.run(TestInitiator.testUnitReady)?.sense == [6, 0x29, 0])
        // The command that comes later in the window waits for the earlier one, on the other connection.
        let late = second.send(TestInitiator.read10(0, 1), read: 512, cmdSN: first.cmdSN + 1)
        site.world.settle()
        #expect(second.ended[late] == nil)
        #expect(first.write(0, [UInt8](repeating: 4, count: 512))?.status == 0)
        #expect(second.ended[late]?.status == 0)
    }
    @Test("a volume that grows tells every nexus, and is judged by its new size")
    func growth() throws {
        let site = try Site()
        let initiator = site.servedInitiator()
        #expect(initiator.read(64 << 11, 1)?.sense == [5, 0x21, 0])
        site.volume.resize(to: ByteCount(bytes: 65 << 20))
        #expect(initiator.read(64 << 11, 1)?.sense == [6, 0x2a, 9])
        #expect(initiator.read(64 << 11, 1)?.status == 0)
        let capacity = initiator.run(TestInitiator.readCapacity10, read: 8)
        #expect(capacity?.data == be32(65 << 11 - 1) + be32(512))
    }
    @Test("an error of the volume is sense data, and one line of the log")
    func volumeErrors() throws {
        let site = try Site()
        let initiator = site.servedInitiator()
        site.volume.failures = [.noSpace, .noSpace, .checksumMismatch]
        let bytes = [UInt8](repeating: 1, count: 512)
        #expect(initiator.write(0, bytes)?.sense == [7, 0x27, 7])
        #expect(initiator.write(0, bytes)?.sense == [7, 0x27, 7])
        #expect(initiator.read(0, 1)?.sense == [3, 0x11, 0])
        #expect(site.server.status.failedRequests == 3)
        #expect(site.world.log.filter { $0.contains("a request failed") }.count == 2)
    }
    @Test("units come and go under a live session; a removed one ends what it had begun")
    func units() throws {
        let site = try Site()
        let initiator = site.servedInitiator()
        let more = MemoryVolume(environment: site.environment, size: ByteCount(bytes: 1 << 20))
        var said: [String] = []
        func note(_ what: String) -> (ISCSIServerError?) -> Void {
            { said.append($0.map { "\(what): \($0)" } ?? what) }
        }
        site.server.addUnit(Site.unit(7), over: more, to: targetName, completed: note("added"))
        #expect(said == [])
        site.world.settle()
        #expect(said == ["added"] && initiator.run(TestInitiator.testUnitReady)?.sense == [6, 0x3f, 0x0e])
        #expect(initiator.read(0, 1, lun: 7)?.sense == [6, 0x29, 0])
        site.server.addUnit(Site.unit(7), over: more, to: targetName, completed: note("again"))
        var twin = Site.unit(8)
        twin.serial = "twin"
        site.server.addUnit(twin, over: more, to: targetName, completed: note("twin"))
        site.world.settle()
        #expect(said.count == 3 && said[1].contains("has a LUN 7") && said[2].contains("is LUN 7 of"))
        more.isHolding = true
        let read = initiator.send(TestInitiator.read10(0, 1), read: 512, lun: 7)
        site.world.settle()
        said = []
        site.server.removeUnit(7, from: targetName, completed: note("removed"))
        site.world.settle()
        #expect(said == [] && initiator.run(TestInitiator.testUnitReady, lun: 7)?.sense == [5, 0x25, 0])
        more.release()
        site.world.settle()
        #expect(said == ["removed"] && initiator.ended[read]?.status == 0)
        site.server.removeUnit(7, from: targetName, completed: note("removed"))
        site.world.settle()
        #expect(said.last?.contains("has no LUN 7") == true)
    }
    @Test("a suspended unit makes initiators wait; its volume goes on with it, another volume does not")
    func suspension() throws {
        let site = try Site()
        let initiator = site.servedInitiator()
        func add(_ unit: UnitConfiguration, _ volume: MemoryVolume) {
            site.server.addUnit(unit, over: volume, to: targetName) { #expect($0 == nil) }
            site.world.settle()
        }
        func suspend(_ completed: @escaping () -> Void = {}) {
            site.server.suspendUnit(0, of: targetName) {
                #expect($0 == nil)
                completed()
            }
            site.world.settle()
        }
        func ready(lun: UInt64 = 0) -> [UInt8]? {
            initiator.run(TestInitiator.testUnitReady, lun: lun)?.sense
        }
        add(Site.unit(1), MemoryVolume(environment: site.environment, size: ByteCount(bytes: 1 << 20)))
        #expect(ready() == [6, 0x3f, 0x0e] && ready(lun: 1) == [6, 0x29, 0])
        site.volume.isHolding = true
        let read = initiator.send(TestInitiator.read10(0, 1), read: 512)
        site.world.settle()
        var isGone = false
        suspend { isGone = true }
        #expect(ready() == [2, 4, 1] && !isGone)
        site.volume.release()
        site.world.settle()
        #expect(isGone && initiator.ended[read]?.status == 0)
        site.volume.isHolding = false
        add(Site.unit(0), site.volume)
        #expect(ready() == [6, 0x29, 0] && initiator.read(0, 1)?.status == 0)
        #expect(ready(lun: 1) == [])
        suspend()
        var other = Site.unit(0)
        other.identifier[15] ^= 0xff
        add(other, MemoryVolume(environment: site.environment, size: ByteCount(bytes: 1 << 20)))
        #expect(ready() == [6, 0x29, 0] && ready(lun: 1) == [6, 0x3f, 0x0e])
        suspend()
        site.server.removeUnit(0, from: targetName) { #expect($0 == nil) }
        site.world.settle()
        #expect(ready() == [5, 0x25, 0] && ready(lun: 1) == [6, 0x3f, 0x0e])
    }
    @Test("blocks of 4096 bytes move as many bytes as they have")
    func largeBlocks() throws {
        let site = try Site()
        var unit = Site.unit(1)
        unit = UnitConfiguration(lun: 1, blockBytes: 4096, identifier: unit.identifier, serial: "4k")
        let volume = MemoryVolume(environment: site.environment, size: ByteCount(bytes: 1 << 20))
        site.server.addUnit(unit, over: volume, to: targetName) { #expect($0 == nil) }
        site.world.settle()
        let initiator = site.servedInitiator()
        #expect(initiator.run(TestInitiator.testUnitReady, lun: 1)?.sense == [6, 0x29, 0])
        let bytes = site.counted(8192)
        #expect(initiator.run(TestInitiator.write10(2, 2), write: bytes, lun: 1)?.status == 0)
        #expect(
            initiator.run(TestInitiator.read10(1, 3), read: 12288, lun: 1)?.data.suffix(8192) == bytes[...])
    }
    @Test("a removed target ends its sessions, and its name is free again")
    func removedTarget() throws {
        let site = try Site()
        let initiator = site.servedInitiator()
        var isRemoved = false
        site.server.removeTarget(targetName) { isRemoved = $0 == nil }
        site.world.settle()
        #expect(isRemoved && initiator.closed != nil && site.server.targetNames == [])
        #expect(site.initiator().logIn()?.status == 0x0203)
        var error: ISCSIServerError?
        site.server.addTarget(TargetDescription(name: targetName)) { error = $0 }
        site.world.settle()
        #expect(error == nil && site.initiator().logIn()?.status == 0)
        site.server.addTarget(TargetDescription(name: "iqn with spaces")) { error = $0 }
        site.world.settle()
        #expect(error == .badName("iqn with spaces"))
    }
    @Test("RESERVE(6) ends with its session; a registration that persists outlives the unit")
    func reservations() throws {
        let site = try Site()
        let (one, two) = (
            site.servedInitiator(isid: 0x4000_0000_0001), site.servedInitiator(isid: 0x4000_0000_0002)
        )
        #expect(one.run(TestInitiator.reserve6)?.status == 0)
        #expect(two.write(0, [UInt8](repeating: 1, count: 512))?.status == 0x18)
        one.logOut()
        #expect(two.write(0, [UInt8](repeating: 1, count: 512))?.status == 0)
        let register: [UInt8] = [0x5f, 6, 0, 0, 0, 0, 0, 0, 24, 0]
        let parameters = be64(0) + be64(0x1234) + [0, 0, 0, 0, 1, 0, 0, 0]
        #expect(two.run(register, write: parameters)?.status == 0)
        site.server.removeUnit(0, from: targetName) { #expect($0 == nil) }
        site.world.settle()
        site.server.addUnit(Site.unit(0), over: site.volume, to: targetName) { #expect($0 == nil) }
        site.world.settle()
        _ = two.run(TestInitiator.testUnitReady)
        let keys = two.run([0x5e, 0, 0, 0, 0, 0, 0, 0, 64, 0], read: 64)
        #expect(keys?.data.suffix(8) == be64(0x1234)[...])
    }
    @Test("port groups that an initiator sets are set through the coordinator")
    func portGroups() throws {
        let site = try Site()
        let initiator = site.servedInitiator()
        // Standby, which leaves the initiator what it needs to undo it.
        let standby: [UInt8] = [0, 0, 0, 0, 2, 0, 0, 1]
        let cdb: [UInt8] = [0xa4, 0x0a, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0]
        #expect(initiator.run(cdb, write: standby)?.status == 0)
        // An attention may come first.
        let keys = (0..<2).map { _ in initiator.run(TestInitiator.testUnitReady)?.sense.first }
        #expect(keys.contains(2))
    }
    @Test("CHAP: the digests of the library, and a login with them")
    func chap() throws {
        let digests = CHAPDigests.openSSL(allowsMD5: true)
        #expect(digests.algorithms == [.sha3, .sha256, .sha1, .md5])
        #expect(CHAPDigests.openSSL().algorithms == [.sha3, .sha256, .sha1])
        func hex(_ algorithm: CHAPAlgorithm) -> String {
            digests.digest(algorithm, Array("abc".utf8)).map { byte in
                let digits = String(byte, radix: 16)
                return digits.count == 1 ? "0" + digits : digits
            }.joined()
        }
        #expect(hex(.md5) == "900150983cd24fb0d6963f7d28e17f72")
        #expect(hex(.sha1) == "a9993e364706816aba3e25717850c26c9cd0d89d")
        #expect(hex(.sha256) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
        #expect(hex(.sha3) == "3a985da74fe225b2045c172d6bd390bd855f086e3e9d525b46bfe24511431532")

        let secret = Array("a secret of some length".utf8)
        let site = try Site { _, description, _ in
            description.authentication = .chap(
                users: [CHAPCredential(name: "user", secret: secret)], mutual: nil)
        }
        #expect(site.initiator().logIn()?.status == 0x0201)
        var challenges: Set<String> = []
        for (response, expected) in [(secret, UInt16(0)), (Array("something else".utf8), 0x0201)] {
            let initiator = site.initiator()
            initiator.say(
                Wire.login(
                    ["InitiatorName=\(TestInitiator.name)", "TargetName=\(targetName)", "AuthMethod=CHAP"],
                    stage: 0))
            site.world.settle()
            initiator.say(Wire.login(["CHAP_A=7"], stage: 0))
            site.world.settle()
            let said = try #require(initiator.takeHeard().last).text
            let number = try #require(said.first { $0.hasPrefix("CHAP_I=") }?.dropFirst(7))
            let challenge = try #require(said.first { $0.hasPrefix("CHAP_C=0x") }?.dropFirst(9))
            #expect(challenge.count == 64 && challenges.insert(String(challenge)).inserted)
            let bytes = stride(from: 0, to: challenge.count, by: 2).compactMap { start in
                UInt8(challenge.dropFirst(start).prefix(2), radix: 16)
            }
            let digest = digests.digest(.sha256, [try #require(UInt8(number))] + response + bytes)
            let text = digest.map { String(UInt16($0) + 256, radix: 16).dropFirst() }.joined()
            initiator.say(Wire.login(["CHAP_N=user", "CHAP_R=0x\(text)"], stage: 0, next: 1))
            site.world.settle()
            #expect(initiator.takeHeard().last?.half(36) == expected)
        }
        #expect(site.server.status.refusedLogins == 2)
    }
    @Test("an initiator that looks for targets is told their names and where they are")
    func discovery() throws {
        let site = try Site()
        let initiator = site.initiator()
        initiator.say(
            Wire.login(
                ["InitiatorName=\(TestInitiator.name)", "SessionType=Discovery"], stage: 1, next: 3))
        site.world.settle()
        _ = initiator.takeHeard()
        initiator.say(Wire().text(["SendTargets=All"], tag: 9, cmdSN: 100))
        site.world.settle()
        #expect(
            initiator.takeHeard().last?.text
                == ["TargetName=\(targetName)", "TargetAddress=10.0.0.1:3260,1"])
    }

    @Test("REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS tells a session what is answered there")
    func supportedFunctions() throws {
        let site = try Site()
        for (level, functions): (Int, [UInt8]) in [(1, [0xd8, 0, 0, 0]), (2, [0xdc, 7, 0, 0])] {
            let initiator = site.initiator("10.0.0.\(level):1")
            let isid = 0x4000_0000_0000 + UInt64(level)
            #expect(initiator.logIn(["iSCSIProtocolLevel=\(level)"], isid: isid)?.status == 0)
            _ = initiator.run(TestInitiator.testUnitReady)
            let told = initiator.run([0xa3, 0x0d, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0], read: 4)
            #expect(told?.data == functions)
            initiator.say(Wire().management(10, tag: 0x100, cmdSN: initiator.cmdSN))
            site.world.settle()
            #expect(initiator.takeHeard().last?.header[2] == (level == 2 ? 0 : 5))
        }
    }
    @Test("QUERY ASYNCHRONOUS EVENT says which attention comes next")
    func pendingEvent() throws {
        let site = try Site()
        let initiator = site.initiator()
        #expect(initiator.logIn(["iSCSIProtocolLevel=2"])?.status == 0)
        site.server.softThresholdReached(0, of: targetName)
        for (depth, sense) in [(0x26, [6, 0x29, 0]), (0x16, [6, 0x38, 7])] as [(UInt8, [UInt8])] {
            initiator.say(Wire().management(12, tag: 0x100, cmdSN: initiator.cmdSN))
            site.world.settle()
            let heard = initiator.takeHeard()
            #expect(heard.count == 1 && heard[0].header[2] == 7)
            #expect(heard[0].header[8..<11] == [depth] + sense[1...])
            #expect(initiator.run(TestInitiator.testUnitReady)?.sense == sense)
        }
        initiator.say(Wire().management(12, tag: 0x100, cmdSN: initiator.cmdSN))
        site.world.settle()
        let last = initiator.takeHeard().last
        #expect(last?.header[2] == 0 && last?.word(8) == 0)
    }
    @Test("a unit whose threshold changes says so, and tells the new one")
    func poolThreshold() throws {
        let site = try Site { $2.poolThreshold = PoolThreshold(usedPercent: 80, slackPercent: 2) }
        let initiator = site.servedInitiator()
        let sense: [UInt8] = [0x1a, 0x08, 0x1c, 0x02, 28, 0]
        #expect(initiator.run(sense, read: 28)?.data[20...] == [0x88, 3, 0, 0, 0, 0, 0, 21])
        site.server.changePoolThreshold(
            of: 0, of: targetName, PoolThreshold(usedPercent: 90, slackPercent: 2))
        #expect(initiator.run(TestInitiator.testUnitReady)?.sense == [6, 0x2a, 1])
        #expect(initiator.run(sense, read: 28)?.data[20...] == [0x88, 3, 0, 0, 0, 0, 0, 11])
    }
}
