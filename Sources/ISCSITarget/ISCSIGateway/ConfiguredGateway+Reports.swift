import BlockTypes
import CurveClient
import Environment
import ISCSIConfiguration
import ISCSIServer

/// What is under way between a gateway and the values by which it is asked and answers.
struct GatewayReporter {
    /// A report is written this long after its reason, so that one tells of many.
    static let delay = Duration.milliseconds(100)
    /// A farewell may take this long.
    static let farewellPatience = Duration.seconds(2)
    /// The value as it is known; `nil`: the name was not claimed yet.
    var known: VolumeValue?
    var isClaiming = false
    var isScheduled = false
    var isWriting = false
    var isDirty = false
    /// The orders that there were when it came are not for it.
    var hasSeenOrders = false
    var ordersDone: UInt64 = 0
    /// The last configuration of which nothing was left to be tried.
    var settledVersion: UInt64 = 0
    /// Who waits for the name to be claimed.
    var waiting: [() -> Void] = []
}

extension ConfiguredGateway {
    // MARK: The name

    /// Says that this process is the gateway now; any other of this name gives way.
    func claim(completed: @escaping () -> Void) {
        guard reporter.known == nil else { return completed() }
        reporter.waiting = [completed]
        guard !reporter.isClaiming, let tag else { return }
        reporter.isClaiming = true
        tryToClaim(GatewayReport.valueName(tag: tag))
    }
    private func tryToClaim(_ name: String) {
        guard !isStopping else { return }
        let again = { [self] in
            environment.after(ClusterValues.retryAfter) { [weak self] in self?.tryToClaim(name) }
            return
        }
        values.value(name) { [self] result in
            guard case .success(let value) = result,
                let bytes = encodedReport([], ordersDone: reporter.ordersDone)
            else { return again() }
            values.swap(name, expected: value.version, bytes: bytes) { [self] result in
                guard case .success(let answer) = result, answer.isSwapped else { return again() }
                reporter.known = answer.value
                watchValues(name)
                let waiting = reporter.waiting
                reporter.waiting = []
                for waiter in waiting { waiter() }
            }
        }
    }
    private func watchValues(_ name: String) {
        values.watch(name) { _ in
        } changed: { [weak self] value in
            self?.noteReport(value)
        }
        guard let tag else { return }
        values.watch(GatewayOrders.valueName(tag: tag)) { _ in
        } changed: { [weak self] value in
            self?.take(orders: value)
        }
    }
    /// - Returns: false when it is another process's.
    @discardableResult private func noteReport(_ value: VolumeValue) -> Bool {
        guard !isStopping else { return false }
        let found: GatewayReport? = try? StoredConfiguration.value(value.bytes, "a report")
        if let found, found.start != start {
            giveWay(to: found.process)
            return false
        }
        reporter.known = value
        return true
    }

    // MARK: Reports

    /// Writes down how things are, soon.
    func report() {
        guard reporter.known != nil, !isStopping else { return }
        reporter.isDirty = true
        guard !reporter.isScheduled, !reporter.isWriting else { return }
        reporter.isScheduled = true
        environment.after(GatewayReporter.delay) { [weak self] in
            self?.reporter.isScheduled = false
            self?.write()
        }
    }
    private func write() {
        guard reporter.isDirty, !reporter.isWriting, !isStopping else { return }
        (reporter.isDirty, reporter.isWriting) = (false, true)
        // Lanes may answer before they hear of an order that comes now.
        collect { lane, answer in
            answer(lane.report)
        } completed: { [weak self, ordersDone = reporter.ordersDone] in
            self?.write($0, ordersDone: ordersDone)
        }
    }
    private func write(_ reports: [LaneReport], ordersDone: UInt64) {
        reporter.isWriting = false
        guard !isStopping, let tag, let known = reporter.known,
            let bytes = encodedReport(reports, ordersDone: ordersDone)
        else { return }
        guard bytes != known.bytes else {
            if reporter.isDirty { report() }
            return
        }
        reporter.isWriting = true
        let name = GatewayReport.valueName(tag: tag)
        values.swap(name, expected: known.version, bytes: bytes) { [weak self] result in
            guard let self else { return }
            reporter.isWriting = false
            switch result {
            case .success(let answer):
                if answer.isSwapped { reporter.known = answer.value } else { _ = noteReport(answer.value) }
                if reporter.isDirty || !answer.isSwapped { report() }
            case .failure:
                environment.after(ClusterValues.retryAfter) { [weak self] in self?.report() }
            }
        }
    }
    private func encodedReport(_ reports: [LaneReport], ordersDone: UInt64) -> [UInt8]? {
        // Nothing of the newest configuration is under way.
        let isSettled =
            lanes.count == reports.count
            && reports.allSatisfy { $0.facts.version == version && $0.facts.isSettled }
        if isSettled { reporter.settledVersion = version }
        var report = GatewayReport(gateway: options.name, process: options.process, start: start)
        (report.version, report.ordersDone) = (reporter.settledVersion, ordersDone)
        if isDraining { report.drain = isDrainConfirmed ? .done : .asked }
        if let problem { report.items.append(GatewayReport.Item(name: "configuration", problem: problem)) }
        report.items += portals.map {
            GatewayReport.Item(name: "portal \($0.address)", problem: $0.problem)
        }
        report.items += reports.flatMap(\.targetItems) + reports.flatMap(\.unitItems)
        report.sessionCount = reports.reduce(0) { $0 + $1.sessionCount }
        for (index, lane) in reports.enumerated() {
            for var session in lane.sessions {
                session.number = session.number * UInt64(lanes.count) + UInt64(index)
                report.sessions.append(session)
            }
        }
        // Of each lane the oldest, where there are more than a report takes.
        report.sessions.sort { $0.number < $1.number }
        report.sessions = Array(report.sessions.prefix(GatewayReport.sessionsMax))
        return encoded(report)
    }
    /// With as many sessions as the value has room for.
    private func encoded(_ report: GatewayReport) -> [UInt8]? {
        var report = report
        while true {
            guard let bytes = try? StoredConfiguration.json(report) else { return nil }
            guard bytes.count > Self.reportBytesMax else { return bytes }
            guard !report.sessions.isEmpty else {
                report.items = Array(report.items.prefix(report.items.count / 2))
                if report.items.isEmpty { return nil }
                continue
            }
            report.sessions = Array(report.sessions.prefix(report.sessions.count / 2))
        }
    }
    /// What a value of the cluster holds.
    static let reportBytesMax = 512 << 10

    // MARK: Orders

    private func take(orders value: VolumeValue) {
        guard !isStopping else { return }
        var orders = GatewayOrders()
        if !value.bytes.isEmpty {
            guard let found: GatewayOrders = try? StoredConfiguration.value(value.bytes, "orders") else {
                return log(.error, "the orders in the cluster cannot be read")
            }
            orders = found
        }
        if reporter.hasSeenOrders {
            for order in orders.orders where order.number > reporter.ordersDone {
                guard let session = order.session, order.start == start, !lanes.isEmpty else { continue }
                let count = UInt64(lanes.count)
                lanes[Int(session % count)].tell { lane in
                    let isDone = lane.server.dropSession(session / count)
                    let words = isDone ? "is ended by an operator" : "was over already"
                    lane.log(.notice, "session \(session) \(words)")
                }
            }
        }
        (reporter.hasSeenOrders, reporter.ordersDone) = (true, orders.last)
        report()
    }

    /// The last report: this gateway serves nothing any more.
    func sayFarewell(completed: @escaping () -> Void) {
        guard let tag, let known = reporter.known else { return completed() }
        var report = GatewayReport(gateway: options.name, process: options.process, start: start)
        (report.hasEnded, report.ordersDone) = (true, reporter.ordersDone)
        guard let bytes = encoded(report) else { return completed() }
        var isDone = false
        let end = {
            guard !isDone else { return }
            isDone = true
            completed()
        }
        environment.after(GatewayReporter.farewellPatience, end)
        // A report under way may have been faster: then the value's version is the next one.
        let name = GatewayReport.valueName(tag: tag)
        values.swap(name, expected: known.version, bytes: bytes) { [self] result in
            guard case .success(let answer) = result, !answer.isSwapped,
                let found: GatewayReport = try? StoredConfiguration.value(answer.value.bytes, "a report"),
                found.start == start
            else { return end() }
            values.swap(name, expected: answer.value.version, bytes: bytes) { _ in end() }
        }
    }
}
