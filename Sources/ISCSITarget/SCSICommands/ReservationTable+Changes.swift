/// What an initiator wants changed (SPC-5, section 6.17; SPC-2 for the simple pair).
public enum ReservationRequest: Hashable, Sendable {
    /// Take a key, change it, or give it up (0). With `ignoringKey` the old key does not matter.
    case register(key: UInt64, newKey: UInt64, ignoringKey: Bool, persists: Bool)
    /// Hold the logical unit.
    case reserve(key: UInt64, type: ReservationType)
    /// Give it up.
    case release(key: UInt64, type: ReservationType)
    /// End the reservation and all registrations.
    case clear(key: UInt64)
    /// Remove those with a key, and take over the reservation when they hold it.
    case preempt(key: UInt64, victimKey: UInt64, type: ReservationType, aborting: Bool)
    /// RESERVE(6).
    case simpleReserve
    /// RELEASE(6).
    case simpleRelease
    /// LOGICAL UNIT RESET and its greater kin.
    case reset(UnitReset)
    /// MODE SELECT.
    case selectModes(SharedModes)
    /// SANITIZE: the gateway of the party begins to overwrite the blocks.
    case startSanitize(allowsExit: Bool)
    /// It has done so, or failed to.
    case endSanitize(hasFailed: Bool)
    /// EXIT FAILURE MODE.
    case exitSanitizeFailure
    /// START STOP UNIT with LOEJ: the medium is put in, or taken out.
    case loadMedium(Bool)
    /// PREVENT ALLOW: the gateway of the party has an initiator who prevents removal, or none any more.
    case preventRemoval(Bool)
}

/// What resets a logical unit.
public enum UnitReset: Hashable, Sendable {
    /// LOGICAL UNIT RESET.
    case unit
    /// TARGET WARM RESET.
    case target
    /// TARGET COLD RESET.
    case powerOn

    var notice: ReservationTable.Notice.Kind {
        switch self {
        case .unit: .unitReset
        case .target: .targetReset
        case .powerOn: .powerOn
        }
    }
}

/// Why a change of reservations is refused.
public enum ReservationRefusal: Error, Hashable, Sendable {
    /// Answered with RESERVATION CONFLICT.
    case conflict
    /// A parameter cannot be.
    case invalidParameter
    /// RELEASE with another type than what is held.
    case invalidRelease
    /// The table is full.
    case noRoom
    /// A sanitize operation is under way.
    case sanitizing
    /// One has failed, and may not be left.
    case sanitizeFailed
    /// Somebody prevents removal of the medium.
    case removalPrevented
}

extension ReservationTable {
    /// The table after `request` of `party`. Equal to this one, version and all, when nothing changes.
    public func applying(
        _ request: ReservationRequest, from party: ReservationParty, registrationsMax: Int
    ) throws(ReservationRefusal) -> ReservationTable {
        var next = self
        switch request {
        case .simpleReserve: try next.simpleReserve(party)
        case .simpleRelease: next.simpleRelease(party)
        case .reset(let reset):
            (next.simpleHolder, next.modes, next.preventingPorts) = (nil, SharedModes(), [])
            next.notify(party, reset.notice)
        case .selectModes(let modes):
            if modes != next.modes { next.notify(party, .modesChanged) }
            next.modes = modes
        case .startSanitize, .endSanitize, .exitSanitizeFailure: try next.sanitize(request, party)
        case .loadMedium, .preventRemoval: try next.move(request, party)
        case .register, .reserve, .release, .clear, .preempt:
            // SPC-2, section 5.5.1: a simple reservation shuts out persistent ones, of its holder too.
            guard simpleHolder == nil else { throw .conflict }
            try next.change(request, party, registrationsMax)
        }
        guard next != self else { return self }
        next.version += 1
        for index in next.notices.indices where next.notices[index].version == 0 {
            let pending = next.notices[index]
            next.notices[index] = Notice(version: next.version, party: pending.party, kind: pending.kind)
        }
        if next.notices.count > Self.noticesMax {
            next.notices.removeFirst(next.notices.count - Self.noticesMax)
        }
        return next
    }
    private mutating func change(
        _ request: ReservationRequest, _ party: ReservationParty, _ registrationsMax: Int
    ) throws(ReservationRefusal) {
        switch request {
        case .register(let key, let newKey, let ignoringKey, let persists):
            try register(party, key, newKey, ignoringKey, persists, registrationsMax)
        case .reserve(let key, let type): try reserve(party, key, type)
        case .release(let key, let type): try release(party, key, type)
        case .clear(let key): try clear(party, key)
        case .preempt(let key, let victimKey, let type, let aborting):
            try preempt(party, key, victimKey, type, aborting)
        case .simpleReserve, .simpleRelease, .reset, .selectModes, .startSanitize, .endSanitize,
            .exitSanitizeFailure, .loadMedium, .preventRemoval:
            break
        }
    }

    private mutating func sanitize(
        _ request: ReservationRequest, _ party: ReservationParty
    ) throws(ReservationRefusal) {
        switch (request, sanitize) {
        case (.endSanitize(let hasFailed), .running(port: party.targetPort, let allowsExit)):
            sanitize = hasFailed ? .failed(allowsExit: allowsExit) : .none
        // Somebody else has said that it failed.
        case (.endSanitize, _): break
        case (_, .running): throw .sanitizing
        case (.startSanitize(allowsExit: true), .failed(allowsExit: false)): throw .sanitizeFailed
        case (.startSanitize(let allowsExit), _):
            sanitize = .running(port: party.targetPort, allowsExit: allowsExit)
        case (_, .failed(let allowsExit)):
            guard allowsExit else { throw .sanitizeFailed }
            sanitize = .none
        case (_, .none): break
        }
    }
    private mutating func move(
        _ request: ReservationRequest, _ party: ReservationParty
    ) throws(ReservationRefusal) {
        switch request {
        case .loadMedium(let isLoaded):
            // A lock holds what moves the medium, in either direction.
            guard preventingPorts.isEmpty else { throw .removalPrevented }
            if isLoaded, isEjected { notify(party, .mediumLoaded) }
            isEjected = !isLoaded
        case .preventRemoval(let isPrevented):
            let others = preventingPorts.filter { $0 != party.targetPort }
            preventingPorts = isPrevented ? (others + [party.targetPort]).sorted() : others
        default: break
        }
    }

    /// SPC-2 against a persistent reservation, as CRH of REPORT CAPABILITIES promises: whoever has the access
    /// anyway is told that it is well, and nothing changes.
    private mutating func simpleReserve(_ party: ReservationParty) throws(ReservationRefusal) {
        if !registrations.isEmpty {
            guard let holding else {
                guard key(of: party) != nil else { throw .conflict }
                return
            }
            guard holds(party) || holding.type.isForRegistrants && key(of: party) != nil else {
                throw .conflict
            }
            return
        }
        guard simpleHolder == nil || simpleHolder == party else { throw .conflict }
        simpleHolder = party
    }
    private mutating func simpleRelease(_ party: ReservationParty) {
        if simpleHolder == party { simpleHolder = nil }
    }

    private mutating func register(
        _ party: ReservationParty, _ key: UInt64, _ newKey: UInt64, _ ignoringKey: Bool, _ persists: Bool,
        _ registrationsMax: Int
    ) throws(ReservationRefusal) {
        let known = self.key(of: party)
        if !ignoringKey {
            guard key == known ?? 0 else { throw .conflict }
        }
        if let known {
            if newKey == 0 {
                unregister(party)
            } else if newKey != known, let index = registrations.firstIndex(where: { $0.party == party }) {
                registrations[index] = Registration(party: party, key: newKey)
            }
        } else {
            guard newKey != 0 else { return }
            guard registrations.count < registrationsMax else { throw .noRoom }
            registrations.append(Registration(party: party, key: newKey))
        }
        persistsThroughPowerLoss = persists && !registrations.isEmpty
        generation &+= 1
    }
    /// SPC-5, section 5.13.11.3: a holder that leaves ends the reservation, unless others hold it too.
    private mutating func unregister(_ party: ReservationParty) {
        let held = holds(party) ? holding : nil
        registrations.removeAll { $0.party == party }
        guard let held else { return }
        if held.type.isHeldByAll {
            if registrations.isEmpty { holding = nil }
            return
        }
        holding = nil
        guard held.type.isForRegistrants else { return }
        for other in registrations { notify(other.party, .reservationReleased) }
    }
    private func proveKey(_ party: ReservationParty, _ key: UInt64) throws(ReservationRefusal) {
        guard let known = self.key(of: party), known == key else { throw .conflict }
    }
    private mutating func reserve(
        _ party: ReservationParty, _ key: UInt64, _ type: ReservationType
    ) throws(ReservationRefusal) {
        try proveKey(party, key)
        if let holding {
            guard holds(party), holding.type == type else { throw .conflict }
            return
        }
        holding = Holding(type: type, holder: type.isHeldByAll ? nil : party)
    }
    private mutating func release(
        _ party: ReservationParty, _ key: UInt64, _ type: ReservationType
    ) throws(ReservationRefusal) {
        try proveKey(party, key)
        guard let held = holding, holds(party) else { return }
        guard held.type == type else { throw .invalidRelease }
        holding = nil
        guard held.type.isForRegistrants else { return }
        for other in registrations where other.party != party { notify(other.party, .reservationReleased) }
    }
    private mutating func clear(_ party: ReservationParty, _ key: UInt64) throws(ReservationRefusal) {
        try proveKey(party, key)
        for other in registrations where other.party != party { notify(other.party, .reservationPreempted) }
        (registrations, holding, persistsThroughPowerLoss) = ([], nil, false)
        generation &+= 1
    }
    /// SPC-5, section 5.13.11.4, and its table of cases.
    private mutating func preempt(
        _ party: ReservationParty, _ key: UInt64, _ victimKey: UInt64, _ type: ReservationType,
        _ aborting: Bool
    ) throws(ReservationRefusal) {
        try proveKey(party, key)
        let takesOver: Bool
        if let holding, holding.type.isHeldByAll {
            takesOver = victimKey == 0
        } else if let holding {
            guard victimKey != 0 else { throw .invalidParameter }
            takesOver = holding.holder.flatMap { self.key(of: $0) } == victimKey
        } else {
            guard victimKey != 0 else { throw .invalidParameter }
            takesOver = false
        }
        let isVictim: (Registration) -> Bool =
            takesOver && victimKey == 0 ? { $0.party != party } : { $0.key == victimKey && $0.party != party }
        let victims = registrations.filter(isVictim).map(\.party)
        let isThere = registrations.contains { $0.key == victimKey }
        guard takesOver || isThere else { throw .conflict }
        registrations.removeAll { victims.contains($0.party) }
        for victim in victims { notify(victim, aborting ? .aborted : .registrationPreempted) }
        if let held = holding, takesOver {
            holding = Holding(type: type, holder: type.isHeldByAll ? nil : party)
            if held.type != type {
                for other in registrations where other.party != party {
                    notify(other.party, .reservationReleased)
                }
            }
        }
        // Its own key as the victim's, without anything to take over: it removes itself too.
        if !takesOver, victimKey == key { unregister(party) }
        generation &+= 1
    }
    /// Version 0 until the change as a whole has its number.
    private mutating func notify(_ party: ReservationParty, _ kind: Notice.Kind) {
        notices.append(Notice(version: 0, party: party, kind: kind))
    }
}
