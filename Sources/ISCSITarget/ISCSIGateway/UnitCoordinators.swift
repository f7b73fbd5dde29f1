import BlockTypes
import Environment
import ISCSICoordination
import ISCSIServer
import SCSICommands

/// The coordinator of a gateway with many targets: each unit agrees with the other gateways by itself,
/// through values of its own volume, so units come and go while the others stay. A target's port groups are
/// those of all its units. Loop-confined.
final class UnitCoordinators: TargetCoordinator {
    var reservationsChanged: ((UnitKey, ReservationTable) -> Void)?
    var sanitizeReported: ((UnitKey, UInt16) -> Void)?
    var groupsChanged: ((_ target: String, [PortGroup]) -> Void)?
    var addressesChanged: ((_ target: String, [String]) -> Void)?

    /// Addresses or groups of a target have changed, and the server knows.
    var addressesTold: (() -> Void)?

    private struct Entry {
        let target: String
        let key: UnitKey
        let coordinator: ClusterCoordinator
        var groups: [PortGroup]
        var addresses: [String] = []
    }
    private let environment: any Environment
    private let own: PortGroup
    private var entries: [Entry] = []
    private var targets: [String] = []

    init(environment: any Environment, own: PortGroup) {
        (self.environment, self.own) = (environment, own)
    }

    /// A unit of `target` has its place among the gateways.
    /// - Parameter completed: the coordinator may be asked for the unit, or could not be joined.
    func add(
        _ coordinator: ClusterCoordinator, _ key: UnitKey, of target: String,
        completed: @escaping (_ isJoined: Bool) -> Void
    ) {
        coordinator.reservationsChanged = { [weak self] key, table in
            self?.reservationsChanged?(key, table)
        }
        coordinator.sanitizeReported = { [weak self] key, progress in
            self?.sanitizeReported?(key, progress)
        }
        coordinator.groupsChanged = { [weak self, weak coordinator] _, groups in
            guard let self, let coordinator,
                let index = entries.firstIndex(where: { $0.coordinator === coordinator })
            else { return }
            entries[index].groups = groups
            tell(entries[index].target)
        }
        var known: [String] = []
        coordinator.addressesChanged = { [weak self, weak coordinator] _, addresses in
            known = addresses
            guard let self, let coordinator,
                let index = entries.firstIndex(where: { $0.coordinator === coordinator })
            else { return }
            entries[index].addresses = addresses
            tell(entries[index].target)
        }
        coordinator.join(target: target, own: own) { [self] groups in
            guard let groups else { return completed(false) }
            entries.append(
                Entry(target: target, key: key, coordinator: coordinator, groups: groups, addresses: known))
            tell(target)
            completed(true)
        }
    }
    /// The unit is served no more.
    func remove(_ coordinator: ClusterCoordinator) {
        guard let index = entries.firstIndex(where: { $0.coordinator === coordinator }) else { return }
        let entry = entries.remove(at: index)
        entry.coordinator.reservationsChanged = nil
        entry.coordinator.sanitizeReported = nil
        entry.coordinator.groupsChanged = nil
        entry.coordinator.addressesChanged = nil
        tell(entry.target)
    }
    private func tell(_ target: String) {
        guard targets.contains(target) else { return }
        groupsChanged?(target, groups(of: target))
        addressesChanged?(target, addresses(of: target))
        addressesTold?()
    }
    /// Each once, in the order in which units were joined.
    func addresses(of target: String) -> [String] {
        var all: [String] = []
        for address in entries.filter({ $0.target == target }).flatMap(\.addresses)
        where !all.contains(address) { all.append(address) }
        return all
    }
    /// By tag; of two units that say different things the later one is right.
    private func groups(of target: String) -> [PortGroup] {
        var groups = [own]
        for group in entries.filter({ $0.target == target }).flatMap(\.groups) {
            if let index = groups.firstIndex(where: { $0.tag == group.tag }) {
                groups[index] = group
            } else {
                groups.append(group)
            }
        }
        return groups.sorted { $0.tag < $1.tag }
    }
    private func coordinator(of key: UnitKey) -> ClusterCoordinator? {
        entries.first { $0.key == key }?.coordinator
    }

    // MARK: What the server asks

    func join(target: String, own: PortGroup, completed: @escaping ([PortGroup]?) -> Void) {
        targets.append(target)
        environment.after(.zero) { [self] in completed(groups(of: target)) }
    }
    func leave(target: String) { targets.removeAll { $0 == target } }
    func join(unit: UnitKey, completed: @escaping (ReservationTable?) -> Void) {
        guard let coordinator = coordinator(of: unit) else {
            environment.after(.zero) { completed(nil) }
            return
        }
        coordinator.join(unit: unit, completed: completed)
    }
    func leave(unit: UnitKey) { coordinator(of: unit)?.leave(unit: unit) }
    func settled(_ version: UInt64, of unit: UnitKey) {
        coordinator(of: unit)?.settled(version, of: unit)
    }
    func report(sanitized progress: UInt16, of unit: UnitKey) {
        coordinator(of: unit)?.report(sanitized: progress, of: unit)
    }
    func store(
        _ table: ReservationTable, of unit: UnitKey, replacing version: UInt64,
        completed: @escaping (ReservationStoring) -> Void
    ) {
        guard let coordinator = coordinator(of: unit) else {
            environment.after(.zero) { completed(.failed) }
            return
        }
        coordinator.store(table, of: unit, replacing: version, completed: completed)
    }
    /// Each unit's gateways are told; done when all are.
    func set(_ groups: [PortGroup], of target: String, completed: @escaping (_ isDone: Bool) -> Void) {
        let concerned = entries.filter { $0.target == target }
        var (left, isDone) = (concerned.count, !concerned.isEmpty)
        guard left > 0 else {
            environment.after(.zero) { completed(false) }
            return
        }
        for entry in concerned {
            entry.coordinator.set(groups, of: target) {
                isDone = isDone && $0
                left -= 1
                if left == 0 { completed(isDone) }
            }
        }
    }
}
