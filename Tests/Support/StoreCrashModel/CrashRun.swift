import BlockTypes
import Environment

import ChunkStore

/// One seeded life of a real store on a disk that forgets: random entries of a correct leader, leader
/// changes, crashes at any completion, and after each reopening everything that was acknowledged is looked
/// for.
package final class CrashRun {
    package struct Options: Sendable {
        package var steps = 220
        /// The two others are always ahead: what is committed is often not on this device yet.
        package var commitsAhead = false
        package init() {}
    }
    let options: Options
    var random: SeededRandom
    let disk: CrashDisk
    var settings = StoreSettings()
    var store: ChunkStore
    let pool = BufferPool(keptBytesPerClassMax: 1 << 20)
    var model: [ModelCopyset] = []
    /// Logs that the store may still come back with: a truncation of them was not durable.
    var older: [CopysetID: [OlderLog]] = [:]
    struct OlderLog {
        var log: [ModelEntry]
        var wasCopied = false
    }
    var nextID: UInt64 = 1
    var nextTicket: UInt64 = 1
    var expectations: [UInt64: Expectation] = [:]
    var effects: [StoreEffect] = []
    var now = Duration.zero
    let hasFaults: Bool
    let journalBytes: UInt64
    /// A copyset that lost its quorum: nothing of it is committed before the end.
    let stuck: Int?
    var isOpen = false
    var isClosed = false
    var failure: String?
    var source: SyncSource?
    package private(set) var crashes = 0
    package private(set) var checkpointBytes: UInt64 = 0
    private var incarnation = Incarnation(0)

    enum Expectation {
        case read(copyset: Int, BlockRun, [UInt64?])
        case entries(copyset: Int, from: Int)
    }
    static let volumeBytes: UInt64 = 32 << 20

    package init(seed: UInt64, options: Options = Options()) {
        self.options = options
        random = SeededRandom(seed: seed)
        let journal = UInt64([128, 160, 192].randomElement(using: &random) ?? 128) << 10
        journalBytes = journal
        hasFaults = random.oneIn(4)
        stuck = random.oneIn(6) ? 1 : nil
        let size = UInt64([2816, 3072, 3584].randomElement(using: &random) ?? 3072) << 10
        let geometry = DiskGeometry(
            size: ByteCount(bytes: size), sectorBytes: random.oneIn(2) ? 512 : 4096,
            hasVolatileCache: !random.oneIn(3))
        disk = CrashDisk(geometry)
        settings.retainedEntriesMax = [24, 200, 65_536].randomElement(using: &random) ?? 200
        settings.discardsFreedSpace = random.oneIn(4)
        settings.checkpointEvery = .seconds([1, 4, 30].randomElement(using: &random) ?? 4)
        let identity = StoreIdentity(
            cluster: UniqueID(high: 1, low: 2), device: UniqueID(high: 3, low: seed), server: ServerID(1),
            incarnation: Incarnation(0))
        store = ChunkStore(geometry: geometry, settings: settings, pool: pool)
        do {
            let format = try StoreFormat(identity: identity, geometry: geometry, journalBytes: journal)
            Self.format(format, disk, &random)
        } catch {
            failure = "format: \(error)"
        }
        for number in 1...(random.oneIn(2) ? 1 : 2) {
            model.append(ModelCopyset(id: CopysetID(UInt32(number))))
        }
    }
    package static func format(_ format: StoreFormat, _ disk: CrashDisk, _ random: inout SeededRandom) {
        let formatter = StoreFormatter(format)
        formatter.start()
        var ended = false
        while !ended {
            var effects: [StoreFormatter.Effect] = []
            formatter.takeEffects(&effects)
            for effect in effects {
                switch effect {
                case .disk(let request): disk.submit(request)
                case .formatted, .failed: ended = true
                }
            }
            if let (token, result) = disk.completeOne(&random) { formatter.diskCompleted(token, result) }
        }
        disk.cutPower(&random)
    }

    /// - Returns: what went wrong, or `nil`.
    package func run() -> String? {
        open()
        for number in model.indices {
            store.createCopyset(model[number].id, members: [ServerID(1), ServerID(2), ServerID(3)])
        }
        drain()
        for _ in 0..<options.steps {
            guard failure == nil else { break }
            step()
        }
        if failure == nil { finish() }
        return failure
    }

    // MARK: Steps

    private func step() {
        let number = Int.random(in: 0..<model.count, using: &random)
        switch Int.random(in: 0..<100, using: &random) {
        case 0..<34: propose(number)
        case 34..<50: commit(number)
        case 50..<54: changeLeader(number)
        case 54..<56: vote(number)
        case 56..<64: read(number)
        case 64..<66: loadEntries(number)
        case 66..<69: store.retain(model[number].id, after: LogIndex(UInt64(model[number].acknowledged / 2)))
        case 69..<74:
            now += .milliseconds(500)
            store.tick(now: now)
        case 74..<76: crash()
        case 76: restartCleanly()
        case 77..<80: drain()
        case 80: if random.oneIn(2) { beginSync(number) }
        case 81..<90: stepSync(number)
        case 90: if hasFaults { changeFaults() }
        default: break
        }
        pump(Int.random(in: 0..<8, using: &random))
    }
    /// Some places that fail for good, or a file system below that has no room for a while.
    private func changeFaults() {
        let geometry = disk.geometry
        let end = geometry.size.bytes / 4096
        let roots = ChunkStore.probeOffsets(for: geometry).map { $0.bytes / 4096 }
        guard disk.failing.isEmpty || random.oneIn(2) else { return disk.failing = [:] }
        let first = 257 + journalBytes / 4096
        if random.oneIn(2) {
            for block in first..<end where !roots.contains(block) && random.oneIn(2) {
                disk.failing[block] = .full
            }
        } else {
            let start = UInt64.random(in: first..<end, using: &random)
            for block in start..<min(end, start + 4) where !roots.contains(block) {
                disk.failing[block] = .io(errno: 5)
            }
        }
    }
    private func propose(_ number: Int) {
        for _ in 0..<Int.random(in: 1...6, using: &random) {
            model[number].log.append(
                ModelEntry(term: model[number].term, change: randomChange(number)))
        }
        send(number)
        // The others may be so fast that the commit comes before this device has begun.
        if options.commitsAhead || random.oneIn(10) { commit(number) }
    }
    private func randomChange(_ number: Int) -> ModelChange {
        let volume = VolumeID(UInt64(1 + Int.random(in: 0..<2, using: &random)))
        if model[number].log.count < 3 || random.oneIn(60) {
            let fenced = VolumeID(UInt64(1 + model[number].log.count % 2))
            if random.oneIn(4) { model[number].epoch += 1 }
            let size = random.oneIn(8) ? UInt64(1 << 20) : Self.volumeBytes
            // Now and then a late copy of a fence that something newer has replaced, with another size.
            let isLate = random.oneIn(6)
            if !isLate { model[number].change += 1 }
            let change = isLate ? UInt32.random(in: 0...model[number].change, using: &random) : nil
            return .fence(
                fenced,
                VolumeFence(
                    epoch: Epoch(model[number].epoch), size: ByteCount(bytes: size),
                    change: change ?? model[number].change))
        }
        if random.oneIn(150) { return .delete(volume) }
        if random.oneIn(20) { return .noop }
        var tag = RequestTag(session: Epoch(model[number].epoch), sequence: model[number].nextTag)
        if random.oneIn(25) {
            tag = RequestTag(
                session: tag.session, sequence: UInt64.random(in: 1...model[number].nextTag, using: &random))
        } else {
            model[number].nextTag += 1
        }
        let second = random.oneIn(4)
        let chunk = ChunkKey(volume: volume, index: second ? 1 : 0)
        let first = random.oneIn(3) ? 505 : 0
        let count =
            random.oneIn(8) ? Int.random(in: 1...20, using: &random) : Int.random(in: 1...3, using: &random)
        let run = ModelRun(chunk: chunk, first: first + Int.random(in: 0..<20, using: &random), count: count)
        if random.oneIn(6) { return .trim(run, tag) }
        let ids = (0..<count).map { _ in
            nextID += 1
            return nextID
        }
        return .write(run, tag, ids: ids)
    }
    /// Sends the store what it lacks of the leader's log, cutting what differs.
    func send(_ number: Int) {
        guard isOpen, model[number].isCreated else { return }
        let id = model[number].id
        var common = 0
        while common < model[number].sent.count, common < model[number].log.count,
            model[number].sent[common].term == model[number].log[common].term
        {
            common += 1
        }
        if common < model[number].sent.count {
            older[id, default: []].append(OlderLog(log: model[number].sent))
            model[number].sent.removeLast(model[number].sent.count - common)
            model[number].acknowledged = min(model[number].acknowledged, common)
            store.truncate(id, from: LogIndex(UInt64(common + 1)))
        }
        for start in stride(from: common, to: model[number].log.count, by: 8) {
            let end = min(start + 8, model[number].log.count)
            let entries = (start..<end).map { Self.entry(model[number].log[$0], at: $0 + 1) }
            guard store.appendableCount(of: entries, to: id) == entries.count else { return }
            store.append(id, entries)
            model[number].sent.append(contentsOf: model[number].log[start..<end])
        }
    }
    static func entry(_ entry: ModelEntry, at index: Int) -> LogEntry {
        let position = LogPosition(term: Term(entry.term), index: LogIndex(UInt64(index)))
        switch entry.change {
        case .noop: return LogEntry(position, .noop)
        case .write(let run, let tag, let ids):
            let (payload, checksums) = ModelBytes.payload(ids)
            return LogEntry(
                position, .write(run.run, SnapshotNumber(1), tag, checksums: checksums, payload: payload))
        case .trim(let run, let tag): return LogEntry(position, .trim(run.run, SnapshotNumber(1), tag))
        case .fence(let volume, let fence): return LogEntry(position, .fence(volume, fence))
        case .delete(let volume): return LogEntry(position, .deleteVolume(volume))
        }
    }
    private func commit(_ number: Int) {
        guard number != stuck else { return }
        let top = model[number].log.count
        // The two others may have what this one does not have on disk yet.
        let reach =
            options.commitsAhead || random.oneIn(3)
            ? top : max(model[number].committed, min(top, model[number].acknowledged))
        guard reach > model[number].committed || model[number].told < model[number].committed else { return }
        model[number].committed = max(
            model[number].committed,
            Int.random(in: model[number].committed...max(model[number].committed, reach), using: &random))
        tellCommit(number)
    }
    func tellCommit(_ number: Int) {
        guard isOpen, model[number].isCreated else { return }
        var match = 0
        while match < min(model[number].sent.count, model[number].committed),
            model[number].sent[match].term == model[number].log[match].term
        {
            match += 1
        }
        guard match > 0 else { return }
        model[number].told = max(model[number].told, match)
        store.commit(model[number].id, through: LogIndex(UInt64(match)))
    }
    private func changeLeader(_ number: Int) {
        let kept = Int.random(in: model[number].committed...model[number].log.count, using: &random)
        model[number].term += 1
        model[number].log.removeLast(model[number].log.count - kept)
        model[number].log.append(ModelEntry(term: model[number].term, change: .noop))
        send(number)
    }
    private func vote(_ number: Int) {
        guard isOpen, model[number].isCreated else { return }
        model[number].vote.0 = Term(model[number].vote.0.rawValue + 1)
        model[number].vote.1 = random.oneIn(3) ? nil : ServerID(UInt64.random(in: 1...3, using: &random))
        store.storeVote(model[number].id, model[number].vote.0, votedFor: model[number].vote.1)
    }
    func state(_ number: Int, through count: Int) -> ModelState {
        var state = ModelState()
        for entry in model[number].sent.prefix(count) { state.apply(entry.change) }
        return state
    }
    private func read(_ number: Int) {
        guard isOpen, model[number].isCreated, !model[number].isSyncing else { return }
        let run = ModelRun(
            chunk: ChunkKey(volume: VolumeID(random.oneIn(2) ? 1 : 2), index: random.oneIn(3) ? 1 : 0),
            first: random.oneIn(3) ? 505 : Int.random(in: 0..<30, using: &random), count: 12)
        expectRead(number, run.run, state(number, through: max(model[number].told, applied(number))))
    }
    func applied(_ number: Int) -> Int { Int(store.state(of: model[number].id)?.applied.rawValue ?? 0) }
    func expectRead(_ number: Int, _ run: BlockRun, _ state: ModelState) {
        let wanted = run.blocks.map { state.content[ModelBlock(chunk: run.chunk.rawValue, block: $0)] }
        expectations[nextTicket] = .read(copyset: number, run, wanted)
        store.read(nextTicket, model[number].id, run)
        nextTicket += 1
    }
    private func loadEntries(_ number: Int) {
        guard isOpen, let state = store.state(of: model[number].id) else { return }
        let from = Int(state.base.index.rawValue) + 1
        guard from <= model[number].sent.count else { return }
        let start = Int.random(in: from...model[number].sent.count, using: &random)
        expectations[nextTicket] = .entries(copyset: number, from: start)
        store.loadEntries(nextTicket, model[number].id, from: LogIndex(UInt64(start)), bytesMax: 64 << 10)
        nextTicket += 1
    }

    // MARK: Running

    func pump(_ completions: Int) {
        take()
        for _ in 0..<completions {
            guard failure == nil, let (token, result) = disk.completeOne(&random) else { return }
            store.diskCompleted(token, result)
            take()
            if random.oneIn(500) { return crash() }
        }
    }
    /// Until nothing moves any more.
    func drain() {
        take()
        while failure == nil, let (token, result) = disk.completeOne(&random) {
            store.diskCompleted(token, result)
            take()
        }
    }
    func take() {
        effects.removeAll(keepingCapacity: true)
        store.takeEffects(&effects)
        let taken = effects
        for effect in taken { handle(effect) }
    }
    private func crash() {
        crashes += 1
        checkpointBytes += store.usage.traffic.checkpointBytes
        if random.oneIn(3) { disk.killProcess(&random) } else { disk.cutPower(&random) }
        expectations = [:]
        open()
    }
    private func restartCleanly() {
        disk.failing = [:]
        store.tick(now: now)
        store.close()
        isOpen = false
        drain()
        if failure == nil && !isClosed { failure = "close did not end: \(store.diagnosis)" }
        guard failure == nil else { return }
        expectations = [:]
        disk.cutPower(&random)
        open()
    }
    private func open() {
        var tries = 0
        repeat {
            (isOpen, isClosed) = (false, false)
            store = ChunkStore(geometry: disk.geometry, settings: settings, pool: pool)
            store.open(expectedCluster: UniqueID(high: 1, low: 2))
            tries += 1
            let mayCrash = tries < 4 && random.oneIn(4)
            let crashAfter = Int.random(in: 0..<30, using: &random)
            var completions = 0
            take()
            while failure == nil, !isOpen, let (token, result) = disk.completeOne(&random) {
                store.diskCompleted(token, result)
                take()
                completions += 1
                if mayCrash && completions > crashAfter && !isOpen {
                    if random.oneIn(3) { disk.killProcess(&random) } else { disk.cutPower(&random) }
                    break
                }
            }
        } while failure == nil && !isOpen && tries < 6
        if failure == nil && !isOpen { failure = "opening did not end" }
        if failure == nil && store.identity.incarnation <= incarnation {
            failure = "incarnation \(store.identity.incarnation) was used before"
        }
        incarnation = store.identity.incarnation
        if failure == nil { verify() }
    }
    private func finish() {
        disk.failing = [:]
        for number in model.indices {
            send(number)
            model[number].committed = model[number].log.count
            tellCommit(number)
        }
        for _ in 0..<40 {
            for number in model.indices {
                if case .finishing = model[number].sync { continue }
                for _ in 0..<3 {
                    stepSync(number)
                    drain()
                }
            }
            drain()
            now += .milliseconds(500)
            store.tick(now: now)
            for number in model.indices {
                store.retain(model[number].id, after: LogIndex(UInt64(applied(number))))
                send(number)
                tellCommit(number)
            }
        }
        drain()
        // A device that is too full for a copy waits for space, which never comes here.
        guard failure == nil, !store.isTooFullForCopy else { return }
        if let problem = store.audit() { failure = "at the end: \(problem)" }
        for number in model.indices where model[number].isSyncing {
            failure = "copyset \(number) did not finish its copy: \(model[number].sync), \(store.diagnosis)"
        }
        // A small device may be full of live blocks: then it takes no more, but what it took it must finish.
        for number in model.indices where applied(number) != model[number].sent.count {
            failure =
                failure
                ?? "copyset \(number) stopped at \(applied(number)) of \(model[number].log.count): \(store.diagnosis), \(model[number].sent.count) sent"
        }
        restartCleanly()
    }
}
