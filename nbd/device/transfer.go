package device

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"golang.org/x/sys/unix"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/nbd/kernel"
)

// On the wire a device is the length of its Backend, as four bytes in network order
// that carry the sockets (SCM_RIGHTS), and the Backend. A length of 0 ends the list;
// refusal, and the reason up to the end of the stream, stands for one.
const refusal = 1<<32 - 1

// maxHanded bounds what Receive takes: devices, with up to MaxConnections sockets.
const maxHanded = 4096

// Send hands devices over to the process at the other end.
func Send(to *net.UnixConn, list []Handed) error {
	for _, h := range append(list, Handed{}) {
		var fds []int
		for _, f := range h.Sockets {
			fds = append(fds, int(f.Fd()))
		}
		var rights []byte
		if len(fds) > 0 {
			rights = unix.UnixRights(fds...)
		}
		length := binary.BigEndian.AppendUint32(nil, uint32(len(h.Backend)))
		if _, _, err := to.WriteMsgUnix(length, rights, nil); err != nil {
			return err
		}
		if h.Backend == "" {
			break // whoever has the end of the list may be gone
		}
		if _, err := io.WriteString(to, h.Backend); err != nil {
			return err
		}
	}
	return nil
}

// Refuse says why no devices are handed over.
func Refuse(to io.Writer, reason error) error {
	_, err := to.Write(append(binary.BigEndian.AppendUint32(nil, refusal), reason.Error()...))
	return err
}

// maxReason is the longest reason that is read, in bytes.
const maxReason = 4096

// Receive takes devices from the process at the other end. backend.ErrInvalid when
// it sends something else, ErrBusy with its reason when it refuses.
func Receive(from *net.UnixConn) (list []Handed, err error) {
	defer func() {
		if err != nil {
			closeHanded(list)
			list = nil
		}
	}()
	for range maxHanded {
		sockets, length, err := receiveSockets(from)
		if err != nil {
			return list, err
		}
		if length == 0 {
			closeHanded([]Handed{{Sockets: sockets}})
			return list, nil
		}
		list = append(list, Handed{Sockets: sockets})
		if length == refusal {
			reason, err := io.ReadAll(io.LimitReader(from, maxReason))
			return list, errors.Join(fmt.Errorf("%w: %s", backend.ErrBusy, reason), err)
		}
		if length > kernel.MaxBackend || len(sockets) > MaxConnections {
			return list, fmt.Errorf("%w: a device with a name of %d bytes and %d sockets was handed over", backend.ErrInvalid, length, len(sockets))
		}
		name := make([]byte, length)
		if _, err := io.ReadFull(from, name); err != nil {
			return list, err
		}
		list[len(list)-1].Backend = string(name)
	}
	return list, fmt.Errorf("%w: more than %d devices were handed over", backend.ErrInvalid, maxHanded)
}

// receiveSockets takes a length and the sockets that come with it.
func receiveSockets(from *net.UnixConn) (sockets []*os.File, length uint32, err error) {
	defer func() {
		if err != nil {
			closeHanded([]Handed{{Sockets: sockets}})
			sockets = nil
		}
	}()
	var head [4]byte
	rights := make([]byte, unix.CmsgSpace(4*MaxConnections))
	n, rightsLen, flags, _, err := from.ReadMsgUnix(head[:], rights)
	if err != nil {
		return nil, 0, err
	}
	messages, err := unix.ParseSocketControlMessage(rights[:rightsLen])
	if err != nil {
		return nil, 0, err
	}
	for _, m := range messages {
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			return sockets, 0, err
		}
		for _, fd := range fds {
			sockets = append(sockets, os.NewFile(uintptr(fd), "nbd"))
		}
	}
	if flags&unix.MSG_CTRUNC != 0 {
		return sockets, 0, fmt.Errorf("%w: a device with more than %d sockets was handed over", backend.ErrInvalid, MaxConnections)
	}
	if n == 0 {
		return sockets, 0, io.ErrUnexpectedEOF
	}
	if _, err := io.ReadFull(from, head[n:]); err != nil {
		return sockets, 0, err
	}
	return sockets, binary.BigEndian.Uint32(head[:]), nil
}
