import BlockTypes
import CLinux
import ClusterScenario
import Foundation

/// `curve-sim`: whole clusters in a simulator, by seed.
@main struct CurveSim {
    static let usage = """
        usage: curve-sim [--seeds N] [--first S] [--jobs J]   runs N seeds from S, in J processes
               curve-sim --replay SEED [--trace]              runs one seed again, and shows what happened
               curve-sim --shrink SEED                        the least that must go wrong for it to fail
               curve-sim --mutants [--jobs J]                 plants each bug: who notices, and when
               curve-sim --mutant NAME                        one of them
               --scenario cluster    three chunkservers and a volume, everything about the I/O path (default)
               --scenario world      metadata server, 3 to 9 chunkservers, volumes, gateways and people
               --scenario full       the same, and clients write more than the stores can hold
               --scenario restored   the same as world, and an older copy of the metadata takes its place
               --scenario shared     three chunkservers and a volume that a group of clients holds together
               --scenario gateways   the same, and the group are iSCSI gateways with initiators
               --tally               says at the end how often what happened
               --flat-memory         fails when a worker holds more and more memory
               --twice               runs each seed in two processes and compares the traces
               --beside PROGRAM      the same, the second time with another build of this program
               --only LIST, --operations N    a part of the seed's plan, as --shrink prints it
               --lying-disks         disks lose what they called durable
               --plant NAME          with a planted bug, in a build that has them
        Exit status 0: all clean. 1: some seed failed. 2: bad usage.
        """

    static func main() {
        do {
            let options = try Options(Array(CommandLine.arguments.dropFirst()))
            if options.wantsHelp { return print(usage) }
            if let planted = options.planted { try plant(planted) }
            if let seed = options.shrink { exit(ShrinkCommand(seed: seed, options: options).run() ? 0 : 1) }
            if let seed = options.replay { exit(replay(seed, options) ? 0 : 1) }
            if options.isWorker { return work(options) }
            if let name = options.mutant { MutantHunt.hunt(name) }
            if options.huntsMutants { exit(MutantHunt.huntAll(jobs: options.jobs) ? 0 : 1) }
            exit(Campaign(options).run() ? 0 : 1)
        } catch {
            FileHandle.standardError.write(Data("curve-sim: \(error)\n\(usage)\n".utf8))
            exit(2)
        }
    }
    private static func plant(_ name: String) throws {
        guard Mutant.areBuilt, let mutant = Mutant(rawValue: name) else {
            throw Options.BadUsage(description: "no bug '\(name)' can be planted in this build")
        }
        mutant.plant()
    }
    private static func replay(_ seed: UInt64, _ options: Options) -> Bool {
        let traced = options.traced
        let outcome = options.run(seed, traceLinesMax: traced ? 400_000 : 0)
        if options.tells {
            ShrinkCommand.tell(outcome)
            return outcome.cause == nil
        }
        if traced { print(options.scenario.describe(seed)) }
        for line in outcome.trace { print(line) }
        for name in outcome.tally.keys.sorted() { print("\(outcome.tally[name] ?? 0) \(name)") }
        print(
            "seed \(seed): \(outcome.cause ?? "clean"); \(outcome.requests) requests, "
                + "\(outcome.steps) steps, "
                + "\(outcome.undecided) blocks undecided, trace \(String(outcome.traceHash, radix: 16))")
        return outcome.cause == nil
    }
    /// Says each seed before it runs, so that whoever listens knows which one ended the process.
    private static func work(_ options: Options) {
        keepMemory()
        for seed in stride(from: options.first, to: options.first + options.seeds, by: options.stride) {
            say("start \(seed)")
            let outcome = options.run(seed)
            say("trace \(seed) \(outcome.traceHash)")
            say("memory \(heapKiB)")
            for name in outcome.tally.keys.sorted() { say("tally \(outcome.tally[name] ?? 0) \(name)") }
            say("end \(seed) \(outcome.answered) \(outcome.undecided) \(outcome.cause ?? "clean")")
        }
    }
    /// What one seed gives back, the next one takes: asking the system anew costs page faults.
    private static func keepMemory() {
        for option in [M_MMAP_THRESHOLD, M_TRIM_THRESHOLD] { _ = mallopt(option, keptBytesMax) }
    }
    private static let keptBytesMax: Int32 = 1 << 30
    /// Memory that is in use, not what the heap keeps for later: holes between other things are no growth.
    private static var heapKiB: Int {
        let heap = mallinfo2()
        return (heap.uordblks + heap.hblkhd) >> 10
    }
    private static func say(_ line: String) { FileHandle.standardOutput.write(Data("\(line)\n".utf8)) }
}

/// Which kind of world.
enum ScenarioKind: String {
    case cluster, world, full, restored, shared, gateways

    func run(
        _ seed: UInt64, _ selection: PlanSelection, disksLie: Bool, traceLinesMax: Int,
        told: @escaping (ScenarioEvent) -> Void
    ) -> ScenarioOutcome {
        switch self {
        case .cluster:
            var plan = ScenarioPlan(seed: seed)
            if disksLie { (plan.disksLie, plan.damagedServer) = (true, nil) }
            let scenario = Scenario(plan.reduced(to: selection), traceLinesMax: traceLinesMax)
            scenario.told = told
            return scenario.run()
        case .shared:
            let scenario = SharedScenario(
                SharedPlan(seed: seed).reduced(to: selection), traceLinesMax: traceLinesMax)
            scenario.told = told
            return scenario.run()
        case .gateways:
            let scenario = GatewayScenario(
                GatewayPlan(seed: seed).reduced(to: selection), traceLinesMax: traceLinesMax)
            scenario.told = told
            return scenario.run()
        case .world, .full, .restored:
            var plan = worldPlan(seed)
            plan.disksLie = disksLie
            let scenario = WorldScenario(plan.reduced(to: selection), traceLinesMax: traceLinesMax)
            scenario.told = told
            return scenario.run()
        }
    }
    func describe(_ seed: UInt64) -> String {
        switch self {
        case .cluster: "\(ScenarioPlan(seed: seed))"
        case .shared: "\(SharedPlan(seed: seed))"
        case .gateways: "\(GatewayPlan(seed: seed))"
        case .world, .full, .restored: "\(worldPlan(seed))"
        }
    }
    private func worldPlan(_ seed: UInt64) -> WorldPlan {
        var plan = WorldPlan(seed: seed, fillsStores: self == .full)
        plan.restoresMetadata = self == .restored
        return plan
    }
}

/// What the command line says.
struct Options {
    var seeds: UInt64 = 100
    var first: UInt64 = 0
    var stride = 1
    var jobs = 1
    var replay: UInt64?
    var traced = false
    var isWorker = false
    var isTwice = false
    /// Another build of this program, for the second run of each seed.
    var beside: String?
    var demandsFlatMemory = false
    var showsTally = false
    var scenario = ScenarioKind.cluster
    var wantsHelp = false
    var shrink: UInt64?
    /// The part of the plan that is carried out.
    var selection = PlanSelection()
    /// The bug that is planted while seeds run.
    var planted: String?
    /// Disks lose what they called durable: every seed with a power loss of all must fail.
    var disksLie = false
    /// Says what a shrinking run wants to know.
    var tells = false
    /// One planted bug, or all of them.
    var mutant: String?
    var huntsMutants = false

    func run(_ seed: UInt64, traceLinesMax: Int = 0) -> ScenarioOutcome {
        scenario.run(seed, selection, disksLie: disksLie, traceLinesMax: traceLinesMax) { [tells] event in
            if tells { ShrinkCommand.tell(event) }
        }
    }

    struct BadUsage: Error, CustomStringConvertible { let description: String }

    init(_ arguments: [String]) throws {
        var rest = arguments[...]
        func value(of name: String) throws -> UInt64 {
            guard let text = rest.popFirst(), let number = UInt64(text), number < 1 << 48 else {
                throw BadUsage(description: "\(name) needs a number")
            }
            return number
        }
        func name(of option: String) throws -> String {
            guard let name = rest.popFirst() else { throw BadUsage(description: "\(option) needs a name") }
            return name
        }
        while let argument = rest.popFirst() {
            switch argument {
            case "--seeds": seeds = try value(of: argument)
            case "--first": first = try value(of: argument)
            case "--jobs": jobs = max(1, min(64, Int(try value(of: argument))))
            case "--stride": stride = max(1, Int(try value(of: argument)))
            case "--replay": replay = try value(of: argument)
            case "--trace": traced = true
            case "--worker": isWorker = true
            case "--twice": isTwice = true
            case "--beside": (isTwice, beside) = (true, try name(of: argument))
            case "--flat-memory": demandsFlatMemory = true
            case "--tally": showsTally = true
            case "--scenario":
                guard let kind = rest.popFirst().flatMap(ScenarioKind.init) else {
                    throw BadUsage(
                        description: "--scenario needs cluster, world, full, restored, shared or gateways")
                }
                scenario = kind
            case "--shrink": shrink = try value(of: argument)
            case "--operations": selection.operationsMax = max(1, Int(try value(of: argument)))
            case "--only":
                let list = rest.popFirst() ?? ""
                selection.kept = Set(list.split(separator: ",").compactMap { PlannedFault($0) })
            case "--lying-disks": disksLie = true
            case "--tell": tells = true
            case "--plant": planted = try name(of: argument)
            case "--mutants": huntsMutants = true
            case "--mutant": mutant = try name(of: argument)
            case "--help", "-h": wantsHelp = true
            default: throw BadUsage(description: "unknown option \(argument)")
            }
        }
    }
}
