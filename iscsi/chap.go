package iscsi

import (
	"bytes"
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha3"
	"crypto/subtle"
	"errors"
	"fmt"
	"hash"
	"io"
	"slices"
	"strconv"
)

// CHAP, RFC 7143 12.1.3. The initiator proves that it knows a secret; with
// CHAP_I and CHAP_C it asks the same of the target (mutual CHAP):
//
//	initiator                 target
//	CHAP_A=7,5           ──►
//	                     ◄──  CHAP_A=7 CHAP_I=i CHAP_C=c
//	CHAP_N CHAP_R [I C]  ──►
//	                     ◄──  [CHAP_N CHAP_R]

const (
	keyCHAPAlgorithm  = "CHAP_A"
	keyCHAPIdentifier = "CHAP_I"
	keyCHAPChallenge  = "CHAP_C"
	keyCHAPName       = "CHAP_N"
	keyCHAPResponse   = "CHAP_R"
)

// CHAPAlgorithm is a hash by its number at IANA (PPP Authentication Algorithms).
type CHAPAlgorithm uint8

// The algorithms that RFC 7143 and its registry name.
const (
	CHAPMD5    CHAPAlgorithm = 5
	CHAPSHA1   CHAPAlgorithm = 6
	CHAPSHA256 CHAPAlgorithm = 7
	CHAPSHA3   CHAPAlgorithm = 8
)

// DefaultCHAPAlgorithms leave out SHA-1, which no initiator has without SHA-256.
// MD5 has to be there (RFC 7143 12.1.3) and is all that many initiators know.
var DefaultCHAPAlgorithms = []CHAPAlgorithm{CHAPSHA3, CHAPSHA256, CHAPMD5}

func (a CHAPAlgorithm) new() hash.Hash {
	switch a {
	case CHAPMD5:
		return md5.New()
	case CHAPSHA1:
		return sha1.New()
	case CHAPSHA256:
		return sha256.New()
	case CHAPSHA3:
		return sha3.New256()
	}
	return nil
}

// CHAPAccess is what a target demands of an initiator.
type CHAPAccess struct {
	// Algorithms that are taken; DefaultCHAPAlgorithms if empty. The initiator's
	// order decides.
	Algorithms []CHAPAlgorithm
	// Secret returns that of the name an initiator gives itself in CHAP_N.
	Secret func(name string) (Secret, bool)
	// The target's own name and secret, if it can prove itself.
	MutualName   string
	MutualSecret Secret
}

// maxChallenge is the longest binary value of RFC 7143 12.1.3.
const maxChallenge = 1024

// Why an initiator was not let in. The peer learns none of it.
var (
	ErrCHAPProtocol  = errors.New("CHAP keys are missing or wrong")
	ErrCHAPAlgorithm = errors.New("no CHAP algorithm in common")
	ErrCHAPResponse  = errors.New("CHAP name or response is wrong")
	ErrCHAPReflected = errors.New("initiator sent our own challenge back")
	ErrCHAPSame      = errors.New("the secrets of both directions are the same: give the target one of its own")
	ErrCHAPNoMutual  = errors.New("initiator asks the target to prove itself, which has no secret")
	errRandom        = errors.New("no random bytes")
)

// chapResponse is H(identifier, secret, challenge), RFC 1994 4.1.
func chapResponse(a CHAPAlgorithm, id byte, s Secret, challenge []byte) []byte {
	h := a.new()
	h.Write([]byte{id})
	h.Write(s.bytes)
	h.Write(challenge)
	return h.Sum(nil)
}

// chapServer is the target's side of one authentication.
type chapServer struct {
	access    CHAPAccess
	random    io.Reader
	algorithm CHAPAlgorithm // 0 until agreed
	id        byte
	challenge []byte
	name      string // set when authenticated
	done      bool
}

// receive takes the CHAP keys of one text and returns the answer.
func (c *chapServer) receive(pairs []Pair) ([]Pair, error) {
	switch {
	case c.done:
		return nil, fmt.Errorf("%w: CHAP is over", ErrCHAPProtocol)
	case c.algorithm == 0:
		return c.challengeWith(pairs)
	}
	return c.verify(pairs)
}

func (c *chapServer) challengeWith(pairs []Pair) ([]Pair, error) {
	offer, ok := lookup(pairs, keyCHAPAlgorithm)
	if !ok || len(pairs) != 1 {
		return nil, fmt.Errorf("%w: want %s only", ErrCHAPProtocol, keyCHAPAlgorithm)
	}
	a, err := c.choose(offer)
	if err != nil {
		return nil, err
	}
	c.algorithm = a
	// As long as the hash: a shorter one would be its weakest part.
	random := make([]byte, 1+a.new().Size())
	if _, err := io.ReadFull(c.random, random); err != nil {
		return nil, fmt.Errorf("%w: %w", errRandom, err)
	}
	c.id, c.challenge = random[0], random[1:]
	return []Pair{
		{keyCHAPAlgorithm, strconv.Itoa(int(a))},
		{keyCHAPIdentifier, strconv.Itoa(int(c.id))},
		{keyCHAPChallenge, FormatBinary(c.challenge)},
	}, nil
}

func (c *chapServer) choose(offer string) (CHAPAlgorithm, error) {
	ours := c.access.Algorithms
	if len(ours) == 0 {
		ours = DefaultCHAPAlgorithms
	}
	list, err := ParseList(offer)
	if err != nil {
		return 0, fmt.Errorf("%w: %s", ErrCHAPProtocol, keyCHAPAlgorithm)
	}
	for _, v := range list {
		n, err := ParseNumber(v)
		if err == nil && n < 256 && slices.Contains(ours, CHAPAlgorithm(n)) && CHAPAlgorithm(n).new() != nil {
			return CHAPAlgorithm(n), nil
		}
	}
	return 0, fmt.Errorf("%w: offered %s", ErrCHAPAlgorithm, clip(offer))
}

func (c *chapServer) verify(pairs []Pair) ([]Pair, error) {
	name, hasName := lookup(pairs, keyCHAPName)
	response, hasResponse := lookup(pairs, keyCHAPResponse)
	id, hasID := lookup(pairs, keyCHAPIdentifier)
	challenge, hasChallenge := lookup(pairs, keyCHAPChallenge)
	mutual := hasID && hasChallenge
	want := 2
	if mutual {
		want = 4
	}
	if !hasName || !hasResponse || len(pairs) != want {
		return nil, fmt.Errorf("%w: want %s and %s, and for mutual CHAP %s and %s", ErrCHAPProtocol,
			keyCHAPName, keyCHAPResponse, keyCHAPIdentifier, keyCHAPChallenge)
	}
	got, err := ParseBinary(response, maxChallenge)
	if err != nil {
		return nil, fmt.Errorf("%w: %s", ErrCHAPProtocol, keyCHAPResponse)
	}
	secret, known := c.access.Secret(name)
	// Without a secret the work is the same, so that time does not tell names.
	expected := chapResponse(c.algorithm, c.id, secret, c.challenge)
	if equal := subtle.ConstantTimeCompare(got, expected) == 1; !equal || !known || secret.IsZero() {
		return nil, fmt.Errorf("%w: name %q", ErrCHAPResponse, clip(name))
	}
	var answers []Pair
	if mutual {
		if answers, err = c.prove(id, challenge, secret); err != nil {
			return nil, err
		}
	}
	c.name, c.done = name, true
	return answers, nil
}

// prove answers the initiator's challenge. It must not become an oracle: our
// own challenge would make us compute the response we wait for elsewhere, and
// with one secret for both ways so would any (RFC 7143 12.1.3).
func (c *chapServer) prove(id, challenge string, initiator Secret) ([]Pair, error) {
	n, err := ParseNumber(id)
	if err != nil || n > 255 {
		return nil, fmt.Errorf("%w: %s", ErrCHAPProtocol, keyCHAPIdentifier)
	}
	theirs, err := ParseBinary(challenge, maxChallenge)
	switch {
	case err != nil:
		return nil, fmt.Errorf("%w: %s", ErrCHAPProtocol, keyCHAPChallenge)
	case bytes.Equal(theirs, c.challenge):
		return nil, ErrCHAPReflected
	case c.access.MutualSecret.IsZero():
		return nil, ErrCHAPNoMutual
	case c.access.MutualSecret.Equal(initiator):
		return nil, ErrCHAPSame
	}
	return []Pair{
		{keyCHAPName, c.access.MutualName},
		{keyCHAPResponse, FormatBinary(chapResponse(c.algorithm, byte(n), c.access.MutualSecret, theirs))},
	}, nil
}
