/// The histories of many independent registers, the 512-byte sectors of a volume, recorded while a world
/// runs.
///
/// A register's value is the 8-byte id that a write puts into each sector; 0 is zeroes. Sectors of a block
/// that were only ever written together, and read alike, have one history between them until that ends.
public struct BlockHistory {
    private struct Open {
        let kind: RegisterOperation.Kind
        let registers: Range<UInt64>
        let value: UInt64
        let start: UInt64
    }
    private var clock: UInt64 = 0
    private var open: [UInt64: Open] = [:]
    /// What happened to the sectors of a block.
    private struct Block {
        let number: UInt64
        /// What happened to all of them alike.
        var whole: [RegisterOperation] = []
        /// What happened to each, once that was not the same any more; empty until then.
        var sectors: [[RegisterOperation]] = []
    }
    private var blocks: [Block] = []
    /// Where each block is in `blocks`, by its number.
    private var places: [UInt64: Int] = [:]
    private static let sectorsPerBlock: UInt64 = 8
    /// Operations recorded with an answer.
    public private(set) var answeredCount = 0
    /// Writes that were never answered, or in a way that leaves the outcome open.
    public private(set) var unknownCount = 0

    /// Nothing happened yet.
    public init() {}

    /// A write of `value` into each of `registers` is asked for. 0 stands for trim and write zeroes.
    public mutating func startWrite(_ id: UInt64, _ registers: Range<UInt64>, value: UInt64) {
        start(id, .write, registers, value)
    }
    /// A read of `registers` is asked for.
    public mutating func startRead(_ id: UInt64, _ registers: Range<UInt64>) {
        start(id, .read, registers, 0)
    }
    /// A write was answered: it is done.
    public mutating func finishWrite(_ id: UInt64) {
        guard let operation = open.removeValue(forKey: id) else { preconditionFailure("write \(id) twice") }
        precondition(operation.kind == .write, "\(id) is a read")
        let finish = tick()
        answeredCount += 1
        add(
            operation.registers,
            RegisterOperation(.write, operation.value, start: operation.start, finish: finish))
    }
    /// A read was answered with one value for each register.
    public mutating func finishRead(_ id: UInt64, values: [UInt64]) {
        guard let operation = open.removeValue(forKey: id) else { preconditionFailure("read \(id) twice") }
        precondition(operation.kind == .read && values.count == operation.registers.count, "read \(id)")
        let finish = tick()
        answeredCount += 1
        // Runs of one value are added together.
        var (first, value) = (operation.registers.lowerBound, values.first ?? 0)
        func addRun(to end: UInt64) {
            add(first..<end, RegisterOperation(.read, value, start: operation.start, finish: finish))
        }
        for (register, next) in zip(operation.registers, values) where next != value {
            addRun(to: register)
            (first, value) = (register, next)
        }
        addRun(to: operation.registers.upperBound)
    }
    /// An operation failed: a write may or may not take effect at any later time, a read says nothing.
    public mutating func fail(_ id: UInt64) {
        guard let operation = open.removeValue(forKey: id) else { preconditionFailure("\(id) failed twice") }
        guard operation.kind == .write else { return }
        unknownCount += 1
        add(
            operation.registers,
            RegisterOperation(
                .write, operation.value, start: operation.start, finish: RegisterOperation.never))
    }
    /// A failed write of a client that others have taken over from: if it took effect, then before now.
    public mutating func expire(_ id: UInt64) {
        guard let operation = open.removeValue(forKey: id) else { preconditionFailure("\(id) expired twice") }
        guard operation.kind == .write else { return }
        unknownCount += 1
        let finish = tick()
        add(
            operation.registers,
            RegisterOperation(
                .write, operation.value, start: operation.start, finish: finish, isCertain: false))
    }
    /// An operation is known not to have begun before now. Harmless when it is not open any more.
    public mutating func beginsNow(_ id: UInt64) {
        guard let operation = open[id] else { return }
        open[id] = Open(
            kind: operation.kind, registers: operation.registers, value: operation.value, start: tick())
    }
    /// A failed write is known to have had no effect: it is forgotten.
    public mutating func refuse(_ id: UInt64) { open[id] = nil }
    /// Operations asked for and not answered.
    public var openCount: Int { open.count }

    /// Judges every register; what is still open may or may not have happened.
    /// - Returns: the first violation by register number, and how many registers could not be decided.
    public func check(
        statesMax: Int = 30_000
    ) -> (violation: (register: UInt64, what: RegisterViolation)?, undecidedCount: Int) {
        var judged = self
        for id in open.keys.sorted() { judged.fail(id) }
        var undecided = 0
        // Neighbours mostly have the same history, also where a block's sectors were once asked for apart.
        var (last, verdict): ([RegisterOperation], RegisterVerdict) = ([], .linearizable)
        for block in judged.blocks.sorted(by: { $0.number < $1.number }) {
            let histories = block.sectors.isEmpty ? [block.whole] : block.sectors
            for (sector, operations) in histories.enumerated() where !operations.isEmpty {
                if operations != last {
                    verdict = checkRegister(operations, statesMax: statesMax)
                    last = operations
                }
                switch verdict {
                case .linearizable: break
                case .undecided: undecided += 1
                case .violated(let what):
                    return ((block.number * Self.sectorsPerBlock + UInt64(sector), what), undecided)
                }
            }
        }
        return (nil, undecided)
    }
    /// What happened to one register, by time asked, for a person to read.
    public func story(of register: UInt64) -> [String] {
        var all = operations(on: register)
        for id in open.keys.sorted() {
            guard let operation = open[id], operation.registers.contains(register) else { continue }
            guard operation.kind == .write else { continue }
            all.append(
                RegisterOperation(
                    .write, operation.value, start: operation.start, finish: RegisterOperation.never))
        }
        return all.sorted { $0.start < $1.start }.map {
            let end =
                $0.finish == RegisterOperation.never ? "?" : $0.isCertain ? "\($0.finish)" : "\($0.finish)?"
            return "\($0.start)...\(end) \($0.kind) 0x\(String($0.value, radix: 16))"
        }
    }

    private mutating func tick() -> UInt64 {
        clock += 1
        return clock
    }
    private mutating func start(
        _ id: UInt64, _ kind: RegisterOperation.Kind, _ registers: Range<UInt64>, _ value: UInt64
    ) {
        precondition(open[id] == nil, "operation \(id) is open")
        open[id] = Open(kind: kind, registers: registers, value: value, start: tick())
    }
    private func operations(on register: UInt64) -> [RegisterOperation] {
        guard let place = places[register / Self.sectorsPerBlock] else { return [] }
        let block = blocks[place]
        return block.sectors.isEmpty ? block.whole : block.sectors[Int(register % Self.sectorsPerBlock)]
    }
    /// The same happened to all these registers.
    private mutating func add(_ registers: Range<UInt64>, _ operation: RegisterOperation) {
        var first = registers.lowerBound
        while first < registers.upperBound {
            let number = first / Self.sectorsPerBlock
            let start = number * Self.sectorsPerBlock
            let end = min(registers.upperBound, start + Self.sectorsPerBlock)
            let place = place(of: number)
            if end - first == Self.sectorsPerBlock, blocks[place].sectors.isEmpty {
                blocks[place].whole.append(operation)
            } else {
                split(place)
                for register in first..<end { blocks[place].sectors[Int(register - start)].append(operation) }
            }
            first = end
        }
    }
    private mutating func place(of number: UInt64) -> Int {
        if let known = places[number] { return known }
        places[number] = blocks.count
        blocks.append(Block(number: number))
        return blocks.count - 1
    }
    /// From now on each sector of the block has a history of its own.
    private mutating func split(_ place: Int) {
        guard blocks[place].sectors.isEmpty else { return }
        blocks[place].sectors = Array(repeating: blocks[place].whole, count: Int(Self.sectorsPerBlock))
        blocks[place].whole = []
    }
}
