import BlockTypes

/// A request that may go to the volume, or why it may not.
enum Verdict: Hashable, Sendable {
    /// Read, write, trim, zero: the run is inside the export.
    case read, write, trim, writeZeroes
    case flush
    /// Tells of a run's map; whole when the run is longer than one answer.
    case blockStatus
    /// Another size is wanted: the request's offset.
    case resize
    /// An empty run: done already.
    case nothing
    case disconnect
    case refuse(NBDErrno, String)

    /// Judges a request by its header alone.
    static func of(
        _ header: NBDRequestHeader, on export: NBDExportDescription, replies: ReplyStyle,
        contexts: MetaContexts
    ) -> Verdict {
        guard let allowed = allowedFlags(header.command, replies) else {
            return .refuse(.invalid, "command \(header.command) is not served")
        }
        guard header.flags & ~allowed == 0 else {
            return .refuse(.invalid, "flags \(header.flags) do not fit command \(header.command)")
        }
        switch header.command {
        case Command.disconnect: return .disconnect
        case Command.flush:
            guard header.offset == 0, header.length == 0 else {
                return .refuse(.invalid, "FLUSH takes neither offset nor length")
            }
            return .flush
        case Command.read: return checkRun(header, export, .invalid) ?? .read
        case Command.write:
            return checkWritable(header, export) ?? checkRun(header, export, .noSpace) ?? .write
        case Command.trim: return checkWritable(header, export) ?? checkRun(header, export, .invalid) ?? .trim
        // A hint: nothing here keeps what is read, and reading it for nobody would only cost others.
        case Command.cache: return checkRun(header, export, .invalid) ?? .nothing
        case Command.blockStatus:
            guard !contexts.isEmpty else {
                return .refuse(.invalid, "no meta context was negotiated for this export")
            }
            return checkStatus(header, export)
        case Command.resize: return checkResize(header, export)
        default: return checkZeroes(header, export)
        }
    }
    /// FUA is valid on every command; the others belong to one (`proto.md`, "Command flags").
    private static func allowedFlags(_ command: UInt16, _ replies: ReplyStyle) -> UInt16? {
        let payload = replies == .extended ? CommandFlag.payloadLength : 0
        return switch command {
        case Command.read: CommandFlag.fua | (replies == .simple ? 0 : CommandFlag.dontFragment)
        case Command.write: CommandFlag.fua | payload
        case Command.disconnect, Command.flush, Command.trim, Command.cache, Command.resize:
            CommandFlag.fua
        case Command.blockStatus: CommandFlag.fua | CommandFlag.onlyOne | payload
        case Command.writeZeroes: CommandFlag.fua | CommandFlag.noHole | CommandFlag.fastZero
        default: nil
        }
    }
    private static func checkWritable(_ header: NBDRequestHeader, _ export: NBDExportDescription) -> Verdict?
    {
        export.isReadOnly ? .refuse(.notPermitted, "the export is read-only") : nil
    }
    private static func checkRun(
        _ header: NBDRequestHeader, _ export: NBDExportDescription, _ pastTheEnd: NBDErrno
    ) -> Verdict? {
        let (end, overflowed) = header.offset.addingReportingOverflow(header.length)
        if overflowed || end > export.size.bytes {
            return .refuse(pastTheEnd, "the request ends past \(export.size.bytes) bytes, the export's size")
        }
        let carriesPayload = header.command == Command.read || header.command == Command.write
        if carriesPayload, header.length > NBDLimits.payloadBytesMax {
            return .refuse(.invalid, "at most \(NBDLimits.payloadBytesMax) bytes in one request")
        }
        return header.length == 0 ? .nothing : nil
    }
    /// - Parameter header: with the length that is asked about, wherever it came from.
    static func checkStatus(_ header: NBDRequestHeader, _ export: NBDExportDescription) -> Verdict {
        guard header.length > 0 else { return .refuse(.invalid, "a block status of nothing") }
        return checkRun(header, export, .invalid) ?? .blockStatus
    }
    private static func checkResize(_ header: NBDRequestHeader, _ export: NBDExportDescription) -> Verdict {
        guard export.isResizable else {
            return .refuse(.invalid, "clients may not change this export's size")
        }
        guard header.length == 0, header.offset > 0, header.offset % UInt64(Geometry.blockBytes) == 0 else {
            return .refuse(.invalid, "a size is a multiple of \(Geometry.blockBytes)")
        }
        return .resize
    }
    private static func checkZeroes(_ header: NBDRequestHeader, _ export: NBDExportDescription) -> Verdict {
        if let refused = checkWritable(header, export) ?? checkRun(header, export, .noSpace) {
            return refused
        }
        // Without a hole the zeroes are written as data, no faster than a write: FAST_ZERO fails at once.
        let both = CommandFlag.noHole | CommandFlag.fastZero
        guard header.flags & both != both else {
            return .refuse(.notSupported, "zeroing without a hole is slow")
        }
        return .writeZeroes
    }
}

/// The only place where a volume's error becomes an NBD error (`proto.md`, "Error values").
func wireError(for error: VolumeError, command: UInt16) -> (errno: NBDErrno, text: String) {
    switch error {
    case .outOfRange:
        (command == Command.write ? .noSpace : .invalid, "the request is not inside the volume")
    case .readOnly: (.notPermitted, "the volume was attached read-only")
    case .noSpace: (.noSpace, "the pool has no room for new data")
    case .fenced: (.io, "another client took the volume over")
    case .replicasUnavailable: (.io, "a majority of replicas is out of reach")
    case .checksumMismatch: (.io, "no replica holds a copy that matches its checksum")
    case .deleted: (.io, "the volume was deleted")
    case .shuttingDown: (.shutdown, "the volume is being closed")
    case .miscompare: (.io, "what is stored is not what was expected")
    }
}
