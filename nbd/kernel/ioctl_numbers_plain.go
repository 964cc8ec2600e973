//go:build !cgo && !amd64

package kernel

// The driver's ioctls (linux/nbd.h), where go-nbd has them only with a C compiler.
const (
	ioctlSetSocket    = 0xab<<8 + 0
	ioctlSetBlockSize = 0xab<<8 + 1
	ioctlDoIt         = 0xab<<8 + 3
	ioctlClearSocket  = 0xab<<8 + 4
	ioctlSetBlocks    = 0xab<<8 + 7
	ioctlSetTimeout   = 0xab<<8 + 9
	ioctlSetFlags     = 0xab<<8 + 10
)
