import BlockTypes
import Testing

@testable import MetadataCore

@Suite struct VolumeTests {
    let mib: UInt64 = 1 << 20

    @Test("small volumes are plain, from 64 MiB on they are striped 64 KiB x 4, unless asked otherwise")
    func geometry() throws {
        let bench = try Bench.ready()
        let small = try bench.create("/small", 64 * mib - 4096).row
        #expect((small.stripeUnitBytes, small.stripeCount) == (16 << 20, 1))
        let large = try bench.create("/large", 64 * mib).row
        #expect((large.stripeUnitBytes, large.stripeCount) == (64 << 10, 4))
        let own = try bench.create("/own", mib, unit: 4096, count: 64).row
        #expect((own.stripeUnitBytes, own.stripeCount) == (4096, 64))
        let plain = try bench.create("/plain", 1 << 40, unit: 4096, count: 1).row
        #expect((plain.stripeUnitBytes, plain.stripeCount) == (16 << 20, 1))
        #expect((plain.pool, plain.generation, plain.epoch) == (PoolID(1), 1, Epoch(0)))
    }

    @Test(
        "a size that cannot be is refused with the nearest that can",
        arguments: [
            (0, 1, "1048576"), (4096, 1, "1048576"), (1_048_577, 1, "1048576"), (1_050_700, 1, "1052672"),
            (1 << 50 + 4096, 1, "1125899906842624"), (UInt64.max, 1, "1125899906842624"),
            (1 << 50, 3, "1125899890065408"), (1 << 50 - 1, 1, "1125899906842624"),
        ] as [(UInt64, UInt32, String)])
    func badSizes(size: UInt64, count: UInt32, nearest: String) throws {
        let bench = try Bench.ready()
        let refusal = bench.refusal(
            .createVolume(path: "/v", sizeBytes: size, pool: "", stripeUnitBytes: 0, stripeCount: count))
        #expect(refusal?.code == .badRequest)
        #expect(refusal?.message.contains("nearest possible is \(nearest) ") == true, "\(refusal as Any)")
        try bench.create("/v", UInt64(nearest) ?? 0, count: count)
    }

    @Test("a stripe that cannot be is refused", arguments: [(3 << 12, 4), (2048, 4), (32 << 20, 2), (0, 65)])
    func badStripes(unit: UInt32, count: UInt32) throws {
        let bench = try Bench.ready()
        let request = MetadataRequest.createVolume(
            path: "/v", sizeBytes: 1 << 30, pool: "", stripeUnitBytes: unit, stripeCount: count)
        #expect(bench.refusal(request)?.code == .badRequest)
    }

    @Test("the pool may be named, must be when there are two, and must exist")
    func pools() throws {
        let bench = try Bench()
        func request(_ pool: String) -> MetadataRequest {
            .createVolume(path: "/v", sizeBytes: 1 << 20, pool: pool, stripeUnitBytes: 0, stripeCount: 0)
        }
        #expect(bench.refusal(request(""))?.code == .notReady)
        try bench.addServers(3)
        try bench.ask(.createPool(name: "one", replicas: 3, copysets: 0, domain: .server))
        #expect(bench.refusal(request("two"))?.message.contains("there is one") == true)
        for number in UInt64(4)...6 {
            try bench.ask(.allocateServer(device: Bench.device(number), host: "host\(number)"))
            try bench.ask(.registerServer(Bench.registration(number, host: "host\(number)")), session: number)
        }
        try bench.ask(.createPool(name: "two", replicas: 3, copysets: 0, domain: .server))
        #expect(bench.refusal(request(""))?.message.contains("one and two") == true)
        guard case .volume(let info) = try bench.ask(request("two")) else { throw Bench.Wrong.reply }
        #expect(info.poolName == "two")
    }

    @Test("growing needs nothing, shrinking needs consent")
    func resize() throws {
        let bench = try Bench.ready()
        try bench.create("/v")
        guard
            case .volume(let grown) = try bench.ask(
                .resize(path: "/v", sizeBytes: 2 << 30, allowShrink: false))
        else { throw Bench.Wrong.reply }
        #expect(grown.row.sizeBytes == 2 << 30)
        let refusal = bench.refusal(.resize(path: "/v", sizeBytes: 1 << 30, allowShrink: false))
        #expect(refusal?.code == .badRequest)
        #expect(refusal?.message.contains("2 GiB") == true)
        try bench.ask(.resize(path: "/v", sizeBytes: 1 << 20, allowShrink: true))
        #expect(try bench.info("/v").row.sizeBytes == 1 << 20)
        #expect(bench.core.state.tasks.isEmpty, "nothing was ever written")
        #expect(bench.refusal(.resize(path: "/v", sizeBytes: 5, allowShrink: true))?.code == .badRequest)
    }

    @Test("a held volume is shrunk by its holder only, and learns any new size when it renews")
    func resizeHeld() throws {
        let bench = try Bench.ready()
        let id = try bench.create("/v").row.id
        let epoch = try bench.attach("/v", session: 5).epoch
        func renewedSize() throws -> UInt64 {
            guard
                case .renewed(let size, _, _, _, _, _) = try bench.ask(
                    .renewLease(volume: id, epoch: epoch, addressBookVersion: 0), session: 5)
            else { throw Bench.Wrong.reply }
            return size
        }
        try bench.ask(.resize(path: "/v", sizeBytes: 2 << 30, allowShrink: false), session: 6)
        #expect(try renewedSize() == 2 << 30)
        let refusal = bench.refusal(
            .resize(path: "/v", sizeBytes: 1 << 29, allowShrink: true), session: 6)
        #expect(refusal?.code == .held)
        #expect(refusal?.holder == "holder a")
        try bench.ask(.resize(path: "/v", sizeBytes: 1 << 29 + 4096, allowShrink: true), session: 5)
        #expect(try renewedSize() == 1 << 29 + 4096)
        // The holder frees what lies beyond, but it may die before it has told everybody.
        let tasks = try bench.beatAll()
        let fence = TaskRow.Fence(epoch: epoch, sizeBytes: 576 * mib, change: 3)
        #expect(tasks.count == 12 && tasks.allSatisfy { $0.fence == fence })
        let grow = MetadataRequest.resize(path: "/v", sizeBytes: 1 << 30, allowShrink: false)
        #expect(bench.refusal(grow, session: 5)?.code == .notReady)
        // A second shrink replaces the tasks of the first.
        try bench.ask(.resize(path: "/v", sizeBytes: 256 * mib + 4096, allowShrink: true), session: 5)
        let newer = try bench.beatAll(finished: tasks.map(\.id))
        #expect(newer.count == 12 && newer.allSatisfy { $0.fence?.change == 4 })
        #expect(bench.refusal(grow, session: 5)?.code == .notReady)
        try bench.beatAll(finished: newer.map(\.id))
        // Whole stripe groups are free now; the end lies within one, and only the holder can free the rest.
        #expect(bench.refusal(grow, session: 5)?.code == .notReady)
        func settle(_ change: UInt32) throws {
            try bench.ask(
                .renewLease(volume: id, epoch: epoch, addressBookVersion: 0, settledChange: change),
                session: 5)
        }
        try settle(3)
        #expect(bench.refusal(grow, session: 5)?.code == .notReady, "that was the shrink before")
        try settle(4)
        try bench.ask(grow, session: 5)
        #expect(try bench.info("/v").row.change == 5)
    }
    /// Or the volume would show old data once it has grown: nobody who attached it at its new size knows
    /// where it once ended.
    @Test("a holder that was taken over leaves it to the next one to free what its shrink cut off")
    func resizeTakenOver() throws {
        let bench = try Bench.ready()
        let id = try bench.create("/v").row.id
        #expect(try !bench.attach("/v", session: 5).trimsTail)
        try bench.ask(.resize(path: "/v", sizeBytes: 256 * mib + 4096, allowShrink: true), session: 5)
        try bench.beatAll(finished: try bench.beatAll().map(\.id))
        let grow = MetadataRequest.resize(path: "/v", sizeBytes: 1 << 30, allowShrink: false)
        let next = try bench.attach("/v", takeOver: true, session: 6)
        #expect(next.trimsTail && bench.refusal(grow, session: 6)?.code == .notReady)
        let change = next.volume.row.change ?? 0
        try bench.ask(
            .renewLease(volume: id, epoch: next.epoch, addressBookVersion: 0, settledChange: change),
            session: 6)
        try bench.ask(grow, session: 6)
        #expect(try !bench.attach("/v", takeOver: true, session: 7).trimsTail)
        // Whole stripe groups leave nothing to the holder.
        try bench.ask(.resize(path: "/v", sizeBytes: 256 * mib, allowShrink: true), session: 7)
        #expect(try !bench.attach("/v", takeOver: true, session: 8).trimsTail)
    }
    @Test("a holder that was silent for longer than its lease does not fence itself when it shrinks")
    func resizeAfterSilence() throws {
        let bench = try Bench.ready()
        try bench.create("/v")
        let epoch = try bench.attach("/v", session: 5).epoch
        bench.pass(.seconds(11))
        try bench.ask(.resize(path: "/v", sizeBytes: 512 * mib, allowShrink: true), session: 5)
        let row = try bench.info("/v").row
        #expect(row.epoch == epoch && row.holder != nil && row.sizeBytes == 512 * mib)
        // Whoever does not hold it takes it from the silent one, as before.
        try bench.beatAll(finished: try bench.beatAll().map(\.id))
        try bench.ask(.resize(path: "/v", sizeBytes: 256 * mib, allowShrink: true), session: 6)
        #expect(try bench.info("/v").row.epoch > epoch)
    }
    @Test("what lies between an uneven end and its stripe group is uncovered by a holder only")
    func growUneven() throws {
        let bench = try Bench.ready()
        let id = try bench.create("/v").row.id
        let epoch = try bench.attach("/v", session: 5).epoch
        try bench.ask(.resize(path: "/v", sizeBytes: 512 * mib + 4096, allowShrink: true), session: 5)
        try bench.beatAll(finished: try bench.beatAll().map(\.id))
        try bench.ask(.detach(volume: id, epoch: epoch), session: 5)
        let grow = MetadataRequest.resize(path: "/v", sizeBytes: 1 << 30, allowShrink: false)
        #expect(bench.refusal(grow)?.message.contains("attach it to grow it") == true)
        let next = try bench.attach("/v", session: 6)
        #expect(next.trimsTail, "the first one may have gone before it had freed the rest")
        let settled = MetadataRequest.renewLease(
            volume: id, epoch: next.epoch, addressBookVersion: 0,
            settledChange: next.volume.row.change ?? 0)
        try bench.ask(settled, session: 6)
        try bench.ask(grow, session: 6)
    }

    @Test(
        "shrinking what nobody holds fences every copyset, and it cannot grow until all have freed the rest")
    func shrinkUnheld() throws {
        let bench = try Bench.ready()
        let id = try bench.create("/v").row.id
        let epoch = try bench.attach("/v").epoch
        try bench.ask(.detach(volume: id, epoch: epoch))
        let odd = bench.refusal(.resize(path: "/v", sizeBytes: 64 * mib + 4096, allowShrink: true))
        #expect(odd?.message.contains("128 MiB") == true)
        try bench.ask(.resize(path: "/v", sizeBytes: 128 * mib, allowShrink: true))
        let tasks = try bench.beatAll()
        #expect(tasks.map(\.copyset) == tasks.map(\.copyset).uniqued)
        #expect(tasks.count == 12)
        #expect(tasks.allSatisfy { $0.fence == .init(epoch: Epoch(2), sizeBytes: 128 * mib, change: 2) })
        let grow = MetadataRequest.resize(path: "/v", sizeBytes: 1 << 30, allowShrink: false)
        #expect(bench.refusal(grow)?.code == .notReady)
        try bench.beatAll(finished: tasks.dropLast().map(\.id))
        #expect(bench.refusal(grow)?.message.contains("1 copysets") == true)
        try bench.beatAll(finished: tasks.map(\.id))
        try bench.ask(grow)
        #expect(try bench.attach("/v").epoch == Epoch(3))
    }

    @Test("a deleted volume can be restored for a day, then it is purged")
    func retention() throws {
        let bench = try Bench.ready()
        let id = try bench.create("/v").row.id
        try bench.ask(.deleteVolume(path: "/v", purgeNow: false))
        let missing = bench.refusal(.volume(path: "/v"))
        #expect(missing?.message.contains("recycle bin") == true)
        bench.pass(.seconds(24 * 3600 - 1))
        bench.tick()
        guard case .recycled(let infos) = try bench.ask(.listRecycled) else { throw Bench.Wrong.reply }
        #expect(infos.map(\.row.id) == [id])
        #expect(infos.map(\.path) == ["/v"])
        try bench.ask(.restore(.volume(id), to: ""))
        #expect(try bench.info("/v").row.id == id)
        try bench.ask(.deleteVolume(path: "/v", purgeNow: false))
        bench.pass(.seconds(24 * 3600))
        bench.tick()
        #expect(bench.core.state.volumes.isEmpty)
        #expect(bench.log.contains { $0.contains("once /v") })
    }

    @Test("a wall clock that jumps forward purges nothing before its time")
    func clockJump() throws {
        let bench = try Bench.ready()
        try bench.create("/v")
        try bench.ask(.deleteVolume(path: "/v", purgeNow: false))
        bench.wall += 365 * 24 * 3600
        bench.tick()
        #expect(bench.core.state.recycled.count == 1)
    }

    @Test("a restore onto something or into nothing is refused and says how else")
    func restoreConflicts() throws {
        let bench = try Bench.ready()
        try bench.ask(.createDirectory(path: "/d", parents: false))
        let id = try bench.create("/d/v").row.id
        try bench.ask(.deleteVolume(path: "/d/v", purgeNow: false))
        try bench.create("/d/v")
        let taken = bench.refusal(.restore(.path("/d/v"), to: ""))
        #expect(taken?.code == .alreadyExists)
        #expect(taken?.message.contains("restore it to another path") == true)
        #expect(bench.refusal(.restore(.path("/d/v"), to: "/x/v"))?.code == .notFound)
        try bench.ask(.restore(.path("/d/v"), to: "/w"))
        #expect(try bench.info("/w").row.id == id)
        #expect(bench.refusal(.restore(.volume(id), to: ""))?.code == .notFound)
    }

    @Test("of several deleted volumes of one path one is chosen by its number")
    func samePath() throws {
        let bench = try Bench.ready()
        var ids: [VolumeID] = []
        for _ in 0..<2 {
            ids.append(try bench.create("/v").row.id)
            try bench.ask(.deleteVolume(path: "/v", purgeNow: false))
        }
        for request in [MetadataRequest.restore(.path("/v"), to: ""), .purge(.path("/v"))] {
            #expect(bench.refusal(request)?.message.contains("1 and 2") == true)
        }
        try bench.ask(.purge(.volume(ids[0])))
        try bench.ask(.restore(.path("/v"), to: ""))
        #expect(try bench.info("/v").row.id == ids[1])
    }

    @Test("a purge is durable work for every copyset; the number is forgotten when all have done it")
    func purge() throws {
        let bench = try Bench.ready()
        let id = try bench.create("/v").row.id
        let epoch = try bench.attach("/v").epoch
        try bench.ask(.detach(volume: id, epoch: epoch))
        try bench.ask(.deleteVolume(path: "/v", purgeNow: true))
        #expect(try bench.listing("/") == [])
        #expect(bench.refusal(.restore(.volume(id), to: ""))?.code == .notFound)
        try bench.restart()
        var tasks = try bench.beatAll()
        #expect(tasks.count == 12)
        #expect(tasks.allSatisfy { $0.volume == id && $0.fence == nil })
        try bench.beatAll(finished: tasks.prefix(5).map(\.id))
        #expect(try bench.status().pendingTaskCount == 7)
        tasks = try bench.beatAll()
        #expect(tasks.count == 7)
        #expect(bench.core.state.volumes[id] != nil)
        try bench.beatAll(finished: tasks.map(\.id) + [TaskID(4711)])
        #expect(bench.core.state.volumes[id] == nil)
        #expect(try bench.status().pendingTaskCount == 0)
        #expect(try bench.create("/v").row.id > id, "numbers are never used again")
    }

    @Test("purging what shrank replaces the fences by the deletion")
    func purgeAfterShrink() throws {
        let bench = try Bench.ready()
        let id = try bench.create("/v").row.id
        try bench.ask(.detach(volume: id, epoch: try bench.attach("/v").epoch))
        try bench.ask(.resize(path: "/v", sizeBytes: 64 * mib, allowShrink: true))
        try bench.ask(.deleteVolume(path: "/v", purgeNow: true))
        let tasks = try bench.beatAll()
        #expect(tasks.count == 12)
        #expect(tasks.allSatisfy { $0.fence == nil })
    }
}

extension Array where Element: Hashable {
    var uniqued: [Element] {
        var seen: Set<Element> = []
        return filter { seen.insert($0).inserted }
    }
}
