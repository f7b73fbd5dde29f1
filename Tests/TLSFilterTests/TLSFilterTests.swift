import BlockTypes
import Environment
import Glibc
import MemoryEnvironment
import TLSFilter
import Testing

/// Made for these tests alone; good for a hundred years.
private let certificate = """
    -----BEGIN CERTIFICATE-----
    MIIBozCCAUqgAwIBAgIUELS/CMSB4DFXcZX5N0IPzqWJiYIwCgYIKoZIzj0EAwIw
    FTETMBEGA1UEAwwKY3VydmUgdGVzdDAgFw0yNjExMjExOTA1MDFaGA8yMTI2MTAy
    ODE5MDUwMVowFTETMBEGA1UEAwwKY3VydmUgdGVzdDBZMBMGByqGSM49AgEGCCqG
    SM49AwEHA0IABDqVQS7H531M3aVWDbrwBbpcJ5TcwFREavOHR3CWD+iPax8o/8RK
    K8S37jz8lxEOgkVo97QSALMzWHk31qJwcfijdjB0MB0GA1UdDgQWBBSaiQgNiKOJ
    uCyujxOPY6J8Nw/EXTAfBgNVHSMEGDAWgBSaiQgNiKOJuCyujxOPY6J8Nw/EXTAP
    BgNVHRMBAf8EBTADAQH/MCEGA1UdEQQaMBiCDGdhdGV3YXkudGVzdIEIYUBiLnRl
    c3QwCgYIKoZIzj0EAwIDRwAwRAIgJADmfbeuXj7skCjOKq78QaZ3rT1rWFG/njA+
    6W7bj6gCICmPfk63NFiHrNf4DrAQJ9GhADFArTdhxjX3REEsyRCq
    -----END CERTIFICATE-----

    """
private let key = """
    -----BEGIN PRIVATE KEY-----
    MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgoawPombjy8MFDXpj
    07i72gy1c4QYAF/B/Yn0F0CgzzuhRANCAAQ6lUEux+d9TN2lVg268AW6XCeU3MBU
    RGrzh0dwlg/oj2sfKP/ESivEt+48/JcRDoJFaPe0EgCzM1h5N9aicHH4
    -----END PRIVATE KEY-----

    """

private func withFolder(_ files: [String: String], _ body: (String) throws -> Void) throws {
    let root = getenv("TMPDIR").map { String(cString: $0) } ?? "/tmp"
    var template = Array("\(root)/curve-tls-XXXXXX".utf8CString)
    try #require(mkdtemp(&template) != nil)
    let folder = String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
    for (name, text) in files {
        let file = try #require(fopen("\(folder)/\(name)", "w"))
        fputs(text, file)
        fclose(file)
    }
    defer {
        for name in files.keys { unlink("\(folder)/\(name)") }
        rmdir(folder)
    }
    try body(folder)
}
private func withContext(_ body: (TLSContext) throws -> Void) throws {
    try withFolder(["server-cert.pem": certificate, "server-key.pem": key]) { folder in
        try body(try TLSContext(TLSSettings(certificatesPath: folder)))
    }
}
/// Carries what each side wants to say to the other, cut into pieces.
private func exchange(_ a: TLSEngine, _ b: TLSEngine, pieceBytes: Int = 1 << 20) {
    for _ in 0..<20 {
        var hasSaid = false
        for (from, to) in [(a, b), (b, a)] {
            from.advance()
            let bytes = from.takeOutput()
            hasSaid = hasSaid || !bytes.isEmpty
            for start in stride(from: 0, to: bytes.count, by: pieceBytes) {
                bytes[start..<min(bytes.count, start + pieceBytes)].withUnsafeBytes { to.receive($0) }
                to.advance()
            }
        }
        if !hasSaid { return }
    }
}
private func read(_ engine: TLSEngine) -> [UInt8] {
    var all: [UInt8] = []
    var some = [UInt8](repeating: 0, count: 4096)
    while case let count = some.withUnsafeMutableBytes({ engine.read(into: $0) }), count > 0 {
        all += some.prefix(count)
    }
    return all
}

@Suite struct TLSFilterTests {
    @Test(
        "what one side says the other hears, however the encrypted bytes are cut",
        arguments: [1, 7, 1000, 1 << 20])
    func bothWays(pieceBytes: Int) throws {
        try withContext { context in
            let (server, client) = (try TLSEngine(server: context), try TLSEngine.trustingClient())
            exchange(client, server, pieceBytes: pieceBytes)
            #expect(server.state == .established && client.state == .established)
            #expect(server.description.hasPrefix("TLSv1.3") && server.peerNames.isEmpty)
            #expect(client.peerNames == ["curve test", "/CN=curve test", "gateway.test", "a@b.test"])
            let words = (0..<100_000).map { UInt8(truncatingIfNeeded: $0 &* 7) }
            words.withUnsafeBytes { client.write($0) }
            exchange(client, server, pieceBytes: pieceBytes)
            #expect(read(server) == words)
            [UInt8]([9]).withUnsafeBytes { server.write($0) }
            server.close()
            exchange(client, server, pieceBytes: pieceBytes)
            #expect(read(client) == [9] && client.state == .closed)
        }
    }
    @Test("noise instead of TLS, and bytes changed on the way, end the session for a reason")
    func noise() throws {
        try withContext { context in
            let server = try TLSEngine(server: context)
            Array("GET / HTTP/1.0\r\n\r\n".utf8).withUnsafeBytes { server.receive($0) }
            server.advance()
            guard case .failed = server.state else {
                Issue.record("\(server.state)")
                return
            }
            let (other, client) = (try TLSEngine(server: context), try TLSEngine.trustingClient())
            exchange(client, other)
            [UInt8]([1, 2, 3]).withUnsafeBytes { client.write($0) }
            var bytes = client.takeOutput()
            bytes[bytes.count - 1] ^= 1
            bytes.withUnsafeBytes { other.receive($0) }
            #expect(read(other).isEmpty)
            guard case .failed = other.state else {
                Issue.record("\(other.state)")
                return
            }
        }
    }
    @Test("files that are missing or wrong are named")
    func badFiles() throws {
        #expect(throws: TLSError.self) { try TLSContext(TLSSettings(certificatesPath: nil)) }
        let nowhere = #expect(throws: TLSError.self) {
            try TLSContext(TLSSettings(certificatesPath: "/nowhere"))
        }
        #expect(nowhere?.description.contains("/nowhere/server-cert.pem") == true)
        try withFolder([
            "server-cert.pem": certificate, "server-key.pem": key, "k": "a:12\nb:1\n", "e": "#\n",
        ]) {
            folder in
            let verifying = TLSSettings(certificatesPath: folder, verifiesClients: true)
            let authority = #expect(throws: TLSError.self) { try TLSContext(verifying) }
            #expect(authority?.description.contains("ca-cert.pem") == true)
            for (name, words) in [("k", "line 2"), ("e", "no keys"), ("x", "cannot read")] {
                let settings = TLSSettings(certificatesPath: nil, presharedKeysPath: "\(folder)/\(name)")
                let error = #expect(throws: TLSError.self) { try TLSContext(settings) }
                #expect(error?.description.contains(words) == true, "\(error as Any)")
            }
        }
    }
}
