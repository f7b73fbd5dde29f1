import BlockTypes

extension [UInt8] {
    func half(at start: Int) -> Int { Int(number(at: start, bytes: 2)) }
    func word(at start: Int) -> UInt32 { UInt32(truncatingIfNeeded: number(at: start, bytes: 4)) }
    func long(at start: Int) -> UInt64 { number(at: start, bytes: 8) }

    /// Appends `text`, cut or filled with spaces to `width` bytes of printable ASCII.
    mutating func append(_ text: String, width: Int) {
        let bytes = text.utf8.prefix(width).map { $0 >= 0x20 && $0 < 0x7f ? $0 : 0x20 }
        append(contentsOf: bytes)
        append(contentsOf: repeatElement(0x20, count: width - bytes.count))
    }
}

/// Runs of bytes, one after the other, read word by word.
struct ByteRuns {
    private var runs: [ReadSegment]
    private var index = 0
    private var usedBytes = 0

    init(_ runs: [ReadSegment]) { self.runs = runs.filter { $0.byteCount > 0 } }
    init(_ payloads: [Payload]) { self.init(payloads.map { .data($0) }) }

    /// The rest of the current run, at most `max` bytes; nil stands for zeroes.
    mutating func next(atMost max: Int) -> (payload: Payload?, byteCount: Int)? {
        guard index < runs.count else { return nil }
        let run = runs[index]
        let count = min(run.byteCount - usedBytes, max)
        let part: Payload? = if case .data(let payload) = run { payload.slice(usedBytes, count) } else { nil }
        usedBytes += count
        if usedBytes == run.byteCount { (index, usedBytes) = (index + 1, 0) }
        return (part, count)
    }
    var leftInRun: Int { index < runs.count ? runs[index].byteCount - usedBytes : 0 }

    /// Where the two first differ, in bytes; nil when they are equal as far as both go.
    static func firstDifference(_ left: [ReadSegment], _ right: [Payload]) -> Int? {
        var (a, b) = (ByteRuns(left), ByteRuns(right))
        var position = 0
        while a.leftInRun > 0, b.leftInRun > 0 {
            let step = min(a.leftInRun, b.leftInRun)
            guard let mine = a.next(atMost: step), let theirs = b.next(atMost: step) else { break }
            if let found = difference(mine.payload, theirs.payload, step) { return position + found }
            position += step
        }
        return nil
    }
    private static func difference(_ left: Payload?, _ right: Payload?, _ count: Int) -> Int? {
        switch (left, right) {
        case (nil, nil): return nil
        case (.some(let data), nil), (nil, .some(let data)):
            // SAFETY: indices below `count`, which both have.
            return unsafe data.withBytes { bytes in
                var index = 0
                while index + 8 <= count {
                    if unsafe bytes.loadUnaligned(fromByteOffset: index, as: UInt64.self) != 0 { break }
                    index += 8
                }
                while index < count {
                    if unsafe bytes[index] != 0 { return index }
                    index += 1
                }
                return nil
            }
        case (.some(let left), .some(let right)):
            // SAFETY: as above.
            return unsafe left.withBytes { a in
                unsafe right.withBytes { b in
                    var index = 0
                    while index + 8 <= count {
                        let x = unsafe a.loadUnaligned(fromByteOffset: index, as: UInt64.self)
                        let y = unsafe b.loadUnaligned(fromByteOffset: index, as: UInt64.self)
                        if x != y { break }
                        index += 8
                    }
                    while index < count {
                        if unsafe a[index] != b[index] { return index }
                        index += 1
                    }
                    return nil
                }
            }
        }
    }

    /// The OR of what is stored and what was sent, of `byteCount` bytes.
    static func union(_ left: [ReadSegment], _ right: [Payload], byteCount: Int) -> Payload {
        let buffer = BlockBuffer(byteCount: max(byteCount, 1))
        var (a, b) = (ByteRuns(left), ByteRuns(right))
        var position = 0
        while position < byteCount, a.leftInRun > 0, b.leftInRun > 0 {
            let step = min(a.leftInRun, b.leftInRun, byteCount - position)
            guard let mine = a.next(atMost: step), let theirs = b.next(atMost: step) else { break }
            let (x, y) = (mine.payload?.array, theirs.payload?.array)
            for index in 0..<step {
                // SAFETY: `position + index` is below `byteCount`; the buffer is not shared yet.
                unsafe buffer.bytes[position + index] = (x?[index] ?? 0) | (y?[index] ?? 0)
            }
            position += step
        }
        invariant(position == byteCount, "an OR of \(byteCount) bytes got \(position)")
        return Payload(buffer, byteCount: byteCount)
    }

    /// `pattern` again and again, `byteCount` bytes in all.
    static func repeated(_ pattern: [UInt8], byteCount: Int) -> Payload {
        let buffer = BlockBuffer(byteCount: max(byteCount, 1))
        var filled = min(pattern.count, byteCount)
        // SAFETY: both ends of each copy lie below `byteCount`; the buffer is not shared yet.
        for index in 0..<filled { unsafe buffer.bytes[index] = pattern[index] }
        // What is there is doubled; a whole number of patterns, until the end cuts the last.
        while filled < byteCount {
            let step = min(filled, byteCount - filled)
            let source = unsafe UnsafeRawBufferPointer(rebasing: buffer.bytes[0..<step])
            unsafe UnsafeMutableRawBufferPointer(rebasing: buffer.bytes[filled..<(filled + step)])
                .copyMemory(from: source)
            filled += step
        }
        return Payload(buffer, byteCount: byteCount)
    }
    /// The first `max` bytes of the payloads in one array.
    static func gather(_ payloads: [Payload], atMost max: Int) -> [UInt8] {
        var bytes: [UInt8] = []
        for payload in payloads where bytes.count < max {
            bytes += payload.slice(0, min(payload.byteCount, max - bytes.count)).array
        }
        return bytes
    }
    /// The part `[start, start + count)` of the payloads, by reference.
    static func slice(_ payloads: [Payload], _ start: Int, _ count: Int) -> [Payload] {
        var (skip, left, found) = (start, count, [Payload]())
        for payload in payloads where left > 0 {
            if skip >= payload.byteCount {
                skip -= payload.byteCount
                continue
            }
            let part = min(payload.byteCount - skip, left)
            found.append(payload.slice(skip, part))
            (skip, left) = (0, left - part)
        }
        return found
    }
}
