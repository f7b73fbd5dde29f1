import BlockTypes

/// Mode pages (SPC-5, section 7.5; SBC-4, section 6.5). Only what differs from the defaults is state.
struct ModePages: Hashable, Sendable {
    let hasWriteCache: Bool
    /// Of a unit whose pool is watched.
    var poolThreshold: PoolThreshold?
    var shared = SharedModes()
    var usesDescriptorSense: Bool { shared.usesDescriptorSense }
    var isWriteProtected: Bool { shared.isWriteProtected }

    init(_ configuration: UnitConfiguration) {
        hasWriteCache = configuration.hasWriteCache
        poolThreshold = configuration.isThin ? configuration.poolThreshold : nil
    }

    /// What of a page is wanted (PC).
    enum Control: UInt8, Hashable, Sendable {
        case current = 0
        case changeable = 1
        case defaults = 2
        case saved = 3
    }
    /// A page's name.
    struct Code: Hashable, Sendable {
        let page: UInt8
        let subpage: UInt8
    }
    /// In the order in which "all pages" has them.
    var codes: [Code] { Self.usualCodes + (poolThreshold == nil ? [] : [Self.provisioning]) }
    private static let usualCodes = [
        Code(page: 0x01, subpage: 0), Code(page: 0x08, subpage: 0), Code(page: 0x0a, subpage: 0),
        Code(page: 0x0a, subpage: 1), Code(page: 0x1c, subpage: 0),
    ]
    private static let provisioning = Code(page: 0x1c, subpage: 2)

    /// The bytes of a page, with its header.
    func bytes(_ code: Code, _ control: Control) -> [UInt8] {
        var defaults = self
        defaults.shared = SharedModes()
        switch control {
        case .current: return contents(code)
        case .defaults, .saved: return defaults.contents(code)
        case .changeable:
            var mask = contents(code)
            let header = code.subpage == 0 ? 2 : 4
            for index in header..<mask.count { mask[index] = 0 }
            if code.page == 0x0a, code.subpage == 0 { (mask[2], mask[4]) = (0x04, 0x08) }
            return mask
        }
    }
    private func contents(_ code: Code) -> [UInt8] {
        switch (code.page, code.subpage) {
        case (0x01, _):
            // Read-write error recovery: all as it comes.
            return [0x01, 0x0a] + [UInt8](repeating: 0, count: 10)
        case (0x08, _):
            // Caching: WCE tells whether an answered write may be lost.
            return [0x08, 0x12, hasWriteCache ? 0x04 : 0] + [UInt8](repeating: 0, count: 17)
        case (0x0a, 0):
            // Control: a task set for each I_T nexus (TST = 001b), as gateways order commands and end them
            // without asking each other; GLTSD, unrestricted reordering, no timeout for a busy unit.
            var page: [UInt8] = [0x0a, 0x0a] + [UInt8](repeating: 0, count: 10)
            page[2] = 0x22 | (usesDescriptorSense ? 0x04 : 0)
            page[3] = 0x10
            page[4] = isWriteProtected ? 0x08 : 0
            (page[8], page[9]) = (0xff, 0xff)
            return page
        case (0x0a, _):
            // Control extension: sense data of up to 252 bytes.
            var page: [UInt8] = [0x4a, 0x01, 0x00, 0x1c] + [UInt8](repeating: 0, count: 28)
            page[6] = 252
            return page
        case (0x1c, 2):
            // Logical block provisioning (SBC-4, section 6.5.9): one threshold, set by whoever runs the
            // gateways. All nexuses are told (SITUA = 0): it is a percentage (001b) of the available
            // resources (03h), and is reached when that falls (000b).
            let available = poolThreshold?.availablePercent ?? 0
            let header: [UInt8] = [0x5c, 0x02, 0, 20] + [UInt8](repeating: 0, count: 12)
            return header + [available > 0 ? 0x88 : 0x08, 0x03, 0, 0, 0, 0, 0, UInt8(available)]
        default:
            // Informational exceptions: none are reported.
            return [0x1c, 0x0a, 0x08] + [UInt8](repeating: 0, count: 9)
        }
    }
    /// Takes a page that an initiator sent; `at` is where it stands in the list.
    mutating func take(_ code: Code, _ page: [UInt8], at place: Int) throws(Sense) {
        let (now, mask) = (bytes(code, .current), bytes(code, .changeable))
        guard page.count == now.count else { throw .invalidParameter(place + 1) }
        for index in (code.subpage == 0 ? 2 : 4)..<page.count {
            guard (page[index] ^ now[index]) & ~mask[index] == 0 else {
                throw .invalidParameter(place + index)
            }
        }
        guard code.page == 0x0a, code.subpage == 0 else { return }
        shared.usesDescriptorSense = page[2] & 0x04 != 0
        shared.isWriteProtected = page[4] & 0x08 != 0
    }
}

extension LogicalUnit {
    func modeSense(_ request: Request) throws(Sense) -> [UInt8] {
        let isShort = request.operation == .modeSense6
        guard let control = ModePages.Control(rawValue: request.cdb[2] >> 6), control != .saved else {
            throw Sense(.illegalRequest, .savingNotSupported)
        }
        let (page, subpage) = (request.cdb[2] & 0x3f, request.cdb[3])
        let wanted = modes.codes.filter { code in
            if page == 0x3f { return subpage == 0xff || subpage == 0 && code.subpage == 0 }
            return code.page == page && (subpage == 0xff || code.subpage == subpage)
        }
        guard !wanted.isEmpty else {
            let isPageKnown = page == 0x3f || modes.codes.contains { $0.page == page }
            throw isPageKnown ? .invalidField(3) : .invalidField(2, bit: 5)
        }
        let isLong = !isShort && request.has(0x10, at: 1)
        let descriptor = request.has(0x08, at: 1) ? [] : blockDescriptor(isLong: isLong)
        let pages = wanted.flatMap { modes.bytes($0, control) }
        // WP; and DPO and FUA are taken.
        let isProtected = configuration.isReadOnly || modes.isWriteProtected || request.right != .writes
        let specific: UInt8 = (isProtected ? 0x80 : 0) | 0x10
        var bytes: [UInt8] = []
        if isShort {
            bytes += [
                UInt8(clamping: 3 + descriptor.count + pages.count), 0, specific, UInt8(descriptor.count),
            ]
        } else {
            bytes.append(bigEndian: UInt16(6 + descriptor.count + pages.count))
            bytes += [0, specific, isLong && !descriptor.isEmpty ? 1 : 0, 0, 0, UInt8(descriptor.count)]
        }
        return bytes + descriptor + pages
    }
    private func blockDescriptor(isLong: Bool) -> [UInt8] {
        var bytes: [UInt8] = []
        if isLong {
            bytes.append(bigEndian: blockCount)
            bytes.append(bigEndian: UInt32(0))
        } else {
            bytes.append(bigEndian: UInt32(clamping: blockCount))
        }
        bytes.append(bigEndian: UInt32(blockBytes))
        return bytes
    }

    mutating func modeSelect(_ request: Request, effects: inout [Effect]) throws(Sense) {
        guard request.has(0x10, at: 1) else { throw .invalidField(1, bit: 4) }
        guard !request.has(0x01, at: 1) else { throw .invalidField(1, bit: 0) }
        guard request.wantedOutBytes > 0 else { return answer(request, effects: &effects) }
        let list = request.parameters(limits)
        guard list.count == request.wantedOutBytes else { throw .shortParameters }
        let isShort = request.operation == .modeSelect6
        let headerBytes = isShort ? 4 : 8
        guard list.count >= headerBytes else { throw .shortParameters }
        let descriptorBytes = isShort ? Int(list[3]) : list.half(at: 6)
        guard list.count >= headerBytes + descriptorBytes else { throw .shortParameters }
        let isLong = !isShort && list[4] & 1 != 0
        try checkDescriptor(list, at: headerBytes, bytes: descriptorBytes, isLong: isLong)
        var next = modes
        var at = headerBytes + descriptorBytes
        while at < list.count {
            let hasSubpage = list[at] & 0x40 != 0
            guard list.count - at >= (hasSubpage ? 4 : 2) else { throw .shortParameters }
            let code = ModePages.Code(page: list[at] & 0x3f, subpage: hasSubpage ? list[at + 1] : 0)
            guard modes.codes.contains(code) else { throw .invalidParameter(at, bit: 5) }
            let bytes = hasSubpage ? 4 + list.half(at: at + 2) : 2 + Int(list[at + 1])
            guard list.count - at >= bytes else { throw .shortParameters }
            try next.take(code, Array(list[at..<(at + bytes)]), at: at)
            at += bytes
        }
        guard next != modes else { return answer(request, effects: &effects) }
        change(.selectModes(next.shared), request, effects: &effects)
    }
    /// The block descriptor may say what is so, and nothing else.
    private func checkDescriptor(
        _ list: [UInt8], at start: Int, bytes: Int, isLong: Bool
    ) throws(Sense) {
        guard bytes > 0 else { return }
        guard bytes == (isLong ? 16 : 8) else { throw .invalidParameter(start - 1) }
        let count = isLong ? list.long(at: start) : UInt64(list.word(at: start))
        let isAll = isLong ? count == UInt64.max : count == UInt64(UInt32.max)
        let told = isLong ? blockCount : min(blockCount, UInt64(UInt32.max))
        guard count == 0 || isAll || count == told else { throw .invalidParameter(start) }
        let length = isLong ? Int(list.word(at: start + 12)) : Int(list.number(at: start + 5, bytes: 3))
        guard length == blockBytes else { throw .invalidParameter(start + (isLong ? 12 : 5)) }
    }
}
