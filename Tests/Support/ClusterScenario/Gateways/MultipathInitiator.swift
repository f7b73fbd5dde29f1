import BlockTypes
import Checkers
import Environment
import Simulation

/// What initiators with several paths asked for and were told.
struct PathRecord {
    /// The sectors that they write to; where the unit is overwritten as a whole, also those at its end.
    private(set) var fields = [512..<544]
    /// The unit's sectors, where it is overwritten as a whole.
    let sanitizedSectors: Int?
    var history = BlockHistory()
    var sanitizing = SanitizeState()
    private(set) var started = 0
    private(set) var answered = 0
    /// Attempts that ended without an answer, and were made again on another path.
    private(set) var givenUp = 0
    /// Those of them that came to a gateway that stood still.
    private(set) var overlooked = 0
    let requestsMax = 400
    private var lastNumber: UInt64 = 0

    init(sanitizedSectors: Int?) {
        self.sanitizedSectors = sanitizedSectors
        if let end = sanitizedSectors { fields.append((end - 32)..<end) }
    }
    static func registers(_ sectors: Range<Int>) -> Range<UInt64> {
        UInt64(sectors.lowerBound)..<UInt64(sectors.upperBound)
    }
    mutating func nextNumber() -> UInt64 {
        lastNumber += 1
        return lastNumber
    }
    /// Somebody may ask for one more.
    mutating func mayBegin() -> Bool {
        guard started < requestsMax else { return false }
        started += 1
        return true
    }
    mutating func startRead(_ sectors: Range<Int>) -> UInt64 {
        let number = nextNumber()
        history.startRead(number, Self.registers(sectors))
        noteIssue(number)
        return number
    }
    /// Each attempt writes a number of its own, so that a late one is known when it is read.
    mutating func startWrite(_ sectors: Range<Int>) -> UInt64 {
        let number = nextNumber()
        history.startWrite(number, Self.registers(sectors), value: number)
        noteIssue(number)
        return number
    }
    mutating func giveUp(_ number: UInt64) {
        givenUp += 1
        history.fail(number)
    }
    /// Nobody answered, and nobody will carry it out.
    mutating func isOverlooked(_ number: UInt64) {
        givenUp += 1
        overlooked += 1
        history.refuse(number)
    }
    mutating func isAnswered() { answered += 1 }
    /// What is wrong with it all, in words.
    func judge() -> String? {
        guard let (sector, what) = history.check().violation else { return nil }
        return "sector \(sector) of an initiator with several paths: \(what)"
    }
}

extension GatewayRecord {
    /// A read of an initiator with several paths is answered.
    func readPaths(_ number: UInt64, _ sectors: Range<Int>, _ bytes: [UInt8]) {
        if let wrong = paths.isTaken(number) { complain(wrong) }
        guard bytes.count == 512 * sectors.count else {
            paths.history.fail(number)
            return complain("a read of \(sectors.count) sectors gave \(bytes.count) bytes")
        }
        var values: [UInt64] = []
        for start in stride(from: 0, to: bytes.count, by: 512) {
            let words = Set(
                (0..<64).map { word in
                    bytes[(start + 8 * word)..<(start + 8 * word + 8)].reduce(UInt64(0)) {
                        $0 << 8 | UInt64($1)
                    }
                })
            guard words.count == 1, let value = words.first else {
                paths.history.fail(number)
                return complain("sector \(sectors.lowerBound + start / 512) holds two writes")
            }
            values.append(value)
        }
        paths.history.finishRead(number, values: values)
    }
}

/// A host with a session on every gateway at the same time: what one path does not answer it asks for on the
/// next one, until it is done.
///
/// A write whose path was given up is open-ended: only the initiator knows that it was repeated, and its
/// gateway may still carry it out (ISCSICoordination, "Promises and limits").
final class MultipathInitiator {
    /// One for each gateway.
    let ports: [SimInitiator]
    private let gateways: [SimGateway]
    private let record: GatewayRecord
    private let world: SimWorld
    private let key: UInt64
    private var random: SeededRandom
    var mayAsk = true
    /// Requests that are not done.
    private(set) var openCount = 0
    static let inFlightMax = 3

    init(
        _ ports: [SimInitiator], _ gateways: [SimGateway], _ record: GatewayRecord, _ world: SimWorld,
        key: UInt64
    ) {
        (self.ports, self.gateways, self.record, self.world, self.key) = (ports, gateways, record, world, key)
        random = SeededRandom(seed: world.random.next())
    }
    func start() { for _ in 0..<Self.inFlightMax { next() } }
    private func next() {
        guard mayAsk, record.paths.mayBegin() else { return }
        openCount += 1
        let count = Int.random(in: 1...4, using: &random)
        let fields = record.paths.fields
        let field = fields.count == 1 ? fields[0] : fields[random.oneIn(2) ? 0 : 1]
        let first = Int.random(in: field.lowerBound...(field.upperBound - count), using: &random)
        let place = Int.random(in: 0..<ports.count, using: &random)
        if random.oneIn(3) {
            read(anywhere() ?? first..<(first + count), place)
        } else {
            write(first..<(first + count), place)
        }
    }
    /// Where the whole unit is overwritten, some look at the rest of it.
    private func anywhere() -> Range<Int>? {
        guard let end = record.paths.sanitizedSectors, random.oneIn(3) else { return nil }
        let first = Int.random(in: record.paths.fields[0].upperBound..<(end - 32), using: &random)
        return first..<(first + 32)
    }
    private func isDone() {
        openCount -= 1
        record.paths.isAnswered()
        ports[0].host.after(.milliseconds(Int.random(in: 0...150, using: &random))) { [weak self] in
            self?.next()
        }
    }
    private func write(_ sectors: Range<Int>, _ place: Int) {
        let number = record.paths.startWrite(sectors)
        let sentAt = world.trueNow
        let data = sectors.flatMap { _ in GatewayRecord.sector(number) }
        ports[place].run(Command.write(sectors.lowerBound, sectors.count), out: data) { [weak self] answer in
            guard let self else { return }
            ports[place].host.traceLine { "write \(number) to \(sectors): \(answer)" }
            switch answer {
            case .good:
                if let wrong = record.paths.isTaken(number) { record.complain(wrong) }
                record.paths.history.finishWrite(number)
            case .attention, .refused, .conflict, Sanitizing.isRunning, Sanitizing.hasFailed:
                record.paths.history.refuse(number)
            case .unknown where gateways[place].overlooks(sentAt: sentAt):
                record.paths.isOverlooked(number)
            case .sense, .unknown: record.paths.giveUp(number)
            }
            go(on: answer, place) { [weak self] in self?.write(sectors, $0) }
        }
    }
    private func read(_ sectors: Range<Int>, _ place: Int) {
        let number = record.paths.startRead(sectors)
        ports[place].run(Command.read(sectors.lowerBound, sectors.count), read: 512 * sectors.count) {
            [weak self] answer in
            guard let self else { return }
            if case .good(let bytes) = answer {
                record.readPaths(number, sectors, bytes)
            } else {
                record.paths.history.fail(number)
            }
            go(on: answer, place) { [weak self] in self?.read(sectors, $0) }
        }
    }
    /// As the answer demands: the request is done, or asked for again where it may help.
    private func go(on answer: SimInitiator.Answer, _ place: Int, again: @escaping (_ place: Int) -> Void) {
        let other = (place + 1) % ports.count
        switch answer {
        case .good: isDone()
        case .attention: again(place)
        case .conflict:
            ports[place].run(Command.reserveOut(6), out: Command.keys(0, key)) { [weak self] answer in
                // Nobody registers while the unit is overwritten.
                guard answer == Sanitizing.isRunning || answer == Sanitizing.hasFailed else {
                    return again(place)
                }
                self?.ports[place].host.after(.milliseconds(100)) { again(other) }
            }
        case .refused: again(other)
        case .unknown: again(other)
        case .sense(let sense):
            // Not ready, and aborted commands, are tried again; whatever else is an error of a file system.
            let isSanitized = [Sanitizing.isRunning, Sanitizing.hasFailed].contains(answer)
            if isSanitized, record.paths.sanitizing.sent == 0 {
                return record.complain("\(answer), and nobody has asked for SANITIZE")
            }
            guard let sense = sense.first, sense == 2 || sense == 0x0b || isSanitized else {
                return record.complain("an initiator with several paths is told an error: \(answer)")
            }
            ports[place].host.after(.milliseconds(100)) { again(other) }
        }
    }
}
