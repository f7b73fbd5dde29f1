/// One line of what changes.
public struct ConfigurationChange: Hashable, Sendable, CustomStringConvertible {
    /// What happens to it.
    public enum Kind: String, Sendable {
        /// It comes.
        case added = "+"
        /// It goes.
        case removed = "-"
        /// It is another one than before.
        case changed = "~"
    }
    /// What happens.
    public let kind: Kind
    /// To what.
    public let subject: String
    /// From what to what; empty where the subject says all.
    public let detail: String
    /// `~ LUN 0 of iqn...: volume /a -> /b`.
    public var description: String { "\(kind.rawValue) \(subject)" + (detail.isEmpty ? "" : ": \(detail)") }
}

extension ISCSIConfiguration {
    /// What must happen to this one to become `next`, a line for each thing. Secrets are never told.
    public func changes(to next: ISCSIConfiguration) -> [ConfigurationChange] {
        let (old, new) = (inOrder, next.inOrder)
        var changes: [ConfigurationChange] = []
        for pair in Pairs(old.gateways, new.gateways, by: \.name).all {
            Self.compare(pair, "gateway \(pair.name)", into: &changes) {
                [Detail("group-tag", "\($0.groupTag)", "\($1.groupTag)")]
            }
            let portals = Pairs(pair.old?.portals ?? [], pair.new?.portals ?? [], by: \.address)
            for portal in portals.all {
                Self.compare(portal, "portal \(portal.name) of gateway \(pair.name)", into: &changes) {
                    [Detail("announce", $0.announced ?? $0.address, $1.announced ?? $1.address)]
                }
            }
        }
        for pair in Pairs(old.users, new.users, by: \.name).all {
            Self.compare(pair, "user \(pair.name)", into: &changes) {
                [Detail("secret", "one", $0.secret == $1.secret ? "one" : "another")]
            }
        }
        Self.compare((name: "", old: old.discovery, new: new.discovery), "discovery", into: &changes) {
            Self.details($0, $1)
        }
        for pair in Pairs(old.targets, new.targets, by: \.name).all {
            Self.compare(pair, "target \(pair.name)", into: &changes) { old, new in
                [
                    Detail("alias", old.alias, new.alias),
                    Detail("gateways", Self.list(old.gateways, "all"), Self.list(new.gateways, "all")),
                ] + Self.details(old.login, new.login)
            }
            Self.compareParts(pair.name, pair.old, pair.new, into: &changes)
        }
        return changes
    }
    private static func compareParts(
        _ name: String, _ old: TargetEntry?, _ new: TargetEntry?, into changes: inout [ConfigurationChange]
    ) {
        for pair in Pairs(old?.luns ?? [], new?.luns ?? [], by: { "\($0.number)" }).all {
            let volume = (pair.new ?? pair.old)?.volume ?? ""
            let isSame = pair.old != nil && pair.new != nil
            let subject = "LUN \(pair.name) of \(name)" + (isSame ? "" : " (\(volume))")
            compare(pair, subject, into: &changes) { old, new in
                [
                    Detail("volume", old.volume, new.volume),
                    Detail("block-size", "\(old.blockBytes)", "\(new.blockBytes)"),
                    Detail("read-only", "\(old.isReadOnly)", "\(new.isReadOnly)"),
                    Detail("removable", "\(old.isRemovable)", "\(new.isRemovable)"),
                    Detail("threshold", "\(old.threshold)", "\(new.threshold)"),
                ]
            }
        }
        for pair in Pairs(old?.rules ?? [], new?.rules ?? [], by: \.initiator).all {
            compare(pair, "acl \(pair.name) of \(name)", into: &changes) { old, new in
                [
                    Detail("addresses", list(old.addresses, "any"), list(new.addresses, "any")),
                    Detail("luns", list(old.luns), list(new.luns)),
                    Detail("read-only", "\(old.isReadOnly)", "\(new.isReadOnly)"),
                ]
            }
        }
    }
    private static func details(_ old: LoginRule, _ new: LoginRule) -> [Detail] {
        [
            Detail("users", list(old.users, "none"), list(new.users, "none")),
            Detail("mutual-user", old.mutualUser ?? "none", new.mutualUser ?? "none"),
        ]
    }
    private static func list(_ words: [String], _ none: String) -> String {
        words.isEmpty ? none : words.joined(separator: ", ")
    }
    private static func list(_ numbers: [UInt16]?) -> String {
        guard let numbers else { return "all" }
        return list(numbers.map { "\($0)" }, "none")
    }
    /// One property before and after.
    private struct Detail {
        let name, old, new: String
        init(_ name: String, _ old: String, _ new: String) {
            (self.name, self.old, self.new) = (name, old, new)
        }
    }
    private static func compare<Entry: Equatable>(
        _ pair: (name: String, old: Entry?, new: Entry?), _ subject: String,
        into changes: inout [ConfigurationChange], _ details: (Entry, Entry) -> [Detail]
    ) {
        switch (pair.old, pair.new) {
        case (nil, nil): break
        case (nil, _?): changes.append(ConfigurationChange(kind: .added, subject: subject, detail: ""))
        case (_?, nil): changes.append(ConfigurationChange(kind: .removed, subject: subject, detail: ""))
        case (let old?, let new?):
            let different = details(old, new).filter { $0.old != $0.new }
            guard !different.isEmpty else { return }
            let detail = different.map { detail in
                detail.name == "secret" ? "another secret" : "\(detail.name) \(detail.old) -> \(detail.new)"
            }
            changes.append(
                ConfigurationChange(
                    kind: .changed, subject: subject, detail: detail.joined(separator: ", ")))
        }
    }
}

/// Entries of two lists, matched by name; those of the first list in its order, then what is new.
private struct Pairs<Entry> {
    let all: [(name: String, old: Entry?, new: Entry?)]

    init(_ old: [Entry], _ new: [Entry], by name: (Entry) -> String) {
        var newByName: [String: Entry] = [:]  // Looked up, never iterated.
        for entry in new { newByName[name(entry)] = entry }
        var seen: Set<String> = []
        var all: [(name: String, old: Entry?, new: Entry?)] = []
        for entry in old {
            seen.insert(name(entry))
            all.append((name(entry), entry, newByName[name(entry)]))
        }
        for entry in new where !seen.contains(name(entry)) { all.append((name(entry), nil, entry)) }
        self.all = all
    }
}
