package nbd_test

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/opencurve/curve-nbd/nbd/client"
)

// statusMap asks for the whole range, piece by piece, and returns one flag word
// per unit of bytes.
func statusMap(t *testing.T, c *client.Conn, length, unit uint64) []uint64 {
	t.Helper()
	var flags []uint64
	for off := uint64(0); off < length; {
		extents, err := c.BlockStatus(within(t), off, length-off, 0)
		must(t, err)
		for i, e := range extents {
			if e.Length%unit != 0 {
				t.Fatalf("extent of %d bytes at %d, want a multiple of %d", e.Length, off, unit)
			}
			if i > 0 && e.Flags == extents[i-1].Flags {
				t.Errorf("extents %d and %d could be one: %+v", i-1, i, extents[i-1:i+1])
			}
			for range e.Length / unit {
				flags = append(flags, e.Flags)
			}
			off += e.Length
		}
	}
	return flags
}

func TestConformanceBlockStatusTellsAllocationFromHoles(t *testing.T) {
	const page = 4096
	for _, network := range []string{"unix", "tcp"} {
		tg := serve(t, setup{network: network})
		for _, style := range styles[1:] {
			t.Run(network+" "+style.String(), func(t *testing.T) {
				c := connect(t, tg, style)
				must(t, c.Trim(within(t), 0, tg.size, 0))
				want := make([]uint64, tg.size/page)
				for i := range want {
					want[i] = client.StateHole | client.StateZero
				}
				change := func(from, to uint64, flags uint64) {
					for i := from; i < to; i++ {
						want[i] = flags
					}
				}
				must(t, c.Write(within(t), make([]byte, 3*page), 5*page, 0))
				change(5, 8, 0)
				must(t, c.Write(within(t), make([]byte, 8*mib), 4*mib, 0)) // several segments
				change(4*mib/page, 12*mib/page, 0)
				must(t, c.WriteZeroes(within(t), 5*mib, mib, 0))
				change(5*mib/page, 6*mib/page, client.StateHole|client.StateZero)
				must(t, c.WriteZeroes(within(t), 20*mib, mib, client.FlagNoHole))
				change(20*mib/page, 21*mib/page, 0)
				must(t, c.Trim(within(t), 7*mib, 512<<10, 0))
				change(7*mib/page, 15*mib/page/2, client.StateHole|client.StateZero)
				must(t, c.Write(within(t), make([]byte, page), tg.size-page, 0))
				change(tg.size/page-1, tg.size/page, 0)

				got := statusMap(t, c, tg.size, page)
				for i := range want {
					// A NO_HOLE range may say that it reads as zeros.
					if got[i]&client.StateHole != want[i]&client.StateHole {
						t.Fatalf("page %d: flags %d, want %d", i, got[i], want[i])
					}
				}
			})
		}
	}
}

func TestConformanceBlockStatusOfManyExtentsComesInPieces(t *testing.T) {
	const page, pages = 4096, 12000
	tg := serve(t, setup{})
	for _, style := range styles[1:] {
		t.Run(style.String(), func(t *testing.T) {
			c := connect(t, tg, style)
			must(t, c.Trim(within(t), 0, tg.size, 0))
			data := make([]byte, page)
			for i := uint64(0); i < pages; i += 2 {
				must(t, c.Write(within(t), data, i*page, 0))
			}
			for i, flags := range statusMap(t, c, pages*page, page) {
				if hole := flags&client.StateHole != 0; hole != (i%2 == 1) {
					t.Fatalf("page %d: flags %d", i, flags)
				}
			}
			one, err := c.BlockStatus(within(t), 0, pages*page, client.FlagReqOne)
			must(t, err)
			if len(one) != 1 || one[0] != (client.Extent{Length: page}) {
				t.Fatalf("REQ_ONE: %+v", one)
			}
		})
	}
}

func TestConformanceBlockStatusFilter(t *testing.T) {
	tg := serve(t, setup{})
	c := connect(t, tg, client.ExtendedHeaders)
	id := c.Contexts()[0].ID
	for _, fc := range []struct {
		name   string
		ids    []uint32
		length uint64
		want   client.Errno
	}{
		{"the one there is", []uint32{id}, 4096, 0},
		{"of everything", []uint32{id}, tg.size, 0},
		{"twice", []uint32{id, id}, 4096, client.EINVAL},
		{"unknown", []uint32{id + 1}, 4096, client.EINVAL},
		{"known and unknown", []uint32{id, 99}, 4096, client.EINVAL},
		{"five thousand", make([]uint32, 5000), 4096, client.EINVAL},
		{"past the end", []uint32{id}, tg.size + 512, client.EINVAL},
		{"of 2^63", []uint32{id}, 1 << 63, client.EINVAL},
		{"of nothing", []uint32{id}, 0, client.EINVAL},
	} {
		t.Run(fc.name, func(t *testing.T) {
			r := &client.Request{Command: client.CmdBlockStatus, Length: fc.length, Contexts: fc.ids}
			wantErrno(t, c.Do(within(t), r), fc.want)
			alive(t, c)
		})
	}
	for _, size := range []int{0, 1, 8, 11, 13, 14, 16 << 10, 20<<10 + 2} {
		w := attach(t, tg, client.ExtendedHeaders)
		payload := binary.BigEndian.AppendUint64(nil, 4096)
		payload = append(payload, bytes.Repeat(be32(nil, id), 6000)...)[:size]
		b := client.AppendRequest(nil, w.Style, client.Header{Command: client.CmdBlockStatus, Flags: client.FlagPayloadLen, Cookie: 3, Length: uint64(size)})
		_, err := w.NetConn().Write(append(b, payload...))
		must(t, err)
		wantErrorChunk(t, w, 3, client.EINVAL)
		alive(t, w.Conn(0))
	}
}

func TestConformanceFastZeroRefusedChangesNothing(t *testing.T) {
	forEachStyle(t, func(t *testing.T, tg *target, style client.ReplyStyle) {
		oursOnly(t, tg)
		c := connect(t, tg, style)
		want := pattern(make([]byte, mib), 5)
		must(t, c.Write(within(t), want, 0, 0))
		for _, length := range []uint64{512, 4096, mib} {
			wantErrno(t, c.WriteZeroes(within(t), 0, length, client.FlagFastZero|client.FlagNoHole), client.ENOTSUP)
		}
		got := make([]byte, mib)
		must(t, c.Read(within(t), got, 0, 0))
		if !bytes.Equal(got, want) {
			t.Fatal("refused with ENOTSUP, yet ", firstDifference(got, want))
		}
	})
}
