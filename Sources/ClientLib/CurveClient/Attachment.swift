import BlockTypes
import ControlMessages
import Environment
import VolumeCore

/// What the metadata server grants with an attachment, checked.
struct Attachment {
    let volume: VolumeID
    let epoch: Epoch
    let change: UInt32
    let trimsTail: Bool
    /// Attachments of the group that it belongs to; empty: it has the volume alone.
    let group: [Epoch]
    let size: ByteCount
    let stripes: StripeMap
    let lease: Duration
    let copysets: [CopysetMembers]
    let addressBook: ControlAddressBook

    /// Shorter leases would keep the metadata server busy with nothing else.
    static let leaseMin = Duration.seconds(1)
    /// The longest that makes sense: renewals also bring news of sizes and addresses.
    static let leaseMax = Duration.seconds(600)
    /// Members of a copyset; three are usual.
    static let membersMax = 16

    init(_ answer: ControlAttachVolumeResponse) throws(AttachError) {
        let volume = answer.volume
        guard volume.id > 0, volume.id <= VolumeID.max else { throw .badAnswer("volume \(volume.id)") }
        guard answer.epoch > 0 else { throw .badAnswer("attachment number 0") }
        guard
            let stripes = StripeMap(
                stripeUnitBytes: Int(volume.stripeUnitBytes), stripeCount: max(Int(volume.stripeCount), 1))
        else {
            throw .badAnswer("\(volume.stripeCount) stripes of \(volume.stripeUnitBytes) bytes")
        }
        var copysets: [CopysetMembers] = []
        for copyset in answer.copysets {
            guard (1...Self.membersMax).contains(copyset.members.count), !copyset.members.contains(0),
                Set(copyset.members).count == copyset.members.count
            else { throw .badAnswer("copyset \(copyset.id) has members \(copyset.members)") }
            copysets.append(
                CopysetMembers(id: CopysetID(copyset.id), members: copyset.members.map { ServerID($0) }))
        }
        group = answer.group.map { Epoch($0) }
        guard VolumeFence.isGroup(group, at: Epoch(answer.epoch)),
            group.isEmpty || group.contains(Epoch(answer.epoch))
        else { throw .badAnswer("a group of the attachments \(answer.group)") }
        self.volume = VolumeID(volume.id)
        (epoch, change, trimsTail) = (Epoch(answer.epoch), volume.change, answer.trimTail)
        size = ByteCount(bytes: volume.sizeBytes)
        lease = min(max(.milliseconds(Int(answer.leaseMilliseconds)), Self.leaseMin), Self.leaseMax)
        (self.stripes, self.copysets, addressBook) = (stripes, copysets, answer.addressBook)
    }
}
