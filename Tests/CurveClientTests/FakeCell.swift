import BlockTypes
import ControlMessages
import CurveWire
import Environment
import FramedLink
import MemoryEnvironment
import Reactor
import Testing
import VolumeCore

@testable import CurveClient

/// A metadata server and three chunkservers in one world: no replication, one store that all of them show.
final class FakeCell {
    static let clusterID = UniqueID(high: 5, low: 6)
    static let mdsAddress = SocketAddress.tcp(host: "mds", port: 6700)
    let world: MemoryWorld
    /// The real world instead, on loopback.
    private let reactor: Reactor?
    private(set) var mdsAddress = FakeCell.mdsAddress
    let pool = BufferPool()
    let store: FakeStore
    var mds: ControlServer?
    var chunkservers: [ServerID: FakeChunkserver] = [:]
    // What the metadata server knows.
    var size: UInt64 = 64 << 20 { didSet { change += 1 } }
    var change: UInt32 = 0
    var stripeUnit: UInt32 = 65536, stripeCount: UInt32 = 4
    var epoch: UInt32 = 0
    var holderKey = ""
    /// Those who hold the volume together.
    var members: [(epoch: UInt32, holder: String)] = []
    var values: [String: ControlValueResponse] = [:]
    var bookVersion: UInt64 = 1
    var renewals = 0, detachments = 0
    var poolUsedPercent: UInt32 = 0
    var refusesEverything = false
    /// The database went back: attachments and renewals are refused, questions answered.
    var hasOldDatabase = false
    /// Attach is refused as not ready so many times.
    var notReadyCount = 0
    var saidNotReady: () -> Void = {}
    var attempts: [ControlAttachVolumeRequest] = []
    var copysetCount: UInt32 = 4
    /// Answers to attach are changed by this before they leave.
    var spoilsAttach: ((inout ControlAttachVolumeResponse) -> Void)?

    init(seed: UInt64 = 1, on reactor: Reactor? = nil) throws {
        world = MemoryWorld(seed: seed)
        self.reactor = reactor
        store = FakeStore()
        for number in 1...3 {
            let server = ServerID(UInt64(number))
            chunkservers[server] = FakeChunkserver(
                server, reactor ?? world.environment("chunkserver \(server)"), pool, store)
            try chunkservers[server]?.start(port: 7000 + UInt16(number))
        }
        try startMDS()
    }

    func startMDS() throws {
        let server = ControlServer(
            environment: reactor ?? world.environment("mds"), pool: pool,
            hello: Hello(role: .metadata, cluster: Self.clusterID))
        server.onRequest = { [unowned self] peer, id, request in
            peer.respond(to: id, answer(request))
        }
        mdsAddress = try server.listen(
            on: reactor == nil ? Self.mdsAddress : .tcp(host: "127.0.0.1", port: 0))
        mds = server
    }
    func stopMDS() {
        mds?.stop()
        mds = nil
    }

    func attach(
        policy: UnavailablePolicy = .queue, readOnly: Bool = false, key: String = "test",
        takeOver: Bool = false, group: String = "",
        in environment: MemoryEnvironment? = nil
    ) -> Result<RemoteVolume, AttachError>? {
        var outcome: Result<RemoteVolume, AttachError>?
        var options = AttachOptions(
            path: "/demo", metadataServers: [Self.mdsAddress], holder: "a test", holderKey: key,
            takeOver: takeOver,
            isReadOnly: readOnly, policy: policy)
        options.group = group
        RemoteVolume.attach(environment: environment ?? world.environment("client"), options: options) {
            outcome = $0
        }
        world.settle()
        if outcome == nil { world.run(for: .seconds(61)) }
        return outcome
    }

    private var listedMembers: [ControlGroupMember] {
        members.map {
            var member = ControlGroupMember()
            (member.epoch, member.holder) = ($0.epoch, $0.holder)
            return member
        }
    }
    private func answer(_ request: ControlRequest) -> ControlResponse {
        if refusesEverything {
            return ControlResponse(refusing: ControlFailure(.store, "the store is broken"))
        }
        switch request.body {
        case .getVolume(let request):
            guard request.path == "/demo" else {
                return ControlResponse(refusing: ControlFailure(.notFound, "there is no \(request.path)"))
            }
            var answer = ControlVolumeResponse()
            answer.volume.epoch = epoch
            answer.volume.members = listedMembers
            return ControlResponse(.volume(answer))
        case .removeMember(let request):
            epoch += 1
            members.removeAll { $0.epoch == request.member }
            var answer = ControlRemoveMemberResponse()
            (answer.epoch, answer.change, answer.group) = (epoch, change + 1, members.map(\.epoch))
            answer.sizeBytes = size
            return ControlResponse(.removeMember(answer))
        case .getValue(let request):
            return ControlResponse(.value(values[request.name] ?? ControlValueResponse()))
        case .swapValue(let request):
            var answer = values[request.name] ?? ControlValueResponse()
            answer.swapped = answer.version == request.expectedVersion
            if answer.swapped { (answer.version, answer.value) = (answer.version + 1, request.value) }
            values[request.name] = answer
            return ControlResponse(.value(answer))
        case .attachVolume(let request): return attach(request)
        case .renewLease(let request):
            renewals += 1
            if hasOldDatabase { return ControlResponse(refusing: ControlFailure(.databaseWentBack, "old")) }
            guard request.epoch == epoch || members.contains(where: { $0.epoch == request.epoch }) else {
                return ControlResponse(refusing: ControlFailure(.fenced, "over"))
            }
            var answer = ControlRenewLeaseResponse()
            (answer.sizeBytes, answer.change) = (size, change)
            (answer.epoch, answer.group) = (epoch, members.map(\.epoch))
            answer.poolUsedPercent = poolUsedPercent
            if request.addressBookVersion != bookVersion { answer.addressBook = book() }
            return ControlResponse(.renewLease(answer))
        case .detachVolume(let request):
            detachments += 1
            members.removeAll { $0.epoch == request.epoch }
            holderKey = ""
            return ControlResponse(.empty(ControlEmptyResponse()))
        case .resizeVolume(let request):
            guard request.sizeBytes >= size || request.allowShrink else {
                return ControlResponse(refusing: ControlFailure(.badRequest, "allow the shrink"))
            }
            if !members.isEmpty { epoch += 1 }
            size = request.sizeBytes
            var answer = ControlVolumeResponse()
            (answer.volume.sizeBytes, answer.volume.change, answer.volume.epoch) = (size, change, epoch)
            answer.volume.members = listedMembers
            return ControlResponse(.volume(answer))
        case .getAddressBook:
            var answer = ControlGetAddressBookResponse()
            answer.addressBook = book()
            return ControlResponse(.getAddressBook(answer))
        case .getCluster: return ControlResponse(.getCluster(ControlGetClusterResponse()))
        default: return ControlResponse(refusing: ControlFailure(.badRequest, "not here"))
        }
    }
    private func attach(_ request: ControlAttachVolumeRequest) -> ControlResponse {
        attempts.append(request)
        if hasOldDatabase { return ControlResponse(refusing: ControlFailure(.databaseWentBack, "old")) }
        if notReadyCount > 0 {
            notReadyCount -= 1
            saidNotReady()
            return ControlResponse(refusing: ControlFailure(.notReady, "not yet"))
        }
        guard request.path == "/demo" else {
            return ControlResponse(refusing: ControlFailure(.notFound, "there is no \(request.path)"))
        }
        let isFree = holderKey.isEmpty || holderKey == request.holderKey || !request.group.isEmpty
        guard isFree || request.takeOver else {
            return ControlResponse(refusing: ControlFailure(.held, "held by \(holderKey)", holder: holderKey))
        }
        (holderKey, epoch, change) = (request.holderKey, epoch + 1, change + 1)
        var answer = ControlAttachVolumeResponse()
        (answer.volume.id, answer.volume.path, answer.volume.sizeBytes) = (9, request.path, size)
        answer.volume.change = change
        (answer.volume.stripeUnitBytes, answer.volume.stripeCount) = (stripeUnit, stripeCount)
        (answer.epoch, answer.leaseMilliseconds) = (epoch, 9000)
        if !request.group.isEmpty { members.append((epoch, request.holder)) }
        answer.group = request.group.isEmpty ? [] : members.map(\.epoch)
        for number in 0..<copysetCount {
            var copyset = ControlCopyset()
            copyset.id = 100 + number
            copyset.members = (0..<3).map { UInt64((Int(number) + $0) % 3 + 1) }
            answer.copysets.append(copyset)
        }
        answer.addressBook = book()
        spoilsAttach?(&answer)
        return ControlResponse(.attachVolume(answer))
    }
    private func book() -> ControlAddressBook {
        var book = ControlAddressBook()
        book.version = bookVersion
        for server in chunkservers.keys.sorted() {
            var entry = ControlServerAddress()
            entry.server = server.rawValue
            entry.addresses = chunkservers[server].map { ["\($0.address)"] } ?? []
            book.servers.append(entry)
        }
        return book
    }
}

/// What all chunkservers of the cell hold together, and who leads.
final class FakeStore {
    /// By copyset; without an entry the copyset has no leader.
    var leaders: [CopysetID: ServerID] = [:]
    var defaultLeader: ServerID? = ServerID(1)
    var records: [CopysetID: VolumeRecord] = [:]
    var blocks: [UInt64: (Payload, CRC32C)] = [:]
    var requests: [BlockRequest] = []
    /// Changes an answer to a read before it leaves.
    var spoilsRead: ((inout BlockReply) -> Void)?
    var isFull = false

    func perform(_ request: BlockRequest, at server: ServerID) -> BlockReply {
        requests.append(request)
        let leader = leaders[request.copyset] ?? defaultLeader
        guard leader == server else { return BlockReply(status: .notLeader, leader: leader) }
        if case .fence(_, let fence) = request.kind {
            var record = records[request.copyset] ?? VolumeRecord(fence: fence)
            guard record.fence.accepts(request.epoch) || fence.isNewer(than: record.fence) else {
                return BlockReply(status: .staleEpoch, fence: record.fence)
            }
            record.apply(fence)
            records[request.copyset] = record
            return BlockReply(status: .ok)
        }
        guard var record = records[request.copyset], request.epoch <= record.fence.epoch else {
            return BlockReply(status: .needsFence)
        }
        guard record.fence.accepts(request.epoch) else {
            return BlockReply(status: .staleEpoch, fence: record.fence)
        }
        switch request.kind {
        case .fence: return BlockReply(status: .badRequest)
        case .blockStatus(let run):
            let segments = run.blocks.map { block -> ReadSegment in
                blocks[Self.key(run, block)] == nil ? .zeroes(4096) : .stored(4096)
            }
            return BlockReply(status: .ok, segments: segments)
        case .read(let run):
            var reply = read(run)
            spoilsRead?(&reply)
            return reply
        case .write(let run, _, let tag, let checksums, let payload):
            if isFull { return BlockReply(status: .noSpace) }
            guard record.admission(of: tag) == .fresh else { return BlockReply(status: .ok) }
            guard payload.count == 1, verify(checksums: checksums, payload: payload[0]) else {
                return BlockReply(status: .checksumMismatch)
            }
            record.apply(tag)
            for (index, block) in run.blocks.enumerated() {
                blocks[Self.key(run, block)] = (payload[0].slice(index * 4096, 4096), checksums[index])
            }
        case .amend(let amendment): return amend(amendment, &record, of: request.copyset)
        case .trim(let run, _, let tag), .zero(let run, _, let tag):
            guard record.admission(of: tag) == .fresh else { return BlockReply(status: .ok) }
            record.apply(tag)
            for block in run.blocks { blocks[Self.key(run, block)] = nil }
        }
        records[request.copyset] = record
        return BlockReply(status: .ok)
    }
    private func amend(
        _ amendment: Amendment, _ record: inout VolumeRecord, of copyset: CopysetID
    ) -> BlockReply {
        guard record.admission(of: amendment.tag) == .fresh else { return BlockReply(status: .ok) }
        let run = amendment.run
        var whole = run.blocks.flatMap {
            blocks[Self.key(run, $0)]?.0.array ?? [UInt8](repeating: 0, count: 4096)
        }
        let payload = amendment.payload[0].array
        if amendment.compares,
            let byte = amendment.bytes.first(where: { whole[$0] != payload[run.byteCount + $0] })
        {
            var reply = BlockReply(status: .miscompare)
            reply.differsAtByte = byte
            return reply
        }
        record.apply(amendment.tag)
        records[copyset] = record
        whole.replaceSubrange(amendment.bytes, with: payload[amendment.bytes])
        for (index, block) in run.blocks.enumerated() {
            let bytes = Payload(copying: Array(whole[(index * 4096)..<(index * 4096 + 4096)]))
            blocks[Self.key(run, block)] = (bytes, CRC32C(of: bytes))
        }
        return BlockReply(status: .ok)
    }
    private func read(_ run: BlockRun) -> BlockReply {
        var reply = BlockReply(status: .ok)
        for block in run.blocks {
            if let (payload, checksum) = blocks[Self.key(run, block)] {
                reply.segments.append(.data(payload))
                reply.checksums.append(checksum)
            } else {
                reply.segments.append(.zeroes(4096))
            }
        }
        return reply
    }
    private static func key(_ run: BlockRun, _ block: Int) -> UInt64 {
        run.chunk.rawValue << 12 | UInt64(block)
    }
}

final class FakeChunkserver {
    let server: ServerID
    private let environment: any Environment
    private let pool: BufferPool
    private let store: FakeStore
    private var listener: (any Listener)?
    private var links: [FramedLink] = []
    private(set) var address = SocketAddress.tcp(host: "none", port: 1)
    /// Takes requests and answers none of them.
    var isSilent = false
    /// Says another number than its own.
    var claims: ServerID?

    init(_ server: ServerID, _ environment: any Environment, _ pool: BufferPool, _ store: FakeStore) {
        (self.server, self.pool, self.store) = (server, pool, store)
        self.environment = environment
    }
    func start(port: UInt16) throws {
        let wanted: SocketAddress =
            environment is MemoryEnvironment
            ? .tcp(host: "cs\(server)", port: port) : .tcp(host: "127.0.0.1", port: 0)
        let listener = try environment.listen(on: wanted) { [unowned self] connection in accept(connection) }
        (self.listener, address) = (listener, listener.address)
    }
    /// The process is killed: nobody listens, connections break.
    func stop() {
        listener?.close()
        for link in links { link.close() }
        links = []
    }
    private func accept(_ connection: any Connection) {
        let hello = Hello(
            role: .chunkserver, cluster: FakeCell.clusterID, server: claims ?? server,
            incarnation: Incarnation(1))
        let link = FramedLink(connection: connection, environment: environment, pool: pool, mine: hello) {
            _ in nil
        }
        links.append(link)
        link.onFrame = { [unowned self, unowned link] frame in
            guard !isSilent, case .request(let id, let request) = frame else { return }
            link.send(.reply(id: id, store.perform(request, at: server)))
        }
    }
}
