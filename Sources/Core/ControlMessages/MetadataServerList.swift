import Environment

/// Where the metadata servers of one cluster listen: at least one, each once, a few.
///
/// One of them leads, the others stand by. Who has a question tries one after the other.
public struct MetadataServerList: Hashable, Sendable, CustomStringConvertible {
    /// Two or three are useful. Somebody who looks for the one that leads may have to try them all.
    public static let countMax = 8
    /// In the order in which they are tried first.
    public let addresses: [SocketAddress]

    /// These.
    public init(_ addresses: [SocketAddress]) throws(MetadataServerListError) {
        guard !addresses.isEmpty else { throw .empty }
        guard addresses.count <= Self.countMax else { throw .tooMany(addresses.count) }
        for (index, address) in addresses.enumerated() where addresses[..<index].contains(address) {
            throw .duplicate(address)
        }
        self.addresses = addresses
    }
    /// Each as `HOST:PORT` or `unix:PATH`.
    public init(texts: [String]) throws(MetadataServerListError) {
        var addresses: [SocketAddress] = []
        for text in texts {
            guard let address = SocketAddress(text) else { throw .notAnAddress(text) }
            addresses.append(address)
        }
        try self.init(addresses)
    }
    /// Reads what ``description`` writes: `10.0.0.5:6700,10.0.0.6:6700`.
    public init(_ text: String) throws(MetadataServerListError) {
        guard !text.isEmpty else { throw .empty }
        let parts = text.split(separator: ",", omittingEmptySubsequences: false)
        try self.init(texts: parts.map { String($0.drop { $0 == " " }) })
    }
    /// The addresses with commas between.
    public var description: String { addresses.map(\.description).joined(separator: ",") }
}

/// What is wrong with a list of metadata servers.
public enum MetadataServerListError: Error, Hashable, Sendable, CustomStringConvertible {
    /// It names none.
    case empty
    /// It names more than ``MetadataServerList/countMax``.
    case tooMany(Int)
    /// It names one twice.
    case duplicate(SocketAddress)
    /// This is no address.
    case notAnAddress(String)

    /// What is wrong and what to do.
    public var description: String {
        switch self {
        case .empty: "no address of a metadata server was given; name one as HOST:PORT"
        case .tooMany(let count):
            "\(count) metadata servers are too many; name at most \(MetadataServerList.countMax)"
        case .duplicate(let address): "the metadata server \(address) is named twice; name each once"
        case .notAnAddress(let text):
            "'\(text)' is not an address of a metadata server; write HOST:PORT, several with commas between"
        }
    }
}
