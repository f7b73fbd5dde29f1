import BlockTypes
import ControlMessages
import CurveWire
import Environment
import MemoryEnvironment
import Testing
import VolumeCore

@testable import CurveClient

extension FakeCell {
    func ask(_ volume: RemoteVolume, _ request: VolumeRequest, wait: Duration = .zero) -> VolumeResult? {
        var result: VolumeResult?
        var isInside = true
        volume.submit(request) {
            #expect(!isInside, "answered from inside the call")
            #expect(result == nil, "answered twice")
            result = $0
        }
        isInside = false
        world.run(for: wait)
        return result
    }
    func write(_ volume: RemoteVolume, at start: UInt64, _ byte: UInt8, count: Int, wait: Duration = .zero)
        -> VolumeResult?
    {
        let payload = Payload(copying: Array(repeating: byte, count: count))
        return ask(volume, .write(start: ByteOffset(bytes: start), payloads: [payload]), wait: wait)
    }
    func read(_ volume: RemoteVolume, at start: UInt64, count: Int, wait: Duration = .zero) -> [UInt8]? {
        guard
            case .success(let segments) = ask(
                volume, .read(start: ByteOffset(bytes: start), byteCount: count), wait: wait)
        else { return nil }
        return segments.flatMap { segment -> [UInt8] in
            switch segment {
            case .data(let payload): payload.array
            case .zeroes(let count), .stored(let count): Array(repeating: 0, count: count)
            }
        }
    }
    func volume(policy: UnavailablePolicy = .queue, readOnly: Bool = false) throws -> RemoteVolume {
        try #require(attach(policy: policy, readOnly: readOnly)).get()
    }
}
private func isError(_ result: VolumeResult?, _ error: VolumeError) -> Bool {
    if case .failure(error) = result { true } else { false }
}
private func isSuccess(_ result: VolumeResult?) -> Bool { if case .success = result { true } else { false } }

@Suite struct RemoteVolumeTests {
    @Test func anAttachedVolumeKeepsWhatIsWritten() throws {
        let cell = try FakeCell()
        let volume = try cell.volume()
        #expect(volume.size == ByteCount(bytes: 64 << 20))
        #expect(cell.store.records.values.allSatisfy { $0.fence.epoch == Epoch(1) })
        #expect(isSuccess(cell.write(volume, at: 3 << 20, 7, count: 1 << 20)))
        #expect(isSuccess(cell.write(volume, at: (3 << 20) + 512, 9, count: 1024)))
        #expect(
            isSuccess(
                cell.ask(
                    volume,
                    .trim(start: ByteOffset(bytes: (3 << 20) + 8192 + 512), length: ByteCount(bytes: 8192)))))
        #expect(isSuccess(cell.ask(volume, .flush)))
        var expected = Array(repeating: UInt8(7), count: 20480)
        for index in 512..<1536 { expected[index] = 9 }
        for index in 8704..<16896 { expected[index] = 0 }
        #expect(cell.read(volume, at: 3 << 20, count: 20480) == expected)
        #expect(cell.read(volume, at: 1 << 20, count: 4096) == Array(repeating: 0, count: 4096))
        let counters = volume.counters
        #expect(
            counters.reads == 2 && counters.writes == 2 && counters.discards == 1 && counters.flushes == 1)
        #expect(volume.status.connectedServers == 3 && volume.status.waiting == nil)
    }

    @Test func everyByteHasItsOwnPlace() throws {
        let cell = try FakeCell(seed: 12)
        let volume = try cell.volume()
        var random = SeededRandom(seed: 12)
        // Around the end of a chunk and of stripes, where a piece begins and ends inside of blocks.
        let base: UInt64 = (16 << 20) - 40_000
        var expected = [UInt8](repeating: 0, count: 80_000)
        for round in 1...200 {
            let length =
                random.oneIn(2)
                ? Int.random(in: 1...9, using: &random) : Int.random(in: 1...20_000, using: &random)
            let start = Int.random(in: 0...(expected.count - length), using: &random)
            let place = ByteOffset(bytes: base + UInt64(start))
            let isLast = round % 4 == 0
            let value = UInt8(truncatingIfNeeded: random.oneIn(3) ? 0 : round)
            // Several at once, in the same blocks: the later one stays.
            let request: VolumeRequest =
                value > 0
                ? .write(start: place, payloads: [Payload(copying: [UInt8](repeating: value, count: length))])
                : random.oneIn(2)
                    ? .trim(start: place, length: ByteCount(bytes: UInt64(length)))
                    : .writeZeroes(start: place, length: ByteCount(bytes: UInt64(length)))
            volume.submit(request) { #expect(isSuccess($0)) }
            for index in start..<(start + length) { expected[index] = value }
            if isLast { cell.world.run(for: .milliseconds(100)) }
            guard isLast else { continue }
            let from = Int.random(in: 0..<(expected.count - 1), using: &random)
            let count = Int.random(in: 1...(expected.count - from), using: &random)
            #expect(
                cell.read(volume, at: base + UInt64(from), count: count)
                    == Array(expected[from..<(from + count)]))
        }
        #expect(cell.read(volume, at: base, count: expected.count) == expected)
    }

    @Test func bytesCutAnywhereChangeNothing() throws {
        let cell = try FakeCell(seed: 8)
        cell.world.pieceBytesMax = 700
        cell.world.cutsAtRandom = true
        let volume = try cell.volume()
        #expect(isSuccess(cell.write(volume, at: 4096, 3, count: 200_704)))
        #expect(cell.read(volume, at: 4096, count: 200_704) == Array(repeating: 3, count: 200_704))
    }

    @Test func refusalsOfTheMetadataServerReachTheCaller() throws {
        let cell = try FakeCell()
        _ = try cell.volume()
        guard case .failure(let error) = cell.attach(key: "somebody else") else {
            Issue.record("attached twice")
            return
        }
        #expect(error.isHeld && !error.isNotFound && "\(error)" == "held by test")
        cell.refusesEverything = true
        guard case .failure(let broken) = cell.attach() else {
            Issue.record("attached to a broken server")
            return
        }
        #expect("\(broken)" == "the store is broken")
    }

    @Test func nonsenseFromTheMetadataServerIsAnErrorAndNoCrash() throws {
        let spoils: [(inout ControlAttachVolumeResponse) -> Void] = [
            { $0.volume.id = 0 }, { $0.volume.id = .max }, { $0.epoch = 0 }, { $0.volume.sizeBytes = 5 },
            { $0.volume.sizeBytes = .max }, { $0.volume.stripeUnitBytes = 7 },
            { $0.volume.stripeCount = .max },
            { $0.copysets = [] }, { $0.copysets[0].members = [] }, { $0.copysets[1].members = [1, 1, 2] },
            { $0.copysets[1].id = $0.copysets[0].id }, { $0.copysets[0].members = Array(1...100) },
            { $0.clearVolume() },
        ]
        for spoil in spoils {
            let cell = try FakeCell()
            cell.spoilsAttach = spoil
            guard case .failure(.badAnswer) = cell.attach() else {
                Issue.record("nonsense was accepted")
                continue
            }
        }
    }

    @Test func withoutAMetadataServerAttachingFailsInTime() throws {
        let cell = try FakeCell()
        cell.stopMDS()
        guard case .failure(.control(.unreachable(let why))) = cell.attach() else {
            Issue.record("attached to nothing")
            return
        }
        #expect(why.contains("mds:6700"))
        #expect(cell.world.log.contains { $0.contains("waits for the metadata server at mds:6700") })
    }

    @Test func withoutALeaderAttachingSaysWhichCopyset() throws {
        let cell = try FakeCell()
        cell.store.defaultLeader = nil
        guard case .failure(.timedOut(let why)) = cell.attach() else {
            Issue.record("attached without leaders")
            return
        }
        #expect(why.contains("no leader for copyset 10"))
        cell.world.run(for: .seconds(20))
        #expect(cell.detachments == 1)
    }

    @Test func theLeaderIsFoundAndFollowed() throws {
        let cell = try FakeCell()
        let volume = try cell.volume()
        cell.world.run(for: .seconds(5))
        #expect(!cell.world.log.contains { $0.contains("waits for") }, "it was answered")
        #expect(isSuccess(cell.write(volume, at: 0, 1, count: 4096)))
        cell.store.defaultLeader = ServerID(3)
        #expect(isSuccess(cell.write(volume, at: 0, 2, count: 4096)))
        cell.chunkservers[ServerID(3)]?.stop()
        cell.store.defaultLeader = ServerID(2)
        #expect(isSuccess(cell.write(volume, at: 0, 3, count: 4096, wait: .seconds(3))))
        #expect(cell.read(volume, at: 0, count: 4096) == Array(repeating: 3, count: 4096))
        #expect(volume.counters.retries > 0)
    }

    @Test func aChunkserverThatMovesIsFoundAgain() throws {
        let cell = try FakeCell()
        let volume = try cell.volume()
        cell.store.defaultLeader = ServerID(1)
        cell.chunkservers[ServerID(1)]?.stop()
        try cell.chunkservers[ServerID(1)]?.start(port: 9999)
        cell.bookVersion = 2
        #expect(isSuccess(cell.write(volume, at: 0, 1, count: 4096, wait: .seconds(10))))
        #expect(cell.renewals > 0)
    }

    @Test func anAttachNamesTheAttachmentItFollowsAndItself() throws {
        let cell = try FakeCell()
        cell.epoch = 41
        cell.notReadyCount = 2
        let volume = try cell.volume()
        #expect(volume.epoch == Epoch(42))
        #expect(cell.attempts.map(\.expectedEpoch) == [41, 41, 41])
        #expect(Set(cell.attempts.map(\.attempt)).count == 3 && !cell.attempts.contains { $0.attempt == 0 })
    }

    @Test func whileRenewalsAreRefusedIOGoesOnAndMovedChunkserversAreFound() throws {
        let cell = try FakeCell()
        let volume = try cell.volume()
        cell.hasOldDatabase = true
        guard case .failure(.control(.refused(let failure))) = cell.attach(key: "other", takeOver: true)
        else {
            Issue.record("attached")
            return
        }
        #expect(failure.code == .databaseWentBack)
        cell.store.defaultLeader = ServerID(1)
        cell.chunkservers[ServerID(1)]?.stop()
        try cell.chunkservers[ServerID(1)]?.start(port: 9999)
        cell.bookVersion = 2
        #expect(isSuccess(cell.write(volume, at: 0, 1, count: 4096, wait: .seconds(10))))
        #expect(volume.lossReason == nil)
    }

    @Test func aServerThatSaysAnotherNumberIsNotTalkedTo() throws {
        let cell = try FakeCell()
        cell.chunkservers[ServerID(1)]?.claims = ServerID(2)
        guard case .failure(.timedOut) = cell.attach() else {
            Issue.record("attached over a wrong server")
            return
        }
        #expect(cell.world.log.contains { $0.contains("chunkserver 1 was expected") })
    }

    @Test func aSilentLeaderIsPassedOver() throws {
        let cell = try FakeCell()
        let volume = try cell.volume()
        cell.chunkservers[ServerID(1)]?.isSilent = true
        cell.store.defaultLeader = ServerID(2)
        #expect(cell.write(volume, at: 0, 5, count: 4096, wait: .milliseconds(900)) == nil)
        cell.world.run(for: .seconds(1))
        #expect(cell.read(volume, at: 0, count: 4096) == Array(repeating: 5, count: 4096))
    }

    @Test func impatientVolumesFailAndPatientOnesSayWhyTheyWait() throws {
        let cell = try FakeCell()
        let patient = try cell.volume()
        cell.store.defaultLeader = nil
        #expect(cell.write(patient, at: 0, 5, count: 4096, wait: .seconds(30)) == nil)
        let waiting = try #require(patient.status.waiting)
        #expect(waiting.contains("no leader for copyset") && waiting.contains("since 30 s"))
        #expect(cell.world.log.contains { $0.contains("requests wait: no leader") })
        cell.store.defaultLeader = ServerID(1)
        cell.world.run(for: .seconds(10))
        #expect(patient.queuedRequests == 0 && patient.status.waiting == nil)
        #expect(cell.world.log.contains { $0.contains("requests go on") })

        let other = try FakeCell()
        let impatient = try other.volume(policy: .errorAfter(.seconds(5)))
        other.store.defaultLeader = nil
        #expect(
            isError(other.write(impatient, at: 0, 5, count: 4096, wait: .seconds(6)), .replicasUnavailable))
    }

    @Test func aTakeoverFencesTheOldHolderForGood() throws {
        let cell = try FakeCell()
        let first = try cell.volume()
        var losses = 0
        first.lost = { losses += 1 }
        let second = try #require(cell.attach(key: "heir", takeOver: true)).get()
        #expect(isError(cell.write(first, at: 0, 1, count: 4096), .fenced))
        #expect(isError(cell.ask(first, .flush), .fenced))
        #expect(losses == 1 && first.lossReason == .fenced)
        #expect(isSuccess(cell.write(second, at: 0, 2, count: 4096)))
        var isDetached = false
        first.detach { isDetached = true }
        cell.world.settle()
        #expect(isDetached && cell.detachments == 0)
    }

    @Test func theLeaseAloneTellsAnIdleHolderThatItIsOver() throws {
        let cell = try FakeCell()
        let first = try cell.volume()
        _ = try #require(cell.attach(key: "heir", takeOver: true)).get()
        cell.world.run(for: .seconds(4))
        #expect(first.lossReason == .fenced)
    }

    @Test func whileTheMetadataServerIsAwayIOGoesOn() throws {
        let cell = try FakeCell()
        let volume = try cell.volume()
        cell.stopMDS()
        cell.world.run(for: .seconds(60))
        #expect(isSuccess(cell.write(volume, at: 0, 2, count: 4096)))
        #expect(volume.status.leaseTrouble != nil)
        try cell.startMDS()
        let renewals = cell.renewals
        cell.world.run(for: .seconds(10))
        #expect(cell.renewals > renewals && volume.status.leaseTrouble == nil)
    }

    @Test func damagedBlocksAreReadAgainAndThenReported() throws {
        let cell = try FakeCell()
        let volume = try cell.volume()
        #expect(isSuccess(cell.write(volume, at: 0, 2, count: 8192)))
        var damages = 1
        cell.store.spoilsRead = { reply in
            guard damages > 0, !reply.checksums.isEmpty else { return }
            damages -= 1
            reply.checksums[0] = CRC32C(rawValue: ~reply.checksums[0].rawValue)
        }
        #expect(cell.read(volume, at: 0, count: 8192, wait: .seconds(1)) == Array(repeating: 2, count: 8192))
        damages = .max
        #expect(
            isError(
                cell.ask(volume, .read(start: .init(bytes: 0), byteCount: 4096), wait: .seconds(2)),
                .checksumMismatch))
    }

    @Test func aFullPoolFailsTheWriteAndNothingElse() throws {
        let cell = try FakeCell()
        let volume = try cell.volume()
        cell.store.isFull = true
        #expect(isError(cell.write(volume, at: 0, 2, count: 4096), .noSpace))
        #expect(cell.read(volume, at: 0, count: 4096) == Array(repeating: 0, count: 4096))
        #expect(isSuccess(cell.ask(volume, .trim(start: .init(bytes: 0), length: .init(bytes: 8192)))))
    }

    @Test func readOnlyVolumesAreFencedButNotWritten() throws {
        let cell = try FakeCell()
        let volume = try cell.volume(readOnly: true)
        #expect(volume.isReadOnly)
        #expect(isError(cell.write(volume, at: 0, 2, count: 4096), .readOnly))
        #expect(cell.read(volume, at: 0, count: 512) == Array(repeating: 0, count: 512))
    }

    @Test func aNewSizeComesWithTheLease() throws {
        let cell = try FakeCell()
        let volume = try cell.volume()
        var sizes: [UInt64] = []
        volume.resized = { sizes.append($0.bytes) }
        cell.size = 200 << 20
        cell.world.run(for: .seconds(4))
        #expect(sizes == [200 << 20])
        #expect(isSuccess(cell.write(volume, at: 199 << 20, 2, count: 4096)))
        cell.size = 100 << 20
        cell.world.run(for: .seconds(4))
        #expect(sizes == [200 << 20, 100 << 20])
        #expect(isError(cell.write(volume, at: 199 << 20, 2, count: 4096), .outOfRange))
        #expect(cell.store.records.values.allSatisfy { $0.fence.size.bytes == 128 << 20 })
    }

    @Test func resizingAnUnattachedVolumeLeavesItUnattached() throws {
        let cell = try FakeCell()
        var outcomes: [String] = []
        let options = AttachOptions(path: "/demo", metadataServers: [FakeCell.mdsAddress], holder: "curve")
        for (size, allow) in [(UInt64(32 << 20), false), (32 << 20, true), (48 << 20, false)] {
            RemoteVolume.resize(
                environment: cell.world.environment("tool"), options: options, to: ByteCount(bytes: size),
                allowShrink: allow
            ) { result in
                if case .failure(let error) = result {
                    outcomes.append("\(error)")
                } else {
                    outcomes.append("\(size >> 20)")
                }
            }
            cell.world.run(for: .seconds(1))
        }
        #expect(outcomes == ["allow the shrink", "32", "48"])
        #expect(cell.holderKey.isEmpty && cell.detachments == 3)
    }

    @Test func detachingFinishesWhatWasAcceptedAndRefusesTheRest() throws {
        let cell = try FakeCell()
        cell.world.latency = .milliseconds(5)
        let volume = try #require(
            { () -> RemoteVolume? in
                var found: RemoteVolume?
                RemoteVolume.attach(
                    environment: cell.world.environment("client"),
                    options: AttachOptions(path: "/demo", metadataServers: [FakeCell.mdsAddress], holder: "x")
                ) { found = try? $0.get() }
                cell.world.run(for: .seconds(1))
                return found
            }())
        var early: VolumeResult?
        volume.submit(
            .write(start: .init(bytes: 0), payloads: [Payload(copying: Array(repeating: 1, count: 4096))])
        ) { early = $0 }
        var isDetached = false
        volume.detach { isDetached = true }
        cell.world.run(for: .seconds(1))
        #expect(isSuccess(early) && isDetached && cell.detachments == 1)
        #expect(isError(cell.write(volume, at: 0, 1, count: 512), .shuttingDown))
        var again = false
        volume.detach { again = true }
        cell.world.settle()
        #expect(again)
    }

    @Test func detachingFromADeadClusterEndsInTime() throws {
        let cell = try FakeCell()
        let volume = try cell.volume()
        cell.store.defaultLeader = nil
        var early: VolumeResult?
        volume.submit(
            .write(start: .init(bytes: 0), payloads: [Payload(copying: Array(repeating: 1, count: 4096))])
        ) { early = $0 }
        var isDetached = false
        volume.detach { isDetached = true }
        cell.world.run(for: .seconds(11))
        #expect(isError(early, .shuttingDown) && isDetached && cell.detachments == 1)
    }

    /// A metadata server that refuses connections is not waited for; one that says nothing is, for 2 s.
    @Test func goodbyeToAMetadataServerThatIsGoneIsShort() throws {
        let cell = try FakeCell()
        let volume = try cell.volume()
        cell.stopMDS()
        cell.world.run(for: .seconds(60))
        var isDetached = false
        volume.detach { isDetached = true }
        cell.world.run(for: .milliseconds(100))
        #expect(isDetached)
        #expect(cell.world.log.contains { $0.contains("the lease runs out by itself") })

        try cell.startMDS()
        let second = try cell.volume()
        cell.mds?.onRequest = { _, _, _ in }
        isDetached = false
        second.detach { isDetached = true }
        cell.world.run(for: .milliseconds(1900))
        #expect(!isDetached)
        cell.world.run(for: .milliseconds(200))
        #expect(isDetached)
    }

    @Test func manyWritersOverBreakingLinksLoseNothing() throws {
        for seed in UInt64(1)...6 {
            let cell = try FakeCell(seed: seed)
            cell.world.latency = .microseconds(100)
            cell.stripeCount = seed % 2 == 0 ? 1 : 4
            let volume = try cell.volume()
            var random = SeededRandom(seed: seed)
            var expected = [UInt8](repeating: 0, count: 256)
            var answered = 0
            for round in 0..<300 {
                let block = Int.random(in: 0..<256, using: &random)
                let byte = UInt8.random(in: 1...255, using: &random)
                expected[block] = byte
                let payload = Payload(copying: Array(repeating: byte, count: 4096))
                volume.submit(.write(start: ByteOffset(bytes: UInt64(block) * 4096), payloads: [payload])) {
                    result in
                    #expect(isSuccess(result), "seed \(seed): \(result)")
                    answered += 1
                }
                if round % 40 == 20 {
                    let server = ServerID(UInt64.random(in: 1...3, using: &random))
                    cell.chunkservers[server]?.stop()
                    cell.store.defaultLeader = ServerID(UInt64.random(in: 1...3, using: &random))
                    cell.world.run(for: .milliseconds(Int.random(in: 0..<400, using: &random)))
                    try cell.chunkservers[server]?.start(port: 7000 + UInt16(server.rawValue))
                }
                if random.oneIn(8) { cell.world.run(for: .milliseconds(1)) }
            }
            cell.world.run(for: .seconds(20))
            #expect(answered == 300, "seed \(seed)")
            for block in 0..<256 {
                let bytes = cell.read(volume, at: UInt64(block) * 4096, count: 4096, wait: .milliseconds(20))
                #expect(
                    bytes?.first == expected[block] && bytes?.last == expected[block],
                    "seed \(seed) block \(block)")
            }
        }
    }
}
