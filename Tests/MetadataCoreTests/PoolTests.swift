import BlockTypes
import Testing

@testable import MetadataCore

@Suite struct PoolTests {
    typealias Server = CopysetTable.Server

    func servers(_ count: Int, perDomain: Int = 1) -> [Server] {
        (0..<count).map { Server(id: ServerID(UInt64($0 + 1)), domain: "d\($0 / perDomain)") }
    }
    func spread(_ counts: [ServerID: Int], over servers: [Server]) -> ClosedRange<Int> {
        let all = servers.map { counts[$0.id] ?? 0 }
        return (all.min() ?? 0)...(all.max() ?? 0)
    }

    @Test(
        "members, failure domains and preferred leaders are spread evenly, whatever the cluster",
        arguments: [3, 4, 5, 6, 7, 9, 10, 12, 16, 30], [1, 2, 3])
    func even(count: Int, perDomain: Int) throws {
        let servers = servers(count, perDomain: perDomain)
        let domains = Dictionary(uniqueKeysWithValues: servers.map { ($0.id, $0.domain) })
        for seed in UInt64(0)..<2 {
            for copysets in [12 * count / 3, 100] {
                let table = CopysetTable(servers: servers, replicas: 3, copysets: copysets, seed: seed)
                guard Set(servers.map(\.domain)).count >= 3 else {
                    #expect(table == nil)
                    continue
                }
                let members = try #require(table).members
                #expect(members.count == copysets)
                var (held, led): ([ServerID: Int], [ServerID: Int]) = ([:], [:])
                for set in members {
                    #expect(set.count == 3 && Set(set.map { domains[$0] }).count == 3)
                    for server in set { held[server, default: 0] += 1 }
                    led[set[0], default: 0] += 1
                }
                // An uneven last domain must carry more; otherwise all carry the same, a few give or take.
                guard count % perDomain == 0 else { continue }
                let (some, leaders) = (spread(held, over: servers), spread(led, over: servers))
                #expect(some.upperBound - some.lowerBound <= 3, "\(count)/\(perDomain) seed \(seed): \(some)")
                #expect(leaders.upperBound - leaders.lowerBound <= 1, "\(count) seed \(seed): \(leaders)")
            }
        }
    }

    @Test("a server shares copysets with about as many others as the scatter width says, not with all")
    func scatterWidth() throws {
        let servers = servers(60, perDomain: 2)
        let table = try #require(CopysetTable(servers: servers, replicas: 3, copysets: 720, seed: 1))
        var peers: [ServerID: Set<ServerID>] = [:]
        for set in table.members {
            for server in set { peers[server, default: []].formUnion(set.filter { $0 != server }) }
        }
        for server in servers { #expect((14...20).contains(peers[server.id]?.count ?? 0)) }
        #expect(Set(table.members.map { Set($0) }).count == 200, "replica sets are shared by copysets")
    }

    @Test(
        "one device a machine short of the rule is not enough; a domain too large carries no more than it can"
    )
    func domains() throws {
        #expect(CopysetTable(servers: servers(6, perDomain: 3), replicas: 3, copysets: 9, seed: 0) == nil)
        let uneven = servers(2) + (2..<10).map { Server(id: ServerID(UInt64($0 + 1)), domain: "big") }
        let table = try #require(CopysetTable(servers: uneven, replicas: 3, copysets: 24, seed: 0))
        for set in table.members {
            #expect(set.contains(ServerID(1)) && set.contains(ServerID(2)))
        }
    }

    @Test("a single replica is spread over all servers")
    func oneReplica() throws {
        let table = try #require(CopysetTable(servers: servers(5), replicas: 1, copysets: 10, seed: 3))
        for server in servers(5) { #expect(table.members.count { $0 == [server.id] } == 2) }
    }

    @Test("the default table has 12 copysets for three chunkservers")
    func defaultCount() throws {
        let bench = try Bench()
        try bench.addServers(3) { _ in "same" }
        guard
            case .pool(let info) = try bench.ask(
                .createPool(name: "p", replicas: 0, copysets: 0, domain: .device))
        else { throw Bench.Wrong.reply }
        #expect(info.row.generations.map(\.copysets.count) == [12])
        #expect((info.row.replicas, info.row.domain) == (3, .device))
    }

    @Test("a pool needs enough chunkservers that are online, in no pool, and apart")
    func refusals() throws {
        let bench = try Bench()
        func refusal(_ domain: FailureDomain, replicas: UInt32 = 3, name: String = "p") -> MetadataRefusal? {
            bench.refusal(.createPool(name: name, replicas: replicas, copysets: 0, domain: domain))
        }
        #expect(refusal(.device)?.code == .notReady)
        try bench.addServers(3) { _ in "same" }
        let onOne = refusal(.server)
        #expect(onOne?.code == .notReady)
        #expect(onOne?.message.contains("failure domain \"device\"") == true)
        #expect(refusal(.zone)?.message.contains("1, 2 and 3 named none") == true)
        #expect(refusal(.device, replicas: 2)?.code == .badRequest)
        #expect(refusal(.device, name: "a/b")?.code == .badRequest)
        #expect(refusal(.device, name: "")?.code == .badRequest)
        let many = MetadataRequest.createPool(name: "p", replicas: 3, copysets: 99_999, domain: .device)
        #expect(bench.refusal(many)?.code == .badRequest)
        bench.pass(.seconds(5))
        #expect(refusal(.device)?.message.contains("3 more are not online") == true)
        try bench.beatAll()
        try bench.ask(.createPool(name: "p", replicas: 3, copysets: 0, domain: .device))
        #expect(refusal(.device)?.code == .alreadyExists)
        #expect(refusal(.device, name: "q")?.message.contains("0 online and in no pool") == true)
    }

    @Test("a pool over zones refuses a chunkserver without one, and fewer zones than replicas")
    func zonesMissing() throws {
        let bench = try Bench()
        func register(_ zones: [String]) throws {
            for (index, zone) in zones.enumerated() {
                let number = UInt64(index + 1)
                var registration = Bench.registration(number, host: "h\(number)")
                registration.zone = zone
                try bench.ask(.registerServer(registration), session: 1000 + number)
            }
        }
        for number in UInt64(1)...3 {
            try bench.ask(.allocateServer(device: Bench.device(number), host: "h\(number)"))
        }
        let pool = MetadataRequest.createPool(name: "p", replicas: 3, copysets: 0, domain: .zone)
        try register(["a", "", "c"])
        #expect(bench.refusal(pool)?.message.contains("; 2 named none") == true)
        try register(["a", "a", "c"])
        #expect(bench.refusal(pool)?.message.contains("3 different zones") == true)
        try register(["a", "b", "c"])
        try bench.ask(pool)
    }

    @Test("zones keep replicas apart")
    func zones() throws {
        let bench = try Bench()
        for number in UInt64(1)...9 {
            try bench.ask(.allocateServer(device: Bench.device(number), host: "h\(number)"))
            var registration = Bench.registration(number, host: "h\(number)")
            registration.zone = "zone\(number % 3)"
            try bench.ask(.registerServer(registration), session: 1000 + number)
        }
        try bench.ask(.createPool(name: "p", replicas: 3, copysets: 36, domain: .zone))
        for row in bench.core.state.copysetsInOrder {
            #expect(Set(row.members.map { $0.rawValue % 3 }).count == 3)
        }
    }
}
