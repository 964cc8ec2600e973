package mds

import (
	"bytes"
	"encoding/hex"
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/opencurve/curve-nbd/backend"
)

func goodServer() serverRecord {
	return serverRecord{ID: 3, UUID: "6f1c", Address: "cs3:6800", PeerAddress: "[fe80::3]:6801", Zone: "rack-3", PID: 42, Retiring: true}
}

func goodCopyset() copysetRecord {
	return copysetRecord{ID: 9, Peers: ids(3, 1, 2), Generation: 4, Started: true}
}

func goodRequest() requestRecord {
	return requestRecord{kind: requestOpen, at: 1, volume: 7, epoch: 3, session: 258}
}

func TestStoredBytesOfAClusterStayTheSame(t *testing.T) {
	encoded := func(version byte, record any) []byte {
		b, err := encodeRecord(version, record)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	text := func(s string) string { return hex.EncodeToString([]byte(s)) }
	for name, c := range map[string]struct {
		got  []byte
		want string
	}{
		"server key":     {serverKey(258), "64" + "00000102"},
		"copyset key":    {copysetKey(258), "6b" + "00000102"},
		"use key":        {useKey(258), "75" + "00000102"},
		"request key":    {requestRecordKey(RequestID{1, 15: 2}), "71" + "01" + "0000000000000000000000000000" + "02"},
		"request":        {goodRequest().encode(), "01" + "02" + "0000000000000001" + "0000000000000007" + "0000000000000003" + "0000000000000102"},
		"server":         {encoded(serverVersion, goodServer()), text("\x01" + `{"id":3,"uuid":"6f1c","address":"cs3:6800","peer_address":"[fe80::3]:6801","zone":"rack-3","pid":42,"retiring":true}`)},
		"copyset":        {encoded(copysetVersion, goodCopyset()), text("\x01" + `{"id":9,"peers":[3,1,2],"generation":4,"started":true}`)},
		"counters' keys": {[]byte(counterSession + " " + counterServer + " " + counterCopyset), text("csession cserver ccopyset")},
	} {
		if got := hex.EncodeToString(c.got); got != c.want {
			t.Errorf("%s is\n%s, was\n%s", name, got, c.want)
		}
	}
}

func TestDamagedClusterRecordsAreRefused(t *testing.T) {
	server := func(change func(*serverRecord)) error {
		s := goodServer()
		change(&s)
		b, err := encodeRecord(serverVersion, s)
		if err != nil {
			t.Fatal(err)
		}
		return second(decodeServer(b))
	}
	copyset := func(change func(*copysetRecord)) error {
		c := goodCopyset()
		change(&c)
		b, err := encodeRecord(copysetVersion, c)
		if err != nil {
			t.Fatal(err)
		}
		return second(decodeCopyset(b))
	}
	request := goodRequest().encode()
	set := func(i int, v byte) []byte { b := bytes.Clone(request); b[i] = v; return b }
	for name, err := range map[string]error{
		"server empty":           second(decodeServer(nil)),
		"server of version 2":    second(decodeServer([]byte("\x02{}"))),
		"server unknown field":   second(decodeServer([]byte("\x01{\"colour\":1}"))),
		"server too long":        second(decodeServer(append([]byte{1}, bytes.Repeat([]byte{' '}, maxTopologyRecord)...))),
		"server id 0":            server(func(s *serverRecord) { s.ID = 0 }),
		"server without uuid":    server(func(s *serverRecord) { s.UUID = "" }),
		"server without port":    server(func(s *serverRecord) { s.Address = "cs3" }),
		"copyset twice":          second(decodeCopyset([]byte("\x01{}{}"))),
		"copyset id 0":           copyset(func(c *copysetRecord) { c.ID = 0 }),
		"copyset without peers":  copyset(func(c *copysetRecord) { c.Peers = nil }),
		"copyset of many peers":  copyset(func(c *copysetRecord) { c.Peers = ids(1, 2, 3, 4, 5, 6, 7, 8) }),
		"copyset peer twice":     copyset(func(c *copysetRecord) { c.Peers = ids(1, 2, 1) }),
		"copyset peer 0":         copyset(func(c *copysetRecord) { c.Peers = ids(1, 0) }),
		"copyset generation 0":   copyset(func(c *copysetRecord) { c.Generation = 0 }),
		"request too short":      second(decodeRequest(request[:33])),
		"request too long":       second(decodeRequest(append(bytes.Clone(request), 0))),
		"request of version 2":   second(decodeRequest(set(0, 2))),
		"request of kind 0":      second(decodeRequest(set(1, 0))),
		"request of a kind more": second(decodeRequest(set(1, byte(len(requestNames))))),
	} {
		if !errors.Is(err, errDamaged) {
			t.Errorf("%s: %v, want errDamaged", name, err)
		}
	}
	if _, err := encodeRecord(serverVersion, serverRecord{UUID: strings.Repeat("u", maxTopologyRecord)}); !errors.Is(err, backend.ErrInvalid) {
		t.Errorf("record that is too long: %v, want ErrInvalid", err)
	}
}

func FuzzServerRecord(f *testing.F) {
	good, err := encodeRecord(serverVersion, goodServer())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte("\x01{}"))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := decodeServer(b)
		if err != nil {
			return
		}
		again, err := encodeRecord(serverVersion, s)
		if err != nil {
			return // escapes made it longer than a record may be
		}
		if back, err := decodeServer(again); err != nil || back != s {
			t.Fatalf("%+v became %+v, %v", s, back, err)
		}
	})
}

func FuzzCopysetRecord(f *testing.F) {
	good, err := encodeRecord(copysetVersion, goodCopyset())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte("\x01{\"id\":1,\"peers\":[1],\"generation\":1}"))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := decodeCopyset(b)
		if err != nil {
			return
		}
		again, err := encodeRecord(copysetVersion, c)
		if err != nil {
			t.Fatalf("%+v cannot be encoded: %v", c, err)
		}
		if back, err := decodeCopyset(again); err != nil || !reflect.DeepEqual(back, c) {
			t.Fatalf("%+v became %+v, %v", c, back, err)
		}
	})
}

func FuzzRequestRecord(f *testing.F) {
	f.Add(goodRequest().encode())
	f.Add(make([]byte, requestRecordSize))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := decodeRequest(b)
		if err == nil && !bytes.Equal(r.encode(), b) {
			t.Fatalf("% x became % x", b, r.encode())
		}
	})
}
