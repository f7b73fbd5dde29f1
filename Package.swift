// swift-tools-version: 6.2
import PackageDescription

// The floor plan, bottom to top. A room may use the rooms above its line, never those below.

let strict: [SwiftSetting] = [
    .strictMemorySafety(), .treatAllWarnings(as: .error),
    .treatWarning("DeprecatedDeclaration", as: .warning),
    .enableExperimentalFeature("Lifetimes"), .enableUpcomingFeature("ExistentialAny"),
]
let inTests: [SwiftSetting] = [.treatAllWarnings(as: .error), .enableUpcomingFeature("ExistentialAny")]

func room(
    _ name: String, in wing: String, _ dependencies: [Target.Dependency] = [], exclude: [String] = []
) -> Target {
    .target(
        name: name, dependencies: dependencies, path: "Sources/\(wing)/\(name)",
        exclude: ["README.md"] + exclude, swiftSettings: strict)
}
func tests(_ name: String, _ dependencies: [Target.Dependency]) -> Target {
    .testTarget(name: name, dependencies: dependencies, path: "Tests/\(name)", swiftSettings: inTests)
}
func support(_ name: String, _ dependencies: [Target.Dependency]) -> Target {
    .target(name: name, dependencies: dependencies, path: "Tests/Support/\(name)", swiftSettings: inTests)
}
func system(_ name: String, _ pkgConfig: String, _ apt: String) -> Target {
    .systemLibrary(name: name, path: "Sources/System/\(name)", pkgConfig: pkgConfig, providers: [.apt([apt])])
}

let protobuf = Target.Dependency.product(name: "SwiftProtobuf", package: "swift-protobuf")

let package = Package(
    name: "curve",
    dependencies: [.package(url: "https://github.com/apple/swift-protobuf", from: "1.39.0")],
    targets: [
        system("CISAL", "libisal", "libisal-dev"),
        room("BlockTypes", in: "Core", ["CISAL"]),
        room("CurveWire", in: "Core", ["BlockTypes"]),
        room("Environment", in: "Core", ["BlockTypes"]),
        room("FramedLink", in: "Core", ["BlockTypes", "CurveWire", "Environment"]),
        room(
            "ControlMessages", in: "Core",
            ["BlockTypes", "CurveWire", "Environment", "FramedLink", protobuf], exclude: ["control.proto"]),
        .target(
            name: "CLinux", path: "Sources/Core/CLinux", exclude: ["README.md"],
            linkerSettings: [.linkedLibrary("uring")]),
        room("Reactor", in: "Core", ["BlockTypes", "CLinux", "Environment"]),
        room("VolumeCore", in: "ClientLib", ["BlockTypes"]),
        room(
            "CurveClient", in: "ClientLib",
            [
                "BlockTypes", "ControlMessages", "CurveWire", "Environment", "FramedLink", "Reactor", "VolumeCore",
            ]),
        support("MemoryEnvironment", ["BlockTypes", "Environment"]),
        tests("BlockTypesTests", ["BlockTypes"]),
        tests("CurveWireTests", ["BlockTypes", "CurveWire"]),
        tests("FramedLinkTests", ["BlockTypes", "CurveWire", "Environment", "FramedLink", "MemoryEnvironment"]),
        tests(
            "ControlMessagesTests",
            ["BlockTypes", "ControlMessages", "CurveWire", "Environment", "FramedLink", "MemoryEnvironment"]),
        tests("ReactorTests", ["Reactor", "BlockTypes", "Environment"]),
        tests("VolumeCoreTests", ["BlockTypes", "VolumeCore"]),
        tests(
            "CurveClientTests",
            [
                "BlockTypes", "ControlMessages", "CurveClient", "CurveWire", "Environment", "FramedLink",
                "MemoryEnvironment", "Reactor", "VolumeCore",
            ]),
    ]
)
