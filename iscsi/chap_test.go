package iscsi

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/iotest"
)

const (
	userSecret   = "initiator-secret-1"
	targetSecret = "target-secret-22"
)

func testAccess() CHAPAccess {
	return CHAPAccess{
		Secret: func(name string) (Secret, bool) {
			if name == "alice" {
				return NewSecret(userSecret), true
			}
			return Secret{}, false
		},
		MutualName: "target", MutualSecret: NewSecret(targetSecret),
	}
}

// counting is a source of bytes 1, 2, 3…
type counting struct{ next byte }

func (c *counting) Read(p []byte) (int, error) {
	for i := range p {
		c.next++
		p[i] = c.next
	}
	return len(p), nil
}

// Made by hand with md5sum, sha1sum, sha256sum and openssl of identifier, secret and challenge.
func TestCHAPResponse(t *testing.T) {
	challenge := []byte("0123456789abcdef")
	for _, c := range []struct {
		algorithm CHAPAlgorithm
		want      string
	}{
		{CHAPMD5, "1581730db225063de7a16ed4a7a65545"},
		{CHAPSHA1, "9680233e5bf1f940f15e92626dc3f9b364c6f823"},
		{CHAPSHA256, "bf334020687416f276e30851e55901e3213aa509b1dcbae62f448c20b7072c98"},
		{CHAPSHA3, "0cb84c420b578a85daad9acb11178b1a6b5a5e2275592bea702d61d84d07f9a9"},
	} {
		if got := hex.EncodeToString(chapResponse(c.algorithm, 'A', NewSecret(userSecret), challenge)); got != c.want {
			t.Errorf("algorithm %d: %s, want %s", c.algorithm, got, c.want)
		}
	}
}

func TestCHAPAlgorithmChoice(t *testing.T) {
	for _, c := range []struct {
		name  string
		offer string
		ours  []CHAPAlgorithm
		want  CHAPAlgorithm // 0: refused
	}{
		{"MD5", "5", nil, CHAPMD5},
		{"initiator's order", "7,5", nil, CHAPSHA256},
		{"initiator's order, weak first", "5,7", nil, CHAPMD5},
		{"SHA3", "8,7", nil, CHAPSHA3},
		{"hexadecimal", "0x5", nil, CHAPMD5},
		{"unknown first", "99,7", nil, CHAPSHA256},
		{"SHA-1 only where allowed", "6", nil, 0},
		{"SHA-1 allowed", "6", []CHAPAlgorithm{CHAPSHA1}, CHAPSHA1},
		{"MD5 forbidden", "5", []CHAPAlgorithm{CHAPSHA256}, 0},
		{"nothing known", "9,261", nil, 0},
		{"no number", "MD5", nil, 0},
		{"no list", "", nil, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			access := testAccess()
			access.Algorithms = c.ours
			s := chapServer{access: access, random: &counting{}}
			answers, err := s.receive([]Pair{{keyCHAPAlgorithm, c.offer}})
			if s.algorithm != c.want || (err == nil) != (c.want != 0) {
				t.Fatalf("chose %d, %v", s.algorithm, err)
			}
			if err != nil {
				return
			}
			v, _ := lookup(answers, keyCHAPChallenge)
			challenge, err := ParseBinary(v, maxChallenge)
			if err != nil || len(challenge) < 16 || !bytes.Equal(challenge, s.challenge) {
				t.Errorf("challenge of %d bytes, %v", len(challenge), err)
			}
		})
	}
}

func TestCHAPWithoutRandomBytesIsTheTargetsFault(t *testing.T) {
	s := chapServer{access: testAccess(), random: iotest.ErrReader(errors.New("no entropy"))}
	_, err := s.receive(pairsOf("CHAP_A=5"))
	if loginError(err).Status != StatusTargetError {
		t.Errorf("got %v", err)
	}
}

func TestCHAPVerify(t *testing.T) {
	other := []byte("another challenge")
	same := testAccess()
	same.MutualSecret = NewSecret(userSecret)
	oneWay := testAccess()
	oneWay.MutualSecret = Secret{}
	noSecret := testAccess()
	noSecret.Secret = func(string) (Secret, bool) { return Secret{}, true }
	reply := func(s *chapServer, secret string) []Pair {
		return []Pair{{keyCHAPName, "alice"}, {keyCHAPResponse, FormatBinary(chapResponse(s.algorithm, s.id, NewSecret(secret), s.challenge))}}
	}
	mutual := func(s *chapServer, id string, challenge []byte) []Pair {
		return append(reply(s, userSecret), Pair{keyCHAPIdentifier, id}, Pair{keyCHAPChallenge, FormatBinary(challenge)})
	}
	for _, c := range []struct {
		name   string
		access CHAPAccess
		send   func(*chapServer) []Pair
		err    error
	}{
		{"right", testAccess(), func(s *chapServer) []Pair { return reply(s, userSecret) }, nil},
		{"mutual", testAccess(), func(s *chapServer) []Pair { return mutual(s, "200", other) }, nil},
		{"wrong secret", testAccess(), func(s *chapServer) []Pair { return reply(s, targetSecret) }, ErrCHAPResponse},
		{"unknown name", testAccess(), func(s *chapServer) []Pair {
			p := reply(s, "")
			p[0].Value = "mallory"
			return p
		}, ErrCHAPResponse},
		{"a name whose secret is empty", noSecret, func(s *chapServer) []Pair { return reply(s, "") }, ErrCHAPResponse},
		{"our challenge sent back as response", testAccess(), func(s *chapServer) []Pair {
			return []Pair{{keyCHAPName, "alice"}, {keyCHAPResponse, FormatBinary(s.challenge)}}
		}, ErrCHAPResponse},
		{"empty response", testAccess(), func(s *chapServer) []Pair { return pairsOf("CHAP_N=alice CHAP_R=0x") }, ErrCHAPProtocol},
		{"no response", testAccess(), func(s *chapServer) []Pair { return pairsOf("CHAP_N=alice") }, ErrCHAPProtocol},
		{"no name", testAccess(), func(s *chapServer) []Pair { return reply(s, userSecret)[1:] }, ErrCHAPProtocol},
		{"challenge without identifier", testAccess(), func(s *chapServer) []Pair { return append(reply(s, userSecret), Pair{keyCHAPChallenge, "0x11"}) }, ErrCHAPProtocol},
		{"another algorithm", testAccess(), func(s *chapServer) []Pair { return append(reply(s, userSecret), Pair{keyCHAPAlgorithm, "5"}) }, ErrCHAPProtocol},
		{"our challenge reflected", testAccess(), func(s *chapServer) []Pair { return mutual(s, "1", s.challenge) }, ErrCHAPReflected},
		{"one secret for both ways", same, func(s *chapServer) []Pair { return mutual(s, "1", other) }, ErrCHAPSame},
		{"target cannot prove itself", oneWay, func(s *chapServer) []Pair { return mutual(s, "1", other) }, ErrCHAPNoMutual},
		{"identifier of two bytes", testAccess(), func(s *chapServer) []Pair { return mutual(s, "256", other) }, ErrCHAPProtocol},
		{"challenge too long", testAccess(), func(s *chapServer) []Pair { return mutual(s, "1", make([]byte, maxChallenge+1)) }, ErrCHAPProtocol},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := &chapServer{access: c.access, random: &counting{}}
			if _, err := s.receive(pairsOf("CHAP_A=7,5")); err != nil {
				t.Fatal(err)
			}
			answers, err := s.receive(c.send(s))
			if !errors.Is(err, c.err) || s.done != (c.err == nil) {
				t.Fatalf("done %v, %v, want %v", s.done, err, c.err)
			}
			if err != nil {
				if loginError(err).Status != StatusAuthFailed {
					t.Errorf("status %v", loginError(err).Status)
				}
				if strings.Contains(err.Error(), userSecret) || strings.Contains(err.Error(), targetSecret) || len(answers) > 0 {
					t.Errorf("gives away: %v, %v", err, answers)
				}
				return
			}
			if c.name == "mutual" {
				want := Pair{keyCHAPResponse, FormatBinary(chapResponse(CHAPSHA256, 200, NewSecret(targetSecret), other))}
				if len(answers) != 2 || answers[0] != (Pair{keyCHAPName, "target"}) || answers[1] != want {
					t.Errorf("proved itself with %v", answers)
				}
			}
			if _, err := s.receive(c.send(s)); !errors.Is(err, ErrCHAPProtocol) {
				t.Errorf("a second round after the end: %v", err)
			}
		})
	}
}

func TestSecretIsNeverShown(t *testing.T) {
	s := NewSecret(userSecret)
	access := CHAPAccess{MutualSecret: s}
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "secret", s, "access", struct{ S Secret }{s})
	encoded, err := json.Marshal(map[string]any{"s": s, "p": &s})
	if err != nil {
		t.Fatal(err)
	}
	shown := fmt.Sprintf("%v %+v %#v %s %q %x %d %v %+v", s, s, s, s, s, s, s, access, &s) + log.String() + string(encoded)
	for _, leak := range []string{userSecret, hex.EncodeToString([]byte(userSecret)), "105 110 105"} {
		if strings.Contains(shown, leak) {
			t.Errorf("shows %q in %s", leak, shown)
		}
	}
	if !strings.Contains(log.String(), redacted) {
		t.Errorf("log says %s", log.String())
	}
	if !s.Equal(NewSecret(userSecret)) || s.Equal(NewSecret(targetSecret)) || s.IsZero() || !(Secret{}).IsZero() || s.Len() != len(userSecret) {
		t.Error("comparison of secrets is wrong")
	}
}
