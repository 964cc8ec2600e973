package e2e

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/opencurve/curve-nbd/backend"
)

// await polls the MDS, a few milliseconds apart.
func (f *fleet) await(what string, ok func(ctx context.Context) bool) {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for !ok(ctx) {
		select {
		case <-ctx.Done():
			f.t.Fatalf("not in %v: %s\n%s", patience, what, f.describe())
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func (f *fleet) describe() string {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	infos, err := f.meta.Copysets(ctx)
	var b strings.Builder
	for _, info := range infos {
		fmt.Fprintf(&b, "copyset %d: %+v\n", info.ID, info)
	}
	if err != nil {
		fmt.Fprintln(&b, err)
	}
	return b.String()
}

// leader is who leads a copyset, as the MDS was told.
func (f *fleet) leader(id backend.CopysetID) *fleetServer {
	f.t.Helper()
	var leader *fleetServer
	f.await(fmt.Sprintf("a leader of %v", id), func(ctx context.Context) bool {
		infos, err := f.meta.Copysets(ctx)
		for _, info := range infos {
			if info.ID == id {
				leader = f.byID(info.Leader)
			}
		}
		return err == nil && leader != nil
	})
	return leader
}

// gather makes the leader of the first copyset lead them all, and returns it.
func (f *fleet) gather() *fleetServer {
	f.t.Helper()
	to := f.leader(1)
	for id := backend.CopysetID(2); int(id) <= f.o.copysets; id++ {
		f.transfer(id, to)
	}
	return to
}

// awaitHealthy waits until every copyset has a leader that every replica follows,
// and no replica lacks what the leader had applied when it was asked first.
func (f *fleet) awaitHealthy() {
	f.t.Helper()
	applied := map[backend.CopysetID]uint64{}
	f.await("every copyset healthy", func(ctx context.Context) bool {
		infos, err := f.meta.Copysets(ctx)
		if err != nil || len(infos) != f.o.copysets {
			return false
		}
		for _, info := range infos {
			if info.Leader == 0 || len(info.Replicas) != 3 {
				return false
			}
			if _, ok := applied[info.ID]; !ok {
				applied[info.ID] = info.Replicas[info.Leader].Applied
			}
			for _, r := range info.Replicas {
				if r.State != backend.ReplicaOK || r.Leader != info.Leader || r.Term != info.Term || r.Applied < applied[info.ID] {
					return false
				}
			}
		}
		return true
	})
}

// reportEvery is more than the time between two reports to the MDS.
const reportEvery = 1500 * time.Millisecond

// awaitQuiet waits, once nothing is written any more, until every replica has
// applied the same, as it reported twice.
func (f *fleet) awaitQuiet() {
	f.t.Helper()
	f.awaitHealthy()
	since := time.Now()
	f.await("every replica to have applied the same", func(ctx context.Context) bool {
		infos, err := f.meta.Copysets(ctx)
		if err != nil {
			return false
		}
		for _, info := range infos {
			for _, r := range info.Replicas {
				if r.Applied != info.Replicas[info.Leader].Applied {
					since = time.Now()
				}
			}
		}
		return time.Since(since) > reportEvery
	})
}

// transfer hands a copyset over and waits until that is so. On a busy machine the
// new leader may have lost it again before that was reported: then once more.
func (f *fleet) transfer(id backend.CopysetID, to *fleetServer) {
	f.t.Helper()
	var said string
	deadline := time.Now().Add(patience)
	for f.leader(id) != to {
		if time.Now().After(deadline) {
			f.t.Fatalf("%v is not led by %s after %v; the last transfer said %q\n%s", id, to.name, patience, said, f.describe())
		}
		o := cli(f.t, nil, "leader", "transfer", "--mds", f.mds.listen, "--copyset", fmt.Sprint(uint32(id)), "--to", fmt.Sprint(uint32(to.id)))
		said = o.stderr
		for until := time.Now().Add(reportEvery); o.code == 0 && f.leader(id) != to && time.Now().Before(until); {
			time.Sleep(10 * time.Millisecond) // between two questions
		}
	}
}

// follower is some chunkserver that does not lead the copyset.
func (f *fleet) follower(id backend.CopysetID) *fleetServer {
	f.t.Helper()
	leader := f.leader(id)
	for _, s := range f.byName() {
		if s != leader {
			return s
		}
	}
	return nil
}
