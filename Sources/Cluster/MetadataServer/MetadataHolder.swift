import Environment

/// Which process holds the metadata database: what it writes into the lock, for the others to read.
public struct MetadataHolder: Hashable, Sendable, CustomStringConvertible {
    /// Its name, for people: usually its machine's.
    public var name: String
    /// Its number on that machine.
    public var processID: Int32
    /// Where it serves; `nil` when that helps nobody else.
    public var address: SocketAddress?

    /// Such a process.
    public init(name: String, processID: Int32, address: SocketAddress?) {
        (self.name, self.processID, self.address) = (name, processID, address)
    }

    /// Longest name that is kept.
    static let nameCharactersMax = 100

    /// Three lines that people can read, too.
    var note: String {
        let name = String(self.name.filter { !$0.isNewline }.prefix(Self.nameCharactersMax))
        return "name \(name)\npid \(processID)\naddress \(address?.description ?? "-")\n"
    }
    /// Reads ``note``.
    /// - Returns: `nil` when it is none: the holder may be about to write it.
    init?(note: String) {
        let lines = note.split(separator: "\n")
        guard lines.count >= 3, lines[0].hasPrefix("name "), lines[1].hasPrefix("pid "),
            lines[2].hasPrefix("address "), let number = Int32(lines[1].dropFirst(4))
        else { return nil }
        self.init(
            name: String(lines[0].dropFirst(5)), processID: number,
            address: SocketAddress(String(lines[2].dropFirst(8))))
    }
    /// `host7, pid 12, at 10.0.0.5:6700`.
    public var description: String {
        "\(name), pid \(processID)" + (address.map { ", at \($0)" } ?? "")
    }
}
