package target_test

import (
	"context"
	"log/slog"
	"sync/atomic"
	"testing"

	"github.com/opencurve/curve-nbd/iscsi"
	"github.com/opencurve/curve-nbd/iscsi/target"
)

// What is refused does not end the connection, and (7.3) the CmdSN of a request that
// is refused has not been received: the next request has it.
func TestRejectedPDUs(t *testing.T) {
	p := serve(t, setup{})
	type test struct {
		name   string
		reason iscsi.RejectReason
		make   func(*initiator) (b iscsi.BHS, ahs, data []byte)
		takes  bool // it has a CmdSN
	}
	plain := func(b iscsi.BHS, data []byte) func(*initiator) (iscsi.BHS, []byte, []byte) {
		return func(*initiator) (iscsi.BHS, []byte, []byte) {
			b[5], b[6], b[7] = 0, byte(len(data)>>8), byte(len(data))
			return b, nil, data
		}
	}
	ahs := func(ahs ...byte) func(*initiator) (iscsi.BHS, []byte, []byte) {
		return func(i *initiator) (iscsi.BHS, []byte, []byte) {
			return i.header(&command{cdb: testUnitReady(), ahs: ahs}), ahs, nil
		}
	}
	cmd := func(c command, change func(*iscsi.BHS)) func(*initiator) (iscsi.BHS, []byte, []byte) {
		return func(i *initiator) (iscsi.BHS, []byte, []byte) {
			b := i.header(&c)
			change(&b)
			return b, nil, c.data
		}
	}
	numbered := func(i *initiator, b *iscsi.BHS) {
		sn := i.next(b.Immediate())
		b[24], b[25], b[26], b[27] = byte(sn>>24), byte(sn>>16), byte(sn>>8), byte(sn)
	}
	logout := func(immediate bool) func(*initiator) (iscsi.BHS, []byte, []byte) {
		return func(i *initiator) (b iscsi.BHS, _, _ []byte) {
			l := iscsi.LogoutRequest{Immediate: immediate, Reason: 9, InitiatorTaskTag: i.tag()}
			l.Encode(&b)
			numbered(i, &b)
			return b, nil, nil
		}
	}
	textOf := func(ttt uint32, data []byte) func(*initiator) (iscsi.BHS, []byte, []byte) {
		return func(i *initiator) (b iscsi.BHS, _, _ []byte) {
			r := iscsi.TextRequest{Final: true, InitiatorTaskTag: i.tag(), TargetTransferTag: ttt, DataLength: len(data)}
			r.Encode(&b)
			numbered(i, &b)
			return b, nil, data
		}
	}
	for _, c := range []test{
		{"SNACK, 11.16", iscsi.RejectSnack, plain(iscsi.BHS{0: byte(iscsi.OpSnack), 1: 0x80}, nil), false},
		{"an opcode that nobody knows", iscsi.RejectCommandNotSupported, plain(iscsi.BHS{0: 0x1d, 1: 0x80}, nil), false},
		{"the same with data", iscsi.RejectCommandNotSupported, plain(iscsi.BHS{0: 0x1d, 1: 0x80}, pattern(1001, 1)), false},
		{"the same with long data", iscsi.RejectCommandNotSupported, plain(iscsi.BHS{0: 0x1d, 1: 0x80}, pattern(50_001, 1)), false},
		{"a PDU of a target", iscsi.RejectCommandNotSupported, plain(iscsi.BHS{0: byte(iscsi.OpDataIn), 1: 0x80}, nil), false},
		{"a login after the login", iscsi.RejectProtocolError, plain(iscsi.BHS{0: 0x43, 1: 0x87}, text("InitiatorName=x")), false},
		{"data where none may be", iscsi.RejectProtocolError, plain(iscsi.BHS{0: byte(iscsi.OpTaskRequest), 1: 0x81}, pattern(60, 1)), false},
		{"an AHS where none may be", iscsi.RejectProtocolError, func(*initiator) (iscsi.BHS, []byte, []byte) {
			return iscsi.BHS{0: byte(iscsi.OpNopOut), 1: 0x80, 4: 2}, make([]byte, 8), nil
		}, false},
		{"Data-Out with the reserved tag", iscsi.RejectInvalidField, plain(iscsi.BHS{0: byte(iscsi.OpDataOut), 1: 0x80, 16: 255, 17: 255, 18: 255, 19: 255}, pattern(512, 1)), false},
		{"an AHS of an unknown type", iscsi.RejectInvalidField, ahs(0, 5, 9, 0, 1, 2, 3, 4), true},
		{"an AHS that ends behind the header", iscsi.RejectInvalidField, ahs(0, 50, 1, 0, 1, 2, 3, 4), true},
		{"an AHS of nothing", iscsi.RejectInvalidField, ahs(0, 0, 0, 0), true},
		{"a reserved attribute", iscsi.RejectInvalidField, cmd(command{cdb: testUnitReady()}, func(b *iscsi.BHS) { b[1] |= 7 }), true},
		{"the reserved tag", iscsi.RejectInvalidField, cmd(command{cdb: testUnitReady(), tag: iscsi.ReservedTag}, func(*iscsi.BHS) {}), true},
		{"immediate data without W", iscsi.RejectInvalidField, cmd(command{cdb: testUnitReady(), expected: 512, data: pattern(512, 1), attached: 512}, func(*iscsi.BHS) {}), true},
		{"more immediate data than expected", iscsi.RejectInvalidField, cmd(command{cdb: write10(0, 1), write: true, expected: 512, data: pattern(1024, 1), attached: 1024}, func(*iscsi.BHS) {}), true},
		{"no F without W", iscsi.RejectInvalidField, cmd(command{cdb: testUnitReady()}, func(b *iscsi.BHS) { b[1] &^= 0x80 }), true},
		{"a logout for no reason", iscsi.RejectInvalidField, logout(false), true},
		{"an immediate logout for no reason", iscsi.RejectInvalidField, logout(true), false},
		{"a text exchange that nobody began", iscsi.RejectProtocolError, textOf(77, nil), true},
		{"text that is none", iscsi.RejectProtocolError, textOf(iscsi.ReservedTag, []byte("rubbish")), true},
		{"a key that cannot change any more", iscsi.RejectProtocolError, textOf(iscsi.ReservedTag, text("MaxBurstLength=512")), true},
		{"text longer than any", iscsi.RejectOutOfResources, textOf(iscsi.ReservedTag, text("X-a="+string(make([]byte, 20000)))), true},
	} {
		t.Run(c.name, func(t *testing.T) {
			i := p.login(t)
			for range 130 { // more than there are places of any kind
				b, ahs, data := c.make(i)
				i.raw(i.frame(b, ahs, data))
				i.wantReject(c.reason, b)
				if c.takes {
					i.cmdSN--
				}
			}
			i.alive()
			i.wantNop(i.nop(true, nil), nil)
			i.store(0, 0, pattern(32768, 1))
		})
	}
}

func TestAnnouncementsThatCannotBeTrustedEndTheConnection(t *testing.T) {
	p := serve(t, setup{})
	for _, c := range []struct {
		name string
		b    iscsi.BHS
	}{
		{"more data than declared", iscsi.BHS{0: 1, 1: 0xa1, 5: 4, 7: 1}},
		{"16 MiB of it", iscsi.BHS{0: 1, 1: 0xa1, 5: 0xff, 6: 0xff, 7: 0xff}},
		{"more headers than a command can have", iscsi.BHS{0: 1, 1: 0x81, 4: 255}},
		{"the same of a ping", iscsi.BHS{0: 0, 1: 0x80, 4: 255}},
		{"16 MiB of an unknown PDU", iscsi.BHS{0: 0x1d, 5: 0xff}},
	} {
		t.Run(c.name, func(t *testing.T) {
			i := p.login(t)
			i.send(c.b, nil)
			i.wantClosed()
		})
	}
	p.login(t).alive()
}

// 7.3: the gap that a rejected command leaves can be plugged by aborting it.
func TestAbortPlugsTheGapOfARejectedCommand(t *testing.T) {
	p := serve(t, setup{})
	i := p.login(t)
	c := command{cdb: testUnitReady()}
	b := i.header(&c)
	b[1] |= 7
	i.send(b, nil)
	i.wantReject(iscsi.RejectInvalidField, b)
	if got := i.abort(c.tag, i.cmdSN-1); got != iscsi.TaskComplete {
		t.Fatalf("abort says %d", got)
	}
	i.alive()
}

// countingHandler counts lines of a log.
type countingHandler struct {
	slog.Handler
	lines atomic.Int64
}

// Enabled implements slog.Handler.
func (h *countingHandler) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelInfo }

// Handle implements slog.Handler.
func (h *countingHandler) Handle(context.Context, slog.Record) error {
	h.lines.Add(1)
	return nil
}

// WithAttrs implements slog.Handler.
func (h *countingHandler) WithAttrs([]slog.Attr) slog.Handler { return h }

// An initiator cannot fill the log with its faults.
func TestFaultsOfAnInitiatorDoNotFloodTheLog(t *testing.T) {
	h := new(countingHandler)
	p := serve(t, setup{options: target.Options{Logger: slog.New(h)}})
	i := p.login(t)
	for range 1000 {
		b := iscsi.BHS{0: 0x1d}
		i.send(b, nil)
		i.wantReject(iscsi.RejectCommandNotSupported, b)
		i.do(command{cdb: read10(1<<30, 1), read: true, expected: 512})
		i.abort(99, i.cmdSN-1)
	}
	if n := h.lines.Load(); n > 100 {
		t.Errorf("%d lines", n)
	}
}
