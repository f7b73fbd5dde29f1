import BlockTypes

/// Small values that a volume's holders agree on, reservations for example: who changes one says which
/// version it saw, and only a present holder may. Those of the cluster itself stand where no volume can,
/// under ``BlockTypes/VolumeID/cluster``; anybody may change them.
extension MetadataCore {
    /// Somebody waits for a value to change.
    struct Watch {
        let id: RequestID
        let session: SessionID
        let volume: VolumeID
        let name: String
        let after: UInt64
        let end: Duration
    }

    func value(_ volume: VolumeID, _ name: String) throws(MetadataRefusal) -> MetadataReply {
        guard mayHaveValues(volume) else {
            throw MetadataRefusal(.notFound, "there is no volume \(volume)")
        }
        let found = state.value(volume, name)
        return .value(version: found?.version ?? 0, bytes: found?.bytes ?? [], isSwapped: false)
    }

    private func mayHaveValues(_ volume: VolumeID) -> Bool {
        volume == .cluster || state.volumes[volume]?.isPurging == false
    }
    /// How many values a volume, or the cluster, may have, and of how many bytes.
    private func valueBounds(_ volume: VolumeID) -> (count: Int, bytes: Int) {
        volume == .cluster
            ? (limits.clusterValuesMax, limits.clusterValueBytesMax)
            : (limits.valuesPerVolumeMax, limits.valueBytesMax)
    }

    func swapValue(_ swap: ValueSwap) throws(MetadataRefusal) -> Decision {
        if swap.volume != .cluster {
            let row = try attachment(of: swap.volume, epoch: swap.epoch)
            guard row.holder != nil else {
                throw MetadataRefusal(.fenced, "volume \(swap.volume) is detached; attach it again")
            }
        }
        let bounds = valueBounds(swap.volume)
        guard !swap.name.isEmpty, swap.name.utf8.count <= limits.valueNameBytesMax else {
            throw MetadataRefusal(
                .badRequest, "a value's name has 1 to \(limits.valueNameBytesMax) bytes")
        }
        guard swap.bytes.count <= bounds.bytes else {
            throw MetadataRefusal(
                .badRequest, "a value has at most \(bounds.bytes) bytes, this one \(swap.bytes.count)")
        }
        let old = state.value(swap.volume, swap.name)
        if swap.attempt != 0, let old, old.attempt == swap.attempt {
            return Decision(.value(version: old.version, bytes: old.bytes, isSwapped: true))
        }
        guard old?.version ?? 0 == swap.expectedVersion else {
            return Decision(.value(version: old?.version ?? 0, bytes: old?.bytes ?? [], isSwapped: false))
        }
        let taken = (state.values[swap.volume] ?? []).map(\.slot)
        guard
            let slot = old?.slot
                ?? (0..<UInt8(clamping: bounds.count)).first(where: { !taken.contains($0) })
        else {
            let owner = swap.volume == .cluster ? "the cluster" : "volume \(swap.volume)"
            throw MetadataRefusal(
                .noSpace, "\(owner) has \(taken.count) values, the most there may be")
        }
        var new = ValueRow(
            volume: swap.volume, slot: slot, name: swap.name, version: swap.expectedVersion + 1, hex: "",
            attempt: swap.attempt == 0 ? nil : swap.attempt)
        new.bytes = swap.bytes
        return Decision(
            .value(version: new.version, bytes: swap.bytes, isSwapped: true), [.put(.value(new))],
            [.valueChanged(swap.volume)])
    }

    /// Lets a question wait for news, if it is to and there are none.
    /// - Returns: true when it waits.
    mutating func keepsWatch(
        _ request: MetadataRequest, _ id: RequestID, _ session: SessionID, now: Duration
    ) -> Bool {
        guard case .value(let volume, let name, let after, let wait) = request, wait > .zero,
            watches.count < limits.watchesMax, mayHaveValues(volume),
            state.value(volume, name)?.version ?? 0 <= after
        else { return false }
        watches.append(
            Watch(
                id: id, session: session, volume: volume, name: name, after: after,
                end: now + min(wait, limits.watchMax)))
        return true
    }
    /// Answers those who have waited for what is there now, or long enough.
    mutating func serveWatches(now: Duration, effects: inout [Effect]) {
        guard !watches.isEmpty else { return }
        let all = watches
        watches = []
        for watch in all {
            let isOver =
                now >= watch.end || !mayHaveValues(watch.volume)
                || state.value(watch.volume, watch.name)?.version ?? 0 > watch.after
            guard isOver else {
                watches.append(watch)
                continue
            }
            do throws(MetadataRefusal) {
                effects.append(.reply(watch.id, .success(try value(watch.volume, watch.name))))
            } catch {
                effects.append(.reply(watch.id, .failure(error)))
            }
        }
    }
}

extension MetadataState {
    func value(_ volume: VolumeID, _ name: String) -> ValueRow? {
        values[volume]?.first { $0.name == name }
    }
}
