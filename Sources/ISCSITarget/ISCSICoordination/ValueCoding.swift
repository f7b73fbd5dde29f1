import BlockTypes
import SCSICommands

/// Bytes in a value that are not what belongs there.
public struct ValueError: Error, Hashable, CustomStringConvertible {
    /// What is wrong with them.
    public let description: String
    init(_ description: String) { self.description = description }
}

extension [UInt8] {
    /// Appends a text behind its length.
    mutating func put(_ text: String) {
        append(bigEndian: UInt16(clamping: text.utf8.count))
        self += text.utf8.prefix(Int(UInt16.max))
    }
}

/// Reads what was written so; never traps on foreign bytes.
struct ValueReader {
    private let bytes: [UInt8]
    private var position = 0
    init(_ bytes: [UInt8]) { self.bytes = bytes }

    var rest: [UInt8] { Array(bytes[position...]) }
    var isAtEnd: Bool { position == bytes.count }

    mutating func next<T: FixedWidthInteger & UnsignedInteger>(_: T.Type) throws(ValueError) -> T {
        var number: T = 0
        for byte in try take(T.bitWidth / 8) { number = number << 8 | T(byte) }
        return number
    }
    mutating func text() throws(ValueError) -> String {
        let count = Int(try next(UInt16.self))
        guard let text = String(validating: try take(count), as: UTF8.self) else {
            throw ValueError("a text that is none")
        }
        return text
    }
    private mutating func take(_ count: Int) throws(ValueError) -> ArraySlice<UInt8> {
        guard bytes.count - position >= count else { throw ValueError("too short") }
        defer { position += count }
        return bytes[position..<(position + count)]
    }
}

/// What the value `reservations` of a unit's volume holds.
struct ReservationRecord: Hashable {
    private static let format: UInt8 = 1
    /// Since when there have been gateways without a pause: ``GatewayList/power`` when it was written.
    var power: UInt64
    /// Who wrote it, and its how manieth it is: no two records are equal.
    var author: UInt32
    var number: UInt64
    var table: ReservationTable

    init(power: UInt64, author: UInt32, number: UInt64, table: ReservationTable) {
        (self.power, self.author, self.number, self.table) = (power, author, number, table)
    }
    var encoded: [UInt8] {
        var bytes: [UInt8] = [Self.format]
        bytes.append(bigEndian: power)
        bytes.append(bigEndian: author)
        bytes.append(bigEndian: number)
        return bytes + table.encoded
    }
    /// The record in version `version` of the value.
    init(decoding bytes: [UInt8], version: UInt64) throws(ValueError) {
        var reader = ValueReader(bytes)
        guard try reader.next(UInt8.self) == Self.format else { throw ValueError("unknown format") }
        power = try reader.next(UInt64.self)
        author = try reader.next(UInt32.self)
        number = try reader.next(UInt64.self)
        do throws(ReservationTable.DecodeError) {
            table = try ReservationTable(decoding: reader.rest)
        } catch { throw ValueError(error.reason) }
        guard table.version == version else {
            throw ValueError("a table of version \(table.version) in version \(version)")
        }
    }
}

/// What the value `seen` of a unit's volume holds: the newest reservations that each gateway goes by, and how
/// far its sanitize operation is.
struct SeenVersions: Hashable {
    /// One gateway's word.
    struct Note: Hashable {
        /// It goes by this version.
        var told: UInt64 = 0
        /// Nothing is left there of what this version ended.
        var settled: UInt64 = 0
        /// How far it is with sanitizing, in 65,536ths.
        var sanitized: UInt16 = 0
    }
    private static let format: UInt8 = 3
    /// Where nobody sanitizes: gateways of before `sanitized` read this.
    private static let plainFormat: UInt8 = 2
    /// By session, ascending.
    private(set) var entries: [(session: UInt32, note: Note)] = []

    static func == (left: Self, right: Self) -> Bool { left.encoded == right.encoded }
    func hash(into hasher: inout Hasher) { hasher.combine(encoded) }

    init() {}
    subscript(session: UInt32) -> Note { entries.first { $0.session == session }?.note ?? Note() }
    /// Takes the word of `session`, and forgets all who are not in `present`.
    mutating func note(_ session: UInt32, _ note: Note, present: [UInt32]) {
        entries.removeAll { $0.session == session || !present.contains($0.session) }
        entries.append((session, note))
        entries.sort { $0.session < $1.session }
    }
    /// Somebody is in the middle of it.
    var isSanitizing: Bool { entries.contains { $0.note.sanitized > 0 } }
    var encoded: [UInt8] {
        var bytes: [UInt8] = [isSanitizing ? Self.format : Self.plainFormat]
        bytes.append(bigEndian: UInt16(clamping: entries.count))
        for entry in entries {
            bytes.append(bigEndian: entry.session)
            bytes.append(bigEndian: entry.note.told)
            bytes.append(bigEndian: entry.note.settled)
            if isSanitizing { bytes.append(bigEndian: entry.note.sanitized) }
        }
        return bytes
    }
    init(decoding bytes: [UInt8]) throws(ValueError) {
        guard !bytes.isEmpty else { return }
        var reader = ValueReader(bytes)
        let format = try reader.next(UInt8.self)
        guard format == Self.format || format == Self.plainFormat else { throw ValueError("unknown format") }
        for _ in 0..<(try reader.next(UInt16.self)) {
            let session = try reader.next(UInt32.self)
            var note = Note(told: try reader.next(UInt64.self), settled: try reader.next(UInt64.self))
            if format == Self.format { note.sanitized = try reader.next(UInt16.self) }
            entries.append((session, note))
        }
        guard reader.isAtEnd else { throw ValueError("bytes behind the end") }
    }
}
