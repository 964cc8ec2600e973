package iscsitarget

import (
	"fmt"
	"net"
	"strconv"
)

// Peer starts a target that is told on its command line, after argv, the port to
// listen on, the name of its target and the size in MiB of unit 0. It has one unit.
func Peer(name string, argv []string, o Options) (*Target, error) {
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	t := &Target{Name: name}
	portal := "127.0.0.1:" + strconv.Itoa(port)
	if err := t.launch(append(argv, strconv.Itoa(port), iqn(0), strconv.Itoa(o.MiB))...); err != nil {
		return nil, err
	}
	err = t.await("it listens", func() bool {
		conn, err := net.Dial("tcp", portal)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	t.URLs = []string{fmt.Sprintf("iscsi://%s/%s/0", portal, iqn(0))}
	return t.stopOn(err)
}
