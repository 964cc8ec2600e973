package audit

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/opencurve/curve-nbd/backend"
)

// recorded is the file of a log of some changes to block 5.
func recorded(t *testing.T) (*script, []byte) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "blocks.log")
	l, err := CreateLog(path, LogOptions{Volume: 7, Blocks: 64, Seed: 99, Cached: true})
	if err != nil {
		t.Fatal(err)
	}
	s := newScript(t, l, 5)
	s.write()
	s.ack(1)
	s.flush()
	s.write()
	s.ackFUA(2)
	s.zero()
	s.write()
	s.refuse(4)
	s.check(l.Close())
	file, err := os.ReadFile(path)
	s.check(err)
	return s, file
}

// reopen is OpenLog of a file with that content.
func reopen(t *testing.T, file []byte) (*Log, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "blocks.log")
	if err := os.WriteFile(path, file, 0o644); err != nil {
		t.Fatal(err)
	}
	l, err := OpenLog(path)
	if err == nil {
		t.Cleanup(func() { l.Close() })
	}
	return l, err
}

func TestLogSurvivesTheEndOfItsProcess(t *testing.T) {
	s, file := recorded(t)
	for version, want := range []Verdict{0, Lost, 0, 0, Unsubmitted} {
		l, err := reopen(t, file)
		s.check(err)
		if l.Options() != s.l.Options() {
			t.Fatalf("options %+v, want %+v", l.Options(), s.l.Options())
		}
		if got := verdictOf(t, l.Recover(5, s.content[version])); got != want {
			t.Errorf("version %d: %v, want %v", version, got, want)
		}
		// The log goes on where it was: every second life has its own numbers.
		next := newScript(t, l, 5)
		next.write()
		if stamp, _ := ReadStamp(next.content[1]); stamp.Version != 5 {
			t.Errorf("the next version is %d, want 5", stamp.Version)
		}
		next.ackFUA(1)
		if got := verdictOf(t, next.read(s.content[2])); got != Lost {
			t.Errorf("after an overwrite: %v, want %v", got, Lost)
		}
	}
}

func TestChangeIsInTheFileBeforeItIsMade(t *testing.T) {
	path := filepath.Join(t.TempDir(), "blocks.log")
	l, err := CreateLog(path, LogOptions{Volume: 7, Blocks: 64, Seed: 99})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	s := newScript(t, l, 5)
	s.write()
	// Another life of the log, as after a kill: nobody closed the first.
	again, err := OpenLog(path)
	s.check(err)
	defer again.Close()
	if err := again.Recover(5, s.content[1]); err != nil {
		t.Error(err)
	}
}

func TestTornTailIsCut(t *testing.T) {
	s, file := recorded(t)
	last := len(file) - recordBytes
	for name, torn := range map[string][]byte{
		"short":   file[:last+recordBytes/2],
		"garbled": append(append([]byte{}, file[:last+8]...), make([]byte, recordBytes-8)...),
		"gone":    file[:last],
	} {
		l, err := reopen(t, torn)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		// What was cut is the refusal of version 4, which may be there again.
		if got := verdictOf(t, l.Recover(5, s.content[4])); got != 0 {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestDamagedLogFileIsRefused(t *testing.T) {
	_, file := recorded(t)
	flip := func(at int) []byte {
		b := bytes.Clone(file)
		b[at] ^= 1
		return b
	}
	for name, c := range map[string]struct {
		file []byte
		want error
	}{
		"no file of ours":        {[]byte("curve-nbd: not a log, and long enough for a header, or so it seems"), backend.ErrInvalid},
		"empty":                  {nil, backend.ErrInvalid},
		"half a header":          {file[:fileHeader/2], backend.ErrInvalid},
		"header":                 {flip(20), backend.ErrChecksum},
		"a record in the middle": {flip(fileHeader + recordBytes + 9), backend.ErrChecksum},
		"a record missing":       {append(bytes.Clone(file[:fileHeader]), file[fileHeader+recordBytes:]...), backend.ErrInvalid},
	} {
		if _, err := reopen(t, c.file); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

func TestNewLogDoesNotReplaceAFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "blocks.log")
	if err := os.WriteFile(path, []byte("precious"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := CreateLog(path, LogOptions{Blocks: 1}); !errors.Is(err, os.ErrExist) {
		t.Errorf("%v, want it to exist", err)
	}
}

// Whatever a file holds, replay ends, without more memory than its records are
// worth, and what it accepted it accepts again.
func FuzzLogFile(f *testing.F) {
	header := encodeHeader(LogOptions{Volume: 7, Blocks: 64, Seed: 99})
	with := func(records ...record) []byte {
		b := bytes.Clone(header)
		for _, r := range records {
			var raw [recordBytes]byte
			r.encode(&raw)
			b = append(b, raw[:]...)
		}
		return b
	}
	f.Add(header)
	f.Add(with(record{kind: recordSubmit, event: 1, block: 5, count: 3, writer: 2}, record{kind: recordAcknowledge, event: 1, block: 5, count: 3, durable: true}))
	f.Add(with(record{kind: recordSubmit, zero: true, event: 1, block: 5, count: 1}, record{kind: recordFlush, event: 9}, record{kind: recordRecover, event: 1, block: 5, count: 1}))
	f.Add(with(record{kind: recordAcknowledge, event: 8, block: 5, count: 1}))
	f.Add(with(record{kind: recordSubmit, event: 1, block: 63, count: 1 << 31}))
	f.Fuzz(func(t *testing.T, file []byte) {
		l, end, err := replay(bytes.NewReader(file))
		if err != nil {
			return
		}
		if end < fileHeader || end > int64(len(file)) || (end-fileHeader)%recordBytes != 0 {
			t.Fatalf("end at %d of %d", end, len(file))
		}
		again, end2, err := replay(bytes.NewReader(file[:end]))
		if err != nil || end2 != end || again.seq != l.seq || len(again.blocks) != len(l.blocks) {
			t.Fatalf("the part that was accepted is not accepted alone: %v", err)
		}
	})
}

// A block that ReadStamp takes for whole is one that Fill makes, byte for byte.
func FuzzReadStamp(f *testing.F) {
	b := make([]byte, BlockBytes)
	Stamp{Volume: 7, Block: 5, Version: 3, Writer: 2, Seed: 99}.Fill(b)
	f.Add(b[:stampHeader])
	f.Add([]byte(stampMagic))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, head []byte) {
		block := make([]byte, BlockBytes)
		copy(block, head)
		s, ok := ReadStamp(block)
		if !ok || s.Zero() {
			return
		}
		if again, ok := ReadStamp(block); !ok || again != s {
			t.Fatalf("%v, then %v", s, again)
		}
		refilled := make([]byte, BlockBytes)
		s.Fill(refilled)
		if !bytes.Equal(refilled[:offSum], block[:offSum]) || !bytes.Equal(refilled[offLayout:stampHeader], block[offLayout:stampHeader]) {
			t.Fatalf("the header of %v is another", s)
		}
	})
}
