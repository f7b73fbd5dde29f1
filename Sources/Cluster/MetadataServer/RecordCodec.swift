import BlockTypes
import MetadataCore

#if canImport(FoundationEssentials)
    import FoundationEssentials
#else
    import Foundation
#endif

/// Rows as text: one JSON object each, so that a person with `sqlite3` can read and mend them.
///
/// `{"row": {...}, "version": 1}`; the version is of that kind of row and goes up when a field changes its
/// meaning.
enum RecordCodec {
    private struct Versioned<Row: Codable>: Codable {
        var version: Int
        var row: Row
    }
    /// Newest version of any kind of row.
    static let versionMax = 1

    private enum Table: String {
        case cluster, server, pool, copyset, directory, volume, task, value
    }

    /// The line of a transaction that `change` stands for.
    static func storeChange(_ change: RecordChange) throws(MetadataStoreError) -> StoreChange {
        switch change {
        case .put(let record): .put(try storeRow(record))
        case .delete(.directory(let id)): .delete(key(.directory, id.rawValue))
        case .delete(.volume(let id)): .delete(key(.volume, id.rawValue))
        case .delete(.task(let id)): .delete(key(.task, id.rawValue))
        case .delete(.value(let id, let slot)): .delete(key(.value, id.rawValue << 8 | UInt64(slot)))
        }
    }

    /// The row that says what `record` says.
    static func storeRow(_ record: Record) throws(MetadataStoreError) -> StoreRow {
        switch record {
        case .cluster(let row): try encode(row, .cluster, 0)
        case .server(let row): try encode(row, .server, row.id.rawValue)
        case .pool(let row): try encode(row, .pool, UInt64(row.id.rawValue))
        case .copyset(let row): try encode(row, .copyset, UInt64(row.id.rawValue))
        case .directory(let row): try encode(row, .directory, row.id.rawValue)
        case .volume(let row): try encode(row, .volume, row.id.rawValue)
        case .task(let row): try encode(row, .task, row.id.rawValue)
        case .value(let row): try encode(row, .value, row.number)
        }
    }

    /// What `row` says.
    static func record(_ row: StoreRow) throws(MetadataStoreError) -> Record {
        guard let table = Table(rawValue: row.key.table) else {
            throw .damagedRow("nobody knows rows like \(row.key)")
        }
        let record: Record =
            switch table {
            case .cluster: .cluster(try decode(row))
            case .server: .server(try decode(row))
            case .pool: .pool(try decode(row))
            case .copyset: .copyset(try decode(row))
            case .directory: .directory(try decode(row))
            case .volume: .volume(try decode(row))
            case .task: .task(try decode(row))
            case .value: .value(try decode(row))
            }
        guard number(of: record) == row.key.number else {
            throw .damagedRow("\(row.key) says it is number \(number(of: record))")
        }
        return record
    }

    private static func number(of record: Record) -> UInt64 {
        switch record {
        case .cluster: 0
        case .server(let row): row.id.rawValue
        case .pool(let row): UInt64(row.id.rawValue)
        case .copyset(let row): UInt64(row.id.rawValue)
        case .directory(let row): row.id.rawValue
        case .volume(let row): row.id.rawValue
        case .task(let row): row.id.rawValue
        case .value(let row): row.number
        }
    }
    private static func key(_ table: Table, _ number: UInt64) -> StoreRow.Key {
        StoreRow.Key(table: table.rawValue, number: number)
    }
    private static func encode<Row: Codable>(
        _ row: Row, _ table: Table, _ number: UInt64
    ) throws(MetadataStoreError) -> StoreRow {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        let key = key(table, number)
        do {
            let bytes = try encoder.encode(Versioned(version: 1, row: row))
            return StoreRow(key: key, value: String(decoding: bytes, as: UTF8.self))
        } catch {
            throw .failed("\(key) cannot be written: \(error)")
        }
    }
    private static func decode<Row: Codable>(_ row: StoreRow) throws(MetadataStoreError) -> Row {
        do {
            let found = try JSONDecoder().decode(Versioned<Row>.self, from: Data(row.value.utf8))
            guard (1...versionMax).contains(found.version) else {
                throw MetadataStoreError.failed(
                    "\(row.key) has version \(found.version), this release knows up to \(versionMax); run the"
                        + " newer release")
            }
            return found.row
        } catch let error as MetadataStoreError {
            throw error
        } catch {
            throw .damagedRow("\(row.key) cannot be read: \(error)")
        }
    }
}
