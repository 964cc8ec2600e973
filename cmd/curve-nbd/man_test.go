package main

import (
	"bytes"
	"io"
	"os/exec"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"
)

func TestManualHasAllThatHelpSays(t *testing.T) {
	var page, trouble bytes.Buffer
	if code := run(t.Context(), []string{"curve-nbd", "man"}, &page, &trouble); code != exitOK {
		t.Fatalf("exit code %d: %s", code, &trouble)
	}
	text := strings.ReplaceAll(page.String(), `\-`, "-")
	eachCommand(newApp(io.Discard, io.Discard).Commands, func(c *cli.Command) {
		if c.Hidden {
			return
		}
		parts := []string{c.Name, c.Usage}
		for line := range strings.SplitSeq(c.Description, "\n") {
			parts = append(parts, strings.ReplaceAll(line, `\`, `\e`))
		}
		for _, f := range c.VisibleFlags() {
			parts = append(parts, "--"+f.Names()[0])
		}
		for _, part := range parts {
			if !strings.Contains(text, part) {
				t.Errorf("of %s the page does not have %q", c.Name, part)
			}
		}
	})

	groff, err := exec.LookPath("groff")
	if err != nil {
		t.Skip("SKIPPED: how the page looks: groff is not installed")
	}
	cmd := exec.Command(groff, "-man", "-Tutf8", "-ww", "-z")
	cmd.Stdin = &page
	if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("groff: %v\n%s", err, out)
	}
}
