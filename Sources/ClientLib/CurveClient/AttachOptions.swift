import BlockTypes
import ControlMessages
import Environment
import VolumeCore

/// How to attach a volume.
public struct AttachOptions: Sendable {
    /// Its path, `/databases/orders`.
    public var path: String
    /// Where metadata servers listen: at most ``MetadataServerList/countMax``. The one that leads is found.
    public var metadataServers: [SocketAddress]
    /// Who attaches, for people: "curve-nbd serve on host7, pid 1234".
    public var holder: String
    /// Stable name of the attaching program: the same name may attach again at once. Empty: one of chance.
    public var holderKey: String
    /// Takes the volume from another holder, who is fenced.
    public var takeOver: Bool
    /// The group to hold the volume with: all who say the same name write to it at the same time. Empty:
    /// the volume is held alone.
    public var group = ""
    /// Refuses writes. Without a group the attachment is exclusive all the same.
    public var isReadOnly: Bool
    /// What to do when replicas are out of reach.
    public var policy: UnavailablePolicy
    /// How long attaching may take, the copysets' consent included.
    public var timeout = Duration.seconds(30)

    /// Options for the volume at `path`.
    public init(
        path: String, metadataServers: [SocketAddress], holder: String, holderKey: String = "",
        takeOver: Bool = false, isReadOnly: Bool = false, policy: UnavailablePolicy = .queue
    ) {
        (self.path, self.metadataServers, self.holder) = (path, metadataServers, holder)
        (self.holderKey, self.takeOver, self.isReadOnly) = (holderKey, takeOver, isReadOnly)
        self.policy = policy
    }
}

/// Why a volume could not be attached or resized, or its group's members or values not changed.
public enum AttachError: Error, Sendable, CustomStringConvertible {
    /// The metadata server refused or could not be asked.
    case control(ControlError)
    /// What the metadata server answered makes no sense.
    case badAnswer(String)
    /// Not all copysets could be told in time; the text names one and why.
    case timedOut(String)
    /// The attachment ended before it began, or before the work was done.
    case lost(VolumeError)
    /// The volume was given another size meanwhile, this one.
    case superseded(ByteCount)
    /// The list of metadata servers is no list.
    case metadataServers(MetadataServerListError)

    /// True when there is no such volume.
    public var isNotFound: Bool {
        if case .control(.refused(let failure)) = self { failure.code == .notFound } else { false }
    }
    /// True when another holder has the volume.
    public var isHeld: Bool {
        if case .control(.refused(let failure)) = self { failure.code == .held } else { false }
    }
    /// What happened and what to do, in one line.
    public var description: String {
        switch self {
        case .control(let error): "\(error)"
        case .badAnswer(let what): "the metadata server's answer makes no sense: \(what)"
        case .timedOut(let where_): "the volume's copysets did not all answer in time: \(where_)"
        case .lost(.fenced): "another client has taken the volume over"
        case .lost(.deleted): "the volume was deleted"
        case .lost(let error): "the volume was closed: \(error)"
        case .superseded(let size): "the volume was resized again meanwhile and has \(size) now"
        case .metadataServers(let error): "\(error)"
        }
    }
}
