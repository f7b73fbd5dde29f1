import BlockTypes
import SCSIBoundary
import Testing

@testable import SCSICommands

/// Persistent reservations and RESERVE(6), at one gateway and at two.
@Suite struct ReservationTests {
    static let conflict: UInt8 = 0x18

    static func out(
        _ bench: Bench, _ action: UInt8, type: UInt8 = 0, key: UInt64 = 0, actionKey: UInt64 = 0,
        flags: UInt8 = 0, _ nexus: NexusID
    ) -> Reply {
        let (cdb, list) = Make.reserveOut(action, type: type, key: key, actionKey: actionKey, flags: flags)
        return bench.run(cdb, nexus, out: list)
    }
    static func keys(_ bench: Bench) -> (generation: UInt32, keys: [UInt64]) {
        let data = bench.run(Make.reserveIn(0)).data
        return (data.word(at: 0), stride(from: 8, to: data.count, by: 8).map { data.long(at: $0) })
    }
    static func registered(_ count: Int = 2) -> Bench {
        let bench = Bench()
        for number in 1...count {
            _ = out(bench, 0, actionKey: UInt64(number), NexusID(rawValue: UInt64(number)))
        }
        return bench
    }

    /// By reservation class: what a nexus that does not hold it may do, not registered and registered.
    /// SPC-5, table 71; SBC-4, table 15.
    static let matrix: [(type: UInt8, reads: (Bool, Bool), writes: (Bool, Bool))] = [
        (1, (true, true), (false, false)), (3, (false, false), (false, false)),
        (5, (true, true), (false, true)), (6, (false, true), (false, true)),
        (7, (true, true), (false, true)), (8, (false, true), (false, true)),
    ]
    static let samples: [(cdb: [UInt8], kind: ReservationClass)] = [
        (Make.inquiry(), .always), ([0xa0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0], .always),
        ([0x03, 0, 0, 0, 18, 0], .always), ([0, 0, 0, 0, 0, 0], .status),
        (Make.ten(0x25, 0, 0), .always), ([0x1b, 0, 0, 0, 1, 0], .always), (Make.reserveIn(1), .always),
        (Make.ten(0x28, 0, 1), .reads), (Make.ten(0x2f, 0, 1), .reads), (Make.ten(0x34, 0, 1), .reads),
        ([0x1a, 0, 0x3f, 0, 255, 0], .reads), (Make.opcodes(0), .reads),
        (Make.sixteen(0x9e, 0, 64, flags: 0x12), .reads), (Make.ten(0x37, 0, 64), .reads),
        (Make.ten(0x2a, 0, 1), .writes), (Make.ten(0x41, 0, 1), .writes), (Make.compare(0, 1), .writes),
        (Make.sixteen(0x8b, 0, 1), .writes), (Make.unmap([(0, 8)]).cdb, .writes),
        (Make.ten(0x35, 0, 0), .writes), ([0x1b, 0, 0, 0, 0, 0], .writes),
        ([0x15, 0x10, 0, 0, 0, 0], .writes), ([0x48, 0x02, 0, 0, 0, 0, 0, 0, 0, 0], .writes),
        ([0x83, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], .writes),
    ]
    @Test("who may do what, by type, class and registration", arguments: 0..<6)
    func access(row: Int) {
        let expected = Self.matrix[row]
        for isRegistered in [false, true] {
            for sample in Self.samples {
                let bench = Bench()
                #expect(Self.out(bench, 0, actionKey: 7, Bench.one).status == 0)
                if isRegistered { #expect(Self.out(bench, 0, actionKey: 8, Bench.two).status == 0) }
                #expect(Self.out(bench, 1, type: expected.type, key: 7, Bench.one).status == 0)
                let allowed =
                    switch sample.kind {
                    case .always, .status, .own: true
                    case .reads: isRegistered ? expected.reads.1 : expected.reads.0
                    case .writes: isRegistered ? expected.writes.1 : expected.writes.0
                    }
                let data = [UInt8](repeating: 0, count: 1024)
                let reply = bench.run(sample.cdb, Bench.two, out: data)
                #expect(
                    (reply.status != Self.conflict) == allowed,
                    "type \(expected.type), registered \(isRegistered), CDB \(sample.cdb)")
                #expect(bench.run(sample.cdb, Bench.one, out: data).status != Self.conflict)
            }
        }
    }

    @Test("registering: keys, generation, ignoring, leaving")
    func register() {
        let bench = Bench()
        #expect(Self.keys(bench).keys == [])
        #expect(Self.out(bench, 0, key: 1, actionKey: 5, Bench.one).status == Self.conflict)
        #expect(Self.out(bench, 0, actionKey: 5, Bench.one).status == 0)
        #expect(Self.keys(bench).generation == 1)
        #expect(Self.out(bench, 0, actionKey: 6, Bench.one).status == Self.conflict)
        #expect(Self.out(bench, 0, key: 5, actionKey: 6, Bench.one).status == 0)
        #expect(Self.out(bench, 6, key: 99, actionKey: 7, Bench.one).status == 0)
        #expect(Self.out(bench, 6, actionKey: 8, Bench.two).status == 0)
        #expect(Self.keys(bench).keys == [7, 8])
        #expect(Self.keys(bench).generation == 4)
        #expect(Self.out(bench, 0, key: 7, actionKey: 0, Bench.one).status == 0)
        #expect(Self.keys(bench).keys == [8])
        // Nothing registered, nothing given up: good, and nothing changes.
        #expect(Self.out(bench, 6, Bench.one).status == 0)
        #expect(Self.keys(bench).generation == 5)
    }
    @Test("reserving and releasing")
    func reserve() {
        let bench = Self.registered()
        #expect(Self.out(bench, 1, type: 1, key: 9, Bench.one).status == Self.conflict)
        #expect(Self.out(bench, 1, type: 1, key: 1, Bench.three).status == Self.conflict)
        #expect(Self.out(bench, 1, type: 2, key: 1, Bench.one).code == 0x05_2400)
        #expect(Self.out(bench, 1, type: 0x11, key: 1, Bench.one).code == 0x05_2400)
        #expect(Self.out(bench, 1, type: 1, key: 1, Bench.one).status == 0)
        #expect(Self.out(bench, 1, type: 1, key: 1, Bench.one).status == 0)
        #expect(Self.out(bench, 1, type: 3, key: 1, Bench.one).status == Self.conflict)
        #expect(Self.out(bench, 1, type: 1, key: 2, Bench.two).status == Self.conflict)
        let held = bench.run(Make.reserveIn(1)).data
        #expect(held.count == 24 && held.long(at: 8) == 1 && held[21] == 1)
        #expect(Self.out(bench, 2, type: 3, key: 1, Bench.one).code == 0x05_2604)
        #expect(Self.out(bench, 2, type: 1, key: 2, Bench.two).status == 0)  // Not the holder: nothing.
        #expect(bench.run(Make.reserveIn(1)).data.count == 24)
        #expect(Self.out(bench, 2, type: 1, key: 1, Bench.one).status == 0)
        #expect(bench.run(Make.reserveIn(1)).data.count == 8)
    }
    @Test(
        "releasing a registrants' type tells the others; leaving too", arguments: [UInt8(1), 3, 5, 6, 7, 8],
        [false, true])
    func released(type: UInt8, leaves: Bool) {
        let bench = Self.registered(3)
        #expect(Self.out(bench, 1, type: type, key: 1, Bench.one).status == 0)
        let reply =
            leaves
            ? Self.out(bench, 0, key: 1, Bench.one) : Self.out(bench, 2, type: type, key: 1, Bench.one)
        #expect(reply.status == 0)
        let isTold = type == 5 || type == 6 || type > 6 && !leaves
        let ready = bench.run([0, 0, 0, 0, 0, 0], Bench.two)
        #expect(ready.code == (isTold ? 0x06_2a04 : 0))
        // All registrants: it ends with the last of them.
        let stays = leaves && type > 6
        #expect(bench.run(Make.reserveIn(1), Bench.three).code == (isTold ? 0x06_2a04 : 0))
        #expect(bench.run(Make.reserveIn(1), Bench.three).data.count == (stays ? 24 : 8))
    }
    @Test("CLEAR ends all and tells the others")
    func clear() {
        let bench = Self.registered()
        #expect(Self.out(bench, 1, type: 3, key: 1, Bench.one).status == 0)
        #expect(Self.out(bench, 3, key: 1, Bench.two).status == Self.conflict)
        #expect(Self.out(bench, 3, key: 2, Bench.two).status == 0)
        #expect(bench.run([0, 0, 0, 0, 0, 0]).code == 0x06_2a03)
        #expect(Self.keys(bench).keys == [])
        #expect(bench.run(Make.reserveIn(1)).data.count == 8)
    }
    @Test("PREEMPT takes over and removes", arguments: [UInt8(1), 3, 5, 6])
    func preempt(type: UInt8) {
        let bench = Self.registered(3)
        #expect(Self.out(bench, 1, type: type, key: 1, Bench.one).status == 0)
        #expect(Self.out(bench, 4, type: 3, key: 2, actionKey: 0, Bench.two).code == 0x05_2600)
        #expect(Self.out(bench, 4, type: 3, key: 2, actionKey: 77, Bench.two).status == Self.conflict)
        #expect(Self.out(bench, 4, type: 3, key: 2, actionKey: 1, Bench.two).status == 0)
        #expect(bench.run([0, 0, 0, 0, 0, 0]).code == 0x06_2a05)
        let held = bench.run(Make.reserveIn(1), Bench.two).data
        #expect(held.long(at: 8) == 2 && held[21] == 3)
        let isTold = type != 3
        #expect(bench.run([0, 0, 0, 0, 0, 0], Bench.three).code == (isTold ? 0x06_2a04 : 0))
        #expect(Self.keys(bench).keys == [2, 3])
    }
    @Test("PREEMPT with key 0 takes an all registrants' reservation from all")
    func preemptAll() {
        let bench = Self.registered(3)
        #expect(Self.out(bench, 1, type: 7, key: 1, Bench.one).status == 0)
        #expect(bench.run(Make.reserveIn(1)).data.long(at: 8) == 0)
        #expect(Self.out(bench, 4, type: 1, key: 2, actionKey: 0, Bench.two).status == 0)
        #expect(bench.run([0, 0, 0, 0, 0, 0]).code == 0x06_2a05)
        #expect(bench.run([0, 0, 0, 0, 0, 0], Bench.three).code == 0x06_2a05)
        let held = bench.run(Make.reserveIn(1), Bench.two).data
        #expect(held.long(at: 8) == 2 && held[21] == 1)
    }
    @Test("PREEMPT AND ABORT ends the commands of those it removes, and of nobody else")
    func preemptAndAbort() {
        let bench = Self.registered(2)
        bench.holds = true
        let running = bench.send(Make.ten(0x28, 0, 1), Bench.one)
        let waiting = bench.send(Make.compare(8, 1), Bench.one, out: [UInt8](repeating: 0, count: 1024))
        let behind = bench.send(Make.ten(0x2a, 8, 1), Bench.one, out: bench.pattern(1))
        let other = bench.send(Make.ten(0x28, 0, 1), Bench.three)
        let (cdb, list) = Make.reserveOut(5, type: 1, key: 2, actionKey: 1)
        let preempt = bench.send(cdb, Bench.two, out: list)
        #expect(bench.reply(behind)?.status == 0x40)
        bench.holds = false
        // Not before the last of them has ended.
        bench.completeHeld()
        #expect(bench.reply(running)?.status == 0x40 && bench.reply(preempt) == nil)
        while !bench.held.isEmpty { bench.completeHeld() }
        #expect(bench.reply(preempt)?.status == 0)
        #expect(bench.reply(waiting)?.status == 0x40)
        #expect(bench.reply(other)?.status == 0)
        #expect(bench.run([0, 0, 0, 0, 0, 0]).code == 0x06_2a05)
        #expect(bench.run([0, 0, 0, 0, 0, 0]).code == 0x06_2f00)
    }
    @Test("capabilities, APTPL, full status; what one nexus alone can register")
    func reports() {
        let bench = Self.registered(1)
        let none = bench.run(Make.reserveIn(2)).data
        #expect(none == [0, 8, 0x11, 0x80, 0xea, 0x01, 0, 0])
        #expect(Self.out(bench, 0, key: 1, actionKey: 4, flags: 0x01, Bench.one).status == 0)
        #expect(bench.run(Make.reserveIn(2)).data[3] == 0x81)
        #expect(Self.out(bench, 0, key: 4, actionKey: 5, flags: 0x08, Bench.one).code == 0x05_2600)
        #expect(Self.out(bench, 0, key: 4, actionKey: 5, flags: 0x04, Bench.one).code == 0x05_2600)
        #expect(Self.out(bench, 1, type: 5, key: 4, Bench.one).status == 0)
        let full = bench.run(Make.reserveIn(3)).data
        #expect(full.long(at: 8) == 4 && full[20] == 1 && full[21] == 5 && full.half(at: 26) == 1)
        #expect(full[32] == 0x45 && Int(full.word(at: 28)) == full.count - 32)
        let name = String(decoding: full[36...].prefix { $0 != 0 }, as: UTF8.self)
        #expect(name == bench.names(Bench.one).initiatorPort)
        let (cdb, list) = Make.reserveOut(0, actionKey: 3)
        #expect(bench.run(cdb, Bench.two, out: Array(list.prefix(23))).code == 0x05_1a00)
        var long = cdb
        long[8] = 25
        #expect(bench.run(long, Bench.two, out: list + [0]).code == 0x05_1a00)
        #expect(bench.run(Make.reserveIn(4)).code == 0x05_2400)
        #expect(Self.out(bench, 7, Bench.one).code == 0x05_2400)
    }
    @Test("RESERVE(6): a conflict for others, gone with resets and with its holder", arguments: 0..<6)
    func simple(way: Int) {
        let bench = Bench()
        #expect(bench.run([0x16, 0, 0, 0, 0, 0]).status == 0)
        #expect(bench.run([0x16, 0, 0, 0, 0, 0]).status == 0)
        #expect(bench.run([0x16, 0, 0, 0, 0, 0], Bench.two).status == Self.conflict)
        #expect(bench.run([0, 0, 0, 0, 0, 0], Bench.two).status == Self.conflict)
        #expect(bench.run(Make.ten(0x28, 0, 1), Bench.two).status == Self.conflict)
        #expect(bench.run(Make.inquiry(), Bench.two).status == 0)
        #expect(bench.run([0x17, 0, 0, 0, 0, 0], Bench.two).status == 0)  // Nothing of its own to give up.
        #expect(Self.out(bench, 0, actionKey: 1, Bench.one).status == Self.conflict)
        #expect(bench.run([0x16, 1, 0, 0, 0, 0]).code == 0x05_2400)
        switch way {
        case 0: #expect(bench.run([0x17, 0, 0, 0, 0, 0]).status == 0)
        case 1: bench.step(.nexusEnded(Bench.one))
        case 2: #expect(bench.manage(.logicalUnitReset, Bench.two) == .complete)
        case 3: #expect(bench.manage(.targetWarmReset, Bench.two) == .complete)
        case 4: #expect(bench.manage(.targetColdReset, Bench.two) == .complete)
        default: #expect(bench.manage(.nexusReset, Bench.one) == .complete)
        }
        let code = [0, 0, 0x06_2903, 0x06_2902, 0x06_2901, 0][way]
        #expect(bench.run([0, 0, 0, 0, 0, 0], Bench.two).code == code)
        #expect(bench.run([0x16, 0, 0, 0, 0, 0], Bench.two).status == 0)
    }
    @Test("RESERVE(6) beside persistent reservations (CRH)")
    func compatible() {
        let bench = Self.registered(2)
        #expect(bench.run([0x16, 0, 0, 0, 0, 0], Bench.three).status == Self.conflict)
        #expect(Self.out(bench, 1, type: 3, key: 1, Bench.one).status == 0)
        #expect(bench.run([0x16, 0, 0, 0, 0, 0], Bench.one).status == 0)
        #expect(bench.run([0x16, 0, 0, 0, 0, 0], Bench.two).status == Self.conflict)
        #expect(bench.run([0x17, 0, 0, 0, 0, 0], Bench.one).status == 0)
        #expect(bench.run(Make.ten(0x28, 0, 1), Bench.two).status == Self.conflict)
    }

    // MARK: Two gateways

    @Test("initiators at two gateways see one truth")
    func gateways() {
        let keeper = ModelKeeper()
        let a = Bench(tag: 1, keeper: keeper)
        let b = Bench(tag: 2, keeper: keeper, volumes: a.volumes)
        #expect(Self.out(a, 0, actionKey: 1, Bench.one).status == 0)
        #expect(Self.out(b, 0, actionKey: 2, Bench.two).status == 0)
        #expect(Self.keys(a).keys == [1, 2])
        #expect(Self.out(a, 1, type: 1, key: 1, Bench.one).status == 0)
        #expect(b.run(Make.ten(0x2a, 0, 1), Bench.two, out: b.pattern(1)).status == Self.conflict)
        b.holds = true
        let read = b.send(Make.ten(0x28, 0, 1), Bench.two)
        #expect(Self.out(a, 5, type: 3, key: 1, actionKey: 2, Bench.one).status == 0)
        b.holds = false
        let unit = UnitNumber(rawValue: 0)
        #expect(a.settled[unit] == 4 && b.settled[unit] == 3)
        b.completeHeld()
        #expect(b.settled[unit] == 4)
        #expect(b.reply(read)?.status == 0x40)
        #expect(b.run([0, 0, 0, 0, 0, 0], Bench.two).code == 0x06_2a05)
        // The same initiator at the other gateway is another nexus.
        #expect(b.run(Make.ten(0x28, 0, 1), Bench.one).status == 0)
        #expect(b.run(Make.ten(0x2a, 0, 1), Bench.one, out: b.pattern(1)).status == Self.conflict)
    }
    @Test("a gateway that was slower begins anew from what the other left")
    func race() {
        let keeper = ModelKeeper()
        let a = Bench(tag: 1, keeper: keeper)
        let b = Bench(tag: 2, keeper: keeper, volumes: a.volumes)
        #expect(Self.out(a, 0, actionKey: 1, Bench.one).status == 0)
        #expect(Self.out(b, 0, actionKey: 2, Bench.two).status == 0)
        b.holdsKeeper = true
        let (cdb, list) = Make.reserveOut(1, type: 1, key: 2)
        let late = b.send(cdb, Bench.two, out: list)
        let (second, secondList) = Make.reserveOut(0, key: 2, actionKey: 20)
        let next = b.send(second, Bench.two, out: secondList)
        #expect(Self.out(a, 1, type: 3, key: 1, Bench.one).status == 0)
        b.holdsKeeper = false
        let offer = b.heldTables.removeFirst()
        b.store(offer.0, offer.1, offer.2)
        #expect(b.reply(late)?.status == Self.conflict)
        #expect(b.reply(next)?.status == 0)
        #expect(Self.keys(a).keys == [1, 20])
    }
    @Test("when the keeper is away the command fails, and the next goes on")
    func keeperAway() {
        let keeper = ModelKeeper()
        let bench = Bench(keeper: keeper)
        keeper.failsEvery = 1
        #expect(Self.out(bench, 0, actionKey: 1, Bench.one).code == 0x04_4400)
        #expect(Self.keys(bench).keys == [])
        keeper.failsEvery = 0
        #expect(Self.out(bench, 0, actionKey: 1, Bench.one).status == 0)
    }

    @Test(
        "a reset ends commands at the other gateway too, and is told there",
        arguments: [
            (ManagementFunction.logicalUnitReset, 0x06_2903), (.targetWarmReset, 0x06_2902),
            (.targetColdReset, 0x06_2901),
        ])
    func resetElsewhere(function: ManagementFunction, code: Int) {
        let keeper = ModelKeeper()
        let a = Bench(tag: 1, keeper: keeper)
        let b = Bench(tag: 2, keeper: keeper, volumes: a.volumes) { $0.isRemovable = true }
        let unit = UnitNumber(rawValue: 0)
        #expect(b.run([0x1e, 0, 0, 0, 1, 0], Bench.two).status == 0)
        #expect(b.run([0x16, 0, 0, 0, 0, 0], Bench.two).status == 0)
        let before = b.settled[unit] ?? 0
        b.holds = true
        let read = b.send(Make.ten(0x28, 0, 1), Bench.two)
        let compare = b.send(Make.compare(8, 1), Bench.two, out: [UInt8](repeating: 0, count: 1024))
        let waiting = b.send(Make.ten(0x2a, 8, 1), Bench.two, out: b.pattern(1))
        #expect(a.manage(function) == .complete)
        #expect(b.aborted == [waiting] && b.settled[unit] == (before > 0 ? before : nil))
        b.holds = false
        while !b.held.isEmpty { b.completeHeld() }
        #expect(b.aborted == [waiting, compare] && b.reply(read)?.status == 0)
        #expect(b.settled[unit] == before + 1)
        for nexus in [Bench.one, Bench.two, Bench.three] {
            #expect(b.run([0, 0, 0, 0, 0, 0], nexus).code == code)
            #expect(b.run([0, 0, 0, 0, 0, 0], nexus).status == 0)
        }
        #expect(a.run([0, 0, 0, 0, 0, 0], Bench.two).code == code)
        #expect(a.run([0, 0, 0, 0, 0, 0], Bench.two).status == 0)
        // Nobody holds it, and nobody prevents removal.
        #expect(a.run([0x16, 0, 0, 0, 0, 0], Bench.two).status == 0)
        #expect(b.target.units[0].reservations.preventingPorts.isEmpty)
        #expect(b.endedSessions == (function == .targetColdReset ? 1 : 0) && a.endedSessions == 0)
        #expect(a.answers.values.allSatisfy { $0.status != 0x40 })
    }
    @Test("a sanitize operation waits for all gateways, is refused at all of them, and ends for all")
    func sanitizeEverywhere() {
        let keeper = ModelKeeper()
        let a = Bench(tag: 1, keeper: keeper)
        let b = Bench(tag: 2, keeper: keeper, volumes: a.volumes)
        let unit = UnitNumber(rawValue: 0)
        #expect(a.run(Make.ten(0x2a, 0, 1), out: a.pattern(1)).status == 0)
        (a.holds, b.holds) = (true, true)
        let earlier = b.send(Make.ten(0x28, 0, 1))
        a.holdsKeeper = true
        let task = a.send(TaskTests.sanitize(2))
        // Nothing is overwritten before the others know, and nothing is answered here meanwhile.
        #expect(a.held.isEmpty && a.run(Make.ten(0x28, 0, 1)).code == 0x02_041b)
        a.holdsKeeper = false
        let offer = a.heldTables.removeFirst()
        a.store(offer.0, offer.1, offer.2)
        #expect(a.held.count == 1 && b.settled[unit] == nil)
        #expect(b.run(Make.ten(0x28, 0, 1)).code == 0x02_041b)
        #expect(b.run(TaskTests.sanitize(2)).code == 0x02_041b)
        #expect(b.run(TaskTests.sanitize(0x1f)).code == 0x02_041b)
        #expect(b.run([0x03, 0, 0, 0, 252, 0]).data[12...13] == [0x04, 0x1b])
        #expect(b.run(Make.inquiry()).status == 0)
        b.completeHeld()
        #expect(b.reply(earlier)?.status == 0 && b.settled[unit] == 1)
        while !a.held.isEmpty { a.completeHeld() }
        #expect(a.reply(task)?.status == 0)
        (a.holds, b.holds) = (false, false)
        for gateway in [a, b] { #expect(gateway.run(Make.ten(0x28, 0, 1)).data.allSatisfy { $0 == 0 }) }
        #expect(keeper.tables[unit]?.sanitize == SharedSanitize.none)
    }
    @Test(
        "one whose gateway is gone, or was started anew, has failed at all gateways",
        arguments: [false, true])
    func sanitizeAbandoned(isStartedAnew: Bool) throws {
        let keeper = ModelKeeper()
        let a = Bench(tag: 1, keeper: keeper)
        let b = Bench(tag: 2, keeper: keeper, volumes: a.volumes)
        let unit = UnitNumber(rawValue: 0)
        a.holds = true
        _ = a.send(TaskTests.sanitize(2))
        #expect(b.run(UnitTests.ready).code == 0x02_041b)
        keeper.gateways.removeFirst()
        let table = try #require(keeper.tables[unit])
        if isStartedAnew {
            let again = Bench(tag: 1, keeper: keeper, volumes: a.volumes)
            again.step(.reservationsChanged(unit, table))
            #expect(again.run(UnitTests.ready).status == 2)
            #expect(again.run(UnitTests.ready).code == 0x03_3103)
        } else {
            keeper.tables[unit] = table.withoutGateway(1)
            b.step(.reservationsChanged(unit, table.withoutGateway(1)))
        }
        #expect(keeper.tables[unit]?.sanitize == .failed(allowsExit: false))
        #expect(b.run(Make.ten(0x28, 0, 1)).code == 0x03_3103)
        #expect(b.run(TaskTests.sanitize(0x1f)).code == 0x05_2400)
        #expect(b.run(TaskTests.sanitize(2, flags: 0x20)).code == 0x05_2400)
        #expect(b.run(TaskTests.sanitize(2)).status == 0)
        #expect(b.run(Make.ten(0x28, 0, 1)).status == 0)
    }
    @Test("a sanitize operation that the keeper does not hear of overwrites nothing, or has failed")
    func sanitizeUnheard() {
        let bench = Bench()
        bench.keeper.failsEvery = 1
        #expect(bench.run(TaskTests.sanitize(2)).code == 0x04_4400)
        #expect(bench.volume.requests.isEmpty && bench.run(UnitTests.ready).status == 0)
        // It begins, and its end is not heard of.
        bench.keeper.failsEvery = 3
        #expect(bench.run(TaskTests.sanitize(2)).code == 0x04_4400)
        bench.keeper.failsEvery = 0
        #expect(bench.run(UnitTests.ready).status == 2)
        #expect(bench.run(UnitTests.ready).code == 0x03_3103)
        #expect(bench.run(TaskTests.sanitize(2)).status == 0)
        #expect(bench.run(UnitTests.ready).status == 0)
    }
    @Test("a medium is out for all gateways, and locked by an initiator of any")
    func mediumElsewhere() {
        let keeper = ModelKeeper()
        let a = Bench(tag: 1, keeper: keeper) { $0.isRemovable = true }
        let b = Bench(tag: 2, keeper: keeper, volumes: a.volumes) { $0.isRemovable = true }
        #expect(b.run([0x1e, 0, 0, 0, 1, 0], Bench.two).status == 0)
        #expect(a.run([0x1b, 0, 0, 0, 2, 0]).code == 0x05_5302)
        b.step(.nexusEnded(Bench.two))
        #expect(a.run([0x1b, 0, 0, 0, 2, 0]).status == 0)
        for gateway in [a, b] { #expect(gateway.run(UnitTests.ready).code == 0x02_3a00) }
        #expect(b.run([0x1b, 0, 0, 0, 3, 0], Bench.three).status == 0)
        #expect(b.run(UnitTests.ready, Bench.three).status == 0)
        for nexus in [Bench.one, Bench.two, Bench.three] {
            #expect(a.run(UnitTests.ready, nexus).code == 0x06_2800)
            #expect(a.run(UnitTests.ready, nexus).status == 0)
        }
        // A lock ends with its gateway.
        #expect(a.run([0x1e, 0, 0, 0, 1, 0]).status == 0)
        #expect(b.run([0x1b, 0, 0, 0, 2, 0], Bench.three).code == 0x05_5302)
        let left = a.target.units[0].reservations.withoutGateway(1)
        keeper.tables[UnitNumber(rawValue: 0)] = left
        b.step(.reservationsChanged(UnitNumber(rawValue: 0), left))
        #expect(b.run([0x1b, 0, 0, 0, 2, 0], Bench.three).status == 0)
        #expect(left.afterPowerLoss().isEjected == false)
    }
    @Test("a reset that the keeper does not hear of is no success")
    func resetUnheard() {
        let bench = Bench(units: 2)
        bench.keeper.failsEvery = 2
        #expect(bench.manage(.targetWarmReset) == .rejected)
        bench.keeper.failsEvery = 0
        #expect(bench.manage(.targetWarmReset) == .complete)
    }
    @Test("a command that waits for the keeper ends with a reset elsewhere, and does not hold it up")
    func resetMeetsChange() {
        let keeper = ModelKeeper()
        let a = Bench(tag: 1, keeper: keeper)
        let b = Bench(tag: 2, keeper: keeper, volumes: a.volumes)
        b.holdsKeeper = true
        let (cdb, list) = Make.reserveOut(0, actionKey: 7)
        let first = b.send(cdb, Bench.one, out: list)
        let second = b.send(cdb, Bench.two, out: list)
        // B hears of the reset as the answer to its own offer, as the cluster tells it.
        keeper.gateways.removeLast()
        #expect(a.manage(.logicalUnitReset) == .complete)
        let offer = b.heldTables.removeFirst()
        b.store(offer.0, offer.1, offer.2)
        #expect(b.heldTables.isEmpty && b.settled[UnitNumber(rawValue: 0)] == 1)
        #expect([first, second].allSatisfy { b.aborted.contains($0) || b.reply($0)?.status == 0x40 })
        #expect(keeper.tables[UnitNumber(rawValue: 0)]?.registrations.isEmpty == true)
    }
    @Test("mode parameters are the same at all gateways, and a change of them is told")
    func modesElsewhere() {
        let keeper = ModelKeeper()
        let a = Bench(tag: 1, keeper: keeper)
        let b = Bench(tag: 2, keeper: keeper, volumes: a.volumes)
        var list: [UInt8] = [0, 0, 0, 0] + a.run([0x1a, 8, 0x0a, 0, 255, 0]).data.dropFirst(4)
        list[8] |= 0x08
        #expect(a.run([0x15, 0x10, 0, 0, UInt8(list.count), 0], out: list).status == 0)
        #expect(a.run([0, 0, 0, 0, 0, 0]).status == 0)
        #expect(b.run([0, 0, 0, 0, 0, 0], Bench.one).code == 0x06_2a01)
        #expect(b.run(Make.ten(0x2a, 0, 1), Bench.one, out: b.pattern(1)).code == 0x07_2702)
        #expect(b.manage(.logicalUnitReset) == .complete)
        #expect(a.run(Make.ten(0x2a, 0, 1), out: a.pattern(1)).code == 0x06_2903)
        #expect(a.run(Make.ten(0x2a, 0, 1), out: a.pattern(1)).status == 0)
    }
    @Test("an initiator that leaves gives up its RESERVE(6) first, and nobody else's")
    func farewell() {
        let bench = Bench(units: 2)
        #expect(bench.run([0x16, 0, 0, 0, 0, 0]).status == 0)
        bench.step(.nexusLeaves(Bench.two))
        #expect(bench.released == [Bench.two])
        bench.holdsKeeper = true
        bench.step(.nexusLeaves(Bench.one))
        #expect(bench.released == [Bench.two] && bench.heldTables.count == 1)
        let offer = bench.heldTables.removeFirst()
        bench.store(offer.0, offer.1, offer.2)
        #expect(bench.released == [Bench.two, Bench.one])
    }

    // MARK: The table

    @Test("the fullest table with the longest names fits the bound; one registration more is refused")
    func fullest() throws {
        var table = ReservationTable()
        let most = ReservationTable.registrationsMax
        func party(_ number: Int) -> ReservationParty {
            let name = String(repeating: "n", count: ReservationTable.portNameBytesMax - 4)
            return ReservationParty(initiatorPort: name + String(1000 + number), targetPort: 9)
        }
        for number in 0..<most {
            table = try table.applying(
                .register(key: 0, newKey: 5, ignoringKey: false, persists: true), from: party(number),
                registrationsMax: most)
        }
        #expect(throws: ReservationRefusal.noRoom) {
            try table.applying(
                .register(key: 0, newKey: 5, ignoringKey: false, persists: true), from: party(most),
                registrationsMax: most)
        }
        table = try table.applying(
            .reserve(key: 5, type: .exclusiveAccessRegistrantsOnly), from: party(0), registrationsMax: most)
        for _ in 0..<(2 * most) {
            table = try table.applying(.reset(.unit), from: party(1), registrationsMax: most)
        }
        table.simpleHolder = party(2)
        table.sanitize = .running(port: 9, allowsExit: true)
        (table.isEjected, table.preventingPorts) = (true, (1...16).map { UInt16($0) })
        #expect(table.notices.count == ReservationTable.noticesMax)
        let bytes = table.encoded
        #expect(bytes.count > ReservationTable.encodedBytesMax - 1024)
        #expect(bytes.count <= ReservationTable.encodedBytesMax)
        #expect(try ReservationTable(decoding: bytes) == table)
        table.simpleHolder = nil
        // What one change brings is never cut off.
        let cleared = try table.applying(.clear(key: 5), from: party(0), registrationsMax: most)
        #expect(cleared.notices.count { $0.version == cleared.version } == most - 1)
    }

    @Test("random changes: the table stays sound, survives its bytes, and loses what it must")
    func randomChanges() throws {
        for seed in UInt64(0)..<200 {
            var random = SeededRandom(seed: seed)
            var table = ReservationTable()
            let parties = (0..<4).map {
                ReservationParty(initiatorPort: "iqn.i\($0)", targetPort: UInt16($0 % 2))
            }
            for _ in 0..<60 {
                let party = parties[Int.random(in: 0..<4, using: &random)]
                let key = UInt64.random(in: 0..<4, using: &random)
                let other = UInt64.random(in: 0..<4, using: &random)
                let type = ReservationType.allCases[Int.random(in: 0..<6, using: &random)]
                let flag = random.oneIn(2)
                let wishes: [ReservationRequest] = [
                    .register(key: key, newKey: other, ignoringKey: flag, persists: random.oneIn(2)),
                    .reserve(key: key, type: type), .release(key: key, type: type), .clear(key: key),
                    .preempt(key: key, victimKey: other, type: type, aborting: flag), .simpleReserve,
                    .simpleRelease, .register(key: 0, newKey: other, ignoringKey: true, persists: flag),
                ]
                let before = table
                do throws(ReservationRefusal) {
                    table = try table.applying(
                        wishes[Int.random(in: 0..<wishes.count, using: &random)], from: party,
                        registrationsMax: 3)
                } catch { #expect(table == before) }
                #expect(table == before || table.version == before.version + 1)
                #expect(table.registrations.count <= 3)
                #expect(Set(table.registrations.map(\.party)).count == table.registrations.count)
                #expect(!table.registrations.contains { $0.key == 0 })
                if let holding = table.holding {
                    #expect(holding.type.isHeldByAll == (holding.holder == nil))
                    #expect(holding.holder.map { table.key(of: $0) != nil } ?? !table.registrations.isEmpty)
                }
                #expect(try ReservationTable(decoding: table.encoded) == table)
            }
            let after = table.afterPowerLoss()
            #expect(after.simpleHolder == nil)
            #expect(after.registrations == (table.persistsThroughPowerLoss ? table.registrations : []))
        }
    }
    @Test("bytes that are no table are refused, whatever they are")
    func badBytes() throws {
        var table = ReservationTable()
        let party = ReservationParty(initiatorPort: "iqn.a,i,0x1", targetPort: 3)
        table = try table.applying(
            .register(key: 0, newKey: 5, ignoringKey: false, persists: true), from: party, registrationsMax: 9
        )
        table = try table.applying(.reserve(key: 5, type: .writeExclusive), from: party, registrationsMax: 9)
        let bytes = table.encoded
        for count in 0..<bytes.count {
            #expect(throws: ReservationTable.DecodeError.self) {
                try ReservationTable(decoding: Array(bytes.prefix(count)))
            }
        }
        for index in bytes.indices {
            for bit in 0..<8 {
                var bad = bytes
                bad[index] ^= 1 << bit
                _ = try? ReservationTable(decoding: bad)
            }
        }
    }
}
