import ArgumentParser
import ISCSIConfiguration
import ToolSupport

struct SessionCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "session",
        abstract: "Sessions: initiators that are logged in, as gateways say themselves.",
        discussion: "Gateways are asked through the cluster: they need not be reached from here.",
        subcommands: [SessionList.self, SessionShow.self, SessionDelete.self])
}

/// A session as scripts read it.
private struct SessionJSON: Encodable {
    let gateway: String, number: UInt64, initiator: String, isid: String, target: String
    let addresses: [String], user: String?
    init(_ gateway: String, _ session: GatewayReport.Session) {
        (self.gateway, number) = (gateway, session.number)
        (initiator, isid, target) = (session.initiator, session.identifier, session.target)
        (addresses, user) = (session.addresses, session.user)
    }
}

extension ConfigurationAccess {
    /// What the gateway says now.
    fileprivate func fresh(_ name: String) throws -> (entry: GatewayEntry, report: GatewayReport) {
        let configuration = try read().configuration
        guard let entry = configuration.gateway(name) else { throw configuration.noGateway(name).toolError }
        let report = try answer(of: entry, to: order(entry))
        guard let report else {
            throw ToolError.notFound(
                "gateway \(name) does not answer; start it with 'curve-iscsi serve --gateway \(name)'")
        }
        return (entry, report)
    }
    fileprivate func session(
        _ number: UInt64, of name: String
    ) throws -> (entry: GatewayEntry, report: GatewayReport, session: GatewayReport.Session) {
        let (entry, report) = try fresh(name)
        guard let session = report.sessions.first(where: { $0.number == number }) else {
            throw ToolError.notFound(
                "gateway \(name) has no session \(number); 'curve-iscsi session list' has those that are there"
            )
        }
        return (entry, report, session)
    }
}

struct SessionList: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "list", abstract: "Show the sessions of a gateway, or of all that answer.")
    @Option(help: "Name of the gateway.") var gateway: String?
    @OptionGroup var options: LookOptions

    func run() throws {
        let access = try ConfigurationAccess(options.metadata)
        var sessions: [SessionJSON] = []
        var (silent, cut): ([String], [String]) = ([], [])
        if let gateway {
            let report = try access.fresh(gateway).report
            sessions = report.sessions.map { SessionJSON(gateway, $0) }
            if report.sessionCount > report.sessions.count { cut.append(gateway) }
        } else {
            for (entry, report) in try access.reports(of: access.read().configuration.gateways) {
                guard let report else {
                    silent.append(entry.name)
                    continue
                }
                sessions += report.sessions.map { SessionJSON(entry.name, $0) }
                if report.sessionCount > report.sessions.count { cut.append(entry.name) }
            }
        }
        try options.print(
            sessions,
            table: [["GATEWAY", "SESSION", "INITIATOR", "TARGET", "USER", "FROM"]]
                + sessions.map {
                    [
                        $0.gateway, "\($0.number)", $0.initiator, $0.target, $0.user ?? "-",
                        $0.addresses.joined(separator: ","),
                    ]
                })
        for name in silent { ToolExit.say("gateway \(name) does not answer; its sessions are not known") }
        for name in cut { ToolExit.say("gateway \(name) has more sessions than it can tell") }
    }
}

struct SessionShow: ParsableCommand {
    static let configuration = CommandConfiguration(commandName: "show", abstract: "Show one session.")
    @Argument(help: "Name of the gateway.") var gateway: String
    @Argument(help: "The session's number there.") var number: UInt64
    @OptionGroup var options: LookOptions

    func run() throws {
        let session = try ConfigurationAccess(options.metadata).session(number, of: gateway).session
        try options.print(
            SessionJSON(gateway, session),
            properties: [
                ("gateway", gateway), ("session", "\(number)"), ("initiator", session.initiator),
                ("isid", session.identifier), ("target", session.target), ("user", session.user ?? "-"),
            ] + session.addresses.map { ("from", $0) })
    }
}

struct SessionDelete: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "delete",
        abstract: "End a session; its initiator may come back, unless a rule forbids it.")
    @Argument(help: "Name of the gateway.") var gateway: String
    @Argument(help: "The session's number there.") var number: UInt64
    @OptionGroup var metadata: MetadataOptions
    @Flag(help: "Print JSON.") var json = false

    private struct Outcome: Encodable { let gateway: String, ended: UInt64 }
    func run() throws {
        let access = try ConfigurationAccess(metadata)
        let (entry, report, session) = try access.session(number, of: gateway)
        let order = try access.order(entry, session: number, start: report.start)
        guard try access.answer(of: entry, to: order) != nil else {
            throw ToolError.notFound("gateway \(gateway) does not answer any more; see 'session list'")
        }
        if json { return print(try Text.json(Outcome(gateway: gateway, ended: number))) }
        print("session \(number) of gateway \(gateway) is ended: \(session.initiator) at \(session.target)")
    }
}
