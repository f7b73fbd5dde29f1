import BlockTypes
import Testing

@testable import MetadataCore

@Suite struct GroupTests {
    private static func join(
        _ bench: Bench, _ key: String, group: String = "g", takeOver: Bool = false, attempt: UInt64 = 0
    ) throws -> VolumeAttachment {
        let request = AttachRequest(
            path: "/v", holder: "gateway \(key)", holderKey: key, takeOver: takeOver, attempt: attempt,
            group: group)
        guard case .attached(let attachment) = try bench.ask(.attach(request)) else {
            throw Bench.Wrong.reply
        }
        return attachment
    }
    private static func ready() throws -> (Bench, VolumeID) {
        let bench = try Bench.ready()
        return (bench, try bench.create("/v").row.id)
    }
    private static func renew(_ id: VolumeID, _ epoch: Epoch) -> MetadataRequest {
        .renewLease(volume: id, epoch: epoch, addressBookVersion: 0)
    }
    private static func exclusive(takeOver: Bool = false) -> MetadataRequest {
        .attach(AttachRequest(path: "/v", holder: "alone", holderKey: "x", takeOver: takeOver))
    }

    @Test("members of a group hold a volume together, each with an attachment that stays its own")
    func joining() throws {
        let (bench, id) = try Self.ready()
        let a = try Self.join(bench, "a")
        let b = try Self.join(bench, "b")
        #expect(a.epoch == Epoch(1) && a.group == [Epoch(1)])
        #expect(b.epoch == Epoch(2) && b.group == [Epoch(1), Epoch(2)])
        try bench.ask(Self.renew(id, a.epoch))
        try bench.ask(Self.renew(id, b.epoch))
        let info = try bench.info("/v")
        #expect(info.holder == "the group g: gateway a and gateway b" || info.holder.contains("gateway a"))
        #expect(info.row.group?.members.map(\.epoch) == [Epoch(1), Epoch(2)])
        // A copy of the request gets the same attachment; another start of the same program a new one.
        let c = try Self.join(bench, "c", attempt: 7)
        #expect(try Self.join(bench, "c", attempt: 7).epoch == c.epoch)
        let again = try Self.join(bench, "c", attempt: 8)
        #expect(again.epoch == Epoch(4) && again.group == [Epoch(1), Epoch(2), Epoch(4)])
        #expect(bench.refusal(Self.renew(id, c.epoch))?.code == .fenced)
        try bench.restart()
        try bench.ask(Self.renew(id, a.epoch))
    }

    @Test("who wants it alone, or in another group, is refused with the members' names, and the reverse")
    func exclusion() throws {
        let (bench, id) = try Self.ready()
        let a = try Self.join(bench, "a")
        let b = try Self.join(bench, "b")
        let refusal = bench.refusal(Self.exclusive())
        #expect(refusal?.code == .held && refusal?.message.contains("gateway a") == true)
        #expect(refusal?.message.contains("gateway b") == true)
        let other = AttachRequest(path: "/v", holder: "h", holderKey: "h", group: "other")
        #expect(bench.refusal(.attach(other))?.code == .held)
        guard case .attached(let alone) = try bench.ask(Self.exclusive(takeOver: true)) else {
            throw Bench.Wrong.reply
        }
        #expect(alone.epoch == Epoch(3) && alone.group.isEmpty)
        for member in [a, b] { #expect(bench.refusal(Self.renew(id, member.epoch))?.code == .fenced) }
        let late = AttachRequest(path: "/v", holder: "a", holderKey: "a", group: "g")
        #expect(bench.refusal(.attach(late))?.message.contains("alone") == true)
        #expect(try Self.join(bench, "a", takeOver: true).group == [Epoch(4)])
    }

    @Test("a member that leaves is gone at once, the last one frees the volume")
    func leaving() throws {
        let (bench, id) = try Self.ready()
        let a = try Self.join(bench, "a")
        let b = try Self.join(bench, "b")
        try bench.ask(.detach(volume: id, epoch: a.epoch))
        #expect(bench.refusal(Self.renew(id, a.epoch))?.code == .fenced)
        try bench.ask(Self.renew(id, b.epoch))
        #expect(bench.refusal(Self.exclusive())?.code == .held)
        try bench.ask(.detach(volume: id, epoch: b.epoch))
        #expect(try bench.info("/v").holder == "")
        try bench.ask(Self.exclusive())
    }

    @Test("a silent member is removed by another one; a living one by force only; the others go on")
    func removal() throws {
        let (bench, id) = try Self.ready()
        let a = try Self.join(bench, "a")
        let b = try Self.join(bench, "b")
        let c = try Self.join(bench, "c")
        func remove(_ member: Epoch, force: Bool = false) -> MetadataRequest {
            .removeMember(volume: id, epoch: a.epoch, member: member, force: force)
        }
        #expect(bench.refusal(remove(b.epoch))?.code == .held)
        #expect(bench.refusal(remove(a.epoch))?.code == .badRequest)
        bench.pass(.seconds(11))
        try bench.ask(Self.renew(id, a.epoch))
        try bench.ask(Self.renew(id, c.epoch))
        let size = try bench.info("/v").row.sizeBytes
        #expect(try bench.info("/v").silentMembers == [b.epoch])
        let gone = MetadataReply.regrouped(
            epoch: Epoch(4), change: 4, group: [a.epoch, c.epoch], sizeBytes: size)
        #expect(try bench.ask(remove(b.epoch)) == gone)
        // Whoever asks again may tell the copysets again.
        #expect(try bench.ask(remove(b.epoch)) == gone)
        #expect(bench.refusal(Self.renew(id, b.epoch))?.code == .fenced)
        try bench.ask(Self.renew(id, c.epoch))
        let last = MetadataReply.regrouped(epoch: Epoch(5), change: 5, group: [a.epoch], sizeBytes: size)
        #expect(try bench.ask(remove(c.epoch, force: true)) == last)
        let stranger = MetadataRequest.removeMember(
            volume: id, epoch: c.epoch, member: a.epoch, force: true)
        #expect(bench.refusal(stranger)?.code == .fenced)
    }

    @Test("a volume that a group holds grows by a generation that each member hears of, and never shrinks")
    func growth() throws {
        let (bench, id) = try Self.ready()
        let a = try Self.join(bench, "a")
        let b = try Self.join(bench, "b")
        let grow = MetadataRequest.resize(path: "/v", sizeBytes: 3 << 30, allowShrink: false)
        guard case .volume(let grown) = try bench.ask(grow) else { throw Bench.Wrong.reply }
        #expect(grown.row.epoch == Epoch(3) && grown.row.sizeBytes == 3 << 30)
        // Said twice it is said once.
        try bench.ask(grow)
        let group = [a.epoch, b.epoch]
        for member in group {
            let news = MetadataReply.renewed(
                sizeBytes: 3 << 30, change: 3, addressBook: bench.core.state.addressBook,
                generation: Epoch(3), group: group, poolUsedPercent: 0)
            #expect(try bench.ask(Self.renew(id, member)) == news)
        }
        let shrink = MetadataRequest.resize(path: "/v", sizeBytes: 1 << 30, allowShrink: true)
        let refusal = bench.refusal(shrink)
        #expect(refusal?.code == .held && refusal?.message.contains("can grow, but not shrink") == true)
        // A removal and a join have the new size; growth when all are silent is a generation as well.
        let gone = MetadataReply.regrouped(
            epoch: Epoch(4), change: 4, group: [a.epoch], sizeBytes: 3 << 30)
        let removal = MetadataRequest.removeMember(
            volume: id, epoch: a.epoch, member: b.epoch, force: true)
        #expect(try bench.ask(removal) == gone)
        #expect(try Self.join(bench, "c").volume.row.sizeBytes == 3 << 30)
        bench.pass(.seconds(11))
        try bench.ask(.resize(path: "/v", sizeBytes: 4 << 30, allowShrink: false))
        #expect(try bench.info("/v").row.epoch == Epoch(6))
        try bench.restart()
        try bench.ask(Self.renew(id, a.epoch))
    }

    @Test("a renewal says how full the fullest store of the volume's pool is")
    func poolUsed() throws {
        let (bench, id) = try Self.ready()
        let a = try Self.join(bench, "a")
        func used() throws -> UInt32 {
            guard case .renewed(_, _, _, _, _, let used) = try bench.ask(Self.renew(id, a.epoch)) else {
                throw Bench.Wrong.reply
            }
            return used
        }
        #expect(try used() == 0)
        try bench.beatAll()
        #expect(try used() == 10)
        for (bytes, percent) in [(UInt64(81) << 30, UInt32(81)), (200 << 30, 100)] {
            var beat = Bench.beat(2)
            beat.usedBytes = bytes
            try bench.ask(.heartbeat(beat), session: 1002)
            #expect(try used() == percent)
        }
    }

    @Test("what a shrink left behind the end is freed by the first member before another one may come")
    func tails() throws {
        let (bench, id) = try Self.ready()
        let alone = try bench.attach("/v", session: 5)
        try bench.ask(
            .resize(path: "/v", sizeBytes: 256 << 20 + 4096, allowShrink: true), session: 5)
        try bench.ask(.detach(volume: id, epoch: alone.epoch))
        try bench.beatAll(finished: try bench.beatAll().map(\.id))
        let a = try Self.join(bench, "a")
        #expect(a.trimsTail)
        func refusal(_ key: String) -> MetadataRefusal? {
            bench.refusal(.attach(AttachRequest(path: "/v", holder: key, holderKey: key, group: "g")))
        }
        #expect(refusal("b")?.code == .notReady)
        // It dies before it has: the next one is the first, and that one over.
        bench.pass(.seconds(11))
        let b = try Self.join(bench, "b")
        #expect(b.trimsTail && b.group == [b.epoch])
        #expect(bench.refusal(Self.renew(id, a.epoch))?.code == .fenced)
        let grow = MetadataRequest.resize(path: "/v", sizeBytes: 1 << 30, allowShrink: false)
        #expect(bench.refusal(grow)?.code == .notReady)
        try bench.ask(
            .renewLease(
                volume: id, epoch: b.epoch, addressBookVersion: 0, settledChange: b.volume.row.change ?? 0))
        let c = try Self.join(bench, "c")
        #expect(!c.trimsTail && c.group == [b.epoch, c.epoch])
        try bench.ask(grow)
        #expect(try bench.info("/v").row.sizeBytes == 1 << 30)
    }

    @Test("a group has no more members than a fence can name")
    func bound() throws {
        let (bench, _) = try Self.ready()
        for number in 0..<VolumeFence.groupMax { _ = try Self.join(bench, "\(number)") }
        let one = AttachRequest(path: "/v", holder: "h", holderKey: "one more", group: "g")
        #expect(bench.refusal(.attach(one))?.code == .noSpace)
        _ = try Self.join(bench, "3")
    }
}

@Suite struct ValueTests {
    private static func swap(
        _ attachment: VolumeAttachment, _ expected: UInt64, _ bytes: [UInt8], name: String = "pr",
        attempt: UInt64 = 0
    ) -> MetadataRequest {
        .swapValue(
            ValueSwap(
                volume: attachment.volume.row.id, epoch: attachment.epoch, name: name,
                expectedVersion: expected, bytes: bytes, attempt: attempt))
    }
    private static func read(_ id: VolumeID, name: String = "pr") -> MetadataRequest {
        .value(volume: id, name: name, after: 0, wait: .zero)
    }

    @Test("a value changes only for who saw its newest version, and outlives restarts")
    func swapping() throws {
        let bench = try Bench.ready()
        let id = try bench.create("/v").row.id
        let holder = try bench.attach("/v")
        #expect(try bench.ask(Self.read(id)) == .value(version: 0, bytes: [], isSwapped: false))
        let bytes = (0...255).map { UInt8($0) }
        #expect(
            try bench.ask(Self.swap(holder, 0, bytes, attempt: 5))
                == .value(version: 1, bytes: bytes, isSwapped: true))
        #expect(
            try bench.ask(Self.swap(holder, 0, [1])) == .value(version: 1, bytes: bytes, isSwapped: false))
        // A copy of the request that changed it.
        #expect(
            try bench.ask(Self.swap(holder, 0, bytes, attempt: 5))
                == .value(version: 1, bytes: bytes, isSwapped: true))
        try bench.restart()
        #expect(try bench.ask(Self.read(id)) == .value(version: 1, bytes: bytes, isSwapped: false))
        #expect(try bench.ask(Self.swap(holder, 1, [])) == .value(version: 2, bytes: [], isSwapped: true))
    }

    @Test("nobody but a present holder changes a value; a purged volume has none")
    func rights() throws {
        let bench = try Bench.ready()
        let id = try bench.create("/v").row.id
        let old = try bench.attach("/v", key: "a")
        try bench.ask(Self.swap(old, 0, [1]))
        let new = try bench.attach("/v", key: "b", takeOver: true)
        #expect(bench.refusal(Self.swap(old, 1, [2]))?.code == .fenced)
        try bench.ask(Self.swap(new, 1, [3]))
        try bench.ask(.detach(volume: id, epoch: new.epoch))
        #expect(bench.refusal(Self.swap(new, 2, [4]))?.code == .fenced)
        try bench.ask(.deleteVolume(path: "/v", purgeNow: true))
        #expect(bench.refusal(Self.read(id))?.code == .notFound)
        #expect(bench.core.state.values.isEmpty && !bench.rows.keys.contains(.value(id.rawValue << 8)))
    }

    @Test("values have bounds")
    func bounds() throws {
        let bench = try Bench.ready()
        try bench.create("/v")
        let holder = try bench.attach("/v")
        let most = bench.limits.valueBytesMax
        try bench.ask(Self.swap(holder, 0, Array(repeating: 1, count: most)))
        let long = Self.swap(holder, 1, Array(repeating: 1, count: most + 1))
        #expect(bench.refusal(long)?.code == .badRequest)
        for name in ["", String(repeating: "n", count: 65)] {
            #expect(bench.refusal(Self.swap(holder, 0, [1], name: name))?.code == .badRequest)
        }
        for number in 1..<bench.limits.valuesPerVolumeMax {
            try bench.ask(Self.swap(holder, 0, [1], name: "\(number)"))
        }
        #expect(bench.refusal(Self.swap(holder, 0, [1], name: "one more"))?.code == .noSpace)
    }

    @Test("the cluster has values of its own, which need no attachment, and bounds of their own")
    func clusterValues() throws {
        let bench = try Bench.ready()
        let limits = bench.limits
        func swap(_ expected: UInt64, _ bytes: [UInt8], name: String = "c") -> MetadataRequest {
            .swapValue(
                ValueSwap(
                    volume: .cluster, epoch: Epoch(0), name: name, expectedVersion: expected, bytes: bytes))
        }
        let most = [UInt8](repeating: 7, count: limits.clusterValueBytesMax)
        #expect(try bench.ask(swap(0, most)) == .value(version: 1, bytes: most, isSwapped: true))
        #expect(bench.refusal(swap(1, most + [1]))?.code == .badRequest)
        #expect(try bench.ask(swap(0, [])) == .value(version: 1, bytes: most, isSwapped: false))
        // A volume's values are others.
        let id = try bench.create("/v").row.id
        #expect(try bench.ask(Self.read(id, name: "c")) == .value(version: 0, bytes: [], isSwapped: false))
        try bench.restart()
        #expect(
            try bench.ask(Self.read(.cluster, name: "c")) == .value(version: 1, bytes: most, isSwapped: false)
        )
        for number in 1..<limits.clusterValuesMax { try bench.ask(swap(0, [1], name: "\(number)")) }
        let refusal = bench.refusal(swap(0, [1], name: "one more"))
        #expect(refusal?.code == .noSpace && refusal?.message.hasPrefix("the cluster has 128 values") == true)
        #expect(bench.refusal(.attach(AttachRequest(path: "/", holder: "h", holderKey: "k"))) != nil)
    }

    @Test("who waits for news of the cluster hears of a change")
    func watchingTheCluster() throws {
        let bench = try Bench.ready()
        func received(_ number: UInt64, _ request: MetadataRequest) -> MetadataCore.Event {
            .received(
                RequestID(rawValue: number), request, session: SessionID(rawValue: 1),
                secondsSince1970: bench.wall)
        }
        let watch = MetadataRequest.value(volume: .cluster, name: "c", after: 0, wait: .seconds(20))
        #expect(bench.feed(received(1001, watch)).isEmpty)
        let swap = ValueSwap(volume: .cluster, epoch: Epoch(0), name: "c", expectedVersion: 0, bytes: [7])
        let replies = bench.feed(received(1002, .swapValue(swap)))
        #expect(
            try replies[RequestID(rawValue: 1001)]?.get() == .value(version: 1, bytes: [7], isSwapped: false))
    }

    @Test("who waits for news hears of a change when it is durable, or of nothing after a while")
    func watching() throws {
        let bench = try Bench.ready()
        let id = try bench.create("/v").row.id
        let holder = try bench.attach("/v")
        func watch(_ number: UInt64, after: UInt64, session: UInt64 = 1) -> MetadataCore.Event {
            .received(
                RequestID(rawValue: number),
                .value(volume: id, name: "pr", after: after, wait: .seconds(20)),
                session: SessionID(rawValue: session), secondsSince1970: bench.wall)
        }
        #expect(bench.feed(watch(1001, after: 0)).isEmpty)
        #expect(bench.feed(watch(1002, after: 1)).isEmpty)
        #expect(bench.feed(watch(1003, after: 0, session: 9)).isEmpty)
        bench.feed(.sessionClosed(SessionID(rawValue: 9)))
        let replies = bench.feed(
            .received(
                RequestID(rawValue: 1004), Self.swap(holder, 0, [7]), session: SessionID(rawValue: 1),
                secondsSince1970: bench.wall))
        #expect(replies.count == 2)
        #expect(
            try replies[RequestID(rawValue: 1001)]?.get()
                == .value(version: 1, bytes: [7], isSwapped: false))
        bench.pass(.seconds(19))
        #expect(bench.feed(.tick(secondsSince1970: bench.wall)).isEmpty)
        bench.pass(.seconds(2))
        let late = bench.feed(.tick(secondsSince1970: bench.wall))
        #expect(
            try late[RequestID(rawValue: 1002)]?.get() == .value(version: 1, bytes: [7], isSwapped: false))
    }
}
