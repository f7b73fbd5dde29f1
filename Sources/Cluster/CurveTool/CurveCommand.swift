import ArgumentParser
import ToolSupport

/// The `curve` tool: daemons, volumes, pools, status.
@main struct CurveCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "curve",
        abstract: "Volumes on three durable replicas: the tool and the daemons.",
        discussion: """
            Examples:
              curve playground up                 a whole cluster on this machine
              curve status                        what runs, what is full, what is wrong
              curve volume create db --size 20G   a thin volume
              curve-nbd map db                    ... as /dev/nbd0

            The MDS is found by --mds, by CURVE_MDS, or by the playground that runs here.
            Exit status: 0 done, 1 not found or not connected, 2 wrong usage or an error.
            """,
        version: Version.text,
        subcommands: [
            PlaygroundCommand.self, StatusCommand.self, VolumeCommand.self, PoolCommand.self, MDSCommand.self,
            ChunkserverCommand.self,
        ])

    static func main() { ToolExit.run(Self.self) }
}
