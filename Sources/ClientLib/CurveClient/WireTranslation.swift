import BlockTypes
import CurveWire
import VolumeCore

extension BlockRequest.Kind {
    /// The wire's words for a command.
    init(_ command: BlockCommand) {
        switch command {
        case .read(let run): self = .read(run)
        case .write(let run, let snapshot, let tag, let checksums, let payload):
            self = .write(run, snapshot, tag, checksums: checksums, payload: payload)
        case .trim(let run, let snapshot, let tag): self = .trim(run, snapshot, tag)
        case .zero(let run, let snapshot, let tag): self = .zero(run, snapshot, tag)
        case .fence(let volume, let fence): self = .fence(volume, fence)
        case .blockStatus(let run): self = .blockStatus(run)
        case .amend(let run, let bytes, let snapshot, let tag, let checksums, let payload):
            self = .amend(
                Amendment(
                    run: run, bytes: bytes, snapshot: snapshot, tag: tag, checksums: checksums,
                    payload: [payload]))
        }
    }
}

extension BlockReply {
    /// The core's words for this answer; blocks that do not match their checksums make it a damaged one.
    var verifiedAnswer: BlockAnswer {
        switch status {
        case .ok: hasIntactBlocks ? .done(segments) : .damaged
        case .notLeader: .notLeader(hint: leader)
        case .notReady: .notReady
        case .staleEpoch: .staleEpoch
        case .outOfRange: .outOfRange
        case .noSpace: .noSpace
        case .deleted: .deleted
        case .checksumMismatch: .damaged
        case .overloaded: .overloaded
        case .badRequest: .refused
        case .wrongCopyset: .wrongCopyset
        case .forgotten: .forgotten
        case .needsFence: .needsFence
        case .miscompare: .miscompare(atByte: differsAtByte)
        }
    }

    private var hasIntactBlocks: Bool {
        var next = 0
        for segment in segments {
            guard case .data(let payload) = segment else { continue }
            let count = payload.byteCount / Geometry.blockBytes
            guard next + count <= checksums.count else { return false }
            let mine = count == checksums.count ? checksums : Array(checksums[next..<(next + count)])
            guard verify(checksums: mine, payload: payload) else { return false }
            next += count
        }
        return next == checksums.count
    }
}
