import BlockTypes
import ControlMessages
import CurveWire
import Environment
import MemoryEnvironment
import MetadataCore
import MetadataServer
import Testing

/// A metadata server and its callers in one world in memory.
final class ServerBench {
    let world = MemoryWorld()
    let store: any MetadataStore
    private(set) var server: MetadataServer
    private var address = SocketAddress.tcp(host: "mds", port: 6700)
    private var channels: [String: ControlChannel] = [:]

    init(store: any MetadataStore = MemoryMetadataStore()) throws {
        self.store = store
        server = try MetadataServer(environment: world.environment("mds"), store: store)
        try server.start(listen: address)
    }
    /// Ends the process as a crash would, and starts another on the same store.
    func restart(on store: (any MetadataStore)? = nil) throws {
        server.stop()
        world.run(for: .seconds(6))
        channels = [:]
        server = try MetadataServer(environment: world.environment("mds"), store: store ?? self.store)
        try server.start(listen: address)
    }

    /// Calls over the connection of `caller` and waits for the answer.
    func call(
        _ body: ControlRequest.OneOf_Body, from caller: String = "tool"
    ) -> Result<ControlResponse, ControlError>? {
        let channel =
            channels[caller]
            ?? ControlChannel(
                environment: world.environment(caller), addresses: [address], hello: Hello(role: .tool),
                pool: BufferPool())
        channels[caller] = channel
        var result: Result<ControlResponse, ControlError>?
        channel.call(ControlRequest(body), timeout: .seconds(5)) { result = $0 }
        world.settle()
        if result == nil { world.run(for: .seconds(5)) }
        return result
    }
    func ask(_ body: ControlRequest.OneOf_Body, from caller: String = "tool") throws -> ControlResponse {
        try #require(call(body, from: caller)).get()
    }
    func failure(_ body: ControlRequest.OneOf_Body, from caller: String = "tool") -> ControlFailure? {
        guard case .failure(.refused(let failure)) = call(body, from: caller) else {
            Issue.record("not refused")
            return nil
        }
        return failure
    }
    func hangUp(_ caller: String) {
        channels.removeValue(forKey: caller)?.close()
        world.settle()
    }

    /// Three chunkservers that have registered over `cs1`..., and a pool.
    func makePool() throws {
        for number in UInt64(1)...3 {
            var allocate = ControlAllocateServerRequest()
            (allocate.deviceID, allocate.host) = (Self.device(number).controlBytes, "h\(number)")
            _ = try ask(.allocateServer(allocate))
            _ = try ask(.registerServer(registration(number)), from: "cs\(number)")
        }
        var pool = ControlCreatePoolRequest()
        (pool.name, pool.replicas, pool.copysets, pool.failureDomain) = ("main", 3, 12, .server)
        _ = try ask(.createPool(pool))
    }
    static func device(_ number: UInt64) -> UniqueID { UniqueID(high: 5, low: number) }
    func registration(_ number: UInt64, incarnation: UInt64 = 1) -> ControlRegisterServerRequest {
        var register = ControlRegisterServerRequest()
        (register.clusterID, register.deviceID) = (
            server.clusterID.controlBytes, Self.device(number).controlBytes
        )
        (register.server, register.incarnation) = (number, incarnation)
        (register.addresses, register.host) = (["10.0.0.\(number):7000"], "h\(number)")
        register.capacityBytes = 1 << 40
        return register
    }
    func create(_ path: String, _ sizeBytes: UInt64 = 1 << 30) throws -> ControlVolume {
        var create = ControlCreateVolumeRequest()
        (create.path, create.sizeBytes) = (path, sizeBytes)
        return try ask(.createVolume(create)).volume.volume
    }
    func attach(
        _ path: String, key: String = "k", takeOver: Bool = false
    ) -> ControlAttachVolumeRequest {
        var attach = ControlAttachVolumeRequest()
        (attach.path, attach.holder, attach.holderKey, attach.takeOver) = (
            path, "holder \(key)", key, takeOver
        )
        return attach
    }
    func volume(_ path: String) throws -> ControlVolume {
        var get = ControlGetVolumeRequest()
        get.path = path
        return try ask(.getVolume(get)).volume.volume
    }
}
