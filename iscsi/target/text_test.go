package target_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/opencurve/curve-nbd/iscsi"
	"github.com/opencurve/curve-nbd/iscsi/registry"
)

// ask sends a text request and collects the answer, over as many PDUs as it takes.
func (i *initiator) ask(keys ...string) (pairs []string, pdus int) {
	i.t.Helper()
	r := iscsi.TextRequest{Final: true, InitiatorTaskTag: i.tag(), TargetTransferTag: iscsi.ReservedTag}
	data, all := text(keys...), ""
	for {
		r.CmdSN, r.ExpStatSN, r.DataLength = i.next(false), i.statSN, len(data)
		var b iscsi.BHS
		r.Encode(&b)
		i.send(b, data)
		a := i.want(iscsi.OpTextResponse)
		var got iscsi.TextResponse
		must(i.t, got.Decode(&a.BHS))
		if got.InitiatorTaskTag != r.InitiatorTaskTag || got.Final == got.Continue || got.Final != (got.TargetTransferTag == iscsi.ReservedTag) {
			i.t.Fatalf("answer %+v", got)
		}
		all += string(a.data)
		pdus++
		if got.Final {
			break
		}
		r.TargetTransferTag, data = got.TargetTransferTag, nil
	}
	if all = strings.TrimSuffix(all, "\x00"); all == "" {
		return nil, pdus
	}
	return strings.Split(all, "\x00"), pdus
}

// Appendix C.
func TestSendTargets(t *testing.T) {
	p := serve(t, setup{})
	address := "TargetAddress=" + p.address + ",1"
	want := []string{"TargetName=" + targetName, address}
	for n := range 100 {
		name := fmt.Sprintf("iqn.2026-11.io.curve:many-%03d", n)
		_, err := p.registry.Create(t.Context(), name, "")
		must(t, err)
		who := registry.AnyInitiator
		if n%2 == 1 {
			who = otherName
		}
		_, err = p.registry.Allow(t.Context(), name, who, nil)
		must(t, err)
		if n%2 == 0 {
			want = append(want, "TargetName="+name, address)
		}
	}
	sorted := func(pairs []string) []string {
		pairs = slices.Clone(pairs)
		slices.Sort(pairs)
		return pairs
	}
	normal := p.login(t)
	discovery := p.dial(t)
	discovery.discover()
	for _, c := range []struct {
		name, which string
		i           *initiator
		want        []string
	}{
		{"discovery of all", "All", discovery, want},
		{"discovery of one", targetName, discovery, want[:2]},
		{"discovery of none", "iqn.2026-11.io.curve:nobody", discovery, nil},
		{"discovery of another's", "iqn.2026-11.io.curve:many-001", discovery, nil},
		{"own target", "", normal, want[:2]},
		{"own target by name", targetName, normal, want[:2]},
		{"another target", "iqn.2026-11.io.curve:many-000", normal, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.i.t = t
			got, pdus := c.i.ask("SendTargets=" + c.which)
			if !slices.Equal(sorted(got), sorted(c.want)) {
				t.Errorf("%d pairs, want %d: %q", len(got), len(c.want), got)
			}
			if len(strings.Join(got, "\x00"))+1 > 8192 && c.i == discovery && pdus < 2 {
				t.Error("an answer that is too long for one PDU came in one")
			}
		})
	}
	t.Run("in pieces", func(t *testing.T) {
		i := p.dial(t)
		i.isid[5]++
		i.agreed = make(map[string]string)
		l, err := i.tryLogin([]string{"InitiatorName=" + i.name, "SessionType=Discovery", "AuthMethod=None"}, "MaxRecvDataSegmentLength=512")
		must(t, err)
		if l.Status != iscsi.StatusSuccess {
			t.Fatal(l.Status)
		}
		got, pdus := i.ask("SendTargets=All")
		if !slices.Equal(sorted(got), sorted(want)) || pdus < 8 {
			t.Errorf("%d pairs in %d PDUs, want %d", len(got), pdus, len(want))
		}
	})
	t.Run("in pieces of a length declared since the login", func(t *testing.T) {
		discovery.t = t
		discovery.ask("MaxRecvDataSegmentLength=512")
		if got, pdus := discovery.ask("SendTargets=All"); !slices.Equal(sorted(got), sorted(want)) || pdus < 8 {
			t.Errorf("%d pairs in %d PDUs, want %d", len(got), pdus, len(want))
		}
	})
	normal.t = t
	normal.alive()
}

// 13.12: the segment length may be declared anew at any time, and holds at once.
func TestSegmentLengthDeclaredAnew(t *testing.T) {
	p := serve(t, setup{})
	i := p.login(t)
	for _, n := range []int{512, 4096, 65536} {
		i.ask(fmt.Sprint("MaxRecvDataSegmentLength=", n))
		r := i.do(command{cdb: read10(0, 256), read: true, expected: 131072})
		for _, d := range r.ins {
			if d.DataLength > n {
				t.Fatalf("%d bytes in a PDU, %d were declared", d.DataLength, n)
			}
		}
	}
}
