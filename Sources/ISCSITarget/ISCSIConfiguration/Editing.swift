/// Single changes, each with its own refusal. What is wrong with the whole, `check` says.
extension ISCSIConfiguration {
    // MARK: Targets

    /// Adds a target.
    public mutating func create(_ target: TargetEntry) throws(ConfigurationError) {
        guard self.target(target.name) == nil else {
            throw ConfigurationError(
                "target \(target.name) is there already; change it with 'target set', or choose another name")
        }
        targets.append(target)
    }
    /// Changes a target.
    public mutating func change(
        target name: String, _ body: (inout TargetEntry) throws(ConfigurationError) -> Void
    ) throws(ConfigurationError) {
        guard let index = targets.firstIndex(where: { $0.name == name }) else { throw noTarget(name) }
        try body(&targets[index])
    }
    /// Removes a target.
    /// - Parameter force: with its LUNs.
    public mutating func deleteTarget(_ name: String, force: Bool) throws(ConfigurationError) {
        guard let target = target(name) else { throw noTarget(name) }
        guard target.luns.isEmpty || force else {
            throw ConfigurationError(
                "target \(name) has \(target.luns.count) LUNs; delete them first, or add --force")
        }
        targets.removeAll { $0.name == name }
    }
    /// There is none of this name.
    public func noTarget(_ name: String) -> ConfigurationError {
        .notFound(
            targets.isEmpty
                ? "there is no target \(name), nor any other; make it with 'curve-iscsi target create \(name)'"
                : "there is no target \(name); 'curve-iscsi target list' has those that are there")
    }

    // MARK: LUNs

    /// Adds a LUN. A number of `nil`: the lowest that is free.
    /// - Returns: its number.
    @discardableResult public mutating func create(
        _ lun: LUNEntry, number: UInt16?, of name: String
    ) throws(ConfigurationError) -> UInt16 {
        guard let target = target(name) else { throw noTarget(name) }
        for other in targets {
            guard let taken = other.luns.first(where: { $0.volume == lun.volume }) else { continue }
            throw ConfigurationError(
                "\(lun.volume) is LUN \(taken.number) of \(other.name) already; delete that first")
        }
        if let number, let taken = target.lun(number) {
            throw ConfigurationError(
                "LUN \(number) of \(name) is taken by \(taken.volume); choose another number, or leave it out"
            )
        }
        var lun = lun
        lun.number = number ?? target.freeNumber
        try change(target: name) { $0.luns.append(lun) }
        return lun.number
    }
    /// Changes a LUN.
    public mutating func change(
        lun number: UInt16, of name: String, _ body: (inout LUNEntry) throws(ConfigurationError) -> Void
    ) throws(ConfigurationError) {
        try change(target: name) { target throws(ConfigurationError) in
            guard let index = target.luns.firstIndex(where: { $0.number == number }) else {
                throw target.noLUN(number)
            }
            try body(&target.luns[index])
        }
    }
    /// Removes a LUN, also from the rules that name it. A rule that named no other one then names none.
    public mutating func deleteLUN(_ number: UInt16, of name: String) throws(ConfigurationError) {
        try change(target: name) { target throws(ConfigurationError) in
            guard target.lun(number) != nil else { throw target.noLUN(number) }
            target.luns.removeAll { $0.number == number }
            for index in target.rules.indices { target.rules[index].luns?.removeAll { $0 == number } }
        }
    }

    // MARK: Rules

    /// Adds a rule about an initiator.
    public mutating func create(_ rule: InitiatorEntry, of name: String) throws(ConfigurationError) {
        try change(target: name) { target throws(ConfigurationError) in
            guard target.rule(rule.initiator) == nil else {
                throw ConfigurationError(
                    "\(name) has a rule for \(rule.initiator) already; change it with 'acl set'")
            }
            target.rules.append(rule)
        }
    }
    /// Changes a rule.
    public mutating func change(
        rule initiator: String, of name: String,
        _ body: (inout InitiatorEntry) throws(ConfigurationError) -> Void
    ) throws(ConfigurationError) {
        try change(target: name) { target throws(ConfigurationError) in
            guard let index = target.rules.firstIndex(where: { $0.initiator == initiator }) else {
                throw target.noRule(initiator)
            }
            try body(&target.rules[index])
        }
    }
    /// Removes a rule.
    public mutating func deleteRule(_ initiator: String, of name: String) throws(ConfigurationError) {
        try change(target: name) { target throws(ConfigurationError) in
            guard target.rule(initiator) != nil else { throw target.noRule(initiator) }
            target.rules.removeAll { $0.initiator == initiator }
        }
    }

    // MARK: Users

    /// Adds a user.
    public mutating func create(_ user: UserEntry) throws(ConfigurationError) {
        guard self.user(user.name) == nil else {
            throw ConfigurationError(
                "user \(user.name) is there already; change the secret with 'user set', or choose another name"
            )
        }
        users.append(user)
    }
    /// Gives a user another secret.
    public mutating func change(secret: Secret, of name: String) throws(ConfigurationError) {
        guard let index = users.firstIndex(where: { $0.name == name }) else { throw noUser(name) }
        users[index].secret = secret
    }
    /// Removes a user that nobody needs.
    public mutating func deleteUser(_ name: String) throws(ConfigurationError) {
        guard user(name) != nil else { throw noUser(name) }
        var needs = targets.filter { $0.login.names(name) }.map(\.name)
        if discovery.names(name) { needs.append("discovery") }
        if let first = needs.first {
            throw ConfigurationError(
                "user \(name) is needed by \(first)"
                    + (needs.count > 1 ? " and \(needs.count - 1) more" : "")
                    + "; take it out there first ('target set --user', or '--no-user')")
        }
        users.removeAll { $0.name == name }
    }
    /// There is none of this name.
    public func noUser(_ name: String) -> ConfigurationError {
        .notFound("there is no user \(name); 'curve-iscsi user list' has those that are there")
    }

    // MARK: Portals

    /// Adds a portal, and with the first one its gateway.
    public mutating func create(_ portal: PortalEntry, of name: String) throws(ConfigurationError) {
        if gateway(name) == nil { try createGateway(name, tag: nil, portals: []) }
        try change(gateway: name) { gateway throws(ConfigurationError) in
            guard !gateway.portals.contains(where: { $0.address == portal.address }) else {
                throw ConfigurationError(
                    "gateway \(name) listens on \(portal.address) already; change it with 'portal set'")
            }
            gateway.portals.append(portal)
        }
    }
    /// Changes a portal.
    public mutating func change(
        portal address: String, of name: String, _ body: (inout PortalEntry) -> Void
    ) throws(ConfigurationError) {
        try change(gateway: name) { gateway throws(ConfigurationError) in
            guard let index = gateway.portals.firstIndex(where: { $0.address == address }) else {
                throw gateway.noPortal(address)
            }
            body(&gateway.portals[index])
        }
    }
    /// Removes a portal, and with the last one its gateway.
    public mutating func deletePortal(_ address: String, of name: String) throws(ConfigurationError) {
        try change(gateway: name) { gateway throws(ConfigurationError) in
            guard gateway.portals.contains(where: { $0.address == address }) else {
                throw gateway.noPortal(address)
            }
            gateway.portals.removeAll { $0.address == address }
        }
        guard gateway(name)?.portals.isEmpty == true else { return }
        if let target = targets.first(where: { $0.gateways.contains(name) }) {
            throw ConfigurationError(
                "\(address) is the last portal of gateway \(name), which \(target.name) names; take it out "
                    + "there first (target set --gateway)")
        }
        gateways.removeAll { $0.name == name }
    }

    // MARK: Gateways

    /// Adds a gateway. A tag of `nil`: the lowest that is free.
    public mutating func createGateway(
        _ name: String, tag: UInt16?, portals: [PortalEntry]
    ) throws(ConfigurationError) {
        guard gateway(name) == nil else {
            throw ConfigurationError(
                "gateway \(name) is there already; change it with 'gateway set', or choose another name")
        }
        guard let tag = tag ?? freeTag else {
            throw ConfigurationError(
                "\(gateways.count) gateways, the most there may be; delete one first (gateway delete)")
        }
        var gateway = GatewayEntry(name: name, groupTag: tag)
        gateway.portals = portals
        gateways.append(gateway)
    }
    /// Removes a gateway that no target names.
    /// - Parameter force: with its portals.
    public mutating func deleteGateway(_ name: String, force: Bool) throws(ConfigurationError) {
        guard let gateway = gateway(name) else { throw noGateway(name) }
        if let target = targets.first(where: { $0.gateways.contains(name) }) {
            throw ConfigurationError(
                "gateway \(name) is named by \(target.name); take it out there first (target set --gateway)")
        }
        guard gateway.portals.isEmpty || force else {
            throw ConfigurationError(
                "gateway \(name) has \(gateway.portals.count) portals; delete them first, or add --force")
        }
        gateways.removeAll { $0.name == name }
    }
    /// Changes a gateway.
    public mutating func change(
        gateway name: String, _ body: (inout GatewayEntry) throws(ConfigurationError) -> Void
    ) throws(ConfigurationError) {
        guard let index = gateways.firstIndex(where: { $0.name == name }) else { throw noGateway(name) }
        try body(&gateways[index])
    }
    /// There is none of this name.
    public func noGateway(_ name: String) -> ConfigurationError {
        .notFound("there is no gateway \(name); 'curve-iscsi gateway list' has those that are there")
    }
    /// The lowest tag that no gateway has.
    public var freeTag: UInt16? {
        (1...UInt16(ConfigurationRules.gatewaysMax)).first { tag in
            !gateways.contains { $0.groupTag == tag }
        }
    }
}

extension TargetEntry {
    /// The rule for this initiator.
    public func rule(_ initiator: String) -> InitiatorEntry? { rules.first { $0.initiator == initiator } }
    /// The lowest number that no LUN has.
    public var freeNumber: UInt16 {
        var number: UInt16 = 0
        while lun(number) != nil { number += 1 }
        return number
    }
    /// There is none of this number.
    public func noLUN(_ number: UInt16) -> ConfigurationError {
        .notFound("\(name) has no LUN \(number); 'curve-iscsi lun list' has those that are there")
    }
    /// There is none for this initiator.
    public func noRule(_ initiator: String) -> ConfigurationError {
        .notFound("\(name) has no rule for \(initiator); 'curve-iscsi acl list' has those that are there")
    }
}

extension GatewayEntry {
    /// There is none at this address.
    public func noPortal(_ address: String) -> ConfigurationError {
        .notFound(
            "gateway \(name) has no portal \(address); 'curve-iscsi portal list' has those that are there")
    }
}

extension LoginRule {
    func names(_ user: String) -> Bool { users.contains(user) || mutualUser == user }
}
