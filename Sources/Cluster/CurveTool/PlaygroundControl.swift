import ArgumentParser
import BlockTypes
import ControlMessages
import Dispatch
import Environment
import Foundation
import ToolSupport

enum PlaygroundText {
    static func uris(_ state: PlaygroundState) -> String {
        state.nbdURIs.map { "  \($0)" }.joined(separator: "\n")
    }
    static func welcome(_ state: PlaygroundState, folder: PlaygroundFolder) {
        let uri = state.nbdURIs.first ?? ""
        let iscsi = state.iscsiURL.map {
            "\nThe volume '\(Playground.iscsiVolumeName)' is served over iSCSI at\n  \($0)"
        }
        print(
            """
            The volume '\(state.volume)' is served over NBD at
            \(uris(state))\(iscsi ?? "")
            MDS \(state.metadataAddress), data and log in \(folder.path). Try:
              nbdinfo '\(uri)'
              nbdcopy disk.img '\(uri)'
              qemu-img convert -f raw -O qcow2 '\(uri)' copy.qcow2
            Ctrl-C stops everything; the data stays.
            """)
        fflush(nil)
    }
    static func goodbye(_ folder: PlaygroundFolder) {
        print("Everything is stopped; the data is in \(folder.path).")
        fflush(nil)
    }
}

/// One line that tells how the playground is, rewritten every second on a terminal.
final class StatusLine: @unchecked Sendable {
    // SAFETY: used only on the main queue, but for the question to the MDS, which has a queue of its own and
    // hands its text back.
    private let playground: Playground
    private let queue = DispatchQueue(label: "status")
    private let isTerminal = isatty(1) == 1
    private var previous = (time: Date(), counters: [String: UInt64]())
    private var printed = ""
    private var isStopped = false

    init(playground: Playground) { self.playground = playground }

    func start() { tick() }
    /// Leaves the terminal at the start of a line; nothing more is shown.
    func stop() {
        isStopped = true
        if isTerminal { print() }
    }

    private func tick() {
        let address = playground.state?.metadataAddress ?? ""
        let stats = playground.stats
        queue.async { [self] in
            let cluster = Self.cluster(at: address)
            DispatchQueue.main.async { [self] in
                show("\(traffic(stats))   \(cluster)")
                DispatchQueue.main.asyncAfter(deadline: .now() + 1) { [self] in tick() }
            }
        }
    }

    private func show(_ text: String) {
        guard !isStopped else { return }
        if isTerminal {
            print("\r\u{1B}[K\(text)", terminator: "")
        } else if text != printed {
            print(text)
        }
        printed = text
        fflush(nil)
    }

    /// `1,204 IOPS, 4.7 MiB/s` from two readings of curve-nbd's counters.
    private func traffic(_ stats: String) -> String {
        var counters: [String: UInt64] = [:]
        for pair in stats.split(separator: " ") {
            let parts = pair.split(separator: "=")
            if parts.count == 2, let value = UInt64(parts[1]) { counters[String(parts[0])] = value }
        }
        let now = Date()
        let seconds = max(now.timeIntervalSince(previous.time), 0.001)
        func rate(_ names: String...) -> UInt64 {
            let delta = names.reduce(Int64(0)) { sum, name in
                sum + Int64(counters[name] ?? 0) - Int64(previous.counters[name] ?? 0)
            }
            return UInt64(max(0, Double(delta) / seconds))
        }
        let text = "\(rate("reads", "writes")) IOPS, \(Text.size(rate("read_bytes", "written_bytes")))/s"
        previous = (now, counters)
        return text
    }

    private static func cluster(at text: String) -> String {
        guard let servers = try? MetadataServerList(text) else { return "" }
        do {
            let status = try MetadataCall(servers, timeout: .seconds(2))(
                .getStatus(ControlGetStatusRequest())
            ).getStatus
            let online = status.servers.filter(\.online).count
            let led = status.copysets.filter { $0.leader != 0 }.count
            let used = status.servers.map(\.usedBytes).max() ?? 0
            let line =
                "chunkservers \(online)/\(status.servers.count), copysets led \(led)/\(status.copysets.count), "
                + "used \(Text.size(used)) per replica"
            return status.warnings.first.map { "\(line)   ! \($0)" } ?? line
        } catch { return "MDS: \(error)" }
    }
}

struct PlaygroundUp: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "up", abstract: "Start a playground in the background.")
    @OptionGroup var options: PlaygroundOptions
    /// How long a start may take before it is given up.
    static let startTimeoutSeconds = 30.0

    func run() throws {
        let folder = try options.folder()
        try folder.prepare()
        if FolderLock.holder(of: folder) != nil {
            throw ToolError.failed(
                "a playground already runs in \(folder.path); 'curve playground status' shows it")
        }
        try options.eraseIfAsked(folder)
        let process = Process()
        process.executableURL = URL(fileURLWithPath: "/usr/bin/setsid")
        process.arguments =
            [
                Supervisor.programFolder + "/curve", "playground", "run", "--detached", "--data", folder.path,
                "--mds-count", "\(options.mdsCount)",
            ] + (options.size.map { ["--size", "\($0.bytes)"] } ?? [])
            + (options.prewritten ? ["--prewritten"] : [])
        _ = FileManager.default.createFile(atPath: folder.path + "/up.log", contents: nil)
        let log = FileHandle(forWritingAtPath: folder.path + "/up.log") ?? .nullDevice
        (process.standardInput, process.standardOutput, process.standardError) = (
            FileHandle.nullDevice, log, log
        )
        try process.run()
        let deadline = Date().addingTimeInterval(Self.startTimeoutSeconds)
        while Date() < deadline {
            if let state = folder.state, state.pid == FolderLock.holder(of: folder) {
                for line in said(folder) { ToolExit.say(line) }
                print(
                    "playground is up; the volume '\(state.volume)' is served at\n\(PlaygroundText.uris(state))"
                )
                return
            }
            if !process.isRunning {
                let words = said(folder).joined(separator: "\n")
                throw ToolError.failed(
                    words.isEmpty ? "the playground did not start; see \(folder.logFile)" : words)
            }
            usleep(20_000)
        }
        throw ToolError.failed("the playground was not ready in time; see \(folder.logFile)")
    }
    /// What the process in the background had to say, without its name.
    private func said(_ folder: PlaygroundFolder) -> [String] {
        let text = (try? String(contentsOfFile: folder.path + "/up.log", encoding: .utf8)) ?? ""
        return text.split(separator: "\n").map {
            String($0.hasPrefix("curve: ") ? $0.dropFirst("curve: ".count) : $0)
        }
    }
}

struct PlaygroundDown: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "down", abstract: "Stop the playground; its data stays.")
    @Option(help: "Folder of the data (default: ${XDG_STATE_HOME:-~/.local/state}/curve).") var data: String?
    func run() throws {
        let folder = try PlaygroundFolder(data: data)
        guard let pid = FolderLock.holder(of: folder) else {
            throw ToolError.notFound("no playground runs in \(folder.path)")
        }
        kill(pid, SIGTERM)
        let deadline = Date().addingTimeInterval(6 * Supervisor.stopTimeout)
        while FolderLock.holder(of: folder) != nil {
            guard Date() < deadline else {
                throw ToolError.failed("the playground (pid \(pid)) does not stop; see \(folder.logFile)")
            }
            usleep(20_000)
        }
        print("playground is down; its data stays in \(folder.path)")
    }
}

struct PlaygroundStatus: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "status", abstract: "Show whether a playground runs, where, and how it is.")
    @Option(help: "Folder of the data (default: ${XDG_STATE_HOME:-~/.local/state}/curve).") var data: String?
    @Option(help: "table or json.") var format = OutputFormat.table
    func run() throws {
        let folder = try PlaygroundFolder(data: data)
        guard let pid = FolderLock.holder(of: folder), let state = folder.state, state.pid == pid else {
            throw ToolError.notFound(
                "no playground runs in \(folder.path); start one with 'curve playground up'")
        }
        if format == .json { return print(try Text.json(state)) }
        print("playground in \(folder.path), pid \(pid)\n\(PlaygroundText.uris(state))")
        print(Text.table([["PROCESS", "PID"]] + state.members.map { [$0.name, "\($0.pid)"] }))
        let servers = try MetadataServerList(forTool: state.metadataAddress)
        let status = try MetadataCall(servers)(.getStatus(ControlGetStatusRequest())).getStatus
        print("\n" + StatusText.table(status, try MetadataSurvey(servers)))
    }
}
