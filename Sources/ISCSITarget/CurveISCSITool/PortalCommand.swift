import ArgumentParser
import ISCSIConfiguration
import ToolSupport

struct PortalCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "portal",
        abstract: "Portals: where gateways listen. A gateway is there with its first portal.",
        subcommands: [
            PortalCreate.self, PortalDelete.self, PortalList.self, PortalShow.self, PortalSet.self,
        ])
}

struct PortalCreate: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "create", abstract: "Let a gateway listen on an address.",
        discussion: """
            A gateway is the name that 'curve-iscsi serve --gateway NAME' says; it keeps one group tag for \
            good.
            Examples:
              curve-iscsi portal create 10.0.0.5:3260 --gateway a
              curve-iscsi portal create 0.0.0.0:3260 --gateway b --announce 192.0.2.7:3260
            """)
    @Argument(help: "HOST:PORT or [IPv6]:PORT.") var address: String
    @Option(help: "Name of the gateway.") var gateway: String
    @Option(help: "What initiators are told in place of the address.") var announce: String?
    @OptionGroup var options: ChangeOptions

    func run() throws {
        try options.change {
            try $0.create(PortalEntry(address: address, announced: announce), of: gateway)
        }
    }
}

struct PortalDelete: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "delete",
        abstract: "Let a gateway listen no more on an address; its sessions are asked to log out, and end.")
    @Argument(help: "HOST:PORT.") var address: String
    @Option(help: "Name of the gateway.") var gateway: String
    @OptionGroup var options: ChangeOptions

    func run() throws { try options.change { try $0.deletePortal(address, of: gateway) } }
}

struct PortalSet: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "set", abstract: "Change what initiators are told of a portal.")
    @Argument(help: "HOST:PORT.") var address: String
    @Option(help: "Name of the gateway.") var gateway: String
    @Option(help: "What initiators are told in place of the address.") var announce: String?
    @Flag(help: "They are told the address.") var noAnnounce = false
    @OptionGroup var options: ChangeOptions

    func run() throws {
        guard announce == nil || !noAnnounce else {
            throw ToolError.failed("--announce and --no-announce say different things; leave one out")
        }
        try options.change { configuration in
            try configuration.change(portal: address, of: gateway) { portal in
                if let announce { portal.announced = announce }
                if noAnnounce { portal.announced = nil }
            }
        }
    }
}

/// A portal as scripts read it.
struct PortalJSON: Encodable {
    let gateway: String, groupTag: UInt16, address: String, announce: String?
    init(_ gateway: String, _ groupTag: UInt16, _ portal: PortalEntry) {
        (self.gateway, self.groupTag) = (gateway, groupTag)
        (address, announce) = (portal.address, portal.announced)
    }
}

struct PortalList: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "list", abstract: "Show the portals of a gateway, or of all.")
    @Option(help: "Name of the gateway.") var gateway: String?
    @OptionGroup var options: LookOptions

    func run() throws {
        let configuration = try options.configuration()
        if let gateway, configuration.gateway(gateway) == nil {
            throw configuration.noGateway(gateway).toolError
        }
        let portals = configuration.gateways.filter { gateway == nil || $0.name == gateway }.flatMap {
            entry in
            entry.portals.map { (entry, $0) }
        }
        try options.print(
            portals.map { PortalJSON($0.0.name, $0.0.groupTag, $0.1) },
            table: [["GATEWAY", "GROUP", "ADDRESS", "ANNOUNCED"]]
                + portals.map { entry, portal in
                    [entry.name, "\(entry.groupTag)", portal.address, portal.announced ?? "-"]
                })
    }
}

struct PortalShow: ParsableCommand {
    static let configuration = CommandConfiguration(commandName: "show", abstract: "Show one portal.")
    @Argument(help: "HOST:PORT.") var address: String
    @Option(help: "Name of the gateway.") var gateway: String
    @OptionGroup var options: LookOptions

    func run() throws {
        let configuration = try options.configuration()
        guard let entry = configuration.gateway(gateway) else {
            throw configuration.noGateway(gateway).toolError
        }
        guard let portal = entry.portals.first(where: { $0.address == address }) else {
            throw entry.noPortal(address).toolError
        }
        try options.print(
            PortalJSON(entry.name, entry.groupTag, portal),
            properties: [
                ("gateway", entry.name), ("group tag", "\(entry.groupTag)"), ("address", portal.address),
                ("announced", portal.announced ?? "-"),
            ])
    }
}
