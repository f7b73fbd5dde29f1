import ArgumentParser
import Foundation
import ToolSupport

struct ExportCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "export", abstract: "Show, add and remove exports of a gateway that runs.",
        discussion: """
            The gateway was started with 'curve-nbd serve ... --control SOCKET'.
            Example:
              curve-nbd export add logs --control /run/curve-nbd.sock
            """,
        subcommands: [ExportListCommand.self, ExportAddCommand.self, ExportRemoveCommand.self])
}

struct ControlOptions: ParsableArguments {
    @Option(help: "The gateway's control socket.") var control: String
}

struct ExportListCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "list", abstract: "Show the exports of a gateway.")
    @OptionGroup var options: ControlOptions
    @Option(help: "table or json.") var format = OutputFormat.table

    func run() throws {
        let answer = try ControlClient.ask(ControlRequestLine(verb: .list), at: options.control)
        switch format {
        case .json: print(try Text.json(answer.exports))
        case .table:
            let lines = answer.exports.map { export in
                [
                    export.name, export.volume,
                    Text.size(export.sizeBytes) + (export.isReadOnly ? " read-only" : ""),
                    "\(export.connections)",
                ]
            }
            print(Text.table([["EXPORT", "VOLUME", "SIZE", "CLIENTS"]] + lines))
        }
    }
}

struct ExportAddCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "add", abstract: "Attach a volume and serve it beside the others.")
    @Argument(help: "Path of the volume.") var volume: String
    @Option(help: "Name of the export (default: the volume's path).") var name: String?
    @OptionGroup var looks: ExportLooks
    @OptionGroup var options: ControlOptions

    func run() throws {
        var request = ControlRequestLine(verb: .add)
        (request.volume, request.name, request.description) = (volume, name, looks.description)
        (request.readOnly, request.rotational) = (looks.readOnly, looks.rotational)
        (request.allowResize, request.takeover) = (looks.allowResize, looks.takeover)
        request.errorAfter = looks.errorAfter
        _ = try ControlClient.ask(request, at: options.control)
    }
}

struct ExportRemoveCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "remove", abstract: "Serve an export no longer: its clients are disconnected.")
    @Argument(help: "Name of the export.") var name: String
    @OptionGroup var options: ControlOptions

    func run() throws {
        var request = ControlRequestLine(verb: .remove)
        request.name = name
        _ = try ControlClient.ask(request, at: options.control)
    }
}
