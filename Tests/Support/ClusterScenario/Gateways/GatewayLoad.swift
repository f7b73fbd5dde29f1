import BlockTypes
import Environment
import ISCSIInitiator
import Simulation

/// CDBs that the load uses.
enum Command {
    static func read(_ sector: Int, _ count: Int) -> [UInt8] {
        [0x28, 0] + be32(UInt32(sector)) + [0] + be16(UInt16(count)) + [0]
    }
    static func write(_ sector: Int, _ count: Int) -> [UInt8] {
        [0x2a, 0] + be32(UInt32(sector)) + [0] + be16(UInt16(count)) + [0]
    }
    static func compareAndWrite(_ sector: Int, _ count: Int) -> [UInt8] {
        [0x89, 0] + be64(UInt64(sector)) + [0, 0, 0, UInt8(count), 0, 0]
    }
    static let testUnitReady: [UInt8] = [0, 0, 0, 0, 0, 0]
    static func sanitize(_ action: UInt8, flags: UInt8, _ listBytes: Int) -> [UInt8] {
        [0x48, flags | action, 0, 0, 0, 0, 0] + be16(UInt16(listBytes)) + [0]
    }
    static func reserveOut(_ action: UInt8) -> [UInt8] { [0x5f, action, 5, 0, 0, 0, 0, 0, 24, 0] }
    static func reserveIn(_ action: UInt8) -> [UInt8] { [0x5e, action, 0, 0, 0, 0, 0, 0xff, 0, 0] }
    /// With APTPL: what is reserved stays when all gateways die.
    static func keys(_ key: UInt64, _ other: UInt64) -> [UInt8] {
        be64(key) + be64(other) + [0, 0, 0, 0, 1, 0, 0, 0]
    }
}

/// What all actors of a run know together, and what was wrong.
final class GatewayRecord {
    let counters = CounterRecord()
    /// What initiators with a path through each gateway did to sectors of their own.
    var paths: PathRecord
    private(set) var complaint: String?
    /// By sector of the rivals' field, the newest reign of which a write was acknowledged.
    var floors = Array(repeating: UInt64(0), count: GatewayRecord.field.count)
    /// By number, from 1: whose it is, since when, and when its end was acknowledged to whoever ended it.
    private var reigns: [(key: UInt64, begun: Duration, end: Duration?)] = []
    private(set) var preemptions = 0
    private(set) var writes = 0
    var resets = 0
    var refusedResets = 0

    static let counterSector = 128
    /// What rivals write to.
    static let field = 256..<264
    let incrementsMax = 400

    init(sanitizedSectors: Int?) { paths = PathRecord(sanitizedSectors: sanitizedSectors) }
    func complain(_ what: String) { if complaint == nil { complaint = what } }
    /// Somebody has taken the volume: what the victim had when that was asked for is over. An answer may come
    /// after somebody else has taken the volume in turn.
    /// - Returns: the new reign's number.
    func takeOver(by key: UInt64, from victim: UInt64?, askedAt: Duration, now: Duration) -> UInt64 {
        if let victim {
            preemptions += 1
            for index in reigns.indices where reigns[index].key == victim && reigns[index].begun <= askedAt {
                reigns[index].end = reigns[index].end ?? now
            }
        }
        reigns.append((key, now, nil))
        return UInt64(reigns.count)
    }
    func wrote(_ reign: UInt64, _ place: Int, issuedAt: Duration) {
        writes += 1
        floors[place] = max(floors[place], reign)
        if let end = reigns[Int(reign) - 1].end, issuedAt > end {
            complain(
                "a write of reign \(reign) is done that was sent after PREEMPT AND ABORT had ended that reign"
            )
        }
    }
    func read(_ bytes: [UInt8], _ place: Int, floor: UInt64) {
        let words = (0..<64).map { at in
            bytes[(8 * at)..<(8 * at + 8)].reduce(UInt64(0)) { $0 << 8 | UInt64($1) }
        }
        guard Set(words).count == 1 else { return complain("sector \(place) of the field holds two writes") }
        // What overwrites all of the unit overwrites the field.
        if words[0] < floor, paths.sanitizing.sent == 0 {
            complain(
                "sector \(place) of the field holds reign \(words[0]), and \(floor) has written there: "
                    + "a write of a preempted initiator came late")
        }
    }
    static func sector(_ reign: UInt64) -> [UInt8] { (0..<64).flatMap { _ in be64(reign) } }
}

/// An initiator that increments counters by COMPARE AND WRITE.
final class CountingInitiator {
    let port: SimInitiator
    private let record: GatewayRecord
    private let world: SimWorld
    private let key: UInt64
    private var random: SeededRandom
    var mayAsk = true

    init(_ port: SimInitiator, _ record: GatewayRecord, _ world: SimWorld, key: UInt64) {
        (self.port, self.record, self.world, self.key) = (port, record, world, key)
        random = SeededRandom(seed: world.random.next())
    }
    func start() { later() }
    private func later() {
        guard mayAsk, record.counters.started < record.incrementsMax else { return }
        port.host.after(.milliseconds(Int.random(in: 0...300, using: &random))) { [weak self] in
            guard let self, mayAsk else { return }
            let counter = Int.random(in: 0..<CounterRecord.places.count, using: &random)
            readCounter(counter) { [weak self] in self?.increment(counter, from: $0) }
        }
    }
    /// Registers when a reservation keeps it out.
    private func refused(_ answer: SimInitiator.Answer) {
        guard answer == .conflict else { return later() }
        port.run(Command.reserveOut(6), out: Command.keys(0, key)) { [weak self] _ in self?.later() }
    }
    private static func place(_ counter: Int) -> (sector: Int, count: Int) {
        let place = CounterRecord.places[counter]
        return (GatewayRecord.counterSector + place.lowerBound, place.count)
    }
    private func readCounter(_ counter: Int, _ then: @escaping (CounterRecord.State) -> Void) {
        let (sector, count) = Self.place(counter)
        let floor = record.counters.highest(counter)
        port.run(Command.read(sector, count), read: count * 512) { [weak self] answer in
            guard let self else { return }
            guard case .good(let bytes) = answer else { return refused(answer) }
            guard let state = CounterRecord.state(bytes) else {
                return record.complain("counter \(counter) holds parts of several increments")
            }
            if let wrong = record.counters.read(state, counter, floor: floor) {
                return record.complain(wrong)
            }
            then(state)
        }
    }
    private func increment(_ counter: Int, from old: CounterRecord.State) {
        guard mayAsk else { return later() }
        let (sector, count) = Self.place(counter)
        let attempt = record.counters.newAttempt()
        let new = CounterRecord.State(count: old.count + 1, session: key, attempt: attempt)
        record.counters.lostSight(of: counter)
        let data = CounterRecord.bytes(old, sectors: count) + CounterRecord.bytes(new, sectors: count)
        port.run(Command.compareAndWrite(sector, count), out: data) { [weak self] answer in
            guard let self else { return }
            port.host.traceLine { "attempt \(attempt) at counter \(counter): \(answer)" }
            switch answer {
            case .good:
                record.counters.foundAgain(counter)
                if let wrong = record.counters.succeeded(new, counter) { record.complain(wrong) }
            case .attention, .conflict, .refused, .sense([0x0e, 0x1d, 0]):
                record.counters.foundAgain(counter)
                record.counters.missed(attempt)
            case .sense, .unknown: break
            }
            refused(answer)
        }
    }
}

/// An initiator that takes the volume from its rivals and writes to the field for as long as it reigns.
final class RivalInitiator {
    let port: SimInitiator
    private let record: GatewayRecord
    private let world: SimWorld
    private let key: UInt64
    private var random: SeededRandom
    private var reign: UInt64?
    private var writesLeft = 0
    private var openWrites = 0
    /// Nobody said how its last writes ended, or whether what a rival had on the way is over: they may come
    /// while it reigns anew.
    private var needsReset = false
    var mayAsk = true

    init(_ port: SimInitiator, _ record: GatewayRecord, _ world: SimWorld, key: UInt64) {
        (self.port, self.record, self.world, self.key) = (port, record, world, key)
        random = SeededRandom(seed: world.random.next())
    }
    func start() { rest() }
    private func rest() {
        reign = nil
        guard mayAsk else { return }
        port.host.after(.milliseconds(Int.random(in: 100...4000, using: &random))) { [weak self] in
            guard let self, mayAsk else { return }
            guard openWrites == 0 else { return rest() }
            register()
        }
    }
    private func register() {
        port.run(Command.reserveOut(6), out: Command.keys(0, key)) { [weak self] answer in
            guard let self else { return }
            if case .attention = answer { return register() }
            guard case .good = answer else { return rest() }
            look()
        }
    }
    private func look() {
        askHolder { [weak self] holder in
            if let holder { self?.take(action: 5, victim: holder) } else { self?.take(action: 1, victim: 0) }
        }
    }
    /// - Parameter then: told the holder's key; `nil` when nobody holds the volume. Without an answer it
    ///   rests.
    private func askHolder(_ then: @escaping (UInt64?) -> Void) {
        port.run(Command.reserveIn(1), read: 255) { [weak self] answer in
            guard let self else { return }
            if case .attention = answer { return askHolder(then) }
            guard case .good(let bytes) = answer, bytes.count >= 8 else { return rest() }
            then(bytes.count >= 24 ? bytes[8..<16].reduce(UInt64(0)) { $0 << 8 | UInt64($1) } : nil)
        }
    }
    private func take(action: UInt8, victim: UInt64) {
        let askedAt = world.trueNow
        guard victim != key else { return settle(from: nil, askedAt: askedAt) }
        // Without an answer it may hold the volume, and its victim's writes may be on the way.
        let neededReset = needsReset
        needsReset = true
        port.run(Command.reserveOut(action), out: Command.keys(key, victim)) { [weak self] answer in
            guard let self else { return }
            port.host.traceLine { "\(self.port.machine): action \(action) against \(victim): \(answer)" }
            if case .attention = answer {
                needsReset = neededReset
                return take(action: action, victim: victim)
            }
            guard case .good = answer else { return rest() }
            needsReset = neededReset
            guard action == 5 else { return settle(from: nil, askedAt: askedAt) }
            // A victim that a third one has preempted meanwhile, and that came back, had nothing to take.
            askHolder { [weak self] holder in
                guard let self else { return }
                if holder == key { settle(from: victim, askedAt: askedAt) } else { rest() }
            }
        }
    }
    private func settle(from victim: UInt64?, askedAt: Duration) {
        guard needsReset else { return reigns(from: victim, askedAt: askedAt) }
        port.reset { [weak self] isDone in
            guard let self, isDone else { return self?.rest() ?? () }
            needsReset = false
            reigns(from: victim, askedAt: askedAt)
        }
    }
    private func reigns(from victim: UInt64?, askedAt: Duration) {
        reign = record.takeOver(by: key, from: victim, askedAt: askedAt, now: world.trueNow)
        // Some reign until they are preempted.
        writesLeft = Int.random(in: 1...(random.oneIn(3) ? 400 : 40), using: &random)
        for _ in 0..<3 { write() }
    }
    private func write() {
        guard let reign else { return }
        guard mayAsk, writesLeft > 0 else { return rest() }
        writesLeft -= 1
        let place = Int.random(in: 0..<GatewayRecord.field.count, using: &random)
        let issuedAt = world.trueNow
        openWrites += 1
        port.run(
            Command.write(GatewayRecord.field.lowerBound + place, 1), out: GatewayRecord.sector(reign)
        ) { [weak self] answer in
            guard let self else { return }
            openWrites -= 1
            switch answer {
            case .good: record.wrote(reign, place, issuedAt: issuedAt)
            case .sense, .unknown: needsReset = true
            case .attention, .refused, .conflict: break
            }
            guard self.reign == reign else { return }
            switch answer {
            case .good:
                if random.oneIn(3) { readField(place) }
                port.host.after(.milliseconds(Int.random(in: 0...100, using: &random))) { [weak self] in
                    self?.write()
                }
            case .attention, .refused:
                port.host.after(.milliseconds(50)) { [weak self] in self?.write() }
            // Somebody else reigns, or may.
            case .conflict, .sense, .unknown: rest()
            }
        }
    }
    private func readField(_ place: Int) {
        let floor = record.floors[place]
        port.run(Command.read(GatewayRecord.field.lowerBound + place, 1), read: 512) { [weak self] answer in
            if case .good(let bytes) = answer { self?.record.read(bytes, place, floor: floor) }
        }
    }
}
