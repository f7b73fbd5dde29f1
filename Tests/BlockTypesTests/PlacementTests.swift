import Testing

@testable import BlockTypes

@Suite struct PlacementTests {
    func table(_ count: Int, from first: UInt32 = 0) -> [CopysetID] {
        (0..<UInt32(count)).map { CopysetID(first + $0) }
    }
    func placement(_ volume: UInt64, _ table: [CopysetID]) throws -> Placement {
        try #require(Placement(volume: VolumeID(volume), copysets: table))
    }

    @Test("the order never changes: these values were computed by another program from the description")
    func golden() throws {
        #expect(
            try placement(1, table(12)).order.map(\.rawValue) == [7, 0, 4, 1, 2, 11, 5, 10, 3, 9, 8, 6])
        #expect(
            try placement(2, table(12)).order.map(\.rawValue) == [9, 0, 10, 1, 3, 4, 11, 2, 6, 5, 8, 7])
        #expect(
            try placement(VolumeID.max, table(7, from: 1)).order.map(\.rawValue)
                == [6, 3, 5, 7, 4, 1, 2])
        var hash: UInt64 = 0xcbf2_9ce4_8422_2325
        for copyset in try placement(77, table(300)).order {
            hash = (hash ^ UInt64(copyset.rawValue)) &* 0x100_0000_01b3
        }
        #expect(hash == 0x8935_3d3e_9e6a_db53)
    }

    @Test("every copyset gets its share of a volume, give or take one chunk", arguments: [1, 2, 3, 12, 100])
    func evenInsideAVolume(count: Int) throws {
        for volume in UInt64(1)...50 {
            let placement = try placement(volume, table(count))
            var chunks = Array(repeating: 0, count: count)
            for chunk in UInt32(0)..<1001 { chunks[Int(placement.copyset(ofChunk: chunk).rawValue)] += 1 }
            let (low, high) = (1001 / count, (1000 + count) / count)
            #expect(chunks.allSatisfy { (low...high).contains($0) }, "volume \(volume)")
        }
    }

    @Test("each place of the order gets each copyset equally often over many volumes")
    func evenAcrossVolumes() throws {
        let (count, volumes) = (12, 12_000)
        var seen = Array(repeating: Array(repeating: 0, count: count), count: count)
        for volume in 1...UInt64(volumes) {
            for (place, copyset) in try placement(volume, table(count)).order.enumerated() {
                seen[place][Int(copyset.rawValue)] += 1
            }
        }
        // 1000 expected in each of 144 cells, standard deviation 30: five of them never happen by chance.
        for row in seen { for cell in row { #expect((850...1150).contains(cell)) } }
    }

    @Test("an empty table and a table that names a copyset twice are refused")
    func refusals() {
        #expect(Placement(volume: VolumeID(1), copysets: []) == nil)
        #expect(Placement(volume: VolumeID(1), copysets: [CopysetID(1), CopysetID(1)]) == nil)
    }

    @Test("the first chunks use a prefix of the order, and all of it once there are enough chunks")
    func prefix() throws {
        let placement = try placement(9, table(5))
        #expect(placement.copysets(ofFirst: 0).isEmpty)
        #expect(Array(placement.copysets(ofFirst: 2)) == Array(placement.order[..<2]))
        #expect(Array(placement.copysets(ofFirst: 1 << 26)) == placement.order)
    }
}
