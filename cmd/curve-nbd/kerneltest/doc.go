// Package kerneltest has the tests of volumes as block devices of a real Linux
// kernel, with real file systems on them. On the outside its one test boots a guest,
// by scripts/e2e-kernel.sh, and passes on what the same test says in there.
package kerneltest
