package remote_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/mds"
	"github.com/opencurve/curve-nbd/backend/pb"
	"github.com/opencurve/curve-nbd/backend/remote"
)

// forgetful hands requests on to an MDS, and loses each call's first answer.
type forgetful struct {
	pb.UnimplementedMetaServer
	to pb.MetaClient

	mu   sync.Mutex
	seen map[string]int // guarded by mu: request → times
	lost atomic.Int64
}

// losing calls, and fails as a connection does that breaks before the answer.
func losing[Req fmt.Stringer, Resp any](f *forgetful, ctx context.Context, call func(context.Context, Req, ...grpc.CallOption) (Resp, error), req Req) (Resp, error) {
	resp, err := call(ctx, req)
	f.mu.Lock()
	f.seen[req.String()]++
	first := f.seen[req.String()] == 1
	f.mu.Unlock()
	if first {
		f.lost.Add(1)
		var none Resp
		return none, status.Error(codes.Unavailable, "connection lost")
	}
	return resp, err
}

func (f *forgetful) CreateVolume(ctx context.Context, r *pb.CreateVolumeRequest) (*pb.Volume, error) {
	return losing(f, ctx, f.to.CreateVolume, r)
}

func (f *forgetful) OpenVolume(ctx context.Context, r *pb.OpenVolumeRequest) (*pb.Lease, error) {
	return losing(f, ctx, f.to.OpenVolume, r)
}

func (f *forgetful) CloseVolume(ctx context.Context, r *pb.CloseVolumeRequest) (*pb.CloseVolumeReply, error) {
	return losing(f, ctx, f.to.CloseVolume, r)
}

func (f *forgetful) RemoveVolume(ctx context.Context, r *pb.RemoveVolumeRequest) (*pb.Volume, error) {
	return losing(f, ctx, f.to.RemoveVolume, r)
}

func (f *forgetful) RecoverVolume(ctx context.Context, r *pb.RecoverVolumeRequest) (*pb.Volume, error) {
	return losing(f, ctx, f.to.RecoverVolume, r)
}

func (f *forgetful) PutRecord(ctx context.Context, r *pb.PutRecordRequest) (*pb.PutRecordReply, error) {
	return losing(f, ctx, f.to.PutRecord, r)
}

func (f *forgetful) DeleteRecord(ctx context.Context, r *pb.DeleteRecordRequest) (*pb.DeleteRecordReply, error) {
	return losing(f, ctx, f.to.DeleteRecord, r)
}

// serveForgetful stands between clients and an MDS.
func serveForgetful(t *testing.T, mdsAddr string) (*forgetful, string) {
	t.Helper()
	conn, err := grpc.NewClient(mdsAddr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	f := &forgetful{to: pb.NewMetaClient(conn), seen: map[string]int{}}
	server := grpc.NewServer()
	pb.RegisterMetaServer(server, f)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	t.Cleanup(func() {
		server.Stop()
		<-served
		conn.Close()
	})
	return f, l.Addr().String()
}

func TestLostAnswersDoNothingTwice(t *testing.T) {
	leakCheck(t)
	s := serveMDS(t, mds.NewMemStore(), "", mds.Options{})
	t.Cleanup(func() { s.stop(t) })
	f, addr := serveForgetful(t, s.addr)
	m := dialMeta(t, remote.MetaOptions{}, addr)

	v := createVolume(t, m, "v") // would be ErrExists
	a, err := m.OpenVolume(t.Context(), "v", "a", backend.OpenShared)
	if err != nil {
		t.Fatal(err)
	}
	b, err := m.OpenVolume(t.Context(), "v", "b", backend.OpenShared) // would fence a
	if err != nil || a.Epoch != b.Epoch || a.Session == b.Session {
		t.Fatalf("leases %+v and %+v, %v", a, b, err)
	}
	if err := m.CloseVolume(t.Context(), v.ID, a.Epoch); err != nil { // would close for b too
		t.Fatal(err)
	}
	if _, err := s.mds.RemoveVolume(t.Context(), "v"); !errors.Is(err, backend.ErrBusy) {
		t.Errorf("remove while b has it open: %v, want ErrBusy", err)
	}
	if err := m.CloseVolume(t.Context(), v.ID, b.Epoch); err != nil {
		t.Fatal(err)
	}
	if removed, err := m.RemoveVolume(t.Context(), "v"); err != nil || removed.ID != v.ID { // would be ErrNotFound
		t.Fatalf("remove: %+v, %v", removed, err)
	}
	if back, err := m.RecoverVolume(t.Context(), v.ID, ""); err != nil || back.ID != v.ID { // would be ErrInvalid
		t.Fatalf("recover: %+v, %v", back, err)
	}
	first, err := m.PutRecord(t.Context(), "k", []byte("one"), 0) // would be ErrConflict, as the next two
	if err != nil {
		t.Fatal(err)
	}
	second, err := m.PutRecord(t.Context(), "k", []byte("two"), first)
	if err != nil {
		t.Fatal(err)
	}
	if r, err := s.mds.Record(t.Context(), "k"); err != nil || string(r.Data) != "two" || r.Version != second {
		t.Errorf("record %+v, %v, want version %d", r, err, second)
	}
	if err := m.DeleteRecord(t.Context(), "k", second); err != nil {
		t.Fatal(err)
	}
	if n := f.lost.Load(); n != 10 {
		t.Errorf("%d answers were lost, want one of each of the 10 calls", n)
	}
}

// closedPort returns an address where nobody listens.
func closedPort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// silentPort returns an address that accepts connections and never answers.
func silentPort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var conns []net.Conn
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			conns = append(conns, conn)
		}
	}()
	t.Cleanup(func() {
		l.Close()
		<-done
		for _, conn := range conns {
			conn.Close()
		}
	})
	return l.Addr().String()
}

func TestTheNextMDSIsAskedWhereOneIsAwayOrHangs(t *testing.T) {
	leakCheck(t)
	s := serveMDS(t, mds.NewMemStore(), "", mds.Options{})
	t.Cleanup(func() { s.stop(t) })
	for name, first := range map[string]func(*testing.T) string{"away": closedPort, "hangs": silentPort} {
		t.Run(name, func(t *testing.T) {
			m := dialMeta(t, remote.MetaOptions{AttemptTimeout: 200 * time.Millisecond}, first(t), s.addr)
			createVolume(t, m, name)
			if _, err := m.Volume(shortly(t, 100*time.Millisecond), name); err != nil {
				t.Errorf("the one that answered is asked first from then on: %v", err)
			}
		})
	}
}

func TestNoMDSAtAllIsUnreachable(t *testing.T) {
	leakCheck(t)
	a, b := closedPort(t), closedPort(t)
	m := dialMeta(t, remote.MetaOptions{CallTimeout: 300 * time.Millisecond}, a, b)
	_, err := m.Volume(t.Context(), "v")
	if !errors.Is(err, backend.ErrUnreachable) || !strings.Contains(err.Error(), a) || !strings.Contains(err.Error(), b) || !strings.Contains(err.Error(), "refused") {
		t.Errorf("got %v, want ErrUnreachable that names %s and %s and why", err, a, b)
	}
	_, err = m.Volume(shortly(t, 50*time.Millisecond), "v")
	if !errors.Is(err, backend.ErrUnreachable) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("with a deadline: %v, want ErrUnreachable and DeadlineExceeded", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(20*time.Millisecond, cancel)
	if _, err = m.Volume(ctx, "v"); !errors.Is(err, context.Canceled) || errors.Is(err, backend.ErrUnreachable) {
		t.Errorf("cancelled: %v, want Canceled alone", err)
	}
	for _, bad := range [][]string{nil, {"nohost"}, {a, ""}} {
		if _, err := remote.DialMeta(bad, remote.MetaOptions{}); !errors.Is(err, backend.ErrInvalid) {
			t.Errorf("addresses %q: %v, want ErrInvalid", bad, err)
		}
	}
}

func TestCallsWaitForAnMDSThatRestarts(t *testing.T) {
	leakCheck(t)
	store := mds.NewMemStore()
	addr := closedPort(t)
	m := dialMeta(t, remote.MetaOptions{}, addr)
	created := make(chan error, 1)
	go func() {
		_, err := m.CreateVolume(context.Background(), backend.VolumeSpec{Name: "v", Size: 1 << 30})
		created <- err
	}()
	select {
	case err := <-created:
		t.Fatalf("answered by nobody: %v", err)
	case <-time.After(100 * time.Millisecond): // it has failed to connect by then
	}
	s := serveMDS(t, store, addr, mds.Options{})
	t.Cleanup(func() { s.stop(t) })
	if err := <-created; err != nil {
		t.Error(err)
	}
}

func TestCloseEndsCallsInProgress(t *testing.T) {
	leakCheck(t)
	m := dialMeta(t, remote.MetaOptions{}, silentPort(t))
	errs := make(chan error, 2)
	go func() { errs <- m.KeepAlive(context.Background(), "gw") }()
	go func() { _, err := m.Copyset(context.Background(), 1); errs <- err }()
	if err := m.Close(); err != nil {
		t.Error(err)
	}
	for range 2 {
		if err := <-errs; !errors.Is(err, backend.ErrClosed) {
			t.Errorf("call during Close: %v, want ErrClosed", err)
		}
	}
}
