import ArgumentParser
import ISCSIConfiguration
import ToolSupport

struct GatewayCreate: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "create", abstract: "Add a gateway to the configuration.",
        discussion: """
            It serves all targets that name no other, once 'curve-iscsi serve --gateway NAME' runs.
            Example:
              curve-iscsi gateway create a --portal 10.0.0.5:3260 --portal [2001:db8::5]:3260
            """)
    @Argument(help: "The gateway's name.") var name: String
    @Option(help: "HOST:PORT or [IPv6]:PORT where it listens; may be given several times.")
    var portal: [String] = []
    @Option(help: "Its target port group tag, for good (default: the lowest that is free).")
    var groupTag: UInt16?
    @OptionGroup var options: ChangeOptions

    func run() throws {
        let portals = portal.map { PortalEntry(address: $0) }
        try options.change { try $0.createGateway(name, tag: groupTag, portals: portals) }
    }
}

struct GatewayDelete: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "delete",
        abstract:
            "Take a gateway out of the configuration; one that runs ends its sessions, and serves nothing.")
    @Argument(help: "The gateway's name.") var name: String
    @Flag(help: "With its portals.") var force = false
    @OptionGroup var options: ChangeOptions

    func run() throws { try options.change { try $0.deleteGateway(name, force: force) } }
}

struct GatewaySet: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "set", abstract: "Change a gateway of the configuration; what is not named stays.",
        discussion: """
            Another tag makes other paths of it: it takes effect when the gateway is started again.
            """)
    @Argument(help: "The gateway's name.") var name: String
    @Option(help: "Where it listens, in place of all portals that it has; may be given several times.")
    var portal: [String] = []
    @Option(help: "Its target port group tag.") var groupTag: UInt16?
    @OptionGroup var options: ChangeOptions

    func run() throws {
        try options.change { configuration in
            try configuration.change(gateway: name) { gateway throws(ConfigurationError) in
                if let groupTag { gateway.groupTag = groupTag }
                guard !portal.isEmpty else { return }
                let known = gateway.portals
                gateway.portals = portal.map { address in
                    known.first { $0.address == address } ?? PortalEntry(address: address)
                }
            }
        }
    }
}

/// A gateway of the configuration as scripts read it.
struct GatewayJSON: Encodable {
    let name: String, groupTag: UInt16, portals: [PortalJSON], targets: [String]
    init(_ gateway: GatewayEntry, _ configuration: ISCSIConfiguration) {
        (name, groupTag) = (gateway.name, gateway.groupTag)
        portals = gateway.portals.map { PortalJSON(gateway.name, gateway.groupTag, $0) }
        targets = configuration.targets.filter { configuration.gatewayNames(of: $0).contains(gateway.name) }
            .map(\.name)
    }
}

extension LookOptions {
    /// Prints the gateways of the configuration.
    func showGateways() throws {
        let configuration = try configuration()
        let gateways = configuration.gateways.map { GatewayJSON($0, configuration) }
        try print(
            gateways,
            table: [["GATEWAY", "GROUP", "TARGETS", "PORTALS"]]
                + gateways.map { gateway in
                    let portals = gateway.portals.map(\.address).joined(separator: " ")
                    return [
                        gateway.name, "\(gateway.groupTag)", "\(gateway.targets.count)",
                        portals.isEmpty ? "-" : portals,
                    ]
                })
    }
    /// Prints one.
    func showGateway(_ name: String) throws {
        let configuration = try configuration()
        guard let entry = configuration.gateway(name) else { throw configuration.noGateway(name).toolError }
        let gateway = GatewayJSON(entry, configuration)
        let portals = gateway.portals.map { portal in
            ("portal", portal.address + (portal.announce.map { ", announced as \($0)" } ?? ""))
        }
        try print(
            gateway,
            properties: [("gateway", name), ("group tag", "\(gateway.groupTag)")] + portals
                + gateway.targets.map { ("serves", $0) })
    }
}
