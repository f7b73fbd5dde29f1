// swift-tools-version: 6.2
import PackageDescription

// The floor plan, bottom to top. A room may use the rooms above its line, never those below.

let strict: [SwiftSetting] = [
    .strictMemorySafety(), .treatAllWarnings(as: .error),
    .treatWarning("DeprecatedDeclaration", as: .warning),
    .enableExperimentalFeature("Lifetimes"), .enableUpcomingFeature("ExistentialAny"),
]
/// Programs that only talk to people and start processes: no memory of their own to be unsafe with.
let inTools: [SwiftSetting] = [
    .treatAllWarnings(as: .error), .treatWarning("DeprecatedDeclaration", as: .warning),
    .enableUpcomingFeature("ExistentialAny"),
]
let isFuzzBuild = Context.environment["CURVE_FUZZ_BUILD"] != nil
let inTests: [SwiftSetting] = [.treatAllWarnings(as: .error), .enableUpcomingFeature("ExistentialAny")]

func room(
    _ name: String, in wing: String, _ dependencies: [Target.Dependency] = [], exclude: [String] = [],
    settings: [SwiftSetting] = []
) -> Target {
    .target(
        name: name, dependencies: dependencies, path: "Sources/\(wing)/\(name)",
        exclude: ["README.md"] + exclude,
        swiftSettings: strict + settings)
}
/// For rooms that a small command crosses many times: what users run does not look at each access to an
/// object whether another one is under way, a third of what these rooms do for it. Unit tests and fuzzers look.
let unlookedAccess: [SwiftSetting] =
    isFuzzBuild ? [] : [.unsafeFlags(["-enforce-exclusivity=unchecked"], .when(configuration: .release))]
func toolRoom(_ name: String, in wing: String, _ dependencies: [Target.Dependency]) -> Target {
    .target(
        name: name, dependencies: dependencies, path: "Sources/\(wing)/\(name)", exclude: ["README.md"],
        swiftSettings: inTools)
}
func program(_ name: String, room: String, in wing: String, _ dependencies: [Target.Dependency]) -> Target {
    .executableTarget(
        name: name, dependencies: dependencies, path: "Sources/\(wing)/\(room)", exclude: ["README.md"],
        swiftSettings: inTools)
}
func tests(_ name: String, _ dependencies: [Target.Dependency]) -> Target {
    .testTarget(name: name, dependencies: dependencies, path: "Tests/\(name)", swiftSettings: inTests)
}
func testSupport(_ name: String, _ dependencies: [Target.Dependency]) -> Target {
    .target(name: name, dependencies: dependencies, path: "Tests/Support/\(name)", swiftSettings: inTests)
}
func testProgram(_ name: String, _ dependencies: [Target.Dependency], exclude: [String] = []) -> Target {
    .executableTarget(
        name: name, dependencies: dependencies, path: "Tests/Tools/\(name)", exclude: exclude,
        swiftSettings: inTests)
}
func system(_ name: String, _ pkgConfig: String, _ apt: String) -> Target {
    .systemLibrary(name: name, path: "Sources/System/\(name)", pkgConfig: pkgConfig, providers: [.apt([apt])])
}

let protobuf = Target.Dependency.product(name: "SwiftProtobuf", package: "swift-protobuf")
let arguments = Target.Dependency.product(name: "ArgumentParser", package: "swift-argument-parser")
let yams = Target.Dependency.product(name: "Yams", package: "Yams")
let grdb = Target.Dependency.product(name: "GRDB", package: "GRDB.swift")

let package = Package(
    name: "curve",
    dependencies: [
        .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.2"),
        .package(url: "https://github.com/apple/swift-protobuf", from: "1.39.0"),
        .package(url: "https://github.com/groue/GRDB.swift", from: "7.10.0"),
        .package(url: "https://github.com/jpsim/Yams", from: "6.2.2"),
    ],
    targets: [
        system("CISAL", "libisal", "libisal-dev"),
        system("CNetlink", "libnl-genl-3.0", "libnl-genl-3-dev"),
        system("COpenSSL", "openssl", "libssl-dev"),
        .target(
            name: "CLinux", path: "Sources/Core/CLinux", exclude: ["README.md"],
            linkerSettings: [.linkedLibrary("uring")]),

        room("BlockTypes", in: "Core", ["CISAL"]),
        room("CurveWire", in: "Core", ["BlockTypes"]),
        room("Environment", in: "Core", ["BlockTypes"]),
        room(
            "Reactor", in: "Core", ["BlockTypes", "CLinux", "Environment"], settings: unlookedAccess),
        room("Simulation", in: "Core", ["BlockTypes", "Environment"]),
        room("TLSFilter", in: "Core", ["BlockTypes", "COpenSSL", "Environment"]),
        room("FramedLink", in: "Core", ["BlockTypes", "CurveWire", "Environment"]),
        room(
            "ControlMessages", in: "Core",
            ["BlockTypes", "CurveWire", "Environment", "FramedLink", protobuf], exclude: ["control.proto"]),
        toolRoom(
            "ToolSupport", in: "Core",
            ["BlockTypes", "ControlMessages", "CurveWire", "Environment", "Reactor", arguments]),

        room("VolumeCore", in: "ClientLib", ["BlockTypes"]),
        room(
            "CurveClient", in: "ClientLib",
            [
                "BlockTypes", "ControlMessages", "CurveWire", "Environment", "FramedLink", "Reactor",
                "VolumeCore",
            ]),

        room("ChunkStore", in: "Cluster", ["BlockTypes", "Environment"]),
        room("Raft", in: "Cluster", ["BlockTypes", "CurveWire"]),
        room(
            "ChunkServer", in: "Cluster",
            [
                "BlockTypes", "ChunkStore", "ControlMessages", "CurveWire", "Environment", "FramedLink",
                "Raft",
            ]),
        room("MetadataCore", in: "Cluster", ["BlockTypes"]),
        room(
            "MetadataServer", in: "Cluster",
            ["BlockTypes", "ControlMessages", "CurveWire", "Environment", "MetadataCore", grdb]),
        program(
            "curve", room: "CurveTool", in: "Cluster",
            [
                "BlockTypes", "ChunkServer", "ChunkStore", "ControlMessages", "CurveClient", "Environment",
                "MetadataServer", "Reactor", "ToolSupport", arguments,
            ]),
        room("NBDProtocol", in: "CurveNBD", ["BlockTypes"]),
        room("NBDServer", in: "CurveNBD", ["BlockTypes", "Environment", "NBDProtocol"]),
        room("DeviceMapping", in: "CurveNBD", ["BlockTypes", "CNetlink", "NBDProtocol"]),
        program(
            "curve-nbd", room: "CurveNBDTool", in: "CurveNBD",
            [
                "BlockTypes", "CurveClient", "DeviceMapping", "Environment", "NBDServer", "Reactor",
                "TLSFilter", "ToolSupport", arguments,
            ]),

        room("SCSIBoundary", in: "ISCSITarget", ["BlockTypes"]),
        room(
            "ISCSIProtocol", in: "ISCSITarget", ["BlockTypes", "SCSIBoundary"], settings: unlookedAccess),
        room("SCSICommands", in: "ISCSITarget", ["BlockTypes", "SCSIBoundary"]),
        room(
            "ISCSIServer", in: "ISCSITarget",
            ["BlockTypes", "COpenSSL", "Environment", "ISCSIProtocol", "SCSIBoundary", "SCSICommands"],
            settings: unlookedAccess),
        room(
            "ISCSICoordination", in: "ISCSITarget",
            ["BlockTypes", "CurveClient", "Environment", "ISCSIServer", "SCSICommands"]),

        room("ISCSIConfiguration", in: "ISCSITarget", ["BlockTypes"]),
        room(
            "ISCSIGateway", in: "ISCSITarget",
            [
                "BlockTypes", "CurveClient", "Environment", "ISCSIConfiguration", "ISCSICoordination",
                "ISCSIProtocol", "ISCSIServer", "SCSICommands", "VolumeCore",
            ]),
        program(
            "curve-iscsi", room: "CurveISCSITool", in: "ISCSITarget",
            [
                "BlockTypes", "ControlMessages", "CurveClient", "Environment", "ISCSIConfiguration",
                "ISCSICoordination", "ISCSIGateway", "ISCSIProtocol", "ISCSIServer", "Reactor",
                "SCSICommands",
                "ToolSupport", arguments, yams,
            ]),

        testSupport("Checkers", []),
        testSupport("GoldenText", []),
        testSupport("StoreCrashModel", ["BlockTypes", "ChunkStore", "Environment"]),
        testSupport("RaftModel", ["BlockTypes", "CurveWire", "Raft"]),
        testSupport(
            "ClusterScenario",
            [
                "BlockTypes", "Checkers", "ChunkServer", "ChunkStore", "ControlMessages", "CurveClient",
                "CurveWire", "Environment", "ISCSICoordination", "ISCSIInitiator", "ISCSIProtocol",
                "ISCSIServer", "MetadataServer", "NBDServer", "SCSICommands", "Simulation", "VolumeCore",
            ]),
        testSupport("MemoryEnvironment", ["BlockTypes", "Environment"]),
        testSupport("TestVolumes", ["BlockTypes", "Environment"]),
        testSupport("ISCSIInitiator", []),
        testProgram("curve-crashfuzz", ["BlockTypes", "ChunkStore", "StoreCrashModel"]),
        testProgram("curve-raftfuzz", ["RaftModel"]),
        testProgram(
            "curve-sim", ["BlockTypes", "CLinux", "ClusterScenario", "RaftModel", "StoreCrashModel"],
            exclude: ["README.md"]),
        testProgram(
            "nbd-memory-server", ["BlockTypes", "DeviceMapping", "NBDServer", "Reactor", "TestVolumes"]),
        testProgram(
            "iscsi-memory-server",
            [
                "BlockTypes", "Environment", "ISCSIProtocol", "ISCSIServer", "Reactor", "SCSICommands",
                "TestVolumes",
            ]),
        testProgram(
            "iscsi-load", ["BlockTypes", "Environment", "ISCSIInitiator", "Reactor"]),
        testProgram(
            "volume-latency", ["BlockTypes", "ControlMessages", "CurveClient", "Environment", "Reactor"]),

        tests("BlockTypesTests", ["BlockTypes"]),
        tests("CurveWireTests", ["BlockTypes", "CurveWire"]),
        tests("ReactorTests", ["Reactor", "BlockTypes", "Environment", "MemoryEnvironment"]),
        tests("CheckersTests", ["Checkers"]),
        tests("SimulationTests", ["BlockTypes", "Environment", "Simulation"]),
        tests(
            "FramedLinkTests", ["BlockTypes", "CurveWire", "Environment", "FramedLink", "MemoryEnvironment"]),
        tests(
            "ControlMessagesTests",
            ["BlockTypes", "ControlMessages", "CurveWire", "Environment", "FramedLink", "MemoryEnvironment"]),
        tests("TLSFilterTests", ["BlockTypes", "Environment", "MemoryEnvironment", "TLSFilter"]),
        tests("ToolSupportTests", ["ToolSupport"]),
        tests("VolumeCoreTests", ["BlockTypes", "VolumeCore"]),
        tests(
            "CurveClientTests",
            [
                "BlockTypes", "ControlMessages", "CurveClient", "CurveWire", "Environment", "FramedLink",
                "MemoryEnvironment", "Reactor", "VolumeCore",
            ]),
        tests("ChunkStoreTests", ["BlockTypes", "ChunkStore", "Environment", "StoreCrashModel"]),
        tests("RaftTests", ["BlockTypes", "CurveWire", "GoldenText", "Raft", "RaftModel"]),
        tests("ChunkServerTests", ["BlockTypes", "ChunkServer", "ChunkStore"]),
        tests("MetadataCoreTests", ["BlockTypes", "MetadataCore"]),
        tests(
            "MetadataServerTests",
            [
                "BlockTypes", "ControlMessages", "CurveWire", "Environment", "MemoryEnvironment",
                "MetadataCore",
                "MetadataServer", grdb,
            ]),
        tests("DeviceMappingTests", ["BlockTypes", "DeviceMapping"]),
        tests("NBDProtocolTests", ["BlockTypes", "NBDProtocol"]),
        tests("ISCSIProtocolTests", ["BlockTypes", "ISCSIInitiator", "ISCSIProtocol"]),
        tests("SCSICommandsTests", ["BlockTypes", "SCSIBoundary", "SCSICommands"]),
        tests(
            "ISCSIServerTests",
            [
                "BlockTypes", "Environment", "ISCSIInitiator", "ISCSIProtocol", "ISCSIServer",
                "MemoryEnvironment", "SCSICommands", "TestVolumes",
            ]),
        tests(
            "ISCSICoordinationTests",
            [
                "BlockTypes", "CurveClient", "Environment", "ISCSICoordination", "ISCSIServer",
                "MemoryEnvironment", "SCSICommands",
            ]),
        tests("NBDServerTests", ["BlockTypes", "Environment", "NBDProtocol", "NBDServer", "TestVolumes"]),
        tests(
            "ScenariosTests",
            [
                "BlockTypes", "Checkers", "ClusterScenario", "CurveClient", "Environment", "GoldenText",
                "Simulation", "TestVolumes",
            ]),
        tests("ISCSIConfigurationTests", ["ISCSIConfiguration"]),
        tests(
            "ISCSIGatewayTests",
            [
                "BlockTypes", "ControlMessages", "CurveClient", "CurveWire", "Environment", "FramedLink",
                "ISCSIConfiguration", "ISCSIGateway", "ISCSIInitiator", "ISCSIServer", "MemoryEnvironment",
                "MetadataServer",
            ]),
        tests("TidyTests", []),
    ]
)

// tools/fuzz builds these alone: libFuzzer brings its own `main` and wants every module instrumented.
if isFuzzBuild {
    package.targets += [
        testSupport("Fuzzing", []),
        testProgram(
            "curve-fuzz", ["BlockTypes", "ChunkStore", "CurveWire", "Fuzzing"], exclude: ["README.md"]),
        testProgram("curve-fuzz-nbd", ["BlockTypes", "Fuzzing", "NBDProtocol"], exclude: ["words.dict"]),
        testProgram(
            "curve-fuzz-iscsi", ["BlockTypes", "Fuzzing", "ISCSIProtocol"], exclude: ["words.dict"]),
        testProgram("curve-fuzz-scsi", ["BlockTypes", "Fuzzing", "SCSIBoundary", "SCSICommands"]),
        testProgram("curve-fuzz-control", ["ControlMessages", "Fuzzing"]),
    ]
}
