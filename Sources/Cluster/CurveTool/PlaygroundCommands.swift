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
              curve playground status      where it listens and how it is
              curve playground down        stop it; its data stays
            """,
        subcommands: [PlaygroundRun.self, PlaygroundUp.self, PlaygroundDown.self, PlaygroundStatus.self])
}

/// Where the data is and how large the volume is.
struct PlaygroundOptions: ParsableArguments {
    @Option(help: "Folder of the data (default: ${XDG_STATE_HOME:-~/.local/state}/curve).") var data: String?
    @Option(help: "Size of the volume 'demo' when it is made.") var size = ByteSize(bytes: 4 << 30)
    @Flag(help: "Write the stores in full instead of letting them grow, as a bench wants.") var prewritten =
        false
    @Flag(help: "Throw the data of an earlier playground away first.") var fresh = false
    @Flag(help: "Do not ask before throwing data away.") var yes = false

    var folder: PlaygroundFolder {
        data.map { PlaygroundFolder(path: URL(fileURLWithPath: $0).standardizedFileURL.path) } ?? .standard
    }

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
            With a command after '--': a throw-away playground, the command with CURVE_NBD_URI,
            CURVE_NBD_SOCKET and CURVE_MDS in its environment, everything stopped and removed, the
            command's exit status.
            Example: curve playground run -- nbdinfo --json '$CURVE_NBD_URI'
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
        let folder = options.folder
        try folder.prepare()
        let lock = try FolderLock(folder)
        try options.eraseIfAsked(folder)
        let playground = try Playground(
            folder: folder, volumeBytes: options.size.bytes, isThrowAway: false,
            isPrewritten: options.prewritten)
        try checkPath(folder)
        let session = PlaygroundSession(playground: playground)
        session.onReady = { state in
            if !detached {
                PlaygroundText.welcome(state, folder: folder)
                StatusLine(playground: playground).start()
            }
        }
        session.begin()
        withExtendedLifetime(lock) { dispatchMain() }
    }

    private func runAround(_ command: [String]) throws {
        let base = ProcessInfo.processInfo.environment["TMPDIR"] ?? "/tmp"
        var template = Array((base + "/curve-XXXXXX").utf8CString)
        guard unsafe mkdtemp(&template) != nil else {
            throw ToolError.failed("cannot make a folder in \(base); set TMPDIR to one that is writable")
        }
        let path = String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
        let folder = PlaygroundFolder(path: path)
        do {
            try folder.prepare()
            try checkPath(folder)
            let playground = try Playground(
                folder: folder, volumeBytes: options.size.bytes, isThrowAway: true,
                isPrewritten: options.prewritten)
            let session = PlaygroundSession(playground: playground)
            session.onReady = { session.run(command, $0) }
            session.begin()
        } catch {
            try? FileManager.default.removeItem(atPath: path)
            throw error
        }
        dispatchMain()
    }

    /// A Unix socket's path has room for 107 bytes.
    private func checkPath(_ folder: PlaygroundFolder) throws {
        guard folder.nbdSocket.utf8.count < 108 else {
            throw ToolError.failed(
                "\(folder.nbdSocket) is too long for a socket's path; choose a shorter folder")
        }
    }
}

/// Signals, the way up, the way down and the exit status of one playground.
final class PlaygroundSession: @unchecked Sendable {
    // SAFETY: used only on the main queue.
    private let playground: Playground
    private var signals: [any DispatchSourceSignal] = []
    private var command: Process?
    private var isEnding = false
    var onReady: (PlaygroundState) -> Void = { _ in }

    init(playground: Playground) { self.playground = playground }

    func begin() {
        signal(SIGPIPE, SIG_IGN)
        for number in [SIGINT, SIGTERM, SIGHUP] {
            signal(number, SIG_IGN)
            let source = DispatchSource.makeSignalSource(signal: number, queue: .main)
            source.setEventHandler { [self] in
                if let command, command.isRunning {
                    kill(command.processIdentifier, number)
                } else {
                    end(status: number == SIGINT ? 0 : 128 + number)
                }
            }
            source.resume()
            signals.append(source)
        }
        playground.supervisor.died = { [self] member, how in
            FileHandle.standardError.write(Data("\ncurve: \(member.name) \(how); starting it again\n".utf8))
            DispatchQueue.main.asyncAfter(deadline: .now() + 1) { [self] in playground.writeState() }
        }
        playground.start { [self] result in
            switch result {
            case .success(let state): onReady(state)
            case .failure(let error):
                let log = playground.isThrowAway ? "" : " (\(playground.folder.logFile))"
                FileHandle.standardError.write(Data("curve: \(error.description)\(log)\n".utf8))
                if playground.isThrowAway { showLog() }
                end(status: 2)
            }
        }
    }

    private func showLog() {
        let text = (try? String(contentsOfFile: playground.folder.logFile, encoding: .utf8)) ?? ""
        let tail = text.split(separator: "\n").suffix(10).joined(separator: "\n")
        FileHandle.standardError.write(Data((tail + "\n").utf8))
    }

    /// Runs the user's command; its end ends the playground.
    func run(_ words: [String], _ state: PlaygroundState) {
        let process = Process()
        process.executableURL = URL(fileURLWithPath: "/usr/bin/env")
        process.arguments = words
        var environment = ProcessInfo.processInfo.environment
        environment["CURVE_NBD_SOCKET"] = state.nbdSocket
        environment["CURVE_NBD_URI"] = state.nbdURIs.first ?? ""
        environment["CURVE_MDS"] = state.metadataAddress
        environment["CURVE_PLAYGROUND"] = playground.folder.path
        process.environment = environment
        process.terminationHandler = { [self] process in
            let signalled = process.terminationReason == .uncaughtSignal
            let status = signalled ? 128 + process.terminationStatus : process.terminationStatus
            DispatchQueue.main.async { [self] in end(status: status) }
        }
        do {
            try process.run()
            command = process
        } catch {
            FileHandle.standardError.write(
                Data("curve: cannot run \(words[0]): \(error.localizedDescription)\n".utf8))
            end(status: 127)
        }
    }

    private func end(status: Int32) {
        guard !isEnding else { return }
        isEnding = true
        playground.stop { exit(status) }
    }
}
