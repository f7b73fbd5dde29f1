import ArgumentParser
import ISCSIConfiguration
import ToolSupport

struct ACLCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "acl", abstract: "Rules: who may log in to a target, and what they see there.",
        discussion: """
            Whoever no rule names may not log in. '*' stands for all others: a rule that names an initiator \
            replaces it for that one.
            """,
        subcommands: [ACLCreate.self, ACLDelete.self, ACLList.self, ACLShow.self, ACLSet.self])
}

struct ACLCreate: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "create", abstract: "Let an initiator log in to a target.",
        discussion: """
            Examples:
              curve-iscsi acl create iqn.2026-11.example.com:db iqn.1994-05.com.example:host7
              curve-iscsi acl create iqn.2026-11.example.com:db '*' --address 10.0.0.0/8 --lun 7 --read-only
            """)
    @Argument(help: "Name of the target.") var target: String
    @Argument(help: "Name of the initiator, or '*' for any.") var initiator: String
    @Option(help: "Address or network it may come from; may be given several times (default: any).")
    var address: [String] = []
    @Option(help: "A LUN that it sees; may be given several times (default: all).") var lun: [UInt16] = []
    @Flag(help: "It may not write.") var readOnly = false
    @OptionGroup var options: ChangeOptions

    func run() throws {
        var rule = InitiatorEntry(initiator: initiator)
        (rule.addresses, rule.isReadOnly) = (address, readOnly)
        rule.luns = lun.isEmpty ? nil : lun
        try options.change { try $0.create(rule, of: target) }
    }
}

struct ACLDelete: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "delete", abstract: "Remove a rule; sessions that it let in end.")
    @Argument(help: "Name of the target.") var target: String
    @Argument(help: "Name of the initiator, or '*'.") var initiator: String
    @OptionGroup var options: ChangeOptions

    func run() throws { try options.change { try $0.deleteRule(initiator, of: target) } }
}

struct ACLSet: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "set", abstract: "Change a rule; what is not named stays.")
    @Argument(help: "Name of the target.") var target: String
    @Argument(help: "Name of the initiator, or '*'.") var initiator: String
    @Option(help: "The addresses or networks it may come from; may be given several times.")
    var address: [String] = []
    @Flag(help: "It may come from anywhere.") var anyAddress = false
    @Option(help: "The LUNs that it sees; may be given several times.") var lun: [UInt16] = []
    @Flag(help: "It sees all LUNs.") var allLuns = false
    @Flag(inversion: .prefixedNo, help: "It may not write.") var readOnly: Bool?
    @OptionGroup var options: ChangeOptions

    func run() throws {
        guard address.isEmpty || !anyAddress else {
            throw ToolError.failed("--address and --any-address say different things; leave one out")
        }
        guard lun.isEmpty || !allLuns else {
            throw ToolError.failed("--lun and --all-luns say different things; leave one out")
        }
        try options.change { configuration in
            try configuration.change(rule: initiator, of: target) { rule throws(ConfigurationError) in
                if !address.isEmpty || anyAddress { rule.addresses = address }
                if !lun.isEmpty { rule.luns = lun }
                if allLuns { rule.luns = nil }
                if let readOnly { rule.isReadOnly = readOnly }
            }
        }
    }
}

/// A rule as scripts read it.
struct RuleJSON: Encodable {
    let target: String, initiator: String, addresses: [String], luns: [UInt16]?, readOnly: Bool
    init(_ target: String, _ rule: InitiatorEntry) {
        (self.target, initiator, addresses) = (target, rule.initiator, rule.addresses)
        (luns, readOnly) = (rule.luns, rule.isReadOnly)
    }
}

extension InitiatorEntry {
    /// What it says, in one line.
    var looks: String {
        let numbers = luns.map { $0.isEmpty ? "no LUN" : "LUN " + $0.map { "\($0)" }.joined(separator: ", ") }
        return (numbers ?? "all LUNs") + (isReadOnly ? ", read-only" : "")
            + (addresses.isEmpty ? "" : ", from " + addresses.joined(separator: ", "))
    }
}

struct ACLList: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "list", abstract: "Show the rules of a target, or of all.")
    @Argument(help: "Name of the target.") var target: String?
    @OptionGroup var options: LookOptions

    func run() throws {
        let configuration = try options.configuration()
        if let target, configuration.target(target) == nil { throw configuration.noTarget(target).toolError }
        let rules = configuration.targets.filter { target == nil || $0.name == target }.flatMap { entry in
            entry.rules.map { (entry.name, $0) }
        }
        try options.print(
            rules.map { RuleJSON($0.0, $0.1) },
            table: [["TARGET", "INITIATOR", "MAY"]] + rules.map { [$0.0, $0.1.initiator, $0.1.looks] })
    }
}

struct ACLShow: ParsableCommand {
    static let configuration = CommandConfiguration(commandName: "show", abstract: "Show one rule.")
    @Argument(help: "Name of the target.") var target: String
    @Argument(help: "Name of the initiator, or '*'.") var initiator: String
    @OptionGroup var options: LookOptions

    func run() throws {
        let configuration = try options.configuration()
        guard let entry = configuration.target(target) else { throw configuration.noTarget(target).toolError }
        guard let rule = entry.rule(initiator) else { throw entry.noRule(initiator).toolError }
        try options.print(
            RuleJSON(target, rule),
            properties: [("target", target), ("initiator", initiator), ("may", rule.looks)])
    }
}
