package pb

import (
	"fmt"
	"unicode/utf8"

	"github.com/opencurve/curve-nbd/backend"
)

// Route is what a chunkserver knows of a copyset: who leads it in which term, 0 for
// nobody.
type Route struct {
	Copyset backend.CopysetID
	Leader  backend.ServerID
	Term    uint64
}

// routeSize is one route in ROUTE and WELCOME:
//
//	0 copyset u32 | 4 leader u32
//	8 term u64
const routeSize = 16

// routeHead is the fixed part of ROUTE:
//
//	0 type=67 | 1 zero u24 | 4 count u32
//	8 count routes
const routeHead = 8

// AppendRoute appends a ROUTE frame. At most MaxRoutes.
func AppendRoute(b []byte, routes []Route) []byte {
	b = le.AppendUint32(append(b, byte(TypeRoute), 0, 0, 0), uint32(len(routes)))
	return appendRoutes(b, routes)
}

func appendRoutes(b []byte, routes []Route) []byte {
	for _, r := range routes {
		b = le.AppendUint32(b, uint32(r.Copyset))
		b = le.AppendUint32(b, uint32(r.Leader))
		b = le.AppendUint64(b, r.Term)
	}
	return b
}

// ReadRoute reads a ROUTE frame.
func ReadRoute(b []byte) ([]Route, error) {
	if err := checkHead(b, TypeRoute, routeHead); err != nil {
		return nil, err
	}
	if b[1]|b[2]|b[3] != 0 {
		return nil, badFrame("reserved bytes of ROUTE are not zero")
	}
	return readRoutes(b[routeHead:], le.Uint32(b[4:]))
}

func readRoutes(b []byte, count uint32) ([]Route, error) {
	if count > MaxRoutes {
		return nil, badFrame("%d routes, at most %d", count, MaxRoutes)
	}
	if len(b) != int(count)*routeSize {
		return nil, badFrame("%d routes in %d bytes, expected %d", count, len(b), int(count)*routeSize)
	}
	routes := make([]Route, count)
	for i := range routes {
		at := b[i*routeSize:]
		routes[i] = Route{
			Copyset: backend.CopysetID(le.Uint32(at)),
			Leader:  backend.ServerID(le.Uint32(at[4:])),
			Term:    le.Uint64(at[8:]),
		}
	}
	return routes, nil
}

// helloHead is the fixed part of HELLO:
//
//	0 type=1 | 1 zero | 2 version u16 | 4 length of cluster u16 | 6 length of client u16
//	8 cluster, client: UTF-8
const helloHead = 8

// Hello is a client's first frame.
type Hello struct {
	Version uint16
	// Cluster that the client means, "" for whichever the server belongs to.
	Cluster string
	// Client is who it is, in words for the server's log.
	Client string
}

// AppendHello appends a HELLO frame, with names cut to MaxName.
func AppendHello(b []byte, h Hello) []byte {
	cluster, client := cutName(h.Cluster), cutName(h.Client)
	b = append(b, byte(TypeHello), 0)
	b = le.AppendUint16(b, h.Version)
	b = le.AppendUint16(b, uint16(len(cluster)))
	b = le.AppendUint16(b, uint16(len(client)))
	return append(append(b, cluster...), client...)
}

func cutName(s string) string {
	for len(s) > MaxName || !utf8.ValidString(s) {
		s = s[:min(len(s)-1, MaxName)]
	}
	return s
}

// ReadHello reads a HELLO frame. Of one with another version only the version is
// looked at.
func ReadHello(b []byte) (Hello, error) {
	if err := checkHead(b, TypeHello, helloHead); err != nil {
		return Hello{}, err
	}
	h := Hello{Version: le.Uint16(b[2:])}
	if h.Version != Version {
		return h, badVersion(h.Version)
	}
	cluster, client := int(le.Uint16(b[4:])), int(le.Uint16(b[6:]))
	switch {
	case b[1] != 0:
		return h, badFrame("reserved byte of HELLO is not zero")
	case cluster > MaxName || client > MaxName:
		return h, badFrame("names of %d and %d bytes, at most %d", cluster, client, MaxName)
	case len(b) != helloHead+cluster+client:
		return h, badFrame("HELLO of %d bytes, its fields make it %d", len(b), helloHead+cluster+client)
	case !utf8.Valid(b[helloHead : helloHead+cluster]), !utf8.Valid(b[helloHead+cluster:]):
		return h, badFrame("names that are not UTF-8")
	}
	h.Cluster, h.Client = string(b[helloHead:helloHead+cluster]), string(b[helloHead+cluster:])
	return h, nil
}

// badVersion is the error about a peer that speaks another version of the frames.
func badVersion(got uint16) error {
	return fmt.Errorf("%w: the other side speaks version %d of the chunk protocol, this one %d: upgrade the older one",
		backend.ErrNotSupported, got, Version)
}

// welcomeHead is the fixed part of WELCOME:
//
//	 0 type=65 | 1 zero | 2 version u16 | 4 server u32
//	 8 incarnation u64
//	16 count u32 | 20 zero u32
//	24 count routes
const welcomeHead = 24

// Welcome is the server's answer to HELLO.
type Welcome struct {
	Version uint16
	Server  backend.ServerID
	// Incarnation differs each time that the server's process starts.
	Incarnation uint64
	// Routes are all that the server knows of.
	Routes []Route
}

// AppendWelcome appends a WELCOME frame.
func AppendWelcome(b []byte, w Welcome) []byte {
	b = append(b, byte(TypeWelcome), 0)
	b = le.AppendUint16(b, w.Version)
	b = le.AppendUint32(b, uint32(w.Server))
	b = le.AppendUint64(b, w.Incarnation)
	b = le.AppendUint32(b, uint32(len(w.Routes)))
	b = le.AppendUint32(b, 0)
	return appendRoutes(b, w.Routes)
}

// ReadWelcome reads a WELCOME frame. Of one with another version only the version is
// looked at.
func ReadWelcome(b []byte) (Welcome, error) {
	if err := checkHead(b, TypeWelcome, welcomeHead); err != nil {
		return Welcome{}, err
	}
	w := Welcome{Version: le.Uint16(b[2:])}
	if w.Version != Version {
		return w, badVersion(w.Version)
	}
	if b[1] != 0 || le.Uint32(b[20:]) != 0 {
		return w, badFrame("reserved bytes of WELCOME are not zero")
	}
	w.Server, w.Incarnation = backend.ServerID(le.Uint32(b[4:])), le.Uint64(b[8:])
	if w.Server == 0 {
		return w, badFrame("WELCOME of chunkserver 0")
	}
	routes, err := readRoutes(b[welcomeHead:], le.Uint32(b[16:]))
	w.Routes = routes
	return w, err
}
