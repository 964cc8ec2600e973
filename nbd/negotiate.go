package nbd

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/gateway"
)

// errHandshakeOver ends a handshake that the client ended by the rules.
var errHandshakeOver = errors.New("client ended the handshake")

// negotiation is the handshake phase of one connection: fixed newstyle, options
// answered one by one until one of them enters the transmission phase.
type negotiation struct {
	*conn
	noZeroes bool
	// metaExport is the export that base:allocation was selected for; "" and
	// metaSet false when it was not.
	metaExport string
	metaSet    bool
}

// negotiate runs the handshake. On success the connection has its handle.
func (c *conn) negotiate(ctx context.Context) error {
	n := &negotiation{conn: c}
	if err := n.greet(); err != nil {
		return err
	}
	for range maxOptions {
		if err := c.in.Need(optionHeaderSize); err != nil {
			return err
		}
		h := c.in.Bytes()
		magic := binary.BigEndian.Uint64(h)
		option, length := binary.BigEndian.Uint32(h[8:]), binary.BigEndian.Uint32(h[12:])
		c.in.Skip(optionHeaderSize)
		if magic != magicOption {
			return fmt.Errorf("option magic %#x, want %#x", magic, magicOption)
		}
		if length > maxOptionBytes {
			_ = n.reply(option, repErrTooBig, "option data of %d bytes: at most %d", length, maxOptionBytes)
			return fmt.Errorf("option %d with %d bytes of data: at most %d", option, length, maxOptionBytes)
		}
		data := make([]byte, length)
		if err := c.in.ReadFull(data); err != nil {
			return err
		}
		if err := n.option(ctx, option, data); err != nil || c.handle != nil {
			return err
		}
	}
	return fmt.Errorf("more than %d options", maxOptions)
}

// greet sends the greeting and reads the client's flags.
func (n *negotiation) greet() error {
	b := make([]byte, greetingSize)
	binary.BigEndian.PutUint64(b, magicInit)
	binary.BigEndian.PutUint64(b[8:], magicOption)
	binary.BigEndian.PutUint16(b[16:], handshakeFixedNewstyle|handshakeNoZeroes)
	if err := n.out.Write([][]byte{b}); err != nil {
		return err
	}
	if err := n.in.Need(4); err != nil {
		return err
	}
	flags := binary.BigEndian.Uint32(n.in.Bytes())
	n.in.Skip(4)
	if flags&^uint32(handshakeFixedNewstyle|handshakeNoZeroes) != 0 {
		return fmt.Errorf("unknown client flags %#x", flags)
	}
	n.noZeroes = flags&uint32(handshakeNoZeroes) != 0
	return nil
}

// option answers one option. After OPT_GO and OPT_EXPORT_NAME that succeed the
// connection has its handle.
func (n *negotiation) option(ctx context.Context, option uint32, data []byte) error {
	switch option {
	case optExportName:
		return n.exportName(ctx, data)
	case optAbort:
		if err := n.reply(option, repAck, ""); err != nil {
			return err
		}
		return errHandshakeOver
	case optList:
		return n.list(ctx, data)
	case optInfo, optGo:
		return n.info(ctx, option, data)
	case optStructuredReply, optExtendedHeaders:
		return n.headers(option, data)
	case optListMetaContext, optSetMetaContext:
		return n.metaContext(ctx, option, data)
	case optStartTLS:
		return n.reply(option, repErrUnsupported, "this server does not offer TLS")
	default:
		return n.reply(option, repErrUnsupported, "option %d is not supported", option)
	}
}

// reply sends an option reply without data, or an error with a text.
func (n *negotiation) reply(option, kind uint32, format string, args ...any) error {
	return n.replyData(option, kind, []byte(cutString(fmt.Sprintf(format, args...), maxNameBytes)))
}

func (n *negotiation) replyData(option, kind uint32, data []byte) error {
	b := make([]byte, optionReplySize, optionReplySize+len(data))
	binary.BigEndian.PutUint64(b, magicOptionReply)
	binary.BigEndian.PutUint32(b[8:], option)
	binary.BigEndian.PutUint32(b[12:], kind)
	binary.BigEndian.PutUint32(b[16:], uint32(len(data)))
	return n.out.Write([][]byte{append(b, data...)})
}

// refuse answers an option that named an export which cannot be had.
func (n *negotiation) refuse(option uint32, name string, err error) error {
	kind := repErrPolicy
	switch {
	case errors.Is(err, backend.ErrNotFound), errors.Is(err, backend.ErrInvalid):
		kind = repErrUnknown
	case errors.Is(err, backend.ErrClosed):
		kind = repErrShutdown
	}
	if name == "" {
		return n.reply(option, kind, "there is no default export: name a volume")
	}
	return n.reply(option, kind, "export %q: %v", name, err)
}

// exportName enters the transmission phase without a way to report an error:
// the connection ends instead.
func (n *negotiation) exportName(ctx context.Context, data []byte) error {
	name := string(data)
	if n.format.extended {
		return errors.New("EXPORT_NAME after extended headers were agreed on")
	}
	if err := checkString(name, "export name"); err != nil {
		return err
	}
	handle, err := n.server.gateway.Open(ctx, name)
	if err != nil {
		return fmt.Errorf("export %q: %w", name, err)
	}
	n.enter(handle)
	b := make([]byte, 10, 10+exportZeroes)
	info := handle.Info()
	binary.BigEndian.PutUint64(b, uint64(info.Size))
	binary.BigEndian.PutUint16(b[8:], n.transmissionFlags(info))
	if !n.noZeroes {
		b = b[:10+exportZeroes]
	}
	return n.out.Write([][]byte{b})
}

// enter fixes what the transmission phase works with.
func (n *negotiation) enter(handle *gateway.Handle) {
	n.handle = handle
	n.blockStatus = n.metaSet && n.metaExport == handle.Info().Name
}

func (n *negotiation) list(ctx context.Context, data []byte) error {
	if len(data) != 0 {
		return n.reply(optList, repErrInvalid, "LIST takes no data, got %d bytes", len(data))
	}
	names, err := n.server.gateway.List(ctx)
	if err != nil {
		return n.reply(optList, repErrPolicy, "cannot list the exports: %v", err)
	}
	for _, name := range names {
		b := binary.BigEndian.AppendUint32(nil, uint32(len(name)))
		if err := n.replyData(optList, repServer, append(b, name...)); err != nil {
			return err
		}
	}
	return n.reply(optList, repAck, "")
}

// info answers OPT_INFO and OPT_GO.
func (n *negotiation) info(ctx context.Context, option uint32, data []byte) error {
	req, err := decodeInfoRequest(data)
	if err != nil {
		return n.reply(option, repErrInvalid, "%v", err)
	}
	var handle *gateway.Handle
	var info gateway.Info
	if option == optGo {
		if handle, err = n.server.gateway.Open(ctx, req.Name); err == nil {
			info = handle.Info()
		}
	} else {
		info, err = n.server.gateway.Describe(ctx, req.Name)
	}
	if err != nil {
		return n.refuse(option, req.Name, err)
	}
	if err := n.sendInfo(option, req, info); err != nil {
		if handle != nil {
			handle.Release()
		}
		return err
	}
	if handle != nil {
		n.enter(handle)
	}
	return n.reply(option, repAck, "")
}

func (n *negotiation) sendInfo(option uint32, req infoRequest, info gateway.Info) error {
	b := binary.BigEndian.AppendUint16(nil, infoExport)
	b = binary.BigEndian.AppendUint64(b, uint64(info.Size))
	b = binary.BigEndian.AppendUint16(b, n.transmissionFlags(info))
	if err := n.replyData(option, repInfo, b); err != nil {
		return err
	}
	// Not the default minimum of 1 byte, so every client is told.
	b = binary.BigEndian.AppendUint16(nil, infoBlockSize)
	b = binary.BigEndian.AppendUint32(b, uint32(info.BlockSize))
	b = binary.BigEndian.AppendUint32(b, backend.ChecksumBlock)
	b = binary.BigEndian.AppendUint32(b, maxPayload)
	if err := n.replyData(option, repInfo, b); err != nil {
		return err
	}
	if req.wants(infoName) {
		b = append(binary.BigEndian.AppendUint16(nil, infoName), info.Name...)
		if err := n.replyData(option, repInfo, b); err != nil {
			return err
		}
	}
	if req.wants(infoDescription) {
		b = append(binary.BigEndian.AppendUint16(nil, infoDescription), "Curve volume "+info.Name...)
		return n.replyData(option, repInfo, b)
	}
	return nil
}

// headers answers OPT_STRUCTURED_REPLY and OPT_EXTENDED_HEADERS.
func (n *negotiation) headers(option uint32, data []byte) error {
	switch {
	case len(data) != 0:
		return n.reply(option, repErrInvalid, "option %d takes no data, got %d bytes", option, len(data))
	case option == optExtendedHeaders:
		n.format.extended = true
	case n.format.extended:
		return n.reply(option, repErrExtHeaderReqd, "extended headers were agreed on before")
	default:
		n.format.structured = true
	}
	return n.reply(option, repAck, "")
}

// metaContext answers OPT_LIST_META_CONTEXT and OPT_SET_META_CONTEXT.
func (n *negotiation) metaContext(ctx context.Context, option uint32, data []byte) error {
	listing := option == optListMetaContext
	if !listing {
		n.metaSet = false // also when this one fails
	}
	if !n.format.structured && !n.format.extended {
		return n.reply(option, repErrInvalid, "meta contexts need structured replies or extended headers first")
	}
	req, err := decodeMetaRequest(data)
	if errors.Is(err, errTooManyQueries) {
		return n.reply(option, repErrTooBig, "%v", err)
	}
	if err != nil {
		return n.reply(option, repErrInvalid, "%v", err)
	}
	info, err := n.server.gateway.Describe(ctx, req.Name)
	if err != nil {
		return n.refuse(option, req.Name, err)
	}
	found := listing && len(req.Queries) == 0
	for _, q := range req.Queries {
		found = found || selects(q, listing)
	}
	if found {
		id := allocationContextID
		if listing {
			id = 0
		} else {
			n.metaSet, n.metaExport = true, info.Name
		}
		b := append(binary.BigEndian.AppendUint32(nil, id), allocationContext...)
		if err := n.replyData(option, repMetaContext, b); err != nil {
			return err
		}
	}
	return n.reply(option, repAck, "")
}

// transmissionFlags says what the export can do for this client.
func (n *negotiation) transmissionFlags(info gateway.Info) uint16 {
	flags := flagHasFlags | flagSendFlush | flagCanMultiConn | flagSendCache
	if info.ReadOnly {
		flags |= flagReadOnly
	} else {
		flags |= flagSendFUA | flagSendTrim | flagSendWriteZeroes | flagSendFastZero
	}
	if n.format.structured || n.format.extended {
		flags |= flagSendDF
	}
	if n.format.extended {
		flags |= flagBlockStatusPayload
	}
	return flags
}
