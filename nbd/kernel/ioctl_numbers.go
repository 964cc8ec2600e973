//go:build cgo || amd64

package kernel

import "github.com/pojntfx/go-nbd/pkg/ioctl"

// The driver's ioctls (linux/nbd.h).
const (
	ioctlSetSocket    = ioctl.NEGOTIATION_IOCTL_SET_SOCK
	ioctlSetBlockSize = ioctl.NEGOTIATION_IOCTL_SET_BLOCKSIZE
	ioctlSetBlocks    = ioctl.NEGOTIATION_IOCTL_SET_SIZE_BLOCKS
	ioctlSetTimeout   = ioctl.NEGOTIATION_IOCTL_SET_TIMEOUT
	ioctlDoIt         = ioctl.NEGOTIATION_IOCTL_DO_IT
	ioctlClearSocket  = ioctl.TRANSMISSION_IOCTL_CLEAR_SOCK
	ioctlSetFlags     = ioctlSetTimeout + 1 // which go-nbd lacks
)
