import BlockTypes
import CurveClient
import Environment
import ISCSIServer
import SCSICommands

// How far a sanitize operation is: its gateway notes that in `seen` now and then, beside what it goes by.
extension ClusterCoordinator {
    /// See the protocol. At most one note in ``reportInterval``, but for the end: the next operation must not
    /// begin with what was told of this one.
    public func report(sanitized progress: UInt16, of key: UnitKey) {
        guard let unit = held(key), unit.isJoined, !isOver else { return }
        unit.sanitized = progress
        if progress == 0 {
            unit.dueSanitized = 0
            acknowledge(unit)
        } else if !unit.isReporting {
            reportOn(unit)
        }
    }
    private func reportOn(_ unit: HeldUnit) {
        let hasOthers = known.gateways.contains { !isOwn($0) }
        unit.isReporting = unit.sanitized != unit.dueSanitized && hasOthers && !isOver
        guard unit.isReporting else { return }
        unit.dueSanitized = unit.sanitized
        acknowledge(unit)
        environment.after(Self.reportInterval) { [weak self, weak unit] in
            if let self, let unit { reportOn(unit) }
        }
    }
    /// Tells the unit what the gateway that sanitizes it has noted last.
    func tellSanitized(_ unit: HeldUnit) {
        guard unit.isJoined, !isOver else { return }
        let progress = noted(of: unit) ?? 0
        guard progress != unit.toldSanitized else { return }
        unit.toldSanitized = progress
        sanitizeReported?(unit.key, progress)
    }
    private func noted(of unit: HeldUnit) -> UInt16? {
        // Mostly nobody does, and nothing else need be read.
        guard let seen = seen(of: unit), seen.isSanitizing,
            case .running(let port, _)? = record(of: unit)?.table.sanitize,
            let gateway = known.gateways.first(where: { $0.group.tag == port }), !isOwn(gateway)
        else { return nil }
        return gateway.epoch(of: unit.volume.number.rawValue).map { seen[$0].sanitized }
    }
}
