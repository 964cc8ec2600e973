package e2e

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"time"

	"github.com/opencurve/curve-nbd/backend/audit"
	"github.com/opencurve/curve-nbd/backend/faults"
	"github.com/opencurve/curve-nbd/nbd/client"
)

// TestLateDuplicateNeverUndoesANewerWrite holds one attempt of a write back on its
// connection until the write, and a newer one, have long been acknowledged. With
// the fence switched off the same instruments must find the damage.
func TestLateDuplicateNeverUndoesANewerWrite(t *testing.T) {
	for _, c := range []struct {
		name  string
		flags []string
		want  audit.Answer
	}{
		{"fence", nil, audit.Linearizable},
		{"no fence", []string{"--unfenced"}, audit.Violated},
	} {
		t.Run(c.name, func(t *testing.T) {
			parallelInShortForm(t)
			f := startFleet(t, fleetOptions{copysets: 1, streams: true, flags: c.flags})
			g := f.serve()
			d := f.newDuplicates(g, "pg")
			for i, way := range []struct {
				name string
				late func(d *duplicates, block int64) *faults.Kept
			}{
				{"copy, the leader stays", (*duplicates).copied},
				{"first attempt, the connection breaks, the leader stays", (*duplicates).reconnected},
				{"first attempt, the leader changes and comes back", (*duplicates).leaderChanged},
				{"copy, the leader changes and comes back", (*duplicates).copiedAndLeaderChanged},
			} {
				t.Run(way.name, func(t *testing.T) {
					part := *d
					part.f = f.at(t)
					// Without the fence the late one does harm only if the server that
					// it reaches leads at that moment, which a busy machine may prevent.
					for try := range int64(lateTries) {
						part.history = audit.NewHistory()
						harmed := part.run(int64(i*10)+2*try, way.late, c.want)
						if c.want == audit.Linearizable || harmed {
							return
						}
					}
					t.Errorf("no harm seen in %d tries", lateTries)
				})
			}
		})
	}
}

// lateTries bounds the attempts to see harm done where the fence is off.
const lateTries = 4

// duplicates is one client of one volume of one copyset, and what it saw.
type duplicates struct {
	f       *fleet
	conn    *client.Conn
	log     *audit.Log
	history *audit.History
}

func (f *fleet) newDuplicates(g *gateway, volume string) *duplicates {
	f.t.Helper()
	g.must("volume", "create", volume, "--size", "64M")
	log, err := audit.NewLog(audit.LogOptions{Volume: 1, Blocks: faultVolume / audit.BlockBytes, Seed: uint64(time.Now().UnixNano())})
	if err != nil {
		f.t.Fatal(err)
	}
	return &duplicates{f: f, conn: g.open(volume), log: log}
}

// holdFor is how long the late one is late.
var holdFor = inForm(time.Second, 10*time.Second)

// run writes the block twice, with the first write's attempt late, judges what
// reads saw, and reports whether that was harmed. The instruments must agree.
func (d *duplicates) run(block int64, late func(*duplicates, int64) *faults.Kept, want audit.Answer) (harmed bool) {
	t := d.f.t
	kept := late(d, block)
	d.write(block)
	if err := d.read(block); err != nil {
		t.Fatalf("before the late one: %v", err)
	}
	// Life goes on in the same copyset, until the late one arrives.
	for until := time.Now().Add(holdFor); time.Now().Before(until); {
		d.write(block + 1)
	}
	d.f.comeBack(kept)
	if err := kept.Deliver(); err != nil {
		t.Fatalf("the late one could not be delivered: %v", err)
	}
	// It has had its effect, if any, once a write that the leader took after it is
	// applied; which of the two streams the leader reads first is open, so some.
	var damage error
	for until := time.Now().Add(500 * time.Millisecond); time.Now().Before(until) && damage == nil; {
		d.write(block + 1)
		damage = d.read(block)
	}
	dir := ""
	if want == audit.Linearizable {
		dir = violationDir(t)
	}
	j := d.history.Check(patience, dir)
	t.Logf("%v; block log: %v", j, damage)
	harmed = damage != nil
	if harmed && want == audit.Linearizable {
		t.Errorf("block log: %v", damage)
	}
	if seen := map[bool]audit.Answer{false: audit.Linearizable, true: audit.Violated}[harmed]; j.Answer != seen {
		t.Errorf("the history is %s, the block log says %s", j.Answer, seen)
	}
	return harmed
}

// write makes a write that succeeds.
func (d *duplicates) write(block int64) {
	d.f.t.Helper()
	if err := d.tryWrite(block); err != nil {
		d.f.t.Fatal(err)
	}
}

// tryWrite may run on any goroutine.
func (d *duplicates) tryWrite(block int64) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	data := make([]byte, audit.BlockBytes)
	change, err := d.log.Write(1, block, data)
	if err != nil {
		return err
	}
	call := d.history.Write(0, block, audit.ValueOf(data, d.stamp(block)))
	if err := d.conn.Write(ctx, data, uint64(block)*audit.BlockBytes, 0); err != nil {
		return err
	}
	call.Returned()
	return d.log.Acknowledge(change, false)
}

// read says what is wrong with a block.
func (d *duplicates) read(block int64) error {
	d.f.t.Helper()
	data := make([]byte, audit.BlockBytes)
	read, err := d.log.BeginRead(block, 1)
	if err != nil {
		d.f.t.Fatal(err)
	}
	call := d.history.Read(0, block)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := d.conn.Read(ctx, data, uint64(block)*audit.BlockBytes, 0); err != nil {
		d.f.t.Fatal(err)
	}
	call.Saw(audit.ValueOf(data, d.stamp(block)))
	return read.Verify(data)
}

func (d *duplicates) stamp(block int64) audit.Stamp {
	o := d.log.Options()
	return audit.Stamp{Volume: o.Volume, Block: block, Version: 1, Writer: 1, Seed: o.Seed}
}

// intercept does something with the first message to the leader that carries the
// block's first version.
func (d *duplicates) intercept(leader *fleetServer, block int64, action faults.Action) {
	content := make([]byte, audit.BlockBytes)
	d.stamp(block).Fill(content)
	seen := false
	leader.streams.Intercept(func(m faults.Message) faults.Action {
		if seen || !m.ToServer || !bytes.Contains(m.Data, content) {
			return faults.Pass
		}
		seen = true
		return action
	})
}

// keep intercepts the first write of the block and returns the message once it is
// kept, and the outcome of the write when it comes.
func (d *duplicates) keep(leader *fleetServer, block int64, action faults.Action) (*faults.Kept, <-chan error) {
	t := d.f.t
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	before, err := leader.streams.AwaitKept(ctx, 0)
	if err != nil {
		t.Fatal(err)
	}
	d.intercept(leader, block, action)
	done := make(chan error, 1)
	go func() { done <- d.tryWrite(block) }()
	kept, err := leader.streams.AwaitKept(ctx, len(before)+1)
	if err != nil {
		t.Fatal(errors.Join(err, outcomeSoFar(done)))
	}
	return kept[len(before)], done
}

func outcomeSoFar(done <-chan error) error {
	select {
	case err := <-done:
		return err
	default:
		return errors.New("the write is in flight")
	}
}

func (d *duplicates) succeed(done <-chan error) {
	d.f.t.Helper()
	select {
	case err := <-done:
		if err != nil {
			d.f.t.Fatal(err)
		}
	case <-time.After(patience):
		d.f.t.Fatal("the write does not succeed")
	}
}

func (d *duplicates) copied(block int64) *faults.Kept {
	kept, done := d.keep(d.f.leader(1), block, faults.Copy)
	d.succeed(done)
	return kept
}

func (d *duplicates) reconnected(block int64) *faults.Kept {
	leader := d.f.leader(1)
	kept, done := d.keep(leader, block, faults.Keep)
	leader.streams.Break()
	d.succeed(done)
	return kept
}

func (d *duplicates) leaderChanged(block int64) *faults.Kept {
	kept, done := d.keep(d.f.leader(1), block, faults.Keep)
	d.f.transfer(1, d.f.follower(1))
	d.succeed(done)
	return kept
}

func (d *duplicates) copiedAndLeaderChanged(block int64) *faults.Kept {
	kept, done := d.keep(d.f.leader(1), block, faults.Copy)
	d.succeed(done)
	d.f.transfer(1, d.f.follower(1))
	return kept
}

// comeBack makes the server that a late message is for lead again: any other one
// would refuse it unread.
func (f *fleet) comeBack(kept *faults.Kept) {
	f.t.Helper()
	for _, s := range f.byName() {
		all, _ := s.streams.AwaitKept(f.t.Context(), 0)
		for _, k := range all {
			if k == kept && f.leader(1) != s {
				f.transfer(1, s)
			}
		}
	}
}
