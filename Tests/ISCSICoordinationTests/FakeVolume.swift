import BlockTypes
import Environment
import ISCSICoordination
import ISCSIServer
import MemoryEnvironment
import SCSICommands
import Testing

@testable import CurveClient

/// One volume as the metadata server knows it: members of its group, and values.
final class FakeGroup {
    let number: VolumeID
    var members: [GroupMember] = []
    var values: [String: VolumeValue] = [:]
    private var lastEpoch: UInt32 = 0
    private var watchers: [(name: String, after: UInt64, reply: (VolumeValue) -> Void)] = []

    init(_ number: UInt64) { self.number = VolumeID(rawValue: number) }

    func join(_ environment: MemoryEnvironment) -> FakeVolume {
        lastEpoch += 1
        members.append(GroupMember(epoch: Epoch(lastEpoch), holder: "gateway", isSilent: false))
        return FakeVolume(self, Epoch(lastEpoch), environment)
    }
    func isMember(_ epoch: Epoch) -> Bool { members.contains { $0.epoch == epoch } }
    func value(_ name: String) -> VolumeValue { values[name] ?? VolumeValue(version: 0, bytes: []) }
    func put(_ name: String, _ bytes: [UInt8]) {
        let value = VolumeValue(version: value(name).version + 1, bytes: bytes)
        values[name] = value
        let waiting = watchers
        watchers = waiting.filter { $0.name != name || $0.after >= value.version }
        for watcher in waiting where watcher.name == name && watcher.after < value.version {
            watcher.reply(value)
        }
    }
    /// As a database does that was put back from an older copy.
    func forget(_ name: String) { values[name] = VolumeValue(version: 1, bytes: []) }
    func watch(_ name: String, after: UInt64, reply: @escaping (VolumeValue) -> Void) {
        watchers.append((name, after, reply))
    }
}

/// A member's view of it, over a network that can be cut.
final class FakeVolume: SharedVolume {
    let group: FakeGroup
    let epoch: Epoch
    var number: VolumeID { group.number }
    /// Nothing gets through, either way.
    var isCut = false
    /// Hears no news of this value; questions are answered.
    var deafFor: String?
    /// So many swaps are done, and their answers lost.
    var lostAnswers = 0
    /// So much later than news of what they did come the answers to swaps.
    var answersLate = Duration.zero
    /// Runs before a lost answer is noticed.
    var meanwhile: (() -> Void)?
    private let environment: MemoryEnvironment
    private static let travel = Duration.milliseconds(1)

    init(_ group: FakeGroup, _ epoch: Epoch, _ environment: MemoryEnvironment) {
        (self.group, self.epoch, self.environment) = (group, epoch, environment)
    }

    /// Asks after some time, answers after some more; or says that nobody answered.
    private func call<T>(
        _ completed: @escaping (Result<T, AttachError>) -> Void,
        _ ask: @escaping (_ reply: @escaping (Result<T, AttachError>) -> Void) -> Void
    ) {
        environment.after(Self.travel) { [self] in
            guard !isCut else { return lose(completed) }
            ask { [self] result in
                environment.after(Self.travel) { [self] in isCut ? lose(completed) : completed(result) }
            }
        }
    }
    private func lose<T>(_ completed: @escaping (Result<T, AttachError>) -> Void) {
        environment.after(.seconds(1)) { completed(.failure(.timedOut("nobody answers"))) }
    }

    func members(completed: @escaping (Result<[GroupMember], AttachError>) -> Void) {
        call(completed) { [group] reply in reply(.success(group.members)) }
    }
    func removeMember(
        _ member: Epoch, force: Bool, completed: @escaping (Result<Void, AttachError>) -> Void
    ) {
        call(completed) { [group, epoch] reply in
            guard group.isMember(epoch) else { return reply(.failure(.lost(.fenced))) }
            let isRunning = group.members.contains { $0.epoch == member && !$0.isSilent }
            guard force || !isRunning else { return reply(.failure(.badAnswer("it lives"))) }
            group.members.removeAll { $0.epoch == member }
            reply(.success(()))
        }
    }
    func value(
        _ name: String, after: UInt64, wait: Duration,
        completed: @escaping (Result<VolumeValue, AttachError>) -> Void
    ) {
        let isDeaf = name == deafFor
        call(completed) { [group, environment] reply in
            guard wait > .zero, group.value(name).version <= after else {
                return reply(.success(group.value(name)))
            }
            var isAnswered = false
            let answer = { (value: VolumeValue) in
                guard !isAnswered else { return }
                isAnswered = true
                reply(.success(value))
            }
            if !isDeaf { group.watch(name, after: after, reply: answer) }
            environment.after(wait) { answer(group.value(name)) }
        }
    }
    func swapValue(
        _ name: String, expected: UInt64, bytes: [UInt8],
        completed: @escaping (Result<(value: VolumeValue, isSwapped: Bool), AttachError>) -> Void
    ) {
        call(completed) { [self] reply in
            guard group.isMember(epoch) else { return reply(.failure(.lost(.fenced))) }
            let isSwapped = group.value(name).version == expected
            if isSwapped { group.put(name, bytes) }
            let value = group.value(name)
            guard lostAnswers > 0, isSwapped else {
                guard answersLate > .zero else { return reply(.success((value, isSwapped))) }
                environment.after(answersLate) { reply(.success((value, isSwapped))) }
                return
            }
            lostAnswers -= 1
            meanwhile?()
            lose(completed)
        }
    }
}

let targetName = "iqn.2026-11.io.curve:shared"

/// A gateway without initiators: what it is told.
final class FakeGateway {
    let volumes: [FakeVolume]
    let coordinator: ClusterCoordinator
    let keys: [UnitKey]
    var tag: UInt16?
    var refusal: GatewayError?
    var groups: [PortGroup] = []
    /// Where the others are, as initiators are told.
    var addresses: [String] = []
    var drains: [Bool] = []
    /// How often its own wish has come into the list.
    var toldDrains = 0
    /// By unit, as a logical unit would have them.
    var tables: [ReservationTable]
    var isExpelled = false
    /// Of the sanitize operations of others, what was told.
    var progress: [UInt16] = []
    /// What a change has ended goes on.
    var holdsSettling = false

    init(_ site: FakeSite, target: String = targetName, enters: Bool = true) {
        let environment = site.world.environment("gateway")
        volumes = site.groups.map { $0.join(environment) }
        keys = site.groups.map {
            UnitKey(identifier: [0x60] + [UInt8](repeating: UInt8($0.number.rawValue), count: 15))
        }
        tables = keys.map { _ in ReservationTable() }
        coordinator = ClusterCoordinator(
            environment: environment, target: target, name: "g\(volumes[0].epoch.rawValue)",
            units: Array(zip(keys, volumes)))
        coordinator.groupsChanged = { [unowned self] _, groups in self.groups = groups }
        coordinator.addressesChanged = { [unowned self] _, addresses in self.addresses = addresses }
        coordinator.drainChanged = { [unowned self] in drains.append($0) }
        coordinator.drainTold = { [unowned self] in toldDrains += 1 }
        coordinator.sanitizeReported = { [unowned self] _, progress in self.progress.append(progress) }
        coordinator.expelled = { [unowned self] in isExpelled = true }
        coordinator.reservationsChanged = { [unowned self] key, table in
            guard let index = keys.firstIndex(of: key) else { return }
            #expect(table.version > tables[index].version)
            tables[index] = table
            if !holdsSettling { coordinator.settled(table.version, of: key) }
        }
        if enters { enter() }
    }
    func enter() {
        coordinator.enter { [self] result in
            switch result {
            case .failure(let error): refusal = error
            case .success(let tag):
                self.tag = tag
                coordinator.join(target: targetName, own: PortGroup(tag: tag)) { [self] in
                    groups = $0 ?? []
                }
                for index in keys.indices {
                    coordinator.join(unit: keys[index]) { [self] in tables[index] = $0 ?? tables[index] }
                }
            }
        }
    }
    func party(_ name: String) -> ReservationParty {
        ReservationParty(initiatorPort: name, targetPort: tag ?? 0)
    }
    /// Changes a table as a logical unit would: begins anew from what a faster one left.
    func change(
        _ request: ReservationRequest, _ name: String, unit: Int = 0,
        completed: @escaping (ReservationStoring) -> Void
    ) {
        do throws(ReservationRefusal) {
            let old = tables[unit]
            let next = try old.applying(request, from: party(name), registrationsMax: 128)
            coordinator.store(next, of: keys[unit], replacing: old.version) { [self] storing in
                switch storing {
                case .stored:
                    if next.version > tables[unit].version { tables[unit] = next }
                    completed(.stored)
                case .outdated(let theirs):
                    tables[unit] = theirs
                    if !holdsSettling { coordinator.settled(theirs.version, of: keys[unit]) }
                    change(request, name, unit: unit, completed: completed)
                case .failed: completed(.failed)
                }
            }
        } catch { Issue.record("\(request) is refused: \(error)") }
    }
    func cut(_ isCut: Bool) {
        for volume in volumes { volume.isCut = isCut }
    }
}

/// Volumes that gateways hold together.
final class FakeSite {
    let world = MemoryWorld()
    let groups: [FakeGroup]
    init(volumes: UInt64 = 1) { groups = (1...volumes).map { FakeGroup($0) } }
    func gateway(target: String = targetName) -> FakeGateway {
        let gateway = FakeGateway(self, target: target)
        world.run(for: .milliseconds(100))
        return gateway
    }
}
