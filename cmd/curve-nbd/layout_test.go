package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const modulePath = "github.com/opencurve/curve-nbd"

// mayImport says which of our packages each of our packages may import: always
// further down, and an implementation of a backend never from above. A pattern
// ending in /... stands for a package and all below it. A new package needs a
// row here, so that its place is a decision.
var mayImport = map[string][]string{
	"backend":                   {},
	"backend/backendtest":       {"backend"},
	"backend/disk":              {"backend"},
	"backend/disk/crashfs":      {"backend/disk"},
	"backend/chunkstore":        {"backend", "backend/disk"},
	"backend/embedded":          {"backend", "backend/disk", "backend/mds", "backend/chunkstore", "backend/memory"},
	"backend/mds":               {"backend", "backend/pb"},
	"backend/pb":                {"backend"},
	"backend/copyset":           {"backend", "backend/disk", "backend/chunkstore", "backend/copyset/..."},
	"backend/copyset/raftlog":   {"backend", "backend/disk"},
	"backend/copyset/raftnet":   {"backend"},
	"backend/chunkserver":       {"backend", "backend/disk", "backend/chunkstore", "backend/copyset/...", "backend/pb"},
	"backend/remote":            {"backend", "backend/pb"},
	"backend/audit":             {"backend"},
	"backend/faults":            {"backend"},
	"backend/memory":            {"backend"},
	"volume":                    {"backend"},
	"gateway":                   {"backend", "volume"},
	"gateway/control":           {"backend", "gateway", "gateway/control/controlpb"},
	"gateway/control/controlpb": {},
	"gateway/stream":            {},
	"nbd":                       {"backend", "volume", "gateway", "gateway/stream", "nbd/..."},
	"nbd/kernel":                {"backend"},
	"nbd/device":                {"backend", "gateway", "nbd", "nbd/kernel"},
	"nbd/...":                   {"backend", "nbd/..."},
	"iscsi":                     {},
	"iscsi/scsi":                {"backend", "volume", "gateway"},
	"iscsi/registry":            {"backend", "iscsi"},
	"iscsi/target":              {"backend", "volume", "gateway", "gateway/stream", "iscsi", "iscsi/registry", "iscsi/scsi"},
	"cmd/curve-nbd/e2e":         {},
	"cmd/curve-nbd/kerneltest":  {},
	"scripts/bench":             {"scripts/iscsitarget"},
	"scripts/iscsi-conformance": {"scripts/iscsitarget", "scripts/testcu"},
	"scripts/iscsitarget":       {},
	"scripts/testcu":            {},
	"cmd/curve-nbd":             {"backend/...", "volume", "gateway/...", "iscsi/...", "nbd/..."},
}

// testsOnly are the packages that only tests may import.
var testsOnly = []string{"backend/backendtest", "backend/disk/crashfs", "backend/faults"}

// mayUse says which of our packages may import a foreign module, for those that
// belong to one part of the system.
var mayUse = map[string][]string{
	"github.com/urfave/cli/":       {"cmd/..."},
	"github.com/jedib0t/go-pretty": {"cmd/..."},
	"google.golang.org/grpc":       {"gateway/control/...", "backend/pb", "backend/chunkserver", "backend/mds", "backend/remote", "cmd/..."},
	"github.com/hashicorp/raft":    {"backend/copyset/...", "backend/chunkserver"},
	"go.etcd.io/bbolt":             {"backend/mds"},
	"github.com/mdlayher/":         {"nbd/kernel"},
	"github.com/gostor/gotgt":      {"scripts/bench"},
	"github.com/sirupsen/logrus":   {"scripts/bench"},
}

// vagueNames say nothing about what is inside.
var vagueNames = []string{"util", "utils", "common", "helper", "helpers", "types", "pkg", "misc", "lib"}

// topLevel is all that the top of the tree may hold besides dot-files; bin and
// data come from make, cluster from `cluster up`; they are never committed.
var topLevel = []string{
	"go.mod", "go.sum", "backend", "cmd", "gateway", "iscsi", "nbd", "scripts", "volume",
	"DESIGN.md", "LICENSE", "Makefile", "README.md", "bin", "cluster", "data",
}

// maxFileLines bounds what a reader has to hold in mind at once.
const maxFileLines = 500

// listedPackage is what `go list -json` says of a package; Imports are those of
// the production code.
type listedPackage struct {
	ImportPath string
	Name       string
	Imports    []string
}

func TestLayoutImportsPointDown(t *testing.T) {
	packages := listPackages(t)
	if len(packages) < len(mayImport)/2 {
		t.Fatalf("go list found %d packages, there must be more", len(packages))
	}
	for _, violation := range checkImports(packages) {
		t.Error(violation)
	}
}

func TestLayoutTopLevelHoldsOnlyWhatIsPrescribed(t *testing.T) {
	entries, err := os.ReadDir(repoRoot(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !topLevelAllows(e.Name()) {
			t.Errorf("%s does not belong at the top level: it holds %s and dot-files", e.Name(), strings.Join(topLevel, ", "))
		}
	}
}

func TestLayoutFilesStaySmall(t *testing.T) {
	root := repoRoot(t)
	err := filepath.WalkDir(root, func(file string, d os.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && file != root && (strings.HasPrefix(d.Name(), ".") || d.Name() == "data"):
			return filepath.SkipDir
		case d.IsDir() || path.Ext(file) != ".go" || strings.HasSuffix(file, ".pb.go"):
			return nil
		}
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		if lines := bytes.Count(text, []byte{'\n'}); lines > maxFileLines {
			t.Errorf("%s has %d lines, at most %d: split it", file, lines, maxFileLines)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// The rules are worth nothing if breaking them goes unnoticed.
func TestLayoutCheckerFindsPlantedViolations(t *testing.T) {
	for _, c := range []struct {
		name string
		pkg  listedPackage
		want string
	}{
		{"the contract imports what implements it", planted("backend", "backend/mds"), "backend must not import backend/mds"},
		{"volume imports a backend", planted("volume", "backend/embedded"), "volume must not import backend/embedded"},
		{"volume imports what is above", planted("volume", "gateway"), "volume must not import gateway"},
		{"gateway imports a front end", planted("gateway", "nbd"), "gateway must not import nbd"},
		{"nbd imports a backend", planted("nbd", "backend/chunkstore"), "nbd must not import backend/chunkstore"},
		{"nbd imports the control protocol", planted("nbd", "gateway/control"), "nbd must not import gateway/control"},
		{"a test package in production", planted("cmd/curve-nbd", "backend/backendtest"), "only tests may import backend/backendtest"},
		{"a test double in production", planted("cmd/curve-nbd", "backend/disk/crashfs"), "only tests may import backend/disk/crashfs"},
		{"testing in production", foreign("volume", "testing"), "volume must not import testing"},
		{"cli outside cmd", foreign("gateway", "github.com/urfave/cli/v2"), "gateway must not import github.com/urfave/cli/v2"},
		{"gRPC on the IO path", foreign("volume", "google.golang.org/grpc/codes"), "volume must not import google.golang.org/grpc/codes"},
		{"a package without a row", planted("gateway/proxy"), "gateway/proxy has no row"},
		{"a vague directory", planted("nbd/util"), `"util"`},
		{"a vague name", listedPackage{ImportPath: modulePath + "/volume", Name: "common"}, `"common"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			found := checkImports([]listedPackage{c.pkg})
			if !slices.ContainsFunc(found, func(v string) bool { return strings.Contains(v, c.want) }) {
				t.Errorf("found %q, want one that says %q", found, c.want)
			}
		})
	}
	if topLevelAllows("pkg") || topLevelAllows("tests") || !topLevelAllows(".gitignore") {
		t.Error("the top level takes what it must not, or refuses a dot-file")
	}
}

func planted(from string, to ...string) listedPackage {
	p := listedPackage{ImportPath: modulePath + "/" + from, Name: path.Base(from)}
	for _, i := range to {
		p.Imports = append(p.Imports, modulePath+"/"+i)
	}
	return p
}

func foreign(from, imported string) listedPackage {
	return listedPackage{ImportPath: modulePath + "/" + from, Name: path.Base(from), Imports: []string{imported}}
}

// checkImports returns one line for every rule that the packages break.
func checkImports(packages []listedPackage) []string {
	var found []string
	for _, p := range packages {
		from := strings.TrimPrefix(p.ImportPath, modulePath+"/")
		for _, word := range append(strings.Split(from, "/"), p.Name) {
			if slices.Contains(vagueNames, word) {
				found = append(found, fmt.Sprintf("%s: the name %q says nothing about what is inside", from, word))
			}
		}
		allowed, ok := rowOf(from)
		if !ok {
			found = append(found, from+" has no row in mayImport")
			continue
		}
		for _, imported := range p.Imports {
			if violation := checkImport(from, imported, allowed); violation != "" {
				found = append(found, violation)
			}
		}
	}
	return found
}

func checkImport(from, imported string, allowed []string) string {
	forbidden := fmt.Sprintf("%s must not import %s", from, imported)
	to, ours := strings.CutPrefix(imported, modulePath+"/")
	switch {
	case ours && slices.Contains(testsOnly, to) && !slices.Contains(testsOnly, from):
		return "only tests may import " + to + ": " + from + " does"
	case ours && !matchesAny(to, allowed):
		return fmt.Sprintf("%s must not import %s: it may import %s", from, to, strings.Join(allowed, ", "))
	case imported == "testing" && !slices.Contains(testsOnly, from):
		return forbidden + " in production code"
	}
	for module, users := range mayUse {
		if strings.HasPrefix(imported, module) && !matchesAny(from, users) {
			return forbidden + ": only " + strings.Join(users, ", ") + " may"
		}
	}
	return ""
}

// rowOf finds a package's row: its own, or the closest pattern above it.
func rowOf(pkg string) ([]string, bool) {
	if row, ok := mayImport[pkg]; ok {
		return row, true
	}
	for dir := path.Dir(pkg); dir != "."; dir = path.Dir(dir) {
		if row, ok := mayImport[dir+"/..."]; ok {
			return row, true
		}
	}
	return nil, false
}

func matchesAny(pkg string, patterns []string) bool {
	return slices.ContainsFunc(patterns, func(pattern string) bool {
		prefix, tree := strings.CutSuffix(pattern, "/...")
		return pkg == prefix || tree && strings.HasPrefix(pkg, prefix+"/")
	})
}

func topLevelAllows(name string) bool {
	return strings.HasPrefix(name, ".") || slices.Contains(topLevel, name)
}

func listPackages(t *testing.T) []listedPackage {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Name,Imports", "./...")
	cmd.Dir = repoRoot(t)
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			t.Fatalf("go list: %v\n%s", err, exit.Stderr)
		}
		t.Fatal(err)
	}
	var packages []listedPackage
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p listedPackage
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return packages
		} else if err != nil {
			t.Fatal(err)
		}
		packages = append(packages, p)
	}
}

// repoRoot is where go.mod is: tests run in their package's directory.
func repoRoot(t *testing.T) string {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(root, "go.mod")); err != nil {
		t.Fatal(err)
	}
	return root
}
