package client

import (
	"encoding/binary"
	"fmt"
)

// The wire format, all integers big endian. Sources: NBD doc/proto.md and its
// extension-ext-header branch. The numbers are written down here a second time,
// apart from the server's, so that a wrong one cannot cancel itself out.

// Magic numbers.
const (
	MagicInit            = uint64(0x4e42444d41474943) // "NBDMAGIC"
	MagicOption          = uint64(0x49484156454f5054) // "IHAVEOPT"
	MagicOptionReply     = uint64(0x0003e889045565a9)
	MagicRequest         = uint32(0x25609513)
	MagicSimpleReply     = uint32(0x67446698)
	MagicStructuredReply = uint32(0x668e33ef)
	MagicExtendedRequest = uint32(0x21e41c71)
	MagicExtendedReply   = uint32(0x6e8a278c)
)

// Handshake flags of the server, which the client flags mirror.
const (
	FixedNewstyle = uint16(1 << 0)
	NoZeroes      = uint16(1 << 1)
)

// TransmissionFlags say what an export can do.
type TransmissionFlags uint16

// Transmission flags.
const (
	HasFlags           TransmissionFlags = 1 << 0
	ReadOnly           TransmissionFlags = 1 << 1
	SendFlush          TransmissionFlags = 1 << 2
	SendFUA            TransmissionFlags = 1 << 3
	Rotational         TransmissionFlags = 1 << 4
	SendTrim           TransmissionFlags = 1 << 5
	SendWriteZeroes    TransmissionFlags = 1 << 6
	SendDF             TransmissionFlags = 1 << 7
	CanMultiConn       TransmissionFlags = 1 << 8
	SendResize         TransmissionFlags = 1 << 9
	SendCache          TransmissionFlags = 1 << 10
	SendFastZero       TransmissionFlags = 1 << 11
	BlockStatusPayload TransmissionFlags = 1 << 12
)

// Has says whether all of want is set.
func (f TransmissionFlags) Has(want TransmissionFlags) bool { return f&want == want }

// Options.
const (
	OptExportName      = uint32(1)
	OptAbort           = uint32(2)
	OptList            = uint32(3)
	OptStartTLS        = uint32(5)
	OptInfo            = uint32(6)
	OptGo              = uint32(7)
	OptStructuredReply = uint32(8)
	OptListMetaContext = uint32(9)
	OptSetMetaContext  = uint32(10)
	OptExtendedHeaders = uint32(11)
)

// Option replies. RepError marks those that say no.
const (
	RepAck         = uint32(1)
	RepServer      = uint32(2)
	RepInfo        = uint32(3)
	RepMetaContext = uint32(4)

	RepError            = uint32(1 << 31)
	RepErrUnsup         = RepError | 1
	RepErrPolicy        = RepError | 2
	RepErrInvalid       = RepError | 3
	RepErrPlatform      = RepError | 4
	RepErrTLSReqd       = RepError | 5
	RepErrUnknown       = RepError | 6
	RepErrShutdown      = RepError | 7
	RepErrBlockSizeReqd = RepError | 8
	RepErrTooBig        = RepError | 9
	RepErrExtHeaderReqd = RepError | 10
)

// Information types of OptInfo and OptGo.
const (
	InfoExport      = uint16(0)
	InfoName        = uint16(1)
	InfoDescription = uint16(2)
	InfoBlockSize   = uint16(3)
)

// Command is what a request asks for.
type Command uint16

// Commands.
const (
	CmdRead        Command = 0
	CmdWrite       Command = 1
	CmdDisconnect  Command = 2
	CmdFlush       Command = 3
	CmdTrim        Command = 4
	CmdCache       Command = 5
	CmdWriteZeroes Command = 6
	CmdBlockStatus Command = 7
)

var commandNames = [...]string{"read", "write", "disconnect", "flush", "trim", "cache", "write-zeroes", "block-status"}

func (c Command) String() string {
	if int(c) < len(commandNames) {
		return commandNames[c]
	}
	return fmt.Sprintf("command %d", uint16(c))
}

// CommandFlags modify a request.
type CommandFlags uint16

// Command flags.
const (
	FlagFUA        CommandFlags = 1 << 0
	FlagNoHole     CommandFlags = 1 << 1
	FlagDF         CommandFlags = 1 << 2
	FlagReqOne     CommandFlags = 1 << 3
	FlagFastZero   CommandFlags = 1 << 4
	FlagPayloadLen CommandFlags = 1 << 5
)

// Reply chunks of structured and extended replies. ChunkError marks errors.
const (
	ChunkDone = uint16(1) // in the flags

	ChunkNone           = uint16(0)
	ChunkOffsetData     = uint16(1)
	ChunkOffsetHole     = uint16(2)
	ChunkBlockStatus    = uint16(5)
	ChunkBlockStatusExt = uint16(6)
	ChunkErrorBit       = uint16(1 << 15)
	ChunkError          = ChunkErrorBit | 1
	ChunkErrorOffset    = ChunkErrorBit | 2
)

// State bits of base:allocation.
const (
	StateHole = uint64(1 << 0)
	StateZero = uint64(1 << 1)
)

// BaseAllocation is the metadata context that tells data from holes.
const BaseAllocation = "base:allocation"

// Sizes on the wire, in bytes.
const (
	greetingSize        = 18
	optionReplySize     = 20
	exportNameZeroes    = 124
	requestSize         = 28
	extendedRequestSize = 32
	simpleReplySize     = 16
	structuredReplySize = 20
	extendedReplySize   = 32
)

// ReplyStyle is the form of headers that the handshake agreed on.
type ReplyStyle uint8

const (
	// SimpleReplies: one reply of one piece.
	SimpleReplies ReplyStyle = iota
	// StructuredReplies: reads and block status come in chunks.
	StructuredReplies
	// ExtendedHeaders: every request has 64 bits of length, and every reply
	// comes in chunks.
	ExtendedHeaders
)

var styleNames = [...]string{"simple", "structured", "extended"}

func (s ReplyStyle) String() string { return styleNames[s] }

// Header is a request as it stands on the wire.
type Header struct {
	Flags   CommandFlags
	Command Command
	Cookie  uint64
	Offset  uint64
	// Length is that of the effect or of the payload, bytes.
	Length uint64
}

// AppendRequest appends a request header. With extended headers it has 64 bits
// of length; else the lower 32 bits are sent.
//
//	0        4       6      8        16       24
//	| magic  | flags | type | cookie | offset | length
func AppendRequest(b []byte, style ReplyStyle, h Header) []byte {
	magic := MagicRequest
	if style == ExtendedHeaders {
		magic = MagicExtendedRequest
	}
	b = binary.BigEndian.AppendUint32(b, magic)
	b = binary.BigEndian.AppendUint16(b, uint16(h.Flags))
	b = binary.BigEndian.AppendUint16(b, uint16(h.Command))
	b = binary.BigEndian.AppendUint64(b, h.Cookie)
	b = binary.BigEndian.AppendUint64(b, h.Offset)
	if style == ExtendedHeaders {
		return binary.BigEndian.AppendUint64(b, h.Length)
	}
	return binary.BigEndian.AppendUint32(b, uint32(h.Length))
}

// AppendOption appends an option: magic, number, length, data.
func AppendOption(b []byte, option uint32, data []byte) []byte {
	b = binary.BigEndian.AppendUint64(b, MagicOption)
	b = binary.BigEndian.AppendUint32(b, option)
	b = binary.BigEndian.AppendUint32(b, uint32(len(data)))
	return append(b, data...)
}

// AppendInfoRequest appends the data of OptInfo and OptGo.
func AppendInfoRequest(b []byte, export string, infos ...uint16) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(export)))
	b = append(b, export...)
	b = binary.BigEndian.AppendUint16(b, uint16(len(infos)))
	for _, info := range infos {
		b = binary.BigEndian.AppendUint16(b, info)
	}
	return b
}

// AppendMetaQuery appends the data of OptSetMetaContext and OptListMetaContext.
func AppendMetaQuery(b []byte, export string, queries ...string) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(export)))
	b = append(b, export...)
	b = binary.BigEndian.AppendUint32(b, uint32(len(queries)))
	for _, query := range queries {
		b = binary.BigEndian.AppendUint32(b, uint32(len(query)))
		b = append(b, query...)
	}
	return b
}
