import BlockTypes
import Testing

@testable import Raft

@Suite struct ReplicaLogTests {
    /// The same log as a plain array of positions, the first of which is the base.
    struct Model {
        var positions: [LogPosition]
        var durable: LogIndex
        var base: LogPosition { positions[0] }
        var last: LogPosition { positions[positions.count - 1] }
        func term(at index: UInt64) -> Term? { positions.first { $0.index.rawValue == index }?.term }
    }

    @Test("a log is what an array of its positions is, whatever happens to it", arguments: UInt64(0)..<100)
    func agreesWithArray(seed: UInt64) {
        var random = SeededRandom(seed: seed)
        var log = ReplicaLog(base: .zero, termStarts: [], last: .zero)
        var model = Model(positions: [.zero], durable: LogIndex(0))
        var term: UInt32 = 1
        for _ in 0..<120 {
            switch Int.random(in: 0..<10, using: &random) {
            case 0..<5:
                if random.oneIn(4) { term += UInt32.random(in: 1...2, using: &random) }
                let position = LogPosition(term: Term(term), index: model.last.index.next)
                log.append(LogEntry(position, .noop))
                model.positions.append(position)
            case 5 where model.positions.count > 1:
                let cut = Int.random(in: 1..<model.positions.count, using: &random)
                log.truncate(from: model.positions[cut].index)
                model.positions.removeSubrange(cut...)
                model.durable = min(model.durable, model.last.index)
                term = max(term, model.last.term.rawValue) + 1
            case 6:
                if let position = model.positions.randomElement(using: &random) {
                    #expect(log.markDurable(position) == (position.index > model.durable))
                    model.durable = max(model.durable, position.index)
                }
                let foreign = log.markDurable(LogPosition(term: Term(9999), index: model.last.index))
                #expect(!foreign)
            case 7:
                let keep = Int.random(in: 0..<model.positions.count, using: &random)
                log.dropThrough(model.positions[keep])
                model.positions.removeFirst(keep)
                model.durable = max(model.durable, model.base.index)
            case 8: log.evict(through: LogIndex(.random(in: 0...60, using: &random)), bytesMax: 1000)
            default: break
            }
            check(log, model, seed)
        }
    }

    private func check(_ log: ReplicaLog, _ model: Model, _ seed: UInt64) {
        #expect(
            log.base == model.base && log.last == model.last && log.durable == model.durable, "seed \(seed)")
        #expect(
            log.cacheStart.rawValue <= log.durable.rawValue + 1, "seed \(seed): lost before it was durable")
        let first = model.base.index.rawValue
        for index in (first == 0 ? 0 : first - 1)...(model.last.index.rawValue + 1) {
            #expect(log.term(at: LogIndex(index)) == model.term(at: index), "seed \(seed), index \(index)")
        }
        for term in [UInt32(0), 1, 5, 20, 200] {
            let expected = model.positions.last { $0.term.rawValue <= term } ?? model.base
            #expect(
                log.lastIndex(atOrBefore: LogIndex(.max), notAfter: Term(term)) == expected.index,
                "seed \(seed), term \(term)")
        }
        let cached = log.entries(from: log.cacheStart, countMax: .max, bytesMax: .max)
        #expect(
            cached.map(\.position)
                == model.positions.filter { $0.index >= log.cacheStart && $0 != model.base })
    }

    @Test("it continues from what the store recovered")
    func recovered() {
        let log = ReplicaLog(base: at(2, 10), termStarts: [at(2, 11), at(4, 13)], last: at(4, 14))
        #expect((9...15).map { log.term(at: LogIndex($0))?.rawValue } == [nil, 2, 2, 2, 4, 4, nil])
        #expect(log.durable == LogIndex(14) && log.cacheStart == LogIndex(15))
        #expect(log.contains(at(2, 12)) && !log.contains(at(4, 12)))
    }

    @Test("a batch ends at its count or its bytes, and holds one entry at least")
    func batches() {
        var log = ReplicaLog(base: .zero, termStarts: [], last: .zero)
        for index in 1...10 { log.append(LogEntry(at(1, UInt64(index)), Bench.operation(4096))) }
        func count(_ countMax: Int, _ bytesMax: Int) -> Int {
            log.entries(from: LogIndex(3), countMax: countMax, bytesMax: bytesMax).count
        }
        #expect(
            count(64, 1 << 20) == 8 && count(3, 1 << 20) == 3 && count(64, 9000) == 2 && count(64, 1) == 1)
        #expect(log.entries(from: LogIndex(11), countMax: 9, bytesMax: 9).isEmpty)
    }
}
