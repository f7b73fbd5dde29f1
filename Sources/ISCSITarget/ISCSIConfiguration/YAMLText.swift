// The configuration as YAML that `DeclaredConfiguration` reads again, without secrets.
extension ISCSIConfiguration {
    /// The text; what has its usual value is left out.
    public var yaml: String {
        let all = inOrder
        var lines = ["version: 1"]
        if all.discovery != LoginRule() {
            lines.append("discovery:")
            lines += Self.login(all.discovery).map { "  " + $0 }
        }
        lines += Self.block("gateways", all.gateways.map(Self.lines))
        lines += Self.block("users", all.users.map { ["name: \(Self.quoted($0.name))"] })
        lines += Self.block("targets", all.targets.map(Self.lines))
        return lines.joined(separator: "\n") + "\n"
    }
    private static func lines(_ gateway: GatewayEntry) -> [String] {
        let portals = gateway.portals.map { portal in
            ["address: \(quoted(portal.address))"]
                + (portal.announced.map { ["announce: \(quoted($0))"] } ?? [])
        }
        return ["name: \(quoted(gateway.name))", "group-tag: \(gateway.groupTag)"] + block("portals", portals)
    }
    private static func lines(_ target: TargetEntry) -> [String] {
        var lines = ["name: \(quoted(target.name))"]
        if !target.alias.isEmpty { lines.append("alias: \(quoted(target.alias))") }
        if !target.gateways.isEmpty { lines.append("gateways: \(list(target.gateways))") }
        lines += login(target.login)
        lines += block(
            "luns",
            target.luns.map { lun in
                ["number: \(lun.number)", "volume: \(quoted(lun.volume))"]
                    + (lun.blockBytes == 512 ? [] : ["block-size: \(lun.blockBytes)"])
                    + (lun.isReadOnly ? ["read-only: true"] : [])
                    + (lun.isRemovable ? ["removable: true"] : [])
                    + (lun.thresholdPercent.map { ["threshold: \($0)"] } ?? [])
            })
        lines += block(
            "acl",
            target.rules.map { rule in
                ["initiator: \(quoted(rule.initiator))"]
                    + (rule.addresses.isEmpty ? [] : ["addresses: \(list(rule.addresses))"])
                    + (rule.luns.map { numbers in
                        ["luns: [\(numbers.map { "\($0)" }.joined(separator: ", "))]"]
                    } ?? [])
                    + (rule.isReadOnly ? ["read-only: true"] : [])
            })
        return lines
    }
    private static func login(_ rule: LoginRule) -> [String] {
        (rule.users.isEmpty ? [] : ["users: \(list(rule.users))"])
            + (rule.mutualUser.map { ["mutual-user: \(quoted($0))"] } ?? [])
    }
    private static func block(_ key: String, _ entries: [[String]]) -> [String] {
        guard !entries.isEmpty else { return [] }
        return ["\(key):"]
            + entries.flatMap { lines in
                lines.enumerated().map { ($0.offset == 0 ? "- " : "  ") + $0.element }
            }
    }
    private static func list(_ words: [String]) -> String {
        "[\(words.map(quoted).joined(separator: ", "))]"
    }
    /// Between double quotes, unless every YAML parser takes the bare word for a string.
    private static func quoted(_ text: String) -> String {
        let isBare =
            !text.isEmpty
            && text.utf8.enumerated().allSatisfy { index, byte in
                switch byte {
                case 0x61...0x7a, 0x41...0x5a, 0x2f: true
                // A colon before something else ends no key.
                case 0x30...0x39, 0x2d, 0x2e, 0x5f, 0x3a: index > 0
                default: false
                }
            } && !text.hasSuffix(":")
            && !["true", "false", "null", "yes", "no", "on", "off", "y", "n"].contains(text.lowercased())
        guard !isBare else { return text }
        var escaped = ""
        for scalar in text.unicodeScalars {
            switch scalar {
            case "\"": escaped += "\\\""
            case "\\": escaped += "\\\\"
            default: escaped.unicodeScalars.append(scalar)
            }
        }
        return "\"\(escaped)\""
    }
}
