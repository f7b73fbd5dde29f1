import ArgumentParser
import BlockTypes
import ControlMessages
import CurveClient
import Environment
import Foundation
import ISCSIConfiguration
import ISCSICoordination
import Reactor
import SCSICommands
import ToolSupport

struct GatewayCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "gateway", abstract: "Gateways: programs that serve targets, by several at once.",
        discussion: """
            A gateway of the configuration is called by its name alone; it runs as 'curve-iscsi serve \
            --gateway NAME'. One that was started with serve --group is found by the volume that is the \
            lowest LUN of its target, and called by its name (serve --holder-key) or its target port group \
            tag.
            Examples:
              curve-iscsi gateway create a --portal 10.0.0.5:3260
              curve-iscsi gateway status a
              curve-iscsi gateway drain a
              curve-iscsi gateway list db
              curve-iscsi gateway drain db 2
            """,
        subcommands: [
            GatewayCreate.self, GatewayDelete.self, GatewayListing.self, GatewayShow.self, GatewaySet.self,
            GatewayStatus.self, GatewayDrain.self, GatewayRemove.self,
        ])
}

private struct GatewayListing: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "list",
        abstract: "Show the gateways of the configuration, or those of a volume's target.")
    @Argument(help: "Path of the volume that is the target's lowest LUN (default: the configuration).")
    var volume: String?
    @OptionGroup var options: LookOptions

    func run() throws {
        guard let volume else { return try options.showGateways() }
        let roll = try GatewayRoll(volume, try options.metadata.servers())
        try options.print(
            roll.rows,
            table: [["TAG", "NAME", "STATE", "INITIATORS", "LEASE", "PORTALS"]]
                + roll.rows.map { row in
                    [
                        "\(row.tag)", row.name, row.state, row.initiators, row.lease,
                        row.portals.isEmpty ? "-" : row.portals.joined(separator: " "),
                    ]
                })
    }
}

private struct GatewayShow: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "show", abstract: "Show one gateway.", usage: GatewayNaming.usage("show"))
    @OptionGroup var naming: GatewayNaming
    @OptionGroup var options: LookOptions

    func run() throws {
        guard let volume = naming.volume else { return try options.showGateway(naming.gateway) }
        let roll = try GatewayRoll(volume, try options.metadata.servers())
        let row = roll.row(try roll.gateway(naming.gateway))
        try options.print(
            row,
            properties: [
                ("target", roll.list.target), ("gateway", row.name), ("tag", "\(row.tag)"),
                ("state", row.state), ("initiators", row.initiators), ("lease", row.lease),
            ] + row.portals.map { ("portal", $0) }
                + row.attachments.map { ("holds", "volume \($0.volume), attachment \($0.epoch)") })
    }
}

/// Which gateway is meant: one of the configuration, or one of a volume's target.
struct GatewayNaming: ParsableArguments {
    @Argument(help: "The gateway's name; before it, where serve --group runs, the path of the volume.")
    var words: [String]

    func validate() throws {
        guard (1...2).contains(words.count) else {
            throw ValidationError("\(words.count) names of a gateway; write GATEWAY, or VOLUME GATEWAY")
        }
    }
    var volume: String? { words.count == 2 ? words[0] : nil }
    var gateway: String { words.last ?? "" }
    static func usage(_ verb: String) -> String {
        "curve-iscsi gateway \(verb) [<volume>] <gateway> [<options>]"
    }
}

struct GatewayDrain: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "drain", abstract: "Send a gateway's initiators to the others.",
        usage: GatewayNaming.usage("drain"),
        discussion: """
            Its ports become standby, initiators are told so and asked to log out, and no more are let in. \
            Returns when no session is left; then the gateway can be stopped without anybody noticing. \
            With --redirect initiators that come meanwhile are sent to another gateway (target moved \
            temporarily), for those that know one address only; without it they are told to come back later, \
            and use their other paths.
            Examples:
              curve-iscsi gateway drain a
              curve-iscsi gateway drain a --undo
              curve-iscsi gateway drain db host7 --redirect
            """)
    @OptionGroup var naming: GatewayNaming
    @Flag(help: "Let initiators come again.") var undo = false
    @Flag(help: "Send those that come to another gateway.") var redirect = false
    @Flag(help: "Also if no other gateway takes initiators.") var force = false
    @Option(help: "Seconds to wait for the last session; 0: do not wait.") var wait = 60
    @OptionGroup var options: LookOptions

    private struct Outcome: Encodable { let gateway: String, tag: UInt16, initiators: String }
    func run() throws {
        guard (0...Self.waitMax).contains(wait) else {
            throw ToolError.failed("--wait is a number of seconds from 0 to \(Self.waitMax)")
        }
        guard !undo || !redirect else {
            throw ToolError.failed(
                "--undo lets initiators come again, --redirect sends them away; leave one out")
        }
        let servers = try options.metadata.servers()
        let roll = try naming.roll(options.metadata)
        let found = try roll.gateway(naming, options.metadata)
        let tag = found.group.tag
        let others = roll.list.gateways.contains { $0.group.tag != tag && $0.drain == .none }
        guard
            !redirect
                || roll.list.gateways.contains(where: {
                    $0.group.tag != tag && $0.drain == .none && !$0.portals.isEmpty
                })
        else {
            throw ToolError.failed(
                "no gateway but \(roll.words(found)) takes initiators and says where it is; start another, with "
                    + "--advertise where it listens on all interfaces")
        }
        guard undo || others || force else {
            throw ToolError.failed(
                "no gateway but \(roll.words(found)) takes initiators; start another, or add --force")
        }
        try GatewayChange(roll, servers).apply {
            let isDone = $0.gateway(called: "\(tag)")?.drain == .done
            return $0.setDrain(undo ? .none : isDone ? .done : .asked, of: tag, redirecting: redirect)
        }
        if undo { return try say(roll, found, .none, "initiators may log in again") }
        let end = ContinuousClock.now + .seconds(wait)
        while wait > 0 {
            let now = try GatewayRoll(roll.volume.path, servers)
            guard let gateway = now.list.gateways.first(where: { $0.sessions == found.sessions }) else {
                throw ToolError.notFound("\(roll.words(found)) is gone")
            }
            if gateway.drain == .done { return try say(roll, found, .done, "no session is left") }
            guard ContinuousClock.now < end else {
                throw ToolError.failed(
                    "\(roll.words(found)) still has sessions after \(wait) s; log them out at their "
                        + "initiators, or stop the gateway: they go on over other paths")
            }
            Thread.sleep(forTimeInterval: Self.pollSeconds)
        }
        try say(roll, found, .asked, "initiators are asked to log out")
    }
    private func say(
        _ roll: GatewayRoll, _ gateway: Gateway, _ drain: Gateway.Drain, _ text: String
    ) throws {
        guard options.json else { return print("\(roll.words(gateway)): \(text)") }
        let (name, tag) = (gateway.name, gateway.group.tag)
        print(try Text.json(Outcome(gateway: name, tag: tag, initiators: drain.words)))
    }
    private static let pollSeconds = 0.3
    /// A day.
    private static let waitMax = 86400
}

extension GatewayNaming {
    /// The list in which the gateway stands: that of the volume, or of one that a gateway of the
    /// configuration serves. Whoever is drained by one of its volumes is drained altogether.
    fileprivate func roll(_ metadata: MetadataOptions) throws -> GatewayRoll {
        let servers = try metadata.servers()
        if let volume { return try GatewayRoll(volume, servers) }
        let (configuration, entry) = try metadata.entry(gateway)
        let targets = configuration.targets.filter {
            configuration.gatewayNames(of: $0).contains(entry.name)
        }
        for lun in targets.flatMap(\.luns) {
            // A volume that is missing, or that nobody serves, is no reason to look no further.
            if let roll = try? GatewayRoll(lun.volume, servers),
                roll.list.gateway(called: "\(entry.groupTag)") != nil
            {
                return roll
            }
        }
        throw ToolError.notFound(
            "gateway \(gateway) serves no LUN; if it should, see 'curve-iscsi gateway status \(gateway)'")
    }
}

extension MetadataOptions {
    fileprivate func entry(_ name: String) throws -> (ISCSIConfiguration, GatewayEntry) {
        let configuration = try ConfigurationAccess(self).read().configuration
        guard let entry = configuration.gateway(name) else { throw configuration.noGateway(name).toolError }
        return (configuration, entry)
    }
}

private struct GatewayRemove: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "remove", abstract: "End a gateway of a volume's target for good, wherever it runs.",
        discussion: """
            When this returns, nothing that the gateway has sent takes effect any more, and another may have \
            its place. Drain it first if it lives.
            Example:
              curve-iscsi gateway remove db host7 --force
            """)
    @Argument(help: "Path of the volume that is the target's lowest LUN.") var volume: String
    @Argument(help: "The gateway's name or tag.") var gateway: String
    @Flag(help: "Also if its lease still runs.") var force = false
    @OptionGroup var options: LookOptions

    private struct Outcome: Encodable { let gateway: String, tag: UInt16, isListed: Bool }
    func run() throws {
        let servers = try options.metadata.servers()
        let roll = try GatewayRoll(volume, servers)
        let found = try roll.gateway(gateway)
        guard roll.row(found).lease != "runs" || force else {
            throw ToolError.failed("\(roll.words(found)) lives; stop it there, or add --force")
        }
        try GatewayChange(roll, servers).expel(found, force: force)
        // The others see to the rest: other volumes, RESERVE(6), its place.
        let end = ContinuousClock.now + Self.patience
        while ContinuousClock.now < end {
            guard
                try GatewayRoll(volume, servers).list.gateways.contains(where: {
                    $0.sessions == found.sessions
                })
            else { return try say(found, isListed: false, "\(roll.words(found)) is removed") }
            Thread.sleep(forTimeInterval: Self.pollSeconds)
        }
        try say(
            found, isListed: true,
            "\(roll.words(found)) can write to \(roll.volume.path) no more; no other gateway took it off the "
                + "list, the next that starts does")
    }
    private func say(_ gateway: Gateway, isListed: Bool, _ text: String) throws {
        guard options.json else { return print(text) }
        let (name, tag) = (gateway.name, gateway.group.tag)
        print(try Text.json(Outcome(gateway: name, tag: tag, isListed: isListed)))
    }
    private static let patience = Duration.seconds(20)
    private static let pollSeconds = 0.3
}

extension Gateway.Drain {
    /// How initiators are there.
    var words: String {
        switch self {
        case .none: "welcome"
        case .asked: "asked to leave"
        case .done: "have left"
        }
    }
}

/// What the cluster knows of the gateways of a target.
private struct GatewayRoll {
    struct Attachment: Encodable {
        let volume: UInt64
        let epoch: UInt32
    }
    struct Row: Encodable {
        let tag: UInt16
        let name: String
        let state: String
        let initiators: String
        let lease: String
        let portals: [String]
        let attachments: [Attachment]
    }
    let volume: ControlVolume
    let list: GatewayList

    init(_ path: String, _ servers: MetadataServerList) throws {
        let call = MetadataCall(servers)
        var question = ControlGetVolumeRequest()
        question.path = path.hasPrefix("/") ? path : "/" + path
        volume = try call(.getVolume(question)).volume.volume
        var value = ControlGetValueRequest()
        (value.volume, value.name) = (volume.id, GatewayList.valueName)
        let bytes = Array(try call(.getValue(value)).value.value)
        do { list = try GatewayList(decoding: bytes) } catch {
            throw ToolError.failed("the list of gateways of \(volume.path) cannot be read: \(error)")
        }
        guard !list.gateways.isEmpty else {
            throw ToolError.notFound(
                "no gateways agree by \(volume.path); name the volume that is the lowest LUN of their "
                    + "target, and start them with --group")
        }
    }

    func gateway(_ word: String) throws -> Gateway {
        if let found = list.gateway(called: word) { return found }
        let known = list.gateways.map { "\($0.group.tag) (\($0.name))" }.joined(separator: ", ")
        let count = list.gateways.count { $0.name == word }
        throw ToolError.notFound(
            count > 1
                ? "\(count) gateways are called '\(word)'; write a tag: \(known)"
                : "\(list.target) has no gateway '\(word)'; there are \(known)")
    }
    /// A gateway of the configuration has its tag for good; another's name may be a number, too.
    func gateway(_ naming: GatewayNaming, _ metadata: MetadataOptions) throws -> Gateway {
        guard naming.volume == nil else { return try gateway(naming.gateway) }
        return try gateway("\(metadata.entry(naming.gateway).1.groupTag)")
    }
    func words(_ gateway: Gateway) -> String {
        "gateway \(gateway.group.tag) of \(list.target)\(gateway.name.isEmpty ? "" : ", \(gateway.name)")"
    }
    var rows: [Row] { list.gateways.map { row($0) } }
    func row(_ gateway: Gateway) -> Row {
        let own = gateway.sessions.first { $0.volume == volume.id }
        let member = volume.members.first { $0.epoch == own?.epoch ?? 0 }
        return Row(
            tag: gateway.group.tag, name: gateway.name, state: Self.words(gateway.group.state),
            initiators: gateway.drain.words,
            lease: member.map { $0.silent ? "ran out" : "runs" } ?? "ended", portals: gateway.portals,
            attachments: gateway.sessions.map { Attachment(volume: $0.volume, epoch: $0.epoch) })
    }
    private static func words(_ state: PortState) -> String {
        switch state {
        case .activeOptimized: "active"
        case .activeNonOptimized: "active, not optimized"
        case .standby: "standby"
        case .unavailable: "unavailable"
        case .transitioning: "in transition"
        }
    }
}

/// A change that only members of the volume's group may make: joins it for a moment.
private struct GatewayChange {
    private let roll: GatewayRoll
    private let servers: MetadataServerList
    /// Gateways change the list too; whoever is slower begins anew.
    private static let attemptsMax = 16

    init(_ roll: GatewayRoll, _ servers: MetadataServerList) { (self.roll, self.servers) = (roll, servers) }

    private var options: AttachOptions {
        let here = ProcessInfo.processInfo
        let holder = "curve-iscsi gateway on \(here.hostName) pid \(here.processIdentifier)"
        var options = AttachOptions(
            path: roll.volume.path, metadataServers: servers.addresses, holder: holder, holderKey: holder,
            isReadOnly: true)
        options.group = roll.volume.group
        return options
    }
    private func inReactor(_ body: (Reactor, _ done: @escaping ((any Error)?) -> Void) -> Void) throws {
        guard !roll.volume.group.isEmpty else {
            throw ToolError.failed("no gateway of \(roll.list.target) runs; start one")
        }
        let reactor: Reactor
        do { reactor = try Reactor() } catch { throw ToolError.failed("\(error)") }
        reactor.logLevel = .warning
        var failure: (any Error)?
        body(reactor) {
            failure = $0
            reactor.stop()
        }
        reactor.run()
        if let failure { throw ToolError.failed("\(failure)") }
    }

    func expel(_ gateway: Gateway, force: Bool) throws {
        guard let own = gateway.sessions.first(where: { $0.volume == roll.volume.id }),
            roll.volume.members.contains(where: { $0.epoch == own.epoch })
        else { return }
        try inReactor { reactor, done in
            RemoteVolume.removeMember(
                Epoch(own.epoch), force: force, environment: reactor, options: options
            ) { result in
                if case .failure(let error) = result { done(error) } else { done(nil) }
            }
        }
    }
    /// - Parameter change: returns false when there is nothing to change.
    func apply(_ change: @escaping (inout GatewayList) -> Bool) throws {
        try inReactor { reactor, done in
            RemoteVolume.attach(environment: reactor, options: options) { result in
                switch result {
                case .failure(let error): done(error)
                case .success(let volume):
                    Self.apply(change, to: volume, reactor) { error in volume.detach { done(error) } }
                }
            }
        }
    }
    private static func apply(
        _ change: @escaping (inout GatewayList) -> Bool, to volume: RemoteVolume, _ reactor: Reactor,
        attempt: Int = 1, done: @escaping ((any Error)?) -> Void
    ) {
        volume.value(GatewayList.valueName) { result in
            do {
                let value = try result.get()
                var list = try GatewayList(decoding: value.bytes)
                guard change(&list) else { return done(nil) }
                list.author = reactor.random()
                volume.swapValue(GatewayList.valueName, expected: value.version, bytes: list.encoded) {
                    switch $0 {
                    case .failure(let error): done(error)
                    case .success(let answer) where answer.isSwapped: done(nil)
                    case .success:
                        guard attempt < attemptsMax else {
                            return done(
                                ToolError.failed("the list of gateways changes all the time; try again"))
                        }
                        apply(change, to: volume, reactor, attempt: attempt + 1, done: done)
                    }
                }
            } catch { done(error) }
        }
    }
}
