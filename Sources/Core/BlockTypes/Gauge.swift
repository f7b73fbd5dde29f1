/// Hears how much there is of something bounded, and how much there may be at most: for whoever watches a
/// room from outside. Reading gauges changes nothing and costs no memory.
package typealias GaugeReader = (_ what: StaticString, _ count: Int, _ bound: Int) -> Void
