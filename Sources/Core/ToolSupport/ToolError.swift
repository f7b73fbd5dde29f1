import ArgumentParser
import Foundation

/// What this build calls itself.
package enum Version {
    /// The version of every program of this package.
    package static let text = "0.1.0"
}

/// A failure with its exit status and the sentence for the user.
package struct ToolError: Error, CustomStringConvertible {
    /// 1: something that was named does not exist, or nobody answers. 2: anything else.
    package let status: Int32
    /// What happened and what to do.
    package let description: String
    /// A failure of this status.
    package init(status: Int32, description: String) {
        (self.status, self.description) = (status, description)
    }
    /// Something that was named does not exist, or nobody answers.
    package static func notFound(_ text: String) -> ToolError { ToolError(status: 1, description: text) }
    /// Anything else.
    package static func failed(_ text: String) -> ToolError { ToolError(status: 2, description: text) }
}

/// Ends a tool the way users of block device tools expect: 0, 1 or 2, never 64.
package enum ToolExit {
    /// Parses the command line, runs the command, and ends the process if either fails.
    package static func run<Command: ParsableCommand>(_ type: Command.Type) {
        StandardStreams.hold()
        do {
            var command = try Command.parseAsRoot()
            try command.run()
            checkOutput()
        } catch { leave(with: error, of: type) }
    }

    private static func leave<Command: ParsableCommand>(with error: any Error, of command: Command.Type)
        -> Never
    {
        if let failure = error as? ToolError {
            say(failure.description)
            exit(failure.status)
        }
        if let code = error as? ExitCode {
            checkOutput()
            exit(code.rawValue)
        }
        guard command.exitCode(for: error) != .success else {
            print(command.fullMessage(for: error))
            checkOutput()
            exit(0)
        }
        say(Text.usage(command.message(for: error), in: command.fullMessage(for: error)))
        exit(2)
    }
    /// What nobody can read was not told: a full disk must not pass for a file that was written.
    private static func checkOutput() {
        guard let why = StandardStreams.flushOutput() else { return }
        say("standard output cannot be written (\(why)), so what it has is not complete; try again elsewhere")
        exit(2)
    }

    /// One line on standard error, with the program's name.
    package static func say(_ text: String) {
        // Somebody who does not listen is told nothing.
        try? FileHandle.standardError.write(contentsOf: Data("\(programName): \(Text.line(text))\n".utf8))
    }
    private static var programName: String { (CommandLine.arguments[0] as NSString).lastPathComponent }
}
