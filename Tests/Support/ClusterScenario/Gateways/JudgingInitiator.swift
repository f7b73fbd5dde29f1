/// Somebody who looks at everything through one gateway when all is calm.
final class JudgingInitiator {
    private enum Question {
        /// Every gateway must answer alike.
        case told([UInt8], byteCount: Int)
        case counter(Int)
        /// A sector of the rivals' field, by its place.
        case field(Int)
        /// Sectors that have a history.
        case paths(Range<Int>)

        /// What is asked, and how many bytes it may bring.
        var command: (cdb: [UInt8], byteCount: Int) {
            switch self {
            case .told(let cdb, let byteCount): (cdb, byteCount)
            case .counter(let number):
                read(
                    GatewayRecord.counterSector + CounterRecord.places[number].lowerBound,
                    CounterRecord.places[number].count)
            case .field(let place): read(GatewayRecord.field.lowerBound + place, 1)
            case .paths(let sectors): read(sectors.lowerBound, sectors.count)
            }
        }
        private func read(_ sector: Int, _ count: Int) -> (cdb: [UInt8], byteCount: Int) {
            (Command.read(sector, count), 512 * count)
        }
    }
    let port: SimInitiator
    private let record: GatewayRecord
    private let questions: [Question]
    /// Reservations, port groups and readiness as this gateway tells them.
    private(set) var told: [[UInt8]] = []
    private(set) var isDone = false

    init(_ port: SimInitiator, _ record: GatewayRecord) {
        (self.port, self.record) = (port, record)
        var questions: [Question] = [
            .told(Command.reserveIn(0), byteCount: 255), .told(Command.reserveIn(1), byteCount: 255),
            .told([0xa3, 0x0a, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0], byteCount: 512),
        ]
        if record.paths.sanitizedSectors == nil {
            questions += CounterRecord.places.indices.map { .counter($0) }
        }
        questions += (0..<GatewayRecord.field.count).map { .field($0) }
        if let end = record.paths.sanitizedSectors {
            questions.append(.told(Command.testUnitReady, byteCount: 0))
            let begin = record.paths.fields[0].lowerBound
            questions += stride(from: begin, to: end, by: 128).map { .paths($0..<min(end, $0 + 128)) }
        } else {
            questions += record.paths.fields.map { .paths($0) }
        }
        self.questions = questions
    }
    func start() { next(0) }
    private func next(_ number: Int) {
        guard number < questions.count else { return isDone = true }
        let (cdb, byteCount) = questions[number].command
        var reading: UInt64?
        if case .paths(let sectors) = questions[number] { reading = record.paths.startRead(sectors) }
        port.run(cdb, read: byteCount) { [weak self] answer in
            guard let self else { return }
            guard case .good(let bytes) = answer else {
                if let reading { record.paths.history.fail(reading) }
                port.host.after(.milliseconds(50)) { [weak self] in self?.next(number) }
                return
            }
            judge(questions[number], bytes, reading)
            next(number + 1)
        }
    }
    private func judge(_ question: Question, _ bytes: [UInt8], _ reading: UInt64?) {
        switch question {
        case .told: told.append(bytes)
        case .field(let place): record.read(bytes, place, floor: record.floors[place])
        case .paths(let sectors):
            if let reading { record.readPaths(reading, sectors, bytes) }
        case .counter(let counter):
            guard let state = CounterRecord.state(bytes) else {
                return record.complain("counter \(counter) holds parts of several increments")
            }
            if let wrong = record.counters.judge(state, counter) { record.complain(wrong) }
        }
    }
}
