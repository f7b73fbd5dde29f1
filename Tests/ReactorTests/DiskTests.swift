import BlockTypes
import Environment
import Glibc
import Testing

@testable import Reactor

@Suite("Disks") struct DiskTests {
    @Test("bytes written by many payloads come back by many reads, in any cut")
    func writeAndRead() throws {
        try withDisk(bytes: 8 << 20) { reactor, disk in
            let data = noisePayload(3 << 20, seed: 1)
            var pieces: [Payload] = []
            var random = SeededRandom(seed: 2)
            var start = 0
            while start < data.byteCount {
                let count = min(4096 * Int.random(in: 1...3, using: &random), data.byteCount - start)
                pieces.append(data.slice(start, count))
                start += count
            }
            let whole = Payload(BlockBuffer(byteCount: data.byteCount), byteCount: data.byteCount)
            Script(reactor, disk).run([
                .init([.write(token(1), at: ByteOffset(bytes: 4096), pieces)]),
                .init([.flush(token(2))]),
                .init(
                    (0..<768).map {
                        .read(
                            token(UInt64(100 + $0)), at: ByteOffset(bytes: UInt64(4096 + 4096 * $0)),
                            into: whole.slice(4096 * $0, 4096))
                    }),
            ]) {
                #expect(whole.array == data.array)
                disk.close()
                reactor.stop()
            }
        }
    }

    @Test("interrupted, refused and short calls change nothing, wherever they hit", arguments: 1...24)
    func faults(callNumber: Int) throws {
        try withDisk(bytes: 1 << 20) { reactor, disk in
            let data = noisePayload(64 << 10, seed: 3)
            let back = Payload(BlockBuffer(byteCount: data.byteCount), byteCount: data.byteCount)
            var call = 0
            var random = SeededRandom(seed: UInt64(callNumber))
            reactor.faults = CallFaults { _ in
                call += 1
                guard call % callNumber == 0 || (callNumber == 1 && call % 2 == 0) else { return nil }
                switch Int.random(in: 0..<3, using: &random) {
                case 0: return callNumber == 1 ? nil : .fail(EINTR)
                case 1: return callNumber == 1 ? nil : .fail(EAGAIN)
                default: return .short(4096 * Int.random(in: 1...3, using: &random))
                }
            }
            let pieces = (0..<16).map { data.slice(4096 * $0, 4096) }
            Script(reactor, disk).run([
                .init([.write(token(1), at: ByteOffset(bytes: 8192), pieces)]),
                .init([.flush(token(2))]),
                .init([.read(token(3), at: ByteOffset(bytes: 8192), into: back)]),
            ]) {
                #expect(back.array == data.array)
                disk.close()
                reactor.stop()
            }
        }
    }

    @Test("a device that answers with an error: the store hears which, once, and may go on")
    func errors() throws {
        try withDisk(bytes: 1 << 20) { reactor, disk in
            let block = noisePayload(4096, seed: 4)
            var errnos: [SystemCall: Int32] = [.write: ENOSPC, .flush: EIO, .read: EIO, .discard: EOPNOTSUPP]
            reactor.faults = CallFaults { errnos[$0].map { .fail($0) } }
            Script(reactor, disk).run([
                .init([.write(token(1), at: .start, [block])], [.failure(.full)]),
                .init([.flush(token(2))], [.failure(.io(errno: EIO))]),
                .init([.read(token(3), at: .start, into: block)], [.failure(.io(errno: EIO))]),
                .init([.discard(token(4), at: .start, ByteCount(bytes: 4096))]),
            ]) {
                errnos = [.write: EDQUOT]
                Script(reactor, disk).run([
                    .init([.write(token(5), at: .start, [block])], [.failure(.full)])
                ]) {
                    errnos = [.read: EINTR]
                    Script(reactor, disk).run([
                        .init([.read(token(6), at: .start, into: block)], [.failure(.io(errno: EINTR))])
                    ]) {
                        errnos = [:]
                        Script(reactor, disk).run([.init([.write(token(7), at: .start, [block])])]) {
                            disk.close()
                            reactor.stop()
                        }
                    }
                }
            }
        }
    }

    @Test("a read past the end says how much there was")
    func readPastEnd() throws {
        try withDisk(bytes: 1 << 20) { reactor, disk in
            let buffer = Payload(BlockBuffer(byteCount: 64 << 10), byteCount: 64 << 10)
            let lastBlock = ByteOffset(bytes: (1 << 20) - 4096)
            Script(reactor, disk).run([
                .init([.read(token(1), at: lastBlock, into: buffer)], [.failure(.short(got: 4096))]),
                .init(
                    [.read(token(2), at: ByteOffset(bytes: 1 << 21), into: buffer)],
                    [.failure(.short(got: 0))]),
            ]) {
                disk.close()
                reactor.stop()
            }
        }
    }

    @Test("a file that ends inside a sector offers its whole sectors, and reads report the torn one")
    func tornFile() throws {
        try withFolder { folder in
            let file = open("\(folder)/d", O_CREAT | O_RDWR, 0o600)
            #expect(ftruncate(file, 8192 + 100) == 0)
            close(file)
            try onLoop { reactor in
                let disk = try ReactorDisk.open(reactor, path: "\(folder)/d")
                #expect(disk.geometry.size == ByteCount(bytes: 8192))
                let buffer = Payload(BlockBuffer(byteCount: 16384), byteCount: 16384)
                Script(reactor, disk).run([
                    .init([.read(token(1), at: .start, into: buffer)], [.failure(.short(got: 8192 + 100))])
                ]) {
                    disk.close()
                    reactor.stop()
                }
            }
        }
    }

    @Test("discarded space reads as zeroes on a file, and its neighbours stay")
    func discard() throws {
        try withDisk(bytes: 1 << 20) { reactor, disk in
            let data = noisePayload(12288, seed: 5)
            let back = Payload(BlockBuffer(byteCount: 12288), byteCount: 12288)
            Script(reactor, disk).run([
                .init([.write(token(1), at: .start, [data])]),
                .init([.discard(token(2), at: ByteOffset(bytes: 4096), ByteCount(bytes: 4096))]),
                .init([.read(token(3), at: .start, into: back)]),
            ]) {
                let expected = data.array
                #expect(Array(back.array[..<4096]) == Array(expected[..<4096]))
                #expect(Array(back.array[4096..<8192]) == [UInt8](repeating: 0, count: 4096))
                #expect(Array(back.array[8192...]) == Array(expected[8192...]))
                disk.close()
                reactor.stop()
            }
        }
    }

    @Test("more requests than fit in flight all complete, none from inside submit")
    func queueing() throws {
        var limits = ReactorLimits()
        limits.diskRequestsInFlightMax = 4
        try withDisk(bytes: 4 << 20, limits: limits) { reactor, disk in
            let data = noisePayload(4096, seed: 6)
            var isSubmitting = true
            var completed: Set<DiskToken> = []
            disk.completed = { token, result in
                #expect(!isSubmitting)
                if case .failure(let error) = result { Issue.record("\(error)") }
                let isNew = completed.insert(token).inserted
                #expect(isNew)
                guard completed.count == 500 else { return }
                disk.close()
                reactor.stop()
            }
            for number in 0..<500 {
                disk.submit(
                    .write(
                        token(UInt64(number)), at: ByteOffset(bytes: UInt64(number % 1024 * 4096)), [data]))
            }
            isSubmitting = false
        }
    }

    @Test("a second owner is refused and told who the first one is; readers share")
    func locks() throws {
        try withFolder { folder in
            let path = "\(folder)/d"
            try ReactorDisk.create(path: path, size: ByteCount(bytes: 1 << 20), provisioning: .lazy)
            try onLoop { reactor in
                let first = try ReactorDisk.open(reactor, path: path)
                for mode in [DiskMode.readWrite, .readOnly] {
                    let error = #expect(throws: DiskOpenError.self) {
                        _ = try ReactorDisk.open(reactor, path: path, mode: mode)
                    }
                    guard case .busy(path, let holder) = error else {
                        Issue.record("\(String(describing: error))")
                        continue
                    }
                    // Layered file systems show another device in /proc/locks than in stat.
                    #expect(holder.contains("process \(getpid()) (") || holder == "another process")
                }
                first.close()
                let readers = try (0..<2).map { _ in
                    try ReactorDisk.open(reactor, path: path, mode: .readOnly)
                }
                #expect(throws: DiskOpenError.self) { _ = try ReactorDisk.open(reactor, path: path) }
                for reader in readers { reader.close() }
                try ReactorDisk.open(reactor, path: path).close()
                reactor.stop()
            }
        }
    }

    @Test("what cannot be a disk is refused with the reason")
    func notDisks() throws {
        try withFolder { folder in
            try onLoop { reactor in
                let missing = "\(folder)/missing"
                #expect(throws: DiskOpenError.notFound(path: missing)) {
                    _ = try ReactorDisk.open(reactor, path: missing)
                }
                for path in [folder, "/dev/null"] {
                    #expect(throws: DiskOpenError.notADisk(path: path)) {
                        _ = try ReactorDisk.open(reactor, path: path)
                    }
                }
                let plain = "\(folder)/plain"
                try ReactorDisk.create(path: plain, size: ByteCount(bytes: 4096), provisioning: .lazy)
                reactor.faults = CallFaults { $0 == .open ? .fail(EACCES) : nil }
                #expect(throws: DiskOpenError.notPermitted(path: plain)) {
                    _ = try ReactorDisk.open(reactor, path: plain)
                }
                reactor.stop()
            }
        }
    }

    @Test("a new file has its size and, when asked for, all its space", arguments: [false, true])
    func create(isPrewritten: Bool) throws {
        try withFolder { folder in
            let (path, size) = ("\(folder)/d", ByteCount(bytes: 9 << 20))
            var steps: [UInt64] = []
            try ReactorDisk.create(
                path: path, size: size, provisioning: isPrewritten ? .prewritten : .lazy,
                progress: { steps.append($0.bytes) })
            var about = stat()
            #expect(stat(path, &about) == 0 && about.st_size == 9 << 20)
            #expect((about.st_blocks * 512 >= 9 << 20) == isPrewritten)
            #expect(about.st_mode & 0o777 == 0o600)
            if isPrewritten {
                #expect(steps == steps.sorted() && steps.last == size.bytes && steps.count >= 2)
            }
            #expect(throws: DiskOpenError.exists(path: path)) {
                try ReactorDisk.create(path: path, size: size, provisioning: .lazy)
            }
        }
    }

    @Test("creation survives short and interrupted writes, and leaves nothing behind when it fails")
    func createWithFaults() throws {
        try withFolder { folder in
            let (path, size) = ("\(folder)/d", ByteCount(bytes: 2 << 20))
            var call = 0
            let annoying = CallFaults { what in
                guard what == .write else { return nil }
                call += 1
                return call % 3 == 0 ? .fail(EINTR) : .short(256 << 10)
            }
            try ReactorDisk.create(path, size, .prewritten, { _ in }, faults: annoying)
            unlink(path)
            let failures: [(SystemCall, Int32, DiskOpenError)] = [
                (.allocate, ENOSPC, .full(path: path, wanted: size)),
                (.write, ENOSPC, .full(path: path, wanted: size)),
                (.write, EIO, .system(path: path, errno: EIO, call: "write")),
                (.flush, EIO, .system(path: path, errno: EIO, call: "fsync")),
            ]
            for (failing, errno, expected) in failures {
                #expect(throws: expected) {
                    try ReactorDisk.create(
                        path, size, .prewritten, { _ in },
                        faults: CallFaults { $0 == failing ? .fail(errno) : nil })
                }
                #expect(FileIdentity(path: path) == nil)
            }
        }
    }

    @Test("the size and the owner of a lock are read as the kernel writes them")
    func queueFiles() throws {
        try withFolder { folder in
            // The directory of a device and the one of its disk, as /sys links them.
            let root = "\(folder)"
            func write(_ name: String, _ text: String) {
                let file = open("\(root)/\(name)", O_CREAT | O_TRUNC | O_RDWR, 0o600)
                _ = Glibc.write(file, text, text.utf8.count)
                close(file)
            }
            #expect(BlockDeviceQueue(0x0801, root: root).hasVolatileCache, "not knowing means yes")
            #expect(!BlockDeviceQueue(0x0801, root: root).canDiscard)
            write("write_cache", "write through\n")
            write("discard_max_bytes", "4096\n")
            #expect(!BlockDeviceQueue(directory: root).hasVolatileCache)
            #expect(BlockDeviceQueue(directory: root).canDiscard)
            write("write_cache", "write back\n")
            write("discard_max_bytes", "0\n")
            #expect(BlockDeviceQueue(directory: root).hasVolatileCache)
            #expect(!BlockDeviceQueue(directory: root).canDiscard)
            var about = stat()
            about.st_dev = 0xfe00
            about.st_ino = 4711
            let locks =
                "1: POSIX  ADVISORY  WRITE 11 fe:00:4711 0 EOF\n2: FLOCK  ADVISORY  WRITE 999999999 fe:00:4711 0 EOF"
            #expect(DiskHolder.ofLock(on: about, locks: locks) == "process 999999999 (unknown)")
            #expect(DiskHolder.ofLock(on: about, locks: "") == "another process")
        }
    }

    @Test(
        "a block device: claimed alone, written, flushed, discarded; a mount or another owner keeps us out",
        .enabled(
            if: getenv("CURVE_TEST_BLOCK_DEVICE") != nil, "CURVE_TEST_BLOCK_DEVICE names no scratch device"))
    func blockDevice() throws {
        let path = try #require(getenv("CURVE_TEST_BLOCK_DEVICE").map { String(cString: $0) })
        try onLoop { reactor in
            let disk = try ReactorDisk.open(reactor, path: path)
            #expect(disk.geometry.size.bytes > 1 << 20)
            let error = #expect(throws: DiskOpenError.self) { _ = try ReactorDisk.open(reactor, path: path) }
            #expect("\(String(describing: error))".contains(path))
            let data = noisePayload(12288, seed: 5)
            let back = Payload(BlockBuffer(byteCount: 12288), byteCount: 12288)
            let end = ByteOffset(bytes: disk.geometry.size.bytes - 4096)
            Script(reactor, disk).run([
                .init([.write(token(1), at: .start, [data])]),
                .init([.flush(token(2))]),
                .init([.discard(token(3), at: ByteOffset(bytes: 8192), ByteCount(bytes: 4096))]),
                .init([.read(token(4), at: .start, into: back)]),
                .init([.read(token(5), at: end, into: back.slice(8192, 4096))]),
            ]) {
                #expect(Array(back.array[..<8192]) == Array(data.array[..<8192]))
                disk.close()
                reactor.stop()
            }
        }
    }

    @Test("misaligned requests are our own mistake and stop the process")
    func misaligned() async {
        await #expect(processExitsWith: .failure) {
            try withDisk(bytes: 1 << 20) { _, disk in
                disk.submit(.write(token(1), at: ByteOffset(bytes: 1), [noisePayload(4096, seed: 1)]))
            }
        }
    }
}

private func token(_ number: UInt64) -> DiskToken { DiskToken(rawValue: number) }
extension ByteOffset { fileprivate static let start = ByteOffset(bytes: 0) }

private func withDisk(
    bytes: UInt64, limits: ReactorLimits = ReactorLimits(), _ story: (Reactor, ReactorDisk) throws -> Void
) throws {
    try withFolder { folder in
        let path = "\(folder)/disk"
        try ReactorDisk.create(path: path, size: ByteCount(bytes: bytes), provisioning: .lazy)
        try onLoop(limits: limits) { reactor in
            let disk = try ReactorDisk.open(reactor, path: path)
            #expect(disk.geometry.size.bytes == bytes)
            #expect([512, 4096].contains(disk.geometry.sectorBytes))
            #expect(disk.geometry.hasVolatileCache, "a file's space is metadata until a flush")
            try story(reactor, disk)
        }
    }
}

/// Submits step after step; each step's requests run at once and must end as said.
private final class Script {
    struct Step {
        let requests: [DiskRequest]
        let outcomes: [Result<Void, DiskError>]
        init(_ requests: [DiskRequest], _ outcomes: [Result<Void, DiskError>]? = nil) {
            self.requests = requests
            self.outcomes = outcomes ?? requests.map { _ in .success(()) }
        }
    }
    private let reactor: Reactor
    private let disk: ReactorDisk
    init(_ reactor: Reactor, _ disk: ReactorDisk) { (self.reactor, self.disk) = (reactor, disk) }

    func run(_ steps: [Step], then done: @escaping () -> Void) {
        guard let step = steps.first else { return done() }
        var open: [DiskToken: Result<Void, DiskError>] = [:]
        for (request, outcome) in zip(step.requests, step.outcomes) { open[request.token] = outcome }
        var isSubmitting = true
        disk.completed = { [self] token, result in
            #expect(!isSubmitting)
            guard let expected = open.removeValue(forKey: token) else {
                Issue.record("\(token) completed twice")
                return
            }
            #expect(Self.error(result) == Self.error(expected), "\(token)")
            if open.isEmpty { run(Array(steps.dropFirst()), then: done) }
        }
        for request in step.requests { disk.submit(request) }
        isSubmitting = false
    }
    private static func error(_ result: Result<Void, DiskError>) -> DiskError? {
        if case .failure(let error) = result { error } else { nil }
    }
}
