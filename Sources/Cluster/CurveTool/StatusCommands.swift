import ArgumentParser
import BlockTypes
import ControlMessages
import Foundation
import ToolSupport

struct StatusCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "status", abstract: "Show chunkservers, pools, copysets and what is wrong.")
    @Option(help: "table or json.") var format = OutputFormat.table
    @OptionGroup var metadata: MetadataOptions
    func run() throws {
        let servers = try metadata.servers()
        let status = try MetadataCall(servers)(.getStatus(ControlGetStatusRequest())).getStatus
        let survey = try MetadataSurvey(servers)
        switch format {
        case .json: print(try Text.json(StatusJSON(status, survey)))
        case .table: print(StatusText.table(status, survey))
        }
    }
}

/// What `curve status --format json` prints.
struct StatusJSON: Encodable {
    struct Server: Encodable {
        let id: UInt64, device: String, host: String, addresses: [String], incarnation: UInt64, online: Bool
        let zone: String?, capacityBytes: UInt64, usedBytes: UInt64, freeBytes: UInt64, lazilyGrown: Bool
        let copysetsLed: UInt32, health: String, mendedBlocks: UInt64
    }
    struct Pool: Encodable {
        let name: String, replicas: UInt32, copysets: UInt32, capacityBytes: UInt64, freeBytes: UInt64
    }
    struct Copyset: Encodable { let id: UInt32, members: [UInt64], leader: UInt64?, membersInStep: UInt32 }
    struct Database: Encodable { let state: String, revision: UInt64, heardRevision: UInt64 }
    struct MetadataServer: Encodable { let address: String, state: String, note: String? }
    let cluster: String, healthy: Bool, servers: [Server], pools: [Pool], copysets: [Copyset]
    let volumes: UInt32, attachedVolumes: UInt32, recycledVolumes: UInt32, pendingTasks: UInt32,
        warnings: [String], database: Database, metadataServers: [MetadataServer]

    init(_ status: ControlGetStatusResponse, _ survey: MetadataSurvey? = nil) {
        cluster = UniqueID(controlBytes: status.clusterID)?.description ?? ""
        warnings = status.warnings + (survey?.warnings ?? [])
        healthy = warnings.isEmpty
        metadataServers = (survey?.findings ?? []).map {
            MetadataServer(address: "\($0.address)", state: $0.state.name, note: $0.state.note)
        }
        servers = status.servers.map {
            Server(
                id: $0.server, device: UniqueID(controlBytes: $0.deviceID)?.description ?? "", host: $0.host,
                addresses: $0.addresses, incarnation: $0.incarnation, online: $0.online,
                zone: $0.zone.isEmpty ? nil : $0.zone, capacityBytes: $0.capacityBytes,
                usedBytes: $0.usedBytes, freeBytes: $0.freeBytes,
                lazilyGrown: $0.lazilyGrown, copysetsLed: $0.copysetsLed, health: $0.health,
                mendedBlocks: $0.mendedBlocks)
        }
        pools = status.pools.map {
            Pool(
                name: $0.name, replicas: $0.replicas, copysets: $0.copysets, capacityBytes: $0.capacityBytes,
                freeBytes: $0.freeBytes)
        }
        copysets = status.copysets.map {
            Copyset(
                id: $0.copyset, members: $0.members, leader: $0.leader == 0 ? nil : $0.leader,
                membersInStep: $0.membersInStep)
        }
        (volumes, attachedVolumes) = (status.volumes, status.attachedVolumes)
        (recycledVolumes, pendingTasks) = (status.recycledVolumes, status.pendingTasks)
        let state =
            switch status.database.state {
            case .current: "current"
            case .waiting: "waiting"
            case .wentBack: "went back"
            case .UNRECOGNIZED(let number): "state \(number)"
            }
        database = Database(
            state: state, revision: status.database.revision, heardRevision: status.database.heardRevision)
    }
}

enum StatusText {
    static func table(_ status: ControlGetStatusResponse, _ survey: MetadataSurvey) -> String {
        let warnings = status.warnings + survey.warnings
        let led = status.copysets.filter { $0.leader != 0 }.count
        let whole = status.copysets.filter { Int($0.membersInStep) == $0.members.count }.count
        var lines = [
            "cluster \(UniqueID(controlBytes: status.clusterID)?.description ?? "?")  MDS \(survey.leader)  "
                + (warnings.isEmpty
                    ? "healthy" : warnings.count == 1 ? "1 warning" : "\(warnings.count) warnings"),
            "volumes \(status.volumes), attached \(status.attachedVolumes), in the recycle bin "
                + "\(status.recycledVolumes)   copysets \(status.copysets.count), with a leader \(led), "
                + "all replicas in step \(whole)", "",
        ]
        if survey.findings.count > 1 {
            let rows = survey.findings.map { ["\($0.address)", $0.state.name, $0.state.note ?? ""] }
            lines += [Text.table([["MDS", "STATE", ""]] + rows), ""]
        }
        let zones = status.servers.contains { !$0.zone.isEmpty }
        let head = ["STATE", "ADDRESS", "USED", "FREE", "CAPACITY", "LEADS", "STORE"]
        var rows = [["CHUNKSERVER"] + (zones ? ["ZONE"] : []) + head]
        for server in status.servers {
            rows.append(
                ["\(server.server)"] + (zones ? [server.zone.isEmpty ? "-" : server.zone] : []) + [
                    server.online ? "online" : "offline \(server.secondsSinceHeartbeat) s",
                    server.addresses.joined(separator: ","), Text.size(server.usedBytes),
                    Text.size(server.freeBytes), Text.size(server.capacityBytes), "\(server.copysetsLed)",
                    (server.lazilyGrown ? "grows lazily" : "prewritten")
                        + (server.mendedBlocks == 0 ? "" : ", \(server.mendedBlocks) blocks mended")
                        + (server.health == "ok" || server.health.isEmpty ? "" : ", \(server.health)"),
                ])
        }
        lines.append(Text.table(rows))
        if !status.pools.isEmpty {
            rows = [["POOL", "REPLICAS", "COPYSETS", "FREE", "CAPACITY"]]
            for pool in status.pools {
                rows.append([
                    pool.name, "\(pool.replicas)", "\(pool.copysets)", Text.size(pool.freeBytes),
                    Text.size(pool.capacityBytes),
                ])
            }
            lines += ["", Text.table(rows)]
        }
        if status.pendingTasks > 0 { lines += ["", "freeing space: \(status.pendingTasks) tasks to go"] }
        for warning in warnings { lines += ["", "warning: \(warning)"] }
        if status.servers.contains(where: \.lazilyGrown) {
            lines += ["", "Stores that grow lazily are for trials: their file systems may be full one day."]
        }
        return lines.joined(separator: "\n")
    }
}

struct PoolCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "pool", abstract: "Create and list pools.",
        subcommands: [PoolCreate.self, PoolList.self])
}

enum FailureDomainName: String, ExpressibleByArgument, CaseIterable {
    case zone, server, device
    var control: ControlFailureDomain {
        switch self {
        case .zone: .zone
        case .server: .server
        case .device: .device
        }
    }
}

struct PoolCreate: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "create", abstract: "Create a pool over all chunkservers that are online.",
        discussion: """
            Examples:
              curve pool create default
              curve pool create trial --failure-domain device     all on one machine
            """)
    @Argument(help: "Name of the pool.") var name: String
    @Option(help: "Copies of every chunk.") var replicas: UInt32 = 3
    @Option(help: "Raft groups (default: four for each chunkserver); more spread load and recovery wider.")
    var copysets: UInt32 = 0
    @Option(help: "What may fail without taking more than one copy along.")
    var failureDomain = FailureDomainName.server
    @OptionGroup var metadata: MetadataOptions
    func run() throws {
        var request = ControlCreatePoolRequest()
        (request.name, request.replicas, request.copysets) = (name, replicas, copysets)
        request.failureDomain = failureDomain.control
        let pool = try MetadataCall(metadata.servers())(.createPool(request)).createPool.pool
        print("created pool \(pool.name): \(pool.copysets) copysets of \(pool.replicas) replicas")
    }
}

struct PoolList: ParsableCommand {
    static let configuration = CommandConfiguration(commandName: "list", abstract: "List pools.")
    @Option(help: "table or json.") var format = OutputFormat.table
    @OptionGroup var metadata: MetadataOptions
    func run() throws {
        let status = try MetadataCall(metadata.servers())(.getStatus(ControlGetStatusRequest()))
            .getStatus
        let pools = StatusJSON(status).pools
        if format == .json { return print(try Text.json(pools)) }
        print(
            Text.table(
                [["POOL", "REPLICAS", "COPYSETS", "FREE", "CAPACITY"]]
                    + pools.map {
                        [
                            $0.name, "\($0.replicas)", "\($0.copysets)", Text.size($0.freeBytes),
                            Text.size($0.capacityBytes),
                        ]
                    }))
    }
}
