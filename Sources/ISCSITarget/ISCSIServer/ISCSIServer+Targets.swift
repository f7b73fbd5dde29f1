import BlockTypes
import Environment
import ISCSIProtocol
import SCSICommands

/// Targets and units that come, go and change while initiators are served.
extension ISCSIServer {
    /// The targets that initiators can log in to.
    public var offeredTargets: [TargetDescription] { group.configuration.targets }
    /// Names of the targets that initiators can log in to.
    public var targetNames: [String] { group.configuration.targets.map(\.name) }

    /// Offers a target without units.
    /// - Parameters:
    ///   - allowsSettingGroups: initiators may set the states of port groups.
    ///   - completed: runs once, never from inside this call; initiators may come from then on.
    public func addTarget(
        _ description: TargetDescription, allowsSettingGroups: Bool = true,
        completed: @escaping (ISCSIServerError?) -> Void
    ) {
        if let error = obstacle(to: description) {
            environment.after(.zero) { completed(error) }
            return
        }
        var configuration = TargetConfiguration(name: description.name, groups: [ownGroup])
        configuration.allowsSettingGroups = allowsSettingGroups
        let served = ServedTarget(configuration)
        targets.append(served)
        coordinator.join(target: served.name, own: ownGroup) { [self] groups in
            guard !isStopping, !served.isRemoved else { return completed(.stopping) }
            guard let groups else {
                targets.removeAll { $0 === served }
                return completed(.coordinatorUnavailable)
            }
            act(served, .groupsChanged(groups))
            group.configuration.targets.append(description)
            completed(nil)
        }
    }
    private func obstacle(to description: TargetDescription) -> ISCSIServerError? {
        if isStopping { return .stopping }
        guard Self.isTargetName(description.name) else { return .badName(description.name) }
        guard !targets.contains(where: { $0.name == description.name }) else {
            return .nameTaken(description.name)
        }
        return targets.count < limits.targetsMax ? nil : .tooManyTargets(limits.targetsMax)
    }
    /// RFC 7143, section 4.2.7: three forms, of letters, digits, dots, colons and hyphens.
    public static func isTargetName(_ name: String) -> Bool {
        guard ["iqn.", "eui.", "naa."].contains(where: { name.hasPrefix($0) && name != $0 }),
            name.utf8.count <= ISCSILimits.nameBytesMax
        else { return false }
        return name.utf8.allSatisfy { byte in
            switch byte {
            case 0x30...0x3a, 0x61...0x7a, 0x2d, 0x2e: true
            default: false
            }
        }
    }
    /// Changes who may log in to a target, and how; sessions go on.
    public func changeTarget(_ description: TargetDescription) throws(ISCSIServerError) {
        guard let index = group.configuration.targets.firstIndex(where: { $0.name == description.name })
        else { throw .noSuchTarget(description.name) }
        group.configuration.targets[index] = description
    }
    /// Ends a target's sessions and removes it with its units.
    /// - Parameter completed: nothing is asked of its volumes any more.
    public func removeTarget(_ name: String, completed: @escaping (ISCSIServerError?) -> Void) {
        guard let served = target(named: name) else {
            environment.after(.zero) { completed(.noSuchTarget(name)) }
            return
        }
        served.isRemoved = true
        group.configuration.targets.removeAll { $0.name == name }
        act { $0.dropSessions(ofTarget: name, seconds: 0, effects: &$1) }
        var left = 1
        let ended = { [self] in
            left -= 1
            guard left == 0 else { return }
            targets.removeAll { $0 === served }
            coordinator.leave(target: name)
            completed(nil)
        }
        for unit in served.units {
            left += 1
            unit.gone.append(ended)
            remove(unit, of: served)
        }
        environment.after(.zero) { ended() }
    }

    /// Offers a volume as a logical unit, or goes on with one that was suspended.
    /// - Parameter completed: runs once, never from inside this call; initiators see the unit from then on.
    public func addUnit(
        _ configuration: UnitConfiguration, over volume: any BlockVolume, to name: String,
        completed: @escaping (ISCSIServerError?) -> Void
    ) {
        guard let served = target(named: name) else {
            environment.after(.zero) { completed(.noSuchTarget(name)) }
            return
        }
        if let error = obstacle(to: configuration, volume, in: served) {
            environment.after(.zero) { completed(error) }
            return
        }
        // Another volume is another unit: initiators are to notice, whatever they wait for.
        let key = UnitKey(identifier: configuration.identifier)
        forgetSuspended(of: served) { $0.lun == configuration.lun && $0.key != key }
        var configuration = configuration
        configuration.isReadOnly = configuration.isReadOnly || volume.isReadOnly
        let unit = ServedUnit(takeUnitNumber(), configuration, volume)
        served.units.append(unit)
        coordinator.join(unit: unit.key) { [self] table in
            guard !isStopping, !unit.isLeaving else {
                gone(unit.number, of: served)
                return completed(.stopping)
            }
            guard let table else {
                gone(unit.number, of: served)
                return completed(.coordinatorUnavailable)
            }
            present(unit, table, in: served)
            completed(nil)
        }
    }
    private func present(_ unit: ServedUnit, _ table: ReservationTable, in served: ServedTarget) {
        unit.isPresent = true
        served.suspended.removeAll { $0.lun == unit.configuration.lun }
        unit.volume.resized = { [own, name = served.name, number = unit.number] size in
            guard let server = own.target else { return }
            // A target that was removed, and came again by the same name, has other units.
            for served in server.targets where served.name == name && served.unit(number) != nil {
                server.act(served, .resized(number, size))
            }
        }
        act(served, .unitAdded(unit.number, unit.configuration, unit.volume.size, table))
        tellTransferSizes()
    }
    private func obstacle(
        to configuration: UnitConfiguration, _ volume: any BlockVolume, in served: ServedTarget
    ) -> ISCSIServerError? {
        if isStopping { return .stopping }
        guard served.unit(lun: configuration.lun) == nil else {
            return .lunTaken(configuration.lun, target: served.name)
        }
        let waiting = served.suspended.count { $0.lun != configuration.lun }
        guard served.units.count + waiting < limits.unitsPerTargetMax else {
            return .tooManyUnits(limits.unitsPerTargetMax, target: served.name)
        }
        // One volume is one logical unit: its commands see each other's locks and reservations.
        for other in targets {
            for unit in other.units {
                guard unit.volume === volume || unit.configuration.identifier == configuration.identifier
                else { continue }
                return .volumeServed(target: other.name, lun: unit.configuration.lun)
            }
        }
        return nil
    }
    /// Removes a logical unit, suspended or not; what it has begun it ends.
    /// - Parameter completed: nothing is asked of its volume any more.
    public func removeUnit(
        _ lun: UInt16, from name: String, completed: @escaping (ISCSIServerError?) -> Void
    ) {
        guard let served = target(named: name) else {
            environment.after(.zero) { completed(.noSuchTarget(name)) }
            return
        }
        let wasSuspended = forgetSuspended(of: served) { $0.lun == lun }
        guard let unit = served.unit(lun: lun) else {
            environment.after(.zero) { completed(wasSuspended ? nil : .noSuchLUN(lun, target: name)) }
            return
        }
        unit.gone.append { completed(nil) }
        remove(unit, of: served)
    }
    private func remove(_ unit: ServedUnit, of served: ServedTarget) {
        guard !unit.isLeaving else { return }
        unit.isLeaving = true
        // One whose reservations have not come yet goes when they do.
        guard unit.isPresent else { return }
        unit.volume.resized = nil
        act(served, .unitRemoved(unit.number))
        tellTransferSizes()
    }
    /// The volume of a unit is away, and is to come back: initiators are told to wait. What it has begun it
    /// ends, and the volume is no longer the server's; ``addUnit(_:over:to:completed:)`` goes on with it.
    /// - Parameter completed: nothing is asked of its volume any more.
    public func suspendUnit(
        _ lun: UInt16, of name: String, completed: @escaping (ISCSIServerError?) -> Void
    ) {
        guard let served = target(named: name), let unit = served.unit(lun: lun), unit.isPresent else {
            return removeUnit(lun, from: name, completed: completed)
        }
        unit.gone.append { completed(nil) }
        unit.isLeaving = true
        unit.volume.resized = nil
        let substitute = SuspendedUnit(number: takeUnitNumber(), lun: lun, key: unit.key)
        served.suspended.append(substitute)
        act(served, .unitSuspended(unit.number, as: substitute.number))
    }
    /// They are not waited for any more.
    /// - Returns: false when there are none.
    @discardableResult private func forgetSuspended(
        of served: ServedTarget, where isMeant: (SuspendedUnit) -> Bool
    ) -> Bool {
        let forgotten = served.suspended.filter(isMeant)
        guard !forgotten.isEmpty else { return false }
        served.suspended.removeAll(where: isMeant)
        for unit in forgotten { act(served, .unitRemoved(unit.number)) }
        tellTransferSizes()
        return true
    }
    /// Nothing is asked of the unit's volume any more.
    func gone(_ number: UnitNumber, of served: ServedTarget) {
        guard let unit = served.unit(number) else { return }
        served.units.removeAll { $0 === unit }
        coordinator.leave(unit: unit.key)
        guard !unit.gone.isEmpty else { return }
        environment.after(.zero) {
            for gone in unit.gone { gone() }
        }
    }
    /// The pool below a volume is filling up: initiators are told.
    public func softThresholdReached(_ lun: UInt16, of name: String) {
        guard let served = target(named: name), let unit = served.unit(lun: lun), unit.isPresent else {
            return
        }
        act(served, .softThresholdReached(unit.number))
    }
    /// It will be said of the pool below a volume at another use: initiators are told.
    public func changePoolThreshold(of lun: UInt16, of name: String, _ threshold: PoolThreshold) {
        guard let served = target(named: name), let unit = served.unit(lun: lun), unit.isPresent else {
            return
        }
        act(served, .poolThresholdChanged(unit.number, threshold))
    }

    private func tellTransferSizes() {
        var tables: [String: TransferTable] = [:]
        for served in targets where !served.isRemoved { tables[served.name] = served.logic.transferTable }
        // Mostly all units are alike, and no command has to look for its own.
        if let first = targets.first?.logic.transferTable, first.isUniform,
            targets.allSatisfy({ $0.logic.transferTable == first })
        {
            group.configuration.transferSizes = { _, lun, cdb in first.transferSizes(lun, cdb: cdb) }
            return
        }
        group.configuration.transferSizes = { [tables] target, lun, cdb in
            (tables[target] ?? TransferTable()).transferSizes(lun, cdb: cdb)
        }
    }
}
