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

/// Starts daemons, waits until each says that it serves, starts again what dies, stops all.
///
/// Everything runs on the main queue. A daemon ends with this process however this one ends.
final class Supervisor: @unchecked Sendable {
    // SAFETY: used only on the main queue.
    private(set) var members: [Member] = []
    private let log: FileHandle
    /// Called when a daemon died and is being started again.
    var died: ((Member, String) -> Void)?
    private var isStopping = false
    static let stopTimeout = 10.0

    /// - Parameter logPath: file that all daemons' standard error goes to.
    init(logPath: String) throws {
        if !FileManager.default.fileExists(atPath: logPath) {
            FileManager.default.createFile(atPath: logPath, contents: nil)
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

    /// Starts the member; `ready` gets the address it announced, or why it did not.
    func start(_ member: Member, ready: @escaping (Result<String, ToolError>) -> Void) {
        if !members.contains(where: { $0 === member }) { members.append(member) }
        var answer: ((Result<String, ToolError>) -> Void)? = ready
        let process = Process()
        process.executableURL = URL(fileURLWithPath: Self.programFolder + "/" + member.program)
        process.arguments = member.arguments(member) + ["--exit-with-parent"]
        process.standardInput = FileHandle.nullDevice
        process.standardError = log
        let output = Pipe()
        process.standardOutput = output
        var unfinished = Data()
        output.fileHandleForReading.readabilityHandler = { handle in
            let data = handle.availableData
            if data.isEmpty { handle.readabilityHandler = nil }
            DispatchQueue.main.async {
                unfinished.append(data)
                while let end = unfinished.firstIndex(of: UInt8(ascii: "\n")) {
                    let line = String(decoding: unfinished[unfinished.startIndex..<end], as: UTF8.self)
                    unfinished = Data(unfinished[unfinished.index(after: end)...])
                    if line.hasPrefix("ready ") {
                        let address = String(line.dropFirst(6))
                        (member.address, member.restartDelay) = (address, Member.restartDelayMin)
                        answer?(.success(address))
                        answer = nil
                    } else {
                        member.lines?(line)
                    }
                }
            }
        }
        process.terminationHandler = { [weak self] process in
            DispatchQueue.main.async {
                let how = Self.words(for: process)
                answer?(.failure(.failed("\(member.name) \(how) before it was ready; see the log")))
                let wasReady = answer == nil
                answer = nil
                if wasReady { self?.ended(member, how: how) }
            }
        }
        do {
            try process.run()
            member.process = process
        } catch {
            answer = nil
            ready(.failure(.failed("cannot start \(member.program): \(error.localizedDescription)")))
        }
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
        stopNext(members.reversed().filter { $0.process?.isRunning == true }[...], done: done)
    }

    private func stopNext(_ rest: ArraySlice<Member>, done: @escaping () -> Void) {
        guard let member = rest.first, let process = member.process else {
            return rest.isEmpty ? done() : stopNext(rest.dropFirst(), done: done)
        }
        member.isWanted = false
        process.terminate()
        let deadline = Date().addingTimeInterval(Self.stopTimeout)
        func wait() {
            if !process.isRunning { return stopNext(rest.dropFirst(), done: done) }
            if Date() > deadline { kill(process.processIdentifier, SIGKILL) }
            DispatchQueue.main.asyncAfter(deadline: .now() + 0.01, execute: wait)
        }
        wait()
    }
}
