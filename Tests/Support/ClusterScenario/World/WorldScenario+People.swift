import BlockTypes
import ControlMessages
import Environment
import Simulation

// What people do with volumes.
extension WorldScenario {
    func act(_ act: WorldAct) {
        let present = volumes.filter { !$0.isPurged && !$0.isRecycled }
        world.note { "people: \(act)" }
        tally["act \(act)", default: 0] += 1
        if act == .create { return create() }
        guard !present.isEmpty else { return }
        let volume = actDice.pick(present)
        actDice.note(volume.path)
        switch act {
        case .create: break
        case .resizeHeld: volume.client?.resize(to: anySize(of: volume))
        case .growElsewhere: grow(volume)
        case .deleteInUse:
            volume.isDeletionAsked = true
            desk.ask(deletion(of: volume, isFinal: false)) { [weak self] result in
                guard let self, case .success = result else { return }
                volume.isRecycled = true
                restoreLater(volume)
            }
        case .deleteAndRestore: giveBack(volume) { [weak self] in self?.deleteAndRestore(volume) }
        case .purge: giveBack(volume) { [weak self] in self?.purge(volume) }
        case .rename: rename(volume)
        }
    }
    private func anySize(of volume: WorldVolume) -> UInt64 {
        let size = actDice.pick(volume.plan.sizes)
        actDice.note("\(ByteCount(bytes: size))")
        return size
    }
    private func create() {
        guard volumes.count < WorldPlan.volumesMax else { return }
        let model = actDice.pick(plan.volumes)
        let volume = newVolume(model)
        // Nobody may look for it before it is there.
        volume.isRecycled = true
        volume.isDeletionAsked = true
        desk.ask(creation(of: volume)) { [weak self] result in
            guard let self, case .success = result else { return }
            (volume.isRecycled, volume.isDeletionAsked) = (false, false)
            if isStriking { newClient(for: volume, takesOver: false) }
        }
    }
    private func grow(_ volume: WorldVolume) {
        let size = anySize(of: volume)
        guard let known = volume.record.sizes?.current, size >= known else { return }
        let writes = volume.sizeAsked(size)
        var request = ControlResizeVolumeRequest()
        (request.path, request.sizeBytes) = (volume.path, size)
        desk.ask(.resizeVolume(request)) { _ in
            // The holder hears of it later: until then both sizes may be true.
            volume.sizeSettled(size, writes, isDone: false, session: .max)
        }
    }
    /// The client goes in peace, then `then`.
    private func giveBack(_ volume: WorldVolume, then: @escaping () -> Void) {
        guard let client = volume.client, client.isUsable, client.isAttached else { return }
        client.detach(then)
    }
    private func deletion(of volume: WorldVolume, isFinal: Bool) -> ControlRequest.OneOf_Body {
        var request = ControlDeleteVolumeRequest()
        (request.path, request.purgeNow) = (volume.path, isFinal)
        return .deleteVolume(request)
    }
    func restoration(of volume: WorldVolume) -> ControlRequest.OneOf_Body {
        var request = ControlRestoreVolumeRequest()
        (request.path, request.byPath, request.to) = (volume.path, true, volume.path)
        return .restoreVolume(request)
    }
    private func deleteAndRestore(_ volume: WorldVolume) {
        volume.isDeletionAsked = true
        desk.ask(deletion(of: volume, isFinal: false)) { [weak self] result in
            guard let self else { return }
            if case .success = result {
                volume.isRecycled = true
                restoreLater(volume)
            } else if isStriking {
                newClient(for: volume, takesOver: false)
            }
        }
    }
    private func restoreLater(_ volume: WorldVolume) {
        world.after(anyTime(upTo: 2000)) { [weak self] in
            guard let self, volume.isRecycled, isStriking else { return }
            desk.ask(restoration(of: volume)) { [weak self] result in
                guard let self, isStriking else { return }
                guard case .success = result else { return restoreLater(volume) }
                volume.isRecycled = false
                newClient(for: volume, takesOver: true)
            }
        }
    }
    private func purge(_ volume: WorldVolume) {
        volume.isDeletionAsked = true
        desk.ask(deletion(of: volume, isFinal: true)) { [weak self] result in
            guard let self else { return }
            if case .success = result {
                volume.purgedAt = world.trueNow
            } else if isStriking {
                newClient(for: volume, takesOver: false)
            }
        }
    }
    private func rename(_ volume: WorldVolume) {
        guard volume.rumouredPath == nil else { return }
        let new = volume.path + "r"
        volume.rumouredPath = new
        volume.nameChanges += 1
        var request = ControlRenameRequest()
        (request.from, request.to) = (volume.path, new)
        desk.ask(.rename(request)) { result in
            volume.nameChanges += 1
            if case .success = result { (volume.path, volume.rumouredPath) = (new, nil) }
            // A store that failed may have kept the change all the same.
            if case .failure(.refused(let failure)) = result, failure.code != .store {
                volume.rumouredPath = nil
            }
        }
    }
}
