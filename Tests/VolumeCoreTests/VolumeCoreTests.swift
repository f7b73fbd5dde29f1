import BlockTypes
import Testing

@testable import VolumeCore

/// A core in the hand: what it sends is listed, the test answers.
private struct Bench {
    struct Sent {
        var id: AttemptID
        var server: ServerID
        var copyset: CopysetID
        var command: BlockCommand
        var run: BlockRun? {
            switch command {
            case .read(let run), .write(let run, _, _, _, _), .trim(let run, _, _), .zero(let run, _, _),
                .blockStatus(let run), .amend(let run, _, _, _, _, _):
                run
            case .fence: nil
            }
        }
        var tag: RequestTag? {
            switch command {
            case .write(_, _, let tag, _, _), .trim(_, _, let tag), .zero(_, _, let tag),
                .amend(_, _, _, let tag, _, _):
                tag
            case .read, .fence, .blockStatus: nil
            }
        }
        var payloads: [Payload] {
            if case .write(_, _, _, _, let payloads) = command { payloads } else { [] }
        }
    }
    var core: VolumeCore
    var sent: [Sent] = []
    var results: [Int: VolumeResult] = [:]
    var wakes: [Duration] = []
    var news: [String] = []
    var now = Duration.zero
    var nextToken = 0

    init(
        size: UInt64 = 64 << 20, stripes: StripeMap? = StripeMap(stripeUnitBytes: 65536, stripeCount: 4),
        copysetCount: Int = 4, policy: UnavailablePolicy = .queue, readOnly: Bool = false,
        limits: VolumeLimits = VolumeLimits(), attached: Bool = true, trimsTail: Bool = false
    ) throws {
        let members = [ServerID(1), ServerID(2), ServerID(3)]
        let copysets = (0..<copysetCount).map {
            CopysetMembers(id: CopysetID(UInt32($0) + 1), members: members)
        }
        core = try VolumeCore(
            VolumeCore.Configuration(
                volume: VolumeID(1), size: ByteCount(bytes: size), stripes: try #require(stripes),
                copysets: copysets,
                epoch: Epoch(3), change: 1, trimsTail: trimsTail, isReadOnly: readOnly, policy: policy,
                limits: limits, seed: 1),
            pool: BufferPool())
        guard attached else { return }
        feed(.start)
        answerAll()
        #expect(core.isAttached)
    }
    mutating func feed(_ event: VolumeCore.Event) {
        var effects: [VolumeCore.Effect] = []
        core.step(event, now: now, effects: &effects)
        for effect in effects {
            switch effect {
            case .send(let id, let server, let copyset, let command):
                sent.append(Sent(id: id, server: server, copyset: copyset, command: command))
            case .complete(let token, let result):
                #expect(results[token] == nil, "answered twice")
                results[token] = result
            case .wakeAfter(let delay): wakes.append(now + delay)
            case .attached: news.append("attached")
            case .resized(let size): news.append("resized \(size)")
            case .regrouped(let epoch): news.append("regrouped \(epoch)")
            case .lost(let error): news.append("lost \(error)")
            case .closed: news.append("closed")
            }
        }
    }
    @discardableResult mutating func ask(_ request: VolumeRequest) -> Int {
        nextToken += 1
        feed(.submit(token: nextToken, request))
        return nextToken
    }
    @discardableResult mutating func write(at start: UInt64, count: Int) -> Int {
        ask(
            .write(
                start: ByteOffset(bytes: start),
                payloads: [Payload(BlockBuffer(byteCount: max(count, 1)), byteCount: count)]))
    }
    @discardableResult mutating func trim(_ start: UInt64, _ count: UInt64) -> Int {
        ask(.trim(start: ByteOffset(bytes: start), length: ByteCount(bytes: count)))
    }
    /// Answers the oldest attempt.
    mutating func answer(_ answer: BlockAnswer? = nil) {
        let first = sent.removeFirst()
        if let answer { return feed(.answered(first.id, answer)) }
        if case .read(let run) = first.command {
            return feed(.answered(first.id, .done([.zeroes(run.byteCount)])))
        }
        feed(.answered(first.id, .done([])))
    }
    mutating func answerAll() { while !sent.isEmpty { answer() } }
    /// Lets time pass, waking as asked.
    mutating func wait(_ time: Duration) {
        let end = now + time
        while let next = wakes.min(), next <= end {
            wakes.removeAll { $0 == next }
            now = max(now, next)
            feed(.timerFired)
        }
        now = end
    }
    func failure(_ token: Int) -> VolumeError? {
        if case .failure(let error) = results[token] { error } else { nil }
    }
    func isDone(_ token: Int) -> Bool { if case .success = results[token] { true } else { false } }
}

@Suite struct VolumeCoreTests {
    @Test func aMebibyteBecomesFourWritesOfSlices() throws {
        var bench = try Bench()
        let token = bench.write(at: 1 << 20, count: 1 << 20)
        #expect(bench.sent.map { $0.run?.byteCount } == Array(repeating: 256 << 10, count: 4))
        #expect(Set(bench.sent.map(\.copyset)).count == 4)
        #expect(bench.sent.map { $0.tag?.sequence } == [1, 2, 3, 4])
        #expect(
            bench.sent.allSatisfy {
                $0.payloads.count == 4 && $0.payloads.allSatisfy { $0.byteCount == 65536 }
            })
        for _ in 0..<3 { bench.answer() }
        #expect(bench.results[token] == nil)
        bench.answer()
        #expect(bench.isDone(token))
    }

    @Test func requestsOutsideTheVolumeAreRefusedAndSendNothing() throws {
        var bench = try Bench(size: 1 << 20)
        let end = UInt64(1 << 20)
        for (start, count) in [
            (end, 1), (end, 512), (end - 512, 1024), (.max - 511, 512), (0, 65 << 20),
        ] {
            let read = bench.ask(.read(start: ByteOffset(bytes: start), byteCount: count))
            #expect(bench.failure(read) == .outOfRange)
            let write = bench.write(at: start, count: count)
            #expect(bench.failure(write) == .outOfRange)
            let trim = bench.trim(start, UInt64(count))
            #expect(bench.failure(trim) == .outOfRange)
        }
        let negative = bench.ask(.read(start: ByteOffset(bytes: 0), byteCount: -512))
        #expect(bench.failure(negative) == .outOfRange)
        let endless = bench.trim(512, .max - 511)
        #expect(bench.failure(endless) == .outOfRange)
        for start in [UInt64(0), end] {
            let nothing = bench.ask(.read(start: ByteOffset(bytes: start), byteCount: 0))
            #expect(bench.isDone(nothing))
            let written = bench.write(at: start, count: 0)
            #expect(bench.isDone(written))
        }
        #expect(bench.sent.isEmpty && bench.core.queuedRequests == 0)
    }

    @Test func configurationsThatMakeNoSenseAreRefused() throws {
        #expect(throws: VolumeConfigurationError.size) { try Bench(size: (1 << 20) + 512) }
        #expect(throws: VolumeConfigurationError.size) { try Bench(size: 4096) }
        #expect(throws: VolumeConfigurationError.size) { try Bench(size: .max) }
        #expect(throws: VolumeConfigurationError.placement) { try Bench(copysetCount: 0) }
    }

    @Test func attachingFencesTheCopysetsOfTheVolumesChunksAndHoldsRequestsBack() throws {
        var bench = try Bench(size: 20 << 20, stripes: .plain, copysetCount: 40, attached: false)
        let early = bench.ask(.read(start: ByteOffset(bytes: 0), byteCount: 4096))
        #expect(bench.sent.isEmpty)
        bench.feed(.start)
        #expect(bench.sent.count == 2)
        for sent in bench.sent {
            guard case .fence(VolumeID(1), let fence) = sent.command else {
                Issue.record("not a fence")
                return
            }
            #expect(fence == VolumeFence(epoch: Epoch(3), size: ByteCount(bytes: 20 << 20), change: 1))
        }
        bench.answer()
        #expect(bench.news.isEmpty)
        bench.answer()
        #expect(bench.news == ["attached"] && bench.sent.count == 1)
        bench.answer()
        #expect(bench.isDone(early))

        var large = try Bench(size: 1 << 40, copysetCount: 300, attached: false)
        large.feed(.start)
        #expect(large.sent.count == 64)
        var fenced: Set<CopysetID> = []
        while !large.sent.isEmpty {
            fenced.insert(large.sent[0].copyset)
            large.answer()
        }
        #expect(fenced.count == 300 && large.core.isAttached)
    }

    @Test func flushWaitsForNothing() throws {
        var bench = try Bench()
        bench.write(at: 0, count: 4096)
        let flush = bench.ask(.flush)
        #expect(bench.isDone(flush))
    }

    @Test func aPartOfABlockIsReadPatchedAndWrittenUnderOneLock() throws {
        var bench = try Bench()
        let small = bench.write(at: 512, count: 512)
        let whole = bench.write(at: 0, count: 4096)
        let other = bench.write(at: 4096, count: 4096)
        #expect(bench.sent.count == 2)
        guard case .read(let run) = bench.sent[0].command else {
            Issue.record("an edge is read first")
            return
        }
        #expect(run.blockCount == 1)
        bench.sent.swapAt(0, 1)
        bench.answer()
        #expect(bench.isDone(other))
        bench.answer()
        #expect(bench.sent.count == 1 && bench.sent[0].payloads.map(\.byteCount) == [4096])
        bench.answer()
        #expect(bench.isDone(small) && bench.results[whole] == nil)
        bench.answer()
        #expect(bench.isDone(whole))
    }

    @Test func aLargeTrimLeavesRoomForOthersAndCostsNoMemory() throws {
        var bench = try Bench(size: 1 << 50, stripes: .plain)
        let all = bench.trim(0, 1 << 50)
        #expect(bench.sent.count == 64)
        // Overlaps what the trim has yet to reach: it waits. A read does not.
        let behind = bench.write(at: 1 << 40, count: 4096)
        let read = bench.ask(.read(start: ByteOffset(bytes: 1 << 41), byteCount: 4096))
        #expect(bench.sent.count == 65)
        for _ in 0..<65 { bench.answer() }
        #expect(bench.isDone(read) && bench.results[behind] == nil && bench.results[all] == nil)
        bench.feed(.abandon)
        #expect(bench.failure(all) == .shuttingDown && bench.failure(behind) == .shuttingDown)
        #expect(bench.news == ["attached", "lost shuttingDown", "closed"])

        var half = try Bench(size: 8 << 30, stripes: .plain)
        half.trim(0, 4 << 30)
        let beside = half.write(at: 5 << 30, count: 4096)
        #expect(half.sent.count == 65)
        half.answerAll()
        #expect(half.isDone(beside) && half.core.queuedRequests == 0)
    }

    @Test func whatAnEarlierShrinkLeftIsFreedBehindTheFenceAndBeforeTheFirstRequest() throws {
        // 40 MiB end within a stripe group of 64 MiB: four chunks.
        var bench = try Bench(size: 40 << 20, attached: false, trimsTail: true)
        bench.feed(.start)
        let fences = bench.sent.count
        #expect(fences > 0 && bench.sent.allSatisfy { $0.run == nil })
        for _ in 0..<(fences - 1) { bench.answer() }
        #expect(bench.sent.count == 1 && bench.news.isEmpty && bench.core.settledChange == 0)
        bench.answer()
        let trims = bench.sent
        #expect(!trims.isEmpty && bench.news.isEmpty)
        var blocks = 0
        for trim in trims {
            guard case .trim(let run, _, _) = trim.command else {
                Issue.record("\(trim.command)")
                continue
            }
            blocks += run.byteCount / Geometry.blockBytes
        }
        #expect(blocks == 24 << 20 / Geometry.blockBytes)
        bench.answerAll()
        #expect(bench.news == ["attached"] && bench.core.settledChange == 1)
        bench.feed(.resize(ByteCount(bytes: 36 << 20), change: 2))
        #expect(bench.core.settledChange == 0)
        bench.answerAll()
        #expect(bench.core.settledChange == 2)
    }

    @Test func oneSubRequestLooksForALeaderWhileTheOthersWait() throws {
        var bench = try Bench(copysetCount: 1)
        let tokens = (0..<50).map { bench.write(at: UInt64($0) * 65536, count: 4096) }
        #expect(bench.sent.count == 50)
        bench.feed(.serverLost(ServerID(1)))
        let probes = bench.sent.dropFirst(50)
        #expect(probes.count == 1 && probes.first?.server == ServerID(2))
        bench.sent.removeFirst(50)
        bench.answer(.notLeader(hint: nil))
        #expect(bench.sent.map(\.server) == [ServerID(3)])
        bench.answer(.notLeader(hint: nil))
        #expect(bench.sent.isEmpty)
        #expect(bench.core.blockage?.reason == .noLeader && bench.core.blockage?.since == .zero)
        bench.wait(.seconds(1))
        #expect((1...30).contains(bench.sent.count))
        bench.sent.removeAll()
        bench.wait(.seconds(3))
        bench.sent.removeAll()
        while bench.sent.isEmpty { bench.wait(.milliseconds(10)) }
        let answering = bench.sent.removeFirst()
        bench.feed(.answered(answering.id, .done([])))
        #expect(bench.sent.count == 49 && bench.sent.allSatisfy { $0.server == answering.server })
        bench.answerAll()
        #expect(tokens.allSatisfy { bench.isDone($0) } && bench.core.blockage == nil)
        // Every change kept its tag.
        #expect(bench.core.tags.oldest == 51)
    }

    @Test func hintsAreFollowedAtOnceButNotInACircle() throws {
        var bench = try Bench(copysetCount: 1)
        let token = bench.write(at: 0, count: 4096)
        bench.answer(.notLeader(hint: ServerID(3)))
        #expect(bench.sent.map(\.server) == [ServerID(3)])
        var asked = 0
        while !bench.sent.isEmpty, asked < 100 {
            asked += 1
            bench.answer(.notLeader(hint: bench.sent[0].server == ServerID(3) ? ServerID(2) : ServerID(3)))
        }
        #expect(asked < 10)
        bench.wait(.seconds(1))
        bench.answer(.notLeader(hint: ServerID(77)))
        bench.wait(.seconds(1))
        bench.answer()
        #expect(bench.isDone(token))
    }

    @Test func aLateAnswerOfAnAttemptThatWasGivenUpCounts() throws {
        var bench = try Bench(copysetCount: 1)
        let token = bench.write(at: 0, count: 4096)
        let first = bench.sent.removeFirst()
        bench.wait(.milliseconds(1500))
        #expect(bench.sent.map(\.tag) == [first.tag] && bench.sent.map(\.server) == [ServerID(2)])
        bench.feed(.answered(first.id, .noSpace))
        #expect(bench.results[token] == nil)
        bench.feed(.answered(first.id, .done([])))
        #expect(bench.isDone(token))
        bench.answer()
        bench.feed(.answered(first.id, .done([])))
        #expect(bench.core.subRequestsInFlight == 0)
    }

    @Test func aBusyServerIsGivenMoreTimeThanASilentOneButNotForEver() throws {
        var bench = try Bench(copysetCount: 1)
        bench.write(at: 0, count: 4096)
        let stuck = bench.sent.removeFirst()
        var seconds = 0
        while bench.sent.isEmpty, seconds < 60 {
            bench.write(at: 65536, count: 4096)
            bench.answer()
            bench.wait(.milliseconds(500))
            bench.write(at: 65536, count: 4096)
            bench.answer()
            bench.wait(.milliseconds(500))
            seconds += 1
        }
        #expect(bench.sent.first?.tag == stuck.tag)
        #expect((9...11).contains(seconds))
    }

    /// A leader that hears nobody is still named by those who hear it, until they elect another: who believed
    /// them would find the other only after the last of those attempts.
    @Test(arguments: Array(stride(from: 1050, to: 2500, by: 50)))
    func aSilentLeaderThatOthersStillNameIsNotWaitedFor(untilMilliseconds: Int) throws {
        var bench = try Bench(copysetCount: 1)
        let token = bench.write(at: 0, count: 4096)
        var (elapsed, named) = (0, 0)
        while !bench.isDone(token), elapsed < 5000 {
            named += bench.sent.count { $0.server == ServerID(1) }
            bench.sent.removeAll { $0.server == ServerID(1) }
            while let next = bench.sent.first, next.server != ServerID(1) {
                let leader = ServerID(elapsed >= untilMilliseconds ? 2 : 1)
                bench.answer(next.server == leader ? .done([]) : .notLeader(hint: leader))
            }
            bench.wait(.milliseconds(5))
            elapsed += 5
        }
        #expect(elapsed <= untilMilliseconds + 140)
        #expect(named >= 1 + (untilMilliseconds - 1000) / 750, "it may be back and lead")
    }

    @Test func refusalsBecomeTheFrontendsErrors() throws {
        let cases: [(BlockAnswer, VolumeError)] = [
            (.noSpace, .noSpace), (.outOfRange, .outOfRange), (.refused, .outOfRange),
            (.forgotten, .replicasUnavailable),
        ]
        for (answer, error) in cases {
            var bench = try Bench()
            let token = bench.write(at: 0, count: 1 << 20)
            bench.answer(answer)
            #expect(bench.results[token] == nil, "other parts are still under way")
            bench.answerAll()
            #expect(bench.failure(token) == error)
            let next = bench.write(at: 0, count: 4096)
            bench.answerAll()
            #expect(bench.isDone(next))
        }
        var bench = try Bench()
        let damaged = bench.ask(.read(start: ByteOffset(bytes: 0), byteCount: 4096))
        for _ in 0..<3 {
            bench.answer(.damaged)
            bench.wait(.seconds(1))
        }
        #expect(bench.failure(damaged) == .checksumMismatch)
    }

    @Test(arguments: [(BlockAnswer.staleEpoch, VolumeError.fenced), (.deleted, .deleted)])
    func theEndIsForGood(_ answer: BlockAnswer, _ error: VolumeError) throws {
        var bench = try Bench()
        let tokens = (0..<20).map { bench.write(at: UInt64($0) * 2048, count: 4096) }
        bench.answer(answer)
        #expect(tokens.allSatisfy { bench.failure($0) == error })
        #expect(bench.news.last == "lost \(error)")
        let late = bench.ask(.flush)
        #expect(bench.failure(late) == error)
        bench.sent.removeAll()
        bench.wait(.seconds(10))
        #expect(bench.sent.isEmpty)
    }

    @Test func aCopysetThatForgotTheAttachmentIsToldAgain() throws {
        var bench = try Bench(copysetCount: 1)
        let token = bench.write(at: 0, count: 4096)
        bench.answer(.needsFence)
        guard case .fence = bench.sent.first?.command else {
            Issue.record("no fence")
            return
        }
        bench.answer()
        bench.wait(.seconds(1))
        bench.answer()
        #expect(bench.isDone(token))
    }

    @Test func impatienceIsForWhatStandsStillNotForWhatIsLong() throws {
        var bench = try Bench(size: 8 << 30, stripes: .plain, policy: .errorAfter(.seconds(5)))
        let long = bench.trim(0, 8 << 30)
        let behind = bench.write(at: 7 << 30, count: 4096)
        for _ in 0..<300 {
            bench.answer()
            bench.wait(.milliseconds(100))
        }
        #expect(bench.results[long] == nil && bench.results[behind] == nil)
        bench.sent.removeAll()
        bench.wait(.seconds(4))
        #expect(bench.results[long] == nil)
        bench.wait(.milliseconds(1100))
        #expect(bench.failure(long) == .replicasUnavailable)
        bench.wait(.seconds(6))
        #expect(bench.failure(behind) == .replicasUnavailable)
    }

    @Test func readOnlyVolumesRefuseEveryChange() throws {
        var bench = try Bench(readOnly: true)
        let tokens = [
            bench.write(at: 0, count: 4096), bench.trim(0, 4096),
            bench.ask(.writeZeroes(start: ByteOffset(bytes: 0), length: ByteCount(bytes: 4096))),
        ]
        #expect(tokens.allSatisfy { bench.failure($0) == .readOnly })
        let flush = bench.ask(.flush)
        #expect(bench.isDone(flush))
    }

    @Test func whatIsUnderWayIsBoundedAndWhatWaitsToo() throws {
        var limits = VolumeLimits()
        (limits.requestsSoftMax, limits.requestsMax) = (700, 800)
        var bench = try Bench(limits: limits)
        for index in 0..<900 { bench.write(at: UInt64(index) * 4096, count: 4096) }
        #expect(bench.core.subRequestsInFlight == 512 && bench.sent.count == 512)
        #expect(!bench.core.canAccept && bench.core.queuedRequests == 800)
        #expect(bench.results.count == 100 && bench.failure(900) == .replicasUnavailable)
        bench.answerAll()
        #expect(bench.core.canAccept && bench.core.queuedRequests == 0)

        var large = try Bench(size: 1 << 30)
        for index in 0..<4 { large.write(at: UInt64(index) * (32 << 20), count: 32 << 20) }
        #expect(large.sent.reduce(0) { $0 + ($1.run?.byteCount ?? 0) } == 64 << 20)
        large.answerAll()
        #expect(large.results.count == 4)
    }

    @Test func nobodyRunsAWindowAheadOfAStuckChange() throws {
        var bench = try Bench(size: 1 << 30, stripes: .plain, copysetCount: 2)
        bench.write(at: 0, count: 4096)
        let stuck = bench.sent.removeFirst()
        var done = 0
        for index in 0..<5000 {
            bench.write(at: (16 << 20) + UInt64(index % 1000) * 4096, count: 4096)
            while !bench.sent.isEmpty, bench.sent[0].copyset != stuck.copyset {
                #expect((bench.sent[0].tag?.sequence ?? 0) < 1 + RequestTag.windowRequests)
                bench.answer()
                done += 1
            }
        }
        #expect(done == Int(RequestTag.windowRequests) - 1)
        bench.feed(.answered(stuck.id, .done([])))
        bench.answerAll()
        #expect(bench.core.queuedRequests == 0)
    }

    @Test func closingDrainsAndThenRefuses() throws {
        var bench = try Bench()
        let token = bench.write(at: 0, count: 4096)
        bench.feed(.close)
        let late = bench.write(at: 0, count: 4096)
        #expect(bench.failure(late) == .shuttingDown && bench.news == ["attached"])
        bench.answerAll()
        #expect(bench.isDone(token) && bench.news == ["attached", "closed"])
        bench.wait(.seconds(30))
        #expect(bench.sent.isEmpty)
    }

    @Test func inventedAnswersNeverStopTheProcess() throws {
        for seed in UInt64(1)...30 {
            var random = SeededRandom(seed: seed)
            var bench = try Bench(copysetCount: 3)
            for _ in 0..<2000 {
                switch Int.random(in: 0..<12, using: &random) {
                case 0...2:
                    bench.write(
                        at: UInt64.random(in: 0..<64, using: &random) * 512,
                        count: Int.random(in: 0...40, using: &random) * 512)
                case 3: bench.trim(UInt64.random(in: 0..<64, using: &random) * 512, 16384)
                case 4: bench.ask(.read(start: ByteOffset(bytes: 0), byteCount: 65536))
                case 5: bench.feed(.serverLost(ServerID(UInt64.random(in: 0...4, using: &random))))
                case 6: bench.wait(.milliseconds(Int.random(in: 0...3000, using: &random)))
                case 7:
                    let size = ByteCount(bytes: UInt64.random(in: 0...20_000, using: &random) * 4096)
                    bench.feed(.resize(size, change: UInt32.random(in: 0...40, using: &random)))
                default:
                    let slot = UInt64.random(in: 0..<600, using: &random)
                    let serial = UInt64.random(in: 0...3000, using: &random)
                    let invented = AttemptID(rawValue: random.oneIn(20) ? random.next() : serial << 16 | slot)
                    let id =
                        Bool.random(using: &random)
                        ? bench.sent.randomElement(using: &random)?.id ?? invented : invented
                    let answers: [BlockAnswer] = [
                        .done([]), .done([.zeroes(4096)]), .done([.zeroes(65536)]),

                        .notLeader(hint: nil), .notLeader(hint: ServerID(2)), .notReady, .overloaded,
                        .needsFence, .outOfRange,
                        .noSpace, .damaged, .wrongCopyset, .forgotten, .refused, .unreachable,
                    ]
                    bench.feed(.answered(id, answers.randomElement(using: &random) ?? .notReady))
                }
                if bench.sent.count > 1000 { bench.sent.removeFirst(500) }
            }
            bench.feed(.abandon)
            #expect(bench.core.queuedRequests == 0)
            #expect(bench.results.count == bench.nextToken, "seed \(seed)")
        }
    }
}
