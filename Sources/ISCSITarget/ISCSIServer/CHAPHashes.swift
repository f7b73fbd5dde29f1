import BlockTypes
import COpenSSL
import ISCSIProtocol

extension CHAPDigests {
    /// The hash functions of OpenSSL, the strongest first; those that it refuses to compute are left out.
    /// - Parameter allowsMD5: for initiators that know nothing else.
    public static func openSSL(allowsMD5: Bool = false) -> CHAPDigests {
        let wanted: [CHAPAlgorithm] = [.sha3, .sha256, .sha1] + (allowsMD5 ? [.md5] : [])
        let usable = wanted.filter { OpenSSLDigest.digest($0, [])?.count == $0.digestBytes }
        return CHAPDigests(algorithms: usable) { algorithm, bytes in
            let digest = OpenSSLDigest.digest(algorithm, bytes)
            // An empty digest would be equal to an empty response.
            invariant(digest?.count == algorithm.digestBytes, "a hash function that worked before failed")
            return digest ?? []
        }
    }
}

enum OpenSSLDigest {
    /// The longest digest that the library makes (EVP_MAX_MD_SIZE).
    private static let bytesMax = 64

    static func digest(_ algorithm: CHAPAlgorithm, _ bytes: [UInt8]) -> [UInt8]? {
        guard let function = unsafe named(algorithm) else { return nil }
        var digest = [UInt8](repeating: 0, count: bytesMax)
        var count: UInt32 = 0
        let isDone = unsafe bytes.withUnsafeBytes {
            unsafe EVP_Digest($0.baseAddress, $0.count, &digest, &count, function, nil)
        }
        return isDone == 1 ? Array(digest.prefix(Int(count))) : nil
    }
    private static func named(_ algorithm: CHAPAlgorithm) -> OpaquePointer? {
        switch algorithm {
        case .md5: unsafe EVP_md5()
        case .sha1: unsafe EVP_sha1()
        case .sha256: unsafe EVP_sha256()
        case .sha3: unsafe EVP_sha3_256()
        }
    }
}
