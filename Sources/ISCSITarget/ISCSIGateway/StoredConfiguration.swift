import CurveClient
import ISCSIConfiguration

#if canImport(FoundationEssentials)
    import FoundationEssentials
#else
    import Foundation
#endif

/// The configuration as it stands in the cluster's value, and what else does.
public enum StoredConfiguration {
    /// The value's name.
    public static let valueName = "iscsi"
    /// Of the text; goes up when a field changes its meaning.
    public static let version = 1

    private struct Versioned: Codable {
        var version: Int
        var configuration: ISCSIConfiguration
    }

    /// The text of a value.
    public static func encode(_ configuration: ISCSIConfiguration) throws(ConfigurationError) -> [UInt8] {
        try json(Versioned(version: version, configuration: configuration.inOrder))
    }
    /// What a value says; no bytes: nothing is configured.
    public static func decode(_ bytes: [UInt8]) throws(ConfigurationError) -> ISCSIConfiguration {
        guard !bytes.isEmpty else { return ISCSIConfiguration() }
        let found: Versioned = try value(bytes, "the configuration")
        guard found.version == version else {
            throw ConfigurationError(
                "the configuration in the cluster has version \(found.version), this program knows \(version); "
                    + "use the newer program")
        }
        try found.configuration.check()
        return found.configuration
    }
    /// Any value as text, keys sorted.
    public static func json(_ value: some Encodable) throws(ConfigurationError) -> [UInt8] {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        do { return Array(try encoder.encode(value)) } catch {
            throw ConfigurationError("the value cannot be written: \(error)")
        }
    }
    /// What a text says, or nothing if it makes no sense.
    public static func value<Value: Decodable>(
        _ bytes: [UInt8], _ what: String
    ) throws(ConfigurationError) -> Value {
        do { return try JSONDecoder().decode(Value.self, from: Data(bytes)) } catch {
            // The text may hold secrets, and the error parts of it.
            throw ConfigurationError(
                "\(what) in the cluster cannot be read: it was written by something else, or is damaged")
        }
    }
}
