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
func system(_ name: String, _ pkgConfig: String, _ apt: String) -> Target {
    .systemLibrary(name: name, path: "Sources/System/\(name)", pkgConfig: pkgConfig, providers: [.apt([apt])])
}

let package = Package(
    name: "curve",
    targets: [
        system("CISAL", "libisal", "libisal-dev"),
        room("BlockTypes", in: "Core", ["CISAL"]),
        room("CurveWire", in: "Core", ["BlockTypes"]),
        room("Environment", in: "Core", ["BlockTypes"]),
        room("MetadataCore", in: "Cluster", ["BlockTypes"]),
        tests("BlockTypesTests", ["BlockTypes"]),
        tests("MetadataCoreTests", ["MetadataCore", "BlockTypes"]),
    ]
)
