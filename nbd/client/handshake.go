package client

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"time"
	"unicode/utf8"
)

// readBuffer holds many reply headers; the data of reads goes past it.
const readBuffer = 32 << 10

// Handshake is a connection on which options are negotiated. It is for one
// goroutine.
type Handshake struct {
	conn net.Conn
	r    *bufio.Reader
	// ServerFlags are the handshake flags the server sent.
	ServerFlags uint16
	clientFlags uint32
	style       ReplyStyle
	contexts    []MetaContext // of the last SetMetaContexts
	contextsOf  string        // the export they were asked of
}

// Dial connects to a server ("tcp" or "unix") and exchanges greetings.
func Dial(ctx context.Context, network, address string) (*Handshake, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	h, err := Greet(ctx, conn, uint32(FixedNewstyle|NoZeroes))
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("greeting from %s: %w", address, err)
	}
	return h, nil
}

// Greet reads the server's greeting from conn and answers with clientFlags as
// they are. On success the Handshake owns conn.
func Greet(ctx context.Context, conn net.Conn, clientFlags uint32) (*Handshake, error) {
	h := &Handshake{conn: conn, r: bufio.NewReaderSize(conn, readBuffer), clientFlags: clientFlags}
	defer h.bound(ctx)()
	var b [greetingSize]byte
	if _, err := io.ReadFull(h.r, b[:]); err != nil {
		return nil, cause(ctx, err)
	}
	if magic := binary.BigEndian.Uint64(b[:]); magic != MagicInit {
		return nil, broken("greeting starts with %#x, want %#x: is this an NBD server?", magic, MagicInit)
	}
	if magic := binary.BigEndian.Uint64(b[8:]); magic != MagicOption {
		return nil, broken("greeting goes on with %#x, want %#x: the server speaks the oldstyle handshake", magic, MagicOption)
	}
	h.ServerFlags = binary.BigEndian.Uint16(b[16:])
	if h.ServerFlags&FixedNewstyle == 0 {
		return nil, broken("handshake flags %#x lack FIXED_NEWSTYLE (%#x)", h.ServerFlags, FixedNewstyle)
	}
	_, err := conn.Write(binary.BigEndian.AppendUint32(nil, clientFlags))
	return h, cause(ctx, err)
}

// NetConn is the connection underneath, for callers that send what no method
// sends. Reading from it loses what the Handshake has buffered.
func (h *Handshake) NetConn() net.Conn { return h.conn }

// Close hangs up without a word.
func (h *Handshake) Close() error { return h.conn.Close() }

// bound makes the end of ctx interrupt reads and writes until the returned
// function is called.
func (h *Handshake) bound(ctx context.Context) (release func()) {
	stop := context.AfterFunc(ctx, func() { h.conn.SetDeadline(time.Unix(1, 0)) })
	return func() { stop() }
}

// cause prefers the end of the context, which interrupted the connection, to
// the time-out it looks like.
func cause(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// OptionReply is one reply to an option.
type OptionReply struct {
	Option, Type uint32
	Data         []byte
}

// Send sends an option with any data.
func (h *Handshake) Send(ctx context.Context, option uint32, data []byte) error {
	defer h.bound(ctx)()
	_, err := h.conn.Write(AppendOption(nil, option, data))
	return cause(ctx, err)
}

// Receive reads one reply to an option.
func (h *Handshake) Receive(ctx context.Context) (OptionReply, error) {
	defer h.bound(ctx)()
	reply, err := readOptionReply(h.r)
	return reply, cause(ctx, err)
}

// readOptionReply reads magic, option, type, length and data.
func readOptionReply(r io.Reader) (OptionReply, error) {
	var b [optionReplySize]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return OptionReply{}, err
	}
	if magic := binary.BigEndian.Uint64(b[:]); magic != MagicOptionReply {
		return OptionReply{}, broken("option reply starts with %#x, want %#x", magic, MagicOptionReply)
	}
	reply := OptionReply{Option: binary.BigEndian.Uint32(b[8:]), Type: binary.BigEndian.Uint32(b[12:])}
	length := binary.BigEndian.Uint32(b[16:])
	if length > maxOptionReply {
		return reply, broken("reply of %d bytes to option %d, at most %d make sense", length, reply.Option, maxOptionReply)
	}
	reply.Data = make([]byte, length)
	if _, err := io.ReadFull(r, reply.Data); err != nil {
		return reply, unexpected(err)
	}
	return reply, nil
}

// unexpected turns an end between two messages into one inside a message.
func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// Option sends an option and hands each of its replies, but the last, to each.
// The last one is the ACK, or it becomes an *OptionError.
func (h *Handshake) Option(ctx context.Context, option uint32, data []byte, each func(OptionReply) error) error {
	if err := h.Send(ctx, option, data); err != nil {
		return err
	}
	return h.Replies(ctx, option, each)
}

// Replies is Option for one that was sent already.
func (h *Handshake) Replies(ctx context.Context, option uint32, each func(OptionReply) error) error {
	for {
		reply, err := h.Receive(ctx)
		switch {
		case err != nil:
			return fmt.Errorf("reply to option %d: %w", option, err)
		case reply.Option != option:
			return broken("reply to option %d, but %d was sent", reply.Option, option)
		case reply.Type&RepError != 0:
			return &OptionError{Option: option, Reply: reply.Type, Message: message(reply.Data)}
		case reply.Type == RepAck && len(reply.Data) != 0:
			return broken("ACK of option %d carries %d bytes, want none", option, len(reply.Data))
		case reply.Type == RepAck:
			return nil
		case each == nil:
			return broken("reply of type %d to option %d, which has none but ACK", reply.Type, option)
		}
		if err := each(reply); err != nil {
			return err
		}
	}
}

// message is text of the server, made fit to show.
func message(b []byte) string {
	b = b[:min(len(b), maxString)]
	if !utf8.Valid(b) {
		return fmt.Sprintf("%q", b)
	}
	return string(b)
}
