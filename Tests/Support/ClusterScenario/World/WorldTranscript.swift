import BlockTypes
import ControlMessages
import CurveClient
import CurveWire
import Environment
import Simulation

/// Protocols between clients, metadata server and chunkservers, played without accidents, for people to read.
public enum WorldTranscript: String, CaseIterable, Sendable {
    case takeover
    case resize
    case trimAndReuse = "trim-and-reuse"
    case clonedStore = "cloned-store"

    /// What it shows.
    public var title: String {
        switch self {
        case .takeover: "A second client takes a volume over; the first one's next write is refused."
        case .resize:
            "The holder grows its volume and shrinks it again; what was cut off is zeroes afterwards."
        case .trimAndReuse:
            "Blocks are written twice, each time to a new place, and trimmed; old places are used again late."
        case .clonedStore: "A copy of a running chunkserver's store is started on another machine."
        }
    }

    /// Plays it.
    /// - Returns: the title, then a line for each message, request of a disk, and what somebody says.
    /// - Throws: what did not happen.
    public func play() throws -> [String] {
        let stage = try WorldStage()
        switch self {
        case .takeover: try takeover(stage)
        case .resize: try resize(stage)
        case .trimAndReuse: try trim(stage)
        case .clonedStore: try clone(stage)
        }
        return [title, ""] + stage.lines
    }

    private func takeover(_ stage: WorldStage) throws {
        let first = try stage.attach("alice")
        stage.isListening = true
        try stage.write(first, block: 0, count: 1)
        stage.say("bob takes it over")
        _ = try stage.attach("bob", takeOver: true)
        stage.say("alice writes")
        try stage.write(first, block: 1, count: 1, fails: true)
    }
    private func resize(_ stage: WorldStage) throws {
        let volume = try stage.attach("alice")
        stage.isListening = true
        stage.say("alice grows it from 16 to 32 MiB and writes into the new part")
        try stage.resize(volume, mebibytes: 32)
        try stage.write(volume, block: 5000, count: 1)
        stage.say("alice shrinks it to 16 MiB")
        try stage.resize(volume, mebibytes: 16)
        stage.world.runFor(.seconds(2))
        stage.say("alice grows it again, and reads what was cut off")
        try stage.resize(volume, mebibytes: 32)
        try stage.read(volume, block: 5000, count: 1)
    }
    private func trim(_ stage: WorldStage) throws {
        let volume = try stage.attach("alice")
        stage.isListening = true
        stage.listenToDisk(0)
        for _ in 0..<2 { try stage.write(volume, block: 0, count: 8) }
        stage.say("alice trims it")
        try stage.submit(volume, .trim(start: ByteOffset(bytes: 0), length: ByteCount(bytes: 32 << 10)))
        try stage.read(volume, block: 0, count: 8)
        stage.say("a checkpoint comes, and many other blocks are written")
        stage.world.runFor(.seconds(31))
        stage.isListening = false
        for turn in 0..<3000 where !stage.isFirstPlaceUsedAgain {
            try stage.write(volume, block: UInt64(8 + turn * 8 % 512), count: 8)
        }
        stage.isListening = true
        guard stage.isFirstPlaceUsedAgain else {
            throw WorldStage.Flop(description: "the first place is lost")
        }
        stage.say("only then the first place was used again")
    }
    private func clone(_ stage: WorldStage) throws {
        stage.isListening = true
        stage.say("somebody copies the store of cs1 and starts the copy")
        stage.servers.startClone(of: 0)
        stage.world.runFor(.seconds(7))
    }
}

extension SimWorld {
    /// Lets time pass.
    func runFor(_ duration: Duration) { _ = run(within: duration) { false } }
}
