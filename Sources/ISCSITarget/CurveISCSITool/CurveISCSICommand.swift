import ArgumentParser
import ToolSupport

/// The `curve-iscsi` tool: volumes as logical units of an iSCSI target.
@main struct CurveISCSICommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "curve-iscsi",
        abstract: "Serve volumes over iSCSI.",
        discussion: """
            Example:
              curve-iscsi serve --target iqn.2026-11.example.com:db --lun 0=db --portal 10.0.0.5:3260

            The MDS is found by --mds, by CURVE_MDS, or by the playground that runs here.
            Exit status: 0 done, 1 not found or not connected, 2 wrong usage or an error.
            """,
        version: Version.text,
        subcommands: [ServeCommand.self, GatewayCommand.self])

    static func main() { ToolExit.run(Self.self) }
}
