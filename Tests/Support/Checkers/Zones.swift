/// All operations of one value, as one span of time (Gibbons and Korach, "Testing shared memories", 1997).
private struct Zone {
    let value: UInt64
    var leastFinish: UInt64
    var greatestStart: UInt64
    /// Forward: the value must be there from the first answer to the last question. Backward: all its
    /// operations overlap, so it may have come and gone at one moment between `low` and `high`.
    var isForward: Bool { leastFinish < greatestStart }
    var low: UInt64 { min(leastFinish, greatestStart) }
    var high: UInt64 { max(leastFinish, greatestStart) }
}

/// Exact when each value is written at most once, the initial zero included: O(n log n).
func checkZones(_ operations: [RegisterOperation]) -> RegisterVerdict {
    var writeStart: [UInt64: UInt64] = [:]
    var zones: [UInt64: Zone] = [:]
    var isZeroWritten = false
    for operation in operations where operation.kind == .write {
        precondition(writeStart[operation.value] == nil, "value \(operation.value) was written twice")
        writeStart[operation.value] = operation.start
        zones[operation.value] = Zone(
            value: operation.value, leastFinish: operation.finish, greatestStart: operation.start)
        if operation.value == 0 { isZeroWritten = true }
    }
    if !isZeroWritten {
        writeStart[0] = 0
        zones[0] = Zone(value: 0, leastFinish: 0, greatestStart: 0)
    }
    for operation in operations where operation.kind == .read {
        guard let written = writeStart[operation.value], var zone = zones[operation.value] else {
            return violation(.unknownValue, [operation.value], operation.finish)
        }
        guard written < operation.finish else {
            return violation(.readBeforeWrite, [operation.value], operation.finish)
        }
        zone.leastFinish = min(zone.leastFinish, operation.finish)
        zone.greatestStart = max(zone.greatestStart, operation.start)
        zones[operation.value] = zone
    }
    return judge(zones.values.sorted { ($0.low, $0.value) < ($1.low, $1.value) })
}

/// - Parameter zones: by their low ends.
private func judge(_ zones: [Zone]) -> RegisterVerdict {
    let forward = zones.filter(\.isForward)
    for (earlier, later) in zip(forward, forward.dropFirst()) where later.low < earlier.high {
        return violation(.overlappingValues, [earlier.value, later.value], later.low)
    }
    // The forward zones are disjoint and sorted, so at most one can hold a given backward zone.
    var next = 0
    for zone in zones where !zone.isForward {
        while next < forward.count, forward[next].high <= zone.low { next += 1 }
        guard next < forward.count else { break }
        if forward[next].low < zone.low, zone.high < forward[next].high {
            return violation(.valueInsideAnother, [zone.value, forward[next].value], zone.low)
        }
    }
    return .linearizable
}

func violation(_ cause: RegisterViolation.Cause, _ values: [UInt64], _ at: UInt64) -> RegisterVerdict {
    .violated(RegisterViolation(cause: cause, values: values, at: at))
}
