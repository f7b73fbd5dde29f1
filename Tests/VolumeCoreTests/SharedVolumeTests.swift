import BlockTypes
import Testing

@testable import VolumeCore

/// What a member of a group does otherwise than one that has its volume alone, and comparisons.
@Suite struct SharedVolumeTests {
    /// A core, what it sends, and what it answers.
    private struct Bench {
        var core: VolumeCore
        var sent: [(id: AttemptID, command: BlockCommand)] = []
        var results: [Int: VolumeResult] = [:]
        var regrouped: [Epoch] = []
        var sizes: [ByteCount] = []

        init(group: [Epoch] = [Epoch(2), Epoch(3)], size: ByteCount = .init(bytes: 64 << 20)) throws {
            let copysets = (1...4).map {
                CopysetMembers(id: CopysetID($0), members: [ServerID(1), ServerID(2), ServerID(3)])
            }
            core = try VolumeCore(
                VolumeCore.Configuration(
                    volume: VolumeID(1), size: size,
                    stripes: try #require(StripeMap(stripeUnitBytes: 65536, stripeCount: 4)),
                    copysets: copysets, epoch: Epoch(3), change: 1, group: group, seed: 1),
                pool: BufferPool())
            feed(.start)
            while !sent.isEmpty { answer() }
        }
        mutating func feed(_ event: VolumeCore.Event) {
            var effects: [VolumeCore.Effect] = []
            core.step(event, now: .zero, effects: &effects)
            for effect in effects {
                switch effect {
                case .send(let id, _, _, let command): sent.append((id, command))
                case .complete(let token, let result): results[token] = result
                case .regrouped(let epoch): regrouped.append(epoch)
                case .resized(let size): sizes.append(size)
                case .wakeAfter, .attached, .lost, .closed: break
                }
            }
        }
        mutating func answer(_ answer: BlockAnswer = .done([])) {
            feed(.answered(sent.removeFirst().id, answer))
        }
        mutating func compare(at start: UInt64, _ expected: [UInt8], _ new: [UInt8], token: Int = 1) {
            feed(
                .submit(
                    token: token,
                    .compareAndWrite(
                        start: ByteOffset(bytes: start), expected: [Payload(copying: expected)],
                        new: [Payload(copying: new)])))
        }
    }

    @Test("an edge is sent as it is: the leader patches, since others write to the block as well")
    func edges() throws {
        var bench = try Bench()
        let bytes = [UInt8](repeating: 7, count: 5120)
        bench.feed(
            .submit(token: 1, .write(start: ByteOffset(bytes: 3584), payloads: [Payload(copying: bytes)])))
        #expect(bench.sent.count == 3)
        guard case .amend(let run, let range, _, let tag, let checksums, let payload) = bench.sent[0].command
        else {
            Issue.record("\(bench.sent[0].command)")
            return
        }
        #expect(run.firstBlock == 0 && run.blockCount == 1 && range == 3584..<4096)
        #expect(tag.session == Epoch(3) && checksums == CRC32C.perBlock(of: payload))
        #expect(payload.slice(3584, 512).array == Array(bytes[..<512]))
        for _ in 0..<3 { bench.answer() }
        #expect(bench.results.count == 1)
        // A trim's edges are zeroed by the leader as well.
        bench.feed(.submit(token: 2, .trim(start: ByteOffset(bytes: 512), length: ByteCount(bytes: 512))))
        guard case .amend(_, 512..<1024, _, _, _, let zeroes) = bench.sent[0].command else {
            Issue.record("\(bench.sent[0].command)")
            return
        }
        #expect(zeroes.array.allSatisfy { $0 == 0 } && zeroes.byteCount == 4096)
    }

    @Test("a comparison carries new and expected bytes, and two numbers")
    func comparing() throws {
        var bench = try Bench(group: [])
        let (old, new) = ([UInt8](repeating: 1, count: 1024), [UInt8](repeating: 2, count: 1024))
        bench.compare(at: 65536 + 3584, old, new)
        guard case .amend(let run, let range, _, let tag, let checksums, let payload) = bench.sent[0].command
        else {
            Issue.record("\(bench.sent[0].command)")
            return
        }
        #expect(run.firstBlock == 0 && run.blockCount == 2 && range == 3584..<4608)
        #expect(tag.sequence == 2 && checksums.count == 4)
        #expect(payload.slice(3584, 1024).array == new && payload.slice(8192 + 3584, 1024).array == old)
        bench.answer(.miscompare(atByte: 3584 + 600))
        guard case .failure(.miscompare(atByte: 600)) = bench.results[1] else {
            Issue.record("\(bench.results)")
            return
        }
        #expect(bench.core.subRequestsInFlight == 0)
    }

    @Test("a difference that nobody remembers the place of is looked for anew, under new numbers")
    func forgotten() throws {
        var bench = try Bench()
        bench.compare(at: 0, [UInt8](repeating: 1, count: 512), [UInt8](repeating: 2, count: 512))
        let first = bench.sent[0].id
        bench.answer(.miscompare(atByte: nil))
        guard case .amend(_, _, _, let tag, _, _) = bench.sent[0].command else {
            Issue.record("\(bench.sent[0].command)")
            return
        }
        #expect(tag.sequence == 4 && bench.results.isEmpty)
        // What an answer to the first attempt says counts no more.
        bench.feed(.answered(first, .miscompare(atByte: 3)))
        #expect(bench.results.isEmpty)
        bench.answer()
        guard case .success = bench.results[1] else {
            Issue.record("\(bench.results)")
            return
        }
    }

    @Test(
        "a comparison that one leader cannot do in one step is refused",
        arguments: [
            (0, 512, 1024), (65536 - 512, 1024, 1024), (0, 256 * 512, 256 * 512), (64 << 20, 512, 512),
        ])
    func refusals(start: Int, expected: Int, new: Int) throws {
        var bench = try Bench()
        bench.compare(
            at: UInt64(start), [UInt8](repeating: 0, count: expected), [UInt8](repeating: 0, count: new))
        guard case .failure(.outOfRange) = bench.results[1] else {
            Issue.record("\(bench.results)")
            return
        }
        #expect(bench.sent.isEmpty)
    }

    @Test("a new membership is announced to every copyset before it counts")
    func regrouping() throws {
        var bench = try Bench()
        let size = ByteCount(bytes: 64 << 20)
        bench.feed(.regroup(Epoch(5), change: 4, group: [Epoch(3)], size: size))
        #expect(bench.sent.count == 4 && bench.regrouped.isEmpty)
        for (_, command) in bench.sent {
            guard case .fence(_, let fence) = command else {
                Issue.record("\(command)")
                return
            }
            #expect(fence.epoch == Epoch(5) && fence.group == [Epoch(3)] && fence.change == 4)
        }
        // I/O goes on meanwhile, under the attachment's own number.
        bench.feed(.submit(token: 1, .read(start: ByteOffset(bytes: 0), byteCount: 4096)))
        #expect(bench.sent.count == 5 && bench.core.announcedEpoch == Epoch(0))
        for _ in 0..<4 { bench.answer() }
        #expect(bench.regrouped == [Epoch(5)] && bench.core.announcedEpoch == Epoch(5))
        // Old news, or news of a group that it is no member of, change nothing.
        bench.feed(.regroup(Epoch(4), change: 3, group: [Epoch(3), Epoch(4)], size: size))
        bench.feed(.regroup(Epoch(6), change: 5, group: [Epoch(6)], size: size))
        #expect(bench.sent.count == 1 && bench.sizes.isEmpty)
    }

    @Test("a group's volume grows with a generation: nothing is trimmed, and nobody writes there before")
    func growing() throws {
        var bench = try Bench(size: ByteCount(bytes: 16 << 20))
        let (size, group) = (ByteCount(bytes: 80 << 20), [Epoch(2), Epoch(3), Epoch(6)])
        bench.feed(.regroup(Epoch(7), change: 9, group: group, size: size))
        #expect(bench.core.isResizing)
        bench.feed(
            .submit(token: 1, .trim(start: ByteOffset(bytes: 64 << 20), length: ByteCount(bytes: 4096))))
        guard case .failure(.outOfRange) = bench.results[1] else {
            Issue.record("\(bench.results)")
            return
        }
        #expect(bench.sent.count == 4)
        while let next = bench.sent.first {
            guard case .fence(_, let fence) = next.command else {
                Issue.record("\(next.command)")
                return
            }
            let wanted = VolumeFence(
                epoch: Epoch(7), size: ByteCount(bytes: 128 << 20), change: 9, group: group)
            #expect(fence == wanted && bench.sizes.isEmpty)
            bench.answer()
        }
        #expect(bench.sizes == [size] && bench.regrouped == [Epoch(7)] && !bench.core.isResizing)
        bench.feed(
            .submit(token: 2, .trim(start: ByteOffset(bytes: 64 << 20), length: ByteCount(bytes: 4096))))
        #expect(bench.sent.count == 1)
        // It never shrinks, whatever is said, and takes no size that cannot be.
        for (epoch, bytes) in [(Epoch(8), UInt64(16 << 20)), (Epoch(9), 4097), (Epoch(10), .max - 4095)] {
            bench.feed(.regroup(epoch, change: 20, group: group, size: ByteCount(bytes: bytes)))
            while !bench.sent.isEmpty { bench.answer() }
        }
        #expect(bench.sizes == [size] && bench.regrouped.last == Epoch(10))
    }
}
