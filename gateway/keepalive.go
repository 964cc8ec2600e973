package gateway

import (
	"context"
	"time"
)

const (
	// keepAliveEvery is well below the time after which an owner that is not
	// heard of may lose its leases.
	keepAliveEvery   = 2 * time.Second
	keepAliveTimeout = 2 * time.Second
)

// keepAlive tells Meta that the gateway lives while it has volumes open. IO never
// depends on it: an MDS that is away only means that others could take the
// volumes over, and would fence this gateway if they did.
type keepAlive struct {
	gateway *Gateway
	opens   int // guarded by gateway.mu
	cancel  context.CancelFunc
	ended   chan struct{}
}

// opened and closed count open volumes; the caller has gateway.mu. closed returns
// what to wait for, without the lock, before all is at rest.
func (k *keepAlive) opened() {
	k.opens++
	if k.opens > 1 {
		return
	}
	var ctx context.Context
	ctx, k.cancel = context.WithCancel(context.Background())
	k.ended = make(chan struct{})
	go k.run(ctx, k.ended)
}

func (k *keepAlive) closed() (wait func()) {
	k.opens--
	if k.opens > 0 {
		return func() {}
	}
	k.cancel()
	ended := k.ended
	return func() { <-ended }
}

func (k *keepAlive) run(ctx context.Context, ended chan<- struct{}) {
	defer close(ended)
	ticker := time.NewTicker(keepAliveEvery)
	defer ticker.Stop()
	var failingSince time.Time
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		began := time.Now()
		err := k.once(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil && failingSince.IsZero():
			failingSince = began
			k.gateway.log.Warn("the MDS does not hear that this gateway lives; IO goes on", "error", err)
		case err == nil && !failingSince.IsZero():
			k.gateway.log.Info("the MDS hears this gateway again", "after", time.Since(failingSince).Round(time.Millisecond))
			failingSince = time.Time{}
		}
		if err == nil {
			k.gateway.refreshSizes(ctx)
		}
	}
}

func (k *keepAlive) once(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, keepAliveTimeout)
	defer cancel()
	return k.gateway.meta.KeepAlive(ctx, k.gateway.opts.Owner)
}
