import BlockTypes
import CurveClient
import Environment
import SCSICommands

// Gateways that are gone.
extension ClusterCoordinator {
    /// Takes out whoever is no member of the volume's group any more, or has not renewed its lease.
    func lookAround(completed: @escaping () -> Void) {
        keeper.members { [self] result in
            guard case .success(let members) = result, !isOver else { return completed() }
            let gone = known.gateways.filter { gateway in
                guard !isOwn(gateway), let epoch = gateway.epoch(of: keeper.number.rawValue) else {
                    return false
                }
                return members.first { $0.epoch.rawValue == epoch }?.isSilent ?? true
            }
            takeOut(gone[...], force: false, completed: completed)
        }
    }

    /// Removes gateways for good, one after the other: first from the volumes' groups, so that nothing of
    /// them lands, then what they hold of the units, at last their place, whose tag another may take then.
    /// - Parameter force: also those whose lease runs.
    func takeOut(_ gateways: ArraySlice<Gateway>, force: Bool, completed: @escaping () -> Void) {
        guard let gateway = gateways.first, !isOver else { return completed() }
        let next = { [self] in takeOut(gateways.dropFirst(), force: force, completed: completed) }
        expel(gateway.sessions[...], force: force) { [self] isExpelled in
            guard isExpelled else { return next() }
            dropHoldings(of: gateway.group.tag, units[...]) { [self] isDropped in
                guard isDropped else { return next() }
                changeList { list in
                    let before = list.gateways.count
                    list.gateways.removeAll { $0.sessions == gateway.sessions }
                    return list.gateways.count != before
                } completed: { [self] isDone in
                    if isDone {
                        environment.log(
                            .warning, "iscsi: gateway \(gateway.group.tag) of \(target) is gone; taken out")
                    }
                    next()
                }
            }
        }
    }
    private func expel(
        _ sessions: ArraySlice<Gateway.Session>, force: Bool, completed: @escaping (_ isDone: Bool) -> Void
    ) {
        guard let session = sessions.first, !isOver, !isPlanted(.gatewayUnfenced) else {
            return completed(!isOver)
        }
        guard let unit = units.first(where: { $0.volume.number.rawValue == session.volume }) else {
            return expel(sessions.dropFirst(), force: force, completed: completed)
        }
        unit.volume.removeMember(Epoch(session.epoch), force: force) { [self] result in
            guard case .success = result else { return completed(false) }
            // Half of a gateway serves nobody: what begins with a lease that ran out ends with all of it.
            expel(sessions.dropFirst(), force: true, completed: completed)
        }
    }
    /// RESERVE(6) of a gateway's initiators ends, and so does what it was sanitizing.
    func dropHoldings(
        of tag: UInt16, _ units: ArraySlice<HeldUnit>, attempt: Int = 1,
        completed: @escaping (_ isDone: Bool) -> Void
    ) {
        guard let unit = units.first, !isOver else { return completed(!isOver) }
        unit.reservations.read { [self] isRead in
            guard isRead, let table = record(of: unit)?.table else { return completed(false) }
            let next = table.withoutGateway(tag)
            guard next != table else {
                return dropHoldings(of: tag, units.dropFirst(), completed: completed)
            }
            swap(unit, next, expected: table.version) { [self] swap in
                switch swap {
                case .swapped: dropHoldings(of: tag, units.dropFirst(), completed: completed)
                case .outdated where attempt < Self.attemptsMax:
                    dropHoldings(of: tag, units, attempt: attempt + 1, completed: completed)
                case .outdated, .failed: completed(false)
                }
            }
        }
    }
}
