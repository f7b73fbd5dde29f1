import BlockTypes
import SCSIBoundary

/// What the whole target tells of itself in each unit.
struct PortLayout: Hashable, Sendable {
    var targetName: String
    var groups: [PortGroup]
    var allowsSetting: Bool

    func state(of tag: UInt16) -> PortState {
        groups.first { $0.tag == tag }?.state ?? .activeOptimized
    }
}

/// INQUIRY and its pages (SPC-5, sections 6.7 and 7.7; SBC-4, section 6.6).
extension LogicalUnit {
    func inquiry(_ request: Request) throws(Sense) -> [UInt8] {
        // CMDDT is obsolete, and asks for what this is not.
        guard !request.has(0x02, at: 1) else { throw .invalidField(1, bit: 1) }
        guard request.has(0x01, at: 1) else {
            guard request.cdb[2] == 0 else { throw .invalidField(2) }
            return Self.standardInquiry(configuration, qualifierAndType: 0, ports: ports)
        }
        let page = request.cdb[2]
        guard let contents = contents(of: page, for: request.party) else { throw .invalidField(2) }
        var bytes: [UInt8] = [0, page]
        bytes.append(bigEndian: UInt16(contents.count))
        return bytes + contents
    }

    static func standardInquiry(
        _ configuration: UnitConfiguration?, qualifierAndType: UInt8, ports: PortLayout
    ) -> [UInt8] {
        var bytes: [UInt8] = [qualifierAndType, configuration?.isRemovable == true ? 0x80 : 0]
        // SPC-4; HISUP and the response format; 92 bytes follow.
        bytes += [0x06, 0x12, 91]
        // TPGS: implicit, and explicit when it may be set; 3PC.
        let groups: UInt8 = ports.allowsSetting ? 0x30 : 0x10
        bytes += [groups | (configuration?.allowsCopies == true ? 0x08 : 0)]
        // MULTIP, CMDQUE.
        bytes += [ports.groups.count > 1 ? 0x10 : 0, 0x02]
        bytes.append(configuration?.vendor ?? "CURVE", width: 8)
        bytes.append(configuration?.product ?? "", width: 16)
        bytes.append(configuration?.revision ?? "", width: 4)
        bytes += [UInt8](repeating: 0, count: 22)
        // SAM-5, SPC-4, SBC-3, iSCSI.
        for version in [UInt16(0x00a0), 0x0460, 0x04c0, 0x0960] { bytes.append(bigEndian: version) }
        return bytes + [UInt8](repeating: 0, count: 96 - bytes.count)
    }

    /// In ascending order.
    private var pages: [UInt8] {
        [0x00, 0x80, 0x83, 0x86] + (configuration.allowsCopies ? [0x8f] : []) + [0xb0, 0xb1, 0xb2]
    }
    private func contents(of page: UInt8, for party: Party.Identity) -> [UInt8]? {
        guard pages.contains(page) else { return nil }
        switch page {
        case 0x00: return pages
        case 0x80: return Array(configuration.serial.utf8.prefix(252))
        case 0x83: return designators(party)
        case 0x86: return extendedInquiry
        case 0x8f: return thirdPartyCopy
        case 0xb0: return blockLimits
        // Medium rotation 1: none. WABEREQ 1: what SANITIZE erased can be read.
        case 0xb1: return [0, 1, 0, 0x40] + [UInt8](repeating: 0, count: 56)
        case 0xb2: return provisioning
        default: return nil
        }
    }
    private func designators(_ party: Party.Identity) -> [UInt8] {
        var bytes: [UInt8] = [0x01, 0x03, 0, 16] + configuration.identifier
        let vendorName = configuration.vendorDesignator
        bytes += [0x02, 0x01, 0, UInt8(vendorName.count)] + vendorName
        // The port that this came through, and its group: of iSCSI.
        let tag = party.names.portalGroupTag
        for type in [UInt8(0x04), 0x05] {
            bytes += [0x51, 0x90 | type, 0, 4, 0, 0]
            bytes.append(bigEndian: tag)
        }
        let digits = String(tag, radix: 16)
        let padding = String(repeating: "0", count: 4 - digits.utf8.count)
        bytes += Self.name("\(ports.targetName),t,0x\(padding)\(digits)", association: 1)
        return bytes + Self.name(ports.targetName, association: 2)
    }
    /// A SCSI name string: ended and filled up with zeroes to a multiple of four.
    private static func name(_ text: String, association: UInt8) -> [UInt8] {
        var name = Array(text.utf8.prefix(247)) + [0]
        while name.count % 4 != 0 { name.append(0) }
        return [0x53, 0x80 | association << 4 | 0x08, 0, UInt8(name.count)] + name
    }
    private var extendedInquiry: [UInt8] {
        var bytes = [UInt8](repeating: 0, count: 60)
        // HEADSUP, ORDSUP, SIMPSUP; V_SUP when there is a cache; LUICLR.
        bytes[1] = 0x07
        bytes[2] = configuration.hasWriteCache ? 0x01 : 0
        bytes[3] = 0x01
        return bytes
    }
    /// As long as an aligned run, and inside of one: there is no field for the alignment.
    var compareBlocksMax: Int {
        let unit = configuration.compareUnitBytes
        let most = min(limits.compareBlocksMax, VolumeRequest.compareBytesMax / blockBytes, unit / blockBytes)
        return unit == 0 ? limits.compareBlocksMax : most
    }
    private var blockLimits: [UInt8] {
        var bytes = [UInt8](repeating: 0, count: 60)
        bytes[0] = 0x01  // WSNZ.
        bytes[1] = UInt8(clamping: compareBlocksMax)
        bytes.put(bigEndian: UInt16(blocksPerStored), at: 2)
        bytes.put(bigEndian: UInt32(transferBlocksMax), at: 4)
        bytes.put(bigEndian: UInt32(limits.transferBytesBest / blockBytes), at: 8)
        if configuration.isThin {
            bytes.put(bigEndian: UInt32(limits.unmapBlocksMax), at: 16)
            bytes.put(bigEndian: UInt32(limits.unmapDescriptorsMax), at: 20)
            bytes.put(bigEndian: UInt32(blocksPerStored), at: 24)
            bytes.put(bigEndian: UInt32(0x8000_0000), at: 28)  // UGAVALID, alignment 0.
        }
        bytes.put(bigEndian: UInt64(limits.sameBytesMax / blockBytes), at: 32)
        bytes.put(bigEndian: UInt32(configuration.atomicBytes / blockBytes), at: 40)
        if configuration.atomicBytes > 0, blocksPerStored > 1 {
            bytes.put(bigEndian: UInt32(blocksPerStored), at: 44)
            bytes.put(bigEndian: UInt32(blocksPerStored), at: 48)
        }
        return bytes
    }
    /// LBPU, LBPWS, LBPWS10, LBPRZ: given-up blocks read as zeroes. No anchors, no thresholds.
    /// No threshold counts blocks, so the exponent of a set of them is 0; the last byte is the range of one
    /// that is a percentage, in tenths.
    private var provisioning: [UInt8] {
        guard configuration.isThin else { return [0, 0, 0, 0] }
        return [0, 0xe4, 0x02, UInt8(10 * (modes.poolThreshold?.slackPercent ?? 0))]
    }

    /// Third-party copy (SPC-5, section 7.7.18): the commands and their bounds.
    private var thirdPartyCopy: [UInt8] {
        var commands: [UInt8] = [0x83, 1, 0x00, 0x84, 3, 0x00, 0x03, 0x04]
        commands.insert(UInt8(commands.count), at: 0)
        var parameters: [UInt8] = [0, 0, 0, 0]
        parameters.append(bigEndian: UInt16(limits.copyTargetsMax))
        parameters.append(bigEndian: UInt16(limits.copySegmentsMax))
        parameters.append(bigEndian: UInt32(limits.copyListBytesMax))
        parameters.append(bigEndian: UInt32(0))  // Inline data.
        parameters += [UInt8](repeating: 0, count: 12)
        let general = Self.copyBounds(limits, blockBytes)
        var bytes: [UInt8] = []
        for (type, contents) in [
            (UInt16(0x0001), commands), (0x0004, parameters), (0x0008, [0, 2, 0x02, 0xe4]),
            (0x000c, [0, 2, 0xff, 0xff]), (0x8001, general),
        ] {
            let filled = contents + [UInt8](repeating: 0, count: (4 - contents.count % 4) % 4)
            bytes.append(bigEndian: type)
            bytes.append(bigEndian: UInt16(filled.count))
            bytes += filled
        }
        return bytes
    }
    /// General copy operations: how many at a time, and how much.
    private static func copyBounds(_ limits: SCSILimits, _ blockBytes: Int) -> [UInt8] {
        var bytes: [UInt8] = []
        bytes.append(bigEndian: UInt32(limits.copiesMax))
        bytes.append(bigEndian: UInt32(limits.copiesMax))
        bytes.append(bigEndian: UInt32(limits.copySegmentBytesMax))
        bytes += [UInt8(blockBytes.trailingZeroBitCount), 0]
        return bytes + [UInt8](repeating: 0, count: 18)
    }
}
