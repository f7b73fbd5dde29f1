/// One line of `/etc/curve/curvetab`: a volume that this machine maps when it starts.
///
///     # active  volume         options                   mount point  mount options
///     +         /db/orders     io-timeout=5              /srv/orders  noatime
///     -         /db/archive    device=/dev/nbd7,ro
///
/// A line that begins with `+` counts, one with `-` is kept for people. `-` stands for "nothing" in any other
/// place.
public struct CurvetabEntry: Hashable, Sendable {
    /// The volume's path.
    public var volume: String
    /// As behind `map -o`; empty: none.
    public var options: String
    /// Where the device is mounted; `nil`: nowhere.
    public var mountPoint: String?
    /// As behind `mount -o`; empty: none.
    public var mountOptions: String

    /// Where the table is.
    public static let standardPath = "/etc/curve/curvetab"
    /// Longest table that is read.
    public static let entriesMax = 4096

    /// Reads a table.
    /// - Throws: ``CurvetabError`` for the first line that makes no sense: a machine that came up without one
    ///   of its disks would be worse than one that says why.
    public static func entries(in text: String) throws(CurvetabError) -> [CurvetabEntry] {
        var entries: [CurvetabEntry] = []
        for (index, line) in text.split(separator: "\n", omittingEmptySubsequences: false).enumerated() {
            let words = line.split { $0 == " " || $0 == "\t" || $0 == "\r" }.map(String.init)
            guard let first = words.first, !first.hasPrefix("#"), first != "-" else { continue }
            let number = index + 1
            guard first == "+" else {
                throw CurvetabError(line: number, what: "'\(first)' is neither + nor -")
            }
            guard (2...5).contains(words.count) else {
                throw CurvetabError(
                    line: number,
                    what: "\(words.count) words; write: + VOLUME [OPTIONS [MOUNT-POINT [OPTIONS]]]")
            }
            func word(_ position: Int) -> String? {
                words.count > position && words[position] != "-" ? words[position] : nil
            }
            guard let volume = word(1) else { throw CurvetabError(line: number, what: "no volume") }
            if let point = word(3), !point.hasPrefix("/") {
                throw CurvetabError(line: number, what: "the mount point '\(point)' does not begin with /")
            }
            guard entries.count < entriesMax else {
                throw CurvetabError(line: number, what: "more than \(entriesMax) volumes")
            }
            entries.append(
                CurvetabEntry(
                    volume: volume.hasPrefix("/") ? volume : "/" + volume, options: word(2) ?? "",
                    mountPoint: word(3), mountOptions: word(4) ?? ""))
        }
        return entries
    }
}

/// A line of a table that makes no sense.
public struct CurvetabError: Error, Hashable, Sendable, CustomStringConvertible {
    /// Which line, from 1 on.
    public let line: Int
    /// Why.
    public let what: String
    /// Where and why, in one line.
    public var description: String { "line \(line): \(what)" }
}
