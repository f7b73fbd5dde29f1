import BlockTypes

/// Several holders of one volume.
///
/// Each member has an attachment of its own, numbered by the epoch that its joining made, and keeps it while
/// others come and go: a join or a removal makes a new generation, whose fence lists the attachments that
/// copysets accept. So nobody but the one who is removed notices a removal, and requests keep their names.
/// Who leaves in order has nothing under way; the next fence drops it.
extension MetadataCore {
    /// Names a member's lease.
    struct MemberKey: Hashable {
        let volume: VolumeID
        let epoch: Epoch
    }

    /// Members that have not renewed in time, in order.
    func silentMembers(of row: VolumeRow, now: Duration) -> [Epoch] {
        (row.group?.members ?? []).map(\.epoch).filter { epoch in
            (memberLeases[MemberKey(volume: row.id, epoch: epoch)] ?? .zero) <= now
        }
    }

    /// Attaches as a member: to the group that holds the volume, or as the first of a new one.
    func join(
        _ held: VolumeRow, _ request: AttachRequest, session: SessionID, now: Duration
    ) throws(MetadataRefusal) -> Decision {
        var row = held
        try check(request.group, "a group's name")
        if request.attempt != 0,
            let mine = row.group?.members.first(where: { $0.holder.attempt == request.attempt })
        {
            return Decision(
                .attached(attachment(row, epoch: mine.epoch, now: now)), [],
                [.memberLease(row.id, mine.epoch)])
        }
        let isOwn = row.holder.map { !$0.key.isEmpty && $0.key == request.holderKey } ?? false
        let isMember = row.group?.name == request.group
        if !isMember, isLeaseLive(row, now: now), !isOwn, !request.takeOver {
            throw self.held(
                row, request.path, "detach it there, or attach with --takeover, which ends all that hold it")
        }
        if let expected = request.expectedEpoch, expected != row.epoch {
            throw MetadataRefusal(
                .notReady,
                "\(request.path) was attached with number \(row.epoch) since \(expected) was read; try again")
        }
        var others = isMember && !request.takeOver ? row.group?.members ?? [] : []
        others.removeAll { !$0.holder.key.isEmpty && $0.holder.key == request.holderKey }
        if row.tailChange != nil, !others.isEmpty {
            // The first member frees what a shrink has left behind the end. One that did so later, when
            // another one writes there already, would free that.
            let silent = silentMembers(of: row, now: now)
            guard others.allSatisfy({ silent.contains($0.epoch) }) else {
                throw MetadataRefusal(
                    .notReady,
                    "what the last shrink of \(request.path) cut off is still being freed by its first holder;"
                        + " try again")
            }
            others = []
        }
        guard others.count < VolumeFence.groupMax else {
            throw MetadataRefusal(
                .noSpace,
                "the group \(MetadataPath.quoted(request.group)) has \(others.count) members, the most there"
                    + " may be; detach or remove one")
        }
        (row.epoch, row.change) = (try nextEpoch(of: row), try nextChange(of: row))
        let me = HolderRow(
            name: request.holder, key: request.holderKey, since: secondsSince1970,
            readOnly: request.readOnly, attempt: request.attempt == 0 ? nil : request.attempt)
        let group = GroupRow(name: request.group, members: others + [MemberRow(epoch: row.epoch, holder: me)])
        row.skip = nil
        setGroup(group, of: &row)
        return Decision(
            .attached(attachment(row, epoch: row.epoch, now: now)), [.put(.volume(row))],
            [
                .memberLease(row.id, row.epoch),
                .log(
                    "volume \(row.id), \(request.path), is joined by \(MetadataPath.quoted(request.holder)),"
                        + " attachment \(row.epoch), as one of \(group.members.count)"),
            ])
    }

    /// A member lets go. Nothing of it is under way, so no copyset needs to hear of it now.
    func leave(_ held: VolumeRow, _ epoch: Epoch) -> Decision {
        var row = held
        let left = (row.group?.members ?? []).filter { $0.epoch != epoch }
        guard !left.isEmpty else {
            (row.group, row.holder) = (nil, nil)
            return Decision(
                bookkeeping: .done, [.put(.volume(row))], [.endMemberLease(row.id, epoch), .endLease(row.id)])
        }
        setGroup(GroupRow(name: row.group?.name ?? "", members: left), of: &row)
        return Decision(bookkeeping: .done, [.put(.volume(row))], [.endMemberLease(row.id, epoch)])
    }

    /// Makes a generation without one member. Whoever asked tells every copyset; only then the member counts
    /// as gone. Asked again it repeats the present generation, which may be told again as well.
    func removeMember(
        _ id: VolumeID, epoch: Epoch, member: Epoch, force: Bool, now: Duration
    ) throws(MetadataRefusal) -> Decision {
        var row = try attachment(of: id, epoch: epoch)
        guard var group = row.group, member != epoch else {
            throw MetadataRefusal(
                .badRequest, "attachment \(epoch) of volume \(id) has no other member to remove; detach it")
        }
        guard let place = group.members.firstIndex(where: { $0.epoch == member }) else {
            return Decision(regrouped(row))
        }
        let name = MetadataPath.quoted(group.members[place].holder.name)
        guard force || silentMembers(of: row, now: now).contains(member) else {
            throw MetadataRefusal(
                .held,
                "\(name), attachment \(member) of volume \(id), lives: its lease runs; detach it there, or"
                    + " remove it with force",
                holder: group.members[place].holder.name)
        }
        group.members.remove(at: place)
        (row.epoch, row.change) = (try nextEpoch(of: row), try nextChange(of: row))
        row.skip = nil
        setGroup(group, of: &row)
        return Decision(
            regrouped(row), [.put(.volume(row))],
            [
                .endMemberLease(id, member),
                .log("volume \(id) loses the member \(name), attachment \(member), epoch \(row.epoch)"),
            ])
    }
    private func regrouped(_ row: VolumeRow) -> MetadataReply {
        .regrouped(
            epoch: row.epoch, change: row.change ?? 0, group: row.group?.members.map(\.epoch) ?? [],
            sizeBytes: row.sizeBytes)
    }

    /// The holder's name says, within what a name may have, who the members are.
    private func setGroup(_ group: GroupRow, of row: inout VolumeRow) {
        let names = group.members.map { $0.holder.name.isEmpty ? "an unnamed holder" : $0.holder.name }
        var text = "the group \(group.name): \(enumerated(names))"
        while text.utf8.count > limits.textBytesMax { text.removeLast() }
        row.holder = HolderRow(
            name: text, key: "", since: group.members.first?.holder.since ?? secondsSince1970,
            readOnly: group.members.allSatisfy(\.holder.readOnly))
        row.group = group
    }
}
