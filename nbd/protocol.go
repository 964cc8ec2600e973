package nbd

import (
	"encoding/binary"

	"github.com/pojntfx/go-nbd/pkg/protocol"
)

// The wire format, all integers big endian. Sources: NBD doc/proto.md and its
// extension-ext-header branch. Numbers that go-nbd's protocol package declares
// are taken from there; its structs are not, since it reads and writes them by
// reflection, field by field.

// Magic numbers.
const (
	magicInit            = protocol.NEGOTIATION_MAGIC_OLDSTYLE // "NBDMAGIC"
	magicOption          = protocol.NEGOTIATION_MAGIC_OPTION   // "IHAVEOPT"
	magicOptionReply     = protocol.NEGOTIATION_MAGIC_REPLY
	magicRequest         = protocol.TRANSMISSION_MAGIC_REQUEST
	magicSimpleReply     = protocol.TRANSMISSION_MAGIC_REPLY
	magicStructuredReply = uint32(0x668e33ef)
	magicExtendedRequest = uint32(0x21e41c71)
	magicExtendedReply   = uint32(0x6e8a278c)
)

// Handshake flags (server) and client flags, which mirror them.
const (
	handshakeFixedNewstyle = protocol.NEGOTIATION_HANDSHAKE_FLAG_FIXED_NEWSTYLE
	handshakeNoZeroes      = uint16(1 << 1)
)

// Transmission flags.
const (
	flagHasFlags           = protocol.NEGOTIATION_REPLY_FLAGS_HAS_FLAGS
	flagReadOnly           = uint16(1 << 1)
	flagSendFlush          = uint16(1 << 2)
	flagSendFUA            = uint16(1 << 3)
	flagSendTrim           = uint16(1 << 5)
	flagSendWriteZeroes    = uint16(1 << 6)
	flagSendDF             = uint16(1 << 7)
	flagCanMultiConn       = protocol.NEGOTIATION_REPLY_FLAGS_CAN_MULTI_CONN
	flagSendCache          = uint16(1 << 10)
	flagSendFastZero       = uint16(1 << 11)
	flagBlockStatusPayload = uint16(1 << 12)
)

// Options.
const (
	optExportName      = uint32(1)
	optAbort           = protocol.NEGOTIATION_ID_OPTION_ABORT
	optList            = protocol.NEGOTIATION_ID_OPTION_LIST
	optStartTLS        = uint32(5)
	optInfo            = protocol.NEGOTIATION_ID_OPTION_INFO
	optGo              = protocol.NEGOTIATION_ID_OPTION_GO
	optStructuredReply = uint32(8)
	optListMetaContext = uint32(9)
	optSetMetaContext  = uint32(10)
	optExtendedHeaders = uint32(11)
)

// Option replies; bit 31 marks errors.
const (
	repAck              = protocol.NEGOTIATION_TYPE_REPLY_ACK
	repServer           = protocol.NEGOTIATION_TYPE_REPLY_SERVER
	repInfo             = protocol.NEGOTIATION_TYPE_REPLY_INFO
	repMetaContext      = uint32(4)
	repErrUnsupported   = protocol.NEGOTIATION_TYPE_REPLY_ERR_UNSUPPORTED
	repErrPolicy        = uint32(1<<31 | 2)
	repErrInvalid       = uint32(1<<31 | 3)
	repErrUnknown       = protocol.NEGOTIATION_TYPE_REPLY_ERR_UNKNOWN
	repErrShutdown      = uint32(1<<31 | 7)
	repErrTooBig        = uint32(1<<31 | 9)
	repErrExtHeaderReqd = uint32(1<<31 | 10)
)

// Information types of OPT_INFO and OPT_GO.
const (
	infoExport      = protocol.NEGOTIATION_TYPE_INFO_EXPORT
	infoName        = protocol.NEGOTIATION_TYPE_INFO_NAME
	infoDescription = protocol.NEGOTIATION_TYPE_INFO_DESCRIPTION
	infoBlockSize   = protocol.NEGOTIATION_TYPE_INFO_BLOCKSIZE
)

// Commands.
const (
	cmdRead        = protocol.TRANSMISSION_TYPE_REQUEST_READ
	cmdWrite       = protocol.TRANSMISSION_TYPE_REQUEST_WRITE
	cmdDisconnect  = protocol.TRANSMISSION_TYPE_REQUEST_DISC
	cmdFlush       = uint16(3)
	cmdTrim        = uint16(4)
	cmdCache       = uint16(5)
	cmdWriteZeroes = uint16(6)
	cmdBlockStatus = uint16(7)
)

// Command flags.
const (
	cmdFlagFUA        = uint16(1 << 0)
	cmdFlagNoHole     = uint16(1 << 1)
	cmdFlagDF         = uint16(1 << 2)
	cmdFlagReqOne     = uint16(1 << 3)
	cmdFlagFastZero   = uint16(1 << 4)
	cmdFlagPayloadLen = uint16(1 << 5)
)

// Reply chunks of structured and extended replies.
const (
	replyFlagDone = uint16(1)

	replyNone           = uint16(0)
	replyOffsetData     = uint16(1)
	replyOffsetHole     = uint16(2)
	replyBlockStatus    = uint16(5)
	replyBlockStatusExt = uint16(6)
	replyError          = uint16(1<<15 | 1)
)

// Sizes on the wire, in bytes.
const (
	greetingSize         = 18 // two magics, handshake flags
	optionHeaderSize     = 16 // magic, option, length
	optionReplySize      = 20 // magic, option, type, length
	exportZeroes         = 124
	requestSize          = 28
	extendedRequestSize  = 32
	simpleReplySize      = 16
	structuredReplySize  = 20
	extendedReplySize    = 32
	offsetDataPrefixSize = 8  // offset before the data of an OFFSET_DATA chunk
	offsetHoleSize       = 12 // offset, length
)

// State bits of base:allocation.
const (
	stateHole = 1 << 0
	stateZero = 1 << 1
)

// command is one request of the transmission phase.
type command struct {
	Flags  uint16
	Type   uint16
	Cookie uint64
	Offset uint64
	// Length is the effect length, or, when Payload is set, the length of the
	// payload that follows the header. 32 bits on the compact wire.
	Length  uint64
	Payload bool
}

// decodeRequest reads a compact request header (proto.md, "Request message"):
//
//	0        4       6      8        16       24       28
//	| magic  | flags | type | cookie | offset | length |
//
// ok is false when the magic is wrong. b holds at least requestSize bytes.
func decodeRequest(b []byte) (c command, ok bool) {
	_ = b[requestSize-1]
	c.Flags = binary.BigEndian.Uint16(b[4:])
	c.Type = binary.BigEndian.Uint16(b[6:])
	c.Cookie = binary.BigEndian.Uint64(b[8:])
	c.Offset = binary.BigEndian.Uint64(b[16:])
	c.Length = uint64(binary.BigEndian.Uint32(b[24:]))
	c.Payload = c.Type == cmdWrite
	return c, binary.BigEndian.Uint32(b) == magicRequest
}

// decodeExtendedRequest reads an extended request header (extension-ext-header,
// "Request message"), which is the compact one with 64 bits of length. There
// the flag PAYLOAD_LEN says whether that many bytes follow.
func decodeExtendedRequest(b []byte) (c command, ok bool) {
	_ = b[extendedRequestSize-1]
	c.Flags = binary.BigEndian.Uint16(b[4:])
	c.Type = binary.BigEndian.Uint16(b[6:])
	c.Cookie = binary.BigEndian.Uint64(b[8:])
	c.Offset = binary.BigEndian.Uint64(b[16:])
	c.Length = binary.BigEndian.Uint64(b[24:])
	c.Payload = c.Flags&cmdFlagPayloadLen != 0
	return c, binary.BigEndian.Uint32(b) == magicExtendedRequest
}

// putSimpleReply writes a simple reply header: magic, error, cookie.
func putSimpleReply(b []byte, errno uint32, cookie uint64) {
	_ = b[simpleReplySize-1]
	binary.BigEndian.PutUint32(b, magicSimpleReply)
	binary.BigEndian.PutUint32(b[4:], errno)
	binary.BigEndian.PutUint64(b[8:], cookie)
}

// putStructuredReply writes a structured chunk header:
//
//	0        4       6      8        16       20
//	| magic  | flags | type | cookie | length |
func putStructuredReply(b []byte, flags, kind uint16, cookie uint64, length uint32) {
	_ = b[structuredReplySize-1]
	binary.BigEndian.PutUint32(b, magicStructuredReply)
	binary.BigEndian.PutUint16(b[4:], flags)
	binary.BigEndian.PutUint16(b[6:], kind)
	binary.BigEndian.PutUint64(b[8:], cookie)
	binary.BigEndian.PutUint32(b[16:], length)
}

// putExtendedReply writes an extended chunk header:
//
//	0        4       6      8        16       24       32
//	| magic  | flags | type | cookie | offset | length |
//
// offset is that of the request.
func putExtendedReply(b []byte, flags, kind uint16, cookie, offset, length uint64) {
	_ = b[extendedReplySize-1]
	binary.BigEndian.PutUint32(b, magicExtendedReply)
	binary.BigEndian.PutUint16(b[4:], flags)
	binary.BigEndian.PutUint16(b[6:], kind)
	binary.BigEndian.PutUint64(b[8:], cookie)
	binary.BigEndian.PutUint64(b[16:], offset)
	binary.BigEndian.PutUint64(b[24:], length)
}
