/// What one gateway has to serve by a configuration.
public struct GatewayPlan: Hashable, Sendable {
    /// One volume as a unit of a target.
    public struct Unit: Hashable, Sendable {
        /// What it is.
        public var lun: LUNEntry
        /// What each initiator that a rule names may do with it.
        public var named: [Right]
        /// What all others may do with it.
        public var others: Access
    }
    /// What one initiator may do with a unit.
    public struct Right: Hashable, Sendable {
        /// Who.
        public var initiator: String
        /// What.
        public var access: Access
    }
    /// What somebody may do with a unit.
    public enum Access: Hashable, Sendable {
        /// It is not there.
        case hidden
        /// It can be read.
        case reads
        /// It can be read and written.
        case writes
    }
    /// One target.
    public struct Target: Hashable, Sendable {
        /// Its name.
        public var name: String
        /// A word for people.
        public var alias: String
        /// Who may log in; whoever a rule names is judged by that one alone.
        public var rules: [InitiatorEntry]
        /// What they must prove.
        public var login: Login
        /// By number.
        public var units: [Unit]
    }
    /// Who must prove what, with the secrets for it.
    public struct Login: Hashable, Sendable {
        /// Nobody: no proof is wanted.
        public var users: [UserEntry]
        /// As whom the target proves itself.
        public var mutual: UserEntry?
    }
    /// Its portal group tag.
    public var groupTag: UInt16
    /// By address.
    public var portals: [PortalEntry]
    /// By name.
    public var targets: [Target]
    /// What is to be proven before targets are told.
    public var discovery: Login

    /// What the gateway `name` serves by `configuration`; `nil`: it does not know that gateway.
    public init?(_ configuration: ISCSIConfiguration, gateway name: String) {
        guard let gateway = configuration.gateway(name) else { return nil }
        let configuration = configuration.inOrder
        (groupTag, portals) = (gateway.groupTag, gateway.portals.sorted { $0.address < $1.address })
        discovery = configuration.login(configuration.discovery)
        targets = configuration.targets.compactMap { target in
            guard configuration.gatewayNames(of: target).contains(name) else { return nil }
            return Target(
                name: target.name, alias: target.alias, rules: target.rules,
                login: configuration.login(target.login), units: target.luns.map { Unit($0, target.rules) })
        }
    }
}

extension ISCSIConfiguration {
    fileprivate func login(_ rule: LoginRule) -> GatewayPlan.Login {
        GatewayPlan.Login(
            users: rule.users.compactMap { user($0) }, mutual: rule.mutualUser.flatMap { user($0) })
    }
}

extension GatewayPlan.Unit {
    init(_ lun: LUNEntry, _ rules: [InitiatorEntry]) {
        (self.lun, named, others) = (lun, [], .hidden)
        for rule in rules {
            let isSeen = rule.luns?.contains(lun.number) ?? true
            let access: GatewayPlan.Access = !isSeen ? .hidden : rule.isReadOnly ? .reads : .writes
            if rule.initiator == InitiatorEntry.anybody {
                others = access
            } else {
                named.append(GatewayPlan.Right(initiator: rule.initiator, access: access))
            }
        }
    }
}
