import BlockTypes
import SCSIBoundary

/// The medium as a whole: its size, whether it is there, its defects, and what is pending.
extension LogicalUnit {
    mutating func requestSense(_ request: Request, effects: inout [Effect]) throws(Sense) {
        var sense = Sense(.noSense, .none)
        if let index = partyIndex[request.party.nexus], let attention = parties[index].attentions.takeFirst()
        {
            sense = Sense(.unitAttention, attention)
        } else if isSuspended {
            sense = Self.becomingReady
        } else if let pending = sanitizeSense {
            sense = pending
        } else if !hasMedium {
            sense = Sense(.notReady, .mediumNotPresent)
        }
        answer(request, sense.encoded(asDescriptors: request.has(0x01, at: 1)), effects: &effects)
    }

    mutating func readCapacity10(_ request: Request, effects: inout [Effect]) throws(Sense) {
        // PMI is obsolete; without it an address has no meaning.
        if !request.has(0x01, at: 8), request.cdb.number(at: 2, bytes: 4) != 0 { throw .invalidField(2) }
        var bytes: [UInt8] = []
        bytes.append(bigEndian: UInt32(clamping: blockCount - min(blockCount, 1)))
        bytes.append(bigEndian: UInt32(blockBytes))
        answer(request, bytes, effects: &effects)
    }
    mutating func readCapacity16(_ request: Request, effects: inout [Effect]) throws(Sense) {
        if !request.has(0x01, at: 14), request.cdb.number(at: 2, bytes: 8) != 0 { throw .invalidField(2) }
        var bytes: [UInt8] = []
        bytes.append(bigEndian: blockCount - min(blockCount, 1))
        bytes.append(bigEndian: UInt32(blockBytes))
        let exponent = UInt8(blocksPerStored.trailingZeroBitCount)
        // LBPME, and LBPRZ: what was given up reads as zeroes.
        bytes += [0, exponent, configuration.isThin ? 0xc0 : 0x00, 0]
        bytes += [UInt8](repeating: 0, count: 16)
        answer(request, bytes, effects: &effects)
    }
    /// There are no defects: a bad block is mended from a peer. The list of any known format is empty.
    mutating func readDefectData(_ request: Request, effects: inout [Effect]) throws(Sense) {
        let isShort = request.operation == .readDefectData10
        let asked = request.cdb[isShort ? 2 : 1]
        guard asked & 7 != 1, asked & 7 != 2, asked & 7 != 7 else {
            throw .invalidField(isShort ? 2 : 1, bit: 2)
        }
        let flags = asked & 0x1f
        answer(
            request, isShort ? [0, flags, 0, 0] : [0, flags, 0, 0, 0, 0, 0, 0], effects: &effects)
    }

    mutating func startStop(_ request: Request, effects: inout [Effect]) throws(Sense) {
        let flags = request.cdb[4]
        let (condition, loads, starts) = (flags >> 4, flags & 0x02 != 0, flags & 0x01 != 0)
        // With a power condition, LOEJ and START do not matter (SBC-4, section 5.31). A volume has nothing
        // that turns, so it is never stopped, and no condition means anything to it.
        guard condition == 0, loads else { return answer(request, effects: &effects) }
        guard configuration.isRemovable else { throw .invalidField(4, bit: 1) }
        change(.loadMedium(starts), request, effects: &effects)
    }
    mutating func preventAllow(_ request: Request, effects: inout [Effect]) {
        if let index = partyIndex[request.party.nexus] {
            parties[index].preventsRemoval = request.cdb[4] & 0x01 != 0
        }
        change(.preventRemoval(preventsRemoval), request, effects: &effects)
    }
    private var preventsRemoval: Bool { parties.contains { $0.preventsRemoval } }
    /// Lets all gateways know whether anybody here prevents removal.
    mutating func tellPrevention(
        _ party: ReservationParty, for waiter: ReservationChanges.Waiter, effects: inout [Effect]
    ) {
        change(.request(.preventRemoval(preventsRemoval), party), for: waiter, effects: &effects)
    }
}
