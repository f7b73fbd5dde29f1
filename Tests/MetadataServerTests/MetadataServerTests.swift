import BlockTypes
import ControlMessages
import CurveWire
import Environment
import Foundation
import MemoryEnvironment
import MetadataCore
import MetadataServer
import Testing

@Suite struct MetadataServerTests {
    @Test("a group holds a volume and agrees on a value, over the wire and over a restart")
    func groups() throws {
        let bench = try ServerBench()
        try bench.makePool()
        _ = try bench.create("/v")
        func join(_ key: String) throws -> ControlAttachVolumeResponse {
            var request = bench.attach("/v", key: key)
            request.group = "g"
            return try bench.ask(.attachVolume(request), from: key).attachVolume
        }
        #expect(try join("a").group == [1])
        #expect(try join("b").group == [1, 2])
        let volume = try bench.volume("/v")
        #expect(volume.group == "g" && volume.members.map(\.epoch) == [1, 2])
        #expect(volume.members.map(\.holder) == ["holder a", "holder b"])
        var swap = ControlSwapValueRequest()
        (swap.volume, swap.epoch, swap.name, swap.value) = (1, 2, "pr", Data([0, 255, 16]))
        let swapped = try bench.ask(.swapValue(swap), from: "b").value
        #expect(swapped.swapped && swapped.version == 1)
        try bench.restart()
        for server in UInt64(1)...3 {
            _ = try bench.ask(.registerServer(bench.registration(server)), from: "cs\(server)")
        }
        var question = ControlGetValueRequest()
        (question.volume, question.name) = (1, "pr")
        #expect(try bench.ask(.getValue(question)).value.value == Data([0, 255, 16]))
        var removal = ControlRemoveMemberRequest()
        (removal.volume, removal.epoch, removal.member) = (1, 1, 2)
        #expect(bench.failure(.removeMember(removal), from: "a")?.code == .held)
        removal.force = true
        let removed = try bench.ask(.removeMember(removal), from: "a").removeMember
        #expect(removed.group == [1] && removed.epoch == 3)
        swap.expectedVersion = 1
        #expect(bench.failure(.swapValue(swap), from: "b")?.code == .fenced)
    }

    @Test("a volume's whole life over the wire")
    func volumeLife() throws {
        let bench = try ServerBench()
        try bench.makePool()
        var directory = ControlCreateDirectoryRequest()
        (directory.path, directory.parents) = ("/a/b", true)
        _ = try bench.ask(.createDirectory(directory))
        let volume = try bench.create("/a/b/v")
        #expect((volume.id, volume.path, volume.poolName, volume.epoch) == (1, "/a/b/v", "main", 0))
        #expect((volume.stripeUnitBytes, volume.stripeCount, volume.generation) == (64 << 10, 4, 1))
        #expect(volume.createdAt >= 1_800_000_000)

        let attached = try bench.ask(.attachVolume(bench.attach("/a/b/v"))).attachVolume
        #expect((attached.epoch, attached.leaseMilliseconds) == (1, 10_000))
        #expect(attached.copysets.map(\.id) == Array(1...12))
        #expect(attached.copysets.allSatisfy { $0.members.count == 3 })
        #expect(attached.addressBook.servers.map(\.server) == [1, 2, 3])
        #expect(attached.addressBook.servers.map(\.addresses) == (1...3).map { ["10.0.0.\($0):7000"] })

        let held = bench.failure(.attachVolume(bench.attach("/a/b/v", key: "other")), from: "other")
        #expect(held?.code == .held)
        #expect(held?.holder == "holder k")

        var resize = ControlResizeVolumeRequest()
        (resize.path, resize.sizeBytes) = ("/a/b/v", 2 << 30)
        #expect(try bench.ask(.resizeVolume(resize)).volume.volume.sizeBytes == 2 << 30)
        var renew = ControlRenewLeaseRequest()
        (renew.volume, renew.epoch, renew.addressBookVersion) = (1, 1, attached.addressBook.version)
        let renewed = try bench.ask(.renewLease(renew)).renewLease
        #expect(renewed.sizeBytes == 2 << 30)
        #expect(!renewed.hasAddressBook)

        var detach = ControlDetachVolumeRequest()
        (detach.volume, detach.epoch) = (1, 1)
        _ = try bench.ask(.detachVolume(detach))
        #expect(bench.failure(.renewLease(renew))?.code == .fenced)

        var rename = ControlRenameRequest()
        (rename.from, rename.to) = ("/a/b/v", "/w")
        #expect(try bench.ask(.rename(rename)).volume.volume.path == "/w")
        var delete = ControlDeleteVolumeRequest()
        delete.path = "/w"
        _ = try bench.ask(.deleteVolume(delete))
        let recycled = try bench.ask(.listRecycled(ControlListRecycledRequest())).listRecycled.volumes
        #expect(recycled.map(\.path) == ["/w"])
        #expect(recycled.allSatisfy { $0.deletedAt > 0 })
        var restore = ControlRestoreVolumeRequest()
        (restore.byPath, restore.path, restore.to) = (true, "/w", "/x")
        #expect(try bench.ask(.restoreVolume(restore)).volume.volume.path == "/x")
        var list = ControlListDirectoryRequest()
        list.recursive = true
        #expect(
            try bench.ask(.listDirectory(list)).listDirectory.entries.map(\.path) == ["/a", "/a/b", "/x"])
        (delete.path, delete.purgeNow) = ("/x", true)
        _ = try bench.ask(.deleteVolume(delete))
        var remove = ControlDeleteDirectoryRequest()
        remove.path = "/a/b"
        _ = try bench.ask(.deleteDirectory(remove))
    }

    @Test("a chunkserver's whole life over the wire")
    func serverLife() throws {
        let bench = try ServerBench()
        try bench.makePool()
        _ = try bench.create("/v")
        _ = try bench.ask(.attachVolume(bench.attach("/v")))
        bench.world.run(for: .seconds(11))
        var delete = ControlDeleteVolumeRequest()
        (delete.path, delete.purgeNow) = ("/v", true)
        _ = try bench.ask(.deleteVolume(delete))

        var beat = ControlServerHeartbeatRequest()
        (beat.server, beat.incarnation, beat.health) = (1, 1, "ok")
        (beat.capacityBytes, beat.usedBytes, beat.freeBytes) = (1 << 40, 1 << 30, (1 << 40) - (1 << 30))
        beat.copysets = (UInt32(1)...12).map { number in
            var report = ControlCopysetReport()
            (report.copyset, report.isLeader, report.ready) = (number, true, true)
            (report.term, report.membersInStep) = (1, 3)
            return report
        }
        let first = try bench.ask(.serverHeartbeat(beat), from: "cs1").serverHeartbeat
        #expect(first.copysets.count == 12)
        #expect(first.hasAddressBook)
        #expect(first.tasks.count == 12)
        #expect(first.tasks.allSatisfy { $0.volume == 1 && $0.work == .deleteVolume(true) })
        beat.finishedTasks = first.tasks.map(\.task)
        (beat.addressBookVersion, beat.copysetsVersion) = (first.addressBook.version, first.copysetsVersion)
        let second = try bench.ask(.serverHeartbeat(beat), from: "cs1").serverHeartbeat
        #expect(second.copysets.isEmpty && !second.hasAddressBook && second.tasks.isEmpty)

        let status = try bench.ask(.getStatus(ControlGetStatusRequest())).getStatus
        #expect(status.clusterID == bench.server.clusterID.controlBytes)
        #expect(status.servers.map(\.online) == [true, false, false])
        #expect(status.servers.map(\.copysetsLed) == [12, 0, 0])
        #expect(status.copysets.allSatisfy { $0.leader == 1 && $0.membersInStep == 3 })
        #expect(status.pendingTasks == 0)
        #expect(status.volumes == 0)
        #expect(status.warnings.count == 2)
    }

    @Test("chunkservers name their zones, and a pool keeps replicas in different ones")
    func zones() throws {
        let bench = try ServerBench()
        for number in UInt64(1)...6 {
            var allocate = ControlAllocateServerRequest()
            allocate.deviceID = ServerBench.device(number).controlBytes
            _ = try bench.ask(.allocateServer(allocate))
            var register = bench.registration(number)
            register.zone = "zone\(number % 3)"
            _ = try bench.ask(.registerServer(register), from: "cs\(number)")
        }
        var pool = ControlCreatePoolRequest()
        (pool.name, pool.failureDomain) = ("p", .zone)
        let made = try bench.ask(.createPool(pool)).createPool.pool
        #expect((made.copysets, made.replicas, made.failureDomain) == (24, 3, .zone))
        let status = try bench.ask(.getStatus(ControlGetStatusRequest())).getStatus
        #expect(status.copysets.count == 24)
        #expect(status.copysets.allSatisfy { Set($0.members.map { $0 % 3 }).count == 3 })
    }

    @Test("a copied store is refused while the original is connected, and let in when it has gone")
    func clone() throws {
        let bench = try ServerBench()
        try bench.makePool()
        let clone = bench.registration(1, incarnation: 2)
        let refused = bench.failure(.registerServer(clone), from: "clone")
        #expect(refused?.code == .identityInUse)
        #expect(refused?.message.contains("format it anew") == true)
        bench.hangUp("cs1")
        _ = try bench.ask(.registerServer(clone), from: "clone")
        #expect(bench.failure(.registerServer(bench.registration(1)), from: "cs1")?.code == .identityInUse)
        bench.hangUp("clone")
        #expect(
            bench.failure(.registerServer(bench.registration(1)), from: "cs1")?.code == .staleIncarnation)
    }

    @Test("a silent process that was replaced loses its connection")
    func replaced() throws {
        let bench = try ServerBench()
        try bench.makePool()
        bench.world.run(for: .seconds(4))
        _ = try bench.ask(.registerServer(bench.registration(1, incarnation: 2)), from: "new")
        var beat = ControlServerHeartbeatRequest()
        (beat.server, beat.incarnation) = (1, 1)
        #expect(bench.failure(.serverHeartbeat(beat), from: "cs1")?.code == .identityInUse)
        bench.world.run(for: .seconds(4))
        #expect(bench.failure(.serverHeartbeat(beat), from: "cs1")?.code == .staleIncarnation)
    }

    @Test("requests without sense are refused one by one and the connection lives on")
    func badRequests() throws {
        let bench = try ServerBench()
        try bench.makePool()
        var allocate = ControlAllocateServerRequest()
        allocate.deviceID = UniqueID(high: 1, low: 1).controlBytes.dropLast()
        #expect(bench.failure(.allocateServer(allocate))?.message.contains("16 bytes, not 15") == true)
        var register = bench.registration(1)
        register.clusterID = UniqueID(high: 1, low: 1).controlBytes
        #expect(bench.failure(.registerServer(register))?.code == .wrongCluster)
        register = bench.registration(1)
        register.addresses = ["no address"]
        #expect(bench.failure(.registerServer(register))?.code == .badRequest)
        var pool = ControlCreatePoolRequest()
        (pool.name, pool.failureDomain) = ("p", .UNRECOGNIZED(9))
        #expect(bench.failure(.createPool(pool))?.code == .badRequest)
        #expect(bench.failure(.createVolume(ControlCreateVolumeRequest()))?.code == .badRequest)
        #expect(bench.failure(.attachVolume(ControlAttachVolumeRequest()))?.code == .badRequest)
        for body: ControlRequest.OneOf_Body in [
            .purgeVolume(ControlPurgeVolumeRequest()), .restoreVolume(ControlRestoreVolumeRequest()),
            .serverHeartbeat(ControlServerHeartbeatRequest()),
        ] { #expect(bench.failure(body)?.code == .notFound) }
        #expect(bench.failure(.renewLease(ControlRenewLeaseRequest()))?.code == .fenced)
        var renew = ControlRenewLeaseRequest()
        (renew.volume, renew.epoch) = (.max, .max)
        // A number that was never given here: the caller may know more than this server.
        #expect(bench.failure(.renewLease(renew))?.code == .badRequest)
        let cluster = try bench.ask(.getCluster(ControlGetClusterRequest())).getCluster
        #expect(cluster.clusterID == bench.server.clusterID.controlBytes)
    }

    @Test("bytes without sense cost their own connection and one line of the log")
    func garbage() throws {
        let bench = try ServerBench()
        final class Sink: ConnectionHandler {
            var isClosed = false
            func connectionReceiveWindow() -> UnsafeMutableRawBufferPointer? { nil }
            func connectionReceived(_ bytes: UnsafeRawBufferPointer) {}
            func connectionDrained() {}
            func connectionClosed(_ reason: NetworkError) { isClosed = true }
        }
        let sink = Sink()
        let address = try #require(bench.server.address)
        bench.world.environment("stranger").connect(to: address, timeout: .seconds(1)) { result in
            guard case .success(let connection) = result else { return }
            connection.handler = sink
            connection.send([.bytes(Array(repeating: 0x47, count: 500))])
        }
        bench.world.run(for: .seconds(10))
        #expect(sink.isClosed)
        #expect(bench.world.log.count { $0.contains("warning mds") } == 1)
        _ = try bench.ask(.getCluster(ControlGetClusterRequest()))
    }

    @Test("after a restart everything is as it was, and the holder has its grace")
    func restart() throws {
        let bench = try ServerBench()
        try bench.makePool()
        _ = try bench.create("/v")
        _ = try bench.ask(.attachVolume(bench.attach("/v")))
        let cluster = bench.server.clusterID
        try bench.restart()
        #expect(bench.server.clusterID == cluster)
        #expect(try bench.volume("/v").holder == "holder k")
        for number in UInt64(1)...2 {
            _ = try bench.ask(.registerServer(bench.registration(number)), from: "cs\(number)")
        }
        #expect(bench.failure(.attachVolume(bench.attach("/v", key: "other")))?.code == .held)
        bench.world.run(for: .seconds(10))
        let attached = try bench.ask(.attachVolume(bench.attach("/v", key: "other"))).attachVolume
        #expect(attached.epoch == 2)
    }

    @Test(
        "an epoch that reached the store although its reply did not is never given again",
        arguments: [false, true])
    func crashBeforeReply(arrives: Bool) throws {
        let store = MemoryMetadataStore()
        let bench = try ServerBench(store: store)
        try bench.makePool()
        _ = try bench.create("/v")
        store.fault = { (.failed("no space left"), arrives) }
        let refused = bench.failure(.attachVolume(bench.attach("/v")))
        #expect(refused?.code == .store)
        #expect(refused?.message.contains("no space left") == true)
        store.fault = nil
        let epoch = try bench.ask(.attachVolume(bench.attach("/v"))).attachVolume.epoch
        #expect(epoch == (arrives ? 2 : 1))
        try bench.restart()
        #expect(try bench.volume("/v").epoch == epoch)
    }

    @Test("leases end and deleted volumes are purged while nobody calls")
    func ticks() throws {
        let bench = try ServerBench()
        try bench.makePool()
        _ = try bench.create("/v")
        var delete = ControlDeleteVolumeRequest()
        delete.path = "/v"
        _ = try bench.ask(.deleteVolume(delete))
        bench.world.run(for: .seconds(24 * 3600 + 2))
        let status = try bench.ask(.getStatus(ControlGetStatusRequest())).getStatus
        #expect(status.recycledVolumes == 0)
    }
}
