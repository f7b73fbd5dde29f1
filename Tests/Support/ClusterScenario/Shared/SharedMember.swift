import BlockTypes
import CurveClient
import Environment
import Simulation

/// A member's volume as its load sees it: says when something was done that was asked for after everybody had
/// been told that the member was gone.
private final class WatchedVolume: BlockVolume {
    private let volume: RemoteVolume
    private let isGone: () -> Bool
    private let complain: (String) -> Void
    var size: ByteCount { volume.size }
    var isReadOnly: Bool { volume.isReadOnly }
    var resized: ((ByteCount) -> Void)?

    init(_ volume: RemoteVolume, isGone: @escaping () -> Bool, complain: @escaping (String) -> Void) {
        (self.volume, self.isGone, self.complain) = (volume, isGone, complain)
    }
    func submit(_ request: VolumeRequest, completed: @escaping (VolumeResult) -> Void) {
        guard isGone() else { return volume.submit(request, completed: completed) }
        volume.submit(request) { [complain] result in
            switch (request, result) {
            case (.write, .success), (.compareAndWrite, .success), (.trim, .success),
                (.writeZeroes, .success):
                complain("a change was done that a member asked for after its removal was acknowledged")
            default: break
            }
            completed(result)
        }
    }
}

/// One member of the group: load as in other scenarios, and counters that it increments.
final class SharedMember {
    let machine: String
    let host: SimHost
    private let plan: SharedPlan
    private let record: LoadRecord
    private let counters: CounterRecord
    private let pool: BufferPool
    private var random: SeededRandom
    private(set) var volume: RemoteVolume?
    private var watched: WatchedVolume?
    private var load: VolumeLoad?
    private(set) var isAttached = false
    /// It dies, leaves or is to be removed: nobody counts on it any more.
    private(set) var isOnLeave = false
    /// Its removal was acknowledged.
    private var isGone = false
    private(set) var isOver = false
    private(set) var trouble: String?
    private var mayAsk = true
    private var openIncrements = 0
    /// Told with the number of each attachment that every copyset knows.
    private let settled: (UInt32) -> Void

    init(
        _ world: SimWorld, number: Int, _ plan: SharedPlan, _ record: LoadRecord, _ counters: CounterRecord,
        pool: BufferPool, settled: @escaping (UInt32) -> Void
    ) {
        machine = "client\(number)"
        host = world.startHost(on: machine)
        (self.plan, self.record, self.counters, self.pool) = (plan, record, counters, pool)
        (random, self.settled) = (SeededRandom(seed: world.random.next()), settled)
    }
    var epoch: UInt32 { volume?.epoch.rawValue ?? 0 }
    var size: ByteCount { volume?.size ?? .zero }
    var openCount: Int { (load?.openCount ?? 0) + openIncrements }
    var isUsable: Bool { host.isAlive && !isOver && !isOnLeave }
    func readGauges(_ read: GaugeReader) { if host.isAlive { volume?.readGauges(read) } }

    func attach() {
        var options = AttachOptions(
            path: "/volume", metadataServers: [ScenarioDirectory.address], holder: machine,
            holderKey: machine)
        (options.timeout, options.group) = (.seconds(10), "gateways")
        RemoteVolume.attach(environment: host, options: options) { [weak self] result in
            guard let self, host.isAlive else { return }
            switch result {
            case .success(let volume): attached(volume)
            case .failure(let error):
                trouble = "\(error)"
                guard !isOnLeave else { return isOver = true }
                host.after(.milliseconds(200)) { [weak self] in self?.attach() }
            }
        }
    }
    private func attached(_ volume: RemoteVolume) {
        (self.volume, isAttached, trouble) = (volume, true, nil)
        settled(volume.epoch.rawValue)
        volume.lost = { [weak self] in
            guard let self else { return }
            isOver = true
            if !isOnLeave { record.complain("\(machine) was fenced and nobody had removed it") }
        }
        let watched = WatchedVolume(
            volume, isGone: { [weak self] in self?.isGone ?? true },
            complain: { [record] in record.complain($0) })
        self.watched = watched
        let load = VolumeLoad(
            watched, on: host, plan.base.load, record, session: volume.epoch.rawValue, seed: random.next())
        load.isExpected = { [weak self] error in
            self?.isOnLeave != false && (error == .fenced || error == .shuttingDown)
        }
        self.load = load
        guard mayAsk else { return }
        load.start()
        for _ in 0..<2 { incrementLater() }
    }
    func stopAsking() {
        mayAsk = false
        load?.stop()
    }
    func readEverything() { load?.readEverything(upTo: Int(size.bytes) / Geometry.blockBytes) }

    // MARK: Ends

    /// Somebody is about to remove it.
    func willBeRemoved() { isOnLeave = true }
    /// Nothing that it has under way may take effect from now on.
    func wasRemoved() {
        load?.die()
        isGone = true
    }
    func die() {
        (isOnLeave, isOver) = (true, true)
        load?.die()
        host.kill()
    }
    func leave() {
        isOnLeave = true
        stopAsking()
        guard let volume else { return isOver = true }
        volume.detach { [weak self] in self?.isOver = true }
    }
    func end() {
        load?.end()
        (volume, load, watched) = (nil, nil, nil)
    }

    // MARK: Counters

    private func incrementLater() {
        host.after(.milliseconds(Int.random(in: 0...100, using: &random))) { [weak self] in
            self?.increment()
        }
    }
    private func increment() {
        guard mayAsk, !isOver, counters.started < plan.incrementsMax else { return }
        readCounter(Int.random(in: 0..<CounterRecord.places.count, using: &random)) { [weak self] in
            self?.increment($1, from: $0)
        }
    }
    private func place(_ counter: Int) -> (start: ByteOffset, sectors: Int) {
        let place = CounterRecord.places[counter]
        let sector = plan.counterBlock * 8 + place.lowerBound
        return (ByteOffset(bytes: UInt64(sector * 512)), place.count)
    }
    /// Reads a counter, and complains when it cannot be right.
    func readCounter(_ counter: Int, _ done: @escaping (CounterRecord.State, Int) -> Void) {
        let (start, sectors) = place(counter)
        let floor = counters.highest(counter)
        openIncrements += 1
        watched?.submit(.read(start: start, byteCount: sectors * 512)) { [weak self] result in
            guard let self, host.isAlive else { return }
            openIncrements -= 1
            guard case .success(let segments) = result else { return }
            let bytes = segments.flatMap { segment in
                if case .data(let payload) = segment {
                    payload.array
                } else {
                    [UInt8](repeating: 0, count: segment.byteCount)
                }
            }
            guard let state = CounterRecord.state(bytes) else {
                return record.complain("counter \(counter) holds parts of several increments")
            }
            host.traceLine { "counter \(counter) is \(state.count), by \(state.session)/\(state.attempt)" }
            if let wrong = counters.read(state, counter, floor: floor) { return record.complain(wrong) }
            done(state, counter)
        }
    }
    private func increment(_ counter: Int, from old: CounterRecord.State) {
        guard mayAsk, !isOver else { return }
        let (start, sectors) = place(counter)
        let attempt = counters.newAttempt()
        let new = CounterRecord.State(count: old.count + 1, session: UInt64(epoch), attempt: attempt)
        let request = VolumeRequest.compareAndWrite(
            start: start, expected: [Payload(copying: CounterRecord.bytes(old, sectors: sectors))],
            new: [Payload(copying: CounterRecord.bytes(new, sectors: sectors))])
        openIncrements += 1
        counters.lostSight(of: counter)
        watched?.submit(request) { [weak self] result in
            guard let self, host.isAlive else { return }
            openIncrements -= 1
            host.traceLine { "attempt \(attempt) at counter \(counter): \(result)" }
            switch result {
            case .success:
                counters.foundAgain(counter)
                if let wrong = counters.succeeded(new, counter) { record.complain(wrong) }
            case .failure(.miscompare):
                counters.foundAgain(counter)
                counters.missed(attempt)
            case .failure(let error):
                if !isOnLeave { record.complain("an increment failed: \(error)") }
            }
            incrementLater()
        }
    }
    /// Reads all counters and compares them with what was made.
    func judgeCounters() {
        for counter in CounterRecord.places.indices {
            readCounter(counter) { [weak self] state, counter in
                guard let self, let wrong = counters.judge(state, counter) else { return }
                record.complain(wrong)
            }
        }
    }
}
