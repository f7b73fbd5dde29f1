import Foundation

/// Runs many seeds in processes of their own: one that stops itself costs its seed, not the others.
final class Campaign: @unchecked Sendable {
    // `lock` guards everything below it; each worker's reader runs on a thread of its own.
    private let options: Options
    private let lock = NSLock()
    private var failureCount = 0
    private var done: UInt64 = 0
    private var answered = 0
    private var undecided = 0
    private var traces: [UInt64: String] = [:]  // Looked up by seed.
    private var tally: [String: Int] = [:]  // Sorted where it is shown.
    /// Memory of the first worker after some seeds, once it has warmed up, and after its last ones.
    private var earlyKiB: [Int] = []
    private var lateKiB: [Int] = []
    private let began = Date()
    /// The least of so many seeds is compared: single seeds may need much for a moment.
    private static let memorySeeds = 20
    /// Seeds after which a worker's pools and tables have the size that they keep.
    private static let warmUpSeeds = 100
    /// What a worker's memory may still grow by. A volume that is never freed costs more.
    private static let memoryGrowthMaxKiB = 512

    init(_ options: Options) { self.options = options }

    /// - Returns: true when every seed was clean.
    func run() -> Bool {
        DispatchQueue.concurrentPerform(iterations: options.jobs) { job in
            self.follow(job, Self.thisProgram)
            // Another process has other hash seeds: an order that depends on them shows.
            if self.options.isTwice {
                self.follow(job, self.options.beside.map { URL(fileURLWithPath: $0) } ?? Self.thisProgram)
            }
        }
        let seconds = Int(Date().timeIntervalSince(began))
        var used = rusage()
        getrusage(__rusage_who_t(RUSAGE_CHILDREN.rawValue), &used)
        let cpuMinutes =
            (Double(used.ru_utime.tv_sec + used.ru_stime.tv_sec)
                + Double(used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6) / 60
        print(
            "\(done) seeds, \(failureCount) failed, \(answered) requests answered, "
                + "\(undecided) block histories undecided, \(seconds) s")
        if options.showsTally { for name in tally.keys.sorted() { print("  \(tally[name] ?? 0) \(name)") } }
        print(
            "memory in use by a worker, least of \(Self.memorySeeds) seeds: \(earlyKiB.min() ?? 0) KiB "
                + "after \(Self.warmUpSeeds), \(lateKiB.min() ?? 0) KiB at last")
        print("\(Int(Double(answered) / max(cpuMinutes, 0.001))) requests per CPU-minute")
        return failureCount == 0 && (!options.demandsFlatMemory || memoryIsFlat)
    }
    private var memoryIsFlat: Bool {
        guard let early = earlyKiB.min(), let late = lateKiB.min() else { return true }
        guard late > early + Self.memoryGrowthMaxKiB else { return true }
        print(
            "the first worker grew by \(late - early) KiB after its first \(Self.warmUpSeeds) seeds")
        return false
    }
    private static var thisProgram: URL {
        URL(fileURLWithPath: "/proc/self/exe").resolvingSymlinksInPath()
    }
    /// Keeps one worker busy with every `jobs`-th seed, and starts a new one after a crash.
    private func follow(_ job: Int, _ program: URL) {
        var next = options.first + UInt64(job)
        let end = options.first + options.seeds
        while next < end {
            let crashed = runWorker(program, job, from: next, to: end)
            guard let crashed else { return }
            next = crashed + UInt64(options.jobs)
        }
    }
    /// - Returns: the seed that ended the process before its time.
    private func runWorker(
        _ program: URL, _ job: Int, from first: UInt64, to end: UInt64
    ) -> UInt64? {
        let process = Process()
        process.executableURL = program
        process.arguments = [
            "--worker", "--first", "\(first)", "--seeds", "\(end - first)", "--stride", "\(options.jobs)",
            "--scenario", options.scenario.rawValue,
        ]
        var environment = ProcessInfo.processInfo.environment
        environment["SWIFT_BACKTRACE"] = "enable=no"
        process.environment = environment
        let (output, errors) = (Pipe(), Pipe())
        process.standardOutput = output
        process.standardError = errors
        do { try process.run() } catch {
            note(first, "the worker cannot be started: \(error)")
            return nil
        }
        var current: UInt64?
        var seeds = 0
        let tail = Tail(errors.fileHandleForReading)
        for line in Lines(output.fileHandleForReading) {
            let words = line.split(separator: " ", maxSplits: 4).map(String.init)
            if words.first == "start", words.count == 2 { current = UInt64(words[1]) }
            if words.first == "memory", words.count == 2 {
                seeds += 1
                if job == 0 { noteMemory(Int(words[1]) ?? 0, afterSeeds: seeds) }
            }
            if words.first == "trace", words.count == 3, let seed = UInt64(words[1]) {
                compare(seed, words[2])
            }
            if words.first == "tally", words.count >= 3 {
                count(words[2...].joined(separator: " "), Int(words[1]) ?? 0)
            }
            if words.first == "end", words.count == 5, let seed = UInt64(words[1]) {
                current = nil
                finished(seed, Int(words[2]) ?? 0, Int(words[3]) ?? 0, words[4])
            }
        }
        process.waitUntilExit()
        let last = tail.lastLine
        guard let current else { return nil }
        note(current, "the process stopped: \(last.isEmpty ? "no word" : last)")
        return current
    }
    private func noteMemory(_ kib: Int, afterSeeds seeds: Int) {
        lock.withLock {
            let isEarly = seeds > Self.warmUpSeeds && earlyKiB.count < Self.memorySeeds
            if isEarly { earlyKiB.append(kib) }
            if lateKiB.count == Self.memorySeeds { lateKiB.removeFirst() }
            lateKiB.append(kib)
        }
    }
    private func compare(_ seed: UInt64, _ trace: String) {
        guard options.isTwice else { return }
        lock.withLock {
            if let first = traces.updateValue(trace, forKey: seed), first != trace {
                report(seed, "a second run of the same seed went another way")
            }
        }
    }
    private func count(_ name: String, _ number: Int) { lock.withLock { tally[name, default: 0] += number } }
    private func finished(_ seed: UInt64, _ answered: Int, _ undecided: Int, _ cause: String) {
        lock.withLock {
            done += 1
            self.answered += answered
            self.undecided += undecided
            if cause != "clean" { report(seed, cause) }
        }
    }
    private func note(_ seed: UInt64, _ cause: String) {
        lock.withLock {
            done += 1
            report(seed, cause)
        }
    }
    /// Said at once: a campaign may be stopped before its end. Called under `lock`.
    private func report(_ seed: UInt64, _ cause: String) {
        failureCount += 1
        let kind = options.scenario == .cluster ? "" : " --scenario \(options.scenario.rawValue)"
        let text = "seed \(seed): \(cause)\n    tools/sim\(kind) --replay \(seed) --trace\n"
        FileHandle.standardOutput.write(Data(text.utf8))
    }
}

/// The lines of a pipe, until it ends.
struct Lines: Sequence, IteratorProtocol {
    private let handle: FileHandle
    private var rest = Data()
    init(_ handle: FileHandle) { self.handle = handle }
    mutating func next() -> String? {
        while true {
            if let end = rest.firstIndex(of: 10) {
                let line = String(decoding: rest[rest.startIndex..<end], as: UTF8.self)
                rest = Data(rest[(end + 1)...])
                return line
            }
            let more = handle.availableData
            if more.isEmpty { return nil }
            rest += more
        }
    }
}

/// Reads a pipe to its end beside others and keeps what it said last.
final class Tail: @unchecked Sendable {
    // `text` is written by the reading thread before `ended` is signalled, and read only afterwards.
    private var text = ""
    private let ended = DispatchSemaphore(value: 0)
    init(_ handle: FileHandle) {
        Thread.detachNewThread { [self] in
            text = String(decoding: handle.readDataToEndOfFile(), as: UTF8.self)
            ended.signal()
        }
    }
    /// Waits for the end.
    var lastLine: String {
        ended.wait()
        defer { ended.signal() }
        return text.split(separator: "\n").last.map(String.init) ?? ""
    }
}
