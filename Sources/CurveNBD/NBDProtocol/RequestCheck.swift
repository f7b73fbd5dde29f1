import BlockTypes

/// A request that may go to the volume, or why it may not.
enum Verdict: Hashable, Sendable {
    /// Read, write, trim, zero: the run is inside the export and made of whole sectors.
    case read, write, trim, writeZeroes
    case flush
    /// An empty run: done already.
    case nothing
    case disconnect
    case refuse(NBDErrno, String)

    /// Judges a request by its header alone.
    static func of(
        _ header: NBDRequestHeader, on export: NBDExportDescription, structuredReplies: Bool
    ) -> Verdict {
        guard let allowed = allowedFlags(header.command, structuredReplies: structuredReplies) else {
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
        default: return checkZeroes(header, export)
        }
    }
    /// FUA is valid on every command; the others belong to one (`proto.md`, "Command flags").
    private static func allowedFlags(_ command: UInt16, structuredReplies: Bool) -> UInt16? {
        switch command {
        case Command.read: CommandFlag.fua | (structuredReplies ? CommandFlag.dontFragment : 0)
        case Command.write, Command.disconnect, Command.flush, Command.trim: CommandFlag.fua
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
        let (end, overflowed) = header.offset.addingReportingOverflow(UInt64(header.length))
        if overflowed || end > export.size.bytes {
            return .refuse(pastTheEnd, "the request ends past \(export.size.bytes) bytes, the export's size")
        }
        let sector = UInt64(Geometry.sectorBytes)
        if header.offset % sector != 0 || UInt64(header.length) % sector != 0 {
            return .refuse(.invalid, "offset and length must be multiples of \(sector)")
        }
        let carriesPayload = header.command == Command.read || header.command == Command.write
        if carriesPayload, header.length > NBDLimits.payloadBytesMax {
            return .refuse(.invalid, "at most \(NBDLimits.payloadBytesMax) bytes in one request")
        }
        return header.length == 0 ? .nothing : nil
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
    }
}
