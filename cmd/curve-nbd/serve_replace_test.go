package main

import (
	"errors"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/gateway/control"
	"github.com/opencurve/curve-nbd/nbd/device"
)

// Only who asks for it stops a gateway, not who looks whether it is there.
func TestGatewayIsReplacedByWhoAsks(t *testing.T) {
	controlPath := filepath.Join(t.TempDir(), "c.sock")
	if got, err := takeOver(t.Context(), controlPath, slog.New(slog.DiscardHandler)); got.devices != nil || got.legacy != nil || err != nil {
		t.Errorf("with no gateway to replace: %v, %v", got, err)
	}
	l, err := control.ListenUnix(replacePath(controlPath), control.SocketMode)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	refusals := []error{errors.New("not now")}
	may := func() (reason error) {
		if len(refusals) > 0 {
			reason, refusals = refusals[0], nil
		}
		return reason
	}
	s := &successor{came: make(chan struct{}), may: may, leaves: inheritance{devices: []device.Handed{{Backend: "x"}}, legacy: []byte("y")}}
	waited := make(chan error, 1)
	go func() { waited <- s.wait(l) }()
	for _, says := range []string{"", "GET / HTTP/1.1\r\n"} {
		conn, err := net.Dial("unix", replacePath(controlPath))
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(conn, says)
		conn.(*net.UnixConn).CloseWrite()
		if _, err := conn.Read(make([]byte, 1)); err == nil || s.asked() {
			t.Errorf("%q was taken for a successor", says)
		}
		conn.Close()
	}
	if _, err := takeOver(t.Context(), controlPath, slog.New(slog.DiscardHandler)); !errors.Is(err, backend.ErrBusy) || !strings.Contains(err.Error(), "not now") || s.asked() {
		t.Errorf("refused: %v", err)
	}
	sent := make(chan error, 1)
	go func() { <-s.came; sent <- s.send(t.Context()) }()
	got, err := takeOver(t.Context(), controlPath, slog.New(slog.DiscardHandler))
	if err != nil || len(got.devices) != 1 || got.devices[0].Backend != "x" || string(got.legacy) != "y" || <-sent != nil || <-waited != nil {
		t.Errorf("took over %+v, %v", got, err)
	}
}
