import ClusterScenario
import Foundation

/// `curve-sim`: whole clusters in a simulator, by seed.
@main struct CurveSim {
    static let usage = """
        usage: curve-sim [--seeds N] [--first S] [--jobs J]   runs N seeds from S, in J processes
               ... --twice                                    runs each twice: both runs must be the same
               curve-sim --replay SEED [--trace]              runs one seed again; --trace shows what happened
        Exit status 0: all clean. 1: some seed failed. 2: bad usage.
        """

    static func main() {
        do {
            let options = try Options(Array(CommandLine.arguments.dropFirst()))
            if options.wantsHelp { return print(usage) }
            if let seed = options.replay { exit(replay(seed, traced: options.traced) ? 0 : 1) }
            if options.isWorker { return work(options) }
            exit(Campaign(options).run() ? 0 : 1)
        } catch {
            FileHandle.standardError.write(Data("curve-sim: \(error)\n\(usage)\n".utf8))
            exit(2)
        }
    }
    private static func replay(_ seed: UInt64, traced: Bool) -> Bool {
        let outcome = Scenario(ScenarioPlan(seed: seed), traceLinesMax: traced ? 200_000 : 0).run()
        if traced { print(ScenarioPlan(seed: seed)) }
        for line in outcome.trace { print(line) }
        print(
            "seed \(seed): \(outcome.cause ?? "clean"); \(outcome.requests) requests, \(outcome.steps) steps, "
                + "\(outcome.undecided) blocks undecided, trace \(String(outcome.traceHash, radix: 16))")
        return outcome.cause == nil
    }
    /// Says each seed before it runs, so that whoever listens knows which one ended the process.
    private static func work(_ options: Options) {
        for seed in stride(from: options.first, to: options.first + options.seeds, by: options.stride) {
            say("start \(seed)")
            let outcome = Scenario(ScenarioPlan(seed: seed)).run()
            let trace = String(outcome.traceHash, radix: 16)
            say("end \(seed) \(outcome.answered) \(outcome.undecided) \(trace) \(outcome.cause ?? "clean")")
        }
    }
    private static func say(_ line: String) { FileHandle.standardOutput.write(Data("\(line)\n".utf8)) }
}

/// What the command line says.
struct Options {
    var seeds: UInt64 = 100
    var first: UInt64 = 0
    var stride = 1
    var jobs = 1
    var replay: UInt64?
    var traced = false
    var twice = false
    var isWorker = false
    var wantsHelp = false

    struct BadUsage: Error, CustomStringConvertible { let description: String }

    init(_ arguments: [String]) throws {
        var rest = arguments[...]
        func value(of name: String) throws -> UInt64 {
            guard let text = rest.popFirst(), let number = UInt64(text), number < 1 << 48 else {
                throw BadUsage(description: "\(name) needs a number")
            }
            return number
        }
        while let argument = rest.popFirst() {
            switch argument {
            case "--seeds": seeds = try value(of: argument)
            case "--first": first = try value(of: argument)
            case "--jobs": jobs = max(1, min(64, Int(try value(of: argument))))
            case "--stride": stride = max(1, Int(try value(of: argument)))
            case "--replay": replay = try value(of: argument)
            case "--trace": traced = true
            case "--twice": twice = true
            case "--worker": isWorker = true
            case "--help", "-h": wantsHelp = true
            default: throw BadUsage(description: "unknown option \(argument)")
            }
        }
    }
}
