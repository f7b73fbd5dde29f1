import BlockTypes
import Reactor
import Testing

@testable import CurveClient

/// The public face, on a real loop over loopback.
@Suite struct VolumeTests {
    /// A cell on a thread of its own.
    private final class Cell: @unchecked Sendable {
        // SAFETY: written on the loop before the address is told, then used there only.
        var cell: FakeCell?
    }
    private static func withCell(
        prepare: @escaping @Sendable (FakeCell) -> Void = { _ in }, _ body: (String) async throws -> Void
    ) async throws {
        let holder = Cell()
        let thread = try ReactorThread(name: "cell")
        defer {
            thread.stop()
            thread.join()
        }
        let address: String = await withCheckedContinuation { continuation in
            let isPosted = thread.post { reactor in
                holder.cell = try? FakeCell(on: reactor)
                holder.cell.map(prepare)
                continuation.resume(returning: holder.cell.map { "\($0.mdsAddress)" } ?? "")
            }
            precondition(isPosted)
        }
        try await body(address)
    }

    @Test func aProgramOpensWritesReadsAndCloses() async throws {
        try await Self.withCell { address in
            let cluster = try await CurveCluster.connect(mds: [address])
            let volume = try await cluster.open("/demo")
            #expect(try await volume.sizeBytes == 64 << 20)
            try await volume.write(at: 512, [UInt8](repeating: 7, count: 1 << 20))
            try await volume.flush()
            #expect(
                try await volume.read(at: 512, byteCount: 1 << 20) == [UInt8](repeating: 7, count: 1 << 20))
            try await volume.writeZeroes(at: 4096, byteCount: 4096)
            try await volume.trim(at: 8192, byteCount: 4096)
            let parts = [BlockBuffer(byteCount: 4096), BlockBuffer(byteCount: 4096)].map {
                Payload($0, byteCount: 3072)
            }
            try await volume.read(at: 2048, into: parts)
            #expect(parts[0].array == Array(repeating: 7, count: 2048) + Array(repeating: 0, count: 1024))
            #expect(parts[1].array == Array(repeating: 0, count: 3072))
            try await volume.write(at: 0, parts)
            #expect(
                try await volume.read(at: 0, byteCount: 4096) == parts[0].array
                    + [UInt8](repeating: 0, count: 1024))
            #expect(await volume.status?.counters.writes == 2)
            try await volume.resize(toBytes: 128 << 20)
            #expect(try await volume.sizeBytes == 128 << 20)
            await volume.close()
            await volume.close()
            await #expect(throws: CurveError.self) { try await volume.flush() }
            await cluster.close()
        }
    }

    @Test func manyTasksShareAVolume() async throws {
        try await Self.withCell { address in
            let cluster = try await CurveCluster.connect(mds: [address])
            let volume = try await cluster.open("/demo")
            try await withThrowingTaskGroup(of: Void.self) { group in
                for task in 0..<32 {
                    group.addTask {
                        for round in 0..<20 {
                            let block = UInt64(task * 20 + round) * 4096
                            try await volume.write(at: block, [UInt8](repeating: UInt8(task), count: 4096))
                            let bytes = try await volume.read(at: block, byteCount: 4096)
                            #expect(bytes == [UInt8](repeating: UInt8(task), count: 4096))
                        }
                    }
                }
                try await group.waitForAll()
            }
            await cluster.close()
            await #expect(throws: CurveError.self) { try await volume.read(at: 0, byteCount: 512) }
        }
    }

    @Test func errorsSayWhatHappened() async throws {
        await #expect(throws: CurveError.self) { try await CurveCluster.connect(mds: ["nonsense"]) }
        await #expect(throws: CurveError.self) { try await CurveCluster.connect(mds: []) }
        try await Self.withCell { address in
            let cluster = try await CurveCluster.connect(mds: [address])
            do throws(CurveError) {
                _ = try await cluster.open("/nowhere")
                Issue.record("opened nothing")
            } catch {
                #expect(error.code == .notFound && error.message.contains("/nowhere"))
            }
            let volume = try await cluster.open("/demo", isReadOnly: true)
            let expected: [(CurveError.Code, @Sendable () async throws(CurveError) -> Void)] = [
                (
                    .readOnly,
                    { () throws(CurveError) in
                        try await volume.write(at: 0, [UInt8](repeating: 1, count: 512))
                    }
                ),
                (.outOfRange, { () throws(CurveError) in _ = try await volume.read(at: 0, byteCount: -512) }),
                (
                    .outOfRange,
                    { () throws(CurveError) in _ = try await volume.read(at: .max - 511, byteCount: 100 << 20)
                    }
                ),
                (.held, { () throws(CurveError) in _ = try await cluster.open("/demo") }),
            ]
            for (code, action) in expected {
                do throws(CurveError) {
                    try await action()
                    Issue.record("no \(code)")
                } catch { #expect(error.code == code) }
            }
            await cluster.close()
        }
    }

    @Test func aVolumeThatIsLetGoIsDetached() async throws {
        try await Self.withCell { address in
            let cluster = try await CurveCluster.connect(mds: [address])
            do { _ = try await cluster.open("/demo") }
            var isOpen = false
            for _ in 0..<100 where !isOpen {
                isOpen = (try? await cluster.open("/demo")) != nil
            }
            #expect(isOpen)
            await cluster.close()
        }
    }

    /// What is under way when the client's thread ends is answered all the same.
    @Test(.timeLimit(.minutes(1)), arguments: [false, true])
    func callsBesideTheClusterCloseEnd(closesVolume: Bool) async throws {
        try await Self.withCell { address in
            for _ in 0..<20 {
                let cluster = try await CurveCluster.connect(mds: [address])
                let volume = try await cluster.open("/demo", takeOver: true)
                await withTaskGroup(of: Void.self) { group in
                    for task in 0..<16 {
                        group.addTask {
                            let block = UInt64(task) * 4096
                            while (try? await volume.read(at: block, byteCount: 4096)) != nil {}
                            for _ in 0..<50 {
                                await #expect(throws: CurveError.self) { try await volume.flush() }
                            }
                        }
                    }
                    if closesVolume { group.addTask { await volume.close() } }
                    for _ in 0..<2 { group.addTask { await cluster.close() } }
                }
            }
        }
    }

    @Test(.timeLimit(.minutes(1))) func anAttachmentUnderWayEndsWithTheCluster() async throws {
        let (asked, askedNow) = AsyncStream.makeStream(of: Void.self)
        try await Self.withCell(
            prepare: {
                $0.notReadyCount = .max
                $0.saidNotReady = { askedNow.yield() }
            },
            { address in
                let cluster = try await CurveCluster.connect(mds: [address])
                async let failure: CurveError? = {
                    do throws(CurveError) {
                        _ = try await cluster.open("/demo")
                        return nil
                    } catch { return error }
                }()
                for await _ in asked { break }
                await cluster.close()
                #expect(await failure?.code == .closed)
            })
    }
}
