import ArgumentParser
import ISCSIConfiguration
import ISCSICoordination
import ToolSupport

struct GatewayStatus: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "status", abstract: "What gateways of the configuration serve, and what they cannot.",
        discussion: """
            For gateways that were started with serve --gateway. Exit status 1 if the one that is named does
            not answer, 2 if it cannot serve something.
            Example:
              curve-iscsi gateway status a
            """)
    @Argument(help: "Name of the gateway (default: all of them).") var name: String?
    @OptionGroup var options: LookOptions

    private struct Item: Encodable { let name: String, problem: String? }
    private struct Status: Encodable {
        let gateway: String, groupTag: UInt16, answers: Bool, process: String?, version: UInt64?
        let newestVersion: UInt64, sessions: Int?, initiators: String?, items: [Item]
        init(_ entry: GatewayEntry, _ report: GatewayReport?, newest: UInt64) {
            (gateway, groupTag, newestVersion) = (entry.name, entry.groupTag, newest)
            (answers, process, version) = (report != nil, report?.process, report?.version)
            sessions = report?.sessionCount
            initiators = report?.welcome.words
            items = (report?.items ?? []).map { Item(name: $0.name, problem: $0.problem) }
        }
        var words: String {
            guard answers, let version else { return "does not answer" }
            let count = items.count { $0.problem != nil }
            let problems = count == 0 ? "" : ", \(count) problems"
            return (version == newestVersion ? "up to date" : "applying version \(newestVersion)") + problems
        }
    }

    func run() throws {
        let access = try ConfigurationAccess(options.metadata)
        let (configuration, version) = try access.read()
        if let name, configuration.gateway(name) == nil { throw configuration.noGateway(name).toolError }
        let entries = configuration.gateways.filter { name == nil || $0.name == name }
        let found = try access.reports(of: entries).map { Status($0.gateway, $0.report, newest: version) }
        if options.json {
            print(try Text.json(found))
        } else {
            print(
                Text.table(
                    [["GATEWAY", "GROUP", "STATE", "INITIATORS", "SESSIONS", "PROCESS"]]
                        + found.map {
                            [
                                $0.gateway, "\($0.groupTag)", $0.words, $0.initiators ?? "-",
                                $0.sessions.map { "\($0)" } ?? "-", $0.process ?? "-",
                            ]
                        }))
            for status in found {
                for item in status.items {
                    if let problem = item.problem { print("\(status.gateway): \(item.name): \(problem)") }
                }
            }
        }
        guard name != nil, let only = found.first else { return }
        if !only.answers { throw ExitCode(1) }
        if only.items.contains(where: { $0.problem != nil }) { throw ExitCode(2) }
    }
}

extension GatewayReport {
    fileprivate var welcome: Gateway.Drain {
        switch drain {
        case nil: .none
        case .asked?: .asked
        case .done?: .done
        }
    }
}
