import BlockTypes
import SCSIBoundary

/// The statuses of SAM-5, section 5.3.
enum Status {
    static let good: UInt8 = 0x00
    static let checkCondition: UInt8 = 0x02
    static let conditionMet: UInt8 = 0x04
    static let busy: UInt8 = 0x08
    static let reservationConflict: UInt8 = 0x18
    static let taskSetFull: UInt8 = 0x28
    static let taskAborted: UInt8 = 0x40
}

extension LogicalUnit {
    /// The answer with a status that has no sense data; who found no room hears when to ask again.
    func answer(status: UInt8, wantedOutBytes: Int) -> SCSIAnswer {
        let isTurnedAway = status == Status.busy || status == Status.taskSetFull
        return SCSIAnswer(
            status: status, statusQualifier: isTurnedAway ? limits.retryTenths : 0,
            wantedOutBytes: wantedOutBytes)
    }
}

/// The kinds of what went wrong (SPC-5, section 4.4.8).
enum SenseKey: UInt8, Hashable, Sendable {
    case noSense = 0x0
    case recoveredError = 0x1
    case notReady = 0x2
    case mediumError = 0x3
    case hardwareError = 0x4
    case illegalRequest = 0x5
    case unitAttention = 0x6
    case dataProtect = 0x7
    case copyAborted = 0xa
    case abortedCommand = 0xb
    case miscompare = 0xe
}

/// What went wrong in detail: code and qualifier (SPC-5, annex F).
struct AdditionalSense: Hashable, Sendable {
    let code: UInt8
    let qualifier: UInt8
    init(_ code: UInt8, _ qualifier: UInt8) { (self.code, self.qualifier) = (code, qualifier) }

    static let none = AdditionalSense(0x00, 0x00)
    static let operationInProgress = AdditionalSense(0x00, 0x16)
    static let becomingReady = AdditionalSense(0x04, 0x01)
    static let notReadyManualIntervention = AdditionalSense(0x04, 0x03)
    static let sanitizeInProgress = AdditionalSense(0x04, 0x1b)
    static let targetPortUnavailable = AdditionalSense(0x04, 0x0c)
    static let targetPortStandby = AdditionalSense(0x04, 0x0b)
    static let targetPortTransition = AdditionalSense(0x04, 0x0a)
    static let unreachableCopyTarget = AdditionalSense(0x08, 0x04)
    static let copyTargetNotReachable = AdditionalSense(0x0d, 0x02)
    static let thirdPartyDeviceFailure = AdditionalSense(0x0d, 0x01)
    static let unrecoveredReadError = AdditionalSense(0x11, 0x00)
    static let writeError = AdditionalSense(0x0c, 0x00)
    static let parameterListLengthError = AdditionalSense(0x1a, 0x00)
    static let miscompareDuringVerify = AdditionalSense(0x1d, 0x00)
    static let invalidOperationCode = AdditionalSense(0x20, 0x00)
    static let blockOutOfRange = AdditionalSense(0x21, 0x00)
    static let invalidFieldInCDB = AdditionalSense(0x24, 0x00)
    static let logicalUnitNotSupported = AdditionalSense(0x25, 0x00)
    static let invalidFieldInParameterList = AdditionalSense(0x26, 0x00)
    static let invalidRelease = AdditionalSense(0x26, 0x04)
    static let tooManyTargetDescriptors = AdditionalSense(0x26, 0x06)
    static let unsupportedTargetDescriptor = AdditionalSense(0x26, 0x07)
    static let tooManySegmentDescriptors = AdditionalSense(0x26, 0x08)
    static let unsupportedSegmentDescriptor = AdditionalSense(0x26, 0x09)
    static let writeProtected = AdditionalSense(0x27, 0x00)
    static let hardwareWriteProtected = AdditionalSense(0x27, 0x01)
    static let softwareWriteProtected = AdditionalSense(0x27, 0x02)
    static let spaceAllocationFailed = AdditionalSense(0x27, 0x07)
    static let mediumMayHaveChanged = AdditionalSense(0x28, 0x00)
    static let powerOnOrReset = AdditionalSense(0x29, 0x00)
    static let powerOn = AdditionalSense(0x29, 0x01)
    static let targetReset = AdditionalSense(0x29, 0x02)
    static let unitReset = AdditionalSense(0x29, 0x03)
    static let nexusLoss = AdditionalSense(0x29, 0x07)
    static let modeParametersChanged = AdditionalSense(0x2a, 0x01)
    static let reservationsPreempted = AdditionalSense(0x2a, 0x03)
    static let reservationsReleased = AdditionalSense(0x2a, 0x04)
    static let registrationsPreempted = AdditionalSense(0x2a, 0x05)
    static let asymmetricAccessChanged = AdditionalSense(0x2a, 0x06)
    static let capacityChanged = AdditionalSense(0x2a, 0x09)
    static let tooManyCopies = AdditionalSense(0x55, 0x03)
    static let insufficientRegistrations = AdditionalSense(0x55, 0x04)
    static let commandsCleared = AdditionalSense(0x2f, 0x00)
    static let sanitizeFailed = AdditionalSense(0x31, 0x03)
    static let softThresholdReached = AdditionalSense(0x38, 0x07)
    static let savingNotSupported = AdditionalSense(0x39, 0x00)
    static let mediumNotPresent = AdditionalSense(0x3a, 0x00)
    static let inventoryChanged = AdditionalSense(0x3f, 0x0e)
    static let internalTargetFailure = AdditionalSense(0x44, 0x00)
    static let clearedByTransport = AdditionalSense(0x47, 0x7f)
    static let removalPrevented = AdditionalSense(0x53, 0x02)
    static let noSuchState = AdditionalSense(0x67, 0x06)
}

/// Why a command did not end well.
struct Sense: Error, Hashable, Sendable {
    var key: SenseKey
    var detail: AdditionalSense
    /// An address or an offset, when SBC says what stands there.
    var information: UInt64?
    /// The wrong field: its byte, and its highest bit when it is not the whole byte.
    var field: Field?
    /// How far a long operation has come, in 65,536ths.
    var progress: UInt16?

    struct Field: Hashable, Sendable {
        var byte: Int
        var bit: Int?
        var isInCDB: Bool
    }

    init(_ key: SenseKey, _ detail: AdditionalSense, information: UInt64? = nil, progress: UInt16? = nil) {
        (self.key, self.detail, self.information, self.progress) = (key, detail, information, progress)
    }
    /// A field of the CDB has a value that is not possible here.
    static func invalidField(_ byte: Int, bit: Int? = nil) -> Sense {
        var sense = Sense(.illegalRequest, .invalidFieldInCDB)
        sense.field = Field(byte: byte, bit: bit, isInCDB: true)
        return sense
    }
    /// A field of the parameter list has a value that is not possible here.
    static func invalidParameter(_ byte: Int, bit: Int? = nil) -> Sense {
        var sense = Sense(.illegalRequest, .invalidFieldInParameterList)
        sense.field = Field(byte: byte, bit: bit, isInCDB: false)
        return sense
    }
    static let shortParameters = Sense(.illegalRequest, .parameterListLengthError)

    /// The bytes of a CHECK CONDITION or of REQUEST SENSE.
    func encoded(asDescriptors: Bool) -> [UInt8] { asDescriptors ? descriptors : fixed }

    /// Fixed format (SPC-5, section 4.4.3). An address above 32 bits does not fit; then it is not valid.
    private var fixed: [UInt8] {
        var bytes = [UInt8](repeating: 0, count: 18)
        bytes[0] = 0x70
        if let information, information <= UInt64(UInt32.max) {
            bytes[0] |= 0x80
            bytes.put(bigEndian: UInt32(information), at: 3)
        }
        bytes[2] = key.rawValue
        bytes[7] = 10
        (bytes[12], bytes[13]) = (detail.code, detail.qualifier)
        if let specific { bytes.replaceSubrange(15..<18, with: specific) }
        return bytes
    }
    /// Descriptor format (SPC-5, section 4.4.2).
    private var descriptors: [UInt8] {
        var bytes: [UInt8] = [0x72, key.rawValue, detail.code, detail.qualifier, 0, 0, 0, 0]
        if let information {
            bytes += [0x00, 0x0a, 0x80, 0x00]
            bytes.append(bigEndian: information)
        }
        if let specific { bytes += [0x02, 0x06, 0, 0] + specific + [0] }
        bytes[7] = UInt8(bytes.count - 8)
        return bytes
    }
    /// The sense-key specific bytes (section 4.4.2.4): a field pointer or a progress.
    private var specific: [UInt8]? {
        if let field {
            var first: UInt8 = 0x80 | (field.isInCDB ? 0x40 : 0)
            if let bit = field.bit { first |= 0x08 | UInt8(bit & 7) }
            return [first, UInt8(truncatingIfNeeded: field.byte >> 8), UInt8(truncatingIfNeeded: field.byte)]
        }
        if let progress { return [0x80, UInt8(progress >> 8), UInt8(progress & 0xff)] }
        return nil
    }
}
