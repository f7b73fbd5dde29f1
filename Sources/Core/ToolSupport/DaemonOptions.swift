import ArgumentParser
import BlockTypes
import Environment
import Foundation
import Reactor

/// What programs take that a supervisor starts.
package struct ParentOptions: ParsableArguments {
    @Flag(help: "End when the process that started this one ends.") package var exitWithParent = false
    /// Tells a daemon whose parent is process 1, as in a container, from one that lost its parent.
    @Option(help: .hidden) package var parentPid: Int32?

    package init() {}

    /// Ties this process to its parent, if that is wanted.
    package func apply() {
        guard exitWithParent else { return }
        // Ctrl-C in a terminal is for the parent, who ends its children in order.
        setpgid(0, 0)
        ProcessSetup.exitWithParent(parentPid)
    }
}

/// What every daemon takes.
package struct DaemonOptions: ParsableArguments {
    @OptionGroup package var parent: ParentOptions
    @Option(help: "Least weighty lines to log: debug, info, notice, warning or error.")
    package var logLevel = LogLevelName.info

    package init() {}

    /// The loop of a daemon, set up for signals and logging.
    package func reactor(name: String) throws -> Reactor {
        parent.apply()
        try plantMutant()
        do {
            let reactor = try Reactor()
            reactor.programName = name
            reactor.logLevel = logLevel.level
            return reactor
        } catch { throw ToolError.failed("\(error)") }
    }
}

/// In a build with planted bugs, plants the one that `CURVE_MUTANT` names.
private func plantMutant() throws {
    guard Mutant.areBuilt, let name = ProcessInfo.processInfo.environment["CURVE_MUTANT"] else { return }
    guard let mutant = Mutant(rawValue: name) else { throw ToolError.failed("no mutant is called \(name)") }
    mutant.plant()
}

/// The names of log levels on a command line.
package enum LogLevelName: String, ExpressibleByArgument, CaseIterable {
    case debug, info, notice, warning, error
    package var level: LogLevel {
        switch self {
        case .debug: .debug
        case .info: .info
        case .notice: .notice
        case .warning: .warning
        case .error: .error
        }
    }
}

/// Tells whoever started the daemon that it serves: one line on standard output. That nobody can read it is
/// no reason to end.
package func announceReady(_ addresses: [SocketAddress]) {
    let text = addresses.map(\.description).joined(separator: " ")
    try? FileHandle.standardOutput.write(contentsOf: Data("ready \(text)\n".utf8))
}

/// Runs `action` at the first SIGINT or SIGTERM; a second one ends the process at once.
/// - Parameter hangup: run at each SIGHUP; `nil`: that ends the process, as it does by default.
package func onTermination(
    of reactor: Reactor, hangup: (() -> Void)? = nil, _ action: @escaping () -> Void
) throws {
    var hasBegun = false
    do {
        try reactor.onTerminationSignals(and: hangup == nil ? [] : [SIGHUP]) { signal in
            if signal == SIGHUP, let hangup { return hangup() }
            if hasBegun { exit(128 + signal) }
            hasBegun = true
            action()
        }
    } catch { throw ToolError.failed("\(error)") }
}

/// The system's words for an errno.
package func systemWords(_ errno: Int32) -> String {
    unsafe strerror(errno).map { unsafe String(cString: $0) } ?? "error \(errno)"
}

/// An error in the user's words; the errno of a network call by its name.
package func words(for error: any Error) -> String {
    guard case NetworkError.system(let address?, let errno, let call) = error else { return "\(error)" }
    return "\(address): \(call) failed: \(systemWords(errno)); correct the address"
}

/// Makes a folder, or says why it cannot be used.
package func makeFolder(_ path: String, for purpose: String) throws {
    var made = ""
    for part in path.split(separator: "/") {
        made += (made.isEmpty && !path.hasPrefix("/") ? "" : "/") + part
        guard mkdir(made, 0o755) != 0, errno != EEXIST else { continue }
        let why = systemWords(errno)
        var isFolder: ObjCBool = false
        // A read-only file system, for one, refuses folders that exist already.
        guard !FileManager.default.fileExists(atPath: made, isDirectory: &isFolder) || !isFolder.boolValue
        else { continue }
        throw ToolError.failed("cannot make the folder \(path) for \(purpose): \(why); choose another")
    }
    var isFolder: ObjCBool = false
    guard FileManager.default.fileExists(atPath: path, isDirectory: &isFolder), isFolder.boolValue else {
        throw ToolError.failed("\(path), wanted for \(purpose), is not a folder; choose another")
    }
    guard FileManager.default.isWritableFile(atPath: path) else {
        throw ToolError.failed(
            "the folder \(path) for \(purpose) is not writable; choose another or change its owner")
    }
}
