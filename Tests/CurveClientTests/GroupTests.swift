import BlockTypes
import Testing
import VolumeCore

@testable import CurveClient

/// Several holders of one volume, each with a connection of its own.
@Suite struct GroupTests {
    private static func join(_ cell: FakeCell, _ name: String) throws -> RemoteVolume {
        try #require(cell.attach(key: name, group: "g", in: cell.world.environment(name))).get()
    }
    private static func compare(
        _ cell: FakeCell, _ volume: RemoteVolume, at start: UInt64, _ old: UInt8, _ new: UInt8
    ) -> VolumeResult? {
        let (old, new) = ([UInt8](repeating: old, count: 512), [UInt8](repeating: new, count: 512))
        return cell.ask(
            volume,
            .compareAndWrite(
                start: ByteOffset(bytes: start), expected: [Payload(copying: old)],
                new: [Payload(copying: new)]))
    }

    @Test("neighbouring sectors of one block, written by two, both last; a comparison sees what is there")
    func neighbours() throws {
        let cell = try FakeCell()
        let (first, second) = (try Self.join(cell, "a"), try Self.join(cell, "b"))
        #expect(first.epoch == Epoch(1) && second.epoch == Epoch(2))
        // Both ask before either is answered.
        var done = 0
        for (volume, at, byte) in [(first, UInt64(512), UInt8(1)), (second, 1024, 2)] {
            let payload = Payload(copying: Array(repeating: byte, count: 512))
            volume.submit(.write(start: ByteOffset(bytes: at), payloads: [payload])) { result in
                if case .success = result { done += 1 }
            }
        }
        cell.world.settle()
        #expect(done == 2)
        let wanted = [UInt8](repeating: 1, count: 512) + [UInt8](repeating: 2, count: 512)
        #expect(cell.read(first, at: 512, count: 1024) == wanted)
        guard case .success = Self.compare(cell, first, at: 1024, 2, 3) else {
            Issue.record("what is there is not found")
            return
        }
        guard case .failure(.miscompare(atByte: 0)) = Self.compare(cell, second, at: 1024, 2, 4) else {
            Issue.record("what is not there is found")
            return
        }
        #expect(cell.read(second, at: 1024, count: 512) == Array(repeating: 3, count: 512))
        #expect(first.compareUnitBytes == 65536)
    }

    @Test(
        "a member that another one, or somebody from outside, removes is over when that is said; others go on"
    )
    func removal() throws {
        let cell = try FakeCell()
        let volumes = try ["a", "b", "c"].map { try Self.join(cell, $0) }
        var members: [GroupMember] = []
        volumes[0].members { if case .success(let found) = $0 { members = found } }
        cell.world.settle()
        #expect(members.map(\.epoch) == [Epoch(1), Epoch(2), Epoch(3)])
        var isRemoved = false
        volumes[0].removeMember(volumes[1].epoch) { if case .success = $0 { isRemoved = true } }
        cell.world.settle()
        #expect(isRemoved)
        #expect(cell.store.records.values.allSatisfy { $0.fence.group == [Epoch(1), Epoch(3)] })
        guard case .failure(.fenced) = cell.write(volumes[1], at: 0, 9, count: 4096) else {
            Issue.record("a removed member writes")
            return
        }
        for volume in [volumes[0], volumes[2]] {
            guard case .success = cell.write(volume, at: 0, 5, count: 512) else {
                Issue.record("a member that stays does not write")
                return
            }
        }
        isRemoved = false
        var options = AttachOptions(path: "/demo", metadataServers: [FakeCell.mdsAddress], holder: "tool")
        options.group = "g"
        RemoteVolume.removeMember(
            volumes[2].epoch, force: true, environment: cell.world.environment("tool"), options: options
        ) {
            if case .success = $0 { isRemoved = true }
        }
        cell.world.settle()
        #expect(isRemoved && cell.detachments == 1 && cell.members.map(\.epoch) == [1])
        guard case .failure(.fenced) = cell.write(volumes[2], at: 0, 9, count: 4096) else {
            Issue.record("a removed member writes")
            return
        }
        #expect(cell.read(volumes[0], at: 0, count: 512) == Array(repeating: 5, count: 512))
    }

    @Test("a volume that a group holds grows for each member; a removal meanwhile keeps the new size")
    func growth() throws {
        let cell = try FakeCell()
        let volumes = try ["a", "b", "c"].map { try Self.join(cell, $0) }
        var sizes: [ByteCount] = []
        volumes[1].resized = { sizes.append($0) }
        let (old, new) = (volumes[0].size, ByteCount(bytes: cell.size * 2))
        var isGrown = false
        volumes[0].resize(to: new) { if case .success = $0 { isGrown = true } }
        cell.world.settle()
        #expect(isGrown && volumes[0].size == new && volumes[1].size == old)
        guard case .success = cell.write(volumes[0], at: old.bytes, 5, count: 4096) else {
            Issue.record("who grew it does not write to the new end")
            return
        }
        // One that has not heard yet removes another member: that generation has the new size as well.
        var isRemoved = false
        volumes[1].removeMember(volumes[2].epoch) { if case .success = $0 { isRemoved = true } }
        cell.world.settle()
        #expect(isRemoved && sizes == [new] && volumes[1].size == new)
        #expect(cell.store.records.values.allSatisfy { $0.fence.size == new && $0.fence.epoch == Epoch(5) })
        #expect(cell.read(volumes[1], at: old.bytes, count: 4096) == Array(repeating: 5, count: 4096))
        // The next growth is learnt with the renewals of those who did not ask.
        let newest = ByteCount(bytes: new.bytes * 2)
        var used: [Int] = []
        volumes[0].poolUsed = { used.append($0) }
        cell.poolUsedPercent = 83
        volumes[1].resize(to: newest) { _ in }
        cell.world.run(for: .seconds(4))
        #expect(volumes.prefix(2).allSatisfy { $0.size == newest } && sizes == [new, newest])
        #expect(!used.isEmpty && used.allSatisfy { $0 == 83 })
    }

    @Test("a value is changed by who saw its newest version")
    func values() throws {
        let cell = try FakeCell()
        let volume = try Self.join(cell, "a")
        var swaps: [Bool] = []
        for expected in [UInt64(0), 0, 1] {
            volume.swapValue("pr", expected: expected, bytes: [7, UInt8(expected)]) {
                if case .success(let answer) = $0 { swaps.append(answer.isSwapped) }
            }
            cell.world.settle()
        }
        #expect(swaps == [true, false, true])
        var found: VolumeValue?
        volume.value("pr") { if case .success(let value) = $0 { found = value } }
        cell.world.settle()
        #expect(found == VolumeValue(version: 2, bytes: [7, 1]))
    }
}
