package chunkserver

import (
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
)

// troubles are what is wrong with the server, each under a name.
type troubles struct {
	log *slog.Logger
	// changed is told of every change.
	changed func()

	mu  sync.Mutex
	all map[string]string
}

// set says what is wrong, "" for nothing any more.
func (t *troubles) set(name, what string) {
	t.mu.Lock()
	old := t.all[name]
	if what == "" {
		delete(t.all, name)
	} else {
		if t.all == nil {
			t.all = make(map[string]string)
		}
		t.all[name] = what
	}
	t.mu.Unlock()
	switch {
	case (old == "") == (what == ""):
		return // the same trouble in other words
	case what == "":
		t.log.Info("trouble is over", "trouble", name)
	default:
		t.log.Error("in trouble", "trouble", name, "what", what)
	}
	t.changed()
}

// String lists them in words, "" for none.
func (t *troubles) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var words []string
	for _, name := range slices.Sorted(maps.Keys(t.all)) {
		words = append(words, t.all[name])
	}
	return strings.Join(words, "; ")
}
