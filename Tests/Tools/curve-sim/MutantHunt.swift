import BlockTypes
import ClusterScenario
import Foundation
import RaftModel
import StoreCrashModel

/// Plants bugs, one in each process, and finds out who notices: which judge, after how many seeds.
enum MutantHunt {
    /// Each must be caught within so many seeds of one model.
    static let seedsMax: UInt64 = 2000
    /// In a hunt for nothing so many seeds of each model must be clean.
    static let soundSeeds: UInt64 = 10
    /// A hunt that takes longer is over: nothing was caught.
    static let secondsMax: UInt32 = 240
    /// The hunt whose prey is no mutant but disks that lie about their cache: it must end with a catch.
    static let canary = "canary"
    /// The hunt for nothing: it must end without a catch.
    static let sound = "sound"

    // MARK: One hunt, in a process of its own

    /// Says each seed before it runs: what an invariant of the code catches ends the process.
    static func hunt(_ name: String) -> Never {
        alarm(secondsMax)
        guard Mutant.areBuilt else {
            say("this build has no mutants; use tools/sim --mutants")
            exit(2)
        }
        if name == canary { track(.cluster) { lyingDisks($0) } }
        if name == sound { exit(findsNothing() ? 0 : 1) }
        guard let mutant = Mutant(rawValue: name) else {
            say("mutants: \(([canary, sound] + Mutant.allCases.map(\.rawValue)).joined(separator: " "))")
            exit(2)
        }
        mutant.plant()
        for model in models(for: mutant) {
            track(model) { model.run($0, commitsAhead: mutant == .watermarkAhead) }
        }
        exit(1)
    }
    /// Runs seeds of one model until one fails, which ends the process.
    private static func track(_ model: HuntModel, _ run: (UInt64) -> String?) {
        for seed in 0..<seedsMax {
            say("seed \(seed) \(model.rawValue)")
            guard let cause = run(seed) else { continue }
            say("caught \(cause)")
            exit(0)
        }
    }
    private static func findsNothing() -> Bool {
        for model in HuntModel.allCases {
            for seed in 0..<soundSeeds {
                say("seed \(seed) \(model.rawValue)")
                guard let cause = model.run(seed, commitsAhead: false) else { continue }
                say("caught \(cause)")
                return false
            }
        }
        return true
    }
    private static func lyingDisks(_ seed: UInt64) -> String? {
        var plan = ScenarioPlan(seed: seed)
        (plan.disksLie, plan.damagedServer) = (true, nil)
        plan.nemesis.deeds = [.powerLossOfAll]
        return Scenario(plan).run().cause
    }
    /// The model nearest to the bug first: its seeds cost least.
    private static func models(for mutant: Mutant) -> [HuntModel] {
        switch mutant {
        case .reuseAtOnce, .watermarkAhead, .tailUnverified, .incarnationKept, .rootBeforeLeaves,
            .tailTooEarly, .truncateUnrecorded, .ackBeforeFlush, .trimUnmasked, .dedupForgotten,
            .dedupWindowShort, .epochInMemory:
            [.crash]
        case .lostTakenForTorn, .failedFlushBelieved, .checksumIgnored: [.rot]
        case .leaseUnheld, .leaseTooLong, .promiseForgotten, .votesTwice, .oldTermCounted, .noopSkipped:
            [.raft]
        case .fenceUngated, .edgeUnordered, .stripeEndLost, .readingUnpaused, .retryRetagged: [.cluster]
        case .changeUnawaited, .resetUnspread, .comparisonLocal, .settlingUnawaited, .gatewayUnfenced,
            .sanitizeUnawaited, .sanitizeForgotten, .standstillUnnoticed:
            [.gateways]
        case .dedupShared, .amendUnordered, .missUnrecorded, .removalUnfenced: [.shared]
        case .addressBelieved, .tailUntrimmed, .forcedWriteEarly, .epochReused, .twinAdmitted,
            .databaseUnheld:
            [.world]
        case .databaseBelieved: [.restored]
        }
    }
    private static func say(_ line: String) { FileHandle.standardOutput.write(Data("\(line)\n".utf8)) }

    // MARK: All of them

    /// Prints the table of all mutants, as Markdown.
    /// - Returns: true when each was caught, the canary, too, and nothing where nothing was planted.
    static func huntAll(jobs: Int) -> Bool {
        let names = [canary, sound] + Mutant.allCases.map(\.rawValue)
        let lock = NSLock()
        nonisolated(unsafe) var catches: [Catch?] = Array(repeating: nil, count: names.count)
        nonisolated(unsafe) var next = 0
        DispatchQueue.concurrentPerform(iterations: jobs) { _ in
            while true {
                let mine = lock.withLock {
                    defer { next += 1 }
                    return next
                }
                guard mine < names.count else { return }
                let found = watch(names[mine])
                lock.withLock { catches[mine] = found }
            }
        }
        print("| planted | seeds | caught by | what it said |\n|---|---|---|---|")
        var isAllRight = true
        for (name, found) in zip(names, catches) where name != sound {
            guard let found, let cause = found.cause else {
                isAllRight = false
                print("| \(name) | - | **nobody** | \(found?.seeds ?? 0) seeds of \(found?.model ?? "") |")
                continue
            }
            print("| \(name) | \(found.seeds) | \(found.model) | \(shortened(cause)) |")
        }
        if let found = catches[1], let cause = found.cause {
            isAllRight = false
            print("\nNothing was planted, and \(found.model) seed \(found.seeds - 1) fails: \(cause)")
        } else {
            print("\nWithout a planted bug: \(soundSeeds) seeds of each model, all clean.")
        }
        return isAllRight
    }
    private struct Catch {
        var seeds = 0
        var model = ""
        var cause: String?
    }
    private static func watch(_ name: String) -> Catch? {
        let child = Process()
        child.executableURL = URL(fileURLWithPath: "/proc/self/exe").resolvingSymlinksInPath()
        child.arguments = ["--mutant", name]
        let (output, errors) = (Pipe(), Pipe())
        (child.standardOutput, child.standardError) = (output, errors)
        do { try child.run() } catch { return nil }
        let began = Date()
        var found = Catch()
        let tail = Tail(errors.fileHandleForReading)
        for line in Lines(output.fileHandleForReading) {
            let words = line.split(separator: " ", maxSplits: 2).map(String.init)
            if words.first == "seed", words.count == 3 {
                (found.seeds, found.model) = ((Int(words[1]) ?? 0) + 1, words[2])
            }
            if words.first == "caught" { found.cause = words.dropFirst().joined(separator: " ") }
        }
        child.waitUntilExit()
        let last = tail.lastLine
        let seconds = String(format: "%.1f", Date().timeIntervalSince(began))
        FileHandle.standardError.write(Data("\(name): \(found.seeds) seeds, \(seconds) s\n".utf8))
        // A hunt that took too long has caught nothing.
        if child.terminationReason == .uncaughtSignal, child.terminationStatus != SIGALRM {
            found.model = "an invariant, in the \(found.model)"
            found.cause = last
        }
        return found
    }
    private static func shortened(_ cause: String) -> String {
        let text = cause.split(separator: "invariant broken: ").last.map(String.init) ?? cause
        return text.replacingOccurrences(of: "|", with: "/").prefix(90).trimmingCharacters(in: .whitespaces)
    }
}

/// A model in which seeds run, with its judges.
enum HuntModel: String, CaseIterable {
    case crash = "crash model"
    case rot = "rot model"
    case raft = "Raft model"
    case cluster = "simulated cluster"
    case world = "simulated world"
    case restored = "older metadata"
    case shared = "shared volume"
    case gateways = "iSCSI gateways"

    /// - Parameter commitsAhead: a watermark can only run ahead where the commit does.
    func run(_ seed: UInt64, commitsAhead: Bool) -> String? {
        switch self {
        case .crash:
            var options = CrashRun.Options()
            options.commitsAhead = commitsAhead
            return CrashRun(seed: seed, options: options).run()
        case .rot: return RotRun(seed: seed).run()
        case .raft: return RaftRun.pastReign(seed: seed) ?? RaftRun.run(seed: seed).failure
        case .cluster: return Scenario(ScenarioPlan(seed: seed)).run().cause
        case .world: return WorldScenario(WorldPlan(seed: seed)).run().cause
        case .restored:
            var plan = WorldPlan(seed: seed)
            plan.restoresMetadata = true
            return WorldScenario(plan).run().cause
        case .shared: return SharedScenario(SharedPlan(seed: seed)).run().cause
        case .gateways: return GatewayScenario(GatewayPlan(seed: seed)).run().cause
        }
    }
}
