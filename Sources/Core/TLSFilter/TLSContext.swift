import BlockTypes
import COpenSSL
import Glibc

/// Where a server's keys are, and whom it believes.
public struct TLSSettings: Hashable, Sendable {
    /// Folder with `server-cert.pem` (the chain), `server-key.pem` and, to check clients, `ca-cert.pem`.
    public var certificatesPath: String?
    /// Demand a certificate of each client, signed by `ca-cert.pem`.
    public var verifiesClients: Bool
    /// File of `name:hexadecimal-key` lines, as `psktool` writes them.
    public var presharedKeysPath: String?
    /// Keys in these places.
    public init(certificatesPath: String?, verifiesClients: Bool = false, presharedKeysPath: String? = nil) {
        (self.certificatesPath, self.verifiesClients) = (certificatesPath, verifiesClients)
        self.presharedKeysPath = presharedKeysPath
    }
    /// Lines of a file of keys; it is read into memory.
    static let presharedKeysMax = 100_000
}

/// Why TLS cannot be offered.
public struct TLSError: Error, Hashable, Sendable, CustomStringConvertible {
    /// What happened and what to do, in one line.
    public let description: String
    init(_ description: String) { self.description = description }
    /// With the oldest reason that the library noted.
    static func library(_ what: String) -> TLSError {
        let code = ERR_get_error()
        ERR_clear_error()
        guard code != 0, let words = unsafe ERR_reason_error_string(code) else { return TLSError(what) }
        return TLSError("\(what): \(unsafe String(cString: words))")
    }
}

/// A server's keys, read once; each connection takes a reference. A reload is another one of these.
@safe public final class TLSContext {
    // SAFETY: made in init, freed in deinit; used by the loop's thread alone, as the engines over it are.
    let context: OpaquePointer
    /// By name, for the library's callback, which finds this object by the context.
    let presharedKeys: [String: [UInt8]]

    /// Reads the keys.
    /// - Throws: ``TLSError`` that names the file.
    public init(_ settings: TLSSettings) throws(TLSError) {
        let keys = try settings.presharedKeysPath.map { path throws(TLSError) in try Self.readKeys(path) }
        guard settings.certificatesPath != nil || keys != nil else {
            throw TLSError("TLS needs certificates or pre-shared keys")
        }
        guard let context = unsafe SSL_CTX_new(TLS_server_method()) else {
            throw .library("the TLS library refuses to work")
        }
        do throws(TLSError) {
            unsafe try Self.setUp(context, settings, hasKeys: keys != nil)
        } catch {
            unsafe SSL_CTX_free(context)
            throw error
        }
        unsafe self.context = context
        presharedKeys = keys ?? [:]
        unsafe SSL_CTX_set_ex_data(context, 0, Unmanaged.passUnretained(self).toOpaque())
    }
    deinit { unsafe SSL_CTX_free(context) }

    // Numbers that the library's headers give only to C's preprocessor.
    private static let setMode: Int32 = 33, setMinVersion: Int32 = 123
    private static let setSessionCacheMode: Int32 = 44
    private static let releaseBuffers = 0x10
    private static let noRenegotiation: UInt64 = 1 << 30
    private static let noCompression: UInt64 = 1 << 17
    private static let noTickets: UInt64 = 1 << 14
    private static let tls12 = 0x0303
    private static let pemFile: Int32 = 1

    private static func setUp(
        _ context: OpaquePointer, _ settings: TLSSettings, hasKeys: Bool
    ) throws(TLSError) {
        unsafe SSL_CTX_ctrl(context, setMinVersion, tls12, nil)
        unsafe SSL_CTX_ctrl(context, setMode, releaseBuffers, nil)
        unsafe SSL_CTX_ctrl(context, setSessionCacheMode, 0, nil)
        unsafe SSL_CTX_set_options(context, noRenegotiation | noCompression | noTickets)
        unsafe SSL_CTX_set_num_tickets(context, 0)
        if hasKeys { unsafe SSL_CTX_set_psk_server_callback(context, findPresharedKey) }
        guard let folder = settings.certificatesPath else { return }
        let (chain, key) = (folder + "/server-cert.pem", folder + "/server-key.pem")
        guard unsafe SSL_CTX_use_certificate_chain_file(context, chain) == 1 else {
            throw .library("cannot use the certificate \(chain)")
        }
        guard unsafe SSL_CTX_use_PrivateKey_file(context, key, pemFile) == 1,
            unsafe SSL_CTX_check_private_key(context) == 1
        else { throw .library("cannot use the key \(key) for the certificate \(chain)") }
        guard settings.verifiesClients else { return }
        let authority = folder + "/ca-cert.pem"
        guard unsafe SSL_CTX_load_verify_file(context, authority) == 1 else {
            throw .library("cannot use the authority \(authority)")
        }
        unsafe SSL_CTX_set_verify(context, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, nil)
    }

    private static func readKeys(_ path: String) throws(TLSError) -> [String: [UInt8]] {
        guard let file = unsafe fopen(path, "r") else {
            throw TLSError("cannot read the keys in \(path): \(unsafe String(cString: strerror(errno)))")
        }
        defer { unsafe fclose(file) }
        var keys: [String: [UInt8]] = [:]
        var (line, capacity): (UnsafeMutablePointer<CChar>?, Int) = (nil, 0)
        defer { unsafe free(line) }
        var number = 0
        while case let length = unsafe getline(&line, &capacity, file), length >= 0, let start = unsafe line {
            number += 1
            let text = unsafe String(cString: start).split(whereSeparator: \.isWhitespace).first ?? ""
            guard !text.isEmpty, !text.hasPrefix("#") else { continue }
            guard let colon = text.lastIndex(of: ":"), colon > text.startIndex,
                let key = bytes(ofHex: text[text.index(after: colon)...]), !key.isEmpty,
                keys.count < TLSSettings.presharedKeysMax
            else { throw TLSError("\(path), line \(number): write NAME:KEY, the key in hexadecimal digits") }
            keys[String(text[..<colon])] = key
        }
        guard !keys.isEmpty else { throw TLSError("\(path) holds no keys; psktool makes some") }
        return keys
    }
    private static func bytes(ofHex text: Substring) -> [UInt8]? {
        let digits = text.utf8.map { UInt8(String(UnicodeScalar($0)), radix: 16) }
        guard digits.count % 2 == 0, digits.count <= 128 else { return nil }
        var bytes: [UInt8] = []
        for index in stride(from: 0, to: digits.count, by: 2) {
            guard let high = digits[index], let low = digits[index + 1] else { return nil }
            bytes.append(high << 4 | low)
        }
        return bytes
    }
}

/// The library asks for a client's key by name. 0: there is none, and the handshake fails.
private func findPresharedKey(
    _ session: OpaquePointer?, _ name: UnsafePointer<CChar>?, _ key: UnsafeMutablePointer<UInt8>?,
    _ keyBytesMax: UInt32
) -> UInt32 {
    // SAFETY: the context outlives its sessions, and this object its context (`TLSEngine` holds it).
    guard let session = unsafe session, let name = unsafe name, let key = unsafe key,
        let raw = unsafe SSL_CTX_get_ex_data(SSL_get_SSL_CTX(session), 0)
    else { return 0 }
    let context = unsafe Unmanaged<TLSContext>.fromOpaque(raw).takeUnretainedValue()
    guard let found = unsafe context.presharedKeys[String(cString: name)], found.count <= Int(keyBytesMax)
    else { return 0 }
    for (index, byte) in found.enumerated() { unsafe key[index] = byte }
    return UInt32(found.count)
}
