package client

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"slices"
)

// Export describes an export as OptInfo and OptGo tell it.
type Export struct {
	Name string
	// Size in bytes.
	Size  uint64
	Flags TransmissionFlags
	// CanonicalName and Description are "" unless asked for and answered.
	CanonicalName, Description string
	// Blocks is zero when the server said nothing.
	Blocks BlockSizes
}

// BlockSizes are the size constraints of an export, bytes.
type BlockSizes struct{ Min, Preferred, Max uint32 }

// Listed is an entry of List.
type Listed struct{ Name, Description string }

// MetaContext is a metadata context and the id that block status chunks carry.
type MetaContext struct {
	ID   uint32
	Name string
}

// List returns the exports the server tells of.
func (h *Handshake) List(ctx context.Context) ([]Listed, error) {
	var exports []Listed
	err := h.Option(ctx, OptList, nil, func(reply OptionReply) error {
		entry, err := decodeServer(reply)
		if err == nil && len(exports) == maxExports {
			err = broken("more than %d exports listed", maxExports)
		}
		exports = append(exports, entry)
		return err
	})
	return exports, err
}

// decodeServer reads a RepServer: length of the name, name, description.
func decodeServer(reply OptionReply) (Listed, error) {
	if reply.Type != RepServer || len(reply.Data) < 4 {
		return Listed{}, broken("listing holds a reply of type %d and %d bytes, want type %d and at least 4", reply.Type, len(reply.Data), RepServer)
	}
	length, rest := binary.BigEndian.Uint32(reply.Data), reply.Data[4:]
	if uint64(length) > uint64(len(rest)) || length > maxString {
		return Listed{}, broken("name of %d bytes in a listing entry of %d", length, len(reply.Data))
	}
	return Listed{Name: string(rest[:length]), Description: message(rest[length:])}, nil
}

// AgreeStructured asks for structured replies.
func (h *Handshake) AgreeStructured(ctx context.Context) error {
	err := h.Option(ctx, OptStructuredReply, nil, nil)
	if err == nil {
		h.style = max(h.style, StructuredReplies)
	}
	return err
}

// AgreeExtended asks for extended headers.
func (h *Handshake) AgreeExtended(ctx context.Context) error {
	err := h.Option(ctx, OptExtendedHeaders, nil, nil)
	if err == nil {
		h.style = ExtendedHeaders
	}
	return err
}

// Style is what the handshake has agreed on so far.
func (h *Handshake) Style() ReplyStyle { return h.style }

// ListMetaContexts asks which contexts of an export match any of queries, or
// which there are when there is no query.
func (h *Handshake) ListMetaContexts(ctx context.Context, export string, queries ...string) ([]MetaContext, error) {
	return h.metaContexts(ctx, OptListMetaContext, export, queries)
}

// SetMetaContexts selects the contexts that block status will tell of, in place
// of those selected before. They hold for Go with the same export name.
func (h *Handshake) SetMetaContexts(ctx context.Context, export string, queries ...string) ([]MetaContext, error) {
	contexts, err := h.metaContexts(ctx, OptSetMetaContext, export, queries)
	h.contexts, h.contextsOf = contexts, export
	return contexts, err
}

func (h *Handshake) metaContexts(ctx context.Context, option uint32, export string, queries []string) ([]MetaContext, error) {
	var contexts []MetaContext
	err := h.Option(ctx, option, AppendMetaQuery(nil, export, queries...), func(reply OptionReply) error {
		if reply.Type != RepMetaContext || len(reply.Data) < 5 || len(reply.Data) > 4+maxString {
			return broken("metadata context in a reply of type %d and %d bytes, want type %d and 5 to %d",
				reply.Type, len(reply.Data), RepMetaContext, 4+maxString)
		}
		c := MetaContext{ID: binary.BigEndian.Uint32(reply.Data), Name: string(reply.Data[4:])}
		if len(contexts) == maxContexts {
			return broken("more than %d metadata contexts", maxContexts)
		}
		if option == OptSetMetaContext && slices.ContainsFunc(contexts, func(o MetaContext) bool { return o.ID == c.ID || o.Name == c.Name }) {
			return broken("metadata context %q (id %d) selected twice", c.Name, c.ID)
		}
		contexts = append(contexts, c)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return contexts, nil
}

// Info asks about an export, naming the information types that are wanted.
func (h *Handshake) Info(ctx context.Context, export string, infos ...uint16) (Export, error) {
	return h.info(ctx, OptInfo, export, infos)
}

// Go chooses an export and ends the handshake. The Wire owns the connection.
func (h *Handshake) Go(ctx context.Context, export string, infos ...uint16) (*Wire, error) {
	e, err := h.info(ctx, OptGo, export, infos)
	if err != nil {
		return nil, err
	}
	return h.wire(e), nil
}

func (h *Handshake) info(ctx context.Context, option uint32, export string, infos []uint16) (Export, error) {
	e := Export{Name: export}
	told := false
	err := h.Option(ctx, option, AppendInfoRequest(nil, export, infos...), func(reply OptionReply) error {
		isExport, err := e.take(reply)
		told = told || isExport
		return err
	})
	if err == nil && !told {
		err = broken("export %q accepted without a word about its size", export)
	}
	return e, err
}

// take notes one RepInfo. Types it does not know are skipped, as they must be.
func (e *Export) take(reply OptionReply) (isExport bool, err error) {
	d := reply.Data
	if reply.Type != RepInfo || len(d) < 2 {
		return false, broken("information in a reply of type %d and %d bytes, want type %d and at least 2", reply.Type, len(d), RepInfo)
	}
	kind, body := binary.BigEndian.Uint16(d), d[2:]
	want := map[uint16]int{InfoExport: 10, InfoBlockSize: 12}[kind]
	if want != 0 && len(body) != want {
		return false, broken("information %d of %d bytes, want %d", kind, len(body), want)
	}
	switch kind {
	case InfoExport:
		e.Size = binary.BigEndian.Uint64(body)
		e.Flags = TransmissionFlags(binary.BigEndian.Uint16(body[8:]))
		return true, e.checkFlags()
	case InfoName:
		e.CanonicalName = message(body)
	case InfoDescription:
		e.Description = message(body)
	case InfoBlockSize:
		e.Blocks = BlockSizes{binary.BigEndian.Uint32(body), binary.BigEndian.Uint32(body[4:]), binary.BigEndian.Uint32(body[8:])}
		return false, e.Blocks.check()
	}
	return false, nil
}

func (e *Export) checkFlags() error {
	if !e.Flags.Has(HasFlags) {
		return broken("transmission flags %#x lack HAS_FLAGS", uint16(e.Flags))
	}
	if e.Flags.Has(SendFastZero) && !e.Flags.Has(SendWriteZeroes) {
		return broken("transmission flags %#x have SEND_FAST_ZERO without SEND_WRITE_ZEROES", uint16(e.Flags))
	}
	return nil
}

// check holds the sizes against proto.md, "Size constraints".
func (b BlockSizes) check() error {
	power := func(n uint32) bool { return n != 0 && n&(n-1) == 0 }
	if !power(b.Min) || b.Min > 64<<10 || !power(b.Preferred) || b.Preferred < max(b.Min, 512) ||
		b.Max < b.Preferred {
		return broken("block sizes %d, %d, %d (minimum, preferred, maximum) do not fit together", b.Min, b.Preferred, b.Max)
	}
	return nil
}

// ExportName chooses an export the old way, which cannot be refused in words:
// a server that does not want to hangs up. The Wire owns the connection.
func (h *Handshake) ExportName(ctx context.Context, export string) (*Wire, error) {
	if err := h.Send(ctx, OptExportName, []byte(export)); err != nil {
		return nil, err
	}
	defer h.bound(ctx)()
	size := 10
	if h.clientFlags&uint32(h.ServerFlags&NoZeroes) == 0 {
		size += exportNameZeroes
	}
	b := make([]byte, size)
	if _, err := io.ReadFull(h.r, b); err != nil {
		return nil, fmt.Errorf("export %q: %w", export, cause(ctx, err))
	}
	e := Export{
		Name:  export,
		Size:  binary.BigEndian.Uint64(b),
		Flags: TransmissionFlags(binary.BigEndian.Uint16(b[8:])),
	}
	if slices.ContainsFunc(b[10:], func(z byte) bool { return z != 0 }) {
		return nil, broken("padding behind the export's flags is not zero")
	}
	if err := e.checkFlags(); err != nil {
		return nil, err
	}
	return h.wire(e), nil
}

// Abort says good-bye and closes. That the server hangs up without an ACK is
// as good an answer.
func (h *Handshake) Abort(ctx context.Context) error {
	defer h.Close()
	if err := h.Option(ctx, OptAbort, nil, nil); err != nil && ctx.Err() != nil {
		return err
	}
	return nil
}

func (h *Handshake) wire(e Export) *Wire {
	w := &Wire{Export: e, Style: h.style, conn: h.conn}
	if h.contextsOf == e.Name {
		w.Contexts = h.contexts
	}
	w.in = replies{r: h.r, style: w.Style, contexts: w.Contexts}
	return w
}
