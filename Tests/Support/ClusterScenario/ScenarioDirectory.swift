import BlockTypes
import ControlMessages
import CurveWire
import Environment
import Simulation

#if canImport(FoundationEssentials)
    import FoundationEssentials
#else
    import Foundation
#endif

/// What a metadata server must keep over its own restarts; the shell is ``ScenarioDirectory``.
public final class DirectoryState {
    let cluster: UniqueID
    let copysets: [(id: CopysetID, members: [ServerID])]
    let volume: VolumeID
    private(set) var size: ByteCount
    let stripeUnitBytes: UInt32
    let stripeCount: UInt32
    var epoch: UInt32 = 0
    /// What was granted to whom; `isAsked`: the holder still waited for an answer.
    struct Grant {
        var holder: String
        var isAsked: Bool
    }
    var grants: [Grant] = []
    var isAsking: (String) -> Bool = { _ in true }
    /// Members of the group that holds the volume, in the order of their attachments.
    var members: [(epoch: UInt32, holder: String)] = []
    /// By member, when it was heard last.
    var heard: [UInt32: Duration] = [:]  // Looked up, never iterated.
    /// Small values of the volume.
    var values: [String: (version: UInt64, bytes: Data, attempt: UInt64)] = [:]  // Looked up, never iterated.
    /// The volume is larger from now on: a new generation of the group that holds it.
    func grow(to size: ByteCount) {
        self.size = size
        epoch += 1
        generations[epoch] = members.map(\.epoch)
    }
    /// By epoch: the attachments of the group as of then.
    var generations: [UInt32: [UInt32]] = [:]  // Looked up, never iterated.
    var bookVersion: UInt64 = 0
    var servers: [UInt64: (incarnation: UInt64, addresses: [String])] = [:]

    init(
        cluster: UniqueID, copysets: [(id: CopysetID, members: [ServerID])], volume: VolumeID,
        size: ByteCount,
        stripeUnitBytes: UInt32, stripeCount: UInt32
    ) {
        (self.cluster, self.copysets, self.volume, self.size) = (cluster, copysets, volume, size)
        (self.stripeUnitBytes, self.stripeCount) = (stripeUnitBytes, stripeCount)
    }
}

/// A stand-in for the metadata server: one volume, fixed copysets, every attach takes over. Leases are for
/// members of a group alone, who are silent without them.
///
/// Keeps the store of real metadata out of the way of scenarios that are about the I/O path.
public final class ScenarioDirectory {
    private let state: DirectoryState
    private let server: ControlServer
    private let host: SimHost
    private let startedAt: Duration
    private var watches: [Watch] = []
    private var watchCount = 0
    static let address = SocketAddress.tcp(host: "mds", port: 6000)
    private static let lease = Duration.seconds(10)

    /// Somebody waits for news of a value.
    private struct Watch {
        let number: Int
        let name: String
        let after: UInt64
        let connection: ControlServerConnection
        let id: UInt64
    }

    init(_ state: DirectoryState, on host: SimHost, pool: BufferPool) throws {
        (self.state, self.host, startedAt) = (state, host, host.now)
        server = ControlServer(
            environment: host, pool: pool, hello: Hello(role: .metadata, cluster: state.cluster))
        server.onRequest = { [weak self] connection, id, request in
            guard let self else { return }
            if case .getValue(let question) = request.body, self.waits(question, connection, id) { return }
            connection.respond(to: id, self.answer(request))
        }
        try server.listen(on: Self.address)
    }

    private func answer(_ request: ControlRequest) -> ControlResponse {
        var response = ControlResponse()
        switch request.body {
        case .registerServer(let register): response.body = registered(register)
        case .serverHeartbeat(let beat):
            var answer = ControlServerHeartbeatResponse()
            if beat.addressBookVersion != state.bookVersion { answer.addressBook = addressBook }
            answer.copysetsVersion = 1
            if beat.copysetsVersion != 1 { answer.copysets = copysets(of: beat.server) }
            response.body = .serverHeartbeat(answer)
        case .getVolume:
            var answer = ControlVolumeResponse()
            answer.volume.epoch = state.epoch
            answer.volume.members = state.members.map {
                var member = ControlGroupMember()
                (member.epoch, member.holder, member.silent) = ($0.epoch, $0.holder, isSilent($0.epoch))
                return member
            }
            response.body = .volume(answer)
        case .attachVolume(let attach):
            guard attach.expectedEpoch == state.epoch else {
                return refusal(.notReady, "somebody else has attached meanwhile")
            }
            response.body = .attachVolume(attached(by: attach.holder, group: attach.group))
        case .removeMember(let removal):
            guard state.members.contains(where: { $0.epoch == removal.epoch }) else {
                return refusal(.fenced, "who is no member removes nobody")
            }
            guard removal.force || isSilent(removal.member) else {
                return refusal(.held, "the member lives")
            }
            response.body = .removeMember(removed(removal.member))
        case .renewLease(let renewal):
            let isHeldAlone = state.members.isEmpty && renewal.epoch == state.epoch
            guard isHeldAlone || state.members.contains(where: { $0.epoch == renewal.epoch }) else {
                return refusal(.fenced, "another client has taken over")
            }
            state.heard[renewal.epoch] = host.now
            var answer = ControlRenewLeaseResponse()
            (answer.sizeBytes, answer.change) = (state.size.bytes, state.epoch)
            (answer.epoch, answer.group) = (state.epoch, state.members.map(\.epoch))
            if renewal.addressBookVersion != state.bookVersion { answer.addressBook = addressBook }
            response.body = .renewLease(answer)
        case .getAddressBook:
            var answer = ControlGetAddressBookResponse()
            answer.addressBook = addressBook
            response.body = .getAddressBook(answer)
        case .detachVolume(let detachment):
            state.members.removeAll { $0.epoch == detachment.epoch }
            response.body = .empty(ControlEmptyResponse())
        case .getValue(let question): response.body = .value(value(question.name))
        case .swapValue(let swap):
            guard state.members.contains(where: { $0.epoch == swap.epoch }) else {
                return refusal(.fenced, "who is no member changes nothing")
            }
            response.body = .value(swapped(swap))
        default: return refusal(.badRequest, "the scenario's directory does not know this request")
        }
        return response
    }
    private func isSilent(_ member: UInt32) -> Bool {
        host.now - max(state.heard[member] ?? .zero, startedAt) > Self.lease
    }
    private func value(_ name: String) -> ControlValueResponse {
        var answer = ControlValueResponse()
        if let found = state.values[name] { (answer.version, answer.value) = (found.version, found.bytes) }
        return answer
    }
    private func swapped(_ swap: ControlSwapValueRequest) -> ControlValueResponse {
        let old = state.values[swap.name]
        let isRepeated = swap.attempt != 0 && old?.attempt == swap.attempt
        let isSwapped = isRepeated || (old?.version ?? 0) == swap.expectedVersion
        if isSwapped, !isRepeated {
            state.values[swap.name] = (swap.expectedVersion + 1, swap.value, swap.attempt)
            host.traceLine { "value \(swap.name) \(swap.expectedVersion + 1) by attachment \(swap.epoch)" }
            let ready = watches.filter { $0.name == swap.name && $0.after <= swap.expectedVersion }
            watches.removeAll { $0.name == swap.name && $0.after <= swap.expectedVersion }
            for watch in ready { tell(watch) }
        }
        var answer = value(swap.name)
        answer.swapped = isSwapped
        return answer
    }
    /// - Returns: true when there is no news, and the question wants to wait for some.
    private func waits(
        _ question: ControlGetValueRequest, _ connection: ControlServerConnection, _ id: UInt64
    ) -> Bool {
        guard question.waitMilliseconds > 0, value(question.name).version <= question.afterVersion else {
            return false
        }
        watchCount += 1
        let watch = Watch(
            number: watchCount, name: question.name, after: question.afterVersion, connection: connection,
            id: id)
        watches.append(watch)
        host.after(.milliseconds(Int(question.waitMilliseconds))) { [weak self] in
            guard let self, let place = watches.firstIndex(where: { $0.number == watch.number }) else {
                return
            }
            tell(watches.remove(at: place))
        }
        return true
    }
    private func tell(_ watch: Watch) {
        var response = ControlResponse()
        response.body = .value(value(watch.name))
        watch.connection.respond(to: watch.id, response)
    }
    private func registered(_ register: ControlRegisterServerRequest) -> ControlResponse.OneOf_Body {
        let known = state.servers[register.server]
        if known?.incarnation != register.incarnation || known?.addresses ?? [] != register.addresses {
            state.bookVersion += 1
            state.servers[register.server] = (register.incarnation, register.addresses)
        }
        var answer = ControlRegisterServerResponse()
        answer.copysets = copysets(of: register.server)
        answer.addressBook = addressBook
        answer.heartbeatMilliseconds = 1000
        return .registerServer(answer)
    }
    private func removed(_ member: UInt32) -> ControlRemoveMemberResponse {
        if state.members.contains(where: { $0.epoch == member }) {
            state.epoch += 1
            state.members.removeAll { $0.epoch == member }
            state.generations[state.epoch] = state.members.map(\.epoch)
            host.traceLine { "epoch \(self.state.epoch): attachment \(member) is removed" }
        }
        var answer = ControlRemoveMemberResponse()
        (answer.epoch, answer.change, answer.group) = (state.epoch, state.epoch, state.members.map(\.epoch))
        answer.sizeBytes = state.size.bytes
        return answer
    }
    private func attached(by holder: String, group: String) -> ControlAttachVolumeResponse {
        state.epoch += 1
        if !group.isEmpty {
            state.members.removeAll { $0.holder == holder }
            state.members.append((state.epoch, holder))
            state.heard[state.epoch] = host.now
            state.generations[state.epoch] = state.members.map(\.epoch)
        }
        state.grants.append(DirectoryState.Grant(holder: holder, isAsked: state.isAsking(holder)))
        host.traceLine { "grants epoch \(self.state.epoch) to \(holder)" }
        var volume = ControlVolume()
        volume.id = state.volume.rawValue
        volume.path = "/volume"
        volume.sizeBytes = state.size.bytes
        volume.stripeUnitBytes = state.stripeUnitBytes
        volume.stripeCount = state.stripeCount
        (volume.epoch, volume.change) = (state.epoch, state.epoch)
        var answer = ControlAttachVolumeResponse()
        answer.volume = volume
        answer.epoch = state.epoch
        answer.leaseMilliseconds = 10_000
        answer.group = state.members.map(\.epoch)
        answer.copysets = state.copysets.map(Self.message)
        answer.addressBook = addressBook
        return answer
    }
    private func refusal(_ code: ControlFailure.Code, _ message: String) -> ControlResponse {
        ControlResponse(refusing: ControlFailure(code, message))
    }
    private func copysets(of server: UInt64) -> [ControlCopyset] {
        state.copysets.filter { $0.members.contains(ServerID(server)) }.map(Self.message)
    }
    private static func message(_ copyset: (id: CopysetID, members: [ServerID])) -> ControlCopyset {
        var message = ControlCopyset()
        message.id = copyset.id.rawValue
        message.members = copyset.members.map(\.rawValue)
        return message
    }
    private var addressBook: ControlAddressBook {
        var book = ControlAddressBook()
        book.version = state.bookVersion
        book.servers = state.servers.keys.sorted().compactMap { number in
            guard let server = state.servers[number] else { return nil }
            var entry = ControlServerAddress()
            entry.server = number
            entry.incarnation = server.incarnation
            entry.addresses = server.addresses
            return entry
        }
        return book
    }
}
