import ArgumentParser
import ISCSIConfiguration
import ToolSupport

struct TargetCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "target", abstract: "Targets: names that initiators log in to.",
        subcommands: [
            TargetCreate.self, TargetDelete.self, TargetList.self, TargetShow.self, TargetSet.self,
        ])
}

struct TargetCreate: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "create", abstract: "Add a target without LUNs.",
        discussion: """
            Nobody may log in until 'acl create', or --allow, says who. With --user initiators must prove to \
            be one of those (CHAP).
            Examples:
              curve-iscsi target create iqn.2026-11.example.com:db --allow iqn.1994-05.com.example:host7
              curve-iscsi target create iqn.2026-11.example.com:vm --user vm --allow '*' --gateway a
            """)
    @Argument(help: "iqn.YYYY-MM.DOMAIN:WORD.") var name: String
    @Option(help: "A word for people.") var alias = ""
    @Option(help: "A gateway that serves it; may be given several times (default: all of them).")
    var gateway: [String] = []
    @Option(help: "A user who may log in; may be given several times.") var user: [String] = []
    @Option(help: "The user as whom the target proves itself to initiators that want that.")
    var mutualUser: String?
    @Option(help: "An initiator that may log in, or '*' for any; may be given several times.")
    var allow: [String] = []
    @OptionGroup var options: ChangeOptions

    func run() throws {
        var target = TargetEntry(name: name)
        (target.alias, target.gateways) = (alias, gateway)
        (target.login.users, target.login.mutualUser) = (user, mutualUser)
        target.rules = allow.map { InitiatorEntry(initiator: $0) }
        try options.change { try $0.create(target) }
    }
}

struct TargetDelete: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "delete", abstract: "Remove a target; its sessions end.")
    @Argument(help: "Name of the target.") var name: String
    @Flag(help: "With its LUNs. The volumes stay.") var force = false
    @OptionGroup var options: ChangeOptions

    func run() throws { try options.change { try $0.deleteTarget(name, force: force) } }
}

struct TargetSet: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "set", abstract: "Change a target; what is not named stays.",
        discussion: """
            Sessions that have no right any more end; others go on.
            Examples:
              curve-iscsi target set iqn.2026-11.example.com:db --user db --mutual-user target
              curve-iscsi target set iqn.2026-11.example.com:db --no-user
              curve-iscsi target set iqn.2026-11.example.com:db --all-gateways
            """)
    @Argument(help: "Name of the target.") var name: String
    @Option(help: "A word for people.") var alias: String?
    @Option(help: "The gateways that serve it; may be given several times.") var gateway: [String] = []
    @Flag(help: "All gateways serve it.") var allGateways = false
    @OptionGroup var login: LoginOptions
    @OptionGroup var options: ChangeOptions

    func run() throws {
        guard gateway.isEmpty || !allGateways else {
            throw ToolError.failed("--gateway and --all-gateways say different things; leave one out")
        }
        try login.check()
        try options.change { configuration in
            try configuration.change(target: name) { target throws(ConfigurationError) in
                if let alias { target.alias = alias }
                if !gateway.isEmpty || allGateways { target.gateways = gateway }
                login.change(&target.login)
            }
        }
    }
}

/// How initiators prove who they are, where it can be changed.
struct LoginOptions: ParsableArguments {
    @Option(help: "The users who may log in; may be given several times.") var user: [String] = []
    @Flag(help: "No proof is wanted.") var noUser = false
    @Option(help: "The user as whom the target proves itself to initiators that want that.")
    var mutualUser: String?
    @Flag(help: "The target proves nothing.") var noMutualUser = false

    func check() throws {
        guard user.isEmpty || !noUser else {
            throw ToolError.failed("--user and --no-user say different things; leave one out")
        }
        guard mutualUser == nil || !noMutualUser else {
            throw ToolError.failed("--mutual-user and --no-mutual-user say different things; leave one out")
        }
    }
    func change(_ rule: inout LoginRule) {
        if !user.isEmpty { rule.users = user }
        if noUser { rule = LoginRule() }
        if let mutualUser { rule.mutualUser = mutualUser }
        if noMutualUser { rule.mutualUser = nil }
    }
}

/// A target as scripts read it.
struct TargetJSON: Encodable {
    let name: String, alias: String, gateways: [String], users: [String], mutualUser: String?
    let luns: [LUNJSON], acl: [RuleJSON]
    init(_ target: TargetEntry) {
        (name, alias, gateways) = (target.name, target.alias, target.gateways)
        (users, mutualUser) = (target.login.users, target.login.mutualUser)
        luns = target.luns.map { LUNJSON(target.name, $0) }
        acl = target.rules.map { RuleJSON(target.name, $0) }
    }
}

struct TargetList: ParsableCommand {
    static let configuration = CommandConfiguration(commandName: "list", abstract: "Show all targets.")
    @OptionGroup var options: LookOptions

    func run() throws {
        let targets = try options.configuration().targets
        try options.print(
            targets.map { TargetJSON($0) },
            table: [["TARGET", "LUNS", "CHAP", "INITIATORS", "GATEWAYS"]]
                + targets.map { target in
                    [
                        target.name, "\(target.luns.count)",
                        target.login.users.isEmpty ? "-" : target.login.mutualUser == nil ? "yes" : "mutual",
                        target.rules.isEmpty ? "nobody" : "\(target.rules.count) rules",
                        target.gateways.isEmpty ? "all" : target.gateways.joined(separator: ","),
                    ]
                })
    }
}

struct TargetShow: ParsableCommand {
    static let configuration = CommandConfiguration(commandName: "show", abstract: "Show one target.")
    @Argument(help: "Name of the target.") var name: String
    @OptionGroup var options: LookOptions

    func run() throws {
        let configuration = try options.configuration()
        guard let target = configuration.target(name) else { throw configuration.noTarget(name).toolError }
        var rows = [
            ("target", target.name), ("alias", target.alias.isEmpty ? "-" : target.alias),
            ("gateways", target.gateways.isEmpty ? "all" : target.gateways.joined(separator: ", ")),
            (
                "users",
                target.login.users.isEmpty ? "no proof wanted" : target.login.users.joined(separator: ", ")
            ),
            ("mutual user", target.login.mutualUser ?? "-"),
        ]
        rows += target.luns.map { ("LUN \($0.number)", "\($0.volume)\($0.looks)") }
        rows += target.rules.map { ("acl \($0.initiator)", $0.looks) }
        if target.rules.isEmpty { rows.append(("acl", "nobody may log in; see 'curve-iscsi acl create'")) }
        try options.print(TargetJSON(target), properties: rows)
    }
}

struct DiscoveryCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "discovery", abstract: "What initiators prove before they are told of targets.",
        subcommands: [DiscoverySet.self, DiscoveryShow.self])
}

struct DiscoverySet: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "set", abstract: "Change it; what is not named stays.")
    @OptionGroup var login: LoginOptions
    @OptionGroup var options: ChangeOptions

    func run() throws {
        try login.check()
        try options.change { login.change(&$0.discovery) }
    }
}

struct DiscoveryShow: ParsableCommand {
    static let configuration = CommandConfiguration(commandName: "show", abstract: "Show it.")
    @OptionGroup var options: LookOptions

    private struct Look: Encodable { let users: [String], mutualUser: String? }
    func run() throws {
        let rule = try options.configuration().discovery
        try options.print(
            Look(users: rule.users, mutualUser: rule.mutualUser),
            properties: [
                ("users", rule.users.isEmpty ? "no proof wanted" : rule.users.joined(separator: ", ")),
                ("mutual user", rule.mutualUser ?? "-"),
            ])
    }
}
