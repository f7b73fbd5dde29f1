import ArgumentParser
import BlockTypes
import ControlMessages
import CurveClient
import Environment
import Foundation
import Reactor
import ToolSupport

struct VolumeExpel: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "expel", abstract: "End the attachment of one of those who hold a volume together.",
        discussion: """
            The others go on. When this returns, nothing that the member has sent takes effect any more, \
            wherever it is. "curve volume info" lists the members.
            Examples:
              curve volume expel db 7
              curve volume expel db 7 --force
            """)
    @Argument(help: "Path of the volume.") var path: String
    @Argument(help: "Number of the member's attachment.") var member: UInt32
    @Flag(help: "Also if the member's lease still runs.") var force = false
    @OptionGroup var metadata: MetadataOptions

    func run() throws {
        let servers = try metadata.servers()
        var question = ControlGetVolumeRequest()
        question.path = volumePath(path)
        let volume = try MetadataCall(servers)(.getVolume(question)).volume.volume
        guard let found = volume.members.first(where: { $0.epoch == member }) else {
            let numbers = volume.members.map { "\($0.epoch)" }.joined(separator: ", ")
            throw ToolError.notFound(
                "\(volume.path) has no member \(member); "
                    + (numbers.isEmpty ? "no group holds it" : "its members are \(numbers)"))
        }
        guard found.silent || force else {
            throw ToolError.failed(
                "\(found.holder), member \(member) of \(volume.path), lives; detach it there, or add --force")
        }
        try expel(from: volume, servers)
        print("\(volume.path): \(found.holder), attachment \(member), is expelled")
    }

    private func expel(from volume: ControlVolume, _ servers: MetadataServerList) throws {
        let reactor: Reactor
        do { reactor = try Reactor() } catch { throw ToolError.failed("\(error)") }
        reactor.logLevel = .warning
        let here = ProcessInfo.processInfo
        let holder = "curve volume expel on \(here.hostName) pid \(here.processIdentifier)"
        var options = AttachOptions(
            path: volume.path, metadataServers: servers.addresses, holder: holder, holderKey: holder,
            isReadOnly: true)
        options.group = volume.group
        var failure: ToolError?
        RemoteVolume.removeMember(Epoch(member), force: force, environment: reactor, options: options) {
            if case .failure(let error) = $0 { failure = .failed("\(error)") }
            reactor.stop()
        }
        reactor.run()
        if let failure { throw failure }
    }
}
