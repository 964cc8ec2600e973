// Package crashfs is a file system in memory whose power can be cut. It stands
// in for disk.FS in tests.
//
// # What a crash may do
//
// The model is the weakest that POSIX lets a file system be, with one promise:
// a unit (512 or 4096 bytes) is written whole or not at all. Since the last
// successful sync that covered it,
//
//   - each unit of a file may be at any version it has had,
//   - a file's size may be any it has had, and cuts off what lies beyond,
//   - each name in a directory may be missing, or mean any file it has meant,
//
// all independently of each other. SyncData covers a file's units and size but
// not its name, SyncDir the names in one directory, SyncAll everything.
//
// A failed SyncData does what kernels do: the cache goes on showing the data,
// considers it clean, and a later SyncData that succeeds does not write it.
//
// # Handles
//
// An FS is a running machine. Kill ends a process: the FS is dead, the one it
// returns has the same cache. Crash returns a machine started from one of the
// states that the disk might be in, chosen by a seed, and leaves the receiver
// alone, so that one run can be crashed at every step.
package crashfs
