import ArgumentParser
import Environment
import Foundation
import NBDServer
import TLSFilter
import ToolSupport

/// How a gateway's clients encrypt.
struct TLSOptions: ParsableArguments {
    enum Mode: String, ExpressibleByArgument, CaseIterable { case off, on, require }
    @Option(
        help: "off, on (clients may encrypt) or require (they must). Default: require, once there are keys.")
    var tls: Mode?
    @Option(help: "Folder with server-cert.pem, server-key.pem and, for --tls-verify-peer, ca-cert.pem.")
    var tlsCertificates: String?
    @Option(help: "File of pre-shared keys, NAME:HEX a line, as psktool writes them.") var tlsPsk: String?
    @Flag(help: "Demand a certificate of each client, signed by ca-cert.pem.") var tlsVerifyPeer = false
    @Option(
        help: """
            Serve only clients of this name: of their certificate (common name, subject, alternative names), \
            which must be signed by ca-cert.pem, or of their pre-shared key. '*' stands for any characters. \
            May be given several times.
            """)
    var tlsAuthz: [String] = []

    /// - Returns: `nil` when clients do not encrypt.
    func keys() throws -> GatewayKeys? {
        let hasKeys = tlsCertificates != nil || tlsPsk != nil
        let mode = tls ?? (hasKeys ? .require : .off)
        guard mode != .off else {
            guard !tlsVerifyPeer, tlsAuthz.isEmpty else {
                throw ToolError.failed(
                    "--tls-verify-peer and --tls-authz need --tls-certificates or --tls-psk")
            }
            return nil
        }
        guard hasKeys else {
            throw ToolError.failed("--tls \(mode.rawValue) needs --tls-certificates DIR or --tls-psk FILE")
        }
        guard mode == .require || !tlsVerifyPeer && tlsAuthz.isEmpty else {
            throw ToolError.failed("--tls on lets clients in without a name; use --tls require")
        }
        let verifies = tlsCertificates != nil && (tlsVerifyPeer || !tlsAuthz.isEmpty && tlsPsk == nil)
        let settings = TLSSettings(
            certificatesPath: tlsCertificates, verifiesClients: verifies, presharedKeysPath: tlsPsk)
        do {
            return GatewayKeys(settings, try TLSContext(settings), isRequired: mode == .require, tlsAuthz)
        } catch { throw ToolError.failed("\(error)") }
    }
}

/// A gateway's keys, which may be replaced while clients are served: those keep what they have.
final class GatewayKeys {
    private let settings: TLSSettings
    private var context: TLSContext
    private let isRequired: Bool
    private let patterns: [String]
    weak var environment: (any Environment)?

    init(_ settings: TLSSettings, _ context: TLSContext, isRequired: Bool, _ patterns: [String]) {
        (self.settings, self.context) = (settings, context)
        (self.isRequired, self.patterns) = (isRequired, patterns)
    }
    /// Reads the files again; when that fails, the keys stay as they are.
    func reload() {
        do {
            context = try TLSContext(settings)
            environment?.log(.notice, "the keys were read again; clients that connect from now on use them")
        } catch { environment?.log(.error, "the keys stay as they are: \(error)") }
    }
    var server: NBDServerTLS {
        NBDServerTLS(isRequired: isRequired) { [patterns] names in
            patterns.isEmpty || names.contains { name in patterns.contains { Glob.matches($0, name) } }
        } secure: { [self] link, secured in
            guard let environment, let engine = try? TLSEngine(server: context) else { return nil }
            return TLSConnection(link, engine, environment: environment, secured: secured)
        }
    }
}

/// Names with stars in them.
enum Glob {
    static func matches(_ pattern: String, _ name: String) -> Bool {
        let parts = pattern.split(separator: "*", omittingEmptySubsequences: false)
        guard parts.count > 1, let first = parts.first, let last = parts.last else { return pattern == name }
        guard name.hasPrefix(first), name.hasSuffix(last),
            name.utf8.count >= first.utf8.count + last.utf8.count
        else { return false }
        var rest = name.dropFirst(first.count).dropLast(last.count)
        for part in parts.dropFirst().dropLast() where !part.isEmpty {
            guard let found = rest.range(of: part) else { return false }
            rest = rest[found.upperBound...]
        }
        return true
    }
}
