import BlockTypes
import SCSIBoundary

/// The tasks of one logical unit, each in its place until it is taken out; places are used again.
///
/// Whoever only wants to know a task's stage, its work or the shape of that asks for it: to take the task out
/// of its place copies all of it, which is as dear as the rest of a step.
struct TaskList: RandomAccessCollection, MutableCollection, Sendable {
    private struct Place {
        var isTaken: Bool
        var task: RunningTask
    }
    private var places: [Place] = []
    private var free: [TaskNumber] = []
    /// Those that are there.
    private(set) var taskCount = 0

    var startIndex: Int { 0 }
    var endIndex: Int { places.count }
    subscript(_ index: Int) -> RunningTask? {
        get { places[index].isTaken ? places[index].task : nil }
        set {
            invariant(places[index].isTaken && newValue != nil, "a task comes by add and goes by remove")
            if let newValue { places[index].task = newValue }
        }
    }
    func stage(of number: TaskNumber) -> RunningTask.Stage? {
        let index = number.rawValue
        guard places.indices.contains(index), places[index].isTaken else { return nil }
        return places[index].task.stage
    }
    func shape(of number: TaskNumber) -> WorkShape? {
        places[number.rawValue].isTaken ? places[number.rawValue].task.shape : nil
    }
    func work(of number: TaskNumber) -> Work? {
        // What an array hands out is a copy, what a span does is lent.
        let places = places.span
        return places[number.rawValue].isTaken ? places[number.rawValue].task.work : nil
    }
    func hasTask(of nexus: NexusID) -> Bool {
        places.indices.contains { places[$0].isTaken && places[$0].task.nexus == nexus }
    }
    mutating func setStage(_ stage: RunningTask.Stage, of number: TaskNumber) {
        places[number.rawValue].task.stage = stage
    }
    mutating func add(_ task: consuming RunningTask) -> TaskNumber {
        taskCount += 1
        guard let number = free.popLast() else {
            places.append(Place(isTaken: true, task: task))
            return TaskNumber(rawValue: places.count - 1)
        }
        places[number.rawValue].isTaken = true
        places[number.rawValue].task = task
        return number
    }
    /// - Returns: `nil` when there is no such task any more.
    mutating func remove(_ number: TaskNumber) -> RunningTask? {
        guard places[number.rawValue].isTaken else { return nil }
        var task = RunningTask.none
        swap(&task, &places[number.rawValue].task)
        places[number.rawValue].isTaken = false
        free.append(number)
        taskCount -= 1
        return task
    }
}

extension RunningTask {
    /// What stands in a place without a task.
    fileprivate static var none: RunningTask {
        RunningTask(origin: .background, nexus: nil, stage: .queued, work: .flush)
    }
}
