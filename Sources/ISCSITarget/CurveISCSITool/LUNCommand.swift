import ArgumentParser
import ControlMessages
import ISCSIConfiguration
import ISCSIGateway
import ToolSupport

struct LUNCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "lun", abstract: "LUNs: volumes under the numbers that initiators use.",
        subcommands: [LUNCreate.self, LUNDelete.self, LUNList.self, LUNShow.self, LUNSet.self])
}

/// Whether gateways could have a volume.
struct VolumeCheck: ParsableArguments {
    @Flag(help: "Also if a volume is missing, or attached by somebody else now.") var force = false

    /// The volumes that come with a configuration.
    func check(
        _ next: ISCSIConfiguration, instead before: ISCSIConfiguration, _ metadata: MetadataOptions
    ) throws {
        for target in next.targets {
            let known = before.target(target.name)?.luns.map(\.volume) ?? []
            for lun in target.luns where !known.contains(lun.volume) {
                try check(lun.volume, for: target.name, metadata)
            }
        }
    }
    func check(_ path: String, for target: String, _ metadata: MetadataOptions) throws {
        guard !force else { return }
        var question = ControlGetVolumeRequest()
        question.path = path
        let volume = try MetadataCall(metadata.servers())(.getVolume(question)).volume.volume
        guard volume.holder.isEmpty || volume.group == ConfiguredGateway.group(of: target) else {
            throw ToolError.failed(
                "\(path) is attached by \(volume.holder); end that first, or add --force: gateways then wait "
                    + "for it")
        }
    }
}

struct LUNCreate: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "create",
        abstract: "Make a volume a LUN of a target; initiators that are there are told.",
        discussion: """
            Examples:
              curve-iscsi lun create iqn.2026-11.example.com:db db/root
              curve-iscsi lun create iqn.2026-11.example.com:db db/iso --number 7 --read-only --removable
            """)
    @Argument(help: "Name of the target.") var target: String
    @Argument(help: "Path of the volume.") var volume: String
    @Option(help: "The LUN's number (default: the lowest that is free).") var number: UInt16?
    @Option(help: "Bytes in a block: 512 or 4096.") var blockSize = 512
    @Flag(help: "Nobody may write.") var readOnly = false
    @Flag(help: "Initiators may eject the medium.") var removable = false
    @Option(help: ThresholdHelp.text) var threshold: Int?
    @OptionGroup var check: VolumeCheck
    @OptionGroup var options: ChangeOptions

    func run() throws {
        let path = rooted(volume)
        var lun = LUNEntry(number: number ?? 0, volume: path)
        (lun.blockBytes, lun.isReadOnly, lun.isRemovable) = (blockSize, readOnly, removable)
        lun.thresholdPercent = threshold
        try options.change { configuration in
            try configuration.create(lun, number: number, of: target)
            try configuration.check()
            try check.check(path, for: target, options.metadata)
        }
    }
}

/// What `--threshold` is.
enum ThresholdHelp {
    static let text = ArgumentHelp(
        "Tell initiators when a store of the pool is so full, in percent; 0: never (default: "
            + "\(SoftThreshold.usualPercent)).")
}

/// Paths may be written without the leading slash.
func rooted(_ path: String) -> String { path.hasPrefix("/") ? path : "/" + path }

struct LUNDelete: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "delete", abstract: "Take a LUN from its target; the volume stays.")
    @Argument(help: "Name of the target.") var target: String
    @Argument(help: "The LUN's number.") var number: UInt16
    @OptionGroup var options: ChangeOptions

    func run() throws { try options.change { try $0.deleteLUN(number, of: target) } }
}

struct LUNSet: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "set", abstract: "Change a LUN; what is not named stays.",
        discussion: """
            Gateways take the LUN away and bring it back, so commands under way end with an error; not for \
            --threshold alone.
            """)
    @Argument(help: "Name of the target.") var target: String
    @Argument(help: "The LUN's number.") var number: UInt16
    @Option(help: "Path of the volume.") var volume: String?
    @Option(help: "Bytes in a block: 512 or 4096.") var blockSize: Int?
    @Flag(inversion: .prefixedNo, help: "Nobody may write.") var readOnly: Bool?
    @Flag(inversion: .prefixedNo, help: "Initiators may eject the medium.") var removable: Bool?
    @Option(help: ThresholdHelp.text) var threshold: Int?
    @OptionGroup var check: VolumeCheck
    @OptionGroup var options: ChangeOptions

    func run() throws {
        let path = volume.map(rooted)
        try options.change { configuration in
            try configuration.change(lun: number, of: target) { lun throws(ConfigurationError) in
                if let path { lun.volume = path }
                if let blockSize { lun.blockBytes = blockSize }
                if let readOnly { lun.isReadOnly = readOnly }
                if let removable { lun.isRemovable = removable }
                if let threshold { lun.thresholdPercent = threshold }
            }
            try configuration.check()
            if let path { try check.check(path, for: target, options.metadata) }
        }
    }
}

/// A LUN as scripts read it.
struct LUNJSON: Encodable {
    let target: String, number: UInt16, volume: String, blockSize: Int, readOnly: Bool, removable: Bool
    let threshold: Int
    init(_ target: String, _ lun: LUNEntry) {
        (self.target, number, volume) = (target, lun.number, lun.volume)
        (blockSize, readOnly, removable) = (lun.blockBytes, lun.isReadOnly, lun.isRemovable)
        threshold = lun.threshold
    }
}

extension LUNEntry {
    /// What is unusual about it.
    var looks: String {
        (blockBytes == 512 ? "" : ", blocks of \(blockBytes)") + (isReadOnly ? ", read-only" : "")
            + (isRemovable ? ", removable" : "")
    }
}

struct LUNList: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "list", abstract: "Show the LUNs of a target, or of all.")
    @Argument(help: "Name of the target.") var target: String?
    @OptionGroup var options: LookOptions

    func run() throws {
        let configuration = try options.configuration()
        if let target, configuration.target(target) == nil { throw configuration.noTarget(target).toolError }
        let luns = configuration.targets.filter { target == nil || $0.name == target }.flatMap { entry in
            entry.luns.map { (entry.name, $0) }
        }
        try options.print(
            luns.map { LUNJSON($0.0, $0.1) },
            table: [["TARGET", "LUN", "VOLUME", "BLOCK", "ACCESS"]]
                + luns.map { name, lun in
                    [
                        name, "\(lun.number)", lun.volume, "\(lun.blockBytes)",
                        (lun.isReadOnly ? "ro" : "rw") + (lun.isRemovable ? ", removable" : ""),
                    ]
                })
    }
}

struct LUNShow: ParsableCommand {
    static let configuration = CommandConfiguration(commandName: "show", abstract: "Show one LUN.")
    @Argument(help: "Name of the target.") var target: String
    @Argument(help: "The LUN's number.") var number: UInt16
    @OptionGroup var options: LookOptions

    func run() throws {
        let configuration = try options.configuration()
        guard let entry = configuration.target(target) else { throw configuration.noTarget(target).toolError }
        guard let lun = entry.lun(number) else { throw entry.noLUN(number).toolError }
        try options.print(
            LUNJSON(target, lun),
            properties: [
                ("target", target), ("number", "\(number)"), ("volume", lun.volume),
                ("block size", "\(lun.blockBytes)"), ("read-only", "\(lun.isReadOnly)"),
                ("removable", "\(lun.isRemovable)"), ("threshold", "\(lun.threshold) %"),
            ])
    }
}
