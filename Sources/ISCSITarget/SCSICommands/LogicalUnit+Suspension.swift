import BlockTypes
import SCSIBoundary

/// A unit whose volume is away for a while, and is to come back.
///
/// It is there, and is not ready: INQUIRY and REPORT LUNS know it as before (SPC-5, section 6.7.2: peripheral
/// qualifier 000b does not mean that the unit is ready for access), REQUEST SENSE tells why, and every
/// command that asks for the medium, for modes or for reservations has NOT READY, becoming ready. Nothing is
/// answered from memory that other gateways may have changed meanwhile.
extension LogicalUnit {
    /// What stands for `unit` while its volume is away: its name, its size, and what initiators must still be
    /// told.
    init(_ number: UnitNumber, standingFor unit: LogicalUnit) {
        self.init(
            number: number, configuration: unit.configuration, sizeBytes: unit.sizeBytes,
            limits: unit.limits, ports: unit.ports)
        isSuspended = true
        (parties, partyIndex) = (unit.parties, unit.partyIndex)
        for index in parties.indices { parties[index].preventsRemoval = false }
    }
    /// The volume is back: each nexus is told of a reset, and behind it what it was not told before.
    mutating func takePlace(of suspended: inout LogicalUnit) {
        invariant(suspended.isSuspended, "LUN \(configuration.lun) is taken")
        invariant(
            suspended.configuration.identifier == configuration.identifier,
            "another volume comes back as LUN \(configuration.lun)")
        for index in parties.indices {
            guard let party = suspended.party(parties[index].nexus) else { continue }
            parties[index].attentions = party.attentions
            parties[index].attentions.add(.powerOnOrReset, max: limits.attentionsMax)
        }
        if sizeBytes != suspended.sizeBytes { attend(.capacityChanged) }
        suspended = self
    }
    /// What commands are told that a suspended unit does not answer.
    static let becomingReady = Sense(.notReady, .becomingReady)

    /// These are answered whatever the state of a unit (SPC-5, sections 6.7, 6.33, 6.37 and 6.39), and
    /// whoever holds a reservation.
    func checkPresence(_ request: Request) throws(Sense) {
        guard isSuspended else { return }
        switch request.operation {
        case .inquiry, .requestSense, .reportLUNs, .reportPortGroups: return
        default: throw Self.becomingReady
        }
    }
}
