package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"

	"github.com/opencurve/curve-nbd/backend"
)

// defaultPort of NBD over TCP.
const defaultPort = "10809"

// Target says where an export is.
type Target struct {
	// Network is "tcp" or "unix", Address what net.Dial takes for it.
	Network, Address string
	Export           string
}

// ParseURI reads nbd://HOST[:PORT]/EXPORT and nbd+unix:///EXPORT?socket=PATH.
func ParseURI(uri string) (Target, error) {
	bad := func(format string, args ...any) (Target, error) {
		return Target{}, fmt.Errorf("%w: NBD URI %q: %s", backend.ErrInvalid, uri, fmt.Sprintf(format, args...))
	}
	u, err := url.Parse(uri)
	if err != nil {
		return bad("%v", errors.Unwrap(err))
	}
	t := Target{Export: strings.TrimPrefix(u.Path, "/")}
	switch u.Scheme {
	case "nbd":
		port := u.Port()
		if port == "" {
			port = defaultPort
		}
		if u.Hostname() == "" {
			return bad("no host; nbd+unix is for sockets")
		}
		t.Network, t.Address = "tcp", net.JoinHostPort(u.Hostname(), port)
	case "nbd+unix":
		t.Network, t.Address = "unix", u.Query().Get("socket")
		if t.Address == "" || u.Host != "" {
			return bad("want nbd+unix:///EXPORT?socket=PATH")
		}
	case "nbds", "nbds+unix":
		return Target{}, fmt.Errorf("NBD URI %q: TLS: %w", uri, backend.ErrNotSupported)
	default:
		return bad("scheme %q: use nbd or nbd+unix", u.Scheme)
	}
	return t, nil
}

// Options of Open. The zero value works.
type Options struct {
	// Simple and Structured ask for no more than that form of replies, where
	// Open otherwise takes the most modern one the server knows.
	Simple, Structured bool
	// Window is how many requests may be in flight; 0 for DefaultWindow.
	Window int
}

// Open connects to an export with everything that both sides can do: extended
// headers or structured replies, block status of base:allocation, size
// constraints.
func Open(ctx context.Context, t Target, o Options) (*Conn, error) {
	h, err := Dial(ctx, t.Network, t.Address)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", t.Address, err)
	}
	w, err := negotiate(ctx, h, t.Export, o)
	if err != nil {
		h.Close()
		return nil, fmt.Errorf("export %q of %s: %w", t.Export, t.Address, err)
	}
	return w.Conn(o.Window), nil
}

func negotiate(ctx context.Context, h *Handshake, export string, o Options) (*Wire, error) {
	most := ExtendedHeaders
	if o.Structured {
		most = StructuredReplies
	}
	if o.Simple {
		most = SimpleReplies
	}
	// A server that does not know an option says so and lives on.
	if most >= ExtendedHeaders {
		if err := tolerate(h.AgreeExtended(ctx)); err != nil {
			return nil, err
		}
	}
	if most >= StructuredReplies && h.Style() < StructuredReplies {
		if err := tolerate(h.AgreeStructured(ctx)); err != nil {
			return nil, err
		}
	}
	if h.Style() > SimpleReplies {
		if _, err := h.SetMetaContexts(ctx, export, BaseAllocation); tolerate(err) != nil {
			return nil, err
		}
	}
	w, err := h.Go(ctx, export, InfoBlockSize)
	if refused := new(OptionError); errors.As(err, &refused) && refused.Reply == RepErrUnsup {
		return h.ExportName(ctx, export)
	}
	return w, err
}

// tolerate drops an error that is only the server's refusal of an option.
func tolerate(err error) error {
	if refused := new(OptionError); errors.As(err, &refused) {
		return nil
	}
	return err
}
