import BlockTypes
import Testing

@testable import VolumeCore

/// A volume core over a fake cluster, compared sector by sector with what a flat array would hold.
///
/// Changes are numbered as they are submitted, and each sector written carries its change's number and its
/// own place. Conflicting changes happen in the order in which they were submitted, so a sector read must
/// show a change no older than the newest one answered before the read began; at rest, the newest
/// submitted.
struct VolumeModel {
    var core: VolumeCore
    var cluster: FakeCluster
    var random: SeededRandom
    let seed: UInt64
    var effects: [VolumeCore.Effect] = []

    struct Pending {
        var sectors: Range<Int>
        var change: UInt64
        var isZeroing: Bool
        /// For reads: by sector, the newest change answered when the read began.
        var floor: [UInt64]
        /// For comparisons that must find a difference: which.
        var difference: VolumeError?
    }
    var pending: [Int: Pending] = [:]
    var nextToken = 0
    var lastChange: UInt64 = 0
    var newest: [UInt64]
    var newestZero: [UInt64]
    var answered: [UInt64]
    var results: [Int: VolumeResult] = [:]
    /// Requests that are asked for by hand: their answers are not judged.
    var byHand: Set<Int> = []
    var lastResult: VolumeResult?
    var outcomes: [VolumeError: Int] = [:]
    var lost: VolumeError?
    var hasAttached = false
    var hasClosed = false
    var resizes: [ByteCount] = []
    var trace: [String] = []

    init(
        seed: UInt64, size: UInt64, stripes: StripeMap, copysetCount: Int = 5,
        policy: UnavailablePolicy = .queue,
        limits: VolumeLimits = VolumeLimits(), isReadOnly: Bool = false, group: [Epoch] = []
    ) throws {
        self.seed = seed
        random = SeededRandom(seed: seed)
        var table: [CopysetMembers] = []
        for number in 0..<copysetCount {
            let members = (0..<3).map { (place: Int) -> ServerID in ServerID(UInt64((number + place) % 5 + 1))
            }
            table.append(CopysetMembers(id: CopysetID(UInt32(number + 10)), members: members))
        }
        cluster = FakeCluster(table: table, session: Epoch(4), seed: seed ^ 0xFEED)
        let configuration = VolumeCore.Configuration(
            volume: VolumeID(77), size: ByteCount(bytes: size), stripes: stripes, copysets: table,
            epoch: Epoch(4), change: 1, group: group,
            isReadOnly: isReadOnly, policy: policy, limits: limits, seed: seed)
        core = try VolumeCore(configuration, pool: BufferPool())
        let sectors = Int(size) / 512
        newest = Array(repeating: 0, count: sectors)
        newestZero = newest
        answered = newest
    }

    mutating func feed(_ event: VolumeCore.Event) {
        core.step(event, now: cluster.now, effects: &effects)
        let taken = effects
        effects.removeAll(keepingCapacity: true)
        for effect in taken {
            switch effect {
            case .send(let id, let server, let copyset, let command):
                cluster.send(id, to: server, copyset, command)
            case .wakeAfter(let delay): cluster.push(.wake, after: delay)
            case .complete(let token, let result): complete(token, result)
            case .attached: hasAttached = true
            case .resized(let size): resized(size)
            case .regrouped: break
            case .lost(let error): lost = error
            case .closed: hasClosed = true
            }
        }
    }
    /// - Returns: false when nothing is left to happen.
    mutating func turn() -> Bool {
        guard let event = cluster.next() else { return false }
        feed(event)
        return true
    }
    mutating func settle() {
        var turns = 0
        while !pending.isEmpty || core.subRequestsInFlight > 0, turn() {
            turns += 1
            if turns > 2_000_000 {
                Issue.record(
                    "seed \(seed): does not come to rest, \(pending.count) pending, \(core.blockage as Any)")
                return
            }
        }
        #expect(pending.isEmpty, "seed \(seed): unanswered \(pending.count)")
    }

    mutating func read(_ sectors: Range<Int>) {
        let token = begin(sectors, change: 0, isZeroing: false, floor: Array(answered[sectors]))
        feed(
            .submit(
                token: token,
                .read(
                    start: ByteOffset(bytes: UInt64(sectors.lowerBound) * 512), byteCount: sectors.count * 512
                )))
    }
    mutating func write(_ sectors: Range<Int>, cuts: [Int] = []) {
        let change = beginChange(sectors, isZeroing: false)
        let whole = Self.buffer(sectors) { _ in change }
        var payloads: [Payload] = []
        var start = 0
        for cut in cuts.sorted() + [sectors.count] {
            payloads.append(Payload(whole, startByte: start * 512, byteCount: (cut - start) * 512))
            start = cut
        }
        feed(
            .submit(
                token: nextToken - 1,
                .write(start: ByteOffset(bytes: UInt64(sectors.lowerBound) * 512), payloads: payloads)))
    }
    /// What sectors hold after the changes that `change` names; 0 is none.
    private static func buffer(_ sectors: Range<Int>, _ change: (Int) -> UInt64) -> BlockBuffer {
        let whole = BlockBuffer(byteCount: max(sectors.count * 512, 1))
        whole.bytes.initializeMemory(as: UInt8.self, repeating: 0)
        for (index, sector) in sectors.enumerated() where change(sector) > 0 {
            whole.bytes.storeBytes(of: change(sector), toByteOffset: index * 512, as: UInt64.self)
            whole.bytes.storeBytes(of: UInt64(sector), toByteOffset: index * 512 + 8, as: UInt64.self)
            whole.bytes.storeBytes(of: change(sector), toByteOffset: index * 512 + 504, as: UInt64.self)
        }
        return whole
    }
    /// Compares with what all earlier changes leave behind, or with that and one wrong byte.
    mutating func compare(_ wanted: Range<Int>, isRight: Bool) {
        let unit = core.configuration.stripes.stripeUnitBytes / 512
        let end = min(wanted.upperBound, (wanted.lowerBound / unit + 1) * unit, wanted.lowerBound + 255)
        let sectors = wanted.lowerBound..<end
        let count = sectors.count * 512
        let old = Self.buffer(sectors) { newest[$0] == newestZero[$0] ? 0 : newest[$0] }
        var difference: VolumeError?
        if isRight {
            _ = beginChange(sectors, isZeroing: false)
        } else {
            let byte = Int.random(in: 0..<count, using: &random)
            old.bytes[byte] ^= 0x40
            difference = .miscompare(atByte: byte)
            _ = begin(sectors, change: 0, isZeroing: false, floor: [])
        }
        let token = nextToken - 1
        pending[token]?.difference = difference
        let change = lastChange
        let new = Self.buffer(sectors) { _ in change }
        feed(
            .submit(
                token: token,
                .compareAndWrite(
                    start: ByteOffset(bytes: UInt64(sectors.lowerBound) * 512),
                    expected: [Payload(old, byteCount: count)], new: [Payload(new, byteCount: count)])))
    }
    mutating func clear(_ sectors: Range<Int>, trim: Bool) {
        _ = beginChange(sectors, isZeroing: true)
        let start = ByteOffset(bytes: UInt64(sectors.lowerBound) * 512)
        let length = ByteCount(bytes: UInt64(sectors.count) * 512)
        feed(
            .submit(
                token: nextToken - 1,
                trim ? .trim(start: start, length: length) : .writeZeroes(start: start, length: length)))
    }
    private mutating func beginChange(_ sectors: Range<Int>, isZeroing: Bool) -> UInt64 {
        lastChange += 1
        for sector in sectors {
            newest[sector] = lastChange
            if isZeroing { newestZero[sector] = lastChange }
        }
        _ = begin(sectors, change: lastChange, isZeroing: isZeroing, floor: [])
        return lastChange
    }
    private mutating func begin(_ sectors: Range<Int>, change: UInt64, isZeroing: Bool, floor: [UInt64])
        -> Int
    {
        pending[nextToken] = Pending(sectors: sectors, change: change, isZeroing: isZeroing, floor: floor)
        nextToken += 1
        return nextToken - 1
    }

    /// Asks for something whose answer the test judges.
    mutating func ask(_ request: VolumeRequest) {
        let token = begin(0..<0, change: 0, isZeroing: false, floor: [])
        byHand.insert(token)
        feed(.submit(token: token, request))
    }
    private mutating func complete(_ token: Int, _ result: VolumeResult) {
        lastResult = result
        guard let request = pending.removeValue(forKey: token) else {
            Issue.record("seed \(seed): token \(token) answered twice, or never asked")
            return
        }
        switch result {
        case _ where byHand.contains(token): break
        case .failure(let error) where request.difference == error: break
        case .success where request.difference != nil:
            Issue.record("seed \(seed): \(request.sectors) were compared, and a difference was missed")
        case .failure(let error): outcomes[error, default: 0] += 1
        case .success where request.change > 0:
            for sector in request.sectors { answered[sector] = max(answered[sector], request.change) }
        case .success(let segments): check(segments, request)
        }
        results[token] = result
    }
    private func check(_ segments: [ReadSegment], _ request: Pending) {
        var sector = request.sectors.lowerBound
        for segment in segments {
            guard segment.byteCount % 512 == 0 else {
                Issue.record("seed \(seed): a segment of \(segment.byteCount)")
                return
            }
            for index in 0..<(segment.byteCount / 512) {
                guard request.sectors.contains(sector) else {
                    Issue.record("seed \(seed): more read than asked for")
                    return
                }
                check(sector, request.floor[sector - request.sectors.lowerBound], Self.value(segment, index))
                sector += 1
            }
        }
        #expect(sector == request.sectors.upperBound, "seed \(seed): less read than asked for")
    }
    private func check(_ sector: Int, _ floor: UInt64, _ value: (change: UInt64, place: UInt64, tail: UInt64))
    {
        if value.change == 0 {
            #expect(newestZero[sector] >= floor, "seed \(seed): sector \(sector) lost change \(floor)")
        } else if value.place != UInt64(sector) || value.tail != value.change {
            Issue.record(
                "seed \(seed): sector \(sector) holds sector \(value.place), \(value.change)..\(value.tail)")
        } else if value.change < floor {
            Issue.record(
                "seed \(seed): sector \(sector) shows change \(value.change) after \(floor) was answered")
        }
    }
    private static func value(_ segment: ReadSegment, _ sector: Int) -> (
        change: UInt64, place: UInt64, tail: UInt64
    ) {
        guard case .data(let payload) = segment else { return (0, 0, 0) }
        return payload.withBytes { bytes in
            (
                bytes.loadUnaligned(fromByteOffset: sector * 512, as: UInt64.self),
                bytes.loadUnaligned(fromByteOffset: sector * 512 + 8, as: UInt64.self),
                bytes.loadUnaligned(fromByteOffset: sector * 512 + 504, as: UInt64.self)
            )
        }
    }
    private mutating func resized(_ size: ByteCount) {
        resizes.append(size)
        let sectors = Int(size.bytes) / 512
        lastChange += 1
        for sector in min(sectors, newest.count)..<max(newest.count, sectors) {
            if sector < newest.count {
                (newest[sector], newestZero[sector], answered[sector]) = (lastChange, lastChange, lastChange)
            } else {
                newest.append(0)
                newestZero.append(0)
                answered.append(0)
            }
        }
    }

    /// At rest every sector shows the newest change submitted.
    mutating func expectNewestEverywhere() {
        cluster.faults = .none
        settle()
        answered = newest
        let step = 8192
        for start in stride(from: 0, to: Int(core.size.bytes) / 512, by: step) {
            read(start..<min(start + step, Int(core.size.bytes) / 512))
            settle()
        }
    }
}
