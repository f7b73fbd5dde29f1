import BlockTypes

/// Chooses the members of a pool's copysets.
///
/// Two layers (ENGINE section 11). First a few *replica sets*: groups of servers of which no two share a
/// failure domain. Each server is in as many sets as give it ``scatterWidth`` peers: fewer sets would make
/// its rebuild slow, more would make it likely that some three dead servers are all of some copyset. The
/// number of sets is rounded so that every server can be in equally many. Then the copysets are dealt over
/// the sets, and each gets the preferred leader that leads least.
///
/// The choice is greedy: always a server that is in the fewest sets, and among those the one that met the
/// others least. That spreads evenly whenever the failure domains are of similar size; a domain much smaller
/// than the others carries more, as it must.
struct CopysetTable {
    /// A place for replicas.
    struct Server: Hashable {
        let id: ServerID
        /// What must differ among the members of a copyset.
        let domain: String
    }
    /// Peers that a server shares copysets with in a large pool: rebuild from 20 at 100 MB/s each takes a
    /// full 8 TB device about 47 minutes, and 1 % of 10,000 devices dying at once loses data with a chance of
    /// 3 %.
    static let scatterWidth = 20

    /// The members of each copyset, preferred leader first.
    let members: [[ServerID]]

    /// - Returns: `nil` when there are not `replicas` failure domains.
    init?(servers: [Server], replicas: Int, copysets: Int, seed: UInt64) {
        guard Set(servers.map(\.domain)).count >= replicas, replicas > 0, copysets > 0 else { return nil }
        var maker = Maker(servers: servers.sorted { $0.id < $1.id }, replicas: replicas, seed: seed)
        let setCount = Self.setCount(servers: servers.count, replicas: replicas, copysets: copysets)
        let sets = (0..<setCount).map { _ in maker.nextSet() }
        let chosen = Self.deal(sets, copysets: copysets, servers: servers.count)
        members = Self.withLeaders(chosen, servers: servers.count).map { $0.map { maker.servers[$0].id } }
    }

    /// How many replica sets give every server its scatter width and an equal share.
    static func setCount(servers: Int, replicas: Int, copysets: Int) -> Int {
        guard replicas > 1 else { return min(servers, copysets) }
        let width = min(scatterWidth, servers - 1)
        let pairsPerSet = replicas * (replicas - 1)
        let wanted = (servers * width + pairsPerSet - 1) / pairsPerSet
        let step = servers / greatestCommonDivisor(servers, replicas)
        return min(max(1, (wanted + step / 2) / step) * step, copysets)
    }
    private static func greatestCommonDivisor(_ a: Int, _ b: Int) -> Int {
        b == 0 ? a : greatestCommonDivisor(b, a % b)
    }

    /// Gives every set its turn in full rounds; the rest goes where it hurts least.
    private static func deal(_ sets: [[Int]], copysets: Int, servers: Int) -> [[Int]] {
        var dealt: [[Int]] = []
        var load = Array(repeating: 0, count: servers)
        var isUsed = Array(repeating: false, count: sets.count)
        for number in 0..<copysets {
            var pick = number % sets.count
            if pick == 0 { isUsed = Array(repeating: false, count: sets.count) }
            if copysets - number + pick < sets.count {
                var least = (Int.max, Int.max)
                for (index, set) in sets.enumerated() where !isUsed[index] {
                    let weight = (set.map { load[$0] }.max() ?? 0, set.reduce(0) { $0 + load[$1] })
                    if weight < least { (least, pick) = (weight, index) }
                }
            }
            isUsed[pick] = true
            for server in sets[pick] { load[server] += 1 }
            dealt.append(sets[pick])
        }
        return dealt
    }

    /// Puts the preferred leader of each copyset first, so that no server leads two more than it must.
    private static func withLeaders(_ copysets: [[Int]], servers: Int) -> [[Int]] {
        var leaders = Leaders(copysets: copysets, servers: servers)
        // Each round that moves something brings the numbers closer; the bound is for the reader's peace.
        for _ in 0..<servers where !leaders.even() { break }
        return leaders.copysets
    }
}

/// Preferred leaders, moved until they are even.
private struct Leaders {
    /// Leader first.
    private(set) var copysets: [[Int]]
    /// The copysets that each server leads.
    private var led: [[Int]]

    init(copysets: [[Int]], servers: Int) {
        (self.copysets, led) = (copysets, Array(repeating: [], count: servers))
        for (number, members) in copysets.enumerated() {
            let place = members.indices.min { led[members[$0]].count < led[members[$1]].count } ?? 0
            led[members[place]].append(number)
            self.copysets[number].swapAt(0, place)
        }
    }
    /// Lets each server pass leadership on, directly or over others, to one that leads two fewer.
    /// - Returns: true when something moved.
    mutating func even() -> Bool {
        var hasMoved = false
        for server in led.indices.sorted(by: { (-led[$0].count, $0) < (-led[$1].count, $1) }) {
            while let path = pathDown(from: server) {
                for step in path {
                    let (old, new) = (copysets[step.number][0], copysets[step.number][step.place])
                    led[old].removeAll { $0 == step.number }
                    led[new].append(step.number)
                    copysets[step.number].swapAt(0, step.place)
                }
                hasMoved = true
            }
        }
        return hasMoved
    }
    private struct Step {
        let number: Int
        let place: Int
    }
    /// The shortest chain of copysets over which `server` can make one that leads two fewer lead one more.
    private func pathDown(from server: Int) -> [Step]? {
        var came: [Int: (from: Int, over: Step)] = [:]
        var (reached, next) = ([server], 0)
        while next < reached.count {
            let here = reached[next]
            next += 1
            for number in led[here] {
                for (place, member) in copysets[number].enumerated().dropFirst() {
                    guard member != server, came[member] == nil else { continue }
                    came[member] = (here, Step(number: number, place: place))
                    reached.append(member)
                    guard led[member].count + 1 < led[server].count else { continue }
                    var path: [Step] = []
                    var at = member
                    while let (from, over) = came[at] {
                        path.append(over)
                        at = from
                    }
                    return path
                }
            }
        }
        return nil
    }
}

/// Makes replica sets one after the other, remembering who was chosen and who met whom.
private struct Maker {
    let servers: [CopysetTable.Server]
    let replicas: Int
    /// The domain of each server as a number.
    private let domains: [Int]
    private var chosen: [Int]
    private var met: [UInt16]
    private var random: SeededRandom

    init(servers: [CopysetTable.Server], replicas: Int, seed: UInt64) {
        (self.servers, self.replicas) = (servers, replicas)
        var numbers: [String: Int] = [:]
        domains = servers.map { server in
            if let number = numbers[server.domain] { return number }
            numbers[server.domain] = numbers.count
            return numbers.count - 1
        }
        chosen = Array(repeating: 0, count: servers.count)
        met = Array(repeating: 0, count: servers.count * servers.count)
        random = SeededRandom(seed: seed)
    }

    mutating func nextSet() -> [Int] {
        var set: [Int] = []
        var usedDomains: Set<Int> = []
        while set.count < replicas, let server = nextMember(beside: set, outside: usedDomains) {
            usedDomains.insert(domains[server])
            for other in set {
                met[other * servers.count + server] &+= 1
                met[server * servers.count + other] &+= 1
            }
            chosen[server] += 1
            set.append(server)
        }
        invariant(set.count == replicas, "the caller counted the failure domains")
        return set
    }
    /// The server whose turn it is: of those least often chosen, one of the domain that has most of them (or
    /// they would be left over), that met `set` least.
    private mutating func nextMember(beside set: [Int], outside usedDomains: Set<Int>) -> Int? {
        let free = servers.indices.filter { !usedDomains.contains(domains[$0]) }
        guard let turn = free.map({ chosen[$0] }).min() else { return nil }
        var waiting = Array(repeating: 0, count: servers.count)
        for server in free where chosen[server] == turn { waiting[domains[server]] += 1 }
        var best: (server: Int, weight: (Int, Int, UInt64))?
        for server in free where chosen[server] == turn {
            let meetings = set.reduce(0) { $0 + Int(met[$1 * servers.count + server]) }
            let weight = (-waiting[domains[server]], meetings, random.next())
            if best.map({ weight < $0.weight }) ?? true { best = (server, weight) }
        }
        return best?.server
    }
}
