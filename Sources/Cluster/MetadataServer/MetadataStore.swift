/// One row of the metadata store: which, and what it says.
public struct StoreRow: Hashable, Sendable {
    /// Names a row: its kind and its number there.
    public struct Key: Hashable, Sendable, Comparable, CustomStringConvertible {
        /// "volume", "server", ...
        public var table: String
        /// The number.
        public var number: UInt64
        /// Row `number` of `table`.
        public init(table: String, number: UInt64) { (self.table, self.number) = (table, number) }
        /// By table, then by number.
        public static func < (a: Key, b: Key) -> Bool { (a.table, a.number) < (b.table, b.number) }
        /// `table number`.
        public var description: String { "\(table) \(number)" }
    }
    /// Which row.
    public var key: Key
    /// What it says; the store does not look into it.
    public var value: String
    /// The row `key`.
    public init(key: Key, value: String) { (self.key, self.value) = (key, value) }
}

/// One line of a transaction.
public enum StoreChange: Hashable, Sendable {
    /// The row is from now on this.
    case put(StoreRow)
    /// There is no such row from now on.
    case delete(StoreRow.Key)
}

/// Why a metadata store refused.
public enum MetadataStoreError: Error, Hashable, Sendable, CustomStringConvertible {
    /// Another process has it open.
    case inUse(path: String)
    /// A newer release wrote it.
    case newerSchema(path: String, found: Int, known: Int)
    /// A row cannot be read.
    case damagedRow(String)
    /// Anything else, in the store's own words.
    case failed(String)

    /// What happened and what to do.
    public var description: String {
        switch self {
        case .inUse(let path):
            "\(path) is in use by another process; stop the other metadata server, or give this one a file"
                + " of its own"
        case .newerSchema(let path, let found, let known):
            "\(path) has format \(found), this release knows formats up to \(known); run the newer release"
        case .damagedRow(let what):
            "the metadata store is damaged: \(what); restore it from a backup"
        case .failed(let why): why
        }
    }
}

/// Keeps the metadata server's rows. Loop-confined; one process at a time.
///
/// Nothing else in the metadata server knows where the rows are.
public protocol MetadataStore: AnyObject {
    /// Every row, in any order.
    func load() throws(MetadataStoreError) -> [StoreRow]
    /// Makes all changes, or none. They are durable on return. After an error nobody knows which: load again.
    func commit(_ changes: [StoreChange]) throws(MetadataStoreError)
    /// Lets another process have it.
    func close()
}

/// Rows in memory, for tests and simulation: durable as long as the object lives.
public final class MemoryMetadataStore: MetadataStore {
    private var rows: [StoreRow.Key: String] = [:]
    /// Asked before each commit; an error fails it. `arrives`: whether the changes are kept all the same.
    public var fault: (() -> (error: MetadataStoreError, arrives: Bool)?)?

    /// A store without rows.
    public init() {}
    /// Every row, in order.
    public func load() throws(MetadataStoreError) -> [StoreRow] {
        rows.keys.sorted().map { StoreRow(key: $0, value: rows[$0] ?? "") }
    }
    /// Makes all changes.
    public func commit(_ changes: [StoreChange]) throws(MetadataStoreError) {
        let fault = fault?()
        if fault == nil || fault?.arrives == true {
            for change in changes {
                switch change {
                case .put(let row): rows[row.key] = row.value
                case .delete(let key): rows[key] = nil
                }
            }
        }
        if let fault { throw fault.error }
    }
    /// Does nothing: the next process is another object's owner.
    public func close() {}
}
