import ArgumentParser
import ToolSupport

/// The `curve-nbd` tool: volumes as NBD exports and as kernel devices.
@main struct CurveNBDCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "curve-nbd",
        abstract: "Serve volumes over NBD, or map them to /dev/nbdX.",
        discussion: """
            Examples:
              curve-nbd serve db --listen unix:/run/db.sock   for QEMU, libnbd
              curve-nbd map db                                as /dev/nbd0 here
              curve-nbd list                                  mapped devices
              curve-nbd unmap /dev/nbd0

            The MDS is found by --mds, by CURVE_MDS, or by the playground that runs here.
            Exit status: 0 done, 1 not found or not connected, 2 wrong usage or an error.
            """,
        version: Version.text,
        subcommands: [
            ServeCommand.self, ExportCommand.self, MapCommand.self, UnmapCommand.self, ListCommand.self,
            CheckCommand.self, AttachCommand.self, AutomapCommand.self, UpgradeCommand.self,
            DaemonCommand.self,
        ])

    static func main() { ToolExit.run(Self.self) }
}
