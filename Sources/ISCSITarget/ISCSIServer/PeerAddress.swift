import BlockTypes

/// The address in what a connection says of its peer.
enum PeerAddress {
    /// - Returns: 4 bytes, or 16; none for peers without an IP address.
    static func bytes(of host: String) -> [UInt8] {
        var text = Substring(host)
        if text.hasPrefix("["), text.hasSuffix("]") { text = text.dropFirst().dropLast() }
        // A link-local address has its interface behind it.
        if let zone = text.firstIndex(of: "%") { text = text[..<zone] }
        guard let bytes = IPAddressText.bytes(of: text) else { return [] }
        // Who reaches an IPv6 socket by IPv4 is judged by the rules for IPv4.
        return IPAddressText.isMapped(bytes) ? Array(bytes.suffix(4)) : bytes
    }
    /// Stands for every interface: nothing that an initiator could connect to.
    static func isWildcard(_ host: String) -> Bool {
        let address = bytes(of: host)
        return !address.isEmpty && address.allSatisfy { $0 == 0 }
    }
}
