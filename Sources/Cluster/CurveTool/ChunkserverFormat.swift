import ArgumentParser
import BlockTypes
import ChunkStore
import ControlMessages
import Environment
import Foundation
import ToolSupport

struct ChunkserverFormat: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "format", abstract: "Turn a block device or a file into an empty store of a cluster.",
        discussion: """
            A file is written in full, so that later writes never wait for the file system; \
            --lazy lets it grow instead, for trying things out. The file appears under its name \
            only when it is whole.
            Example:
              curve chunkserver format --store /srv/curve/store --size 100G
            """)
    @Option(help: "Block device, or file to make.") var store: String
    @Option(help: "Size of the file; of a device, how much of it to use (default: all).") var size: ByteSize?
    @Flag(help: "Let the file grow as it fills instead of writing it in full now.") var lazy = false
    @Flag(help: "Overwrite whatever the device or file holds.") var force = false
    @OptionGroup var metadata: MetadataOptions
    @OptionGroup(visibility: .hidden) var parent: ParentOptions

    func run() throws {
        parent.apply()
        let call = MetadataCall(try metadata.servers())
        let target = FormatTarget(path: store, sizeBytes: size?.bytes, isLazy: lazy, mayOverwrite: force)
        try target.check()
        // Nothing is made while nobody could give it a number, and no number is taken for what cannot be
        // made.
        _ = try call(.getCluster(ControlGetClusterRequest()))
        SignalThread.start { signal in
            target.undo()
            _exit(128 + signal.number)
        }
        do {
            try target.prepare()
            let identity = try identity(call)
            try target.write(identity)
            try target.publish()
            print("formatted \(store) as chunkserver \(identity.server) of cluster \(identity.cluster)")
        } catch {
            target.undo()
            throw error
        }
    }

    private func identity(_ call: MetadataCall) throws -> StoreIdentity {
        var source = SystemRandomNumberGenerator()
        let device = UniqueID(high: source.next(), low: source.next())
        var request = ControlAllocateServerRequest()
        (request.deviceID, request.host) = (device.controlBytes, ProcessInfo.processInfo.hostName)
        let answer = try call(.allocateServer(request)).allocateServer
        guard let cluster = UniqueID(controlBytes: answer.clusterID) else {
            throw ToolError.failed("the MDS gave a cluster id that is not 16 bytes")
        }
        return StoreIdentity(
            cluster: cluster, device: device, server: ServerID(answer.server), incarnation: Incarnation(0))
    }
}
