import ArgumentParser
import BlockTypes
import ControlMessages
import CurveClient
import Environment
import Foundation
import Reactor
import ToolSupport

struct VolumeResize: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "resize", abstract: "Grow or shrink a volume, attached or not.",
        discussion: """
            An attached volume grows under its holder within a lease renewal, without an interruption, \
            so does one that a group of gateways holds. It shrinks when nobody holds it.
            Examples:
              curve volume resize db --size 40G
              curve volume resize db --size 10G --shrink
            """)
    @Argument(help: "Path of the volume.") var path: String
    @Option(help: "New size, for example 40G; a multiple of 4096 bytes from 1M to 1P.") var size: ByteSize
    @Flag(help: "Agree that what lies past a smaller end is lost.") var shrink = false
    @OptionGroup var metadata: MetadataOptions

    func run() throws {
        let servers = try metadata.servers()
        let call = MetadataCall(servers)
        var question = ControlGetVolumeRequest()
        question.path = volumePath(path)
        let before = try call(.getVolume(question)).volume.volume
        guard size.bytes >= before.sizeBytes || shrink else {
            throw ToolError.failed(
                "\(before.path) has \(Text.size(before.sizeBytes)); what lies past \(Text.size(size.bytes)) "
                    + "would be lost for good; add --shrink to agree")
        }
        let group = UInt64(max(before.stripeCount, 1)) * UInt64(Geometry.chunkBytes)
        let isUneven = before.stripeCount > 1 && before.sizeBytes % group != 0
        if before.holder.isEmpty, size.bytes < before.sizeBytes ? shrink : isUneven {
            // Nobody holds it: this tool does for a moment, so that what lies past the end is freed now.
            try resizeUnattached(servers)
        } else {
            var request = ControlResizeVolumeRequest()
            (request.path, request.sizeBytes, request.allowShrink) = (volumePath(path), size.bytes, shrink)
            // What the last shrink cut off may still be on its way out.
            _ = try call.whenReady(.resizeVolume(request))
        }
        print("\(volumePath(path)): \(Text.size(before.sizeBytes)) -> \(Text.size(size.bytes))")
    }

    private func resizeUnattached(_ servers: MetadataServerList) throws {
        let reactor: Reactor
        do { reactor = try Reactor() } catch { throw ToolError.failed("\(error)") }
        reactor.logLevel = .warning
        let here = ProcessInfo.processInfo
        let holder = "curve volume resize on \(here.hostName) pid \(here.processIdentifier)"
        var failure: ToolError?
        RemoteVolume.resize(
            environment: reactor,
            options: AttachOptions(
                path: volumePath(path), metadataServers: servers.addresses, holder: holder,
                holderKey: holder),
            to: ByteCount(bytes: size.bytes), allowShrink: shrink
        ) { result in
            if case .failure(let error) = result { failure = .failed("\(error)") }
            reactor.stop()
        }
        reactor.run()
        if let failure { throw failure }
    }
}
