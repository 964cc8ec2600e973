package embedded_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"testing"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/embedded"
)

// A child is this test binary, started again to be another gateway on the data
// directory. It runs until its stdin ends, or it is killed.
const (
	childRole = "CURVE_NBD_TEST_CHILD"
	childDir  = "CURVE_NBD_TEST_DIR"

	roleHold = "hold" // opens the directory and says so
	roleWork = "work" // makes volumes and segments, and tells of each
)

type child struct {
	*exec.Cmd
	stdin io.WriteCloser
	lines *bufio.Scanner
}

func startChild(t *testing.T, role, dir string) *child {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := &child{Cmd: exec.Command(exe)}
	c.Env = append(os.Environ(), childRole+"="+role, childDir+"="+dir)
	c.Stderr = os.Stderr
	if c.stdin, err = c.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	c.lines = bufio.NewScanner(out)
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.kill)
	return c
}

// line waits for the next line; "" at the end.
func (c *child) line() string {
	if !c.lines.Scan() {
		return ""
	}
	return c.lines.Text()
}

// kill is kill -9 for this child only. Lines it wrote before can still be read
// until then; rest returns them.
func (c *child) kill() {
	c.Process.Kill()
	c.Wait()
}

// killAndDrain kills the child and returns what it had said by then.
func (c *child) killAndDrain() (rest []string) {
	c.Process.Kill()
	for c.lines.Scan() {
		rest = append(rest, c.lines.Text())
	}
	c.Wait()
	return rest
}

func runChild(role string) int {
	b, err := embedded.Open(os.Getenv(childDir), embedded.Options{Owner: "test child"})
	if err != nil {
		fmt.Fprintln(os.Stderr, "child:", err)
		return 1
	}
	fmt.Println("open")
	switch role {
	case roleHold:
		io.Copy(io.Discard, os.Stdin)
	case roleWork:
		err = work(b)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "child:", err)
		return 1
	}
	if err := b.Close(); err != nil {
		fmt.Fprintln(os.Stderr, "child:", err)
		return 1
	}
	return 0
}

// work makes volumes of 8 segments and allocates them all, for ever. It prints
// each result after it was acknowledged.
func work(b *embedded.Backend) error {
	ctx := context.Background()
	m := b.Meta()
	for i := 0; ; i++ {
		spec := backend.VolumeSpec{Name: fmt.Sprintf("p%d/v%d", os.Getpid(), i), Size: 8 * smallGeometry.SegmentSize, Geometry: smallGeometry}
		v, err := m.CreateVolume(ctx, spec)
		if err != nil {
			return err
		}
		fmt.Printf("volume %d %s\n", v.ID, v.Name)
		lease, err := m.OpenVolume(ctx, v.Name, "child", backend.OpenExclusive)
		if err != nil {
			return err
		}
		fmt.Printf("epoch %d %d\n", v.ID, lease.Epoch)
		for index := range backend.SegmentIndex(8) {
			seg, err := m.AllocateSegment(ctx, v.ID, lease.Epoch, index)
			if err != nil {
				return err
			}
			fmt.Printf("segment %d %d %d\n", v.ID, index, seg.Chunks[0].ID)
		}
	}
}
