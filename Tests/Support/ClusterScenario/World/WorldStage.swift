import BlockTypes
import ControlMessages
import CurveClient
import CurveWire
import Environment
import Simulation

/// Three chunkservers, a metadata server and one volume in a world without accidents, and all that they say.
final class WorldStage {
    struct Flop: Error, CustomStringConvertible { let description: String }

    let world = SimWorld(seed: 1)
    let servers: WorldServers
    var isListening = false
    private(set) var lines: [String] = []
    private var recentControl: [String] = []
    /// True once the disk that is listened to was written again where its first payload went.
    private(set) var isFirstPlaceUsedAgain = false
    private var firstPlace: ByteOffset?
    private let pool = BufferPool(keptBytesPerClassMax: 1 << 20)
    private let metadata: WorldMetadata
    private let desk: WorldDesk
    private var decoders: [ObjectIdentifier: FrameDecoder] = [:]
    private var value: UInt8 = 0

    init() throws {
        var plan = WorldPlan.quiet(seed: 1)
        (plan.servers, plan.copysets, plan.storeBytes) = (3, 1, 64 << 20)
        (plan.journalBytes, plan.hasVolatileCache, plan.sectorBytes) = (1 << 20, true, 4096)
        plan.store = .init()
        metadata = WorldMetadata(world, count: 1, pool: pool)
        servers = WorldServers(world, plan, metadata.addresses, pool: pool)
        desk = WorldDesk(world, name: "desk", metadata.addresses, pool: pool)
        world.wiretap = { [unowned self] stream, from, to, piece in heard(stream, from, to, piece) }
        metadata.start()
        if let wrong = servers.format(asking: desk) { throw Flop(description: wrong) }
        servers.startAll()
        try until("the chunkservers serve") { servers.allServe }
        var poolRequest = ControlCreatePoolRequest()
        (poolRequest.name, poolRequest.replicas) = ("pool", 3)
        (poolRequest.copysets, poolRequest.failureDomain) = (1, .server)
        var volumeRequest = ControlCreateVolumeRequest()
        (volumeRequest.path, volumeRequest.sizeBytes) = ("/v", 16 << 20)
        for request in [ControlRequest.OneOf_Body.createPool(poolRequest), .createVolume(volumeRequest)] {
            guard desk.answer(to: request) != nil else { throw Flop(description: desk.refusal) }
        }
        world.runFor(.seconds(1))
    }

    // MARK: Deeds

    func say(_ text: String) { line("-- \(text)") }
    func attach(_ name: String, takeOver: Bool = false) throws -> RemoteVolume {
        let host = world.startHost(on: name)
        let options = AttachOptions(
            path: "/v", metadataServers: metadata.addresses, holder: name, takeOver: takeOver)
        var result: Result<RemoteVolume, AttachError>?
        RemoteVolume.attach(environment: host, options: options) { result = $0 }
        try until("\(name) is attached") { result != nil }
        guard let result else { throw Flop(description: "no answer") }
        return try result.get()
    }
    func write(_ volume: RemoteVolume, block: UInt64, count: Int, fails: Bool = false) throws {
        value += 1
        let buffer = BlockBuffer(byteCount: count * Geometry.blockBytes)
        unsafe buffer.bytes.initializeMemory(as: UInt8.self, repeating: value)
        let payload = Payload(buffer, byteCount: count * Geometry.blockBytes)
        try submit(volume, .write(start: Self.offset(block), payloads: [payload]), fails: fails)
    }
    func read(_ volume: RemoteVolume, block: UInt64, count: Int) throws {
        try submit(volume, .read(start: Self.offset(block), byteCount: count * Geometry.blockBytes))
    }
    func submit(_ volume: RemoteVolume, _ request: VolumeRequest, fails: Bool = false) throws {
        var result: VolumeResult?
        volume.submit(request) { result = $0 }
        try until("the request is answered") { result != nil }
        if case .failure(let error) = result {
            line("   the caller hears: \(error)")
            guard fails else { throw Flop(description: "\(error)") }
        }
        world.runFor(.milliseconds(100))
    }
    func resize(_ volume: RemoteVolume, mebibytes: UInt64) throws {
        var result: Result<Void, AttachError>?
        volume.resize(to: ByteCount(bytes: mebibytes << 20), allowShrink: true) { result = $0 }
        try until("the volume is resized") { result != nil }
        try result?.get()
        world.runFor(.milliseconds(100))
    }
    private static func offset(_ block: UInt64) -> ByteOffset {
        ByteOffset(bytes: block * UInt64(Geometry.blockBytes))
    }
    private func until(_ what: String, _ isDone: () -> Bool) throws {
        guard world.run(within: .seconds(60), until: isDone) else {
            throw Flop(description: "not within a minute: \(what)")
        }
    }

    // MARK: What is heard

    /// Shows what one disk is asked for from now on.
    func listenToDisk(_ index: Int) {
        let disk = servers.disk(index)
        disk.faultHook = { [unowned self] request in
            switch request {
            case .read(_, let place, let payload):
                line("\(disk.name): read \(payload.byteCount) at \(place.bytes)")
            case .write(_, let place, let payloads):
                note(place)
                line("\(disk.name): write \(payloads.reduce(0) { $0 + $1.byteCount }) at \(place.bytes)")
            case .flush: line("\(disk.name): flush")
            case .discard(_, let place, let length):
                line("\(disk.name): discard \(length.bytes) at \(place.bytes)")
            }
            return nil
        }
    }
    private func note(_ place: ByteOffset) {
        guard place.bytes >= Self.segmentsStart else { return }
        if place == firstPlace { isFirstPlaceUsedAgain = true }
        firstPlace = firstPlace ?? place
    }
    private static let segmentsStart: UInt64 = 4 << 20
    private func line(_ text: String) {
        guard isListening else { return }
        lines.append("\(world.trueNow.milliseconds) ms \(text)")
    }
    private func heard(_ stream: ObjectIdentifier, _ from: String, _ to: String, _ piece: SendPiece) {
        var decoder = decoders[stream] ?? FrameDecoder(pool: pool)
        switch piece {
        case .bytes(let bytes): unsafe bytes.withUnsafeBytes { unsafe decoder.received($0) }
        case .payload(let payload): unsafe payload.withBytes { unsafe decoder.received($0) }
        }
        while let frame = try? decoder.next() {
            guard let text = describe(frame), isListening, !isRepetition(frame, text) else { continue }
            line("\(from) -> \(to): \(text)")
        }
        decoders[stream] = decoder
    }

    /// True for a question to the metadata server that is asked again and again, and for its answer.
    private func isRepetition(_ frame: Frame, _ text: String) -> Bool {
        switch frame {
        case .control, .controlReply: break
        default: return false
        }
        defer { recentControl = recentControl.suffix(1) + [text] }
        return recentControl.contains(text)
    }
    /// `nil`: part of another story.
    private func describe(_ frame: Frame) -> String? {
        switch frame {
        case .request(_, let request): describe(request)
        case .reply(_, let reply): describe(reply)
        case .helloRefused(let reason): "hello refused: \(reason)"
        case .control(_, let body): (try? ControlRequest(serializedBytes: body))?.body.flatMap(describe)
        case .controlReply(_, let body): (try? ControlResponse(serializedBytes: body)).flatMap(describe)
        default: nil
        }
    }
    private func describe(_ request: BlockRequest) -> String {
        let words =
            switch request.kind {
            case .read(let run): "read \(run)"
            case .blockStatus(let run): "block status \(run)"
            case .write(let run, _, let tag, _, _): "write \(run), request \(tag.sequence)"
            case .trim(let run, _, let tag): "trim \(run), request \(tag.sequence)"
            case .zero(let run, _, let tag): "zero \(run), request \(tag.sequence)"
            case .amend(let amendment):
                "\(amendment.compares ? "compare" : "patch") \(amendment.run), request \(amendment.tag.sequence)"
            case .fence(let volume, let fence): "fence volume \(volume): epoch \(fence.epoch), \(fence.size)"
            }
        return "epoch \(request.epoch): \(words)"
    }
    private func describe(_ reply: BlockReply) -> String {
        var words = "\(reply.status)"
        if let leader = reply.leader { words += ", \(leader) leads" }
        if let fence = reply.fence { words += ", fenced by epoch \(fence.epoch)" }
        for segment in reply.segments {
            switch segment {
            case .data(let payload): words += ", \(payload.byteCount) bytes"
            case .zeroes(let count): words += ", \(count) zeroes"
            case .stored(let count): words += ", \(count) stored"
            }
        }
        return words
    }
    private func describe(_ body: ControlRequest.OneOf_Body) -> String? {
        switch body {
        case .getVolume(let ask): "what is \(ask.path)?"
        case .attachVolume(let ask):
            "attach \(ask.path) for \(ask.holder) after epoch \(ask.expectedEpoch)"
                + (ask.takeOver ? ", take over" : "")
        case .resizeVolume(let ask): "resize \(ask.path) to \(ask.sizeBytes >> 20) MiB"
        case .registerServer(let ask): "register chunkserver \(ask.server), incarnation \(ask.incarnation)"
        default: nil
        }
    }
    private func describe(_ response: ControlResponse) -> String? {
        if response.hasFailure { return "refused: \(response.failure.message)" }
        return switch response.body {
        case .volume(let answer): "\(answer.volume.sizeBytes >> 20) MiB, epoch \(answer.volume.epoch)"
        case .attachVolume(let answer): "attached, epoch \(answer.volume.epoch)"
        default: nil
        }
    }
}
