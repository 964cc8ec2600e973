package main

import (
	"fmt"
	"io"
	"os"
	"strconv"

	"github.com/gostor/gotgt/pkg/api"
	gotgt "github.com/gostor/gotgt/pkg/config"
	_ "github.com/gostor/gotgt/pkg/port/iscsit"
	"github.com/gostor/gotgt/pkg/scsi"
	_ "github.com/gostor/gotgt/pkg/scsi/backingstore" // its unit 0 needs one
	"github.com/sirupsen/logrus"
)

// serveGoTgt is the peer "gotgt": its port and its command set on a store of ours,
// which is memory that reads hand out as it is: its best case.
func serveGoTgt(args []string) error {
	if len(args) != 3 {
		return fmt.Errorf("gotgt: want PORT TARGET MIB")
	}
	port, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	mib, err := strconv.Atoi(args[2])
	if err != nil {
		return err
	}
	logrus.SetLevel(logrus.ErrorLevel)
	memory := make([]byte, mib<<20)
	for i := 0; i < len(memory); i += os.Getpagesize() {
		memory[i] = 1 // or the first writes would wait for the kernel
	}
	scsi.RegisterBackingStore("bench", func() (api.BackingStore, error) { return gotgtStore(memory), nil })
	c := &gotgt.Config{
		Storages:     []gotgt.BackendStorage{{DeviceID: 1, Path: "bench:", Online: true, ThinProvisioning: true, BlockShift: 9}},
		ISCSIPortals: []gotgt.ISCSIPortalInfo{{ID: 0, Portal: "127.0.0.1:" + args[0]}},
		ISCSITargets: map[string]gotgt.ISCSITarget{args[1]: {TPGTs: map[string][]uint64{"1": {0}}, LUNs: map[string]uint64{"0": 1}}},
	}
	if err := scsi.InitSCSILUMap(c); err != nil {
		return err
	}
	driver, err := scsi.NewTargetDriver("iscsi", scsi.NewSCSITargetService())
	if err != nil {
		return err
	}
	if err := driver.NewTarget(args[1], c); err != nil {
		return err
	}
	return driver.Run(port)
}

type gotgtStore []byte

func (gotgtStore) Open(*api.SCSILu, string) error { return nil }
func (gotgtStore) Close(*api.SCSILu) error        { return nil }
func (gotgtStore) Init(*api.SCSILu, string) error { return nil }
func (gotgtStore) Exit(*api.SCSILu) error         { return nil }

func (s gotgtStore) Size(*api.SCSILu) uint64 { return uint64(len(s)) }

func (s gotgtStore) Read(off, length int64) ([]byte, error) {
	if off < 0 || length < 0 || off+length > int64(len(s)) {
		return nil, io.EOF
	}
	return s[off : off+length : off+length], nil
}

func (s gotgtStore) Write(p []byte, off int64) error {
	if off < 0 || off+int64(len(p)) > int64(len(s)) {
		return io.ErrShortWrite
	}
	copy(s[off:], p)
	return nil
}

func (gotgtStore) DataSync(int64, int64) error           { return nil }
func (gotgtStore) DataAdvise(int64, int64, uint32) error { return nil }

func (gotgtStore) Unmap([]api.UnmapBlockDescriptor) error { return nil }
