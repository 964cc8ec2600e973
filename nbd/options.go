package nbd

import (
	"encoding/binary"
	"fmt"
	"strings"
	"unicode/utf8"
)

// Limits of the handshake.
const (
	maxOptions     = 32       // options of one handshake
	maxOptionBytes = 64 << 10 // data of one option
	maxNameBytes   = 4096     // of any string; proto.md, "String values"
	maxQueries     = 32       // of one meta context option
)

// infoRequest is the data of OPT_INFO and OPT_GO:
//
//	32 bits name length | name | 16 bits count | count x 16 bits info type
type infoRequest struct {
	Name  string
	Types []uint16
}

// wants says whether the client asked for that information.
func (r infoRequest) wants(kind uint16) bool {
	for _, t := range r.Types {
		if t == kind {
			return true
		}
	}
	return false
}

func decodeInfoRequest(data []byte) (infoRequest, error) {
	var r infoRequest
	name, rest, err := takeString(data, "export name")
	if err != nil {
		return r, err
	}
	if len(rest) < 2 {
		return r, fmt.Errorf("option data ends before the number of information requests")
	}
	count := int(binary.BigEndian.Uint16(rest))
	rest = rest[2:]
	if len(rest) != 2*count {
		return r, fmt.Errorf("%d information requests announced, room for %d bytes of them", count, len(rest))
	}
	r.Name = name
	r.Types = make([]uint16, count)
	for i := range r.Types {
		r.Types[i] = binary.BigEndian.Uint16(rest[2*i:])
	}
	return r, nil
}

// metaRequest is the data of OPT_LIST_META_CONTEXT and OPT_SET_META_CONTEXT:
//
//	32 bits name length | name | 32 bits count | count x (32 bits length | query)
type metaRequest struct {
	Name    string
	Queries []string
}

// errTooManyQueries is answered with REP_ERR_TOO_BIG.
var errTooManyQueries = fmt.Errorf("more than %d meta context queries", maxQueries)

func decodeMetaRequest(data []byte) (metaRequest, error) {
	var r metaRequest
	name, rest, err := takeString(data, "export name")
	if err != nil {
		return r, err
	}
	if len(rest) < 4 {
		return r, fmt.Errorf("option data ends before the number of queries")
	}
	count := binary.BigEndian.Uint32(rest)
	rest = rest[4:]
	if count > maxQueries {
		return r, errTooManyQueries
	}
	r.Name = name
	for range count {
		var query string
		if query, rest, err = takeString(rest, "query"); err != nil {
			return r, err
		}
		r.Queries = append(r.Queries, query)
	}
	if len(rest) != 0 {
		return r, fmt.Errorf("%d bytes after the last query", len(rest))
	}
	return r, nil
}

// takeString cuts a 32-bit length and that many bytes off data.
func takeString(data []byte, what string) (s string, rest []byte, err error) {
	if len(data) < 4 {
		return "", nil, fmt.Errorf("option data ends before the length of the %s", what)
	}
	n := binary.BigEndian.Uint32(data)
	data = data[4:]
	if uint64(n) > uint64(len(data)) {
		return "", nil, fmt.Errorf("%s of %d bytes, but only %d follow", what, n, len(data))
	}
	s = string(data[:n])
	return s, data[n:], checkString(s, what)
}

// checkString applies the rules for strings (proto.md, "String values").
func checkString(s, what string) error {
	switch {
	case len(s) > maxNameBytes:
		return fmt.Errorf("%s of %d bytes: at most %d", what, len(s), maxNameBytes)
	case strings.ContainsRune(s, 0):
		return fmt.Errorf("%s contains a NUL", what)
	case !utf8.ValidString(s):
		return fmt.Errorf("%s is not valid UTF-8", what)
	}
	return nil
}

// cutString shortens s to at most n bytes without cutting a character in two.
func cutString(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// The one meta context there is.
const (
	allocationContext   = "base:allocation"
	allocationContextID = uint32(1)
)

// selects says whether a query picks base:allocation: by name, or, in a list,
// by the wildcard "base:" (proto.md, "The base: metadata namespace"). Other
// namespaces and leaves are ignored, as the specification demands.
func selects(query string, listing bool) bool {
	return query == allocationContext || (listing && query == "base:")
}
