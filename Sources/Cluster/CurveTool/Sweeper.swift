import ArgumentParser
import Foundation
import ToolSupport

/// Sees to it that nothing stays of a throw-away playground, not even when its process is killed.
///
/// It starts a process that outlives this one, tells it over a pipe what the playground starts, and lets it
/// find out by the pipe's end that the playground is gone.
final class Sweeper {
    private let process = Process()
    private let orders: FileHandle

    /// - Parameter folder: removed in the end, with what the playground has put there.
    init(folder: PlaygroundFolder) throws {
        let pipe = Pipe()
        orders = pipe.fileHandleForWriting
        process.executableURL = URL(fileURLWithPath: Supervisor.programFolder + "/curve")
        process.arguments = ["playground", "sweep", folder.path]
        process.standardInput = pipe
        // Whoever reads what the command prints must not wait for the sweeper.
        (process.standardOutput, process.standardError) = (FileHandle.nullDevice, FileHandle.nullDevice)
        do { try process.run() } catch {
            throw ToolError.failed("cannot start the sweeper: \(error.localizedDescription)")
        }
        try? pipe.fileHandleForReading.close()
    }
    /// A process that must not outlive the playground.
    func began(_ pid: Int32) { send("+\(pid)\n") }
    /// It has ended; its number may soon be another's.
    func ended(_ pid: Int32) { send("-\(pid)\n") }

    /// Sweeps now; returns when nothing is left.
    func finish() {
        try? orders.close()
        process.waitUntilExit()
    }
    /// A dead sweeper is no reason to stop.
    private func send(_ order: String) { try? orders.write(contentsOf: Data(order.utf8)) }
}

/// The sweeper's own process.
struct PlaygroundSweep: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "sweep", abstract: "Clear up after a throw-away playground.", shouldDisplay: false)
    @Argument(help: "Folder of the playground.") var folder: String
    private static let endPatience = 10.0
    private static let napMicroseconds: UInt32 = 10_000

    func run() throws {
        setsid()  // Signals of the terminal are for the playground.
        for number in [SIGINT, SIGTERM, SIGHUP] { signal(number, SIG_IGN) }
        var left: [RunningProcess] = []
        while let order = readLine() {
            guard let pid = Int32(order.dropFirst()), pid > 1 else { continue }
            left.removeAll { $0.pid == pid }
            if order.hasPrefix("+"), let process = RunningProcess(pid) { left.append(process) }
        }
        for process in left where process.isAlive { kill(process.pid, SIGTERM) }
        let deadline = Date().addingTimeInterval(Self.endPatience)
        while left.contains(where: \.isAlive) {
            if Date() > deadline { for process in left where process.isAlive { kill(process.pid, SIGKILL) } }
            usleep(Self.napMicroseconds)
        }
        try PlaygroundFolder(path: folder).removeThrowAway()
    }
}

/// A process by its number and the time of its start, which no later process of that number shares.
private struct RunningProcess {
    let pid: Int32
    private let start: Substring

    init?(_ pid: Int32) {
        guard let start = Self.start(of: pid) else { return nil }
        (self.pid, self.start) = (pid, start)
    }
    var isAlive: Bool { Self.start(of: pid) == start }

    /// Field 22 of /proc/PID/stat; the second one, the name, may hold anything but ends with the last
    /// parenthesis.
    private static func start(of pid: Int32) -> Substring? {
        guard let data = FileManager.default.contents(atPath: "/proc/\(pid)/stat") else { return nil }
        let text = String(decoding: data, as: UTF8.self)
        guard let end = text.lastIndex(of: ")") else { return nil }
        let fields = text[end...].split(separator: " ")
        // A zombie has ended.
        return fields.count > 20 && fields[1] != "Z" ? fields[20] : nil
    }
}
