import BlockTypes
import ControlMessages
import CurveClient
import Environment
import Glibc
import Reactor

/// `volume-latency VOLUME fill|read|write [SECONDS]`: the client library's own latency, for
/// `tools/bench nbd`.
///
/// One request of 4 KiB at a time at random places, on a loop as `curve-nbd serve` has one. `fill` writes
/// everything once. The MDS is found by CURVE_MDS. Prints one JSON object.
final class Latency {
    private let reactor: Reactor
    private let volume: RemoteVolume
    private let isWriting: Bool
    private let end: Duration
    private var random = SystemRandomNumberGenerator()
    private let block = Payload(copying: [UInt8](repeating: 0x5a, count: 4096))
    private var nanoseconds: [Int64] = []

    init(_ reactor: Reactor, _ volume: RemoteVolume, isWriting: Bool, seconds: Int) {
        (self.reactor, self.volume, self.isWriting) = (reactor, volume, isWriting)
        end = reactor.now + .seconds(seconds)
        nanoseconds.reserveCapacity(1 << 20)
    }

    func next() {
        guard reactor.now < end else { return finish() }
        let blocks = volume.size.bytes / UInt64(block.byteCount)
        let start = ByteOffset(bytes: UInt64.random(in: 0..<blocks, using: &random) * UInt64(block.byteCount))
        let begun = ContinuousClock.now
        let request =
            isWriting
            ? VolumeRequest.write(start: start, payloads: [block])
            : .read(start: start, byteCount: block.byteCount)
        volume.submit(request) { [self] result in
            guard case .success = result else { fail("a request failed: \(result)") }
            let (seconds, attoseconds) = (ContinuousClock.now - begun).components
            nanoseconds.append(seconds * 1_000_000_000 + attoseconds / 1_000_000_000)
            next()
        }
    }
    private func finish() {
        nanoseconds.sort()
        guard !nanoseconds.isEmpty else { fail("not one answer") }
        func microseconds(_ percent: Int) -> Double {
            Double(nanoseconds[(nanoseconds.count - 1) * percent / 100]) / 1000
        }
        print(
            "{\"ios\": \(nanoseconds.count), \"p50Microseconds\": \(microseconds(50)), "
                + "\"p99Microseconds\": \(microseconds(99))}")
        leave(reactor, volume)
    }
}

/// Writes everything once.
final class Fill {
    private let reactor: Reactor
    private let volume: RemoteVolume
    private let piece = Payload(copying: [UInt8](repeating: 0x5a, count: 1 << 20))

    init(_ reactor: Reactor, _ volume: RemoteVolume) { (self.reactor, self.volume) = (reactor, volume) }

    func next(_ start: UInt64) {
        guard start < volume.size.bytes else { return leave(reactor, volume) }
        let part = piece.slice(0, Int(min(UInt64(piece.byteCount), volume.size.bytes - start)))
        volume.submit(.write(start: ByteOffset(bytes: start), payloads: [part])) { [self] result in
            guard case .success = result else { fail("a write failed: \(result)") }
            next(start + UInt64(part.byteCount))
        }
    }
}

func leave(_ reactor: Reactor, _ volume: RemoteVolume) { volume.detach { reactor.stop() } }

func fail(_ text: String) -> Never {
    let line = "volume-latency: \(text)\n"
    _ = line.utf8.withContiguousStorageIfAvailable { write(2, $0.baseAddress, $0.count) }
    exit(1)
}

let words = Array(CommandLine.arguments.dropFirst())
let seconds = words.count > 2 ? Int(words[2]) : 1
guard words.count >= 2, ["fill", "read", "write"].contains(words[1]), let seconds, seconds > 0 else {
    fail("usage: volume-latency VOLUME fill|read|write [SECONDS]")
}
guard let text = getenv("CURVE_MDS").map({ String(cString: $0) }) else { fail("CURVE_MDS is not set") }
do {
    let reactor = try Reactor()
    let options = AttachOptions(
        path: words[0].hasPrefix("/") ? words[0] : "/" + words[0],
        metadataServers: try MetadataServerList(text).addresses, holder: "volume-latency pid \(getpid())")
    RemoteVolume.attach(environment: reactor, options: options) { result in
        switch result {
        case .failure(let error): fail("\(error)")
        case .success(let volume):
            if words[1] == "fill" { return Fill(reactor, volume).next(0) }
            Latency(reactor, volume, isWriting: words[1] == "write", seconds: seconds).next()
        }
    }
    reactor.run()
} catch { fail("\(error)") }
