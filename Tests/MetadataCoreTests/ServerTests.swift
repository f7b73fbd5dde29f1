import BlockTypes
import Testing

@testable import MetadataCore

@Suite struct ServerTests {
    @Test("a device has one number for ever")
    func allocate() throws {
        let bench = try Bench()
        func number(_ device: UInt64) throws -> UInt64 {
            let request = MetadataRequest.allocateServer(device: Bench.device(device), host: "h")
            guard case .allocated(let cluster, let server) = try bench.ask(request) else {
                throw Bench.Wrong.reply
            }
            #expect(cluster == Bench.cluster)
            return server.rawValue
        }
        #expect(try number(10) == 1)
        #expect(try number(20) == 2)
        try bench.restart()
        #expect(try number(10) == 1)
        #expect(try number(30) == 3)
    }

    @Test("a store of another cluster, of another device or with bad words is refused")
    func badRegistrations() throws {
        let bench = try Bench()
        try bench.ask(.allocateServer(device: Bench.device(1), host: "h"))
        func code(_ change: (inout ServerRegistration) -> Void) -> MetadataRefusal.Code? {
            var registration = Bench.registration(1)
            change(&registration)
            return bench.refusal(.registerServer(registration))?.code
        }
        #expect(code { $0.cluster = UniqueID(high: 1, low: 1) } == .wrongCluster)
        #expect(code { $0.device = Bench.device(2) } == .notFound)
        #expect(code { $0.server = ServerID(2) } == .notFound)
        #expect(code { $0.addresses = [] } == .badRequest)
        #expect(code { $0.addresses = Array(repeating: "a:1", count: 9) } == .badRequest)
        #expect(code { $0.addresses = [String(repeating: "a", count: 513)] } == .badRequest)
        #expect(code { $0.host = "a\u{1B}[31m" } == .badRequest)
        try bench.ask(.registerServer(Bench.registration(1)))
    }

    @Test("a chunkserver comes back with a new incarnation and another address, never with an older one")
    func incarnations() throws {
        let bench = try Bench.ready()
        bench.feed(.sessionClosed(SessionID(rawValue: 1002)))
        var moved = Bench.registration(2, incarnation: 5, host: "elsewhere")
        moved.addresses = ["[fe80::1]:9"]
        try bench.ask(.registerServer(moved), session: 50)
        #expect(bench.core.state.servers[ServerID(2)]?.addresses == ["[fe80::1]:9"])
        bench.feed(.sessionClosed(SessionID(rawValue: 50)))
        try bench.restart(hears: false)
        let old = bench.refusal(.registerServer(Bench.registration(2, incarnation: 4)), session: 51)
        #expect(old?.code == .staleIncarnation)
        let oldBeat = bench.refusal(.heartbeat(Bench.beat(2, incarnation: 4)), session: 51)
        #expect(oldBeat?.code == .staleIncarnation)
        // It need not register again after the metadata server's restart.
        try bench.ask(.heartbeat(Bench.beat(2, incarnation: 5)), session: 52)
    }

    @Test("a copied store is refused while the original runs, whatever its incarnation")
    func clones() throws {
        let bench = try Bench.ready()
        for incarnation in UInt64(1)...3 {
            let clone = Bench.registration(2, incarnation: incarnation, host: "clone")
            let refusal = try #require(bench.refusal(.registerServer(clone), session: 60))
            #expect(refusal.code == .identityInUse)
            #expect(refusal.message.contains("format it anew"))
            #expect(refusal.message.contains("host2"))
        }
    }

    @Test("when two processes go on speaking for one store, the later one is told; the first is left alone")
    func twoSpeak() throws {
        let bench = try Bench.ready()
        let beat = MetadataRequest.heartbeat(Bench.beat(2))
        // One heartbeat proves nothing: it may be the same process on a new connection.
        #expect(bench.refusal(beat, session: 60)?.code == .notReady)
        for second in 1...20 {
            bench.pass(.seconds(1))
            try bench.ask(beat, session: 1002)
            let code = bench.refusal(beat, session: 60)?.code
            #expect(code == (second <= 1 ? .notReady : .identityInUse))
        }
    }

    @Test(
        "a chunkserver whose old connection broke unnoticed is let in over the new one, and never sent away")
    func brokenConnection() throws {
        let bench = try Bench.ready()
        bench.pass(.seconds(1))
        try bench.ask(.heartbeat(Bench.beat(2)), session: 1002)
        for _ in 0..<5 {
            bench.pass(.milliseconds(500))
            #expect(bench.refusal(.heartbeat(Bench.beat(2)), session: 70)?.code == .notReady)
        }
        bench.pass(.milliseconds(500))
        try bench.ask(.heartbeat(Bench.beat(2)), session: 70)
        #expect(bench.refusal(.heartbeat(Bench.beat(2)), session: 1002)?.code == .notReady)
    }

    @Test("a chunkserver whose old connection is known to be broken is let in at once")
    func closedConnection() throws {
        let bench = try Bench.ready()
        bench.feed(.sessionClosed(SessionID(rawValue: 1002)))
        try bench.ask(.heartbeat(Bench.beat(2)), session: 70)
    }

    @Test("a replaced process is refused afterwards and its connection is closed")
    func zombies() throws {
        let bench = try Bench.ready()
        bench.pass(.seconds(3))
        try bench.ask(.registerServer(Bench.registration(2, incarnation: 2, host: "host2")), session: 61)
        #expect(bench.closed == [SessionID(rawValue: 1002)])
        bench.pass(.seconds(3))
        #expect(bench.refusal(.heartbeat(Bench.beat(2)), session: 1002)?.code == .staleIncarnation)
    }

    @Test("a chunkserver that stopped may start again at once")
    func restartAtOnce() throws {
        let bench = try Bench.ready()
        bench.feed(.sessionClosed(SessionID(rawValue: 1002)))
        try bench.ask(.registerServer(Bench.registration(2, incarnation: 2, host: "host2")), session: 62)
        #expect(bench.closed.isEmpty)
    }

    @Test("registering the same again writes nothing")
    func sameAgain() throws {
        let bench = try Bench.ready()
        let version = bench.core.state.cluster.addressBookVersion
        try bench.ask(.registerServer(Bench.registration(1, host: "host1")), session: 1001)
        #expect(bench.core.state.cluster.addressBookVersion == version)
    }

    @Test("a heartbeat brings copysets, addresses and work only when they are news")
    func heartbeats() throws {
        let bench = try Bench.ready()
        var beat = Bench.beat(1)
        guard
            case .heartbeat(let book?, let copysets, let version, let tasks, nil) = try bench.ask(
                .heartbeat(beat), session: 1001)
        else { throw Bench.Wrong.reply }
        #expect(copysets.count == 12)
        #expect(tasks.isEmpty)
        (beat.addressBookVersion, beat.copysetsVersion) = (book.version, version)
        guard case .heartbeat(nil, let none, version, _, _) = try bench.ask(.heartbeat(beat), session: 1001)
        else { throw Bench.Wrong.reply }
        #expect(none.isEmpty)
    }

    @Test("work goes to the newest leader only, in pieces, and again until it is reported done")
    func tasks() throws {
        var limits = MetadataLimits()
        limits.tasksPerHeartbeatMax = 2
        let bench = try Bench.ready(limits: limits)
        let id = try bench.create("/v").row.id
        try bench.ask(.detach(volume: id, epoch: try bench.attach("/v").epoch))
        try bench.ask(.deleteVolume(path: "/v", purgeNow: true))
        func beat(_ server: UInt64, term: UInt32, finished: [TaskID] = []) throws -> [TaskRow] {
            var beat = Bench.beat(server)
            beat.copysets = (UInt32(1)...12).map {
                CopysetReport(copyset: CopysetID($0), isLeader: term > 0, term: Term(term), isReady: true)
            }
            beat.copysets.append(CopysetReport(copyset: CopysetID(77), isLeader: true, term: Term(9)))
            beat.finishedTasks = finished
            guard
                case .heartbeat(_, _, _, let tasks, _) = try bench.ask(
                    .heartbeat(beat), session: 1000 + server)
            else { throw Bench.Wrong.reply }
            return tasks
        }
        let first = try beat(1, term: 5)
        #expect(first.map(\.copyset.rawValue) == [1, 2])
        #expect(try beat(2, term: 4) == [], "an old leader gets no work")
        #expect(try beat(1, term: 5) == first)
        #expect(try beat(1, term: 5, finished: first.map(\.id)).map(\.copyset.rawValue) == [3, 4])
        #expect(try beat(2, term: 6).map(\.copyset.rawValue) == [3, 4])
        #expect(try beat(1, term: 5) == [])
    }

    @Test("only a member of the copyset can say that its work is done")
    func strangersTasks() throws {
        let bench = try Bench()
        try bench.addServers(4)
        try bench.ask(.createPool(name: "main", replicas: 3, copysets: 1, domain: .server))
        let id = try bench.create("/v").row.id
        try bench.ask(.detach(volume: id, epoch: try bench.attach("/v").epoch))
        try bench.ask(.deleteVolume(path: "/v", purgeNow: true))
        let members = try #require(bench.core.state.copysets[CopysetID(1)]).members
        for number in (UInt64(1)...4).sorted(by: { a, _ in !members.contains(ServerID(a)) }) {
            var beat = Bench.beat(number)
            beat.finishedTasks = [TaskID(1)]
            try bench.ask(.heartbeat(beat), session: 1000 + number)
            #expect(bench.core.state.tasks.isEmpty == members.contains(ServerID(number)))
        }
    }

    @Test("the log says once who fell silent, and once who is back")
    func silence() throws {
        let bench = try Bench.ready()
        for _ in 0..<10 {
            bench.pass(.seconds(1))
            bench.tick()
        }
        #expect(bench.log.count { $0.contains("is silent") } == 3)
        try bench.beatAll()
        try bench.beatAll()
        #expect(bench.log.count { $0.contains("heard again") } == 3)
    }

    @Test("a heartbeat of somebody unknown or unregistered is refused")
    func strangers() throws {
        let bench = try Bench()
        #expect(bench.refusal(.heartbeat(Bench.beat(1)))?.code == .notFound)
        try bench.ask(.allocateServer(device: Bench.device(1), host: "h"))
        #expect(bench.refusal(.heartbeat(Bench.beat(1)))?.code == .notFound)
        try bench.ask(.registerServer(Bench.registration(1)))
        #expect(bench.refusal(.heartbeat(Bench.beat(1, incarnation: 2)))?.code == .notFound)
        var long = Bench.beat(1)
        long.health = String(repeating: "x", count: 513)
        #expect(bench.refusal(.heartbeat(long))?.code == .badRequest)
    }

    @Test("the status says what is wrong and what to do, and nothing when all is well")
    func status() throws {
        let bench = try Bench()
        #expect(try bench.status().warnings == ["there is no chunkserver; format a store and start one"])
        try bench.addServers(3)
        #expect(try bench.status().warnings.contains { $0.contains("no pool") })
        try bench.ask(.createPool(name: "main", replicas: 3, copysets: 12, domain: .server))
        #expect(try bench.status().warnings.contains { $0.contains("12 of 12 copysets have no leader") })
        try bench.beatAll()
        let status = try bench.status()
        #expect(status.warnings == [])
        #expect(status.servers.map(\.copysetsLed) == [4, 4, 4])
        #expect(status.copysets.allSatisfy { $0.leader == $0.row.members.first && $0.membersInStep == 3 })
        #expect(status.pools.map(\.capacityBytes) == [100 << 30])
        #expect(status.pools.map(\.freeBytes) == [90 << 30])

        bench.pass(.seconds(4))
        var beat = Bench.beat(1)
        (beat.usedBytes, beat.freeBytes, beat.health) = (86 << 30, 14 << 30, "the device answers slowly")
        beat.copysets = [
            CopysetReport(
                copyset: CopysetID(1), isLeader: true, term: Term(2), isReady: true, membersInStep: 2)
        ]
        try bench.ask(.heartbeat(beat), session: 1001)
        bench.pass(.seconds(1))
        let later = try bench.status()
        #expect(later.servers.map(\.isOnline) == [true, false, false])
        let text = later.warnings.joined(separator: "\n")
        for part in [
            "chunkserver 2 on host2 has been silent for 5 s", "chunkserver 1 on host1 is 86 % full",
            "the device answers slowly", "1 of 12 copysets have fewer members in step than replicas (1)",
            "chunkservers 2 and 3 are offline",
        ] { #expect(text.contains(part), "\(text)") }
    }

    @Test("stores that grow lazily are told of, and nothing to be warned of")
    func lazyStores() throws {
        let bench = try Bench.ready()
        try bench.beatAll()
        for number in UInt64(1)...2 {
            var registration = Bench.registration(number, host: "host\(number)")
            registration.lazilyGrown = true
            try bench.ask(.registerServer(registration), session: 1000 + number)
        }
        try bench.beatAll()
        #expect(try bench.status().servers.map(\.row.lazilyGrown) == [true, true, false])
        #expect(try bench.status().warnings == [])
    }

    @Test("volumes, attachments and the recycle bin are counted")
    func counts() throws {
        let bench = try Bench.ready()
        for path in ["/a", "/b", "/c"] { try bench.create(path) }
        _ = try bench.attach("/a")
        try bench.ask(.deleteVolume(path: "/c", purgeNow: false))
        let status = try bench.status()
        #expect([status.volumeCount, status.attachedCount, status.recycledCount] == [2, 1, 1])
    }

    @Test("warnings have an end")
    func warningBound() throws {
        var limits = MetadataLimits()
        limits.warningsMax = 3
        let bench = try Bench(limits: limits)
        for number in UInt64(1)...9 {
            try bench.ask(.allocateServer(device: Bench.device(number), host: "h"))
        }
        #expect(try bench.status().warnings.count == 3)
    }
}
