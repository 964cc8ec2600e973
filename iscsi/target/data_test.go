package target_test

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/opencurve/curve-nbd/iscsi"
)

// 11.7: segments are no longer than the initiator receives, sequences end at
// MaxBurstLength with F, and the status goes with the last PDU.
func TestDataInSegments(t *testing.T) {
	p := serve(t, setup{})
	content := pattern(4*mib, 9)
	w := p.login(t)
	for at := 0; at < len(content); at += mib {
		w.store(0, at/blockSize, content[at:at+mib])
	}
	w.close()
	for _, segment := range []int{512, 8192, 100_000, 262144} {
		for _, burst := range []int{512, 65536, 262144} {
			for _, blocks := range []int{1, 2, 16, 17, 128, 129, 512, 513, 1025} {
				if segment == 512 && blocks > 513 {
					continue
				}
				t.Run(fmt.Sprintf("segment=%d/burst=%d/blocks=%d", segment, burst, blocks), func(t *testing.T) {
					i := p.login(t, "InitialR2T=Yes", fmt.Sprint("MaxRecvDataSegmentLength=", segment), fmt.Sprint("FirstBurstLength=", 512), fmt.Sprint("MaxBurstLength=", burst))
					// The first may take the way of a read that waits, those after it
					// the way of one that is answered at once.
					for range 3 {
						r := i.do(command{cdb: read10(3, blocks), read: true, expected: blocks * blockSize})
						r.wants(t, good, 0)
						if !bytes.Equal(r.data, content[3*blockSize:(3+blocks)*blockSize]) {
							t.Error("other bytes than were written")
						}
						for n, d := range r.ins {
							end := int(d.BufferOffset) + d.DataLength
							last := n == len(r.ins)-1
							if d.DataLength > segment || int(d.BufferOffset)/burst != (end-1)/burst {
								t.Fatalf("PDU %d: %d bytes at %d", n, d.DataLength, d.BufferOffset)
							}
							if want := last || end%burst == 0; d.Final != want || d.HasStatus != last {
								t.Fatalf("PDU %d, up to %d: F %v, S %v", n, end, d.Final, d.HasStatus)
							}
						}
					}
					i.close()
				})
			}
		}
	}
}

// 11.4.5.1: what was moved against what was expected.
func TestResiduals(t *testing.T) {
	p := serve(t, setup{})
	i := p.login(t)
	i.store(0, 0, pattern(8*blockSize, 1))
	long := pattern(64*kib, 5)
	for _, c := range []struct {
		name    string
		command command
		status  byte
		bytes   int // that come
		want    iscsi.Residual
	}{
		{"read as expected", command{cdb: read10(0, 2), read: true, expected: 1024}, good, 1024, iscsi.Residual{}},
		{"read of less than expected", command{cdb: read10(0, 2), read: true, expected: 2048}, good, 1024, iscsi.Residual{Under: true, Count: 1024}},
		{"read of more than expected", command{cdb: read10(0, 2), read: true, expected: 512}, good, 512, iscsi.Residual{Over: true, Count: 512}},
		{"read, a part of a block expected", command{cdb: read10(0, 1), read: true, expected: 100}, good, 100, iscsi.Residual{Over: true, Count: 412}},
		{"read, nothing expected", command{cdb: read10(0, 1), read: true}, good, 0, iscsi.Residual{Over: true, Count: 512}},
		{"read of no blocks", command{cdb: read10(0, 0), read: true, expected: 512}, good, 0, iscsi.Residual{Under: true, Count: 512}},
		{"read with 4 GiB expected", command{cdb: read10(0, 1), read: true, expected: 1<<32 - 512}, good, 512, iscsi.Residual{Under: true, Count: 1<<32 - 1024}},
		{"inquiry with a short buffer", command{cdb: inquiry(255), read: true, expected: 36}, good, 36, iscsi.Residual{Over: true, Count: 60}},
		{"test unit ready with 4 GiB expected", command{cdb: testUnitReady(), read: true, expected: 1<<32 - 512}, good, 0, iscsi.Residual{Under: true, Count: 1<<32 - 512}},
		{"test unit ready with 4 GiB to come", command{cdb: testUnitReady(), write: true, expected: 1<<32 - 512}, good, 0, iscsi.Residual{Under: true, Count: 1<<32 - 512}},
		{"read that fails", command{cdb: read10(1<<20, 1), read: true, expected: 512}, checkCondition, 0, iscsi.Residual{Under: true, Count: 512}},
		{"write as expected", command{cdb: write10(0, 2), write: true, expected: 1024, data: long}, good, 0, iscsi.Residual{}},
		{"write of less than expected, asked for", command{cdb: write10(0, 2), write: true, expected: 4096, data: long}, good, 0, iscsi.Residual{Under: true, Count: 3072}},
		{"write of less than expected, attached", command{cdb: write10(0, 2), write: true, expected: 4096, data: long, attached: 4096}, good, 0, iscsi.Residual{Under: true, Count: 3072}},
		{"write of less than expected, unasked", command{cdb: write10(0, 2), write: true, expected: 4096, data: long, attached: 512, unsolicited: 3584}, good, 0, iscsi.Residual{Under: true, Count: 3072}},
		{"write of more than expected", command{cdb: write10(0, 2), write: true, expected: 512, data: long, attached: 512}, good, 0, iscsi.Residual{Over: true, Count: 512}},
		{"read with W", command{cdb: read10(0, 2), write: true, expected: 1024, data: long, attached: 1024}, good, 0, iscsi.Residual{Under: true, Count: 1024}},
		{"inquiry with W", command{cdb: inquiry(96), write: true, expected: 96, data: long, attached: 96}, good, 0, iscsi.Residual{Under: true, Count: 96}},
	} {
		t.Run(c.name, func(t *testing.T) {
			i.t = t
			r := i.do(c.command)
			if r.status != c.status || len(r.data) != c.bytes || r.residual != c.want {
				t.Errorf("%v; want status %#02x, %d bytes, residual %+v", r, c.status, c.bytes, c.want)
			}
			i.alive()
		})
	}
}

// 4.2.4.2 and 13.10, 13.11: every agreement on what may go unasked, and every way that a
// payload falls apart by it.
func TestWritesByEveryAgreement(t *testing.T) {
	const first, burst = 8192, 16384
	p := serve(t, setup{})
	for _, initial := range []string{"Yes", "No"} {
		for _, immediate := range []string{"Yes", "No"} {
			for _, digests := range []string{"None", "CRC32C"} {
				t.Run(fmt.Sprintf("InitialR2T=%s,ImmediateData=%s,digests=%s", initial, immediate, digests), func(t *testing.T) {
					i := p.login(t, "InitialR2T="+initial, "ImmediateData="+immediate, "HeaderDigest="+digests, "DataDigest="+digests,
						fmt.Sprint("FirstBurstLength=", first), fmt.Sprint("MaxBurstLength=", burst), "MaxRecvDataSegmentLength=262144")
					for n, size := range []int{512, 4096, first - 512, first, first + 512, burst, burst + 512, first + burst, first + 3*burst, 128 * kib, 4 * mib} {
						c := command{cdb: write10(n, size/blockSize), write: true, expected: size, data: pattern(size, byte(size>>9)+byte(n))}
						unasked := min(size, first)
						if immediate == "Yes" {
							c.attached = min(4096, unasked)
						}
						if initial == "No" {
							c.unsolicited = unasked - c.attached
						}
						r := i.do(c)
						r.wants(t, good, 0)
						if r.residual != (iscsi.Residual{}) {
							t.Errorf("%d bytes: residual %+v", size, r.residual)
						}
						at := c.attached + c.unsolicited
						for _, q := range r.r2ts {
							if int(q.BufferOffset) != at || int(q.DesiredLength) != min(burst, size-at) {
								t.Fatalf("R2T for %d at %d, want %d at %d", q.DesiredLength, q.BufferOffset, min(burst, size-at), at)
							}
							at += int(q.DesiredLength)
						}
						if at != size {
							t.Fatalf("%d of %d bytes asked for", at, size)
						}
						if !bytes.Equal(i.load(0, n, size/blockSize), c.data) {
							t.Fatalf("%d bytes: not what was written", size)
						}
					}
				})
			}
		}
	}
}

// 11.2.3: data of a length that is no multiple of four.
func TestOddLengths(t *testing.T) {
	p := serve(t, setup{})
	for _, digests := range []string{"None", "CRC32C"} {
		t.Run("digests="+digests, func(t *testing.T) {
			i := p.login(t, append([]string{"HeaderDigest=" + digests, "DataDigest=" + digests}, usual...)...)
			for n := 1; n < 40; n++ {
				r := i.do(command{cdb: inquiry(byte(n)), read: true, expected: n})
				if r.status != good || len(r.data) != n {
					t.Fatalf("%v", r)
				}
			}
			for _, n := range []int{1, 2, 3, 5, 511, 513, 16385, 20_001} {
				c := command{cdb: write10(0, (n+511)/512), write: true, expected: (n + 511) &^ 511, data: pattern(32*kib, byte(n)), attached: n}
				i.do(c).wants(t, good, 0)
				if !bytes.Equal(i.load(0, 0, (n+511)/512), c.data[:(n+511)&^511]) {
					t.Fatalf("%d bytes attached: not what was written", n)
				}
			}
		})
	}
}
