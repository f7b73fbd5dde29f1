import BlockTypes
import ControlMessages
import Foundation
import class GRDB.DatabaseQueue
import MemoryEnvironment
import Testing

@testable import MetadataCore
@testable import MetadataServer

/// A folder that lives as long as the test.
final class TemporaryFolder {
    let url = FileManager.default.temporaryDirectory.appendingPathComponent("curve-\(UUID().uuidString)")
    init() throws { try FileManager.default.createDirectory(at: url, withIntermediateDirectories: true) }
    deinit { try? FileManager.default.removeItem(at: url) }
    func path(_ name: String) -> String { url.appendingPathComponent(name).path }
}

@Suite struct StoreTests {
    static let records: [Record] = [
        .cluster(ClusterRow(id: UniqueID(high: 1, low: 2))),
        .server(
            ServerRow(
                id: ServerID(3), device: UniqueID(high: 4, low: 5), host: "h\"\\/é", zone: "z",
                addresses: ["[::1]:7000", "unix:/run/x"], incarnation: Incarnation(.max), capacityBytes: .max,
                lazilyGrown: true)),
        .pool(
            PoolRow(
                id: PoolID(1), name: "main", replicas: 3, domain: .device,
                generations: [GenerationRow(number: 1, copysets: [CopysetID(1), CopysetID(2)])],
                servers: [ServerID(3)])),
        .copyset(CopysetRow(id: CopysetID(1), pool: PoolID(1), members: [ServerID(3), ServerID(4)])),
        .directory(DirectoryRow(id: DirectoryID(7), parent: .root, name: "d")),
        .volume(
            VolumeRow(
                id: VolumeID(VolumeID.max), place: .named(parent: DirectoryID(7), name: "v"),
                sizeBytes: 1 << 50,
                stripeUnitBytes: 65536, stripeCount: 4, pool: PoolID(1), generation: 1, epoch: Epoch(.max),
                createdAt: 9, holder: HolderRow(name: "n", key: "k", since: 8, readOnly: true), change: 12)),
        .volume(
            VolumeRow(
                id: VolumeID(2), place: .recycled(path: "/x", since: 5), sizeBytes: 1 << 20,
                stripeUnitBytes: 1 << 24, stripeCount: 1, pool: PoolID(1), generation: 1, epoch: Epoch(0),
                createdAt: 9, holder: nil)),
        .task(
            TaskRow(
                id: TaskID(1), copyset: CopysetID(1), volume: VolumeID(2),
                fence: TaskRow.Fence(epoch: Epoch(2), sizeBytes: 4096, change: 7))),
        .task(TaskRow(id: TaskID(2), copyset: CopysetID(1), volume: VolumeID(2), fence: nil)),
        .value(
            ValueRow(
                volume: VolumeID(2), slot: 3, name: "reservations", version: 4, hex: "00ff7f", attempt: 9)),
        .volume(shared),
    ]
    private static let shared: VolumeRow = {
        let holder = HolderRow(name: "n", key: "k", since: 8, readOnly: false)
        var row = VolumeRow(
            id: VolumeID(4), place: .named(parent: .root, name: "s"), sizeBytes: 1 << 20,
            stripeUnitBytes: 1 << 24, stripeCount: 1, pool: PoolID(1), generation: 1, epoch: Epoch(3),
            createdAt: 9, holder: holder)
        row.group = GroupRow(name: "g", members: [MemberRow(epoch: Epoch(2), holder: holder)])
        return row
    }()

    @Test("every kind of row is read as it was written")
    func roundTrip() throws {
        for record in Self.records { #expect(try RecordCodec.record(RecordCodec.storeRow(record)) == record) }
    }

    @Test("the text of a row never changes: files of today must be read tomorrow")
    func golden() throws {
        let rows = try Self.records.map { try RecordCodec.storeRow($0) }
        let keys: [String] = rows.map { $0.key.description }
        let wanted: [String] = [
            "cluster 0", "server 3", "pool 1", "copyset 1", "directory 7", "volume 274877906943", "volume 2",
            "task 1", "task 2", "value 515", "volume 4",
        ]
        #expect(keys == wanted)
        let server = """
            {"row":{"addresses":["[::1]:7000","unix:/run/x"],"capacityBytes":18446744073709551615,\
            "device":"00000000-0000-0004-0000-000000000005","host":"h\\"\\\\/é","id":3,\
            "incarnation":18446744073709551615,"lazilyGrown":true,"zone":"z"},"version":1}
            """
        #expect(rows[1].value == server)
        let pool = """
            {"row":{"domain":"device","generations":[{"copysets":[1,2],"number":1}],"id":1,"name":"main",\
            "replicas":3,"servers":[3]},"version":1}
            """
        #expect(rows[2].value == pool)
        let volume = """
            {"row":{"change":12,"createdAt":9,"epoch":4294967295,"generation":1,\
            "holder":{"key":"k","name":"n","readOnly":true,"since":8},"id":274877906943,\
            "place":{"named":{"name":"v","parent":7}},"pool":1,"sizeBytes":1125899906842624,\
            "stripeCount":4,"stripeUnitBytes":65536},"version":1}
            """
        #expect(rows[5].value == volume)
        let value = """
            {"row":{"attempt":9,"hex":"00ff7f","name":"reservations","slot":3,"version":4,"volume":2},"version":1}
            """
        #expect(rows[9].value == value)
        let holder = #"{"key":"k","name":"n","readOnly":false,"since":8}"#
        let shared = """
            {"row":{"createdAt":9,"epoch":3,"generation":1,\
            "group":{"members":[{"epoch":2,"holder":\(holder)}],"name":"g"},"holder":\(holder),"id":4,\
            "place":{"named":{"name":"s","parent":0}},"pool":1,"sizeBytes":1048576,"stripeCount":1,\
            "stripeUnitBytes":16777216},"version":1}
            """
        #expect(rows[10].value == shared)
    }

    @Test(
        "a row that cannot be read is named",
        arguments: [
            ("volume", "not json"), ("volume", "{}"), ("volume", #"{"row":{},"version":1}"#),
            ("castle", #"{"row":{},"version":1}"#),
            ("directory", #"{"row":{"id":8,"name":"d","parent":0},"version":1}"#),
            ("directory", #"{"row":{"id":7,"name":"d","parent":0},"version":2}"#),
            ("directory", #"{"row":{"id":-7,"name":"d","parent":0},"version":1}"#),
        ])
    func badRows(table: String, value: String) {
        let row = StoreRow(key: StoreRow.Key(table: table, number: 7), value: value)
        #expect { try RecordCodec.record(row) } throws: { "\($0)".contains("\(table) 7") }
    }

    @Test("rows are in the file when commit returns, and all or none of them")
    func sqlite() throws {
        let folder = try TemporaryFolder()
        let path = folder.path("mds.sqlite")
        func row(_ number: UInt64, _ value: String) -> StoreRow {
            StoreRow(key: StoreRow.Key(table: "t", number: number), value: value)
        }
        var store = try SQLiteMetadataStore(path: path)
        #expect(try store.load() == [])
        try store.commit([.put(row(1, "a")), .put(row(.max, "b")), .put(row(3, "c"))])
        try store.commit([.put(row(1, "d")), .delete(row(3, "").key), .delete(row(9, "").key)])
        store.close()
        store = try SQLiteMetadataStore(path: path)
        #expect(try Set(store.load()) == [row(1, "d"), row(.max, "b")])
    }

    @Test("nobody but the owner reads the file and what SQLite keeps beside it, older files included")
    func isKeptToOwner() throws {
        let folder = try TemporaryFolder()
        for name in ["new.sqlite", "old.sqlite"] {
            let path = folder.path(name)
            if name == "old.sqlite" {
                #expect(
                    FileManager.default.createFile(
                        atPath: path, contents: nil, attributes: [.posixPermissions: 0o644]))
            }
            let store = try SQLiteMetadataStore(path: path)
            try store.commit([.put(StoreRow(key: StoreRow.Key(table: "t", number: 1), value: "x"))])
            for file in try FileManager.default.contentsOfDirectory(atPath: folder.url.path) {
                let attributes = try FileManager.default.attributesOfItem(atPath: folder.path(file))
                #expect(attributes[.posixPermissions] as? Int == 0o600, "\(file)")
            }
            store.close()
        }
    }

    @Test("a file in use is refused by name, and free again after close")
    func inUse() throws {
        let folder = try TemporaryFolder()
        let path = folder.path("mds.sqlite")
        let store = try SQLiteMetadataStore(path: path)
        #expect(throws: MetadataStoreError.inUse(path: path)) { try SQLiteMetadataStore(path: path) }
        try store.commit([.put(StoreRow(key: StoreRow.Key(table: "t", number: 1), value: "x"))])
        #expect(throws: MetadataStoreError.inUse(path: path)) { try SQLiteMetadataStore(path: path) }
        store.close()
        let next = try SQLiteMetadataStore(path: path)
        #expect(try next.load().count == 1)
        next.close()
    }

    @Test("a file of a newer release, a file that is none, and a place that is none are refused")
    func refusals() throws {
        let folder = try TemporaryFolder()
        let newer = folder.path("newer.sqlite")
        try DatabaseQueue(path: newer).write { try $0.execute(sql: "PRAGMA user_version = 7") }
        #expect(throws: MetadataStoreError.newerSchema(path: newer, found: 7, known: 1)) {
            try SQLiteMetadataStore(path: newer)
        }
        let text = folder.path("text.sqlite")
        try Data(repeating: 0x41, count: 9000).write(to: URL(fileURLWithPath: text))
        #expect { try SQLiteMetadataStore(path: text) } throws: { "\($0)".contains(text) }
        let nowhere = folder.path("no/such/folder/mds.sqlite")
        #expect { try SQLiteMetadataStore(path: nowhere) } throws: { "\($0)".contains("cannot be opened") }
    }

    @Test("a server on a file finds all again, and refuses a file with a damaged row")
    func serverOnFile() throws {
        let folder = try TemporaryFolder()
        let path = folder.path("mds.sqlite")
        let bench = try ServerBench(store: try SQLiteMetadataStore(path: path))
        try bench.makePool()
        _ = try bench.create("/v")
        _ = try bench.ask(.attachVolume(bench.attach("/v")))
        try bench.restart(
            on: try {
                bench.server.stop()
                return try SQLiteMetadataStore(path: path)
            }())
        #expect(try bench.volume("/v").epoch == 1)
        bench.server.stop()
        let store = try SQLiteMetadataStore(path: path)
        try store.commit([.delete(StoreRow.Key(table: "pool", number: 1))])
        #expect {
            try MetadataServer(environment: MemoryWorld().environment("mds"), store: store)
        } throws: {
            "\($0)".contains("damaged")
        }
    }
}
