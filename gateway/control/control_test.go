package control

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/mds"
	"github.com/opencurve/curve-nbd/backend/memory"
	"github.com/opencurve/curve-nbd/gateway"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// realGateway is a gateway with real metadata and chunks, both in RAM.
func realGateway(t *testing.T) *gateway.Gateway {
	t.Helper()
	meta, err := mds.New(mds.NewMemStore(), mds.Options{})
	if err != nil {
		t.Fatal(err)
	}
	chunks := memory.New()
	gw := gateway.New(meta, chunks, gateway.Options{Version: "v1", DataDir: "/somewhere"})
	t.Cleanup(func() {
		if err := errors.Join(gw.Close(context.Background()), chunks.Close(), meta.Close()); err != nil {
			t.Error(err)
		}
	})
	return gw
}

// serve runs a server for gw and returns its address.
func serve(t *testing.T, gw Gateway) (addr string, server *Server) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "control.sock")
	listener, err := ListenUnix(path, SocketMode)
	if err != nil {
		t.Fatal(err)
	}
	server = NewServer(gw, nil, nil)
	var serving sync.WaitGroup
	serving.Go(func() {
		if err := server.Serve(listener); err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := server.Shutdown(ctx); err != nil {
			t.Errorf("Shutdown: %v", err)
		}
		serving.Wait()
	})
	return "unix:" + path, server
}

func dial(t *testing.T, addr string) *Client {
	t.Helper()
	client, err := Dial(context.Background(), addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}

func TestClientSeesTheGatewayAsItIs(t *testing.T) {
	gw := realGateway(t)
	addr, _ := serve(t, gw)
	client := dial(t, addr)
	ctx := context.Background()

	spec := backend.VolumeSpec{
		Name: "team/pg", Size: 64 << 20,
		Geometry: backend.Geometry{BlockSize: 512, ChunkSize: 1 << 20, SegmentSize: 16 << 20, StripeUnit: 64 << 10, StripeCount: 4},
		QoS:      backend.QoS{IOPS: 1, IOPSBurst: 2, BPS: 3, BPSBurst: 4},
	}
	created, err := client.CreateVolume(ctx, spec)
	if err != nil {
		t.Fatal(err)
	}
	if created.Name != spec.Name || created.Size != spec.Size || created.Geometry != spec.Geometry || created.QoS != spec.QoS {
		t.Errorf("created %+v from %+v", created, spec)
	}
	direct, err := gw.Volume(ctx, spec.Name)
	if err != nil {
		t.Fatal(err)
	}
	got, err := client.Volume(ctx, spec.Name)
	if err != nil {
		t.Fatal(err)
	}
	assertSameVolume(t, got, direct)

	if list, err := client.Volumes(ctx, "team"); err != nil || len(list) != 1 {
		t.Fatalf("volumes of team: %v, %v", list, err)
	}
	if grown, err := client.ResizeVolume(ctx, spec.Name, 128<<20); err != nil || grown.Size != 128<<20 {
		t.Errorf("resize: %+v, %v", grown, err)
	}
	if used, err := client.Usage(ctx, spec.Name); err != nil || used != 0 {
		t.Errorf("usage of an empty volume: %d, %v", used, err)
	}
	removed, err := client.RemoveVolume(ctx, spec.Name, false)
	if err != nil || removed.State != backend.VolumeRecycled || removed.RecycledAt.IsZero() {
		t.Errorf("removed: %+v, %v", removed, err)
	}
	bin, err := client.Recycled(ctx)
	if err != nil || len(bin) != 1 {
		t.Fatalf("recycle bin: %v, %v", bin, err)
	}
	assertSameVolume(t, bin[0], removed)
	if back, err := client.RecoverVolume(ctx, fmt.Sprint(uint64(removed.ID)), "pg2"); err != nil || back.Name != "pg2" || back.ID != created.ID {
		t.Errorf("recovered: %+v, %v", back, err)
	}
}

// assertSameVolume compares all fields; times may differ in their location.
func assertSameVolume(t *testing.T, got, want backend.VolumeInfo) {
	t.Helper()
	if !got.CreatedAt.Equal(want.CreatedAt) || !got.RecycledAt.Equal(want.RecycledAt) {
		t.Errorf("times %v, %v; want %v, %v", got.CreatedAt, got.RecycledAt, want.CreatedAt, want.RecycledAt)
	}
	got.CreatedAt, got.RecycledAt = want.CreatedAt, want.RecycledAt
	if got != want {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

// statusGateway answers with a status that has every field set, so that a
// field forgotten on the way shows.
type statusGateway struct {
	Gateway
	status gateway.Status
}

func (g statusGateway) Status() gateway.Status { return g.status }

func TestStatusArrivesWhole(t *testing.T) {
	want := gateway.Status{
		Version: "v2", PID: 42, StartedAt: time.Unix(1700000000, 123).UTC(), DataDir: "/d",
		Listeners: []string{"nbd unix:/a", "nbd tcp:b"}, InFlightRequests: 1, InFlightBytes: 2, BufferBytes: 3,
		Exports: []gateway.ExportStatus{{
			Name: "pg", SizeBytes: 4, Epoch: 5, Connections: 6, Queued: 7, OldestQueued: 8 * time.Second,
			Reads: 9, Writes: 10, ReadBytes: 11, WriteBytes: 12, Errors: 13, Lost: "opened elsewhere",
			Stalls: []gateway.Stall{{Copyset: 14, Since: time.Unix(1700000001, 5).UTC(), Waiting: 15, For: "a leader", Leader: 16, Term: 17}},
		}},
	}
	for _, v := range []reflect.Value{reflect.ValueOf(want), reflect.ValueOf(want.Exports[0]), reflect.ValueOf(want.Exports[0].Stalls[0])} {
		for i := range v.NumField() {
			if v.Field(i).IsZero() {
				t.Errorf("the test does not set %s.%s: set it, so that it is compared", v.Type(), v.Type().Field(i).Name)
			}
		}
	}
	addr, _ := serve(t, statusGateway{status: want})
	got, err := dial(t, addr).Status(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestHealthFollowsServing(t *testing.T) {
	addr, server := serve(t, realGateway(t))
	client := dial(t, addr)
	for _, want := range []bool{false, true, false} {
		server.SetServing(want)
		if got, err := client.Serving(context.Background()); err != nil || got != want {
			t.Errorf("serving %v, %v; want %v", got, err, want)
		}
	}
}

func TestUnreachableGatewaySaysWhereAndWhatToDo(t *testing.T) {
	missing := "unix:" + filepath.Join(t.TempDir(), "none.sock")
	_, err := Dial(context.Background(), missing)
	if !errors.Is(err, ErrUnreachable) || !strings.Contains(err.Error(), missing) || !strings.Contains(err.Error(), "curve-nbd serve") {
		t.Errorf("got %v", err)
	}
}

func TestGatewayThatGoesAwayIsUnreachable(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.sock")
	listener, err := ListenUnix(path, SocketMode)
	if err != nil {
		t.Fatal(err)
	}
	server := NewServer(realGateway(t), nil, nil)
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(listener) })
	client := dial(t, "unix:"+path)
	if _, err := client.Status(context.Background()); err != nil {
		t.Fatal(err)
	}
	if err := server.Shutdown(context.Background()); err != nil {
		t.Fatal(err)
	}
	serving.Wait()
	if _, err := client.Status(context.Background()); !errors.Is(err, ErrUnreachable) {
		t.Errorf("got %v, want ErrUnreachable", err)
	}
}

// stuckGateway holds every listing until its caller gives up.
type stuckGateway struct {
	Gateway
	entered chan struct{}
}

func (g stuckGateway) Volumes(ctx context.Context, _ string) ([]backend.VolumeInfo, error) {
	close(g.entered)
	<-ctx.Done()
	return nil, ctx.Err()
}

func TestSilentGatewayIsUnreachableAfterTheDeadline(t *testing.T) {
	addr, _ := serve(t, stuckGateway{entered: make(chan struct{})})
	client := dial(t, addr)
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if _, err := client.Volumes(ctx, ""); !errors.Is(err, ErrUnreachable) {
		t.Errorf("got %v, want ErrUnreachable", err)
	}
}

func TestShutdownCutsCallsThatOutlastIt(t *testing.T) {
	entered := make(chan struct{})
	path := filepath.Join(t.TempDir(), "c.sock")
	listener, err := ListenUnix(path, SocketMode)
	if err != nil {
		t.Fatal(err)
	}
	server := NewServer(stuckGateway{entered: entered}, nil, nil)
	var running sync.WaitGroup
	running.Go(func() { _ = server.Serve(listener) })
	client := dial(t, "unix:"+path)
	running.Go(func() {
		if _, err := client.Volumes(context.Background(), ""); err == nil {
			t.Error("a call that was cut off succeeded")
		}
	})
	<-entered
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := server.Shutdown(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Shutdown: %v, want context.Canceled", err)
	}
	running.Wait()
}
