import Dispatch
import Foundation
import ToolSupport

/// A daemon that a playground keeps running.
final class Member: @unchecked Sendable {
    // SAFETY: used only on the supervisor's queue, the main one.
    let name: String
    let program: String
    let arguments: (Member) -> [String]
    var process: Process?
    var isWanted = true
    var restartDelay = Member.restartDelayMin
    var address: String?
    var lines: ((String) -> Void)?

    static let restartDelayMin = 0.2
    static let restartDelayMax = 5.0

    init(name: String, program: String, arguments: @escaping (Member) -> [String]) {
        (self.name, self.program, self.arguments) = (name, program, arguments)
    }
}

/// Work of the main queue for the main queue, handed through an interface that takes it for another thread's.
private struct Later: @unchecked Sendable {
    // SAFETY: made and run on the main queue.
    let run: () -> Void
}

/// What waits for the end of a program that runs once.
private final class Answer: @unchecked Sendable {
    // SAFETY: made and used on the main queue; another thread only passes the reference on.
    let give: (ToolError?) -> Void
    init(_ give: @escaping (ToolError?) -> Void) { self.give = give }
}

/// One start of a member: what it says until it is ready, and who waits for that.
private final class Launch: @unchecked Sendable {
    // SAFETY: used only on the main queue.
    private let member: Member
    private var waiting: ((Result<String, ToolError>) -> Void)?
    private var unfinished = Data()
    private(set) var isReady = false

    init(_ member: Member, _ waiting: @escaping (Result<String, ToolError>) -> Void) {
        (self.member, self.waiting) = (member, waiting)
    }
    func answer(_ result: Result<String, ToolError>) {
        waiting?(result)
        waiting = nil
    }
    func took(_ data: Data) {
        unfinished.append(data)
        while let end = unfinished.firstIndex(of: UInt8(ascii: "\n")) {
            let line = String(decoding: unfinished[unfinished.startIndex..<end], as: UTF8.self)
            unfinished = Data(unfinished[unfinished.index(after: end)...])
            guard line.hasPrefix("ready ") else {
                member.lines?(line)
                continue
            }
            isReady = true
            (member.address, member.restartDelay) = (String(line.dropFirst(6)), Member.restartDelayMin)
            answer(.success(String(line.dropFirst(6))))
        }
    }
}

/// Starts daemons, waits until each says that it serves, starts again what dies, stops all.
///
/// Everything runs on the main queue. A daemon ends with this process however this one ends.
final class Supervisor: @unchecked Sendable {
    // SAFETY: used only on the main queue.
    private(set) var members: [Member] = []
    private let log: FileHandle
    private let logPath: String
    /// Called when a daemon died and is being started again.
    var died: ((Member, String) -> Void)?
    /// Called when a daemon that was asked to end did not end well.
    var endedBadly: ((Member, String) -> Void)?
    /// Called with the number of each process that begins, and of each that has ended.
    var processBegan: (Int32) -> Void = { _ in }
    var processEnded: (Int32) -> Void = { _ in }
    private var jobs: [Process] = []
    private var isStopping = false
    static let stopTimeout = 10.0

    /// - Parameter logPath: file that all daemons' standard error goes to.
    init(logPath: String) throws {
        self.logPath = logPath
        if !FileManager.default.fileExists(atPath: logPath),
            !FileManager.default.createFile(atPath: logPath, contents: nil)
        {
            throw ToolError.failed("cannot make the log \(logPath)")
        }
        guard let log = FileHandle(forWritingAtPath: logPath) else {
            throw ToolError.failed("cannot write the log \(logPath)")
        }
        try log.seekToEnd()
        self.log = log
    }

    /// Folder of the programs that belong together with this one.
    static var programFolder: String {
        let own =
            (try? FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/exe"))
            ?? CommandLine.arguments[0]
        return (own as NSString).deletingLastPathComponent
    }

    /// Starts the member; `ready` gets the addresses it announced, or why it did not.
    func start(_ member: Member, ready: @escaping (Result<String, ToolError>) -> Void) {
        guard !isStopping else { return ready(.failure(.failed("the playground stops"))) }
        if !members.contains(where: { $0 === member }) { members.append(member) }
        let launch = Launch(member, ready)
        let process = prepared(member.program, member.arguments(member))
        process.standardError = log
        let logStart = (try? log.seekToEnd()) ?? 0
        let output = Pipe()
        process.standardOutput = output
        // A thread that reads until the end: a dispatch source on a pipe that closes under it brings the
        // whole process down.
        let lines = output.fileHandleForReading
        Thread.detachNewThread {
            while true {
                let data = lines.availableData
                if data.isEmpty { return }
                DispatchQueue.main.async { launch.took(data) }
            }
        }
        process.terminationHandler = { [weak self] process in
            let (how, pid) = (Self.words(for: process), process.processIdentifier)
            DispatchQueue.main.async {
                // Its last words may still wait in the pipe, in front of this in the queue.
                self?.processEnded(pid)
                if launch.isReady { self?.ended(member, how: how) }
                let why = self?.lastWords(of: member.program, since: logStart)
                launch.answer(.failure(.failed("\(member.name): \(why ?? "\(how) before it was ready")")))
            }
        }
        do {
            try process.run()
            member.process = process
            processBegan(process.processIdentifier)
        } catch {
            launch.answer(.failure(.failed("cannot start \(member.program): \(error.localizedDescription)")))
        }
    }

    /// A process of ours that ends with this one, however that ends.
    private func prepared(_ program: String, _ arguments: [String]) -> Process {
        let process = Process()
        process.executableURL = URL(fileURLWithPath: Self.programFolder + "/" + program)
        process.arguments = arguments + ["--exit-with-parent", "--parent-pid", "\(getpid())"]
        process.standardInput = FileHandle.nullDevice
        return process
    }

    /// Runs a program that ends by itself; `done` gets why it failed, if it did.
    func runOnce(
        _ name: String, program: String, arguments: [String], done: @escaping (ToolError?) -> Void
    ) {
        guard !isStopping else { return done(.failed("the playground stops")) }
        let done = Answer(done)
        let process = prepared(program, arguments)
        process.standardOutput = FileHandle.nullDevice
        process.standardError = log
        let logStart = (try? log.seekToEnd()) ?? 0
        process.terminationHandler = { [weak self] process in
            let how = process.terminationStatus == 0 ? nil : Self.words(for: process)
            let pid = process.processIdentifier
            DispatchQueue.main.async {
                self?.processEnded(pid)
                self?.jobs.removeAll { $0.processIdentifier == pid }
                let why = how.map { self?.lastWords(of: program, since: logStart) ?? "\(name) \($0)" }
                done.give(why.map { .failed($0) })
            }
        }
        do {
            try process.run()
            jobs.append(process)
            processBegan(process.processIdentifier)
        } catch { done.give(.failed("cannot start \(program): \(error.localizedDescription)")) }
    }

    /// The last line on its own account that a program wrote to the log after `start`.
    private func lastWords(of program: String, since start: UInt64) -> String? {
        guard let file = FileHandle(forReadingAtPath: logPath) else { return nil }
        defer { try? file.close() }
        guard (try? file.seek(toOffset: start)) != nil, let data = try? file.readToEnd() else { return nil }
        let lines = String(decoding: data, as: UTF8.self).split(separator: "\n")
        let line = lines.last { $0.hasPrefix("\(program): ") }
        return line.map { String($0.dropFirst(program.count + 2)) }
    }

    private static func words(for process: Process) -> String {
        process.terminationReason == .uncaughtSignal
            ? "was ended by signal \(process.terminationStatus)"
            : "ended with status \(process.terminationStatus)"
    }

    private func ended(_ member: Member, how: String) {
        member.process = nil
        guard member.isWanted, !isStopping else { return }
        died?(member, how)
        restart(member)
    }

    private func restart(_ member: Member) {
        DispatchQueue.main.asyncAfter(deadline: .now() + member.restartDelay) { [self] in
            guard member.isWanted, !isStopping, member.process == nil else { return }
            member.restartDelay = min(member.restartDelay * 2, Member.restartDelayMax)
            start(member) { [self] result in
                if case .failure = result {
                    member.process = nil
                    restart(member)
                }
            }
        }
    }

    /// Stops caring about a member that could not be started.
    func forget(_ member: Member) {
        member.isWanted = false
        members.removeAll { $0 === member }
    }

    /// Asks every member to end, newest first; ends the deaf by force; then calls `done`.
    func stopAll(done: @escaping () -> Void) {
        isStopping = true
        for job in jobs { job.terminate() }
        stopNext(members.reversed().filter { $0.process?.isRunning == true }[...], done: done)
    }

    private func stopNext(_ rest: ArraySlice<Member>, done: @escaping () -> Void) {
        guard let member = rest.first else { return done() }
        member.isWanted = false
        guard let process = member.process, process.isRunning else {
            return stopNext(rest.dropFirst(), done: done)
        }
        process.terminate()
        wait(for: member, process, until: Date().addingTimeInterval(Self.stopTimeout)) { [self] in
            stopNext(rest.dropFirst(), done: done)
        }
    }

    private func wait(
        for member: Member, _ process: Process, until deadline: Date?, then next: @escaping () -> Void
    ) {
        guard process.isRunning else {
            let isGood = process.terminationReason == .exit && process.terminationStatus == 0
            if !isGood { endedBadly?(member, Self.words(for: process)) }
            return next()
        }
        var deadline = deadline
        if let end = deadline, Date() > end {
            kill(process.processIdentifier, SIGKILL)
            deadline = nil
        }
        let later = Later { [self] in wait(for: member, process, until: deadline, then: next) }
        DispatchQueue.main.asyncAfter(deadline: .now() + 0.01) { later.run() }
    }
}
