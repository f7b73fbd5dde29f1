import BlockTypes
import ISCSIServer
import MemoryEnvironment
import SCSICommands
import Testing

@testable import ISCSICoordination

@Suite struct GatewayTests {
    static let register = ReservationRequest.register(
        key: 0, newKey: 7, ignoringKey: false, persists: false)

    @Test("gateways take the lowest free tags, and all tell the same port groups")
    func tags() {
        let site = FakeSite()
        let gateways = (0..<3).map { _ in site.gateway() }
        #expect(gateways.map(\.tag) == [1, 2, 3])
        for gateway in gateways { #expect(gateway.groups.map(\.tag) == [1, 2, 3]) }
        var hasLeft = false
        gateways[1].coordinator.leave { hasLeft = true }
        site.world.run(for: .seconds(1))
        #expect(hasLeft && !gateways[1].isExpelled)
        #expect(gateways[0].groups.map(\.tag) == [1, 3])
        #expect(site.gateway().tag == 2)
    }

    @Test("gateways that enter at the same moment get different tags")
    func crowd() {
        let site = FakeSite()
        let gateways = (0..<8).map { _ in FakeGateway(site) }
        site.world.run(for: .seconds(1))
        #expect(gateways.compactMap(\.tag).sorted() == Array(1...8))
        for gateway in gateways { #expect(gateway.groups.count == 8) }
    }

    @Test("the volumes of one target's gateways are refused to those of another")
    func otherTarget() {
        let site = FakeSite()
        let first = site.gateway()
        let second = site.gateway(target: "iqn.2026-11.io.curve:other")
        #expect(second.refusal == .otherTarget(targetName) && second.tag == nil)
        first.coordinator.leave {}
        site.world.run(for: .seconds(1))
        second.enter()
        site.world.run(for: .seconds(1))
        #expect(second.tag == 1)
    }

    @Test("a tag that is wanted is taken, unless another gateway has it")
    func wantedTag() {
        let site = FakeSite()
        let first = FakeGateway(site, enters: false)
        let second = FakeGateway(site, enters: false)
        var heard: [Result<UInt16, GatewayError>] = []
        first.coordinator.enter(tag: 7) { heard.append($0) }
        site.world.run(for: .seconds(1))
        second.coordinator.enter(tag: 7) { heard.append($0) }
        site.world.run(for: .seconds(1))
        second.coordinator.enter(tag: 3) { heard.append($0) }
        site.world.run(for: .seconds(1))
        #expect(heard == [.success(7), .failure(.tagTaken(7)), .success(3)])
    }

    @Test("each tells where the others are, as far as these want initiators")
    func portals() {
        let site = FakeSite()
        let gateways = (0..<3).map { _ in site.gateway() }
        for (number, gateway) in gateways.enumerated() {
            gateway.coordinator.announce(portals: ["10.0.0.\(number):3260"])
        }
        site.world.run(for: .seconds(1))
        #expect(gateways[0].addresses == ["10.0.0.1:3260,2", "10.0.0.2:3260,3"])
        #expect(site.gateway().addresses.count == 3)
        Self.change(site) { $0.setDrain(.asked, of: 2) }
        site.world.run(for: .seconds(1))
        #expect(gateways[0].addresses == ["10.0.0.2:3260,3"])
        // What could not be said at once is said later.
        gateways[2].cut(true)
        gateways[2].coordinator.announce(portals: ["10.0.0.9:3260"])
        site.world.run(for: .seconds(4))
        gateways[2].cut(false)
        site.world.run(for: .seconds(20))
        #expect(gateways[0].addresses == ["10.0.0.9:3260,3"])
        gateways[2].coordinator.leave {}
        site.world.run(for: .seconds(1))
        #expect(gateways[0].addresses.isEmpty)
    }
    /// As somebody does who is a member for a moment.
    private static func change(_ site: FakeSite, _ change: (inout GatewayList) -> Bool) {
        let value = site.groups[0].value(GatewayList.valueName)
        guard var list = try? GatewayList(decoding: value.bytes), change(&list) else {
            Issue.record("nothing to change")
            return
        }
        site.groups[0].put(GatewayList.valueName, list.encoded)
    }

    @Test("a drain: standby for all, told to the one that is meant, and done when that says so")
    func drain() throws {
        let site = FakeSite()
        let gateways = [site.gateway(), site.gateway()]
        Self.change(site) { $0.setDrain(.asked, of: $0.gateway(called: "g2")?.group.tag ?? 0) }
        site.world.run(for: .milliseconds(100))
        for gateway in gateways { #expect(gateway.groups.map(\.state) == [.activeOptimized, .standby]) }
        #expect(gateways[0].drains.isEmpty && gateways[1].drains == [true])
        gateways[0].coordinator.drained()  // It was not asked.
        gateways[1].coordinator.drained()
        site.world.run(for: .milliseconds(100))
        let list = try GatewayList(decoding: site.groups[0].value(GatewayList.valueName).bytes)
        #expect(list.gateways.map(\.drain) == [.none, .done] && list.gateways.map(\.name) == ["g1", "g2"])
        #expect(list.gateway(called: "2") == list.gateways[1] && list.gateway(called: "3") == nil)
        Self.change(site) { $0.setDrain(.none, of: 2) }
        site.world.run(for: .milliseconds(100))
        #expect(
            gateways[1].drains == [true, false]
                && gateways[0].groups.allSatisfy { $0.state == .activeOptimized })
        // Where to send those that come may be said at first or later, and ends with the drain.
        Self.change(site) { $0.setDrain(.asked, of: 2, redirecting: true) }
        site.world.run(for: .milliseconds(100))
        #expect(gateways[1].drains == [true, false, true] && gateways[1].coordinator.isRedirecting)
        gateways[1].coordinator.drained()
        gateways[1].coordinator.drain(true, redirecting: false)
        site.world.run(for: .milliseconds(100))
        let later = try GatewayList(decoding: site.groups[0].value(GatewayList.valueName).bytes)
        #expect(later.gateways[1].drain == .done && !later.gateways[1].redirects)
        #expect(gateways[1].drains == [true, false, true] && gateways[1].toldDrains == 1)
        #expect(!gateways[1].coordinator.isRedirecting)
        Self.change(site) { $0.setDrain(.none, of: 2) }
        site.world.run(for: .milliseconds(100))
        #expect(gateways[1].drains.last == false)
    }

    @Test(
        "a drain that is taken back before the list has heard of it is over; an operator's word comes through",
        arguments: [0, 5])
    func undone(answersLate: Int) throws {
        let site = FakeSite()
        let gateways = [site.gateway(), site.gateway()]
        let coordinator = gateways[1].coordinator
        gateways[1].volumes[0].answersLate = .milliseconds(answersLate)
        func drain() throws -> Gateway.Drain {
            site.world.run(for: .milliseconds(100))
            return try GatewayList(decoding: site.groups[0].value(GatewayList.valueName).bytes).gateways[1]
                .drain
        }
        coordinator.drain(true)
        coordinator.drain(false)
        #expect(try drain() == .none && !coordinator.isDraining && gateways[1].drains.isEmpty)
        for wish in [true, false, true] { coordinator.drain(wish, redirecting: wish) }
        #expect(try drain() == .asked && coordinator.isRedirecting && gateways[1].drains.isEmpty)
        Self.change(site) { $0.setDrain(.none, of: 2) }
        #expect(try drain() == .none && gateways[1].drains == [false])
        // What could not be told is told once somebody answers.
        gateways[1].cut(true)
        coordinator.drain(true)
        site.world.run(for: .seconds(20))
        gateways[1].cut(false)
        site.world.run(for: .seconds(20))
        #expect(try drain() == .asked && gateways[1].drains == [false])
    }

    @Test("a metadata server that went back is told of in the log, and nobody goes by what it has")
    func wentBack() {
        let site = FakeSite()
        let (first, second) = (site.gateway(), site.gateway())
        for name in ["a", "b", "c"] {
            first.change(Self.register, name) { _ in }
            site.world.run(for: .milliseconds(100))
        }
        site.groups[0].forget("reservations")
        var heard: [ReservationStoring] = []
        var next = first.tables[0]
        next.version += 1
        first.coordinator.store(next, of: first.keys[0], replacing: 3) { heard.append($0) }
        site.world.run(for: .seconds(1))
        #expect(heard == [.outdated(first.tables[0])] && first.tables == second.tables)
        #expect(first.tables[0].registrations.count == 3)
        #expect(site.world.log.count { $0.contains("put back from an older copy") } == 1)
    }

    @Test("a state that an initiator sets is everybody's")
    func states() {
        let site = FakeSite()
        let gateways = [site.gateway(), site.gateway()]
        var said: [Bool] = []
        gateways[0].coordinator.set([PortGroup(tag: 2, state: .standby)], of: targetName) {
            said.append($0)
            #expect(gateways[0].groups.map(\.state) == [.activeOptimized, .standby])
        }
        site.world.run(for: .milliseconds(100))
        #expect(said == [true])
        #expect(gateways[1].groups.map(\.state) == [.activeOptimized, .standby])
    }

    @Test("a change of reservations is done when the other gateway goes by it")
    func agreement() {
        let site = FakeSite()
        let (first, second) = (site.gateway(), site.gateway())
        var heard: [ReservationStoring] = []
        first.change(Self.register, "a") { storing in
            heard.append(storing)
            #expect(second.tables[0].registrations.count == 1)
        }
        site.world.run(for: .milliseconds(100))
        #expect(heard == [.stored])
        #expect(first.tables == second.tables)
    }

    @Test("two gateways that change at the same moment both get their way, one after the other")
    func race() {
        let site = FakeSite()
        let gateways = (0..<3).map { _ in site.gateway() }
        var done = 0
        for round in 0..<10 {
            for gateway in gateways {
                gateway.change(Self.register, "i\(round)") { if $0 == .stored { done += 1 } }
            }
            site.world.run(for: .seconds(1))
        }
        #expect(done == 30)
        for gateway in gateways { #expect(gateway.tables[0].registrations.count == 30) }
        #expect(gateways.allSatisfy { $0.tables == gateways[0].tables && !$0.isExpelled })
    }

    @Test("a change whose answer is lost is done once, and known as done")
    func lostAnswer() {
        let site = FakeSite()
        let (first, second) = (site.gateway(), site.gateway())
        first.volumes[0].lostAnswers = 1
        var heard: [ReservationStoring] = []
        first.change(Self.register, "a") { heard.append($0) }
        site.world.run(for: .seconds(3))
        #expect(heard == [.stored])
        #expect(first.tables[0].version == 1 && first.tables == second.tables)
    }

    @Test(
        "a change whose answer is lost and that others changed again is no success; all go by what is there")
    func doubt() throws {
        let site = FakeSite()
        let (first, second) = (site.gateway(), site.gateway())
        first.volumes[0].lostAnswers = 1
        let clock = site.world.environment("clock")
        // The other one has heard of the first change before it makes its own.
        first.volumes[0].meanwhile = {
            clock.after(.milliseconds(50)) { second.change(Self.register, "b") { _ in } }
        }
        var heard: [ReservationStoring] = []
        first.change(Self.register, "a") { heard.append($0) }
        site.world.run(for: .seconds(10))
        #expect(heard == [.failed])
        #expect(first.tables[0].registrations.count == 2 && first.tables == second.tables)
    }

    @Test("a change is done when nothing is left elsewhere of what it ended; who has heard of it stays")
    func settling() {
        let site = FakeSite()
        let (first, second) = (site.gateway(), site.gateway())
        second.holdsSettling = true
        var heard: [ReservationStoring] = []
        first.change(.reset(.unit), "a") { heard.append($0) }
        site.world.run(for: .seconds(12))
        #expect(heard.isEmpty && second.tables[0].version == 1)
        second.coordinator.settled(1, of: second.keys[0])
        site.world.run(for: .milliseconds(100))
        #expect(heard == [.stored])
        first.change(.reset(.unit), "a") { heard.append($0) }
        site.world.run(for: .seconds(60))
        #expect(heard == [.stored, .failed] && !second.isExpelled)
        second.coordinator.settled(2, of: second.keys[0])
        // The other way meanwhile: nobody waits for himself.
        second.change(.reset(.unit), "b") { heard.append($0) }
        site.world.run(for: .milliseconds(100))
        #expect(heard == [.stored, .failed, .stored] && first.tables == second.tables)
    }

    @Test(
        "a gateway whose change waits goes by what others change meanwhile, and nobody takes it out",
        arguments: [Duration.zero, .milliseconds(200)])
    func changeWhileWaiting(answersLate: Duration) {
        let site = FakeSite()
        let (first, second, third) = (site.gateway(), site.gateway(), site.gateway())
        third.holdsSettling = true
        first.volumes[0].answersLate = answersLate
        var heard: [ReservationStoring] = []
        first.change(.reset(.unit), "a") { heard.append($0) }
        site.world.run(for: .milliseconds(50))
        // What stands in the value and is not known there to do so is told to nobody.
        second.change(Self.register, "b") { heard.append($0) }
        site.world.run(for: .milliseconds(50))
        #expect(first.tables[0].version == (answersLate == .zero ? 2 : 0))
        site.world.run(for: .seconds(12))
        #expect(!first.isExpelled && first.tables[0].version == 2 && heard.isEmpty)
        third.coordinator.settled(2, of: third.keys[0])
        site.world.run(for: .milliseconds(500))
        #expect(heard == [.stored, .stored])
        #expect(first.tables == second.tables && first.tables == third.tables)
        #expect([first, second, third].allSatisfy { !$0.isExpelled })
    }

    @Test("a gateway that serves a unit no more holds up nobody, and may serve it again")
    func unitLeft() {
        let site = FakeSite(volumes: 2)
        let (first, second) = (site.gateway(), site.gateway())
        second.coordinator.leave(unit: second.keys[1])
        var heard: [ReservationStoring] = []
        first.change(Self.register, "a", unit: 1) { heard.append($0) }
        site.world.run(for: .milliseconds(100))
        #expect(heard == [.stored] && second.tables[1].version == 0)
        second.coordinator.join(unit: second.keys[1]) { second.tables[1] = $0 ?? second.tables[1] }
        site.world.run(for: .milliseconds(100))
        #expect(second.tables[1].version == 1)
        second.change(Self.register, "b", unit: 1) { heard.append($0) }
        site.world.run(for: .milliseconds(100))
        #expect(heard == [.stored, .stored] && first.tables == second.tables && !second.isExpelled)
    }

    @Test("a gateway that is slow delays a change, and stays")
    func slow() {
        let site = FakeSite()
        let (first, second) = (site.gateway(), site.gateway())
        second.cut(true)
        var heard: [ReservationStoring] = []
        first.change(Self.register, "a") { heard.append($0) }
        site.world.run(for: .seconds(2))
        #expect(heard.isEmpty)
        second.cut(false)
        site.world.run(for: .seconds(30))
        #expect(heard == [.stored])
        #expect(first.tables == second.tables && !second.isExpelled)
    }

    @Test("a change waits for a gateway that came a moment ago, and of which nobody has told yet")
    func newcomer() {
        let site = FakeSite()
        let first = FakeGateway(site, enters: false)
        first.volumes[0].deafFor = "gateways"
        first.enter()
        site.world.run(for: .milliseconds(100))
        let second = site.gateway()
        #expect(first.groups.count == 1 && second.groups.count == 2)
        second.cut(true)
        var heard: [ReservationStoring] = []
        first.change(Self.register, "a") { heard.append($0) }
        site.world.run(for: .seconds(2))
        #expect(heard.isEmpty)
        second.cut(false)
        site.world.run(for: .seconds(3))
        #expect(heard == [.stored] && first.tables == second.tables)
    }

    @Test("a change does not wait for a dead gateway: that one is removed, with its RESERVE(6) and its place")
    func dead() {
        let site = FakeSite(volumes: 2)
        let (first, second) = (site.gateway(), site.gateway())
        second.change(.simpleReserve, "b", unit: 1) { _ in }
        site.world.run(for: .milliseconds(100))
        #expect(first.tables[1].simpleHolder != nil)
        second.cut(true)
        var heard: [ReservationStoring] = []
        first.change(Self.register, "a") { heard.append($0) }
        site.world.run(for: .seconds(10))
        #expect(heard == [.stored])
        #expect(site.groups.allSatisfy { $0.members.count == 1 })
        #expect(first.tables[1].simpleHolder == nil && first.groups.map(\.tag) == [1])
        // It may come back to life, and can do nothing any more.
        second.cut(false)
        site.world.run(for: .seconds(30))
        #expect(second.isExpelled)
        #expect(site.gateway().tag == 2)
    }

    @Test("what a gateway sanitizes has failed when it is gone or leaves", arguments: [false, true])
    func sanitizing(leaves: Bool) {
        let site = FakeSite(volumes: 2)
        let (first, second) = (site.gateway(), site.gateway())
        var heard: [ReservationStoring] = []
        second.change(.startSanitize(allowsExit: true), "b", unit: 1) { heard.append($0) }
        site.world.run(for: .milliseconds(100))
        #expect(heard == [.stored] && first.tables[1].sanitize == .running(port: 2, allowsExit: true))
        if leaves {
            second.coordinator.leave {}
        } else {
            second.cut(true)
            for group in site.groups { group.members[1].isSilent = true }
        }
        site.world.run(for: .seconds(10))
        #expect(first.groups.map(\.tag) == [1])
        #expect(first.tables[1].sanitize == .failed(allowsExit: true))
        #expect(first.tables[0].sanitize == SharedSanitize.none)
    }

    @Test(
        "how far a sanitize operation is the others hear now and then, with few writes, and that it is over")
    func sanitizeProgress() {
        let site = FakeSite()
        let (first, second) = (site.gateway(), site.gateway())
        var heard: [ReservationStoring] = []
        second.change(.startSanitize(allowsExit: false), "b") { heard.append($0) }
        site.world.run(for: .milliseconds(100))
        #expect(heard == [.stored] && first.progress.isEmpty)
        let before = site.groups[0].value("seen").version
        for step in 1...UInt16(120) {
            second.coordinator.report(sanitized: step * 100, of: second.keys[0])
            site.world.run(for: .milliseconds(100))
        }
        #expect(site.groups[0].value("seen").version - before == 3)
        #expect(first.progress.count == 3 && first.progress.first == 100)
        // Nothing is new, and what was last is told all the same.
        site.world.run(for: .seconds(30))
        #expect(site.groups[0].value("seen").version - before == 4 && first.progress.last == 12_000)
        // A gateway that comes now hears of it too, and its own word takes none away.
        let third = site.gateway()
        third.change(Self.register, "c") { heard.append($0) }
        site.world.run(for: .seconds(1))
        #expect(heard == [.stored, .stored] && third.progress == [12_000])
        second.change(.endSanitize(hasFailed: false), "b") { heard.append($0) }
        second.coordinator.report(sanitized: 0, of: second.keys[0])
        site.world.run(for: .seconds(1))
        #expect(heard.count == 3 && first.progress.last == 0 && third.progress.last == 0)
        #expect(second.progress.isEmpty)
        // Whoever is alone writes nothing.
        for other in [first, third] { other.coordinator.leave {} }
        site.world.run(for: .seconds(1))
        let alone = site.groups[0].value("seen").version
        second.coordinator.report(sanitized: 5, of: second.keys[0])
        site.world.run(for: .seconds(6))
        #expect(site.groups[0].value("seen").version == alone)
    }
    @Test("what a gateway noted of its sanitize operation is nobody's when it is gone")
    func sanitizeProgressOfTheDead() {
        let site = FakeSite()
        let (first, second) = (site.gateway(), site.gateway())
        second.change(.startSanitize(allowsExit: false), "b") { _ in }
        second.coordinator.report(sanitized: 700, of: second.keys[0])
        site.world.run(for: .milliseconds(100))
        #expect(first.progress == [700])
        second.cut(true)
        for group in site.groups { group.members[1].isSilent = true }
        site.world.run(for: .seconds(10))
        #expect(first.tables[0].sanitize == .failed(allowsExit: false) && first.progress == [700, 0])
    }

    @Test("a gateway whose lease has run out, or that an operator removed, is taken out by whoever notices")
    func noticed() {
        let site = FakeSite()
        let gateways = (0..<3).map { _ in site.gateway() }
        site.groups[0].members[1].isSilent = true
        gateways[1].cut(true)
        site.groups[0].members.removeLast()
        site.world.run(for: .seconds(5))
        #expect(gateways[0].groups.map(\.tag) == [1])
        #expect(gateways[2].isExpelled)
    }

    @Test(
        "what does not outlive a loss of power is gone when gateways come where there were none",
        arguments: [false, true])
    func power(persists: Bool) {
        let site = FakeSite()
        var gateway = site.gateway()
        let request = ReservationRequest.register(
            key: 0, newKey: 7, ignoringKey: false, persists: persists)
        gateway.change(request, "a") { _ in }
        site.world.run(for: .milliseconds(100))
        let second = site.gateway()
        #expect(second.tables[0].registrations.count == 1)
        for other in [gateway, second] { other.coordinator.leave {} }
        site.world.run(for: .seconds(1))
        gateway = site.gateway()
        #expect(gateway.tables[0].registrations.count == (persists ? 1 : 0))
        let beside = site.gateway()
        #expect(beside.tables == gateway.tables)
    }

    @Test("a gateway that cannot ask is told so, and takes nothing")
    func unreachable() {
        let site = FakeSite()
        let gateway = FakeGateway(site, enters: false)
        gateway.cut(true)
        gateway.enter()
        site.world.run(for: .seconds(30))
        #expect(gateway.refusal == .unavailable && site.groups[0].values.isEmpty)
        gateway.cut(false)
        gateway.enter()
        site.world.run(for: .seconds(1))
        gateway.cut(true)
        var heard: [ReservationStoring] = []
        gateway.change(Self.register, "a") { heard.append($0) }
        site.world.run(for: .seconds(60))
        #expect(heard == [.failed])
    }
}

@Suite struct ValueCodingTests {
    static var list: GatewayList {
        var list = GatewayList()
        (list.target, list.power, list.author) = ("t", 5, 6)
        for tag in [UInt16(2), 1] {
            list.add(
                Gateway(
                    name: "gateway \(tag)", sessions: [Gateway.Session(volume: 3, epoch: UInt32(tag))],
                    group: PortGroup(tag: tag, state: .standby), portals: ["a:1", "b:2"], drain: .asked))
        }
        return list
    }
    @Test("values come back as they were put, and not from any part of their bytes")
    func roundTrips() throws {
        let list = Self.list
        #expect(try GatewayList(decoding: list.encoded) == list)
        #expect(list.freeTag == 3)
        var table = ReservationTable()
        table.version = 4
        let record = ReservationRecord(power: 1, author: 2, number: 3, table: table)
        #expect(try ReservationRecord(decoding: record.encoded, version: 4) == record)
        #expect(throws: ValueError.self) { try ReservationRecord(decoding: record.encoded, version: 5) }
        var seen = SeenVersions()
        seen.note(9, SeenVersions.Note(told: 4, settled: 1), present: [9])
        seen.note(2, SeenVersions.Note(told: 3, settled: 3), present: [2, 9])
        let read = try SeenVersions(decoding: seen.encoded)
        #expect(read == seen && read[9].told == 4 && read[9].settled == 1 && read[2].told == 3)
        #expect(read[1] == SeenVersions.Note())
        // One that nobody sanitizes by is read by gateways that know of no progress.
        #expect(seen.encoded.first == 2 && !seen.isSanitizing)
        seen.note(2, SeenVersions.Note(told: 3, settled: 3, sanitized: 9), present: [2, 9])
        #expect(seen.encoded.first == 3)
        let again = try SeenVersions(decoding: seen.encoded)
        #expect(again == seen && again[2].sanitized == 9)
        for count in 1..<list.encoded.count {
            #expect(throws: ValueError.self) {
                try GatewayList(decoding: Array(list.encoded.prefix(count)))
            }
        }
        for count in 0..<record.encoded.count {
            #expect(throws: ValueError.self) {
                try ReservationRecord(decoding: Array(record.encoded.prefix(count)), version: 4)
            }
        }
        for count in 1..<seen.encoded.count {
            #expect(throws: ValueError.self) {
                try SeenVersions(decoding: Array(seen.encoded.prefix(count)))
            }
        }
    }
}
