/// What must be true of a configuration before anybody sees it.
extension ISCSIConfiguration {
    /// The same in the order that all of them have: by name, number or address.
    public var inOrder: ISCSIConfiguration {
        var copy = self
        for index in copy.gateways.indices { copy.gateways[index].portals.sort { $0.address < $1.address } }
        copy.gateways.sort { $0.name < $1.name }
        copy.users.sort { $0.name < $1.name }
        for index in copy.targets.indices {
            copy.targets[index].luns.sort { $0.number < $1.number }
            copy.targets[index].rules.sort { $0.initiator < $1.initiator }
            copy.targets[index].gateways.sort()
            copy.targets[index].login.users.sort()
        }
        copy.targets.sort { $0.name < $1.name }
        copy.discovery.users.sort()
        return copy
    }

    /// Throws what is wrong first.
    public func check() throws(ConfigurationError) {
        try bound(gateways.count, ConfigurationRules.gatewaysMax, "gateways")
        try bound(users.count, ConfigurationRules.usersMax, "users")
        try bound(targets.count, ConfigurationRules.targetsMax, "targets")
        try checkGateways()
        try unlike(users.map(\.name), "user")
        for user in users { try Self.check(user) }
        try unlike(targets.map(\.name), "target")
        try check(discovery, of: "discovery")
        var volumes: [String: String] = [:]
        var attachments = 0
        for target in targets {
            try check(target)
            for lun in target.luns {
                let place = "LUN \(lun.number) of \(target.name)"
                if let other = volumes.updateValue(place, forKey: lun.volume) {
                    throw ConfigurationError(
                        "\(lun.volume) is \(other) already; one volume is one LUN: delete that first, or give "
                            + "\(place) another volume")
                }
            }
            attachments += target.luns.count * gatewayNames(of: target).count
        }
        guard attachments <= ConfigurationRules.attachmentsMax else {
            throw ConfigurationError(
                "\(attachments) attachments of volumes by gateways, at most \(ConfigurationRules.attachmentsMax)"
                    + "; let fewer gateways serve a target (target set --gateway)")
        }
    }
    private func checkGateways() throws(ConfigurationError) {
        try unlike(gateways.map(\.name), "gateway")
        var tags: [UInt16: String] = [:]
        for gateway in gateways {
            guard ConfigurationRules.isGatewayName(gateway.name) else { throw .badGatewayName(gateway.name) }
            guard (1...UInt16(ConfigurationRules.gatewaysMax)).contains(gateway.groupTag) else {
                throw ConfigurationError(
                    "gateway \(gateway.name): group-tag \(gateway.groupTag) is not possible; write 1 to "
                        + "\(ConfigurationRules.gatewaysMax), or leave it out")
            }
            if let other = tags.updateValue(gateway.name, forKey: gateway.groupTag) {
                throw ConfigurationError(
                    "gateways \(other) and \(gateway.name) have the group-tag \(gateway.groupTag) both; leave "
                        + "one out")
            }
            try bound(
                gateway.portals.count, ConfigurationRules.portalsPerGatewayMax,
                "portals of gateway \(gateway.name)")
            try unlike(gateway.portals.map(\.address), "portal of gateway \(gateway.name):")
            for portal in gateway.portals {
                for text in [portal.address, portal.announced ?? portal.address]
                where !ConfigurationRules.isAddress(text) {
                    throw ConfigurationError(
                        "portal '\(text)' is no address; write HOST:PORT or [IPv6]:PORT")
                }
            }
        }
    }
    private static func check(_ user: UserEntry) throws(ConfigurationError) {
        guard !user.name.isEmpty,
            ConfigurationRules.isText(user.name, bytesMax: ConfigurationRules.userNameBytesMax)
        else {
            throw ConfigurationError(
                "user '\(user.name)': a user's name has 1 to \(ConfigurationRules.userNameBytesMax) printable "
                    + "bytes")
        }
        let bytes = ConfigurationRules.secretBytes
        guard bytes.contains(user.secret.bytes.count) else {
            throw ConfigurationError(
                "user \(user.name): the secret has \(user.secret.bytes.count) bytes; it needs "
                    + "\(bytes.lowerBound) to \(bytes.upperBound)")
        }
    }
    private func check(_ rule: LoginRule, of owner: String) throws(ConfigurationError) {
        try unlike(rule.users, "\(owner): user")
        for name in rule.users + (rule.mutualUser.map { [$0] } ?? []) where user(name) == nil {
            throw .notFound(
                "\(owner): there is no user '\(name)'; make it with 'curve-iscsi user create \(name)'")
        }
        guard let mutual = rule.mutualUser else { return }
        guard !rule.users.isEmpty else {
            throw ConfigurationError(
                "\(owner): the mutual user \(mutual) needs users that log in; add --user, or drop it")
        }
        for name in rule.users where user(name)?.secret == user(mutual)?.secret {
            throw ConfigurationError(
                "\(owner): \(name) and the mutual user \(mutual) have the same secret; give one of them "
                    + "another (user set)")
        }
    }
    private func check(_ target: TargetEntry) throws(ConfigurationError) {
        guard ConfigurationRules.isISCSIName(target.name) else {
            throw ConfigurationError(
                "'\(target.name)' is no iSCSI name; write iqn.YYYY-MM.DOMAIN:WORD, in lower case, of at most "
                    + "\(ConfigurationRules.iscsiNameBytesMax) bytes")
        }
        guard ConfigurationRules.isText(target.alias, bytesMax: ConfigurationRules.aliasBytesMax) else {
            throw ConfigurationError(
                "\(target.name): an alias has at most \(ConfigurationRules.aliasBytesMax) printable bytes")
        }
        try unlike(target.gateways, "\(target.name): gateway")
        for name in target.gateways where gateway(name) == nil {
            throw .notFound(
                "\(target.name): there is no gateway '\(name)'; make it with 'curve-iscsi portal create "
                    + "--gateway \(name) ADDRESS'")
        }
        try check(target.login, of: target.name)
        try bound(target.luns.count, ConfigurationRules.lunsPerTargetMax, "LUNs of \(target.name)")
        var numbers: Set<UInt16> = []
        for lun in target.luns {
            guard numbers.insert(lun.number).inserted else {
                throw ConfigurationError(
                    "LUN \(lun.number) of \(target.name) is taken; choose another number")
            }
            try check(lun, of: target)
        }
        try bound(target.rules.count, ConfigurationRules.rulesPerTargetMax, "rules of \(target.name)")
        try unlike(target.rules.map(\.initiator), "\(target.name): rule for")
        for rule in target.rules { try check(rule, of: target) }
    }
    private func check(_ lun: LUNEntry, of target: TargetEntry) throws(ConfigurationError) {
        let place = "LUN \(lun.number) of \(target.name)"
        guard lun.number <= ConfigurationRules.lunMax else {
            throw ConfigurationError("\(place): numbers go from 0 to \(ConfigurationRules.lunMax)")
        }
        guard ConfigurationRules.isPath(lun.volume) else {
            throw ConfigurationError(
                "\(place): '\(lun.volume)' is no path of a volume; write /NAME/NAME, as 'curve volume list' does"
            )
        }
        guard lun.blockBytes == 512 || lun.blockBytes == 4096 else {
            throw ConfigurationError(
                "\(place): blocks of \(lun.blockBytes) bytes are not possible; write 512 or 4096")
        }
        guard (0..<100).contains(lun.threshold) else {
            throw ConfigurationError(
                "\(place): a threshold of \(lun.threshold) is not possible; write 1 to 99 percent, or 0 for none"
            )
        }
    }
    private func check(_ rule: InitiatorEntry, of target: TargetEntry) throws(ConfigurationError) {
        guard rule.initiator == InitiatorEntry.anybody || ConfigurationRules.isISCSIName(rule.initiator)
        else {
            throw ConfigurationError(
                "\(target.name): '\(rule.initiator)' is no initiator's name; write iqn.YYYY-MM.DOMAIN:WORD, in "
                    + "lower case, or * for any")
        }
        try bound(
            rule.addresses.count, ConfigurationRules.networksPerRuleMax,
            "addresses of \(rule.initiator) at \(target.name)")
        for text in rule.addresses where NetworkPrefix(text) == nil {
            throw ConfigurationError(
                "\(target.name), \(rule.initiator): '\(text)' is no address; write 10.0.0.0/8, 192.0.2.7 or "
                    + "2001:db8::/32")
        }
        for number in rule.luns ?? [] where target.lun(number) == nil {
            throw .notFound(
                "\(target.name), \(rule.initiator): the target has no LUN \(number); create it first, or take it "
                    + "out of the rule")
        }
    }
    private func bound(_ count: Int, _ most: Int, _ what: String) throws(ConfigurationError) {
        guard count <= most else { throw ConfigurationError("\(count) \(what), at most \(most)") }
    }
    private func unlike(_ names: [String], _ what: String) throws(ConfigurationError) {
        var seen: Set<String> = []
        for name in names where !seen.insert(name).inserted {
            throw ConfigurationError("\(what) \(name) is there twice; each has its own name")
        }
    }
}
