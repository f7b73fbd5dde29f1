import BlockTypes
import CurveClient
import Environment
import ISCSIServer
import SCSICommands

/// Why a gateway cannot serve beside the others.
public enum GatewayError: Error, Hashable, Sendable, CustomStringConvertible {
    /// The metadata server could not be asked, or its answers make no sense.
    case unavailable
    /// The volumes belong to another target, which gateways serve now.
    case otherTarget(String)
    /// There is no room for one more.
    case tooMany(Int)
    /// Another gateway has the tag.
    case tagTaken(UInt16)
    /// The list of gateways would be longer than a value may be.
    case tooLong

    /// What happened and what to do, in one line.
    public var description: String {
        switch self {
        case .unavailable: "the list of gateways cannot be had from the cluster; see 'curve status'"
        case .otherTarget(let name):
            "gateways of this group serve the target \(name); give the same --target, or another --group"
        case .tagTaken(let tag):
            "another gateway of the target has the group tag \(tag), or one that is gone had it a moment ago"
        case .tooLong: "the list of gateways is full; serve fewer volumes in one target"
        case .tooMany(let most): "\(most) gateways serve the target, the most there may be; stop one"
        }
    }
}

/// What gateways agree on, in values of the volumes that they hold together.
///
/// A change of reservations is done when every other gateway goes by it: each one notes in `seen` what it
/// has, and one that does not in time is removed from the volumes' groups, so that nothing of it lands.
/// Loop-confined.
public final class ClusterCoordinator: TargetCoordinator {
    /// See the protocol.
    public var reservationsChanged: ((UnitKey, ReservationTable) -> Void)?
    /// See the protocol.
    public var sanitizeReported: ((UnitKey, UInt16) -> Void)?
    /// See the protocol.
    public var groupsChanged: ((_ target: String, [PortGroup]) -> Void)?
    /// See the protocol.
    public var addressesChanged: ((_ target: String, [String]) -> Void)?
    /// An operator wants initiators to go elsewhere, or to come again; ``isRedirecting`` says how.
    public var drainChanged: ((_ isDraining: Bool) -> Void)?
    /// The list says now what ``drain(_:redirecting:)`` asked for.
    public var drainTold: (() -> Void)?
    /// Another gateway has taken this one out: whatever it does from now on is refused.
    public var expelled: (() -> Void)?

    /// As many as may hold a volume together.
    public static let gatewaysMax = 16
    /// How often the others are looked at.
    public static let lookInterval = Duration.seconds(3)
    /// How long the others may take to go by a change, before they are removed.
    public static let patience = Duration.seconds(5)
    /// Reports of how far a sanitize operation is are this far apart.
    public static let reportInterval = Duration.seconds(5)
    /// So many times that long, and a change that cannot be finished has failed.
    static let roundsMax = 5
    /// A change that others outrun so often is given up.
    static let attemptsMax = 32

    let environment: any Environment
    let target: String
    let name: String
    let list: SharedValue
    /// In the order that was given, the keeper's first.
    let units: [HeldUnit]
    var known = GatewayList()
    /// The port group that ``enter(completed:)`` took.
    public private(set) var tag: UInt16?
    private var isJoined = false
    private var portals: [String] = []
    /// Initiators are to go elsewhere.
    public private(set) var isDraining = false
    /// Those who come meanwhile are told of another gateway.
    public private(set) var isRedirecting = false
    /// What the list is to say of that, until it does. The newest wish counts, whatever an older one that is
    /// under way still brings about.
    private var drainWish: DrainWish?
    private var isTellingDrain = false
    private var isLeaving = false
    private(set) var isOver = false
    private var writes: UInt64 = 0

    private struct DrainWish: Equatable {
        let isDraining: Bool
        let isRedirecting: Bool
    }

    /// A gateway of `target` that has not said so yet.
    /// - Parameters:
    ///   - name: what people call this gateway.
    ///   - units: volumes that it holds, the same ones in the same order at every gateway.
    public init(
        environment: any Environment, target: String, name: String,
        units: [(key: UnitKey, volume: any SharedVolume)]
    ) {
        invariant(!units.isEmpty, "a target whose gateways agree in no volume")
        (self.environment, self.target, self.name) = (environment, target, name)
        self.units = units.map { HeldUnit($0.key, $0.volume, environment) }
        list = SharedValue(GatewayList.valueName, of: self.units[0].volume, environment: environment)
        list.changed = { [weak self] in self?.listChanged() }
        for unit in self.units {
            unit.reservations.changed = { [weak self, weak unit] in
                if let self, let unit { tell(unit) }
            }
            unit.seen.changed = { [weak self, weak unit] in
                guard let self, let unit else { return }
                check(unit)
                if unit.isJoined || unit.hasLeft { acknowledge(unit) }
                tellSanitized(unit)
            }
        }
    }

    /// Forgets the changes that wait for other gateways: of a process of a simulated world that is gone.
    package func abandon() { for unit in units { unit.waiting = nil } }

    var keeper: any SharedVolume { units[0].volume }
    func isOwn(_ gateway: Gateway) -> Bool {
        gateway.epoch(of: keeper.number.rawValue) == keeper.epoch.rawValue
    }
    private var own: Gateway? { known.gateways.first { isOwn($0) } }
    func held(_ key: UnitKey) -> HeldUnit? { units.first { $0.key == key } }
    func nextWrite() -> UInt64 {
        writes += 1
        return writes
    }

    // MARK: The list of gateways

    /// Takes a place among the gateways of the target, and the lowest free tag with it. Those who are gone
    /// are taken out before.
    /// - Parameter wanted: the tag to take in place of the lowest free one.
    public func enter(
        tag wanted: UInt16? = nil, completed: @escaping (Result<UInt16, GatewayError>) -> Void
    ) {
        list.read { [self] isRead in
            guard isRead else { return completed(.failure(.unavailable)) }
            lookAround { [self] in add(wanted, completed) }
        }
    }
    private func add(
        _ wanted: UInt16?, _ completed: @escaping (Result<UInt16, GatewayError>) -> Void
    ) {
        var refusal: GatewayError?
        let power = environment.random()
        let sessions = units.map {
            Gateway.Session(volume: $0.volume.number.rawValue, epoch: $0.volume.epoch.rawValue)
        }
        changeList { [self] list in
            refusal = nil
            list.gateways.removeAll { isOwn($0) }
            if list.gateways.isEmpty {
                (list.target, list.power) = (target, power)
            } else if list.target != target {
                refusal = .otherTarget(list.target)
            } else if list.gateways.count >= Self.gatewaysMax {
                refusal = .tooMany(Self.gatewaysMax)
            } else if let wanted, list.gateways.contains(where: { $0.group.tag == wanted }) {
                refusal = .tagTaken(wanted)
            }
            guard refusal == nil else { return false }
            list.add(
                Gateway(
                    name: name, sessions: sessions, group: PortGroup(tag: wanted ?? list.freeTag),
                    portals: portals))
            if list.encoded.count > SharedValue.bytesMax { refusal = .tooLong }
            return refusal == nil
        } completed: { [self] isDone in
            if let refusal { return completed(.failure(refusal)) }
            guard isDone, let own else { return completed(.failure(.unavailable)) }
            tag = own.group.tag
            list.watch()
            lookLater()
            completed(.success(own.group.tag))
        }
    }
    /// Says where initiators reach this gateway, now or as soon as the cluster can be told.
    public func announce(portals: [String]) {
        self.portals = portals
        tellOwn {}
    }
    /// Lets the list say that initiators are to go elsewhere, or may come again, now or as soon as the
    /// cluster can be told: somebody has said so of this gateway, by another of its volumes.
    public func drain(_ isWanted: Bool, redirecting: Bool = false) {
        guard tag != nil else { return }
        drainWish = DrainWish(isDraining: isWanted, isRedirecting: isWanted && redirecting)
        tellDrain()
    }
    private func tellDrain() {
        guard let tag, let wish = drainWish, !isTellingDrain else { return }
        guard wish != DrainWish(isDraining: isDraining, isRedirecting: isRedirecting) else {
            drainWish = nil
            return
        }
        isTellingDrain = true
        changeList { list in
            // What has been done already stays done.
            let present = list.gateways.first { $0.group.tag == tag }?.drain ?? .none
            let next: Gateway.Drain = wish.isDraining ? (present == .done ? .done : .asked) : .none
            return list.setDrain(next, of: tag, redirecting: wish.isRedirecting)
        } completed: { [self] isDone in
            isTellingDrain = false
            if drainWish != wish { tellDrain() } else if isDone { drainWish = nil }
        }
    }
    /// No initiator is left of those who were to go elsewhere.
    public func drained() {
        guard let tag else { return }
        changeList {
            $0.setDrain(.done, of: tag)
        } completed: { _ in
        }
    }
    /// Lets the list say of this gateway what is so.
    private func tellOwn(completed: @escaping () -> Void) {
        guard let own, own.portals != portals, !isLeaving else { return completed() }
        changeList { [self] list in
            guard let index = list.gateways.firstIndex(where: { isOwn($0) }) else { return false }
            list.gateways[index].portals = portals
            return list.encoded.count <= SharedValue.bytesMax
        } completed: { _ in
            completed()
        }
    }
    /// Gives the place up; nobody needs to wait for this gateway any more.
    public func leave(completed: @escaping () -> Void) {
        isLeaving = true
        giveUpHoldings { [self] in
            changeList { [self] list in
                guard list.gateways.contains(where: { isOwn($0) }) else { return false }
                list.gateways.removeAll { isOwn($0) }
                return true
            } completed: { [self] _ in
                finish()
                completed()
            }
        }
    }
    /// What it held of the units ends before its place; a sanitize operation has failed then.
    private func giveUpHoldings(completed: @escaping () -> Void) {
        let tables = units.compactMap { $0.reservations.version > 0 ? record(of: $0)?.table : nil }
        guard let tag, tables.contains(where: { $0.withoutGateway(tag) != $0 }) else { return completed() }
        dropHoldings(of: tag, units[...]) { _ in completed() }
    }
    /// - Parameter change: returns false when there is nothing to change.
    func changeList(
        attempt: Int = 1, _ change: @escaping (inout GatewayList) -> Bool,
        completed: @escaping (_ isDone: Bool) -> Void
    ) {
        guard !isOver, var next = decodedList() else {
            environment.after(.zero) { completed(false) }
            return
        }
        guard change(&next) else {
            environment.after(.zero) { completed(true) }
            return
        }
        next.author = environment.random()
        list.swap(next.encoded, expected: list.version) { [self] swap in
            switch swap {
            case .swapped: completed(true)
            case .outdated where attempt < Self.attemptsMax:
                changeList(attempt: attempt + 1, change, completed: completed)
            case .outdated, .failed: completed(false)
            }
        }
    }
    private func decodedList() -> GatewayList? {
        do throws(ValueError) { return try GatewayList(decoding: list.bytes) } catch {
            complain(list, error)
            return nil
        }
    }
    func complain(_ value: SharedValue, _ error: ValueError) {
        environment.log(
            .error,
            "iscsi: the value '\(value.name)' of volume \(value.volume.number) cannot be read: \(error)")
    }
    private func listChanged() {
        guard !isOver, let newer = decodedList() else { return }
        let before = known
        known = newer
        guard tag != nil else { return }
        guard own != nil || isLeaving else {
            finish()
            expelled?()
            return
        }
        if isJoined, before.groups != known.groups { groupsChanged?(target, known.groups) }
        if isJoined, addresses(before) != addresses(known) { addressesChanged?(target, addresses(known)) }
        hearDrain(
            DrainWish(
                isDraining: own.map { $0.drain != .none } ?? false, isRedirecting: own?.redirects ?? false))
        for unit in units { check(unit) }
    }
    private func hearDrain(_ heard: DrainWish) {
        guard heard != DrainWish(isDraining: isDraining, isRedirecting: isRedirecting) else { return }
        (isDraining, isRedirecting) = (heard.isDraining, heard.isRedirecting)
        if heard == drainWish {
            drainWish = nil
            drainTold?()
        } else if drainWish == nil || !isTellingDrain {
            // A wish that could not be told gives way to what an operator says now.
            drainWish = nil
            drainChanged?(heard.isDraining)
        }
    }
    /// Where the others are that initiators may come to, as SendTargets tells it.
    private func addresses(_ list: GatewayList) -> [String] {
        list.gateways.filter { !isOwn($0) && $0.drain == .none }.flatMap { gateway in
            gateway.portals.map { "\($0),\(gateway.group.tag)" }
        }
    }
    /// Hears and says nothing any more.
    private func finish() {
        isOver = true
        list.endWatch()
        for unit in units {
            unit.reservations.endWatch()
            unit.seen.endWatch()
            stopWaiting(unit, isDone: false)
        }
    }
    private func lookLater() {
        environment.after(Self.lookInterval) { [weak self] in
            guard let self, !isOver else { return }
            lookAround { [weak self] in
                self?.tellDrain()
                self?.tellOwn { [weak self] in self?.lookLater() }
            }
        }
    }

    // MARK: Targets

    /// See the protocol; ``enter(completed:)`` comes first.
    public func join(target name: String, own: PortGroup, completed: @escaping ([PortGroup]?) -> Void) {
        environment.after(.zero) { [self] in
            guard name == target, let tag, tag == own.tag, !isOver else { return completed(nil) }
            isJoined = true
            completed(known.groups)
            addressesChanged?(target, addresses(known))
        }
    }
    /// See the protocol.
    public func leave(target name: String) { if name == target { leave {} } }
    /// See the protocol.
    public func set(
        _ wanted: [PortGroup], of name: String, completed: @escaping (_ isDone: Bool) -> Void
    ) {
        guard name == target, tag != nil else {
            environment.after(.zero) { completed(false) }
            return
        }
        changeList { list in
            let before = list.groups
            for index in list.gateways.indices {
                let tag = list.gateways[index].group.tag
                guard let change = wanted.first(where: { $0.tag == tag }) else { continue }
                list.gateways[index].group.state = change.state
            }
            return list.groups != before
        } completed: {
            completed($0)
        }
    }
}
