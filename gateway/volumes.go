package gateway

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/opencurve/curve-nbd/backend"
)

// What operators ask of volumes, by name. Meta decides; the gateway tells its
// open exports. Errors are those of backend.Meta.

// CreateVolume makes an empty volume; it can be opened at once.
func (g *Gateway) CreateVolume(ctx context.Context, spec backend.VolumeSpec) (backend.VolumeInfo, error) {
	v, err := g.meta.CreateVolume(ctx, spec)
	if err == nil {
		g.log.Info("volume created", "volume", v.Name, "id", uint64(v.ID), "size", v.Size)
	}
	return v, err
}

// Volumes lists the volumes under dir, "" for all, by name.
func (g *Gateway) Volumes(ctx context.Context, dir string) ([]backend.VolumeInfo, error) {
	return g.meta.Volumes(ctx, dir)
}

// Volume looks one volume up.
func (g *Gateway) Volume(ctx context.Context, name string) (backend.VolumeInfo, error) {
	return g.meta.Volume(ctx, name)
}

// ResizeVolume sets the size in bytes, and tells the export if it is open.
func (g *Gateway) ResizeVolume(ctx context.Context, name string, size int64) (backend.VolumeInfo, error) {
	v, err := g.meta.ResizeVolume(ctx, name, size)
	if err != nil {
		return v, err
	}
	g.log.Info("volume resized", "volume", v.Name, "size", v.Size)
	// An export that was just being opened may have read the old size.
	if e, err := g.settled(ctx, v.Name); err != nil {
		return v, fmt.Errorf("resized, but its export does not know yet: %w", err)
	} else if e != nil {
		e.volume.Resize(v.Size)
	}
	return v, nil
}

// refreshSizes tells open exports of the sizes that other gateways have set. What
// fails is done the next time.
func (g *Gateway) refreshSizes(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, keepAliveTimeout)
	defer cancel()
	for _, e := range g.openExports() {
		v, err := g.meta.Volume(ctx, e.name)
		if ctx.Err() != nil {
			return
		}
		if err == nil && v.ID == e.volume.ID() && v.Size > e.volume.Size() {
			g.log.Info("volume was resized elsewhere", "volume", e.name, "size", v.Size)
			e.volume.Resize(v.Size)
		}
	}
}

// settled returns the open export of that name, or nil, once it neither opens
// nor closes.
func (g *Gateway) settled(ctx context.Context, name string) (*export, error) {
	for {
		g.mu.Lock()
		e := g.exports[name]
		if e == nil || (e.opened && !e.closing) {
			g.mu.Unlock()
			return e, nil
		}
		changing := e.ready
		g.mu.Unlock()
		select {
		case <-changing:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// RemoveVolume moves a volume to the recycle bin and, with purge, on out of it.
func (g *Gateway) RemoveVolume(ctx context.Context, name string, purge bool) (backend.VolumeInfo, error) {
	v, err := g.meta.RemoveVolume(ctx, name)
	if err != nil {
		return v, err
	}
	g.stats.forget(v.Name)
	g.log.Info("volume removed", "volume", v.Name, "id", uint64(v.ID), "purge", purge)
	if !purge {
		return v, nil
	}
	if err := g.purge(ctx, v.ID); err != nil {
		return v, fmt.Errorf("it is in the recycle bin, but its space was not freed: %w", err)
	}
	return v, nil
}

// purge frees the chunks of a recycled volume. Whatever interrupts it, the
// volume is still in the recycle bin or marked as being purged, and the backend
// finishes the work later.
func (g *Gateway) purge(ctx context.Context, id backend.VolumeID) error {
	segments, err := g.meta.PurgeVolume(ctx, id)
	if err != nil {
		return err
	}
	for _, s := range segments {
		if err := g.chunks.Delete(ctx, id, s.Chunks); err != nil {
			return err
		}
	}
	return g.meta.PurgeDone(ctx, id)
}

// Recycled lists the recycle bin, oldest first.
func (g *Gateway) Recycled(ctx context.Context) ([]backend.VolumeInfo, error) {
	return g.meta.Recycled(ctx)
}

// RecoverVolume brings back the recycled volume with this id or, when there is
// none, the one last removed under this name.
func (g *Gateway) RecoverVolume(ctx context.Context, idOrName, newName string) (backend.VolumeInfo, error) {
	bin, err := g.meta.Recycled(ctx)
	if err != nil {
		return backend.VolumeInfo{}, err
	}
	found, ok := findRecycled(bin, idOrName)
	if !ok {
		return backend.VolumeInfo{}, fmt.Errorf("%w: the recycle bin holds no volume with id or name %q: `volume recycled` lists it",
			backend.ErrNotFound, idOrName)
	}
	v, err := g.meta.RecoverVolume(ctx, found.ID, newName)
	if errors.Is(err, backend.ErrExists) && newName == "" {
		return v, fmt.Errorf("%w: give a new name", err)
	}
	if err == nil {
		g.log.Info("volume recovered", "volume", v.Name, "id", uint64(v.ID))
	}
	return v, err
}

// findRecycled searches the recycle bin, which is in order of removal.
func findRecycled(bin []backend.VolumeInfo, idOrName string) (found backend.VolumeInfo, ok bool) {
	id, notNumber := strconv.ParseUint(idOrName, 10, 64)
	for _, v := range bin {
		if notNumber == nil && uint64(v.ID) == id {
			return v, true
		}
		if v.Name == idOrName {
			found, ok = v, true
		}
	}
	return found, ok
}

// Usage returns the bytes of disk that a volume's chunks take.
func (g *Gateway) Usage(ctx context.Context, name string) (int64, error) {
	v, err := g.meta.Volume(ctx, name)
	if err != nil {
		return 0, err
	}
	segments, err := g.meta.Segments(ctx, v.ID)
	if err != nil {
		return 0, err
	}
	var total int64
	for _, s := range segments {
		used, err := g.chunks.Usage(ctx, s.Chunks)
		if err != nil {
			return 0, err
		}
		total += used
	}
	return total, nil
}
