import BlockTypes
import COpenSSL

/// One TLS session, the server's or a client's side, between two buffers: no socket, no clock.
///
/// Encrypted bytes go in by ``receive(_:)`` and come out by ``takeOutput()``; plain bytes by ``read(into:)``
/// and ``write(_:)``. Nothing is plain before ``state`` is established.
@safe public final class TLSEngine {
    /// Where the session stands: handshaking -> established -> closed, or failed at any time.
    public enum State: Hashable, Sendable {
        case handshaking
        case established
        /// The peer said that nothing more comes.
        case closed
        /// For this reason; the session is over.
        case failed(String)
    }
    // SAFETY: `session` is made in init and freed in deinit, and owns both buffers, which are used through it
    // alone. One thread.
    private let session: OpaquePointer
    private let incoming: OpaquePointer
    private let outgoing: OpaquePointer
    private let context: TLSContext?
    private let clientContext: OpaquePointer?
    /// Where it stands.
    public private(set) var state = State.handshaking

    /// The server's side.
    public convenience init(server context: TLSContext) throws(TLSError) {
        unsafe try self.init(context.context, owner: context, isServer: true)
    }
    /// A client that believes any server, for tests of servers.
    public static func trustingClient() throws(TLSError) -> TLSEngine {
        guard let context = unsafe SSL_CTX_new(TLS_client_method()) else {
            throw .library("the TLS library refuses to work")
        }
        return unsafe try TLSEngine(context, owner: nil, isServer: false)
    }
    private init(_ raw: OpaquePointer, owner: TLSContext?, isServer: Bool) throws(TLSError) {
        guard let session = unsafe SSL_new(raw), let incoming = unsafe BIO_new(BIO_s_mem()),
            let outgoing = unsafe BIO_new(BIO_s_mem())
        else { throw .library("the TLS library has no memory") }
        unsafe SSL_set_bio(session, incoming, outgoing)
        unsafe isServer ? SSL_set_accept_state(session) : SSL_set_connect_state(session)
        unsafe (self.session, self.incoming, self.outgoing) = (session, incoming, outgoing)
        unsafe (context, clientContext) = (owner, isServer ? nil : raw)
    }
    deinit {
        unsafe SSL_free(session)
        if let clientContext = unsafe clientContext { unsafe SSL_CTX_free(clientContext) }
    }

    private static let wantsMore: Int32 = 2, peerHasClosed: Int32 = 6
    private static let bytesPerCallMax = 1 << 30

    /// Takes encrypted bytes; ``advance()`` or ``read(into:)`` then look at them.
    public func receive(_ bytes: UnsafeRawBufferPointer) {
        var rest = unsafe bytes
        while rest.count > 0 {
            let count = Int32(min(rest.count, Self.bytesPerCallMax))
            // A memory buffer takes everything.
            let taken = unsafe BIO_write(incoming, rest.baseAddress, count)
            guard taken > 0 else { return fail("no memory") }
            unsafe rest = UnsafeRawBufferPointer(rebasing: rest[Int(taken)...])
        }
    }
    /// Goes on with the handshake.
    public func advance() {
        guard state == .handshaking else { return }
        ERR_clear_error()
        let result = unsafe SSL_do_handshake(session)
        if result == 1 { state = .established } else { note(result) }
    }
    /// The next plain bytes.
    /// - Returns: how many; 0 when more encrypted ones are needed, or ``state`` says that none will come.
    public func read(into memory: UnsafeMutableRawBufferPointer) -> Int {
        guard state == .established, memory.count > 0 else { return 0 }
        ERR_clear_error()
        let count = Int32(min(memory.count, Self.bytesPerCallMax))
        let result = unsafe SSL_read(session, memory.baseAddress, count)
        if result > 0 { return Int(result) }
        note(result)
        return 0
    }
    /// Encrypts bytes.
    public func write(_ bytes: UnsafeRawBufferPointer) {
        guard state == .established || state == .closed, bytes.count > 0 else { return }
        ERR_clear_error()
        invariant(bytes.count <= Self.bytesPerCallMax, "\(bytes.count) bytes in one write")
        let result = unsafe SSL_write(session, bytes.baseAddress, Int32(bytes.count))
        if result <= 0 { note(result) }
    }
    /// Says that nothing more will come from this side.
    public func close() {
        guard state == .established || state == .closed else { return }
        ERR_clear_error()
        unsafe SSL_shutdown(session)
    }
    /// Encrypted bytes that are to be sent.
    public func takeOutput() -> [UInt8] {
        let count = unsafe BIO_ctrl_pending(outgoing)
        guard count > 0 else { return [] }
        return unsafe [UInt8](unsafeUninitializedCapacity: count) { memory, initialized in
            let taken = unsafe BIO_read(outgoing, memory.baseAddress, Int32(count))
            initialized = max(0, Int(taken))
        }
    }
    /// The protocol and cipher in force, for the log.
    public var description: String {
        let version = unsafe SSL_get_version(session).map { unsafe String(cString: $0) } ?? "TLS"
        let cipher = unsafe SSL_CIPHER_get_name(SSL_get_current_cipher(session))
        return version + (unsafe cipher.map { unsafe " " + String(cString: $0) } ?? "")
    }

    private func note(_ result: Int32) {
        switch unsafe SSL_get_error(session, result) {
        case Self.wantsMore: break
        case Self.peerHasClosed: state = .closed
        default: fail(TLSError.library("TLS failed").description)
        }
    }
    private func fail(_ why: String) { state = .failed(why) }

    /// What the client is called: by the pre-shared key it has, or by its certificate's common name, subject
    /// and alternative names.
    public var peerNames: [String] {
        if let name = unsafe SSL_get_psk_identity(session) { return [unsafe String(cString: name)] }
        guard let certificate = unsafe SSL_get1_peer_certificate(session) else { return [] }
        defer { unsafe X509_free(certificate) }
        var names: [String] = []
        if let subject = unsafe X509_get_subject_name(certificate) {
            if let common = unsafe Self.commonName(subject) { names.append(common) }
            if let line = unsafe X509_NAME_oneline(subject, nil, 0) {
                names.append(unsafe String(cString: line))
                unsafe CRYPTO_free(line, nil, 0)
            }
        }
        return names + (unsafe Self.alternativeNames(certificate))
    }
    private static let commonNameBytesMax: Int32 = 256
    private static func commonName(_ subject: OpaquePointer) -> String? {
        var bytes = [CChar](repeating: 0, count: Int(commonNameBytesMax))
        let count = unsafe X509_NAME_get_text_by_NID(subject, NID_commonName, &bytes, commonNameBytesMax)
        guard count > 0 else { return nil }
        let name = bytes.prefix(Int(count)).map { UInt8(bitPattern: $0) }
        // A name with a NUL in it is a trick: it shows one name and means another.
        return name.contains(0) ? nil : String(validating: name, as: UTF8.self)
    }
    private static let alternativeNamesMax: Int32 = 64
    private static func alternativeNames(_ certificate: OpaquePointer) -> [String] {
        guard let raw = unsafe X509_get_ext_d2i(certificate, NID_subject_alt_name, nil, nil) else {
            return []
        }
        let list = OpaquePointer(raw)
        defer { unsafe GENERAL_NAMES_free(list) }
        var names: [String] = []
        for index in 0..<min(unsafe OPENSSL_sk_num(list), alternativeNamesMax) {
            guard let entry = unsafe OPENSSL_sk_value(list, index) else { continue }
            var type: Int32 = 0
            let value = unsafe GENERAL_NAME_get0_value(
                entry.assumingMemoryBound(to: GENERAL_NAME.self), &type)
            guard [GEN_DNS, GEN_EMAIL, GEN_URI].contains(type), let value = unsafe value else { continue }
            let text = unsafe value.assumingMemoryBound(to: ASN1_STRING.self)
            let bytes = unsafe UnsafeBufferPointer(
                start: ASN1_STRING_get0_data(text), count: Int(ASN1_STRING_length(text)))
            if unsafe !bytes.contains(0), let name = unsafe String(validating: bytes, as: UTF8.self) {
                names.append(name)
            }
        }
        return names
    }
}
