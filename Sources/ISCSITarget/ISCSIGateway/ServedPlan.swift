import BlockTypes
import CurveClient
import Environment
import ISCSIConfiguration
import ISCSICoordination
import ISCSIProtocol
import ISCSIServer
import SCSICommands

/// One volume of this gateway, from the moment that the configuration names it until it is given back.
///
/// idle -> attaching -> entering -> adding -> served -> leaving -> idle; failures lead back to idle, with a
/// reason and a time to try again.
final class GatewayUnit {
    enum Phase { case idle, attaching, entering, adding, served, leaving }
    let target: String
    let number: UInt16
    /// What the configuration wants; `nil`: nothing any more.
    var wanted: GatewayPlan.Unit?
    /// What is attached or served.
    var present: GatewayPlan.Unit?
    var phase = Phase.idle
    var volume: RemoteVolume?
    var coordinator: ClusterCoordinator?
    var hasEntered = false
    /// Its volume, or its place among the gateways, is another's.
    var isLost = false
    /// What initiators wait for while its volume is attached again; `nil`: nothing.
    var suspended: LUNEntry?
    /// Why it is not served.
    var problem: String?
    var retry: TimerID?
    /// It was tried at least once.
    var wasTried = false
    /// Initiators are told when it is passed.
    var threshold = SoftThreshold()

    init(_ target: String, _ wanted: GatewayPlan.Unit) {
        (self.target, number, self.wanted) = (target, wanted.lun.number, wanted)
    }
    var name: String { "LUN \(number) of \(target)" }
}

/// One target of this gateway.
final class GatewayTarget {
    let name: String
    /// What the configuration wants; `nil`: nothing any more.
    var wanted: GatewayPlan.Target?
    /// What initiators are judged by.
    var present: GatewayPlan.Target?
    var isServed = false
    var isBusy = false
    var problem: String?
    init(_ wanted: GatewayPlan.Target) { (name, self.wanted) = (wanted.name, wanted) }
}

/// One place where this gateway listens, or is to.
struct GatewayPortal {
    let address: String
    var announced: String?
    var isOpen = false
    var problem: String?
    /// Where it listens, with the port that the system chose.
    var listens: SocketAddress?
}

extension GatewayPlan.Login {
    var authentication: Authentication {
        guard !users.isEmpty else { return .none }
        return .chap(users: users.map(\.credential), mutual: mutual?.credential)
    }
}
extension UserEntry {
    fileprivate var credential: CHAPCredential { CHAPCredential(name: name, secret: secret.bytes) }
}

extension GatewayPlan.Target {
    /// What a portal group is told of it.
    var description: TargetDescription {
        var description = TargetDescription(name: name)
        description.alias = alias
        description.authentication = login.authentication
        description.initiators = rules.map { rule in
            InitiatorRule(
                initiatorName: rule.initiator == InitiatorEntry.anybody ? nil : rule.initiator,
                networks: rule.addresses.compactMap { text in
                    NetworkPrefix(text).map { AddressPrefix(bytes: $0.bytes, bitCount: $0.bitCount) }
                })
        }
        return description
    }
}

extension LUNEntry {
    var poolThreshold: PoolThreshold {
        PoolThreshold(usedPercent: threshold, slackPercent: SoftThreshold.slackPercent)
    }
}

extension GatewayPlan.Unit {
    /// What each initiator may do, in the words of SCSICommands.
    var access: UnitAccess {
        func right(_ access: GatewayPlan.Access) -> UnitAccess.Right {
            switch access {
            case .hidden: .hidden
            case .reads: .reads
            case .writes: .writes
            }
        }
        var rules = UnitAccess(others: right(others))
        for rule in named { rules.named.append(UnitAccess.Rule(rule.initiator, right(rule.access))) }
        return rules
    }
    /// What initiators see of a volume: the same wherever it is served.
    func configuration(of volume: RemoteVolume) -> UnitConfiguration {
        let identity = UnitIdentity(cluster: volume.cluster, volume: volume.number)
        var unit = UnitConfiguration(
            lun: lun.number, blockBytes: lun.blockBytes, identifier: identity.identifier,
            serial: identity.serial)
        (unit.isReadOnly, unit.isRemovable) = (lun.isReadOnly, lun.isRemovable)
        (unit.compareUnitBytes, unit.atomicBytes) = (volume.compareUnitBytes, volume.atomicBytes)
        (unit.access, unit.poolThreshold) = (access, lun.poolThreshold)
        return unit
    }
}
