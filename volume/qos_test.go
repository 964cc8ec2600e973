package volume

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencurve/curve-nbd/backend"
)

func TestQoSHoldsTheRate(t *testing.T) {
	cases := []struct {
		name string
		qos  backend.QoS
		n    int
		size int64
		want time.Duration
	}{
		{"iops", backend.QoS{IOPS: 100, IOPSBurst: 10}, 210, 4096, 2 * time.Second},
		{"bytes per second", backend.QoS{BPS: mib, BPSBurst: mib}, 4, mib, 3 * time.Second},
		{"request larger than the burst", backend.QoS{BPS: mib, BPSBurst: 64 * kib}, 1, mib, 937500 * time.Microsecond},
		{"both, the tighter one counts", backend.QoS{IOPS: 1000, IOPSBurst: 1, BPS: 40960, BPSBurst: 4096}, 11, 4096, time.Second},
	}
	for _, c := range cases {
		for _, inline := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s/inline=%t", c.name, inline), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					f := open(t, plain, inline, c.qos, Options{})
					began := time.Now()
					for range c.n {
						if _, err := f.do(backend.OpRead, 0, c.size, make([]byte, c.size)); err != nil {
							t.Fatal(err)
						}
					}
					// The limiter rounds each wait; a request's worth is the slack.
					took := time.Since(began)
					if took < c.want-10*time.Millisecond || took > c.want+20*time.Millisecond {
						t.Errorf("took %v, want %v", took, c.want)
					}
				})
			})
		}
	}
}

func TestFlushIsNotThrottled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := open(t, plain, false, backend.QoS{IOPS: 1, IOPSBurst: 1}, Options{})
		var writes []*completion
		for range 5 {
			_, c := f.start(backend.OpRead, 0, 0, 4096, make([]byte, 4096))
			writes = append(writes, c)
		}
		began := time.Now()
		if _, err := f.do(backend.OpFlush, 0, 0, nil); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took > 0 {
			t.Errorf("flush waited %v", took)
		}
		for _, c := range writes {
			<-c.done
		}
	})
}
