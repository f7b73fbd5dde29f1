import BlockTypes

/// The server's side of the fixed newstyle handshake: bytes in, replies out, until an export is chosen.
///
/// Legal transitions: clientFlags -> optionHeader -> (optionData | skipping) -> optionHeader -> ... -> over.
struct ServerHandshake {
    /// What to do after some bytes.
    enum Outcome {
        case reply([UInt8])
        /// Send the bytes; what follows is TLS, and inside of it options from the beginning.
        case startTLS([UInt8])
        /// Send the bytes; what follows are requests for the export.
        case begin([UInt8], NBDExportDescription)
        /// Send the bytes, then close.
        case end([UInt8], NBDEndReason)
    }
    private enum Phase {
        case clientFlags, optionHeader
        case optionData(option: UInt32)
        case skipping(option: UInt32, bytes: Int)
        case over
    }
    private var phase = Phase.clientFlags
    private var held: [UInt8] = []
    private var wantedBytes = 4
    private var optionsSeen = 0
    private var sendsPadding = true
    private(set) var encryption: NBDEncryption
    /// What is said is encrypted.
    private(set) var isSecure = false
    /// Why every option is refused, if it is.
    var refusal: String?
    /// What the client asked for.
    var replies = ReplyStyle.simple
    /// What SET_META_CONTEXT chose last, and for which export.
    var selected: (contexts: MetaContexts, exportName: String) = ([], "")

    /// What was chosen for this export.
    func contexts(for export: NBDExportDescription) -> MetaContexts {
        selected.exportName == export.name ? selected.contexts : []
    }
    func flags(for export: NBDExportDescription) -> UInt16 {
        NBDTransmissionFlags.offered(for: export, replies: replies, contexts: contexts(for: export)).rawValue
    }

    init(encryption: NBDEncryption) { self.encryption = encryption }

    /// TLS is in force. Nothing that was said before has an effect.
    mutating func secured() {
        (replies, selected, isSecure) = (.simple, ([], ""), true)
        invariant(held.isEmpty, "plain bytes are left behind STARTTLS")
    }

    /// Memory held for what has arrived.
    var heldCapacityBytes: Int { held.capacity }

    /// The first bytes of the server.
    static let greeting: [UInt8] = {
        var bytes: [UInt8] = []
        bytes.append(bigEndian: Wire.serverMagic)
        bytes.append(bigEndian: Wire.optionMagic)
        bytes.append(bigEndian: HandshakeFlag.fixedNewstyle | HandshakeFlag.noZeroes)
        return bytes
    }()

    /// Takes bytes from the front of `bytes` until there is something to do.
    /// - Returns: `nil` when more bytes are needed.
    @unsafe mutating func next(
        _ bytes: inout UnsafeRawBufferPointer, exports: [NBDExportDescription], limits: NBDLimits
    ) -> Outcome? {
        while true {
            switch phase {
            case .over: return nil
            case .skipping(let option, let left):
                let taken = min(left, bytes.count)
                unsafe bytes = unsafe UnsafeRawBufferPointer(rebasing: bytes[taken...])
                guard taken == left else {
                    phase = .skipping(option: option, bytes: left - taken)
                    return nil
                }
                expectOption()
                return .reply(
                    Self.refusal(
                        option, OptionReply.tooBig, "option data above \(NBDLimits.optionBytesMax) bytes"))
            case .clientFlags:
                guard unsafe fill(from: &bytes) else { return nil }
                if let outcome = acceptClientFlags() { return outcome }
            case .optionHeader:
                guard unsafe fill(from: &bytes) else { return nil }
                if let outcome = acceptOptionHeader(limits) { return outcome }
            case .optionData(let option):
                guard unsafe fill(from: &bytes) else { return nil }
                let data = held[...]
                expectOption()
                let outcome = refused(option) ?? answer(option, data, exports: exports)
                switch outcome {
                case .reply, .startTLS: break
                case .begin, .end: phase = .over
                }
                return outcome
            }
        }
    }
    /// Moves bytes into `held` until it has `wantedBytes`.
    @unsafe private mutating func fill(from bytes: inout UnsafeRawBufferPointer) -> Bool {
        let taken = min(wantedBytes - held.count, bytes.count)
        unsafe held.append(contentsOf: bytes[..<taken])
        unsafe bytes = unsafe UnsafeRawBufferPointer(rebasing: bytes[taken...])
        return held.count == wantedBytes
    }
    private mutating func expectOption() {
        (held, wantedBytes, phase) = ([], Wire.optionHeaderBytes, .optionHeader)
    }
    private mutating func stop(_ why: String) -> Outcome {
        phase = .over
        return .end([], .violation(why))
    }
    private mutating func acceptClientFlags() -> Outcome? {
        var reader = WireReader(held[...])
        let known = UInt32(HandshakeFlag.fixedNewstyle | HandshakeFlag.noZeroes)
        guard let flags = reader.next(UInt32.self), flags & ~known == 0 else {
            return stop("unknown client flags")
        }
        sendsPadding = flags & UInt32(HandshakeFlag.noZeroes) == 0
        // TLS is only for clients that speak fixed newstyle; others are to find a server without it.
        if flags & UInt32(HandshakeFlag.fixedNewstyle) == 0, encryption != .off {
            guard encryption == .offered else {
                phase = .over
                return .end([], .refused("TLS is demanded, and the client does not speak fixed newstyle"))
            }
            encryption = .off
        }
        expectOption()
        return nil
    }
    private mutating func acceptOptionHeader(_ limits: NBDLimits) -> Outcome? {
        var reader = WireReader(held[...])
        guard let magic = reader.next(UInt64.self), let option = reader.next(UInt32.self),
            let length = reader.next(UInt32.self), magic == Wire.optionMagic
        else { return stop("an option starts with the wrong magic") }
        optionsSeen += 1
        if optionsSeen > limits.optionsMax { return stop("more than \(limits.optionsMax) options") }
        if length <= NBDLimits.optionBytesMax {
            (held, wantedBytes, phase) = ([], Int(length), .optionData(option: option))
            held.reserveCapacity(wantedBytes)  // Growing by doubling would take more.
        } else if option == OptionNumber.exportName || length > NBDLimits.skippedOptionBytesMax {
            return stop("option \(option) with \(length) bytes of data")
        } else {
            phase = .skipping(option: option, bytes: Int(length))
        }
        return nil
    }
    /// The answer to EXPORT_NAME.
    func exportNameAnswer(_ export: NBDExportDescription) -> [UInt8] {
        var bytes: [UInt8] = []
        bytes.append(bigEndian: export.size.bytes)
        bytes.append(bigEndian: flags(for: export))
        if sendsPadding { bytes.append(contentsOf: repeatElement(0, count: Wire.exportNamePaddingBytes)) }
        return bytes
    }
}
