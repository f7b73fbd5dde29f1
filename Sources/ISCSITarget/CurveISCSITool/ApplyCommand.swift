import ArgumentParser
import Foundation
import ISCSIConfiguration
import ToolSupport
import Yams

struct ApplyCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "apply", abstract: "Make the configuration what a file says, all of it at once.",
        discussion: """
            What the file does not name goes away. It holds no secrets: a user names a secret-file (beside the
            file, if its path is relative), or keeps the secret that is stored. A second time there is nothing
            to do. With --dry-run nothing is changed; the exit status is 1 if something would be, as it is
            with --exit-code if something was.
            Examples:
              curve-iscsi export > iscsi.yaml
              curve-iscsi apply -f iscsi.yaml --dry-run
            """)
    @Option(name: [.short, .long], help: "The file, YAML; - for standard input.") var file: String
    @Flag(help: "Only say what would change.") var dryRun = false
    @Flag(help: "Exit with status 1 if something changed.") var exitCode = false
    @OptionGroup var check: VolumeCheck
    @OptionGroup var options: ChangeOptions

    func run() throws {
        let declared: DeclaredConfiguration
        let name = file == "-" ? "standard input" : file
        do {
            declared = try DeclaredConfiguration(try YAMLFile.read(file, name))
        } catch let error as ConfigurationError {
            throw ToolError.failed("\(name): \(error)")
        }
        let folder = file == "-" ? "." : (file as NSString).deletingLastPathComponent
        let secrets = try declared.users.compactMap { user in
            try user.secretFile.map { path in
                let whole = path.hasPrefix("/") || folder.isEmpty ? path : folder + "/" + path
                return (user.name, Secret(try SecretFile.read(whole)))
            }
        }
        let hasChanged = try options.change(dryRun: dryRun) { configuration in
            let before = configuration
            do {
                configuration = try declared.completed(from: configuration) {
                    user throws(ConfigurationError) in
                    guard let secret = secrets.first(where: { $0.0 == user.name })?.1 else {
                        throw ConfigurationError("user \(user.name) has no secret")
                    }
                    return secret
                }
            } catch let error as ConfigurationError {
                let text = "\(name): \(error)"
                throw error.isNotFound ? ToolError.notFound(text) : ToolError.failed(text)
            }
            try check.check(configuration, instead: before, options.metadata)
        }
        if hasChanged, dryRun || exitCode { throw ExitCode(1) }
    }
}

struct ExportCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "export",
        abstract: "Print the configuration as a file that apply takes, without secrets.")
    @OptionGroup var options: LookOptions

    private struct Whole: Encodable {
        struct Gateway: Encodable {
            struct Portal: Encodable { let address: String, announce: String? }
            let name: String, groupTag: UInt16, portals: [Portal]
        }
        let version: UInt64, gateways: [Gateway], users: [String], targets: [TargetJSON]
        let discoveryUsers: [String], discoveryMutualUser: String?
    }
    func run() throws {
        let (configuration, version) = try ConfigurationAccess(options.metadata).read()
        guard options.json else { return print(configuration.yaml, terminator: "") }
        let gateways = configuration.gateways.map { gateway in
            Whole.Gateway(
                name: gateway.name, groupTag: gateway.groupTag,
                portals: gateway.portals.map { .init(address: $0.address, announce: $0.announced) })
        }
        print(
            try Text.json(
                Whole(
                    version: version, gateways: gateways, users: configuration.users.map(\.name),
                    targets: configuration.targets.map { TargetJSON($0) },
                    discoveryUsers: configuration.discovery.users,
                    discoveryMutualUser: configuration.discovery.mutualUser)))
    }
}

/// A YAML file as nodes.
enum YAMLFile {
    private static let bytesMax = 1 << 20
    private static let depthMax = 16

    static func read(_ path: String, _ name: String) throws -> DeclaredNode {
        let data = try NamedFile.read(path == "-" ? nil : path, bytesMax: bytesMax)
        guard let text = String(data: data, encoding: .utf8) else {
            throw ToolError.failed("\(name) is no text in UTF-8; write it so")
        }
        let parser: Parser
        let root: Node?
        do {
            parser = try Parser(yaml: text)
            root = try parser.singleRoot()
        } catch { throw ToolError.failed("\(name) is no YAML: \(words(error))") }
        guard let root else { return DeclaredNode(line: 1, .scalar(nil)) }
        // Nodes know their anchors as long as the parser is there.
        return try withExtendedLifetime(parser) { try declared(root, depth: 1) }
    }
    /// What the parser found, and where: without the text around it, which may be long.
    private static func words(_ error: any Error) -> String {
        switch error as? YamlError {
        case .scanner(_, let problem, let mark, _), .parser(_, let problem, let mark, _),
            .composer(_, let problem, let mark, _):
            "line \(mark.line): \(problem)"
        case .duplicatedKeysInMapping(let keys, let context):
            "line \(context.mark.line): '\(keys.joined(separator: "', '"))' is there twice; leave one out"
        case .reader(let problem, _, _, _): problem
        default: "\(error)"
        }
    }
    private static func declared(_ node: Node, depth: Int) throws -> DeclaredNode {
        let line = node.mark?.line ?? 1
        guard depth <= depthMax else {
            throw ConfigurationError("line \(line): nothing here lies so deep")
        }
        // One that is used again and again would grow without end.
        guard node.anchor == nil else {
            throw ConfigurationError("line \(line): anchors and aliases are not taken; write it out")
        }
        switch node {
        case .scalar(let scalar):
            let isNothing = scalar.style == .plain && ["", "~", "null"].contains(scalar.string)
            return DeclaredNode(line: line, .scalar(isNothing ? nil : scalar.string))
        case .sequence(let sequence):
            return DeclaredNode(
                line: line, .sequence(try sequence.map { try declared($0, depth: depth + 1) }))
        case .mapping(let mapping):
            return DeclaredNode(
                line: line,
                .mapping(
                    try mapping.map {
                        (
                            key: try declared($0.key, depth: depth + 1),
                            value: try declared($0.value, depth: depth + 1)
                        )
                    }))
        case .alias:
            throw ConfigurationError("line \(line): anchors and aliases are not taken; write it out")
        }
    }
}
