import ArgumentParser
import BlockTypes
import ControlMessages
import Dispatch
import Environment
import Foundation
import ToolSupport

struct PlaygroundCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "playground", abstract: "A whole cluster on this machine, to try things with.",
        discussion: """
            One MDS, three chunkservers with stores that grow lazily, the volume 'demo' served over NBD.
            Examples:
              curve playground up          start it in the background
              curve playground up --mds-count 2       with a metadata server that stands by
              curve playground status      where it listens and how it is
              curve playground down        stop it; its data stays
            """,
        subcommands: [
            PlaygroundRun.self, PlaygroundUp.self, PlaygroundDown.self, PlaygroundStatus.self,
            PlaygroundSweep.self,
        ])
}

/// Where the data is and how large the volume is.
struct PlaygroundOptions: ParsableArguments {
    @Option(help: "Folder of the data (default: ${XDG_STATE_HOME:-~/.local/state}/curve).") var data: String?
    @Option(help: "Size of the volume 'demo' when it is made (default: 4G).") var size: ByteSize?
    @Option(help: "Metadata servers: one leads, the others stand by.") var mdsCount = 1
    @Flag(help: "Write the stores in full instead of letting them grow, as a bench wants.") var prewritten =
        false
    @Flag(help: "Serve a volume 'demo-iscsi' over iSCSI too.") var iscsi = false
    @Flag(help: "Throw the data of an earlier playground away first.") var fresh = false
    @Flag(help: "Do not ask before throwing data away.") var yes = false

    func validate() throws {
        guard (1...MetadataServerList.countMax).contains(mdsCount) else {
            throw ValidationError("--mds-count is a number from 1 to \(MetadataServerList.countMax)")
        }
        guard let size else { return }
        guard size.bytes % 4096 == 0, (1 << 20...1 << 50).contains(size.bytes) else {
            throw ValidationError("--size is a multiple of 4096 bytes from 1M to 1P, for example 8G")
        }
    }
    func folder() throws -> PlaygroundFolder { try PlaygroundFolder(data: data) }

    func eraseIfAsked(_ folder: PlaygroundFolder) throws {
        guard fresh, FileManager.default.fileExists(atPath: folder.marker) else { return }
        if !yes {
            guard isatty(0) == 1 else {
                throw ToolError.failed(
                    "--fresh would throw away the data in \(folder.path); add --yes to agree")
            }
            print("Throw away the volumes in \(folder.path)? [y/N] ", terminator: "")
            fflush(nil)
            guard readLine()?.lowercased().hasPrefix("y") == true else {
                throw ToolError.failed("nothing was changed")
            }
        }
        try folder.erase()
    }
}

struct PlaygroundRun: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "run",
        abstract: "Run a playground in the foreground until Ctrl-C, or around one command.",
        discussion: """
            With a command after '--': a throw-away playground, the command with CURVE_NBD_URI, \
            CURVE_NBD_SOCKET and CURVE_MDS (with --iscsi: CURVE_ISCSI_URL) in its environment, \
            everything stopped and removed, the command's exit status.
            Examples:
              curve playground run
              curve playground run -- sh -c 'nbdinfo "$CURVE_NBD_URI"'
            """)
    @OptionGroup var options: PlaygroundOptions
    @Flag(help: .hidden) var detached = false
    @Argument(parsing: .postTerminator, help: "Command to run in a throw-away playground.") var command:
        [String] = []

    func run() throws {
        if command.isEmpty { return try runForeground() }
        if options.data != nil || options.fresh {
            throw ToolError.failed(
                "--data and --fresh do not go with a command: its playground is thrown away")
        }
        try runAround(command)
    }

    private func runForeground() throws {
        let folder = try options.folder()
        let session = PlaygroundSession()
        try folder.prepare()
        let lock = try FolderLock(folder)
        try options.eraseIfAsked(folder)
        let playground = try Playground(
            folder: folder, options: options)
        session.onReady = { state in
            if !detached {
                PlaygroundText.welcome(state, folder: folder)
                let line = StatusLine(playground: playground)
                (session.onEnding, session.onEnd) = (line.stop, { PlaygroundText.goodbye(folder) })
                line.start()
            }
        }
        session.begin(playground)
        withExtendedLifetime(lock) { mainLoop() }
    }

    private func runAround(_ command: [String]) throws {
        let base = ProcessInfo.processInfo.environment["TMPDIR"] ?? "/tmp"
        let name = String(UInt64.random(in: .min ... .max), radix: 36)
        let folder = PlaygroundFolder(path: "\(base)/curve-\(name)")
        let session = PlaygroundSession()
        // Before the folder, so that there is no moment in which a kill would leave it behind.
        let sweeper = try Sweeper(folder: folder)
        let lock: FolderLock
        do {
            guard mkdir(folder.path, 0o700) == 0 else {
                throw ToolError.failed(
                    "cannot make a folder in \(base): \(systemWords(errno)); set TMPDIR to another one")
            }
            try folder.prepare()
            lock = try FolderLock(folder)
            let playground = try Playground(
                folder: folder, options: options, sweeper: sweeper)
            session.onReady = { session.run(command, $0) }
            session.begin(playground)
        } catch {
            sweeper.finish()
            throw error
        }
        withExtendedLifetime(lock) { mainLoop() }
    }

    /// Runs the main queue on this thread for ever. The queue's own threads come and go, and the kernel takes
    /// the end of a thread that started a process for the end of its parent.
    private func mainLoop() -> Never {
        while true { RunLoop.main.run() }
    }
}

/// Signals, the way up, the way down and the exit status of one playground.
final class PlaygroundSession: @unchecked Sendable {
    // SAFETY: used only on the main queue.
    private var playground: Playground?
    private var command: Process?
    private var isCommandOver = false
    private var isEnding = false
    var onReady: (PlaygroundState) -> Void = { _ in }
    var onEnding: () -> Void = {}
    var onEnd: () -> Void = {}

    /// From here on signals are taken; what they ask for happens when the main queue runs.
    init() {
        signal(SIGPIPE, SIG_IGN)
        SignalThread.start { [self] signal in DispatchQueue.main.async { [self] in take(signal) } }
    }
    private func take(_ signal: SignalThread.Signal) {
        guard let command, !isCommandOver else {
            return end(status: signal.number == SIGINT ? 0 : 128 + signal.number)
        }
        if !signal.isFromTerminal { kill(command.processIdentifier, signal.number) }
    }

    func begin(_ playground: Playground) {
        self.playground = playground
        playground.supervisor.died = { [self] member, how in
            FileHandle.standardError.write(Data("\ncurve: \(member.name) \(how); starting it again\n".utf8))
            DispatchQueue.main.asyncAfter(deadline: .now() + 1) { [self] in self.playground?.writeState() }
        }
        playground.supervisor.endedBadly = { member, how in
            ToolExit.say("\(member.name) was asked to end and \(how)")
        }
        playground.start { [self] result in
            switch result {
            case _ where isEnding: break  // What ends was asked to.
            case .success(let state): onReady(state)
            case .failure(let error):
                let log = playground.isThrowAway ? "" : " (log: \(playground.folder.logFile))"
                ToolExit.say("\(error.description)\(log)")
                end(status: 2)
            }
        }
    }

    /// Runs the user's command; its end ends the playground.
    func run(_ words: [String], _ state: PlaygroundState) {
        guard let playground else { return }
        let process = Process()
        process.executableURL = URL(fileURLWithPath: "/usr/bin/env")
        process.arguments = words
        var environment = ProcessInfo.processInfo.environment
        environment["CURVE_NBD_SOCKET"] = state.nbdSocket
        environment["CURVE_NBD_URI"] = state.nbdURIs.first ?? ""
        environment["CURVE_ISCSI_URL"] = state.iscsiURL
        environment["CURVE_MDS"] = state.metadataAddress
        environment["CURVE_PLAYGROUND"] = playground.folder.path
        process.environment = environment
        process.terminationHandler = { [self] process in
            let signalled = process.terminationReason == .uncaughtSignal
            let status = signalled ? 128 + process.terminationStatus : process.terminationStatus
            DispatchQueue.main.async { [self] in commandEnded(process.processIdentifier, status) }
        }
        do {
            // The command gets signals as if nobody stood between it and its caller.
            signal(SIGPIPE, SIG_DFL)
            defer { signal(SIGPIPE, SIG_IGN) }
            try process.run()
            command = process
            playground.supervisor.processBegan(process.processIdentifier)
            watch(process.processIdentifier)
        } catch {
            ToolExit.say("cannot run \(words[0]): \(error.localizedDescription)")
            end(status: 127)
        }
    }

    /// `Process` takes a command for ended only when all that it left in the background has ended, too.
    private func watch(_ pid: pid_t) {
        Thread.detachNewThread { [self] in
            var info = siginfo_t()
            // It stays for `Process` to collect, which may have done so already, and then tells by itself.
            guard waitid(P_PID, id_t(pid), &info, WEXITED | WNOWAIT) == 0 else { return }
            let code = info._sifields._sigchld.si_status
            let status = info.si_code == CLD_EXITED ? code : 128 + code
            DispatchQueue.main.async { [self] in commandEnded(pid, status) }
        }
    }
    private func commandEnded(_ pid: pid_t, _ status: Int32) {
        guard !isCommandOver else { return }
        isCommandOver = true
        playground?.supervisor.processEnded(pid)
        end(status: status)
    }
    private func end(status: Int32) {
        guard !isEnding else { return }
        isEnding = true
        onEnding()
        guard let playground else { exit(status) }
        playground.stop { [self] in
            onEnd()
            exit(status)
        }
    }
}
