/// A thing that lives on one loop, held by those who post actions to it.
package final class LoopBound<Value>: @unchecked Sendable {
    // SAFETY: `value` is set and used only in actions that run on its loop, or after that has ended.
    package var value: Value?
    package init() {}
}
