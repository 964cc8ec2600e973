package main

import (
	"context"
	"errors"
	"os"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/embedded"
	"github.com/opencurve/curve-nbd/backend/memory"
	"github.com/opencurve/curve-nbd/gateway"
)

// benchBackends are the backends that can be measured.
var benchBackends = []string{"null", "memory", "embedded"}

// benchVolume is the volume that is measured, benchFill what it is filled with,
// a request at a time.
const (
	benchVolume = "bench"
	benchFill   = 1 << 20
)

// benchTarget is an open export on a backend of its own.
type benchTarget struct {
	handle *gateway.Handle
	// undo is what close does, in reverse order.
	undo []func() error
}

func openBenchTarget(ctx context.Context, name, dir string, size int64) (t *benchTarget, err error) {
	t = &benchTarget{}
	defer func() {
		if err != nil {
			err = errors.Join(err, t.close())
		}
	}()
	var meta backend.Meta
	var chunks backend.Chunks
	if name == "embedded" {
		meta, chunks, err = t.openDir(dir)
	} else {
		meta, chunks, err = t.openMemory(name == "null")
	}
	if err != nil {
		return t, err
	}
	gw := gateway.New(meta, chunks, gateway.Options{})
	t.undo = append(t.undo, func() error { return gw.Close(context.WithoutCancel(ctx)) })
	spec := backend.VolumeSpec{Name: benchVolume, Size: size / backend.DefaultBlockSize * backend.DefaultBlockSize}
	if _, err := gw.CreateVolume(ctx, spec); err != nil {
		return t, err
	}
	if t.handle, err = gw.Open(ctx, benchVolume); err != nil {
		return t, err
	}
	t.undo = append(t.undo, func() error { t.handle.Release(); return nil })
	return t, t.fill(ctx)
}

func (t *benchTarget) openDir(parent string) (backend.Meta, backend.Chunks, error) {
	dir, err := os.MkdirTemp(parent, "curve-nbd-bench-")
	if err != nil {
		return nil, nil, err
	}
	t.undo = append(t.undo, func() error { return os.RemoveAll(dir) })
	store, err := embedded.Open(dir, embedded.Options{})
	if err != nil {
		return nil, nil, err
	}
	t.undo = append(t.undo, store.Close)
	return store.Meta(), store.Chunks(), nil
}

func (t *benchTarget) openMemory(null bool) (backend.Meta, backend.Chunks, error) {
	store, err := embedded.OpenMemory(embedded.Options{})
	if err != nil {
		return nil, nil, err
	}
	t.undo = append(t.undo, store.Close)
	if null {
		return store.Meta(), memory.Null{}, nil
	}
	return store.Meta(), store.Chunks(), nil
}

// fill writes the whole volume and flushes it, so that reads find data and
// writes find space.
func (t *benchTarget) fill(ctx context.Context) error {
	size := t.handle.Info().Size
	d := newBenchDriver(t.handle, backend.OpWrite, 1)
	defer d.close()
	for off := int64(0); off < size; off += benchFill {
		if err := d.one(ctx, off, min(benchFill, size-off)); err != nil {
			return err
		}
	}
	if err := d.drain(); err != nil {
		return err
	}
	flush := newBenchDriver(t.handle, backend.OpFlush, 1)
	defer flush.close()
	if err := flush.one(ctx, 0, 0); err != nil {
		return err
	}
	return flush.drain()
}

func (t *benchTarget) close() error {
	var errs []error
	for i := len(t.undo) - 1; i >= 0; i-- {
		errs = append(errs, t.undo[i]())
	}
	t.undo = nil
	return errors.Join(errs...)
}
