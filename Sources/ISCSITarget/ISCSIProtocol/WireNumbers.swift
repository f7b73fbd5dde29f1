/// What the protocol calls its PDUs (RFC 7143, section 11.2.1.2).
enum Opcode {
    static let nopOut: UInt8 = 0x00
    static let scsiCommand: UInt8 = 0x01
    static let taskManagementRequest: UInt8 = 0x02
    static let loginRequest: UInt8 = 0x03
    static let textRequest: UInt8 = 0x04
    static let dataOut: UInt8 = 0x05
    static let logoutRequest: UInt8 = 0x06
    static let snack: UInt8 = 0x10
    static let nopIn: UInt8 = 0x20
    static let scsiResponse: UInt8 = 0x21
    static let taskManagementResponse: UInt8 = 0x22
    static let loginResponse: UInt8 = 0x23
    static let textResponse: UInt8 = 0x24
    static let dataIn: UInt8 = 0x25
    static let logoutResponse: UInt8 = 0x26
    static let readyToTransfer: UInt8 = 0x31
    static let asyncMessage: UInt8 = 0x32
    static let reject: UInt8 = 0x3f
}

/// Bits of a header's second byte, and of its first.
enum Flag {
    static let immediate: UInt8 = 0x40  // In the first byte, beside the opcode.
    static let final: UInt8 = 0x80
    static let transit: UInt8 = 0x80
    static let continues: UInt8 = 0x40
    static let read: UInt8 = 0x40
    static let write: UInt8 = 0x20
    static let attributeMask: UInt8 = 0x07
    static let bidirectionalOverflow: UInt8 = 0x10
    static let bidirectionalUnderflow: UInt8 = 0x08
    static let overflow: UInt8 = 0x04
    static let underflow: UInt8 = 0x02
    static let status: UInt8 = 0x01
}

/// A tag that names nothing.
let reservedTag: UInt32 = 0xffff_ffff

/// Why a PDU was not taken (section 11.17.1).
enum RejectReason: UInt8, Error {
    case dataDigestError = 0x02
    case snackReject = 0x03
    case protocolError = 0x04
    case commandNotSupported = 0x05
    case tooManyImmediateCommands = 0x06
    case taskInProgress = 0x07
    case invalidField = 0x09
    case longOperation = 0x0a
}

/// The stage of a login (section 11.12.3).
enum LoginStage: UInt8 {
    case security = 0
    case operational = 1
    case fullFeature = 3
}

/// How a login ended or goes on: class and detail (section 11.13.5).
enum LoginStatus: UInt16, Error, Sendable {
    case success = 0x0000
    case movedTemporarily = 0x0101
    case movedPermanently = 0x0102
    case initiatorError = 0x0200
    case authenticationFailure = 0x0201
    case authorizationFailure = 0x0202
    case notFound = 0x0203
    case removed = 0x0204
    case unsupportedVersion = 0x0205
    case tooManyConnections = 0x0206
    case missingParameter = 0x0207
    case cannotInclude = 0x0208
    case sessionTypeNotSupported = 0x0209
    case noSuchSession = 0x020a
    case invalidDuringLogin = 0x020b
    case targetError = 0x0300
    case serviceUnavailable = 0x0301
    case outOfResources = 0x0302
}

/// Answers to a task management request (section 11.6.1; the last but one, RFC 7144).
enum ManagementCode: UInt8 {
    case complete = 0
    case noSuchTask = 1
    case noSuchLUN = 2
    case reassignmentNotSupported = 4
    case notSupported = 5
    case notAuthorized = 6
    case succeeded = 7
    case rejected = 255
}

/// Why an initiator says goodbye (section 11.14.1).
enum LogoutReason: UInt8 {
    case closeSession = 0
    case closeConnection = 1
    case removeForRecovery = 2
}

/// Answers to a logout (section 11.15.1).
enum LogoutCode: UInt8 {
    case closed = 0
    case noSuchConnection = 1
    case recoveryNotSupported = 2
}

/// What a target says unasked (section 11.9.1).
enum AsyncCode: UInt8 {
    case senseData = 0
    case logoutRequested = 1
    case connectionDropped = 2
    case sessionDropped = 3
    case negotiationRequested = 4
    case vendorSpecific = 255
}

/// Kinds of additional header segments (section 11.2.2.1).
enum AdditionalHeader {
    static let extendedCDB: UInt8 = 1
    static let bidirectionalReadLength: UInt8 = 2
    /// The bits of the kind that mean something.
    static let kindMask: UInt8 = 0x3f
}

/// `a < b` in the serial numbers of RFC 1982, as all sequence numbers here are compared.
func precedes(_ a: UInt32, _ b: UInt32) -> Bool { a != b && Int32(truncatingIfNeeded: a &- b) < 0 }
