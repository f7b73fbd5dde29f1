import BlockTypes
import CurveClient

/// What coordination needs of a volume that gateways hold together: who they are, and small values that
/// change by compare-and-swap. A ``RemoteVolume`` in a group is one.
public protocol SharedVolume: AnyObject {
    /// The number of this gateway's attachment, its session.
    var epoch: Epoch { get }
    /// The volume's number.
    var number: VolumeID { get }
    /// Who holds the volume.
    func members(completed: @escaping (Result<[GroupMember], AttachError>) -> Void)
    /// Ends another member's attachment. Nothing of it takes effect once `completed` says so.
    func removeMember(
        _ member: Epoch, force: Bool, completed: @escaping (Result<Void, AttachError>) -> Void)
    /// A value, once its version is higher than `after` or `wait` is over.
    func value(
        _ name: String, after: UInt64, wait: Duration,
        completed: @escaping (Result<VolumeValue, AttachError>) -> Void)
    /// Changes a value whose version is `expected`.
    func swapValue(
        _ name: String, expected: UInt64, bytes: [UInt8],
        completed: @escaping (Result<(value: VolumeValue, isSwapped: Bool), AttachError>) -> Void)
}

extension RemoteVolume: SharedVolume {}
