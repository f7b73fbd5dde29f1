import ArgumentParser
import Environment
import Foundation
import Reactor

/// What every daemon takes.
package struct DaemonOptions: ParsableArguments {
    @Flag(help: "End when the process that started this one ends.") package var exitWithParent = false
    @Option(help: "Least weighty lines to log: debug, info, notice, warning or error.")
    package var logLevel = LogLevelName.info

    package init() {}

    /// The loop of a daemon, set up for signals and logging.
    package func reactor(name: String) throws -> Reactor {
        if exitWithParent { ProcessSetup.exitWithParent() }
        do {
            let reactor = try Reactor()
            reactor.programName = name
            reactor.logLevel = logLevel.level
            return reactor
        } catch { throw ToolError.failed("\(error)") }
    }
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

/// Tells whoever started the daemon that it serves: one line on standard output.
package func announceReady(_ addresses: [SocketAddress]) {
    let text = addresses.map(\.description).joined(separator: " ")
    FileHandle.standardOutput.write(Data("ready \(text)\n".utf8))
}

/// Runs `action` at the first SIGINT or SIGTERM; a second one ends the process at once.
package func onTermination(of reactor: Reactor, _ action: @escaping () -> Void) throws {
    var hasBegun = false
    do {
        try reactor.onTerminationSignals { signal in
            if hasBegun { exit(128 + signal) }
            hasBegun = true
            action()
        }
    } catch { throw ToolError.failed("\(error)") }
}

/// Makes a folder, or says why it cannot be used.
package func makeFolder(_ path: String, for purpose: String) throws {
    do {
        try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
    } catch {
        throw ToolError.failed("cannot make the folder \(path) for \(purpose): \(error.localizedDescription)")
    }
    guard FileManager.default.isWritableFile(atPath: path) else {
        throw ToolError.failed(
            "the folder \(path) for \(purpose) is not writable; choose another or change its owner")
    }
}
