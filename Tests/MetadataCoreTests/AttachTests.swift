import BlockTypes
import Testing

@testable import MetadataCore

@Suite struct AttachTests {
    @Test("an attachment has an epoch, the table in its order, and where the chunkservers are")
    func attach() throws {
        let bench = try Bench.ready()
        try bench.create("/v")
        let attachment = try bench.attach("/v")
        #expect(attachment.epoch == Epoch(1))
        #expect(attachment.lease == .seconds(10))
        #expect(attachment.copysets.map(\.id.rawValue) == Array(1...12))
        #expect(attachment.copysets.allSatisfy { Set($0.members).count == 3 })
        #expect(attachment.addressBook.servers.map(\.addresses) == (1...3).map { ["10.0.0.\($0):7000"] })
        #expect(attachment.volume.row.epoch == Epoch(1))
        #expect(try bench.info("/v").holder == "holder a")
    }

    @Test("a late copy of an attach changes nothing once somebody else has attached")
    func lateCopy() throws {
        let bench = try Bench.ready()
        try bench.create("/v")
        func attach(_ key: String, after epoch: UInt32, attempt: UInt64) -> MetadataRequest {
            .attach(
                AttachRequest(
                    path: "/v", holder: key, holderKey: key, takeOver: true, expectedEpoch: Epoch(epoch),
                    attempt: attempt))
        }
        func epoch(_ reply: MetadataReply) throws -> Epoch {
            guard case .attached(let attachment) = reply else { throw Bench.Wrong.reply }
            return attachment.epoch
        }
        let first = attach("a", after: 0, attempt: 71)
        #expect(try epoch(bench.ask(first)) == Epoch(1))
        // The answer got lost and the request comes again: the same answer.
        #expect(try epoch(bench.ask(first)) == Epoch(1))
        #expect(try epoch(bench.ask(attach("b", after: 1, attempt: 72))) == Epoch(2))
        #expect(bench.refusal(first)?.code == .notReady)
        let row = try bench.info("/v").row
        #expect(row.epoch == Epoch(2) && row.holder?.key == "b")
        try bench.restart()
        #expect(try epoch(bench.ask(attach("b", after: 1, attempt: 72))) == Epoch(2))
    }

    @Test("the epoch is in the store before the holder learns it")
    func epochIsDurableFirst() throws {
        let bench = try Bench.ready()
        let id = try bench.create("/v").row.id
        var effects: [MetadataCore.Effect] = []
        let request = AttachRequest(path: "/v", holder: "h", holderKey: "k")
        bench.core.step(
            .received(
                RequestID(rawValue: 90), .attach(request), session: SessionID(rawValue: 1),
                secondsSince1970: bench.wall), now: bench.now, effects: &effects)
        guard case .commit(let changes) = effects.first, effects.count == 1 else {
            Issue.record("\(effects)")
            return
        }
        // Whoever asks meanwhile waits, and does not see the new holder.
        effects = []
        bench.core.step(
            .received(
                RequestID(rawValue: 91), .volume(path: "/v"), session: SessionID(rawValue: 2),
                secondsSince1970: bench.wall), now: bench.now, effects: &effects)
        #expect(effects.isEmpty)
        // A crash here: the epoch is used up although nobody ever held it.
        bench.store(changes)
        try bench.restart()
        #expect(bench.core.state.volumes[id]?.epoch == Epoch(1))
        #expect(try bench.attach("/v", key: "k").epoch == Epoch(2))
    }

    @Test("requests that came during a transaction are served in order after it")
    func waiting() throws {
        let bench = try Bench.ready()
        var effects: [MetadataCore.Effect] = []
        func receive(_ id: UInt64, _ request: MetadataRequest, session: UInt64 = 1) {
            bench.core.step(
                .received(
                    RequestID(rawValue: id), request, session: SessionID(rawValue: session),
                    secondsSince1970: bench.wall), now: bench.now, effects: &effects)
        }
        for id in UInt64(1)...3 { receive(id, .createDirectory(path: "/d\(id)", parents: false)) }
        receive(4, .list(path: "/", recursive: false))
        receive(5, .list(path: "/", recursive: false), session: 9)
        #expect(effects.count == 1)
        bench.core.step(.sessionClosed(SessionID(rawValue: 9)), now: bench.now, effects: &effects)
        var answered: [UInt64] = []
        while let effect = effects.first {
            effects.removeFirst()
            if case .commit = effect { bench.core.step(.committed, now: bench.now, effects: &effects) }
            if case .reply(let id, .success(let reply)) = effect {
                answered.append(id.rawValue)
                if id.rawValue == 4, case .listing(let entries) = reply { #expect(entries.count == 3) }
            }
        }
        #expect(answered == [1, 2, 3, 4])
    }

    @Test("too many requests during a transaction are refused, not kept")
    func waitingBound() throws {
        var limits = MetadataLimits()
        limits.waitingRequestsMax = 2
        let bench = try Bench.ready(limits: limits)
        var effects: [MetadataCore.Effect] = []
        for id in UInt64(1)...4 {
            bench.core.step(
                .received(
                    RequestID(rawValue: id), .createDirectory(path: "/d\(id)", parents: false),
                    session: SessionID(rawValue: 1), secondsSince1970: bench.wall), now: bench.now,
                effects: &effects)
        }
        guard case .reply(let id, .failure(let refusal)) = effects.last else {
            Issue.record("\(effects)")
            return
        }
        #expect(id.rawValue == 4)
        #expect(refusal.code == .notReady)
    }

    @Test("a second holder is refused with who holds, since when, and how to take over")
    func held() throws {
        let bench = try Bench.ready()
        try bench.create("/v")
        _ = try bench.attach("/v", key: "a")
        let refusal = try #require(
            bench.refusal(.attach(AttachRequest(path: "/v", holder: "b", holderKey: "b"))))
        #expect(refusal.code == .held)
        #expect(refusal.holder == "holder a")
        for part in ["holder a", "2025-11-21 09:00:00 UTC", "--takeover"] {
            #expect(refusal.message.contains(part), "\(refusal.message)")
        }
        #expect(try bench.attach("/v", key: "b", takeOver: true).epoch == Epoch(2))
        #expect(bench.log.contains { $0.contains("from \"holder a\" to \"holder b\"") })
    }

    @Test("the same key attaches again at once, an empty key never does")
    func sameKey() throws {
        let bench = try Bench.ready()
        try bench.create("/v")
        _ = try bench.attach("/v", key: "a")
        #expect(try bench.attach("/v", key: "a").epoch == Epoch(2))
        try bench.create("/w")
        _ = try bench.attach("/w", key: "")
        let again = bench.refusal(.attach(AttachRequest(path: "/w", holder: "x", holderKey: "")))
        #expect(again?.code == .held)
    }

    @Test("a lease that is not renewed ends; one that is renewed does not")
    func lease() throws {
        let bench = try Bench.ready()
        let id = try bench.create("/v").row.id
        let epoch = try bench.attach("/v").epoch
        let other = MetadataRequest.attach(AttachRequest(path: "/v", holder: "b", holderKey: "b"))
        for _ in 0..<10 {
            bench.pass(.seconds(9))
            #expect(bench.refusal(other)?.code == .held)
            try bench.ask(.renewLease(volume: id, epoch: epoch, addressBookVersion: 0))
        }
        bench.pass(.seconds(10))
        #expect(try bench.info("/v").holder.contains("lease has ended"))
        // Nobody came: the late renewal is as good as one in time.
        try bench.ask(.renewLease(volume: id, epoch: epoch, addressBookVersion: 0))
        #expect(bench.refusal(other)?.code == .held)
        bench.pass(.seconds(10))
        try bench.ask(other)
        let fenced = bench.refusal(.renewLease(volume: id, epoch: epoch, addressBookVersion: 0))
        #expect(fenced?.code == .fenced)
        #expect(fenced?.message.contains("\"b\"") == true)
    }

    @Test("after a restart a known holder has one full lease before anyone may attach without force")
    func grace() throws {
        let bench = try Bench.ready()
        let id = try bench.create("/v").row.id
        let epoch = try bench.attach("/v").epoch
        bench.pass(.seconds(1000))
        try bench.restart()
        let other = MetadataRequest.attach(AttachRequest(path: "/v", holder: "b", holderKey: "b"))
        bench.pass(.seconds(9))
        #expect(bench.refusal(other)?.code == .held)
        try bench.ask(.renewLease(volume: id, epoch: epoch, addressBookVersion: 0))
        bench.pass(.seconds(9))
        #expect(bench.refusal(other)?.code == .held)
        bench.pass(.seconds(1))
        try bench.ask(other)
    }

    @Test("letting go frees at once, twice is once, and a stranger cannot let go for the holder")
    func detach() throws {
        let bench = try Bench.ready()
        let id = try bench.create("/v").row.id
        _ = try bench.attach("/v", key: "a")
        let epoch = try bench.attach("/v", key: "a").epoch
        #expect(bench.refusal(.detach(volume: id, epoch: Epoch(1)))?.code == .fenced)
        #expect(bench.refusal(.detach(volume: id, epoch: Epoch(3)))?.code == .badRequest)
        #expect(bench.refusal(.detach(volume: VolumeID(99), epoch: Epoch(1)))?.code == .badRequest)
        try bench.ask(.detach(volume: id, epoch: epoch))
        try bench.ask(.detach(volume: id, epoch: epoch))
        #expect(try bench.info("/v").holder == "")
        let late = bench.refusal(.renewLease(volume: id, epoch: epoch, addressBookVersion: 0))
        #expect(late?.code == .fenced)
        #expect(try bench.attach("/v", key: "b").epoch == Epoch(3))
    }

    @Test("a held volume is not deleted; a silent holder's is, and it is fenced then")
    func deleteHeld() throws {
        let bench = try Bench.ready()
        let id = try bench.create("/v").row.id
        let epoch = try bench.attach("/v").epoch
        let refusal = bench.refusal(.deleteVolume(path: "/v", purgeNow: false))
        #expect(refusal?.code == .held)
        #expect(refusal?.message.contains("holder a") == true)
        bench.pass(.seconds(10))
        try bench.ask(.deleteVolume(path: "/v", purgeNow: false))
        let late = bench.refusal(.renewLease(volume: id, epoch: epoch, addressBookVersion: 0))
        #expect(late?.code == .fenced)
    }

    @Test("a held volume can be moved; its holder does not notice")
    func moveHeld() throws {
        let bench = try Bench.ready()
        let id = try bench.create("/v").row.id
        let epoch = try bench.attach("/v").epoch
        try bench.ask(.rename(from: "/v", to: "/w"))
        try bench.ask(.renewLease(volume: id, epoch: epoch, addressBookVersion: 0))
        #expect(try bench.info("/w").holder == "holder a")
    }

    @Test("a renewal brings the address book only when it has changed")
    func renewalBook() throws {
        let bench = try Bench.ready()
        let id = try bench.create("/v").row.id
        let attachment = try bench.attach("/v")
        func book(_ version: UInt64) throws -> AddressBook? {
            let request = MetadataRequest.renewLease(
                volume: id, epoch: attachment.epoch, addressBookVersion: version)
            guard case .renewed(_, _, let book, _, _, _) = try bench.ask(request) else {
                throw Bench.Wrong.reply
            }
            return book
        }
        #expect(try book(attachment.addressBook.version) == nil)
        bench.pass(.seconds(3))
        try bench.ask(.registerServer(Bench.registration(2, incarnation: 2, host: "host2")), session: 77)
        let new = try #require(try book(attachment.addressBook.version))
        #expect(new.version > attachment.addressBook.version)
        #expect(new.servers[1].incarnation == Incarnation(2))
    }

    @Test("when a commit fails nothing is promised, and the state is read again from the store")
    func failedCommit() throws {
        for arrives in [false, true] {
            let bench = try Bench.ready()
            try bench.create("/v")
            (bench.commitsToFail, bench.failedCommitsArrive) = (1, arrives)
            let request = MetadataRequest.attach(AttachRequest(path: "/v", holder: "h", holderKey: "k"))
            let refusal = bench.refusal(request)
            #expect(refusal?.code == .store)
            #expect(refusal?.message.contains("disk on fire") == true)
            #expect(try bench.attach("/v", key: "k").epoch == Epoch(arrives ? 2 : 1))
        }
    }

    @Test("while the store cannot be read everything is refused; each tick tries again")
    func brokenStore() throws {
        let bench = try Bench.ready()
        bench.wall = 0
        try bench.restart()
        var effects: [MetadataCore.Effect] = []
        func step(_ event: MetadataCore.Event) -> [MetadataCore.Effect] {
            effects = []
            bench.core.step(event, now: bench.now, effects: &effects)
            return effects
        }
        func ask(_ id: UInt64) -> MetadataCore.Event {
            .received(
                RequestID(rawValue: id), .createDirectory(path: "/d\(id)", parents: false),
                session: SessionID(rawValue: 1), secondsSince1970: 0)
        }
        _ = step(ask(1))
        _ = step(ask(2))
        #expect(step(.commitFailed("EIO")).last == .reload)
        #expect(step(.reloadFailed("EIO")).count { if case .reply = $0 { true } else { false } } == 1)
        guard case .reply(_, .failure(let refusal)) = step(ask(3)).first else {
            Issue.record("not refused")
            return
        }
        #expect(refusal.code == .store)
        #expect(step(.tick(secondsSince1970: 0)) == [.reload])
        #expect(step(.reloaded([])).contains { if case .log = $0 { true } else { false } })
        #expect(step(.tick(secondsSince1970: 0)) == [.reload])
        _ = step(.reloaded(Array(bench.rows.values)))
        guard case .commit = step(ask(4)).first else {
            Issue.record("did not recover")
            return
        }
    }
}
