import ControlMessages
import Environment
import Simulation

// The metadata server's database is put back from an older copy: that must be noticed, not believed.
extension WorldScenario {
    func restoreMetadataLater() {
        guard plan.restoresMetadata else { return }
        world.after(anyTime(upTo: 4_000)) { [weak self] in
            guard let self else { return }
            metadata.takeCopy()
            for volume in volumes { volume.isBackedUp() }
        }
        world.after(.seconds(5) + anyTime(upTo: 5_000)) { [weak self] in self?.restoreMetadata() }
    }
    /// What nobody but the lost database knew cannot be noticed: it is put back once a majority of the
    /// chunkservers keeps that it has heard of more than the copy says.
    private func restoreMetadata() {
        guard isStriking, let copied = metadata.copyRevision else { return }
        guard !isPeace, servers.majorityRemembersMore(than: copied) else {
            world.after(.milliseconds(200)) { [weak self] in self?.restoreMetadata() }
            return
        }
        world.note { "nemesis: the metadata server's database is an older copy from now on" }
        tally["database put back", default: 0] += 1
        isDatabaseOld = true
        metadata.restoreCopy(thenStartAfter: anyTime(upTo: 2_000))
        for volume in volumes { volume.isPutBack() }
        guard plan.operatorAdopts else { return }
        world.after(anyTime(upTo: 6_000)) { [weak self] in self?.adoptLater() }
    }
    private func adoptLater() {
        guard isStriking, isDatabaseOld else { return }
        desk.ask(.adoptDatabase(ControlAdoptDatabaseRequest())) { [weak self] result in
            guard let self, isDatabaseOld else { return }
            if case .success = result { return adopted() }
            world.after(.milliseconds(500)) { [weak self] in self?.adoptLater() }
        }
    }
    private func adopted() {
        isDatabaseOld = false
        tally["database adopted", default: 0] += 1
        world.note { "people: the older database is adopted" }
    }
    /// In calm: the older database has been noticed, and what was decided about it holds.
    func settleDatabase() -> String? {
        guard isDatabaseOld else { return nil }
        var state: ControlDatabaseStatus.State?
        for _ in 0..<100 where state != .wentBack {
            world.run(for: .milliseconds(200))
            guard case .getStatus(let status) = desk.answer(to: .getStatus(ControlGetStatusRequest())) else {
                return "no status: \(desk.refusal)"
            }
            state = status.database.state
            // An adoption whose answer got lost.
            if state == .current, status.database.revision > metadata.lostRevision {
                adopted()
                return nil
            }
        }
        guard state == .wentBack else { return "an older copy of the metadata was believed" }
        guard plan.operatorAdopts else { return nothingIsGiven() }
        guard desk.answer(to: .adoptDatabase(ControlAdoptDatabaseRequest())) != nil else {
            return "the older copy of the metadata cannot be adopted: \(desk.refusal)"
        }
        adopted()
        return nil
    }
    private func nothingIsGiven() -> String? {
        tally["database not adopted", default: 0] += 1
        var request = ControlCreateVolumeRequest()
        (request.path, request.sizeBytes) = ("/new", 1 << 20)
        var failure: ControlFailure?
        desk.ask(.createVolume(request)) { result in
            if case .failure(.refused(let refusal)) = result { failure = refusal }
        }
        world.run(for: .seconds(6))
        return failure?.code == .databaseWentBack
            ? nil : "an older copy of the metadata makes volumes: \(failure?.message ?? "no refusal")"
    }
}
