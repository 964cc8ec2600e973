package gateway

import (
	"context"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/volume"
)

// export is an open volume under the name clients know.
type export struct {
	gateway *Gateway
	name    string
	volume  *volume.Volume
	stats   *exportStats

	// Guarded by gateway.mu:
	handles int
	opened  bool // the volume is open
	closing bool
	ready   chan struct{} // closed when an open or a close has ended
}

// open opens the volume for the first handle.
func (e *export) open(ctx context.Context) (*export, error) {
	g := e.gateway
	mode := backend.OpenExclusive
	if g.opts.TakeOver {
		mode = backend.OpenTakeOver
	}
	v, err := volume.Open(ctx, g.meta, g.chunks, e.name, volume.Options{
		Owner: g.opts.Owner,
		Mode:  mode,
		// The permits of one volume leave some for the others.
		MaxRequests: g.opts.MaxRequests / 2,
		MaxBytes:    g.opts.MaxBytes * 3 / 4,
		Limits:      g.limits,
		Stats:       g.stages,
		Log:         g.log,
		Deadline:    g.opts.Deadline,
		TryTimeout:  g.opts.TryTimeout,
	})
	g.mu.Lock()
	defer g.mu.Unlock()
	defer close(e.ready)
	if err != nil {
		delete(g.exports, e.name)
		return nil, err
	}
	e.volume = v
	e.stats = g.stats.forExport(e.name)
	e.opened = true
	g.keepAlive.opened()
	g.log.Info("export opened", "volume", e.name, "size", v.Size(), "epoch", v.Epoch())
	return e, nil
}

// info describes an open export as it is now.
func (e *export) info() Info {
	return Info{
		Name:      e.name,
		Size:      e.volume.Size(),
		BlockSize: e.volume.Geometry().BlockSize,
		ReadOnly:  e.gateway.opts.ReadOnly,
	}
}

// release gives a handle back. The last one flushes and closes the volume.
func (e *export) release() {
	g := e.gateway
	g.mu.Lock()
	e.handles--
	last := e.handles == 0 && !e.closing
	g.mu.Unlock()
	if !last {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	if err := e.close(ctx); err != nil {
		g.log.Error("export did not close cleanly", "volume", e.name, "error", err)
	}
}

// close closes the volume, once, unless somebody took a handle meanwhile and
// the gateway lives on.
func (e *export) close(ctx context.Context) error {
	g := e.gateway
	g.mu.Lock()
	if e.closing || (e.handles > 0 && !g.closed) {
		g.mu.Unlock()
		return nil
	}
	e.closing = true
	e.ready = make(chan struct{})
	g.mu.Unlock()

	err := e.volume.Close(ctx)
	g.mu.Lock()
	delete(g.exports, e.name)
	rest := g.keepAlive.closed()
	close(e.ready)
	g.mu.Unlock()
	rest()
	g.log.Info("export closed", "volume", e.name)
	return err
}
