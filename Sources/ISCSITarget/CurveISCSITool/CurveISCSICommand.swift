import ArgumentParser
import ToolSupport

/// The `curve-iscsi` tool: volumes as logical units of an iSCSI target.
@main struct CurveISCSICommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "curve-iscsi",
        abstract: "Serve volumes over iSCSI.",
        discussion: """
            What gateways serve is kept in the cluster: make targets, LUNs, portals, rules and users here, and
            start 'curve-iscsi serve --gateway NAME' where a gateway is to run. Gateways go by every change
            while they run; one that is down goes by it when it starts.
            Examples:
              curve-iscsi gateway create a --portal 10.0.0.5:3260
              curve-iscsi target create iqn.2026-11.example.com:db --allow iqn.1994-05.com.example:host7
              curve-iscsi lun create iqn.2026-11.example.com:db db
              curve-iscsi serve --gateway a
            Without any of that, for one program that serves what it is told:
              curve-iscsi serve --target iqn.2026-11.example.com:db --lun 0=db --portal 10.0.0.5:3260

            The MDS is found by --mds, by CURVE_MDS, or by the playground that runs here.
            Exit status: 0 done, 1 not found or not connected, 2 wrong usage or an error.
            """,
        version: Version.text,
        subcommands: [
            ServeCommand.self, TargetCommand.self, LUNCommand.self, PortalCommand.self, ACLCommand.self,
            UserCommand.self, DiscoveryCommand.self, SessionCommand.self, ApplyCommand.self,
            ExportCommand.self, GatewayCommand.self, GatewayDrain.self,
        ])

    static func main() { ToolExit.run(Self.self) }
}
