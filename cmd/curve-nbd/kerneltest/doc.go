// Package kerneltest has the tests of volumes as block devices of a real Linux
// kernel, by NBD and by iSCSI, with real file systems on them. On the outside a test
// boots a guest, by scripts/e2e-kernel.sh, and passes on what the same test says in
// there: TestKernel one that runs nothing else, TestISCSI one with open-iscsi,
// TestSystemd one with the package, systemd and udev.
package kerneltest
