import BlockTypes
import CurveClient
import Environment
import ISCSIServer
import SCSICommands

/// One unit of this gateway: its volume, and the two values about its reservations.
final class HeldUnit {
    struct Waiting {
        let version: UInt64
        var rounds = 0
        /// The list of gateways was read after the change: whoever is not in it reads the change when it
        /// comes.
        var knowsOthers = false
        var timer: TimerID?
        let completed: (_ isDone: Bool) -> Void
    }
    let key: UnitKey
    let volume: any SharedVolume
    let reservations: SharedValue
    let seen: SharedValue
    var isJoined = false
    /// It was served here, and is no more: what others change is noted, and concerns nobody.
    var hasLeft = false
    /// The version that this gateway goes by.
    var told: UInt64 = 0
    /// The version of which nothing is left to happen here that it ended.
    var settled: UInt64 = 0
    /// The newest version of another gateway's, who waits to hear that it was heard.
    var owed: UInt64 = 0
    /// A change of this gateway's is under way. Until it stands in the value, what others change waits:
    /// nobody knows yet which of the two was first. From then on, while ``waiting``, what others made of it
    /// is told.
    var isStoring = false
    var waiting: Waiting?
    var isAcknowledging = false
    /// How far a sanitize operation of this gateway's is, and what of that is to stand in `seen` by now.
    var (sanitized, dueSanitized): (UInt16, UInt16) = (0, 0)
    /// One was noted a moment ago; the next has to wait.
    var isReporting = false
    /// What was told last of another gateway's.
    var toldSanitized: UInt16 = 0

    init(_ key: UnitKey, _ volume: any SharedVolume, _ environment: any Environment) {
        (self.key, self.volume) = (key, volume)
        reservations = SharedValue("reservations", of: volume, environment: environment)
        seen = SharedValue("seen", of: volume, environment: environment)
    }
}

// Reservations.
extension ClusterCoordinator {
    /// See the protocol. What was reserved before all gateways went away is what APTPL keeps.
    public func join(unit key: UnitKey, completed: @escaping (ReservationTable?) -> Void) {
        guard let unit = held(key), tag != nil else {
            environment.after(.zero) { completed(nil) }
            return
        }
        unit.reservations.read { [self] isRead in
            guard isRead else { return completed(nil) }
            adopt(unit, completed)
        }
    }
    private func adopt(
        _ unit: HeldUnit, attempt: Int = 1, _ completed: @escaping (ReservationTable?) -> Void
    ) {
        guard !isOver, let record = record(of: unit) else { return completed(nil) }
        let version = unit.reservations.version
        guard record.power != known.power, version > 0 else { return present(unit, record.table, completed) }
        let left = record.table.afterPowerLoss()
        var unchanged = left
        unchanged.version = version
        guard unchanged != record.table else { return present(unit, record.table, completed) }
        swap(unit, left, expected: version) { [self] swap in
            switch swap {
            case .swapped: present(unit, left, completed)
            case .outdated where attempt < Self.attemptsMax: adopt(unit, attempt: attempt + 1, completed)
            case .outdated, .failed: completed(nil)
            }
        }
    }
    private func present(
        _ unit: HeldUnit, _ table: ReservationTable, _ completed: (ReservationTable?) -> Void
    ) {
        (unit.isJoined, unit.hasLeft, unit.told) = (true, false, table.version)
        (unit.settled, unit.owed) = (table.version, table.version)
        unit.toldSanitized = 0
        unit.reservations.watch()
        unit.seen.watch()
        completed(table)
        acknowledge(unit)
        tell(unit)
    }
    /// See the protocol.
    public func leave(unit key: UnitKey) {
        guard let unit = held(key) else { return }
        (unit.isJoined, unit.hasLeft) = (false, true)
        unit.seen.endWatch()
        stopWaiting(unit, isDone: false)
        tell(unit)
    }

    /// See the protocol.
    public func settled(_ version: UInt64, of key: UnitKey) {
        guard let unit = held(key), version > unit.settled else { return }
        unit.settled = version
        if unit.isJoined { acknowledge(unit) }
    }

    /// See the protocol. `.stored` also says that every other gateway goes by the change, and has nothing
    /// left of what it ended.
    public func store(
        _ table: ReservationTable, of key: UnitKey, replacing version: UInt64,
        completed: @escaping (ReservationStoring) -> Void
    ) {
        guard let unit = held(key), unit.isJoined, !unit.isStoring, !isOver else {
            environment.after(.zero) { completed(.failed) }
            return
        }
        invariant(table.version == version + 1, "a change that counts \(version) to \(table.version)")
        unit.isStoring = true
        let end = { [self] (storing: ReservationStoring) in
            unit.isStoring = false
            completed(storing)
            tell(unit)
        }
        swap(unit, table, expected: version) { [self] swap in
            switch swap {
            case .swapped:
                if isPlanted(.sanitizeUnawaited), case .running = table.sanitize { return end(.stored) }
                waitForOthers(unit, table.version) { isDone in
                    if isDone { unit.told = max(unit.told, table.version) }
                    end(isDone ? .stored : .failed)
                }
                // The news of it may have been faster than the answer.
                tell(unit)
            case .outdated:
                guard let theirs = record(of: unit)?.table else { return end(.failed) }
                unit.told = max(unit.told, theirs.version)
                unit.owed = max(unit.owed, theirs.version)
                end(.outdated(theirs))
                acknowledge(unit)
            case .failed: end(.failed)
            }
        }
    }
    func swap(
        _ unit: HeldUnit, _ table: ReservationTable, expected version: UInt64,
        completed: @escaping (SharedValue.Swap) -> Void
    ) {
        let record = ReservationRecord(
            power: known.power, author: unit.volume.epoch.rawValue, number: nextWrite(), table: table)
        unit.reservations.swap(record.encoded, expected: version, completed: completed)
    }
    /// What is there as far as it was heard; `nil`: it cannot be read.
    func record(of unit: HeldUnit) -> ReservationRecord? {
        let value = unit.reservations
        guard value.version > 0 else {
            return ReservationRecord(power: known.power, author: 0, number: 0, table: ReservationTable())
        }
        do throws(ValueError) {
            return try ReservationRecord(decoding: value.bytes, version: value.version)
        } catch {
            complain(value, error)
            return nil
        }
    }

    /// Lets this gateway go by what another one has changed, and notes that it does.
    ///
    /// Also while a change of its own waits for the others: one of them may wait for this gateway in turn,
    /// and takes out who stays deaf. No circle comes of that: elsewhere a change waits for commands that were
    /// there when it came, and such a command waits for nobody, or for a change that is older.
    func tell(_ unit: HeldUnit) {
        guard unit.isJoined || unit.hasLeft, !isOver, !unit.isStoring || unit.waiting != nil,
            unit.reservations.version > max(unit.told, unit.waiting?.version ?? 0),
            let record = record(of: unit)
        else { return }
        (unit.told, unit.owed) = (record.table.version, record.table.version)
        if isPlanted(.settlingUnawaited) { unit.settled = unit.told }
        guard unit.isJoined else {
            unit.settled = unit.told
            return acknowledge(unit)
        }
        reservationsChanged?(unit.key, record.table)
        acknowledge(unit)
        tellSanitized(unit)
    }
    /// Notes in `seen` what this gateway goes by and has settled, until it stands there.
    func acknowledge(_ unit: HeldUnit) {
        let own = unit.volume.epoch.rawValue
        guard !unit.isAcknowledging, !isOver, var seen = seen(of: unit) else { return }
        let noted = seen[own]
        guard
            noted.told < unit.owed || noted.settled < min(unit.owed, unit.settled)
                || noted.sanitized != unit.dueSanitized
        else { return }
        unit.isAcknowledging = true
        let present = known.gateways.compactMap { $0.epoch(of: unit.volume.number.rawValue) }
        let note = SeenVersions.Note(told: unit.told, settled: unit.settled, sanitized: unit.dueSanitized)
        seen.note(own, note, present: present)
        unit.seen.swap(seen.encoded, expected: unit.seen.version) { [self] swap in
            unit.isAcknowledging = false
            guard swap == .failed else { return acknowledge(unit) }
            environment.after(SharedValue.retryAfter) { [weak self] in self?.acknowledge(unit) }
        }
    }
    func seen(of unit: HeldUnit) -> SeenVersions? {
        do throws(ValueError) { return try SeenVersions(decoding: unit.seen.bytes) } catch {
            complain(unit.seen, error)
            return nil
        }
    }

    // MARK: Waiting for the others

    private func waitForOthers(
        _ unit: HeldUnit, _ version: UInt64, completed: @escaping (_ isDone: Bool) -> Void
    ) {
        if isPlanted(.changeUnawaited) { return completed(true) }
        unit.waiting = HeldUnit.Waiting(version: version, completed: completed)
        waitOn(unit)
        list.read { [self] isRead in
            guard isRead else { return stopWaiting(unit, isDone: false) }
            unit.waiting?.knowsOthers = true
            check(unit)
        }
    }
    private func waitOn(_ unit: HeldUnit) {
        unit.waiting?.timer = environment.after(Self.patience) { [weak self, weak unit] in
            guard let self, let unit, var waiting = unit.waiting else { return }
            waiting.rounds += 1
            unit.waiting = waiting
            guard waiting.rounds < Self.roundsMax else { return stopWaiting(unit, isDone: false) }
            waitOn(unit)
            // One that has heard refuses what it must; what it had begun may wait for its volume still, and
            // other volumes' initiators are not to pay for that.
            let deaf = others(unit) { $0.told < waiting.version }
            takeOut(deaf[...], force: true) { [weak self] in self?.check(unit) }
        }
    }
    private func others(_ unit: HeldUnit, who lags: (SeenVersions.Note) -> Bool) -> [Gateway] {
        let seen = seen(of: unit) ?? SeenVersions()
        return known.gateways.filter { gateway in
            guard !isOwn(gateway), let epoch = gateway.epoch(of: unit.volume.number.rawValue) else {
                return false
            }
            return lags(seen[epoch])
        }
    }
    /// Ends the wait of a change when nobody lags behind it any more.
    func check(_ unit: HeldUnit) {
        guard let waiting = unit.waiting, waiting.knowsOthers else { return }
        if others(unit, who: { $0.settled < waiting.version }).isEmpty { stopWaiting(unit, isDone: true) }
    }
    func stopWaiting(_ unit: HeldUnit, isDone: Bool) {
        guard let waiting = unit.waiting else { return }
        unit.waiting = nil
        if let timer = waiting.timer { environment.cancel(timer) }
        waiting.completed(isDone)
    }
}
