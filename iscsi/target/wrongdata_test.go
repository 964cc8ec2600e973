package target_test

import (
	"bytes"
	"testing"

	"github.com/opencurve/curve-nbd/iscsi"
)

// out sends one Data-Out PDU.
func (i *initiator) out(c *command, d iscsi.DataOut) {
	i.t.Helper()
	d.InitiatorTaskTag, d.ExpStatSN = c.tag, i.statSN
	var b iscsi.BHS
	d.Encode(&b)
	i.send(b, make([]byte, d.DataLength))
}

// wantR2T receives an R2T for a command.
func (i *initiator) wantR2T(c *command) (r iscsi.R2T) {
	i.t.Helper()
	a := i.want(iscsi.OpR2T)
	must(i.t, r.Decode(&a.BHS))
	c.asked++
	return r
}

// What is wrong with data ends its command, and nothing of it is written; the
// connection goes on.
func TestDataOutThatWasNotAgreedOn(t *testing.T) {
	p := serve(t, setup{})
	const size = 32768
	for _, c := range []struct {
		name string
		// send sends what is wrong, for an R2T of all of size bytes.
		send func(i *initiator, c *command, r iscsi.R2T)
	}{
		{"DataSN skips one", func(i *initiator, c *command, r iscsi.R2T) {
			i.out(c, iscsi.DataOut{TargetTransferTag: r.TargetTransferTag, DataLength: 512, DataSN: 1})
		}},
		{"DataSN comes again", func(i *initiator, c *command, r iscsi.R2T) {
			i.out(c, iscsi.DataOut{TargetTransferTag: r.TargetTransferTag, DataLength: 512})
			i.out(c, iscsi.DataOut{TargetTransferTag: r.TargetTransferTag, DataLength: 512, BufferOffset: 512})
		}},
		{"offset skips something", func(i *initiator, c *command, r iscsi.R2T) {
			i.out(c, iscsi.DataOut{TargetTransferTag: r.TargetTransferTag, DataLength: 512, BufferOffset: 512})
		}},
		{"offset goes back", func(i *initiator, c *command, r iscsi.R2T) {
			i.out(c, iscsi.DataOut{TargetTransferTag: r.TargetTransferTag, DataLength: 1024})
			i.out(c, iscsi.DataOut{TargetTransferTag: r.TargetTransferTag, DataLength: 512, DataSN: 1, BufferOffset: 512})
		}},
		{"offset far beyond the end", func(i *initiator, c *command, r iscsi.R2T) {
			i.out(c, iscsi.DataOut{TargetTransferTag: r.TargetTransferTag, DataLength: 512, BufferOffset: 1 << 30})
		}},
		{"more than was asked for", func(i *initiator, c *command, r iscsi.R2T) {
			i.out(c, iscsi.DataOut{TargetTransferTag: r.TargetTransferTag, DataLength: size + 512, Final: true})
		}},
		{"less than was asked for", func(i *initiator, c *command, r iscsi.R2T) {
			i.out(c, iscsi.DataOut{TargetTransferTag: r.TargetTransferTag, DataLength: size - 512, Final: true})
		}},
		{"nothing at all", func(i *initiator, c *command, r iscsi.R2T) {
			i.out(c, iscsi.DataOut{TargetTransferTag: r.TargetTransferTag, Final: true})
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			i := p.login(t)
			before := i.load(0, 0, size/blockSize)
			w := command{cdb: write10(0, size/blockSize), write: true, expected: size}
			i.start(&w)
			r := i.wantR2T(&w)
			c.send(i, &w, r)
			got := i.finish(&w)
			if got.status != checkCondition || got.sense[2]&15 != 0x0b {
				t.Fatalf("%v; want it aborted", got.String())
			}
			// What comes of it now is dropped.
			i.out(&w, iscsi.DataOut{TargetTransferTag: r.TargetTransferTag, DataLength: 100_000, Final: true})
			i.alive()
			if !bytes.Equal(i.load(0, 0, size/blockSize), before) {
				t.Error("something was written")
			}
		})
	}
}

func TestUnsolicitedDataThatWasNotAgreedOn(t *testing.T) {
	p := serve(t, setup{})
	for _, c := range []struct {
		name string
		keys []string
		c    command
		code int
	}{
		{"no F with InitialR2T", []string{"InitialR2T=Yes", "MaxRecvDataSegmentLength=262144"}, command{expected: 8192, unsolicited: 8192}, unexpectedData},
		{"no F with InitialR2T, and attached", []string{"InitialR2T=Yes", "MaxRecvDataSegmentLength=262144"}, command{expected: 8192, attached: 4096, unsolicited: 4096}, unexpectedData},
		{"attached without ImmediateData", []string{"InitialR2T=No", "ImmediateData=No"}, command{expected: 4096, attached: 4096}, unexpectedData},
		{"both without any", []string{"InitialR2T=Yes", "ImmediateData=No"}, command{expected: 8192, attached: 4096, unsolicited: 4096}, unexpectedData},
		{"attached more than FirstBurstLength", []string{"InitialR2T=No", "FirstBurstLength=4096", "MaxRecvDataSegmentLength=262144"}, command{expected: 32768, attached: 20480}, unexpectedData},
		{"more than FirstBurstLength in all", []string{"InitialR2T=No", "FirstBurstLength=4096", "MaxRecvDataSegmentLength=262144"}, command{expected: 32768, attached: 2048, unsolicited: 30720}, incorrectDataAmount},
		{"more than expected", []string{"InitialR2T=No", "MaxRecvDataSegmentLength=262144"}, command{expected: 4096, attached: 512, unsolicited: 8192}, incorrectDataAmount},
	} {
		t.Run(c.name, func(t *testing.T) {
			i := p.login(t, c.keys...)
			c.c.cdb, c.c.write, c.c.data = write10(0, c.c.expected/blockSize), true, pattern(64*kib, 1)
			for range 3 {
				w := c.c
				i.do(w).wants(t, checkCondition, c.code)
			}
			i.alive()
			if !bytes.Equal(i.load(0, 0, 64), make([]byte, 32768)) {
				t.Error("something was written")
			}
		})
	}
}

// Data-Out for no command that wants any is dropped.
func TestDataOutForNobody(t *testing.T) {
	p := serve(t, setup{})
	i := p.login(t)
	i.store(0, 0, pattern(512, 1))
	for range 300 {
		i.out(&command{tag: 999}, iscsi.DataOut{TargetTransferTag: 3, DataLength: 512, Final: true})
		i.out(&command{tag: 999}, iscsi.DataOut{TargetTransferTag: iscsi.ReservedTag, DataLength: 40_000, Final: true})
	}
	w := command{cdb: write10(0, 16), write: true, expected: 8192, data: pattern(8192, 7)}
	i.start(&w)
	r := i.wantR2T(&w)
	i.out(&w, iscsi.DataOut{TargetTransferTag: r.TargetTransferTag + 1, DataLength: 512, Final: true})
	i.out(&w, iscsi.DataOut{TargetTransferTag: iscsi.ReservedTag, DataLength: 512, Final: true})
	i.raw(i.dataOut(&w, r.TargetTransferTag, 0, 8192, 4096))
	i.finish(&w).wants(t, good, 0)
	if !bytes.Equal(i.load(0, 0, 16), w.data) {
		t.Error("other data was taken")
	}
}

// 7.7, 7.8: at ErrorRecoveryLevel 0 a wrong digest ends the connection, at once.
func TestWrongDigests(t *testing.T) {
	write := func(i *initiator, size int) []byte {
		return i.frames(&command{cdb: write10(0, size/blockSize), write: true, expected: size, data: pattern(size, 1), attached: size})
	}
	for _, c := range []struct {
		name  string
		size  int
		wrong func(b []byte) int // which byte is changed
	}{
		{"header", 512, func([]byte) int { return 34 }},
		{"header digest", 512, func([]byte) int { return 48 }},
		{"data", 512, func([]byte) int { return 60 }},
		{"data digest", 512, func(b []byte) int { return len(b) - 1 }},
		{"long data", 65536, func(b []byte) int { return len(b) / 2 }},
		{"digest of long data", 65536, func(b []byte) int { return len(b) - 1 }},
	} {
		for _, stalled := range []string{"", ", while the volume stalls"} {
			t.Run(c.name+stalled, func(t *testing.T) {
				p := serve(t, setup{})
				i := p.login(t, append([]string{"HeaderDigest=CRC32C", "DataDigest=CRC32C"}, usual...)...)
				i.store(0, 1000, pattern(512, 3))
				if stalled != "" {
					p.chunks.close()
					i.start(&command{cdb: read10(1000, 1), read: true, expected: 512})
					p.chunks.wait(t)
				}
				b := write(i, c.size)
				b[c.wrong(b)] ^= 4
				i.raw(b)
				i.wantClosed()
				p.chunks.open()
				i = p.login(t)
				if !bytes.Equal(i.load(0, 0, 128), make([]byte, 65536)) {
					t.Error("what had a wrong digest was written")
				}
			})
		}
	}
}
