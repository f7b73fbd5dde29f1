import ArgumentParser
import BlockTypes
import CurveClient
import Environment
import Foundation
import ISCSIConfiguration
import ISCSIGateway
import ISCSIProtocol
import ISCSIServer
import Reactor
import SCSICommands
import ToolSupport

struct ServeCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "serve", abstract: "Serve volumes as LUNs of one target until Ctrl-C.",
        discussion: """
            One program at a time serves a volume. --takeover ends the other one's access for good. Several
            programs with the same --group, --target and --lun serve the volumes together, as paths to the
            same disks: reservations and COMPARE AND WRITE hold across them.
            Initiators need no password unless --user is given; the target then lets nobody in without.
            With --gateway the cluster's configuration says what is served; see 'curve-iscsi --help'. Its
            targets are spread over threads; all of one target happens on one of them.
            Examples:
              curve-iscsi serve --gateway a
              curve-iscsi serve --target iqn.2026-11.example.com:db --lun 0=db
              curve-iscsi serve --target iqn.2026-11.example.com:vm --lun 0=vm/root --lun 1=vm/data \\
                --portal 10.0.0.5:3260 --user vm --secret-file /etc/curve/vm.secret \\
                --allow iqn.1994-05.com.example:host7
              curve-iscsi serve --target iqn.2026-11.example.com:db --lun 0=db --group db \\
                --portal 10.0.0.6:3260
            """)
    @Option(
        help:
            "Serve what the cluster's configuration says for the gateway of this name, and go by its changes."
    )
    var gateway: String?
    @Option(
        help: """
            Threads over which --gateway spreads its targets, 1 to \(Self.threadsMax) (default: one for each \
            core, at most \(Self.threadsUsualMax)).
            """)
    var threads: Int?
    @Option(help: "Name of the target: iqn.YYYY-MM.DOMAIN:WORD.") var target: String?
    @Option(help: "NUMBER=VOLUME: a volume's path under the number that initiators use; once for each.")
    var lun: [String] = []
    @Option(
        help: """
            Address to listen on, host:port or unix:/path; may be given several times (default: \
            127.0.0.1:3260).
            """)
    var portal: [String] = []
    @Option(
        name: [.customLong("advertise"), .customLong("announce")],
        help: """
            Address:port that initiators are told when they look for targets, by all gateways of a group; \
            may be given several times (default: the portals, but for wildcards).
            """)
    var announce: [String] = []
    @Option(help: "Bytes in a block: 512 or 4096.") var blockSize = 512
    @Flag(help: "Refuse writes.") var readOnly = false
    @Option(help: "Tell initiators when a store of a volume's pool is so full, in percent; 0: never.")
    var threshold = SoftThreshold.usualPercent
    @OptionGroup var access: AccessOptions
    @Flag(help: "Take the volumes from whoever holds them; the holder can never write to them again.")
    var takeover = false
    @Option(help: "Serve the volumes together with all who say the same name.") var group: String?
    @Option(help: "Fail requests after this many seconds without a majority (default: wait).")
    var errorAfter: Int?
    @Option(help: "Stable name of this gateway: started again under it, it need not wait for the old lease.")
    var holderKey: String?
    @OptionGroup var metadata: MetadataOptions
    @OptionGroup var daemon: DaemonOptions

    static let threadsMax = 64
    /// Each costs a ring and its staging memory, and more than there are busy targets do nothing.
    static let threadsUsualMax = 8

    func run() throws {
        if let threads, !(1...Self.threadsMax).contains(threads) {
            throw ToolError.failed("--threads is a number from 1 to \(Self.threadsMax)")
        }
        guard gateway != nil || threads == nil else {
            throw ToolError.failed(
                "--threads goes with --gateway: one target is served by one thread; for more targets start "
                    + "more programs, or give them to a gateway")
        }
        guard holderKey != "" else { throw ToolError.failed("--holder-key needs a name") }
        if let gateway { return try serve(gateway) }
        guard let target, !lun.isEmpty else {
            throw ToolError.failed(
                "say what to serve: --gateway NAME for what the cluster's configuration has, or --target and "
                    + "--lun")
        }
        let addresses = try portals()
        for address in announce where !ConfigurationRules.isAddress(address) {
            throw ToolError.failed(
                "--advertise '\(address)' is no address; write HOST:PORT or [IPv6]:PORT")
        }
        let description = try access.describe(target: target)
        guard blockSize == 512 || blockSize == 4096 else {
            throw ToolError.failed("--block-size \(blockSize) is not possible; write 512 or 4096")
        }
        guard (0..<100).contains(threshold) else {
            throw ToolError.failed(
                "--threshold \(threshold) is not possible; write 1 to 99 percent, or 0 for none")
        }
        if let errorAfter, errorAfter <= 0 {
            throw ToolError.failed("--error-after is a number of seconds from 1")
        }
        if let group, group.isEmpty { throw ToolError.failed("--group needs a name") }
        let plans = try plannedUnits(mds: try metadata.servers().addresses)
        let reactor = try daemon.reactor(name: "curve-iscsi")
        let gateway = TargetGateway(
            reactor: reactor, target: description, listen: addresses, announced: announce,
            chap: access.digests, group: group)
        try gateway.run(plans)
    }

    /// What the configuration says for `name`, until a signal comes.
    private func serve(_ name: String) throws {
        let isMixed =
            target != nil || !lun.isEmpty || !portal.isEmpty || !announce.isEmpty || group != nil || readOnly
            || takeover || blockSize != 512 || threshold != SoftThreshold.usualPercent || holderKey != nil
            || access.isGiven
        guard !isMixed else {
            throw ToolError.failed(
                "--gateway serves what the configuration says; of the other options only --error-after, "
                    + "--threads, --allow-md5 and --mds go with it")
        }
        if let errorAfter, errorAfter <= 0 {
            throw ToolError.failed("--error-after is a number of seconds from 1")
        }
        guard ConfigurationRules.isGatewayName(name) else {
            throw ConfigurationError.badGatewayName(name).toolError
        }
        let here = ProcessInfo.processInfo
        var options = ConfiguredGateway.Options(
            name: name, process: "\(here.hostName) pid \(here.processIdentifier)",
            metadataServers: try metadata.servers().addresses)
        if let errorAfter { options.policy = .errorAfter(.seconds(errorAfter)) }
        let reactor = try daemon.reactor(name: "curve-iscsi")
        var gateway: ConfiguredGateway?
        var failure: ToolError?
        try onTermination(of: reactor) {
            if let gateway { gateway.stop { reactor.stop() } } else { reactor.stop() }
        }
        // After that: threads take over which signals are theirs.
        let others = try moreLoops()
        let serving = ConfiguredGateway(
            environment: reactor, home: GatewayLoop(reactor.handle),
            others: others.map { GatewayLoop($0.handle) }, options: options, chap: access.digests)
        gateway = serving
        serving.ready = { announceReady($0) }
        serving.failed = { text in
            failure = .failed(text)
            reactor.stop()
        }
        serving.begin()
        reactor.run()
        for loop in others { loop.stop() }
        for loop in others { loop.join() }
        if let failure { throw failure }
    }

    /// Loops beside the main thread's.
    private func moreLoops() throws -> [ReactorThread] {
        let cores = ProcessInfo.processInfo.activeProcessorCount
        let count = threads ?? min(cores, Self.threadsUsualMax)
        let level = daemon.logLevel.level
        do {
            return try (1..<max(count, 1)).map { number in
                try ReactorThread(name: "curve-iscsi-\(number)") { reactor in
                    (reactor.programName, reactor.logLevel) = ("curve-iscsi", level)
                }
            }
        } catch { throw ToolError.failed("\(error)") }
    }
    private func portals() throws -> [SocketAddress] {
        try (portal.isEmpty ? ["127.0.0.1:3260"] : portal).map { text in
            switch SocketAddress(text) {
            case .tcp(let host, let port)?: return .tcp(host: host, port: port)
            case .unix(let path)?: return .unix(path: path)
            default:
                throw ToolError.failed(
                    "--portal '\(text)' is not an address; write HOST:PORT, [v6]:PORT or unix:/PATH")
            }
        }
    }
    private func plannedUnits(mds: [SocketAddress]) throws -> [UnitPlan] {
        let here = ProcessInfo.processInfo
        let place = "\(here.hostName) pid \(here.processIdentifier)"
        var plans: [UnitPlan] = []
        for text in lun {
            let parts = text.split(separator: "=", maxSplits: 1).map(String.init)
            guard parts.count == 2, let number = UInt16(parts[0]), number < UnitPlan.lunsMax else {
                throw ToolError.failed(
                    "--lun '\(text)' is not NUMBER=VOLUME; numbers go from 0 to \(UnitPlan.lunsMax - 1)")
            }
            let path = parts[1].hasPrefix("/") ? parts[1] : "/" + parts[1]
            guard !plans.contains(where: { $0.lun == number }) else {
                throw ToolError.failed("--lun \(number) is given twice; each number is one volume")
            }
            guard !plans.contains(where: { $0.attach.path == path }) else {
                throw ToolError.failed("\(path) is given twice; one volume has one number")
            }
            var options = AttachOptions(
                path: path, metadataServers: mds, holder: "curve-iscsi serve on \(place)",
                holderKey: holderKey ?? place, takeOver: takeover, isReadOnly: readOnly,
                policy: errorAfter.map { .errorAfter(.seconds($0)) } ?? .queue)
            options.group = group ?? ""
            plans.append(
                UnitPlan(lun: number, blockBytes: blockSize, thresholdPercent: threshold, attach: options))
        }
        return plans
    }
}

/// Who may log in to a target, and how.
struct AccessOptions: ParsableArguments {
    @Option(help: "Name of an initiator that may log in; may be given several times (default: any).")
    var allow: [String] = []
    @Option(help: "Name that initiators log in with (CHAP).") var user: String?
    @Option(help: "File with that user's secret, 12 to 255 bytes, for its owner's eyes only.")
    var secretFile: String?
    @Flag(help: "Take MD5 for CHAP too, for initiators that know nothing better.") var allowMd5 = false
    @Option(help: "Name that the target answers with when an initiator wants proof (mutual CHAP).")
    var mutualUser: String?
    @Option(help: "File with the target's own secret, different from the user's.") var mutualSecretFile:
        String?

    /// Something that only goes with a target of its own.
    var isGiven: Bool {
        !allow.isEmpty || user != nil || secretFile != nil || mutualUser != nil || mutualSecretFile != nil
    }
    var digests: CHAPDigests { .openSSL(allowsMD5: allowMd5) }

    func describe(target: String) throws -> TargetDescription {
        guard ConfigurationRules.isISCSIName(target) else {
            throw ToolError.failed("--target: \(ISCSIServerError.badName(target))")
        }
        var description = TargetDescription(name: target)
        if !allow.isEmpty {
            for name in allow where !ConfigurationRules.isISCSIName(name) {
                throw ToolError.failed("--allow: \(ISCSIServerError.badName(name))")
            }
            description.initiators = allow.map { InitiatorRule(initiatorName: $0) }
        }
        let login = try Self.credential(user, secretFile, "--user", "--secret-file")
        let mutual = try Self.credential(
            mutualUser, mutualSecretFile, "--mutual-user", "--mutual-secret-file")
        guard let login else {
            guard mutual == nil else { throw ToolError.failed("--mutual-user needs --user") }
            return description
        }
        guard login.secret != mutual?.secret else {
            throw ToolError.failed("both secrets are the same; the target needs one of its own")
        }
        description.authentication = .chap(users: [login], mutual: mutual)
        return description
    }
    private static func credential(
        _ name: String?, _ path: String?, _ nameOption: String, _ pathOption: String
    ) throws -> CHAPCredential? {
        guard let name, let path else {
            if name != nil { throw ToolError.failed("\(nameOption) needs \(pathOption)") }
            if path != nil { throw ToolError.failed("\(pathOption) needs \(nameOption)") }
            return nil
        }
        guard !name.isEmpty, name.utf8.count <= 255 else {
            throw ToolError.failed("\(nameOption) has 1 to 255 bytes")
        }
        return CHAPCredential(name: name, secret: try SecretFile.read(path))
    }
}

/// Secrets come from files that nobody else can read.
enum SecretFile {
    /// RFC 7143, section 12.1.3: shorter ones fall to who tries them all.
    static let bytesMin = 12
    static let bytesMax = 255

    /// No file that holds one is longer.
    private static let fileBytesMax = 4096

    /// The file's bytes, or those of standard input, without the end of the line.
    static func read(_ path: String?) throws -> [UInt8] {
        let data = try NamedFile.read(path, bytesMax: fileBytesMax, what: "secret file") { file in
            guard path == nil || file.st_mode & 0o077 == 0 else {
                throw ToolError.failed("the secret file '\(path ?? "")' can be read by others; chmod 600 it")
            }
        }
        var bytes = [UInt8](data)
        while let last = bytes.last, last == 0x0a || last == 0x0d { bytes.removeLast() }
        guard (bytesMin...bytesMax).contains(bytes.count) else {
            throw ToolError.failed(
                "the secret in \(path ?? "standard input") has \(bytes.count) bytes; it needs \(bytesMin) to "
                    + "\(bytesMax)")
        }
        return bytes
    }
}

extension GatewayLoop {
    fileprivate init(_ handle: ReactorHandle) {
        self.init { action in
            // A loop that has ended, or is stuck with tens of thousands of actions, does nothing more.
            _ = handle.post { action($0) }
        }
    }
}
