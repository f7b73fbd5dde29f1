import BlockTypes
import ClusterScenario
import Environment
import Simulation
import TestVolumes
import Testing

/// A volume that is wrong in one way, to see that the load and the judge notice.
private final class WrongVolume: BlockVolume {
    enum Wrong: CaseIterable { case nothing, losesWrites, appliesTwice, tears, misplaces }
    private let inner: MemoryVolume
    private let wrong: Wrong
    private let host: SimHost
    private var count = 0
    private var last: VolumeRequest?
    var size: ByteCount { inner.size }
    var isReadOnly: Bool { false }
    var resized: ((ByteCount) -> Void)?

    init(_ wrong: Wrong, _ host: SimHost, _ size: ByteCount) {
        (self.wrong, self.host) = (wrong, host)
        inner = MemoryVolume(environment: host, size: size)
    }
    func submit(_ request: VolumeRequest, completed: @escaping (VolumeResult) -> Void) {
        // In effect at any moment of its time, answered later.
        host.after(.microseconds(Int(host.random() % 900))) { [self] in
            count += 1
            let isTurn = count % 40 == 39
            let answer: (VolumeResult) -> Void = { result in
                self.host.after(.microseconds(Int(self.host.random() % 900))) { completed(result) }
            }
            switch (wrong, request) {
            case (.losesWrites, .write) where isTurn: answer(.success([]))
            case (.tears, .write(let start, let payloads)) where isTurn && payloads[0].byteCount > 512:
                inner.submit(.write(start: start, payloads: [payloads[0].slice(0, 512)]), completed: answer)
            case (.misplaces, .write(let start, let payloads)) where isTurn && start.bytes >= 4096:
                inner.submit(
                    .write(start: ByteOffset(bytes: start.bytes - 4096), payloads: payloads),
                    completed: answer)
            case (.appliesTwice, .write):
                if isTurn { last = request }
                inner.submit(request) { result in
                    answer(result)
                    guard self.count % 40 == 10, let again = self.last else { return }
                    self.last = nil
                    self.inner.submit(again) { _ in }
                }
            default: inner.submit(request, completed: answer)
            }
        }
    }
}

@Suite("the load and its judge") struct LoadTests {
    private func run(_ wrong: WrongVolume.Wrong, seed: UInt64) -> String? {
        let world = SimWorld(seed: seed)
        defer { world.end() }
        let host = world.startHost(on: "client")
        let volume = WrongVolume(wrong, host, ByteCount(bytes: 4 << 20))
        let record = LoadRecord()
        var plan = LoadPlan(volumeBlocks: 1024, operations: 800, random: &world.random)
        plan.restMax = .zero
        let load = VolumeLoad(volume, on: host, plan, record, seed: seed)
        load.start()
        _ = world.run(within: .seconds(600)) { record.issued == plan.operations && load.openCount == 0 }
        load.stop()
        load.readEverything()
        #expect(world.run(within: .seconds(60)) { load.openCount == 0 })
        if let complaint = record.complaint { return complaint }
        return record.history.check().violation.map { "\($0.what)" }
    }
    @Test("a sound volume passes under every load", arguments: 0..<40)
    func sound(seed: UInt64) {
        let found = run(.nothing, seed: seed)
        #expect(found == nil, "seed \(seed)")
    }
    @Test("each kind of wrong volume is caught within a few seeds")
    func wrong() {
        for wrong in [WrongVolume.Wrong.losesWrites, .appliesTwice, .tears, .misplaces] {
            let caught = (0..<20 as Range<UInt64>).filter { run(wrong, seed: $0) != nil }.count
            #expect(caught >= 8, "\(wrong): \(caught) of 20")
        }
    }
}
