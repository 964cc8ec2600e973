// Package memory keeps chunks in RAM. It implements backend.Chunks for
// benchmarks, tests and volumes whose data may be thrown away.
//
// Every operation runs on the caller's goroutine: Try always returns true, and
// Submit calls Done before it returns. Nothing outlives the process; Flush only
// checks the epoch. Space is taken in pages of 64 KiB and tracked in blocks of
// 4 KiB: Extents tells blocks apart, Usage counts pages, and a page whose last
// block is freed goes back.
//
// Null completes operations without touching data, to measure what lies above
// a backend.
package memory
