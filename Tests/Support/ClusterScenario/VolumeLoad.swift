import BlockTypes
import Checkers
import Environment
import Simulation

/// What all clients of a run did, and what was wrong with it.
public final class LoadRecord {
    /// For the judge.
    public var history = BlockHistory()
    /// Requests issued so far.
    public var issued = 0
    /// Requests answered with success.
    public var succeeded = 0
    /// Requests answered with an error.
    public var failed = 0
    /// The first thing that no history is needed to condemn: a torn block, a wrong length, an odd error.
    public private(set) var complaint: String?
    private var nextID: UInt64 = 0
    /// Memory of writes that are done, for the next ones.
    let pool = BufferPool(keptBytesPerClassMax: 1 << 20)
    /// Writes whose outcome nobody knows, of clients that were fenced or died: a new attachment settles them.
    private var limbo: [(id: UInt64, session: UInt32)] = []

    /// Which sizes the volume may have, when somebody changes it; without, no end is ever in the way.
    public var sizes: VolumeSizes?
    /// True when growth may be refused because the stores are nearly full.
    public var mayLackSpace: () -> Bool = { false }
    /// Requests refused for lack of space, and because they reached past the end.
    public private(set) var refusedForSpace = 0, refusedPastEnd = 0
    func noteRefusal(forSpace: Bool) {
        if forSpace { refusedForSpace += 1 } else { refusedPastEnd += 1 }
    }
    /// Blocks that requests have ever put bytes into.
    public private(set) var writtenBlocks: Set<Int> = []  // Counted, never iterated.
    /// Bytes of the writes asked for, as whole blocks.
    public private(set) var writtenBytes = 0

    /// Nothing done yet.
    public init() {}
    func noteWritten(_ start: Int, _ count: Int) {
        let blocks = (start / Geometry.blockBytes)..<((start + count - 1) / Geometry.blockBytes + 1)
        writtenBlocks.formUnion(blocks)
        writtenBytes += blocks.count * Geometry.blockBytes
    }
    func newID() -> UInt64 {
        nextID += 1
        return nextID
    }
    /// Nobody will hear of this write; it may take effect until somebody else has attached.
    func leaveOpen(_ id: UInt64, session: UInt32) { limbo.append((id, session)) }
    /// A client has attached: whatever older attachments had on the way is done or never will be.
    func settle(before session: UInt32) {
        for write in limbo where write.session < session { history.expire(write.id) }
        limbo.removeAll { $0.session < session }
    }
    /// A generation of a group is known everywhere: what attachments before `session` had on the way is done
    /// or never will be, but for those that it still lists.
    func settle(before session: UInt32, except group: [UInt32]) {
        let isOver = { (other: UInt32) in other < session && !group.contains(other) }
        for write in limbo where isOver(write.session) { history.expire(write.id) }
        limbo.removeAll { isOver($0.session) }
    }
    /// The same for one attachment.
    func settle(only session: UInt32) {
        for write in limbo where write.session == session { history.expire(write.id) }
        limbo.removeAll { $0.session == session }
    }
    func complain(_ what: @autoclosure () -> String) {
        if complaint == nil { complaint = what() }
    }
}

/// One client: keeps requests in flight on a volume and writes down what it asked and was told.
///
/// Each write puts its number into the first and, inverted, the last eight bytes of each sector.
public final class VolumeLoad {
    /// Its unanswered requests hold this load in turn; see ``end()``.
    private var volume: (any BlockVolume)?
    private let host: SimHost
    private let plan: LoadPlan
    private let record: LoadRecord
    private let session: UInt32
    private var random: SeededRandom
    private var open: Set<UInt64> = []  // Looked up; sorted where the order can be seen.
    private var isIssuing = true
    private var seesNothing = false
    /// Requests that were refused because another client has the volume.
    private var fencedRequests = 0
    /// After so many a client asks no more: they fail without leaving it, and are lost for the others.
    private static let fencedRequestsMax = 16
    /// Requests of this client that are not answered.
    public var openCount: Int { open.count }
    /// Errors that are no fault of the store in this run.
    public var isExpected: (VolumeError) -> Bool = { _ in false }

    /// A client of `volume`, running on `host`; `session` orders attachments.
    public init(
        _ volume: any BlockVolume, on host: SimHost, _ plan: LoadPlan, _ record: LoadRecord,
        session: UInt32 = 0,
        seed: UInt64
    ) {
        (self.volume, self.host, self.plan, self.record) = (volume, host, plan, record)
        self.session = session
        random = SeededRandom(seed: seed)
    }
    /// Begins to ask.
    public func start() { for _ in 0..<plan.inFlightMax { next() } }
    /// Asks no more; what is open goes on.
    public func stop() { isIssuing = false }
    /// The client is gone: its open writes may or may not happen.
    public func die() {
        (isIssuing, seesNothing) = (false, true)
        for id in open.sorted() { record.leaveOpen(id, session: session) }
        open.removeAll()
    }
    /// The run is over: nothing is kept alive for requests that nobody answers any more.
    public func end() { volume = nil }
    /// Reads every sector that the load may have touched, outside of the plan.
    /// - Parameter blocks: how many blocks the volume has; `nil` for enough.
    public func readEverything(upTo blocks: Int? = nil) {
        for spot in plan.hotSpots {
            let end = min(spot.upperBound, blocks ?? spot.upperBound)
            for start in stride(from: spot.lowerBound, to: max(end, spot.lowerBound), by: 32) {
                let count = min(32, end - start)
                read(start * Geometry.blockBytes, count * Geometry.blockBytes)
            }
        }
    }

    // MARK: Asking

    private func next() {
        guard isIssuing, record.issued < plan.operations else { return }
        record.issued += 1
        let (start, count) = chooseRun()
        let mayWriteZero = record.issued <= LoadPlan.operationsWithZeroesMax
        let (trims, zeroes) = mayWriteZero ? (plan.trims, plan.zeroes) : (0, 0)
        var choice = Int.random(
            in: 0..<(plan.reads + plan.writes + trims + zeroes + plan.flushes), using: &random)
        func falls(_ weight: Int) -> Bool {
            choice -= weight
            return choice < 0
        }
        if falls(plan.reads) { return read(start, count) }
        if falls(plan.writes) { return write(start, count) }
        let length = ByteCount(bytes: UInt64(count))
        let at = ByteOffset(bytes: UInt64(start))
        if falls(trims) { return change(start, count, 0, .trim(start: at, length: length)) }
        if falls(zeroes) { return change(start, count, 0, .writeZeroes(start: at, length: length)) }
        volume?.submit(.flush) { [self] result in
            if seesNothing { return }
            note(result, "flush", 0, since: record.sizes?.mark)
            proceed()
        }
    }
    /// Bytes: a run of sectors or blocks inside one hot spot. Where sectors are asked for, a third of the
    /// requests is for whole blocks all the same.
    private func chooseRun() -> (start: Int, count: Int) {
        let unit =
            plan.unitBytes < Geometry.blockBytes && random.oneIn(3) ? Geometry.blockBytes : plan.unitBytes
        let spot = plan.hotSpots[Int.random(in: 0..<plan.hotSpots.count, using: &random)]
        let perBlock = Geometry.blockBytes / unit
        let units = (spot.lowerBound * perBlock)..<(spot.upperBound * perBlock)
        var most = min(plan.blocksMax * perBlock, units.count)
        // The largest ones cost a hundred times as much as others, and meet no more of them.
        let isLarge = random.oneIn(plan.blocksMax > 64 ? 10 : 3)
        if !isLarge { most = min(most, 4) }
        let count = Int.random(in: 1...most, using: &random)
        let first = Int.random(in: units.lowerBound...(units.upperBound - count), using: &random)
        return (first * unit, count * unit)
    }
    private func sectors(_ start: Int, _ count: Int) -> Range<UInt64> {
        UInt64(start / Geometry.sectorBytes)..<UInt64((start + count) / Geometry.sectorBytes)
    }
    private func write(_ start: Int, _ count: Int) {
        let value = record.newID()
        let payload = Self.contents(value, count, record.pool)
        // Sometimes in two pieces, as frontends do.
        let sectors = count / Geometry.sectorBytes
        let cut = random.oneIn(4) && sectors > 1 ? Int.random(in: 1..<sectors, using: &random) : 0
        let pieces =
            cut == 0
            ? [payload]
            : [
                payload.slice(0, cut * Geometry.sectorBytes),
                payload.slice(cut * Geometry.sectorBytes, count - cut * Geometry.sectorBytes),
            ]
        record.noteWritten(start, count)
        change(start, count, value, .write(start: ByteOffset(bytes: UInt64(start)), payloads: pieces))
    }
    private func change(_ start: Int, _ count: Int, _ value: UInt64, _ request: VolumeRequest) {
        let id = record.newID()
        open.insert(id)
        record.history.startWrite(id, sectors(start, count), value: value)
        host.traceLine { "asks \(id): \(value == 0 ? "zero" : "write \(value)") \(start)+\(count)" }
        let mark = record.sizes?.mark
        volume?.submit(request) { [self] result in
            guard open.remove(id) != nil else { return unexpected(id) }
            host.traceLine { "told \(id): \(result.isSuccess ? "done" : "\(result)")" }
            note(result, "change of \(start)+\(count)", start + count, since: mark)
            if case .success = result {
                record.history.finishWrite(id)
            } else {
                record.leaveOpen(id, session: session)
            }
            proceed()
        }
    }
    private func read(_ start: Int, _ count: Int) {
        let id = record.newID()
        open.insert(id)
        record.history.startRead(id, sectors(start, count))
        let mark = record.sizes?.mark
        volume?.submit(.read(start: ByteOffset(bytes: UInt64(start)), byteCount: count)) { [self] result in
            guard open.remove(id) != nil else { return unexpected(id) }
            note(result, "read of \(start)+\(count)", start + count, since: mark)
            if case .success(let segments) = result, let values = values(segments, start, count) {
                host.traceLine { "read \(id): \(start)+\(count) gave \(Self.short(values))" }
                record.history.finishRead(id, values: values)
            } else {
                record.history.fail(id)
            }
            proceed()
        }
    }
    private func unexpected(_ id: UInt64) {
        if !seesNothing { record.complain("request \(id) was answered twice") }
    }
    /// - Parameter end: where on the volume the request ends.
    private func note(_ result: VolumeResult, _ what: String, _ end: Int, since mark: Int?) {
        switch result {
        case .success:
            record.succeeded += 1
            if let mark, let sizes = record.sizes, UInt64(end) > sizes.highest(since: mark) {
                record.complain("\(what) was served past the end, \(sizes.highest(since: mark))")
            }
        case .failure(let error):
            record.failed += 1
            if error == .fenced { fencedRequests += 1 }
            if fencedRequests == Self.fencedRequestsMax { stop() }
            guard !isExpected(error), !isRightlyRefused(error, end, since: mark) else { return }
            record.complain("\(what) failed: \(error)")
        }
    }
    private func isRightlyRefused(_ error: VolumeError, _ end: Int, since mark: Int?) -> Bool {
        guard error == .outOfRange || error == .noSpace else { return false }
        if let mark, let sizes = record.sizes, UInt64(end) > sizes.lowest(since: mark) {
            record.noteRefusal(forSpace: false)
            return true
        }
        guard error == .noSpace, record.mayLackSpace() else { return false }
        record.noteRefusal(forSpace: true)
        return true
    }
    private func proceed() {
        guard isIssuing else { return }
        guard plan.restMax > .zero, random.oneIn(4) else { return next() }
        let rest = Int64.random(in: 0...plan.restMax.milliseconds, using: &random)
        host.after(.milliseconds(rest)) { self.next() }
    }

    // MARK: Contents

    private static func contents(_ value: UInt64, _ count: Int, _ pool: BufferPool) -> Payload {
        let buffer = pool.take(byteCount: count)
        _ = UnsafeMutableRawBufferPointer(rebasing: buffer.bytes[..<count])
            .initializeMemory(as: UInt8.self, repeating: 0)
        for sector in stride(from: 0, to: count, by: Geometry.sectorBytes) {
            buffer.bytes.storeBytes(of: value.littleEndian, toByteOffset: sector, as: UInt64.self)
            buffer.bytes.storeBytes(
                of: (~value).littleEndian, toByteOffset: sector + Geometry.sectorBytes - 8, as: UInt64.self)
        }
        return Payload(buffer, byteCount: count)
    }
    /// One value for each sector.
    /// - Returns: `nil`, with a complaint, when the bytes are not those of whole writes.
    private func values(_ segments: [ReadSegment], _ start: Int, _ count: Int) -> [UInt64]? {
        guard segments.reduce(0, { $0 + $1.byteCount }) == count else {
            record.complain("a read of \(count) bytes returned another number")
            return nil
        }
        var sectors: [UInt64] = []
        for segment in segments {
            switch segment {
            case .zeroes(let zeroes), .stored(let zeroes):
                sectors += Array(repeating: 0, count: zeroes / Geometry.sectorBytes)
            case .data(let payload): payload.withBytes { Self.append($0, to: &sectors, record) }
            }
        }
        guard plan.unitBytes == Geometry.blockBytes else { return sectors }
        // Whole blocks were written: each must hold one write and nothing else.
        let perBlock = Geometry.blockBytes / Geometry.sectorBytes
        for first in stride(from: 0, to: sectors.count, by: perBlock) {
            let all = sectors[first..<(first + perBlock)]
            if all.contains(where: { $0 != sectors[first] }) {
                record.complain(
                    "block \(start / 4096 + first / 8) is torn: holds writes \(Self.short(Array(all)))")
            }
        }
        return sectors
    }
    private static func append(
        _ bytes: UnsafeRawBufferPointer, to sectors: inout [UInt64], _ record: LoadRecord
    ) {
        for sector in stride(from: 0, to: bytes.count, by: Geometry.sectorBytes) {
            let value = UInt64(littleEndian: bytes.loadUnaligned(fromByteOffset: sector, as: UInt64.self))
            let check = UInt64(
                littleEndian: bytes.loadUnaligned(
                    fromByteOffset: sector + Geometry.sectorBytes - 8, as: UInt64.self))
            if check != (value == 0 ? 0 : ~value) { record.complain("a sector of write \(value) is damaged") }
            sectors.append(value)
        }
    }
    private static func short(_ values: [UInt64]) -> String {
        var runs: [(UInt64, Int)] = []
        for value in values {
            if runs.last?.0 == value { runs[runs.count - 1].1 += 1 } else { runs.append((value, 1)) }
        }
        return runs.map { $0.1 == 1 ? "\($0.0)" : "\($0.0)x\($0.1)" }.joined(separator: " ")
    }
}

extension Result {
    var isSuccess: Bool { if case .success = self { true } else { false } }
}
