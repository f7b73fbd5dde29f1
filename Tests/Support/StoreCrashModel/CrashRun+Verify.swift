import BlockTypes

import ChunkStore

extension CrashRun {
    func fail(_ why: String) { failure = failure ?? why }

    func handle(_ effect: StoreEffect) {
        switch effect {
        case .disk(let request): disk.submit(request)
        case .opened: isOpen = true
        case .openFailed(let error): fail("open failed: \(error)")
        case .closed: isClosed = true
        case .failStop(let why): fail("fail-stop: \(why)")
        case .copysetRefused(let id, let why): fail("copyset \(id) refused: \(why)")
        case .copysetCreated(let id): model[place(id)].isCreated = true
        case .stored(let id, let through): stored(place(id), through)
        case .voteStored(let id, let term):
            let number = place(id)
            model[number].storedVote = max(model[number].storedVote, term)
        case .truncated(let id, _):
            guard let first = older[id]?.firstIndex(where: { !$0.wasCopied }) else { break }
            older[id]?.removeSubrange(0...first)
        case .applied(let id, let through):
            let number = place(id)
            if Int(through.rawValue) > model[number].told {
                fail("applied \(through), told \(model[number].told)")
            }
        case .readCompleted(let ticket, let result): readCompleted(ticket, result)
        case .entriesLoaded(let ticket, let entries): loaded(ticket, entries)
        case .logStart, .syncPieceRead: break
        case .syncBegun(let id):
            if let last = older[id]?.lastIndex(where: { $0.wasCopied }) {
                older[id]?.removeSubrange(0...last)
            }
            if case .beginning = model[place(id)].sync { model[place(id)].sync = .ready(.start) }
        case .pieceInstalled(let id): pieceInstalled(place(id))
        case .syncFinished(let id): syncFinished(place(id))
        }
    }
    private func place(_ id: CopysetID) -> Int { Int(id.rawValue) - 1 }

    private func stored(_ number: Int, _ through: LogPosition) {
        let index = Int(through.index.rawValue)
        guard index <= model[number].sent.count, model[number].sent[index - 1].term == through.term.rawValue
        else {
            return fail("stored \(through), which was never sent")
        }
        model[number].reachedTerm = max(model[number].reachedTerm, through.term)
        // What a replica stores while it is copied does not count.
        if !model[number].isSyncing { model[number].acknowledged = max(model[number].acknowledged, index) }
    }
    private func readCompleted(_ ticket: UInt64, _ result: Result<StoreRead, StoreReadError>) {
        guard case .read(let number, let run, let wanted)? = expectations.removeValue(forKey: ticket) else {
            return
        }
        guard case .success(let read) = result else {
            return fail("copyset \(number) read \(run): \(result)")
        }
        var found: [UInt64?] = []
        for segment in read.segments {
            switch segment {
            case .zeroes(let bytes), .stored(let bytes):
                found.append(contentsOf: repeatElement(nil, count: bytes / 4096))
            case .data(let payload):
                for block in 0..<(payload.byteCount / 4096) {
                    guard let id = ModelBytes.id(of: payload, block: block) else {
                        return fail("copyset \(number) read \(run): torn block \(block)")
                    }
                    found.append(id)
                }
            }
        }
        if found != wanted { fail("copyset \(number) read \(run): found \(found), wanted \(wanted)") }
    }
    private func loaded(_ ticket: UInt64, _ entries: [LogEntry]) {
        guard case .entries(let number, let from)? = expectations.removeValue(forKey: ticket) else { return }
        for (offset, entry) in entries.enumerated() {
            let index = from + offset
            // A truncation may have come in between.
            guard index <= model[number].sent.count else { return }
            let wanted = model[number].sent[index - 1]
            guard entry.position.term.rawValue == wanted.term else { return }
            guard Int(entry.position.index.rawValue) == index else {
                return fail("copyset \(number) loaded \(entry.position) at \(index)")
            }
            if case .write(_, _, let ids) = wanted.change,
                case .write(_, _, _, _, let payload) = entry.operation
            {
                let found = ids.indices.map { ModelBytes.id(of: payload, block: $0) }
                if found != ids { fail("copyset \(number) loaded \(index): \(found), wanted \(ids)") }
            }
        }
    }

    // MARK: After each opening

    /// Everything acknowledged is there, nothing was made up, the map is the model's at the applied index.
    func verify() {
        for number in model.indices {
            guard let state = store.state(of: model[number].id) else {
                if model[number].isCreated { fail("copyset \(number) is gone") }
                model[number].sent = []
                continue
            }
            model[number].isCreated = true
            let wasSyncing = model[number].isSyncing
            model[number].sync = .none
            if state.isSyncing {
                guard wasSyncing, !state.isFaulty else {
                    fail("copyset \(number) lost what was durable: \(state)")
                    return
                }
                // Starts over with a new offer.
                model[number].sent = []
                older[model[number].id] = []
                model[number].told = 0
                verifyVote(number, state)
                beginSync(number)
                continue
            }
            verifyLog(number, state)
            if failure != nil { return }
            verifyVote(number, state)
            model[number].told = Int(state.applied.rawValue)
            let contents = self.state(number, through: Int(state.applied.rawValue))
            for volume in 1...2 {
                for (index, first) in [(UInt32(0), 0), (0, 500), (1, 0), (1, 500)] {
                    let chunk = ChunkKey(volume: VolumeID(UInt64(volume)), index: index)
                    expectRead(number, ModelRun(chunk: chunk, first: first, count: 50).run, contents)
                }
                let wanted = contents.volumes[UInt64(volume)]
                let record = store.volumeRecord(model[number].id, VolumeID(UInt64(volume)))
                if wanted?.epoch != record?.fence.epoch.rawValue || wanted?.isDeleted != record?.isDeleted
                    || wanted?.size != record?.fence.size.bytes || wanted?.change != record?.fence.change
                {
                    fail("copyset \(number) volume \(volume): \(String(describing: record?.fence))")
                }
            }
        }
        drain()
        if failure == nil, let problem = store.audit() { fail("after opening: \(problem)") }
        for number in model.indices { tellCommit(number) }
    }
    private func verifyLog(_ number: Int, _ state: CopysetState) {
        let last = Int(state.last.index.rawValue)
        let applied = Int(state.applied.rawValue)
        if state.isSyncing || state.isFaulty {
            return fail("copyset \(number) lost what was durable: \(state)")
        }
        if last < model[number].acknowledged {
            return fail("copyset \(number) has \(last), acknowledged \(model[number].acknowledged)")
        }
        if applied > model[number].told { return fail("applied \(applied), told \(model[number].told)") }
        let base = Int(state.base.index.rawValue)
        var terms: [UInt32] = []
        for (place, start) in state.termStarts.enumerated() {
            let end =
                place + 1 < state.termStarts.count
                ? Int(state.termStarts[place + 1].index.rawValue) : last + 1
            terms.append(
                contentsOf: repeatElement(start.term.rawValue, count: end - Int(start.index.rawValue)))
        }
        let versions = [model[number].sent] + (older[model[number].id] ?? []).reversed().map(\.log)
        let match = versions.first { version in
            version.count >= last && version[base..<last].map(\.term) == terms
                && (base == 0 || version[base - 1].term == state.base.term.rawValue)
        }
        guard let match else {
            return fail("copyset \(number) has a log that nobody sent: \(base)+\(terms)")
        }
        model[number].sent = Array(match.prefix(last))
        model[number].acknowledged = min(model[number].acknowledged, last)
        older[model[number].id] = []
    }
    private func verifyVote(_ number: Int, _ state: CopysetState) {
        if state.term < model[number].storedVote {
            return fail("copyset \(number) forgot its vote in \(model[number].storedVote)")
        }
        if state.term == model[number].vote.0, state.votedFor != model[number].vote.1 {
            return fail("copyset \(number) voted for somebody else")
        }
        model[number].vote.0 = max(model[number].vote.0, state.term)
    }
}
