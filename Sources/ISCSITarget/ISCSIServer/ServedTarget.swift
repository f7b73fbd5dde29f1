import BlockTypes
import Environment
import ISCSIProtocol
import SCSICommands

/// One target: its logic, and the volumes below its units.
final class ServedTarget {
    let name: String
    var logic: Target
    /// In the order in which they were added.
    var units: [ServedUnit] = []
    /// LUNs whose volumes are away, with what stands for them.
    var suspended: [SuspendedUnit] = []
    /// Its sessions are being ended, and no more begin.
    var isRemoved = false
    /// When another gateway's TARGET COLD RESET ended its sessions last.
    var coldResetAt: Duration?

    init(_ configuration: TargetConfiguration) {
        (name, logic) = (configuration.name, Target(configuration))
    }
    func unit(_ number: UnitNumber) -> ServedUnit? { units.first { $0.number == number } }
    /// The volume below a unit.
    func volume(of number: UnitNumber) -> (any BlockVolume)? {
        units.firstIndex { $0.number == number }.map { units[$0].volume }
    }
    /// The unit that initiators know by `lun`, or soon will.
    func unit(lun: UInt16) -> ServedUnit? {
        units.first { $0.configuration.lun == lun && !$0.isLeaving }
    }
}

/// A logical unit whose volume is away.
struct SuspendedUnit {
    let number: UnitNumber
    let lun: UInt16
    /// What comes back is this, or it is not the same unit.
    let key: UnitKey
}

/// One volume as a logical unit.
final class ServedUnit {
    let number: UnitNumber
    let configuration: UnitConfiguration
    let volume: any BlockVolume
    /// The target knows it: its reservations have come.
    var isPresent = false
    /// It was removed, and ends what it has begun.
    var isLeaving = false
    /// Who wants to know when nothing is asked of the volume any more.
    var gone: [() -> Void] = []
    /// One line for each kind of error.
    var loggedErrors: Set<VolumeError> = []

    init(_ number: UnitNumber, _ configuration: UnitConfiguration, _ volume: any BlockVolume) {
        (self.number, self.configuration, self.volume) = (number, configuration, volume)
    }
    var key: UnitKey { UnitKey(identifier: configuration.identifier) }
}

/// One session with a target. An object: names are long, and each command asks for the target alone.
final class ServedNexus {
    let target: ServedTarget
    let names: Nexus

    init(_ target: ServedTarget, _ names: Nexus) { (self.target, self.names) = (target, names) }
}
