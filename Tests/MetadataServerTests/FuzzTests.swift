import BlockTypes
import ControlMessages
import Foundation
import Testing

@testable import MetadataCore
@testable import MetadataServer

@Suite struct FuzzTests {
    /// One sensible request of each kind.
    static func sensible(cluster: UniqueID) -> [ControlRequest.OneOf_Body] {
        var allocate = ControlAllocateServerRequest()
        (allocate.deviceID, allocate.host) = (UniqueID(high: 1, low: 2).controlBytes, "h")
        var register = ControlRegisterServerRequest()
        (register.clusterID, register.deviceID) = (
            cluster.controlBytes, UniqueID(high: 1, low: 2).controlBytes
        )
        (register.server, register.incarnation, register.addresses) = (1, 1, ["h:7000"])
        var beat = ControlServerHeartbeatRequest()
        (beat.server, beat.incarnation, beat.health, beat.finishedTasks) = (1, 1, "ok", [1, 2])
        (beat.capacityBytes, beat.usedBytes, beat.freeBytes) = (1 << 40, 1 << 30, 1 << 39)
        var report = ControlCopysetReport()
        (report.copyset, report.isLeader, report.term, report.ready) = (1, true, 1, true)
        beat.copysets = [report]
        var pool = ControlCreatePoolRequest()
        (pool.name, pool.replicas, pool.copysets, pool.failureDomain) = ("p", 1, 4, .device)
        var create = ControlCreateVolumeRequest()
        (create.path, create.sizeBytes) = ("/v", 1 << 30)
        var get = ControlGetVolumeRequest()
        get.path = "/v"
        var list = ControlListDirectoryRequest()
        (list.path, list.recursive) = ("/", true)
        var resize = ControlResizeVolumeRequest()
        (resize.path, resize.sizeBytes, resize.allowShrink) = ("/v", 1 << 27, true)
        var rename = ControlRenameRequest()
        (rename.from, rename.to) = ("/v", "/d/v")
        var delete = ControlDeleteVolumeRequest()
        (delete.path, delete.purgeNow) = ("/v", true)
        var restore = ControlRestoreVolumeRequest()
        (restore.volume, restore.to) = (1, "/v")
        var purge = ControlPurgeVolumeRequest()
        (purge.byPath, purge.path) = (true, "/v")
        var make = ControlCreateDirectoryRequest()
        (make.path, make.parents) = ("/d/e", true)
        var remove = ControlDeleteDirectoryRequest()
        remove.path = "/d/e"
        var attach = ControlAttachVolumeRequest()
        (attach.path, attach.holder, attach.holderKey, attach.takeOver) = ("/v", "h", "k", true)
        var renew = ControlRenewLeaseRequest()
        (renew.volume, renew.epoch) = (1, 1)
        var detach = ControlDetachVolumeRequest()
        (detach.volume, detach.epoch) = (1, 1)
        var join = attach
        (join.holderKey, join.group) = ("m", "g")
        var expel = ControlRemoveMemberRequest()
        (expel.volume, expel.epoch, expel.member, expel.force) = (1, 2, 1, true)
        var swap = ControlSwapValueRequest()
        (swap.volume, swap.epoch, swap.name, swap.value) = (1, 1, "pr", Data([1, 2]))
        var watch = ControlGetValueRequest()
        (watch.volume, watch.name, watch.waitMilliseconds) = (1, "pr", 0)
        return [
            .allocateServer(allocate), .registerServer(register), .serverHeartbeat(beat), .createPool(pool),
            .createVolume(create), .getVolume(get), .listDirectory(list), .resizeVolume(resize),
            .rename(rename), .deleteVolume(delete), .restoreVolume(restore), .purgeVolume(purge),
            .createDirectory(make), .deleteDirectory(remove), .attachVolume(attach), .renewLease(renew),
            .swapValue(swap), .getValue(watch), .attachVolume(join), .removeMember(expel),
            .detachVolume(detach), .getStatus(ControlGetStatusRequest()),
            .getCluster(ControlGetClusterRequest()),
            .listRecycled(ControlListRecycledRequest()), .getAddressBook(ControlGetAddressBookRequest()),
        ]
    }

    /// Numbers at which arithmetic goes wrong, in the wire's own form, beside arbitrary bytes.
    static func mutate(_ bytes: [UInt8], _ random: inout SeededRandom) -> [UInt8] {
        var bytes = bytes
        for _ in 0..<Int.random(in: 0...3, using: &random) where !bytes.isEmpty {
            let place = Int.random(in: 0..<bytes.count, using: &random)
            switch Int.random(in: 0..<4, using: &random) {
            case 0: bytes[place] = UInt8.random(in: .min ... .max, using: &random)
            case 1: bytes[place] ^= 1 << UInt8.random(in: 0..<8, using: &random)
            case 2:
                let most: [UInt8] = Array(repeating: 0xFF, count: 9) + [0x01]
                bytes.replaceSubrange(place...place, with: most)
            default: bytes.remove(at: place)
            }
        }
        return bytes
    }

    @Test(
        "no request, however mangled, stops the server or leaves rows that cannot be read",
        arguments: UInt64(0)..<8)
    func mangled(seed: UInt64) throws {
        var random = SeededRandom(seed: seed)
        let store = MemoryMetadataStore()
        let cluster = UniqueID(high: 3, low: 4)
        for change in MetadataCore.newCluster(id: cluster) {
            try store.commit([RecordCodec.storeChange(change)])
        }
        func load() throws -> [Record] { try store.load().map { try RecordCodec.record($0) } }
        var core = try MetadataCore(records: load(), now: .zero, secondsSince1970: 1_800_000_000)
        let bodies = try Self.sensible(cluster: cluster).map { body -> [UInt8] in
            try ControlRequest(body).serializedBytes()
        }
        var (understood, changed) = (0, 0)
        for step in 0..<2000 {
            // First one of each as it should be, so that there is something to mangle.
            let isFirst = step < bodies.count
            let body = bodies[isFirst ? step : Int.random(in: 0..<bodies.count, using: &random)]
            let bytes = isFirst ? body : Self.mutate(body, &random)
            guard let request = try? ControlRequest(serializedBytes: bytes),
                let asked = try? MetadataRequest(request)
            else { continue }
            understood += 1
            var effects: [MetadataCore.Effect] = []
            let session = SessionID(rawValue: UInt64.random(in: 1...2, using: &random))
            core.step(
                .received(
                    RequestID(rawValue: UInt64(step)), asked, session: session,
                    secondsSince1970: 1_800_000_000),
                now: .seconds(step), effects: &effects)
            while !effects.isEmpty {
                switch effects.removeFirst() {
                case .commit(let changes):
                    changed += 1
                    try store.commit(changes.map { try RecordCodec.storeChange($0) })
                    core.step(.committed, now: .seconds(step), effects: &effects)
                case .reply(_, .success(let reply)):
                    let _: [UInt8] = try ControlResponse(reply, version: "v", revision: 1).serializedBytes()
                case .reply, .closeSession, .reload, .log: break
                }
            }
        }
        #expect(understood > 500 && changed > 50, "the mangled requests are all refused at the door")
        #expect(try MetadataState(load()) == core.state, "seed \(seed)")
    }
}
