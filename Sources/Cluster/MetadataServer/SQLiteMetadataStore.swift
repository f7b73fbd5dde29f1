import GRDB

#if canImport(FoundationEssentials)
    import FoundationEssentials
#else
    import Foundation
#endif

/// Rows in one SQLite file. The only place that knows GRDB.
///
/// Write-ahead log, synced at each commit (`synchronous = FULL`). The file stays locked as long as it is open
/// (`locking_mode = EXCLUSIVE`), so a second metadata server on it is refused instead of deciding beside us.
public final class SQLiteMetadataStore: MetadataStore {
    private let path: String
    private let queue: DatabaseQueue

    /// What each version of the file has more than the one before; the file's `user_version` counts them.
    private static let migrations: [@Sendable (Database) throws -> Void] = [
        { db in
            try db.execute(
                sql: """
                    CREATE TABLE record (
                        kind TEXT NOT NULL, number INTEGER NOT NULL, value TEXT NOT NULL,
                        PRIMARY KEY (kind, number)
                    ) WITHOUT ROWID
                    """)
        }
    ]

    /// Opens the file, or makes it.
    public init(path: String) throws(MetadataStoreError) {
        self.path = path
        var configuration = Configuration()
        configuration.busyMode = .immediateError
        configuration.label = "metadata"
        configuration.prepareDatabase { db in
            try db.execute(sql: "PRAGMA locking_mode = EXCLUSIVE")
            try db.execute(sql: "PRAGMA journal_mode = WAL")
            try db.execute(sql: "PRAGMA synchronous = FULL")
        }
        Self.keepToOwner(path)
        let found: Int
        do {
            queue = try DatabaseQueue(path: path, configuration: configuration)
            found = try queue.writeWithoutTransaction { db in
                var found = 0
                try db.inTransaction(.immediate) {
                    found = try Int.fetchOne(db, sql: "PRAGMA user_version") ?? 0
                    for version in Self.migrations.indices.dropFirst(max(0, found)) {
                        try Self.migrations[version](db)
                        try db.execute(sql: "PRAGMA user_version = \(version + 1)")
                    }
                    return .commit
                }
                return found
            }
        } catch {
            throw Self.refusal(error, path)
        }
        guard found <= Self.migrations.count else {
            close()
            throw .newerSchema(path: path, found: found, known: Self.migrations.count)
        }
    }

    /// Values may hold secrets of iSCSI users: nobody but the owner reads the file, its log or its index,
    /// also where an older release left it open to others. SQLite gives those two the file's own mode. What
    /// cannot be done here (a read-only file system, another owner) the opening that follows will tell.
    private static func keepToOwner(_ path: String) {
        let files = FileManager.default
        if !files.fileExists(atPath: path) {
            _ = files.createFile(atPath: path, contents: nil, attributes: [.posixPermissions: 0o600])
        }
        for name in [path, path + "-wal", path + "-shm"] where files.fileExists(atPath: name) {
            try? files.setAttributes([.posixPermissions: 0o600], ofItemAtPath: name)
        }
    }

    /// Every row, in order.
    public func load() throws(MetadataStoreError) -> [StoreRow] {
        do {
            return try queue.read { db in
                var rows: [StoreRow] = []
                let cursor = try Row.fetchCursor(db, sql: "SELECT kind, number, value FROM record")
                while let row = try cursor.next() {
                    let (table, number, value): (String, Int64, String) = (row[0], row[1], row[2])
                    let key = StoreRow.Key(table: table, number: UInt64(bitPattern: number))
                    rows.append(StoreRow(key: key, value: value))
                }
                return rows
            }
        } catch {
            throw Self.refusal(error, path)
        }
    }

    /// Makes all changes in one transaction.
    public func commit(_ changes: [StoreChange]) throws(MetadataStoreError) {
        do {
            try queue.write { db in
                let put = try db.cachedStatement(
                    sql: "INSERT OR REPLACE INTO record (kind, number, value) VALUES (?, ?, ?)")
                let delete = try db.cachedStatement(sql: "DELETE FROM record WHERE kind = ? AND number = ?")
                for change in changes {
                    switch change {
                    case .put(let row):
                        let number = Int64(bitPattern: row.key.number)
                        try put.execute(arguments: [row.key.table, number, row.value])
                    case .delete(let key):
                        try delete.execute(arguments: [key.table, Int64(bitPattern: key.number)])
                    }
                }
            }
        } catch {
            throw Self.refusal(error, path)
        }
    }

    /// Closes the file and gives up its lock.
    public func close() { try? queue.close() }

    private static func refusal(_ error: any Error, _ path: String) -> MetadataStoreError {
        guard let error = error as? DatabaseError else { return .failed("\(path): \(error)") }
        switch error.resultCode {
        case .SQLITE_BUSY, .SQLITE_LOCKED: return .inUse(path: path)
        case .SQLITE_NOTADB, .SQLITE_CORRUPT:
            return .damagedRow("\(path): \(error.message ?? "not a metadata store")")
        case .SQLITE_CANTOPEN:
            return .failed("\(path) cannot be opened; make its directory, and let this user write there")
        case .SQLITE_FULL: return .failed("\(path): the file system is full; make room there")
        case .SQLITE_READONLY: return .failed("\(path) cannot be written; let this user write it")
        default: return .failed("\(path): \(error.message ?? "SQLite error") (\(error.extendedResultCode))")
        }
    }
}
