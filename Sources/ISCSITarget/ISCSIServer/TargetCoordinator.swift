import Environment
import SCSICommands

/// What a logical unit is called among gateways: its NAA identifier, which is the same everywhere.
public struct UnitKey: Hashable, Sendable {
    /// 16 bytes.
    public let identifier: [UInt8]
    /// The unit that tells initiators this identifier.
    public init(identifier: [UInt8]) { self.identifier = identifier }
}

/// What the gateways of one cluster must agree on: who is registered with a unit and holds it, and in which
/// state the port groups of a target are. Loop-confined, as the server that asks.
///
/// Each gateway has one. It keeps no copy of the truth that others could not change: a store names the
/// version it starts from, and is refused when another gateway was faster. Every `completed` runs once, and
/// neither it nor the two callbacks run from inside a call.
public protocol TargetCoordinator: AnyObject {
    /// Another gateway has changed the reservations of a unit that was joined. Newest version wins: older
    /// ones may come late, and are ignored. While ``store(_:of:replacing:completed:)`` is under way only what
    /// was made of the table that is being stored may be told: it has that change in it.
    var reservationsChanged: ((UnitKey, ReservationTable) -> Void)? { get set }
    /// Another gateway, which sanitizes a unit that was joined, has reported how far it is, in 65,536ths; 0:
    /// that is over, or was not heard.
    var sanitizeReported: ((UnitKey, UInt16) -> Void)? { get set }
    /// The port groups of a target that was joined have come, gone or changed their state.
    var groupsChanged: ((_ target: String, [PortGroup]) -> Void)? { get set }
    /// The places where other gateways offer a target that was joined have changed: `address:port,tag` each,
    /// as SendTargets tells them.
    var addressesChanged: ((_ target: String, [String]) -> Void)? { get set }

    /// This gateway offers a target through the ports `own`.
    /// - Parameter completed: the port groups of all gateways that offer it; `nil`: nobody could be asked.
    func join(target: String, own: PortGroup, completed: @escaping ([PortGroup]?) -> Void)
    /// It does so no longer.
    func leave(target: String)
    /// This gateway offers a unit, and wants to hear of its reservations.
    /// - Parameter completed: what they are; `nil`: nobody could be asked.
    func join(unit: UnitKey, completed: @escaping (ReservationTable?) -> Void)
    /// It does so no longer.
    func leave(unit: UnitKey)
    /// This gateway goes by version `version` of a unit's reservations, and nothing of what the change ended
    /// will still happen here. May be called while ``reservationsChanged`` runs.
    func settled(_ version: UInt64, of unit: UnitKey)
    /// Keeps `table` if what is kept has still the version `replacing`; then all other gateways are told, and
    /// `completed` says so when they have settled it.
    func store(
        _ table: ReservationTable, of unit: UnitKey, replacing version: UInt64,
        completed: @escaping (ReservationStoring) -> Void)
    /// How far this gateway's sanitize operation is: the others hear of it some seconds later; 0: it is over.
    func report(sanitized progress: UInt16, of unit: UnitKey)
    /// Changes the states of these port groups, by tag; ``groupsChanged`` tells all gateways, this one too,
    /// before `completed` runs.
    func set(_ groups: [PortGroup], of target: String, completed: @escaping (_ isDone: Bool) -> Void)
}

/// The coordinator of a gateway that is alone: everything is in its memory, and ends with it.
public final class LocalCoordinator: TargetCoordinator {
    /// Never called: there is nobody else.
    public var reservationsChanged: ((UnitKey, ReservationTable) -> Void)?
    /// Never called.
    public var sanitizeReported: ((UnitKey, UInt16) -> Void)?
    /// Called when an initiator has set states.
    public var groupsChanged: ((_ target: String, [PortGroup]) -> Void)?
    /// Never called.
    public var addressesChanged: ((_ target: String, [String]) -> Void)?

    private let environment: any Environment
    // Looked up, never iterated.
    private var tables: [UnitKey: ReservationTable] = [:]
    private var groups: [String: [PortGroup]] = [:]

    /// A coordinator that knows of nothing yet.
    public init(environment: any Environment) { self.environment = environment }

    /// See the protocol.
    public func join(target: String, own: PortGroup, completed: @escaping ([PortGroup]?) -> Void) {
        groups[target] = [own]
        environment.after(.zero) { completed([own]) }
    }
    /// See the protocol.
    public func leave(target: String) { groups[target] = nil }
    /// See the protocol.
    public func join(unit: UnitKey, completed: @escaping (ReservationTable?) -> Void) {
        let table = tables[unit] ?? ReservationTable()
        tables[unit] = table
        environment.after(.zero) { completed(table) }
    }
    /// A unit that nobody offers has lost its power: what stays is what APTPL keeps.
    public func leave(unit: UnitKey) {
        guard let table = tables[unit] else { return }
        let left = table.afterPowerLoss()
        tables[unit] = left.persistsThroughPowerLoss || left.sanitize != .none ? left : nil
    }
    /// Nobody waits for that.
    public func settled(_ version: UInt64, of unit: UnitKey) {}
    /// Nobody wants to know.
    public func report(sanitized progress: UInt16, of unit: UnitKey) {}
    /// See the protocol.
    public func store(
        _ table: ReservationTable, of unit: UnitKey, replacing version: UInt64,
        completed: @escaping (ReservationStoring) -> Void
    ) {
        let kept = tables[unit] ?? ReservationTable()
        let isNewest = kept.version == version
        if isNewest { tables[unit] = table }
        environment.after(.zero) { completed(isNewest ? .stored : .outdated(kept)) }
    }
    /// See the protocol.
    public func set(
        _ wanted: [PortGroup], of target: String, completed: @escaping (_ isDone: Bool) -> Void
    ) {
        environment.after(.zero) { [self] in
            guard var all = groups[target] else { return completed(false) }
            for index in all.indices {
                if let changed = wanted.first(where: { $0.tag == all[index].tag }) { all[index] = changed }
            }
            groups[target] = all
            groupsChanged?(target, all)
            completed(true)
        }
    }
}
