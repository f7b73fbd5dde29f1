/// Numbers fixed by the NBD protocol (`proto.md`), named as it names them.
enum Wire {
    /// First eight bytes of a server: "NBDMAGIC".
    static let serverMagic: UInt64 = 0x4e42_444d_4147_4943
    /// Starts the fixed newstyle greeting and each option: "IHAVEOPT".
    static let optionMagic: UInt64 = 0x4948_4156_454f_5054
    static let optionReplyMagic: UInt64 = 0x0003_e889_0455_65a9
    static let requestMagic: UInt32 = 0x2560_9513
    static let extendedRequestMagic: UInt32 = 0x21e4_1c71
    static let simpleReplyMagic: UInt32 = 0x6744_6698
    static let structuredReplyMagic: UInt32 = 0x668e_33ef
    static let extendedReplyMagic: UInt32 = 0x6e8a_278c
    /// Zeroes behind an answer to EXPORT_NAME, for clients that did not decline them.
    static let exportNamePaddingBytes = 124
    /// Option header: magic, option, length.
    static let optionHeaderBytes = 16
    /// Option reply header: magic, option, type, length.
    static let optionReplyHeaderBytes = 20
}

/// Handshake flags of the server, and client flags: the same two bits.
enum HandshakeFlag {
    static let fixedNewstyle: UInt16 = 1 << 0
    static let noZeroes: UInt16 = 1 << 1
}

enum OptionNumber {
    static let exportName: UInt32 = 1
    static let abort: UInt32 = 2
    static let list: UInt32 = 3
    static let startTLS: UInt32 = 5
    static let info: UInt32 = 6
    static let go: UInt32 = 7
    static let structuredReply: UInt32 = 8
    static let listMetaContext: UInt32 = 9
    static let setMetaContext: UInt32 = 10
    static let extendedHeaders: UInt32 = 11
}

enum OptionReply {
    static let ack: UInt32 = 1
    static let server: UInt32 = 2
    static let info: UInt32 = 3
    static let metaContext: UInt32 = 4
    static let errorBit: UInt32 = 1 << 31
    static let unsupported: UInt32 = errorBit + 1
    static let policy: UInt32 = errorBit + 2
    static let invalid: UInt32 = errorBit + 3
    static let tlsRequired: UInt32 = errorBit + 5
    static let unknownExport: UInt32 = errorBit + 6
    static let shutdown: UInt32 = errorBit + 7
    static let blockSizeRequired: UInt32 = errorBit + 8
    static let tooBig: UInt32 = errorBit + 9
    static let extendedHeadersRequired: UInt32 = errorBit + 10
}

enum InfoType {
    static let export: UInt16 = 0
    static let name: UInt16 = 1
    static let description: UInt16 = 2
    static let blockSize: UInt16 = 3
}

enum Command {
    static let read: UInt16 = 0
    static let write: UInt16 = 1
    static let disconnect: UInt16 = 2
    static let flush: UInt16 = 3
    static let trim: UInt16 = 4
    static let cache: UInt16 = 5
    static let writeZeroes: UInt16 = 6
    static let blockStatus: UInt16 = 7
    static let resize: UInt16 = 8
}

enum CommandFlag {
    static let fua: UInt16 = 1 << 0
    static let noHole: UInt16 = 1 << 1
    static let dontFragment: UInt16 = 1 << 2
    static let onlyOne: UInt16 = 1 << 3
    static let fastZero: UInt16 = 1 << 4
    static let payloadLength: UInt16 = 1 << 5
}

enum ReplyChunk {
    static let doneFlag: UInt16 = 1
    static let none: UInt16 = 0
    static let offsetData: UInt16 = 1
    static let offsetHole: UInt16 = 2
    static let blockStatus: UInt16 = 5
    static let blockStatusExtended: UInt16 = 6
    static let error: UInt16 = 1 << 15 + 1
}

/// States of `base:allocation`.
enum BlockState {
    static let hole: UInt32 = 1 << 0
    static let zero: UInt32 = 1 << 1
}

/// The errors that a reply can carry (`proto.md`, "Error values").
public enum NBDErrno: UInt32, Sendable {
    case notPermitted = 1
    case io = 5
    case invalid = 22
    case noSpace = 28
    case overflow = 75
    case notSupported = 95
    case shutdown = 108
}
