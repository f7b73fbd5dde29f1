import ArgumentParser
import BlockTypes
import ControlMessages
import Foundation
import ISCSIConfiguration
import ISCSIGateway
import ToolSupport

extension ConfigurationError {
    var toolError: ToolError { isNotFound ? .notFound(description) : .failed(description) }
}

/// The configuration in the cluster, and what gateways say of themselves, for one verb.
struct ConfigurationAccess {
    /// Others may be faster so often.
    private static let attemptsMax = 16
    /// What a value of the cluster holds.
    private static let valueBytesMax = 512 << 10
    let servers: MetadataServerList

    init(_ metadata: MetadataOptions) throws { servers = try metadata.servers() }

    func value(_ name: String) throws -> (version: UInt64, bytes: [UInt8]) {
        var request = ControlGetValueRequest()
        (request.volume, request.name) = (VolumeID.cluster.rawValue, name)
        let answer = try call().whenReady(.getValue(request)).value
        return (answer.version, Array(answer.value))
    }
    /// - Returns: the version that is there then, and whether it is the one that was wanted.
    func swap(_ name: String, expected: UInt64, _ bytes: [UInt8]) throws -> (version: UInt64, isDone: Bool) {
        var request = ControlSwapValueRequest()
        (request.volume, request.name) = (VolumeID.cluster.rawValue, name)
        (request.expectedVersion, request.value) = (expected, Data(bytes))
        request.attempt = UInt64.random(in: 1 ... .max)
        let answer = try call().whenReady(.swapValue(request)).value
        return (answer.version, answer.swapped)
    }
    private func call() -> MetadataCall {
        var call = MetadataCall(servers)
        call.isIdempotent = true
        return call
    }

    func read() throws -> (configuration: ISCSIConfiguration, version: UInt64) {
        let value = try value(StoredConfiguration.valueName)
        do { return (try StoredConfiguration.decode(value.bytes), value.version) } catch {
            throw error.toolError
        }
    }
    /// Changes the configuration as a whole, from whatever it is at that moment.
    /// - Returns: what is different, and the version that is so.
    func change(
        dryRun: Bool = false, _ body: (inout ISCSIConfiguration) throws -> Void
    ) throws -> (changes: [ConfigurationChange], version: UInt64, configuration: ISCSIConfiguration) {
        for _ in 0..<Self.attemptsMax {
            let (current, version) = try read()
            var next = current
            do {
                try body(&next)
                next = next.inOrder
                try next.check()
            } catch let error as ConfigurationError { throw error.toolError }
            let changes = current.changes(to: next)
            guard !changes.isEmpty, !dryRun else { return (changes, version, next) }
            let bytes: [UInt8]
            do { bytes = try StoredConfiguration.encode(next) } catch { throw error.toolError }
            guard bytes.count <= Self.valueBytesMax else {
                throw ToolError.failed(
                    "the configuration would have \(bytes.count) bytes, at most \(Self.valueBytesMax); leave "
                        + "something out")
            }
            let swap = try swap(StoredConfiguration.valueName, expected: version, bytes)
            if swap.isDone { return (changes, swap.version, next) }
        }
        throw ToolError.failed("others change the configuration all the time; nothing was changed, try again")
    }

    func report(of gateway: GatewayEntry) throws -> GatewayReport? {
        let value = try value(GatewayReport.valueName(tag: gateway.groupTag))
        guard !value.bytes.isEmpty else { return nil }
        let found: GatewayReport
        do { found = try StoredConfiguration.value(value.bytes, "a report") } catch { throw error.toolError }
        // The tag may have been another gateway's.
        return found.gateway == gateway.name ? found : nil
    }
    /// Adds an order for a gateway.
    /// - Returns: its number.
    func order(_ gateway: GatewayEntry, session: UInt64? = nil, start: UInt64? = nil) throws -> UInt64 {
        let name = GatewayOrders.valueName(tag: gateway.groupTag)
        for _ in 0..<Self.attemptsMax {
            let value = try value(name)
            do {
                var orders = GatewayOrders()
                if !value.bytes.isEmpty { orders = try StoredConfiguration.value(value.bytes, "orders") }
                let number = orders.add(session: session, start: start)
                let bytes = try StoredConfiguration.json(orders)
                if try swap(name, expected: value.version, bytes).isDone { return number }
            } catch let error as ConfigurationError { throw error.toolError }
        }
        throw ToolError.failed("others order the gateway all the time; try again")
    }
    /// Waits until a gateway has carried out an order.
    /// - Returns: what it says then; `nil`: it does not answer.
    func answer(
        of gateway: GatewayEntry, to number: UInt64, seconds: Double = answerSeconds
    ) throws -> GatewayReport? {
        try answer(of: gateway, to: number, until: ContinuousClock.now + .seconds(seconds))
    }
    /// What gateways say now; `nil`: one does not answer. They are asked at the same time, so many that are
    /// down take as long as one.
    func reports(
        of gateways: [GatewayEntry], seconds: Double = answerSeconds
    ) throws -> [(gateway: GatewayEntry, report: GatewayReport?)] {
        let asked = try gateways.map { ($0, try order($0)) }
        let end = ContinuousClock.now + .seconds(seconds)
        return try asked.map { ($0.0, try answer(of: $0.0, to: $0.1, until: end)) }
    }
    private func answer(
        of gateway: GatewayEntry, to number: UInt64, until end: ContinuousClock.Instant
    ) throws -> GatewayReport? {
        while true {
            if let report = try report(of: gateway), report.ordersDone >= number, !report.hasEnded {
                return report
            }
            guard ContinuousClock.now < end else { return nil }
            Thread.sleep(forTimeInterval: Self.pollSeconds)
        }
    }
    static let pollSeconds = 0.1
    /// How long a gateway that runs may take to answer.
    static let answerSeconds = 4.0
}

/// What every verb takes that only looks.
struct LookOptions: ParsableArguments {
    @Flag(help: "Print JSON.") var json = false
    @OptionGroup var metadata: MetadataOptions

    func configuration() throws -> ISCSIConfiguration {
        try ConfigurationAccess(metadata).read().configuration
    }
    /// Prints the one or the other.
    func print(_ value: some Encodable, table rows: @autoclosure () -> [[String]]) throws {
        Swift.print(json ? try Text.json(value) : Text.table(rows()))
    }
    /// Prints properties, one a line.
    func print(_ value: some Encodable, properties: @autoclosure () -> [(String, String)]) throws {
        if json { return Swift.print(try Text.json(value)) }
        let rows = properties()
        let width = rows.map(\.0.count).max() ?? 0
        for row in rows {
            Swift.print(row.0.padding(toLength: width, withPad: " ", startingAt: 0) + "  " + row.1)
        }
    }
}

/// What every verb takes that changes something.
struct ChangeOptions: ParsableArguments {
    @Flag(help: "Print JSON.") var json = false
    @Option(
        help: """
            Wait so many seconds until every gateway that runs has applied the change, and fail if one could \
            not.
            """)
    var wait: Int?
    @OptionGroup var metadata: MetadataOptions

    private struct Outcome: Encodable {
        let changed: Bool, version: UInt64, changes: [String], problems: [String]?
    }
    /// Makes the change, says what is different, and waits for the gateways if that is wanted.
    /// - Returns: true when something changed.
    @discardableResult func change(
        dryRun: Bool = false, _ body: (inout ISCSIConfiguration) throws -> Void
    ) throws -> Bool {
        if let wait, !(1...600).contains(wait) {
            throw ToolError.failed("--wait is a number of seconds from 1 to 600")
        }
        let access = try ConfigurationAccess(metadata)
        let (changes, version, configuration) = try access.change(dryRun: dryRun, body)
        // Who gives up waiting knows what is done.
        if !json {
            print(changes.isEmpty ? "nothing to do" : changes.map(\.description).joined(separator: "\n"))
        }
        var problems: [String]?
        if let wait, !dryRun {
            problems = try access.problems(of: configuration, version: version, seconds: Double(wait))
        }
        if json {
            let lines = changes.map(\.description)
            print(
                try Text.json(
                    Outcome(changed: !changes.isEmpty, version: version, changes: lines, problems: problems)))
        }
        if let problems, let first = problems.first {
            let more = problems.count > 1 ? "; and \(problems.count - 1) more, see --json" : ""
            throw ToolError.failed("the configuration is changed, but \(first)\(more)")
        }
        return !changes.isEmpty
    }
}

extension ConfigurationAccess {
    /// What gateways that run could not apply of this version, or have not yet.
    func problems(
        of configuration: ISCSIConfiguration, version: UInt64, seconds: Double
    ) throws -> [String] {
        let end = ContinuousClock.now + .seconds(seconds)
        var problems: [String] = []
        let found = try reports(of: configuration.gateways, seconds: min(seconds, Self.answerSeconds))
        for (gateway, first) in found where first != nil {
            while true {
                if let report = try report(of: gateway), report.version >= version {
                    problems += report.items.compactMap { item in
                        item.problem.map { "gateway \(gateway.name): \(item.name): \($0)" }
                    }
                    break
                }
                guard ContinuousClock.now < end else {
                    problems.append("gateway \(gateway.name) has not applied it yet")
                    break
                }
                Thread.sleep(forTimeInterval: Self.pollSeconds)
            }
        }
        return problems
    }
}
