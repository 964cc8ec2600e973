package faults

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

// childVariable makes this test binary a process that plays a part.
const childVariable = "FAULTS_TEST_CHILD"

func TestMain(m *testing.M) {
	switch part, arg, _ := strings.Cut(os.Getenv(childVariable), " "); part {
	case "":
		goleak.VerifyTestMain(m)
	case "echo": // on standard input
		_, _ = io.Copy(os.Stdout, os.Stdin)
	case "dial": // and echo what it says on standard input through there
		c, err := net.Dial("tcp", arg)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		go io.Copy(c, os.Stdin)
		_, _ = io.Copy(os.Stdout, c)
	}
}

// child is a process of this test binary with a part to play.
type child struct {
	*Process
	in  io.WriteCloser
	out *bufio.Reader
}

func startChild(t *testing.T, part string) *child {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childVariable+"="+part)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p, err := FindProcess(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Kill(); err != nil {
			t.Error(err)
		}
		_ = cmd.Wait() // killed
		p.Close()
	})
	return &child{Process: p, in: in, out: bufio.NewReader(out)}
}

func (c *child) echo(t *testing.T, line string) {
	t.Helper()
	if _, err := fmt.Fprintln(c.in, line); err != nil {
		t.Fatal(err)
	}
	if got, err := c.out.ReadString('\n'); err != nil || got != line+"\n" {
		t.Fatalf("%q, %v; want %q", got, err, line)
	}
}

func TestStopContinueKillAreConfirmed(t *testing.T) {
	c := startChild(t, "echo")
	c.echo(t, "before")
	for range 3 {
		if err := c.Stop(); err != nil {
			t.Fatal(err)
		}
		if state, err := c.state(); state != 'T' {
			t.Fatalf("stopped, and in state %c, %v", state, err)
		}
		if err := c.Continue(); err != nil {
			t.Fatal(err)
		}
		c.echo(t, "again")
	}
	if c.Exited() {
		t.Error("it lives, and counts as ended")
	}
	if err := c.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := c.Kill(); err != nil {
		t.Fatal(err)
	}
	if !c.Exited() {
		t.Error("it was killed, and counts as alive")
	}
	if err := c.Kill(); err != nil {
		t.Errorf("a second kill: %v", err)
	}
}

func TestFindProcessRefusesWhatIsNotThere(t *testing.T) {
	if _, err := FindProcess(1 << 30); err == nil {
		t.Error("there is a process of that number")
	}
}
