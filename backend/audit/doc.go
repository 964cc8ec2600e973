// Package audit holds the instruments that tell whether storage keeps its
// promises: tests, benchmarks and users measure with the same ones. It knows
// nothing of how the storage works.
//
//   - Meter: how long did IO stand still, in all and after each event?
//   - Log: which content may each block hold? Stamp is what a block carries.
//   - Workload: a load that checks all that it reads, with a Meter and a Log.
//     VerifyAll and RecoverAll read everything once more.
//   - History: is what several clients saw of the same blocks linearizable?
//     Registers is a load for it.
//   - Compare: do the replicas of a copyset hold the same?
//
// # What a Log can tell
//
// A change is noted before it is submitted and again when it is acknowledged. A
// read must then return, block by block, the newest change acknowledged before the
// read began, or any change that is not older than that one and was submitted. A
// change without an answer may have happened or not; once it was read, it has.
// Which of two changes is older follows from their versions where a block's changes
// are made one after the other, and from acknowledgement before submission where
// it is shared. Not told apart are several zeroings of a block. A connection that
// breaks while the other end lives may leave a change behind that lands after a
// newer one: use a Log across that only if what is tested forbids it.
//
// # Contract
//
//   - Meter.Submit and Complete take no lock and allocate nothing.
//   - Memory is bounded by the blocks in use, the changes of unknown outcome, and,
//     for a History, by the operations recorded.
//   - Errors and mismatches are counted without exception, and the first hundred
//     of each are kept word for word.
//   - Nothing here runs on after Run has returned.
package audit
