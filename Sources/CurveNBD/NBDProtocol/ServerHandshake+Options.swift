import BlockTypes

extension ServerHandshake {
    /// Why this option gets no other answer, if so: the client must encrypt first, or may use nothing here.
    func refused(_ option: UInt32) -> Outcome? {
        let (type, why): (UInt32, String)
        if encryption == .required, !isSecure {
            guard option != OptionNumber.startTLS else { return nil }
            (type, why) = (OptionReply.tlsRequired, "this server speaks only through TLS")
        } else if let refusal {
            (type, why) = (OptionReply.policy, refusal)
        } else {
            return nil
        }
        switch option {
        case OptionNumber.abort: return nil
        case OptionNumber.exportName: return .end([], .refused(why))
        default: return .reply(Self.refusal(option, type, why))
        }
    }
    private func answerStartTLS(_ data: ArraySlice<UInt8>) -> Outcome {
        let option = OptionNumber.startTLS
        guard encryption != .off else {
            return .reply(Self.refusal(option, OptionReply.unsupported, "this server has no TLS"))
        }
        guard data.isEmpty, !isSecure else {
            let why = isSecure ? "TLS is in force" : "STARTTLS takes no data"
            return .reply(Self.refusal(option, OptionReply.invalid, why))
        }
        return .startTLS(Self.reply(option, OptionReply.ack))
    }
    /// Answers one option whose data has arrived.
    mutating func answer(
        _ option: UInt32, _ data: ArraySlice<UInt8>, exports: [NBDExportDescription]
    ) -> Outcome {
        switch option {
        case OptionNumber.exportName:
            // This option cannot report an error: the protocol demands that the session ends.
            guard replies != .extended else {
                return .end([], .violation("EXPORT_NAME after extended headers"))
            }
            guard data.count <= NBDLimits.stringBytesMax, let name = WireReader.string(data) else {
                return .end([], .violation("EXPORT_NAME with a malformed name"))
            }
            guard let export = exports.named(name) else { return .end([], .unknownExport(name)) }
            return .begin(exportNameAnswer(export), export)
        case OptionNumber.abort:
            return .end(Self.reply(option, OptionReply.ack), .disconnected)
        case OptionNumber.startTLS: return answerStartTLS(data)
        case OptionNumber.list:
            guard data.isEmpty else {
                return .reply(Self.refusal(option, OptionReply.invalid, "LIST takes no data"))
            }
            return .reply(exports.flatMap { Self.listed($0) } + Self.reply(option, OptionReply.ack))
        case OptionNumber.info, OptionNumber.go:
            return answerInfo(option, data, exports)
        case OptionNumber.structuredReply:
            guard data.isEmpty else {
                return .reply(Self.refusal(option, OptionReply.invalid, "STRUCTURED_REPLY takes no data"))
            }
            guard replies != .extended else {
                return .reply(
                    Self.refusal(
                        option, OptionReply.extendedHeadersRequired, "extended headers are in force"))
            }
            replies = .structured
            return .reply(Self.reply(option, OptionReply.ack))
        case OptionNumber.extendedHeaders:
            guard data.isEmpty, replies != .extended else {
                let why = data.isEmpty ? "extended headers are in force" : "EXTENDED_HEADERS takes no data"
                return .reply(Self.refusal(option, OptionReply.invalid, why))
            }
            replies = .extended
            return .reply(Self.reply(option, OptionReply.ack))
        case OptionNumber.listMetaContext, OptionNumber.setMetaContext:
            return .reply(answerMetaContext(option, data, exports))
        default:
            return .reply(Self.refusal(option, OptionReply.unsupported, "option \(option) is not served"))
        }
    }
    private func answerInfo(
        _ option: UInt32, _ data: ArraySlice<UInt8>, _ exports: [NBDExportDescription]
    ) -> Outcome {
        var reader = WireReader(data)
        guard let name = reader.lengthAndString(), let count = reader.next(UInt16.self),
            reader.remainingBytes == Int(count) * 2
        else { return .reply(Self.refusal(option, OptionReply.invalid, "malformed INFO or GO")) }
        guard let export = exports.named(name) else {
            return .reply(Self.refusal(option, OptionReply.unknownExport, "no export has that name"))
        }
        var asked: Set<UInt16> = []
        while let type = reader.next(UInt16.self) { asked.insert(type) }
        var bytes = Self.info(option, InfoType.export) { data in
            data.append(bigEndian: export.size.bytes)
            data.append(bigEndian: flags(for: export))
        }
        // Told unasked as well. The least is one byte: clients that never hear of sizes may ask for single
        // bytes, and the volume can do it.
        bytes += Self.info(option, InfoType.blockSize) { data in
            data.append(bigEndian: NBDLimits.minimumBlockBytes)
            data.append(bigEndian: UInt32(Geometry.blockBytes))
            data.append(bigEndian: NBDLimits.advertisedPayloadBytesMax)
        }
        if asked.contains(InfoType.name) {
            bytes += Self.info(option, InfoType.name) { $0.append(contentsOf: export.name.utf8) }
        }
        if asked.contains(InfoType.description), !export.text.isEmpty {
            bytes += Self.info(option, InfoType.description) { $0.append(contentsOf: export.text.utf8) }
        }
        bytes += Self.reply(option, OptionReply.ack)
        return option == OptionNumber.go ? .begin(bytes, export) : .reply(bytes)
    }
    /// LIST tells of contexts, SET also chooses them: what it chose before is void, even when it fails.
    private mutating func answerMetaContext(
        _ option: UInt32, _ data: ArraySlice<UInt8>, _ exports: [NBDExportDescription]
    ) -> [UInt8] {
        let isListing = option == OptionNumber.listMetaContext
        if !isListing { selected = ([], "") }
        guard replies != .simple else {
            return Self.refusal(option, OptionReply.invalid, "ask for structured replies first")
        }
        var reader = WireReader(data)
        guard let name = reader.lengthAndString(), let count = reader.next(UInt32.self) else {
            return Self.refusal(option, OptionReply.invalid, "malformed meta context query")
        }
        var wanted: MetaContexts = isListing && count == 0 ? MetaContexts(MetaContexts.all) : []
        // Each query takes bytes of `data`, so a lying count ends at the first one that is missing.
        for _ in 0..<count {
            guard let query = reader.lengthAndString() else {
                return Self.refusal(option, OptionReply.invalid, "malformed meta context query")
            }
            wanted.formUnion(MetaContexts(MetaContexts.matching(query, isListing: isListing)))
        }
        guard reader.remainingBytes == 0 else {
            return Self.refusal(option, OptionReply.invalid, "malformed meta context query")
        }
        guard let export = exports.named(name) else {
            return Self.refusal(option, OptionReply.unknownExport, "no export has that name")
        }
        if !isListing { selected = (wanted, export.name) }
        var bytes: [UInt8] = []
        for context in MetaContexts.all where wanted.contains(context) {
            var data: [UInt8] = []
            data.append(bigEndian: isListing ? 0 : context.identifier)
            bytes += Self.reply(option, OptionReply.metaContext, data + context.name.utf8)
        }
        return bytes + Self.reply(option, OptionReply.ack)
    }

    static func reply(_ option: UInt32, _ type: UInt32, _ data: [UInt8] = []) -> [UInt8] {
        var bytes: [UInt8] = []
        bytes.reserveCapacity(Wire.optionReplyHeaderBytes + data.count)
        bytes.append(bigEndian: Wire.optionReplyMagic)
        bytes.append(bigEndian: option)
        bytes.append(bigEndian: type)
        bytes.append(bigEndian: UInt32(data.count))
        return bytes + data
    }
    static func refusal(_ option: UInt32, _ type: UInt32, _ why: String) -> [UInt8] {
        reply(option, type, Array(why.utf8))
    }
    private static func info(_ option: UInt32, _ type: UInt16, _ fill: (inout [UInt8]) -> Void) -> [UInt8] {
        var data: [UInt8] = []
        data.append(bigEndian: type)
        fill(&data)
        return reply(option, OptionReply.info, data)
    }
    private static func listed(_ export: NBDExportDescription) -> [UInt8] {
        var data: [UInt8] = []
        data.append(bigEndian: UInt32(export.name.utf8.count))
        data.append(contentsOf: export.name.utf8)
        data.append(contentsOf: export.text.utf8)
        return reply(OptionNumber.list, OptionReply.server, data)
    }
}
