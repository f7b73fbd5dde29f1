import ISCSIConfiguration
import Testing

/// Nodes without a parser.
private func word(_ text: String?) -> DeclaredNode { DeclaredNode(line: 1, .scalar(text)) }
private func list(_ nodes: [DeclaredNode]) -> DeclaredNode { DeclaredNode(line: 1, .sequence(nodes)) }
private func keys(_ pairs: KeyValuePairs<String, DeclaredNode>, line: Int = 1) -> DeclaredNode {
    DeclaredNode(
        line: line,
        .mapping(pairs.map { (key: DeclaredNode(line: line, .scalar($0.key)), value: $0.value) }))
}
private func entry(_ pairs: KeyValuePairs<String, DeclaredNode>) -> DeclaredNode {
    list([keys(pairs, line: 3)])
}

@Suite struct DeclarationTests {
    private static func none(_: DeclaredConfiguration.User) throws(ConfigurationError) -> Secret {
        throw ConfigurationError("no file")
    }

    @Test("what is to be nothing says so, and gateways keep or get their tags")
    func tags() throws {
        #expect(
            try DeclaredConfiguration(keys(["version": word("1")])).configuration == ISCSIConfiguration())
        let file = keys(["gateways": list(["x", "b"].map { keys(["name": word($0)]) })])
        let next = try DeclaredConfiguration(file).completed(from: try sample(), secret: Self.none)
        #expect(next.gateways.map(\.name) == ["b", "x"] && next.gateways.map(\.groupTag) == [2, 1])
    }

    @Test("a user without a file keeps the secret that is stored, and needs one")
    func secrets() throws {
        let current = try sample()
        let file = keys(["users": list([keys(["name": word("vm")])])])
        #expect(
            try DeclaredConfiguration(file).completed(from: current, secret: Self.none).users
                == [current.users[1]])
        #expect {
            try DeclaredConfiguration(file).completed(from: ISCSIConfiguration(), secret: Self.none)
        } throws: { "\($0)".contains("user vm has no secret yet; write secret-file: PATH") }
        let named = keys(["users": entry(["name": word("vm"), "secret-file": word("/s")])])
        let next = try DeclaredConfiguration(named).completed(from: current) {
            user throws(ConfigurationError) in
            Secret(Array("\(user.name) \(user.secretFile ?? "") secret".utf8))
        }
        #expect(next.users[0].secret == Secret(Array("vm /s secret".utf8)))
    }

    @Test("what a file cannot say is refused with its line")
    func refusals() throws {
        let target = "iqn.2026-11.example.com:db"
        let cases: [(String, DeclaredNode)] = [
            ("the file is written as keys", word("x")),
            ("it is empty; write 'version: 1'", word(nil)),
            ("the file has no 'target'; it may have version, discovery", keys(["target": list([])])),
            ("version 2 is not known", keys(["version": word("2")])),
            ("'users' in the file is a list", keys(["users": word("x")])),
            ("'gateways' is there twice", keys(["gateways": list([]), "gateways": list([])])),
            ("line 3: a target needs 'name'", keys(["targets": entry(["alias": word("x")])])),
            (
                "line 3: a target has no 'lun'",
                keys(["targets": entry(["name": word(target), "lun": list([])])])
            ),
            (
                "line 3: a LUN needs a number",
                keys(["targets": entry(["name": word(target), "luns": entry(["volume": word("/v")])])])
            ),
            (
                "line 3: 'many' for 'number' in a LUN is not possible; write a number from 0 to 16383",
                keys([
                    "targets": entry([
                        "name": word(target), "luns": entry(["number": word("many"), "volume": word("v")]),
                    ])
                ])
            ),
            (
                "write true or false",
                keys([
                    "targets": entry([
                        "name": word(target),
                        "acl": entry(["initiator": word("*"), "read-only": word("maybe")]),
                    ])
                ])
            ),
            (
                "'x' in luns is no number",
                keys([
                    "targets": entry([
                        "name": word(target),
                        "acl": entry(["initiator": word("*"), "luns": list([word("x")])]),
                    ])
                ])
            ),
            (
                "a secret does not stand in this file",
                keys(["users": entry(["name": word("u"), "secret": word("s")])])
            ),
            (
                "is a list of words",
                keys(["targets": entry(["name": word(target), "gateways": list([list([])])])])
            ),
            (
                "'gateways' in a target is a list: [A, B]",
                keys(["targets": entry(["name": word(target), "gateways": word("a")])])
            ),
            (
                "'alias' in a target is one word",
                keys(["targets": entry(["name": word(target), "alias": list([])])])
            ),
        ]
        for (words, node) in cases {
            #expect(performing: { _ = try DeclaredConfiguration(node) }, throws: { "\($0)".contains(words) })
        }
    }

    @Test("numbers have digits alone, and bounds that are told")
    func numbers() throws {
        let target = "iqn.2026-11.example.com:db"
        let cases: [(String, DeclaredNode)] = [
            (
                "'0' for 'group-tag' in a gateway is not possible; write a number from 1 to 16",
                keys(["gateways": entry(["name": word("a"), "group-tag": word("0")])])
            ),
            (
                "'+512' for 'block-size' in a LUN is not possible",
                keys([
                    "targets": entry([
                        "name": word(target),
                        "luns": entry([
                            "number": word("0"), "volume": word("v"), "block-size": word("+512"),
                        ]),
                    ])
                ])
            ),
        ]
        for (words, node) in cases {
            #expect(performing: { _ = try DeclaredConfiguration(node) }, throws: { "\($0)".contains(words) })
        }
    }

    @Test("what is exported is what applies again: the text")
    func text() throws {
        #expect(ISCSIConfiguration().yaml == "version: 1\n")
        #expect(
            try sample().yaml == """
                version: 1
                gateways:
                - name: a
                  group-tag: 1
                  portals:
                  - address: "10.0.0.1:3260"
                - name: b
                  group-tag: 2
                  portals:
                  - address: "0.0.0.0:3260"
                    announce: "192.0.2.1:3260"
                users:
                - name: target
                - name: vm
                targets:
                - name: iqn.2026-11.example.com:db
                  alias: "the \\"db\\""
                  gateways: [a, b]
                  users: [vm]
                  mutual-user: target
                  luns:
                  - number: 0
                    volume: /db/root
                    block-size: 4096
                  - number: 7
                    volume: /db/iso
                    read-only: true
                    removable: true
                    threshold: 90
                  acl:
                  - initiator: "*"
                  - initiator: iqn.1994-05.com.example:host7
                    addresses: ["10.0.0.0/8", "2001:db8::/32"]
                    luns: [0]
                    read-only: true

                """)
    }
}
