import BlockTypes
import Environment

/// A device that loses what it may lose: at a power cut any subset of the sectors that were not flushed goes
/// back to what it was, requests in flight land in part, and completions come in any order.
package final class CrashDisk {
    package let geometry: DiskGeometry
    private let memory: BlockBuffer
    /// What a sector held when it was last durable, for sectors written since.
    private var undo: [Int: [UInt8]] = [:]
    private var inFlight: [DiskRequest] = []
    /// Bytes written so far.
    package private(set) var writtenBytes = 0
    package private(set) var flushes = 0
    /// Answers writes of these device blocks with an error.
    package var failing: [UInt64: DiskError] = [:]
    /// Flushes fail, and nobody knows what is durable.
    package var failsFlushes = false

    package init(_ geometry: DiskGeometry) {
        self.geometry = geometry
        memory = BlockBuffer(byteCount: Int(geometry.size.bytes))
        memory.bytes.initializeMemory(as: UInt8.self, repeating: 0)
    }
    package var hasWork: Bool { !inFlight.isEmpty }
    package var requestsInFlight: Int { inFlight.count }

    package func submit(_ request: DiskRequest) {
        if case .discard(_, let at, let length) = request { scramble(Int(at.bytes), Int(length.bytes)) }
        inFlight.append(request)
    }
    /// Finishes one request, any of them.
    package func completeOne(_ random: inout SeededRandom) -> (DiskToken, Result<Void, DiskError>)? {
        guard !inFlight.isEmpty else { return nil }
        // Mostly in order: bursts that keep their order are what devices do.
        let place = random.oneIn(3) ? Int.random(in: 0..<inFlight.count, using: &random) : 0
        let request = inFlight.remove(at: place)
        return (request.token, perform(request))
    }
    private func perform(_ request: DiskRequest) -> Result<Void, DiskError> {
        switch request {
        case .read(_, let at, let into):
            for block in stride(from: at.bytes / 4096, to: (at.bytes + UInt64(into.byteCount)) / 4096, by: 1)
            {
                if let error = failing[block | 1 << 63] { return .failure(error) }
            }
            let source = UnsafeRawBufferPointer(memory.bytes)[
                Int(at.bytes)..<(Int(at.bytes) + into.byteCount)]
            UnsafeMutableRawBufferPointer(
                rebasing: into.buffer.bytes[into.startByte..<(into.startByte + into.byteCount)]
            ).copyMemory(from: UnsafeRawBufferPointer(rebasing: source))
        case .write(_, let at, let payloads):
            let length = payloads.reduce(0) { $0 + $1.byteCount }
            for block in (at.bytes / 4096)..<((at.bytes + UInt64(length) + 4095) / 4096) {
                if let error = failing[block] { return .failure(error) }
            }
            writtenBytes += length
            var start = Int(at.bytes)
            for payload in payloads {
                if geometry.hasVolatileCache { remember(start, payload.byteCount) }
                copy(payload, to: start)
                start += payload.byteCount
            }
        case .flush:
            guard !failsFlushes else { return .failure(.io(errno: 5)) }
            flushes += 1
            undo = [:]
        case .discard: break
        }
        return .success(())
    }
    private func copy(_ payload: Payload, to start: Int) {
        payload.withBytes {
            UnsafeMutableRawBufferPointer(rebasing: memory.bytes[start..<(start + payload.byteCount)])
                .copyMemory(from: $0)
        }
    }
    private func scramble(_ start: Int, _ length: Int) {
        UnsafeMutableRawBufferPointer(rebasing: memory.bytes[start..<(start + length)])
            .initializeMemory(as: UInt8.self, repeating: 0xDD)
    }
    private func remember(_ start: Int, _ length: Int) {
        let sector = geometry.sectorBytes
        for number in (start / sector)..<((start + length + sector - 1) / sector) where undo[number] == nil {
            undo[number] = Array(memory.bytes[(number * sector)..<((number + 1) * sector)])
        }
    }
    /// The process dies; what the device has stays, durable or not. Requests in flight land in part.
    package func killProcess(_ random: inout SeededRandom) {
        land(&random)
        inFlight = []
    }
    /// The power fails.
    package func cutPower(_ random: inout SeededRandom) {
        land(&random)
        inFlight = []
        let sector = geometry.sectorBytes
        let loses = Int.random(in: 0...4, using: &random)
        for number in undo.keys.sorted() {
            guard let old = undo[number], Int.random(in: 0..<4, using: &random) < loses else { continue }
            old.withUnsafeBytes {
                UnsafeMutableRawBufferPointer(
                    rebasing: memory.bytes[(number * sector)..<((number + 1) * sector)]
                ).copyMemory(from: $0)
            }
        }
        undo = [:]
    }
    private func land(_ random: inout SeededRandom) {
        let lands = Int.random(in: 0...4, using: &random)
        for case .write(_, let at, let payloads) in inFlight {
            var start = Int(at.bytes)
            for payload in payloads {
                for piece in stride(from: 0, to: payload.byteCount, by: geometry.sectorBytes)
                where Int.random(in: 0..<4, using: &random) < lands {
                    if geometry.hasVolatileCache { remember(start + piece, geometry.sectorBytes) }
                    copy(payload.slice(piece, geometry.sectorBytes), to: start + piece)
                }
                start += payload.byteCount
            }
        }
    }
    /// Flips a bit: media corruption.
    package func flipBit(at byte: Int) { memory.bytes[byte] ^= 1 }
    /// The bytes of a device block.
    package func block(_ number: UInt64) -> [UInt8] {
        Array(memory.bytes[Int(number * 4096)..<Int(number * 4096 + 4096)])
    }
}
