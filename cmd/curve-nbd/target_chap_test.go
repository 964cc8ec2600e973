package main

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"
)

// openTerminal returns a terminal, and the end of who sits before it.
func openTerminal(t *testing.T) (terminal, person *os.File) {
	t.Helper()
	person, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("NOT RUN: no terminals here: %v", err)
	}
	t.Cleanup(func() { person.Close() })
	fd := int(person.Fd())
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	terminal, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { terminal.Close() })
	return terminal, person
}

// prompt is a writer that says when something was asked.
type prompt struct {
	asked chan struct{}
	text  bytes.Buffer
}

func (p *prompt) Write(b []byte) (int, error) {
	if p.text.Len() == 0 {
		close(p.asked)
	}
	return p.text.Write(b)
}

func TestASecretThatIsTypedIsNotShown(t *testing.T) {
	terminal, person := openTerminal(t)
	says := &prompt{asked: make(chan struct{})}
	ctx := cli.NewContext(&cli.App{Reader: terminal, ErrWriter: says}, nil, nil)
	shown := func() bool {
		tios, err := unix.IoctlGetTermios(int(terminal.Fd()), unix.TCGETS)
		return err != nil || tios.Lflag&unix.ECHO != 0
	}
	go func() {
		<-says.asked
		for shown() {
			time.Sleep(time.Millisecond)
		}
		fmt.Fprint(person, "a-secret-of-16-b\n")
	}()
	secret, err := readSecret(ctx, "-")
	if err != nil || string(secret) != "a-secret-of-16-b" {
		t.Errorf("read %q, %v", secret, err)
	}
	if !shown() {
		t.Error("the terminal shows nothing afterwards")
	}
	fmt.Fprint(terminal, "over\n") // after all that was shown
	var screen strings.Builder
	for b := make([]byte, 256); !strings.Contains(screen.String(), "over"); {
		n, err := person.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		screen.Write(b[:n])
	}
	if strings.Contains(screen.String()+says.text.String(), "secret-of") {
		t.Errorf("the screen shows %q", screen.String())
	}
}
