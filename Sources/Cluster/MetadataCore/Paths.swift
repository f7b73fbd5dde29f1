import BlockTypes

/// Where a volume or a directory is: the names from the root down. Holding one proves that they are good
/// names.
struct MetadataPath: Hashable {
    /// Empty for the root.
    let names: [String]

    /// Names on the way from the root; with names of 255 bytes a path then has at most 4 KiB.
    static let depthMax = 16
    /// Bytes of one name.
    static let nameBytesMax = 255

    /// Reads "/a/b"; the first slash may be left out.
    init(_ text: String) throws(MetadataRefusal) {
        guard text.utf8.count <= Self.depthMax * (Self.nameBytesMax + 1) else {
            throw MetadataRefusal(.badRequest, "a path has at most \(Self.depthMax) names")
        }
        let rest = text.utf8.first == UInt8(ascii: "/") ? text.dropFirst() : text[...]
        guard !rest.isEmpty else {
            guard !text.isEmpty else { throw MetadataRefusal(.badRequest, "a path is missing; write /name") }
            names = []
            return
        }
        var names: [String] = []
        for part in rest.split(separator: "/", omittingEmptySubsequences: false) {
            let name = String(part)
            try Self.check(name: name, of: "the path \(Self.quoted(text))")
            names.append(name)
        }
        guard names.count <= Self.depthMax else {
            throw MetadataRefusal(
                .badRequest,
                "\(Self.quoted(text)) has \(names.count) names; a path has at most \(Self.depthMax)")
        }
        self.names = names
    }

    /// The last name.
    var last: String? { names.last }
    /// "/a/b".
    var text: String { "/" + names.joined(separator: "/") }

    /// Refuses what could confuse a person or a terminal.
    static func check(name: String, of what: String) throws(MetadataRefusal) {
        func refuse(_ why: String) -> MetadataRefusal { MetadataRefusal(.badRequest, "\(what) \(why)") }
        guard !name.isEmpty else { throw refuse("has an empty name in it") }
        guard name.utf8.count <= nameBytesMax else {
            throw refuse("has a name of \(name.utf8.count) bytes; a name has at most \(nameBytesMax)")
        }
        guard name != ".", name != ".." else { throw refuse("may not use . or .. as a name") }
        for scalar in name.unicodeScalars {
            guard scalar.value >= 0x20, !(0x7F...0x9F).contains(scalar.value) else {
                throw refuse("has a control character in it")
            }
            guard scalar != "/" else { throw refuse("has a name with a slash in it") }
        }
    }

    /// `text` fit for a message: short, and without control characters.
    static func quoted(_ text: String) -> String {
        var clean = ""
        for scalar in text.unicodeScalars.prefix(200) {
            let isControl = scalar.value < 0x20 || (0x7F...0x9F).contains(scalar.value)
            clean.unicodeScalars.append(isControl ? "?" : scalar)
        }
        return "\"\(clean)\(text.unicodeScalars.count > 200 ? "..." : "")\""
    }
}

/// Wall time as people read it.
func utcText(secondsSince1970 seconds: UInt64) -> String {
    func two(_ value: UInt64) -> String { value < 10 ? "0\(value)" : "\(value)" }
    // Days to civil date with the year starting in March, so that the leap day is the last of its year.
    let days = seconds / 86_400 + 719_468
    let (era, dayOfEra) = (days / 146_097, days % 146_097)
    let yearOfEra = (dayOfEra - dayOfEra / 1460 + dayOfEra / 36_524 - dayOfEra / 146_096) / 365
    let dayOfYear = dayOfEra - (365 * yearOfEra + yearOfEra / 4 - yearOfEra / 100)
    let shifted = (5 * dayOfYear + 2) / 153
    let (day, month) = (dayOfYear - (153 * shifted + 2) / 5 + 1, shifted < 10 ? shifted + 3 : shifted - 9)
    let year = yearOfEra + era * 400 + (month <= 2 ? 1 : 0)
    let inDay = seconds % 86_400
    return "\(year)-\(two(month))-\(two(day)) "
        + "\(two(inDay / 3600)):\(two(inDay / 60 % 60)):\(two(inDay % 60)) UTC"
}

/// "3", "3 and 7", "3, 7, 9 and 4 more": a list that stays a sentence.
func enumerated<Number: CustomStringConvertible>(_ numbers: [Number], showing shownMax: Int = 8) -> String {
    let shown = numbers.prefix(shownMax).map(\.description)
    if numbers.count > shownMax {
        return shown.joined(separator: ", ") + " and \(numbers.count - shownMax) more"
    }
    guard let last = shown.last, shown.count > 1 else { return shown.first ?? "none" }
    return shown.dropLast().joined(separator: ", ") + " and \(last)"
}
