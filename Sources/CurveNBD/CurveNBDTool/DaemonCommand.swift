import ArgumentParser
import DeviceMapping
import Foundation
import ToolSupport

/// The daemon of all mapped devices of this machine.
struct DaemonCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "daemon", abstract: "Serve this machine's mapped devices; 'map' starts it when needed.",
        discussion: """
            One process serves every device; another watches over it and starts it again \
            when it dies. It takes the devices up again that wait for a daemon, and ends \
            with the last device unless --stay is given.
            """)
    @Flag(help: "Stay when no device is left, as a service does.") var stay = false
    @Flag(help: .hidden) var worker = false
    @Flag(help: .hidden) var holder = false
    /// A worker that waits for a byte on this descriptor before it begins.
    @Option(help: .hidden) var spare: Int32?
    /// The descriptor of the lock, after the program replaced itself.
    @Option(help: .hidden) var lock: Int32?
    @OptionGroup var daemon: DaemonOptions

    func run() throws {
        if holder {
            do { return try DeviceHolder.run() } catch { throw DeviceName.toolError(error) }
        }
        guard !worker else {
            // Nobody is left to need it.
            if let spare, !WatchedProcess.waitForGo(on: spare) { return }
            do {
                return try DeviceDaemon(try daemon.reactor(name: "curve-nbd"), stays: stay).run()
            } catch {
                Background.failed("\(error)", status: (error as? ToolError)?.status ?? 2)
                throw error
            }
        }
        try makeFolder(DaemonMark.defaultFolder, for: "the daemons of mapped devices")
        let arguments =
            ["daemon"] + (stay ? ["--stay", "--exit-with-parent"] : []) + [
                "--log-level", daemon.logLevel.rawValue,
            ]
        guard let watcher = try Watcher(arguments: arguments, lock: lock) else {
            // Somebody was faster: that one serves.
            if !Background.isDaemon { throw ToolError.failed("a daemon is running already") }
            return Background.ready("")
        }
        throw ExitCode(try watcher.run())
    }
}

/// Starts the process that serves, and starts it again when it dies or wants to be replaced by a newer
/// program.
///
/// It does nothing else, so that it has no reason to die itself.
final class Watcher {
    /// How a process that serves asks to be started again, by whatever program is installed now.
    static let againStatus: Int32 = 76
    private static let lockPath = "\(DaemonMark.defaultFolder)/daemon.lock"
    /// Pauses before a start: none after a life in which devices were served, doubling after shorter ones.
    /// Users of devices wait meanwhile, so only a process that dies of its start is slowed down.
    private static let pauseMinSeconds = 0.1, pauseMaxSeconds = 5.0, longLifeSeconds = 2.0
    /// A spare is made once the process before it has had this time to begin, and no more than so many that
    /// die.
    private static let spareAfterSeconds = 1, spareDeathsMax = 3
    private var spare: WatchedProcess?
    private var spareDeaths = 0

    private let arguments: [String]
    private let program: String
    private let lock: Int32

    /// - Parameter lock: the lock's descriptor, if this process replaced one that had it.
    /// - Returns: `nil` when another process has the lock.
    init?(arguments: [String], lock inherited: Int32?) throws {
        self.arguments = arguments
        guard let own = try? FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/exe") else {
            throw ToolError.failed("/proc is not mounted; mount it")
        }
        // What replaced it has the name that this one had.
        program = own.hasSuffix(" (deleted)") ? String(own.dropLast(" (deleted)".count)) : own
        if let inherited {
            lock = inherited
            return
        }
        lock = open(Self.lockPath, O_RDWR | O_CREAT, 0o600)
        guard lock >= 0 else {
            throw ToolError.failed("cannot open \(Self.lockPath): \(systemWords(errno))")
        }
        guard flock(lock, LOCK_EX | LOCK_NB) == 0 else {
            close(lock)
            return nil
        }
    }

    /// - Returns: the exit status.
    func run() throws -> Int32 {
        var signals = sigset_t()
        sigemptyset(&signals)
        for number in [SIGCHLD, SIGTERM, SIGINT, SIGHUP] { sigaddset(&signals, number) }
        sigprocmask(SIG_BLOCK, &signals, nil)
        // A spare may die before it is told to begin.
        signal(SIGPIPE, SIG_IGN)
        var (pause, mustEnd) = (0.0, false)
        while true {
            if pause > 0 { Thread.sleep(forTimeInterval: pause) }
            let started = Date()
            let child = spare.take().flatMap { $0.go() } ?? WatchedProcess(program, arguments)
            guard let child else { throw ToolError.failed("cannot start the daemon: \(systemWords(errno))") }
            Background.leaveReport()
            spareDeaths = 0
            let status = wait(for: child.pid, signals, &mustEnd)
            let code = status & 0x7F == 0 ? status >> 8 & 0xFF : -1
            if code == 0 || mustEnd { return max(code, 0) }
            if code == Self.againStatus {
                replaceMyself()
                // There is no newer program that could be started: this one goes on.
                pause = 0
                continue
            }
            let what = code < 0 ? "was killed by signal \(status & 0x7F)" : "ended with status \(code)"
            ToolExit.say("the process that serves the devices \(what); it is started again")
            let isYoung = Date().timeIntervalSince(started) < Self.longLifeSeconds
            pause = isYoung ? min(max(pause * 2, Self.pauseMinSeconds), Self.pauseMaxSeconds) : 0
        }
    }
    private func wait(for child: pid_t, _ signals: sigset_t, _ mustEnd: inout Bool) -> Int32 {
        var (signals, status) = (signals, Int32(0))
        while true {
            if waitpid(child, &status, WNOHANG) == child { return status }
            var patience = timespec(tv_sec: Self.spareAfterSeconds, tv_nsec: 0)
            let needsSpare = spare == nil && spareDeaths < Self.spareDeathsMax && !mustEnd
            let signal = needsSpare ? sigtimedwait(&signals, nil, &patience) : sigwaitinfo(&signals, nil)
            if let waiting = spare, waitpid(waiting.pid, nil, WNOHANG) == waiting.pid {
                (spare, spareDeaths) = (nil, spareDeaths + 1)
            }
            switch signal {
            case -1 where needsSpare && errno == EAGAIN:
                spare = WatchedProcess(program, arguments, isSpare: true)
                if spare == nil { spareDeaths += 1 }
            case SIGTERM, SIGINT:
                mustEnd = true
                kill(child, SIGTERM)
            case SIGHUP: kill(child, SIGHUP)
            default: break
            }
        }
    }
    /// The same process goes on as the program that is installed now.
    private func replaceMyself() {
        spare?.end()
        spare = nil
        let words = ([program] + arguments + ["--lock", "\(lock)"]).map { strdup($0) } + [nil]
        defer { words.forEach { free($0) } }
        execv(program, words)
        ToolExit.say("cannot start \(program): \(systemWords(errno)); the present program goes on")
    }
}
