import BlockTypes
import CLinux
import Environment
import Glibc

/// How a line of the log looks: `2026-11-21T08:52:11.123Z warning curve-nbd: text`.
enum LogLine {
    /// Longer messages are cut: a line must not fill a disk or a terminal.
    static let messageBytesMax = 8 << 10

    static func text(level: LogLevel, program: String, message: String, wallNanoseconds: Int64) -> String {
        "\(timestamp(wallNanoseconds)) \(level) \(program): \(clean(message))"
    }
    /// Control characters would let a peer's bytes forge a line or drive a terminal.
    static func clean(_ message: String) -> String {
        var text = ""
        for scalar in message.unicodeScalars {
            guard text.utf8.count < messageBytesMax else { return text + "..." }
            if scalar.value < 32 || (127..<160).contains(scalar.value) {
                text += scalar == "\n" ? "\\n" : "\\u{\(String(scalar.value, radix: 16))}"
            } else {
                text.unicodeScalars.append(scalar)
            }
        }
        return text
    }
    static func timestamp(_ wallNanoseconds: Int64) -> String {
        let (seconds, rest) = (wallNanoseconds / 1_000_000_000, wallNanoseconds % 1_000_000_000)
        let (days, second) = (seconds / 86_400, seconds % 86_400)
        let (year, month, day) = date(daysSince1970: days)
        func padded(_ number: Int64, _ width: Int) -> String {
            let digits = String(number)
            return String(repeating: "0", count: max(0, width - digits.count)) + digits
        }
        let clock = [second / 3600, second / 60 % 60, second % 60].map { padded($0, 2) }
        return "\(padded(year, 4))-\(padded(month, 2))-\(padded(day, 2))T"
            + "\(clock[0]):\(clock[1]):\(clock[2]).\(padded(rest / 1_000_000, 3))Z"
    }
    /// The Gregorian date, counted in eras of 400 years of 146,097 days that start on 1 March.
    private static func date(daysSince1970: Int64) -> (year: Int64, month: Int64, day: Int64) {
        let days = daysSince1970 + 719_468
        let era = days / 146_097
        let dayOfEra = days % 146_097
        let yearOfEra = (dayOfEra - dayOfEra / 1460 + dayOfEra / 36_524 - dayOfEra / 146_096) / 365
        let dayOfYear = dayOfEra - (365 * yearOfEra + yearOfEra / 4 - yearOfEra / 100)
        let monthFromMarch = (5 * dayOfYear + 2) / 153
        let month = monthFromMarch < 10 ? monthFromMarch + 3 : monthFromMarch - 9
        return (
            yearOfEra + era * 400 + (month <= 2 ? 1 : 0), month,
            dayOfYear - (153 * monthFromMarch + 2) / 5 + 1
        )
    }
    /// Writes a line in one call, so that lines of several threads and processes do not mix.
    static func writeToStandardError(_ line: String) {
        let bytes = Array((line + "\n").utf8)
        // A log that cannot be written is no reason to stop serving.
        _ = unsafe bytes.withUnsafeBytes { unsafe write(2, $0.baseAddress, $0.count) }
    }
}
