import BlockTypes
import Testing

@testable import MetadataCore

/// A database that was put back from an older copy is noticed, not believed.
@Suite struct TrustTests {
    /// Three chunkservers, a volume that was attached once, a copy of the database; then `since`, of which
    /// all chunkservers hear; then the copy takes the database's place.
    static func wentBack(_ since: (Bench) throws -> Void) throws -> Bench {
        let bench = try Bench.ready()
        try bench.create("/v")
        _ = try bench.attach("/v")
        try bench.beatAll()
        let copy = bench.rows
        try since(bench)
        for server in 1...3 { bench.remembered[ServerID(UInt64(server))] = bench.core.revision }
        bench.rows = copy
        try bench.restart()
        return bench
    }
    /// Every chunkserver leads what it should, and says what its store knows of volumes.
    static func beat(_ bench: Bench, knowing volumes: [KnownVolume]) throws {
        for _ in 0..<2 {
            for server in bench.core.state.serversInOrder {
                var beat = Bench.beat(server.id.rawValue)
                beat.inventory = VolumeInventory(after: VolumeID(0), volumes: volumes, isLast: true)
                for id in bench.core.state.copysetsOfServer[server.id] ?? [] {
                    let isLeader = bench.core.state.copysets[id]?.members.first == server.id
                    beat.copysets.append(
                        CopysetReport(
                            copyset: id, isLeader: isLeader, term: Term(1), isReady: isLeader,
                            membersInStep: 3))
                }
                try bench.ask(.heartbeat(beat), session: 1000 + server.id.rawValue)
            }
        }
    }
    static func known(
        _ volume: UInt64, epoch: UInt32, change: UInt32, size: UInt64 = 1 << 30, isDeleted: Bool = false
    ) -> KnownVolume {
        let fence = VolumeFence(epoch: Epoch(epoch), size: ByteCount(bytes: size), change: change)
        return KnownVolume(volume: VolumeID(volume), fence: fence, isDeleted: isDeleted)
    }

    @Test("what gives or changes something raises the revision, what anybody may forget does not")
    func revision() throws {
        let bench = try Bench.ready()
        func raised(_ action: () throws -> Void) rethrows -> UInt64 {
            let before = bench.core.revision
            try action()
            return bench.core.revision - before
        }
        #expect(try raised { try bench.create("/v") } == 1)
        #expect(try raised { _ = try bench.attach("/v") } == 1)
        #expect(try raised { try bench.ask(.rename(from: "/v", to: "/w")) } == 1)
        #expect(try raised { try bench.ask(.createDirectory(path: "/d", parents: false)) } == 1)
        #expect(try raised { try bench.ask(.detach(volume: VolumeID(1), epoch: Epoch(1))) } == 0)
        #expect(try raised { try bench.beatAll() } == 0)
        let moved = Bench.registration(1, incarnation: 2)
        #expect(try raised { try bench.ask(.registerServer(moved), session: 1001) } == 0)
        #expect(try raised { try bench.restart() } == 0)
    }

    @Test("those who wait for trust and those who wait for a transaction have one bound together")
    func waitingBound() throws {
        let bench = try Bench.ready()
        try bench.create("/v")
        bench.limits.waitingRequestsMax = 2
        try bench.restart(hears: false)
        var effects: [MetadataCore.Effect] = []
        func receive(_ id: UInt64, _ request: MetadataRequest, session: UInt64 = 9) {
            bench.core.step(
                .received(
                    RequestID(rawValue: id), request, session: SessionID(rawValue: session),
                    secondsSince1970: bench.wall), now: bench.now, effects: &effects)
        }
        let attach = MetadataRequest.attach(AttachRequest(path: "/v", holder: "h", holderKey: "k"))
        for id in UInt64(900)...901 { receive(id, attach) }
        #expect(effects.isEmpty)
        receive(902, .registerServer(Bench.registration(1, incarnation: 2)), session: 1001)
        guard case .commit = effects.first, effects.count == 1 else {
            Issue.record("\(effects)")
            return
        }
        receive(903, .volume(path: "/v"))
        guard case .reply(let id, .failure(let refusal)) = effects.last else {
            Issue.record("\(effects)")
            return
        }
        #expect(id.rawValue == 903 && refusal.code == .notReady)
    }

    @Test("after a start nothing is given before a majority of the chunkservers has spoken")
    func majority() throws {
        let bench = try Bench.ready()
        try bench.create("/v")
        try bench.restart(hears: false)
        #expect(try bench.status().trust == .waiting)
        let (attach, late) = (RequestID(rawValue: 900), RequestID(rawValue: 901))
        let request = MetadataRequest.attach(AttachRequest(path: "/v", holder: "h", holderKey: "k"))
        let session = SessionID(rawValue: 9)
        func asks(_ id: RequestID) -> [RequestID: Result<MetadataReply, MetadataRefusal>] {
            bench.feed(.received(id, request, session: session, secondsSince1970: bench.wall))
        }
        func hears(_ server: UInt64) -> [RequestID: Result<MetadataReply, MetadataRefusal>] {
            bench.feed(
                .received(
                    RequestID(rawValue: 1000 + server), .heartbeat(Bench.beat(server)),
                    session: SessionID(rawValue: 1000 + server), secondsSince1970: bench.wall))
        }
        #expect(asks(attach).isEmpty)
        #expect(hears(1)[attach] == nil)
        bench.pass(.seconds(3))
        let refused = bench.feed(.tick(secondsSince1970: bench.wall))[attach]
        guard case .failure(let refusal) = refused else {
            Issue.record("not refused: \(String(describing: refused))")
            return
        }
        #expect(refusal.code == .notReady && refusal.message.contains("1 of 3"))
        #expect(asks(late).isEmpty)
        guard case .success(.attached(let attachment)) = hears(3)[late] else {
            Issue.record("not attached when two of three have spoken")
            return
        }
        #expect(attachment.epoch == Epoch(1))
        #expect(try bench.status().trust == .current)
    }

    @Test("a cluster without chunkservers has nobody to wait for")
    func empty() throws {
        let bench = try Bench()
        try bench.restart(hears: false)
        try bench.ask(.createDirectory(path: "/d", parents: false))
    }

    @Test("somebody remembers more: nothing is given, made or changed, and holders are not told to stop")
    func noticed() throws {
        let bench = try Self.wentBack { bench in
            _ = try bench.attach("/v", key: "b", takeOver: true)
            try bench.create("/younger")
            _ = try bench.attach("/younger")
        }
        #expect(try bench.status().trust == .wentBack)
        #expect(try bench.status().warnings.first?.contains("curve mds adopt") == true)
        for request: MetadataRequest in [
            .attach(AttachRequest(path: "/v", holder: "h", holderKey: "c", takeOver: true)),
            .createVolume(path: "/n", sizeBytes: 1 << 30, pool: "", stripeUnitBytes: 0, stripeCount: 0),
            .resize(path: "/v", sizeBytes: 2 << 30, allowShrink: false), .rename(from: "/v", to: "/w"),
            .deleteVolume(path: "/v", purgeNow: true), .createDirectory(path: "/d", parents: false),
            .allocateServer(device: Bench.device(9), host: "h"),
            .createPool(name: "p", replicas: 3, copysets: 0, domain: .device),
            // A holder of the lost database, of an attachment and a volume that this one does not know.
            .renewLease(volume: VolumeID(1), epoch: Epoch(2), addressBookVersion: 0),
            .renewLease(volume: VolumeID(2), epoch: Epoch(1), addressBookVersion: 0),
            .volume(path: "/younger"),
        ] {
            #expect(bench.refusal(request)?.code == .databaseWentBack, "\(request)")
        }
        // What needs no new fact goes on.
        try bench.ask(.renewLease(volume: VolumeID(1), epoch: Epoch(1), addressBookVersion: 0))
        #expect(try bench.info("/v").row.epoch == Epoch(1))
        #expect(try bench.ask(.registerServer(Bench.registration(2, incarnation: 2)), session: 1002) != .done)
        // It stays noticed when those who remember are silent.
        bench.tick()
        bench.remembered = [:]
        try bench.restart()
        #expect(bench.refusal(.createDirectory(path: "/d", parents: false))?.code == .databaseWentBack)
    }

    @Test("a client's renewal is proof enough, if the client is of this cluster")
    func clients() throws {
        let bench = try Bench.ready()
        try bench.create("/v")
        let epoch = try bench.attach("/v").epoch
        func renewal(of cluster: UniqueID, _ revision: UInt64) -> MetadataRequest {
            .renewLease(
                volume: VolumeID(1), epoch: epoch, addressBookVersion: 0, cluster: cluster, revision: revision
            )
        }
        let stranger = UniqueID(high: 1, low: 2)
        #expect(bench.refusal(renewal(of: stranger, 1000))?.code == .wrongCluster)
        try bench.ask(renewal(of: Bench.cluster, bench.core.revision))
        try bench.ask(renewal(of: Bench.cluster, .max))
        #expect(try bench.status().trust == .current)
        try bench.ask(renewal(of: Bench.cluster, bench.core.revision + 1))
        #expect(try bench.status().trust == .wentBack)
    }

    @Test("a store with a number that was never given here proves it, and is known after the adoption")
    func stranger() throws {
        let bench = try Self.wentBack { _ in }
        let four = MetadataRequest.registerServer(Bench.registration(4))
        #expect(bench.refusal(four, session: 1004)?.code == .databaseWentBack)
        #expect(try bench.status().trust == .wentBack)
        try Self.beat(bench, knowing: [])
        try bench.ask(.adoptDatabase(force: false))
        try bench.ask(four, session: 1004)
        guard
            case .allocated(_, let next) = try bench.ask(.allocateServer(device: Bench.device(5), host: "h"))
        else { throw Bench.Wrong.reply }
        #expect(next > ServerID(4))
    }

    @Test("retention does not end in a database that went back: its recycle bin may hold what was restored")
    func retention() throws {
        let bench = try Bench.ready()
        try bench.create("/v")
        _ = try bench.attach("/v")
        try bench.ask(.detach(volume: VolumeID(1), epoch: Epoch(1)))
        try bench.ask(.deleteVolume(path: "/v", purgeNow: false))
        let copy = bench.rows
        try bench.ask(.restore(.path("/v"), to: ""))
        for server in 1...3 { bench.remembered[ServerID(UInt64(server))] = bench.core.revision }
        bench.rows = copy
        bench.pass(.seconds(25 * 3600))
        try bench.restart(hears: false)
        bench.tick()
        try bench.restart()
        bench.tick()
        #expect(bench.core.state.recycled == [VolumeID(1)])
        try Self.beat(bench, knowing: [])
        try bench.ask(.adoptDatabase(force: false))
        bench.tick()
        #expect(bench.core.state.recycled == [VolumeID(1)])
    }
}

/// Going on with an older database.
@Suite struct AdoptTests {
    @Test("numbers are passed over, attachments and sizes are what chunkservers know, holders live")
    func adopt() throws {
        var last = Epoch(0)
        let bench = try TrustTests.wentBack { bench in
            for key in ["b", "c", "d"] { last = try bench.attach("/v", key: key, takeOver: true).epoch }
            try bench.ask(.resize(path: "/v", sizeBytes: 2 << 30, allowShrink: false))
            try bench.create("/younger")
            _ = try bench.attach("/younger")
        }
        let lost = bench.remembered[ServerID(1)] ?? 0
        #expect(bench.refusal(.adoptDatabase(force: false))?.code == .notReady)
        try TrustTests.beat(
            bench,
            knowing: [
                TrustTests.known(1, epoch: last.rawValue, change: 5, size: 2 << 30),
                TrustTests.known(2, epoch: 1, change: 1),
            ])
        guard case .adopted(let findings) = try bench.ask(.adoptDatabase(force: false)) else {
            throw Bench.Wrong.reply
        }
        #expect(
            findings.contains { $0.contains("volume 1, /v, was attached since, last with number \(last)") })
        #expect(findings.contains { $0.contains("has 2 GiB") })
        #expect(findings.contains { $0.contains("1 volumes are not in the database") && $0.contains("(2)") })
        #expect(bench.core.revision > lost)
        #expect(try bench.status().trust == .current)
        #expect(try bench.info("/v").row.sizeBytes == 2 << 30)
        #expect(try bench.status().warnings.contains { $0.contains("chunkservers hold their data: 2") })
        // The holder whom the database did not know goes on, and nobody takes its place by accident.
        try bench.ask(.renewLease(volume: VolumeID(1), epoch: last, addressBookVersion: 0), session: 8)
        #expect(bench.refusal(.attach(AttachRequest(path: "/v", holder: "e", holderKey: "e")))?.code == .held)
        // So does the holder of a volume that is unknown: it is never told that the volume was deleted.
        let unknown = MetadataRequest.renewLease(volume: VolumeID(2), epoch: Epoch(1), addressBookVersion: 0)
        #expect(bench.refusal(unknown)?.code == .badRequest)
        // One attachment more may have been given without anybody's knowledge.
        let next = try bench.attach("/v", key: "e", takeOver: true).epoch
        #expect(next > Epoch(last.rawValue + 1))
        #expect(try bench.attach("/v", key: "e").epoch == Epoch(next.rawValue + 1))
        #expect(try bench.create("/new").row.id > VolumeID(2))
        try bench.restart()
        #expect(try bench.status().trust == .current)
        #expect(try MetadataState(Array(bench.rows.values)) == bench.core.state)
    }

    @Test("what was deleted for good since is deleted again, on every copyset")
    func deleted() throws {
        let bench = try TrustTests.wentBack { bench in
            bench.pass(.seconds(11))
            try bench.ask(.deleteVolume(path: "/v", purgeNow: true))
        }
        try TrustTests.beat(bench, knowing: [TrustTests.known(1, epoch: 1, change: 1, isDeleted: true)])
        try bench.ask(.adoptDatabase(force: false))
        #expect(bench.refusal(.volume(path: "/v"))?.code == .notFound)
        #expect(bench.core.state.tasks.count == 12)
    }

    @Test("a copyset that cannot say what it knows holds the adoption up, unless forced")
    func force() throws {
        let bench = try TrustTests.wentBack { try $0.create("/w") }
        let refusal = bench.refusal(.adoptDatabase(force: false))
        #expect(refusal?.code == .notReady && refusal?.message.contains("12 of 12 copysets") == true)
        try bench.ask(.adoptDatabase(force: true))
        #expect(bench.refusal(.adoptDatabase(force: true))?.code == .badRequest)
    }

    @Test("with most chunkservers gone for good an operator may go on without them")
    func overrule() throws {
        let bench = try Bench.ready()
        try bench.restart(hears: false)
        #expect(bench.refusal(.adoptDatabase(force: false))?.code == .notReady)
        try bench.ask(.adoptDatabase(force: true))
        try bench.ask(.createDirectory(path: "/d", parents: false))
    }
}
