// Package kernel speaks to the Linux nbd driver: it connects devices to sockets,
// through generic netlink, and says, from sysfs and procfs, what a device is and
// who uses it. It knows nothing of volumes.
//
// The driver keeps a device that was connected with a timeout for dead connections
// when its sockets break: requests wait until Reconfigure brings fresh sockets. A
// request that was sent on a broken socket is sent again once Config.Timeout has
// passed since, and not earlier.
package kernel
