// swift-tools-version: 6.2
import PackageDescription

// The floor plan, bottom to top. A room may use the rooms above its line, never those below.

let strict: [SwiftSetting] = [
    .strictMemorySafety(), .treatAllWarnings(as: .error),
    .treatWarning("DeprecatedDeclaration", as: .warning),
    .enableExperimentalFeature("Lifetimes"), .enableUpcomingFeature("ExistentialAny"),
]
let inTests: [SwiftSetting] = [.treatAllWarnings(as: .error), .enableUpcomingFeature("ExistentialAny")]

func room(_ name: String, in wing: String, _ dependencies: [Target.Dependency] = []) -> Target {
    .target(
        name: name, dependencies: dependencies, path: "Sources/\(wing)/\(name)", exclude: ["README.md"],
        swiftSettings: strict)
}
func tests(_ name: String, _ dependencies: [Target.Dependency]) -> Target {
    .testTarget(name: name, dependencies: dependencies, path: "Tests/\(name)", swiftSettings: inTests)
}
func testSupport(_ name: String, _ dependencies: [Target.Dependency]) -> Target {
    .target(name: name, dependencies: dependencies, path: "Tests/Support/\(name)", swiftSettings: inTests)
}
func testProgram(_ name: String, _ dependencies: [Target.Dependency]) -> Target {
    .executableTarget(
        name: name, dependencies: dependencies, path: "Tests/Tools/\(name)", swiftSettings: inTests)
}
func system(_ name: String, _ pkgConfig: String, _ apt: String) -> Target {
    .systemLibrary(name: name, path: "Sources/System/\(name)", pkgConfig: pkgConfig, providers: [.apt([apt])])
}

let package = Package(
    name: "curve",
    targets: [
        system("CISAL", "libisal", "libisal-dev"),
        system("CNetlink", "libnl-genl-3.0", "libnl-genl-3-dev"),
        room("BlockTypes", in: "Core", ["CISAL"]),
        room("CurveWire", in: "Core", ["BlockTypes"]),
        room("Environment", in: "Core", ["BlockTypes"]),
        .target(
            name: "CLinux", path: "Sources/Core/CLinux", exclude: ["README.md"],
            linkerSettings: [.linkedLibrary("uring")]),
        room("Reactor", in: "Core", ["BlockTypes", "CLinux", "Environment"]),
        room("NBDProtocol", in: "CurveNBD", ["BlockTypes"]),
        room("NBDServer", in: "CurveNBD", ["BlockTypes", "Environment", "NBDProtocol"]),
        room("DeviceMapping", in: "CurveNBD", ["BlockTypes", "CNetlink", "NBDProtocol"]),
        testSupport("TestVolumes", ["BlockTypes", "Environment"]),
        testProgram(
            "nbd-memory-server", ["BlockTypes", "DeviceMapping", "NBDServer", "Reactor", "TestVolumes"]),
        tests("BlockTypesTests", ["BlockTypes"]),
        tests("DeviceMappingTests", ["BlockTypes", "DeviceMapping"]),
        tests("NBDProtocolTests", ["BlockTypes", "NBDProtocol"]),
        tests("NBDServerTests", ["BlockTypes", "Environment", "NBDProtocol", "NBDServer", "TestVolumes"]),
    ]
)
