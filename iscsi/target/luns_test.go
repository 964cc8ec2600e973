package target_test

import (
	"testing"

	"github.com/opencurve/curve-nbd/iscsi"
)

// An initiator that was answered REPORT LUNS knows; that the units are others is not to
// be told by each of them once more.
func TestReportLUNsIsAskedOfOneUnit(t *testing.T) {
	p := serve(t, setup{luns: []int{0, 300}})
	i := p.login(t)
	i.ready(300)
	p.addUnit(t, 1)
	i.want(iscsi.OpAsyncMessage)
	i.do(command{cdb: []byte{0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 64, 0, 0}, read: true, expected: 64, lun: 300}).wants(t, good, 0)
	for _, lun := range []int{0, 300} {
		i.do(command{cdb: testUnitReady(), lun: lun}).wants(t, good, 0)
	}
}
