/// Points to an object without keeping it, until the object says that it goes.
///
/// `weak` would do the same, but an object that was ever referenced weakly counts its references in a table
/// of its own for the rest of its life: a price for each command.
final class BackReference<Target: AnyObject> {
    /// To be cleared by its `deinit`.
    unowned var target: Target?
}
