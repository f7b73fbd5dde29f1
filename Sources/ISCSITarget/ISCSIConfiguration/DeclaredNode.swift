/// A piece of a configuration file, whatever its syntax: what a YAML parser makes of it.
public struct DeclaredNode: Hashable, Sendable {
    /// What it holds.
    public indirect enum Content: Hashable, Sendable {
        /// One word; `nil`: nothing was written.
        case scalar(String?)
        /// Several, in order.
        case sequence([DeclaredNode])
        /// Keys with what belongs to them, in order.
        case mapping([(key: DeclaredNode, value: DeclaredNode)])

        /// Keys and values alike.
        public static func == (left: Self, right: Self) -> Bool {
            switch (left, right) {
            case (.scalar(let a), .scalar(let b)): a == b
            case (.sequence(let a), .sequence(let b)): a == b
            case (.mapping(let a), .mapping(let b)):
                a.count == b.count && zip(a, b).allSatisfy { $0.key == $1.key && $0.value == $1.value }
            default: false
            }
        }
        /// Adds all of it.
        public func hash(into hasher: inout Hasher) {
            switch self {
            case .scalar(let text): hasher.combine(text)
            case .sequence(let nodes): hasher.combine(nodes)
            case .mapping(let pairs):
                for pair in pairs {
                    hasher.combine(pair.key)
                    hasher.combine(pair.value)
                }
            }
        }
    }
    /// Where it stands in the file, from 1.
    public let line: Int
    /// What it holds.
    public let content: Content
    /// `content` at `line`.
    public init(line: Int, _ content: Content) { (self.line, self.content) = (line, content) }
}

/// A configuration as a file declares it: complete but for the secrets, of which it names the files.
public struct DeclaredConfiguration: Hashable, Sendable {
    /// Who has a secret, and the file that holds it; `nil`: the one that is stored.
    public struct User: Hashable, Sendable {
        /// The user's name.
        public var name: String
        /// Where the secret is.
        public var secretFile: String?
        /// Where in the configuration file this is said.
        public var line: Int
    }
    /// All but the users. A gateway without a tag has 0.
    public var configuration = ISCSIConfiguration()
    /// In the order of the file.
    public var users: [User] = []

    /// Reads what a file says.
    public init(_ root: DeclaredNode) throws(ConfigurationError) {
        // What the file does not name goes away: one that was not written whole must not take all of it.
        if case .scalar(nil) = root.content {
            throw ConfigurationError("it is empty; write 'version: 1' where nothing is to be served")
        }
        var reader = try MappingReader(root, "the file")
        if let version = try reader.text("version"), version != "1" {
            throw ConfigurationError("line \(root.line): version \(version) is not known; write version: 1")
        }
        if let node = reader.take("discovery") {
            var inner = try MappingReader(node, "discovery")
            configuration.discovery = try inner.login()
            try inner.finish()
        }
        configuration.gateways = try reader.list("gateways", Self.gateway)
        users = try reader.list("users", Self.user)
        configuration.targets = try reader.list("targets", Self.target)
        try reader.finish()
    }

    /// The configuration that is meant: gateways keep the tags that they have, users their secrets unless
    /// `secret` says otherwise.
    /// - Parameter secret: what stands in the file that a user names.
    public func completed(
        from current: ISCSIConfiguration, secret: (User) throws(ConfigurationError) -> Secret
    ) throws(ConfigurationError) -> ISCSIConfiguration {
        var next = configuration
        for index in next.gateways.indices where next.gateways[index].groupTag == 0 {
            next.gateways[index].groupTag = current.gateway(next.gateways[index].name)?.groupTag ?? 0
        }
        for index in next.gateways.indices where next.gateways[index].groupTag == 0 {
            guard let tag = next.freeTag else {
                throw ConfigurationError(
                    "\(next.gateways.count) gateways, at most \(ConfigurationRules.gatewaysMax)")
            }
            next.gateways[index].groupTag = tag
        }
        for user in users {
            if user.secretFile != nil {
                next.users.append(UserEntry(name: user.name, secret: try secret(user)))
            } else if let stored = current.user(user.name) {
                next.users.append(stored)
            } else {
                throw ConfigurationError(
                    "line \(user.line): user \(user.name) has no secret yet; write secret-file: PATH")
            }
        }
        next = next.inOrder
        try next.check()
        return next
    }

    private static func gateway(_ node: DeclaredNode) throws(ConfigurationError) -> GatewayEntry {
        var reader = try MappingReader(node, "a gateway")
        var gateway = GatewayEntry(name: try reader.needed("name"), groupTag: 0)
        let tags = 1...UInt16(ConfigurationRules.gatewaysMax)
        if let tag = try reader.number("group-tag", tags) { gateway.groupTag = tag }
        gateway.portals = try reader.list("portals") { node throws(ConfigurationError) in
            var inner = try MappingReader(node, "a portal")
            let portal = PortalEntry(
                address: try inner.needed("address"), announced: try inner.text("announce"))
            try inner.finish()
            return portal
        }
        try reader.finish()
        return gateway
    }
    private static func user(_ node: DeclaredNode) throws(ConfigurationError) -> User {
        var reader = try MappingReader(node, "a user")
        if reader.take("secret") != nil {
            throw ConfigurationError(
                "line \(node.line): a secret does not stand in this file; write secret-file: PATH")
        }
        let user = User(
            name: try reader.needed("name"), secretFile: try reader.text("secret-file"), line: node.line)
        try reader.finish()
        return user
    }
    private static func target(_ node: DeclaredNode) throws(ConfigurationError) -> TargetEntry {
        var reader = try MappingReader(node, "a target")
        var target = TargetEntry(name: try reader.needed("name"))
        target.alias = try reader.text("alias") ?? ""
        target.gateways = try reader.words("gateways") ?? []
        target.login = try reader.login()
        target.luns = try reader.list("luns", lun)
        target.rules = try reader.list("acl", rule)
        try reader.finish()
        return target
    }
    private static func lun(_ node: DeclaredNode) throws(ConfigurationError) -> LUNEntry {
        var reader = try MappingReader(node, "a LUN")
        guard let number = try reader.number("number", 0...ConfigurationRules.lunMax) else {
            throw ConfigurationError("line \(node.line): a LUN needs a number; write number: 0")
        }
        let path = try reader.needed("volume")
        var lun = LUNEntry(number: number, volume: path.hasPrefix("/") ? path : "/" + path)
        lun.blockBytes = try reader.number("block-size", 512...4096) ?? lun.blockBytes
        lun.isReadOnly = try reader.flag("read-only")
        lun.isRemovable = try reader.flag("removable")
        lun.thresholdPercent = try reader.number("threshold", 0...99)
        try reader.finish()
        return lun
    }
    private static func rule(_ node: DeclaredNode) throws(ConfigurationError) -> InitiatorEntry {
        var reader = try MappingReader(node, "a rule of acl")
        var rule = InitiatorEntry(initiator: try reader.needed("initiator"))
        rule.addresses = try reader.words("addresses") ?? []
        if let words = try reader.words("luns") {
            var numbers: [UInt16] = []
            for word in words {
                guard let number = ConfigurationRules.decimal(word[...], UInt16.self) else {
                    throw ConfigurationError(
                        "line \(node.line): '\(word)' in luns is no number of a LUN; write [0, 1]")
                }
                numbers.append(number)
            }
            rule.luns = numbers
        }
        rule.isReadOnly = try reader.flag("read-only")
        try reader.finish()
        return rule
    }
}

/// Takes a mapping's keys one by one; what is left in the end is an error.
private struct MappingReader {
    private let what: String
    private let line: Int
    private var left: [(key: String, line: Int, value: DeclaredNode)] = []
    private var known: [String] = []

    init(_ node: DeclaredNode, _ what: String) throws(ConfigurationError) {
        (self.what, line) = (what, node.line)
        guard case .mapping(let pairs) = node.content else {
            throw ConfigurationError("line \(node.line): \(what) is written as keys with values, KEY: VALUE")
        }
        for pair in pairs {
            guard case .scalar(let key?) = pair.key.content else {
                throw ConfigurationError("line \(pair.key.line): a key is one word")
            }
            guard !left.contains(where: { $0.key == key }) else {
                throw ConfigurationError("line \(pair.key.line): '\(key)' is there twice in \(what)")
            }
            left.append((key, pair.key.line, pair.value))
        }
    }
    mutating func take(_ key: String) -> DeclaredNode? {
        known.append(key)
        guard let index = left.firstIndex(where: { $0.key == key }) else { return nil }
        return left.remove(at: index).value
    }
    mutating func text(_ key: String) throws(ConfigurationError) -> String? {
        guard let node = take(key) else { return nil }
        guard case .scalar(let text) = node.content else {
            throw ConfigurationError("line \(node.line): '\(key)' in \(what) is one word")
        }
        return text
    }
    mutating func needed(_ key: String) throws(ConfigurationError) -> String {
        guard let text = try text(key), !text.isEmpty else {
            throw ConfigurationError("line \(line): \(what) needs '\(key)'")
        }
        return text
    }
    mutating func number<Number: FixedWidthInteger>(
        _ key: String, _ range: ClosedRange<Number>
    ) throws(ConfigurationError) -> Number? {
        let line = self.line(of: key)
        guard let text = try text(key) else { return nil }
        guard let number = ConfigurationRules.decimal(text[...], Number.self), range.contains(number) else {
            throw ConfigurationError(
                "line \(line): '\(text)' for '\(key)' in \(what) is not possible; write a number from "
                    + "\(range.lowerBound) to \(range.upperBound)")
        }
        return number
    }
    private func line(of key: String) -> Int { left.first { $0.key == key }?.line ?? line }
    mutating func flag(_ key: String) throws(ConfigurationError) -> Bool {
        let line = self.line(of: key)
        switch try text(key) {
        case nil, "false": return false
        case "true": return true
        case let text?:
            throw ConfigurationError(
                "line \(line): '\(text)' for '\(key)' in \(what) is not possible; write true or false")
        }
    }
    mutating func words(_ key: String) throws(ConfigurationError) -> [String]? {
        guard let node = take(key) else { return nil }
        guard case .sequence(let nodes) = node.content else {
            throw ConfigurationError("line \(node.line): '\(key)' in \(what) is a list: [A, B]")
        }
        var words: [String] = []
        for node in nodes {
            guard case .scalar(let word?) = node.content else {
                throw ConfigurationError("line \(node.line): '\(key)' in \(what) is a list of words")
            }
            words.append(word)
        }
        return words
    }
    mutating func list<Entry>(
        _ key: String, _ read: (DeclaredNode) throws(ConfigurationError) -> Entry
    ) throws(ConfigurationError) -> [Entry] {
        guard let node = take(key) else { return [] }
        switch node.content {
        case .scalar(nil): return []
        case .sequence(let nodes):
            var entries: [Entry] = []
            for node in nodes { entries.append(try read(node)) }
            return entries
        default:
            throw ConfigurationError(
                "line \(node.line): '\(key)' in \(what) is a list; write '- ' before each of its entries")
        }
    }
    mutating func login() throws(ConfigurationError) -> LoginRule {
        var rule = LoginRule()
        rule.users = try words("users") ?? []
        rule.mutualUser = try text("mutual-user")
        return rule
    }
    func finish() throws(ConfigurationError) {
        guard let first = left.first else { return }
        throw ConfigurationError(
            "line \(first.line): \(what) has no '\(first.key)'; it may have "
                + known.joined(separator: ", "))
    }
}
