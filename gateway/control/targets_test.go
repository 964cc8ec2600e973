package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencurve/curve-nbd/backend"
)

type unasked interface{ Targets }

// noted is Targets that note what they are asked, and know one target.
type noted struct {
	unasked // what is not below
	target  Target
	err     error

	mu    sync.Mutex
	asked []string // guarded by mu
}

func (n *noted) note(args ...any) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.asked = append(n.asked, strings.TrimSpace(fmt.Sprintln(args...)))
}

func (n *noted) Target(_ context.Context, name string) (Target, error) {
	n.note("target", name)
	return n.target, n.err
}

func (n *noted) RemoveTarget(_ context.Context, name string, force bool) error {
	n.note("remove", name, force)
	return n.err
}

func (n *noted) AddUnit(_ context.Context, target string, u UnitRequest) (Unit, error) {
	n.note("add", target, u)
	return n.target.Units[1], n.err
}

func (n *noted) RemoveUnit(_ context.Context, target, unit string, force bool) (Unit, error) {
	n.note("take off", target, unit, force)
	return n.target.Units[0], n.err
}

func (n *noted) Allow(_ context.Context, target string, a Access) (Target, error) {
	n.note("allow", target, a)
	return n.target, n.err
}

func (n *noted) SetCredential(_ context.Context, target string, c Credential) (Login, error) {
	n.note("prove", target, c.Mutual, c.User, len(c.Secret))
	return n.target.Login, n.err
}

// serveTargets is serve with targets, and no gateway behind it.
func serveTargets(t *testing.T, targets Targets) *Client {
	t.Helper()
	path := filepath.Join(t.TempDir(), "control.sock")
	listener, err := ListenUnix(path, SocketMode)
	if err != nil {
		t.Fatal(err)
	}
	server := NewServer(failingGateway{}, nil, targets)
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	t.Cleanup(func() {
		if err := errors.Join(server.Shutdown(context.Background()), <-served); err != nil {
			t.Error(err)
		}
	})
	client, err := Dial(context.Background(), "unix:"+path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}

func TestTargetsAreTheSameBehindTheSocket(t *testing.T) {
	want := Target{
		Name: "iqn.2026-11.io.curve:vm1", Alias: "db", CreatedAt: time.Unix(5, 6).UTC(),
		Units:  []Unit{{Number: 0, Volume: "pg", VolumeID: 7}, {Number: 300, Volume: "logs", VolumeID: 1 << 60, UnitOptions: UnitOptions{ReadOnly: true, Removable: true, PhysicalBlock: 512}}},
		Access: []Access{{Initiator: "any", AllUnits: true}, {Initiator: "eui.0123456789abcdef", Units: []int{0, 300}}, {Initiator: "naa.0123456789abcdef"}},
		Login:  Login{Users: []string{"a", "b"}, Mutual: "t"},
		Sessions: []Session{{
			Initiator: "eui.0123456789abcdef", Address: "10.0.0.9:1", User: "a", Since: time.Unix(7, 8).UTC(),
			Reads: 1, Writes: 2, ReadBytes: 1 << 60, WriteBytes: 4,
		}},
	}
	ctx := context.Background()
	n := &noted{target: want}
	client := serveTargets(t, n)
	if got, err := client.Target(ctx, "t"); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("target became\n%+v, %v, was\n%+v", got, err, want)
	}
	if got, err := client.Allow(ctx, "t", Access{Initiator: "i", Units: []int{3, 4}}); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("allow: %+v, %v", got, err)
	}
	if got, err := client.AddUnit(ctx, "t", UnitRequest{Volume: "v", Number: AnyNumber, UnitOptions: want.Units[1].UnitOptions}); err != nil || got != want.Units[1] {
		t.Errorf("add: %+v, %v", got, err)
	}
	if got, err := client.RemoveUnit(ctx, "t", "v", true); err != nil || got != want.Units[0] {
		t.Errorf("take off: %+v, %v", got, err)
	}
	if got, err := client.SetCredential(ctx, "", Credential{Mutual: true, User: "u", Secret: Secret("\xff\x00secret")}); err != nil || !reflect.DeepEqual(got, want.Login) {
		t.Errorf("prove: %+v, %v", got, err)
	}
	if err := client.RemoveTarget(ctx, "t", true); err != nil {
		t.Error(err)
	}
	asked := []string{"target t", "allow t {i false [3 4]}", "add t {v -1 {true true 512}}", "take off t v true", "prove  true u 8", "remove t true"}
	if !reflect.DeepEqual(n.asked, asked) {
		t.Errorf("asked\n%q, want\n%q", n.asked, asked)
	}
	n.err = fmt.Errorf("%w: logged in: somebody", backend.ErrBusy)
	if err := client.RemoveTarget(ctx, "t", false); !errors.Is(err, backend.ErrBusy) || !strings.Contains(err.Error(), "somebody") {
		t.Errorf("in use: %v", err)
	}
	if _, err := client.AddUnit(ctx, "t", UnitRequest{Number: 1 << 40}); !errors.Is(err, backend.ErrInvalid) {
		t.Errorf("a number that does not fit: %v", err)
	}
}

func TestGatewayWithoutTargetsSaysSo(t *testing.T) {
	if _, err := serveTargets(t, nil).Targets(context.Background()); !errors.Is(err, backend.ErrNotSupported) {
		t.Errorf("got %v, want ErrNotSupported", err)
	}
}

func TestCredentialsDoNotPrintTheirSecret(t *testing.T) {
	c := Credential{User: "u", Secret: Secret("open sesame")}
	encoded, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{fmt.Sprintf("%v %+v %#v %s %x", c, c, c, c.Secret, c.Secret), string(encoded)} {
		for _, part := range []string{"sesame", "6f70656e", "111, 112", "0x6f", "b3Blbg"} {
			if strings.Contains(text, part) {
				t.Errorf("%q in %s", part, text)
			}
		}
	}
}
