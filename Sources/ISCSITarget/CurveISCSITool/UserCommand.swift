import ArgumentParser
import Foundation
import ISCSIConfiguration
import ToolSupport

struct UserCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "user", abstract: "Users: names with secrets for CHAP, of initiators and of targets.",
        discussion: """
            A secret comes from a file that its owner alone can read, or from standard input; it is shown to
            nobody. CHAP needs it in the clear on both sides: it is stored so in the MDS, whose file its owner
            alone can read. The MDS does not ask who somebody is: whoever can connect to it can read the
            secrets. Keep its port to a network that only the cluster's machines reach.
            """,
        subcommands: [UserCreate.self, UserDelete.self, UserList.self, UserShow.self, UserSet.self])
}

struct SecretOptions: ParsableArguments {
    @Option(help: "File with the secret, 12 to 255 bytes (default: standard input).") var secretFile: String?

    func read() throws -> Secret {
        if let secretFile { return Secret(try SecretFile.read(secretFile)) }
        guard isatty(STDIN_FILENO) == 0 else {
            throw ToolError.failed(
                "the secret comes from a file or a pipe: add --secret-file PATH, or '< PATH', so that nobody "
                    + "sees it typed")
        }
        return Secret(try SecretFile.read(nil))
    }
}

struct UserCreate: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "create", abstract: "Add a user.",
        discussion: """
            Examples:
              curve-iscsi user create vm --secret-file /etc/curve/vm.secret
              pass show curve/vm | curve-iscsi user create vm
            """)
    @Argument(help: "The name that initiators say.") var name: String
    @OptionGroup var secret: SecretOptions
    @OptionGroup var options: ChangeOptions

    func run() throws {
        let user = UserEntry(name: name, secret: try secret.read())
        try options.change { try $0.create(user) }
    }
}

struct UserDelete: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "delete", abstract: "Remove a user that no target needs.")
    @Argument(help: "The user's name.") var name: String
    @OptionGroup var options: ChangeOptions

    func run() throws { try options.change { try $0.deleteUser(name) } }
}

struct UserSet: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "set", abstract: "Give a user another secret; sessions go on, later logins need it.")
    @Argument(help: "The user's name.") var name: String
    @OptionGroup var secret: SecretOptions
    @OptionGroup var options: ChangeOptions

    func run() throws {
        let secret = try secret.read()
        try options.change { try $0.change(secret: secret, of: name) }
    }
}

/// A user as scripts read it.
private struct UserJSON: Encodable {
    let name: String, secret: String, targets: [String], mutualOf: [String]
    init(_ user: UserEntry, _ configuration: ISCSIConfiguration) {
        (name, secret) = (user.name, "set")
        targets = configuration.targets.filter { $0.login.users.contains(user.name) }.map(\.name)
        mutualOf = configuration.targets.filter { $0.login.mutualUser == user.name }.map(\.name)
    }
}

struct UserList: ParsableCommand {
    static let configuration = CommandConfiguration(commandName: "list", abstract: "Show all users.")
    @OptionGroup var options: LookOptions

    func run() throws {
        let configuration = try options.configuration()
        let users = configuration.users.map { UserJSON($0, configuration) }
        try options.print(
            users,
            table: [["USER", "SECRET", "TARGETS", "MUTUAL OF"]]
                + users.map { [$0.name, $0.secret, "\($0.targets.count)", "\($0.mutualOf.count)"] })
    }
}

struct UserShow: ParsableCommand {
    static let configuration = CommandConfiguration(commandName: "show", abstract: "Show one user.")
    @Argument(help: "The user's name.") var name: String
    @OptionGroup var options: LookOptions

    func run() throws {
        let configuration = try options.configuration()
        guard let entry = configuration.user(name) else { throw configuration.noUser(name).toolError }
        let user = UserJSON(entry, configuration)
        try options.print(
            user,
            properties: [("user", name), ("secret", user.secret)] + user.targets.map { ("logs in to", $0) }
                + user.mutualOf.map { ("proves", $0) })
    }
}
