import ISCSIProtocol
import Fuzzing

/// iSCSI without SCSI; what the package manager's `main` stands for.
@c(curve_fuzz_iscsi_main) public func fuzzMain(_ count: CInt, _ arguments: UnsafeMutableRawPointer?) -> CInt {
    let targets = [
        FuzzTarget(name: "iscsi-pdus", feed: feedPDUs),
        FuzzTarget(name: "iscsi-login", feed: feedLogin),
        FuzzTarget(name: "iscsi-session", feed: feedSession),
    ]
    return runFuzzer(targets, count, arguments)
}

/// How an input is cut. Most arrive whole, since a session's cost is one of calls and not of bytes; that
/// cuts do not matter is also tested by value.
func pieceBytes(_ steering: Int) -> Int { [0, 0, 0, 0, 0, 1, 17, 300][steering & 7] }

/// What initiators of these targets meet.
func portalGroup(withSecrets: Bool) -> PortalGroupConfiguration {
    var configuration = PortalGroupConfiguration(
        chap: CHAPDigests { algorithm, bytes in
            [UInt8](repeating: bytes.reduce(0, ^), count: algorithm.digestBytes)
        },
        transferSizes: { _, _, cdb in
            TransferSizes(inBytes: Int(cdb[7]) * 512, outBytes: Int(cdb[8]) * 512)
        })
    var target = TargetDescription(name: "t")
    if withSecrets {
        let user = CHAPCredential(name: "u", secret: [1, 2, 3])
        target.authentication = .chap(users: [user], mutual: CHAPCredential(name: "t", secret: [4]))
    }
    configuration.targets = [target]
    configuration.portals = ["10.0.0.1:3260"]
    return configuration
}
let initiatorAddress: [UInt8] = [10, 0, 0, 1]
let randomness = [UInt8](repeating: 7, count: 33)
