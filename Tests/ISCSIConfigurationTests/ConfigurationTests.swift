import Foundation
import Testing

@testable import ISCSIConfiguration

/// A configuration with one of everything.
func sample() throws -> ISCSIConfiguration {
    var all = ISCSIConfiguration()
    try all.create(PortalEntry(address: "10.0.0.1:3260"), of: "a")
    try all.create(PortalEntry(address: "0.0.0.0:3260", announced: "192.0.2.1:3260"), of: "b")
    try all.create(UserEntry(name: "vm", secret: Secret(Array("first-secret!".utf8))))
    try all.create(UserEntry(name: "target", secret: Secret(Array("other-secret!".utf8))))
    var target = TargetEntry(name: "iqn.2026-11.example.com:db")
    target.alias = "the \"db\""
    target.gateways = ["a", "b"]
    target.login.users = ["vm"]
    target.login.mutualUser = "target"
    try all.create(target)
    var lun = LUNEntry(number: 0, volume: "/db/root")
    lun.blockBytes = 4096
    try all.create(lun, number: nil, of: target.name)
    lun.volume = "/db/iso"
    (lun.isReadOnly, lun.isRemovable, lun.blockBytes) = (true, true, 512)
    lun.thresholdPercent = 90
    try all.create(lun, number: 7, of: target.name)
    var rule = InitiatorEntry(initiator: "iqn.1994-05.com.example:host7")
    (rule.addresses, rule.luns, rule.isReadOnly) = (["10.0.0.0/8", "2001:db8::/32"], [0], true)
    try all.create(rule, of: target.name)
    try all.create(InitiatorEntry(initiator: "*"), of: target.name)
    try all.check()
    return all.inOrder
}
/// What a change is refused with.
func refusal(_ body: (inout ISCSIConfiguration) throws -> Void) throws -> ConfigurationError? {
    var all = try sample()
    do {
        try body(&all)
        try all.check()
        return nil
    } catch { return error as? ConfigurationError }
}
private let name = "iqn.2026-11.example.com:db"

@Suite struct ConfigurationTests {
    @Test("what is taken, missing or needed is refused with its name and the next step")
    func refusals() throws {
        let target = TargetEntry(name: name)
        let cases: [(String, Bool, (inout ISCSIConfiguration) throws -> Void)] = [
            ("target set", false, { try $0.create(target) }),
            ("there is no target x", true, { try $0.deleteTarget("x", force: true) }),
            ("has 2 LUNs", false, { try $0.deleteTarget(name, force: false) }),
            (
                "LUN 7 of \(name) is taken by /db/iso", false,
                { try $0.create(LUNEntry(number: 0, volume: "/new"), number: 7, of: name) }
            ),
            (
                "/db/root is LUN 0 of \(name) already", false,
                { try $0.create(LUNEntry(number: 0, volume: "/db/root"), number: 1, of: name) }
            ),
            ("has no LUN 3", true, { try $0.deleteLUN(3, of: name) }),
            ("already", false, { try $0.create(InitiatorEntry(initiator: "*"), of: name) }),
            ("has no rule for iqn.x", true, { try $0.deleteRule("iqn.x", of: name) }),
            ("user vm is needed by \(name)", false, { try $0.deleteUser("vm") }),
            ("user target is needed by \(name)", false, { try $0.deleteUser("target") }),
            ("there is no user x", true, { try $0.deleteUser("x") }),
            (
                "listens on 10.0.0.1:3260 already", false,
                {
                    try $0.create(PortalEntry(address: "10.0.0.1:3260"), of: "a")
                }
            ),
            ("the last portal of gateway a", false, { try $0.deletePortal("10.0.0.1:3260", of: "a") }),
            ("gateway a has no portal 1.1.1.1:1", true, { try $0.deletePortal("1.1.1.1:1", of: "a") }),
            ("there is no gateway x", true, { try $0.deletePortal("1.1.1.1:1", of: "x") }),
            ("gateway set", false, { try $0.createGateway("a", tag: nil, portals: []) }),
            ("there is no gateway x", true, { try $0.deleteGateway("x", force: true) }),
            ("gateway a is named by \(name)", false, { try $0.deleteGateway("a", force: true) }),
            (
                "gateway c has 1 portals; delete them first, or add --force", false,
                { all in
                    try all.createGateway("c", tag: nil, portals: [PortalEntry(address: "h:1")])
                    try all.deleteGateway("c", force: false)
                }
            ),
            ("there is no gateway x", true, { try $0.change(gateway: "x") { $0.groupTag = 3 } }),
        ]
        for (words, isNotFound, change) in cases {
            let error = try refusal(change)
            #expect(error?.description.contains(words) == true, "\(words): \(error as Any)")
            #expect(error?.isNotFound == isNotFound, "\(words)")
        }
    }

    @Test("a threshold is told once each time that it is passed; it does not make another unit")
    func thresholds() {
        var threshold = SoftThreshold()
        let told = [10, 79, 80, 85, 79, 80, 78, 80, 77, 80, 99].map { threshold.isPassed(by: $0) }
        #expect(told == [false, false, true, false, false, false, false, false, false, true, false])
        threshold.percent = 0
        let isToldOfNone = threshold.isPassed(by: 100)
        threshold.percent = 1
        let isToldOfOne = threshold.isPassed(by: 1)
        #expect(!isToldOfNone && isToldOfOne)
        let lun = LUNEntry(number: 0, volume: "/v")
        var other = lun
        other.thresholdPercent = 5
        #expect(lun.threshold == 80 && other.threshold == 5 && other.isSameUnit(as: lun))
        other.isReadOnly = true
        #expect(!other.isSameUnit(as: lun))
    }

    @Test("what cannot be is refused with what to write")
    func validation() throws {
        func target(_ change: @escaping (inout TargetEntry) -> Void) -> (inout ISCSIConfiguration) throws ->
            Void
        { { all in try all.change(target: name) { change(&$0) } } }
        let cases: [(String, (inout ISCSIConfiguration) throws -> Void)] = [
            ("is no iSCSI name", target { $0.name = "db" }),
            ("is no iSCSI name", target { $0.name = "iqn.2026-13.example.com:db" }),
            ("is no iSCSI name", target { $0.name = "iqn.2026-11.Example.com:db" }),
            ("is no iSCSI name", target { $0.name = "iqn." + String(repeating: "a", count: 300) }),
            ("is no iSCSI name", target { $0.name = "iqn.2026-11.:db" }),
            ("is no iSCSI name", target { $0.name = "iqn.2026-11.example..com" }),
            ("is no iSCSI name", target { $0.name = "eui.x" }),
            ("is no iSCSI name", target { $0.name = "naa.0123456789abcdef0" }),
            ("an alias has at most", target { $0.alias = "two\nlines" }),
            ("there is no gateway 'x'", target { $0.gateways = ["x"] }),
            ("there is no user 'x'", target { $0.login.users = ["x"] }),
            ("needs users that log in", target { $0.login.users = [] }),
            ("there twice", target { $0.login.users = ["vm", "vm"] }),
            ("is no path of a volume", target { $0.luns[0].volume = "db" }),
            ("is no path of a volume", target { $0.luns[0].volume = "//db" }),
            ("is no path of a volume", target { $0.luns[0].volume = "/db/" }),
            ("is no path of a volume", target { $0.luns[0].volume = "/./db" }),
            ("an alias has at most", target { $0.alias = "next\u{85}line" }),
            ("write 512 or 4096", target { $0.luns[0].blockBytes = 520 }),
            ("write 1 to 99 percent, or 0 for none", target { $0.luns[0].thresholdPercent = 100 }),
            ("numbers go from 0 to 16383", target { $0.luns[0].number = 0x4000 }),
            ("is taken", target { $0.luns[0].number = $0.luns[1].number }),
            ("one volume is one LUN", target { $0.luns[0].volume = $0.luns[1].volume }),
            ("is no initiator's name", target { $0.rules[0].initiator = "host7" }),
            ("'10.0.0.0/33' is no address", target { $0.rules[0].addresses = ["10.0.0.0/33"] }),
            ("the target has no LUN 9", target { $0.rules[0].luns = [9] }),
            ("17 addresses of", target { $0.rules[0].addresses = (0...16).map { "10.0.0.\($0)" } }),
            (
                "257 rules",
                target { target in
                    target.rules = (0...256).map { InitiatorEntry(initiator: "iqn.2026-11.a:\($0)") }
                }
            ),
            (
                "257 LUNs",
                target { target in
                    target.luns = (0...256).map { LUNEntry(number: $0, volume: "/\($0)") }
                }
            ),
            (
                "257 targets",
                { all in
                    all.targets = (0...256).map { TargetEntry(name: "iqn.2026-11.a:\($0)") }
                }
            ),
            (
                "257 users",
                { all in
                    all.users += (0...254).map { UserEntry(name: "\($0)", secret: all.users[0].secret) }
                }
            ),
        ]
        for (words, change) in cases {
            let error = try refusal(change)
            #expect(error?.description.contains(words) == true, "\(words): \(error as Any)")
        }
    }

    @Test("gateways, portals and secrets that cannot be are refused with what to write")
    func validationOfOthers() throws {
        let cases: [(String, (inout ISCSIConfiguration) throws -> Void)] = [
            ("is no address; write HOST:PORT", { $0.gateways[0].portals[0].address = "10.0.0.1" }),
            ("is no address; write HOST:PORT", { $0.gateways[0].portals[0].announced = "10.0.0.1:0" }),
            ("is no address; write HOST:PORT", { $0.gateways[0].portals[0].address = "10.0.0.1:+3260" }),
            ("is no address; write HOST:PORT", { $0.gateways[0].portals[0].address = "10.0.0.1:03260" }),
            ("is no address; write HOST:PORT", { $0.gateways[0].portals[0].address = "999.0.0.1:3260" }),
            ("a gateway's name", { try $0.create(PortalEntry(address: "h:1"), of: "a b") }),
            ("a gateway's name", { try $0.createGateway("", tag: nil, portals: []) }),
            ("the group-tag 1 both", { $0.gateways[1].groupTag = 1 }),
            ("group-tag 17 is not possible", { $0.gateways[1].groupTag = 17 }),
            (
                "17 portals",
                { all in
                    all.gateways[0].portals = (1...17).map { PortalEntry(address: "h:\($0)") }
                }
            ),
            (
                "the secret has 11 bytes; it needs 12 to 255",
                { all in
                    all.users[0].secret = Secret(Array(repeating: 1, count: 11))
                }
            ),
            ("have the same secret", { $0.users[0].secret = $0.users[1].secret }),
        ]
        for (words, change) in cases {
            let error = try refusal(change)
            #expect(error?.description.contains(words) == true, "\(words): \(error as Any)")
        }
    }

    @Test("gateways are bounded, and attachments in all")
    func attachments() throws {
        var all = ISCSIConfiguration()
        for number in 1...16 { try all.create(PortalEntry(address: "h:\(number)"), of: "g\(number)") }
        #expect(throws: ConfigurationError.self) { try all.create(PortalEntry(address: "h:1"), of: "more") }
        for target in 0..<2 {
            var entry = TargetEntry(name: "iqn.2026-11.a:\(target)")
            entry.luns = (0..<32).map { LUNEntry(number: $0, volume: "/\(target)/\($0)") }
            all.targets.append(entry)
        }
        try all.check()
        all.targets[0].luns.append(LUNEntry(number: 32, volume: "/more"))
        #expect(throws: ConfigurationError.self) { try all.check() }
    }

    @Test("the first free number and tag are taken, and a deleted LUN leaves its rules")
    func numbers() throws {
        var all = try sample()
        #expect(try all.create(LUNEntry(number: 9, volume: "/c"), number: nil, of: name) == 1)
        try all.create(PortalEntry(address: "h:1"), of: "c")
        #expect(all.gateway("c")?.groupTag == 3)
        try all.deleteLUN(0, of: name)
        #expect(all.target(name)?.rule("iqn.1994-05.com.example:host7")?.luns == [])
        try all.check()
    }

    @Test("a gateway comes and goes by its name, with or without portals")
    func gateways() throws {
        var all = try sample()
        try all.createGateway("c", tag: nil, portals: [])
        try all.createGateway("d", tag: 9, portals: [PortalEntry(address: "h:1")])
        #expect(all.gateway("c")?.groupTag == 3 && all.gateway("d")?.groupTag == 9)
        try all.deleteGateway("c", force: false)
        try all.deleteGateway("d", force: true)
        #expect(all == (try sample()))
    }

    @Test(
        "the three forms of an iSCSI name",
        arguments: [
            "iqn.2001-04.com.example", "iqn.2001-04.com.example:storage:diskarrays-sn-a8675309",
            "iqn.1993-08.org.debian:01:abc", "iqn.2026-11.example.com:", "eui.02004567a425678d",
            "naa.52004567ba64678d", "naa.62004567ba64678d0123456789abcdef",
        ])
    func names(_ name: String) { #expect(ConfigurationRules.isISCSIName(name)) }

    @Test("secrets are printed by nobody, and stored whole")
    func secrets() throws {
        let all = try sample()
        var dumped = ""
        dump(all, to: &dumped)
        for text in ["\(all)", String(reflecting: all), dumped, all.yaml] {
            #expect(!text.contains("first-secret!") && !text.contains("66697273742d"))
        }
        let stored = try JSONEncoder().encode(all)
        #expect(try JSONDecoder().decode(ISCSIConfiguration.self, from: stored) == all)
        #expect(throws: DecodingError.self) {
            try JSONDecoder().decode(Secret.self, from: Data("\"6g\"".utf8))
        }
    }

    @Test("networks as people write them")
    func networks() {
        #expect(
            NetworkPrefix("10.0.0.0/8")?.bytes == [10, 0, 0, 0] && NetworkPrefix("10.0.0.0/8")?.bitCount == 8)
        #expect(NetworkPrefix("192.0.2.7")?.bitCount == 32)
        #expect(
            NetworkPrefix("2001:db8::/32")?.bytes == [0x20, 1, 0x0d, 0xb8] + [UInt8](repeating: 0, count: 12))
        #expect(NetworkPrefix("::1")?.bitCount == 128)
        #expect(NetworkPrefix("::ffff:192.0.2.0/120") == NetworkPrefix("192.0.2.0/24"))
        #expect(NetworkPrefix("::ffff:0.0.0.0/80")?.bytes.count == 16)
        for text in [
            "", "10.0.0", "10.0.0.0/", "10.0.0.0/+8", "10.0.0.0/33", "::/129", "1::2::3", "host",
            "10.0.0.0/8/8",
        ] {
            #expect(NetworkPrefix(text) == nil, "\(text)")
        }
    }
}

@Suite struct DifferenceTests {
    @Test("a line for each thing that comes, goes or changes, and none for what stays")
    func lines() throws {
        let old = try sample()
        #expect(old.changes(to: old).isEmpty)
        #expect(ISCSIConfiguration().changes(to: old).map(\.kind).allSatisfy { $0 == .added })
        var new = old
        new.targets[0].luns[0].volume = "/db/new"
        new.targets[0].rules[1].isReadOnly = false
        new.targets[0].rules[1].luns = nil
        new.users[0].secret = Secret(Array("third--secret!".utf8))
        new.gateways[0].portals[0].announced = "h:1"
        new.gateways.removeLast()
        new.targets[0].gateways = []
        new.targets[0].luns.removeLast()
        #expect(
            old.changes(to: new).map(\.description) == [
                "~ portal 10.0.0.1:3260 of gateway a: announce 10.0.0.1:3260 -> h:1",
                "- gateway b", "- portal 0.0.0.0:3260 of gateway b",
                "~ user target: another secret",
                "~ target \(name): gateways a, b -> all",
                "~ LUN 0 of \(name): volume /db/root -> /db/new",
                "- LUN 7 of \(name) (/db/iso)",
                "~ acl iqn.1994-05.com.example:host7 of \(name): luns 0 -> all, read-only true -> false",
            ])
    }

    @Test("order is no difference")
    func order() throws {
        let all = try sample()
        var turned = all
        turned.targets[0].luns.reverse()
        turned.gateways.reverse()
        turned.users.reverse()
        turned.targets[0].gateways.reverse()
        #expect(all.changes(to: turned).isEmpty && turned.inOrder == all)
    }
}

@Suite struct PlanTests {
    @Test("a gateway serves the targets that name it, or name none")
    func targets() throws {
        var all = try sample()
        #expect(GatewayPlan(all, gateway: "c") == nil)
        var open = TargetEntry(name: "iqn.2026-11.example.com:all")
        open.rules = [InitiatorEntry(initiator: "*")]
        try all.create(open)
        try all.change(target: name) { $0.gateways = ["b"] }
        #expect(GatewayPlan(all, gateway: "a")?.targets.map(\.name) == [open.name])
        let plan = try #require(GatewayPlan(all, gateway: "b"))
        #expect(plan.targets.map(\.name) == [open.name, name] && plan.groupTag == 2)
        #expect(plan.targets[1].login.users.map(\.name) == ["vm"])
        #expect(plan.targets[1].login.mutual?.name == "target")
    }

    @Test("who sees and writes a unit: the rule that names an initiator goes before that for anybody")
    func rights() throws {
        var all = try sample()
        var units = try #require(GatewayPlan(all, gateway: "a")).targets[0].units
        #expect(units.map(\.lun.number) == [0, 7])
        #expect(units[0].named.map(\.access) == [.reads] && units[0].others == .writes)
        #expect(units[1].named.map(\.access) == [.hidden] && units[1].others == .writes)
        try all.deleteRule("*", of: name)
        units = try #require(GatewayPlan(all, gateway: "a")).targets[0].units
        #expect(units[0].others == .hidden)
    }

    @Test("orders are numbered, and only the newest are kept")
    func orders() {
        var orders = GatewayOrders()
        for number in 1...40 { #expect(orders.add(session: UInt64(number), start: 1) == UInt64(number)) }
        #expect(orders.orders.map(\.number) == Array(9...40) && orders.last == 40)
    }
}
